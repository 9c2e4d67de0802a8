"""One read of rows for what they are used for, and for the range and the moments of those that are complete.

Rows are centred tile by tile, in cache, about the mean of their own tile, and moments of tiles are merged about a
common origin (Chan, Golub and LeVeque 1983, equations 1.5): neither an offset nor far-off rows cost digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dgmm.estep.block import blocks, frozen
from dgmm.estep.jit import CONTRACT, compiled, inner
from dgmm.families import Moments
from dgmm.types import AnyArray, BoolArray, FloatArray

#: What becomes of a row: it is left out, fitted, held out, and the last two of rows that lack some of their values.
LEFT_OUT, FIT, HELD, LACKING, HELD_LACKING = range(5)
#: Bytes of a tile of rows, but no fewer than of a covariance, and numbers that are added side by side, of several short
#: rows.
TILE_BYTES, LANES = 2**17, 64


@inner()
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


@inner()
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
        if len(weights):
            for i in range(stop - start):
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


@inner(fastmath=CONTRACT)
def add_up(flat: FloatArray, n: int, width: int, sums: FloatArray) -> None:
    """Sums of ``n`` numbers, each of which is added to that ``width`` before it."""
    for j in range(width):
        sums[j] = 0.0
    for start in range(0, n, width):
        line = flat[start : start + width]
        for j in range(width):
            sums[j] += line[j]


@inner(fastmath=CONTRACT)
def take_off(flat: FloatArray, n: int, width: int, by: FloatArray) -> None:
    """Subtract numbers from all of ``n``, over and over."""
    for start in range(0, n, width):
        line = flat[start : start + width]
        for j in range(width):
            line[j] -= by[j]


@inner(fastmath=CONTRACT)
def widen(flat: FloatArray, n: int, width: int, low: FloatArray, high: FloatArray) -> None:
    """Extremes of ``n`` numbers, of every one in a width."""
    for start in range(0, n, width):
        line = flat[start : start + width]
        for j in range(width):
            low[j] = min(low[j], line[j])
        for j in range(width):
            high[j] = max(high[j], line[j])


@inner(fastmath=CONTRACT)
def multiply(y: FloatArray, w: FloatArray, n: int, z: FloatArray) -> None:
    """Rows times their weights."""
    for i in range(n):
        source, to, weight = y[i], z[i], w[i]
        for j in range(y.shape[1]):
            to[j] = weight * source[j]


@inner(fastmath=CONTRACT)
def absorb(
    y: FloatArray, w: FloatArray, n: int, z: FloatArray, lanes: FloatArray, low: FloatArray, high: FloatArray,
    count: float, origin: FloatArray, offset: FloatArray, scatter: FloatArray,
) -> float:  # fmt: skip
    """Merge ``n`` rows ``y``, which are centred, into moments about ``origin + offset``; returns the new count.

    ``z`` is memory for rows times their weights, empty where they have none; ``lanes`` is memory for six numbers of
    each feature of several rows.
    """
    d, weighted = y.shape[1], len(z) > 0
    width = lanes.shape[1]
    rows = width // d
    full = -(-n // rows) * rows
    flat, all_z = y.reshape(y.size), z.reshape(z.size)
    least, most, by, sums, first, mean = lanes[0], lanes[1], lanes[2], lanes[3], lanes[4], lanes[5]
    # the last ones are the first row once more
    for i in range(n, full):
        for j in range(d):
            y[i, j] = y[0, j]
    for j in range(width):
        least[j] = most[j] = by[j] = first[j] = flat[j % d]
        mean[j] = 0.0
    widen(flat, full * d, width, least, most)
    take_off(flat, full * d, width, by)
    weight = float(n)
    if weighted:
        weight = 0.0
        for i in range(n):
            weight += w[i]
        for i in range(n, full):
            w[i] = 0.0
        multiply(y, w, full, z)
        add_up(all_z, full * d, width, sums)
    else:
        add_up(flat, full * d, width, sums)
    for j in range(width):
        mean[j % d] += sums[j]
        low[j % d] = min(low[j % d], least[j])
        high[j % d] = max(high[j % d], most[j])
    for j in range(d):
        mean[j] /= weight
    for j in range(width):
        by[j] = mean[j % d]
    take_off(flat, full * d, width, by)
    if weighted:
        multiply(y, w, n, z)
        product = np.dot(z[:n].T, y[:n])
    else:
        product = np.dot(y[:n].T, y[:n])
    share = weight / (count + weight)
    for j in range(d):
        if count == 0.0:
            origin[j] = first[j] + mean[j]
            offset[j] = (first[j] - origin[j]) + mean[j]
            mean[j] = 0.0
        else:
            mean[j] += (first[j] - origin[j]) - offset[j]
            offset[j] += share * mean[j]
    for a in range(d):
        line, more, factor = scatter[a], product[a], count * share * mean[a]
        for b in range(d):
            line[b] += more[b] + factor * mean[b]
    return count + weight


@compiled()
def sweep(
    x: AnyArray, weights: FloatArray, held: BoolArray, marginal: bool, roles: NDArray[np.int8], tile: FloatArray,
    heavy: FloatArray, w: FloatArray, lanes: FloatArray, low: FloatArray, high: FloatArray, counts: FloatArray,
    origins: FloatArray, offsets: FloatArray, scatters: FloatArray,
) -> None:  # fmt: skip
    """Add the rows of ``x`` (n, d) to what is known of those that are fitted and of those that are held out.

    Parameters
    ----------
    weights, held : ndarray, shape (n,) or (0,)
        Empty where all rows count the same, and none is held out.
    marginal : bool
        Whether rows that have any value are used.
    roles : ndarray of int8, shape (n,)
        What becomes of each row goes there.
    tile, heavy : ndarray, shape (rows, d)
        Memory for a tile and the rows that fill up its last lanes, and for these times their weights, if they have any.
    w : ndarray, shape (rows,)
        Memory for their weights.
    lanes : ndarray, shape (6, rows of a lane times d)
        Memory.
    low, high, origins, offsets : ndarray, shape (2, d)
    counts : ndarray, shape (2,)
    scatters : ndarray, shape (2, d, d)
    """
    width = len(tile) - LANES
    for start in range(0, len(x), width):
        stop = min(start + width, len(x))
        every = mark(x, start, stop, weights, held, marginal, roles)
        for part in range(2 if len(held) > 0 and not every else 1):
            n = gather(x, weights, start, stop, roles, -1 if every else FIT + part, tile, w)
            if n > 0:
                counts[part] = absorb(
                    tile, w, n, heavy, lanes, low[part], high[part], counts[part], origins[part], offsets[part],
                    scatters[part],
                )  # fmt: skip


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
    return max(TILE_BYTES // (8 * n_features), n_features)


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
    roles, width, rows = np.empty(n, np.int8), tile_rows(d), -(-LANES // d)
    low, high, counts = np.full((2, d), np.inf), np.full((2, d), -np.inf), np.zeros(2)
    origins, offsets, scatters = np.zeros((2, d)), np.zeros((2, d)), np.zeros((2, d, d))
    w = np.empty(0) if weights is None else np.ascontiguousarray(weights, dtype=np.float64)
    out = np.empty(0, np.bool_) if held is None else held
    tile, lanes = np.empty((width + LANES, d)), np.empty((6, rows * d))
    heavy = np.empty((0 if weights is None else len(tile), d))
    for place, block in blocks(x, d, width):
        sweep(
            block, frozen(w[place]), frozen(out[place]), marginal, roles[place], tile, heavy, np.empty(len(tile)),
            lanes, low, high, counts, origins, offsets, scatters,
        )  # fmt: skip
    for scatter in scatters[: 1 if held is None else 2]:
        for a in range(1, d):
            scatter[:a, a] = scatter[a, :a]
    fit, judge = (Moments(*part) for part in zip(counts.tolist(), origins + offsets, scatters, strict=True))
    return Swept(roles, low, high, (fit, judge))
