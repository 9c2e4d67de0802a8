"""The first pass over the data: counts, moments, range, missing rows, and a reproducible sample of rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dgmm import kernel
from dgmm.errors import InputError
from dgmm.frame import Frame, FrameKind, Moments, make_frame
from dgmm.grid import Grid
from dgmm.plan import frozen
from dgmm.types import AnyArray, FloatArray

#: Squares of larger values, summed, could overflow.
LARGEST = 1e150


@dataclass(frozen=True)
class Sample:
    """The rows whose keys are smallest.

    If they are hashes of the rows' numbers, this is a uniform sample that depends on the seed and nothing else.

    Attributes
    ----------
    keys : ndarray, shape (m,)
        In increasing order, so that the first rows of a uniform sample are one too.
    rows : ndarray, shape (m, d)
    limit : int
        Rows kept at most.
    """

    keys: AnyArray
    rows: FloatArray
    limit: int

    @classmethod
    def of(cls, keys: AnyArray, rows: FloatArray, limit: int) -> Sample:
        """The rows with the smallest keys."""
        if len(keys) > limit:
            kept = np.argpartition(keys, limit)[:limit]
            keys, rows = keys[kept], rows[kept]
        order = np.argsort(keys)
        return cls(keys[order], rows[order], limit)

    def merge(self, other: Sample) -> Sample:
        """The smallest keys of both."""
        return Sample.of(np.concatenate([self.keys, other.keys]), np.concatenate([self.rows, other.rows]), self.limit)


def is_held_out(rows: NDArray[np.uint64], seed: int, share: float) -> NDArray[np.bool_]:
    """Which rows are held out of the fit: those with the largest hashes, the other end from the sample."""
    return row_hashes(rows, seed) >= np.uint64((1 - share) * 2.0**64) if share else np.zeros(len(rows), dtype=bool)


def row_hashes(rows: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Pseudo-random numbers of row numbers: the finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        z = (rows + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed) * np.uint64(0xD1B54A32D192ED03)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


@dataclass(frozen=True)
class Profile:
    """What the first pass says about the data.

    Attributes
    ----------
    moments : Moments
        Of the complete rows.
    minimum, maximum : ndarray, shape (d,)
    n_missing : int
        Rows with a missing value; they are left out of the fit.
    sample : Sample
    held_out : Moments
        Of the complete rows that are held out of the fit; everything else is of those that are not.
    """

    moments: Moments
    minimum: FloatArray
    maximum: FloatArray
    n_missing: int
    sample: Sample
    held_out: Moments

    def merge(self, other: Profile) -> Profile:
        """Profile of both."""
        return Profile(
            self.moments.merge(other.moments),
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
            self.n_missing + other.n_missing,
            self.sample.merge(other.sample),
            self.held_out.merge(other.held_out),
        )

    @property
    def n_samples(self) -> int:
        """Complete rows, those held out left aside."""
        return round(self.moments.count)

    @cached_property
    def _frames(self) -> dict[tuple[FrameKind, float | None], Frame]:
        return {}

    def frame(self, kind: FrameKind, features: tuple[str, ...] = (), ridge: float | None = None) -> Frame:
        """The frame of this kind; `InputError` if a feature is constant, or they are dependent, without a ridge."""
        if (kind, ridge) not in self._frames:
            mean, covariance = self.moments.mean, self.moments.covariance
            self._frames[kind, ridge] = make_frame(kind, mean, covariance, features, ridge)
        return self._frames[kind, ridge]


def complete_rows(x: AnyArray) -> AnyArray | None:
    """Which rows of ``x`` have no missing value (NaN), shape (n,); None if all."""
    if x.dtype.kind != "f":
        return None
    if x.dtype not in (np.float32, np.float64) or not x.flags.c_contiguous:
        found = np.asarray(~np.isnan(x).any(axis=1))
        return None if found.all() else found
    marks = np.empty(len(x), dtype=np.bool_)
    return None if kernel.find_complete(frozen(x), marks) == len(x) else marks


@dataclass(frozen=True)
class ProfileSegment:
    """The leaf of the profile pass; raises `InputError` on infinite values.

    Attributes
    ----------
    name : str
        Of the source, for messages.
    features : tuple of str
    grid : Grid
    seed : int
    limit : int
        Rows of the sample.
    holdout : float
        Share of the rows that is held out.
    """

    name: str
    features: tuple[str, ...]
    grid: Grid
    seed: int
    limit: int
    holdout: float = 0.0

    def __call__(self, segment: int, x: AnyArray) -> Profile:
        """Profile of one segment, all its rows given."""
        rows = self.grid.rows(self.grid.region(segment))
        present = complete_rows(x)
        kept = x if present is None else x[present]
        rows = rows if present is None else rows[present]
        values = np.ascontiguousarray(kept, dtype=np.float64)
        n_missing = self.grid.n_rows(segment) - len(values)
        held = values[:0]
        if self.holdout:
            out = is_held_out(rows, self.seed, self.holdout)
            held, values, rows = values[out], values[~out], rows[~out]
        sample = Sample.of(row_hashes(rows, self.seed), values, self.limit)
        low, high = values.min(axis=0, initial=np.inf), values.max(axis=0, initial=-np.inf)
        if not (np.maximum(-low, high) < LARGEST).all() or not (np.abs(held) < LARGEST).all():
            refuse_infinite(self.name, self.features, self.grid, segment, x)
        return Profile(Moments.of(values), low, high, n_missing, sample, Moments.of(held))


def refuse_infinite(name: str, features: tuple[str, ...], grid: Grid, segment: int, x: AnyArray) -> None:
    """Raise `InputError` that names the first value of a segment, all its rows given, that cannot be used."""
    bad = np.argwhere(np.abs(x) >= LARGEST)
    if len(bad):
        i, feature = bad[0].tolist()
        row = int(grid.rows(grid.region(segment))[i])
        place = ", ".join(str(int(j)) for j in np.unravel_index(row, grid.shape))
        raise InputError(
            f"feature {features[feature]!r} of {name} is {x[i, feature]} at sample ({place}): only finite values below "
            f"{LARGEST:g} can be used; mark it missing (NaN)"
        )
