"""Coordinates and features of a slice of samples: loops that the compiler vectorises."""

from __future__ import annotations

from dgmm.estep.columns import centre, put_ones, scale
from dgmm.estep.jit import CONTRACT, compiled, inlined
from dgmm.estep.posterior import LN2_HIGH, LN2_LOW
from dgmm.estep.registers import block_size, combine
from dgmm.estep.vectors import LANES, bits_of, number_of
from dgmm.types import AnyArray, FloatArray, IntArray

#: The chains of features that are known, and what each is besides 1 and y: powers and products, or logarithms.
PRODUCTS, LOGARITHMS = range(2)
#: What is taken the logarithm of is no smaller, for the sake of values that cannot be.
LEAST = 1e-300


@inlined
def transform(
    x: AnyArray, start: int, n: int, filled: int, origins: FloatArray, shifts: FloatArray, forwards: FloatArray,
    diagonals: AnyArray, stack: int, pairs: IntArray, centred: FloatArray, y: FloatArray,
) -> None:  # fmt: skip
    """Coordinates of a stack, ``forward (x - origin - shift)`` of the n rows from ``start`` on, below ones, into ``y``.

    Of each stack that has 1 + d columns, ``filled`` long, which get some finite coordinates beyond n. ``forwards`` are
    lower triangular, as `forward_of` has them. ``centred`` is memory for ones and as many columns as fill vectors.
    """
    d = x.shape[1]
    first, at = stack * (1 + d) * filled, stack * d * d
    if LANES:
        centre(x, start, n, origins, shifts, stack * d, centred, d, filled)
        put_ones(y, first, filled)
    else:
        y[first : first + filled] = 1.0
        for j in range(d):
            line, zero, by = centred[(1 + j) * filled : (2 + j) * filled], origins[stack, j], shifts[stack, j]
            for i in range(n):
                line[i] = (x[start + i, j] - zero) - by
            line[n:] = 0.0
    if LANES and diagonals[stack]:
        scale(forwards, at, centred, d, y, first + filled, filled)
        return
    a = 0
    while a < d:
        rows, place = block_size(d - a), first + (1 + a) * filled
        if LANES:
            combine(forwards, at + a * d, rows, pairs, 1, a + rows, centred, 0, y, place, filled)
        else:
            line = y[place : place + filled]
            line[:] = 0.0
            for b in range(a if diagonals[stack] else 0, a + 1):
                factor = forwards[stack, a if diagonals[stack] else a * d + b]
                source = centred[(1 + b) * filled : (2 + b) * filled]
                for i in range(filled):
                    line[i] += factor * source[i]
        a += rows


@compiled(called=False, fastmath=CONTRACT)
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
def logarithms(x: FloatArray, n: int, out: AnyArray) -> None:
    """Logarithms of ``x``, below two units in the last place: of two to a power, and of what that leaves.

    What is left, between the roots of 1/2 and 2, is ``2 artanh s`` with ``s = (m - 1) / (m + 1)``, a series in the
    square of s. Powers and what they leave are taken apart and put together as bits.
    """
    for i in range(n):
        bits = bits_of(LEAST if x[i] < LEAST else x[i])
        # 1023 more than the power, counted from the root of 1/2
        e = (bits - 0x3FE6A09E667F3BCD + (1023 << 52)) >> 52
        m = number_of(bits - ((e - 1023) << 52))
        s = (m - 1.0) / (m + 1.0)
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
        times = number_of(e | 0x4330000000000000) - 4503599627371519.0
        out[i] = times * LN2_HIGH + (2.0 * s + (2.0 * s * z * p + times * LN2_LOW))


@compiled(called=False)
def fill_chain(chain: int, y: FloatArray, n: int, first: int, last: int, phi: AnyArray) -> None:
    """Features ``first`` to ``last`` of a chain into the first rows of ``phi``."""
    if chain == LOGARITHMS:
        d = len(y)
        fill(y, n, first, min(last, d + 1), phi)
        for row in range(max(first, d + 1), last):
            logarithms(y[row - d - 1], n, phi[row - first])
    else:
        fill(y, n, first, last, phi)
