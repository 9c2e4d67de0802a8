"""Coordinates and features of a slice of samples: loops that the compiler vectorises."""

from __future__ import annotations

import numpy as np

from dgmm.estep.columns import centre_double, centre_single
from dgmm.estep.jit import CONTRACT, compiled
from dgmm.estep.posterior import LN2_HIGH, LN2_LOW
from dgmm.estep.registers import block_size, combine
from dgmm.estep.vectors import LANES
from dgmm.types import AnyArray, FloatArray, IntArray

#: The chains of features that are known, and what each is besides 1 and y: powers and products, or logarithms.
PRODUCTS, LOGARITHMS = range(2)
#: What is taken the logarithm of is no smaller, for the sake of values that cannot be.
LEAST = 1e-300


@compiled(fastmath=CONTRACT)
def transform(
    x: AnyArray, start: int, n: int, origin: FloatArray, shift: FloatArray, forward: FloatArray, diagonal: bool,
    pairs: IntArray, centred: FloatArray, y: FloatArray,
) -> None:  # fmt: skip
    """Coordinates ``forward (x - origin - shift)`` of the n rows from ``start`` on, below ones, into ``y`` (1 + d, n).

    ``forward`` is lower triangular, laid out as `by_column` has it. Where ``y`` has room for more samples, it gets some
    finite coordinates. ``centred`` is memory like ``y``, but for as many features as fill vectors.
    """
    d = x.shape[1]
    y[0] = 1.0
    centred[0] = 1.0
    if LANES:
        a, b, c, e = x[start:].ctypes.data, origin.ctypes.data, shift.ctypes.data, centred[1:].ctypes.data
        if x.itemsize == 8:
            centre_double(a, b, c, e, d, n, y.strides[0], y.shape[1])
        else:
            centre_single(a, b, c, e, d, n, y.strides[0], y.shape[1])
    else:
        for j in range(d):
            line, zero, by = centred[1 + j], origin[j], shift[j]
            for i in range(n):
                line[i] = (x[start + i, j] - zero) - by
            line[n:] = 0.0
    a = 0
    while a < d:
        size = block_size(d - a)
        block = forward[a * d : (a + size) * d]
        if diagonal:
            for k in range(size):
                line, factor, source = y[1 + a + k], block[(a + k) * size + k], centred[1 + a + k]
                for i in range(len(line)):
                    line[i] = factor * source[i]
        elif LANES:
            combine(block[: (a + size) * size], pairs[1:], centred, y[1 + a : 1 + a + size])
        else:
            line = y[1 + a]
            line[:] = 0.0
            for b in range(a + 1):
                factor, source = block[b], centred[1 + b]
                for i in range(len(line)):
                    line[i] += factor * source[i]
        a += size


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
