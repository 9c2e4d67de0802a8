"""The first pass over the data: counts, moments, range, missing rows, and a reproducible sample of rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dgmm.errors import InputError
from dgmm.estep import complete_rows
from dgmm.frame import Frame, FrameKind, Moments, make_frame
from dgmm.grid import Grid
from dgmm.rows import Rows
from dgmm.types import AnyArray, FloatArray

#: Squares of larger values, summed, could overflow.
LARGEST = 1e150
#: Of the hashes that choose the rows that are held out; those of stream 0 draw the sample.
HOLDOUT_STREAM = 1


@dataclass(frozen=True)
class Sample:
    """The rows whose keys are smallest.

    If they are hashes of the rows' numbers, this is a uniform sample that depends on the seed and nothing else. With
    weights, and keys that are exponential numbers at these rates, it is one with probabilities as the weights
    (Efraimidis and Spirakis 2006).

    Attributes
    ----------
    keys : ndarray, shape (m,)
    rows : Rows
    limit : int
        Rows kept at most.
    next_key : float
        The smallest key that was not kept, inf if all were.
    """

    keys: AnyArray
    rows: Rows
    limit: int
    next_key: float = np.inf

    @classmethod
    def of(cls, keys: AnyArray, rows: Rows, limit: int, next_key: float = np.inf) -> Sample:
        """The rows with the smallest keys."""
        if len(keys) > limit:
            order = np.argpartition(keys, limit)
            next_key = min(next_key, float(keys[order[limit]]))
            keys, rows = keys[order[:limit]], rows[order[:limit]]
        return cls(keys, rows, limit, next_key)

    def ordered(self) -> Sample:
        """By key, so that the first rows of a uniform sample are one too."""
        order = np.argsort(self.keys)
        return Sample(self.keys[order], self.rows[order], self.limit, self.next_key)

    def merge(self, other: Sample) -> Sample:
        """The smallest keys of both."""
        keys = np.concatenate([self.keys, other.keys])
        return Sample.of(keys, self.rows.merge(other.rows), self.limit, min(self.next_key, other.next_key))

    def first(self, n: int) -> Rows:
        """A smaller sample of the same population, if this one is ordered; weights, if any, have mean one.

        Heavy rows are more likely to be among the first, so that each stands for its weight over the probability of
        that, given the key of the next (Cohen and Kaplan 2007): all weigh the same where they are few of many, and
        what they weigh themselves where they are all there are.
        """
        rows = self.rows[:n]
        if rows.weights is None:
            return rows
        after = float(self.keys[n]) if n < len(self.keys) else self.next_key
        weights = rows.weights / -np.expm1(-rows.weights * after)
        return Rows(rows.x, weights / weights.mean())


def sample_keys(hashes: NDArray[np.uint64], weights: FloatArray | None) -> AnyArray:
    """Keys of a `Sample` from the rows' hashes and weights."""
    if weights is None:
        return hashes
    return -np.log((hashes.astype(float) + 0.5) * 2.0**-64) / weights


def is_held_out(rows: NDArray[np.uint64], seed: int, share: float) -> NDArray[np.bool_]:
    """Which rows are held out of the fit, at most half of them.

    By other hashes than those that draw the sample: what the sample is drawn from must not have been chosen by them.
    """
    return row_hashes(rows, seed, HOLDOUT_STREAM) < np.uint64(share * 2.0**64)


def row_hashes(rows: NDArray[np.uint64], seed: int, stream: int = 0) -> NDArray[np.uint64]:
    """Pseudo-random numbers of row numbers: the finaliser of splitmix64 (Steele, Lea and Flood 2014).

    Parameters
    ----------
    rows : ndarray of uint64
    seed : int
    stream : int
        Numbers of different streams are independent.
    """
    with np.errstate(over="ignore"):
        z = (rows + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed) * np.uint64(0xD1B54A32D192ED03)
        z = z + np.uint64(stream) * np.uint64(0x8CB92BA72F3D8DD7)
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
    n_samples : int
        Complete rows.
    n_missing : int
        Rows with a missing value, or of no weight; they are left out of the fit.
    sample : Sample
    held_out : Moments
        Of the complete rows that are held out of the fit; everything else is of those that are not.
    """

    moments: Moments
    minimum: FloatArray
    maximum: FloatArray
    n_samples: int
    n_missing: int
    sample: Sample
    held_out: Moments

    def merge(self, other: Profile) -> Profile:
        """Profile of both."""
        return Profile(
            self.moments.merge(other.moments),
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
            self.n_samples + other.n_samples,
            self.n_missing + other.n_missing,
            self.sample.merge(other.sample),
            self.held_out.merge(other.held_out),
        )

    @property
    def scale(self) -> float:
        """What brings the weights of the rows to a mean of one."""
        return self.n_samples / self.moments.count if self.moments.count else 1.0

    def finished(self) -> Profile:
        """With weights of mean one and the sample in order, once everything is merged."""
        moments, held_out = (m.scaled(self.scale) for m in (self.moments, self.held_out))
        return replace(self, moments=moments, held_out=held_out, sample=self.sample.ordered())

    @cached_property
    def _frames(self) -> dict[tuple[FrameKind, float | None], Frame]:
        return {}

    def frame(self, kind: FrameKind, features: tuple[str, ...] = (), ridge: float | None = None) -> Frame:
        """The frame of this kind; `InputError` if a feature is constant, or they are dependent, without a ridge."""
        if (kind, ridge) not in self._frames:
            mean, covariance = self.moments.mean, self.moments.covariance
            self._frames[kind, ridge] = make_frame(kind, mean, covariance, features, ridge)
        return self._frames[kind, ridge]


def used_rows(rows: Rows) -> AnyArray | None:
    """Which rows are complete and have a weight, shape (n,); None if all."""
    complete = complete_rows(rows.x)
    if rows.weights is None:
        return complete
    # False where it is missing
    heavy = rows.weights > 0
    if complete is not None:
        heavy &= complete
    return None if heavy.all() else heavy


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

    def __call__(self, segment: int, given: Rows) -> Profile:
        """Profile of one segment, all its rows given."""
        self._check_weights(segment, given)
        numbers = self.grid.rows(self.grid.region(segment))
        used = used_rows(given)
        rows = given if used is None else given[used]
        numbers = numbers if used is None else numbers[used]
        rows = Rows(np.ascontiguousarray(rows.x, dtype=np.float64), rows.weights)
        n_missing = self.grid.n_rows(segment) - len(rows)
        held = rows[:0]
        if self.holdout:
            out = is_held_out(numbers, self.seed, self.holdout)
            held, rows, numbers = rows[out], rows[~out], numbers[~out]
        keys = sample_keys(row_hashes(numbers, self.seed), rows.weights)
        sample = Sample.of(keys, rows, self.limit)
        columns = np.ascontiguousarray(rows.x.T)  # the extremes of short rows are slow
        low, high = columns.min(axis=1, initial=np.inf), columns.max(axis=1, initial=-np.inf)
        if not (np.maximum(-low, high) < LARGEST).all() or not (np.abs(held.x) < LARGEST).all():
            refuse_infinite(self.name, self.features, self.grid, segment, given.x)
        moments, moments_held = (Moments.of(part.x, part.weights) for part in (rows, held))
        return Profile(moments, low, high, len(rows), n_missing, sample, moments_held)

    def _check_weights(self, segment: int, rows: Rows) -> None:
        """Raise `InputError` that names the first weight that cannot be used."""
        if rows.weights is None:
            return
        bad = np.flatnonzero((rows.weights < 0) | (rows.weights >= LARGEST))
        if len(bad):
            raise InputError(
                f"the weight of sample {place_of(self.grid, segment, int(bad[0]))} of {self.name} is "
                f"{rows.weights[bad[0]]:g}: weights must be finite and not negative"
            )


def refuse_infinite(name: str, features: tuple[str, ...], grid: Grid, segment: int, x: AnyArray) -> None:
    """Raise `InputError` that names the first value of a segment, all its rows given, that cannot be used."""
    bad = np.argwhere(np.abs(x) >= LARGEST)
    if len(bad):
        i, feature = bad[0].tolist()
        raise InputError(
            f"feature {features[feature]!r} of {name} is {x[i, feature]} at sample {place_of(grid, segment, i)}: only "
            f"finite values below {LARGEST:g} can be used; mark it missing (NaN)"
        )


def place_of(grid: Grid, segment: int, i: int) -> str:
    """Indices of sample ``i`` of a segment along the dimensions of the grid."""
    row = int(grid.rows(grid.region(segment))[i])
    return f"({', '.join(str(int(j)) for j in np.unravel_index(row, grid.shape))})"
