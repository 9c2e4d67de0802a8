"""From profiles of several variables to a model, and to what it says of others: each against plain NumPy."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import dgmm
from dgmm.blas import one_blas_thread
from dgmm.cli import main
from dgmm.data import open_samples
from dgmm.errors import InputError
from dgmm.prediction import PredictSegment, Wanted, leaf_of, source_layout
from dgmm.rows import Rows
from dgmm.store import Writer

LEVELS = [10.0, 100.0, 500.0]


def floats(n: int = 300) -> xr.Dataset:
    """Temperature and salinity over depth, and the height of the surface, of two kinds of water."""
    r = np.random.default_rng(1)
    warm = r.random(n)[:, None] < 0.4
    t = np.where(warm, [25.0, 20.0, 10.0], [8.0, 7.0, 5.0]) + r.normal(0, 1, (n, 3))
    s = np.where(warm, [36.0, 35.5, 35.0], [34.0, 34.5, 35.0]) + r.normal(0, 0.1, (n, 3))
    t[5, 2] = np.nan
    place = {"LATITUDE": ("n", r.uniform(-60, 60, n)), "LONGITUDE": ("n", r.uniform(0, 360, n))}
    return xr.Dataset(
        {
            "T": (("n", "depth"), t, {"units": "degC"}),
            "S": (("n", "depth"), s, {"units": "psu"}),
            "h": ("n", r.normal(0, 1, n), {"units": "m"}),
        },
        coords={"depth": ("depth", LEVELS, {"units": "m"}), **place},
    )


def rows(data: xr.Dataset) -> np.ndarray:
    return np.concatenate([data["T"].values, data["S"].values, data["h"].values[:, None]], axis=1)


@pytest.fixture(scope="module")
def fit() -> dgmm.Fit:
    return dgmm.train(floats(), 2, variables=["T", "S", "h"], feature_dim="depth", search="starts", n_init=2)


def test_a_fit_is_that_of_the_matrix(fit: dgmm.Fit) -> None:
    plain = dgmm.train(rows(floats()), 2, search="starts", n_init=2)
    assert (fit.log_likelihood, fit.n_missing) == (plain.log_likelihood, 1)
    np.testing.assert_array_equal(fit.mixture.means, plain.mixture.means)
    assert fit.features == ("T@10", "T@100", "T@500", "S@10", "S@100", "S@500", "h")


@pytest.mark.parametrize("name", ["m.zarr", "m.json"])
def test_a_stored_model_scores_other_data(name: str, fit: dgmm.Fit, tmp_path: Path) -> None:
    """Upside down, in a store of its own, by the command line; with the places of its samples."""
    dgmm.save(fit, tmp_path / name)
    assert dgmm.load(tmp_path / name).layout == fit.layout
    floats().isel(depth=[2, 1, 0]).to_zarr(tmp_path / "in.zarr", consolidated=False)
    model, data, out = (str(tmp_path / each) for each in (name, "in.zarr", "s.zarr"))
    assert main(["score", model, data, "--out", out, "--quiet"]) in (0, None)
    found, x = xr.open_zarr(out, consolidated=False), rows(floats())
    there = ~np.isnan(x).any(axis=1)
    expected = fit.mixture.log_density(x[there])
    np.testing.assert_allclose(found["log_density"].values[there], expected, rtol=1e-13)
    np.testing.assert_array_equal(found["label"].values == -1, ~there)
    np.testing.assert_array_equal(found["LATITUDE"], floats()["LATITUDE"])


def test_interpolated_scores_can_be_verified(fit: dgmm.Fit, tmp_path: Path) -> None:
    """They are those of data that xarray has interpolated, and say how they were made."""
    levels = [0.0, 50.0, 400.0, 1000.0]
    other = floats().interp(depth=levels, kwargs={"fill_value": "extrapolate"})
    other["depth"].attrs["units"] = "metre"
    other.to_zarr(tmp_path / "in.zarr", consolidated=False)
    model, data, out = (str(tmp_path / each) for each in ("m.zarr", "in.zarr", "s.zarr"))
    dgmm.save(fit, model)
    with pytest.raises(InputError, match=r"T@0, T@50, .* \(interpolate: true\)"):
        dgmm.score(model, data, out)
    found = dgmm.score(model, data, out, interpolate=True)
    x = rows(other.interp(depth=LEVELS))
    there = ~np.isnan(x).any(axis=1)
    np.testing.assert_allclose(found["log_density"].values[there], fit.mixture.log_density(x[there]), rtol=1e-9)
    assert dgmm.verify(out, recompute=1.0).is_sound
    given = dgmm.predict(model, data, tmp_path / "p.zarr", of=["h"], given=["S@500", "T@10"], interpolate=True)["h"]
    expected, _ = fit.predict(x[:, [5, 0]], [6], [5, 0])
    np.testing.assert_allclose(given.values, expected[:, 0], rtol=1e-9)


def test_predictions_are_told_by_variable_and_level(fit: dgmm.Fit, tmp_path: Path) -> None:
    """From a source that has the variables of what is given, whole or just these levels."""
    x = rows(floats())
    expected, variances = fit.predict(x[:, [1, 3]], [6, 5], [1, 3])
    sources = floats(), floats()[["T", "S"]].isel(depth=[2, 1, 0]), floats()[["T", "S"]].isel(depth=[1, 0])
    for i, source in enumerate(sources):
        how = {"of": ["h", "S@500"], "given": ["T@100", "S@10"], "variance": True}
        found = dgmm.predict(fit, source, tmp_path / f"{i}.zarr", **how)
        assert {name: v.dims for name, v in found.data_vars.items()} == {
            "S": ("n", "depth"), "S_variance": ("n", "depth"), "h": ("n",), "h_variance": ("n",),
        }  # fmt: skip
        np.testing.assert_allclose(found["h"], expected[:, 0], rtol=1e-9)
        np.testing.assert_allclose(found["S"].sel(depth=500.0), expected[:, 1], rtol=1e-12)
        np.testing.assert_allclose(found["S_variance"].sel(depth=500.0), variances[:, 1], rtol=1e-9)
        assert found["depth"].values.tolist() == [500.0]
        assert (found["S"].attrs["units"], found["h"].attrs["units"]) == ("psu", "m")
        assert found["S_variance"].attrs["units"] == "(psu)^2"
    found = dgmm.predict(fit, floats()[["T"]], tmp_path / "t.zarr", of=["h"], given=["T@10", "T@100", "T@500"])
    there = ~np.isnan(x).any(axis=1)
    np.testing.assert_allclose(found["h"].values[there], fit.predict(x[there, :3], [6], [0, 1, 2])[0][:, 0], rtol=1e-9)
    assert np.isnan(found["h"].values[~there]).all()


def test_each_variable_is_one_array_with_the_levels_that_any_is_predicted_at(fit: dgmm.Fit, tmp_path: Path) -> None:
    """So that it can be subtracted from the source, whose levels and standard names it has to the bit."""
    source = floats().isel(depth=[2, 0, 1])
    source["depth"] = ("depth", np.float32([500, 10, 100.00001]), {"units": "m", "positive": "down", "bounds": "gone"})
    source["S"].attrs["standard_name"] = "sea_water_practical_salinity"
    given = ["T@10", "T@100", "h"]
    of = ["T@500", "S@500", "S@10"]
    found = dgmm.predict(fit, source, tmp_path / "p.zarr", of=of, given=given, variance=True)
    x = rows(floats())
    expected, _ = fit.predict(x[:, [0, 1, 6]], [3, 5, 2], [0, 1, 6])
    np.testing.assert_allclose(found["S"], expected[:, :2], rtol=1e-12)
    np.testing.assert_allclose(found["T"].sel(depth=500), expected[:, 2], rtol=1e-12)
    assert np.isnan(found["T"].sel(depth=10)).all()
    difference = found["S"] - source["S"]
    assert difference.sizes == {"n": 300, "depth": 2}
    np.testing.assert_allclose(difference, expected[:, :2] - x[:, [3, 5]], atol=1e-12)
    assert found["depth"].dtype == np.float32
    assert found["depth"].attrs == {"units": "m", "positive": "down"}
    assert found["S"].attrs["standard_name"] == "sea_water_practical_salinity"
    assert "standard_name" not in found["S_variance"].attrs
    assert found.attrs["of"] == '["T@500", "S@500", "S@10"]'


def test_levels_in_another_order_take_what_is_said_of_memory(fit: dgmm.Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the copies that they are written from are a part of that which is seen."""
    wanted = Wanted.asked(fit, ["S@500", "T@500", "S@10", "T@10"], ["h"], True, "float64")
    assert wanted.copied == 8
    samples = open_samples(floats(), like=source_layout(fit, wanted))
    _, leaf = leaf_of(fit, samples, wanted, Writer("", "", ""))
    monkeypatch.setattr(PredictSegment, "_write", lambda *_: None)
    rows = Rows(np.random.default_rng(0).standard_normal((200_000, 1)))
    with one_blas_thread:
        leaf(0, Rows(rows.x[:100]))
        tracemalloc.start()
        leaf(0, rows)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert 0.5 * leaf.working_bytes(len(rows)) < peak <= leaf.working_bytes(len(rows))


def test_arrays_of_variables_have_the_same_bits_by_any_workers(
    fit: dgmm.Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dgmm.data.grid.MIN_ROWS", 16)
    floats().chunk(n=40).to_zarr(tmp_path / "in.zarr", consolidated=False)
    how = {"of": ["S@500", "T@500", "S@10"], "given": ["h"], "variance": True}
    for name, workers in (
        ("a", {"scheduler": "threads", "n_workers": 1}),
        ("b", {"scheduler": "processes", "n_workers": 2}),
    ):
        dgmm.predict(fit, tmp_path / "in.zarr", tmp_path / name, **how, **workers)
    one, two = (
        {str(p.relative_to(tmp_path / name)): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}
        for name in "ab"
    )
    assert one == two
    assert sum(key.startswith("S_variance/c/") for key in one) > 3


def test_what_is_missing_is_filled_in_where_it_lies(tmp_path: Path) -> None:
    """From the command line, in single precision; the rest is the source, variable by variable."""
    data = floats()
    fit = dgmm.train(data, 1, variables=["T", "S", "h"], feature_dim="depth", missing="marginalise")
    model, source, out = (str(tmp_path / each) for each in ("m.zarr", "in.zarr", "p.zarr"))
    dgmm.save(fit, model)
    data.chunk(n=70).to_zarr(source, consolidated=False)
    more = ["--set", "dtype=float32", "--quiet"]
    assert main(["predict", model, source, "--impute", "mean", "--out", out, *more]) == 0
    found = xr.open_zarr(out, consolidated=True)
    assert sorted(map(str, found.data_vars)) == ["S", "T", "h"]
    np.testing.assert_array_equal(found["depth"], LEVELS)
    for name in ("S", "h"):
        np.testing.assert_array_equal(found[name], data[name].astype(np.float32))
    expected, _ = fit.predict(np.delete(rows(data), 2, axis=1)[5:6], [2])
    np.testing.assert_allclose(found["T"][5, 2], expected[0, 0], rtol=1e-6)
    assert int((found["T"] - data["T"].astype(np.float32) == 0).sum()) == 3 * 300 - 1


def test_variables_of_other_names_stand_for_those_of_the_model(fit: dgmm.Fit, tmp_path: Path) -> None:
    """All of them in its order, or those that are given, in theirs."""
    other = floats().rename(T="t2", S="s2", h="h2")
    given = ["S@500", "T@10"]
    expected = dgmm.predict(fit, floats(), tmp_path / "e.zarr", of=["h"], given=given)["h"].values
    model, source = str(tmp_path / "m.zarr"), str(tmp_path / "in.zarr")
    dgmm.save(fit, model)
    other.to_zarr(source, consolidated=False)
    for i, names in enumerate(("t2,s2,h2", "s2,t2")):
        out = str(tmp_path / f"{i}.zarr")
        line = ["predict", model, source, "--of", "h", "--given", ",".join(given), "--variables", names, "--out", out]
        assert main([*line, "--quiet"]) == 0
        np.testing.assert_array_equal(xr.open_zarr(out)["h"], expected)
    alone = dgmm.predict(fit, other, tmp_path / "a.zarr", of=["S@10"], given=["T@10"], variables=["t2"])
    np.testing.assert_allclose(alone["S"], fit.predict(rows(floats())[:, :1], [3], [0])[0], rtol=1e-12)
    with pytest.raises(
        InputError, match=r"t2 are not called .* \(T, S, h\), or as many as are given \(S, T\), in this"
    ):
        dgmm.predict(fit, other, tmp_path / "q.zarr", of=["h"], given=given, variables=["t2"])
    between = other.interp(depth=[5.0, 50.0, 900.0], kwargs={"fill_value": "extrapolate"})
    how = {"of": ["h"], "given": given, "variables": ["s2", "t2"], "interpolate": True}
    found = dgmm.predict(fit, between, tmp_path / "b.zarr", **how)["h"]
    x = between.interp(depth=LEVELS)
    known = np.stack([x["s2"].values[:, 2], x["t2"].values[:, 0]], axis=1)
    np.testing.assert_allclose(found, fit.predict(known, [6], [5, 0])[0][:, 0], rtol=1e-9)


def test_samples_lie_as_the_data_did(fit: dgmm.Fit, tmp_path: Path) -> None:
    drawn = dgmm.sample(fit, 500, tmp_path / "d.zarr", seed=3, chunk_rows=200)
    assert (drawn["T"].dims, drawn["S"].dims, drawn["h"].dims) == (
        ("sample", "depth"),
        ("sample", "depth"),
        ("sample",),
    )
    assert (drawn["S"].attrs["units"], drawn["depth"].attrs["units"]) == ("psu", "m")
    samples = open_samples(tmp_path / "d.zarr", like=fit.layout).like(fit.features, fit.layout)
    source = np.random.SeedSequence(3, spawn_key=(0,))
    expected, _ = fit.mixture.sample(200, np.random.default_rng(source))
    np.testing.assert_array_equal(samples.read((slice(0, 200),)), expected)


@pytest.mark.parametrize("variables", [["T"], ["T", "S", "h"]])
def test_a_fit_that_begins_with_another_says_how_its_own_features_lie(variables: list[str], tmp_path: Path) -> None:
    """And so scores either order of levels alike."""
    how = {"search": "starts", "n_init": 1, "max_iter": 3}
    first = dgmm.train(floats(), 2, variables=variables, feature_dim="depth", **how)
    second = dgmm.train(floats().isel(depth=[1, 2, 0]), start=first, **how)
    assert (second.features, second.layout) == (first.features, first.layout)
    up, down = (
        dgmm.score(second, floats().isel(depth=order), tmp_path / f"{order[0]}.zarr")["log_density"].values
        for order in ([0, 1, 2], [2, 1, 0])
    )
    np.testing.assert_array_equal(up, down)
