"""Which features are predicted, in which arrays they lie, and where a source has those that are given."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dgmm.data import Layout, Samples, Span, places_among, shortened
from dgmm.errors import InputError
from dgmm.fits import Fit
from dgmm.types import AnyArray, Filling, Precision, Sendable

#: What the names of variances end in.
VARIANCE = "_variance"


@dataclass(frozen=True)
class Held(Sendable):
    """An array that is written: of one feature, or of those of a variable along a dimension.

    Attributes
    ----------
    span : Span
        The features, as they lie in the array.
    columns : tuple of int
        Which of the wanted features each of these is; -1 for one that is not wanted, and is missing all along.
    """

    span: Span
    columns: tuple[int, ...]

    @property
    def name(self) -> str:
        """What the array is called."""
        return self.span.variable or "data"

    @property
    def side_by_side(self) -> slice | None:
        """The features as they lie among the wanted ones, if they do so in this order."""
        first = self.columns[0]
        run = slice(first, first + len(self.columns))
        return run if first >= 0 and self.columns == tuple(range(run.start, run.stop)) else None

    def of(self, values: AnyArray) -> AnyArray:
        """Its values, of those of all wanted features (n, m): shape (n,), or (n, places) along a dimension."""
        if self.span.dim is None:
            return values[:, self.columns[0]]
        if self.side_by_side is not None:
            return values[:, self.side_by_side]
        return np.where(np.array(self.columns) < 0, values.dtype.type(np.nan), values[:, self.columns])


def held_by(model: Fit, of: Sequence[int]) -> tuple[Held, ...]:
    """The arrays that hold some features of a model as its data did.

    Each variable is one, in the order of `of`; along a dimension they are in that order, too. Where several variables
    lie along it both are in the order of the model, and the dimension has the places that any of them is wanted at.
    """
    layout = model.layout or Layout(variables=model.features)
    if not layout.spans:
        spans = layout.taken(of).as_spans(len(of))
        starts = itertools.accumulate((span.size for span in spans), initial=0)
        return tuple(Held(span, tuple(range(at, at + span.size))) for at, span in zip(starts, spans, strict=False))
    of_feature = {feature: column for column, feature in enumerate(of)}
    starts = itertools.accumulate((span.size for span in layout.spans), initial=0)
    columns = [
        (span, [of_feature.get(at + i, -1) for i in range(span.size)])
        for at, span in zip(starts, layout.spans, strict=False)
    ]
    found = []
    for span, its in columns:
        beside = [others for other, others in columns if other.dim == span.dim]
        places = [i for i in range(span.size) if any(others[i] >= 0 for others in beside)] if span.dim else [0]
        if any(column >= 0 for column in its):
            found.append(Held(span.taken(places), tuple(its[i] for i in places)))
    return tuple(found)


@dataclass(frozen=True)
class Wanted(Sendable):
    """Which features are predicted from which, and how the arrays are called that are written.

    Attributes
    ----------
    of, given : tuple of int
        Numbers of features of the model.
    held : tuple of Held
        The arrays of the means.
    variance : bool
        Whether variances are written, too.
    dtype : str
    impute : {"mean", "draw"} or None
        With what missing values of all features are filled in, in the place of predictions.
    seed : int
        Of draws.
    """

    of: tuple[int, ...]
    given: tuple[int, ...]
    held: tuple[Held, ...]
    variance: bool
    dtype: Precision
    impute: Filling | None = None
    seed: int = 0

    @classmethod
    def asked(
        cls,
        model: Fit,
        of: Sequence[str] | None,
        given: Sequence[str] | None,
        variance: bool,
        dtype: Precision,
        impute: Filling | None = None,
        seed: int = 0,
    ) -> Wanted:
        """From names of features; those of plain data are their numbers."""
        if impute is not None:
            return cls._imputed(model, dtype, impute, seed)
        of = of or ()
        ours = tuple(model.place(name) for name in of)
        others: Sequence[str | int] = given or [i for i in range(len(model.features)) if i not in ours]
        theirs = tuple(model.place(name) for name in others)
        return cls(ours, theirs, held_by(model, ours), variance, dtype)

    @classmethod
    def _imputed(cls, model: Fit, dtype: Precision, impute: Filling, seed: int) -> Wanted:
        """All features, with what is missing filled in."""
        mixture = model.mixture
        if not mixture.family.incomplete:
            raise InputError(
                f"what is missing cannot be filled in by this model, which is of {model.covariance_type} components: "
                "give one of Gaussian components"
            )
        if mixture.transform is not None:
            mixture.transform.check_incomplete()
            if mixture.transform.log and impute == "mean":
                raise InputError(
                    "what is expected of logarithms is no logarithm of what is expected: draw what is missing "
                    "(impute: draw)"
                )
        every = tuple(range(len(model.features)))
        return cls(every, (), held_by(model, every), False, dtype, impute, seed)

    @property
    def arrays(self) -> dict[str, tuple[Held, str]]:
        """All arrays by their names, those of variances after those of means, and which of these each has."""
        means = {held.name: (held, "mean") for held in self.held}
        return means | {f"{held.name}{VARIANCE}": (held, "variance") for held in self.held if self.variance}

    def by_name(self, means: AnyArray, variances: AnyArray) -> dict[str, AnyArray]:
        """Values (n, m) as the arrays that are written: (n,) of a feature, or (n, places) of those of a variable."""
        values = {"mean": means, "variance": variances}
        return {name: held.of(values[what]) for name, (held, what) in self.arrays.items()}

    @property
    def copied(self) -> int:
        """Numbers of a sample that are copied to be written as they lie there."""
        return sum(len(held.columns) for held, _ in self.arrays.values() if held.side_by_side is None)


def source_layout(model: Fit, wanted: Wanted, variables: Sequence[str] | None = None) -> Layout | None:
    """How a source is opened that need not have more than the variables of the given features.

    Where somebody names `variables` that are called otherwise, these are as many as the model has, in its order, or
    as many as are given, in the order in which they are.
    """
    layout = model.layout
    if wanted.impute is not None or layout is None or layout.feature_dim is not None:
        return layout
    names = [span.variable for span in layout.as_spans() for _ in range(span.size)]
    mentioned = tuple(dict.fromkeys(names[i] for i in wanted.given))
    places = [i for name in mentioned for i in sorted(wanted.given) if names[i] == name]
    if variables and not {*variables} & {*names}:
        if len(variables) == len(layout.variables):
            return layout
        if len(variables) != len(mentioned):
            raise InputError(
                f"variables {shortened(variables)} are not called like those of the model: name as many as it has "
                f"({shortened(layout.variables)}), or as many as are given ({shortened(mentioned)}), in this order"
            )
    return layout.taken(places)


def with_given(
    samples: Samples, model: Fit, wanted: Wanted, *, interpolate: bool = False
) -> tuple[Samples, tuple[int, ...]]:
    """Samples with the given features, or with more of their variables, and where the given ones are among theirs."""
    if wanted.impute is not None:
        return samples.like(model.features, model.layout, interpolate=interpolate), wanted.of
    layout, places = model.layout, [*wanted.given]
    if layout is not None and layout.feature_dims and not interpolate:
        places = _held_in(samples, layout, len(model.features), places)
    elif layout is not None and layout.spans:
        places.sort()
    elif layout is None and samples.feature_dim is not None and samples.n_features != len(places):
        places = [*range(len(model.features))]
    names = [model.features[i] for i in places]
    found = samples.like(names, None if layout is None else layout.taken(places), interpolate=interpolate)
    return found, tuple(places.index(i) for i in wanted.given)


def _held_in(samples: Samples, layout: Layout, n_features: int, given: Sequence[int]) -> list[int]:
    """Features of the model that are looked for in samples: those given, and what these have beside along dimensions.

    By the labels of the samples where both have some; else all of a variable, or those given alone where the samples
    have as many.
    """
    theirs = {span.variable: span for span in samples.layout.as_spans(samples.n_features)}
    found: list[int] = []
    start = 0
    for span in layout.as_spans(n_features):
        here = range(start, start + span.size)
        wanted = [i for i in given if i in here]
        other = theirs.get(span.variable) if layout.spans else next(iter(theirs.values()))
        start += span.size
        if not wanted or other is None or None in (span.dim, other.dim):
            found += wanted
            continue
        ours, labels = span.identities(), other.identities()
        if ours is None or labels is None:
            found += wanted if other.size == len(wanted) else here
        else:
            there = places_among(ours, labels) >= 0
            found += [i for i in here if there[i - here.start] or i in wanted]
    return found
