"""The first pass over the data: counts, moments, range, missing rows, and a reproducible sample of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dgmm.data import Blocks, Grid
from dgmm.engine import Leaf, Mergeable
from dgmm.errors import InputError
from dgmm.estep import complete_rows
from dgmm.families import Frame, FrameKind, Moments, make_frame
from dgmm.passes.sample import Draw, Sample, groups_of, is_held_out, units_of
from dgmm.rows import Rows
from dgmm.types import AnyArray, FloatArray

T = TypeVar("T", bound=Mergeable)

#: Squares of larger values, summed, could overflow.
LARGEST = 1e150
#: Bytes of samples, in double precision, that the profile looks at in one piece: its passes over them stay in cache.
PIECE_BYTES = 2**20


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
    scale : float
        What brings the weights of the rows to a mean of one, once everything is merged.
    """

    moments: Moments
    minimum: FloatArray
    maximum: FloatArray
    n_samples: int
    n_missing: int
    sample: Sample
    held_out: Moments
    scale: float = 1.0

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

    def finished(self) -> Profile:
        """With weights of mean one and the sample in order, once everything is merged."""
        scale = self.n_samples / self.moments.count if self.moments.count else 1.0
        moments, held_out = (m.scaled(scale) for m in (self.moments, self.held_out))
        return replace(self, moments=moments, held_out=held_out, sample=self.sample.ordered(), scale=scale)

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
class Rowwise(Leaf[T]):
    """A leaf that looks at the complete rows of a segment in pieces.

    Attributes
    ----------
    name : str
        Of the source, for messages.
    features : tuple of str
    grid : Grid
    draw : Draw
        Of the sample.
    row_bytes : int
        Bytes of one row as it is read.
    holdout : float
        Share of the rows, or of the blocks, that is held out.
    blocks : Blocks or None
        What is held out as a whole; None for each row by itself.
    """

    name: str
    features: tuple[str, ...]
    grid: Grid
    draw: Draw
    row_bytes: int
    holdout: float = 0.0
    blocks: Blocks | None = None

    def pieces(self, segment: int, given: Rows) -> Iterator[tuple[Rows, Rows, NDArray[np.uint64], int]]:
        """Complete rows that are fitted, those that are held out, the numbers of the former, and the rows of a piece.

        Raises
        ------
        InputError
            On weights that cannot be used.
        """
        self._check_weights(segment, given)
        numbers = self.grid.rows(self.grid.region(segment))
        units = numbers if self.blocks is None else units_of(self.grid, segment, self.blocks)
        length = max(1, self.piece_bytes // (8 * len(self.features)))
        # one piece at least: a segment may have no rows when a leaf is only tried
        for start in range(0, max(len(given), 1), length):
            piece, its = given[start : start + length], numbers[start : start + length][: len(given)]
            n, used = len(piece), used_rows(piece)
            rows, its = (piece, its) if used is None else (piece[used], its[used])
            held = rows[:0]
            if self.holdout:
                of = units[start : start + length][:n]
                of = of if used is None else of[used]
                out = is_held_out(of, self.draw.seed, self.holdout)
                held, rows, its, of = rows[out], rows[~out], its[~out], of[~out]
                if self.blocks is not None:
                    rows = replace(rows, groups=groups_of(of, self.grid, self.blocks, self.draw.seed))
            yield rows, held, its, n

    def sample(self, rows: Rows, numbers: NDArray[np.uint64], n: int) -> Sample:
        """The sample of the complete ones among so many rows."""
        return self.draw.of(rows, numbers, n / self.grid.size)

    def sample_bytes(self, n_rows: int) -> int:
        """Bytes of the sample of a part of so many rows."""
        row_bytes = self.row_bytes + 8 * (self.blocks is not None)
        return self.draw.nbytes(n_rows / self.grid.size, n_rows, row_bytes)

    @property
    def lever(self) -> str:
        """The sample is what takes memory."""
        return f"lower sample_rows ({self.draw.limit})"

    @property
    def piece_bytes(self) -> int:
        """Bytes of samples that are looked at in one piece: no fewer than of a covariance, which is made of each."""
        return max(PIECE_BYTES, 8 * len(self.features) ** 2)

    def working_bytes(self, n_rows: int) -> int:
        """Numbers of all rows, made by adding, and of a piece its copies, masks, keys and what they are made of."""
        return 16 * n_rows * (1 + (self.blocks is not None)) + 8 * self.piece_bytes

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


@dataclass(frozen=True)
class ProfileSegment(Rowwise[Profile]):
    """The leaf of the profile pass; raises `InputError` on infinite values."""

    def __call__(self, segment: int, rows: Rows) -> Profile:
        """Profile of one segment, all its rows given."""
        return reduce(Profile.merge, (self._of(segment, rows, *piece) for piece in self.pieces(segment, rows)))

    def _of(self, segment: int, given: Rows, rows: Rows, held: Rows, numbers: NDArray[np.uint64], n: int) -> Profile:
        """Profile of a piece of so many rows."""
        sample = self.sample(rows, numbers, n)
        x, apart = (np.ascontiguousarray(part.x, dtype=np.float64) for part in (rows, held))
        columns = np.ascontiguousarray(x.T)  # the extremes of short rows are slow
        low, high = columns.min(axis=1, initial=np.inf), columns.max(axis=1, initial=-np.inf)
        if not (np.maximum(-low, high) < LARGEST).all() or not (np.abs(apart) < LARGEST).all():
            refuse_infinite(self.name, self.features, self.grid, segment, given.x)
        moments, moments_held = Moments.of(x, rows.weights), Moments.of(apart, held.weights)
        return Profile(moments, low, high, len(rows), n - len(rows) - len(held), sample, moments_held)

    def result_bytes(self, n_rows: int) -> int:
        """Two sets of moments, the range, and the sample."""
        d = len(self.features)
        return 16 * (d * d + 3 * d) + self.sample_bytes(n_rows)


@dataclass(frozen=True)
class SampleSegment(Rowwise[Sample]):
    """The leaf of a pass that draws a sample alone, once more where the profile's came out short."""

    def __call__(self, segment: int, rows: Rows) -> Sample:
        """The sample of one segment, all its rows given."""
        samples = (self.sample(fitted, numbers, n) for fitted, _, numbers, n in self.pieces(segment, rows))
        return reduce(Sample.merge, samples)

    def result_bytes(self, n_rows: int) -> int:
        """The sample."""
        return self.sample_bytes(n_rows)


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
