"""Pseudo-random numbers of rows, the same whoever reads them, and the rows of which they are smallest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dgmm.estep.block import frozen
from dgmm.estep.jit import compiled
from dgmm.types import BoolArray, IntArray

#: Of splitmix64, and what keeps seeds and streams apart.
STEP, FIRST, SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
OF_SEED, OF_STREAM = np.uint64(0xD1B54A32D192ED03), np.uint64(0x8CB92BA72F3D8DD7)
NONE, ONE, UP, MIDDLE, DOWN = np.uint64(0), np.uint64(1), np.uint64(30), np.uint64(27), np.uint64(31)
#: Hashes that are made before any is looked at.
STRIP = 1024
#: No hash is larger.
TOP = 2**64 - 1


@compiled()
def fill_hashes(
    rows: NDArray[np.uint64], start: int, seed: np.uint64, stream: np.uint64, out: NDArray[np.uint64]
) -> None:
    """Hashes of the row numbers from ``start`` on, as many as there is room for."""
    apart = seed * OF_SEED + stream * OF_STREAM
    for i in range(len(out)):
        z = (rows[start + i] + ONE) * STEP + apart
        z = (z ^ (z >> UP)) * FIRST
        z = (z ^ (z >> MIDDLE)) * SECOND
        out[i] = z ^ (z >> DOWN)


@compiled()
def pick(
    rows: NDArray[np.uint64], used: BoolArray, seed: np.uint64, cut: np.uint64, strip: NDArray[np.uint64],
    keys: NDArray[np.uint64], places: IntArray,
) -> tuple[int, int, np.uint64]:  # fmt: skip
    """Hashes of the used rows up to ``cut``, and where these are; returns how many, how many others, and their first.

    ``used`` is empty where all are, ``strip`` memory for some hashes.
    """
    found, left, following = 0, 0, np.uint64(TOP)
    for start in range(0, len(rows), len(strip)):
        n = len(strip) if start + len(strip) < len(rows) else len(rows) - start
        fill_hashes(rows, start, seed, NONE, strip[:n])
        for i in range(n):
            if len(used) == 0 or used[start + i]:
                keys[found] = strip[i]
                places[found] = start + i
                near = strip[i] <= cut
                found += near
                left += not near
                following = strip[i] if strip[i] < following and not near else following
    return found, left, following


def row_hashes(rows: NDArray[np.uint64], seed: int, stream: int = 0) -> NDArray[np.uint64]:
    """Pseudo-random numbers of row numbers: the finaliser of splitmix64 (Steele, Lea and Flood 2014).

    Parameters
    ----------
    rows : ndarray of uint64
    seed : int
    stream : int
        Numbers of different streams are independent.
    """
    found = np.empty(len(rows), np.uint64)
    fill_hashes(frozen(np.ascontiguousarray(rows)), 0, np.uint64(seed), np.uint64(stream), found)
    return found


def nearest(
    rows: NDArray[np.uint64], used: BoolArray | None, seed: int, room: int, below: float = np.inf
) -> tuple[NDArray[np.uint64], IntArray, float]:
    """Hashes of used rows, the smallest of all: at least ``room``, or all that are no larger than ``below``.

    Returns
    -------
    keys : ndarray of uint64
    places : ndarray of int
        Where they are among the rows.
    following : float
        The smallest hash that is not among them; inf if all are.
    """
    n, last = len(rows), TOP if below == np.inf else int(below)
    mask = frozen(np.empty(0, np.bool_) if used is None else used)
    n_used = n if used is None else int(np.count_nonzero(used))
    # hashes are uniform: so many are rarely too few
    share = (room + 6.0 * room**0.5 + 16.0) / max(n_used, 1)
    cuts = {min(last, int(share * TOP)), last} if share < 1 else {last}
    keys, places, strip = np.empty(n, np.uint64), np.empty(n, np.int64), np.empty(STRIP, np.uint64)
    numbers = frozen(np.ascontiguousarray(rows))
    for cut in sorted(cuts):
        found, left, following = pick(numbers, mask, np.uint64(seed), np.uint64(cut), strip, keys, places)
        if found >= room:
            break
    return keys[:found], places[:found], int(following) if left else np.inf
