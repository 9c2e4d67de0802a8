"""Preprocessing that belongs to the model, against scikit-learn's pipelines and closed forms."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import sklearn.mixture
import xarray as xr
import zarr
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import RobustScaler, StandardScaler

import dgmm
from dgmm.data import open_samples, transformed
from dgmm.engine.memory import pass_bytes, segments_bytes
from dgmm.errors import InputError
from dgmm.fits import Fit
from dgmm.passes.profile import ProfileSegment
from dgmm.passes.sample import Draw
from dgmm.transform import Transform
from dgmm.types import AnyArray, FloatArray

#: A fit that takes no time.
QUICK: dict[str, Any] = {"search": "starts", "n_init": 1, "worst_rows": 0}


@pytest.fixture(scope="module")
def profiles() -> FloatArray:
    """Complete ocean profiles of the southern winter, (n, 19)."""
    x = dgmm.datasets.ocean_temperature()["temperature"].isel(month=0).values
    x = np.moveaxis(x, 0, -1).reshape(-1, 19)
    return x[~np.isnan(x).any(axis=1)].astype(float)


def pipeline(x: AnyArray, *steps: Any) -> tuple[Pipeline, FloatArray]:
    """scikit-learn's transformers, fitted, and what they make of rows."""
    made = make_pipeline(*steps)
    return made, made.fit_transform(x)


def same(fit: Fit) -> sklearn.mixture.GaussianMixture:
    """scikit-learn's mixture with the parameters of a fit of full covariances."""
    m, found = fit.mixture, sklearn.mixture.GaussianMixture(fit.n_components)
    found.weights_, found.means_, found.covariances_ = m.weights, m.means, m.covariances
    found.precisions_cholesky_ = np.array([np.linalg.cholesky(np.linalg.inv(c)) for c in m.covariances])
    return found


def test_a_fit_is_that_of_scikit_learns_pipeline(profiles: FloatArray, tmp_path: Path) -> None:
    steps, y = pipeline(profiles, StandardScaler(), PCA(0.99))
    zarr.create_array(str(tmp_path / "x.zarr"), data=profiles, chunks=(2000, 19))
    how = {"preprocess": {"scale": "standard", "pca": 0.99}, **QUICK}
    fit = dgmm.train(tmp_path / "x.zarr", 3, **how)
    transform = fit.mixture.transform
    assert transform is not None
    assert transform.n_outputs == steps[-1].n_components_
    np.testing.assert_allclose(transform.explained, steps[-1].explained_variance_ratio_, rtol=1e-9)
    signs = np.sign((transform(profiles) * y).sum(axis=0))
    np.testing.assert_allclose(transform(profiles) * signs, y, atol=1e-9)
    theirs = same(fit)
    assert (fit.classify(profiles) == theirs.predict(y * signs)).all()
    np.testing.assert_allclose(fit.log_likelihood / len(y), theirs.score(y * signs), atol=1e-9)
    # in the data's units
    physical = steps.inverse_transform(theirs.means_ * signs)
    np.testing.assert_allclose(fit.mixture.physical_means, physical, atol=1e-6)
    back = np.array([steps.inverse_transform(row[None])[0] for row in np.eye(y.shape[1])]) - steps.inverse_transform(
        0 * y[:1]
    )
    covariance = back.T @ (theirs.covariances_[0] * signs * signs[:, None]) @ back
    np.testing.assert_allclose(fit.mixture.physical_covariance(0), covariance, atol=1e-6)
    np.testing.assert_allclose(fit.mixture.physical_variances[0], np.diagonal(covariance), atol=1e-6)


def test_each_variable_may_have_principal_components_of_its_own(profiles: FloatArray, tmp_path: Path) -> None:
    """As those who classify profiles of temperature and salinity do: scaled level by level, reduced by variable."""
    x = profiles[:3000]
    r = np.random.default_rng(0)
    salinity = 35 + 0.2 * x[:, :7] + 0.05 * x[:, 5:12] ** 2 + 0.1 * r.normal(size=(len(x), 7))
    surface = x[:, 0] + r.normal(size=len(x))
    data = xr.Dataset({"PSAL": (("n", "z"), salinity), "TEMP": (("n", "depth"), x), "SST": ("n", surface)})
    asked = {"scale": "standard", "pca": 0.99, "pca_of": "variable"}
    how: dict[str, Any] = {"variables": ["TEMP", "PSAL", "SST"], "feature_dim": ["depth", "z"], **QUICK}
    fit = dgmm.train(data, 3, preprocess=asked, **how)
    parts = [pipeline(part, StandardScaler(), PCA(0.99))[1] for part in (x, salinity, surface[:, None])]
    y = np.hstack(parts)
    dgmm.store.save(fit, tmp_path / "m.zarr")
    rows = np.hstack([x, salinity, surface[:, None]])
    for transform in (fit.mixture.transform, dgmm.store.load(tmp_path / "m.zarr").mixture.transform):
        assert transform is not None
        assert transform.n_outputs == y.shape[1] > 3
        found = transform(rows)
        np.testing.assert_allclose(found * np.sign((found * y).sum(axis=0)), y, atol=1e-9)
        # the variance that is kept, of all there is in scaled features
        kept = y.var(axis=0) / rows.shape[1]
        np.testing.assert_allclose(transform.explained, kept, rtol=1e-9)
        assert "principal components of 27 features by variable" in transform.words
    np.testing.assert_allclose(transform.inverse(transform(rows)).mean(axis=0), rows.mean(axis=0), atol=1e-9)
    with pytest.raises(InputError, match="preprocess is another than that of the start"):
        dgmm.train(data, 3, start=fit, preprocess=asked | {"pca_of": "all"}, **how)
    with pytest.raises(InputError, match="pca_of: each variable is one feature here"):
        dgmm.train(xr.Dataset({"a": ("n", x[:, 0]), "b": ("n", x[:, 9])}), 1, preprocess=asked)


def test_an_estimator_climbs_as_scikit_learns_pipeline(profiles: FloatArray) -> None:
    x = profiles[::3]
    steps, y = pipeline(x, StandardScaler(), PCA(0.99))
    start = x[[0, 800, 2000]]
    how: dict[str, Any] = {"n_components": 3, "tol": 1e-9, "max_iter": 500, "random_state": 0}
    theirs = sklearn.mixture.GaussianMixture(**how, means_init=steps.transform(start)).fit(y)
    ours = dgmm.GaussianMixture(**how, means_init=start, preprocess={"scale": "standard", "pca": 0.99}).fit(x)
    assert ours.preprocess_ is not None
    signs = np.sign((ours.preprocess_(x) * y).sum(axis=0))
    assert ours.n_iter_ == theirs.n_iter_
    np.testing.assert_allclose(ours.weights_, theirs.weights_, atol=1e-6)
    np.testing.assert_allclose(ours.means_ * signs, theirs.means_, atol=1e-6)
    np.testing.assert_allclose(ours.covariances_ * signs * signs[:, None], theirs.covariances_, atol=1e-6)
    assert (ours.predict(x) == theirs.predict(y)).all()
    np.testing.assert_allclose(ours.score(x), theirs.score(y), atol=1e-9)
    np.testing.assert_allclose(ours.bic(x), theirs.bic(y), rtol=1e-9)
    assert ours.n_features_in_ == 19
    assert ours.sample(5)[0].shape == (5, 19)
    assert len(ours.components_table().columns) == 1 + 2 * 19
    with pytest.raises(InputError, match="knows of no preprocessing"):
        ours.to_sklearn()


def table(n: int = 600, seed: int = 0) -> FloatArray:
    """Two clusters of three positive features in different units."""
    generator = np.random.default_rng(seed)
    z = generator.normal(size=(n, 3)) + 6 * (np.arange(n) % 3 == 0)[:, None]
    return np.exp(0.3 * z) * [1.0, 100.0, 0.01]


def test_robust_scales_are_those_of_scikit_learn() -> None:
    x = table()
    steps, y = pipeline(x, RobustScaler(), PCA(2))
    scaled = dgmm.train(x, 2, preprocess={"scale": "robust"}, **QUICK)
    reduced = dgmm.train(x, 2, preprocess={"scale": "robust", "pca": 2}, **QUICK)
    assert scaled.mixture.transform is not None
    assert reduced.mixture.transform is not None
    np.testing.assert_allclose(scaled.mixture.transform(x), steps[0].transform(x), atol=1e-9)
    signs = np.sign((reduced.mixture.transform(x) * y).sum(axis=0))
    np.testing.assert_allclose(reduced.mixture.transform(x) * signs, y, atol=1e-9)
    assert reduced.mixture.transform.outputs == ("pc0", "pc1")
    assert scaled.mixture.transform.outputs == ("0", "1", "2")
    with pytest.raises(InputError, match=r"half of the values of feature '1' are the same"):
        dgmm.train(np.where(np.arange(600)[:, None] % 10 > 1, x * [1, 0, 1], x), 2, preprocess={"scale": "robust"})


def test_logarithms_are_taken_first() -> None:
    x, logged = table(), np.log(table())
    how: dict[str, Any] = {"preprocess": {"log": ["0", "1", "2"]}, **QUICK}
    fit, plain = dgmm.train(x, 2, **how), dgmm.train(logged, 2, **QUICK)
    np.testing.assert_allclose(fit.mixture.means, plain.mixture.means, rtol=1e-9)
    assert fit.bic == pytest.approx(plain.bic, rel=1e-12)
    np.testing.assert_allclose(fit.mixture.log_density(x), plain.mixture.log_density(logged), rtol=1e-9)
    geometric = np.exp(plain.mixture.means)
    np.testing.assert_allclose(fit.mixture.physical_means, geometric, rtol=1e-9)
    slopes = np.diag(geometric[1])
    np.testing.assert_allclose(fit.mixture.physical_covariance(1), slopes @ plain.mixture.covariances[1] @ slopes)
    x[7, 1] = -2.5
    with pytest.raises(InputError, match=r"feature '1' is -2\.5 in a sample, which has no logarithm"):
        dgmm.train(x, 2, **how)
    with pytest.raises(InputError, match=r"'1' is -2\.5"):
        fit.classify(x)
    x[7, 1] = np.nan  # is missing, and no more
    x[9] = [np.nan, -1, -1]  # is left out as it is
    assert dgmm.train(x, 2, **how).n_missing == 2


def test_a_sample_of_no_weight_needs_no_logarithm(tmp_path: Path) -> None:
    x, w = table(), np.ones(len(table()))
    how: dict[str, Any] = {"preprocess": {"log": ["0", "1", "2"]}, **QUICK}
    w[[3, 5]] = 0, np.nan
    expected = dgmm.train(x, 2, weights=w, **how)
    x[[3, 5]] = 0
    zarr.create_array(str(tmp_path / "x.zarr"), data=x, chunks=(len(x), 3))
    for source in (x, str(tmp_path / "x.zarr")):
        fit = dgmm.train(source, 2, weights=w, **how)
        assert fit.n_samples == len(x) - 2
        np.testing.assert_allclose(fit.mixture.means, expected.mixture.means, rtol=1e-9)
    w[3] = 1
    with pytest.raises(InputError, match="is 0 in a sample, which has no logarithm"):
        dgmm.train(x, 2, weights=w, **how)


def test_what_is_read_block_by_block_is_what_is_made_in_memory(tmp_path: Path) -> None:
    x = table(1500)
    x[3, 0] = np.nan
    zarr.create_array(str(tmp_path / "x.zarr"), data=x, chunks=(250, 3))
    how: dict[str, Any] = {"preprocess": {"scale": "standard", "pca": 2, "log": ["1"]}, "holdout": 0.2, **QUICK}
    ours, memory = dgmm.train(tmp_path / "x.zarr", 2, **how), dgmm.train(x, 2, **how)
    np.testing.assert_allclose(ours.mixture.means, memory.mixture.means, rtol=1e-10)
    assert ours.held_out == pytest.approx(memory.held_out, rel=1e-10)
    assert ours.n_missing == memory.n_missing == 1
    # rows that are held out take no part in the scales, and are judged as they are fitted
    transform = ours.mixture.transform
    assert transform is not None
    samples = open_samples(tmp_path / "x.zarr")
    view = transformed(samples, transform)
    region = samples.grid.region(0)
    np.testing.assert_array_equal(view.read(region), transform(samples.read(region)))
    assert view.features == ("pc0", "pc1")
    assert view.row_bytes == 16
    assert view.read_bytes == samples.row_bytes


def test_the_number_of_components_and_their_sides() -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(400, 5)) @ generator.normal(size=(5, 5))
    for share in (0.5, 0.9, 0.99):
        fit = dgmm.train(x, 1, preprocess={"pca": share})
        theirs = PCA(share).fit(x)
        assert fit.mixture.n_features == theirs.n_components_
        assert fit.mixture.transform is not None
        matrix = fit.mixture.transform.matrix
        assert (matrix[np.abs(matrix).argmax(axis=0), range(matrix.shape[1])] > 0).all()
    for wanted, words in ((6, "6 principal components of 5 features"), (0, "give a share"), (1.5, "give a share")):
        with pytest.raises(InputError, match=words):
            dgmm.train(x, 1, preprocess={"pca": wanted})


def test_a_model_keeps_what_was_done(tmp_path: Path) -> None:
    x = table()
    how: dict[str, Any] = {"preprocess": {"scale": "standard", "pca": 2, "log": ["0"]}, "keep_path": True, **QUICK}
    fit = dgmm.train(x, 2, **how)
    for name in ("m.zarr", "m.json"):
        dgmm.save(fit, tmp_path / name)
        again = dgmm.load(tmp_path / name)
        assert again.mixture.transform is not None
        assert fit.mixture.transform is not None
        assert again.mixture.transform.digest == fit.mixture.transform.digest
        assert again.features == ("0", "1", "2")
        assert again.path[0].transform is not None
        np.testing.assert_allclose(again.mixture.log_density(x), fit.mixture.log_density(x), rtol=1e-12)
    scores = dgmm.score(tmp_path / "m.zarr", x, tmp_path / "s.zarr")
    assert (scores["label"].values == fit.classify(x)).all()
    assert scores["log_density"].attrs["long_name"].startswith("logarithm of the density, of the features as they were")
    assert float(scores["log_density"].sum()) == pytest.approx(fit.log_likelihood, rel=1e-12)
    # the transform is a part of the model's name
    transform = fit.mixture.transform
    assert transform is not None
    for changed in (None, replace(transform, shift=transform.shift + 1), replace(transform, log=())):
        other = replace(fit.mixture, transform=changed)
        assert dgmm.store.digest(other) != dgmm.store.digest(fit.mixture)
    drawn = dgmm.sample(fit, 50, tmp_path / "drawn.zarr")
    assert drawn["data"].shape == (50, 3)
    assert (drawn["data"].values[:, 0] > 0).all()
    with pytest.raises(InputError, match="train without preprocess"):
        fit.marginal([0])


def test_a_start_brings_its_own(tmp_path: Path) -> None:
    x = table()
    asked = {"scale": "standard", "pca": 2}
    fit = dgmm.train(x, 2, preprocess=asked, **QUICK)
    for again in (dgmm.train(x * 1.1, start=fit, worst_rows=0), dgmm.train(x, start=fit, preprocess=asked)):
        assert again.mixture.transform is not None
        assert fit.mixture.transform is not None
        assert again.mixture.transform.digest == fit.mixture.transform.digest
    # names are those of the data
    named = xr.Dataset({name: ("row", column) for name, column in zip("abc", x.T, strict=True)})
    dgmm.save(dgmm.train(named, start=fit.mixture, worst_rows=0), tmp_path / "named.json")
    assert dgmm.load(tmp_path / "named.json").features == ("a", "b", "c")
    with pytest.raises(InputError, match="preprocess is another than that of the start"):
        dgmm.train(x, start=fit, preprocess={"scale": "standard"})
    with pytest.raises(InputError, match="the start was fitted without preprocess"):
        dgmm.train(x, start=dgmm.train(x, 2, **QUICK), preprocess=asked)
    with pytest.raises(InputError, match="noise fills the box of the data"):
        dgmm.train(x, 2, preprocess=asked, noise=True)
    with pytest.raises(InputError, match=r"a gamma mixture is of positive values, which .* are not after preproc"):
        dgmm.train(x, 2, "gamma", preprocess=asked)
    with pytest.raises(InputError, match="no feature 'chl'"):
        dgmm.train(x, 2, preprocess={"log": ["chl"]})
    with pytest.raises(InputError, match="precisions_init are of the data"):
        dgmm.train(x, 2, preprocess=asked, precisions_init=np.stack([np.eye(3)] * 2))
    assert dgmm.train(x, 2, preprocess={"scale": "none"}, **QUICK).mixture.transform is None


def test_a_transform_is_undone_where_it_can_be() -> None:
    x = table(50)
    scaled = Transform(("a", "b", "c"), (1,), np.array([1.0, 2, 3]), np.array([0.5, 2, 4]))
    np.testing.assert_allclose(scaled.inverse(scaled(x)), x, rtol=1e-12)
    with pytest.raises(InputError, match=r"expected samples of shape \(n, 3\)"):
        scaled(x[:, :2])


def test_a_selection_compares_within_one_preprocessing(tmp_path: Path) -> None:
    x, how = table(), {"preprocess": {"scale": "standard"}, "search": "quick"}
    found = dgmm.select(x, [1, 2], ["full", "diag"], **how, journal=tmp_path / "j", keep_journal=True)
    assert {fit.mixture.transform is None for fit in found.fits} == {False}
    assert found.best.n_components == 2
    # the journal gives the same bits
    again = dgmm.select(x, [1, 2], ["full", "diag"], **how, journal=tmp_path / "j", keep_journal=True)
    np.testing.assert_array_equal(again.best.mixture.means, found.best.mixture.means)
    assert again.n_reads == found.n_reads
    # scales alone: the same clusters as without, and BIC differs by the Jacobian alone
    plain = dgmm.train(x, 2, covariance_type=found.best.covariance_type, search="quick")
    assert found.best.mixture.transform is not None
    jacobian = 2 * len(x) * np.log(found.best.mixture.transform.matrix).sum()
    assert found.best.bic == pytest.approx(plain.bic + jacobian, rel=1e-6)


def test_a_stored_map_that_cannot_be_is_refused(tmp_path: Path) -> None:
    fit = dgmm.train(table(), 2, preprocess={"scale": "standard", "pca": 2}, **QUICK)
    dgmm.save(fit, tmp_path / "m.json")
    sound = json.loads((tmp_path / "m.json").read_text())
    assert sound["attrs"]["format"] == "dgmm-model-3"  # who knows of no preprocessing takes it for none of its own
    for name, where, wrong, words in (
        ("shift", "data_vars", {"data": [0.0, 0.0]}, "preprocess has shapes"),
        ("units", "data_vars", {"data": [1.0, -1.0, 1.0]}, "scales that are not positive"),
        ("preprocess", "attrs", '{"scale": "standard", "pca": 2, "log": [3]}', "logarithms of features"),
        ("preprocess", "attrs", '{"scale": "best", "pca": 2, "log": []}', "preprocess.scale"),
    ):
        # of the format without checksums
        found = copy.deepcopy(sound)
        found["attrs"]["format"] = "dgmm-model-1"
        for gone in ("checksum", "digest"):
            del found["attrs"][gone]
        if where == "attrs":
            found["attrs"][name] = wrong
        else:
            found["data_vars"][f"preprocess_{name}"] |= wrong
            found["data_vars"][f"preprocess_{name}"]["dims"] = ["other"]
        (tmp_path / "wrong.json").write_text(json.dumps(found))
        with pytest.raises(InputError, match=words):
            dgmm.load(tmp_path / "wrong.json")


def test_memory_of_what_is_read_and_of_what_is_made(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "x.zarr"), data=np.ones((1000, 40), dtype="f4"), chunks=(500, 40))
    samples = open_samples(tmp_path / "x.zarr")
    view = transformed(samples, Transform(samples.features, (), np.zeros(40), np.ones((40, 3))))
    n, chunks = samples.grid.largest, 2560 * samples.grid.largest // 500
    # three times what is read; what is made, what is worked on while the next is read, and a copy without missing rows
    assert segments_bytes(view, ahead=True, copies=True) == n * (3 * 160 + 3 * 24) + chunks
    assert segments_bytes(view, ahead=False, copies=False) == n * (3 * 160 + 24) + chunks
    assert segments_bytes(samples, ahead=True, copies=True) == n * 5 * 160 + chunks
    need = [
        pass_bytes(samples, ProfileSegment("x", ("a",) * d, samples.grid, Draw(10, 0), 8)).working for d in (362, 363)
    ]
    assert need[0] == 26 * n + 7 * 2**20
    assert need[1] == 26 * n + 7 * 8 * 363**2


def test_estimators_go_on_and_choose_with_what_was_done() -> None:
    x = table()
    lazy = dask.array.from_array(x, chunks=(150, 3))
    how: dict[str, Any] = {"random_state": 0, "preprocess": {"scale": "robust", "pca": 2}, "warm_start": True}
    model = dgmm.GaussianMixture(2, **how, max_iter=2, tol=1e-12)
    with pytest.warns(ConvergenceWarning):
        model.fit(lazy)
    done = model.preprocess_
    model.set_params(max_iter=200, tol=1e-6).fit(lazy * 1.01)
    assert model.preprocess_ is not None
    assert done is not None
    assert model.preprocess_.digest == done.digest
    labels, density = model.predict(lazy), model.score_samples(lazy)
    assert labels.chunks == ((150,) * 4,)
    np.testing.assert_array_equal(labels.compute(), model.predict(x))
    assert float(density.mean().compute()) == pytest.approx(model.score(x), rel=1e-12)
    with pytest.raises(InputError, match="warm_start and partial_fit cannot go on"):
        model.fit(x[:, :2])
    with pytest.raises(InputError, match="precisions_init are of the data"):
        dgmm.GaussianMixture(1, preprocess={"pca": 1}, precisions_init=np.eye(3)[None]).fit(x)
    chosen = dgmm.GaussianMixture.select(x, [1, 2], "full", preprocess={"scale": "standard"}, search="starts")
    assert chosen.preprocess == {"scale": "standard", "pca": None, "pca_of": "all", "log": []}
    assert (chosen.predict(x) == chosen.selection_.best.classify(x)).all()
    again = clone(chosen).fit(x)
    assert again.preprocess_ is not None
