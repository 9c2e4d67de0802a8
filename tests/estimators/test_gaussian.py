"""GaussianMixture against scikit-learn's: the same start, the same results, whatever holds the samples."""

import inspect
import pickle
import re
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import sklearn
import sklearn.mixture
import xarray as xr
import zarr
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import dgmm
import dgmm.estimators.containers
import dgmm.estimators.lazy
from dgmm.estimators import GaussianMixture
from dgmm.estimators.bayesian import BayesianParameters
from dgmm.estimators.gaussian import GaussianParameters

TYPES = ["full", "tied", "diag", "spherical"]
STARTS = ["kmeans", "k-means++", "random", "random_from_data"]
PARAMETERS = ["weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"]


def data(n: int = 600, seed: int = 3) -> np.ndarray:
    r = np.random.default_rng(seed)
    parts = [r.standard_normal((n // 3, 3)) @ r.standard_normal((3, 3)) + 3 * r.standard_normal(3) for _ in range(3)]
    return r.permutation(np.concatenate(parts))


X = data()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """k-means in many threads on a busy machine waits for the slowest."""
    with threadpool_limits(1):
        yield


def quietly(model: Any, *arguments: Any, **named: Any) -> Any:
    """Fitted, whether it converges or not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(*arguments, **named)


def plain(**parameters: Any) -> sklearn.mixture.GaussianMixture:
    return sklearn.mixture.GaussianMixture(**parameters)


def assert_same(ours: Any, theirs: Any, rtol: float = 1e-7) -> None:
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.converged_ == theirs.converged_
    # a component of one sample begins with reg_covar for a variance: its first lower bound is in the millions
    assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=1e-13, atol=1e-8)
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, abs=1e-8)
    for name in PARAMETERS:
        assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=rtol, atol=rtol)


CONTAINERS = ["numpy", "float32", "pandas", "dask", "zarr", "xarray"]


def held(x: np.ndarray, container: str) -> Any:
    match container:
        case "float32":
            return x.astype(np.float32)
        case "pandas":
            return pd.DataFrame(x, columns=["u", "v", "w"])
        case "dask":
            return da.from_array(x, chunks=(130, 2))
        case "zarr":
            return zarr.create_array({}, data=x, chunks=(130, 2))
        case "xarray":
            return xr.DataArray(x.T, dims=("feature", "time"), coords={"time": np.arange(len(x)) * 10.0})
    return x


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("init_params", STARTS)
@pytest.mark.parametrize("kind", TYPES)
def test_it_is_scikit_learns(kind: str, init_params: str, container: str) -> None:
    common = {"n_components": 4, "covariance_type": kind, "init_params": init_params, "n_init": 3, "tol": 1e-4}
    x = held(X, container)
    # single precision is summed in double
    y = x.astype(float) if container == "float32" else X
    theirs = quietly(plain(**common, random_state=0), y)
    named = {"feature_dims": "feature"} if container == "xarray" else {}
    ours = quietly(dgmm.GaussianMixture(**common, random_state=0), x, **named)
    assert_same(ours, theirs, rtol=1e-4 if container == "float32" else 1e-7)
    assert ours.n_features_in_ == 3
    assert ours.means_.dtype == (np.float32 if container == "float32" else np.float64)
    labels, probabilities, densities = ours.predict(x), ours.predict_proba(x), ours.score_samples(x)
    lazy = container in ("dask", "zarr")
    assert isinstance(labels, da.Array) == lazy
    loose = 1e-3 if container == "float32" else 1e-7
    assert (np.asarray(labels) == theirs.predict(y)).mean() > (0.99 if loose > 1e-7 else 1 - 1e-9)
    assert_allclose(np.asarray(probabilities), theirs.predict_proba(y), atol=loose)
    assert_allclose(np.asarray(densities), theirs.score_samples(y), rtol=loose, atol=loose)
    assert ours.score(x) == pytest.approx(theirs.score(y), rel=loose)
    assert ours.aic(x) == pytest.approx(theirs.aic(y), rel=loose)
    assert ours.bic(x) == pytest.approx(theirs.bic(y), rel=loose)
    if container == "pandas":
        assert_array_equal(ours.feature_names_in_, ["u", "v", "w"])
    if container == "xarray":
        assert labels.dims == ("time",)
        assert labels.time.equals(x.time)
        assert probabilities.dims == ("time", "component")


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", TYPES)
def test_given_parameters(kind: str, dtype: Any) -> None:
    start = quietly(plain(n_components=3, covariance_type=kind, max_iter=2, random_state=1), X)
    given = {"weights_init": start.weights_, "means_init": start.means_, "precisions_init": start.precisions_}
    x = X.astype(dtype)
    for names in (["weights_init"], ["means_init"], ["precisions_init"], list(given)):
        common = {"n_components": 3, "covariance_type": kind, "random_state": 2, "tol": 1e-5}
        common |= {name: given[name] for name in names}
        theirs = quietly(plain(**common), x.astype(float))
        assert_same(quietly(dgmm.GaussianMixture(**common), x), theirs, 1e-7 if dtype is np.float64 else 1e-4)


@pytest.mark.parametrize("container", ["numpy", "dask"])
@pytest.mark.parametrize("kind", TYPES)
def test_no_iterations(kind: str, container: str) -> None:
    common = {"n_components": 3, "covariance_type": kind, "max_iter": 0, "n_init": 2, "random_state": 4}
    theirs, ours = plain(**common).fit(X), dgmm.GaussianMixture(**common).fit(held(X, container))
    for name in PARAMETERS:
        assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-10, atol=1e-10)
    assert (ours.n_iter_, ours.lower_bound_, ours.lower_bounds_) == (0, -np.inf, [])
    assert not ours.converged_
    assert_array_equal(np.asarray(ours.predict(X)), theirs.predict(X))


def test_no_iterations_with_precisions_given() -> None:
    ours = dgmm.GaussianMixture(2, max_iter=0, precisions_init=[4 * np.eye(3)] * 2).fit(X)
    assert_allclose(ours.covariances_, [0.25 * np.eye(3)] * 2, atol=1e-15)


@pytest.mark.parametrize("kind", TYPES)
def test_warm_start(kind: str) -> None:
    common = {"n_components": 4, "covariance_type": kind, "max_iter": 3, "warm_start": True, "random_state": 5}
    theirs, ours = plain(**common), dgmm.GaussianMixture(**common)
    for _ in range(12):
        assert_same(quietly(ours, X), quietly(theirs, X))
    more = held(X, "dask")
    assert quietly(ours, more).lower_bounds_[0] == pytest.approx(quietly(theirs, X).lower_bounds_[0], abs=1e-10)


def test_a_warm_start_from_something_else_is_refused() -> None:
    model = dgmm.GaussianMixture(3, random_state=0, warm_start=True).fit(X)
    for changed in ({"n_components": 2}, {"covariance_type": "tied"}, {"covariance_type": "diag"}):
        other = clone(model).fit(X).set_params(**changed)
        for x in (X, held(X, "dask")):
            with pytest.raises(dgmm.InputError, match=r"but 3, full and 3 in the fitted model.*set warm_start=False"):
                other.fit(x)
        other.set_params(warm_start=False).fit(X)
    with pytest.raises(dgmm.InputError, match=r"are 3, full and 2, but 3, full and 3 in"):
        model.fit(X[:, :2])
    # as many components as features, so that the shapes of all covariances are the same
    for kind, other in (("tied", "diag"), ("diag", "tied")):
        model = dgmm.GaussianMixture(3, covariance_type=kind, random_state=0, warm_start=True).fit(X)
        with pytest.raises(dgmm.InputError, match=f"but 3, {kind} and 3"):
            model.set_params(covariance_type=other).fit(X)


def test_more_components_than_rows_of_the_sample() -> None:
    x = held(X, "dask")
    with pytest.raises(dgmm.InputError, match="n_components=5 cannot start from sample_rows=4"):
        dgmm.GaussianMixture(5, sample_rows=4).fit(x)
    quietly(dgmm.GaussianMixture(5, sample_rows=4, random_state=0, max_iter=1), X)
    quietly(dgmm.GaussianMixture(5, sample_rows=5, random_state=0, max_iter=1), x)


def test_an_accelerated_warm_start_on_other_data_ends() -> None:
    model = dgmm.GaussianMixture(3, accelerate="anderson", warm_start=True, tol=1e-6, max_iter=300, random_state=0)
    model.fit(X)
    # ten times as wide: no lower bound comes near the last one's
    model.fit(10 * X)
    assert model.converged_
    assert model.n_iter_ < 300


@pytest.mark.parametrize(
    ("ours", "keywords", "theirs", "own"),
    [
        (
            dgmm.GaussianMixture,
            GaussianParameters,
            sklearn.mixture.GaussianMixture,
            [
                *("accelerate", "regularisation", "stop", "assignment", "fixed", "prior", "preprocess", "missing"),
                *("sample_rows", "forget"),
            ],
        ),
        (dgmm.BayesianGaussianMixture, BayesianParameters, sklearn.mixture.BayesianGaussianMixture, ["sample_rows"]),
    ],
)
def test_the_parameters_are_scikit_learns_and_our_own(ours: Any, keywords: Any, theirs: Any, own: list[str]) -> None:
    """In its order, of its kinds and defaults, for whoever asks, with a type and a word in the documentation."""
    found, expected = dict(inspect.signature(ours).parameters), inspect.signature(theirs).parameters
    assert list(found) == [*expected, *own]
    for name, parameter in expected.items():
        assert (found[name].default, found[name].kind) == (parameter.default, parameter.kind)
    assert {*keywords.__annotations__, "n_components"} == set(expected)
    parameters = ours.__doc__.partition("Attributes\n")[0]
    assert all(re.search(rf"^    ([\w, ]+, )?{name}\b.*$", parameters, re.MULTILINE) for name in found)
    given = {name: object() for name in found}
    assert ours(**given).get_params() == given
    with pytest.raises(TypeError, match="n_initt"):
        ours(n_initt=3)


def test_a_subclass_has_parameters_of_its_own() -> None:
    class Few(dgmm.GaussianMixture):
        def __init__(self, k: int = 2) -> None:
            super().__init__(k)
            self.k = k

    class Same(dgmm.GaussianMixture):
        """With nothing of its own."""

    assert Few(3).get_params() == {"k": 3}
    assert Same().get_params() == dgmm.GaussianMixture().get_params()


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize(
    ("model", "names"),
    [
        (dgmm.GaussianMixture(2, random_state=0), PARAMETERS),
        (
            dgmm.BayesianGaussianMixture(
                n_components=2, random_state=0, weight_concentration_prior_type="dirichlet_distribution", tol=1.0
            ),
            [*PARAMETERS, "weight_concentration_", "mean_precision_", "degrees_of_freedom_"],
        ),
    ],
)
def test_scores_follow_attributes_that_are_changed(model: Any, names: list[str], in_place: bool) -> None:
    """Those that scikit-learn's follow, and at once: what scores were made by is kept no longer."""
    model = clone(model).fit(X)
    felt = set()
    for name in names:
        before = model.score_samples(X)
        changed = 1.5 * getattr(model, name)
        if in_place:
            getattr(model, name)[...] = changed
        else:
            setattr(model, name, changed)
        after, theirs = model.score_samples(X), model.to_sklearn()
        assert_allclose(after, theirs.score_samples(X), rtol=1e-10)
        assert_allclose(model.predict_proba(X), theirs.predict_proba(X), atol=1e-10)
        if not np.array_equal(before, after):
            felt.add(name)
    assert {"means_", "precisions_cholesky_"} < felt < set(names)
    model.fit(X[:300])
    assert_allclose(model.score_samples(X), model.to_sklearn().score_samples(X), rtol=1e-10)


def test_what_scores_are_made_by_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than the scores of a few rows."""
    made, make = [], dgmm.mixture.Mixture.density_plan

    def density_plan(self: Any, *given: Any, **more: Any) -> Any:
        made.append(1)
        return make(self, *given, **more)

    model, other = (GaussianMixture(2, random_state=seed).fit(X) for seed in (0, 1))
    monkeypatch.setattr(dgmm.mixture.Mixture, "density_plan", density_plan)
    for _ in range(2):
        for use, x in ((model.predict, X), (model.score, X), (model.predict_proba, da.from_array(X))):
            use(x)
        other.predict(X[:1])
    assert len(made) == 2
    pickle.loads(pickle.dumps(model)).predict(X[:1])
    assert len(made) == 3, "a model travels without it"


def test_fit_predict_is_fit_and_predict() -> None:
    for container in CONTAINERS:
        x = held(X, container)
        named = {"feature_dims": "feature"} if container == "xarray" else {}
        model = dgmm.GaussianMixture(3, max_iter=4, tol=0.5, random_state=0)
        labels = model.fit_predict(x, **named)
        assert_array_equal(np.asarray(labels), np.asarray(model.predict(x)))
        assert type(labels) is type(model.predict(x))


def test_one_generator_serves_all() -> None:
    for model in (plain, dgmm.GaussianMixture):
        generator = np.random.RandomState(7)
        fitted = model(n_components=3, random_state=generator, n_init=2).fit(X)
        x, labels = fitted.sample(5)
        assert x.shape == (5, 3)
        if model is plain:
            expected = x, labels
    assert_allclose(x, expected[0], rtol=1e-8)
    assert_array_equal(labels, expected[1])


def test_features_that_are_constant_or_dependent() -> None:
    wide = np.column_stack([X, X[:, 0] + X[:, 1], np.full(len(X), 7.0), 1e6 * X[:, 2]])
    # scikit-learn's own numbers lose digits here: the scales differ by 1e12, and nothing is left beside reg_covar
    for kind in TYPES:
        common = {"n_components": 3, "covariance_type": kind, "random_state": 0, "max_iter": 10, "tol": 0}
        theirs, ours = quietly(plain(**common), wide), quietly(dgmm.GaussianMixture(**common), wide)
        assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=1e-3)
        assert_allclose(ours.weights_, theirs.weights_, rtol=1e-2)
        assert np.isfinite(np.asarray(ours.predict_proba(da.from_array(wide)))).all()
    small = np.column_stack([X, np.full(len(X), 7.0), X[:, 0] - X[:, 1]])
    for kind in TYPES:
        common = {"n_components": 3, "covariance_type": kind, "random_state": 0, "max_iter": 10, "tol": 0}
        theirs, ours = quietly(plain(**common), small), quietly(dgmm.GaussianMixture(**common), small)
        assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=1e-7)
        assert_allclose(ours.score_samples(small), theirs.score_samples(small), atol=1e-6)


def test_the_frame_is_only_a_choice_of_coordinates(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in TYPES:
        common = {"n_components": 3, "covariance_type": kind, "random_state": 0, "max_iter": 20, "tol": 0}
        fits = []
        for ridge in (0.0, 1e-6, 100.0):
            monkeypatch.setattr(dgmm.GaussianMixture, "_ridge", lambda self, ridge=ridge: ridge)
            fits.append(quietly(dgmm.GaussianMixture(**common), X))
        for other in fits[1:]:
            assert_allclose(other.lower_bounds_, fits[0].lower_bounds_, rtol=1e-12)
            assert_allclose(other.precisions_, fits[0].precisions_, rtol=1e-8, atol=1e-10)


def test_more_components_than_distinct_rows() -> None:
    x = np.repeat([[0.0, 1.0], [2.0, 3.0]], 5, axis=0)
    model = quietly(dgmm.GaussianMixture(4, random_state=0), x)
    assert np.isfinite(model.lower_bound_)
    with pytest.raises(ValueError, match="reg_covar"):
        quietly(dgmm.GaussianMixture(4, reg_covar=0, random_state=0), x)


def test_a_collapse_is_a_value_error() -> None:
    x = np.concatenate([X, [[100.0, 100.0, 100.0]]])
    start = {"weights_init": [0.5, 0.5], "means_init": [x.mean(axis=0), x[-1]], "precisions_init": [np.eye(3)] * 2}
    with pytest.raises(dgmm.CollapseError, match=r"component 1 collapsed.*reg_covar") as caught:
        dgmm.GaussianMixture(2, reg_covar=0, **start).fit(x)
    assert isinstance(caught.value, ValueError)


def test_errors_and_warnings() -> None:
    with pytest.warns(ConvergenceWarning, match=r"did not converge in 2 iterations.*max_iter \(2\)"):
        dgmm.GaussianMixture(4, max_iter=2, tol=1e-9, random_state=0).fit(X)
    with pytest.raises(NotFittedError):
        dgmm.GaussianMixture().predict(held(X, "dask"))
    with pytest.raises(ValueError, match="NaN"):
        dgmm.GaussianMixture().fit(np.where(X > 1, np.nan, X))
    with pytest.raises(ValueError, match="n_samples >= n_components"):
        dgmm.GaussianMixture(4).fit(da.from_array(X[:3]))
    with pytest.raises(ValueError, match="'accelerate' parameter"):
        dgmm.GaussianMixture(accelerate="yes").fit(X)
    model = dgmm.GaussianMixture(2, random_state=0).fit(X)
    for x in (X[:, :2], held(X, "dask")[:, :2], xr.DataArray(X[:, :2])):
        with pytest.raises(ValueError, match="2 features"):
            model.predict(x)
    with pytest.raises(ValueError, match="2 features"):
        model.score(held(X, "dask")[:, :2])
    with pytest.raises(dgmm.InputError, match="no dimension 'depth'"):
        model.fit(xr.DataArray(X), feature_dims="depth")
    with pytest.raises(dgmm.InputError, match="for xarray objects"):
        model.fit(X, feature_dims="depth")
    with pytest.raises(dgmm.InputError, match="for xarray objects"):
        model.fit(held(X, "dask"), feature_dims="depth")
    with pytest.raises(dgmm.InputError, match="infinite"):
        model.predict(da.from_array(np.where(X > 1, np.inf, X))).compute()


def test_verbosity(capsys: pytest.CaptureFixture[str]) -> None:
    quietly(dgmm.GaussianMixture(4, n_init=2, max_iter=5, tol=0, random_state=0, verbose=1, verbose_interval=2), X)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "2 starts on 600 samples"
    assert printed.count("start 1: iteration 2") == printed.count("start 0: iteration 4") == 1
    assert printed[-1] == "start 1: did not converge"
    dgmm.GaussianMixture(2, random_state=0, verbose=2).fit(X)
    printed = capsys.readouterr().out.splitlines()
    assert "lower bound" in printed[1]
    assert printed[-1] == "start 0: converged"


class TestBetterSemantics:
    def test_acceleration_needs_fewer_passes_and_returns_what_it_evaluated(self) -> None:
        r = np.random.default_rng(0)
        x = np.concatenate([r.normal(0, 1, (2000, 2)), r.normal(1.5, 1, (2000, 2))])
        common = {"n_components": 2, "tol": 1e-8, "max_iter": 5000, "random_state": 0}
        plainly = dgmm.GaussianMixture(**common).fit(x)
        fast = dgmm.GaussianMixture(**common, accelerate="anderson").fit(x)
        assert fast.n_iter_ < plainly.n_iter_ / 3
        assert fast.converged_
        assert fast.lower_bound_ >= plainly.lower_bound_ - 1e-6
        assert fast.lower_bound_ == pytest.approx(fast.score(x), abs=1e-12)
        assert fast.lower_bound_ == max(fast.lower_bounds_)

    def test_the_remaining_gain_is_what_remains(self) -> None:
        r = np.random.default_rng(0)
        x = np.concatenate([r.normal(0, 1, (2000, 2)), r.normal(1.5, 1, (2000, 2))])
        common = {"n_components": 2, "max_iter": 5000, "random_state": 0}
        top = dgmm.GaussianMixture(**common, tol=1e-10, accelerate="anderson").fit(x).lower_bound_
        by_change = dgmm.GaussianMixture(**common, tol=1e-5).fit(x)
        by_gain = dgmm.GaussianMixture(**common, tol=1e-5, stop="remaining_gain").fit(x)
        assert by_gain.n_iter_ > by_change.n_iter_
        assert top - by_change.lower_bound_ > 1e-5 > top - by_gain.lower_bound_
        assert by_gain.remaining_gain_ <= 1e-5
        assert by_change.remaining_gain_ > 1e-5

    def test_relative_regularisation_knows_no_units(self) -> None:
        for kind in TYPES:
            common = {"n_components": 3, "covariance_type": kind, "random_state": 0, "reg_covar": 1e-4}
            fits = [dgmm.GaussianMixture(**common, regularisation="relative").fit(c * X) for c in (1.0, 2.0**-30)]
            assert_allclose(fits[1].means_, fits[0].means_ * 2.0**-30, rtol=1e-9)
            assert_allclose(fits[1].covariances_, fits[0].covariances_ * 2.0**-60, rtol=1e-9)
            absolute = dgmm.GaussianMixture(**common).fit(2.0**-30 * X)
            assert not np.allclose(absolute.covariances_, fits[1].covariances_, rtol=0.5, atol=0)

    def test_relative_regularisation_takes_parameters_in_the_datas_units(self) -> None:
        start = plain(n_components=3, random_state=0, max_iter=0).fit(X)
        given = {"weights_init": start.weights_, "means_init": start.means_, "precisions_init": start.precisions_}
        model = dgmm.GaussianMixture(3, **given, regularisation="relative", max_iter=0).fit(X)
        assert_allclose(model.means_, start.means_, rtol=1e-12)
        assert_allclose(model.covariances_, start.covariances_, rtol=1e-7)

    def test_large_chunked_data_start_from_a_sample(self) -> None:
        x = da.from_array(data(3000), chunks=(500, 3))
        common = {"n_components": 3, "max_iter": 0, "random_state": 0}
        sampled = dgmm.GaussianMixture(**common, sample_rows=300).fit(x)
        assert_allclose(sampled.weights_ * 300, np.round(sampled.weights_ * 300), atol=1e-9)
        whole = dgmm.GaussianMixture(**common).fit(x)
        assert_allclose(whole.means_, plain(**common).fit(x.compute()).means_, rtol=1e-9)
        again = dgmm.GaussianMixture(**common, sample_rows=300).fit(x.rechunk((700, 3)))
        assert_array_equal(sampled.means_, again.means_)
        end = dgmm.GaussianMixture(3, sample_rows=300, random_state=0, tol=1e-6, max_iter=500).fit(x)
        assert end.lower_bound_ > dgmm.GaussianMixture(3, random_state=0).fit(x).lower_bound_ - 0.05

    def test_select(self) -> None:
        o = dgmm.datasets.old_faithful()
        model = dgmm.GaussianMixture.select(o, range(1, 5), ["full", "tied"])
        table = model.selection_.table
        assert (model.n_components, model.covariance_type) == tuple(table.loc[0, ["n_components", "covariance_type"]])
        assert model.bic(o) == pytest.approx(table.loc[0, "bic"], rel=1e-9)
        assert model.converged_
        assert_array_equal(model.feature_names_in_, ["eruptions", "waiting"])
        assert clone(model).fit(o).lower_bound_ == pytest.approx(model.lower_bound_, abs=0.02)
        assert model.predict(o).dims == ("eruption",)
        assert dgmm.GaussianMixture.select(X, 2, "diag", n_init=1).predict(X).shape == (600,)
        assert not hasattr(quietly(model, X), "selection_")
        with pytest.raises(dgmm.InputError, match="unknown criterion 'best': use bic"):
            dgmm.GaussianMixture.select(X, 2, criterion="best")
        with pytest.raises(dgmm.InputError, match="covariance_type is empty"):
            dgmm.GaussianMixture.select(X, [1], [])
        with pytest.raises(dgmm.InputError, match="set seed=3 instead"):
            dgmm.GaussianMixture.select(X, random_state=3)


class Counting:
    """Blocks of a Dask array that count how often they are computed."""

    def __init__(self, x: np.ndarray) -> None:
        self.x, self.count, self.lock = x, 0, threading.Lock()

    def __call__(self, block: np.ndarray, block_info: Any = None) -> np.ndarray:
        if block_info is None or not block_info:
            return block
        with self.lock:
            self.count += 1
        return block


def test_nothing_is_computed_before_it_is_asked_for() -> None:
    counting = Counting(X)
    x = da.from_array(X, chunks=(100, 3)).map_blocks(counting, dtype=float, meta=np.empty((0, 0)))
    model = dgmm.GaussianMixture(3, random_state=0).fit(X)
    lazy = [model.predict(x), model.predict_proba(x), model.score_samples(x)]
    lazy.append(model.predict(xr.DataArray(x, dims=("time", "feature"))))
    assert counting.count == 0
    for scores in lazy:
        assert isinstance(getattr(scores, "data", scores), da.Array) or dask.is_dask_collection(scores)
        assert scores.chunks[0] == (100,) * 6
    first = lazy[0][:100].compute()
    assert counting.count == 1
    assert_array_equal(first, model.predict(X[:100]))
    # the profile, which keeps in memory what the passes need
    fresh = Counting(X)
    y = da.from_array(X, chunks=(100, 3)).map_blocks(fresh, dtype=float, meta=np.empty((0, 0)))
    model = dgmm.GaussianMixture(3, random_state=0, warm_start=True).fit(y)
    assert fresh.count == 6
    quietly(model.set_params(max_iter=1), y)
    assert fresh.count == 12


def test_missing_values_in_chunked_data() -> None:
    x = X.copy()
    x[::7, 1] = np.nan
    present = ~np.isnan(x).any(axis=1)
    theirs = plain(n_components=3, random_state=0).fit(x[present])
    for holder in (da.from_array(x, chunks=(100, 2)), zarr.create_array({}, data=x, chunks=(100, 2)), xr.DataArray(x)):
        ours = dgmm.GaussianMixture(3, random_state=0).fit(holder)
        assert_same(ours, theirs)
        labels = np.asarray(ours.predict(holder))
        assert_array_equal(labels[present], theirs.predict(x[present]))
        assert (labels[~present] == -1).all()
        assert_array_equal(np.isnan(np.asarray(ours.predict_proba(holder))).all(axis=1), ~present)
        assert_array_equal(np.isnan(np.asarray(ours.score_samples(holder))), ~present)
        assert ours.bic(holder) == pytest.approx(theirs.bic(x[present]))


def test_what_a_mask_hides_is_missing() -> None:
    mask = np.zeros(X.shape, dtype=bool)
    mask[::7, 1] = True
    hidden = mask.any(axis=1)
    model = dgmm.GaussianMixture(3, random_state=0).fit(X)
    for dtype in (np.float64, np.float32):
        x = da.ma.masked_array(da.from_array(X.astype(dtype), chunks=(100, 2)), da.from_array(mask, chunks=(100, 2)))
        for scores, missing in ((model.predict(x), -1), (model.score_samples(x), np.nan)):
            values = scores.compute()
            assert type(values) is np.ndarray
            assert values.dtype == scores.dtype
            assert_array_equal(values[hidden], missing)
        assert_array_equal(model.predict(x).compute()[~hidden], model.predict(X.astype(dtype)[~hidden]))
        assert np.isnan(model.predict_proba(x).compute()[hidden]).all()
        assert np.isfinite(model.score(x))


def test_scores_are_single_precision_if_samples_and_model_are() -> None:
    for fitted in (np.float32, np.float64):
        ours = dgmm.GaussianMixture(2, random_state=0).fit(X.astype(fitted))
        theirs = plain(n_components=2, random_state=0).fit(X.astype(fitted))
        for dtype in (np.float32, np.float64, np.int64):
            x = X.astype(dtype)
            for name in ("predict_proba", "score_samples"):
                expected = getattr(theirs, name)(x).dtype
                for container in ("numpy", "dask", "zarr"):
                    scores = getattr(ours, name)(held(x, container))
                    assert scores.dtype == np.asarray(scores).dtype == expected
                assert getattr(ours, name)(xr.DataArray(x)).dtype == expected


def test_xarray_in_memory_is_scored_by_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    rows = dgmm.estimators.lazy.Scorer.rows

    def told(self: Any, x: np.ndarray) -> np.ndarray:
        seen.add(len(x))
        return rows(self, x)

    monkeypatch.setattr(dgmm.estimators.lazy.Scorer, "rows", told)
    monkeypatch.setattr(dgmm.estimators.lazy, "BLOCK_ROWS", 100)
    model = dgmm.GaussianMixture(2, random_state=0).fit(X)
    labels = model.predict(xr.DataArray(np.where(np.arange(600)[:, None] % 3, X, np.nan)))
    assert seen == {100}
    assert_array_equal(labels[1::3], model.predict(X[1::3]))
    assert (labels[::3] == -1).all()


def test_packed_numbers_are_not_the_values() -> None:
    packed = zarr.create_array({}, data=(X * 100).astype(np.int16), chunks=(100, 3), attributes={"scale_factor": 0.01})
    model = dgmm.GaussianMixture(2, random_state=0).fit(X)
    for use in (model.fit, model.predict, model.score_samples, model.score):
        with pytest.raises(dgmm.InputError, match=r"is packed \(scale_factor\): open the dataset"):
            use(packed)


def test_ocean_profiles_there_and_back() -> None:
    temperature = dgmm.datasets.ocean_temperature().temperature
    lazy = temperature.chunk({"month": 3, "lat": 45, "depth": 10})
    model = dgmm.GaussianMixture(4, random_state=0, tol=0.1).fit(temperature, feature_dims="depth")
    labels = model.predict(temperature)
    assert labels.dims == ("month", "lat", "lon")
    for name in labels.dims:
        assert labels[name].equals(temperature[name])
    complete = temperature.notnull().all("depth")
    assert ((labels == -1) == ~complete).all()
    assert int(complete.sum()) == 108_972
    promised = model.predict(lazy)
    assert dask.is_dask_collection(promised)
    assert promised.chunks == ((3,) * 4, (45, 45), (180,))
    xr.testing.assert_identical(promised.compute(), labels)
    again = dgmm.GaussianMixture(4, random_state=0, tol=0.1).fit(lazy, feature_dims="depth")
    assert_allclose(again.means_, model.means_, rtol=1e-10)
    probabilities = model.predict_proba(lazy)
    assert probabilities.dims == ("month", "lat", "lon", "component")
    assert_allclose(probabilities.sum("component").values[complete.values], 1, rtol=1e-12)
    assert labels.attrs["long_name"].startswith("most probable component")


@pytest.mark.parametrize("how", ["memory", "dask", "store"])
def test_variables_along_dimensions_are_side_by_side(how: str, tmp_path: Any) -> None:
    """As their matrix is for scikit-learn; levels and variables in another order are put in the model's."""
    r = np.random.default_rng(2)
    t, s, h = r.normal(size=(60, 3)), r.normal(size=(3, 60)) + np.repeat([0, 4], 30), r.normal(size=60)
    data = xr.Dataset({"t": (("n", "z"), t), "s": (("z", "n"), s), "h": ("n", h)}, coords={"z": [0.0, 5.0, 9.0]})
    place = {"lat": ("n", np.arange(60.0)), "kind": ("z", [1, 2, 3])}
    data = data.assign_coords(place)
    turned = data.isel(z=[2, 0, 1])[["t", "s", "h"]]
    if how == "dask":
        data, turned = data.chunk(n=20), turned.chunk(n=20)
    if how == "store":
        data.to_zarr(tmp_path / "d.zarr", consolidated=False)
        data = xr.open_zarr(tmp_path / "d.zarr", consolidated=False, chunks=None)
        turned = data.isel(z=[2, 0, 1])
    flat = np.concatenate([h[:, None], s.T, t], axis=1)
    model = dgmm.GaussianMixture(2, random_state=0).fit(data, feature_dims="z")
    assert list(model.feature_names_in_) == ["h", "s@0", "s@5", "s@9", "t@0", "t@5", "t@9"]
    theirs = plain(n_components=2, random_state=0).fit(flat)
    assert_same(model, theirs)
    for x in (data, turned):
        found = model.score_samples(x)
        assert found.dims == ("n",)
        assert (found.chunks is None) == (how == "memory")
        assert_allclose(found.values, theirs.score_samples(flat), rtol=1e-9)
        assert "lat" in found.coords
    with pytest.raises(dgmm.InputError, match=r"7 \(h, s@0, s@5"):
        model.predict(data.assign_coords(z=[0.0, 5.0, 8.0]))


def test_features_of_xarray_objects(tmp_path: Any) -> None:
    r = np.random.default_rng(1)
    cube = xr.DataArray(r.normal(size=(40, 2, 30, 3)), dims=("t", "level", "station", "gas"))
    model = dgmm.GaussianMixture(2, random_state=0).fit(cube, feature_dims=["level", "gas"])
    flat = cube.transpose("t", "station", "level", "gas").values.reshape(1200, 6)
    theirs = plain(n_components=2, random_state=0).fit(flat)
    assert_same(model, theirs)
    for x in (cube, cube.chunk({"t": 10})):
        labels = model.predict(x)
        assert labels.dims == ("t", "station")
        assert_array_equal(labels.values.ravel(), theirs.predict(flat))
    # variables are features, by name and whatever the order
    dataset = xr.Dataset({"b": ("s", X[:, 1]), "a": ("s", X[:, 0]), "c": ("s", X[:, 2])})
    model = dgmm.GaussianMixture(3, random_state=0).fit(dataset)
    assert_array_equal(model.feature_names_in_, ["a", "b", "c"])
    assert_same(model, plain(n_components=3, random_state=0).fit(X))
    labels = model.predict(dataset[["c", "b", "a"]])
    assert_array_equal(labels, model.predict(pd.DataFrame(X, columns=["a", "b", "c"])))
    stacked = dataset.to_dataarray("gas").transpose("s", "gas")
    assert_array_equal(model.predict(stacked), labels)
    assert_array_equal(dgmm.GaussianMixture(3, random_state=0).fit(stacked).feature_names_in_, ["b", "a", "c"])
    with pytest.raises(dgmm.InputError, match="no variable 'c'"):
        model.predict(dataset[["a", "b"]])
    # a store that is opened without Dask is not read at once
    dataset.chunk({"s": 100}).to_zarr(tmp_path / "s.zarr", zarr_format=3, consolidated=False)
    stored = xr.open_zarr(tmp_path / "s.zarr", chunks=None, consolidated=False)
    assert_allclose(dgmm.GaussianMixture(3, random_state=0).fit(stored).means_, model.means_, rtol=1e-10)
    promised = model.predict(stored)
    assert promised.chunks == ((100,) * 6,)
    assert_array_equal(promised, labels)


def test_labels_along_the_features_say_which_is_which() -> None:
    depth = np.array([0.1, 10.0, 20.0])
    x = xr.DataArray(X, dims=("time", "depth"), coords={"depth": depth})
    model = dgmm.GaussianMixture(3, random_state=0).fit(x, feature_dims="depth")
    expected = model.predict(X)
    for other in (x, x[:, ::-1], x[:, [2, 0, 1]], x[:, ::-1].chunk(time=100), x[:, ::-1].drop_vars("depth")[:, ::-1]):
        assert_array_equal(model.predict(other), expected)
        assert model.score(other) == pytest.approx(model.score(X))
    assert_array_equal(model.predict(x.assign_coords(depth=depth.astype(np.float32))[:, ::-1]), expected)
    for wrong in (depth + 1, depth[::-1] * 2, np.array(["a", "b", "c"]), np.array(depth, dtype="datetime64[ns]")):
        with pytest.raises(dgmm.InputError, match=r"features are .*, those of the fit 0\.1, 10\.0, 20\.0"):
            model.predict(x.assign_coords(depth=wrong))
    days = np.array(["2001-01-01", "2001-01-02", "2001-01-03"], dtype="datetime64[ns]")
    dated = dgmm.GaussianMixture(3, random_state=0).fit(x.assign_coords(depth=days))
    assert_array_equal(dated.predict(x.assign_coords(depth=days)[:, ::-1]), expected)
    # where nothing was asked for by name any last dimension will do
    renamed = x.drop_vars("depth").rename(depth="level")
    assert_array_equal(dgmm.GaussianMixture(3, random_state=0).fit(x).predict(renamed), expected)
    for use in (model.predict, model.score):
        with pytest.raises(dgmm.InputError, match=r"no dimension 'depth'.*feature_dims.*time, level"):
            use(renamed)


def test_what_xarray_cannot_be_fitted_or_scored() -> None:
    model = dgmm.GaussianMixture(2, random_state=0).fit(X)
    dataset = xr.Dataset({name: ("s", X[:, i]) for i, name in enumerate("abc")})
    for use in (model.fit, model.predict, model.score):
        with pytest.raises(dgmm.InputError, match=r"shape \(\) has no samples"):
            use(xr.DataArray(1.0))
        with pytest.raises(dgmm.InputError, match="holds no variables"):
            use(xr.Dataset(coords={"s": [1, 2]}))
    with pytest.raises(dgmm.InputError, match=r"shape \(\) has no samples"):
        model.fit(xr.Dataset({"a": 1.0, "b": 2.0}))
    for other in (("t", [1.0, 2.0]), ("s", ["x"] * 600), ((), 1.0)):
        with pytest.raises(dgmm.InputError, match=r'choose the features \(ds\[\["a", "b"\]\]\)'):
            model.fit(dataset.assign(d=other))
    model.fit(X)
    for use in (model.predict, model.score):
        with pytest.raises(dgmm.InputError, match=r'ds\.to_dataarray\("feature"\)\.transpose\(\.\.\., "feature"\)'):
            use(dataset)
    assert_array_equal(model.predict(dataset.to_dataarray("feature").transpose(..., "feature")), model.predict(X))


def test_a_lazy_table_is_not_computed() -> None:
    class DataFrame:
        """As much of Dask's, which needs pyarrow, as there is to see."""

        def to_dask_array(self, lengths: bool) -> da.Array:
            return da.from_array(X, chunks=(100, -1))

        def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
            raise AssertionError("the table is computed")

    frame = DataFrame()
    model = dgmm.GaussianMixture(2, random_state=0).fit(X)
    for use in (model.fit, model.fit_predict, model.predict, model.score, dgmm.GaussianMixture.select):
        with pytest.raises(dgmm.InputError, match=r"hand in df\.to_dask_array\(lengths=True\)"):
            use(frame)
    assert_array_equal(model.predict(frame.to_dask_array(lengths=True)), model.predict(X))


def test_public_names() -> None:
    assert set(dir(dgmm)) == {*dgmm.__all__, "__version__"}


def test_what_is_opened_lazily_is_cut_by_the_names_of_its_dimensions(tmp_path: Any) -> None:
    r = np.random.default_rng(2)
    cube = xr.DataArray(
        r.normal(size=(6, 40, 30, 3)), dims=("m", "lat", "lon", "gas"), coords={"lat": np.arange(40.0)}, name="x"
    )
    expected = dgmm.GaussianMixture(2, random_state=0).fit(cube)
    cube.chunk(m=2, lat=20, lon=15).to_dataset().to_zarr(tmp_path / "s.zarr", zarr_format=3, consolidated=False)
    stored = xr.open_zarr(tmp_path / "s.zarr", chunks=None, consolidated=False).x
    parts = [
        (stored, ((2, 2, 2), (20, 20), (15, 15))),
        (stored.transpose("lon", "gas", "m", "lat"), ((15, 15), (2, 2, 2), (20, 20))),
        (stored.isel(m=3), ((20, 20), (15, 15))),
        (stored.isel(lon=slice(4)), ((2, 2, 2), (20, 20), (4,))),
        (stored.rename(lat="y"), ((2, 2, 2), (40,), (15, 15))),
    ]
    for part, chunks in parts:
        model = dgmm.GaussianMixture(2, random_state=0, max_iter=2, tol=1e6).fit(part, feature_dims="gas")
        assert model.n_iter_ == 2
        promised = model.predict(part)
        assert promised.chunks == chunks
        assert_array_equal(promised, model.predict(part.load()))
    cube.to_netcdf(tmp_path / "s.nc", engine="scipy")
    with xr.open_dataset(tmp_path / "s.nc", engine="scipy") as file, dask.config.set({"array.chunk-size": "20kiB"}):
        promised = expected.predict(file.x)
        assert dask.is_dask_collection(promised)
        assert promised.data.npartitions > 1
        assert_array_equal(promised, expected.predict(cube))
        both = dgmm.GaussianMixture(2, random_state=0).fit(file, feature_dims=["gas", "lat"])
        assert both.predict(file).dims == ("m", "lon")


def test_arrays_of_several_dimensions() -> None:
    cube = da.from_array(X.reshape(20, 30, 3), chunks=(7, 30, 2))
    model = dgmm.GaussianMixture(3, random_state=0).fit(cube)
    assert_same(model, plain(n_components=3, random_state=0).fit(X))
    assert model.predict(cube).chunks == ((7, 7, 6), (30,))
    assert model.predict_proba(cube).shape == (20, 30, 3)
    assert_array_equal(model.predict(cube).compute().ravel(), model.predict(X))


def test_on_a_cluster(client: Any) -> None:
    x = da.from_array(X, chunks=(100, 3))
    with client.as_current():
        model = dgmm.GaussianMixture(3, random_state=0).fit(x)
        labels = model.predict(x).compute()
        assert model.score(x) == pytest.approx(model.score(X), rel=1e-12)
        persisted = x.persist()
        assert_array_equal(model.predict(persisted).compute(), labels)
        assert model.score(persisted) == model.score(x)
        assert model.bic(persisted) == model.bic(x)
        assert_array_equal(dgmm.GaussianMixture(3, random_state=0).fit(persisted).means_, model.means_)
    assert_same(model, plain(n_components=3, random_state=0).fit(X))
    assert_array_equal(labels, model.predict(X))


def test_at_home_in_scikit_learn() -> None:
    pipeline = make_pipeline(StandardScaler(), dgmm.GaussianMixture(8, random_state=0))
    pipeline.fit(X)
    expected = make_pipeline(StandardScaler(), plain(n_components=8, random_state=0)).fit(X)
    assert_array_equal(pipeline.predict(X), expected.predict(X))
    grid = {"gaussianmixture__n_components": [1, 2, 3], "gaussianmixture__covariance_type": ["full", "diag"]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(X)
    theirs = GridSearchCV(expected, grid, cv=3).fit(X)
    assert_allclose(search.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], rtol=1e-8)
    copy = clone(pipeline)
    assert copy[-1].get_params() == pipeline[-1].get_params()
    assert not hasattr(copy[-1], "means_")
    again = pickle.loads(pickle.dumps(pipeline))
    assert_array_equal(again.predict(X), pipeline.predict(X))
    model = dgmm.GaussianMixture().set_params(**pipeline[-1].get_params())
    assert model.get_params() == pipeline[-1].get_params()
    theirs_parameters = sklearn.mixture.GaussianMixture().get_params()
    ours = dgmm.GaussianMixture().get_params()
    assert {name: ours[name] for name in theirs_parameters} == theirs_parameters
    assert isinstance(model, sklearn.mixture.GaussianMixture)


def test_a_table_of_components_in_a_notebook() -> None:
    frame = pd.DataFrame(X, columns=["u", "<v>", "w"])
    with sklearn.config_context(display="diagram"):
        model = dgmm.GaussianMixture(2, random_state=0)
        assert '<table class="dataframe"' not in model._repr_html_()
        model.fit(frame)
        html = model._repr_html_()
        assert "sk-top-container" in html
        table = html[html.index('<table class="dataframe"') :]
        assert "&lt;v&gt;" in table
        assert f"{model.weights_[0]:.4g}" in table
        assert f"{np.sqrt(model.covariances_[1, 2, 2]):.4g}" in table
        assert "GaussianMixture" in make_pipeline(StandardScaler(), model)._repr_html_()
        assert model._repr_mimebundle_()["text/html"].count('<table class="dataframe"') == 1
        many = quietly(
            dgmm.GaussianMixture(30, max_iter=1, random_state=0), np.random.default_rng(0).normal(size=(90, 15))
        )
        assert "10 more components and 3 more features" in many._repr_html_()
    for kind in TYPES:
        table = dgmm.GaussianMixture(2, covariance_type=kind, random_state=0).fit(frame).components_table()
        assert table.shape == (2, 7)
        assert (table.xs("std", axis=1, level=1) > 0).all(axis=None)


def test_a_notebook_shows_the_fitted_type_whatever_is_set_since() -> None:
    for k in (1, 2, 3):
        for kind in TYPES:
            model = dgmm.GaussianMixture(k, covariance_type=kind, random_state=0).fit(X)
            expected = model.components_table()
            for other in TYPES:
                model.set_params(covariance_type=other)
                pd.testing.assert_frame_equal(model.components_table(), expected)
                assert '<table class="dataframe"' in model._repr_html_()


@pytest.mark.parametrize("kind", TYPES)
def test_to_and_from_scikit_learn(kind: str) -> None:
    frame = pd.DataFrame(X, columns=["u", "v", "w"])
    ours = dgmm.GaussianMixture(3, covariance_type=kind, random_state=0, accelerate="anderson").fit(frame)
    theirs = ours.to_sklearn()
    assert type(theirs) is sklearn.mixture.GaussianMixture
    assert_array_equal(theirs.predict(frame), ours.predict(frame))
    assert_allclose(theirs.score_samples(frame), ours.score_samples(frame), rtol=1e-9)
    assert clone(theirs).get_params()["covariance_type"] == kind
    again = dgmm.GaussianMixture.from_sklearn(pickle.loads(pickle.dumps(theirs)))
    assert isinstance(again, GaussianMixture)
    assert_allclose(again.predict_proba(frame), ours.predict_proba(frame), atol=1e-12)
    assert again.get_params()["random_state"] == 0
    assert again.n_iter_ == ours.n_iter_
    again.set_params(warm_start=True).fit(frame)
    assert again.lower_bound_ >= ours.lower_bound_ - 1e-9
    assert not hasattr(dgmm.GaussianMixture.from_sklearn(plain(n_components=5)), "means_")
    with pytest.raises(dgmm.InputError, match="StandardScaler"):
        dgmm.GaussianMixture.from_sklearn(StandardScaler())


@pytest.mark.parametrize(
    ("kind", "theirs_is"),
    [("VII", "spherical"), ("EEE", "tied"), ("EII", "spherical"), ("EEI", "diag"), ("EVI", "diag"), ("VEE", "full"),
     ("EVE", "full")],
)  # fmt: skip
def test_structures_to_scikit_learn(kind: str, theirs_is: str) -> None:
    """As the least type of scikit-learn's that has them too."""
    ours = dgmm.GaussianMixture.select(X, 3, kind)
    theirs = ours.to_sklearn()
    assert theirs.covariance_type == theirs_is
    assert_allclose(theirs.score_samples(X), ours.score_samples(X), rtol=1e-9)
    assert_allclose(theirs.predict_proba(X), ours.predict_proba(X), atol=1e-9)
    assert_allclose(dgmm.GaussianMixture.from_sklearn(theirs).predict_proba(X), ours.predict_proba(X), atol=1e-9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", TYPES)
def test_onnx(kind: str) -> None:
    skl2onnx, onnxruntime = pytest.importorskip("skl2onnx"), pytest.importorskip("onnxruntime")
    x = X.astype(np.float32)
    model = dgmm.GaussianMixture(3, covariance_type=kind, random_state=0).fit(x)
    exported = skl2onnx.to_onnx(model.to_sklearn(), x[:1])
    session = onnxruntime.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
    labels, probabilities = session.run(None, {session.get_inputs()[0].name: x})[:2]
    assert_array_equal(labels.ravel(), model.predict(x))
    assert_allclose(probabilities, model.predict_proba(x), atol=1e-4)
