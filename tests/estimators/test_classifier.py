"""The classifier is scikit-learn's discriminant analyses where all classes are known, for data of any kind."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.naive_bayes import GaussianNB

import dgmm

X, Y = load_iris(return_X_y=True)
NAMES = np.array(load_iris().target_names)[Y]
ROWS = np.random.default_rng(0).permutation(150)[:120]


def moons(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two classes of three round Gaussians each, bent around each other."""
    r = np.random.default_rng(seed)
    angles = np.deg2rad([20, 90, 160])
    upper = np.stack([np.cos(angles), np.sin(angles)], axis=1) * 4
    centres = np.concatenate([upper, np.array([4.0, 1.0]) - upper])
    of = r.integers(6, size=n)
    return centres[of] + 0.5 * r.standard_normal((n, 2)), of // 3


@pytest.mark.parametrize(
    "labels",
    [Y, NAMES, NAMES.astype(object), Y - 7, 2.0 * Y, Y > 0],
    ids=["int", "str", "object", "below", "float", "bool"],
)
@pytest.mark.parametrize(
    ("kind", "theirs"),
    [
        ("tied", LinearDiscriminantAnalysis(solver="lsqr")),
        ("full", QuadraticDiscriminantAnalysis()),
        ("diag", GaussianNB(var_smoothing=0)),
    ],
)
def test_it_is_discriminant_analysis(kind: str, theirs: Any, labels: np.ndarray) -> None:
    x, y = X[ROWS], labels[ROWS]
    ours, theirs = dgmm.GaussianMixtureClassifier(covariance_type=kind, reg_covar=0).fit(x, y), clone(theirs).fit(x, y)
    np.testing.assert_array_equal(ours.classes_, theirs.classes_)
    assert ours.classes_.dtype == ours.predict(X).dtype == labels.dtype
    assert (ours.predict(X) == theirs.predict(X)).all()
    assert ours.score(X, labels) == pytest.approx(theirs.score(X, labels))
    assert (ours.n_iter_, ours.converged_) == (1, True)
    _, counts = np.unique(y, return_counts=True)
    np.testing.assert_allclose(ours.weights_, counts / len(x), rtol=1e-12)
    if kind != "full":  # theirs divides by n - 1 there
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-7, atol=1e-12)


def test_weights_of_samples_are_repeated_rows() -> None:
    times = np.random.default_rng(1).integers(0, 4, 150)
    weighted = dgmm.GaussianMixtureClassifier().fit(X, NAMES, sample_weight=times)
    repeated = dgmm.GaussianMixtureClassifier().fit(np.repeat(X, times, axis=0), np.repeat(NAMES, times))
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-9, atol=1e-14)
    expected = np.average(weighted.predict(X) == NAMES, weights=times)
    assert weighted.score(X, NAMES, sample_weight=times) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "nothing"), [(int, -1), (float, np.nan), (float, -1.0), (str, ""), (object, None), (object, np.nan)]
)
def test_few_labels_and_several_components_name_the_moons(name: type, nothing: Any) -> None:
    x, y = moons(2000)
    known = np.random.default_rng(2).uniform(size=2000) < 0.015
    names = y.astype(name) if name in (int, float) else np.array(["a", "b"], dtype=name)[y]
    labels = names.copy()
    labels[~known] = nothing
    ours = dgmm.GaussianMixtureClassifier(3, covariance_type="spherical", random_state=0).fit(x, labels)
    np.testing.assert_array_equal(ours.classes_, np.unique(names))
    assert ours.score(x, names) > 0.97
    assert ours.score(x, labels) == pytest.approx((ours.predict(x) == names)[known].mean())
    assert ours.means_.shape == (6, 2)
    assert ours.predict_proba(x).shape == (2000, 2)
    # one component of each bends to neither moon
    assert dgmm.GaussianMixtureClassifier(covariance_type="spherical").fit(x, labels).score(x, names) < 0.95


def test_a_seed_tells_all() -> None:
    x, y = moons(400)
    y[::2] = -1
    asked = {"components_per_class": 3, "n_init": 1, "random_state": np.random.RandomState(3)}
    first, second, third = (dgmm.GaussianMixtureClassifier(**asked).fit(x, y).fit_ for _ in range(3))
    assert len({fit.log_likelihood for fit in (first, second, third)}) > 1
    same = [dgmm.GaussianMixtureClassifier(**asked | {"random_state": 3}).fit(x, y).fit_ for _ in range(2)]
    assert same[0].log_likelihood == same[1].log_likelihood


# ---- chunked --------------------------------------------------------------------------------------------------------


def containers(x: np.ndarray, y: np.ndarray, folder: Path) -> dict[str, tuple[Any, Any]]:
    """Samples and their labels in what may hold them."""
    lazy = dask.array.from_array(x, chunks=(40, 2))
    stored = zarr.create_array(folder / "x.zarr", shape=x.shape, chunks=(50, x.shape[1]), dtype=x.dtype)
    stored[:] = x
    grid = xr.DataArray(lazy.reshape(5, -1, x.shape[1]), dims=("lat", "lon", "band"), coords={"lat": np.arange(5.0)})
    marks = xr.DataArray(y.reshape(5, -1), dims=("lat", "lon"), coords={"lat": np.arange(5.0)})
    dataset = xr.Dataset({"a": grid[..., 0], "b": grid[..., 1], "species": marks})
    return {
        "dask": (lazy, dask.array.from_array(y, chunks=30)),
        "list": (lazy, y.tolist()),
        "zarr": (stored, y),
        "array": (grid, marks.transpose("lon", "lat")),
        "shape": (grid, y.reshape(5, -1)),
        "dataset": (dataset, "species"),
    }


@pytest.mark.parametrize("texts", [False, True])
@pytest.mark.parametrize("kind", ["dask", "list", "zarr", "array", "shape", "dataset"])
def test_chunked_as_in_memory(kind: str, texts: bool, tmp_path: Path) -> None:
    x, y = X[:, :2].copy(), np.where(np.arange(150) % 4, NAMES, "") if texts else np.where(np.arange(150) % 4, Y, -1)
    here = dgmm.GaussianMixtureClassifier(random_state=0).fit(x, y)
    given, labels = containers(x, y, tmp_path)[kind]
    ours = dgmm.GaussianMixtureClassifier(random_state=0).fit(given, labels)
    assert ours.classes_.tolist() == here.classes_.tolist()
    np.testing.assert_allclose(ours.means_, here.means_, rtol=1e-6)
    found, shares = ours.predict(given), ours.predict_proba(given)
    if kind in ("dask", "list", "zarr"):
        assert isinstance(found, dask.array.Array)
        assert found.chunks[0] == ((50,) * 3 if kind == "zarr" else given.chunks[0])
        assert shares.shape == (150, 3)
        assert found.dtype == found.compute().dtype
    else:
        assert found.dims == ("lat", "lon")
        assert shares.dims == ("lat", "lon", "class")
        assert "class" in found.attrs["long_name"]
        assert found["lat"].values.tolist() == [0, 1, 2, 3, 4]
    assert (np.asarray(found).ravel() == here.predict(x)).all()
    np.testing.assert_allclose(np.asarray(shares).reshape(150, 3), here.predict_proba(x), rtol=1e-5, atol=1e-9)
    assert ours.score(given, labels) == pytest.approx(here.score(x, y))


@pytest.mark.parametrize("texts", [False, True])
def test_missing_values_have_no_class(texts: bool) -> None:
    x, labels = X.copy(), NAMES if texts else Y
    x[::7, 1] = np.nan
    lazy, kept = dask.array.from_array(x, chunks=(40, 4)), ~np.isnan(x).any(axis=1)
    ours = dgmm.GaussianMixtureClassifier().fit(lazy, labels)
    found = ours.predict(lazy).compute()
    assert (found[~kept] == ("" if texts else -1)).all()
    assert (found[kept] == ours.predict(x[kept])).all()
    assert np.isnan(ours.predict_proba(lazy).compute()[~kept]).all()
    assert ours.score(lazy, labels) == pytest.approx((found == labels)[kept].mean())
    weights = np.arange(150.0)
    expected = np.average((found == labels)[kept], weights=weights[kept])
    assert ours.score(lazy, labels, sample_weight=weights) == pytest.approx(expected)


def test_the_fit_can_be_saved_and_names_its_classes(tmp_path: Path) -> None:
    ours = dgmm.GaussianMixtureClassifier().fit(pd.DataFrame(X, columns=list("abcd")), NAMES)
    dgmm.save(ours.fit_, tmp_path / "m.zarr")
    loaded = dgmm.load(tmp_path / "m.zarr")
    assert (loaded.classify(X) == ours.predict(pd.DataFrame(X, columns=list("abcd")))).all()
    again = pickle.loads(pickle.dumps(ours))
    assert again.feature_names_in_.tolist() == list("abcd")
    np.testing.assert_array_equal(again.fit_.mixture.means, ours.means_)
    assert dgmm.GaussianMixtureClassifier().fit(X, Y > 0).fit_.classes == (0, 1)


def test_it_is_cross_validated_as_any_other() -> None:
    ours = cross_val_score(dgmm.GaussianMixtureClassifier(covariance_type="tied", reg_covar=0), X, NAMES)
    theirs = cross_val_score(LinearDiscriminantAnalysis(solver="lsqr"), X, NAMES)
    np.testing.assert_allclose(ours, theirs)


# ---- refusals -------------------------------------------------------------------------------------------------------

LAZY = dask.array.from_array(X, chunks=(40, 4))
GRID = xr.Dataset({"a": ("s", X[:, 0]), "b": ("s", X[:, 1])}, coords={"s": np.arange(150)})


@pytest.mark.parametrize(
    ("given", "labels", "asked", "said"),
    [
        (X, None, {}, "requires y"),
        (LAZY, None, {}, "requires y"),
        (X, np.full(150, -1), {}, "all of y are unknown"),
        (LAZY, np.full(150, -1), {}, "all of them are unknown"),
        (X, Y[:100], {}, "inconsistent numbers of samples"),
        (LAZY, Y[:100], {}, "give one label for each"),
        (LAZY, -2 - Y, {}, "give whole numbers from 0 up"),
        (LAZY, "species", {}, "y='species' is no variable of the Array"),
        (GRID, "species", {}, "no variable of the Dataset: it has a, b, s"),
        (GRID, xr.DataArray(Y, dims="s", coords={"s": np.arange(150) + 1}), {}, "differ in their coordinates"),
        (X, X[:, 0], {}, "Unknown label type"),
        (X, Y, {"covariance_type": "poisson"}, "it is not a Gaussian one"),
        (X, Y, {"covariance_type": "round"}, "unknown covariance type 'round'"),
        (X, Y, {"components_per_class": 0}, "components_per_class"),
        (X, Y, {"reg_covar": -1.0}, "reg_covar"),
        (X, np.where(Y == 2, -1, Y) * (np.arange(150) != 149) + 2 * (np.arange(150) == 149), {}, "too few"),
    ],
)
def test_what_cannot_be_is_refused(given: Any, labels: Any, asked: dict[str, Any], said: str) -> None:
    if said == "too few":
        asked = {"components_per_class": 2}
    with pytest.raises(ValueError, match=said):
        dgmm.GaussianMixtureClassifier(**asked).fit(given, labels)


def test_a_class_of_too_few_rows_is_warned_of() -> None:
    few = np.arange(103)
    with pytest.warns(ConvergenceWarning, match="class virginica.*has too few samples"):
        dgmm.GaussianMixtureClassifier().fit(X[few], NAMES[few])


def test_passes_that_do_not_suffice_are_warned_of() -> None:
    x, y = moons(500)
    y[60:] = -1
    with pytest.warns(ConvergenceWarning, match=r"max_iter \(1\)"):
        dgmm.GaussianMixtureClassifier(3, max_iter=1, tol=1e-12, random_state=0).fit(x, y)
