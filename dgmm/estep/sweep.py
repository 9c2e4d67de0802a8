"""One read of rows for what they are used for, and for the range and the moments of those that are complete.

Rows are centred tile by tile, in cache, about the mean of their own tile, and moments of tiles are merged about a
common origin (Chan, Golub and LeVeque 1983, equations 1.5): neither an offset nor far-off rows cost digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dgmm.estep import gemm
from dgmm.estep.block import blocks, frozen
from dgmm.estep.jit import CONTRACT, compiled, inlined
from dgmm.families import Moments
from dgmm.types import AnyArray, BoolArray, FloatArray

#: What becomes of a row: it is left out, fitted, held out, and the last two of rows that lack some of their values.
LEFT_OUT, FIT, HELD, LACKING, HELD_LACKING = range(5)
#: Bytes of a tile of rows, but no fewer than of a covariance, and numbers that are added side by side, of several short
#: rows.
TILE_BYTES, LANES = 2**17, 64


@inlined
def mark(
    x: AnyArray, d: int, start: int, stop: int, weights: FloatArray | None, held: BoolArray | None, marginal: bool,
    roles: NDArray[np.int8],
) -> bool:  # fmt: skip
    """Say what becomes of the rows from ``start`` on; returns whether all are fitted and complete."""
    rows, missing, others = x[start * d : stop * d], 0, 0
    for v in range(len(rows)):
        missing += rows[v] != rows[v]
    for i in range(start, stop):
        role = FIT
        if held is not None and held[i]:
            role = HELD
        # false of a weight that is missing
        if weights is not None and not weights[i] > 0:
            role = LEFT_OUT
        roles[i] = role
        others += role != FIT
    if missing == 0:
        return others == 0
    for i in range(start, stop):
        lacks = 0
        for j in range(d):
            lacks += x[i * d + j] != x[i * d + j]
        if lacks > 0 and roles[i] != LEFT_OUT:
            roles[i] = roles[i] + (LACKING - FIT) if marginal and lacks < d else LEFT_OUT
    return False


@inlined
def gather(
    x: AnyArray, d: int, weights: FloatArray | None, start: int, stop: int, roles: NDArray[np.int8], role: int,
    y: FloatArray, w: FloatArray,
) -> int:  # fmt: skip
    """Copy rows of a role, and their weights, in double precision; returns how many there are."""
    n = 0
    if role < 0:
        source = x[start * d : stop * d]
        for v in range(len(source)):
            y[v] = source[v]
        if weights is not None:
            for i in range(stop - start):
                w[i] = weights[start + i]
        return stop - start
    for i in range(start, stop):
        if roles[i] == role:
            for j in range(d):
                y[n * d + j] = x[i * d + j]
            if weights is not None:
                w[n] = weights[i]
            n += 1
    return n


@compiled(called=False, fastmath=CONTRACT)
def multiply(y: FloatArray, d: int, w: FloatArray, n: int, z: FloatArray) -> None:
    """Rows times their weights; by itself, since as a part of another its loop takes twice as long for few features."""
    for i in range(n):
        source, to, weight = y[i * d : (i + 1) * d], z[i * d : (i + 1) * d], w[i]
        for j in range(d):
            to[j] = weight * source[j]


@inlined
def absorb(
    y: FloatArray, d: int, weights: FloatArray | None, w: FloatArray, n: int, z: FloatArray, lanes: FloatArray,
    width: int, product: FloatArray, low: FloatArray, high: FloatArray, count: float, origin: FloatArray,
    offset: FloatArray, scatter: FloatArray,
) -> float:  # fmt: skip
    """Merge ``n`` rows ``y``, which are centred, into moments about ``origin + offset``; returns the new count.

    ``z`` is memory for rows times their weights ``w``, if there are ``weights``, ``lanes`` memory for six numbers of
    each feature of several rows, in all a ``width`` each, and ``product`` memory for a scatter matrix.
    """
    many = width // d
    full = -(-n // many) * many
    least, most, by = lanes[:width], lanes[width : 2 * width], lanes[2 * width : 3 * width]
    sums, first, mean = lanes[3 * width : 4 * width], lanes[4 * width : 5 * width], lanes[5 * width :]
    # the last ones are the first row once more
    for i in range(n, full):
        for j in range(d):
            y[i * d + j] = y[j]
    for j in range(width):
        least[j] = most[j] = by[j] = first[j] = y[j % d]
        mean[j] = 0.0
    for start in range(0, full * d, width):
        line = y[start : start + width]
        for j in range(width):
            least[j] = line[j] if line[j] < least[j] else least[j]
        for j in range(width):
            most[j] = line[j] if line[j] > most[j] else most[j]
    weight = float(n)
    if weights is not None:
        weight = 0.0
        for i in range(n):
            weight += w[i]
        for i in range(n, full):
            w[i] = 0.0
    # less the first row to begin with, then less the mean
    for step in range(2):
        for start in range(0, full * d, width):
            line = y[start : start + width]
            for j in range(width):
                line[j] -= by[j]
        terms = y
        if weights is not None:
            terms = z
            multiply(y, d, w, full, z)
        if step == 0:
            for j in range(width):
                sums[j] = 0.0
            for start in range(0, full * d, width):
                line = terms[start : start + width]
                for j in range(width):
                    sums[j] += line[j]
            for j in range(width):
                mean[j % d] += sums[j]
            for j in range(d):
                mean[j] /= weight
            for j in range(width):
                by[j] = mean[j % d]
    for j in range(width):
        low[j % d] = least[j] if least[j] < low[j % d] else low[j % d]
        high[j % d] = most[j] if most[j] > high[j % d] else high[j % d]
    factors = y
    if weights is not None:
        factors = z
    gemm.multiply(factors, 0, y, 0, product, 0, d, n, d, 1, 0, 0)
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
        factor = count * share * mean[a]
        for b in range(d):
            scatter[a * d + b] += product[a * d + b] + factor * mean[b]
    return count + weight


@compiled(fastmath=CONTRACT)
def sweep(
    x: AnyArray, d: int, weights: FloatArray | None, held: BoolArray | None, marginal: bool, roles: NDArray[np.int8],
    tile: FloatArray, heavy: FloatArray, w: FloatArray, lanes: FloatArray, product: FloatArray, low: FloatArray,
    high: FloatArray, counts: FloatArray, origins: FloatArray, offsets: FloatArray, scatters: FloatArray,
) -> None:  # fmt: skip
    """Add the rows of ``x`` (n * d,) to what is known of those that are fitted and of those that are held out.

    Parameters
    ----------
    weights, held : ndarray, shape (n,), or None
        None where all rows count the same, and none is held out: what is done with them is not compiled.
    marginal : bool
        Whether rows that have any value are used.
    roles : ndarray of int8, shape (n,)
        What becomes of each row goes there.
    tile, heavy : ndarray, shape (rows * d,)
        Memory for a tile and the rows that fill up its last lanes, and for these times their weights, if they have any.
    w : ndarray, shape (rows,)
        Memory for their weights.
    lanes : ndarray, shape (6 * rows of a lane * d,)
    product : ndarray, shape (d * d,)
        Memory.
    low, high, origins, offsets : ndarray, shape (2 * d,)
    counts : ndarray, shape (2,)
    scatters : ndarray, shape (2 * d * d,)
    """
    width, n_rows = len(w) - LANES, len(x) // d
    for start in range(0, n_rows, width):
        stop = start + width if start + width < n_rows else n_rows
        every = mark(x, d, start, stop, weights, held, marginal, roles)
        for part in range(1 if held is None or every else 2):
            n = gather(x, d, weights, start, stop, roles, -1 if every else FIT + part, tile, w)
            if n > 0:
                a, b = part * d, (part + 1) * d
                counts[part] = absorb(
                    tile, d, weights, w, n, heavy, lanes, len(lanes) // 6, product, low[a:b], high[a:b], counts[part],
                    origins[a:b], offsets[a:b], scatters[a * d : b * d],
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
    w = None if weights is None else frozen(np.ascontiguousarray(weights, dtype=np.float64))
    out = None if held is None else frozen(held)
    tile, lanes, product = np.empty((width + LANES) * d), np.empty(6 * rows * d), np.empty(d * d)
    heavy, of_tile = np.empty(0 if weights is None else len(tile)), np.empty(width + LANES)
    found = [a.reshape(-1) for a in (low, high, counts, origins, offsets, scatters)]
    for place, block in blocks(x, d, width):
        its_weights, its_held = None if w is None else w[place], None if out is None else out[place]
        sweep(
            block.reshape(-1), d, its_weights, its_held, marginal, roles[place], tile, heavy, of_tile, lanes, product,
            *found,
        )  # fmt: skip
    for scatter in scatters[: 1 if held is None else 2]:
        for a in range(1, d):
            scatter[:a, a] = scatter[a, :a]
    fit, judge = (Moments(*part) for part in zip(counts.tolist(), origins + offsets, scatters, strict=True))
    return Swept(roles, low, high, (fit, judge))
