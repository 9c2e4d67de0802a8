"""What the Gaussian families share: components of means and factors of covariances, and what is done to them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from dgmm.errors import InputError
from dgmm.families.base import Family
from dgmm.families.cholesky import factor_of_precision, lower_factor
from dgmm.families.features import pack_second
from dgmm.families.frame import Moments
from dgmm.families.prior import Centred
from dgmm.families.statistics import SufficientStatistics
from dgmm.types import FloatArray, IntArray, Sendable

LOG_2PI = float(np.log(2 * np.pi))
#: Unit roundoff of float64.
ROUNDOFF = float(np.finfo(float).eps) / 2
#: Stored covariances are the squares of the factors to this share.
SAME = 1e-8
#: What components share is equal to this share of the largest factor.
SHARED = 1e-6
#: Below this count a component keeps its parameters: its sums are nothing but rounding.
VANISHED = 1e-100


@dataclass(frozen=True)
class Gaussians(Sendable):
    """Means and square roots of the covariances of K Gaussian components.

    Attributes
    ----------
    means : ndarray, shape (K, d)
    factors : ndarray
        Lower Cholesky factors of the covariances: (K, d, d) for full, (d, d) for tied; standard deviations: (K, d)
        for diag, (K,) for spherical; others have one of these shapes, (d,) or (). Kept rather than the covariances
        because their condition is the square root.
    """

    means: FloatArray
    factors: FloatArray

    def __post_init__(self) -> None:
        # one layout, or products of the same numbers would have other bits once they are read from a file
        for name in ("means", "factors"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), order="C"))

    @cached_property
    def inverses(self) -> FloatArray:
        """Of factors that are matrices; found once."""
        return np.linalg.inv(self.factors)

    @cached_property
    def expanded(self) -> dict[Family, FloatArray]:
        """Theta of components whose densities at the means are one, for each family that has asked for it."""
        return {}


def proportions(counts: FloatArray) -> FloatArray:
    """Weights (K,) of components that have so many samples; none is zero."""
    return np.maximum(counts / counts.sum(), VANISHED)


def first_moments(statistics: SufficientStatistics, reference: Gaussians) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Weights (K,), counts safe to divide by (K,) and mean features (K, d) in the coordinates of the sums."""
    d = reference.means.shape[1]
    counts = statistics.sums[:, 0]
    weights = proportions(counts)
    safe = np.where(counts > VANISHED, counts, 1.0)
    return weights, safe, statistics.sums[:, 1 : d + 1] / safe[:, None]


class GaussianFamily(Family):
    """A Gaussian mixture with some structure of the covariances."""

    #: Dimensions of covariances and factors, out of component, feature and feature_.
    dims: ClassVar[tuple[str, ...]]
    #: How volume, shape and orientation of the covariances vary, by the letters of Celeux and Govaert (1995): not at
    #: all (I: spheres, or along the axes), equally for all components (E), or freely (V).
    letters: ClassVar[str] = ""
    elliptical = True
    parts = ("means", "covariances")
    noisy = True
    incomplete = True

    @property
    def title(self) -> str:
        """What a mixture of it is called."""
        return f"{self.name} Gaussian mixture"

    def natural_parameters(self, weights: FloatArray, components: Gaussians, log_volume: float) -> FloatArray:
        """Theta, shape (K, P)."""
        if self not in components.expanded:
            components.expanded[self] = self.expand(np.zeros(len(components.means)), components)
        theta = components.expanded[self].copy()
        theta[:, 0] += self.log_peaks(weights, components, log_volume)
        return theta

    def local_parameters(self, weights: FloatArray, components: Gaussians, log_volume: float) -> FloatArray:
        """Theta of the components as standard normals in coordinates of their own."""
        k, d = components.means.shape
        theta = np.zeros((k, self.local_features.size(d)))
        theta[:, 0] = self.log_peaks(weights, components, log_volume)
        theta[:, d + 1 : 2 * d + 1] = -0.5
        return theta

    def log_peaks(self, weights: FloatArray, components: Gaussians, log_volume: float) -> FloatArray:
        """``log w_k N(mu_k | k)``, shape (K,)."""
        d = components.means.shape[1]
        return np.log(weights) - self.log_determinants(components) - 0.5 * d * LOG_2PI + log_volume

    @abstractmethod
    def log_determinants(self, components: Gaussians) -> FloatArray:
        """``log |factor_k|``, shape (K,) or a scalar array."""

    @abstractmethod
    def expand(self, constants: FloatArray, components: Gaussians) -> FloatArray:
        """Theta from the densities' logarithms at the means."""

    def contains(self, other: Family) -> bool:
        """Whether every mixture of the other is one of this: its covariances vary as much in every respect."""
        theirs = other.letters if isinstance(other, GaussianFamily) else ""
        if not theirs:
            return False
        if theirs == self.letters:  # of as many letters as this one, but more in common
            return type(other) is not type(self) is type(other.unconstrained())
        return all("IEV".index(a) >= "IEV".index(b) for a, b in zip(self.letters, theirs, strict=True))

    @property
    def separate(self) -> bool:
        """Unless a covariance is shared, or a part of it."""
        return not self.shared and super().separate

    @property
    def partly_shared(self) -> bool:
        """Whether components have covariances of their own which have something in common."""
        return self.unconstrained() is not self

    def structured(self, factors: FloatArray, counts: FloatArray | None = None, before: Any = None) -> FloatArray:
        """Factors of the most likely covariances of the family's structure, given those without it.

        Parameters
        ----------
        factors : ndarray
            Of every component's own scatter over its count; of matrices any square roots will do.
        counts : ndarray, shape (K,), optional
            How much each counts; as much as the others by default.
        before : ndarray, optional
            Factors of the structure to begin with, where it takes iterations.

        Raises
        ------
        CollapseError
            If there are counts and a component has no extent.
        """
        return factors

    @property
    def shared(self) -> bool:
        """Whether all components have one covariance."""
        return "component" not in self.dims

    @property
    def square(self) -> bool:
        """Whether covariances are matrices."""
        return "feature_" in self.dims

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of covariances and factors."""
        sizes = {"component": n_components, "feature": n_features, "feature_": n_features}
        return tuple(sizes[dim] for dim in self.dims)

    @abstractmethod
    def restrict(self, covariance: FloatArray) -> FloatArray:
        """What the family has of a covariance matrix (d, d): shape (d, d), (d,) or ()."""

    @abstractmethod
    def unrestrict(self, covariance: FloatArray, n_features: int) -> FloatArray:
        """The covariance matrix (d, d) of what `restrict` made."""

    @abstractmethod
    def factors(self, n_components: int, covariance: FloatArray) -> FloatArray:
        """Factors of components that all have this covariance (d, d)."""

    def scaled(self, components: Gaussians, by: FloatArray) -> Gaussians:
        """With covariances times numbers, shape (K,), or () where one is shared."""
        by = np.reshape(by, (*np.shape(by), *[1] * (components.factors.ndim - np.ndim(by))))
        return Gaussians(components.means, np.sqrt(by) * components.factors)

    @abstractmethod
    def factors_from_precisions(self, precisions: FloatArray, name: str) -> FloatArray:
        """Factors from the inverses of covariances; `InputError` with the place in ``name`` of what is none."""

    @abstractmethod
    def factors_from_roots(self, roots: FloatArray) -> FloatArray:
        """Factors from upper triangular U with ``U U' = precision``, or the roots of precisions."""

    @abstractmethod
    def roots_of_precisions(self, components: Gaussians) -> FloatArray:
        """Inverse of `factors_from_roots`."""

    @abstractmethod
    def precisions(self, components: Gaussians) -> FloatArray:
        """Inverses of the covariances, in their shape."""

    def spread(self, n_components: int, moments: Moments, floor: FloatArray) -> Gaussians:
        """Copies of the data's own Gaussian."""
        means = np.tile(moments.mean, (n_components, 1))
        return Gaussians(means, self.factors(n_components, moments.covariance + floor))

    def condition(
        self, components: Gaussians, given: IntArray, values: FloatArray, wanted: IntArray
    ) -> tuple[Family, Gaussians]:
        """Means follow the given values, covariances do not."""
        slopes, family, rest = self.regression(components, given, wanted)
        means = rest.means + np.einsum("kij,kj->ki", slopes, values - components.means[:, given])
        return family, Gaussians(means, rest.factors)

    @abstractmethod
    def free_covariances(self, n_components: int, n_features: int) -> int:
        """Number of free parameters of the covariances."""

    def n_parameters(self, n_components: int, n_features: int) -> int:
        """Weights, means and covariances."""
        return n_components - 1 + n_components * n_features + self.free_covariances(n_components, n_features)

    def n_fixed(self, fixed: Collection[str], n_components: int, n_features: int) -> int:
        """Those of the weights, of the means and of the covariances."""
        found = super().n_fixed(fixed, n_components, n_features) + n_components * n_features * ("means" in fixed)
        return found + self.free_covariances(n_components, n_features) * ("covariances" in fixed)

    def about(self, statistics: SufficientStatistics, components: Gaussians, moments: Moments) -> Centred:
        """First moments as if the means were those of the components, second ones with the scatter about these."""
        sums, d = statistics.sums.copy(), components.means.shape[1]
        # in coordinates of its own a component's mean is the origin
        means = np.where(statistics.local[:, None], 0.0, components.means)
        first, counts = sums[:, 1 : d + 1].copy(), sums[:, :1]
        cross = means[:, :, None] * (counts * means - first)[:, None]
        change = cross + np.swapaxes(cross, 1, 2)
        sums[:, 1 : d + 1] = counts * means
        sums[:, d + 1 :] += pack_second(change)[:, : sums.shape[1] - d - 1]
        scatter = moments.scatter + change.sum(axis=0)
        return replace(statistics, sums=sums), Moments(moments.count, moments.mean, scatter)

    def holding(self, components: Gaussians, held: Gaussians, fixed: Collection[str]) -> Gaussians:
        """With means, covariances or both of the others."""
        means = held.means if "means" in fixed else components.means
        return Gaussians(means, held.factors if "covariances" in fixed else components.factors)

    def means(self, components: Gaussians) -> FloatArray:
        """Component means, shape (K, d)."""
        return components.means

    def taken(self, components: Gaussians, order: IntArray | slice) -> Gaussians:
        """Some of the components, in an order."""
        return Gaussians(components.means[order], components.factors if self.shared else components.factors[order])

    def joined(self, parts: Sequence[Gaussians], weights: FloatArray) -> Gaussians:
        """Components of several mixtures as those of one; what all share is the first one's, what some do is found."""
        means = np.concatenate([part.means for part in parts])
        if self.shared:
            return Gaussians(means, parts[0].factors)
        factors = np.concatenate([part.factors for part in parts])
        return Gaussians(means, self.structured(factors, weights))

    def arrays(self, components: Gaussians) -> Mapping[str, tuple[tuple[str, ...], FloatArray]]:
        """Means, covariances (for readers) and factors (from which the mixture is rebuilt to the last bit)."""
        return {
            "means": (("component", "feature"), components.means),
            "covariances": (self.dims, self.covariances(components)),
            "factors": (self.dims, components.factors),
        }

    def from_arrays(self, arrays: Mapping[str, FloatArray]) -> Gaussians:
        """Components from means and factors, or covariances where there are no factors."""
        means, square = arrays["means"], self.square
        values = arrays["factors"] if "factors" in arrays else arrays["covariances"]
        if means.ndim != 2:
            raise InputError(f"means of a {self.name} model have shape {means.shape}, expected (K, d)")
        expected = self.covariance_shape(*means.shape)
        if values.shape != expected:
            raise InputError(f"covariances of a {self.name} model have shape {values.shape}, expected {expected}")
        if "factors" not in arrays:
            if square and not np.allclose(values, np.swapaxes(values, -1, -2), rtol=1e-8, atol=0):
                raise InputError("a covariance is not symmetric positive definite")
            try:
                values = np.linalg.cholesky(values) if square else np.sqrt(np.where(values > 0, values, 0.0))
            except np.linalg.LinAlgError:
                raise InputError("a covariance is not symmetric positive definite") from None
        diagonal = np.diagonal(values, axis1=-2, axis2=-1) if square else values
        if not (np.isfinite(means).all() and np.isfinite(values).all() and (diagonal > 0).all()):
            raise InputError(f"means and covariances of a {self.name} model must be finite, variances positive")
        if square and np.triu(values, 1).any():
            raise InputError(f"factors of a {self.name} model must be lower triangular")
        if {"factors", "covariances"} <= set(arrays):
            with np.errstate(over="ignore", invalid="ignore"):
                self._compare(arrays["covariances"], self.covariances(Gaussians(means, values)))
        if self.partly_shared and not np.allclose(self.structured(values), values, rtol=0, atol=SHARED * values.max()):
            raise InputError(f"covariances of a {self.name} model differ in what the structure has them share")
        return Gaussians(means, values)

    def _compare(self, stored: FloatArray, covariances: FloatArray) -> None:
        """Refuse covariances that are not those of the factors beside them."""
        scale = covariances
        if self.square:
            deviations = np.sqrt(np.diagonal(covariances, axis1=-2, axis2=-1))
            scale = deviations[..., :, None] * deviations[..., None, :]
        same = stored.shape == covariances.shape and (np.abs(stored - covariances) <= SAME * scale).all()
        if not same or not np.isfinite(covariances).all():
            raise InputError(f"covariances of a {self.name} model are not the squares of its factors")


class MatrixFamily(GaussianFamily):
    """A Gaussian family whose covariances are matrices."""

    def marginal(self, components: Gaussians, features: IntArray) -> tuple[Family, Gaussians]:
        """Their rows of the factors, made triangular again."""
        factors = lower_factor(components.factors[..., features, :])
        return self.unconstrained(), Gaussians(components.means[:, features], factors)

    def regression(
        self, components: Gaussians, given: IntArray, wanted: IntArray
    ) -> tuple[FloatArray, Family, Gaussians]:
        """From the factor of the given features and the wanted ones after them: its last block is that of the rest."""
        n, shape = len(given), (len(components.means), len(wanted), len(given))
        lower = lower_factor(components.factors[..., np.concatenate([given, wanted]), :])
        across = np.swapaxes(lower[..., n:, :n], -1, -2)
        slopes = np.swapaxes(np.linalg.solve(np.swapaxes(lower[..., :n, :n], -1, -2), across), -1, -2)
        rest = Gaussians(components.means[:, wanted], lower[..., n:, n:].copy())
        return np.broadcast_to(slopes, shape), self.unconstrained(), rest

    def restrict(self, covariance: FloatArray) -> FloatArray:
        """The matrix itself."""
        return covariance

    def unrestrict(self, covariance: FloatArray, n_features: int) -> FloatArray:
        """The matrix itself."""
        return covariance

    def factors_from_precisions(self, precisions: FloatArray, name: str) -> FloatArray:
        """Lower Cholesky factors of the inverses."""
        factors = np.empty_like(precisions)
        for place in np.ndindex(precisions.shape[:-2]):
            factors[place] = factor_of_precision(precisions[place], f"{name}{list(place) or ''}")
        return factors

    def factors_from_roots(self, roots: FloatArray) -> FloatArray:
        """Transposed inverses."""
        return np.tril(np.linalg.inv(np.swapaxes(roots, -1, -2)))

    def roots_of_precisions(self, components: Gaussians) -> FloatArray:
        """Transposed inverses of the factors."""
        return np.triu(np.swapaxes(np.linalg.inv(components.factors), -1, -2))

    def precisions(self, components: Gaussians) -> FloatArray:
        """Products of their roots."""
        roots = self.roots_of_precisions(components)
        return roots @ np.swapaxes(roots, -1, -2)
