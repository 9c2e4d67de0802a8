"""Covariance matrices that share volume, shape, orientation or two of these (Celeux and Govaert 1995).

``Sigma_k = v_k D_k A_k D_k'`` with ``|A_k| = 1``: volume, orientation and shape.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from dgmm.families.aligned import ITERATIONS, SETTLED, common_shape, common_volume, extended, pooled, volumes
from dgmm.families.base import Family
from dgmm.families.cholesky import log_diagonal, lower_factor
from dgmm.families.frame import FrameKind, Moments
from dgmm.families.full import Full
from dgmm.families.gaussian import Gaussians
from dgmm.families.orientation import (
    TINY,
    common_axes,
    lower_factors,
    principal,
    symmetric_roots,
    variances_along,
)
from dgmm.families.prior import Prior
from dgmm.types import FloatArray


class Ellipsoids(Full):
    """Matrices (K, d, d) with something in common.

    Volume, shape and orientation keep under one scale for all features, and not under a whitening: statistics are
    taken in the rigid frame. Densities are those of any matrices.
    """

    aliases = ()
    frame: ClassVar[FrameKind] = "rigid"

    def prior(self, moments: Moments) -> Prior | None:
        """None: what is believed of parts that are shared is not settled."""
        return None

    def unconstrained(self) -> Full:
        """As full."""
        return Full()

    def for_density(self, components: Gaussians) -> tuple[Family, Gaussians]:
        """As full."""
        return Full(), components

    def structured(self, factors: FloatArray, counts: FloatArray | None = None, before: Any = None) -> FloatArray:
        """Factors of the structure."""
        several = np.ones(len(factors)) if counts is None else counts
        with np.errstate(all="ignore"):
            found = self.shared_factors(factors, several / several.sum(), before)
        return found if counts is None else extended(found, np.diagonal(found, axis1=1, axis2=2), counts)

    def shared_factors(self, roots: FloatArray, shares: FloatArray, before: FloatArray | None) -> FloatArray:
        """The most likely factors (K, d, d) of the structure, given square roots of covariances without it."""
        raise NotImplementedError


class Equal(Ellipsoids):
    """One covariance, kept once for each component, from the sums of each: for families that weigh these."""

    name = "tied"
    letters = "EEE"
    frame: ClassVar[FrameKind] = "whitening"

    def roots(self, covariances: FloatArray, counts: FloatArray, total: float) -> FloatArray:
        """Of any covariances: one that is singular has an extent all the same."""
        return symmetric_roots(covariances)

    def shared_factors(self, roots: FloatArray, shares: FloatArray, before: FloatArray | None) -> FloatArray:
        """Of the mean of the covariances."""
        beside = np.concatenate(np.sqrt(shares)[:, None, None] * roots, axis=1)
        return np.tile(lower_factor(beside), (len(roots), 1, 1))

    def free_covariances(self, n_components: int, n_features: int) -> int:
        """D (d + 1) / 2."""
        return n_features * (n_features + 1) // 2


class VEE(Ellipsoids):
    """``v_k C`` with ``|C| = 1``: volumes of their own, which is so in any coordinates."""

    name = "VEE"
    letters = "VEE"
    frame = "whitening"

    def roots(self, covariances: FloatArray, counts: FloatArray, total: float) -> FloatArray:
        """Of any covariances: one that is singular has an extent all the same."""
        return symmetric_roots(covariances)

    def shared_factors(self, roots: FloatArray, shares: FloatArray, before: FloatArray | None) -> FloatArray:
        """With one shape and orientation."""
        volume, factor = proportional(roots, shares, before)
        return np.sqrt(volume)[:, None, None] * factor

    def free_covariances(self, n_components: int, n_features: int) -> int:
        """K + d (d + 1) / 2 - 1."""
        return n_components + n_features * (n_features + 1) // 2 - 1


class EVV(Ellipsoids):
    """``v C_k`` with ``|C_k| = 1``: one volume, which is so in any coordinates."""

    name = "EVV"
    letters = "EVV"
    frame = "whitening"

    def shared_factors(self, roots: FloatArray, shares: FloatArray, before: FloatArray | None) -> FloatArray:
        """With one volume."""
        own = volumes_of(roots)
        return np.sqrt(shares @ own / own)[:, None, None] * roots

    def free_covariances(self, n_components: int, n_features: int) -> int:
        """1 - K + K d (d + 1) / 2."""
        return 1 - n_components + n_components * n_features * (n_features + 1) // 2


class EEV(Ellipsoids):
    """``v D_k A D_k'``: orientations of their own."""

    name = "EEV"
    letters = "EEV"

    def roots(self, covariances: FloatArray, counts: FloatArray, total: float) -> FloatArray:
        """Of any covariances: one that is singular has an extent all the same."""
        return symmetric_roots(covariances)

    def shared_factors(self, roots: FloatArray, shares: FloatArray, before: FloatArray | None) -> FloatArray:
        """With the same variances along axes of their own."""
        axes, variances = principal(roots)
        return lower_factors(axes * np.sqrt(self.common(variances, shares, before))[:, None, :])

    def common(self, variances: FloatArray, shares: FloatArray, before: FloatArray | None) -> FloatArray:
        """Variances (K, d) or (1, d) along the axes, the largest first, as far as they are shared."""
        return pooled(variances, shares)

    def free_covariances(self, n_components: int, n_features: int) -> int:
        """D + K d (d - 1) / 2."""
        return n_features + n_components * n_features * (n_features - 1) // 2


class VEV(EEV):
    """``v_k D_k A D_k'``: volumes and orientations of their own."""

    name = "VEV"
    letters = "VEV"

    def common(self, variances: FloatArray, shares: FloatArray, before: FloatArray | None) -> FloatArray:
        """With one shape."""
        return common_shape(variances, shares, None if before is None else volumes_of(before))

    def free_covariances(self, n_components: int, n_features: int) -> int:
        """K + d - 1 + K d (d - 1) / 2."""
        return n_components - 1 + super().free_covariances(n_components, n_features)


class VVE(Ellipsoids):
    """``v_k D A_k D'``: the axes are shared (common principal components: Flury 1984)."""

    name = "VVE"
    letters = "VVE"

    def shared_factors(self, roots: FloatArray, shares: FloatArray, before: FloatArray | None) -> FloatArray:
        """With the same axes."""
        axes = common_axes(roots, likely_axes(roots, shares, before), lambda v: self.cost(np.maximum(v, TINY), shares))
        return lower_factors(axes * np.sqrt(self.along(variances_along(axes, roots), shares))[:, None, :])

    def cost(self, variances: FloatArray, shares: FloatArray) -> tuple[float, FloatArray]:
        """Half the mean logarithm of the determinants, and its derivatives, for variances (K, d) along axes."""
        return 0.5 * float(shares @ np.log(variances).sum(axis=1)), 0.5 * shares[:, None] / variances

    def along(self, variances: FloatArray, shares: FloatArray) -> FloatArray:
        """Variances (K, d) along the axes, as far as they are shared."""
        return variances

    def free_covariances(self, n_components: int, n_features: int) -> int:
        """K d + d (d - 1) / 2."""
        return n_components * n_features + n_features * (n_features - 1) // 2


class EVE(VVE):
    """``v D A_k D'``: volume and axes are shared."""

    name = "EVE"
    letters = "EVE"

    def cost(self, variances: FloatArray, shares: FloatArray) -> tuple[float, FloatArray]:
        """Half the logarithm of the determinant that all have."""
        own = shares * volumes(variances)
        total = own.sum()
        return 0.5 * variances.shape[1] * float(np.log(total)), 0.5 * (own / total)[:, None] / variances

    def along(self, variances: FloatArray, shares: FloatArray) -> FloatArray:
        """With one volume."""
        return common_volume(variances, shares)

    def free_covariances(self, n_components: int, n_features: int) -> int:
        """1 + K (d - 1) + d (d - 1) / 2."""
        return 1 - n_components + super().free_covariances(n_components, n_features)


def volumes_of(factors: FloatArray) -> FloatArray:
    """``|F F'|^(1/d)`` of triangular factors (K, d, d), shape (K,)."""
    return np.exp(2 * log_diagonal(factors) / factors.shape[-1])


def proportional(roots: FloatArray, shares: FloatArray, before: FloatArray | None) -> tuple[FloatArray, FloatArray]:
    """Volumes (K,) and the factor (d, d), of determinant one, of the most likely covariances that are proportional.

    By turns, as `common_shape` does.
    """
    d = roots.shape[-1]
    volume = (roots**2).sum(axis=(1, 2)) / d if before is None else volumes_of(before)
    for _ in range(ITERATIONS):
        every = np.sqrt(shares / volume)[:, None, None] * roots
        factor = lower_factors(np.concatenate(list(every), axis=1))
        factor /= np.exp(log_diagonal(factor) / d)
        last, volume = volume, ((np.linalg.inv(factor) @ roots) ** 2).sum(axis=(1, 2)) / d
        if not (np.abs(volume - last) > SETTLED * volume).any():
            break
    return volume, factor


def likely_axes(roots: FloatArray, shares: FloatArray, before: FloatArray | None) -> FloatArray:
    """Axes (starts, d, d) that may be those that all covariances share.

    Those of the features, of all together, of proportional ones, of each, and those that they shared before.
    """
    all_together = np.concatenate(list(np.sqrt(shares)[:, None, None] * roots), axis=1)
    starts = [all_together, proportional(roots, shares, None)[1]]
    if before is not None:
        # no two of the axes have the same sum of shares that nobody else has
        odd = 1 / (np.sqrt(2.0) + np.arange(len(before))) / volumes_of(before)
        starts.append(np.concatenate(list(np.sqrt(odd)[:, None, None] * before), axis=1))
    several = np.array([lower_factors(start) for start in starts])
    return np.concatenate([np.eye(roots.shape[1])[None], principal(several)[0], principal(roots)[0]])
