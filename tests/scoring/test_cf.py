"""Stores that follow the CF conventions: what is a feature, how cells count, and what scores say of their grid."""

from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import dgmm
from dgmm.data import Samples, copying_bytes, open_samples
from dgmm.engine import open_workers
from dgmm.errors import InputError, InsufficientMemoryError
from dgmm.scoring import check_coordinates, write_coordinates

NT, NY, NX = 3, 6, 8


def climate() -> xr.Dataset:
    """As of a climate model: a rotated grid with limits and areas of cells, flags of quality, GeoZarr's attributes."""
    generator = np.random.default_rng(0)
    days = np.datetime64("2000-01-01", "ns") + np.arange(NT + 1) * np.timedelta64(30, "D")
    of_grid = {"grid_mapping": "rotated_pole", "cell_measures": "area: areacello", "proj:code": "EPSG:4326"}
    values = generator.normal(size=(2, NT, NY, NX))
    values[:, :, 0, :2] = np.nan
    return xr.Dataset(
        {
            "tos": (("time", "y", "x"), values[0], of_grid | {"units": "degC", "ancillary_variables": "tos_qc"}),
            "sos": (("time", "y", "x"), values[1], of_grid | {"units": "1e-3"}),
            "tos_qc": (("time", "y", "x"), np.zeros((NT, NY, NX), "int8")),
            "time_bnds": (("time", "bnds"), np.stack([days[:-1], days[1:]], axis=1)),
            "areacello": (("y", "x"), generator.random((NY, NX)) + 0.5, {"units": "m2"}),
            "lat_bnds": (("y", "x", "vertices"), generator.random((NY, NX, 4))),
            "rotated_pole": ((), 0, {"grid_mapping_name": "rotated_latitude_longitude"}),
        },
        coords={
            "time": ("time", days[:-1] + np.timedelta64(15, "D"), {"bounds": "time_bnds", "axis": "T"}),
            "y": ("y", np.linspace(-20, 20, NY), {"standard_name": "grid_latitude", "units": "degrees"}),
            "x": ("x", np.arange(8.0), {"standard_name": "grid_longitude", "units": "degrees"}),
            "lat": (("y", "x"), generator.random((NY, NX)), {"units": "degrees_north", "bounds": "lat_bnds"}),
            "lon": (("y", "x"), generator.random((NY, NX)), {"units": "degrees_east", "bounds": "gone"}),
        },
        attrs={"Conventions": "CF-1.7 CMIP-6.2", "spatial:bbox": [0, 1, 2, 3], "zarr_conventions": [{"name": "proj:"}]},
    )


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("cf") / "climate.zarr")
    climate().to_zarr(path, zarr_format=3, consolidated=False, write_empty_chunks=True)
    return path


def decoded(path: str) -> xr.Dataset:
    return xr.open_zarr(path, consolidated=False, chunks={}, decode_coords="all")


def decoded_by_others(path: str) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* not in variables: .'gone'.")
        return decoded(path)


WAYS: dict[str, Callable[[str], Any]] = {
    "path": str,
    "dataset": lambda _: climate(),
    "decoded, on Dask": decoded_by_others,
}


@pytest.fixture(scope="module")
def fit(stored: str) -> dgmm.Fit:
    fits = [dgmm.train(stored, n_components=1, weights=weights) for weights in ("area", "areacello", None)]
    assert fits[0].log_likelihood == fits[1].log_likelihood != fits[2].log_likelihood
    return fits[0]


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_what_belongs_to_others_is_no_feature(
    way: Callable[[str], Any], stored: str, fit: dgmm.Fit, tmp_path: Path
) -> None:
    source = way(stored)
    samples = open_samples(source, weights="area")
    assert samples.features == fit.features == ("sos", "tos")
    region = tuple(slice(0, n) for n in samples.grid.shape)
    areas = np.tile(climate()["areacello"].values.ravel(), NT)
    np.testing.assert_array_equal(samples.read_rows(region).weights, areas)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dgmm.score(fit, source, tmp_path / "s.zarr")
        found = decoded(str(tmp_path / "s.zarr"))
    assert {*found.data_vars} == {"label", "probability", "log_density"}
    places = ["time", "y", "x", "lat", "lon", "time_bnds", "lat_bnds", "areacello", "rotated_pole"]
    assert {*found.coords} == {*places}
    for name in places:
        np.testing.assert_array_equal(found[name].values, climate()[name].values)
    for name in ("label", "probability", "log_density"):
        how = found[name].encoding
        assert (how["grid_mapping"], how["cell_measures"]) == ("rotated_pole", "area: areacello")
        assert how["coordinates"] == "lat lon"
        assert found[name].attrs["proj:code"] == "EPSG:4326"
    assert found["lat"].encoding["bounds"] == "lat_bnds"
    # of what is not there no word is said
    assert "bounds" not in {**found["lon"].attrs, **found["lon"].encoding}
    assert found["time"].encoding["units"] == found["time_bnds"].encoding["units"]
    assert found.attrs["Conventions"] == "CF-1.7 CMIP-6.2"
    assert (found.attrs["spatial:bbox"], found.attrs["zarr_conventions"]) == ([0, 1, 2, 3], [{"name": "proj:"}])
    assert len(found["label"].attrs["flag_values"]) == len(found["label"].attrs["flag_meanings"].split()) == 2


def test_what_was_handed_in_stays_as_it_is(stored: str) -> None:
    dataset = decoded_by_others(stored)
    before = {name: (dict(v.attrs), dict(v.encoding), v.chunks) for name, v in dataset.variables.items()}
    open_samples(dataset, weights="area")
    assert before == {name: (dict(v.attrs), dict(v.encoding), v.chunks) for name, v in dataset.variables.items()}


def test_what_belongs_to_others_is_read_where_it_is_named(stored: str) -> None:
    assert open_samples(stored, ["areacello"], "x").n_features == NX
    # nor is it a feature of an estimator's
    model = dgmm.GaussianMixture(n_components=2).fit(climate())
    assert list(model.feature_names_in_) == ["sos", "tos"]
    alone = climate()[["areacello"]].drop_vars(["lat", "lon", "y", "x"]).assign_attrs()
    alone["areacello"].attrs["ancillary_variables"] = "areacello"
    with pytest.raises(InputError, match=r"each variable of Dataset belongs to another \(areacello\): name those"):
        open_samples(alone)


def test_conventions_are_said_of_outputs_of_any_source(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(50, 2))
    fit = dgmm.train(x, n_components=1)
    assert dgmm.score(fit, x, tmp_path / "s.zarr").attrs["Conventions"] == "CF-1.11"
    source = xr.Dataset({"x": (("s", "f"), x)}, attrs={"Conventions": "ACDD-1.3"})
    assert dgmm.score(fit, source, tmp_path / "t.zarr").attrs["Conventions"] == "CF-1.11, ACDD-1.3"


# ---- areas ----------------------------------------------------------------------------------------------------------


def gridded(cell_measures: str = "", **attributes: Any) -> xr.Dataset:
    """On a regular grid that holds no areas."""
    values = np.random.default_rng(1).normal(size=(2, 7, 5))
    latitude = xr.Variable("lat", np.linspace(-90, 90, 7), attributes)
    said = {"cell_measures": cell_measures}
    dims = ("lat", "lon")
    return xr.Dataset({"a": (dims, values[0], said), "b": (dims, values[1], said)}, {"lat": latitude})


@pytest.mark.parametrize(
    "attributes",
    [{}, {"units": "degrees_north"}, {"standard_name": "latitude"}, {"axis": "Y", "units": "degrees"}],
    ids=["name", "units", "standard_name", "axis"],
)
def test_cells_count_by_the_areas_of_their_bands(attributes: dict[str, str]) -> None:
    """Between and up to the poles: proportional to the cosine, but at the poles."""
    dataset = gridded(**attributes)
    if attributes:
        dataset = dataset.rename(lat="north")
    edges = np.sin(np.deg2rad([-90, -75, -45, -15, 15, 45, 75, 90]))
    given = xr.DataArray(np.diff(edges), dims=dataset["a"].dims[:1])
    np.testing.assert_allclose(given[1:-1] / given[3], np.cos(np.deg2rad([-60, -30, 0, 30, 60])), rtol=1e-14)
    rows = open_samples(dataset, weights="area").read_rows((slice(0, 7), slice(0, 5)))
    assert rows.weights is not None
    np.testing.assert_allclose(rows.weights, np.repeat(given, 5), rtol=1e-13)
    assert rows.weights[::5].sum() == pytest.approx(2, rel=1e-14)
    if not attributes:
        fits = [dgmm.train(dataset, n_components=1, weights=weights) for weights in ("area", given)]
        assert fits[0].log_likelihood == pytest.approx(fits[1].log_likelihood, rel=1e-13)


def weights_at(latitude: Any, **limits: Any) -> np.ndarray:
    """Weights of samples at these latitudes."""
    n = len(latitude)
    attributes = {"bounds": "lat_bnds"} if limits else {}
    coords = {"lat": ("lat", np.asarray(latitude), attributes), **limits}
    dataset = xr.Dataset({name: (("lat", "lon"), np.ones((n, 2))) for name in "ab"}, coords)
    weights = open_samples(dataset, weights="area").read_rows((slice(0, n), slice(0, 1))).weights
    assert weights is not None
    return weights


def test_latitudes_may_be_unevenly_spaced() -> None:
    """Stretched towards the equator, either way up; by limits of cells exactly; and those of Gauss, of known areas."""
    edges = np.cumsum([0.0, 1, 1.4, 1.9, 2.6, 3.6, 5])
    middle = np.array([0.5, 1.7, 3.35, 5.6, 8.7, 13.0])
    halfway = np.concatenate([[-0.1], (middle[1:] + middle[:-1]) / 2, [middle[-1] + 2.15]])
    np.testing.assert_allclose(weights_at(middle), np.diff(np.sin(np.deg2rad(halfway))), rtol=1e-12)
    np.testing.assert_allclose(weights_at(middle[::-1]), np.diff(np.sin(np.deg2rad(halfway)))[::-1], rtol=1e-12)
    limits = np.stack([edges[:-1], edges[1:]], axis=1)
    exact = weights_at(middle, lat_bnds=(("lat", "bnds"), limits))
    np.testing.assert_allclose(exact, np.diff(np.sin(np.deg2rad(edges))), rtol=1e-12)
    sines, areas = np.polynomial.legendre.leggauss(32)
    np.testing.assert_allclose(weights_at(np.rad2deg(np.arcsin(sines))), areas, rtol=2e-2)


def test_latitudes_that_are_left_out_belong_to_no_band() -> None:
    """One of an even grid, or all of the tropics."""
    even = np.arange(-59.5, 60)
    for left_out in (np.arange(120) == 40, np.abs(even) < 20):
        there = even[~left_out]
        cosines = np.cos(np.deg2rad(there))
        np.testing.assert_allclose(weights_at(there) / cosines, weights_at(even)[0] / cosines[0], rtol=1e-11)
    assert weights_at([45.0]).tolist() == [1.0]
    order = np.random.default_rng(0).permutation(120)
    np.testing.assert_allclose(weights_at(even[order]), weights_at(even)[order], rtol=1e-14)


NO_AREAS: dict[str, tuple[xr.Dataset, str]] = {
    "no latitude": (gridded().rename(lat="row"), "it has no latitude along a dimension of its own"),
    "in other units": (gridded(units="m"), "it has no latitude"),
    "another name by the standard": (gridded(standard_name="projection_y_coordinate"), "it has no latitude"),
    "beyond the poles": (gridded().assign_coords(lat=np.linspace(0, 180, 7)), "goes from 0 to 180"),
    "one twice": (gridded().assign_coords(lat=[0.0, 1, 2, 2, 3, 4, 5]), "lat of Dataset has a latitude twice"),
    "places one by one": (gridded().assign_coords(longitude=("lat", np.arange(7.0))), "it has no latitude"),
    "areas elsewhere": (
        gridded(units="m", cell_measures="area: areacella"),
        "its cell_measures name areacella, which is not there, and it has no latitude",
    ),
}


@pytest.mark.parametrize(("dataset", "why"), NO_AREAS.values(), ids=list(NO_AREAS))
def test_areas_that_are_not_known_are_refused(dataset: xr.Dataset, why: str) -> None:
    with pytest.raises(InputError, match=why) as found:
        open_samples(dataset, weights="area")
    assert "name the variable that holds" in str(found.value)
    assert "\n" not in str(found.value)


def test_a_variable_called_area_is_itself() -> None:
    dataset = gridded().assign_coords(area=("lat", np.arange(7.0)))
    rows = open_samples(dataset, weights="area").read_rows((slice(0, 7), slice(0, 5)))
    np.testing.assert_array_equal(rows.weights, np.repeat(np.arange(7.0), 5))


# ---- long coordinates -----------------------------------------------------------------------------------------------


N = 1_000_000


@pytest.fixture(scope="module")
def track(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two features along a long track, with the place and the time of each sample."""
    path = str(tmp_path_factory.mktemp("cf") / "track.zarr")
    values = np.arange(N, dtype="float32")
    time = np.datetime64("2020-01-01", "ns") + np.arange(N).astype("timedelta64[s]")
    lat = ("obs", np.linspace(-90, 90, N), {"units": "degrees_north"})
    dataset = xr.Dataset({"a": ("obs", values), "b": ("obs", values)}, {"lat": lat, "time": ("obs", time)})
    how = {name: {"chunks": (50_000,)} for name in dataset.variables}
    dataset.to_zarr(path, zarr_format=3, consolidated=False, encoding=how, write_empty_chunks=True)
    return path


def test_long_coordinates_are_copied_block_by_block(
    track: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dgmm.data.cf.LOADED", 2**20)
    samples = open_samples(track)
    assert not any(v._in_memory for v in samples.coords.variables.values())
    assert copying_bytes(samples.coords) == 8 * 8 * 50_000
    out = tmp_path / "c.zarr"
    xr.Dataset(attrs={"format": "kept"}).to_zarr(out, zarr_format=3, consolidated=False)
    tracemalloc.start()
    write_coordinates(str(out), samples)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # all at once they are 16 MB
    assert peak <= copying_bytes(samples.coords)
    found, expected = (xr.open_zarr(p, consolidated=False) for p in (out, track))
    xr.testing.assert_equal(found[["lat", "time"]].load(), expected[["lat", "time"]].load())
    assert found.attrs == {"format": "kept"}
    assert found["lat"].attrs == {"units": "degrees_north"}


def test_coordinates_that_do_not_fit_are_refused_before_anything_is_scored(
    track: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dgmm.data.cf.LOADED", 2**20)
    samples = open_samples(track)
    needed = copying_bytes(samples.coords)
    with open_workers("threads", n_workers=1, memory_limit=needed) as workers:
        check_coordinates(samples, workers)
    with (
        open_workers("threads", n_workers=1, memory_limit=needed - 1) as workers,
        pytest.raises(InsufficientMemoryError, match=r"to copy the coordinates of .* a chunk at a time"),
    ):
        check_coordinates(samples, workers)


def test_what_a_store_says_of_its_coordinates_is_bounded(tmp_path: Path) -> None:
    """Two GiB of places, of which no chunk was written, are opened unread; an index, or in one chunk, they are not."""
    n = 2**28

    def opened(name: str, chunk: int) -> Samples:
        path = str(tmp_path / f"{name}-{chunk}")
        group = zarr.create_group(path, zarr_format=3, attributes={"coordinates": "place"})
        group.create_array("a", shape=(n, 2), chunks=(2**24, 2), dtype="f4", dimension_names=("obs", "f"))
        group.create_array(name, shape=(n,), chunks=(chunk,), dtype="f8", dimension_names=("obs",))
        return open_samples(path)

    samples = opened("place", 2**20)
    assert not samples.coords["place"].variable._in_memory
    assert copying_bytes(samples.coords) == 8 * 8 * 2**20
    for name, chunk in (("obs", 2**20), ("place", 2**28)):
        with pytest.raises(InputError, match=f"the coordinate {name} in .* has 2147483648 bytes, and more than"):
            opened(name, chunk)


def test_short_coordinates_are_read_at_once(track: str) -> None:
    samples = open_samples(track)  # 8,000,000 bytes each
    assert all(v._in_memory for v in samples.coords.variables.values())
    assert copying_bytes(samples.coords) == 0


def test_a_gap_in_time_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgmm.data.cf.LOADED", 0)
    time = pd.date_range("2020-01-01", periods=50, freq="h").to_numpy().copy()
    time[3] = np.datetime64("NaT", "ns")
    x = np.random.default_rng(0).normal(size=(50, 2))
    source = xr.Dataset({"x": (("s", "f"), x)}, {"when": ("s", time)}).chunk(s=20)
    found = dgmm.score(dgmm.train(x, n_components=1), source, tmp_path / "s.zarr")
    np.testing.assert_array_equal(found["when"].values, time)
