"""Spherical covariances: every component has one variance."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from dgmm.families.diag import Diag
from dgmm.families.frame import Moments
from dgmm.families.gaussian import Gaussians
from dgmm.types import FloatArray


class Spherical(Diag):
    """``N(mu_k, s_k^2 I)``."""

    name = "spherical"
    aliases: ClassVar[tuple[str, ...]] = ("VII",)
    letters = "VII"
    dims = ("component",)

    def deviations(self, components: Gaussians) -> FloatArray:
        """Standard deviations, shape (K, 1)."""
        return components.factors[:, None]

    def pool(self, variances: FloatArray, counts: FloatArray) -> FloatArray:
        """Mean over the features, shape (K, 1)."""
        return variances.mean(axis=1, keepdims=True)

    def restrict(self, covariance: FloatArray) -> FloatArray:
        """The mean of the diagonal, shape ()."""
        return np.asarray(np.diagonal(covariance).mean())

    def factors(self, n_components: int, covariance: FloatArray) -> FloatArray:
        """Shape (K,)."""
        return np.full(n_components, np.sqrt(np.diagonal(covariance).mean()))

    def free_covariances(self, n_components: int, n_features: int) -> int:
        """K."""
        return n_components

    def narrowness(self, components: Gaussians, moments: Moments) -> FloatArray:
        """Variance relative to the data's mean variance."""
        return components.factors**2 / np.diagonal(moments.covariance).mean()
