"""What mixtures say of the rows that judge them, block by block, as a leaf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dgmm.engine import Leaf
from dgmm.estep import Plan, buffer_bytes, score
from dgmm.passes.parts import Division
from dgmm.passes.worst import SCORED_ROWS
from dgmm.rows import Parts, Role
from dgmm.types import FloatArray


@dataclass(frozen=True)
class BlockSums:
    """Sums over the rows of each block, or group of blocks.

    Attributes
    ----------
    counts : ndarray, shape (blocks,)
        Of the rows' weights; zero for a block that is not held out.
    sums : ndarray, shape (..., blocks)
        Of their log densities, times the weights.
    """

    counts: FloatArray
    sums: FloatArray

    def merge(self, other: BlockSums) -> BlockSums:
        """Of both."""
        return BlockSums(self.counts + other.counts, self.sums + other.sums)

    def __sub__(self, other: BlockSums) -> BlockSums:
        """Differences of log densities of the same rows."""
        return BlockSums(self.counts, self.sums - other.sums)

    @property
    def mean(self) -> float:
        """Per row."""
        return float(self.sums.sum() / self.counts.sum())

    @property
    def standard_error(self) -> float:
        """Of the mean, blocks being what was drawn at random; NaN of fewer than two.

        That of a ratio, since blocks differ in size (Cochran 1977, 6.4); where they do not, of the mean of their means.
        """
        n_blocks = np.count_nonzero(self.counts)
        if n_blocks < 2:
            return np.nan
        residuals = self.sums - self.mean * self.counts
        return float(np.sqrt(n_blocks / (n_blocks - 1) * (residuals**2).sum()) / self.counts.sum())


@dataclass(frozen=True)
class JudgeSegment(Leaf[BlockSums]):
    """The leaf of a pass that asks mixtures for the log density of the rows that judge.

    Attributes
    ----------
    plans : tuple of Plan
        Of one mixture each.
    n_groups : int
    prepare : Division
    """

    computed_by: ClassVar[tuple[str, ...]] = ("plans",)

    plans: tuple[Plan, ...]
    n_groups: int
    prepare: Division

    def __call__(self, segment: int, parts: Parts) -> BlockSums:
        """Sums of one segment."""
        judges = parts.rows[Role.JUDGE]
        counts, sums = np.zeros(self.n_groups), np.zeros((len(self.plans), self.n_groups))
        for start in range(0, len(judges), SCORED_ROWS):
            rows = judges[start : start + SCORED_ROWS]
            assert rows.groups is not None
            weights = rows.every_weight
            counts += np.bincount(rows.groups, weights, self.n_groups)
            for total, plan in zip(sums, self.plans, strict=True):
                total += np.bincount(rows.groups, weights * score(rows.x, plan).log_density, self.n_groups)
        return BlockSums(counts, sums)

    def working_bytes(self, n_rows: int) -> int:
        """Buffers, the scores and products of a piece, and its sums."""
        return max(map(buffer_bytes, self.plans)) + 64 * SCORED_ROWS + 8 * self.n_groups

    def result_bytes(self, n_rows: int) -> int:
        """A sum for each mixture and block."""
        return 8 * (1 + len(self.plans)) * self.n_groups
