"""Samples of d features on a grid, read segment by segment: the only view of data that the rest of the library has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import xarray as xr

from dgmm.data.codecs import storage_of
from dgmm.data.fields import Field, transposed
from dgmm.data.grid import Grid, Region
from dgmm.data.labels import Labels
from dgmm.data.layout import Layout
from dgmm.data.likeness import Asked
from dgmm.data.persisted import Block, Handed
from dgmm.rows import Rows
from dgmm.types import AnyArray, FloatArray


@dataclass(frozen=True)
class Samples:
    """Samples of d features on a grid; the only view of data the rest of the library has.

    Attributes
    ----------
    name : str
        What to call it in messages.
    dims : tuple of str
        Dimensions of the grid of samples.
    grid : Grid
    features : tuple of str
        Names of the features.
    fields : tuple of Field
        One whose ``feature_dim`` holds the features, or one for each variable: a feature, or several along a dimension
        of its own.
    feature_dim : str or None
        Where a single array holds all features, the dimension along which they lie.
    coords : xarray.Dataset
        Coordinates of the grid, for the output.
    layout : Layout
        How they were opened, for a model that is fitted to them.
    axes : tuple of xarray.DataArray
        The coordinates along which features lie, where they are numeric; their attributes say what varies along each
        (``value_name``, ``value_units``) and which of the features do (``features``, a slice).
    weights : Field or None
        How much each sample counts, along some of the dimensions of the grid or all; None where all count the same.
    labels : Labels or None
        The classes that samples are known to be of; None where nobody asks.
    any_units : bool
        Whether their units are taken for those of a model, where somebody has said so.
    """

    name: str
    dims: tuple[str, ...]
    grid: Grid
    features: tuple[str, ...]
    fields: tuple[Field, ...]
    feature_dim: str | None
    coords: xr.Dataset
    layout: Layout
    axes: tuple[xr.DataArray, ...] = ()
    weights: Field | None = None
    labels: Labels | None = None
    any_units: bool = False
    #: Attributes for all that lies on the grid: by what it is projected, how large its cells are, its coordinates.
    said: dict[str, Any] = dataclasses.field(default_factory=dict)
    #: The standard names (CF) of the variables of the source, of those that are not read, too.
    standard_names: dict[str, str] = dataclasses.field(default_factory=dict)
    #: Where the grid begins along the first dimension of what is read.
    start: int = 0

    @property
    def n_features(self) -> int:
        """Number of features d."""
        return len(self.features)

    @property
    def in_memory(self) -> bool:
        """Whether reading is nothing but looking."""
        return all(isinstance(f.array, (np.ndarray, Handed)) for f in self._all_fields)

    @property
    def sent_bytes(self) -> int:
        """Bytes that travel with samples in memory to whoever reads them."""
        arrays = [f.array for f in self._all_fields if isinstance(f.array, np.ndarray)]
        return sum(array.nbytes for array in arrays) if self.in_memory else 0

    @property
    def _all_fields(self) -> tuple[Field, ...]:
        more = (self.weights, None if self.labels is None else self.labels.field)
        return (*self.fields, *(field for field in more if field is not None))

    @property
    def persisted(self) -> list[Field]:
        """Those of its arrays that lie on a cluster: features, weights and labels."""
        return [field for field in self._all_fields if field.futures]

    def outlined(self) -> Self:
        """The same without the blocks of what lies on a cluster: they are `given` to those who read them."""
        return self._each(Field.outlined)

    def given(self, blocks: Mapping[Block, AnyArray]) -> Self:
        """The same with what it takes of the blocks that `outlined` has left out."""
        return self._each(lambda field: field.given(blocks))

    def blocks_of(self, run: Sequence[int]) -> list[Block]:
        """The blocks left out that the segments of a run are read from, each once."""
        found: dict[Block, None] = {}
        handed = [field for field in self._all_fields if isinstance(field.array, Handed)]
        for segment in run if handed else ():
            key = self._key(self.grid.region(segment))
            for field in handed:
                region = tuple(key.get(dim, slice(None)) for dim in field.dims)
                found |= dict.fromkeys(field.array.within(region))
        return list(found)

    def _each(self, change: Callable[[Field], Field]) -> Self:
        """The same with every field changed."""
        weights = None if self.weights is None else change(self.weights)
        labels = None if self.labels is None else replace(self.labels, field=change(self.labels.field))
        return replace(self, fields=tuple(map(change, self.fields)), weights=weights, labels=labels)

    @property
    def nbytes(self) -> int:
        """Bytes of all samples as they are read."""
        return self.grid.size * self.row_bytes

    @property
    def cut_by_chunks(self) -> bool:
        """Whether a segment is one chunk of the source, so that it could only be smaller if that were."""
        stored = [dict(zip(f.dims, f.chunks, strict=True)) for f in self.fields if f.chunks is not None]
        lengths = zip(self.dims, self.grid.segment, strict=True)
        return bool(stored) and all(n <= max(chunks[dim] for chunks in stored) for dim, n in lengths)

    def recut(self, segment: Sequence[int]) -> Samples | None:
        """The same in segments of another shape; None where these would not be of whole chunks."""
        if len(segment) != len(self.dims):
            return None
        for dim, n, length in zip(self.dims, self.grid.shape, segment, strict=True):
            chunks = [dict(zip(f.dims, f.chunks, strict=True))[dim] for f in self.fields if f.chunks is not None]
            if length < 1 or (length < n and any(length % chunk for chunk in chunks)):
                return None
        return replace(self, grid=Grid(self.grid.shape, tuple(segment)))

    @property
    def chunk_text(self) -> str:
        """The chunks of the first field, as a shape and a type."""
        return f"{self.fields[0].chunks} {self.fields[0].array.dtype}"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values of all features together."""
        mixed = any(f.pick is not None and f.pick.high for f in self.fields)
        return np.result_type(*(f.array.dtype for f in self.fields), *([np.float64] if mixed else []))

    @property
    def itemsize(self) -> int:
        """Bytes of one value as it is read."""
        return int(self.dtype.itemsize)

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample as it is read."""
        read = max(self.n_features, *(f.n_columns for f in self.fields))
        return read * self.itemsize + 8 * (len(self._all_fields) - len(self.fields))

    @property
    def order(self) -> Any:
        """How features are made of the columns that are read; None where they lie as they are."""
        picks = tuple(field.pick for field in self.fields)
        if self.feature_dim is not None and picks[0] is not None and not picks[0].high:
            return picks[0].low
        return None if not any(picks) else picks

    @property
    def field_names(self) -> tuple[str, ...]:
        """What the arrays that are read are called."""
        if self.feature_dim is not None:
            return ("values",)
        return self.layout.variables if self.layout.spans else self.features

    @property
    def read_bytes(self) -> int:
        """Bytes of one sample of what is read."""
        return self.row_bytes

    @property
    def made_bytes(self) -> int:
        """Bytes of what is made of one sample that is read, beside it."""
        return 0

    def storage(self) -> Iterator[str]:
        """How the arrays are stored, in lines, and whether damage to them is noticed; nothing of what is in memory."""
        beside = ("weights", self.weights), ("labels", None if self.labels is None else self.labels.field)
        held = [*zip(self.field_names, self.fields, strict=True), *((name, f) for name, f in beside if f is not None)]
        found = {f.stored.variable or name: f.stored.array for name, f in held if f.stored is not None}
        return storage_of((name, array) for name, array in found.items() if array is not None)

    def like(self, features: Sequence[str], layout: Layout | None, *, interpolate: bool = False) -> Samples:
        """The same samples with the features of a model, in its order.

        They are told by the names of variables and by their labels along a dimension; where neither these samples nor
        those of the model have such, by their place.

        Parameters
        ----------
        features : sequence of str
            Names of the model's features.
        layout : Layout or None
            How its data were opened; None if that was not kept.
        interpolate : bool
            Take what lies between two numbers along a dimension, linearly, where the model's are not there.

        Raises
        ------
        InputError
            If they are other features, or have other units, or it cannot be told.
        """
        asked = Asked(self.name, self.features, tuple(features), self.layout, layout, interpolate, self.any_units)
        found = asked.likeness()
        same = found.fields == tuple(range(len(self.fields))) and not any(found.picks)
        if same:
            return self
        fields = tuple(
            field if pick is None else replace(field, pick=pick.after(field.pick))
            for field, pick in zip((self.fields[i] for i in found.fields), found.picks, strict=True)
        )
        return replace(self, features=tuple(features), fields=fields, layout=found.layout)

    def without_coords(self) -> Samples:
        """All that it takes to read the samples."""
        return replace(self, coords=xr.Dataset(), said={}, standard_names={}, axes=())

    def some_rows(self, n: int) -> FloatArray:
        """A few complete rows, evenly spaced over the first, the middle and the last segment, shape (m, d)."""
        segments = sorted({0, len(self.grid) // 2, len(self.grid) - 1})
        blocks = [np.asarray(self.read(self.grid.region(i)), dtype=float) for i in segments]
        rows = np.concatenate([b[~np.isnan(b).any(axis=1)] for b in blocks])
        return rows[:: max(1, len(rows) // n)]

    def since(self, start: int) -> Samples:
        """The samples from a place along the first dimension on, as a grid of their own, without its coordinates."""
        shape = (self.grid.shape[0] - start, *self.grid.shape[1:])
        grid = Grid(shape, tuple(map(min, self.grid.segment, shape)))
        name = f"{self.name} from {self.dims[0]} {start} on" if start else self.name
        return replace(self.without_coords(), name=name, grid=grid, start=self.start + start)

    def _key(self, region: Region) -> dict[str, slice]:
        """Where a region lies in what is read."""
        first, *others = region
        return dict(zip(self.dims, (slice(first.start + self.start, first.stop + self.start), *others), strict=True))

    def read(self, region: Region) -> AnyArray:
        """The samples of a region, shape (n, d), missing values as NaN."""
        key = self._key(region)
        if self.feature_dim is not None:
            return self.fields[0].columns(key, self.dims).reshape(-1, self.n_features)
        block = np.empty((*(s.stop - s.start for s in region), self.n_features), self.dtype)
        place = 0
        for field in self.fields:
            columns = field.columns(key, self.dims)
            if not np.can_cast(columns.dtype, block.dtype):  # what a mask hides makes numbers of whole ones
                block = block.astype(np.result_type(block, columns))
            if field.inner is None:
                block[..., place] = columns
            else:
                block[..., place : place + field.width] = columns
            place += field.width
        return block.reshape(-1, self.n_features)

    def read_rows(self, region: Region) -> Rows:
        """The samples of a region, their weights, and the numbers of their classes."""
        x = self.read(region)
        weights = None if self.weights is None else self._beside(self.weights, region).astype(float)
        labels = None if self.labels is None else self.labels.codes(self._beside(self.labels.field, region), self.name)
        return Rows(x, weights, labels)

    def _beside(self, field: Field, region: Region) -> AnyArray:
        """What a field along some of the dimensions says of each sample of a region, shape (n,)."""
        key = self._key(region)
        wanted = tuple(dim for dim in self.dims if dim in field.dims)
        known = transposed(field.read(key), field.dims, wanted)
        shape = [s.stop - s.start if dim in wanted else 1 for dim, s in key.items()]
        return np.broadcast_to(known.reshape(shape), [s.stop - s.start for s in region]).ravel()
