"""The conjugate prior of Gaussian components (Fraley and Raftery 2007): samples that everybody has seen before.

A mean is normal about the data's, with its component's covariance over `SHRINKAGE`; a covariance is inverse Wishart
with d + 2 degrees of freedom, variances along the features are inverse gamma. Up to a constant the logarithm of their
density is the log-likelihood of a few samples of each component: the M-step is the ordinary one with these added.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dgmm.families.features import pack_second
from dgmm.families.frame import Moments, apply_linear
from dgmm.families.gaussian import GaussianFamily, Gaussians
from dgmm.families.prior import Centred, Prior
from dgmm.families.statistics import SufficientStatistics
from dgmm.types import FloatArray

#: How many samples the prior of a mean is worth.
SHRINKAGE = 0.01


@dataclass(frozen=True)
class Conjugate(Prior):
    """The prior of all components of a mixture, in frame coordinates.

    Attributes
    ----------
    family : GaussianFamily
    mean : ndarray, shape (d,)
        That all means are drawn to.
    scatter : ndarray, shape (d, d)
        Of the prior's samples of a covariance, where there is one component; less by ``K^(2/d)`` where there are K.
    freedom : float
        How many samples the logarithm of a covariance's determinant counts for.
    n_components : int, optional
        K, if not that of the mixtures it is asked about.
    """

    family: GaussianFamily
    mean: FloatArray
    scatter: FloatArray
    freedom: float
    n_components: int | None = None

    @classmethod
    def of(cls, family: GaussianFamily, moments: Moments) -> Conjugate:
        """With the settings that mclust has by default, for data with these moments, in frame coordinates.

        The scatter is the data's covariance (with n - 1), and the mean variance where covariances have axes along the
        features; the degrees of freedom are d + 2.
        """
        d = len(moments.mean)
        covariance = moments.scatter / max(moments.count - 1, 1.0)
        if family.square:
            return cls(family, moments.mean, covariance, 2 * d + 3.0)
        variance = float(np.diagonal(covariance).mean())
        if "feature" in family.dims:
            return cls(family, moments.mean, variance * np.eye(d), d + 4.0)
        return cls(family, moments.mean, variance / d * np.eye(d), (d + 4.0) / d)

    def within(self, n_components: int) -> Conjugate:
        """The prior of some components of a mixture of so many."""
        return replace(self, n_components=n_components)

    def of_each(self, n_components: int) -> tuple[float, FloatArray]:
        """How many samples each component has of it, and their scatter (d, d); what is shared has it once."""
        k = self.n_components or n_components
        several = k if self.family.shared else 1
        return 1 + self.freedom / several, self.scatter / (several * k ** (2 / len(self.mean)))

    def log_density(self, components: Gaussians) -> float:
        """Logarithm of its density, up to a constant of the number of components."""
        family, k = self.family, len(components.means)
        count, scatter = self.of_each(k)
        forwards = family.local_frames(components).forwards
        if forwards.ndim == 2:
            spread = (forwards**2 @ np.diagonal(scatter)).sum()
            away = forwards * (self.mean - components.means)
        else:
            spread = np.einsum("kij,jl,kil->", forwards, scatter, forwards, optimize=True)
            away = np.einsum("kij,kj->ki", forwards, self.mean - components.means)
        determinants = np.broadcast_to(family.log_determinants(components), k).sum()
        return float(-count * determinants - 0.5 * (spread + SHRINKAGE * (away**2).sum()))

    def merged(self, moments: Moments) -> Moments:
        """The samples of one component and those that the prior adds."""
        count, scatter = self.of_each(1)
        found = moments.merge(Moments(SHRINKAGE, self.mean, scatter))
        return Moments(found.count + count - SHRINKAGE, found.mean, found.scatter)

    def added(
        self, statistics: SufficientStatistics, components: Gaussians, moments: Moments, *, held: bool = False
    ) -> Centred:
        """Statistics and moments with the prior's samples: `SHRINKAGE` of them at its mean, with its scatter.

        The others are at the new mean of their component, or at that which is held: they add to the count alone.
        """
        family, sums, local = self.family, statistics.sums, statistics.local
        k, d = components.means.shape
        count, scatter = self.of_each(k)
        centres, spread = np.tile(self.mean, (k, 1)), np.tile(pack_second(scatter[None]), (k, 1))
        more_features = local.any() or sums.shape[1] > family.features.size(d)
        features = family.local_features if more_features else family.features
        if local.any():
            own = family.local_frames(components)
            for i in np.flatnonzero(local):
                forward = own.forwards[i]
                centres[i] = apply_linear(forward, self.mean - own.origins[i])
                spread[i] = pack_second(apply_linear(forward, apply_linear(forward, scatter).T)[None])[0]
        if held:
            means = np.where(local[:, None], 0.0, components.means)
        else:
            means = (sums[:, 1 : d + 1] + SHRINKAGE * centres) / (sums[:, :1] + SHRINKAGE)
        apart = count - SHRINKAGE
        more = SHRINKAGE * features.of(centres.T).T + apart * features.of(means.T).T
        more[:, d + 1 :] += spread[:, : more.shape[1] - d - 1]
        if not local.any():  # sums in coordinates of their own have all that there is
            moments = moments.merge(Moments(k * SHRINKAGE, self.mean, k * scatter))
            moments = moments.merge(Moments.of(means, np.full(k, apart)))
        return replace(statistics, sums=sums + more, count=statistics.count + k * count), moments
