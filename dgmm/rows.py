"""Rows of samples with their weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dgmm.types import AnyArray, FloatArray


@dataclass(frozen=True)
class Rows:
    """Samples one after the other.

    Attributes
    ----------
    x : ndarray, shape (n, d)
    weights : ndarray, shape (n,), or None
        None where every sample counts the same.
    """

    x: AnyArray
    weights: FloatArray | None = None

    def __len__(self) -> int:
        """Number of samples n."""
        return len(self.x)

    def __getitem__(self, chosen: Any) -> Rows:
        """Some of the samples, by a slice, a mask or indices."""
        return Rows(self.x[chosen], None if self.weights is None else self.weights[chosen])

    @property
    def nbytes(self) -> int:
        """Bytes of the samples and weights."""
        return self.x.nbytes + (0 if self.weights is None else self.weights.nbytes)

    def owned(self) -> Rows:
        """The same in memory of their own, no view of anything larger."""
        return Rows(_owned(self.x), None if self.weights is None else _owned(self.weights))

    def merge(self, other: Rows, chosen: AnyArray | None = None) -> Rows:
        """Of both; ``other`` comes after. All of them, or those that a mask over both says."""
        x = _both(self.x, other.x, chosen)
        if self.weights is None or other.weights is None:
            return Rows(x)
        return Rows(x, _both(self.weights, other.weights, chosen))

    @property
    def count(self) -> float:
        """Sum of the weights."""
        return float(len(self.x)) if self.weights is None else float(self.weights.sum())


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
