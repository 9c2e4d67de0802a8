"""Arrays with named dimensions, read lazily: what features, weights and labels are read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from dgmm.data.chunks import Stored
from dgmm.data.grid import Region
from dgmm.data.persisted import Block, Handed, fetched, futures_in, is_lazy
from dgmm.data.picks import Pick
from dgmm.types import AnyArray

if TYPE_CHECKING:
    import dask.array


@dataclass(frozen=True)
class Field:
    """An array with named dimensions, read lazily.

    Attributes
    ----------
    array : zarr.Array, xarray.Variable, dask.array.Array, ndarray or Handed
    dims : tuple of str
    chunks : tuple of int or None
        None where the array lies in memory and can be cut anywhere.
    stored : Stored or None
        Where it is read from; None where it is in memory or somebody else's task.
    inner : str or None
        The dimension along which it holds features; None where it is one feature, or none.
    pick : Pick or None
        What becomes of them; None where they are the features as they lie.
    """

    array: Any
    dims: tuple[str, ...]
    chunks: tuple[int, ...] | None
    stored: Stored | None = None
    inner: str | None = None
    pick: Pick | None = None

    @property
    def n_columns(self) -> int:
        """Number of the values that are read of it for every sample."""
        return 1 if self.inner is None else int(self.array.shape[self.dims.index(self.inner)])

    @property
    def width(self) -> int:
        """Number of the features that come of it."""
        return self.n_columns if self.pick is None else len(self.pick.low)

    def columns(self, key: Mapping[str, slice], dims: tuple[str, ...]) -> AnyArray:
        """Features of the samples of a region, in C order of these dimensions: shape (..., width), or (...)."""
        if self.inner is None:
            return transposed(self.read(key), self.dims, dims)
        block = transposed(self.read(key), self.dims, (*dims, self.inner))
        if self.pick is None:
            return block
        return self.pick(block.reshape(-1, block.shape[-1])).reshape(*block.shape[:-1], -1)

    def read(self, key: Mapping[str, slice]) -> AnyArray:
        """The region as a NumPy array, dimensions in the array's own order.

        Raises
        ------
        ReadError
            If a chunk is not there, and that is not allowed, or cannot be decoded.
        """
        region = tuple(key.get(dim, slice(None)) for dim in self.dims)
        if self.stored is None:
            return self._read(region)
        return self.stored.read(region, partial(self._read, region))

    def _read(self, region: Region) -> AnyArray:
        part = self.array[region]
        if isinstance(part, xr.Variable):
            part = part.data
        if is_lazy(part):
            # inside a task of ours: whoever called has the other threads
            part = fetched(part, self.futures) if self.futures else part.compute(scheduler="synchronous")
        return unmasked(part)

    @property
    def lazy(self) -> dask.array.Array | None:
        """The Dask array that is read, if it is one."""
        array = getattr(self.array, "_data", self.array)
        return array if is_lazy(array) else None

    @cached_property
    def futures(self) -> tuple[Any, ...]:
        """Results of tasks on a cluster that the array is made of; none if it is made of none."""
        return () if self.lazy is None else futures_in(self.lazy)

    def outlined(self) -> Field:
        """The same without its blocks, where these lie on a cluster."""
        return replace(self, array=Handed.of(self.lazy)) if self.lazy is not None and self.futures else self

    def given(self, blocks: Mapping[Block, AnyArray]) -> Field:
        """The same with its blocks, if it is without."""
        return replace(self, array=replace(self.array, blocks=blocks)) if isinstance(self.array, Handed) else self


def unmasked(array: Any) -> AnyArray:
    """A plain array: what a mask hides is missing."""
    if not isinstance(array, np.ma.MaskedArray):
        return np.asarray(array)
    masked: Any = array
    return masked.astype(float).filled(np.nan)


def transposed(block: AnyArray, dims: tuple[str, ...], wanted: tuple[str, ...]) -> AnyArray:
    """A block with its dimensions in another order."""
    return block.transpose([dims.index(d) for d in wanted])
