"""Multivariate t distributions, which tails of outliers do not move: Gaussians with a hidden precision per sample.

A sample of a component is ``N(mu, S / u)`` where u has a Gamma distribution with shape and rate ``nu / 2``, nu the
degrees of freedom (Peel and McLachlan 2000). The complete data are an exponential family, whose expected statistics are
those of the Gaussian with weights r u, and the sums of r, of r u and of ``r (log u - u + 1)``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
from scipy.special import gammaln

from dgmm.errors import InputError
from dgmm.families.base import Family, LocalFrames
from dgmm.families.diag import Diag
from dgmm.families.ellipsoids import Equal
from dgmm.families.features import PRODUCTS, SQUARES, FeatureMap
from dgmm.families.frame import Moments
from dgmm.families.full import Full
from dgmm.families.gamma import gap_of, shapes_of
from dgmm.families.gaussian import LOG_2PI, VANISHED, GaussianFamily, Gaussians, proportions
from dgmm.families.prior import Centred
from dgmm.families.statistics import SufficientStatistics
from dgmm.types import AnyArray, FloatArray, IntArray, Sendable

#: Degrees of freedom that are estimated lie between these, a Cauchy distribution and nearly a Gaussian: beyond, the
#: likelihood is so flat that passes add up to nothing.
LEAST_DEGREES, MOST_DEGREES = 1.0, 1e4
#: Degrees of freedom where nothing is known of them.
FIRST_DEGREES = 8.0
#: From here on Stirling's series has all digits.
LARGE = 1e3


@dataclass(frozen=True)
class Students(Sendable):
    """Parameters of K components.

    Attributes
    ----------
    means : ndarray, shape (K, d)
    factors : ndarray
        Square roots of the scale matrices, as those of covariances in `Gaussians`.
    degrees : ndarray, shape (K,)
        Degrees of freedom.
    """

    means: FloatArray
    factors: FloatArray
    degrees: FloatArray

    @classmethod
    def of(cls, gaussians: Gaussians, degrees: FloatArray) -> Students:
        """With the means and the factors of Gaussians."""
        return cls(gaussians.means, gaussians.factors, degrees)

    @cached_property
    def gaussians(self) -> Gaussians:
        """Those of the means and scale matrices; they keep what is found of them."""
        return Gaussians(self.means, self.factors)


class Student(Family):
    """t distributions with some structure of the scale matrices, that of a Gaussian family.

    What others call covariances are the scale matrices here: the covariance is ``nu / (nu - 2)`` times that, and only
    there is one if nu is above two.
    """

    #: The Gaussians that there are for infinite degrees of freedom.
    limit: ClassVar[GaussianFamily]
    hidden = True
    single = False
    apart = True
    elliptical = True
    parts = ("means", "covariances")

    def __init__(self, given: float | None = None) -> None:
        #: Degrees of freedom of all components; None if they are estimated.
        self.given = given
        if given is not None:
            self.name = f"{type(self).name}:{repr(given).removesuffix('.0')}"

    @classmethod
    def of_number(cls, number: str) -> Self:
        """With these degrees of freedom."""
        try:
            nu = float(number)
        except ValueError:
            nu = np.nan
        if not (np.isfinite(nu) and nu > 0):
            raise InputError(f"{cls.name}:{number} has no degrees of freedom: give a positive number, as {cls.name}:4")
        return cls(nu)

    @property
    def free(self) -> Student:
        """The family of the same components where some are changed, or parts are taken of all."""
        return self

    def unconstrained(self) -> Family:
        """The same with scale matrices of their own."""
        return self.free

    def exponents(self, weights: FloatArray, components: Students, log_volume: float) -> FloatArray:
        """Theta of minus half the squared distances."""
        return self.limit.expand(np.zeros(len(weights)), components.gaussians)

    def local_parameters(self, weights: FloatArray, components: Students, log_volume: float) -> FloatArray:
        """The same in coordinates of their own."""
        theta = self.limit.local_parameters(weights, components.gaussians, log_volume)
        theta[:, 0] = 0.0
        return theta

    def links(self, weights: FloatArray, components: Students, log_volume: float) -> FloatArray:
        """``log w_k t(mu_k | k)`` and degrees of freedom."""
        nu, d = components.degrees, components.means.shape[1]
        gained = 0.5 * (nu + d) * np.log1p(d / nu) - 0.5 * d + _stirling(0.5 * nu) - _stirling(0.5 * (nu + d))
        return np.stack([self.limit.log_peaks(weights, components.gaussians, log_volume) + gained, nu], axis=1)

    def natural_parameters(self, weights: FloatArray, components: Students, log_volume: float) -> FloatArray:
        """Of the complete data: theta of 1, u y, u y_i y_j, u and ``log u - u + 1``."""
        nu, d = components.degrees, components.means.shape[1]
        theta = self.exponents(weights, components, log_volume)
        of_u = theta[:, 0] + 0.5 * d - 1
        constants = self.limit.log_peaks(weights, components.gaussians, log_volume) + _stirling(0.5 * nu)
        return np.column_stack([constants - 0.5 * d + 1, theta[:, 1:], of_u, 0.5 * (nu + d) - 1])

    def sums_of(self, y: FloatArray, shares: FloatArray, components: Students | None = None) -> FloatArray:
        """With the hidden precisions that are expected, shape (K, P + 2); as if all were one without components."""
        features = self.features.of(y)
        if components is None:
            plain = shares @ features.T
            return np.column_stack([plain, plain[:, 0], np.zeros(len(plain))])
        nu, d = components.degrees[:, None], len(y)
        distances = np.maximum(-2 * self.exponents(shares[:, 0], components, 0.0) @ features, 0.0)
        logs = np.log1p(distances / nu)
        u = (1 + d / nu) / (1 + distances / nu)
        return with_hidden((shares * u) @ features.T, shares.sum(axis=1), (shares * logs).sum(axis=1), nu[:, 0], d)

    def maximise(
        self, statistics: SufficientStatistics, reference: Students, moments: Moments, floor: FloatArray
    ) -> tuple[FloatArray, Students]:
        """Means and scatter weighted by r u, the latter over the sums of r; degrees of freedom that fit log u - u.

        These solve ``log(nu / 2) - digamma(nu / 2) = -mean(log u - u + 1)``.
        """
        counts, weighted, logs = statistics.sums[:, 0], statistics.sums[:, -2], statistics.sums[:, -1]
        gone = counts <= VANISHED
        safe = np.where(gone, 1.0, counts)
        _, found = self.limit.maximise(_as_gaussian(statistics), reference.gaussians, moments, floor)
        if self.limit.partly_shared:
            means_of_u = np.full(len(counts), weighted.sum() / counts.sum())
        else:
            means_of_u = np.where(gone, 1.0, weighted / safe)
        # of labels, which know of no u, there is nothing to learn of its spread
        known = ~gone & (logs != 0)
        degrees = np.clip(2 * shapes_of(np.where(known, -logs / safe, 1.0)), LEAST_DEGREES, MOST_DEGREES)
        degrees = np.where(known, degrees, reference.degrees) if self.given is None else reference.degrees
        return proportions(counts), Students.of(self.limit.scaled(found, means_of_u), degrees)

    def spread(self, n_components: int, moments: Moments, floor: FloatArray) -> Students:
        """Copies of the data's own mean and covariance, where EM begins."""
        nu = FIRST_DEGREES if self.given is None else self.given
        return Students.of(self.limit.spread(n_components, moments, floor), np.full(n_components, nu))

    def n_parameters(self, n_components: int, n_features: int) -> int:
        """Weights, means, scale matrices and degrees of freedom that are estimated."""
        return self.limit.n_parameters(n_components, n_features) + n_components * (self.given is None)

    def n_fixed(self, fixed: Collection[str], n_components: int, n_features: int) -> int:
        """Those of the weights, of the means and of the scale matrices."""
        return self.limit.n_fixed(fixed, n_components, n_features)

    def about(self, statistics: SufficientStatistics, components: Students, moments: Moments) -> Centred:
        """As for Gaussians, with the sums that are weighted by u."""
        centred, moments = self.limit.about(_as_gaussian(statistics), components.gaussians, moments)
        sums = statistics.sums.copy()
        sums[:, 1:-2] = centred.sums[:, 1:]
        return replace(statistics, sums=sums), moments

    def holding(self, components: Students, held: Students, fixed: Collection[str]) -> Students:
        """With means, scale matrices or both of the others."""
        return Students.of(self.limit.holding(components.gaussians, held.gaussians, fixed), components.degrees)

    def taken(self, components: Students, order: IntArray | slice) -> Students:
        """Some of the components, in an order; there may be none."""
        return Students.of(self.limit.taken(components.gaussians, order), components.degrees[order])

    def joined(self, parts: Sequence[Students], weights: FloatArray) -> Students:
        """As for Gaussians, each with its degrees of freedom."""
        gaussians = self.limit.joined([part.gaussians for part in parts], weights)
        return Students.of(gaussians, np.concatenate([part.degrees for part in parts]))

    def move(self, components: Students, linear: FloatArray, before: FloatArray, after: FloatArray) -> Students:
        """Components after an affine map."""
        return Students.of(self.limit.move(components.gaussians, linear, before, after), components.degrees)

    def to_vector(self, components: Students) -> FloatArray:
        """As for Gaussians, then the logarithms of the degrees of freedom that are estimated."""
        vector = self.limit.to_vector(components.gaussians)
        return vector if self.given is not None else np.concatenate([vector, np.log(components.degrees)])

    def from_vector(self, vector: FloatArray, like: Students) -> Students:
        """Inverse of `to_vector`, within the bounds."""
        if self.given is not None:
            return Students.of(self.limit.from_vector(vector, like.gaussians), like.degrees)
        k = len(like.degrees)
        degrees = np.clip(np.exp(vector[-k:]), LEAST_DEGREES, MOST_DEGREES)
        return Students.of(self.limit.from_vector(vector[:-k], like.gaussians), degrees)

    def means(self, components: Students) -> FloatArray:
        """Shape (K, d)."""
        return components.means

    def covariances(self, components: Students) -> FloatArray:
        """Scale matrices, as those of the Gaussian family."""
        return self.limit.covariances(components.gaussians)

    def covariance(self, components: Students, component: int) -> FloatArray:
        """Scale matrix, shape (d, d)."""
        return self.limit.covariance(components.gaussians, component)

    def variances(self, components: Students) -> FloatArray:
        """Diagonals of the scale matrices, shape (K, d)."""
        return self.limit.variances(components.gaussians)

    def sample(self, components: Students, labels: AnyArray, generator: np.random.Generator) -> FloatArray:
        """Gaussian draws over the roots of chi-squared ones by their degrees of freedom."""
        about = Gaussians(np.zeros_like(components.means), components.factors)
        draws, nu = self.limit.sample(about, labels, generator), components.degrees[labels]
        return components.means[labels] + draws / np.sqrt(generator.chisquare(nu) / nu)[:, None]

    def arrays(self, components: Students) -> Mapping[str, tuple[tuple[str, ...], FloatArray]]:
        """Means, scale matrices (for readers), their factors and degrees of freedom."""
        arrays = dict(self.limit.arrays(components.gaussians))
        arrays["scales"] = arrays.pop("covariances")
        return {**arrays, "degrees": (("component",), components.degrees)}

    def from_arrays(self, arrays: Mapping[str, FloatArray]) -> Students:
        """Components from means, factors or scale matrices, and degrees of freedom."""
        theirs = {"covariances" if name == "scales" else name: values for name, values in arrays.items()}
        degrees = theirs.pop("degrees")
        gaussians = self.limit.from_arrays(theirs)
        expected = gaussians.means.shape[:1]
        if degrees.shape != expected:
            raise InputError(f"degrees of a {self.name} model have shape {degrees.shape}, expected {expected}")
        if not (np.isfinite(degrees).all() and (degrees > 0).all()):
            raise InputError(f"degrees of a {self.name} model must be finite and positive")
        if self.given is not None and (degrees != self.given).any():
            raise InputError(f"degrees of a {self.name} model must be {self.given:g}")
        return Students.of(gaussians, degrees)

    def remarks(self, components: Students) -> list[str]:
        """Degrees of freedom."""
        return [f"{nu:.3g} degrees of freedom" for nu in components.degrees]

    def expansion_error(self, components: Students) -> FloatArray:
        """That of half the squared distances, times the largest slope of the log density in these."""
        d = components.means.shape[1]
        return self.limit.expansion_error(components.gaussians) * (1 + d / components.degrees)

    def local_frames(self, components: Students) -> LocalFrames:
        """As those of the Gaussians."""
        return self.limit.local_frames(components.gaussians)

    def narrowness(self, components: Students, moments: Moments) -> FloatArray:
        """As that of the Gaussians."""
        return self.limit.narrowness(components.gaussians, moments)

    def marginal(self, components: Students, features: IntArray) -> tuple[Family, Students]:
        """With the same degrees of freedom."""
        _, gaussians = self.limit.marginal(components.gaussians, features)
        return self.free, Students.of(gaussians, components.degrees)

    def regression(
        self, components: Students, given: IntArray, wanted: IntArray
    ) -> tuple[FloatArray, Family, Students]:
        """As for Gaussians, with more degrees of freedom."""
        slopes, _, rest = self.limit.regression(components.gaussians, given, wanted)
        return slopes, type(self.free)(), Students.of(rest, components.degrees + len(given))

    def inflation(self, components: Students, x: FloatArray) -> FloatArray:
        """``(nu + delta) / (nu + g - 2)``: from scale matrices to covariances, infinite where there are none."""
        nu, g = components.degrees[:, None], x.shape[1]
        with np.errstate(divide="ignore"):
            return (nu + self.distances(components, x)) / np.maximum(nu + g - 2, 0.0)

    def condition(
        self, components: Students, given: IntArray, values: FloatArray, wanted: IntArray
    ) -> tuple[Family, Students]:
        """More degrees of freedom, and scales that follow how far the given values are from the means."""
        slopes, family, rest = self.regression(components, given, wanted)
        _, known = self.marginal(components, given)
        means = rest.means + np.einsum("kij,kj->ki", slopes, values - known.means)
        away = self.free.distances(known, values[None])[:, 0]
        gaussians = self.free.limit.scaled(rest.gaussians, (components.degrees + away) / rest.degrees)
        return family, Students(means, gaussians.factors, rest.degrees)

    def distances(self, components: Students, x: FloatArray) -> FloatArray:
        """Squared, of rows (n, d) in units of the scale matrices, shape (K, n)."""
        own = self.local_frames(components)
        away = x - own.origins[:, None]
        forwards = np.swapaxes(own.forwards, 1, -1)
        z = away @ forwards if forwards.ndim == 3 else away * own.forwards[:, None]
        return np.asarray((z**2).sum(axis=2))


class StudentFull(Student):
    """Any scale matrices."""

    name = "t_full"
    limit = Full()
    frame = "whitening"
    features: ClassVar[FeatureMap] = PRODUCTS
    local_features: ClassVar[FeatureMap] = PRODUCTS


class StudentTied(StudentFull):
    """One scale matrix for all; degrees of freedom of their own."""

    name = "t_tied"
    limit = Equal()

    @property
    def free(self) -> Student:
        """Any scale matrices."""
        return StudentFull(self.given)


class StudentDiag(Student):
    """Diagonal scale matrices; the features of a component do not correlate, but share u."""

    name = "t_diag"
    limit = Diag()
    frame = "isotropic"
    features: ClassVar[FeatureMap] = SQUARES
    local_features: ClassVar[FeatureMap] = SQUARES


def with_hidden(
    sums: FloatArray, counts: FloatArray, logs: FloatArray, degrees: FloatArray, n_features: int
) -> FloatArray:
    """Sums of the complete data, shape (K, P + 2), from those that an E-step makes.

    Parameters
    ----------
    sums : ndarray, shape (K, P)
        Of the features times r u, where u is expected given the sample.
    counts, logs : ndarray, shape (K,)
        Sums of r, and of ``r log(1 + delta / nu)`` with squared distances delta.
    degrees : ndarray, shape (K,)
    n_features : int
        d.
    """
    log_u = counts * np.log1p(n_features / degrees) - logs
    spread = log_u - sums[:, 0] + counts - counts * gap_of(0.5 * (degrees + n_features))
    return np.column_stack([counts, sums[:, 1:], sums[:, 0], spread])


def _as_gaussian(statistics: SufficientStatistics) -> SufficientStatistics:
    """What a Gaussian M-step takes: all sums weighted by u, the first of them too."""
    sums = statistics.sums
    return replace(statistics, sums=np.hstack([sums[:, -2:-1], sums[:, 1:-2]]))


def _stirling(x: FloatArray) -> FloatArray:
    """``x log x - x - log Gamma(x)``, without loss of digits where x is large."""
    inverse = 1 / x
    rest = inverse / 12 * (1 - inverse**2 / 30 * (1 - inverse**2 * 2 / 7))
    return np.where(x > LARGE, 0.5 * (np.log(x) - LOG_2PI) - rest, x * np.log(x) - x - gammaln(x))
