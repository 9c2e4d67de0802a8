"""The E-step: from samples to sufficient statistics or scores, for any number of mixtures at once.

A `Plan` stacks the components of the mixtures; a `Backend` applies it to a block of samples with two matrix products;
`PassTotals` are what blocks add up to. Nothing here knows where samples come from or which mixtures are worth it.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import numpy as np

from dgmm.errors import InputError
from dgmm.estep.block import complete_rows, frozen
from dgmm.estep.compiled import Compiled
from dgmm.estep.device import OnDevice
from dgmm.estep.hashes import nearest, row_hashes
from dgmm.estep.incomplete import (
    PIECE,
    accumulate_incomplete,
    by_pattern,
    completed,
    incomplete_bytes,
    score_incomplete,
)
from dgmm.estep.plain import Plain
from dgmm.estep.plan import DOUBLE, SOFT, Plan, Sharing, make_plan
from dgmm.estep.stacks import Product, Stack, together
from dgmm.estep.sweep import FIT, HELD_LACKING, LACKING, LEFT_OUT, Swept, swept
from dgmm.estep.totals import PassTotals, Scores, unpack
from dgmm.rows import Rows
from dgmm.transform import Transform
from dgmm.types import AnyArray, FloatArray

__all__ = [
    "BACKENDS",
    "DOUBLE",
    "FIT",
    "HELD_LACKING",
    "LACKING",
    "LEFT_OUT",
    "SOFT",
    "Backend",
    "Compiled",
    "OnDevice",
    "PassTotals",
    "Plain",
    "Plan",
    "Product",
    "Scores",
    "Sharing",
    "Stack",
    "Swept",
    "Tally",
    "accumulate",
    "backend_of",
    "buffer_bytes",
    "by_pattern",
    "complete_rows",
    "completed",
    "frozen",
    "make_plan",
    "nearest",
    "row_hashes",
    "score",
    "swept",
    "together",
    "unpack",
    "usable_rows",
]


#: Rows that are transformed at a time.
TRANSFORMED_ROWS = 8192


class Backend(Protocol):
    """Something that applies a plan to samples."""

    @property
    def name(self) -> str:
        """What to call it."""

    def takes(self, plan: Plan) -> bool:
        """Whether it knows the features of all stacks of a plan."""

    def accumulate(self, rows: Rows, plan: Plan) -> PassTotals:
        """E-step of all mixtures of a plan over complete rows, base measures aside."""

    def buffer_bytes(self, plan: Plan) -> int:
        """Bytes that one thread takes beside samples and totals."""

    def score(self, x: AnyArray, plan: Plan, scores: Scores) -> None:
        """Scores of complete rows (n, d) by the one mixture of a plan, base measures aside, into arrays."""


#: The first that takes a plan has it.
BACKENDS: list[Backend] = [OnDevice(), Compiled(), Plain()]


def backend_of(plan: Plan) -> Backend:
    """The back end for a plan."""
    return next(backend for backend in BACKENDS if backend.takes(plan))


def buffer_bytes(plan: Plan) -> int:
    """Bytes that one thread takes for an E-step or scores, beside samples and totals."""
    own = backend_of(plan).buffer_bytes(plan) + incomplete_bytes(plan)
    if plan.transform is None:
        return own
    # rows as they are fitted, and their scores
    return own + plan.transform.buffer_bytes + TRANSFORMED_ROWS * 8 * (plan.n_features + plan.n_rows + 3)


def usable_rows(x: AnyArray, *, marginal: bool) -> AnyArray | None:
    """Which rows of ``x`` can be used, shape (n,): complete ones, or those with any value; None if all."""
    complete = complete_rows(x)
    if complete is None or not marginal:
        return complete
    some = np.asarray(~np.isnan(x).all(axis=1))
    return None if some.all() else some


def accumulate(rows: Rows, plan: Plan) -> PassTotals:
    """E-step of all mixtures of a plan over samples.

    Parameters
    ----------
    rows : Rows
        Of any real dtype, without missing values unless the plan is marginal, and no row with nothing else; weights,
        if any, of the order of one, for what counts as nothing is told by size. A sample with a label is of that
        component of every mixture, or of those of that class, and adds the joint density of both to the likelihood.
    plan : Plan

    Raises
    ------
    InputError
        On a label that is no component of every mixture.
    """
    check_labels(rows, plan)
    if plan.marginals is not None and (complete := complete_rows(rows.x)) is not None:
        n = int(complete.sum())
        # where complete ones come first, nothing is copied
        whole, others = (rows[:n], rows[n:]) if complete[:n].all() else (rows[complete], rows[~complete])
        return accumulate(whole, plan).merge(accumulate_incomplete(others, plan))
    totals = backend_of(plan).accumulate(rows, plan)
    # found once for each family, however many of its mixtures there are
    measures = {family: family.log_base_measure(rows.x) for family in dict.fromkeys(plan.families)}
    if any(h is not None for h in measures.values()):
        weights = rows.every_weight
        known = {family: 0.0 if h is None else float(weights @ h) for family, h in measures.items()}
        base: FloatArray = np.array([known[family] for family in plan.families])
        totals = totals.with_base(base)
    return totals


def check_labels(rows: Rows, plan: Plan) -> None:
    """Refuse a label that is no component, or no class, of every mixture."""
    if rows.labels is not None:
        sizes = (c.stop - c.start - noisy for c, noisy in zip(plan.candidates, plan.noisy, strict=True))
        fewest = plan.sharing.n_classes or min(sizes)
        if (largest := rows.labels.max(initial=-1)) >= fewest:
            what = "classes" if plan.sharing.n_classes else "components"
            raise InputError(f"a sample has the label {largest}, and the {what} are 0 to {fewest - 1}")


class Tally:
    """Totals of 2**n blocks of rows, merged in pairs as they come: what `PassTotals` of each would merge into.

    Parameters
    ----------
    plan : Plan
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        backend = backend_of(plan)
        based = any(family.log_base_measure(np.empty((0, plan.n_features))) is not None for family in plan.families)
        # as the kernel adds them up, in one array, where nothing comes to that
        self._packs = backend if isinstance(backend, Compiled) and plan.marginals is None and not based else None
        self._weighted = False
        self._n = 0
        self._waiting: list[Any] = []

    def add(self, rows: Rows) -> None:
        """E-step over the next block; see `accumulate`."""
        if self._packs is None:
            value: Any = accumulate(rows, self._plan)
        else:
            check_labels(rows, self._plan)
            self._weighted = rows.weights is not None
            value = self._packs.sums(rows, self._plan)
        before, self._n = self._n, self._n + 1
        while before % 2:
            earlier = self._waiting.pop()
            value = earlier.merge(value) if self._packs is None else np.add(earlier, value, out=earlier)
            before //= 2
        self._waiting.append(value)

    def totals(self) -> PassTotals:
        """Of all blocks so far."""
        (value,) = self._waiting
        if self._packs is None:
            return cast(PassTotals, value)
        return self._packs.totals(value, self._plan, weighted=self._weighted)


def score(x: AnyArray, plan: Plan, *, probabilities: bool = False) -> Scores:
    """Scores of the rows of ``x``, shape (n, d), no missing values unless the plan is marginal, by its one mixture.

    Where its components are several of a class, the label and its probability are those of the class.
    """
    if plan.n_labels < plan.n_rows:
        found = score(x, plan.as_density, probabilities=True)
        shares = found.probabilities.reshape(len(x), plan.n_labels, -1).sum(axis=2)
        label = shares.argmax(axis=1)
        top = np.take_along_axis(shares, label[:, None], axis=1)[:, 0]
        return Scores(label, top, found.log_density, shares if probabilities else shares[:0])
    n, k = len(x), plan.n_rows
    if plan.transform is not None:
        return _score_transformed(x, plan, plan.transform, probabilities=probabilities)
    scores = Scores.empty(n, k, probabilities=probabilities)
    (family,) = plan.families
    if plan.marginals is not None and (complete := complete_rows(x)) is not None:
        # in pieces, so that not much of them is copied
        for start in range(0, n, PIECE):
            inside = np.arange(start, min(start + PIECE, n))
            at, others = inside[complete[inside]], inside[~complete[inside]]
            scores.put(at, score(x[at], plan, probabilities=probabilities))
            score_incomplete(x[others], plan, others, scores)
        return scores
    backend_of(plan).score(x, plan, scores)
    base = family.log_base_measure(x)
    if base is not None:
        with np.errstate(invalid="ignore"):  # of values that cannot be, which nobody lets pass
            scores.log_density[:] += base
    return scores


def _score_transformed(x: AnyArray, plan: Plan, transform: Transform, *, probabilities: bool) -> Scores:
    """Scores of rows as they come, so many at a time."""
    n, inner = len(x), plan.after_transform
    scores = Scores.empty(n, plan.n_rows, probabilities=probabilities)
    for start in range(0, n, TRANSFORMED_ROWS):
        some = slice(start, start + TRANSFORMED_ROWS)
        part = transform(x[some], incomplete=plan.marginals is not None)
        scores.put(some, score(part, inner, probabilities=probabilities))
    return scores
