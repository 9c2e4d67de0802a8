"""Rows of samples turned into columns, in vectors."""

from __future__ import annotations

from typing import Any

from numba.core import cgutils

from dgmm.estep.vectors import DOUBLE, INT64, SIZE, WIDTH, Emitter, emitted, interleaved


def transposed(e: Emitter, lines: list[Any]) -> list[Any]:
    """A square of vectors with its rows and columns exchanged."""
    group = 1
    while group < WIDTH:
        low, high = interleaved(WIDTH, group)
        found = list(lines)
        for i in range(WIDTH):
            if not i & group:
                a, b = lines[i], lines[i + group]
                found[i], found[i + group] = e.shuffled(a, b, low), e.shuffled(a, b, high)
        lines, group = found, 2 * group
    return lines


@emitted
def centre(
    b: Any, numbers: Any, x: Any, start: Any, n: Any, origins: Any, shifts: Any, first: Any, centred: Any, d: Any,
    filled: Any,
) -> None:  # fmt: skip
    """Fill columns with the n rows of ``x`` from ``start`` on, less an origin and a shift, feature by feature.

    ``first`` is the place of the origin and of the shift, ``filled`` the length of a column, a multiple of `STEP`: the
    last row fills them up. Columns are filled in groups of `WIDTH`, with anything beyond the last, from the second one
    on; the first gets ones.
    """
    e, number = Emitter(b), numbers[0]
    size = SIZE if number == DOUBLE else SIZE // 2
    row_bytes, last, stride = e.times(d, size), b.sub(n, e.number(1)), e.times(filled, SIZE)
    x, width = e.at(x, e.times(start, row_bytes)), e.number(WIDTH)
    e.fill_with_ones(centred, filled)
    with cgutils.for_range_slice(b, e.number(0), d, width, intp=INT64) as (j, _):
        inside = b.icmp_signed("<", e.constant(list(range(WIDTH))), e.everywhere(b.sub(d, j)))
        of_feature = e.times(b.add(first, j), SIZE)
        zero, by = (e.masked(e.at(a, of_feature), inside, DOUBLE) for a in (origins, shifts))
        place = e.at(centred, stride, e.times(j, stride))
        with cgutils.for_range_slice(b, e.number(0), filled, width, intp=INT64) as (i, _):
            lines = []
            for k in range(WIDTH):
                row = e.at(i, e.number(k))
                row = b.select(b.icmp_signed("<", row, last), row, last)
                line = e.masked(e.at(x, e.times(row, row_bytes), e.times(j, size)), inside, number)
                line = line if number == DOUBLE else b.fpext(line, e.vector)
                lines.append(b.fsub(b.fsub(line, zero), by))
            for k, line in enumerate(transposed(e, lines)):
                e.store(line, e.at(place, e.times(stride, k), e.times(i, SIZE)))


@emitted
def scale(b: Any, numbers: Any, factors: Any, at: Any, centred: Any, d: Any, y: Any, first: Any, filled: Any) -> None:
    """Fill d columns of ``y``, the first at ``first``, with those after the first of ``centred`` times factors."""
    e = Emitter(b)
    stride = e.times(filled, SIZE)
    y, centred = e.at(y, e.times(first, SIZE)), e.at(centred, stride)
    with cgutils.for_range(b, d, intp=INT64) as loop:
        factor = e.load(e.at(factors, e.times(b.add(at, loop.index), SIZE)), DOUBLE)
        many, line = e.everywhere(factor), e.times(loop.index, stride)
        with cgutils.for_range_slice(b, e.number(0), filled, e.number(WIDTH), intp=INT64) as (i, _):
            here = e.at(line, e.times(i, SIZE))
            e.store(b.fmul(many, e.load(e.at(centred, here))), e.at(y, here))


@emitted
def put_ones(b: Any, numbers: Any, y: Any, first: Any, filled: Any) -> None:
    """Fill the column of ``y`` at ``first`` with ones."""
    e = Emitter(b)
    e.fill_with_ones(e.at(y, e.times(first, SIZE)), filled)


@emitted
def convert(b: Any, numbers: Any, source: Any, place: Any, first: Any, size: Any) -> None:
    """Copy so many numbers, a multiple of `STEP`, from ``first`` on, from one precision to another.

    Of one precision, the two share their memory.
    """
    here, there = numbers
    if here == there:
        return
    e = Emitter(b)
    with cgutils.for_range_slice(b, first, b.add(first, size), e.number(WIDTH), intp=INT64) as (i, _):
        address, to = (
            e.at(a, e.times(i, SIZE if number == DOUBLE else SIZE // 2))
            for a, number in ((source, here), (place, there))
        )
        value = e.load(address, e.vector_of(here))
        cast = b.fpext if there == DOUBLE else b.fptrunc
        e.store(cast(value, e.vector_of(there)), to)
