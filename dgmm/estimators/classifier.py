"""Discriminant analysis with scikit-learn's interface, on data of any size, where some classes or all are known."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score
from sklearn.utils import assert_all_finite, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, check_is_fitted, column_or_1d

from dgmm.blas import one_blas_thread
from dgmm.data import Names
from dgmm.errors import InputError
from dgmm.estimators.containers import beside, held, is_chunked
from dgmm.estimators.lazy import Scorer, What, share_of_hits
from dgmm.estimators.problem import AnySamples, Streamed
from dgmm.families import gaussian_family
from dgmm.fits import Fit, One, Training, validated
from dgmm.fitting import fit_one, passes_over
from dgmm.types import AnyArray, BoolArray

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

#: What scikit-learn has for the label of a sample whose class is not known.
UNKNOWN = -1


class GaussianMixtureClassifier(Streamed, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classifier in which every class is a mixture of Gaussians, supervised or semi-supervised.

    With one component of each class and all classes known it is discriminant analysis: quadratic (full), linear (tied)
    or naive Bayes (diag), in one pass over data of any size. Samples whose class is not known go to the classes that
    they look like (EM), and several components make classes of other shapes.

    Parameters
    ----------
    components_per_class : int, default=1
        Components of each class.
    covariance_type : str, default='full'
        As for `dgmm.train`: full, tied, diag, spherical or one of mclust's structures.
    reg_covar : float, default=1e-6
        Added to every covariance, as a share of the data's own covariance.
    tol : float, default=None
        When to stop, as the estimated gain still to come in nats per sample; None is 0.1 % of p/2 nats in total, with p
        parameters.
    max_iter : int, default=1000
        Passes over the data, at most; where all classes are known and are one component each, there is one.
    n_init : int, default=10
        Starts where there are several components of each class.
    random_state : int, RandomState instance or None, default=None
        Of the starts and of the sample of rows that they are tried on.
    sample_rows : int, default=100_000
        Rows of that sample.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    weights_ : ndarray of shape (n_components,)
        Of the components, those of one class after the other; priors of the classes are their sums.
    means_ : ndarray of shape (n_components, n_features)
    covariances_ : ndarray
        In the shape customary for the covariance type.
    fit_ : dgmm.Fit
        What `dgmm.train` returns, to be saved and to score stores with.
    converged_ : bool
    n_iter_ : int
        Passes over the data.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        As for `dgmm.GaussianMixture`.

    See Also
    --------
    dgmm.train : The same with ``labels``, for stores.

    Examples
    --------
    >>> import numpy as np
    >>> import dgmm
    >>> x = np.array([[0.0, 0.0], [1.0, 1.2], [0.0, 1.1], [1.0, 0.0], [5.0, 5.0], [6.0, 6.3], [5.0, 6.1], [6.0, 5.0]])
    >>> y = ["low", "low", "low", "low", "high", "high", "high", "high"]
    >>> dgmm.GaussianMixtureClassifier(covariance_type="diag").fit(x, y).predict([[1.0, 1.0], [5.0, 5.5]]).tolist()
    ['low', 'high']
    """

    def __init__(
        self,
        components_per_class: int = 1,
        *,
        covariance_type: str = "full",
        reg_covar: float = 1e-6,
        tol: float | None = None,
        max_iter: int = 1000,
        n_init: int = 10,
        random_state: int | np.random.RandomState | None = None,
        sample_rows: int = 100_000,
    ) -> None:
        self.components_per_class = components_per_class
        self.covariance_type = covariance_type
        self.reg_covar = reg_covar
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state
        self.sample_rows = sample_rows

    def fit(
        self,
        X: AnySamples,
        y: Any,
        sample_weight: Any = None,
        *,
        feature_dims: str | Sequence[str] | None = None,
    ) -> Self:
        """Fit the mixtures of all classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), dask.array.Array, zarr.Array, xarray.DataArray or Dataset
            As for `dgmm.GaussianMixture.fit`.
        y : array-like of shape (n_samples,), dask.array.Array, zarr.Array, xarray.DataArray or str
            The class of each sample; -1, an empty text or a missing value where it is not known. In the shape of the
            samples for chunked data, and there whole numbers from 0 up, or texts; a variable of a Dataset by its name.
        sample_weight : array-like of shape (n_samples,), default=None
            How much each sample counts, given like the classes. Only the ratios matter.
        feature_dims : str or sequence of str, optional
            As for `dgmm.GaussianMixture.fit`.

        Returns
        -------
        self : object
            The fitted classifier.
        """
        one = validated(One, {name: getattr(self, name) for name in ("components_per_class", "covariance_type")})
        gaussian_family(one.covariance_type, "discriminant analysis")
        asked = {name: getattr(self, name) for name in ("reg_covar", "tol", "max_iter", "n_init", "sample_rows")}
        options = validated(Training, {**asked, "seed": self._seed})
        chunked = is_chunked(X)
        if chunked:
            labels, weights = held(X, y, "y"), held(X, sample_weight, "sample_weight")
            X = beside(beside(X, y, "y"), sample_weight, "sample_weight")
            problem = self._problem(X, feature_dims, labels, weights)
        else:
            labels, classes, names = self._known(X, y)
            if sample_weight is not None:
                sample_weight = _check_sample_weight(sample_weight, labels)
            problem = self._problem(X, feature_dims, labels, sample_weight)
        with problem.open_workers() as workers, one_blas_thread:
            fit = fit_one(passes_over(problem.samples, workers, options), one, options)
        if not fit.converged:
            warnings.warn(
                f"{fit.state}: {fit.reason or f'raise max_iter ({self.max_iter}) or tol'}",
                ConvergenceWarning,
                stacklevel=2,
            )
        if not chunked:
            fit = replace(fit, classes=names)
        self.classes_ = np.array(fit.classes) if chunked else classes
        self.fit_: Fit = replace(fit, evaluated=None, judged=None)
        self.weights_, self.means_, self.covariances_ = fit.mixture.weights, fit.mixture.means, fit.mixture.covariances
        self.converged_, self.n_iter_ = fit.converged, fit.n_passes
        return self

    def predict(self, X: AnySamples) -> Any:
        """The most probable class of every sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), dask.array.Array, zarr.Array, xarray.DataArray or Dataset

        Returns
        -------
        labels : ndarray of shape (n_samples,), dask.array.Array or xarray.DataArray
            In what held the samples, as for `dgmm.GaussianMixture.predict`. -1, or an empty text, where a value is
            missing in chunked data.
        """
        labels = self._score("label", X)
        return self.classes_[labels] if isinstance(labels, np.ndarray) else labels

    def predict_proba(self, X: AnySamples) -> Any:
        """Probability of every class for every sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), dask.array.Array, zarr.Array, xarray.DataArray or Dataset

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes), dask.array.Array or xarray.DataArray
            As for `predict`, with a last dimension ``class``. NaN where a value is missing in chunked data.
        """
        return self._score("probabilities", X)

    def score(self, X: AnySamples, y: Any, sample_weight: Any = None) -> float:
        """Share of the samples of known class that are labelled with it; of chunked data, of the complete ones.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), dask.array.Array, zarr.Array, xarray.DataArray or Dataset
        y : array-like of shape (n_samples,), dask.array.Array, zarr.Array, xarray.DataArray or str
            As for `fit`.
        sample_weight : array-like of shape (n_samples,), default=None
            As for `fit`.

        Returns
        -------
        score : float
        """
        check_is_fitted(self)
        if is_chunked(X):
            labels, weights = held(X, y, "y"), held(X, sample_weight, "sample_weight")
            return share_of_hits(
                self.predict(beside(beside(X, y, "y"), sample_weight, "sample_weight")), labels, weights
            )
        y, found = column_or_1d(y), self.predict(X)
        known = ~unknown(y)
        weights = None if sample_weight is None else np.asarray(sample_weight)[known]
        return float(accuracy_score(y[known], found[known], sample_weight=weights))

    @property
    def _seed(self) -> int:
        given = self.random_state
        if isinstance(given, (int, np.integer)):
            return int(given)
        return int(check_random_state(given).randint(np.iinfo(np.int32).max))

    def _known(self, X: AnySamples, y: ArrayLike) -> tuple[AnyArray, AnyArray, Names]:
        """Labels in memory as fits take them, the classes, and what a model calls these."""
        if y is None:
            raise InputError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        labels = column_or_1d(y, warn=True)
        check_consistent_length(X, labels)
        known = ~unknown(labels)
        if not known.any():
            raise InputError("no sample has a class: all of y are unknown (-1, empty or missing)")
        assert_all_finite(labels[known], input_name="y")
        check_classification_targets(labels[known])
        classes, numbers = np.unique(labels[known], return_inverse=True)
        codes = np.full(len(labels), UNKNOWN, dtype=np.int64)
        codes[known] = numbers
        names = plain_names(classes)
        # by their names, if a fit takes such, for its messages
        negative = classes.dtype.kind in "if" and classes[0] < 0
        return codes if negative else with_unknown(names)[codes], classes, names

    def _scorer(self, what: What) -> Scorer:
        names: Names = self.fit_.classes
        with one_blas_thread:
            plan = self.fit_.mixture.density_plan(n_classes=len(names))
        return Scorer(plan, what, names=with_unknown(names))


def unknown(labels: AnyArray) -> BoolArray:
    """Where labels in memory say nothing: -1, an empty text, NaN or None."""
    found = np.asarray(pd.isna(labels))
    if labels.dtype.kind in "OU":
        found |= labels == ""
    if labels.dtype.kind in "Oif":
        found |= labels == UNKNOWN
    return found


def with_unknown(names: Names) -> AnyArray:
    """Names of classes, and last what stands for none of them."""
    return np.array([*names, UNKNOWN if isinstance(names[0], int) else ""])


def plain_names(classes: AnyArray) -> Names:
    """Classes as a model keeps them: whole numbers, or texts."""
    whole = classes.dtype.kind in "biu" or (classes.dtype.kind == "f" and bool((classes == np.floor(classes)).all()))
    return tuple(map(int, classes)) if whole else tuple(map(str, classes))
