"""The compiled E-step: one call, without the interpreter's lock, for all slices of a block of samples.

All of a slice stays in cache. The two matrix products of features that are products of coordinates are made in
registers, where the processor has wide ones, so that these features are never written anywhere. The others are BLAS's
products: features are built, used and built again in panels.
"""

from __future__ import annotations

import math

import numpy as np

from dgmm.estep.features import fill_chain, logarithms, transform
from dgmm.estep.jit import CONTRACT, compiled
from dgmm.estep.registers import add_moments, combine
from dgmm.estep.shares import harden, link, normalise, rule_out, shifted_exponentials, weigh
from dgmm.estep.vectors import LANES, padded
from dgmm.types import AnyArray, FloatArray, IntArray

#: Flat memory of one thread: centred samples, ones and coordinates, joint densities, features, three lines of a slice,
#: samples picked out of it, joint densities as well as ones and coordinates in the precision of the products (the same
#: memory where that is double), and logarithms and precisions of rows with links.
Buffers = tuple[
    FloatArray, FloatArray, FloatArray, AnyArray, FloatArray, FloatArray, IntArray, FloatArray, AnyArray, AnyArray,
    FloatArray,
]  # fmt: skip
#: Columns of a table of panels, each a block of one matrix product: the stack whose coordinates it takes, its rows of
#: the joint densities, its features, where its part of theta begins, and whether that is laid out feature by feature,
#: to be multiplied in registers.
STACK, FIRST_ROW, LAST_ROW, FIRST_FEATURE, LAST_FEATURE, OFFSET, IN_REGISTERS = range(7)
#: A responsibility that adds nothing to a double, and the share of those above it up to which samples are picked out.
NEGLIGIBLE, SPARSE = 1e-18, 1 / 6


@compiled()
def hidden_parts(memory: Buffers, n_rows: int, n: int) -> tuple[FloatArray, FloatArray]:
    """Logarithms and precisions of rows with links, each (rows, n)."""
    size = n_rows * n
    return memory[10][:size].reshape((n_rows, n)), memory[10][size : 2 * size].reshape((n_rows, n))


@compiled()
def accumulate(
    x: AnyArray, weights: FloatArray, labels: IntArray, owners: IntArray, hard: bool, origins: FloatArray,
    shifts: FloatArray, forwards: FloatArray, diagonals: AnyArray, chains: IntArray, panels: IntArray,
    pairs: IntArray, theta: AnyArray, links: FloatArray, candidates: IntArray, width: int, memory: Buffers,
    log_likelihoods: FloatArray, sums: FloatArray, squares: FloatArray, hidden: FloatArray,
) -> None:  # fmt: skip
    """E-step over the rows of ``x`` (n, d): adds to ``log_likelihoods`` and to ``sums``, laid out like ``theta``.

    Where rows have weights, it adds the squares of these, each as often as its responsibility says, to ``squares``
    (rows of theta,). Where components have links, it adds what these say of them to ``hidden`` (rows of theta, 2).

    Parameters
    ----------
    weights : ndarray, shape (n,) or (0,)
        Of the rows; none if all count the same.
    labels : ndarray of int, shape (n,) or (0,)
        What a row is known to be, below zero if it is not; none if no row is.
    owners : ndarray of int, shape (rows of theta,)
        The label whose rows each component may have.
    hard : bool
        Whether a row counts for its most probable component alone.
    chains : ndarray of int, shape (stacks,)
        Which features each stack has.
    panels : ndarray of int, shape (panels, 7)
        Columns as named above; in order of the stacks, then of the features. Of neighbouring rows and features, the
        last ones are beyond the end.
    pairs : ndarray of int, shape (1 + d or more, 2)
        See `pairs_of`.
    links : ndarray, shape (rows of theta, 2) or (0, 2)
        As a plan has them; none if no row has one.
    candidates : ndarray of int, shape (candidates, 2)
        First and last row of each.
    width : int
        Samples per slice.
    memory : Buffers
        For slices of ``width`` samples.
    """
    n_rows, d = len(owners), x.shape[1]
    top, total, power = memory[4], memory[5], memory[6]
    # by the first row of a product: whether its features are all products, and whether this slice is sparse
    products, sparse = np.zeros(n_rows, np.bool_), np.zeros(n_rows, np.bool_)
    for p in range(len(panels)):
        products[panels[p, FIRST_ROW]] |= panels[p, LAST_FEATURE] > 2 * d + 1
    for start in range(0, len(x), width):
        n = min(width, len(x) - start)
        centred, y, joint, phi, factor, lines = shaped(memory, len(shifts), d, n_rows, padded(n))
        held = log_joint(
            x, start, n, origins, shifts, forwards, diagonals, chains, panels, pairs, theta, centred, y, lines,
            phi, factor, joint, power,
        )  # fmt: skip
        if len(links):
            logs, precisions = hidden_parts(memory, n_rows, padded(n))
            link(joint, n, d, links, logs, precisions, centred[0], power)
        for c in range(len(candidates)):
            rows = joint[candidates[c, 0] : candidates[c, 1]]
            if len(labels):
                rule_out(rows, n, labels[start : start + n], owners[candidates[c, 0] : candidates[c, 1]])
            if hard:
                log_likelihoods[c] += harden(rows, n, weights[start : start + n], top, power)
            else:
                log_likelihoods[c] += normalise(rows, n, weights[start : start + n], top, total, power)
        joint[:, n:] = 0.0
        if len(weights):
            for k in range(n_rows):
                squares[k] += np.dot(joint[k, :n], weights[start : start + n])
        if len(links):
            logs, precisions = hidden_parts(memory, n_rows, padded(n))
            weigh(joint, n, logs, precisions, top, hidden)
        for p in range(len(panels)):
            stack, a, b, first, last, offset, in_registers = panels[p]
            if first == 0:
                sparse[a] = products[a] and not is_linked(links, a, b) and is_sparse(joint[a:b], n)
                if sparse[a]:
                    add_sparsely(joint, n, y[stack, 1:], panels, p, power, memory[7], sums)
            if sparse[a]:
                continue
            if LANES and in_registers:
                convert(joint[a:b], factor[a:b])
                add_moments(factor[a:b], pairs, lines[stack], sums[offset : offset + (b - a) * last])
                continue
            if not holds(panels, held, p):
                fill_chain(chains[stack], y[stack, 1:], padded(n), first, last, phi, centred[0], power)
                held = p
            convert(joint[a:b], factor[a:b])
            product = np.dot(factor[a:b], phi[: last - first].T)
            place = sums[offset : offset + product.size]
            place += product.ravel()


@compiled()
def is_linked(links: FloatArray, a: int, b: int) -> bool:
    """Whether a row has a link that bends: what is small there is a precision, and counts as much as any."""
    found = False
    for k in range(a, min(b, len(links))):
        found |= links[k, 1] < math.inf
    return found


@compiled(fastmath=CONTRACT)
def is_sparse(joint: FloatArray, n: int) -> bool:
    """Whether so few responsibilities count that their samples are better picked out."""
    count = 0
    for k in range(len(joint)):
        line = joint[k]
        for i in range(n):
            count += line[i] > NEGLIGIBLE
    return count <= SPARSE * len(joint) * n


@compiled(fastmath=CONTRACT)
def add_sparsely(
    joint: FloatArray, n: int, y: FloatArray, panels: IntArray, p: int, chosen: IntArray, picked: FloatArray,
    sums: FloatArray,
) -> None:  # fmt: skip
    """Add the statistics of the product that starts with panel ``p``, each component's from its own samples alone.

    With the samples Z = (1, y) that count for a component, picked out of the slice, its sums are ``Z diag(r) Z'``.
    """
    d = len(y)
    for k in range(panels[p, FIRST_ROW], panels[p, LAST_ROW]):
        line, m = joint[k], 0
        for i in range(n):
            chosen[m] = i
            m += line[i] > NEGLIGIBLE
        if m == 0:
            continue
        z = picked[: (d + 1) * m].reshape((d + 1, m))
        weighted = picked[(d + 1) * m : 2 * (d + 1) * m].reshape((d + 1, m))
        for t in range(m):
            z[0, t] = 1.0
            weighted[0, t] = line[chosen[t]]
        for j in range(d):
            source, to, by = y[j], z[j + 1], weighted[j + 1]
            for t in range(m):
                to[t] = source[chosen[t]]
                by[t] = to[t] * weighted[0, t]
        second = np.dot(weighted, z.T)
        for q in range(p, len(panels)):
            if panels[q, FIRST_ROW] == panels[p, FIRST_ROW]:
                _, a, b, first, last, offset, in_registers = panels[q]
                row, step = ((k - a), b - a) if in_registers else ((k - a) * (last - first), 1)
                place = sums[offset + row : offset + row + (last - first - 1) * step + 1 : step]
                add_features(second, first, last, place)


@compiled()
def add_features(second: FloatArray, first: int, last: int, place: FloatArray) -> None:
    """Add features ``first`` to ``last``, in the order of `fill`, of moments ``second`` (d + 1, d + 1) of (1, y)."""
    d, row = len(second) - 1, 0
    for a in range(d + 1):
        if first <= row < last:
            place[row - first] += second[a, 0]
        row += 1
    for a in range(1, d + 1):
        if first <= row < last:
            place[row - first] += second[a, a]
        row += 1
    for a in range(1, d + 1):
        for b in range(a + 1, d + 1):
            if first <= row < last:
                place[row - first] += second[a, b]
            row += 1


@compiled()
def log_joint(
    x: AnyArray, start: int, n: int, origins: FloatArray, shifts: FloatArray, forwards: FloatArray,
    diagonals: AnyArray, chains: IntArray, panels: IntArray, pairs: IntArray, theta: AnyArray, centred: FloatArray,
    y: FloatArray, lines: AnyArray, phi: AnyArray, product: AnyArray, joint: FloatArray, power: IntArray,
) -> int:  # fmt: skip
    """Log joint densities of one slice into ``joint`` (rows, `padded` n); returns the panel whose features are left."""
    for stack in range(len(shifts)):
        transform(
            x, start, n, origins[stack], shifts[stack], forwards[stack], diagonals[stack], pairs, centred, y[stack]
        )
        convert(y[stack], lines[stack])
    held = -1
    for p in range(len(panels)):
        stack, a, b, first, last, offset, in_registers = panels[p]
        if LANES and in_registers:
            combine(theta[offset : offset + (b - a) * last], pairs, lines[stack], product[a:b])
            convert(product[a:b], joint[a:b])
            continue
        if not holds(panels, held, p):
            fill_chain(chains[stack], y[stack, 1:], padded(n), first, last, phi, centred[0], power)
            held = p
        part = theta[offset : offset + (b - a) * (last - first)].reshape((b - a, last - first))
        if first == 0:
            np.dot(part, phi[: last - first], product[a:b])
            convert(product[a:b], joint[a:b])
        else:
            rows = joint[a:b]
            rows += np.dot(part, phi[: last - first])
    return held


@compiled(fastmath=CONTRACT)
def convert(source: AnyArray, place: AnyArray) -> None:
    """Copy rows from one precision to another; of one precision, they share their memory."""
    if source.itemsize != place.itemsize:
        for k in range(len(source)):
            line, to = source[k], place[k]
            for i in range(len(line)):
                to[i] = line[i]


@compiled()
def holds(panels: IntArray, held: int, p: int) -> bool:
    """Whether the features that were filled for panel ``held`` (-1: none) are those of panel ``p``."""
    same_start = panels[held, STACK] == panels[p, STACK] and panels[held, FIRST_FEATURE] == panels[p, FIRST_FEATURE]
    return held >= 0 and same_start and panels[p, LAST_FEATURE] <= panels[held, LAST_FEATURE]


@compiled()
def shaped(
    memory: Buffers, n_stacks: int, d: int, n_rows: int, n: int
) -> tuple[FloatArray, FloatArray, FloatArray, AnyArray, AnyArray, AnyArray]:
    """The memory as contiguous arrays for a slice of n samples: the products want them so."""
    n_features, held = len(memory[3]) // len(memory[4]), len(memory[0]) // len(memory[4])
    return (
        memory[0][: held * n].reshape((held, n)),
        memory[1][: n_stacks * (1 + d) * n].reshape((n_stacks, 1 + d, n)),
        memory[2][: n_rows * n].reshape((n_rows, n)),
        memory[3][: n_features * n].reshape((n_features, n)),
        memory[8][: n_rows * n].reshape((n_rows, n)),
        memory[9][: n_stacks * (1 + d) * n].reshape((n_stacks, 1 + d, n)),
    )


@compiled()
def score(
    x: AnyArray, origins: FloatArray, shifts: FloatArray, forwards: FloatArray, diagonals: AnyArray,
    chains: IntArray, panels: IntArray, pairs: IntArray, theta: AnyArray, links: FloatArray, n_rows: int, width: int,
    memory: Buffers, label: IntArray, probability: FloatArray, log_density: FloatArray, probabilities: FloatArray,
) -> None:  # fmt: skip
    """Label, its probability and the log density of the rows of ``x``, and, unless it is empty, ``probabilities``."""
    top, total, power = memory[4], memory[5], memory[6]
    for start in range(0, len(x), width):
        n = min(width, len(x) - start)
        centred, y, joint, phi, product, lines = shaped(memory, len(shifts), x.shape[1], n_rows, padded(n))
        log_joint(
            x, start, n, origins, shifts, forwards, diagonals, chains, panels, pairs, theta, centred, y, lines,
            phi, product, joint, power,
        )  # fmt: skip
        if len(links):
            logs, precisions = hidden_parts(memory, n_rows, padded(n))
            link(joint, n, x.shape[1], links, logs, precisions, centred[0], power)
        best = label[start : start + n]
        for i in range(n):
            best[i] = 0
            top[i] = joint[0, i]
        for k in range(1, n_rows):
            for i in range(n):
                if joint[k, i] > top[i]:
                    best[i] = k
                    top[i] = joint[k, i]
        shifted_exponentials(joint, n, top, total, power)
        logs, mantissa = memory[7][:n], memory[7][n : 2 * n]
        logarithms(total, n, logs, mantissa, power)
        for i in range(n):
            probability[start + i] = 1.0 / total[i]
            log_density[start + i] = top[i] + logs[i]
        if len(probabilities):
            for i in range(n):
                for k in range(n_rows):
                    probabilities[start + i, k] = joint[k, i] / total[i]
