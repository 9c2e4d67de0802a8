"""Rows of samples with what is known of each, and the parts into which those of a segment are divided."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from dgmm.types import AnyArray, FloatArray, IntArray


@dataclass(frozen=True)
class Rows:
    """Samples one after the other.

    Attributes
    ----------
    x : ndarray, shape (n, d)
    weights : ndarray, shape (n,), or None
        None where every sample counts the same.
    labels : ndarray of int, shape (n,), or None
        The component that a sample is known to be of, below zero where it is not; None where no sample is.
    groups : ndarray of int, shape (n,), or None
        Numbers of what samples belong together in, such as a block of the grid; None where nobody asks.
    """

    x: AnyArray
    weights: FloatArray | None = None
    labels: IntArray | None = None
    groups: IntArray | None = None

    def __len__(self) -> int:
        """Number of samples n."""
        return len(self.x)

    def __getitem__(self, chosen: Any) -> Rows:
        """Some of the samples, by a slice, a mask or indices."""
        return self._with(lambda column: column[chosen])

    def _with(self, change: Callable[[AnyArray], AnyArray]) -> Rows:
        """With every column changed that is there."""
        return Rows(change(self.x), *(None if c is None else change(c) for c in self._known))

    @property
    def _known(self) -> tuple[AnyArray | None, ...]:
        """What is known of each sample."""
        return self.weights, self.labels, self.groups

    @property
    def nbytes(self) -> int:
        """Bytes of the samples and what is known of them."""
        return sum(column.nbytes for column in (self.x, *self._known) if column is not None)

    def owned(self) -> Rows:
        """The same in memory of their own, no view of anything larger."""
        return self._with(_owned)

    def merge(self, other: Rows, chosen: AnyArray | None = None) -> Rows:
        """Of both; ``other`` comes after. All of them, or those that a mask over both says."""
        known = (
            None if a is None or b is None else _both(a, b, chosen)
            for a, b in zip(self._known, other._known, strict=True)
        )
        return Rows(_both(self.x, other.x, chosen), *known)

    @property
    def every_weight(self) -> FloatArray:
        """The weights, shape (n,); ones where all samples count the same."""
        return np.ones(len(self)) if self.weights is None else self.weights

    @property
    def count(self) -> float:
        """Sum of the weights."""
        return float(len(self.x)) if self.weights is None else float(self.weights.sum())


class Role(StrEnum):
    """What some of the rows are there for."""

    #: The mixture is fitted to them.
    FIT = "fit"
    #: No fit sees them: how probable they are says how good it is.
    JUDGE = "judge"


@dataclass(frozen=True)
class Parts:
    """The complete rows of a segment, by their role.

    Attributes
    ----------
    rows : mapping of Role to Rows
    """

    rows: Mapping[Role, Rows]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return sum(rows.nbytes for rows in self.rows.values())

    def owned(self) -> Parts:
        """The same in memory of its own, no view of anything larger."""
        return Parts({role: rows.owned() for role, rows in self.rows.items()})


def _owned(array: AnyArray) -> AnyArray:
    owner: Any = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return array if owner.base is None and owner.nbytes <= array.nbytes else array.copy()


def _both(a: AnyArray, b: AnyArray, chosen: AnyArray | None) -> AnyArray:
    """Two arrays one after the other, or what a mask over both says of them; no more is copied than that."""
    if chosen is None:
        return np.concatenate([a, b])
    parts = [(part, np.flatnonzero(of_it)) for part, of_it in zip((a, b), np.split(chosen, [len(a)]), strict=True)]
    found: AnyArray = np.empty((sum(len(i) for _, i in parts), *a.shape[1:]), dtype=np.result_type(a, b))
    places = np.split(found, [len(parts[0][1])])
    for (part, i), place in zip(parts, places, strict=True):
        # with mode="raise", what is taken would be a copy before it gets there
        np.take(part, i, axis=0, out=place, mode="clip")
    return found
