"""What training and selection return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from dgmm.data import Layout
from dgmm.em import Evaluated
from dgmm.fitting.outcome import Outcome, OutcomeKind, Spread
from dgmm.fitting.stability import Stability
from dgmm.mixture import Mixture
from dgmm.passes import BlockSums
from dgmm.types import Criterion

#: A difference in BIC that is very strong evidence (Kass and Raftery 1995).
STRONG = 10.0


#: What the criteria are called.
CRITERION_NAMES = {
    Criterion.BIC: "BIC",
    Criterion.AIC: "AIC",
    Criterion.ICL: "ICL",
    Criterion.HELD_OUT: "-2 log-likelihood of held-out rows",
}


@dataclass(frozen=True)
class CriterionTerms:
    """What a criterion needs to know of a fit, finished or on its way; see `Fit`."""

    log_likelihood: float
    n_parameters: int
    n_samples: int
    entropy: float
    held_out: float

    def criterion(self, name: Criterion | str) -> float:
        """The value of a criterion; lower is better."""
        match Criterion(name):
            case Criterion.BIC:
                return -2 * self.log_likelihood + self.n_parameters * float(np.log(self.n_samples))
            case Criterion.AIC:
                return -2 * self.log_likelihood + 2 * self.n_parameters
            case Criterion.ICL:
                return self.criterion(Criterion.BIC) + 2 * self.entropy
            case Criterion.HELD_OUT:
                return -2 * self.n_samples * self.held_out


@dataclass(frozen=True)
class Fit:
    """A fitted mixture and how it was come by.

    Attributes
    ----------
    mixture : Mixture
        In the data's units, components by weight, largest first.
    log_likelihood : float
        Total, of this very mixture, in nats; like `entropy` and `held_out` in double precision, whatever the passes
        before took (`compute_dtype`).
    n_samples : int
        Complete rows, those that were fitted.
    n_missing : int
        Rows left out because a value is missing.
    n_passes : int
        EM passes over all the data; the profile pass, those that look for the rows explained worst or evaluate the end
        in double precision, and the passes over the sample are not counted.
    outcome : Outcome
        What has become of it, with the components that collapsed and the reason; a fit with collapsed components cannot
        win a selection.
    remaining_gain : float
        Estimated log-likelihood still to be gained, in nats per sample; inf where too few passes tell nothing.
    trajectory : tuple of float
        Total log-likelihood of the mixture evaluated in each pass; accelerated training tries points that it
        rejects, so that only its running maximum must rise.
    features : tuple of str
        Names of the features.
    entropy : float
        Of the responsibilities, ``-sum r log r`` over samples and components, in nats.
    held_out : float
        Mean log density of the rows that were held out, in nats per sample; NaN if none were.
    held_out_se : float
        Its standard error over the blocks that were held out (`holdout_by`), or over the rows where there are no
        blocks, in 1024 groups chosen by a hash where there are more; NaN of fewer than two.
    remaining_gains : tuple of float
        The estimate of ``remaining_gain`` after each pass.
    seconds : tuple of float
        That each pass took, for all candidates that took part in it.
    evaluated : Evaluated or None
        The mixture in frame coordinates, its components as they came, with the sufficient statistics of all the data:
        what a fit can go on from. It is not stored with a model.
    layout : Layout or None
        How the data were opened, and what their features are; None if that was not kept.
    spread : Spread or None
        What the search on the sample has seen of other tops of the likelihood; None where there was none.
    stability : Stability or None
        What refits on other weights of the sample have said; None if none were asked for.
    judged : BlockSums or None
        What the mixture says of the rows that were held out, block by block, from which standard errors follow; None
        if none were. It is not stored with a model.
    """

    mixture: Mixture
    log_likelihood: float
    n_samples: int
    n_missing: int
    n_passes: int
    outcome: Outcome
    remaining_gain: float
    trajectory: tuple[float, ...]
    features: tuple[str, ...]
    entropy: float = np.nan
    held_out: float = np.nan
    held_out_se: float = np.nan
    remaining_gains: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    layout: Layout | None = None
    spread: Spread | None = None
    stability: Stability | None = None
    evaluated: Evaluated | None = field(default=None, repr=False, compare=False)
    judged: BlockSums | None = field(default=None, repr=False, compare=False)

    @property
    def n_components(self) -> int:
        """Number of components K."""
        return self.mixture.n_components

    @property
    def covariance_type(self) -> str:
        """Name of the family."""
        return self.mixture.covariance_type

    @property
    def n_parameters(self) -> int:
        """Number of free parameters p."""
        return self.mixture.n_parameters

    @property
    def converged(self) -> bool:
        """Whether the estimated gain still to come is below the tolerance, and the likelihood means something."""
        return self.outcome.kind is OutcomeKind.CONVERGED

    @property
    def collapsed(self) -> tuple[int, ...]:
        """Components that are too narrow or too small to mean anything."""
        return self.outcome.components

    @property
    def state(self) -> str:
        """The outcome in words; see `Outcome.state`."""
        return self.outcome.state

    @property
    def reason(self) -> str:
        """Why it was dropped or has collapsed."""
        return self.outcome.reason

    def criterion(self, name: Criterion | str) -> float:
        """The value of a criterion; lower is better."""
        standing = CriterionTerms(self.log_likelihood, self.n_parameters, self.n_samples, self.entropy, self.held_out)
        return standing.criterion(name)

    @property
    def bic(self) -> float:
        """Bayesian information criterion; see `Criterion`."""
        return self.criterion(Criterion.BIC)

    @property
    def aic(self) -> float:
        """Akaike information criterion; see `Criterion`."""
        return self.criterion(Criterion.AIC)

    @property
    def icl(self) -> float:
        """Integrated completed likelihood; see `Criterion`."""
        return self.criterion(Criterion.ICL)

    @property
    def uncertainty(self) -> float:
        """How much lower its criterion may still become: twice the gain still to come, in nats."""
        return 2 * self.remaining_gain * self.n_samples

    def __repr__(self) -> str:
        return (
            f"Fit({self.covariance_type}, n_components={self.n_components}, log_likelihood={self.log_likelihood:.6g}, "
            f"bic={self.bic:.6g}, n_samples={self.n_samples}, {self.state})"
        )


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


def make_table(
    fits: Sequence[Fit],
    failures: Mapping[tuple[int, str], Outcome],
    criterion: Criterion = Criterion.BIC,
    tied: Sequence[Fit] = (),
) -> pd.DataFrame:
    """The table of a selection; see `Selection.table`."""
    judged = [f for f in fits if f.outcome.is_sound and f.judged is not None]
    judge = max(judged, key=lambda f: f.held_out).judged if judged else None
    rows = [
        {
            "n_components": f.n_components,
            "covariance_type": f.covariance_type,
            "n_parameters": f.n_parameters,
            "log_likelihood": f.log_likelihood,
            "bic": f.bic,
            "aic": f.aic,
            "icl": f.icl,
            "held_out": f.held_out,
            "held_out_se": f.held_out_se,
            "behind_se": np.nan if judge is None or f.judged is None else (f.judged - judge).standard_error,
            "n_passes": f.n_passes,
            "converged": f.converged,
            "remaining_gain": f.remaining_gain,
            "collapsed": len(f.collapsed),
            "state": f.state,
            "reason": f.reason,
            "tie": any(f is t for t in tied),
        }
        for f in fits
    ]
    for (k, kind), outcome in failures.items():
        blank = {"converged": False, "state": outcome.state, "reason": outcome.reason, "tie": False}
        rows.append({"n_components": k, "covariance_type": kind, **blank})
    table = pd.DataFrame(rows)
    order = -table["held_out"] if criterion is Criterion.HELD_OUT else table[criterion]
    outcomes = [*(f.outcome for f in fits), *failures.values()]
    last = [(not o.is_sound) + (o.kind is OutcomeKind.FAILED) for o in outcomes]
    return table.iloc[np.lexsort((order, last))].reset_index(drop=True)


def best_held_out(table: pd.DataFrame) -> pd.Series[Any] | None:
    """The row of a table with the highest held_out, of those that mean something; None where no rows were held out."""
    return _first(_sound(table), ["held_out"], ascending=False)


def parsimonious_row(table: pd.DataFrame) -> pd.Series[Any] | None:
    """The row with the smallest K whose held_out is within one standard error of the highest.

    The one-standard-error rule (Breiman et al. 1984), with the standard error of the difference, which is what tells
    two candidates apart: both are judged by the same blocks. Of several with this K, the one with fewest parameters. A
    candidate that was dropped counts with what it had reached. None where no rows were held out, or in one block.
    """
    best = best_held_out(table)
    if best is None or "behind_se" not in table:
        return None
    sound = _sound(table)
    near = sound[best["held_out"] - sound["held_out"] <= sound["behind_se"]]
    return _first(near, ["n_components", "n_parameters"], ascending=True)


def held_out_words(table: pd.DataFrame) -> str:
    """Which candidates the rows that are held out speak for; empty where there are none."""
    best, small = best_held_out(table), parsimonious_row(table)
    if best is None:
        return ""
    said = f"by rows held out the best is {_name(best)}, {best['held_out']:.4f} nats per sample"
    if small is None:
        return f"{said}; a standard error takes two blocks at least"
    below = best["held_out"] - small["held_out"]
    its = "" if below == 0 else f", {below:.4f} below (standard error {small['behind_se']:.4f})"
    return (
        f"{said} (standard error {best['held_out_se']:.4f}); the smallest K within one standard error of it is "
        f"{_name(small)}{its}"
    )


def _name(row: pd.Series[Any]) -> str:
    return f"{row['covariance_type']} K = {row['n_components']}"


def _sound(table: pd.DataFrame) -> pd.DataFrame:
    """The candidates whose likelihood means something."""
    return table[[Outcome.parse(state).is_sound for state in table["state"]]]


def _first(table: pd.DataFrame, by: list[str], *, ascending: bool) -> pd.Series[Any] | None:
    known = table[table["held_out"].notna()] if "held_out" in table else table[:0]
    return known.sort_values(by, ascending=ascending, kind="stable").iloc[0] if len(known) else None
