"""One covariance for all components."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from dgmm.families.base import Family, LocalFrames
from dgmm.families.cholesky import cholesky, exp_cholesky, log_cholesky, log_diagonal
from dgmm.families.conjugate import Conjugate
from dgmm.families.features import LINEAR, PRODUCTS, pack_second, unpack_second
from dgmm.families.frame import Moments, apply_linear
from dgmm.families.full import Full
from dgmm.families.gaussian import ROUNDOFF, VANISHED, Gaussians, MatrixFamily, first_moments
from dgmm.families.prior import Prior
from dgmm.families.statistics import SufficientStatistics
from dgmm.types import AnyArray, FloatArray


class Tied(MatrixFamily):
    """``N(mu_k, Sigma)``.

    The quadratic term is the same for every component, so it leaves the responsibilities alone, and its sum over
    the data follows from the data's own scatter; so does the M-step's covariance. A pass needs counts and first
    moments only.
    """

    name = "tied"
    aliases: ClassVar[tuple[str, ...]] = ("EEE",)
    letters = "EEE"
    dims = ("feature", "feature_")
    frame = "whitening"
    features = LINEAR
    local_features = PRODUCTS

    def log_determinants(self, components: Gaussians) -> FloatArray:
        """``log |factor|``, a scalar array."""
        return log_diagonal(components.factors)

    def expand(self, constants: FloatArray, components: Gaussians) -> FloatArray:
        """Theta = (c - mu'L mu/2, L mu)."""
        whitening = np.linalg.inv(components.factors)
        whitened = components.means @ whitening.T
        return np.hstack([(constants - 0.5 * (whitened**2).sum(axis=1))[:, None], whitened @ whitening])

    def shared_log_likelihood(self, components: Gaussians, moments: Moments) -> float:
        """``-tr(L sum x x') / 2``."""
        whitening = np.linalg.inv(components.factors)
        return -0.5 * float(np.einsum("ij,jk,ik->", whitening, moments.second, whitening))

    def maximise(
        self, statistics: SufficientStatistics, reference: Gaussians, moments: Moments, floor: FloatArray
    ) -> tuple[FloatArray, Gaussians]:
        """Weighted means; the covariance is what scatter they leave."""
        weights, counts, means = first_moments(statistics, reference)
        weighted = means.T * statistics.sums[:, 0]
        if not statistics.local.all():
            covariance = (moments.second - weighted @ means) / moments.count + floor
            return weights, Gaussians(means, cholesky(covariance[None], counts, statistics.count)[0])
        scatter = unpack_second(statistics.sums, means.shape[1]).sum(axis=0) - weighted @ means
        if floor.any():
            covariance = reference.factors @ scatter @ reference.factors.T / statistics.count + floor
            factor = cholesky(covariance[None], counts, statistics.count)[0]
        else:
            factor = reference.factors @ cholesky(scatter[None] / statistics.count, counts, statistics.count)[0]
        return weights, Gaussians(reference.means + means @ reference.factors.T, factor)

    def prior(self, moments: Moments) -> Prior | None:
        """See `Conjugate`."""
        return Conjugate.of(self, moments)

    def factors(self, n_components: int, covariance: FloatArray) -> FloatArray:
        """Shape (d, d)."""
        return np.linalg.cholesky(covariance)

    def free_covariances(self, n_components: int, n_features: int) -> int:
        """D (d + 1) / 2."""
        return n_features * (n_features + 1) // 2

    def move(self, components: Gaussians, linear: FloatArray, before: FloatArray, after: FloatArray) -> Gaussians:
        """Components after an affine map."""
        means = apply_linear(linear, (components.means - before).T).T + after
        return Gaussians(means, apply_linear(linear, components.factors))

    def to_vector(self, components: Gaussians) -> FloatArray:
        """Means, and the factor with the logarithm of its diagonal."""
        return np.concatenate([components.means.ravel(), log_cholesky(components.factors[None])])

    def from_vector(self, vector: FloatArray, like: Gaussians) -> Gaussians:
        """Inverse of `to_vector`."""
        k, d = like.means.shape
        return Gaussians(vector[: k * d].reshape(k, d), exp_cholesky(vector[k * d :], 1, d)[0])

    def covariances(self, components: Gaussians) -> FloatArray:
        """Shape (d, d)."""
        return components.factors @ components.factors.T

    def covariance(self, components: Gaussians, component: int) -> FloatArray:
        """Shape (d, d)."""
        return self.covariances(components)

    def variances(self, components: Gaussians) -> FloatArray:
        """The diagonal of the covariance, K times."""
        return np.tile((components.factors**2).sum(axis=1), (len(components.means), 1))

    def sample(self, components: Gaussians, labels: AnyArray, generator: np.random.Generator) -> FloatArray:
        """One draw per label."""
        noise = generator.standard_normal((len(labels), components.means.shape[1]))
        return components.means[labels] + noise @ components.factors.T

    def expansion_error(self, components: Gaussians) -> FloatArray:
        """As for full, and for the data's own terms: the common quadratic is subtracted for all samples at once."""
        whitening = np.linalg.inv(components.factors)
        precision = np.abs(whitening.T @ whitening)
        reach = np.abs(components.means) + 3 * np.sqrt((components.factors**2).sum(axis=1))
        worst = 2 * ROUNDOFF * float(np.einsum("ki,ij,kj->k", reach, precision, reach).max())
        return np.full(len(reach), worst)

    def local_frames(self, components: Gaussians) -> LocalFrames:
        """The common whitening around each component's mean."""
        return Full().local_frames(_repeated(components))

    def narrowness(self, components: Gaussians, moments: Moments) -> FloatArray:
        """Smallest eigenvalue relative to the data's covariance."""
        return Full().narrowness(_repeated(components), moments)

    def for_density(self, components: Gaussians) -> tuple[Family, Gaussians]:
        """Sample by sample the common quadratic matters: as full."""
        return Full(), _repeated(components)

    def beside_noise(self) -> Family:
        """With second moments, since noise has no quadratic term, and its rows no part in the covariance."""
        return APART

    def of_sums(self, statistics: SufficientStatistics, n_features: int) -> Family:
        """The other where there are second moments in the common frame."""
        more = statistics.sums.shape[1] > LINEAR.size(n_features)
        return APART if more and not statistics.local.all() else self

    def sums_beside_noise(self, statistics: SufficientStatistics, moments: Moments) -> FloatArray:
        """With the second moments of the rows, to each component in proportion: nobody asks but for their sum."""
        counts = statistics.sums[:, 0]
        shares = counts / counts.sum()
        return np.hstack([statistics.sums, pack_second(moments.second * shares[:, None, None])])


class TiedApart(Tied):
    """The same, of rows not all of which belong to the components."""

    aliases: ClassVar[tuple[str, ...]] = ()
    features = PRODUCTS

    def expand(self, constants: FloatArray, components: Gaussians) -> FloatArray:
        """As full."""
        return Full().expand(constants, _repeated(components))

    def shared_log_likelihood(self, components: Gaussians, moments: Moments) -> float:
        """Nothing is left out."""
        return 0.0

    def maximise(
        self, statistics: SufficientStatistics, reference: Gaussians, moments: Moments, floor: FloatArray
    ) -> tuple[FloatArray, Gaussians]:
        """Of the rows that the sums are over, whatever others there are."""
        d = reference.means.shape[1]
        count, mean = float(statistics.sums[:, 0].sum()), statistics.sums[:, 1 : d + 1].sum(axis=0)
        safe = max(count, VANISHED)
        second = unpack_second(statistics.sums, d).sum(axis=0)
        own = Moments(safe, mean / safe, second - np.outer(mean, mean) / safe)
        return super().maximise(replace(statistics, count=safe), reference, own, floor)


APART = TiedApart()


def _repeated(components: Gaussians) -> Gaussians:
    k, d = components.means.shape
    return Gaussians(components.means, np.broadcast_to(components.factors, (k, d, d)).copy())
