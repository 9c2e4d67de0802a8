"""Scores that come back in what held the samples, as lazy as it was."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import dask.array
import numpy as np
import xarray as xr
import zarr
from dask.system import CPU_COUNT

from dgmm.blas import one_blas_thread
from dgmm.data import is_known, packing, unmasked
from dgmm.errors import InputError
from dgmm.estep import Plan, score, usable_rows
from dgmm.estimators.containers import Chunked, Features, as_array, chunked_as_stored
from dgmm.scoring import scattered
from dgmm.types import AnyArray

#: Rows of an array in memory that one thread scores at a time.
BLOCK_ROWS = 65_536
What = Literal["label", "probabilities", "log_density"]
LONG_NAMES: dict[What, str] = {
    "label": "most probable {}, {} where a value is missing",
    "probabilities": "probability of each {}",
    "log_density": "logarithm of the density, in the data's units",
}


@dataclass(frozen=True)
class Scorer:
    """What a mixture says of every row of a block.

    Attributes
    ----------
    plan : Plan
        Of the one mixture.
    what : {"label", "probabilities", "log_density"}
    log_scale : float
        Added to the log densities of that mixture.
    single : bool
        Whether the model is of single precision.
    names : ndarray or None
        What chunked samples are labelled with where labels are of classes: the name of each, and last what stands
        where a value is missing. None for components, which are numbered.
    """

    plan: Plan
    what: What
    log_scale: float = 0.0
    single: bool = False
    names: AnyArray | None = None

    @property
    def n_labels(self) -> int:
        """Number of components K, or of classes."""
        return self.plan.n_labels

    @property
    def of(self) -> str:
        """What labels are of."""
        return "component" if self.names is None else "class"

    @property
    def unknown(self) -> str:
        """What stands for the label of a sample with a missing value, in words."""
        return "-1" if self.names is None or self.names.dtype.kind == "i" else "empty"

    def dtype_of_blocks(self, x: np.dtype[Any]) -> np.dtype[Any]:
        """Of the scores of blocks of samples of this type."""
        return self.names.dtype if self.names is not None and self.what == "label" else self.dtype(x)

    def dtype(self, x: np.dtype[Any]) -> np.dtype[Any]:
        """Of the scores of samples of this type: single precision if samples and model are, as in scikit-learn."""
        if self.what == "label":
            return np.dtype(np.int64)
        return np.dtype(np.float32 if self.single and x == np.float32 else np.float64)

    def rows(self, x: AnyArray) -> AnyArray:
        """Scores of complete rows (n, d): shape (n,), or (n, K) for probabilities; labels are numbers."""
        scores = score(x, self.plan, probabilities=self.what == "probabilities")
        values: AnyArray = getattr(scores, self.what)
        if self.what == "log_density":
            values = values + self.log_scale
        return values.astype(self.dtype(x.dtype), copy=False)

    def block(self, block: AnyArray, *, threads: bool = False) -> AnyArray:
        """Scores of a block (..., d), -1 or NaN where a value is missing: shape (...), or (..., K).

        A block that is a task of many has one core, one that is all there is has all of them (``threads``).
        """
        x = np.ascontiguousarray(unmasked(block)).reshape(-1, block.shape[-1])
        present = usable_rows(x, marginal=self.plan.marginals is not None)
        kept = x if present is None else x[present]
        if kept.dtype.kind == "f" and np.isinf(kept).any():
            raise InputError("a sample is infinite: mark it missing (NaN)")
        with one_blas_thread:
            values = score_array(kept, self) if threads else self.rows(kept)
        missing = np.array(-1 if self.what == "label" else np.nan, dtype=self.dtype(block.dtype))
        values = scattered(values, present, missing)
        if self.names is not None and self.what == "label":
            values = self.names[values]
        return values.reshape(block.shape[:-1] + values.shape[1:])


def score_array(x: AnyArray, scorer: Scorer) -> AnyArray:
    """Scores of complete rows (n, d) in memory, by all cores where there are many."""
    if len(x) <= BLOCK_ROWS:
        return scorer.rows(x)
    starts = range(0, len(x), BLOCK_ROWS)
    with one_blas_thread, ThreadPoolExecutor(CPU_COUNT) as pool:
        return np.concatenate(list(pool.map(lambda a: scorer.rows(x[a : a + BLOCK_ROWS]), starts)))


def score_chunked(x: Chunked, scorer: Scorer, features: Features) -> dask.array.Array | xr.DataArray:
    """Scores in what holds the samples: Dask for Dask and Zarr, a DataArray for xarray; nothing lazy is computed."""
    if isinstance(x, (xr.DataArray, xr.Dataset)):
        return _score_xarray(x, scorer, features)
    if isinstance(x, zarr.Array) and packing(x):
        packed = ", ".join(sorted(packing(x)))
        raise InputError(f"Array is packed ({packed}): open the dataset that it belongs to (xarray.open_zarr)")
    lazy = x if isinstance(x, dask.array.Array) else dask.array.from_zarr(x, chunks=tuple(x.shards or x.chunks))
    if lazy.ndim < 2:
        raise InputError(f"expected samples by features, (n, d), not shape {lazy.shape}")
    check_features(int(lazy.shape[-1]), scorer)
    lazy = lazy.rechunk({lazy.ndim - 1: -1})
    wide = scorer.what == "probabilities"
    chunks = (*lazy.chunks[:-1], (scorer.n_labels,)) if wide else lazy.chunks[:-1]
    dtype = scorer.dtype_of_blocks(lazy.dtype)
    how = scorer.what, scorer.log_scale, scorer.single, scorer.n_labels, scorer.names
    token = dask.base.tokenize(lazy.name, scorer.plan.digest, *how)
    return lazy.map_blocks(
        partial(Scorer.block, scorer),
        dtype=dtype,
        chunks=chunks,
        drop_axis=None if wide else lazy.ndim - 1,
        meta=np.empty((0,) * len(chunks), dtype=dtype),
        name=f"{scorer.what}-{token}",
    )


def _score_xarray(x: xr.DataArray | xr.Dataset, scorer: Scorer, features: Features) -> xr.DataArray:
    array, dim = as_array(x, features)
    check_features(array.sizes[dim], scorer)
    array = chunked_as_stored(array, (dim,))
    lazy = isinstance(array.data, dask.array.Array)
    if lazy:
        array = array.chunk({dim: -1})
    wide = scorer.what == "probabilities"
    component = scorer.of if scorer.of not in array.dims else f"{scorer.of}_"
    scores: xr.DataArray = xr.apply_ufunc(
        partial(Scorer.block, scorer, threads=not lazy),
        array,
        input_core_dims=[[dim]],
        output_core_dims=[[component] if wide else []],
        dask="parallelized",
        keep_attrs=False,
        output_dtypes=[scorer.dtype_of_blocks(array.dtype)],
        dask_gufunc_kwargs={"output_sizes": {component: scorer.n_labels}} if wide else {},
    )
    long_name = LONG_NAMES[scorer.what].format(scorer.of, scorer.unknown)
    if scorer.plan.transform is not None:
        long_name = long_name.replace("in the data's units", "of the features as they were fitted")
    return scores.rename(scorer.what).assign_attrs(long_name=long_name)


def check_features(n: int, scorer: Scorer) -> None:
    """Refuse samples with another number of features than the model's."""
    if n != scorer.plan.n_inputs:
        raise InputError(f"samples have {n} features, the model was fitted on {scorer.plan.n_inputs}")


def share_of_hits(found: Any, labels: Any, weights: Any) -> float:
    """The share of lazy predictions that are those labels, among those where both are known; read once."""
    if isinstance(found, xr.DataArray):
        labels, weights = (
            lazy.broadcast_like(found).transpose(*found.dims).data if isinstance(lazy, xr.DataArray) else lazy
            for lazy in (labels, weights)
        )
        found = found.data
    found = dask.array.asarray(found)
    weights = dask.array.ones(found.shape) if weights is None else weights
    truth, each = (lazily(array).rechunk(found.chunks) for array in (labels, weights))
    known = truth.map_blocks(is_known, dtype=bool) & found.map_blocks(is_known, dtype=bool)
    hits, n = dask.compute((each * (known & (found == truth))).sum(), (each * known).sum())
    if not n:
        raise InputError("no complete sample has a class: all of y are unknown (-1, empty or missing)")
    return float(hits / n)


def lazily(array: Any) -> dask.array.Array:
    """As a Dask array."""
    return dask.array.from_zarr(array) if isinstance(array, zarr.Array) else dask.array.asarray(array)
