"""The two matrix products of features that are products of coordinates, in vector registers.

Every feature of 1, y, y_i^2, y_i y_j is the product of two rows of (1, y), made where it is needed. A block of sums
stays in registers while the terms stream by: of the first product some rows of theta times three vectors of samples,
of the second some rows of responsibilities times three features. The lanes of a vector are added pairwise at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numba.core import cgutils

from dgmm.estep.block import frozen
from dgmm.estep.jit import both
from dgmm.estep.vectors import DEPTH, INT64, LANES, SINGLE, SIZE, WIDTH, Emitter, emitted
from dgmm.types import FloatArray, IntArray

#: Rows of theta in a block of sums at most, a power of two, and in all the blocks that there are.
ROWS = max(LANES, 1)
SIZES = [size for size in (8, 4, 2, 1) if size <= WIDTH]


@both
def block_size(rows: int) -> int:
    """The rows of the first block, a power of two, of so many."""
    size = ROWS
    while size > rows:
        size //= 2
    return size


def blocks_of(rows: int) -> list[tuple[int, int]]:
    """First and last row of the blocks that there are products for."""
    found, start = [], 0
    while start < rows:
        found.append((start, start + block_size(rows - start)))
        start = found[-1][1]
    return found


def by_column(matrix: FloatArray) -> FloatArray:
    """A matrix in blocks of rows, one after the other, each column by column."""
    return np.concatenate([matrix[a:b].T.ravel() for a, b in blocks_of(len(matrix))])


@lru_cache(maxsize=64)
def pairs_of(d: int, size: int) -> IntArray:
    """The rows of (1, y) whose products the first features 1, y, y_i^2, y_i y_j (i < j) are, shape (size, 2)."""
    own, (a, b) = np.arange(1, d + 1), np.triu_indices(d if size > 2 * d + 1 else 0, 1)
    left, right = np.concatenate([np.zeros(1 + d), own, a + 1]), np.concatenate([[0], own, own, b + 1])
    return frozen(np.stack([left, right], axis=1)[:size].astype(np.int64))


def forward_of(forward: FloatArray) -> FloatArray:
    """A linear map as the kernel takes it, d * d numbers: a matrix `by_column`, of a diagonal its diagonal first."""
    if forward.ndim == 2:
        return by_column(forward)
    return np.concatenate([forward, np.zeros(len(forward) * (len(forward) - 1))])


def sides(e: Emitter, pairs: Any, index: Any, y: Any, stride: Any) -> tuple[Any, Any]:
    """Addresses of the two rows whose product a feature is."""
    entry = e.at(pairs, e.times(index, 2 * SIZE))
    rows = e.load(entry, INT64), e.load(e.at(entry, e.number(SIZE)), INT64)
    left, right = (e.at(y, e.times(row, stride)) for row in rows)
    return left, right


def by_block(e: Emitter, rows: Any, emit: Callable[[int], None]) -> None:
    """What is emitted for blocks of each size, for the one that there is."""
    for size in SIZES:
        with e.b.if_then(e.b.icmp_signed("==", rows, e.number(size))):
            emit(size)


@emitted
def combine(
    b: Any, numbers: Any, theta: Any, at: Any, rows: Any, pairs: Any, pair: Any, size: Any, y: Any, first: Any,
    joint: Any, to: Any, n: Any,
) -> None:  # fmt: skip
    """Products of a block of rows of theta with features into rows of ``joint``, from ``to`` on.

    Theta begins at ``at``, feature by feature; the features are those of ``size`` pairs, from ``pair`` on, of rows of
    ``y``, from ``first`` on; rows have n numbers, a multiple of `STEP`. All are of the same precision.
    """
    e = Emitter(b, single=numbers[0] == SINGLE)
    theta, y, joint = (e.at(a, e.times(i, e.size)) for a, i in ((theta, at), (y, first), (joint, to)))
    pairs, stride = e.at(pairs, e.times(pair, 2 * SIZE)), e.times(n, e.size)
    vectors, step = [e.number(e.size * e.lanes * v) for v in range(DEPTH)], e.number(e.lanes * DEPTH)

    def emit(block: int) -> None:
        sums = e.sums(block, DEPTH)
        with cgutils.for_range_slice(b, e.number(0), n, step, intp=INT64) as (i, _):
            here = e.times(i, e.size)
            e.clear(sums)
            with cgutils.for_range(b, size, intp=INT64) as loop:
                left, right = (e.at(a, here) for a in sides(e, pairs, loop.index, y, stride))
                features = [b.fmul(e.load(e.at(left, v)), e.load(e.at(right, v))) for v in vectors]
                line = e.at(theta, e.times(loop.index, block * e.size))
                for k in range(block):
                    factor = e.everywhere(e.load(e.at(line, e.number(k * e.size)), e.type))
                    for feature, place in zip(features, sums[k], strict=True):
                        e.add_product(factor, feature, place)
            for k in range(block):
                line = e.at(joint, here, e.times(stride, k))
                for v, place in zip(vectors, sums[k], strict=True):
                    e.store(b.load(place), e.at(line, v))

    by_block(e, rows, emit)


@emitted
def add_moments(
    b: Any, numbers: Any, joint: Any, to: Any, rows: Any, pairs: Any, size: Any, y: Any, first: Any, sums: Any, at: Any,
    step: Any, n: Any,
) -> None:  # fmt: skip
    """Add products of a block of rows of responsibilities with features to sums.

    Rows of ``joint`` begin at ``to``; the features are those of ``size`` pairs of rows of ``y``, from ``first`` on.
    Rows have n numbers, a multiple of the lanes of a vector. Sums are doubles, from ``at`` on, those of a feature
    ``step`` after those of the one before.
    """
    e = Emitter(b, single=numbers[0] == SINGLE)
    joint, y = (e.at(a, e.times(i, e.size)) for a, i in ((joint, to), (y, first)))
    sums, stride, apart = e.at(sums, e.times(at, SIZE)), e.times(n, e.size), e.times(step, SIZE)
    whole = b.mul(b.sdiv(size, e.number(DEPTH)), e.number(DEPTH))

    def emit(block: int) -> None:
        for depth, begin, end in ((DEPTH, e.number(0), whole), (1, whole, size)):
            found = e.sums(depth, block)
            with cgutils.for_range_slice(b, begin, end, e.number(depth), intp=INT64) as (feature, _):
                factors = [sides(e, pairs, e.at(feature, e.number(f)), y, stride) for f in range(depth)]
                e.clear(found)
                with cgutils.for_range_slice(b, e.number(0), n, e.number(e.lanes), intp=INT64) as (i, _):
                    here = e.times(i, e.size)
                    features = [b.fmul(e.load(e.at(left, here)), e.load(e.at(right, here))) for left, right in factors]
                    for k in range(block):
                        factor = e.load(e.at(joint, here, e.times(stride, k)))
                        for f in range(depth):
                            e.add_product(factor, features[f], found[f][k])
                for f in range(depth):
                    address = e.at(sums, e.times(e.at(feature, e.number(f)), apart))
                    total = e.in_double(e.added_up([b.load(s) for s in found[f]]))
                    e.store(b.fadd(total, e.load(address, total.type)), address)

    by_block(e, rows, emit)
