"""Products of matrices by BLAS, for compiled functions: NumPy's there take memory, and are long to compile."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from dgmm.estep.vectors import INT64, SINGLE, Emitter, emitted

CHARACTER, ADDRESS = ir.IntType(8), ir.IntType(8).as_pointer()
#: Of `numba_xxgemm`: the precision, whether factors are transposed, three sizes, and factors and result with the
#: lengths of their lines.
GEMM = ir.FunctionType(
    ir.IntType(32),
    [*[CHARACTER] * 3, *[INT64] * 3, ADDRESS, ADDRESS, INT64, ADDRESS, INT64, ADDRESS, ADDRESS, INT64],
)


@emitted
def multiply(
    b: Any, numbers: Any, left: Any, first: Any, right: Any, second: Any, out: Any, place: Any, n: Any, inner: Any,
    m: Any, left_turned: Any, right_turned: Any, added: Any,
) -> None:  # fmt: skip
    """A product (n, m) of matrices (n, inner) and (inner, m), row by row in flat memory, all of one precision.

    The factors begin at ``first`` of ``left`` and at ``second`` of ``right``, and are column by column where
    ``turned``; the product goes to ``out``, from ``place`` on, in the place of what is there, or is ``added`` to it.
    """
    e = Emitter(b, single=numbers[0] == SINGLE)

    def at(array: Any, start: Any) -> Any:
        return b.inttoptr(e.at(array, e.times(start, e.size)), ADDRESS)

    def chosen(condition: Any, yes: Any, no: Any) -> Any:
        return b.select(b.icmp_signed("!=", condition, e.number(0)), yes, no)

    def letter(name: str) -> Any:
        return ir.Constant(CHARACTER, ord(name))

    def held(value: Any) -> Any:
        return b.bitcast(cgutils.alloca_once_value(b, value), ADDRESS)

    one, zero = ir.Constant(e.type, 1.0), ir.Constant(e.type, 0.0)
    gemm = cgutils.get_or_insert_function(b.module, GEMM, "numba_xxgemm")
    # BLAS counts column by column: what is row by row is a transpose to it, and so is the product
    b.call(gemm, [
        letter("s" if e.type == SINGLE else "d"),
        chosen(right_turned, letter("t"), letter("n")), chosen(left_turned, letter("t"), letter("n")), m, n, inner,
        held(one), at(right, second), chosen(right_turned, inner, m),
        at(left, first), chosen(left_turned, n, inner),
        held(chosen(added, one, zero)), at(out, place), m,
    ])  # fmt: skip
