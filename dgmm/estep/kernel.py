"""The compiled E-step: one call, without the interpreter's lock, for all slices of a block of samples.

All of a slice stays in cache. The two matrix products of features that are products of coordinates are made in
registers, where the processor has wide ones, so that these features are never written anywhere. The others are BLAS's
products: features are built, used and built again in panels.
"""

from __future__ import annotations

import math

import numpy as np

from dgmm.estep import gemm
from dgmm.estep.columns import convert
from dgmm.estep.features import fill_chain, logarithms, transform
from dgmm.estep.jit import CONTRACT, compiled, inlined
from dgmm.estep.posterior import exponentials
from dgmm.estep.registers import add_moments, combine
from dgmm.estep.shares import harden, link, normalise, rule_out, shifted_exponentials, weigh
from dgmm.estep.vectors import LANES, WIDTH, padded
from dgmm.types import AnyArray, FloatArray, IntArray

#: Flat memory of one thread: centred samples, ones and coordinates, joint densities, features and sums of these, three
#: lines of a slice, samples picked out of it, joint densities as well as ones and coordinates in the precision of the
#: products (the same memory where that is double), and logarithms and precisions of rows with links.
Buffers = tuple[
    FloatArray, FloatArray, FloatArray, AnyArray, AnyArray, FloatArray, FloatArray, IntArray, FloatArray, AnyArray,
    AnyArray, FloatArray,
]  # fmt: skip
#: Columns of a table of panels, each a block of one matrix product: the stack whose coordinates it takes, its rows of
#: the joint densities, its features, where its part of theta begins, whether that is laid out feature by feature, to be
#: multiplied in registers, and whether the features of its product are all products of coordinates.
STACK, FIRST_ROW, LAST_ROW, FIRST_FEATURE, LAST_FEATURE, OFFSET, IN_REGISTERS, QUADRATIC = range(8)
#: A responsibility that adds nothing to a double, and the share of those above it up to which samples are picked out.
NEGLIGIBLE, SPARSE = 1e-18, 1 / 6


@compiled(fastmath=CONTRACT)
def accumulate(
    x: AnyArray, weights: FloatArray, labels: IntArray | None, owners: IntArray, hard: bool | None,
    origins: FloatArray, shifts: FloatArray, forwards: FloatArray, diagonals: AnyArray, chains: IntArray | None,
    panels: IntArray, pairs: IntArray, theta: AnyArray, links: FloatArray | None, candidates: IntArray, width: int,
    memory: Buffers, log_likelihoods: FloatArray, sums: FloatArray, squares: FloatArray, hidden: FloatArray,
) -> None:  # fmt: skip
    """E-step over the rows of ``x`` (n, d): adds to ``log_likelihoods`` and to ``sums``, laid out like ``theta``.

    Where rows have weights, it adds the squares of these, each as often as its responsibility says, to ``squares``
    (rows of theta,). Where components have links, it adds what these say of them to ``hidden`` (rows of theta, 2).
    What is None is not compiled.

    Parameters
    ----------
    weights : ndarray, shape (n,) or (0,)
        Of the rows; none if all count the same.
    labels : ndarray of int, shape (n,), or None
        What a row is known to be, below zero if it is not; None if no row is.
    owners : ndarray of int, shape (rows of theta,)
        The label whose rows each component may have.
    hard : bool or None
        True if a row counts for its most probable component alone, None if not.
    chains : ndarray of int, shape (stacks,), or None
        Which features each stack has; None if all products are made in registers.
    panels : ndarray of int, shape (panels, 8)
        Columns as named above; in order of the stacks, then of the features. Of neighbouring rows and features, the
        last ones are beyond the end.
    pairs : ndarray of int, shape (1 + d or more, 2)
        See `pairs_of`.
    links : ndarray, shape (rows of theta, 2), or None
        As a plan has them; None if no row has one.
    candidates : ndarray of int, shape (candidates, 2)
        First and last row of each.
    width : int
        Samples per slice.
    memory : Buffers
        For slices of ``width`` samples.
    """
    n_rows, d = len(owners), x.shape[1]
    centred, y, joint, phi, made, top, total, power, picked, factor, lines, spare = memory
    for start in range(0, len(x), width):
        n = width if start + width < len(x) else len(x) - start
        filled = padded(n)
        held = log_joint(
            x, start, n, filled, origins, shifts, forwards, diagonals, chains, panels, pairs, theta, centred, y, lines,
            phi, factor, joint, power,
        )  # fmt: skip
        if links is not None:
            link(joint, filled, n, d, links, spare)
        for c in range(len(candidates)):
            first, rows = candidates[c, 0], candidates[c, 1] - candidates[c, 0]
            at = first * filled
            if labels is not None:
                rule_out(joint, at, rows, filled, n, labels, start, owners, first)
            if hard is not None:
                log_likelihoods[c] += harden(joint, at, rows, filled, n, weights, start, top, power)
            else:
                log_likelihoods[c] += normalise(
                    joint, at, rows, filled, n, weights, start, top, total, power, picked
                )  # fmt: skip
        for k in range(n_rows):
            for i in range(n, filled):
                joint[k * filled + i] = 0.0
        if len(weights):
            for k in range(n_rows):
                squares[k] += np.dot(joint[k * filled : k * filled + n], weights[start : start + n])
        if links is not None:
            weigh(joint, filled, n, n_rows, spare, top, hidden)
        for p in range(len(panels)):
            first, rows, offset = panels[p, FIRST_ROW], panels[p, LAST_ROW] - panels[p, FIRST_ROW], panels[p, OFFSET]
            at, coordinates = first * filled, panels[p, STACK] * (1 + d) * filled
            sparse = panels[p, QUADRATIC] != 0
            if links is not None:
                sparse = sparse and not is_linked(links, first, first + rows)
            if sparse and is_sparse(joint, at, rows, filled, n):
                if panels[p, FIRST_FEATURE] == 0:
                    add_sparsely(joint, filled, n, y, coordinates, d, panels, p, pairs, power, picked, sums)
                continue
            convert(joint, factor, at, rows * filled)
            if chains is not None and not panels[p, IN_REGISTERS]:
                held = fill_panel(panels, p, held, chains, y, d, filled, phi)
                add_product(factor, at, rows, filled, panels, p, phi, made, sums)
            elif LANES:
                add_moments(
                    factor, at, rows, pairs, panels[p, LAST_FEATURE], lines, coordinates, sums, offset, rows, filled
                )  # fmt: skip


@inlined
def is_linked(links: FloatArray, a: int, b: int) -> bool:
    """Whether a row has a link that bends: what is small there is a precision, and counts as much as any."""
    found = False
    for k in range(a, b):
        found |= links[k, 1] < math.inf
    return found


@inlined
def is_sparse(joint: FloatArray, at: int, n_rows: int, filled: int, n: int) -> bool:
    """Whether so few responsibilities, in rows from ``at`` on, count that their samples are better picked out."""
    count = 0
    for k in range(n_rows):
        line = joint[at + k * filled : at + k * filled + n]
        for i in range(n):
            count += line[i] > NEGLIGIBLE
    return count <= SPARSE * n_rows * n


@inlined
def add_sparsely(
    joint: FloatArray, filled: int, n: int, y: FloatArray, coordinates: int, d: int, panels: IntArray, p: int,
    pairs: IntArray, chosen: IntArray, picked: FloatArray, sums: FloatArray,
) -> None:  # fmt: skip
    """Add the statistics of the product that starts with panel ``p``, each component's from its own samples alone.

    Those samples that count for a component are picked out of the slice, with their r. Ones and coordinates begin at
    ``coordinates`` in ``y``.
    """
    rows = panels[p, LAST_ROW] - panels[p, FIRST_ROW]
    for k in range(rows):
        at, m = (panels[p, FIRST_ROW] + k) * filled, 0
        line = joint[at : at + n]
        for i in range(n):
            chosen[m] = i
            m += line[i] > NEGLIGIBLE
        if m == 0:
            continue
        many = -(-m // WIDTH) * WIDTH
        for j in range(d + 2):
            place = coordinates + (j - 1) * filled
            source, to = (line if j == 0 else y[place : place + n]), picked[j * many : (j + 1) * many]
            for t in range(m):
                to[t] = source[chosen[t]]
            for t in range(m, many):
                to[t] = 0.0
        if LANES:
            offset, size = panels[p, OFFSET] + k, panels[p, LAST_FEATURE]
            add_moments(picked, 0, 1, pairs, size, picked, many, sums, offset, rows, many)
        else:
            second = weighted_moments(picked, d, many)
            for q in range(p, len(panels)):
                if panels[q, FIRST_ROW] == panels[p, FIRST_ROW]:
                    first, last = panels[q, FIRST_FEATURE], panels[q, LAST_FEATURE]
                    add_features(second, d, first, last, k, panels[q, OFFSET], sums)


@inlined
def weighted_moments(picked: FloatArray, d: int, n: int) -> FloatArray:
    """Moments ``Z diag(r) Z'`` of n samples Z = (1, y), which are below r in ``picked``, flat at the end of it."""
    size = (d + 1) * n
    for j in range(d + 1):
        for t in range(n):
            picked[n + size + j * n + t] = picked[n + j * n + t] * picked[t]
    end = len(picked) - (d + 1) * (d + 1)
    gemm.multiply(picked, n + size, picked, n, picked, end, d + 1, n, d + 1, 0, 1, 0)
    return picked[end:]


@inlined
def add_features(second: FloatArray, d: int, first: int, last: int, k: int, offset: int, sums: FloatArray) -> None:
    """Add features ``first`` to ``last``, in the order of `fill`, of flat moments ``second`` (d + 1, d + 1) of (1, y).

    They are those of row k of the panel whose sums begin at ``offset``.
    """
    place, row = sums[offset + k * (last - first) : offset + (k + 1) * (last - first)], 0
    for step in range(d + 2):
        # those with 1, then the squares, then the products of each with those after it
        for j in range(d + 1 if step == 0 else d if step == 1 else d + 1 - step):
            if first <= row < last:
                a, b = (0, j) if step == 0 else (j + 1, j + 1) if step == 1 else (step - 1, step + j)
                place[row - first] += second[a * (d + 1) + b]
            row += 1


@compiled(called=False, fastmath=CONTRACT)
def log_joint(
    x: AnyArray, start: int, n: int, filled: int, origins: FloatArray, shifts: FloatArray, forwards: FloatArray,
    diagonals: AnyArray, chains: IntArray | None, panels: IntArray, pairs: IntArray, theta: AnyArray,
    centred: FloatArray, y: FloatArray, lines: AnyArray, phi: AnyArray, product: AnyArray, joint: FloatArray,
    power: IntArray,
) -> int:  # fmt: skip
    """Log joint densities of one slice into ``joint``, rows ``filled`` long; returns the panel that ``phi`` is of."""
    d, held = x.shape[1], -1
    size = (1 + d) * filled
    for stack in range(len(shifts)):
        transform(x, start, n, filled, origins, shifts, forwards, diagonals, stack, pairs, centred, y)
        convert(y, lines, stack * size, size)
    for p in range(len(panels)):
        first, rows, offset = panels[p, FIRST_ROW], panels[p, LAST_ROW] - panels[p, FIRST_ROW], panels[p, OFFSET]
        at = first * filled
        if chains is not None and not panels[p, IN_REGISTERS]:
            held = fill_panel(panels, p, held, chains, y, d, filled, phi)
            multiply(theta, panels, p, phi, filled, product, joint)
        elif LANES:
            combine(
                theta, offset, rows, pairs, 0, panels[p, LAST_FEATURE], lines, panels[p, STACK] * size, product, at,
                filled,
            )  # fmt: skip
            convert(product, joint, at, rows * filled)
    return held


@inlined
def fill_panel(
    panels: IntArray, p: int, held: int, chains: IntArray, y: FloatArray, d: int, filled: int, phi: AnyArray
) -> int:
    """Fill in the features of panel ``p``, unless those of ``held`` (-1: none) are the same; returns whose it has."""
    stack, first, last = panels[p, STACK], panels[p, FIRST_FEATURE], panels[p, LAST_FEATURE]
    same = panels[held, STACK] == stack and panels[held, FIRST_FEATURE] == first
    if held >= 0 and same and last <= panels[held, LAST_FEATURE]:
        return held
    at = stack * (1 + d) * filled
    coordinates = y[at + filled : at + (1 + d) * filled].reshape((d, filled))
    features = phi[: (last - first) * filled].reshape((last - first, filled))
    fill_chain(chains[stack], coordinates, filled, first, last, features)
    return p


@inlined
def multiply(
    theta: AnyArray, panels: IntArray, p: int, phi: AnyArray, filled: int, product: AnyArray, joint: FloatArray
) -> None:
    """Products of a panel of theta with its features, added to those of the panels before it, into ``joint``."""
    first, rows, offset = panels[p, FIRST_ROW], panels[p, LAST_ROW] - panels[p, FIRST_ROW], panels[p, OFFSET]
    n_features, at = panels[p, LAST_FEATURE] - panels[p, FIRST_FEATURE], first * filled
    added = panels[p, FIRST_FEATURE] > 0
    gemm.multiply(theta, offset, phi, 0, product, at, rows, n_features, filled, 0, 0, added)
    convert(product, joint, at, rows * filled)


@inlined
def add_product(
    factor: AnyArray, at: int, rows: int, filled: int, panels: IntArray, p: int, phi: AnyArray, made: AnyArray,
    sums: FloatArray,
) -> None:  # fmt: skip
    """Add products of responsibilities with the features of a panel, for which ``made`` has room, to its sums."""
    n_features, offset = panels[p, LAST_FEATURE] - panels[p, FIRST_FEATURE], panels[p, OFFSET]
    gemm.multiply(factor, at, phi, 0, made, 0, rows, filled, n_features, 0, 1, 0)
    place = sums[offset : offset + rows * n_features]
    for v in range(len(place)):
        place[v] += made[v]


@compiled(fastmath=CONTRACT)
def score(
    x: AnyArray, origins: FloatArray, shifts: FloatArray, forwards: FloatArray, diagonals: AnyArray,
    chains: IntArray | None, panels: IntArray, pairs: IntArray, theta: AnyArray, links: FloatArray | None, n_rows: int,
    width: int, memory: Buffers, label: IntArray, probability: FloatArray, log_density: FloatArray,
    probabilities: FloatArray,
) -> None:  # fmt: skip
    """Label, its probability and the log density of the rows of ``x``, and, unless it is empty, ``probabilities``."""
    centred, y, joint, phi, _, top, total, power, picked, product, lines, spare = memory
    for start in range(0, len(x), width):
        n = width if start + width < len(x) else len(x) - start
        filled = padded(n)
        log_joint(
            x, start, n, filled, origins, shifts, forwards, diagonals, chains, panels, pairs, theta, centred, y, lines,
            phi, product, joint, power,
        )  # fmt: skip
        if links is not None:
            link(joint, filled, n, x.shape[1], links, spare)
        best = label[start : start + n]
        for i in range(n):
            best[i] = 0
            top[i] = joint[i]
        for k in range(1, n_rows):
            line = joint[k * filled : k * filled + n]
            for i in range(n):
                if line[i] > top[i]:
                    best[i] = k
                    top[i] = line[i]
        if LANES:
            exponentials(joint, 0, n_rows, n, filled, top, total)
        else:
            shifted_exponentials(joint, 0, n_rows, filled, n, top, total, power)
        logarithms(total, n, picked)
        for i in range(n):
            probability[start + i] = 1.0 / total[i]
            log_density[start + i] = top[i] + picked[i]
        if len(probabilities):
            for k in range(n_rows):
                line = joint[k * filled : k * filled + n]
                for i in range(n):
                    probabilities[start + i, k] = line[i] / total[i]
