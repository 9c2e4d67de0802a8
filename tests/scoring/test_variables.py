"""From profiles of several variables to a model, and to what it says of others: each against plain NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import dgmm
from dgmm.cli import main
from dgmm.data import open_samples
from dgmm.errors import InputError

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
    for i, source in enumerate((floats(), floats()[["T", "S"]].isel(depth=[2, 1, 0]))):
        how = {"of": ["h", "S@500"], "given": ["T@100", "S@10"], "variance": True}
        found = dgmm.predict(fit, source, tmp_path / f"{i}.zarr", **how)
        np.testing.assert_allclose(found["h"], expected[:, 0], rtol=1e-9)
        np.testing.assert_allclose(found["S@500"], expected[:, 1], rtol=1e-12)
        np.testing.assert_allclose(found["S@500_variance"], variances[:, 1], rtol=1e-9)
        assert (found["S@500"].attrs["units"], found["h"].attrs["units"]) == ("psu", "m")
    found = dgmm.predict(fit, floats()[["T"]], tmp_path / "t.zarr", of=["h"], given=["T@10", "T@100", "T@500"])
    there = ~np.isnan(x).any(axis=1)
    np.testing.assert_allclose(found["h"].values[there], fit.predict(x[there, :3], [6], [0, 1, 2])[0][:, 0], rtol=1e-9)
    assert np.isnan(found["h"].values[~there]).all()


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
