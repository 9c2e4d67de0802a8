"""Diagonal covariances: every component has a variance for each feature."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from dgmm.errors import InputError
from dgmm.families.base import LocalFrames
from dgmm.families.cholesky import all_collapsed, collapsed
from dgmm.families.conjugate import Conjugate
from dgmm.families.features import SQUARES
from dgmm.families.frame import Moments
from dgmm.families.gaussian import ROUNDOFF, VANISHED, GaussianFamily, Gaussians, first_moments
from dgmm.families.prior import Prior
from dgmm.families.statistics import SufficientStatistics
from dgmm.types import AnyArray, FloatArray


class Diag(GaussianFamily):
    """``N(mu_k, diag(s_k)^2)``."""

    name = "diag"
    aliases: ClassVar[tuple[str, ...]] = ("VVI",)
    letters = "VVI"
    apart = True
    dims: ClassVar[tuple[str, ...]] = ("component", "feature")
    frame = "isotropic"
    features = SQUARES
    local_features = SQUARES
    independent = True

    def deviations(self, components: Gaussians) -> FloatArray:
        """Standard deviations, shape (K, d), or one where all components or features have the same."""
        return components.factors

    def pool(self, variances: FloatArray, counts: FloatArray) -> FloatArray:
        """Variances (K, d) of components with these counts (K,) as the family restricts them, as `deviations` are."""
        return variances

    def log_determinants(self, components: Gaussians) -> FloatArray:
        """``log |factor_k|``, shape (K,)."""
        ones = np.ones(components.means.shape[1])
        return (np.log(self.deviations(components)) * ones).sum(axis=1)

    def expand(self, constants: FloatArray, components: Gaussians) -> FloatArray:
        """Theta = (c - mu'L mu/2, L mu, -L_ii/2)."""
        precisions = self.deviations(components) ** -2.0 * np.ones_like(components.means)
        linear = precisions * components.means
        peak = constants - 0.5 * (linear * components.means).sum(axis=1)
        return np.hstack([peak[:, None], linear, -0.5 * precisions])

    def maximise(
        self, statistics: SufficientStatistics, reference: Gaussians, moments: Moments, floor: FloatArray
    ) -> tuple[FloatArray, Gaussians]:
        """Weighted means and variances."""
        weights, counts, means = first_moments(statistics, reference)
        d = means.shape[1]
        variances: FloatArray = statistics.sums[:, d + 1 :] / counts[:, None] - means**2
        before = self.deviations(reference)
        local, gone = statistics.local[:, None], statistics.sums[:, :1] <= VANISHED
        means = np.where(local, reference.means + before * means, means)
        variances = np.where(local, before**2 * variances, variances)
        variances = np.where(gone, before**2, variances + np.diagonal(floor))
        counted = np.where(gone[:, 0], 0.0, counts)
        variances = self.pool(variances, counted)
        if not (variances > 0).all():
            if self.shared:
                raise all_collapsed(len(counts))
            raise collapsed(int(np.argmax(~(variances > 0).all(axis=1))), counts, statistics.count)
        means = np.where(gone, reference.means, means)
        factors = np.sqrt(variances).reshape(reference.factors.shape)
        return weights, Gaussians(means, self.structured(factors, counted, reference.factors))

    def prior(self, moments: Moments) -> Prior | None:
        """See `Conjugate`."""
        return Conjugate.of(self, moments)

    def factors(self, n_components: int, covariance: FloatArray) -> FloatArray:
        """Shape (K, d)."""
        return np.tile(np.sqrt(np.diagonal(covariance)), (n_components, 1))

    def free_covariances(self, n_components: int, n_features: int) -> int:
        """K d."""
        return n_components * n_features

    def move(self, components: Gaussians, linear: FloatArray, before: FloatArray, after: FloatArray) -> Gaussians:
        """Components after an affine map along the axes."""
        factors = components.factors * (linear if "feature" in self.dims else linear[0])
        return Gaussians(linear * (components.means - before) + after, np.asarray(factors))

    def to_vector(self, components: Gaussians) -> FloatArray:
        """Means and the logarithms of the standard deviations."""
        return np.concatenate([components.means.ravel(), np.log(components.factors).ravel()])

    def from_vector(self, vector: FloatArray, like: Gaussians) -> Gaussians:
        """Inverse of `to_vector`."""
        cut = like.means.size
        factors = np.exp(vector[cut:]).reshape(like.factors.shape)
        return Gaussians(vector[:cut].reshape(like.means.shape), self.structured(factors))

    def covariances(self, components: Gaussians) -> FloatArray:
        """Variances, in the shape of the factors."""
        return np.asarray(components.factors**2)

    def covariance(self, components: Gaussians, component: int) -> FloatArray:
        """Shape (d, d)."""
        return np.diag(self.variances(components)[component])

    def variances(self, components: Gaussians) -> FloatArray:
        """Shape (K, d)."""
        return self.deviations(components) ** 2 * np.ones_like(components.means)

    def restrict(self, covariance: FloatArray) -> FloatArray:
        """The diagonal."""
        return np.diagonal(covariance).copy()

    def unrestrict(self, covariance: FloatArray, n_features: int) -> FloatArray:
        """A diagonal matrix."""
        return np.diag(np.broadcast_to(covariance, n_features))

    def factors_from_precisions(self, precisions: FloatArray, name: str) -> FloatArray:
        """Standard deviations."""
        if not (precisions > 0).all():
            place = np.argwhere(~(precisions > 0))[0].tolist()
            raise InputError(
                f"{name}{place} is {precisions[tuple(place)]:g}: it must be positive; give inverses of variances"
            )
        return np.asarray(1 / np.sqrt(precisions))

    def factors_from_roots(self, roots: FloatArray) -> FloatArray:
        """Standard deviations."""
        return np.asarray(1 / roots)

    def roots_of_precisions(self, components: Gaussians) -> FloatArray:
        """Inverses of the standard deviations."""
        return np.asarray(1 / components.factors)

    def precisions(self, components: Gaussians) -> FloatArray:
        """Inverses of the variances."""
        return np.asarray(components.factors**-2.0)

    def sample(self, components: Gaussians, labels: AnyArray, generator: np.random.Generator) -> FloatArray:
        """One draw per label."""
        noise = generator.standard_normal((len(labels), components.means.shape[1]))
        return components.means[labels] + noise * (self.deviations(components) * np.ones_like(components.means))[labels]

    def expansion_error(self, components: Gaussians) -> FloatArray:
        """Roundoff times the size of the terms of theta . T three standard deviations from the mean."""
        deviations = self.deviations(components)
        return 2 * ROUNDOFF * ((np.abs(components.means) / deviations + 3) ** 2).sum(axis=1)

    def local_frames(self, components: Gaussians) -> LocalFrames:
        """Each component's own scaling."""
        return LocalFrames(components.means, np.ones_like(components.means) / self.deviations(components))

    def narrowness(self, components: Gaussians, moments: Moments) -> FloatArray:
        """Smallest variance relative to the feature's."""
        return (self.variances(components) / np.diagonal(moments.covariance)).min(axis=1)
