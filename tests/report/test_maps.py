"""Maps of samples that have a place each, and profiles of several variables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgba

import dgmm
from dgmm.data import open_samples
from dgmm.report import write_report
from dgmm.report.figures import MISSING, class_colours, label_colours, map_figure, profile_figure
from dgmm.report.maps import map_dims

LEVELS = np.array([10.0, 50.0, 200.0])


def argo(n: int = 120) -> xr.Dataset:
    """Floats as their files have them: every profile at pressures of its own, flags for every value, places beside."""
    r = np.random.default_rng(5)
    latitude, longitude = r.uniform(-60, 60, n), r.uniform(0, 360, n)
    warm = (np.abs(latitude) < 30)[:, None]
    pressure = np.sort(r.uniform(0, 300, (n, 12)), axis=1)
    pressure[:, 0], pressure[:, -1] = 4, 250
    pressure[3, 4:] = np.nan
    temperature = np.where(warm, 25, 8) - pressure / 100 + r.normal(0, 0.3, (n, 12))
    salinity = np.where(warm, 36, 34) + pressure / 1000 + r.normal(0, 0.05, (n, 12))
    flags = np.full((n, 12), "1")
    temperature[7, 4], flags[7, 4] = 99.9, "4"
    dims = ("N_PROF", "N_LEVELS")
    return xr.Dataset(
        {
            "PRES": (dims, pressure, {"units": "decibar"}),
            "TEMP": (dims, temperature, {"units": "degree_Celsius"}),
            "PSAL": (dims, salinity, {"units": "psu"}),
            "TEMP_QC": (dims, flags),
            "PSAL_QC": (dims, np.full((n, 12), "1")),
        },
        coords={
            "LATITUDE": ("N_PROF", latitude, {"standard_name": "latitude", "units": "degree_north"}),
            "LONGITUDE": ("N_PROF", longitude, {"standard_name": "longitude", "units": "degree_east"}),
        },
    )


def at_levels(profiles: xr.Dataset) -> xr.Dataset:
    """What is good, at the same pressures for all, by plain xarray."""

    def column(pressure: np.ndarray, values: np.ndarray) -> np.ndarray:
        there = ~np.isnan(pressure) & ~np.isnan(values)
        return np.interp(LEVELS, pressure[there], values[there], np.nan, np.nan)

    found = {}
    for name in ("TEMP", "PSAL"):
        good = profiles[name].where(profiles[f"{name}_QC"].isin(["1", "2"]))
        inner = [["N_LEVELS"], ["N_LEVELS"]]
        found[name] = xr.apply_ufunc(
            column, profiles["PRES"], good, input_core_dims=inner, output_core_dims=[["PRES"]], vectorize=True
        ).assign_attrs(profiles[name].attrs)
    return xr.Dataset(found).assign_coords(PRES=("PRES", LEVELS, {"units": "decibar", "positive": "down"}))


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dgmm.Fit, xr.Dataset]:
    """The store, a model of it, and its scores."""
    folder = tmp_path_factory.mktemp("argo")
    store = str(folder / "in.zarr")
    at_levels(argo()).to_zarr(store, consolidated=False)
    fit = dgmm.train(store, 2, variables=["TEMP", "PSAL"], feature_dim="PRES", search="starts", n_init=2)
    return store, fit, dgmm.score(fit, store, folder / "s.zarr").load()


def test_floats_are_where_they_are(floats: tuple[str, dgmm.Fit, xr.Dataset]) -> None:
    """Warm and cold water told apart, each profile a point; the one that ends too early is missing."""
    _, fit, scores = floats
    assert fit.features == ("TEMP@10", "TEMP@50", "TEMP@200", "PSAL@10", "PSAL@50", "PSAL@200")
    label, raw = scores["label"].values, argo()
    assert np.flatnonzero(label == -1).tolist() == [3]
    warm, there = np.abs(raw["LATITUDE"].values) < 30, label >= 0
    assert len({*zip(label[there].tolist(), warm[there].tolist(), strict=True)}) == 2
    assert map_dims(scores) == ("N_PROF",)
    missing, points = map_figure(scores, fit.mixture, small=False).axes[0].collections
    longitude = raw["LONGITUDE"].values
    longitude = np.where(longitude >= 180, longitude - 360, longitude)
    places = np.stack([longitude, raw["LATITUDE"].values], axis=1)
    np.testing.assert_allclose(points.get_offsets(), places[there])
    np.testing.assert_array_equal(points.get_array(), label[there])
    np.testing.assert_allclose(missing.get_offsets(), places[~there])
    np.testing.assert_allclose(missing.get_facecolor(), [to_rgba(MISSING)])
    points.update_scalarmappable()
    np.testing.assert_allclose(points.get_facecolor(), label_colours(fit.mixture)[label[there]])


def test_each_variable_has_its_profiles(
    floats: tuple[str, dgmm.Fit, xr.Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dgmm.report.page.DPI", 30)
    store, fit, scores = floats
    axes = open_samples(store, like=fit.layout).axes
    figure = profile_figure(fit.mixture, axes)
    assert [a.get_xlabel() for a in figure.axes] == [
        "TEMP (degree_Celsius)", "sd of TEMP (degree_Celsius)", "PSAL (psu)", "sd of PSAL (psu)",
    ]  # fmt: skip
    sd = np.sqrt(fit.mixture.family.variances(fit.mixture.components))
    for i, expected in enumerate((fit.mixture.means[:, :3], sd[:, :3], fit.mixture.means[:, 3:], sd[:, 3:])):
        lines = figure.axes[i].lines
        np.testing.assert_array_equal([line.get_xdata() for line in lines], expected)
        np.testing.assert_array_equal([line.get_ydata() for line in lines], [LEVELS] * 2)
        np.testing.assert_array_equal([line.get_color() for line in lines], class_colours(fit.mixture))
        assert figure.axes[i].get_ylim() == (200, 10)
    # those of which there are no profiles have their means shown
    write_report(tmp_path / "r.html", title="Floats", fit=fit, table=None, scores=scores, features=axes[:1])
    page = (tmp_path / "r.html").read_text()
    for words in ("Maps of the classes", "Mean and standard deviation of each class", "Heat map"):
        assert words in page


def test_a_curvilinear_grid_is_drawn_at_its_places() -> None:
    """And not at its indices, whatever its dimensions are called."""
    x, y = np.meshgrid([0.0, 90.0, 200.0], [10.0, 20.0])
    label = xr.DataArray([[0, 1, -1], [1, 0, 1]], dims=("y", "x"))
    coords = {"nav_lat": (("y", "x"), y + x / 100, {"units": "degrees_north"})}
    coords["nav_lon"] = (("y", "x"), x + y / 10, {"units": "degrees_east"})
    scores = xr.Dataset({"label": label, "probability": label.where(label >= 0) * 0 + 1}, coords=coords)
    assert map_dims(scores) == ("y", "x")
    mixture = dgmm.Mixture.gaussian("spherical", [0.5, 0.5], [[0.0], [3.0]], [1.0, 1.0])
    large, small = map_figure(scores, mixture).axes[:2]
    for axes in (large, small):
        np.testing.assert_allclose(
            axes.collections[1].get_offsets(),
            [[1, 10], [91, 10.9], [2, 20], [92, 20.9], [-158, 22]],
        )
    assert large.collections[1].get_array().tolist() == [0, 1, 1, 0, 1]
    # a grid with coordinates of one dimension each is one of cells
    plain = scores.drop_vars(["nav_lat", "nav_lon"])
    assert len(map_figure(plain, mixture).axes[0].collections) == 1


@pytest.mark.parametrize("dims", [("y", "x"), ("row", "column")])
def test_a_grid_is_drawn_at_its_coordinates_whatever_its_dimensions_are_called(dims: tuple[str, str]) -> None:
    """Coordinates of one dimension each beside them, unevenly spaced, the longitudes from 0 to 360."""
    label = xr.DataArray([[0, 1, -1], [1, 0, 1]], dims=dims)
    coords = {
        "nav_lat": (dims[0], [10.0, 30.0], {"units": "degrees_north"}),
        "nav_lon": (dims[1], [0.0, 90.0, 200.0], {"units": "degrees_east"}),
        dims[1]: (dims[1], [7, 8, 9]),
    }
    scores = xr.Dataset({"label": label, "probability": label.where(label >= 0) * 0 + 1}, coords=coords)
    assert map_dims(scores) == dims
    mixture = dgmm.Mixture.gaussian("spherical", [0.5, 0.5], [[0.0], [3.0]], [1.0, 1.0])
    axes = map_figure(scores, mixture).axes[0]
    (mesh,) = axes.collections
    corners = mesh.get_coordinates()
    np.testing.assert_allclose(corners[0, :, 0], [-240, -80, 45, 135])
    np.testing.assert_allclose(corners[:, 0, 1], [0, 20, 40])
    np.testing.assert_array_equal(np.ma.filled(mesh.get_array(), -1), [[-1, 0, 1], [1, 1, 0]])
    assert axes.xaxis.get_major_formatter()(90, 0) == "90°E"
