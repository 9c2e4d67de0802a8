"""Noise: rows that belong to no component, uniform in the box of the data."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dgmm.errors import InputError
from dgmm.types import FloatArray, IntArray, Sendable

#: The label of rows that are noise rather than of any component.
NOISE = -2
#: No weight is smaller or larger: it has a logarithm, and what it leaves to the components too.
LEAST, MOST = 1e-100, 1 - 1e-12


@dataclass(frozen=True)
class Noise(Sendable):
    """A component of constant density beside those of a family (Banfield and Raftery 1993).

    Whatever the coordinates of the components that it stands beside, its box is in the data's units. The density is
    constant everywhere, so that values beyond the box are noise, too, rather than of the nearest component.

    Attributes
    ----------
    weight : float
        Positive; with those of the components it sums to one.
    minimum, maximum : ndarray, shape (d,)
        Of the box.
    """

    weight: float
    minimum: FloatArray
    maximum: FloatArray

    @classmethod
    def between(cls, weight: float, minimum: FloatArray, maximum: FloatArray) -> Noise:
        """Noise of a weight in a box; `InputError` if there is no such thing."""
        same = minimum.ndim == 1 and minimum.shape == maximum.shape
        if not same or not (np.isfinite(minimum) & np.isfinite(maximum) & (minimum < maximum)).all():
            raise InputError(
                "the box of the noise has no volume: its maximum must be above its minimum in all features"
            )
        if not 0 < weight < 1:
            raise InputError(f"the weight of the noise is {weight:g}: it must be between 0 and 1")
        return cls(weight, minimum, maximum)

    @property
    def n_parameters(self) -> int:
        """Its weight and its volume, as mclust counts them."""
        return 2

    @property
    def log_density(self) -> float:
        """``log w_0 / V``, in the data's units."""
        return float(np.log(self.weight) - self.log_lengths.sum())

    @property
    def mean(self) -> FloatArray:
        """The middle of the box, shape (d,)."""
        return (self.minimum + self.maximum) / 2

    @property
    def variances(self) -> FloatArray:
        """Of each feature, shape (d,)."""
        return (self.maximum - self.minimum) ** 2 / 12

    @property
    def log_lengths(self) -> FloatArray:
        """Logarithms of the lengths of the box, shape (d,): what its density gains where a feature is not known."""
        lengths: FloatArray = np.log(self.maximum - self.minimum)
        return lengths

    def weighing(self, weight: float) -> Noise:
        """The same with another weight, of which something is left in any case."""
        return replace(self, weight=float(np.clip(weight, LEAST, MOST)))

    def theta(self, size: int) -> FloatArray:
        """Natural parameters (1, size): the constant and zeros, whatever the features."""
        theta = np.zeros((1, size))
        theta[0, 0] = self.log_density
        return theta

    def of(self, features: IntArray) -> Noise:
        """The noise of some of the features, in this order."""
        return replace(self, minimum=self.minimum[features], maximum=self.maximum[features])

    def sample(self, n: int, generator: np.random.Generator) -> FloatArray:
        """Draw n samples (n, d)."""
        return generator.uniform(self.minimum, self.maximum, (n, len(self.minimum)))
