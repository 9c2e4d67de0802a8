"""How the rows of a segment are divided: those that are fitted, and those that judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from dgmm.data import Blocks, Grid
from dgmm.engine import Mergeable
from dgmm.estep import by_pattern
from dgmm.passes.profile import used_rows
from dgmm.passes.sample import groups_of, is_held_out, units_of
from dgmm.rows import Parts, Role, Rows
from dgmm.types import AnyArray

T = TypeVar("T", bound=Mergeable)


@dataclass(frozen=True)
class Division:
    """How the rows of a segment are divided.

    Attributes
    ----------
    missing : bool
        Whether there is anything to leave out; looking for it costs as much as a sixth of a pass.
    holdout : float
        Share of the rows, or of the blocks, that is held out.
    seed : int
    scale : float
        Brings the weights of the rows, if there are any, to a mean of one.
    blocks : Blocks or None
        What is held out as a whole; None for each row by itself.
    marginal : bool
        Whether rows that have any value are used, those that are complete first and then the others by what they lack.
    known : bool
        Whether only rows whose class is known are fitted.
    first : int
        Rows of the grid with a smaller number judge nothing.
    """

    missing: bool
    holdout: float
    seed: int
    scale: float
    blocks: Blocks | None = None
    first: int = 0
    known: bool = False
    marginal: bool = False

    @property
    def copies(self) -> bool:
        """Whether the parts take memory beside the rows."""
        return self.missing or self.holdout > 0 or self.known or self.marginal

    def __call__(self, grid: Grid, segment: int, rows: Rows) -> Parts:
        """The parts of a segment."""
        used = used_rows(rows, marginal=self.marginal) if self.missing else None
        if self.known:
            labelled = np.asarray(rows.labels) >= 0
            used = labelled if used is None else used & labelled
        if rows.weights is not None:
            rows = replace(rows, weights=rows.weights * self.scale)
        if not self.holdout:
            return Parts({Role.FIT: self._taken(rows, used)})
        units = units_of(grid, segment, self.blocks)[: len(rows)]
        out = is_held_out(units, self.seed, self.holdout)
        judging = out & (grid.rows(grid.region(segment))[: len(rows)] >= np.uint64(self.first)) if self.first else out
        fit, judge = (its if used is None else used & its for its in (~out, judging))
        # numbers of the rows, until they are in order
        judges = self._taken(replace(rows, groups=np.arange(len(rows))), judge)
        groups = groups_of(units[judges.groups], grid, self.blocks, self.seed)
        return Parts({Role.FIT: self._taken(rows, fit), Role.JUDGE: replace(judges, groups=groups)})

    def _taken(self, rows: Rows, chosen: AnyArray | None) -> Rows:
        """Those rows that a mask says, all by default, in order."""
        order = by_pattern(rows.x) if self.marginal else None
        if order is None:
            return rows if chosen is None else rows[chosen]
        return rows[order if chosen is None else order[chosen[order]]]


@dataclass(frozen=True)
class ByRole(Generic[T]):
    """A value for each part.

    Attributes
    ----------
    values : mapping of Role to value
    """

    values: Mapping[Role, T]

    def merge(self, other: ByRole[T]) -> ByRole[T]:
        """Of both, part by part."""
        return ByRole({role: value.merge(other.values[role]) for role, value in self.values.items()})
