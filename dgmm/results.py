"""What training and selection return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from dgmm.mixture import Mixture

#: A difference in BIC that is very strong evidence (Kass and Raftery 1995).
STRONG = 10.0


def bic(log_likelihood: float, n_parameters: int, n_samples: int) -> float:
    """Bayesian information criterion ``-2 LL + p log n`` (Schwarz 1978); lower is better."""
    return -2 * log_likelihood + n_parameters * float(np.log(n_samples))


@dataclass(frozen=True)
class Fit:
    """A fitted mixture and how it was come by.

    Attributes
    ----------
    mixture : Mixture
        In the data's units, components by weight, largest first.
    log_likelihood : float
        Total, of this very mixture, in nats.
    n_samples : int
        Complete rows, those that were fitted.
    n_missing : int
        Rows left out because a value is missing.
    n_passes : int
        EM passes over all the data; the profile pass and the passes over the sample are not counted.
    converged : bool
    remaining_gain : float
        Estimated log-likelihood still to be gained, in nats per sample; inf where too few passes tell nothing.
    trajectory : tuple of float
        Total log-likelihood of the mixture evaluated in each pass; accelerated training tries points that it
        rejects, so that only its running maximum must rise.
    features : tuple of str
        Names of the features.
    collapsed : tuple of int
        Components that are too narrow or too small to mean anything; such a fit cannot win a selection.
    state : str
        ``converged``, ``stopped at pass n``, ``dropped at pass n`` or ``collapsed``.
    """

    mixture: Mixture
    log_likelihood: float
    n_samples: int
    n_missing: int
    n_passes: int
    converged: bool
    remaining_gain: float
    trajectory: tuple[float, ...]
    features: tuple[str, ...]
    collapsed: tuple[int, ...] = ()
    state: str = "converged"

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
    def bic(self) -> float:
        """Bayesian information criterion ``-2 LL + p log n`` (Schwarz 1978); lower is better."""
        return bic(self.log_likelihood, self.n_parameters, self.n_samples)

    @property
    def aic(self) -> float:
        """Akaike information criterion ``-2 LL + 2 p``; lower is better."""
        return -2 * self.log_likelihood + 2 * self.n_parameters

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
        The candidate with the lowest BIC among those that did not collapse.
    fits : tuple of Fit
        All candidates, in the order of the grid.
    failures : mapping
        Candidates (n_components, covariance_type) that have no fit at all -> why.
    n_reads : int
        Reads of the whole store: the profile and the shared EM passes.
    """

    best: Fit
    fits: tuple[Fit, ...]
    n_reads: int
    failures: dict[tuple[int, str], str] = field(default_factory=dict)

    @property
    def table(self) -> pd.DataFrame:
        """One row per candidate, lowest BIC first; those that cannot win come last.

        Columns: n_components, covariance_type, n_parameters, log_likelihood, bic, aic, n_passes, converged,
        remaining_gain (nats per sample), collapsed (number of components), state.
        """
        return make_table(self.fits, self.failures)

    @property
    def at_edge(self) -> bool:
        """Whether the best number of components is the largest that was tried (and not the only one)."""
        tried = {f.n_components for f in self.fits}
        return len(tried) > 1 and self.best.n_components == max(tried)

    def __repr__(self) -> str:
        return f"Selection(best={self.best!r}, candidates={len(self.fits) + len(self.failures)})"


def make_table(fits: Sequence[Fit], failures: dict[tuple[int, str], str]) -> pd.DataFrame:
    """The table of a selection; see `Selection.table`."""
    rows = [
        {
            "n_components": f.n_components,
            "covariance_type": f.covariance_type,
            "n_parameters": f.n_parameters,
            "log_likelihood": f.log_likelihood,
            "bic": f.bic,
            "aic": f.aic,
            "n_passes": f.n_passes,
            "converged": f.converged,
            "remaining_gain": f.remaining_gain,
            "collapsed": len(f.collapsed),
            "state": f.state,
        }
        for f in fits
    ]
    rows += [
        {"n_components": k, "covariance_type": kind, "converged": False, "state": f"failed: {why}"}
        for (k, kind), why in failures.items()
    ]
    table = pd.DataFrame(rows)
    rank = table["bic"].where(table["collapsed"].fillna(1) == 0, np.inf)
    return table.iloc[np.lexsort((table["bic"], rank))].reset_index(drop=True)
