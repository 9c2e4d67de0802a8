"""What the features of samples are and where they lie, and which of them is which in other samples."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from dgmm.errors import InputError
from dgmm.types import AnyArray, IntArray

#: Numbers along the features are the same to this share.
LABEL_ERROR = 1e-9
#: The type of labels that are text.
TEXT = "str"


@dataclass(frozen=True)
class Span:
    """The features of one variable: itself, or one for each place along a dimension.

    Attributes
    ----------
    variable : str
    dim : str or None
        Dimension along which they lie; None for a variable that is one feature.
    size : int
        Number of features.
    labels : tuple of int, float or str, or None
        The coordinate along the dimension; None if there is none.
    dtype : str
        Type of the labels; see `Layout`.
    label_units : str
        Units of the labels.
    """

    variable: str
    dim: str | None = None
    size: int = 1
    labels: tuple[int | float | str, ...] | None = None
    dtype: str = TEXT
    label_units: str = ""

    def identities(self) -> AnyArray | None:
        """Its labels; None where features are told by their place."""
        return None if self.labels is None else as_labels(self.labels, self.dtype)

    @property
    def names(self) -> tuple[str, ...]:
        """What its features are called: ``TEMP``, or ``TEMP@10`` for each label, or each place from 0 up."""
        if self.dim is None:
            return (self.variable,)
        labels = self.identities()
        values = range(self.size) if labels is None else labels
        return tuple(f"{self.variable}@{str(value).removesuffix('.0')}" for value in values)

    def taken(self, places: Sequence[int]) -> Span:
        """That of some of its features, by their numbers and in this order."""
        labels = None if self.labels is None else tuple(self.labels[i] for i in places)
        return replace(self, size=len(places), labels=labels)


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
    spans : tuple of Span
        The features of each variable, in the order of `variables`, where some of several variables lie along a
        dimension: nothing is said of a dimension and its labels then but here. Else empty.
    """

    variables: tuple[str, ...] = ()
    feature_dim: str | None = None
    labels: tuple[int | float | str, ...] | None = None
    dtype: str = TEXT
    units: tuple[str, ...] = ()
    label_units: str = ""
    spans: tuple[Span, ...] = ()

    def identities(self) -> AnyArray | None:
        """What tells the features apart, one for each: labels, or names of variables; None where it is their place."""
        if self.feature_dim is None:
            return np.array([name for span in self.as_spans() for name in span.names], dtype=str)
        return None if self.labels is None else as_labels(self.labels, self.dtype)

    def as_spans(self, n_features: int = 0) -> tuple[Span, ...]:
        """The features variable by variable, however they are kept; of so many along a dimension without labels."""
        if self.spans or self.feature_dim is None:
            return self.spans or tuple(map(Span, self.variables))
        n = n_features if self.labels is None else len(self.labels)
        name = self.variables[0] if self.variables else ""
        return (Span(name, self.feature_dim, n, self.labels, self.dtype, self.label_units),)

    @property
    def feature_dims(self) -> tuple[str, ...]:
        """Dimensions along which features lie, each once."""
        held = [self.feature_dim, *(span.dim for span in self.spans)]
        return tuple(dict.fromkeys(dim for dim in held if dim is not None))

    @property
    def unit_of(self) -> dict[str, str]:
        """Units of the values of each variable, as far as they were kept."""
        return dict(zip(self.variables, self.units, strict=False))

    def feature_units(self, n_features: int) -> tuple[str, ...]:
        """Units of the values of each feature, empty where unknown."""
        units = self.unit_of
        found = [units.get(span.variable, "") for span in self.as_spans(n_features) for _ in range(span.size)]
        return tuple(found) if len(found) == n_features else ("",) * n_features

    def to_json(self) -> dict[str, Any]:
        """As it is stored: without spans where there are none."""
        return {name: value for name, value in asdict(self).items() if name != "spans" or value}

    def taken(self, places: Sequence[int]) -> Layout:
        """That of some of the features, by their numbers and in this order; those of a variable side by side."""
        if self.spans:
            held = [(span, i) for span in self.spans for i in range(span.size)]
            groups = itertools.groupby((held[i] for i in places), key=lambda each: each[0])
            spans = tuple(span.taken([i for _, i in each]) for span, each in groups)
            units = self.unit_of
            names = tuple(span.variable for span in spans)
            return replace(self, variables=names, units=tuple(units.get(name, "") for name in names), spans=spans)
        if self.feature_dim is not None:
            labels = None if self.labels is None else tuple(self.labels[i] for i in places)
            return replace(self, labels=labels)
        units = self.unit_of
        variables = tuple(self.variables[i] for i in places)
        return replace(self, variables=variables, units=tuple(units.get(name, "") for name in variables))

    def check(self, features: Sequence[str]) -> None:
        """Raise `ValueError` if this cannot be the layout of features of these names."""
        for dtype in (self.dtype, *(span.dtype for span in self.spans)):
            if dtype != TEXT and np.dtype(dtype).kind not in "fiumM":
                raise ValueError(f"layout: its labels are of type {dtype}")
        others = f"layout: its variables are {quoted(self.variables)}, its features {quoted(tuple(features))}"
        if self.spans:
            sizes = [1 if span.dim is None else span.size for span in self.spans]
            labelled = all(span.labels is None or len(span.labels) == span.size for span in self.spans)
            names = tuple(span.variable for span in self.spans)
            named = names == self.variables and len({*names}) == len(names)
            along = {(span.dim, span.size, span.labels) for span in self.spans if span.dim is not None}
            named = named and len(along) == len(self.feature_dims)
            right = labelled and named and self.feature_dim is None and sum(sizes) == len(features)
            if not right or min(sizes) < 1 or sizes != [span.size for span in self.spans]:
                raise ValueError(others)
        identities = self.identities()
        if identities is not None and len(identities) != len(features):
            raise ValueError(f"layout: {len(identities)} labels for {len(features)} features")
        if self.feature_dim is None and identities is not None and identities.tolist() != list(features):
            raise ValueError(others)

    def describe(self, features: Sequence[str]) -> str:
        """The features of these names, their units and where they lie, in a few words."""
        units = self.unit_of
        if self.spans:
            return "; ".join(_in_words(span, units) for span in self.spans)
        if self.feature_dim is None:
            return shortened([_with_unit(name, units.get(name)) for name in features])
        values = ", ".join(_with_unit(name, unit) for name, unit in units.items())
        along = _with_unit(self.feature_dim, self.label_units)
        return f"{values + ' ' if values else ''}along {along}: {shortened(features)}"


def _in_words(span: Span, units: Mapping[str, str]) -> str:
    """A variable, and the labels of its features."""
    named = _with_unit(span.variable, units.get(span.variable))
    if span.dim is None:
        return named
    labels = [name.removeprefix(f"{span.variable}@") for name in span.names]
    return f"{named} along {_with_unit(span.dim, span.label_units)}: {shortened(labels)}"


def _with_unit(name: str, unit: str | None) -> str:
    return f"{name} ({unit})" if unit else name


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


def places_among(wanted: AnyArray, given: AnyArray) -> IntArray:
    """Where each label that is wanted is among those given, shape (d,); -1 for one that is not."""
    given, wanted = _alike(given, wanted)
    order = np.argsort(given, kind="stable")
    above = np.searchsorted(given[order], wanted).clip(max=max(len(given) - 1, 0))
    found = np.full(len(wanted), -1)
    for near in (order[above], order[np.maximum(above - 1, 0)]):
        same = [_same(given[[i]], wanted[[j]]) for j, i in enumerate(near)]
        found = np.where((found < 0) & same, near, found)
    return found


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


def as_labels(values: Sequence[int | float | str], dtype: str) -> AnyArray:
    """Inverse of `as_numbers`."""
    if dtype == TEXT:
        return np.array(values, dtype=str)
    if np.dtype(dtype).kind in "mM":
        return np.array(values, dtype=np.int64).view(dtype)
    return np.array(values, dtype=dtype)


def as_numbers(labels: AnyArray) -> tuple[tuple[Any, ...], str]:
    """Comparable labels as plain numbers or strings, and their type: what a `Layout` keeps."""
    if labels.dtype.kind == "U":
        return tuple(labels.tolist()), TEXT
    return tuple((labels.view(np.int64) if labels.dtype.kind in "mM" else labels).tolist()), str(labels.dtype)


def quoted(value: object) -> str:
    """A value as it is, or the beginning of it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def number_of(feature: str | int, names: Sequence[str]) -> int:
    """The number of a feature, by its name or that number; raises `InputError` if there is none."""
    if feature in (names if isinstance(feature, str) else range(len(names))):
        return names.index(feature) if isinstance(feature, str) else int(feature)
    raise InputError(f"no feature {feature!r}: there are {shortened(names)}")


def shortened(names: Sequence[str]) -> str:
    """The first of many names."""
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
