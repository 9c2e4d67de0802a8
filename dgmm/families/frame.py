"""Moments of the data and the coordinates in which the arithmetic is done.

All statistics are accumulated in *frame* coordinates ``y = forward (x - origin)`` whose origin is the mean of the
data, so that an offset or wildly different units cost no digits. Parameters are reported in the data's own units.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from scipy.linalg import eigh, solve_triangular

from dgmm.errors import InputError
from dgmm.types import FloatArray, Sendable

FrameKind = Literal["whitening", "isotropic", "rigid", "standard", "identity", "scaling"]

#: Below this smallest eigenvalue of the correlation matrix features count as linearly dependent.
DEPENDENT = 1e-13
#: Of the largest variance: the least that a feature counts as having where constant ones are allowed.
SHARE = 1e-30


@dataclass(frozen=True)
class Moments(Sendable):
    """Count, mean and centred scatter of a set of samples, mergeable without cancellation.

    Attributes
    ----------
    count : float
        Number of samples (the sum of their weights).
    mean : ndarray, shape (d,)
    scatter : ndarray, shape (d, d)
        Sum of ``(x - mean)(x - mean)'``.
    """

    count: float
    mean: FloatArray
    scatter: FloatArray

    @classmethod
    def of(cls, x: FloatArray, weights: FloatArray | None = None) -> Moments:
        """Moments of the rows of ``x``, shape (n, d), each as often as its weight, shape (n,), says."""
        if not len(x):
            return cls(0.0, np.zeros(x.shape[1]), np.zeros((x.shape[1], x.shape[1])))
        # sums along short rows are slow, and those of single precision not what they should be
        columns = np.ascontiguousarray(x.T, dtype=np.float64)
        mean = np.average(columns, axis=1, weights=weights)
        # a second centring takes out what rounding left in the mean of far-off data
        centred = columns - mean[:, None]
        shift = np.average(centred, axis=1, weights=weights)
        centred -= shift[:, None]
        if weights is None:
            return cls(float(len(x)), mean + shift, centred @ centred.T)
        return cls(float(weights.sum()), mean + shift, (centred * weights) @ centred.T)

    def scaled(self, factor: float) -> Moments:
        """Moments when every sample counts as many times as much."""
        return self if factor == 1 else Moments(self.count * factor, self.mean, self.scatter * factor)

    def merge(self, other: Moments) -> Moments:
        """Moments of the union (Chan, Golub and LeVeque 1983, equations 1.5)."""
        if not other.count:
            return self
        if not self.count:
            return other
        count = self.count + other.count
        delta = other.mean - self.mean
        return Moments(
            count,
            self.mean + delta * (other.count / count),
            self.scatter + other.scatter + np.outer(delta, delta) * (self.count * other.count / count),
        )

    @property
    def covariance(self) -> FloatArray:
        """Maximum likelihood covariance, shape (d, d)."""
        return self.scatter / self.count

    @cached_property
    def second(self) -> FloatArray:
        """Sum of ``x x'``, shape (d, d): meant for moments already in a frame."""
        return self.scatter + self.count * np.outer(self.mean, self.mean)

    def in_frame(self, frame: Frame) -> Moments:
        """The same moments in the frame's coordinates."""
        left = frame.to_frame(self.scatter)
        return Moments(self.count, frame.to_frame(self.mean - frame.origin), frame.to_frame(left.T))


@dataclass(frozen=True)
class Frame:
    """An affine change of coordinates ``y = forward (x - origin)``.

    Attributes
    ----------
    origin : ndarray, shape (d,)
    forward, backward : ndarray, shape (d, d) or (d,)
        The linear map and its inverse; a vector stands for a diagonal matrix. Both are lower triangular.
    """

    origin: FloatArray
    forward: FloatArray
    backward: FloatArray

    @property
    def log_volume(self) -> float:
        """``log |det forward|``: what a density in frame coordinates gains in the data's units."""
        diagonal = self.forward if self.forward.ndim == 1 else np.diagonal(self.forward)
        return float(np.log(diagonal).sum())

    def coordinates(self, x: FloatArray) -> FloatArray:
        """Coordinates (d, n) of samples (n, d)."""
        return self.to_frame((x - self.origin).T)

    def to_frame(self, vectors: FloatArray) -> FloatArray:
        """Apply the linear part to a vector (d,) or to the columns of a matrix (d, m)."""
        return apply_linear(self.forward, vectors)

    def to_data(self, vectors: FloatArray) -> FloatArray:
        """Apply the inverse of the linear part to a vector (d,) or to the columns of a matrix (d, m)."""
        return apply_linear(self.backward, vectors)


def apply_linear(matrix: FloatArray, vectors: FloatArray) -> FloatArray:
    """``matrix @ vectors`` where a one-dimensional ``matrix`` stands for a diagonal one."""
    if matrix.ndim == 2:
        return matrix @ vectors
    return matrix * vectors if vectors.ndim == 1 else matrix[:, None] * vectors


def make_frame(
    kind: FrameKind,
    mean: FloatArray,
    covariance: FloatArray,
    features: tuple[str, ...] = (),
    ridge: float | None = None,
) -> Frame:
    """Frame of a data set with this mean and covariance.

    Parameters
    ----------
    kind : {"whitening", "isotropic", "rigid", "standard", "identity", "scaling"}
        ``whitening`` makes the covariance the identity; ``isotropic`` is one common scale, which keeps diagonal and
        spherical covariances what they are; ``rigid`` is the same for matrices, whose shapes and orientations it
        keeps; ``standard`` takes each feature in units of its standard deviation; ``identity`` are the data's own
        coordinates; ``scaling`` takes each feature in units of its mean, its origin being zero.
    mean : ndarray, shape (d,)
    covariance : ndarray, shape (d, d)
    features : tuple of str, optional
        Names for the error messages.
    ridge : float, optional
        Variance that is added to every feature, and where that is not enough a little more: any covariance will do.

    Raises
    ------
    InputError
        If there is no ridge and a feature is constant, or the features are linearly dependent (whitening and rigid).
    """
    if kind == "identity":
        one = np.ones(len(mean))
        return Frame(np.zeros(len(mean)), one, one)
    if kind == "scaling":
        scale = np.where(np.abs(mean) > 0, np.abs(mean), 1.0)
        return Frame(np.zeros(len(mean)), 1 / scale, scale)
    if ridge is not None:
        covariance = regular(mean, covariance, ridge)
    variances = np.diagonal(covariance)
    names = features or tuple(str(i) for i in range(len(mean)))
    # a spread at the rounding of the values themselves is no spread
    constant = variances <= (np.finfo(float).eps * 4 * np.abs(mean)) ** 2
    if constant.any():
        i = int(np.argmax(constant))
        raise InputError(f"feature {names[i]!r} is constant ({mean[i]:.6g} in every sample): leave it out")
    scale = np.full(len(mean), float(np.sqrt(variances.mean())))
    if kind == "isotropic":
        return Frame(mean, 1 / scale, scale)
    deviations = np.sqrt(variances)
    if kind == "standard":
        return Frame(mean, 1 / deviations, deviations)
    correlation = covariance / deviations / deviations[:, None]
    eigenvalues, vectors = eigh(correlation)
    if eigenvalues[0] < DEPENDENT:
        involved = ", ".join(names[i] for i in np.flatnonzero(np.abs(vectors[:, 0]) > 0.05))
        raise InputError(
            f"features {involved} are linearly dependent (smallest eigenvalue of their correlation "
            f"{eigenvalues[0]:.1e}): leave one out, or use covariance_type diag or spherical"
        )
    if kind == "rigid":
        return Frame(mean, 1 / scale, scale)
    factor = np.linalg.cholesky(correlation)
    backward = deviations[:, None] * factor
    forward = solve_triangular(factor, np.diag(1 / deviations), lower=True)
    return Frame(mean, forward, backward)


def regular(mean: FloatArray, covariance: FloatArray, ridge: float) -> FloatArray:
    """A covariance (d, d) with a ridge, and no feature constant or nearly a combination of the others."""
    variances = np.diagonal(covariance) + ridge
    least = np.maximum((8 * np.finfo(float).eps * np.abs(mean)) ** 2, SHARE * variances.max())
    least = np.where(least > 0, least, 1.0)
    variances = np.maximum(variances, least)
    result = covariance.copy()
    result[np.diag_indices_from(result)] = variances
    deviations = np.sqrt(variances)
    if eigh(result / deviations / deviations[:, None], eigvals_only=True)[0] < 10 * DEPENDENT:
        result[np.diag_indices_from(result)] *= 1 + 100 * DEPENDENT
    return result
