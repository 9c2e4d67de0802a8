"""What the features of samples are and where they lie, and which of them is which in other samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dgmm.types import AnyArray, IntArray

#: Numbers along the features are the same to this share.
LABEL_ERROR = 1e-9
#: The type of labels that are text.
TEXT = "str"


@dataclass(frozen=True)
class Layout:
    """How samples were opened, kept with the model that is fitted to them.

    Attributes
    ----------
    variables : tuple of str
        Variables of a dataset that were read; empty for an array without a name.
    feature_dim : str or None
        Dimension along which the features lie; None where each variable is one.
    labels : tuple of int, float or str, or None
        The coordinate along that dimension, times as integers; None if there is none.
    dtype : str
        Type of the labels, such as ``float64`` or ``datetime64[ns]``; ``str`` for text.
    units : tuple of str
        Units of the values of each variable, empty where unknown.
    label_units : str
        Units of the labels.
    """

    variables: tuple[str, ...] = ()
    feature_dim: str | None = None
    labels: tuple[int | float | str, ...] | None = None
    dtype: str = TEXT
    units: tuple[str, ...] = ()
    label_units: str = ""

    def identities(self) -> AnyArray | None:
        """What tells the features apart, one for each: labels, or names of variables; None where it is their place."""
        if self.feature_dim is None:
            return np.array(self.variables, dtype=str)
        if self.labels is None:
            return None
        if self.dtype == TEXT:
            return np.array(self.labels, dtype=str)
        if np.dtype(self.dtype).kind in "mM":
            return np.array(self.labels, dtype=np.int64).view(self.dtype)
        return np.array(self.labels, dtype=self.dtype)

    def taken(self, places: Sequence[int]) -> Layout:
        """That of some of the features, by their numbers and in this order."""
        if self.feature_dim is not None:
            labels = None if self.labels is None else tuple(self.labels[i] for i in places)
            return replace(self, labels=labels)
        units = dict(zip(self.variables, self.units, strict=False))
        variables = tuple(self.variables[i] for i in places)
        return replace(self, variables=variables, units=tuple(units.get(name, "") for name in variables))

    def describe(self, features: Sequence[str]) -> str:
        """The features of these names, their units and where they lie, in a few words."""
        shown = shortened(features)
        units = dict(zip(self.variables, self.units, strict=False))
        if self.feature_dim is None:
            return shortened([f"{name} ({units[name]})" if units.get(name) else name for name in features])
        along = f"{self.feature_dim} ({self.label_units})" if self.label_units else self.feature_dim
        values = ", ".join(f"{name} ({unit})" if unit else name for name, unit in units.items())
        return f"{values + ' ' if values else ''}along {along}: {shown}"


def comparable(labels: AnyArray) -> AnyArray:
    """Labels as finite numbers, times or strings, which can be compared and put in order."""
    if labels.dtype.kind in "iumM" or (labels.dtype.kind == "f" and np.isfinite(labels).all()):
        return labels
    return np.array([str(label) for label in labels.tolist()], dtype=str)


def matching_order(wanted: AnyArray, given: AnyArray) -> IntArray | None:
    """Where each label that is wanted is among those given, shape (d,); None if these are others.

    Numbers are the same to the rounding of the coarser type, and so are texts that say numbers where the others are.
    """
    given, wanted = _alike(given, wanted)
    there, here = np.argsort(wanted, kind="stable"), np.argsort(given, kind="stable")
    if len(given) != len(wanted) or not _same(given[here], wanted[there]):
        return None
    order = np.empty_like(here)
    order[there] = here
    return order


def _alike(a: AnyArray, b: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Labels of one kind."""
    if (a.dtype.kind == "U") == (b.dtype.kind == "U"):
        return a, b
    if {a.dtype.kind, b.dtype.kind} <= set("fiuU"):
        try:
            return tuple(v.astype(float) if v.dtype.kind == "U" else v for v in (a, b))  # type: ignore[return-value]
        except ValueError:
            pass
    return a.astype(str), b.astype(str)


def _same(a: AnyArray, b: AnyArray) -> bool:
    """Whether labels in order are the same."""
    if {a.dtype.kind, b.dtype.kind} <= set("fiu"):
        error = max(LABEL_ERROR, *(8 * float(np.finfo(v.dtype).eps) for v in (a, b) if v.dtype.kind == "f"), 0.0)
        return np.allclose(a, b, rtol=error, atol=0)
    return np.array_equal(a, b)


def as_numbers(labels: AnyArray) -> tuple[tuple[Any, ...], str]:
    """Comparable labels as plain numbers or strings, and their type: what a `Layout` keeps."""
    if labels.dtype.kind == "U":
        return tuple(labels.tolist()), TEXT
    return tuple((labels.view(np.int64) if labels.dtype.kind in "mM" else labels).tolist()), str(labels.dtype)


def shortened(names: Sequence[str]) -> str:
    """The first of many names."""
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
