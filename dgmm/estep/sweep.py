"""One read of rows for what they are used for, and for the range and the moments of those that are complete.

Rows are centred tile by tile, in cache, about the mean of their own tile, and moments of tiles are merged about a
common origin (Chan, Golub and LeVeque 1983, equations 1.5): neither an offset nor far-off rows cost digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dgmm.estep.block import blocks, frozen
from dgmm.estep.jit import compiled
from dgmm.estep.kernel import CONTRACT
from dgmm.families import Moments
from dgmm.types import AnyArray, BoolArray, FloatArray

#: What becomes of a row: it is left out, fitted, held out, and the last two of rows that lack some of their values.
LEFT_OUT, FIT, HELD, LACKING, HELD_LACKING = range(5)
#: Bytes of a tile of rows, but no fewer than of a covariance; numbers that are added side by side, of several short
#: rows; and features of a block of a covariance, of which one half is found.
TILE_BYTES, LANES, BLOCK = 2**17, 64, 128


@compiled()
def mark(
    x: AnyArray, start: int, stop: int, weights: FloatArray, held: BoolArray, marginal: bool, roles: NDArray[np.int8]
) -> bool:
    """Say what becomes of the rows from ``start`` on; returns whether all are fitted and complete."""
    d = x.shape[1]
    flat = x.reshape(x.size)
    missing, others = 0, 0
    for v in range(start * d, stop * d):
        missing += flat[v] != flat[v]
    for i in range(start, stop):
        role = FIT
        if len(held) and held[i]:
            role = HELD
        # false of a weight that is missing
        if len(weights) and not weights[i] > 0:
            role = LEFT_OUT
        roles[i] = role
        others += role != FIT
    if missing == 0:
        return others == 0
    for i in range(start, stop):
        lacks = 0
        for j in range(d):
            lacks += x[i, j] != x[i, j]
        if lacks > 0 and roles[i] != LEFT_OUT:
            roles[i] = roles[i] + (LACKING - FIT) if marginal and lacks < d else LEFT_OUT
    return False


@compiled()
def gather(
    x: AnyArray, weights: FloatArray, start: int, stop: int, roles: NDArray[np.int8], role: int, y: FloatArray,
    w: FloatArray,
) -> int:  # fmt: skip
    """Copy rows of a role, and their weights, in double precision; returns how many there are."""
    d, n = x.shape[1], 0
    if role < 0:
        source, to = x.reshape(x.size), y.reshape(y.size)
        for v in range((stop - start) * d):
            to[v] = source[start * d + v]
        for i in range(len(weights) and stop - start):
            w[i] = weights[start + i]
        return stop - start
    for i in range(start, stop):
        if roles[i] == role:
            for j in range(d):
                y[n, j] = x[i, j]
            if len(weights):
                w[n] = weights[i]
            n += 1
    return n


@compiled(fastmath=CONTRACT)
def add_up(flat: FloatArray, n: int, width: int, sums: FloatArray) -> None:
    """Sums of ``n`` numbers, each of which is added to that ``width`` before it."""
    sums[:] = 0.0
    for start in range(0, n, width):
        line = flat[start : start + width]
        for j in range(width):
            sums[j] += line[j]


@compiled(fastmath=CONTRACT)
def take_off(flat: FloatArray, n: int, width: int, by: FloatArray) -> None:
    """Subtract numbers from all of ``n``, over and over."""
    for start in range(0, n, width):
        line = flat[start : start + width]
        for j in range(width):
            line[j] -= by[j]


@compiled(fastmath=CONTRACT)
def widen(flat: FloatArray, n: int, width: int, low: FloatArray, high: FloatArray) -> None:
    """Extremes of ``n`` numbers, of every one in a width."""
    for start in range(0, n, width):
        line = flat[start : start + width]
        for j in range(width):
            low[j] = min(low[j], line[j])
        for j in range(width):
            high[j] = max(high[j], line[j])


@compiled(fastmath=CONTRACT)
def multiply(y: FloatArray, w: FloatArray, n: int, z: FloatArray) -> None:
    """Rows times their weights."""
    for i in range(n):
        source, to, weight = y[i], z[i], w[i]
        for j in range(y.shape[1]):
            to[j] = weight * source[j]


@compiled()
def turn(y: FloatArray, n: int, t: FloatArray) -> None:
    """Rows (n, d) as columns ``t`` (d, n)."""
    for start in range(0, n, 16):
        for j in range(y.shape[1]):
            for i in range(start, min(start + 16, n)):
                t[j, i] = y[i, j]


@compiled(fastmath=CONTRACT)
def absorb(
    y: FloatArray, w: FloatArray, n: int, z: FloatArray, turned: FloatArray, low: FloatArray, high: FloatArray,
    count: float, origin: FloatArray, offset: FloatArray, scatter: FloatArray,
) -> float:  # fmt: skip
    """Merge ``n`` rows ``y``, which are centred, into moments about ``origin + offset``; returns the new count.

    Of ``scatter``, half is right where there is more than one block. ``z`` is memory for rows times their weights,
    empty where they have none, and ``turned`` for both as columns, empty where there is one block.
    """
    d, weighted = y.shape[1], len(z) > 0
    rows = -(-LANES // d)
    width, full = rows * d, -(-n // rows) * rows
    flat, all_z = y.reshape(y.size), z.reshape(z.size)
    # the last ones are the first row once more
    y[n:full] = y[0]
    first, lanes = y[0].copy(), np.empty((4, width))
    for j in range(width):
        lanes[0, j] = lanes[1, j] = lanes[2, j] = first[j % d]
    widen(flat, full * d, width, lanes[0], lanes[1])
    take_off(flat, full * d, width, lanes[2])
    weight = float(n)
    if weighted:
        weight = w[:n].sum()
        multiply(y, w, n, z)
        z[n:full] = 0.0
        add_up(all_z, full * d, width, lanes[3])
    else:
        add_up(flat, full * d, width, lanes[3])
    mean = np.zeros(d)
    for j in range(width):
        mean[j % d] += lanes[3, j]
        low[j % d] = min(low[j % d], lanes[0, j])
        high[j % d] = max(high[j % d], lanes[1, j])
    mean /= weight
    for j in range(width):
        lanes[2, j] = mean[j % d]
    take_off(flat, full * d, width, lanes[2])
    if weighted:
        multiply(y, w, n, z)
    if len(turned) == 0:
        scatter += np.dot((z if weighted else y)[:n].T, y[:n])
    else:
        columns = turned[0, : d * n].reshape((d, n))
        turn(y, n, columns)
        heavy = columns
        if weighted:
            heavy = turned[1, : d * n].reshape((d, n))
            turn(z, n, heavy)
        for a in range(0, d, BLOCK):
            b = min(a + BLOCK, d)
            scatter[a:b, :b] += np.dot(heavy[a:b], columns[:b].T)
    if count == 0.0:
        for j in range(d):
            origin[j] = first[j] + mean[j]
            offset[j] = (first[j] - origin[j]) + mean[j]
        return weight
    share = weight / (count + weight)
    for j in range(d):
        mean[j] += (first[j] - origin[j]) - offset[j]
        offset[j] += share * mean[j]
    for a in range(d):
        line, factor = scatter[a], count * share * mean[a]
        for b in range(d):
            line[b] += factor * mean[b]
    return count + weight


@compiled()
def sweep(
    x: AnyArray, weights: FloatArray, held: BoolArray, marginal: bool, width: int, roles: NDArray[np.int8],
    low: FloatArray, high: FloatArray, counts: FloatArray, origins: FloatArray, offsets: FloatArray,
    scatters: FloatArray,
) -> None:  # fmt: skip
    """Add the rows of ``x`` (n, d) to what is known of those that are fitted and of those that are held out.

    Parameters
    ----------
    weights, held : ndarray, shape (n,) or (0,)
        Empty where all rows count the same, and none is held out.
    marginal : bool
        Whether rows that have any value are used.
    width : int
        Rows of a tile.
    roles : ndarray of int8, shape (n,)
        What becomes of each row goes there.
    low, high, origins, offsets : ndarray, shape (2, d)
    counts : ndarray, shape (2,)
    scatters : ndarray, shape (2, d, d)
    """
    d = x.shape[1]
    most = width + LANES
    y, w = np.empty((most, d)), np.empty(most)
    z = np.empty((most if len(weights) else 0, d))
    turned = np.empty((2 if d > BLOCK else 0, width * d))
    for start in range(0, len(x), width):
        stop = min(start + width, len(x))
        every = mark(x, start, stop, weights, held, marginal, roles)
        for part in range(1 + (len(held) > 0)):
            n = gather(x, weights, start, stop, roles, -1 if every else FIT + part, y, w)
            if n:
                counts[part] = absorb(
                    y, w, n, z, turned, low[part], high[part], counts[part], origins[part], offsets[part],
                    scatters[part],
                )  # fmt: skip
            if every:
                break


@dataclass(frozen=True)
class Swept:
    """What one read of rows has found.

    Attributes
    ----------
    roles : ndarray of int8, shape (n,)
        What becomes of each.
    minimum, maximum : ndarray, shape (2, d)
        Of the complete rows that are fitted, and of those that are held out.
    moments : tuple of Moments
        Of both.
    """

    roles: NDArray[np.int8]
    minimum: FloatArray
    maximum: FloatArray
    moments: tuple[Moments, Moments]


def tile_rows(n_features: int) -> int:
    """Rows of a tile."""
    return max(TILE_BYTES // (8 * n_features), n_features, 1)


def swept(x: AnyArray, weights: FloatArray | None, held: BoolArray | None, *, marginal: bool) -> Swept:
    """Read the rows of ``x``, shape (n, d), of any real dtype, NaN where a value is missing.

    Parameters
    ----------
    x : ndarray, shape (n, d)
    weights : ndarray, shape (n,), optional
        Rows without one that is larger than zero are left out.
    held : ndarray of bool, shape (n,), optional
        Which rows are held out.
    marginal : bool
        Whether rows that lack some of their values are set apart; they are left out otherwise.
    """
    n, d = x.shape
    roles, width = np.empty(n, np.int8), tile_rows(d)
    low, high, counts = np.full((2, d), np.inf), np.full((2, d), -np.inf), np.zeros(2)
    origins, offsets, scatters = np.zeros((2, d)), np.zeros((2, d)), np.zeros((2, d, d))
    w = np.empty(0) if weights is None else np.ascontiguousarray(weights, dtype=np.float64)
    out = np.empty(0, np.bool_) if held is None else held
    for place, block in blocks(x, d, width):
        sweep(
            block, frozen(w[place]), frozen(out[place]), marginal, width, roles[place], low, high, counts, origins,
            offsets, scatters,
        )  # fmt: skip
    for scatter in scatters[: 1 if held is None else 2]:
        for a in range(1, d):
            scatter[:a, a] = scatter[a, :a]
    parts = zip(counts.tolist(), origins + offsets, scatters, strict=True)
    fit, judge = (Moments(*part) for part in parts)
    return Swept(roles, low, high, (fit, judge))
