"""The first pass over the data: counts, moments, range, missing rows, and a reproducible sample of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from dgmm.data import Blocks, Grid
from dgmm.engine import Leaf, Mergeable
from dgmm.errors import InputError
from dgmm.estep import FIT, HELD_LACKING, LACKING, LEFT_OUT, Swept, complete_rows, swept, usable_rows
from dgmm.families import Frame, FrameKind, Moments, make_frame
from dgmm.passes.overlaps import Overlaps
from dgmm.passes.sample import Draw, Sample, groups_of, is_held_out, units_of
from dgmm.rows import Rows
from dgmm.types import AnyArray, FloatArray, Missing

T = TypeVar("T", bound=Mergeable)

#: Squares of larger values, summed, could overflow.
LARGEST = 1e150
#: Bytes of rows that lack some of their values, in double precision, that the profile looks at in one piece.
PIECE_BYTES = 2**20


@dataclass(frozen=True)
class Profile:
    """What the first pass says about the data.

    Attributes
    ----------
    moments : Moments
        Of the rows that are fitted; of complete ones as long as `lacking` are apart.
    minimum, maximum : ndarray, shape (d,)
    n_samples : int
        Rows that are fitted.
    n_missing : int
        Rows with a missing value, or of no weight; they are left out of the fit.
    sample : Sample
    held_out : Moments
        Of the complete rows that are held out of the fit; everything else is of those that are not.
    scale : float
        What brings the weights of the rows to a mean of one, once everything is merged.
    n_incomplete : int
        Rows with a missing value that are not left out; none of them unless values that are missing are marginalised.
    lacking, held_lacking : Overlaps or None
        Of such rows, those that are fitted and those that are held out, until everything is merged.
    """

    moments: Moments
    minimum: FloatArray
    maximum: FloatArray
    n_samples: int
    n_missing: int
    sample: Sample
    held_out: Moments
    scale: float = 1.0
    n_incomplete: int = 0
    lacking: Overlaps | None = None
    held_lacking: Overlaps | None = None

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
            n_incomplete=self.n_incomplete + other.n_incomplete,
            lacking=both(self.lacking, other.lacking),
            held_lacking=both(self.held_lacking, other.held_lacking),
        )

    def finished(self) -> Profile:
        """With weights of mean one and the sample in order, once everything is merged."""
        moments, held_out = with_lacking(self.moments, self.lacking), with_lacking(self.held_out, self.held_lacking)
        scale = self.n_samples / moments.count if moments.count else 1.0
        whole = replace(self, moments=moments.scaled(scale), held_out=held_out.scaled(scale), scale=scale)
        return replace(whole, sample=self.sample.ordered(), lacking=None, held_lacking=None)

    @cached_property
    def _frames(self) -> dict[tuple[FrameKind, float | None], Frame]:
        return {}

    def frame(self, kind: FrameKind, features: tuple[str, ...] = (), ridge: float | None = None) -> Frame:
        """The frame of this kind; `InputError` if a feature is constant, or they are dependent, without a ridge."""
        if (kind, ridge) not in self._frames:
            mean, covariance = self.moments.mean, self.moments.covariance
            self._frames[kind, ridge] = make_frame(kind, mean, covariance, features, ridge)
        return self._frames[kind, ridge]


def both(a: Overlaps | None, b: Overlaps | None) -> Overlaps | None:
    """Of two parts, each of which may have nothing."""
    return b if a is None else a if b is None else a.merge(b)


def with_lacking(moments: Moments, lacking: Overlaps | None) -> Moments:
    """Moments of complete rows and of others."""
    return moments if lacking is None else Overlaps.complete(moments).merge(lacking).moments()


def used_rows(rows: Rows, *, marginal: bool = False) -> AnyArray | None:
    """Which rows are complete, or have any value, and have a weight, shape (n,); None if all."""
    complete = usable_rows(rows.x, marginal=marginal)
    if rows.weights is None:
        return complete
    # False where it is missing
    heavy = rows.weights > 0
    if complete is not None:
        heavy &= complete
    return None if heavy.all() else heavy


@dataclass(frozen=True)
class Rowwise(Leaf[T]):
    """A leaf that reads the rows of a segment, and draws a sample of them.

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
    missing : {"omit", "raise", "marginalise"}
        What becomes of rows of which values are missing.
    """

    name: str
    features: tuple[str, ...]
    grid: Grid
    draw: Draw
    row_bytes: int
    holdout: float = 0.0
    blocks: Blocks | None = None
    missing: Missing = "omit"

    def drawn(self, segment: int, given: Rows) -> tuple[Swept, Sample]:
        """What a read of the rows of a segment has found, and the sample of those that are fitted.

        Raises
        ------
        InputError
            On weights that cannot be used, or where values are missing that must not be.
        """
        self._check_weights(segment, given)
        if self.missing == "raise":
            self._refuse_missing(segment, given)
        # none of them when a leaf is only tried
        numbers = self.grid.rows(self.grid.region(segment))[: len(given)]
        units = numbers if self.blocks is None else units_of(self.grid, segment, self.blocks)[: len(given)]
        held = is_held_out(units, self.draw.seed, self.holdout) if self.holdout else None
        found = swept(given.x, given.weights, held, marginal=self.missing == "marginalise")
        fitted = (found.roles == FIT) | (found.roles == LACKING)
        if self.blocks is not None:
            given = replace(given, groups=groups_of(units, self.grid, self.blocks, self.draw.seed))
        share = len(given) / self.grid.size
        return found, self.draw.of(given, numbers, share, None if fitted.all() else fitted)

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
        """Numbers, keys, places and roles of all rows, tiles and sums of their products, or copies of a piece."""
        copies = 8 if self.missing == "marginalise" else 7
        return n_rows * (26 + 16 * (self.blocks is not None)) + copies * self.piece_bytes

    def _refuse_missing(self, segment: int, rows: Rows) -> None:
        """Raise `InputError` that names the first value that is missing."""
        complete = complete_rows(rows.x)
        if complete is not None:
            i = int(np.argmin(complete))
            feature = self.features[int(np.argmax(np.isnan(rows.x[i])))]
            raise InputError(
                f"feature {feature!r} of {self.name} is missing at sample {place_of(self.grid, segment, i)}: "
                "leave such samples out (missing=omit), or use the values that they have (missing=marginalise)"
            )

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
        found, sample = self.drawn(segment, rows)
        low, high = found.minimum[0], found.maximum[0]
        n_fitted, n_left_out, *n_lacking = (
            int(np.count_nonzero(found.roles == role)) for role in (FIT, LEFT_OUT, LACKING, HELD_LACKING)
        )
        n_incomplete = sum(n_lacking)
        usable = (np.maximum(-found.minimum, found.maximum) < LARGEST).all()
        lacking: list[Overlaps | None] = [None, None]
        for part in self._lacking(rows, found) if n_incomplete else ():
            usable &= not any(len(its) and (np.abs(its.x) >= LARGEST).any() for its in part)
            if len(part[0]):
                low, high = np.fmin(low, np.fmin.reduce(part[0].x)), np.fmax(high, np.fmax.reduce(part[0].x))
            lacking = [
                both(o, Overlaps.of(p.x, p.weights) if len(p) else None) for o, p in zip(lacking, part, strict=True)
            ]
        if not usable:
            refuse_infinite(self.name, self.features, self.grid, segment, rows.x)
        moments, held_out = found.moments
        whole = Profile(
            moments, low, high, n_fitted + n_lacking[0], n_left_out, sample, held_out, n_incomplete=n_incomplete
        )
        return replace(whole, lacking=lacking[0], held_lacking=lacking[1])

    def _lacking(self, rows: Rows, found: Swept) -> Iterator[tuple[Rows, Rows]]:
        """Rows of which values are missing, piece by piece, those that are fitted and those that are held out."""
        length = max(1, self.piece_bytes // (8 * len(self.features)))
        for start in range(0, len(rows), length):
            piece, roles = rows[start : start + length], found.roles[start : start + length]
            fit, judge = (piece[roles == role] for role in (LACKING, HELD_LACKING))
            yield replace(fit, x=fit.x.astype(np.float64)), replace(judge, x=judge.x.astype(np.float64))

    def result_bytes(self, n_rows: int) -> int:
        """Two sets of moments, the range, and the sample."""
        d = len(self.features)
        overlaps = 2 * 8 * (3 * d * d + d) * (self.missing == "marginalise")
        return 16 * (d * d + 3 * d) + overlaps + self.sample_bytes(n_rows)


@dataclass(frozen=True)
class SampleSegment(Rowwise[Sample]):
    """The leaf of a pass that draws a sample alone, once more where the profile's came out short."""

    def __call__(self, segment: int, rows: Rows) -> Sample:
        """The sample of one segment, all its rows given."""
        return self.drawn(segment, rows)[1]

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
