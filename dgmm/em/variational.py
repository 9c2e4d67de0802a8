"""Variational Bayes: another M-step on the same statistics.

A conjugate prior is worth a number of samples with a mean and a scatter of their own, which are added to the statistics
of every component; what follows is an ordinary M-step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from dgmm.em.mstep import Ground
from dgmm.em.plain import aitken
from dgmm.em.posterior import PRIOR, Posterior, Priors, before
from dgmm.errors import CollapseError
from dgmm.families import FeatureMap, Moments, SufficientStatistics, apply_linear, gaussian_family, pack_second
from dgmm.mixture import Mixture
from dgmm.types import FloatArray

#: What scikit-learn adds to every count. It shows where a component is empty and its prior next to nothing.
EMPTY = 10 * float(np.finfo(float).eps)


class VariationalAscent:
    """The way up of one posterior; see `Ascent`.

    Parameters
    ----------
    start : Posterior
        In frame coordinates.
    ground : Ground
    priors : Priors
    stop : callable
        Told the ascent after every update, whether it has arrived.
    """

    def __init__(
        self, start: Posterior, ground: Ground, priors: Priors, stop: Callable[[VariationalAscent], bool]
    ) -> None:
        self.posterior = start
        #: To be evaluated next: the mixture whose E-step is the posterior's.
        self.proposal = start.expected_mixture
        #: The lower bound after every update, in the data's units.
        self.trajectory: list[float] = []
        self.remaining_gain = np.inf
        self.converged = False
        self.failure: CollapseError | None = None
        self._ground = ground
        self._priors = priors
        self._stop = stop

    @property
    def done(self) -> bool:
        """Whether there is nothing left to evaluate."""
        return self.converged or self.failure is not None

    def update(self, statistics: SufficientStatistics) -> None:
        """Go on from what was said of the proposal."""
        try:
            self.posterior = variational_update(self.proposal, statistics, self._ground, self._priors)
        except CollapseError as error:
            self.failure = error
            return
        self.proposal = self.posterior.expected_mixture
        self.trajectory.append(self.posterior.to_data(self._ground.frame).lower_bound(statistics.entropy))
        self.remaining_gain = aitken(self.trajectory)
        self.converged = self._stop(self)


def variational_update(mixture: Mixture, statistics: SufficientStatistics, ground: Ground, priors: Priors) -> Posterior:
    """The variational M-step (Bishop 2006, equations 10.58 to 10.63; Blei and Jordan 2006 for the process).

    Parameters
    ----------
    mixture : Mixture
        The expected mixture of the posterior before, at which the statistics were taken, in frame coordinates.
    statistics : SufficientStatistics
    ground : Ground
        Its floor is added to the covariance of every component's samples.
    priors : Priors
        In the data's units.

    Returns
    -------
    Posterior
        In frame coordinates.
    """
    family, k = gaussian_family(mixture.covariance_type, PRIOR), mixture.n_components
    counts = statistics.sums[:, 0] + EMPTY
    prior = priors.moments.in_frame(ground.frame)
    sums = np.array(statistics.sums)
    sums[:, 0] = counts
    sums += pseudo_sums(mixture, statistics, ground, prior)
    moments = ground.moments.merge(
        Moments(k * prior.count, prior.mean, k * prior.scatter + statistics.count * ground.floor)
    )
    _, components = family.maximise(
        replace(statistics, sums=sums, count=moments.count), mixture.components, moments, np.zeros_like(ground.floor)
    )
    # maximise has divided the scatters by counts, not by degrees of freedom
    if family.shared:
        freedom = np.asarray(priors.degrees_of_freedom + counts.mean())
        scale = moments.count / (k * freedom)
    else:
        freedom = priors.degrees_of_freedom + counts
        scale = sums[:, 0] / freedom
    return Posterior(
        family,
        concentrations(priors, counts),
        priors.mean_precision + counts,
        freedom,
        family.scaled(components, scale),
    )


def concentrations(priors: Priors, counts: FloatArray) -> FloatArray:
    """Parameters of the weights' posterior, shape (K,) or (2, K)."""
    if priors.weight_concentration_type == "dirichlet_distribution":
        return priors.weight_concentration + counts
    after = before(counts[::-1], np.add)[::-1]
    return np.stack([1 + counts, priors.weight_concentration + after])


def pseudo_sums(mixture: Mixture, statistics: SufficientStatistics, ground: Ground, prior: Moments) -> FloatArray:
    """Sums of the features over what is added to each component's samples, shape (K, P).

    The prior, and the scatter that the floor adds to the samples; in the coordinates of the component's sums.
    """
    family = mixture.family
    features = family.local_features if statistics.local.any() else family.features
    own = family.local_frames(mixture.components) if statistics.local.any() else None
    rows = []
    for k, count in enumerate(statistics.sums[:, 0]):
        added = replace(prior, scatter=prior.scatter + count * ground.floor)
        if own is not None and statistics.local[k]:
            forward = own.forwards[k]
            mean = apply_linear(forward, added.mean - own.origins[k])
            added = Moments(added.count, mean, apply_linear(forward, apply_linear(forward, added.scatter).T))
        rows.append(feature_sums(features, added))
    return np.array(rows)


def feature_sums(features: FeatureMap, moments: Moments) -> FloatArray:
    """Sums of the features over samples with these moments, shape (P,)."""
    linear = np.concatenate([[moments.count], moments.count * moments.mean])
    longest = np.concatenate([linear, pack_second(moments.second[None])[0]])
    return longest[: features.size(len(moments.mean))]
