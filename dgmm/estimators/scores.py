"""What a fitted mixture says of samples, which comes back in what held them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from sklearn.utils.validation import check_is_fitted

from dgmm.blas import one_blas_thread
from dgmm.errors import InputError
from dgmm.estep import Plan
from dgmm.estimators.containers import is_chunked, samples_of
from dgmm.estimators.lazy import Scorer, What
from dgmm.estimators.problem import AnySamples, Streamed, workers_for
from dgmm.mixture import Mixture
from dgmm.scoring import total_log_density
from dgmm.transform import Transform
from dgmm.types import AnyArray


@dataclass(frozen=True)
class Density:
    """What a fitted model scores by.

    Attributes
    ----------
    state : tuple
        What it was made of; see `ScoringMixture._state`.
    plan : Plan
    log_scale : float
        Added to the log densities of the plan.
    """

    state: tuple[Any, ...]
    plan: Plan
    log_scale: float


#: Of the models that have scored something: making it takes longer than scoring a few rows by it.
_densities: WeakKeyDictionary[ScoringMixture, Density] = WeakKeyDictionary()


class ScoringMixture(Streamed):
    """A mixture that scores samples by its fitted attributes."""

    #: The fitted attributes that scores follow from.
    _scored_by: ClassVar[tuple[str, ...]] = ("weights_", "means_", "precisions_cholesky_")

    covariance_type: str
    means_: AnyArray
    _transform: Transform | None

    def predict(self, X: AnySamples) -> Any:
        """Label samples with their most probable component.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), dask.array.Array, zarr.Array, xarray.DataArray or Dataset

        Returns
        -------
        labels : ndarray of shape (n_samples,), dask.array.Array or xarray.DataArray
            In what held the samples: lazy and with the same chunks for Dask and Zarr, with the coordinates of the
            samples for xarray. -1 where a value is missing in chunked data.
        """
        return self._score("label", X)

    def predict_proba(self, X: AnySamples) -> Any:
        """Probability of every component for every sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), dask.array.Array, zarr.Array, xarray.DataArray or Dataset

        Returns
        -------
        resp : ndarray of shape (n_samples, n_components), dask.array.Array or xarray.DataArray
            As for `predict`, with a last dimension ``component``. NaN where a value is missing in chunked data.
        """
        return self._score("probabilities", X)

    def score_samples(self, X: AnySamples) -> Any:
        """Log density of every sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), dask.array.Array, zarr.Array, xarray.DataArray or Dataset

        Returns
        -------
        log_prob : ndarray of shape (n_samples,), dask.array.Array or xarray.DataArray
            As for `predict`, in nats. NaN where a value is missing in chunked data.
        """
        return self._score("log_density", X)

    def score(self, X: AnySamples, y: None = None) -> float:
        """Mean log density of the samples, in nats; chunked data are read once.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), dask.array.Array, zarr.Array, xarray.DataArray or Dataset
        y : Ignored
            There by convention.

        Returns
        -------
        log_likelihood : float
            Over the complete rows.
        """
        total, count = self._total(X)
        return total / count

    @abstractmethod
    def _expected_mixture(self) -> Mixture:
        """The mixture of the fitted attributes whose E-step scores samples."""

    def _log_scale(self) -> float:
        """What is added to the log densities of that mixture."""
        return 0.0

    def _scorer(self, what: What) -> Scorer:
        found = _densities.get(self)
        current = self._state()
        if found is None or found.state != current:
            with one_blas_thread:
                expected = replace(self._expected_mixture(), transform=self._transform)
                plan = expected.density_plan(ridge=0.0, marginal=self._marginal)
                found = _densities[self] = Density(current, plan, self._log_scale())
        return Scorer(found.plan, what, found.log_scale, self.means_.dtype == np.float32)

    def _state(self) -> tuple[Any, ...]:
        """All that scores follow from: as in scikit-learn, whoever changes an attribute changes them, in place, too."""
        arrays = [np.asarray(getattr(self, name)) for name in self._scored_by]
        contents = tuple((a.shape, a.dtype.str, a.tobytes()) for a in arrays)
        preprocessed = None if self._transform is None else self._transform.digest
        return self.covariance_type, self._marginal, preprocessed, contents

    def _total(self, X: AnySamples) -> tuple[float, int]:
        """Sum of the log densities of the complete rows, and how many there are."""
        check_is_fitted(self)
        if not is_chunked(X):
            values = self._score("log_density", X)
            values = values[np.isfinite(values)] if self._marginal else values
            return float(values.mean()) * len(values), len(values)
        samples, scorer = samples_of(X, self._remembered()), self._scorer("log_density")
        if samples.n_features != self.n_features_in_:
            raise InputError(f"samples have {samples.n_features} features, the model has {self.n_features_in_}")
        with workers_for(samples) as workers:
            total = total_log_density(samples, scorer.plan, scorer.log_scale, workers)
        if not total.count:
            raise InputError(f"no complete row in {samples.name}")
        return total.log_density, total.count
