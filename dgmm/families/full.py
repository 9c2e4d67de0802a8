"""Full covariances: every component has its own."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from dgmm.families.base import LocalFrames
from dgmm.families.cholesky import cholesky, exp_cholesky, log_cholesky, log_diagonal
from dgmm.families.conjugate import Conjugate
from dgmm.families.features import PRODUCTS, pack_second, unpack_second
from dgmm.families.frame import FrameKind, Moments, apply_linear
from dgmm.families.gaussian import ROUNDOFF, VANISHED, Gaussians, MatrixFamily, first_moments
from dgmm.families.prior import Prior
from dgmm.families.statistics import SufficientStatistics
from dgmm.types import AnyArray, BoolArray, FloatArray


class Full(MatrixFamily):
    """``N(mu_k, Sigma_k)`` with any positive definite ``Sigma_k``."""

    name: str = "full"
    aliases: ClassVar[tuple[str, ...]] = ("VVV",)
    letters = "VVV"
    apart = True
    dims = ("component", "feature", "feature_")
    frame: ClassVar[FrameKind] = "whitening"
    features = PRODUCTS
    local_features = PRODUCTS

    def log_determinants(self, components: Gaussians) -> FloatArray:
        """``log |factor_k|``, shape (K,)."""
        return log_diagonal(components.factors)

    def expand(self, constants: FloatArray, components: Gaussians) -> FloatArray:
        """Theta = (c - mu'L mu/2, L mu, -L_ii/2, -L_ij) with precisions L."""
        whitening = components.inverses
        whitened = np.einsum("kij,kj->ki", whitening, components.means)
        precisions = np.swapaxes(whitening, 1, 2) @ whitening
        linear = np.einsum("kij,ki->kj", whitening, whitened)
        d = components.means.shape[1]
        second = -pack_second(precisions)
        second[:, :d] *= 0.5
        return np.hstack([(constants - 0.5 * (whitened**2).sum(axis=1))[:, None], linear, second])

    def maximise(
        self, statistics: SufficientStatistics, reference: Gaussians, moments: Moments, floor: FloatArray
    ) -> tuple[FloatArray, Gaussians]:
        """Weighted means and covariances."""
        weights, means, covariances, scale, gone = own_moments(statistics, reference)
        counts, total = np.where(statistics.sums[:, 0] > VANISHED, statistics.sums[:, 0], 1.0), statistics.count
        if floor.any():
            covariances = scale @ covariances @ np.swapaxes(scale, 1, 2)
            new = self.roots(covariances + floor, counts, total)
        else:
            # chol(F C F') = F chol(C): nothing is squared that need not be
            new = scale @ self.roots(covariances, counts, total)
        means[gone], new[gone] = reference.means[gone], reference.factors[gone]
        return weights, Gaussians(means, self.structured(new, np.where(gone, 0.0, counts), reference.factors))

    def prior(self, moments: Moments) -> Prior | None:
        """See `Conjugate`."""
        return Conjugate.of(self, moments)

    def roots(self, covariances: FloatArray, counts: FloatArray, total: float) -> FloatArray:
        """Square roots of covariances (K, d, d): lower triangular, or what `structured` takes."""
        return cholesky(covariances, counts, total)

    def factors(self, n_components: int, covariance: FloatArray) -> FloatArray:
        """Shape (K, d, d)."""
        return np.tile(np.linalg.cholesky(covariance), (n_components, 1, 1))

    def free_covariances(self, n_components: int, n_features: int) -> int:
        """K d (d + 1) / 2."""
        return n_components * n_features * (n_features + 1) // 2

    def move(self, components: Gaussians, linear: FloatArray, before: FloatArray, after: FloatArray) -> Gaussians:
        """Components after an affine map."""
        means = apply_linear(linear, (components.means - before).T).T + after
        factors = linear @ components.factors if linear.ndim == 2 else linear[:, None] * components.factors
        return Gaussians(means, factors)

    def to_vector(self, components: Gaussians) -> FloatArray:
        """Means, and factors with the logarithm of their diagonal."""
        return np.concatenate([components.means.ravel(), log_cholesky(components.factors)])

    def from_vector(self, vector: FloatArray, like: Gaussians) -> Gaussians:
        """Inverse of `to_vector`."""
        k, d = like.means.shape
        return Gaussians(vector[: k * d].reshape(k, d), self.structured(exp_cholesky(vector[k * d :], k, d)))

    def covariances(self, components: Gaussians) -> FloatArray:
        """Shape (K, d, d)."""
        return components.factors @ np.swapaxes(components.factors, 1, 2)

    def covariance(self, components: Gaussians, component: int) -> FloatArray:
        """Shape (d, d)."""
        factor = components.factors[component]
        return factor @ factor.T

    def variances(self, components: Gaussians) -> FloatArray:
        """Diagonals of the covariances, shape (K, d)."""
        return (components.factors**2).sum(axis=2)

    def sample(self, components: Gaussians, labels: AnyArray, generator: np.random.Generator) -> FloatArray:
        """One draw per label."""
        x = generator.standard_normal((len(labels), components.means.shape[1]))
        for k in np.unique(labels):
            own = labels == k
            x[own] = components.means[k] + x[own] @ components.factors[k].T
        return x

    def expansion_error(self, components: Gaussians) -> FloatArray:
        """Roundoff times the size of the terms of theta . T three standard deviations from the mean."""
        whitening = components.inverses
        precisions = np.abs(np.swapaxes(whitening, 1, 2) @ whitening)
        reach = np.abs(components.means) + 3 * np.sqrt((components.factors**2).sum(axis=2))
        return ROUNDOFF * 2 * np.einsum("kij,ki,kj->k", precisions, reach, reach)

    def local_frames(self, components: Gaussians) -> LocalFrames:
        """Each component's own whitening."""
        return LocalFrames(components.means, components.inverses)

    def narrowness(self, components: Gaussians, moments: Moments) -> FloatArray:
        """Smallest eigenvalue relative to the data's covariance."""
        whitening = np.linalg.inv(np.linalg.cholesky(moments.covariance))
        return np.linalg.svd(whitening @ components.factors, compute_uv=False)[:, -1] ** 2


def own_moments(
    statistics: SufficientStatistics, reference: Gaussians
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, BoolArray]:
    """Weights (K,) and means (K, d), covariances (K, d, d), their scale (K, d, d), and who has no samples (K,).

    With a scale F the covariance is ``F C F'``: the identity, or the factor of a component whose sums are in
    coordinates of its own. One without samples has the identity.
    """
    weights, counts, means = first_moments(statistics, reference)
    d = means.shape[1]
    covariances = unpack_second(statistics.sums, d) / counts[:, None, None] - means[:, :, None] * means[:, None]
    gone, local = statistics.sums[:, 0] <= VANISHED, statistics.local[:, None, None]
    covariances[gone] = np.eye(d)
    scale = np.where(local, reference.factors, np.eye(d))
    means = np.where(statistics.local[:, None], reference.means, 0.0) + np.einsum("kij,kj->ki", scale, means)
    return weights, means, covariances, scale, gone
