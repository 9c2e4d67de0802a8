"""Instructions on vectors of doubles, for functions of which the compiler would make less."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, config, types
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

from dgmm.estep.jit import both


def widest_vector() -> int:
    """Doubles in a vector of the processor that Numba compiles for; 0 where none is known to serve."""
    told = config.CPU_FEATURES  # type: ignore[attr-defined]
    features = set((get_host_cpu_features() if told is None else told).split(","))
    if "+fma" not in features:
        return 0
    return 8 if "+avx512f" in features else 4 if "+avx2" in features else 0


#: Doubles in a vector; none: loops and products of BLAS do without.
LANES = widest_vector()
#: What vectors are compiled for: where there are none, nobody calls them.
WIDTH = LANES or 2
#: Vectors of samples, or features, that a block of sums takes.
DEPTH = 3
#: Samples of a slice are filled up to a multiple of this, with finite coordinates and responsibilities of zero.
STEP = 48
DOUBLE, SINGLE, INT64 = ir.DoubleType(), ir.FloatType(), ir.IntType(64)
#: Bytes of a double.
SIZE = 8


@both
def padded(n: int) -> int:
    """Samples of a slice with those that fill it up."""
    return -(-n // STEP) * STEP


def emitted(function: Callable[..., None]) -> Any:
    """A function of compiled code whose instructions are given: a routine for each precision in which it is called.

    Parameters
    ----------
    function : callable
        Emits the instructions with a builder; gets the types of the numbers in arrays, those of other arguments aside,
        and the arguments: addresses of the arrays' first numbers, and integers.
    """
    parameters = list(inspect.signature(function).parameters.values())[1:]

    def typed(context: Any, *kinds: Any) -> tuple[Any, Any]:
        taken = [kind if isinstance(kind, types.Array) else types.int64 for kind in kinds]

        def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            arrays = [isinstance(kind, types.Array) for kind in taken]
            numbers = [target.get_data_type(kind.dtype) for kind in taken if isinstance(kind, types.Array)]
            values = [
                builder.ptrtoint(target.make_array(kind)(target, builder, value).data, INT64) if array else value
                for kind, value, array in zip(taken, arguments, arrays, strict=True)
            ]
            name = ".".join([function.__module__, function.__qualname__, *map(str, numbers)])
            routine = builder.module.globals.get(name)
            if routine is None:
                kind = ir.FunctionType(ir.VoidType(), [INT64] * len(values))
                routine = ir.Function(builder.module, kind, name)
                routine.linkage = "internal"
                inside = ir.IRBuilder(routine.append_basic_block())
                function(inside, numbers, *routine.args)
                inside.ret_void()
            builder.call(routine, values)
            return target.get_dummy_value()

        return types.void(*taken), generate

    typed.__name__ = typed.__qualname__ = function.__name__
    typed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return intrinsic(typed)


def taken_as(signature: Any, kind: Any) -> Any:
    """A function of a number that takes its bits as those of another kind."""

    def typed(context: Any, number: Any) -> tuple[Any, Any]:
        return signature, lambda _, builder, its_types, values: builder.bitcast(values[0], kind)

    return intrinsic(typed)


#: The bits of a double as an integer, and the double of such bits.
bits_of, number_of = taken_as(types.int64(types.float64), INT64), taken_as(types.float64(types.int64), DOUBLE)


def interleaved(width: int, group: int) -> tuple[list[int], list[int]]:
    """Lanes of two vectors one after the other: every second group of both, in turn, and the groups between."""
    low = [i + j + k for i in range(0, width, 2 * group) for j in (0, width) for k in range(group)]
    return low, [i + group for i in low]


class Emitter:
    """Instructions on vectors, of numbers at addresses, in double precision or in single."""

    def __init__(self, builder: Any, *, single: bool = False) -> None:
        self.b, self.lanes = builder, 2 * WIDTH if single else WIDTH
        self.type, self.size = (SINGLE, SIZE // 2) if single else (DOUBLE, SIZE)
        self.vector, self.integers = ir.VectorType(self.type, self.lanes), ir.VectorType(INT64, self.lanes)
        self._fma = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(self.vector, [self.vector] * 3),
            f"llvm.fma.v{self.lanes}f{8 * self.size}",
        )

    def number(self, value: int) -> Any:
        """An integer."""
        return ir.Constant(INT64, value)

    def at(self, base: Any, *offsets: Any) -> Any:
        """An address so many bytes further."""
        for offset in offsets:
            base = self.b.add(base, offset)
        return base

    def times(self, a: Any, b: Any) -> Any:
        """A product of integers."""
        return self.b.mul(a, self.number(b) if isinstance(b, int) else b)

    def load(self, address: Any, kind: Any = None) -> Any:
        """What lies at an address: a vector if nothing else is said."""
        pointer = self.b.inttoptr(address, (kind or self.vector).as_pointer())
        return self.b.load(pointer, align=4)

    def store(self, value: Any, address: Any) -> None:
        """Put a value at an address."""
        self.b.store(value, self.b.inttoptr(address, value.type.as_pointer()), align=4)

    def vector_of(self, number: Any) -> Any:
        """As many numbers of some type as a vector has."""
        return ir.VectorType(number, self.lanes)

    def fill_with_ones(self, place: Any, n: Any) -> None:
        """Put so many ones, a multiple of `STEP`, at an address."""
        with cgutils.for_range_slice(self.b, self.number(0), n, self.number(self.lanes), intp=INT64) as (i, _):
            self.store(self.constant(1.0), self.at(place, self.times(i, self.size)))

    def sums(self, *shape: int) -> list[list[Any]]:
        """Places for vectors, which become registers."""
        return [[cgutils.alloca_once(self.b, self.vector) for _ in range(shape[1])] for _ in range(shape[0])]

    def clear(self, sums: list[list[Any]]) -> None:
        """Set sums to zero."""
        for line in sums:
            for place in line:
                self.b.store(ir.Constant(self.vector, None), place)

    def constant(self, values: Any) -> Any:
        """A vector of one number, or of a list of integers."""
        if isinstance(values, list):
            return ir.Constant(self.integers, values)
        return ir.Constant(self.integers if isinstance(values, int) else self.vector, [values] * self.lanes)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """``a b + c``, rounded once."""
        return self.b.call(self._fma, [a, b, c])

    def masked(self, address: Any, inside: Any, number: Any) -> Any:
        """A vector of a type of number of which only some lanes lie in memory, with zeros in the others."""
        kind, width = ir.VectorType(number, self.lanes), 64 if number == DOUBLE else 32
        arguments = [ir.PointerType(), ir.IntType(32), inside.type, kind]
        load = cgutils.get_or_insert_function(
            self.b.module, ir.FunctionType(kind, arguments), f"llvm.masked.load.v{self.lanes}f{width}.p0"
        )
        pointer = self.b.inttoptr(address, ir.PointerType())
        return self.b.call(load, [pointer, ir.Constant(ir.IntType(32), 4), inside, ir.Constant(kind, None)])

    def add_product(self, a: Any, b: Any, place: Any) -> None:
        """Add ``a b`` to a sum, rounded once."""
        self.b.store(self.fma(a, b, self.b.load(place)), place)

    def everywhere(self, value: Any) -> Any:
        """A vector of one number, or integer."""
        nothing = ir.Constant(ir.VectorType(value.type, self.lanes), ir.Undefined)
        first = self.b.insert_element(nothing, value, ir.Constant(ir.IntType(32), 0))
        return self.shuffled(first, None, [0] * self.lanes)

    def shuffled(self, a: Any, b: Any, lanes: Sequence[int]) -> Any:
        """Chosen lanes of two vectors, one after the other."""
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
        return self.b.shuffle_vector(a, ir.Constant(a.type, ir.Undefined) if b is None else b, mask)

    def in_double(self, value: Any) -> Any:
        """A vector, or a number, in double precision."""
        if self.type == DOUBLE:
            return value
        wide = ir.VectorType(DOUBLE, value.type.count) if isinstance(value.type, ir.VectorType) else DOUBLE
        return self.b.fpext(value, wide)

    def added_up(self, vectors: list[Any]) -> Any:
        """The sum of the lanes of each of so many vectors, a power of two: one vector, or a number if it is one."""
        width = self.lanes
        while width > len(vectors):
            width //= 2
            low, high = list(range(width)), list(range(width, 2 * width))
            vectors = [self.b.fadd(self.shuffled(v, None, low), self.shuffled(v, None, high)) for v in vectors]
        group = 1
        while len(vectors) > 1:
            low, high = interleaved(width, group)
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [self.b.fadd(self.shuffled(v, w, low), self.shuffled(v, w, high)) for v, w in pairs]
            group *= 2
        if width == 1:
            return self.b.extract_element(vectors[0], ir.Constant(ir.IntType(32), 0))
        return vectors[0]
