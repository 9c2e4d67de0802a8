"""The data of one fit, as an estimator was given them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from sklearn.utils.validation import check_is_fitted, validate_data

from dgmm.data import Samples, open_samples
from dgmm.em import Climber
from dgmm.engine import Workers, open_workers
from dgmm.errors import CollapseError, InputError
from dgmm.estimators.containers import Features, is_chunked, named_features, rows_in_order, samples_of
from dgmm.estimators.lazy import Scorer, What, score_array, score_chunked
from dgmm.passes import Passes
from dgmm.types import AnyArray, FloatArray

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
            rows = np.asarray(self.source, dtype=np.float64)
            return rows if passes.transform is None else passes.transform(rows, incomplete=passes.marginal)
        sample, size = passes.profile.sample, self.samples.grid.size
        return rows_in_order(sample, size, seed) if size <= limit else sample.rows.x


class Streamed:
    """An estimator whose samples may lie anywhere: how it is given them, and scores in what held them."""

    n_features_in_: int
    feature_names_in_: AnyArray
    _features: Features

    @property
    def _marginal(self) -> bool:
        """Whether samples that lack some of their values are fitted and scored by the others."""
        return False

    @property
    def _finite(self) -> dict[str, Any]:
        """What scikit-learn is told of values that are missing."""
        return {"ensure_all_finite": "allow-nan"} if self._marginal else {}

    @abstractmethod
    def _scorer(self, what: What) -> Scorer:
        """What the fitted model says of every sample."""

    def _problem(
        self,
        X: AnySamples,
        feature_dims: str | Sequence[str] | None,
        labels: Any = None,
        weights: Any = None,
        *,
        again: bool = False,
    ) -> Problem:
        """Validated data, with what is known of each sample; again: those of the features that were fitted."""
        if is_chunked(X) and again:
            features = self._remembered()
            if feature_dims is not None:
                asked = named_features(X, feature_dims)
                if not features.dims and not features.names:  # fitted to plain rows
                    features = asked
                elif asked.dims != features.dims:
                    raise InputError(
                        f"feature_dims={feature_dims!r}, and the model was fitted to features along "
                        f"{', '.join(features.dims) or 'no dimension'}: leave feature_dims out"
                    )
            return Problem(X, samples_of(X, features, labels, weights), features)
        if is_chunked(X):
            features = named_features(X, feature_dims)
            problem = Problem(X, samples_of(X, features, labels, weights), features)
            self.n_features_in_ = problem.samples.n_features
            if hasattr(self, "feature_names_in_"):
                del self.feature_names_in_
            if features.names:
                self.feature_names_in_ = np.array(features.names, dtype=object)
        else:
            if feature_dims is not None:
                raise InputError(f"feature_dims={feature_dims!r} is for xarray objects, not for {type(X).__name__}")
            rows = {"ensure_min_samples": 1 if again else 2, "reset": not again}
            x = validate_data(self, X, dtype=[np.float64, np.float32], **rows, **self._finite)
            samples = open_samples(x, labels=labels, weights=weights)
            if hasattr(self, "feature_names_in_"):
                samples = replace(samples, features=tuple(map(str, self.feature_names_in_)))
            problem = Problem(x, samples, self._remembered() if again else Features())
        self._features = problem.features
        return problem

    def _remembered(self) -> Features:
        names = tuple(map(str, getattr(self, "feature_names_in_", ())))
        return replace(getattr(self, "_features", Features()), names=names)

    def _score(self, what: What, X: AnySamples) -> Any:
        check_is_fitted(self)
        if is_chunked(X):
            return score_chunked(X, self._scorer(what), self._remembered())
        return self._in_memory(validate_data(self, X, reset=False, **self._finite), self._scorer(what))

    def _in_memory(self, x: AnyArray, scorer: Scorer) -> AnyArray:
        """Scores of validated rows (n, d)."""
        return scorer.block(x, threads=True) if self._marginal else score_array(x, scorer)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.array_api_support = False
        tags.input_tags.allow_nan = self._marginal
        return tags


def workers_for(samples: Samples) -> AbstractContextManager[Workers]:
    """Threads for what is in memory, which nobody should scatter; else the open client, or threads."""
    return open_workers("threads" if samples.in_memory else None)
