"""Which of the columns that are read each feature is made of: put in order, or between two of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dgmm.errors import InputError
from dgmm.types import AnyArray

#: Rows that are interpolated at a time, so that what is made of them stays in the cache.
ROWS = 1024


@dataclass(frozen=True)
class Pick:
    """Features from columns: each one column, or a share of each of two.

    Attributes
    ----------
    low : tuple of int
        The column of each feature, the lower one of two.
    high : tuple of int
        The other column of each; empty where all features are columns.
    share : tuple of float
        How much the other one counts, from 0 up to 1; empty like those.
    """

    low: tuple[int, ...]
    high: tuple[int, ...] = ()
    share: tuple[float, ...] = ()

    def __call__(self, columns: AnyArray) -> AnyArray:
        """The features (n, d) of columns (n, c); where one that counts is missing, so is the feature."""
        if not self.high:
            return columns[:, self.low]
        found = np.empty((len(columns), len(self.low)))
        low, high, share = np.array(self.low), np.array(self.high), np.array(self.share)
        (alone,) = np.nonzero(share == 0)
        for start in range(0, len(columns), ROWS):
            rows, part = columns[start : start + ROWS], found[start : start + ROWS]
            np.multiply(rows.take(high, axis=1), share, out=part)
            lower = rows.take(low, axis=1)
            part += lower * (1 - share)
            part[:, alone] = lower[:, alone]
        return found

    def after(self, first: Pick | None) -> Pick:
        """From the columns of what another has picked, these from its own."""
        if first is None:
            return self
        if first.high:
            if self.high:
                raise InputError("features that are interpolated already are not interpolated again")
            pairs = [(first.low[i], first.high[i], first.share[i]) for i in self.low]
            low, high, share = zip(*pairs, strict=True)
            return Pick(low, high, share)
        return Pick(tuple(first.low[i] for i in self.low), tuple(first.low[i] for i in self.high), self.share)
