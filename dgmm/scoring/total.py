"""The log-likelihood of all samples, as a leaf."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dgmm.data import Grid, Samples
from dgmm.engine import Fold, PlanLeaf, Workers
from dgmm.estep import Plan, buffer_bytes, score, usable_rows
from dgmm.passes import refuse_values
from dgmm.rows import Rows


@dataclass(frozen=True)
class Total:
    """Sum of the log densities of so many complete rows."""

    log_density: float
    count: int

    def merge(self, other: Total) -> Total:
        """Of both."""
        return Total(self.log_density + other.log_density, self.count + other.count)


@dataclass(frozen=True)
class TotalSegment(PlanLeaf[Total]):
    """The leaf of a pass that adds up log densities.

    Attributes
    ----------
    name : str
        Of the source, for messages.
    features : tuple of str
    grid : Grid
    plan : Plan
        Of the one mixture.
    log_scale : float
        Added to its log densities.
    """

    name: str
    features: tuple[str, ...]
    grid: Grid
    plan: Plan
    log_scale: float

    def __call__(self, segment: int, rows: Rows) -> Total:
        """Total of one segment, all its rows given."""
        present = usable_rows(rows.x, marginal=self.plan.marginals is not None)
        kept = rows.x if present is None else rows.x[present]
        # in double precision, whatever the samples are
        total = float(score(kept, self.plan).log_density.sum()) + len(kept) * self.log_scale
        if not np.isfinite(total):
            refuse_values(self.plan.families, self.name, self.features, self.grid, segment, rows)
        return Total(total, len(kept))

    def working_bytes(self, n_rows: int) -> int:
        """Scores, and what is left without missing rows."""
        return buffer_bytes(self.plan) + n_rows * (24 + 8 * len(self.features))

    def result_bytes(self, n_rows: int) -> int:
        """Two numbers."""
        return 64


def total_log_density(samples: Samples, plan: Plan, log_scale: float, workers: Workers) -> Total:
    """The sum of the log densities of all complete rows by the one mixture of a plan."""
    fold = Fold(samples, workers, keep=False)
    return fold(TotalSegment(samples.name, samples.features, samples.grid, plan, log_scale))
