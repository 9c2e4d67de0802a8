"""Factor analysers: every component has a few factors of its own, and a variance for each feature."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from dgmm.errors import InputError
from dgmm.families.base import Family
from dgmm.families.cholesky import collapsed
from dgmm.families.frame import FrameKind, Moments
from dgmm.families.full import Full, own_moments
from dgmm.families.gaussian import SAME, GaussianFamily, Gaussians
from dgmm.families.loadings import analysed
from dgmm.families.orientation import lower_factors
from dgmm.families.prior import Prior
from dgmm.families.statistics import SufficientStatistics
from dgmm.types import FloatArray, IntArray

#: No uniqueness is a smaller share of the feature's variance in its component: what is next to it keeps ten digits.
LEAST = 1e-6
#: A covariance is one of loadings and uniquenesses if they come to it by this share of the features' deviations.
ALIKE = 1e-6


@dataclass(frozen=True)
class Analysers(Gaussians):
    """Gaussian components whose covariances are ``L L' + diag(psi)``.

    Attributes
    ----------
    means : ndarray, shape (K, d)
    factors : ndarray, shape (K, d, d)
        Lower Cholesky factors of the covariances.
    loadings : ndarray, shape (K, d, q)
        L, up to a rotation.
    uniquenesses : ndarray, shape (K, d)
        Psi, the variance of each feature that no factor explains.
    """

    loadings: FloatArray
    uniquenesses: FloatArray

    @classmethod
    def of(cls, means: FloatArray, loadings: FloatArray, uniquenesses: FloatArray) -> Analysers:
        """With the Cholesky factors that follow."""
        # in one order in memory: see `lower_factors`
        loadings = np.ascontiguousarray(loadings)
        k, d, q = loadings.shape
        roots = np.zeros((k, d, d + q))
        roots[:, np.arange(d), np.arange(d)] = np.sqrt(uniquenesses)
        roots[:, :, d:] = loadings
        return cls(means, lower_factors(roots), loadings, uniquenesses)


class Factors(Full):
    """``N(mu_k, L_k L_k' + diag(psi_k))`` with loadings L of a number of factors (Ghahramani and Hinton 1996).

    The structure keeps under any scales of the features and under no other map. A pass is that of full covariances; the
    M-step is a factor analysis of every component's scatter. Instead of a floor that is added, the uniquenesses do not
    fall below it: they may well vanish where the covariance does not (Heywood 1931).

    Parameters
    ----------
    n_factors : int
    """

    aliases = ()
    frame: ClassVar[FrameKind] = "standard"

    def __init__(self, n_factors: int) -> None:
        self.name = f"factors:{n_factors}"  # one of several of its class
        self.n_factors = n_factors

    @classmethod
    def of_number(cls, number: str) -> Factors:
        """With so many factors."""
        if not (number.isascii() and number.isdecimal() and int(number)):
            raise InputError(f"factors:{number} has no number of factors: give a positive whole number, as factors:2")
        return cls(int(number))

    def unconstrained(self) -> Full:
        """As full."""
        return Full()

    def prior(self, moments: Moments) -> Prior | None:
        """None: that of full covariances says nothing of loadings."""
        return None

    def contains(self, other: Family) -> bool:
        """Fewer factors, and covariances along the axes, which have none."""
        if isinstance(other, Factors):
            return other.n_factors < self.n_factors
        return isinstance(other, GaussianFamily) and other.independent

    def objection(self, minimum: FloatArray, maximum: FloatArray, features: Sequence[str]) -> str | None:
        """That so many factors of so few features are nothing simpler than any covariance."""
        d = len(features)
        if self.n_factors < d and self.free_covariances(1, d) < Full().free_covariances(1, d):
            return None
        return f"{self.n_factors} factors of {d} features are no simpler than full: take fewer, or full"

    def free_covariances(self, n_components: int, n_features: int) -> int:
        """K (d q - q (q - 1) / 2 + d): loadings but for rotations, and uniquenesses."""
        q = self.n_factors
        return n_components * (n_features * q - q * (q - 1) // 2 + n_features)

    def maximise(
        self, statistics: SufficientStatistics, reference: Gaussians, moments: Moments, floor: FloatArray
    ) -> tuple[FloatArray, Analysers]:
        """Weighted means, and a factor analysis of each weighted covariance."""
        assert isinstance(reference, Analysers)
        weights, means, covariances, scale, gone = own_moments(statistics, reference)
        covariances = scale @ covariances @ np.swapaxes(scale, 1, 2)
        means[gone] = reference.means[gone]
        loadings, uniquenesses = reference.loadings.copy(), reference.uniquenesses.copy()
        for k in np.flatnonzero(~gone).tolist():
            least = self._least(covariances[k], np.diagonal(floor))
            if least is None:
                raise collapsed(k, statistics.sums[:, 0], statistics.count)
            found, own = analysed(covariances[k], self.n_factors, least, uniquenesses[k])
            if not floor.any() and (own <= least).sum() > self.n_factors:
                # as many features as there are factors may be nothing but these, and not more
                raise collapsed(k, statistics.sums[:, 0], statistics.count)
            loadings[k], uniquenesses[k] = turned(found, loadings[k], own), own
        return weights, Analysers.of(means, loadings, uniquenesses)

    def _least(self, covariance: FloatArray, floor: FloatArray) -> FloatArray | None:
        """The least uniquenesses, shape (d,); None where a feature has no variance and there is no floor."""
        least = np.maximum(LEAST * np.diagonal(covariance), floor)
        return least if (least > 0).all() else None

    def _alone(self, covariance: FloatArray, floor: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Loadings and uniquenesses of a covariance by itself."""
        least = self._least(covariance, floor)
        if least is None:
            raise np.linalg.LinAlgError("a variance is not positive")
        loadings, uniquenesses = analysed(covariance, self.n_factors, least)
        return principal_loadings(loadings, uniquenesses), uniquenesses

    def spread(self, n_components: int, moments: Moments, floor: FloatArray) -> Analysers:
        """Copies of the data's own factor analysis."""
        loadings, uniquenesses = self._alone(moments.covariance, np.diagonal(floor))
        means = np.tile(moments.mean, (n_components, 1))
        several = (np.tile(a, (n_components, *[1] * a.ndim)) for a in (loadings, uniquenesses))
        return Analysers.of(means, *several)

    def factors(self, n_components: int, covariance: FloatArray) -> FloatArray:
        """Shape (K, d, d), of what factors make of it."""
        loadings, uniquenesses = self._alone(covariance, np.zeros(len(covariance)))
        one = Analysers.of(np.zeros((1, len(covariance))), loadings[None], uniquenesses[None])
        return np.tile(one.factors, (n_components, 1, 1))

    def move(self, components: Gaussians, linear: FloatArray, before: FloatArray, after: FloatArray) -> Gaussians:
        """Components after a change of scales; loadings as `principal_loadings` turns them."""
        if not isinstance(components, Analysers):  # for densities that is all there is to it
            return super().move(components, linear, before, after)
        means = linear * (components.means - before) + after
        turned_ = principal_loadings(components.loadings, components.uniquenesses)
        return Analysers.of(means, linear[:, None] * turned_, linear**2 * components.uniquenesses)

    def to_vector(self, components: Gaussians) -> FloatArray:
        """Means, loadings, and logarithms of the uniquenesses."""
        assert isinstance(components, Analysers)
        parts = components.means, components.loadings, np.log(components.uniquenesses)
        return np.concatenate([part.ravel() for part in parts])

    def from_vector(self, vector: FloatArray, like: Gaussians) -> Analysers:
        """Inverse of `to_vector`."""
        assert isinstance(like, Analysers)
        means, loadings, logs = np.split(vector, np.cumsum([like.means.size, like.loadings.size]))
        shapes = like.means.shape, like.loadings.shape
        return Analysers.of(means.reshape(shapes[0]), loadings.reshape(shapes[1]), np.exp(logs).reshape(shapes[0]))

    def holding(self, components: Gaussians, held: Gaussians, fixed: Collection[str]) -> Gaussians:
        """With means, covariances or both of the others."""
        means = held.means if "means" in fixed else components.means
        return replace(held if "covariances" in fixed else components, means=means)

    def taken(self, components: Gaussians, order: IntArray | slice) -> Gaussians:
        """Some of the components, in an order."""
        assert isinstance(components, Analysers)
        c = components
        return Analysers(c.means[order], c.factors[order], c.loadings[order], c.uniquenesses[order])

    def joined(self, parts: Sequence[Gaussians], weights: FloatArray) -> Analysers:
        """Components of several mixtures as those of one."""
        names = "means", "factors", "loadings", "uniquenesses"
        return Analysers(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def arrays(self, components: Gaussians) -> Mapping[str, tuple[tuple[str, ...], FloatArray]]:
        """As full, and the loadings and uniquenesses."""
        assert isinstance(components, Analysers)
        return {
            **super().arrays(components),
            "loadings": (("component", "feature", "factor"), components.loadings),
            "uniquenesses": (("component", "feature"), components.uniquenesses),
        }

    def from_arrays(self, arrays: Mapping[str, FloatArray]) -> Analysers:
        """Components from all that `arrays` stored; from covariances or their factors where loadings are missing."""
        plain = Full().from_arrays(arrays)
        if "loadings" not in arrays:
            return self._from_covariances(plain)
        loadings, uniquenesses = arrays["loadings"], arrays["uniquenesses"]
        k, d = plain.means.shape
        if loadings.shape != (k, d, self.n_factors) or uniquenesses.shape != (k, d):
            raise InputError(
                f"loadings and uniquenesses of a {self.name} model have shapes {loadings.shape} and "
                f"{uniquenesses.shape}, expected {(k, d, self.n_factors)} and {(k, d)}"
            )
        if not (uniquenesses > 0).all():
            raise InputError(f"uniquenesses of a {self.name} model must be positive")
        found = Analysers(plain.means, plain.factors, np.ascontiguousarray(loadings), uniquenesses)
        self._agree(found, SAME)
        return found

    def _from_covariances(self, plain: Gaussians) -> Analysers:
        """By factor analysis; `InputError` where a covariance has another structure."""
        covariances = super().covariances(plain)
        each = [self._alone(covariance, np.zeros(len(covariance))) for covariance in covariances]
        loadings, uniquenesses = (np.array(part) for part in zip(*each, strict=True))
        found = Analysers(plain.means, plain.factors, loadings, uniquenesses)
        self._agree(found, ALIKE)
        return found

    def _agree(self, components: Analysers, share: float) -> None:
        """Refuse loadings and uniquenesses that do not make the covariances."""
        c = components
        made = c.loadings @ np.swapaxes(c.loadings, 1, 2) + c.uniquenesses[:, None] * np.eye(c.means.shape[1])
        deviations = np.sqrt((c.factors**2).sum(axis=2))
        if not (np.abs(made - self.covariances(c)) <= share * deviations[:, :, None] * deviations[:, None]).all():
            raise InputError(f"covariances of a {self.name} model are not made of {self.n_factors} factors")

    def narrowness(self, components: Gaussians, moments: Moments) -> FloatArray:
        """Smallest uniqueness relative to the feature's variance, but for as many as there are factors.

        So many may vanish and leave the covariance what it is; and along the factors of one component another one is as
        narrow as it likes.
        """
        assert isinstance(components, Analysers)
        shares = components.uniquenesses / np.diagonal(moments.covariance)
        return np.asarray(np.sort(shares, axis=1)[:, self.n_factors])


def turned(loadings: FloatArray, before: FloatArray, uniquenesses: FloatArray) -> FloatArray:
    """Loadings (d, q) rotated to be as near to others as may be, in units of the uniquenesses (Procrustes)."""
    left, _, right = np.linalg.svd(loadings.T @ (before / uniquenesses[:, None]))
    return loadings @ (left @ right)


def principal_loadings(loadings: FloatArray, uniquenesses: FloatArray) -> FloatArray:
    """Loadings (..., d, q) rotated so that ``L' Psi^-1 L`` is diagonal, the largest first, and their sum is positive.

    Scales of the features change nothing in that rotation.
    """
    inside = np.swapaxes(loadings, -1, -2) @ (loadings / uniquenesses[..., None])
    rotated = loadings @ np.linalg.eigh(inside)[1][..., ::-1]
    sums = (rotated / np.sqrt(uniquenesses)[..., None]).sum(axis=-2, keepdims=True)
    return np.asarray(rotated * np.where(sums < 0, -1.0, 1.0))
