"""The compiled E-step: one call, without the interpreter's lock, for all slices of a block of samples.

The two matrix products are BLAS's; centring, features and normalisation are loops that the compiler vectorises. All
of a slice stays in cache: features wider than that are built, used and built again in panels.
"""

from __future__ import annotations

import math

import numpy as np

from dgmm.estep.jit import compiled
from dgmm.types import AnyArray, FloatArray, IntArray

#: Reassociation and NaN tricks stay off: the same bits every time, and NaN stays NaN.
CONTRACT = {"contract", "nsz"}
LOG2_E = 1.4426950408889634
#: log 2 in two parts, the first with trailing zeros, so that k log 2 is exact (Cody and Waite 1980).
LN2_HIGH, LN2_LOW = 6.93145751953125e-1, 1.42860682030941723212e-6
#: Flat memory of one thread: centred samples, coordinates, joint densities, features, three lines of a slice, samples
#: picked out of it, joint densities in the precision of the features (the same memory where that is double), and
#: logarithms and precisions of rows with links.
Buffers = tuple[
    FloatArray, FloatArray, FloatArray, AnyArray, FloatArray, FloatArray, IntArray, FloatArray, AnyArray, FloatArray
]  # fmt: skip
#: Columns of a table of panels, each a block of one matrix product: the stack whose coordinates it takes, its rows of
#: the joint densities, its features, and where its part of theta begins.
STACK, FIRST_ROW, LAST_ROW, FIRST_FEATURE, LAST_FEATURE, OFFSET = range(6)
#: Below this a responsibility is zero: exp would leave the normal range.
LOWEST = -700.0
#: A responsibility that adds nothing to a double, and the share of those above it up to which samples are picked out.
NEGLIGIBLE, SPARSE = 1e-18, 1 / 6
#: The chains of features that are known, and what each is besides 1 and y: powers and products, or logarithms.
PRODUCTS, LOGARITHMS = range(2)
#: What is taken the logarithm of is no smaller, for the sake of values that cannot be.
LEAST = 1e-300


@compiled(fastmath=CONTRACT)
def transform(
    x: AnyArray, start: int, n: int, origin: FloatArray, shift: FloatArray, forward: FloatArray, diagonal: bool,
    centred: FloatArray, y: FloatArray,
) -> None:  # fmt: skip
    """Coordinates ``y`` (d, n) of the rows from ``start`` on: ``forward (x - origin - shift)``, lower triangular."""
    d = x.shape[1]
    for j in range(d):
        line, zero, by = centred[j], origin[j], shift[j]
        for i in range(n):
            line[i] = (x[start + i, j] - zero) - by
    for a in range(d):
        line, scale, source = y[a], forward[a, a], centred[a]
        for i in range(n):
            line[i] = scale * source[i]
        if not diagonal:
            for b in range(a):
                scale, source = forward[a, b], centred[b]
                for i in range(n):
                    line[i] += scale * source[i]


@compiled(fastmath=CONTRACT)
def fill(y: FloatArray, n: int, first: int, last: int, phi: AnyArray) -> None:
    """Features ``first`` to ``last`` of 1, y, y_i^2, y_i y_j (i < j) into the first rows of ``phi``."""
    d = len(y)
    for row in range(first, min(last, 1)):
        phi[row - first, :n] = 1.0
    for row in range(max(first, 1), min(last, d + 1)):
        out, left = phi[row - first], y[row - 1]
        for i in range(n):
            out[i] = left[i]
    for row in range(max(first, d + 1), min(last, 2 * d + 1)):
        out, left = phi[row - first], y[row - d - 1]
        for i in range(n):
            out[i] = left[i] * left[i]
    row = 2 * d + 1
    for a in range(d - 1):
        if row + d - 1 - a > first and row < last:
            left = y[a]
            for b in range(a + 1, d):
                place = row + b - a - 1
                if first <= place < last:
                    out, right = phi[place - first], y[b]
                    for i in range(n):
                        out[i] = left[i] * right[i]
        row += d - 1 - a


@compiled(fastmath=CONTRACT)
def logarithms(x: FloatArray, n: int, out: AnyArray, mantissa: FloatArray, power: IntArray) -> None:
    """Logarithms of ``x``, below two units in the last place: of two to a power, and of what that leaves.

    What is left, between the roots of 1/2 and 2, is ``2 artanh s`` with ``s = (m - 1) / (m + 1)``, a series in the
    square of s. The other arguments are memory of n numbers each, put together from bits and taken apart.
    """
    for i in range(n):
        mantissa[i] = max(x[i], LEAST)
    bits, exponent = mantissa.view(np.int64), power.view(np.float64)
    for i in range(n):
        # 1023 more than the power, counted from the root of 1/2
        e = (bits[i] - 0x3FE6A09E667F3BCD + (1023 << 52)) >> 52
        bits[i] -= (e - 1023) << 52
        power[i] = e | 0x4330000000000000
    for i in range(n):
        s = (mantissa[i] - 1.0) / (mantissa[i] + 1.0)
        z = s * s
        p = 1 / 21.0
        p = p * z + 1 / 19.0
        p = p * z + 1 / 17.0
        p = p * z + 1 / 15.0
        p = p * z + 1 / 13.0
        p = p * z + 1 / 11.0
        p = p * z + 1 / 9.0
        p = p * z + 1 / 7.0
        p = p * z + 1 / 5.0
        p = p * z + 1 / 3.0
        times = exponent[i] - 4503599627371519.0
        out[i] = times * LN2_HIGH + (2.0 * s + (2.0 * s * z * p + times * LN2_LOW))


@compiled()
def fill_chain(
    chain: int, y: FloatArray, n: int, first: int, last: int, phi: AnyArray, spare: FloatArray, power: IntArray
) -> None:
    """Features ``first`` to ``last`` of a chain into the first rows of ``phi``; the last two are memory."""
    if chain == LOGARITHMS:
        d = len(y)
        fill(y, n, first, min(last, d + 1), phi)
        for row in range(max(first, d + 1), last):
            logarithms(y[row - d - 1], n, phi[row - first], spare[:n], power[:n])
    else:
        fill(y, n, first, last, phi)


@compiled(fastmath=CONTRACT)
def link(
    joint: FloatArray, n: int, d: int, links: FloatArray, logs: FloatArray, precisions: FloatArray,
    mantissa: FloatArray, power: IntArray,
) -> None:  # fmt: skip
    """Turn products, ``-delta / 2``, into log joint densities in rows with a link; see `Family.links`.

    ``logs`` gets ``log(1 + delta / nu)``, corrected for what is lost in the sum, and ``precisions`` the expected ones.
    """
    for k in range(len(links)):
        peak, nu = links[k, 0], links[k, 1]
        line, log, u = joint[k], logs[k], precisions[k]
        if nu == math.inf:
            for i in range(n):
                log[i] = 0.0
                u[i] = 1.0
            continue
        by, most, half = -2.0 / nu, 1.0 + d / nu, 0.5 * (nu + d)
        for i in range(n):
            line[i] = max(by * line[i], 0.0)
            u[i] = 1.0 + line[i]
        logarithms(u, n, log, mantissa, power)
        for i in range(n):
            log[i] += (line[i] - (u[i] - 1.0)) / u[i]
            line[i] = peak - half * log[i]
            u[i] = most / u[i]


@compiled(fastmath=CONTRACT)
def weigh(
    joint: FloatArray, n: int, logs: FloatArray, precisions: FloatArray, ones: FloatArray, hidden: FloatArray
) -> None:
    """Add the sums of r and of r times the logarithms to ``hidden`` (rows, 2), and turn r into r times the precisions.

    ``ones`` is memory of n numbers.
    """
    for i in range(n):
        ones[i] = 1.0
    for k in range(len(joint)):
        line, u = joint[k], precisions[k]
        hidden[k, 0] += np.dot(line, ones[:n])
        hidden[k, 1] += np.dot(line, logs[k])
        for i in range(n):
            line[i] *= u[i]


@compiled()
def hidden_parts(memory: Buffers, n_rows: int, n: int) -> tuple[FloatArray, FloatArray]:
    """Logarithms and precisions of rows with links, each (rows, n)."""
    size = n_rows * n
    return memory[9][:size].reshape((n_rows, n)), memory[9][size : 2 * size].reshape((n_rows, n))


@compiled(fastmath=CONTRACT)
def shifted_exponentials(joint: FloatArray, n: int, top: FloatArray, total: FloatArray, power: IntArray) -> None:
    """Turn the rows of ``joint`` into ``exp(joint - top)``; ``top`` gets their maximum, ``total`` their sum.

    The exponential is a Taylor polynomial of degree 12 on [-log(2)/2, log(2)/2], below one unit in the last place
    there, times a power of two put together from bits.
    """
    bits = power.view(np.float64)
    for i in range(n):
        top[i] = joint[0, i]
        total[i] = 0.0
    for k in range(1, len(joint)):
        line = joint[k]
        for i in range(n):
            top[i] = max(top[i], line[i])
    for k in range(len(joint)):
        line = joint[k]
        for i in range(n):
            z = line[i] - top[i]
            z = max(z, LOWEST - 8.0)
            times = math.floor(z * LOG2_E + 0.5)
            r = (z - times * LN2_HIGH) - times * LN2_LOW
            p = 1 / 479001600.0
            p = p * r + 1 / 39916800.0
            p = p * r + 1 / 3628800.0
            p = p * r + 1 / 362880.0
            p = p * r + 1 / 40320.0
            p = p * r + 1 / 5040.0
            p = p * r + 1 / 720.0
            p = p * r + 1 / 120.0
            p = p * r + 1 / 24.0
            p = p * r + 1 / 6.0
            p = p * r + 0.5
            p = p * r + 1.0
            line[i] = p * r + 1.0 if z > LOWEST else 0.0
            power[i] = (np.int64(times) + 1023) << 52
        for i in range(n):
            line[i] *= bits[i]
            total[i] += line[i]


@compiled(fastmath=CONTRACT)
def scale(joint: FloatArray, n: int, factors: FloatArray) -> None:
    """Multiply the columns of ``joint`` (K, n) by factors."""
    for k in range(len(joint)):
        line = joint[k]
        for i in range(n):
            line[i] *= factors[i]


@compiled(fastmath=CONTRACT)
def normalise(
    joint: FloatArray, n: int, weights: FloatArray, top: FloatArray, total: FloatArray, power: IntArray
) -> float:
    """Turn log joint densities (K, n) into responsibilities; returns the sum of the log densities.

    Both are times the samples' weights, if there are any.
    """
    result = 0.0
    if len(joint) == 1:
        for i in range(n):
            weight = weights[i] if len(weights) else 1.0
            result += weight * joint[0, i]
            joint[0, i] = weight
        return result
    shifted_exponentials(joint, n, top, total, power)
    if len(weights):
        for i in range(n):
            result += weights[i] * (top[i] + math.log(total[i]))
            total[i] = weights[i] / total[i]
        scale(joint, n, total)
        return result
    product = 1.0  # sums are at least 1: many of them share one logarithm
    for i in range(n):
        result += top[i]
        product *= total[i]
        if product > 1e200:
            result += math.log(product)
            product = 1.0
        total[i] = 1.0 / total[i]
    scale(joint, n, total)
    return result + math.log(product)


@compiled(fastmath=CONTRACT)
def harden(joint: FloatArray, n: int, weights: FloatArray, top: FloatArray, best: IntArray) -> float:
    """Turn log joint densities (K, n) into one for the largest of each sample, the first of equals, and zeros.

    Returns the sum of the largest; both are times the samples' weights, if there are any.
    """
    for i in range(n):
        top[i] = joint[0, i]
        best[i] = 0
    for k in range(1, len(joint)):
        line = joint[k]
        for i in range(n):
            best[i] = k if line[i] > top[i] else best[i]
            top[i] = max(top[i], line[i])
    result = 0.0
    for i in range(n):
        weight = weights[i] if len(weights) else 1.0
        result += weight * top[i]
        top[i] = weight
    for k in range(len(joint)):
        line = joint[k]
        for i in range(n):
            line[i] = top[i] if best[i] == k else 0.0
    return result


@compiled()
def rule_out(joint: FloatArray, n: int, labels: IntArray, owners: IntArray) -> None:
    """Leave samples whose label is known, and not below zero, to the rows of ``joint`` that it owns."""
    for k in range(len(joint)):
        line = joint[k]
        for i in range(n):
            if labels[i] >= 0 and labels[i] != owners[k]:
                line[i] = -math.inf


@compiled()
def accumulate(
    x: AnyArray, weights: FloatArray, labels: IntArray, owners: IntArray, hard: bool, origins: FloatArray,
    shifts: FloatArray, forwards: FloatArray, diagonals: AnyArray, chains: IntArray, panels: IntArray, theta: AnyArray,
    links: FloatArray, candidates: IntArray, width: int, memory: Buffers, log_likelihoods: FloatArray,
    sums: FloatArray, squares: FloatArray, hidden: FloatArray,
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
    panels : ndarray of int, shape (panels, 6)
        Columns as named above; in order of the stacks, then of the features. Of neighbouring rows and features, the
        last ones are beyond the end.
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
        centred, y, joint, phi, factor = shaped(memory, len(shifts), d, n_rows, n)
        held = log_joint(
            x, start, n, origins, shifts, forwards, diagonals, chains, panels, theta, centred, y, phi, factor, joint,
            power,
        )  # fmt: skip
        if len(links):
            logs, precisions = hidden_parts(memory, n_rows, n)
            link(joint, n, d, links, logs, precisions, centred[0], power)
        for c in range(len(candidates)):
            rows = joint[candidates[c, 0] : candidates[c, 1]]
            if len(labels):
                rule_out(rows, n, labels[start : start + n], owners[candidates[c, 0] : candidates[c, 1]])
            if hard:
                log_likelihoods[c] += harden(rows, n, weights[start : start + n], top, power)
            else:
                log_likelihoods[c] += normalise(rows, n, weights[start : start + n], top, total, power)
        if len(weights):
            squares += np.dot(joint, weights[start : start + n])
        if len(links):
            logs, precisions = hidden_parts(memory, n_rows, n)
            weigh(joint, n, logs, precisions, top, hidden)
        for p in range(len(panels)):
            stack, a, b, first, last, offset = panels[p]
            if first == 0:
                sparse[a] = products[a] and is_sparse(joint[a:b], n)
                if sparse[a]:
                    add_sparsely(joint, n, y[stack], panels, p, power, memory[7], sums)
            if sparse[a]:
                continue
            if not holds(panels, held, p):
                fill_chain(chains[stack], y[stack], n, first, last, phi, centred[0], power)
                held = p
            convert(joint[a:b], factor[a:b])
            product = np.dot(factor[a:b], phi[: last - first].T)
            place = sums[offset : offset + product.size]
            place += product.ravel()


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
                first, last = panels[q, FIRST_FEATURE], panels[q, LAST_FEATURE]
                offset = panels[q, OFFSET] + (k - panels[p, FIRST_ROW]) * (last - first)
                add_features(second, first, last, sums[offset : offset + last - first])


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
    diagonals: AnyArray, chains: IntArray, panels: IntArray, theta: AnyArray, centred: FloatArray, y: FloatArray,
    phi: AnyArray, product: AnyArray, joint: FloatArray, power: IntArray,
) -> int:  # fmt: skip
    """Log joint densities of one slice into ``joint`` (rows, n); returns the panel whose features are left."""
    for stack in range(len(shifts)):
        transform(x, start, n, origins[stack], shifts[stack], forwards[stack], diagonals[stack], centred, y[stack])
    held = -1
    for p in range(len(panels)):
        stack, a, b, first, last, offset = panels[p]
        if not holds(panels, held, p):
            fill_chain(chains[stack], y[stack], n, first, last, phi, centred[0], power)
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
) -> tuple[FloatArray, FloatArray, FloatArray, AnyArray, AnyArray]:
    """The memory as contiguous arrays for a slice of n samples: the products want them so."""
    n_features = len(memory[3]) // len(memory[4])
    return (
        memory[0][: d * n].reshape((d, n)),
        memory[1][: n_stacks * d * n].reshape((n_stacks, d, n)),
        memory[2][: n_rows * n].reshape((n_rows, n)),
        memory[3][: n_features * n].reshape((n_features, n)),
        memory[8][: n_rows * n].reshape((n_rows, n)),
    )


@compiled()
def score(
    x: AnyArray, origins: FloatArray, shifts: FloatArray, forwards: FloatArray, diagonals: AnyArray,
    chains: IntArray, panels: IntArray, theta: AnyArray, links: FloatArray, n_rows: int, width: int, memory: Buffers,
    label: IntArray, probability: FloatArray, log_density: FloatArray, probabilities: FloatArray,
) -> None:  # fmt: skip
    """Label, its probability and the log density of the rows of ``x``, and, unless it is empty, ``probabilities``."""
    top, total, power = memory[4], memory[5], memory[6]
    for start in range(0, len(x), width):
        n = min(width, len(x) - start)
        centred, y, joint, phi, product = shaped(memory, len(shifts), x.shape[1], n_rows, n)
        log_joint(
            x, start, n, origins, shifts, forwards, diagonals, chains, panels, theta, centred, y, phi, product, joint,
            power,
        )  # fmt: skip
        if len(links):
            logs, precisions = hidden_parts(memory, n_rows, n)
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
        for i in range(n):
            probability[start + i] = 1.0 / total[i]
            log_density[start + i] = top[i] + math.log(total[i])
        if len(probabilities):
            for i in range(n):
                for k in range(n_rows):
                    probabilities[start + i, k] = joint[k, i] / total[i]
