"""Products of matrices by BLAS, for compiled functions: NumPy's there take memory, and are long to compile."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from dgmm.estep.vectors import INT64, SINGLE, SIZE, emitted

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
    number = numbers[0]
    size = SIZE // 2 if number == SINGLE else SIZE

    def at(array: Any, start: Any) -> Any:
        return b.inttoptr(b.add(array, b.mul(start, ir.Constant(INT64, size))), ADDRESS)

    def chosen(condition: Any, yes: Any, no: Any) -> Any:
        return b.select(b.icmp_signed("!=", condition, ir.Constant(INT64, 0)), yes, no)

    def letter(name: str) -> Any:
        return ir.Constant(CHARACTER, ord(name))

    def factor(value: Any) -> Any:
        return b.bitcast(cgutils.alloca_once_value(b, value), ADDRESS)

    gemm = cgutils.get_or_insert_function(b.module, GEMM, "numba_xxgemm")
    # BLAS counts column by column: what is row by row is a transpose to it, and so is the product
    b.call(gemm, [
        letter("s" if number == SINGLE else "d"),
        chosen(right_turned, letter("t"), letter("n")), chosen(left_turned, letter("t"), letter("n")), m, n, inner,
        factor(ir.Constant(number, 1.0)), at(right, second), chosen(right_turned, inner, m),
        at(left, first), chosen(left_turned, n, inner),
        factor(chosen(added, ir.Constant(number, 1.0), ir.Constant(number, 0.0))), at(out, place), m,
    ])  # fmt: skip
