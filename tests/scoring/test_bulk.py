"""Scores are those of scikit-learn on the same parameters, on the grid of the input, and complete or not there."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import poisson
from sklearn.mixture import GaussianMixture
from zarr.storage import MemoryStore

import dgmm
from dgmm.api import open_scores
from dgmm.cli import main
from dgmm.config import Data, Score
from dgmm.data import Layout, open_samples, store_at
from dgmm.data import grid as grid_module
from dgmm.engine import open_workers
from dgmm.engine.workers import threads
from dgmm.errors import InputError, OutputExistsError
from dgmm.fits import Fit, Outcome, OutcomeKind
from dgmm.mixture import Mixture
from dgmm.pipeline import made_with, run_score
from dgmm.scoring import Scored, score_samples, total_log_density
from dgmm.scoring.arrays import label_dtype
from dgmm.scoring.ledger import Recording
from dgmm.scoring.segments import ScoreSegment
from dgmm.store import UNSETTLED_DTYPE, State, Status, Writer, load, place_at, save, settings_in

TYPES = ("full", "tied", "diag", "spherical")


@pytest.fixture(autouse=True)
def several_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut small arrays too."""
    monkeypatch.setattr(grid_module, "MIN_ROWS", 16)


def fit_of(mixture: Mixture, features: tuple[str, ...] = ()) -> Fit:
    names = features or tuple(str(i) for i in range(mixture.n_features))
    return Fit(mixture, -1.0, 10, 0, 1, Outcome(OutcomeKind.CONVERGED, 1), 0.0, (-1.0,), names)


def make_mixture(kind: str = "full", k: int = 3, d: int = 3, offset: float = 0.0) -> Mixture:
    generator = np.random.default_rng(k * 10 + d)
    root = generator.normal(size=(k, d, d))
    full = root @ root.transpose(0, 2, 1) + 0.5 * np.eye(d)
    diagonal = np.diagonal(full, axis1=1, axis2=2)
    covariances = {"full": full, "tied": full[0], "diag": diagonal, "spherical": diagonal[:, 0]}[kind]
    means = generator.normal(0, 3, (k, d)) + offset
    return Mixture.gaussian(kind, generator.dirichlet(np.full(k, 3.0)), means, covariances)


def oracle(mixture: Mixture) -> GaussianMixture:
    """Scikit-learn's mixture with the same parameters."""
    model = GaussianMixture(mixture.n_components, covariance_type=mixture.covariance_type)
    model.weights_, model.means_, model.covariances_ = mixture.weights, mixture.means, mixture.covariances
    if mixture.covariance_type in ("full", "tied"):
        model.precisions_cholesky_ = np.swapaxes(np.linalg.inv(np.linalg.cholesky(mixture.covariances)), -1, -2)
    else:
        model.precisions_cholesky_ = 1 / np.sqrt(mixture.covariances)
    return model


def table(n: int = 300, d: int = 3) -> np.ndarray:
    """Samples (n, d), 10 % of them incomplete."""
    generator = np.random.default_rng(8)
    x = generator.normal(0, 4, (n, d))
    x[generator.random(n) < 0.1, generator.integers(d)] = np.nan
    return x


def assert_scores(found: xr.Dataset, x: np.ndarray, mixture: Mixture) -> None:
    """All variables, flattened in C order of the grid, against scikit-learn and -1 or NaN where a value is missing."""
    model, present = oracle(mixture), ~np.isnan(x).any(axis=1)
    label, probability = found["label"].to_numpy().ravel(), found["probability"].to_numpy().ravel()
    log_density = found["log_density"].to_numpy().ravel()
    np.testing.assert_array_equal(label == -1, ~present)
    np.testing.assert_array_equal(np.isnan(probability), ~present)
    np.testing.assert_array_equal(np.isnan(log_density), ~present)
    expected = model.predict_proba(x[present])
    np.testing.assert_array_equal(label[present], expected.argmax(axis=1))
    np.testing.assert_allclose(probability[present], expected.max(axis=1), rtol=1e-6)
    np.testing.assert_allclose(log_density[present], model.score_samples(x[present]), rtol=1e-10, atol=1e-10)
    if "probabilities" in found:
        every = found["probabilities"].to_numpy().reshape(len(x), -1)
        np.testing.assert_array_equal(np.isnan(every).any(axis=1), ~present)
        np.testing.assert_array_equal(np.isnan(every).all(axis=1), ~present)
        np.testing.assert_allclose(every[present], expected, rtol=1e-5, atol=1e-30)
        np.testing.assert_allclose(every[present].sum(axis=1), 1, rtol=1e-5)


def attempt(*arguments: Any, **how: Any) -> xr.Dataset | InputError:
    """Scores, or why there are none."""
    try:
        return dgmm.score(*arguments, **how)
    except InputError as error:
        return error


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("k", "d"), [(3, 3), (1, 2), (4, 1), (2, 12)])
def test_scores_are_those_of_scikit_learn(kind: str, k: int, d: int, tmp_path: Path) -> None:
    mixture, x = make_mixture(kind, k, d), table(d=d)
    found = dgmm.score(fit_of(mixture), x, tmp_path / "s.zarr", probabilities=True)
    assert found["label"].dims == ("sample",)
    assert found["probabilities"].dims == ("sample", "component")
    assert_scores(found, x, mixture)


@pytest.mark.parametrize("kind", TYPES)
def test_an_offset_changes_nothing_but_the_place(kind: str, tmp_path: Path) -> None:
    """Everything moved by 2^27: values on a grid of 1/64 stay exact, and so must the scores but for rounding."""
    x = np.round(table() * 64) / 64
    mixture, moved = make_mixture(kind), make_mixture(kind, offset=0.0)
    moved = Mixture.gaussian(kind, moved.weights, np.round(moved.means * 64) / 64 + 2.0**27, moved.covariances)
    mixture = Mixture.gaussian(kind, mixture.weights, np.round(mixture.means * 64) / 64, mixture.covariances)
    found = dgmm.score(fit_of(moved), x + 2.0**27, tmp_path / "s.zarr", probabilities=True)
    present = ~np.isnan(x).any(axis=1)
    np.testing.assert_allclose(found["log_density"][present], oracle(mixture).score_samples(x[present]), rtol=1e-6)
    np.testing.assert_array_equal(found["label"][present], oracle(mixture).predict(x[present]))


@pytest.mark.parametrize("kind", TYPES)
def test_far_points_have_a_nearest_component(kind: str, tmp_path: Path) -> None:
    """Densities that underflow: the label is the largest log joint, the log density finite."""
    mixture = make_mixture(kind)
    x = np.random.default_rng(0).normal(0, 1, (50, 3)) * 1e6
    found = dgmm.score(fit_of(mixture), x, tmp_path / "s.zarr", probabilities=True)
    assert_scores(found, x, mixture)
    assert np.isfinite(found["log_density"]).all()


def test_many_well_separated_dimensions(tmp_path: Path) -> None:
    """Two clusters eight deviations apart in 50 dimensions: densities far below the smallest float."""
    means = np.zeros((2, 50))
    means[1] = 8.0
    mixture = Mixture.gaussian("spherical", np.array([0.3, 0.7]), means, np.ones(2))
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, 200)
    x = means[labels] + generator.normal(size=(200, 50))
    found = dgmm.score(fit_of(mixture), x, tmp_path / "s.zarr")
    np.testing.assert_array_equal(found["label"], labels)
    assert_scores(found, x, mixture)


def test_units_of_very_different_size(tmp_path: Path) -> None:
    """Features in units of 1e-8 and 1e8; the scaling adds a constant to the log density."""
    scale = np.array([1e-8, 1.0, 1e8])
    plain, x = make_mixture("full"), table()
    scaled = Mixture.gaussian("full", plain.weights, plain.means * scale, plain.covariances * np.outer(scale, scale))
    found = dgmm.score(fit_of(scaled), x * scale, tmp_path / "s.zarr")
    present = ~np.isnan(x).any(axis=1)
    np.testing.assert_allclose(
        found["log_density"][present], oracle(plain).score_samples(x[present]) - np.log(scale).sum(), rtol=1e-9
    )


@pytest.mark.parametrize("dtype", ["float32", "int16", "uint8"])
def test_other_number_types(dtype: str, tmp_path: Path) -> None:
    x = np.random.default_rng(2).integers(0, 12, (100, 3)).astype(dtype)
    mixture = make_mixture()
    found = dgmm.score(fit_of(mixture), x, tmp_path / "s.zarr", probabilities=True)
    assert_scores(found, x.astype(float), mixture)


def test_nothing_but_missing_values(tmp_path: Path) -> None:
    x = np.full((40, 3), np.nan)
    found = dgmm.score(fit_of(make_mixture()), x, tmp_path / "s.zarr", probabilities=True)
    assert (found["label"] == -1).all()
    assert np.isnan(found["probabilities"]).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e200])
def test_values_without_a_density_are_refused(value: float, tmp_path: Path) -> None:
    """As in training: an infinite value is no sample, and a label for it would be invented."""
    x = table()
    x[17] = (0.0, value, 0.0)
    with pytest.raises(InputError) as caught:
        dgmm.score(fit_of(make_mixture()), x, tmp_path / "s.zarr")
    assert "(17)" in str(caught.value)
    assert str(value) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [-1.0, 2.5])
def test_values_that_cannot_come_from_the_family_are_named(value: float, tmp_path: Path) -> None:
    x = np.random.default_rng(0).poisson([3.0, 9.0], (60, 2)).astype(float)
    fit = dgmm.train(x, 1, "poisson")
    x[40, 1], x[50] = value, np.nan
    with pytest.raises(InputError, match=rf"is {value:g} at sample \(40\): a poisson mixture is of counts"):
        dgmm.score(fit, x, tmp_path / "s.zarr")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("value", "said"), [(2.5, "is 2.5 at sample \\(40\\): a poisson"), (np.inf, "inf at sample")])
def test_a_total_of_values_that_cannot_be_is_refused(value: float, said: str) -> None:
    x = np.random.default_rng(0).poisson([3.0, 9.0], (60, 2)).astype(float)
    plan = dgmm.train(x, 1, "poisson").mixture.density_plan()
    expected = poisson(x.mean(axis=0)).logpmf(x).sum()
    assert total_log_density(open_samples(x), plan, 0.0, threads(2)).log_density == pytest.approx(expected, rel=1e-10)
    x[40, 1], x[50] = value, np.nan
    with pytest.raises(InputError, match=said):
        total_log_density(open_samples(x), plan, 0.0, threads(2))


@pytest.mark.parametrize(("kind", "title"), [("tied", "tied Gaussian"), ("poisson", "Poisson"), ("gamma", "Gamma")])
def test_scores_say_of_what_mixture_they_are(kind: str, title: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).poisson([3.0, 9.0], (60, 2)) + 1.0
    found = dgmm.score(dgmm.train(x, 1, kind), x, tmp_path / "s.zarr")
    assert found.attrs["title"] == f"Scores of a {title} mixture with 1 components"


@pytest.mark.parametrize(
    ("k", "dtype"),
    [
        (1, "int8"),
        # labels 0 to 127 and -1
        (128, "int8"),
        (129, "int16"),
        (130, "int16"),
        (2**15, "int16"),
        (2**15 + 1, "int32"),
        (2**31 + 1, "int64"),
    ],
)
def test_smallest_type_of_labels(k: int, dtype: str) -> None:
    assert np.dtype(label_dtype(k)) == dtype


@pytest.mark.parametrize(("k", "dtype"), [(3, "int8"), (130, "int16")])
def test_labels_are_written_in_the_smallest_type(k: int, dtype: str, tmp_path: Path) -> None:
    """Component i is at i: the last of them must come out as k - 1, not wrapped around."""
    means = np.arange(float(k))[:, None] * 10 + np.zeros((1, 2))
    mixture = Mixture.gaussian("spherical", np.full(k, 1 / k), means, np.ones(k))
    x = np.concatenate([means, [[np.nan, 0]]])
    found = dgmm.score(fit_of(mixture), x, tmp_path / "s.zarr")
    assert found["label"].dtype == dtype
    assert found["label"].values.tolist() == [*range(k), -1]


# ---- sources and grids ----------------------------------------------------------------------------------------------


def ocean() -> tuple[xr.Dataset, np.ndarray]:
    """A variable (month, depth, lat, lon) with coordinates of many kinds, and its samples (month lat lon, depth)."""
    generator = np.random.default_rng(4)
    values = generator.normal(0, 3, (4, 3, 5, 6))
    values[:, 1:, 2, 3] = np.nan
    dataset = xr.Dataset(
        {"temperature": (("month", "depth", "lat", "lon"), values, {"units": "degC"})},
        coords={
            "month": ("month", pd.date_range("2020-01-01", periods=4, freq="MS"), {"long_name": "month"}),
            "depth": ("depth", [0.0, 10.0, 50.0], {"units": "m", "positive": "down"}),
            "lat": ("lat", np.linspace(-80, 80, 5), {"units": "degrees_north", "standard_name": "latitude"}),
            "lon": ("lon", np.arange(6, dtype="int16") * 60, {"units": "degrees_east"}),
            "season": ("month", ["winter", "winter", "spring", "été"], {"note": "text"}),
            "area": (("lat", "lon"), generator.random((5, 6)), {"units": "km2"}),
            "run": ((), 7, {"comment": "no dimension"}),
        },
        attrs={"institution": "somewhere", "history": "made up"},
    )
    return dataset, np.moveaxis(values, 1, -1).reshape(-1, 3)


def written(dataset: xr.Dataset, folder: Path, version: int, **encoding: Any) -> str:
    path = str(folder / f"in{version}.zarr")
    how = {"temperature": {"chunks": (3, 2, 2, 4)} | encoding}
    strings = {"season": dataset["season"].astype(object)} if version == 2 else {}
    dataset.assign_coords(strings).to_zarr(path, zarr_format=version, consolidated=False, encoding=how)
    return path


GRIDS: dict[str, Callable[[xr.Dataset, Path], Any]] = {
    "Dataset": lambda ds, _: ds,
    "Dataset on Dask": lambda ds, _: ds.chunk(month=3, depth=2, lat=4, lon=5),
    "DataArray": lambda ds, _: ds["temperature"],
    "path, v2": lambda ds, p: written(ds, p, 2),
    "path, v3": lambda ds, p: written(ds, p, 3),
    "path, sharded": lambda ds, p: written(ds, p, 3, chunks=(1, 3, 2, 2), shards=(2, 3, 4, 4)),
    "features last": lambda ds, _: ds.transpose("month", "lat", "lon", "depth"),
}


@pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification:zarr.errors.UnstableSpecificationWarning")
@pytest.mark.parametrize("build", GRIDS.values(), ids=list(GRIDS))
def test_scores_lie_on_the_grid_of_the_input(build: Callable[[xr.Dataset, Path], Any], tmp_path: Path) -> None:
    dataset, x = ocean()
    mixture = make_mixture()
    source = build(dataset, tmp_path)
    found = dgmm.score(
        fit_of(mixture, ("0.0", "10.0", "50.0")), source, tmp_path / "s.zarr", feature_dim="depth", probabilities=True
    )
    for name in ("label", "probability", "log_density"):
        assert found[name].dims == ("month", "lat", "lon")
    assert found["probabilities"].dims == ("month", "lat", "lon", "component")
    assert_scores(found, x, mixture)
    assert set(found.coords) == {"month", "lat", "lon", "season", "area", "run"}
    for name in found.coords:
        np.testing.assert_array_equal(found[name].values, dataset[name].values)
        assert found[name].dims == dataset[name].dims
        assert found[name].attrs == dataset[name].attrs, name
        # xarray has its own unit of time, and more than one type of text
        assert found[name].dtype == dataset[name].dtype or name in ("month", "season")


COORDINATES: dict[str, Any] = {
    "truth values": np.arange(300) % 2 == 0,
    "texts of any length": np.array([f"n{i}" for i in range(300)], dtype=object),
    "bytes": np.array([f"n{i}" for i in range(300)], dtype="S4"),
    "durations": np.arange(300).astype("timedelta64[h]").astype("timedelta64[ns]"),
    "a gap in time": np.where(np.arange(300) == 7, np.datetime64("NaT", "ns"), np.datetime64("2020-01-01", "ns")),
    "numbers with a gap": np.where(np.arange(300) == 7, np.nan, np.arange(300.0)),
    "large integers": np.arange(300, dtype="int64") + 2**60,
    "unsigned": np.arange(300, dtype="uint8"),
    "on Dask": da.arange(300, chunks=70),
}


@pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification:zarr.errors.UnstableSpecificationWarning")
@pytest.mark.parametrize("values", COORDINATES.values(), ids=list(COORDINATES))
def test_coordinates_of_any_type(values: Any, tmp_path: Path) -> None:
    source = xr.DataArray(table(), dims=("s", "f"), coords={"c": ("s", values, {"note": "kept"})})
    found = dgmm.score(fit_of(make_mixture()), source, tmp_path / "s.zarr")
    np.testing.assert_array_equal(found["c"].values, np.asarray(values).astype(found["c"].dtype))
    assert found["c"].dtype.kind == source["c"].dtype.kind or source["c"].dtype.kind in "OUST"
    assert found["c"].attrs["note"] == "kept"


@pytest.mark.parametrize("version", [2, 3])
def test_packed_coordinates_come_out_as_they_were_read(version: int, tmp_path: Path) -> None:
    """Packed in the input; what matters is their values."""
    how = {"lat": {"dtype": "int16", "scale_factor": 0.1, "_FillValue": -9999}}
    source = xr.Dataset({"x": (("lat", "f"), table())}, coords={"lat": np.arange(300) * 0.1})
    source.to_zarr(tmp_path / "in.zarr", zarr_format=version, consolidated=False, encoding=how)
    found = dgmm.score(fit_of(make_mixture()), tmp_path / "in.zarr", tmp_path / "s.zarr")
    np.testing.assert_allclose(found["lat"], source["lat"], rtol=1e-14)


@pytest.mark.parametrize("with_coordinate", [True, False])
def test_attributes_of_the_data_set_are_kept(with_coordinate: bool, tmp_path: Path) -> None:
    """With what scoring adds; whether or not the grid has coordinates."""
    coords = {"s": np.arange(300)} if with_coordinate else {}
    source = xr.Dataset({"x": (("s", "f"), table())}, coords=coords, attrs={"institution": "somewhere"})
    found = dgmm.score(fit_of(make_mixture()), source, tmp_path / "s.zarr")
    assert found.attrs["institution"] == "somewhere"
    assert found.attrs["n_components"] == 3


def test_several_variables(tmp_path: Path) -> None:
    x = table()
    dataset = xr.Dataset({name: ("time", c) for name, c in zip("abc", x.T, strict=True)}).chunk(time=41)
    dataset = dataset.assign_coords(time=pd.date_range("2001-03-01", periods=len(x), freq="h"))
    mixture = make_mixture()
    for version in (2, 3):
        path = tmp_path / f"in{version}.zarr"
        dataset.to_zarr(path, zarr_format=version, consolidated=False)
        out = tmp_path / f"s{version}.zarr"
        found = dgmm.score(fit_of(mixture, ("a", "b", "c")), path, out, variables=["a", "b", "c"])
        assert_scores(found, x, mixture)
        np.testing.assert_array_equal(found["time"], dataset["time"])


@pytest.mark.parametrize("how", ["in another order", "by default"])
def test_features_are_told_by_their_names(how: str, tmp_path: Path) -> None:
    """The order of variables in a store is nobody's: a model of a, b, c must not take b for a without a word."""
    x = table()
    dataset = xr.Dataset({name: ("s", c) for name, c in zip("abc", x.T, strict=True)})
    mixture = make_mixture()
    chosen = ["b", "c", "a"] if how == "in another order" else None
    source = dataset if chosen else dataset[["c", "b", "a"]]
    found = attempt(fit_of(mixture, ("a", "b", "c")), source, tmp_path / "s.zarr", variables=chosen)
    if isinstance(found, InputError):
        assert "a, b, c" in str(found)
    else:
        assert_scores(found, x, mixture)


def test_variables_of_the_scores_describe_themselves(tmp_path: Path) -> None:
    """Readable without this package: CF flags for the labels."""
    found = dgmm.score(fit_of(make_mixture()), table(), tmp_path / "s.zarr")
    assert list(found["label"].attrs["flag_values"]) == [-1, 0, 1, 2]
    assert found["label"].attrs["flag_meanings"] == "missing component_0 component_1 component_2"
    assert all("long_name" in found[name].attrs for name in found)


def seasons() -> xr.DataArray:
    """Samples with coordinates of time, numbers and texts."""
    coords = {
        "time": pd.date_range("2001-01-01", periods=6, freq="MS"),
        "x": ("x", np.arange(50.0), {"units": "m"}),
        "name": ("x", [f"n{i}" for i in range(50)]),
        "run": 7,
    }
    return xr.DataArray(table().reshape(6, 50, 3), dims=("time", "x", "f"), coords=coords, attrs={"units": "K"})


@pytest.mark.parametrize("where", ["path", "s3"])
def test_xarray_opens_and_saves_scores_without_a_word(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Plain `xr.open_zarr(path)`, and `to_netcdf` of what that gives."""
    root = str(tmp_path) if where == "path" else request.getfixturevalue("s3")
    data = Data(path=f"{root}/in.zarr", feature_dim="f")
    job = Score(model=f"{root}/m.zarr", data=data, out=f"{root}/s.zarr", probabilities=True)
    mixture, source = make_mixture(), seasons().drop_vars("name")
    save(fit_of(mixture), job.model)
    source.to_dataset(name="v").to_zarr(store_at(data.path, read_only=False), consolidated=False)
    run_score(job)
    found = xr.open_zarr(store_at(job.out, read_only=True))
    assert_scores(found, table(), mixture)
    assert settings_in(found.attrs) == made_with(job)
    found.to_netcdf(tmp_path / "s.nc", engine="scipy")
    with xr.open_dataset(tmp_path / "s.nc", engine="scipy") as saved:
        assert_scores(saved, table(), mixture)
        assert settings_in(saved.attrs) == made_with(job)
        np.testing.assert_array_equal(saved["time"], source["time"])


def test_scores_with_texts_can_be_saved_too(tmp_path: Path) -> None:
    dgmm.score(fit_of(make_mixture()), seasons(), tmp_path / "s.zarr", feature_dim="f")
    with warnings.catch_warnings():
        # what zarr says when it reads texts
        warnings.filterwarnings("ignore", message=UNSETTLED_DTYPE)
        found = xr.open_zarr(tmp_path / "s.zarr").load()
    found.to_netcdf(tmp_path / "s.nc", engine="scipy")
    with xr.open_dataset(tmp_path / "s.nc", engine="scipy") as saved:
        np.testing.assert_array_equal(saved["name"], seasons()["name"])


def test_settings_of_scores_of_before_are_read() -> None:
    """They were a mapping; whatever cannot be made out is none."""
    settings = {"a": {"b": [1, None]}}
    assert settings_in({"settings": settings}) == settings_in({"settings": json.dumps(settings)}) == settings
    for other in ({}, {"settings": "[1"}, {"settings": "[]"}, {"settings": None}, {"settings": "[" * 100_000}):
        assert settings_in(other) == {}


def test_what_is_written_is_plain_zarr(tmp_path: Path) -> None:
    """Missing is the fill value, so that nothing that was never written looks like a label."""
    dgmm.score(fit_of(make_mixture()), table(), tmp_path / "s.zarr", probabilities=True)
    group = zarr.open_group(str(tmp_path / "s.zarr"), mode="r")
    assert {name: str(group[name].dtype) for name in group.array_keys()} == {
        "label": "int8",
        "probability": "float32",
        "log_density": "float64",
        "probabilities": "float32",
    }
    assert group["label"].fill_value == -1
    assert all(np.isnan(group[name].fill_value) for name in ("probability", "log_density", "probabilities"))


@pytest.mark.parametrize("name", ["label", "probability", "log_density", "probabilities", "ledger"])
def test_a_coordinate_does_not_replace_a_score(name: str, tmp_path: Path) -> None:
    """A data set with a coordinate of the same name, say known labels: refused, or kept apart."""
    x, mixture = table(), make_mixture()
    source = xr.DataArray(x, dims=("s", "f"), coords={name: ("s", np.arange(300, dtype="int64"))})
    found = attempt(fit_of(mixture), source, tmp_path / "s.zarr", probabilities=True)
    if isinstance(found, InputError):
        assert name in str(found)
        assert list(tmp_path.iterdir()) == []
    else:
        assert_scores(found, x, mixture)


def test_a_dimension_called_component_is_refused_where_it_would_come_twice(tmp_path: Path) -> None:
    source = xr.DataArray(table(), dims=("component", "f"))
    with pytest.raises(InputError, match="component"):
        dgmm.score(fit_of(make_mixture()), source, tmp_path / "s.zarr", probabilities=True)
    assert list(tmp_path.iterdir()) == []


def test_a_stacked_index_is_kept_or_refused_before_any_work(tmp_path: Path) -> None:
    """Zarr has no multi-index: the levels as coordinates, or one line that says so."""
    x, mixture = table(), make_mixture()
    grid = xr.DataArray(x.reshape(15, 20, 3), dims=("y", "x", "f"), coords={"y": range(15), "x": range(20)})
    stacked = grid.stack(s=("y", "x")).transpose("s", "f")
    found = attempt(fit_of(mixture), stacked, tmp_path / "s.zarr")
    if isinstance(found, InputError):
        assert "reset_index" in str(found)
        assert list(tmp_path.iterdir()) == []
    else:
        assert_scores(found, x, mixture)
        np.testing.assert_array_equal(found["x"], stacked["x"])


# ---- chunks and workers ---------------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(1, 9), st.integers(1, 3), st.integers(1, 13), st.integers(1, 10), st.booleans())
def test_scores_do_not_depend_on_chunks(ny: int, nx: int, cf: int, cy: int, cx: int, probabilities: bool) -> None:
    """Any shape and any chunks, those that do not divide it and those of the features included."""
    x = table(ny * nx)
    array = zarr.create_array(
        MemoryStore(), shape=(ny, nx, 3), chunks=(min(cy, ny), min(cx, nx), cf), dtype="f8", fill_value=np.nan
    )
    array[...] = x.reshape(ny, nx, 3)
    samples = open_samples(array)
    mixture = make_mixture()
    leaf = ScoreSegment.of(mixture, samples, Recording("", "", 1, Writer("", "", "")), probabilities)
    grids = {"label": np.full((ny, nx), -2), "log_density": np.full((ny, nx), np.inf)}
    for i in range(len(samples.grid)):
        region = samples.grid.region(i)
        values, _ = leaf.score(samples.read(region))
        for name, grid in grids.items():
            grid[region] = values[name].reshape(grid[region].shape)
    present = ~np.isnan(x).any(axis=1)
    np.testing.assert_array_equal(grids["label"].ravel() == -1, ~present)
    if present.any():
        expected = oracle(mixture)
        np.testing.assert_array_equal(grids["label"].ravel()[present], expected.predict(x[present]))
        np.testing.assert_allclose(
            grids["log_density"].ravel()[present], expected.score_samples(x[present]), rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize(
    "chunks",
    [
        (300, 3),
        (7, 3),
        (100, 1),
        (299, 2),
        (1, 3),
    ],
)
@pytest.mark.parametrize("kind", ["zarr", "dask"])
def test_odd_chunks(chunks: tuple[int, int], kind: str, tmp_path: Path) -> None:
    """The output is cut along segments, and every one of its chunks is written by one task."""
    x, mixture = table(), make_mixture()
    if kind == "zarr":
        array = zarr.create_array(str(tmp_path / "in.zarr"), shape=x.shape, chunks=chunks, dtype="f8")
        array[...] = x
        source: Any = tmp_path / "in.zarr"
    else:
        source = da.from_array(x, chunks=chunks)
    found = dgmm.score(fit_of(mixture), source, tmp_path / "s.zarr", probabilities=True)
    assert_scores(found, x, mixture)
    written = zarr.open_group(str(tmp_path / "s.zarr"), mode="r")["label"]
    assert written.chunks == open_samples(source).grid.segment


def test_irregular_dask_chunks(tmp_path: Path) -> None:
    x, mixture = table(), make_mixture()
    source = da.from_array(x, chunks=((1, 150, 2, 147), (1, 2)))
    assert_scores(dgmm.score(fit_of(mixture), source, tmp_path / "s.zarr"), x, mixture)


def test_a_cluster_writes_the_same(client: Client, tmp_path: Path) -> None:
    """Same bits as threads, from an array in memory and from a lazy one."""
    x, mixture = table(), make_mixture()
    fit, lazy = fit_of(mixture), da.from_array(x, chunks=(23, 3))
    expected = dgmm.score(fit, lazy, tmp_path / "threads.zarr", scheduler="threads", probabilities=True).load()
    for i, source in enumerate((lazy, da.from_array(x, chunks=(23, 3)))):
        found = dgmm.score(fit, source, tmp_path / f"c{i}.zarr", scheduler=client, probabilities=True)
        xr.testing.assert_equal(found.load(), expected)
    assert_scores(dgmm.score(fit, x, tmp_path / "memory.zarr", scheduler=client), x, mixture)


# ---- refusals and crashes -------------------------------------------------------------------------------------------


def test_wrong_number_of_features(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        dgmm.score(fit_of(make_mixture(d=3), ("a", "b", "c")), table(d=4), tmp_path / "s.zarr")
    message = str(caught.value)
    assert "4 features" in message
    assert "fitted on 3 (a, b, c)" in message
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_not_replaced_unasked(tmp_path: Path) -> None:
    x, first, second = table(), make_mixture("full"), make_mixture("diag")
    out = tmp_path / "s.zarr"
    dgmm.score(fit_of(first), x, out, probabilities=True)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        dgmm.score(fit_of(second), x, out)
    assert_scores(opened(out), x, first)
    found = dgmm.score(fit_of(second), x, out, overwrite=True)
    assert "probabilities" not in found
    assert_scores(found, x, second)


def opened(path: Path) -> xr.Dataset:
    return xr.open_zarr(path, consolidated=False)


class Poison(RuntimeError):
    """What a source raises that cannot be read to its end."""


def poisoned(x: np.ndarray) -> da.Array:
    """A source whose sixth block of twenty rows cannot be read."""

    def block(part: np.ndarray, block_info: Any = None) -> np.ndarray:
        if block_info and block_info[0]["chunk-location"][0] == 5:
            raise Poison("unreadable")
        return part

    return da.from_array(x, chunks=(20, 3)).map_blocks(block, dtype=x.dtype, meta=np.empty((0, 0)))


def assert_unfinished(out: Path) -> None:
    """There is no output, and beside its place what the next run goes on from, or nothing."""
    assert place_at(out).state().status in (Status.UNFINISHED, Status.ABSENT)
    assert [p.name for p in out.parent.iterdir()] in ([f"{out.name}.partial"], [])


def test_a_crash_midway_leaves_no_output(tmp_path: Path) -> None:
    with pytest.raises(Poison):
        dgmm.score(fit_of(make_mixture()), poisoned(table()), tmp_path / "s.zarr")
    assert_unfinished(tmp_path / "s.zarr")


def test_a_crash_leaves_nothing_to_those_who_are_still_at_work(tmp_path: Path) -> None:
    """One thread fails while another is in the middle of a block: what that one writes late must not stay."""
    failed, late, readers = threading.Event(), threading.Event(), []

    def block(part: np.ndarray, block_info: Any = None) -> np.ndarray:
        if not block_info:
            return part
        readers.append(threading.get_ident())
        if readers[-1] != readers[0]:
            failed.set()
            raise Poison("unreadable")
        failed.wait(30)
        time.sleep(0.2)
        late.set()
        return part

    source = da.from_array(table(), chunks=(20, 3)).map_blocks(block, dtype=float, meta=np.empty((0, 0)))
    with (
        pytest.raises(Poison),
        place_at(tmp_path / "s.zarr").begin("scores", overwrite=False) as output,
        open_workers("threads", n_workers=2) as workers,
    ):
        score_samples(fit_of(make_mixture()), open_samples(source), output, workers)
    assert late.is_set(), "whoever was at work has been waited for"
    assert list(tmp_path.iterdir()) == []


def test_a_crash_in_a_worker_process_leaves_no_output(client: Client, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="unreadable"):
        dgmm.score(fit_of(make_mixture()), poisoned(table()), tmp_path / "s.zarr", scheduler=client)
    assert_unfinished(tmp_path / "s.zarr")


INTERRUPTED = """
import sys, threading, time
import dgmm
from dgmm import cli
from dgmm.data import sources as data
from dgmm.data import grid

grid.MIN_ROWS = 16
kind, out, model, second = sys.argv[1:]
began, read = threading.Event(), data.Samples.read
calls = []

def slow(samples, region):
    calls.append(region)
    if len(calls) > 12:
        if not began.is_set():
            began.set()
            print("in the middle", flush=True)
        time.sleep(0.3)
    return read(samples, region)

data.Samples.read = slow
if kind == "command":
    sys.exit(cli.main(["score", model, f"{model}.in", "--out", out, "--quiet"]))
try:
    dgmm.score(model, f"{model}.in", out)
except KeyboardInterrupt:
    print("interrupted", flush=True)
data.Samples.read = read
dgmm.score(second, f"{model}.in", out, overwrite=True)
print("scored", flush=True)
"""


def in_the_middle(kind: str, out: str, tmp_path: Path) -> subprocess.Popen[str]:
    """A process in the middle of scoring; whatever it leaves shows where its output belongs."""
    model, second = str(tmp_path / "model.zarr"), str(tmp_path / "second.zarr")
    save(fit_of(make_mixture()), model)
    save(fit_of(make_mixture("diag")), second)
    zarr.create_array(f"{model}.in", shape=(300, 3), chunks=(10, 3), dtype="f8")[...] = table()
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, kind, out, model, second],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "in the middle\n"
    return process


@pytest.mark.parametrize(("where", "number", "code"), [("path", signal.SIGTERM, 143), ("s3", signal.SIGINT, 130)])
def test_an_interrupted_command_leaves_no_output_and_goes_on(
    where: str, number: int, code: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    out = f"{request.getfixturevalue('s3')}/s.zarr" if where == "s3" else str(tmp_path / "out" / "s.zarr")
    with in_the_middle("command", out, tmp_path) as process:
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert re.search(r"nothing half-written is left; the same command again goes on after \d+ of 30 regions", errors)
    assert len(errors.splitlines()) == 1
    assert place_at(out).state().status is Status.UNFINISHED
    assert main(["score", str(tmp_path / "model.zarr"), str(tmp_path / "model.zarr.in"), "--out", out, "--quiet"]) == 0
    assert_scores(open_scores(out), table(), make_mixture())
    assert place_at(out).state() == State(Status.FINISHED, "scores")


def test_a_run_after_an_interrupted_one_in_the_same_process_is_its_own(tmp_path: Path) -> None:
    """Nothing that the first has begun gets into the second, and the second is complete."""
    out = str(tmp_path / "s.zarr")
    with in_the_middle("library", out, tmp_path) as process:
        process.send_signal(signal.SIGINT)
        told, errors = process.communicate(timeout=60)
    assert told.splitlines() == ["interrupted", "scored"], errors
    assert_scores(open_scores(out), table(), make_mixture("diag"))


def test_a_killed_command_leaves_what_says_so_and_does_not_stand_in_the_way(
    s3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"{s3}/s.zarr"
    with in_the_middle("command", out, tmp_path) as process:
        # while it lives nobody else gets in
        again = ["score", str(tmp_path / "model.zarr"), str(tmp_path / "model.zarr.in"), "--out", out, "--quiet"]
        assert main([*again, "--overwrite"]) == 2
        assert "is being written by run" in (told := capsys.readouterr().err)
        assert f"process {process.pid}" in told
        process.kill()
    assert place_at(out).state().status is Status.UNFINISHED
    assert main(["info", out]) == 2
    assert "has died and left it unfinished" in capsys.readouterr().err
    assert main(again) == 0
    assert_scores(open_scores(out), table(), make_mixture())
    assert place_at(out).state() == State(Status.FINISHED, "scores")


def test_a_crash_midway_leaves_what_was_there(tmp_path: Path) -> None:
    x, mixture = table(), make_mixture()
    dgmm.score(fit_of(mixture), x, tmp_path / "s.zarr")
    with pytest.raises(Poison):
        dgmm.score(fit_of(make_mixture("diag")), poisoned(x), tmp_path / "s.zarr", overwrite=True)
    assert {p.name for p in tmp_path.iterdir()} <= {"s.zarr", "s.zarr.partial"}
    assert_scores(opened(tmp_path / "s.zarr"), x, mixture)


def test_a_crash_at_the_very_end_leaves_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all scores are written and only the coordinates are not."""

    def fail(*_: Any) -> None:
        raise Poison

    monkeypatch.setattr("dgmm.scoring.bulk.write_coordinates", fail)
    with pytest.raises(Poison):
        dgmm.score(fit_of(make_mixture()), table(), tmp_path / "s.zarr")
    assert_unfinished(tmp_path / "s.zarr")


def test_the_input_is_not_replaced_by_the_scores(tmp_path: Path) -> None:
    """An output that is the input: with overwriting asked for, the data would be gone."""
    path = tmp_path / "in.zarr"
    zarr.create_array(str(path), shape=(300, 3), chunks=(50, 3), dtype="f8")[...] = table()
    with pytest.raises(InputError, match=r"in\.zarr"):
        dgmm.score(fit_of(make_mixture()), path, path, overwrite=True)
    np.testing.assert_array_equal(zarr.open_array(str(path), mode="r")[:], table())


# ---- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m.zarr", "m.json"])
def test_a_model_by_its_path(name: str, tmp_path: Path) -> None:
    mixture, x = make_mixture("tied"), table()
    save(fit_of(mixture), tmp_path / name)
    assert_scores(dgmm.score(tmp_path / name, x, tmp_path / "s.zarr"), x, mixture)


# ---- which feature is which -----------------------------------------------------------------------------------------

LEVELS = np.array([0.1, 10.0, 50.0])


def profiles(levels: Any = LEVELS, **attributes: str) -> xr.DataArray:
    """Samples along `s` with a level for each feature."""
    coords = {"depth": ("depth", levels, {"units": "m"})}
    return xr.DataArray(table(), dims=("s", "depth"), coords=coords, name="temperature", attrs=attributes)


def in_order(places: list[int]) -> Callable[[xr.DataArray], xr.DataArray]:
    return lambda x: x.isel(depth=places)


#: The same samples in other guises.
SAME: dict[str, Callable[[xr.DataArray], Any]] = {
    "as they were": lambda x: x,
    "upside down": in_order([2, 1, 0]),
    "shuffled": in_order([1, 2, 0]),
    "shuffled, features first": lambda x: x.isel(depth=[1, 2, 0]).transpose("depth", "s"),
    "upside down on Dask": lambda x: x[:, ::-1].chunk(s=41, depth=2),
    "upside down in single precision": lambda x: x[:, ::-1].assign_coords(depth=LEVELS[::-1].astype("float32")),
    "with the rounding of sums": lambda x: x[:, ::-1].assign_coords(depth=(LEVELS * 3 / 3)[::-1]),
    "along another dimension": lambda x: x[:, ::-1].rename(depth="z"),
    "a dataset with other variables": lambda x: xr.Dataset(
        {"a": x * 2, "temperature": x[:, ::-1], "z": ("s", x[:, 0].data)}
    ),
    "levels that are text": lambda x: x[:, ::-1].assign_coords(depth=["50.0", "10.0", "0.1"]),
}
#: What must not be taken for them.
OTHERS: dict[str, tuple[Callable[[xr.DataArray], Any], str]] = {
    "other levels": (lambda x: x.assign_coords(depth=[0.1, 10.0, 60.0]), "0.1, 10.0, 60.0"),
    "levels in other units": (lambda x: x.assign_coords(depth=LEVELS / 1000), "0.0001, 0.01, 0.05"),
    "levels that differ by a millionth": (lambda x: x.assign_coords(depth=LEVELS * (1 + 1e-6)), "10.00001"),
    "a level less": (lambda x: x[:, :2], "has 2 features (0.1, 10.0)"),
    "a level more": (lambda x: xr.concat([x, x[:, :1].assign_coords(depth=[70.0])], "depth"), "has 4 features"),
    "names in the place of levels": (lambda x: x.assign_coords(depth=["a", "b", "c"]), "a, b, c"),
    "no levels": (lambda x: x.drop_vars("depth"), "nothing tells which"),
    "an array": (lambda x: x.to_numpy(), "nothing tells which"),
    "another variable": (lambda x: x.to_dataset(name="salinity"), "no variable 'temperature'"),
    "variables": (
        lambda x: xr.Dataset({v: ("s", x[:, i].data) for i, v in enumerate(("temperature", "b", "c"))}),
        "has 1 features",
    ),
}


@pytest.fixture(scope="module")
def of_profiles() -> Fit:
    return dgmm.train(profiles(units="degC"), 3, n_init=1, reg_covar=0.01, sample_rows=500)


@pytest.mark.parametrize("change", SAME.values(), ids=list(SAME))
@pytest.mark.parametrize("how", ["as it is", "by its path", "by a model of before"])
def test_the_same_features_in_another_order_are_put_in_order(
    change: Callable[[xr.DataArray], Any], how: str, of_profiles: Fit, tmp_path: Path
) -> None:
    """The same labels and densities to the last bit."""
    expected = dgmm.score(of_profiles, profiles(), tmp_path / "e.zarr").load()
    source, model, where = change(profiles()), of_profiles, {}
    if how == "by its path":
        lazy = source if isinstance(source, xr.Dataset) else source.to_dataset()
        lazy.drop_encoding().to_zarr(tmp_path / "in.zarr", zarr_format=2, consolidated=False)
        source = tmp_path / "in.zarr"
    if how == "by a model of before":
        model = dataclasses.replace(of_profiles, layout=None)
        # it has forgotten these
        names = [*map(str, source.dims)]
        where = {"feature_dim": "z" if "z" in names else "depth"}
        where |= {"variables": ["temperature"]} if isinstance(source, xr.Dataset) else {}
    found = dgmm.score(model, source, tmp_path / "s.zarr", **where)
    for name in ("label", "probability", "log_density"):
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize(("change", "part"), OTHERS.values(), ids=list(OTHERS))
def test_other_features_are_refused(
    change: Callable[[xr.DataArray], Any], part: str, of_profiles: Fit, tmp_path: Path
) -> None:
    """With what there is and what the model wants, in one line, and nothing written."""
    with pytest.raises(InputError) as caught:
        dgmm.score(of_profiles, change(profiles()), tmp_path / "s.zarr")
    message = str(caught.value)
    assert part in message
    assert "0.1, 10.0, 50.0" in message or "temperature" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_the_first_level_that_is_lacking_is_named(tmp_path: Path) -> None:
    """Lists of nineteen levels are cut, and begin alike."""
    levels = np.arange(19.0)
    x = xr.DataArray(np.random.default_rng(0).normal(size=(200, 19)), dims=("s", "z"), coords={"z": levels})
    fit = dgmm.train(x, 1, "diag")
    levels[15] = 15.5
    with pytest.raises(
        InputError, match=r"19 \(0\.0, .*, 7\.0, \.\.\.\), of which the first that is not there is 15\.0: "
    ):
        dgmm.score(fit, x.assign_coords(z=levels), tmp_path / "s.zarr")


def test_variables_are_told_by_their_names(tmp_path: Path) -> None:
    columns = {name: ("s", c) for name, c in zip("abc", table().T, strict=True)}
    fit = dgmm.train(xr.Dataset(columns), 2, n_init=1, variables=["c", "a"])
    assert fit.features == ("c", "a")
    assert fit.layout == Layout(variables=("c", "a"), units=("", ""))
    expected = dgmm.score(fit, xr.Dataset(columns), tmp_path / "e.zarr").load()
    np.testing.assert_array_equal(expected["log_density"], fit.mixture.log_density(table()[:, [2, 0]]))
    for i, variables in enumerate((["a", "c"], ["a", "b", "c"])):
        found = dgmm.score(fit, xr.Dataset(columns), tmp_path / f"{i}.zarr", variables=variables)
        xr.testing.assert_equal(found.load(), expected)
    for wrong in (["a", "b"], ["c"]):
        with pytest.raises(InputError, match=r"the model was fitted on 2 \(c, a\): name those to use"):
            dgmm.score(fit, xr.Dataset(columns), tmp_path / "s.zarr", variables=wrong)
    renamed = xr.Dataset(columns).rename(a="x")
    with pytest.raises(
        InputError, match=r"no variable 'a' in Dataset, which has b, c, x; the model was fitted on c, a"
    ):
        dgmm.score(fit, renamed, tmp_path / "s.zarr")
    # the same names along a dimension are the same features
    stacked = xr.Dataset(columns)[["a", "c"]].to_dataarray("f").transpose("s", "f")
    xr.testing.assert_equal(dgmm.score(fit, stacked, tmp_path / "f.zarr").load(), expected)


def test_what_has_no_names_goes_by_its_place(tmp_path: Path) -> None:
    """A model of an array takes arrays; what has names was not what it was fitted to."""
    x = table()
    fit = dgmm.train(x, 2, n_init=1)
    expected = fit.mixture.log_density(x[~np.isnan(x).any(axis=1)])
    for i, source in enumerate((x, da.from_array(x, chunks=(50, 3)), xr.DataArray(x, dims=("time", "level")))):
        found = dgmm.score(fit, source, tmp_path / f"{i}.zarr")["log_density"].to_numpy()
        np.testing.assert_array_equal(found[~np.isnan(found)], expected)
    for named in (profiles(), xr.Dataset({name: ("s", c) for name, c in zip("abc", x.T, strict=True)})):
        with pytest.raises(InputError, match=r"fitted on 3 \(0, 1, 2\): nothing tells which of those of the model"):
            dgmm.score(fit, named, tmp_path / "s.zarr")


def test_other_units_are_refused(of_profiles: Fit, tmp_path: Path) -> None:
    """Other spellings are no other units, and what is unknown is not refused."""
    for i, attributes in enumerate(({"units": "degree_Celsius"}, {})):
        dgmm.score(of_profiles, profiles(**attributes), tmp_path / f"{i}.zarr")
    with pytest.raises(InputError, match=r"temperature of DataArray has the units 'K', .* fitted to 'degC': convert"):
        dgmm.score(of_profiles, profiles(units="K"), tmp_path / "c.zarr")
    levels = profiles().assign_coords(depth=("depth", LEVELS, {"units": "dbar"}))
    with pytest.raises(InputError, match=r"depth of DataArray has the units 'dbar', .* fitted to 'm'"):
        dgmm.score(of_profiles, levels, tmp_path / "c.zarr")
    columns = {name: ("s", c, {"units": unit}) for name, c, unit in zip("abc", table().T, ("m", "", "s"), strict=True)}
    fit = dgmm.train(xr.Dataset(columns), 1, search="starts")
    columns["c"] = ("s", columns["c"][1], {"units": "h"})
    with pytest.raises(InputError, match=r"c of Dataset has the units 'h', .* fitted to 's'"):
        dgmm.score(fit, xr.Dataset(columns), tmp_path / "c.zarr")
    assert not (tmp_path / "c.zarr").exists()


@pytest.mark.parametrize("name", ["m.zarr", "m.json"])
def test_a_model_knows_how_its_data_were_opened(name: str, tmp_path: Path) -> None:
    """Variables beside the features, the features neither last nor by themselves: nothing needs to be said again."""
    dataset, x = ocean()
    dataset = dataset.drop_vars("season")
    dataset["salinity"] = dataset["temperature"] * 2
    path = str(tmp_path / "in.zarr")
    dataset.to_zarr(path, zarr_format=3, consolidated=False)
    with pytest.raises(InputError):
        dgmm.train(path, 2)
    fit = dgmm.train(path, 2, n_init=1, reg_covar=0.1, variables=["temperature"], feature_dim="depth")
    assert fit.layout == Layout(
        ("temperature",), "depth", (0.0, 10.0, 50.0), "float64", units=("degC",), label_units="m"
    )
    save(fit, tmp_path / name)
    loaded = load(tmp_path / name)
    assert loaded.layout == fit.layout
    found = dgmm.score(tmp_path / name, path, tmp_path / "s.zarr")
    assert_scores(found, x, fit.mixture)
    # what is said explicitly wins
    twice = dgmm.score(loaded, path, tmp_path / "t.zarr", variables=["salinity"])
    assert_scores(twice, 2 * x, fit.mixture)


def test_the_summary_adds_up(tmp_path: Path) -> None:
    """Counts by label, missing rows and the total log-likelihood."""
    x, mixture = table(), make_mixture()
    with place_at(tmp_path / "s.zarr").begin("scores", overwrite=False) as output:
        total = score_samples(fit_of(mixture), open_samples(x), output, threads(2))
    present = ~np.isnan(x).any(axis=1)
    expected = oracle(mixture)
    np.testing.assert_array_equal(total.counts, np.bincount(expected.predict(x[present]), minlength=3))
    assert total.n_missing == (~present).sum()
    assert total.log_density == pytest.approx(expected.score_samples(x[present]).sum(), rel=1e-12)
    assert total.labels == ("component 0", "component 1", "component 2")


def test_what_a_source_says_of_classes_is_not_said_of_labels(tmp_path: Path) -> None:
    attributes = {"classes": "forest, water", "clusters": 9}
    source = xr.Dataset({"x": (("s", "f"), table())}, attrs=attributes)
    found = dgmm.score(fit_of(make_mixture()), source, tmp_path / "s.zarr").attrs
    assert not {*attributes} & {*found}
    assert Scored.in_attributes(found).labels == ("component 0", "component 1", "component 2")
