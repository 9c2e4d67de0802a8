"""The rows that mixtures explain worst, as a leaf."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

from dgmm.engine import Leaf
from dgmm.estep import Plan, buffer_bytes, score
from dgmm.passes.parts import Division
from dgmm.passes.sample import Sample
from dgmm.rows import Parts, Role, Rows

#: Rows whose densities are found at a time where only the lowest are wanted.
SCORED_ROWS = 16_384


@dataclass(frozen=True)
class Worst:
    """The rows of lowest log density under each of several mixtures.

    Attributes
    ----------
    samples : tuple of Sample
        Their keys are log densities.
    """

    samples: tuple[Sample, ...]

    def merge(self, other: Worst) -> Worst:
        """Of both."""
        return Worst(tuple(a.merge(b) for a, b in zip(self.samples, other.samples, strict=True)))


@dataclass(frozen=True)
class WorstSegment(Leaf[Worst]):
    """The leaf of a pass that looks for the rows that mixtures explain worst.

    Attributes
    ----------
    plans : tuple of Plan
        Of one mixture each.
    limit : int
        Rows kept of each.
    row_bytes : int
        Of one row as it is read.
    prepare : Division
    """

    exact: ClassVar[bool] = True
    computed_by: ClassVar[tuple[str, ...]] = ("plans",)

    plans: tuple[Plan, ...]
    limit: int
    row_bytes: int
    prepare: Division

    def __call__(self, segment: int, parts: Parts) -> Worst:
        """The worst rows of one segment."""
        return Worst(tuple(self._of(plan, parts.rows[Role.FIT]) for plan in self.plans))

    def _of(self, plan: Plan, rows: Rows) -> Sample:
        pieces = [rows[a : a + SCORED_ROWS] for a in range(0, max(len(rows), 1), SCORED_ROWS)]
        return reduce(Sample.merge, (Sample.of(score(p.x, plan).log_density, p, self.limit) for p in pieces))

    @property
    def lever(self) -> str:
        """The rows that are kept take memory."""
        return f"lower worst_rows ({self.limit})"

    def working_bytes(self, n_rows: int) -> int:
        """Buffers, the scores of a piece, and a sample before and after a merge."""
        one = self.result_bytes(n_rows) // max(1, len(self.plans))
        return max(map(buffer_bytes, self.plans)) + 48 * SCORED_ROWS + 2 * one

    def result_bytes(self, n_rows: int) -> int:
        """So many rows with their keys for each mixture."""
        return len(self.plans) * min(self.limit, n_rows) * (8 + self.row_bytes)
