"""What a selection returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dgmm.fits.outcome import Outcome
from dgmm.fits.results import Fit
from dgmm.fits.table import make_table, parsimonious_row
from dgmm.types import Criterion

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Selection:
    """All candidates of a grid and the best of them.

    Attributes
    ----------
    best : Fit
        The candidate with the lowest criterion among those that did not collapse; of several that differ by no more
        than they may still gain, the one with the fewest parameters.
    ties : tuple of Fit
        The others of these several.
    fits : tuple of Fit
        All candidates, in the order of the grid.
    criterion : Criterion
        What the selection went by.
    failures : mapping
        Candidates (n_components, covariance_type) that have no fit at all -> their outcome, with the reason.
    n_reads : float
        How many times the whole source was read: once if all of it stayed in the workers' memory from the first pass
        on, once for every pass if none did.
    """

    best: Fit
    fits: tuple[Fit, ...]
    n_reads: float
    failures: dict[tuple[int, str], Outcome] = field(default_factory=dict)
    criterion: Criterion = Criterion.BIC
    ties: tuple[Fit, ...] = ()

    @property
    def table(self) -> pd.DataFrame:
        """One row per candidate, the lowest criterion first; those that collapsed or failed come last.

        Columns: n_components, covariance_type, n_parameters, log_likelihood, bic, aic, icl, held_out (nats per
        sample), held_out_se (its standard error), behind_se (that of the difference from the highest held_out),
        n_passes, converged, remaining_gain (nats per sample), collapsed (number of components), state,
        reason, tie (whether it is the best or ties with it, where there is a tie).
        """
        tied = (self.best, *self.ties) if self.ties else ()
        return make_table(self.fits, self.failures, self.criterion, tied)

    @property
    def parsimonious(self) -> Fit | None:
        """The smallest K within one standard error of the best by rows held out; see `parsimonious_row`."""
        found = parsimonious_row(self.table)
        if found is None:
            return None
        which = (found["n_components"], found["covariance_type"])
        return next(f for f in self.fits if (f.n_components, f.covariance_type) == which)

    @property
    def at_edge(self) -> bool:
        """Whether the best number of components is the largest that was tried (and not the only one)."""
        tried = {f.n_components for f in self.fits}
        return len(tried) > 1 and self.best.n_components == max(tried)

    def __repr__(self) -> str:
        return f"Selection(best={self.best!r}, candidates={len(self.fits) + len(self.failures)})"


def choose(sound: Sequence[Fit], criterion: Criterion) -> tuple[Fit, tuple[Fit, ...]]:
    """The best of several fits, and those that it ties with."""
    lowest = min(sound, key=lambda f: f.criterion(criterion))
    level = lowest.criterion(criterion)
    if not lowest.converged:
        return lowest, ()
    # a candidate that was dropped may still gain much: it has lost all the same
    near = [f for f in sound if f.converged and f.criterion(criterion) - level <= f.uncertainty + lowest.uncertainty]
    best = min(near, key=lambda f: (f.n_parameters, f.criterion(criterion)), default=lowest)
    return best, tuple(f for f in near if f is not best)
