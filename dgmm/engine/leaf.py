"""What can be asked of the samples in one pass: a leaf is applied to every segment, and its values are merged."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, cast

import numpy as np

from dgmm.data import Grid
from dgmm.engine.tree import Mergeable, Node, grow
from dgmm.rows import Rows

T = TypeVar("T", bound=Mergeable)


class Keepable(Protocol):
    """What a segment was read into, as it may stay in memory."""

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""

    def owned(self) -> Self:
        """The same in memory of its own, no view of anything larger."""


class Prepare(Protocol):
    """What is done to the rows of a segment before a leaf sees them, and once only if they stay in memory."""

    @property
    def copies(self) -> bool:
        """Whether that takes memory beside the rows."""

    def __call__(self, grid: Grid, segment: int, rows: Rows) -> Keepable:
        """What leaves are given for the rows of a segment."""


class Leaf(ABC, Generic[T]):
    """What is asked of every segment.

    Attributes
    ----------
    exact : bool
        Whether values merge without rounding, so that the tree does not matter and a task keeps but one.
    prepare : Prepare or None
        What makes of the rows as they are read what the leaf is given; None for the rows themselves.
    computed_by : tuple of str
        The fields that compute densities: plans, tuples of them, or leaves.
    """

    exact: ClassVar[bool] = False
    prepare: Prepare | None = None
    computed_by: ClassVar[tuple[str, ...]] = ()

    @property
    def lever(self) -> str:
        """What makes its values smaller, as advice; empty if nothing does."""
        return ""

    @abstractmethod
    def __call__(self, segment: int, rows: Any) -> T:
        """The value of one segment."""

    def several(self, first: int, parts: Iterator[Any]) -> T:
        """The value of as many neighbouring segments as a node of the tree has, merged as it has them.

        Parameters
        ----------
        first : int
            The first of them.
        parts : iterator
            What is given of each, none of it held longer than until the next one is asked for.
        """
        stack: list[Node[T]] = []
        for segment, rows in enumerate(parts, first):
            grow(stack, Node(0, segment, self(segment, rows)))
            del rows
        (node,) = stack
        return node.value

    @abstractmethod
    def working_bytes(self, n_rows: int) -> int:
        """Bytes that finding the value of a segment of so many rows takes at most, the rows and the value aside."""

    @abstractmethod
    def result_bytes(self, n_rows: int) -> int:
        """Bytes of the value of so many rows, at most."""

    @contextmanager
    def over(self, run: Sequence[int]) -> Iterator[tuple[Sequence[int], Callable[[int, Any], T]]]:
        """Context of one task: which segments of its run are read, at least one, and what is called for each."""
        yield run, self

    def on(self, device: str) -> Self:
        """The same for workers that compute on a device (`dgmm.devices`); itself, where nothing is computed there."""
        if not self.computed_by:
            return self

        def moved(value: Any) -> Any:
            return tuple(map(moved, value)) if isinstance(value, tuple) else value.on(device)

        its = {name: moved(getattr(self, name)) for name in self.computed_by}
        return cast(Self, replace(cast(Any, self), **its))

    def about(self) -> Any:
        """What a journal keeps beside the value, for those who go on from it without repeating all; None if nothing."""
        return None

    def key(self) -> str:
        """A digest of what is asked: the same in every process, another for every other question."""
        return digest(self)


class PlanLeaf(Leaf[T]):
    """A leaf that computes densities by a plan of its own."""

    computed_by: ClassVar[tuple[str, ...]] = ("plan",)


def digest(value: Any) -> str:
    """SHA-256 of a value made of dataclasses, containers, arrays, functions, numbers and text, in hexadecimal.

    A value that has a ``digest`` of its own is taken by that. Fields of dataclasses that take no part in comparisons
    are left out.

    Raises
    ------
    TypeError
        If there is something else in it.
    """
    found = hashlib.sha256()
    _feed(value, found.update)
    return found.hexdigest()


def _feed(value: Any, update: Callable[[bytes], None]) -> None:
    """Feed a hash with a value, so that no two different ones feed the same."""
    named = getattr(value, "digest", None)
    if isinstance(named, str):
        update(f"{type(value).__module__}.{type(value).__qualname__} {named} ".encode())
    elif isinstance(value, np.ndarray):
        update(f"array {value.dtype.str} {value.shape} ".encode())
        update(np.ascontiguousarray(value).tobytes())
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value) if field.compare}
        update(f"{type(value).__module__}.{type(value).__qualname__} ".encode())
        _feed(parts, update)
    elif isinstance(value, dict):
        update(f"dict {len(value)} ".encode())
        for name, part in value.items():
            _feed(name, update)
            _feed(part, update)
    elif isinstance(value, (tuple, list)):
        update(f"sequence {len(value)} ".encode())
        for part in value:
            _feed(part, update)
    elif isinstance(value, slice):
        _feed(("slice", value.start, value.stop, value.step), update)
    elif isinstance(value, np.dtype):
        _feed(("dtype", value.str), update)
    elif isinstance(value, str):
        update(f"str {len(value.encode())} ".encode())
        update(value.encode())
    elif isinstance(value, (bool, int, float, np.number)) or value is None:
        update(f"{type(value).__name__} {value!r} ".encode())
    elif callable(value):
        update(f"function {value.__module__}.{value.__qualname__} ".encode())
    else:
        raise TypeError(f"no digest of a {type(value).__name__}")
