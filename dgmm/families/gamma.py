"""Gamma distributions of positive values, independent per feature: every component has a mean and a shape for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import digamma, gammaln, polygamma

from dgmm.families.features import FeatureMap
from dgmm.families.frame import Moments
from dgmm.families.independent import Independent, first_sums, positive
from dgmm.families.statistics import SufficientStatistics
from dgmm.types import AnyArray, BoolArray, FloatArray, Sendable

#: The features 1, y, log y; the kernel compiles them.
LOGARITHMIC_CHAIN = "logarithms"
#: The largest shape, of values that differ by 1e-4 of their size: beyond it log densities would lose digits.
LARGEST_SHAPE = 1e8
#: Newton's steps for a shape: the first error is 1.2e-2 of it at most, 7.4e-6 after one of them, 5e-12 after two.
STEPS = 3
#: What is taken the logarithm of is no smaller.
LEAST = 1e-300


def _fill(y: FloatArray, out: FloatArray) -> None:
    d = len(y)
    out[0] = 1.0
    out[1 : d + 1] = y
    np.log(np.maximum(y, LEAST), out=out[d + 1 :])


#: 1, y, log y
LOGARITHMS = FeatureMap(LOGARITHMIC_CHAIN, lambda d: 2 * d + 1, _fill)


@dataclass(frozen=True)
class Gammas(Sendable):
    """Means and shapes of K components.

    Attributes
    ----------
    means, shapes : ndarray, shape (K, d)
    """

    means: FloatArray
    shapes: FloatArray

    @property
    def rates(self) -> FloatArray:
        """Shapes over means, shape (K, d)."""
        return self.shapes / self.means


class Gamma(Independent):
    """``prod_j b_kj^a_kj x_j^(a_kj - 1) exp(-b_kj x_j) / Gamma(a_kj)``, with shapes a and rates b.

    Values are taken in units of their means, so that logarithms are small and the M-step, which lives on the
    difference between the logarithm of a mean and the mean of logarithms, loses no digits to the choice of a unit.
    """

    name = "gamma"
    frame = "scaling"
    features = LOGARITHMS
    local_features = LOGARITHMS
    single = False
    apart = True
    needs = "positive values"

    @property
    def title(self) -> str:
        """What a mixture of it is called."""
        return "Gamma mixture"

    def natural_parameters(self, weights: FloatArray, components: Gammas, log_volume: float) -> FloatArray:
        """Theta = (log w + sum_j (a log b - log Gamma(a)), -b, a - 1)."""
        shapes, rates = components.shapes, components.rates
        constants = np.log(weights) + (shapes * np.log(rates) - gammaln(shapes)).sum(axis=1) + log_volume
        return np.hstack([constants[:, None], -rates, shapes - 1])

    def log_base_measure(self, x: AnyArray) -> FloatArray | None:
        """Minus infinity where a value is not positive."""
        if not len(x) or x.min() > 0:
            return None
        return np.where((x > 0).all(axis=1), 0.0, -np.inf)

    def maximise(
        self, statistics: SufficientStatistics, reference: Gammas, moments: Moments, floor: FloatArray
    ) -> tuple[FloatArray, Gammas]:
        """Weighted means, and the shapes that solve ``log a - digamma(a) = log mean - mean log + floor``."""
        weights, gone, counts = first_sums(statistics)
        d = reference.means.shape[1]
        means = np.where(gone, reference.means, statistics.sums[:, 1 : d + 1] / counts)
        gaps = np.log(means) - statistics.sums[:, d + 1 :] / counts + floor
        shapes = np.where(gone, reference.shapes, shapes_of(np.where(gone, 1.0, gaps)))
        return weights, Gammas(means, shapes)

    def floor(self, reg_covar: float, moments: Moments) -> FloatArray:
        """What is added to the gap between logarithm of mean and mean of logarithms, shape (d,).

        It is about half of a squared coefficient of variation: this is a share of the data's own.
        """
        return 0.5 * reg_covar * _squared_variation(moments)

    def spread(self, n_components: int, moments: Moments, floor: FloatArray) -> Gammas:
        """The data's own means and variances, where EM begins: their likelihood needs logarithms as well."""
        variation = np.maximum(_squared_variation(moments) + 2 * floor, 1 / LARGEST_SHAPE)
        return Gammas(np.tile(moments.mean, (n_components, 1)), np.tile(1 / variation, (n_components, 1)))

    def n_parameters(self, n_components: int, n_features: int) -> int:
        """Weights, means and shapes."""
        return n_components - 1 + 2 * n_components * n_features

    def move(self, components: Gammas, linear: FloatArray, before: FloatArray, after: FloatArray) -> Gammas:
        """Means in other units: there are no other coordinates of positive values."""
        return Gammas(components.means * linear, components.shapes)

    def to_vector(self, components: Gammas) -> FloatArray:
        """Logarithms of means and shapes."""
        return np.log(np.concatenate([components.means.ravel(), components.shapes.ravel()]))

    def from_vector(self, vector: FloatArray, like: Gammas) -> Gammas:
        """Inverse of `to_vector`."""
        means, shapes = np.exp(vector).reshape(2, *like.means.shape)
        return Gammas(means, np.minimum(shapes, LARGEST_SHAPE))

    def variances(self, components: Gammas) -> FloatArray:
        """Squares of the means over the shapes."""
        return components.means**2 / components.shapes

    def sample(self, components: Gammas, labels: AnyArray, generator: np.random.Generator) -> FloatArray:
        """One draw per label."""
        draws = generator.standard_gamma(components.shapes[labels]) / components.rates[labels]
        return np.maximum(draws, LEAST)

    def arrays(self, components: Gammas) -> Mapping[str, tuple[tuple[str, ...], FloatArray]]:
        """Means and shapes."""
        dims = ("component", "feature")
        return {"means": (dims, components.means), "shapes": (dims, components.shapes)}

    def from_arrays(self, arrays: Mapping[str, FloatArray]) -> Gammas:
        """Components from means and shapes."""
        means = positive(arrays, "means", self.name, None)
        return Gammas(means, positive(arrays, "shapes", self.name, means.shape))

    def view(self, x: FloatArray) -> FloatArray:
        """Logarithms: of whatever mean, values of one shape have the same spread there."""
        return np.log(np.maximum(x, LEAST))

    def misfits(self, x: AnyArray) -> BoolArray:
        """Zeros and negative values."""
        return np.asarray(x <= 0)

    def objection(self, minimum: FloatArray, maximum: FloatArray, features: Sequence[str]) -> str | None:
        """Features that are constant have no shape."""
        if (maximum > minimum).all():
            return None
        i = int(np.argmin(maximum > minimum))
        return f"feature {features[i]!r} is constant ({minimum[i]:.6g} in every sample): leave it out"

    def narrowness(self, components: Gammas, moments: Moments) -> FloatArray:
        """Smallest ratio of a component's squared coefficient of variation to the data's."""
        ratios: FloatArray = 1 / (components.shapes * _squared_variation(moments))
        return ratios.min(axis=1)

    def unsound(self, components: Gammas, counts: FloatArray, moments: Moments, reg_covar: float) -> BoolArray:
        """As for any family, and components with the largest shape there is."""
        capped = np.asarray((components.shapes >= LARGEST_SHAPE * (1 - 1e-9)).any(axis=1))
        return capped | super().unsound(components, counts, moments, reg_covar)


def _squared_variation(moments: Moments) -> FloatArray:
    """Squares of the coefficients of variation, shape (d,), one where the mean is zero."""
    squares: FloatArray = moments.mean**2
    return np.divide(np.diagonal(moments.covariance), squares, out=np.ones_like(squares), where=squares > 0)


def shapes_of(gaps: FloatArray) -> FloatArray:
    """The shapes a with ``log a - digamma(a)`` equal to positive gaps, at most `LARGEST_SHAPE`.

    Newton's method for ``1 / a``, from Minka's approximation (Estimating a gamma distribution, 2002).
    """
    s = np.maximum(gaps, 0.5 / LARGEST_SHAPE)
    a: FloatArray = (3 - s + np.sqrt((s - 3) ** 2 + 24 * s)) / (12 * s)
    for _ in range(STEPS):
        # digits that the difference loses for large shapes are of the order of s itself there
        change = gap_of(a) - s
        a = 1 / (1 / a + change / (a**2 * (1 / a - polygamma(1, a))))
    return np.minimum(a, LARGEST_SHAPE)


def gap_of(a: FloatArray) -> FloatArray:
    """``log a - digamma(a)``, from its asymptotic series where the difference would lose digits."""
    inverse = 1 / a
    series = inverse * (0.5 + inverse / 12 * (1 - inverse**2 / 10))
    return np.where(a > 1e3, series, np.log(a) - digamma(a))
