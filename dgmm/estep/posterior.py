"""Exponentials and sums over components in vectors: what a slice's responsibilities take."""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from dgmm.estep.vectors import DEPTH, DOUBLE, INT64, SIZE, WIDTH, Emitter, emitted

LOG2_E = 1.4426950408889634
#: log 2 in two parts, the first with trailing zeros, so that k log 2 is exact (Cody and Waite 1980).
LN2_HIGH, LN2_LOW = 6.93145751953125e-1, 1.42860682030941723212e-6
#: Below this a responsibility is zero: exp would leave the normal range.
LOWEST = -700.0
#: Added to a number it leaves the nearest integer in the last bits.
ROUNDING = 1.5 * 2.0**52
#: Steps from a power of two to the next whose powers are looked up, and the degree of the polynomial for the rest: the
#: table is one instruction where two vectors hold sixteen numbers.
STEPS, DEGREE = (16, 7) if WIDTH == 8 else (1, 12)


def exponential(e: Emitter, z: Any) -> Any:
    """The exponential of numbers of at most zero, to one unit in the last place; zero below `LOWEST`.

    A Taylor polynomial, below 1e-16 on what is left of a multiple of log(2) / `STEPS`, times a power of two put
    together from bits and, between powers of two, from a table.
    """
    b, lowest = e.b, e.constant(LOWEST)
    z = b.select(b.fcmp_ordered(">", lowest, z), lowest, z)
    rounded = e.fma(z, e.constant(LOG2_E * STEPS), e.constant(ROUNDING))
    times, bits = b.fsub(rounded, e.constant(ROUNDING)), b.bitcast(rounded, e.integers)
    r = e.fma(times, e.constant(-LN2_HIGH / STEPS), z)
    r = e.fma(times, e.constant(-LN2_LOW / STEPS), r)
    p = e.constant(1 / math.factorial(DEGREE))
    for j in range(DEGREE - 1, 0, -1):
        p = e.fma(p, r, e.constant(1 / math.factorial(j)))
    if STEPS == 1:
        power = b.bitcast(b.shl(b.add(bits, e.constant(1023)), e.constant(52)), e.vector)
    else:
        halves = [ir.Constant(e.vector, [2 ** (j / STEPS) for j in range(i, i + WIDTH)]) for i in (0, WIDTH)]
        kind = ir.FunctionType(e.vector, [e.vector, e.integers, e.vector])
        look_up = cgutils.get_or_insert_function(b.module, kind, "llvm.x86.avx512.vpermi2var.pd.512")
        fraction = b.bitcast(b.call(look_up, [halves[0], bits, halves[1]]), e.integers)
        exponent = b.shl(b.and_(bits, e.constant(-STEPS)), e.constant(52 - int(math.log2(STEPS))))
        power = b.bitcast(b.add(fraction, exponent), e.vector)
    value = e.fma(b.fmul(power, r), p, power)
    # what is no number stays none
    return b.select(b.fcmp_unordered(">", z, lowest), value, e.constant(0.0))


@emitted
def exponentials(
    b: Any, numbers: Any, joint: Any, first: Any, rows: Any, n: Any, filled: Any, top: Any, total: Any
) -> None:
    """Turn rows, from ``first`` on, into ``exp(joint - top)``; ``top`` gets their maximum and ``total`` the sum.

    Rows are ``filled`` long, a multiple of `STEP`; beyond n there is one in the first and zeros in the others.
    """
    e = Emitter(b)
    joint, stride = e.at(joint, e.times(first, SIZE)), e.times(filled, SIZE)
    with cgutils.for_range_slice(b, n, filled, e.number(1), intp=INT64) as (i, _):
        here = e.at(joint, e.times(i, SIZE))
        with cgutils.for_range(b, rows, intp=INT64) as loop:
            e.store(ir.Constant(DOUBLE, -math.inf), e.at(here, e.times(loop.index, stride)))
        e.store(ir.Constant(DOUBLE, 0.0), here)
    (tops, totals), vectors = e.sums(2, DEPTH), [e.number(SIZE * WIDTH * v) for v in range(DEPTH)]
    step = e.number(WIDTH * DEPTH)
    with cgutils.for_range_slice(b, e.number(0), filled, step, intp=INT64) as (i, _):
        here = e.times(i, SIZE)
        line = e.at(joint, here)
        for v, place in zip(vectors, tops, strict=True):
            b.store(e.load(e.at(line, v)), place)
        with cgutils.for_range(b, rows, intp=INT64) as loop:
            line = e.at(joint, here, e.times(loop.index, stride))
            for v, place in zip(vectors, tops, strict=True):
                value, most = e.load(e.at(line, v)), b.load(place)
                b.store(b.select(b.fcmp_ordered(">", value, most), value, most), place)
        e.clear([totals])
        with cgutils.for_range(b, rows, intp=INT64) as loop:
            line = e.at(joint, here, e.times(loop.index, stride))
            for v, most, place in zip(vectors, tops, totals, strict=True):
                value = exponential(e, b.fsub(e.load(e.at(line, v)), b.load(most)))
                b.store(b.fadd(b.load(place), value), place)
                e.store(value, e.at(line, v))
        for v, most, place in zip(vectors, tops, totals, strict=True):
            e.store(b.load(most), e.at(top, here, v))
            e.store(b.load(place), e.at(total, here, v))


@emitted
def divide(
    b: Any, numbers: Any, joint: Any, first: Any, rows: Any, filled: Any, top: Any, total: Any, start: Any, stop: Any,
    found: Any,
) -> None:  # fmt: skip
    """Divide rows, from ``first`` on and ``filled`` long, by ``total``, from a sample to another, multiples of `STEP`.

    ``found`` gets, lane by lane, the sums of ``top`` and the products of ``total``.
    """
    e = Emitter(b)
    joint, stride = e.at(joint, e.times(first, SIZE)), e.times(filled, SIZE)
    ((log, product),), one = e.sums(1, 2), e.constant(1.0)
    e.clear([[log]])
    b.store(one, product)
    with cgutils.for_range_slice(b, start, stop, e.number(WIDTH), intp=INT64) as (i, _):
        here = e.times(i, SIZE)
        sums = e.load(e.at(total, here))
        b.store(b.fadd(b.load(log), e.load(e.at(top, here))), log)
        b.store(b.fmul(b.load(product), sums), product)
        factor = b.fdiv(one, sums)
        with cgutils.for_range(b, rows, intp=INT64) as loop:
            line = e.at(joint, here, e.times(loop.index, stride))
            e.store(b.fmul(e.load(line), factor), line)
    for k, place in enumerate((log, product)):
        e.store(b.load(place), e.at(found, e.number(k * SIZE * WIDTH)))
