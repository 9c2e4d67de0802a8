"""The data of one fit, as an estimator was given them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from dgmm.data import Samples
from dgmm.em import Climber
from dgmm.engine import Workers, open_workers
from dgmm.errors import CollapseError
from dgmm.estimators.containers import Features, rows_in_order
from dgmm.passes import Passes
from dgmm.types import FloatArray

#: Something with shape (n, d) that scikit-learn takes, or a chunked container.
AnySamples = Any


class Start(Climber, Protocol):
    """One start on its way up."""

    trajectory: list[float]
    converged: bool
    failure: CollapseError | None
    remaining_gain: float


class Problem:
    """The data of one fit, ready for passes.

    Attributes
    ----------
    source : ndarray, dask.array.Array, zarr.Array, xarray.DataArray or xarray.Dataset
        What was handed in; an array if that is what scikit-learn makes of it.
    samples : Samples
    features : Features
    dtype : numpy.dtype
        Of the samples and the fitted attributes: float32 or float64.
    """

    def __init__(self, source: Any, samples: Samples, features: Features) -> None:
        self.source = source
        self.samples = samples
        self.features = features
        single = all(f.array.dtype == np.float32 for f in samples.fields)
        self.dtype = np.dtype(np.float32 if single else np.float64)

    @property
    def whole(self) -> bool:
        """Whether it is an array in memory, as scikit-learn has it."""
        return isinstance(self.source, np.ndarray)

    def open_workers(self) -> AbstractContextManager[Workers]:
        """The workers for the samples."""
        return workers_for(self.samples)

    def start_rows(self, passes: Passes, limit: int, seed: int) -> FloatArray:
        """Rows that starts are made of, in double precision: all, or the profile's sample of chunked data."""
        if self.whole:
            return np.asarray(self.source, dtype=np.float64)
        sample, size = passes.profile.sample, self.samples.grid.size
        return rows_in_order(sample, size, seed) if size <= limit else sample.rows.x


def workers_for(samples: Samples) -> AbstractContextManager[Workers]:
    """Threads for what is in memory, which nobody should scatter; else the open client, or threads."""
    return open_workers("threads" if samples.in_memory else None)
