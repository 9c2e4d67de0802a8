"""Fitting batch by batch, as scikit-learn's incremental estimators do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from sklearn.utils.validation import _check_sample_weight

from dgmm.em import Past
from dgmm.errors import InputError
from dgmm.estimators.base import StreamedMixture
from dgmm.estimators.containers import beside, held, is_chunked
from dgmm.estimators.problem import AnySamples


class PartlyFitted(StreamedMixture):
    """A mixture that goes on with further samples, without those that it was fitted to."""

    forget: float
    #: Of the samples that it was fitted to, old and new; None where nothing is known of them.
    _past: Past | None

    def partial_fit(
        self,
        X: AnySamples,
        y: None = None,
        sample_weight: Any = None,
        *,
        feature_dims: str | Sequence[str] | None = None,
    ) -> Self:
        """Go on with further samples: incremental EM (Neal and Hinton 1998).

        The first call fits to its batch, as `fit` does. Each further one, also after `fit`, climbs on its batch alone,
        by the rules of `fit` (``tol``, ``max_iter``, ``accelerate``), while the sufficient statistics of all samples
        before it stay as they are, each of which counts for less by `forget`. Iterations and bounds are then of that
        climb, bounds per sample of all: those of old samples are lower bounds.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), dask.array.Array, zarr.Array, xarray.DataArray or Dataset
            As for `fit`; the first batch must have as many samples as there are components, two at least.
        y : Ignored
            There by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            How much each sample counts; to a mean of one over the batch. The name of a variable where ``X`` is a
            Dataset. Starts do not see it.
        feature_dims : str or sequence of str, optional
            As for `fit`; remembered.

        Returns
        -------
        self : object
            The mixture, fitted to all batches so far.
        """
        past = None
        if hasattr(self, "converged_"):
            known: Past | None = getattr(self, "_past", None)
            if known is None:
                raise InputError(
                    "the model has no sufficient statistics to go on from (it comes from scikit-learn, or was fitted "
                    "with max_iter=0): fit it, or call partial_fit on an estimator that is not fitted"
                )
            past = known.scaled(1 - self.forget)
        if is_chunked(X):
            weights = held(X, sample_weight, "sample_weight")
            X = beside(X, sample_weight, "sample_weight")
        else:
            weights = None if sample_weight is None else _check_sample_weight(sample_weight, X)
        self._fit(X, feature_dims, weights, past)
        return self
