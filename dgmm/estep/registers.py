"""The two matrix products of features that are products of coordinates, in vector registers.

Every feature of 1, y, y_i^2, y_i y_j is the product of two rows of (1, y), made where it is needed. A block of sums
stays in registers while the terms stream by: of the first product some rows of theta times three vectors of samples,
of the second some rows of responsibilities times three features. The lanes of a vector are added pairwise at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import cgutils, types

from dgmm.estep.jit import compiled
from dgmm.estep.vectors import DEPTH, INT64, LANES, SIZE, WIDTH, Emitter, emitted
from dgmm.types import AnyArray, FloatArray, IntArray

#: Rows of theta in a block of sums at most, a power of two.
ROWS = max(LANES, 1)


@compiled()
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


def pairs_of(d: int, size: int) -> IntArray:
    """The rows of (1, y) whose products the first features 1, y, y_i^2, y_i y_j (i < j) are, shape (size, 2)."""
    own, (a, b) = np.arange(1, d + 1), np.triu_indices(d if size > 2 * d + 1 else 0, 1)
    left, right = np.concatenate([np.zeros(1 + d), own, a + 1]), np.concatenate([[0], own, own, b + 1])
    return np.stack([left, right], axis=1)[:size].astype(np.int64)


def sides(e: Emitter, pairs: Any, index: Any, y: Any, stride: Any) -> tuple[Any, Any]:
    """Addresses of the two rows whose product a feature is."""
    entry = e.at(pairs, e.times(index, 2 * SIZE))
    rows = e.load(entry, INT64), e.load(e.at(entry, e.number(SIZE)), INT64)
    left, right = (e.at(y, e.times(row, stride)) for row in rows)
    return left, right


def first_product(rows: int) -> Any:
    """Products of so many rows of theta with features.

    Returns a function of theta, for its precision, and of addresses: theta, feature by feature; pairs of rows, their
    number P; (1, y); the products; and of bytes from a row of these two to the next, and samples, a multiple of `STEP`.
    """

    @emitted
    def product(
        context: Any, kind: Any, theta: Any, pairs: Any, size: Any, y: Any, joint: Any, stride: Any, n: Any
    ) -> tuple[Any, Any]:
        def emit(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _, theta, pairs, size, y, joint, stride, n = arguments
            e = Emitter(builder, single=kind.dtype == types.float32)
            sums = e.sums(rows, DEPTH)
            vectors = [e.number(e.size * e.lanes * v) for v in range(DEPTH)]
            step = e.number(e.lanes * DEPTH)
            with cgutils.for_range_slice(builder, e.number(0), n, step, intp=INT64) as (i, _):
                here = e.times(i, e.size)
                e.clear(sums)
                with cgutils.for_range(builder, size, intp=INT64) as loop:
                    left, right = (e.at(a, here) for a in sides(e, pairs, loop.index, y, stride))
                    features = [builder.fmul(e.load(e.at(left, v)), e.load(e.at(right, v))) for v in vectors]
                    line = e.at(theta, e.times(loop.index, rows * e.size))
                    for k in range(rows):
                        factor = e.everywhere(e.load(e.at(line, e.number(k * e.size)), e.type))
                        for feature, place in zip(features, sums[k], strict=True):
                            e.add_product(factor, feature, place)
                for k in range(rows):
                    line = e.at(joint, here, e.times(stride, k))
                    for v, place in zip(vectors, sums[k], strict=True):
                        e.store(builder.load(place), e.at(line, v))
            return target.get_dummy_value()

        return types.void(kind, *[types.int64] * 7), emit

    return product


def second_product(rows: int, depth: int) -> Any:
    """Products of so many rows of responsibilities with so many features at a time.

    Returns a function of the responsibilities, for their precision, and of addresses: theirs; pairs of rows, the first
    and the last of them plus one; (1, y); the sums, doubles, feature by feature, that are added to; and of bytes from a
    row to the next, and samples, a multiple of `STEP`.
    """

    @emitted
    def product(
        context: Any, kind: Any, joint: Any, pairs: Any, first: Any, last: Any, y: Any, place: Any, stride: Any, n: Any
    ) -> tuple[Any, Any]:
        def emit(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _, joint, pairs, first, last, y, place, stride, n = arguments
            e = Emitter(builder, single=kind.dtype == types.float32)
            sums = e.sums(depth, rows)
            with cgutils.for_range_slice(builder, first, last, e.number(depth), intp=INT64) as (feature, _):
                both = [sides(e, pairs, e.at(feature, e.number(f)), y, stride) for f in range(depth)]
                e.clear(sums)
                with cgutils.for_range_slice(builder, e.number(0), n, e.number(e.lanes), intp=INT64) as (i, _):
                    here = e.times(i, e.size)
                    features = [builder.fmul(e.load(e.at(a, here)), e.load(e.at(b, here))) for a, b in both]
                    for k in range(rows):
                        factor = e.load(e.at(joint, here, e.times(stride, k)))
                        for f in range(depth):
                            e.add_product(factor, features[f], sums[f][k])
                for f in range(depth):
                    address = e.at(place, e.times(e.at(feature, e.number(f)), rows * SIZE))
                    total = e.in_double(e.added_up([builder.load(s) for s in sums[f]]))
                    e.store(builder.fadd(total, e.load(address, total.type)), address)
            return target.get_dummy_value()

        return types.void(kind, *[types.int64] * 8), emit

    return product


# of more rows than a vector has lanes there are no blocks
_first_8, _first_4, _first_2, _first_1 = (first_product(min(rows, WIDTH)) for rows in (8, 4, 2, 1))
_second_8, _second_4, _second_2, _second_1 = (second_product(min(rows, WIDTH), DEPTH) for rows in (8, 4, 2, 1))
_last_8, _last_4, _last_2, _last_1 = (second_product(min(rows, WIDTH), 1) for rows in (8, 4, 2, 1))


@compiled()
def combine(theta: AnyArray, pairs: IntArray, y: AnyArray, joint: AnyArray) -> None:
    """Products ``theta Phi`` into ``joint`` (rows, n), a block of rows, from ``y`` (1 + d, n): ones and coordinates.

    All are of the same precision.
    """
    rows, n = joint.shape
    size, stride = theta.size // rows, joint.strides[0]
    a, b, c, e = theta.ctypes.data, pairs.ctypes.data, y.ctypes.data, joint.ctypes.data
    if rows == 8:
        _first_8(theta, a, b, size, c, e, stride, n)
    elif rows == 4:
        _first_4(theta, a, b, size, c, e, stride, n)
    elif rows == 2:
        _first_2(theta, a, b, size, c, e, stride, n)
    else:
        _first_1(theta, a, b, size, c, e, stride, n)


@compiled()
def add_moments(joint: AnyArray, pairs: IntArray, y: AnyArray, sums: FloatArray) -> None:
    """Add ``R Phi'`` to ``sums``, laid out feature by feature, from ``joint`` (rows, n), a block of rows, and ``y``.

    These two are of the same precision.
    """
    rows, n = joint.shape
    size, stride = sums.size // rows, joint.strides[0]
    whole = size // DEPTH * DEPTH
    a, b, c, e = joint.ctypes.data, pairs.ctypes.data, y.ctypes.data, sums.ctypes.data
    if rows == 8:
        _second_8(joint, a, b, 0, whole, c, e, stride, n)
        _last_8(joint, a, b, whole, size, c, e, stride, n)
    elif rows == 4:
        _second_4(joint, a, b, 0, whole, c, e, stride, n)
        _last_4(joint, a, b, whole, size, c, e, stride, n)
    elif rows == 2:
        _second_2(joint, a, b, 0, whole, c, e, stride, n)
        _last_2(joint, a, b, whole, size, c, e, stride, n)
    else:
        _second_1(joint, a, b, 0, whole, c, e, stride, n)
        _last_1(joint, a, b, whole, size, c, e, stride, n)
