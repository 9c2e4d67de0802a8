"""Rows of samples turned into columns, in vectors."""

from __future__ import annotations

from typing import Any

from numba.core import cgutils, types

from dgmm.estep.vectors import DOUBLE, INT64, SINGLE, SIZE, WIDTH, Emitter, emitted, interleaved


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


def centring(number: Any) -> Any:
    """Samples of a type of number, less an origin and a shift, feature by feature.

    Returns a function of addresses: the first row, the origin, the shift and the columns; the numbers of features and
    of rows; bytes from a column to the next; and rows to fill, a multiple of `STEP`, with copies of the last if there
    are fewer. Columns are filled in groups of `WIDTH`, with anything beyond the last.
    """

    @emitted
    def centre(
        context: Any, x: Any, origin: Any, shift: Any, out: Any, d: Any, n: Any, stride: Any, filled: Any
    ) -> tuple[Any, Any]:
        def emit(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, origin, shift, out, d, n, stride, filled = arguments
            e = Emitter(builder)
            size = SIZE if number == DOUBLE else 4
            row_bytes, last = e.times(d, size), builder.sub(n, e.number(1))
            width = e.number(WIDTH)
            with cgutils.for_range_slice(builder, e.number(0), d, width, intp=INT64) as (j, _):
                inside = builder.icmp_signed("<", e.constant(list(range(WIDTH))), e.everywhere(builder.sub(d, j)))
                zero, by = (e.masked(e.at(a, e.times(j, SIZE)), inside, DOUBLE) for a in (origin, shift))
                place = e.at(out, e.times(j, stride))
                with cgutils.for_range_slice(builder, e.number(0), filled, width, intp=INT64) as (i, _):
                    lines = []
                    for k in range(WIDTH):
                        row = e.at(i, e.number(k))
                        row = builder.select(builder.icmp_signed("<", row, last), row, last)
                        line = e.masked(e.at(x, e.times(row, row_bytes), e.times(j, size)), inside, number)
                        line = line if number == DOUBLE else builder.fpext(line, e.vector)
                        lines.append(builder.fsub(builder.fsub(line, zero), by))
                    for k, line in enumerate(transposed(e, lines)):
                        e.store(line, e.at(place, e.times(stride, k), e.times(i, SIZE)))
            return target.get_dummy_value()

        return types.void(*[types.int64] * 8), emit

    return centre


centre_double, centre_single = centring(DOUBLE), centring(SINGLE)
