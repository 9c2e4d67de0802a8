"""BayesianGaussianMixture against scikit-learn's: the same start, the same posterior, whatever holds the samples."""

import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import sklearn.mixture
import xarray as xr
import zarr
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

import dgmm

TYPES = ["full", "tied", "diag", "spherical"]
PRIORS = ["dirichlet_process", "dirichlet_distribution"]
STARTS = ["kmeans", "k-means++", "random", "random_from_data"]
PARAMETERS = [
    "weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "weight_concentration_",
    "mean_precision_", "degrees_of_freedom_", "weight_concentration_prior_", "mean_precision_prior_", "mean_prior_",
    "degrees_of_freedom_prior_", "covariance_prior_",
]  # fmt: skip


def data() -> np.ndarray:
    r = np.random.default_rng(11)
    parts = [r.standard_normal((150, 3)) @ r.standard_normal((3, 3)) + 3 * r.standard_normal(3) for _ in range(2)]
    return r.permutation(np.concatenate(parts))


X = data()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """k-means in many threads on a busy machine waits for the slowest."""
    with threadpool_limits(1):
        yield


def quietly(model: Any, *arguments: Any, **named: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(*arguments, **named)


def plain(**parameters: Any) -> sklearn.mixture.BayesianGaussianMixture:
    return sklearn.mixture.BayesianGaussianMixture(**parameters)


def assert_same(ours: Any, theirs: Any, rtol: float = 1e-7) -> None:
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.converged_ == theirs.converged_
    # scikit-learn's are arrays of one number for tied covariances
    assert_allclose(ours.lower_bounds_, np.ravel(theirs.lower_bounds_), rtol=1e-11, atol=1e-8)
    for name in PARAMETERS:
        assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=rtol, atol=rtol, err_msg=name)


@pytest.mark.parametrize("container", ["numpy", "pandas", "dask", "zarr", "xarray"])
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("kind", TYPES)
def test_it_is_scikit_learns(kind: str, prior: str, container: str) -> None:
    holders: dict[str, Any] = {
        "pandas": lambda: pd.DataFrame(X, columns=["u", "v", "w"]),
        "dask": lambda: da.from_array(X, chunks=(70, 2)),
        "zarr": lambda: zarr.create_array({}, data=X, chunks=(70, 2)),
        "xarray": lambda: xr.DataArray(X, dims=("time", "feature")),
    }
    x = holders.get(container, lambda: X)()
    for init_params in STARTS:
        common = {"n_components": 5, "covariance_type": kind, "init_params": init_params, "n_init": 2}
        common |= {"weight_concentration_prior_type": prior, "random_state": 0, "tol": 1e-3}
        theirs, ours = quietly(plain(**common), X), quietly(dgmm.BayesianGaussianMixture(**common), x)
        assert_same(ours, theirs)
        labels = ours.predict(x)
        assert isinstance(labels, da.Array) == (container in ("dask", "zarr"))
        assert_array_equal(np.asarray(labels), theirs.predict(X))
        assert_allclose(np.asarray(ours.predict_proba(x)), theirs.predict_proba(X), atol=1e-8)
        assert_allclose(np.asarray(ours.score_samples(x)), theirs.score_samples(X), rtol=1e-7, atol=1e-8)
        assert ours.score(x) == pytest.approx(theirs.score(X), abs=1e-8)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("kind", TYPES)
def test_given_priors(kind: str, prior: str) -> None:
    covariance = {"full": 2 * np.eye(3), "tied": 2 * np.eye(3), "diag": [1.0, 2.0, 3.0], "spherical": 2.0}[kind]
    common = {
        "n_components": 4, "covariance_type": kind, "weight_concentration_prior_type": prior, "random_state": 1,
        "weight_concentration_prior": 0.01, "mean_precision_prior": 0.1, "mean_prior": [1.0, 0.0, -1.0],
        "degrees_of_freedom_prior": 5.0, "covariance_prior": covariance, "max_iter": 30,
    }  # fmt: skip
    assert_same(quietly(dgmm.BayesianGaussianMixture(**common), X), quietly(plain(**common), X))


@pytest.mark.parametrize("kind", TYPES)
def test_warm_start_and_no_iterations(kind: str) -> None:
    common = {"n_components": 4, "covariance_type": kind, "random_state": 2, "max_iter": 2, "warm_start": True}
    theirs, ours = plain(**common), dgmm.BayesianGaussianMixture(**common)
    for _ in range(6):
        assert_same(quietly(ours, X), quietly(theirs, X))
    common = {"n_components": 4, "covariance_type": kind, "random_state": 2, "max_iter": 0}
    theirs, ours = plain(**common).fit(X), dgmm.BayesianGaussianMixture(**common).fit(da.from_array(X))
    for name in PARAMETERS:
        assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-8, atol=1e-8, err_msg=name)


def test_single_precision_is_summed_in_double() -> None:
    x = X.astype(np.float32)
    common = {"n_components": 4, "random_state": 0}
    ours, theirs = quietly(dgmm.BayesianGaussianMixture(**common), x), quietly(plain(**common), x.astype(float))
    assert_same(ours, theirs, rtol=1e-5)
    assert ours.means_.dtype == np.float32


def test_components_that_are_not_needed_lose_their_weight() -> None:
    common = {"n_components": 10, "weight_concentration_prior": 1e-3, "max_iter": 1000, "random_state": 0}
    model = dgmm.BayesianGaussianMixture(**common).fit(da.from_array(X, chunks=(100, 3)))
    assert (model.weights_ > 0.01).sum() == 2
    assert (np.diff(model.lower_bounds_) > -1e-8).all()


def test_missing_values_and_priors_of_all_rows() -> None:
    x = X.copy()
    x[::5, 0] = np.nan
    present = ~np.isnan(x).any(axis=1)
    ours = quietly(dgmm.BayesianGaussianMixture(n_components=3, random_state=0), da.from_array(x, chunks=(50, 3)))
    assert_same(ours, quietly(plain(n_components=3, random_state=0), x[present]))
    assert_array_equal(ours.predict(x[present]), np.asarray(ours.predict(xr.DataArray(x)))[present])
    sampled = dgmm.BayesianGaussianMixture(n_components=3, random_state=0, sample_rows=60)
    assert_allclose(quietly(sampled, da.from_array(x, chunks=(50, 3))).mean_prior_, np.nanmean(x[present], axis=0))
    assert sampled.mean_precision_.sum() == pytest.approx(present.sum() + 3)


@pytest.mark.parametrize("kind", ["diag", pytest.param("spherical", marks=pytest.mark.slow)])
def test_many_features(kind: str) -> None:
    """Expected log weights are far below the logarithm of any double."""
    r = np.random.default_rng(0)
    x = np.concatenate([r.standard_normal((20, 2000)), 0.3 + 1.5 * r.standard_normal((40, 2000))])
    common = {"n_components": 3, "covariance_type": kind, "random_state": 0, "max_iter": 5}
    ours, theirs = quietly(dgmm.BayesianGaussianMixture(**common), x), quietly(plain(**common), x)
    assert_same(ours, theirs)
    for held in (x, da.from_array(x, chunks=(25, 2000))):
        assert_allclose(np.asarray(ours.score_samples(held)), theirs.score_samples(x), rtol=1e-9)
        assert ours.score(held) == pytest.approx(theirs.score(x), rel=1e-9)
    assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-8)


def test_scikit_learns_go_on_as_ours() -> None:
    theirs = quietly(plain(n_components=3, covariance_type="tied", random_state=0, max_iter=3, warm_start=True), X)
    ours = quietly(dgmm.BayesianGaussianMixture.from_sklearn(theirs).set_params(max_iter=200), X)
    assert ours.converged_ is True
    assert isinstance(ours.lower_bound_, float)
    assert_same(ours, quietly(theirs.set_params(max_iter=200), X))


def test_copies() -> None:
    model = quietly(dgmm.BayesianGaussianMixture(n_components=3, random_state=0), X)
    assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))
    assert not hasattr(clone(model), "means_")
    ours, expected = clone(model).get_params(), plain().get_params()
    assert {name: ours[name] for name in expected} == {**expected, "n_components": 3, "random_state": 0}
    assert isinstance(model, sklearn.mixture.BayesianGaussianMixture)
    assert '<table class="dataframe"' in model._repr_html_()
    theirs = model.to_sklearn()
    assert type(theirs) is sklearn.mixture.BayesianGaussianMixture
    assert_allclose(theirs.predict_proba(X), model.predict_proba(X), atol=1e-10)
    assert_array_equal(dgmm.BayesianGaussianMixture.from_sklearn(theirs).predict(X), model.predict(X))
    with pytest.raises(ValueError, match="degrees_of_freedom_prior"):
        dgmm.BayesianGaussianMixture(degrees_of_freedom_prior=1.0).fit(X)
    with pytest.warns(ConvergenceWarning, match=r"max_iter \(1\)"):
        dgmm.BayesianGaussianMixture(n_components=3, max_iter=1).fit(X)
