"""Which features of samples are those of a model: told by names, labels and units, or refused with both lists."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dgmm.data.layout import LABEL_ERROR, Layout, Span, matching_order, shortened
from dgmm.data.picks import Pick
from dgmm.data.units import same_units
from dgmm.errors import InputError
from dgmm.types import AnyArray


@dataclass(frozen=True)
class Likeness:
    """How the features of a model are got from samples.

    Attributes
    ----------
    fields : tuple of int
        The arrays that are read, by their numbers and in this order.
    picks : tuple of Pick or None
        What becomes of the columns of each; None where they are the features as they lie.
    layout : Layout
        Of the features that come of it.
    """

    fields: tuple[int, ...]
    picks: tuple[Pick | None, ...]
    layout: Layout


@dataclass(frozen=True)
class Asked:
    """The features of samples, and those of a model that they should be.

    Attributes
    ----------
    name : str
        Of the samples, for messages.
    ours, theirs : tuple of str
        Names of the features of the samples, and of the model's.
    layout : Layout
        Of the samples.
    wanted : Layout or None
        Of the data that the model was fitted to; None if that was not kept.
    interpolate : bool
        Whether other labels along a dimension are interpolated to the model's.
    any_units : bool
        Whether units that differ are taken for the model's.
    """

    name: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    layout: Layout
    wanted: Layout | None
    interpolate: bool = False
    any_units: bool = False

    def likeness(self) -> Likeness:
        """How to get the model's features; raises `InputError` if these are others, or it cannot be told."""
        stacked = bool(self.layout.spans) or bool(self.wanted is not None and self.wanted.spans)
        return self._by_variable() if stacked else self._of_one_kind()

    def _of_one_kind(self) -> Likeness:
        """Each feature is a variable, or all lie along one dimension; names may be either."""
        given, theirs = self.layout.identities(), list(self.theirs)
        wanted = np.array(theirs, dtype=str) if self.wanted is None else self.wanted.identities()
        if self.wanted is None and given is None and theirs == [str(i) for i in range(len(theirs))]:
            wanted = None
        if wanted is None and given is None:
            if len(theirs) != len(self.ours):
                raise self.others()
            self._check_units_of_one_kind()
            return Likeness((0,), (None,), self.layout)
        self._check_known(given, wanted)
        assert given is not None  # for mypy; checked just now
        assert wanted is not None
        if self.layout.feature_dim is None:
            if not set(wanted) <= set(given):
                raise self.others()
            self._check_units_of_one_kind()
            places = tuple(self.ours.index(name) for name in wanted)
            return Likeness(places, (None,) * len(places), self.layout.taken(places))
        (span,) = self.layout.as_spans()
        pick, found = self._along(span, given, wanted)
        self._check_units_of_one_kind()
        return Likeness((0,), (pick,), replace(self.layout, labels=found.labels, dtype=found.dtype))

    def _by_variable(self) -> Likeness:
        """Variables along dimensions of their own, one by one."""
        if self.wanted is None:
            if self.ours != self.theirs:
                raise self.others()
            n = len(self.layout.variables)
            return Likeness(tuple(range(n)), (None,) * n, self.layout)
        ours = {span.variable: (i, span) for i, span in enumerate(self.layout.as_spans(len(self.ours)))}
        fields, picks, spans = [], [], []
        for theirs in self.wanted.as_spans(len(self.theirs)):
            i, span = ours.get(theirs.variable, (0, None))
            if span is None or (span.dim is None) != (theirs.dim is None):
                raise self.others()
            pick = None
            if span.dim is not None:
                given, wanted = span.identities(), theirs.identities()
                if given is None and wanted is None:
                    if span.size != theirs.size:
                        raise self.others()
                else:
                    self._check_known(given, wanted)
                    assert given is not None
                    assert wanted is not None
                    pick, span = self._along(span, given, wanted)
            self._check_unit(
                span.variable, self._unit(self.layout, span.variable), self._unit(self.wanted, span.variable)
            )
            self._check_unit(f"{span.dim} of {span.variable}", span.label_units, theirs.label_units)
            fields.append(i)
            picks.append(pick)
            spans.append(span)
        units = tuple(self._unit(self.layout, span.variable) for span in spans)
        found = replace(self.layout, variables=tuple(span.variable for span in spans), units=units)
        if self.layout.spans:
            found = replace(found, spans=tuple(spans))
        elif self.layout.feature_dim is not None:
            found = replace(found, labels=spans[0].labels, dtype=spans[0].dtype)
        return Likeness(tuple(fields), tuple(picks), found)

    def _along(self, span: Span, given: AnyArray, wanted: AnyArray) -> tuple[Pick | None, Span]:
        """How features lie along a dimension from those that are wanted, and what they are then."""
        order = matching_order(wanted, given)
        if order is not None:
            places = tuple(order.tolist())
            return None if places == tuple(range(len(given))) else Pick(places), span.taken(places)
        if not self.interpolate:
            raise self.others(or_between=bool({given.dtype.kind, wanted.dtype.kind} <= set("fiu")))
        pick = self._between(span, given, wanted)
        return pick, replace(span, size=len(wanted), labels=tuple(wanted.tolist()), dtype=str(wanted.dtype))

    def _between(self, span: Span, given: AnyArray, wanted: AnyArray) -> Pick:
        """The two neighbours of every label, and how much the upper one counts."""
        what = f"{span.variable or 'values'} of {self.name} along {span.dim}"
        if not {given.dtype.kind, wanted.dtype.kind} <= set("fiu"):
            raise self.others()
        order = np.argsort(given, kind="stable")
        at, to = given[order].astype(float), wanted.astype(float)
        if (np.diff(at) == 0).any():
            raise InputError(f"{what} has two features at {at[:-1][np.diff(at) == 0][0]:g}: interpolate needs one")
        error = LABEL_ERROR * np.abs(to)
        beyond = to[(to < at[0] - error) | (to > at[-1] + error)]
        if len(beyond):
            unit = f" {span.label_units}" if span.label_units else ""
            raise InputError(
                f"{what} goes from {at[0]:g} to {at[-1]:g}{unit}, and the model needs "
                f"{shortened([f'{v:g}' for v in beyond])}: nothing is interpolated beyond the ends"
            )
        to = to.clip(at[0], at[-1])
        low = (np.searchsorted(at, to, side="right") - 1).clip(0, max(len(at) - 2, 0))
        high = np.minimum(low + 1, len(at) - 1)
        width = np.where(high > low, at[high] - at[low], 1)
        share = (to - at[low]) / width
        # what lies on a level is that level, whatever the other one is
        on_high = share > 1 - LABEL_ERROR
        low, share = np.where(on_high, high, low), np.where(on_high | (share < LABEL_ERROR), 0, share)
        return Pick(tuple(order[low].tolist()), tuple(order[high].tolist()), tuple(share.tolist()))

    def _check_known(self, given: AnyArray | None, wanted: AnyArray | None) -> None:
        """Refuse features that only one side has something to tell by."""
        if given is None:
            raise self.others(
                f"nothing tells which of those of {self.name} is which; hand in a dataset, or an array with labels"
            )
        if wanted is None:
            raise self.others(
                "nothing tells which of those of the model is which; fit one to data with names or labels"
            )

    def others(self, why: str = "", *, or_between: bool = False) -> InputError:
        """The error that these are not the features of a model."""
        between = ", or interpolate where they are scored (interpolate: true)" if or_between else ""
        why = why or f"name those to use (variables, or feature_dim){between}"
        lacking = next((name for name in self.theirs if name not in self.ours), None)
        long = len(self.theirs) > 8
        first = f", of which the first that is not there is {lacking}" if lacking and long else ""
        return InputError(
            f"{self.name} has {len(self.ours)} features ({shortened(self.ours)}), the model was fitted on "
            f"{len(self.theirs)} ({shortened(self.theirs)}){first}: {why}"
        )

    def _check_units_of_one_kind(self) -> None:
        if self.wanted is None:
            return
        if self.layout.feature_dim is None:
            for variable in self.wanted.variables:
                self._check_unit(variable, self._unit(self.layout, variable), self._unit(self.wanted, variable))
            return
        ours, theirs = (way.units[0] if len(way.units) == 1 else "" for way in (self.layout, self.wanted))
        self._check_unit((*self.layout.variables, "the values")[0], ours, theirs)
        if self.wanted.feature_dim is not None:
            self._check_unit(self.layout.feature_dim, self.layout.label_units, self.wanted.label_units)

    @staticmethod
    def _unit(layout: Layout, variable: str) -> str:
        return layout.unit_of.get(variable, "")

    def _check_unit(self, what: str, ours: str, theirs: str) -> None:
        """Refuse a unit that is known on both sides and differs."""
        if ours and theirs and not self.any_units and not same_units(ours, theirs):
            raise InputError(
                f"{what} of {self.name} has the units {ours!r}, and the model was fitted to {theirs!r}: convert it, or "
                "correct the attribute (units) where that is wrong"
            )
