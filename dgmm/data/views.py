"""Samples as they are fitted: transformed as they are read, block by block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from dgmm.data.fields import Field
from dgmm.data.grid import Region
from dgmm.data.samples import Samples
from dgmm.rows import Rows
from dgmm.transform import Transform
from dgmm.types import AnyArray

#: The dimension of features that are made in memory, which is none of the data's.
MADE = "_made"


@dataclass(frozen=True)
class Transformed(Samples):
    """Samples that are transformed as they are read.

    Names of features are those of what is fitted; everything else is of the samples as they are.

    Attributes
    ----------
    source : Samples
        As they are.
    transform : Transform
    incomplete : bool
        Whether samples with missing values are fitted, too.
    """

    source: Samples = field(kw_only=True)
    transform: Transform = field(kw_only=True)
    incomplete: bool = field(default=False, kw_only=True)

    @property
    def in_memory(self) -> bool:
        """No: reading is arithmetic."""
        return False

    @property
    def dtype(self) -> np.dtype[Any]:
        """What is made is of double precision."""
        return np.dtype(np.float64)

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample as it is fitted."""
        return self.n_features * self.itemsize + 8 * (len(self._all_fields) - len(self.fields))

    @property
    def read_bytes(self) -> int:
        """Those of the samples as they are."""
        return self.source.read_bytes

    @property
    def made_bytes(self) -> int:
        """Those of a sample as it is fitted, while it is made."""
        return self.row_bytes

    def without_coords(self) -> Transformed:
        """All that it takes to read the samples."""
        found: Any = super().without_coords()
        return replace(found, source=self.source.without_coords())

    def since(self, start: int) -> Transformed:
        """The samples from a place along the first dimension on; see `Samples.since`."""
        found: Any = super().since(start)
        return replace(found, source=self.source.since(start))

    def _each(self, change: Callable[[Field], Field]) -> Self:
        """The same with every field changed, also those of the samples as they are."""
        return replace(super()._each(change), source=self.source._each(change))

    def read(self, region: Region) -> AnyArray:
        """The samples of a region as they are fitted, shape (n, q)."""
        return self.read_rows(region).x

    def read_rows(self, region: Region) -> Rows:
        """The samples of a region as they are fitted, their weights, and the numbers of their classes."""
        return after(self.source.read_rows(region), self.transform, incomplete=self.incomplete)


def after(rows: Rows, transform: Transform, *, incomplete: bool) -> Rows:
    """Rows as they are fitted; what does not count by its weight may be anything."""
    used = None if rows.weights is None else rows.weights > 0
    return replace(rows, x=transform(rows.x, incomplete=incomplete, used=used))


def transformed(samples: Samples, transform: Transform, *, incomplete: bool = False) -> Samples:
    """Samples as they are fitted: transformed as they are read, or at once where they are in memory.

    Where those that are `incomplete` are fitted too, all values must have what is asked of them.
    """
    parts: dict[str, Any] = {name: getattr(samples, name) for name in Samples.__dataclass_fields__}
    parts["features"] = transform.outputs
    if not samples.in_memory or samples.start:  # weights and labels begin where the samples do
        return Transformed(**parts, source=samples, transform=transform, incomplete=incomplete)
    grid, q = samples.grid, transform.n_outputs
    made = np.empty((*grid.shape, q))
    for i in range(len(grid)):
        region = grid.region(i)
        made[region] = after(samples.read_rows(region), transform, incomplete=incomplete).x.reshape(made[region].shape)
    fields = (Field(made, (*samples.dims, MADE), None, inner=MADE),)
    return Samples(**parts | {"feature_dim": MADE, "fields": fields})
