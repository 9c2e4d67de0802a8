"""Values that cannot come from a family, as a leaf: asked only where there are any, it says where the first is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dgmm.data import Grid
from dgmm.engine import Leaf
from dgmm.errors import InputError
from dgmm.families import Family, get_family
from dgmm.passes.judge import BlockSums
from dgmm.passes.profile import place_of, refuse_infinite, used_rows
from dgmm.rows import Rows


@dataclass(frozen=True)
class MisfitSegment(Leaf[BlockSums]):
    """The leaf of a pass that raises `InputError` with row, feature and value of what a family cannot hold.

    Attributes
    ----------
    family : str
    name : str
        Of the source.
    features : tuple of str
    grid : Grid
    """

    family: str
    name: str
    features: tuple[str, ...]
    grid: Grid

    def __call__(self, segment: int, rows: Rows) -> BlockSums:
        """Nothing, where all values of complete rows will do."""
        family, used = get_family(self.family), used_rows(rows)
        wrong = family.misfits(rows.x)
        if wrong is not None:
            bad = np.argwhere(wrong if used is None else wrong & used[:, None])
            if len(bad):
                i, j = bad[0].tolist()
                raise InputError(
                    f"feature {self.features[j]!r} of {self.name} is {rows.x[i, j]:g} at sample "
                    f"{place_of(self.grid, segment, i)}: a {self.family} mixture is of {family.needs}; mark it missing "
                    "(NaN), or choose another covariance_type"
                )
        return BlockSums(np.zeros(1), np.zeros((1, 1)))

    def working_bytes(self, n_rows: int) -> int:
        """Masks, and where they are true."""
        return 24 * n_rows * len(self.features)

    def result_bytes(self, n_rows: int) -> int:
        """Next to nothing."""
        return 64


def refuse_values(
    families: Iterable[Family], name: str, features: tuple[str, ...], grid: Grid, segment: int, rows: Rows
) -> None:
    """Raise `InputError` that names the first value of a segment, all its rows given, of no density; if there is one.

    Parameters
    ----------
    families : iterable of Family
        Those of which the values should come.
    name : str
        Of the source.
    features : tuple of str
    grid : Grid
    segment : int
    rows : Rows
    """
    refuse_infinite(name, features, grid, segment, rows.x)
    for family in families:
        MisfitSegment(family.name, name, features, grid)(segment, rows)
