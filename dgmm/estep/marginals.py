"""Components in coordinates of their own, for samples of which only some of the features are known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dgmm.estep.stacks import Stackable
from dgmm.families import Frame, Noise, pack_second
from dgmm.types import AnyArray, FloatArray, Sendable


@dataclass(frozen=True)
class Marginals(Sendable):
    """Of one mixture, what tells the density of some of the features: its components in coordinates of their own.

    Attributes
    ----------
    origin : ndarray, shape (d,)
        Subtracted from the samples.
    shifts : ndarray, shape (K, d)
        Subtracted after that: what is left is how far they are from each mean.
    forwards : ndarray, shape (K, d, d) or (K, d)
        Under which each component is a standard normal.
    peaks : ndarray, shape (K,) or (K + 1,)
        Logarithms of the densities of complete samples at the means, times the weights; that of noise is the last.
    means : ndarray, shape (K, d)
        In the coordinates in which sums are taken.
    backwards : ndarray, shape (K, d, d) or (K, d)
        From the components' own coordinates to these.
    noise : Noise or None
        What stands beside the components, in the samples' coordinates.
    """

    origin: FloatArray
    shifts: FloatArray
    forwards: FloatArray
    peaks: FloatArray
    means: FloatArray
    backwards: FloatArray
    noise: Noise | None

    @classmethod
    def of(cls, m: Stackable, frame: Frame, local: AnyArray) -> Marginals:
        """Of a mixture in coordinates of a frame; sums of some components are in coordinates of their own."""
        own = m.family.local_frames(m.components)
        diagonal, d = own.forwards.ndim == 2, m.n_features
        forwards: FloatArray
        backwards: FloatArray
        if diagonal:
            forwards, backwards = own.forwards * frame.forward, np.asarray(1 / own.forwards)
        else:
            forwards = own.forwards @ (frame.forward if frame.forward.ndim == 2 else np.diag(frame.forward))
            backwards = np.linalg.inv(own.forwards)
        shifts = frame.to_data(own.origins.T).T
        peaks = m.family.local_parameters(m.weights, m.components, frame.log_volume)[:, 0]
        means = np.where(local[:, None], 0.0, own.origins)
        if local.any():
            backwards = backwards.copy()
            backwards[local] = np.ones(d) if diagonal else np.eye(d)
        if m.noise is not None:
            peaks = np.append(peaks, m.noise.log_density)
        return cls(frame.origin, shifts, np.ascontiguousarray(forwards), peaks, means, backwards, m.noise)

    @cached_property
    def columns(self) -> FloatArray:
        """The columns of `forwards`, one after the other, shape (K, d, d)."""
        return np.ascontiguousarray(np.swapaxes(self.forwards, 1, 2))

    @cached_property
    def factors(self) -> FloatArray:
        """Inverses of `forwards`."""
        return 1 / self.forwards if self.forwards.ndim == 2 else np.linalg.inv(self.forwards)

    def values(self, u: FloatArray) -> FloatArray:
        """Samples (K, n, d) less the origin, of the components' own coordinates (K, d, n)."""
        if self.factors.ndim == 2:
            return np.swapaxes(self.factors[:, :, None] * u, 1, 2) + self.shifts[:, None]
        return np.swapaxes(self.factors @ u, 1, 2) + self.shifts[:, None]

    def packed(self, counts: FloatArray, first: FloatArray, second: FloatArray) -> FloatArray:
        """Sums of features from those of 1, u and u u', or u^2, in the components' own coordinates."""
        means, count = self.means, counts[:, None]
        if second.ndim == 2:
            away = self.backwards * first
            squares = self.backwards**2 * second + 2 * means * away + count * means**2
            return np.hstack([count, away + count * means, squares])
        away = np.einsum("kij,kj->ki", self.backwards, first)
        products = self.backwards @ second @ np.swapaxes(self.backwards, 1, 2)
        cross = means[:, :, None] * (away + 0.5 * count * means)[:, None]
        return np.hstack([count, away + count * means, pack_second(products + cross + np.swapaxes(cross, 1, 2))])
