"""What families share whose features are independent within a component, and whose covariances are none to choose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dgmm.errors import InputError
from dgmm.families.base import Family
from dgmm.families.gaussian import VANISHED, proportions
from dgmm.families.statistics import SufficientStatistics
from dgmm.types import BoolArray, FloatArray


class Independent(Family):
    """A product of one-dimensional distributions, whose components have ``means`` (K, d) among their parameters."""

    independent = True

    def means(self, components: Any) -> FloatArray:
        """Shape (K, d)."""
        means: FloatArray = components.means
        return means

    def covariances(self, components: Any) -> FloatArray:
        """Variances, shape (K, d)."""
        return self.variances(components)

    def covariance(self, components: Any, component: int) -> FloatArray:
        """The variances as a diagonal matrix."""
        return np.diag(self.variances(components)[component])


def first_sums(statistics: SufficientStatistics) -> tuple[FloatArray, BoolArray, FloatArray]:
    """Weights (K,), which components have no rows at all (K, 1), and counts safe to divide by (K, 1)."""
    counts = statistics.sums[:, 0]
    weights = proportions(counts)
    gone = (counts <= VANISHED)[:, None]
    return weights, gone, np.where(gone, 1.0, counts[:, None])


def positive(arrays: Mapping[str, FloatArray], name: str, family: str, shape: tuple[int, ...] | None) -> FloatArray:
    """A stored array (K, d) of positive numbers; `InputError` where it is none."""
    values = arrays[name]
    if values.ndim != 2 or (shape is not None and values.shape != shape):
        raise InputError(f"{name} of a {family} model have shape {values.shape}, expected {shape or '(K, d)'}")
    if not (np.isfinite(values).all() and (values > 0).all()):
        place = np.argwhere(~(np.isfinite(values) & (values > 0)))[0].tolist()
        raise InputError(f"{name}{place} of a {family} model is {values[tuple(place)]:g}: it must be finite, positive")
    return values
