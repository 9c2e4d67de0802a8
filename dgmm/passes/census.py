"""What a mixture says of every segment: how many rows are in which class, unlikely or missing, as a leaf."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dgmm.data import Grid
from dgmm.engine import PlanLeaf
from dgmm.estep import Plan, buffer_bytes, complete_rows, completed, score, usable_rows
from dgmm.passes.profile import refuse_infinite
from dgmm.passes.sample import draws_of
from dgmm.passes.worst import SCORED_ROWS
from dgmm.rows import Rows
from dgmm.types import AnyArray, FloatArray, IntArray

#: The seed of what is drawn.
DRAWN = 0


@dataclass(frozen=True)
class Census:
    """Of each segment, in their order.

    Attributes
    ----------
    segments : ndarray of int, shape (m,)
    counts : ndarray of int, shape (m, K)
        Complete rows of each class.
    missing : ndarray of int, shape (m,)
        Rows with a missing value; those without any where what is missing is drawn.
    unlikely : ndarray of int, shape (m,)
        Complete rows with a log density below a bound.
    log_density : ndarray, shape (m,)
        Sums of the log densities of complete rows.
    incomplete : ndarray of int, shape (m,)
        Rows that are complete by what was drawn.
    """

    segments: IntArray
    counts: IntArray
    missing: IntArray
    unlikely: IntArray
    log_density: FloatArray
    incomplete: IntArray

    def merge(self, other: Census) -> Census:
        """Of both."""
        order = np.argsort(np.concatenate([self.segments, other.segments]))
        pairs = [(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return Census(*(np.concatenate(pair)[order] for pair in pairs))


@dataclass(frozen=True)
class CensusSegment(PlanLeaf[Census]):
    """The leaf of a census.

    By a marginal plan what is missing of a row is drawn, given what is there: rows that are as the mixture has them are
    so afterwards, too, whatever is missing at random of them, and all of them are counted alike.

    Attributes
    ----------
    name : str
        Of the source, for messages.
    features : tuple of str
    grid : Grid
    plan : Plan
        Of the one mixture.
    bound : float
        What is less likely than this is unlikely: a log density in nats.
    """

    exact: ClassVar[bool] = True

    name: str
    features: tuple[str, ...]
    grid: Grid
    plan: Plan
    bound: float

    def __call__(self, segment: int, rows: Rows) -> Census:
        """Of one segment, all its rows given."""
        k, incomplete = self.plan.n_rows, 0
        counts, n_complete, unlikely, total = np.zeros(k, dtype=np.int64), 0, 0, 0.0
        if self.plan.marginals is not None:
            refuse_infinite(self.name, self.features, self.grid, segment, rows.x)
        for start in range(0, len(rows), SCORED_ROWS):
            x = rows.x[start : start + SCORED_ROWS]
            present = complete_rows(x)
            if self.plan.marginals is not None and present is not None:
                lacking = ~present
                numbers = self.grid.rows(self.grid.region(segment))[start : start + len(x)]
                x, present = filled_in(x, self.plan, numbers), usable_rows(x, marginal=True)
                incomplete += int(lacking.sum() if present is None else (lacking & present).sum())
            scores = score(x if present is None else x[present], self.plan)
            counts += np.bincount(scores.label, minlength=k)
            n_complete += len(scores.label)
            unlikely += int((scores.log_density < self.bound).sum())
            total += float(scores.log_density.sum())
        if not np.isfinite(total):
            refuse_infinite(self.name, self.features, self.grid, segment, rows.x)
        return Census(
            np.array([segment]), counts[None], np.array([len(rows) - n_complete]), np.array([unlikely]),
            np.array([total]), np.array([incomplete]),
        )  # fmt: skip

    def working_bytes(self, n_rows: int) -> int:
        """Scores of a piece, and its rows without those that are missing, or completed and what they are drawn by."""
        drawn = 0 if self.plan.marginals is None else 64 * len(self.features) + 32
        return buffer_bytes(self.plan) + SCORED_ROWS * (48 + 8 * len(self.features) + drawn)

    def result_bytes(self, n_rows: int) -> int:
        """A few numbers for each segment."""
        return (8 * self.plan.n_rows + 40) * -(-n_rows // self.grid.largest)


def filled_in(x: AnyArray, plan: Plan, numbers: NDArray[np.uint64], seed: int | None = DRAWN) -> FloatArray:
    """Rows (n, d) with what some of them lack, if not all, by a marginal plan.

    Drawn, the same for rows of the same numbers, or without a seed as it is expected.
    """
    found, missing = np.array(x, dtype=np.float64), np.isnan(x)
    some = missing.any(axis=1) & ~missing.all(axis=1)
    draws = None if seed is None else draws_of(numbers[some], x.shape[1], seed)
    found[some] = completed(found[some], plan, draws)
    return found
