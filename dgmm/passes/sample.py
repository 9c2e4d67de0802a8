"""A reproducible sample of rows, drawn by hashes of their numbers, wherever they lie and whoever reads them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from dgmm.data import Blocks, Grid
from dgmm.estep import nearest, row_hashes
from dgmm.rows import Rows
from dgmm.types import AnyArray, FloatArray, IntArray

#: Of the hashes that choose the rows that are held out; those of stream 0 draw the sample.
HOLDOUT_STREAM = 1
#: Those of stream 2 put blocks into groups, where there are more of them than so many: what is summed for each takes
#: memory, and a standard error over so many is known to 2 %.
GROUP_STREAM, GROUPS = 2, 1024
#: The first of those by which what is missing is drawn.
DRAW_STREAM = 16
#: A part of the data keeps so many times its share of the sample, for parts elsewhere have missing rows or light ones
#: and chance is uneven, and so many rows more, for small parts.
OVERSAMPLED, SPARE = 4.0, 32


@dataclass(frozen=True)
class Sample:
    """The rows whose keys are smallest.

    If they are hashes of the rows' numbers, this is a uniform sample that depends on the seed and nothing else. With
    weights, and keys that are exponential numbers at these rates, it is one with probabilities as the weights
    (Efraimidis and Spirakis 2006).

    A part of the data need not keep ``limit`` rows: few of them will be among the smallest of all. It keeps some times
    its share of the data. Where that was too few after all, as in data of which nearly all is missing elsewhere, the
    sample of everything says so: it is `short`.

    Attributes
    ----------
    keys : ndarray, shape (m,)
    rows : Rows
    limit : int
        Rows kept at most.
    next_key : float
        The smallest key that was not kept, inf if all were.
    share : float
        Rows that may be kept, beside `SPARE` and up to the limit; inf where there is no such bound.
    """

    keys: AnyArray
    rows: Rows
    limit: int
    next_key: float = np.inf
    share: float = np.inf

    @classmethod
    def of(
        cls,
        keys: AnyArray,
        rows: Rows,
        limit: int,
        next_key: float = np.inf,
        share: float = np.inf,
        places: IntArray | None = None,
    ) -> Sample:
        """The rows with the smallest keys; the first ones of those with equal keys.

        With ``places``, shape (m,), the keys are those of the rows there.
        """
        chosen, following = first_of(keys, int(min(limit, share + SPARE)))
        if chosen is not None:
            keys, places = keys[chosen], np.flatnonzero(chosen) if places is None else places[chosen]
        return cls(keys, rows if places is None else rows[places], limit, min(next_key, following), share)

    def ordered(self) -> Sample:
        """By key, so that the first rows of a uniform sample are one too; in double precision."""
        order = np.argsort(self.keys, kind="stable")
        rows = self.rows[order]
        return replace(self, keys=self.keys[order], rows=replace(rows, x=rows.x.astype(np.float64, copy=False)))

    def merge(self, other: Sample) -> Sample:
        """The smallest keys of both; ``other`` comes after."""
        share, next_key = self.share + other.share, min(self.next_key, other.next_key)
        keys = np.concatenate([self.keys, other.keys])
        chosen, following = first_of(keys, int(min(self.limit, share + SPARE)))
        if not (len(other.keys) if chosen is None else chosen[len(self.keys) :].any()):
            return replace(self, next_key=min(next_key, following), share=share)
        # what is not chosen is never copied: the largest of all samples are merged where the driver has many of them
        rows = self.rows.merge(other.rows, chosen)
        return Sample(keys if chosen is None else keys[chosen], rows, self.limit, min(next_key, following), share)

    @property
    def short(self) -> bool:
        """Whether rows were left out that belong to the smallest of all."""
        if len(self.keys) < self.limit:
            return self.next_key < np.inf
        return self.keys.max().item() > self.next_key

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
        return replace(rows, weights=weights / weights.mean())

    def other(self, n: int, turn: int) -> Rows:
        """As many rows as are asked for, from turn to turn others as far as there are; weights, if any, have mean one.

        With turn 0 the first ones; else every second, third or so of all, for heavy ones are among the first.
        """
        if turn == 0 or n >= len(self.rows):
            return self.first(n)
        step = len(self.rows) // n
        order = np.argsort((np.arange(len(self.rows)) - turn) % step, kind="stable")
        rows = self.first(len(self.rows))[order[:n]]
        return rows if rows.weights is None else replace(rows, weights=rows.weights / rows.weights.mean())


def first_of(keys: AnyArray, room: int) -> tuple[AnyArray | None, float]:
    """Which keys are the smallest, of equal ones the first (None: all), and the smallest that is not among them."""
    if len(keys) <= room:
        return None, np.inf
    border = np.partition(keys, room)[room]
    chosen = keys < border
    chosen[np.flatnonzero(keys == border)[: room - int(chosen.sum())]] = True
    return chosen, border.item()


def smallest(keys: AnyArray) -> float:
    """The smallest key, exactly; inf of none."""
    return keys.min().item() if len(keys) else np.inf


def sample_keys(hashes: NDArray[np.uint64], weights: FloatArray | None) -> AnyArray:
    """Keys of a `Sample` from the rows' hashes and weights."""
    if weights is None:
        return hashes
    return -np.log((hashes.astype(float) + 0.5) * 2.0**-64) / weights


def is_held_out(units: NDArray[np.uint64], seed: int, share: float) -> NDArray[np.bool_]:
    """Which rows, or blocks of rows, are held out of the fit by their numbers, at most half of them.

    By other hashes than those that draw the sample: what the sample is drawn from must not have been chosen by them.
    """
    return row_hashes(units, seed, HOLDOUT_STREAM) < np.uint64(share * 2.0**64)


def units_of(grid: Grid, segment: int, blocks: Blocks | None) -> NDArray[np.uint64]:
    """Number of what is held out together with each row of a segment: of its block, or its own where there are none."""
    region = grid.region(segment)
    return grid.rows(region) if blocks is None else blocks.of(region)


def n_units(grid: Grid, blocks: Blocks | None) -> int:
    """How many blocks a grid has, or rows where there are none."""
    return grid.size if blocks is None else len(blocks)


def n_groups(grid: Grid, blocks: Blocks | None) -> int:
    """Into how many groups the blocks of a grid are put, or its rows where there are none."""
    return min(n_units(grid, blocks), GROUPS)


def groups_of(units: NDArray[np.uint64], grid: Grid, blocks: Blocks | None, seed: int) -> IntArray:
    """The group of blocks, or rows, by their numbers: each its own if there are few, else one chosen by a hash."""
    few = n_units(grid, blocks) <= GROUPS
    return (units if few else row_hashes(units, seed, GROUP_STREAM) % np.uint64(GROUPS)).astype(np.int64)


def draws_of(rows: NDArray[np.uint64], n_features: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """A uniform number (n,) between 0 and 1 and standard normal ones (n, d) for each row, by its number."""
    hashes = np.stack([row_hashes(rows, seed, DRAW_STREAM + j) for j in range(n_features + 1)], axis=1)
    uniform = ((hashes >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return uniform[:, 0], ndtri(uniform[:, 1:])


@dataclass(frozen=True)
class Draw:
    """How the rows of a sample are drawn.

    Attributes
    ----------
    limit : int
        Rows of the sample.
    seed : int
    times : float
        A part of the data keeps so many times its share; see `Sample`.
    below : float
        Rows with a larger key are known not to belong.
    """

    limit: int
    seed: int
    times: float = OVERSAMPLED
    below: float = np.inf

    def of(
        self, rows: Rows, numbers: NDArray[np.uint64], share: float, used: NDArray[np.bool_] | None = None
    ) -> Sample:
        """The sample of the used rows among these, all by default, out of such a share of all rows of the data.

        Parameters
        ----------
        rows : Rows
        numbers : ndarray of uint64, shape (n,)
        share : float
        used : ndarray of bool, shape (n,), optional
        """
        part = self.times * self.limit * share
        keys: AnyArray
        if rows.weights is None:
            room = int(min(self.limit, part + SPARE))
            keys, places, next_key = nearest(numbers, used, self.seed, room, self.below)
        else:
            places = np.arange(len(rows)) if used is None else np.flatnonzero(used)
            keys = sample_keys(row_hashes(numbers[places], self.seed), rows.weights[places])
            near = keys <= self.below
            next_key = smallest(keys[~near])
            keys, places = keys[near], places[near]
        return Sample.of(keys, rows, self.limit, next_key, part, places)

    def again(self, sample: Sample) -> Draw:
        """How to draw once more what came out short."""
        # the right one had more rows to choose from, so that its keys are no larger
        below = sample.keys.max().item() if len(sample.keys) == self.limit else np.inf
        return replace(self, times=8 * self.times, below=below)

    def nbytes(self, share: float, n_rows: int, row_bytes: int) -> int:
        """Bytes of the sample of so many rows at most, each of so many bytes."""
        return int(min(self.limit, n_rows, self.times * self.limit * share + SPARE)) * (8 + row_bytes)
