"""Covariances along the axes of the features that share volume, shape or both (Celeux and Govaert 1995)."""

from __future__ import annotations

from typing import Any

import numpy as np

from dgmm.families.cholesky import collapsed
from dgmm.families.diag import Diag
from dgmm.families.frame import Moments
from dgmm.families.gaussian import Gaussians
from dgmm.families.prior import Prior
from dgmm.types import FloatArray

#: Iterations of a shared shape at most, and the change of a volume, as a share, at which they end.
ITERATIONS, SETTLED = 1000, 1e-14


class EII(Diag):
    """``N(mu_k, s^2 I)``: equal spheres."""

    name = "EII"
    letters = "EII"
    aliases = ()
    dims = ()

    def deviations(self, components: Gaussians) -> FloatArray:
        """The standard deviation, shape (1, 1)."""
        return components.factors.reshape(1, 1)

    def pool(self, variances: FloatArray, counts: FloatArray) -> FloatArray:
        """Mean over the rows and the features, shape (1, 1)."""
        return pooled(variances, counts).mean(axis=1, keepdims=True)

    def restrict(self, covariance: FloatArray) -> FloatArray:
        """The mean of the diagonal, shape ()."""
        return np.asarray(np.diagonal(covariance).mean())

    def factors(self, n_components: int, covariance: FloatArray) -> FloatArray:
        """Shape ()."""
        return np.asarray(np.sqrt(np.diagonal(covariance).mean()))

    def free_covariances(self, n_components: int, n_features: int) -> int:
        """One."""
        return 1

    def narrowness(self, components: Gaussians, moments: Moments) -> FloatArray:
        """Variance relative to the data's mean variance."""
        return np.full(len(components.means), components.factors**2 / np.diagonal(moments.covariance).mean())


class EEI(Diag):
    """``N(mu_k, diag(s)^2)``: equal ellipsoids."""

    name = "EEI"
    letters = "EEI"
    aliases = ()
    dims = ("feature",)

    def deviations(self, components: Gaussians) -> FloatArray:
        """Standard deviations, shape (1, d)."""
        return components.factors[None]

    def pool(self, variances: FloatArray, counts: FloatArray) -> FloatArray:
        """Mean over the rows, shape (1, d)."""
        return pooled(variances, counts)

    def factors(self, n_components: int, covariance: FloatArray) -> FloatArray:
        """Shape (d,)."""
        return np.sqrt(np.diagonal(covariance))

    def free_covariances(self, n_components: int, n_features: int) -> int:
        """D."""
        return n_features


class PartlyAligned(Diag):
    """Variances (K, d) of which volume or shape is shared."""

    aliases = ()

    def prior(self, moments: Moments) -> Prior | None:
        """None: what is believed of parts that are shared is not settled."""
        return None

    def unconstrained(self) -> Diag:
        """As diag."""
        return Diag()

    def structured(self, factors: FloatArray, counts: FloatArray | None = None, before: Any = None) -> FloatArray:
        """Standard deviations of the structure."""
        several = np.ones(len(factors)) if counts is None else counts
        found = np.sqrt(self.shared_variances(factors**2, several, before))
        return found if counts is None else extended(found, found, counts)

    def shared_variances(self, variances: FloatArray, counts: FloatArray, before: FloatArray | None) -> FloatArray:
        """The most likely variances (K, d) of the structure."""
        raise NotImplementedError


class VEI(PartlyAligned):
    """``N(mu_k, v_k diag(a))``: one shape, volumes of their own."""

    name = "VEI"
    letters = "VEI"

    def shared_variances(self, variances: FloatArray, counts: FloatArray, before: FloatArray | None) -> FloatArray:
        """With one shape."""
        return common_shape(variances, counts, None if before is None else volumes(before**2))

    def free_covariances(self, n_components: int, n_features: int) -> int:
        """K + d - 1."""
        return n_components + n_features - 1


class EVI(PartlyAligned):
    """``N(mu_k, v diag(a_k))``: one volume, shapes of their own."""

    name = "EVI"
    letters = "EVI"

    def shared_variances(self, variances: FloatArray, counts: FloatArray, before: FloatArray | None) -> FloatArray:
        """With one volume."""
        return common_volume(variances, counts)

    def free_covariances(self, n_components: int, n_features: int) -> int:
        """1 + K (d - 1)."""
        return 1 + n_components * (n_features - 1)


def pooled(variances: FloatArray, counts: FloatArray) -> FloatArray:
    """Mean of the variances (K, d) of components with these counts, shape (1, d)."""
    return (counts @ variances / counts.sum())[None]


def volumes(variances: FloatArray) -> FloatArray:
    """Geometric means of variances (K, d), shape (K,); zero where one is."""
    with np.errstate(divide="ignore"):
        return np.exp(np.log(variances).mean(axis=1))


def common_volume(variances: FloatArray, counts: FloatArray) -> FloatArray:
    """Variances (K, d) of the most likely covariances of one volume, given those of components by themselves."""
    own = volumes(variances)
    with np.errstate(divide="ignore", invalid="ignore"):
        return variances * (counts @ own / counts.sum() / own)[:, None]


def common_shape(variances: FloatArray, counts: FloatArray, before: FloatArray | None = None) -> FloatArray:
    """Variances (K, d) of the most likely covariances of one shape, given those of components by themselves.

    The best shape for some volumes, those before to begin with, and the best volumes for that shape, by turns (Celeux
    and Govaert 1995, model with variable volumes): each step raises the likelihood.
    """
    volume = variances.mean(axis=1) if before is None else before
    with np.errstate(all="ignore"):
        for _ in range(ITERATIONS):
            shape = (counts / volume) @ variances
            shape /= np.exp(np.log(shape).mean())
            last, volume = volume, (variances / shape).mean(axis=1)
            if not (np.abs(volume - last) > SETTLED * volume).any():
                break
    return volume[:, None] * shape


def extended(factors: FloatArray, diagonals: FloatArray, counts: FloatArray) -> FloatArray:
    """The factors, if all their diagonals (K, d) are positive and finite; `CollapseError` else."""
    sound = (np.isfinite(diagonals) & (diagonals > 0)).all(axis=1)
    if not sound.all():
        raise collapsed(int(np.argmin(sound)), counts, float(counts.sum()))
    return factors
