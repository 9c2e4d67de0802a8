"""The E-step as a leaf."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from dgmm.engine import PlanLeaf
from dgmm.estep import PassTotals, Plan, Tally, buffer_bytes
from dgmm.mixture import Mixture
from dgmm.passes.parts import ByRole, Division
from dgmm.rows import Parts, Role


@dataclass(frozen=True)
class EStepSegment(PlanLeaf[ByRole[PassTotals]]):
    """The leaf of an E-step pass.

    Attributes
    ----------
    plan : Plan
    prepare : Division
    mixtures : tuple of Mixture
        Of which the plan was made, for a journal; tasks go without them.
    """

    plan: Plan
    prepare: Division
    mixtures: tuple[Mixture, ...] = field(default=(), compare=False)

    def __reduce__(self) -> tuple[type[EStepSegment], tuple[Plan, Division]]:
        return EStepSegment, (self.plan, self.prepare)

    def about(self) -> tuple[Mixture, ...] | None:
        """The mixtures, if they were given."""
        return self.mixtures or None

    def __call__(self, segment: int, parts: Parts) -> ByRole[PassTotals]:
        """Totals of each part of one segment; rows that judge are judged by their density."""
        return self.several(segment, iter([parts]))

    def several(self, first: int, parts: Iterator[Parts]) -> ByRole[PassTotals]:
        """The same of several, which are no totals before they are merged."""
        tallies: dict[Role, Tally] = {}
        for part in parts:
            for role, rows in part.rows.items():
                judges = role == Role.JUDGE
                if role not in tallies:
                    tallies[role] = Tally(self.plan.as_density if judges else self.plan)
                tallies[role].add(replace(rows, labels=None) if judges else rows)
            del part, rows
        return ByRole({role: tally.totals() for role, tally in tallies.items()})

    @property
    def lever(self) -> str:
        """Statistics are what takes memory."""
        return f"try fewer than {self.plan.n_rows} components at a time (n_components)"

    def working_bytes(self, n_rows: int) -> int:
        """Buffers, and theta as it came, as the kernel takes it and as the kernel adds the sums up.

        Where values are missing, also what is missing of every row, and their order.
        """
        sorting = n_rows * (2 * self.plan.n_features + 32) if self.prepare.marginal else 0
        return buffer_bytes(self.plan) + 3 * self._one_part + sorting

    def result_bytes(self, n_rows: int) -> int:
        """Sums in the shape of theta, for each part."""
        return (1 + (self.prepare.holdout > 0)) * self._one_part

    @property
    def _one_part(self) -> int:
        return sum(p.theta.nbytes for p in self.plan.products) + 16 * len(self.plan.candidates)
