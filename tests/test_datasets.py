"""The data sets that come with the package."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from dgmm.datasets import DATASETS, ocean_temperature, old_faithful


@pytest.fixture(scope="module")
def ocean() -> xr.Dataset:
    return ocean_temperature()


@pytest.fixture(scope="module")
def geyser() -> xr.Dataset:
    return old_faithful()


def test_ocean_grid(ocean: xr.Dataset) -> None:
    assert ocean["temperature"].dims == ("month", "depth", "lat", "lon")
    assert ocean["temperature"].shape == (12, 19, 90, 180)
    np.testing.assert_array_equal(ocean["month"], np.arange(1, 13))
    np.testing.assert_array_equal(
        ocean["depth"],
        [0, 10, 20, 30, 50, 75, 100, 125, 150, 200, 250, 300, 400, 500, 600, 700, 800, 900, 1000],
    )
    np.testing.assert_array_equal(ocean["lat"], np.arange(-89.5, 90, 2))
    np.testing.assert_array_equal(ocean["lon"], np.arange(-179.5, 180, 2))


def test_ocean_attributes(ocean: xr.Dataset) -> None:
    assert ocean["temperature"].attrs["standard_name"] == "sea_water_temperature"
    units = {name: variable.attrs["units"] for name, variable in ocean.variables.items()}
    assert units == {
        "temperature": "degC",
        "month": "1",
        "depth": "m",
        "lat": "degrees_north",
        "lon": "degrees_east",
    }
    assert ocean["depth"].attrs["positive"] == "down"
    assert "NOAA" in ocean.attrs["source"]
    assert "ferret-datasets 7.6.0-5" in ocean.attrs["provenance"]


def test_ocean_profiles(ocean: xr.Dataset) -> None:
    """Facts of the atlas itself: how much is sea, and the range at the surface."""
    temperature = ocean["temperature"]
    assert int(temperature.notnull().all("depth").sum()) == 108_972
    surface = temperature.sel(depth=0)
    assert float(surface.min()) == pytest.approx(-3.0, abs=1e-9)
    assert float(surface.max()) == pytest.approx(34.178, abs=1e-9)


def test_ocean_values_are_multiples_of_a_thousandth(ocean: xr.Dataset) -> None:
    """The atlas is packed into integers: decoding in float32 would show here."""
    temperature = ocean["temperature"].to_numpy()
    assert temperature.dtype == np.float64
    values = temperature[np.isfinite(temperature)] * 1000
    np.testing.assert_allclose(values, np.round(values), rtol=0, atol=1e-9)


def test_ocean_physics(ocean: xr.Dataset) -> None:
    """The grid is the right way up: warm tropics, cold poles, cold depths, northern summer in August."""
    temperature = ocean["temperature"]
    by_latitude = temperature.sel(depth=0).mean(["month", "lon"])
    assert float(by_latitude.sel(lat=0.5)) > 25
    assert float(by_latitude.sel(lat=80.5)) < 1
    assert float(temperature.sel(lat=0.5, lon=-139.5, depth=1000).mean()) < 6
    north = temperature.sel(depth=0, lat=40.5).mean("lon")
    assert float(north.sel(month=8)) > float(north.sel(month=2)) + 5


def test_old_faithful_rows(geyser: xr.Dataset) -> None:
    assert dict(geyser.sizes) == {"eruption": 272}
    assert list(geyser) == ["eruptions", "waiting"]
    first = geyser.isel(eruption=0)
    assert (float(first["eruptions"]), float(first["waiting"])) == (3.6, 79.0)


def test_old_faithful_moments(geyser: xr.Dataset) -> None:
    """Means as `summary(faithful)` of R has them."""
    assert float(geyser["eruptions"].mean()) == pytest.approx(3.487783, abs=5e-7)
    assert float(geyser["waiting"].mean()) == pytest.approx(70.897059, abs=5e-7)
    assert all(geyser[name].attrs["units"] == "min" for name in geyser)
    assert all(geyser[name].dtype == np.float64 for name in geyser)


@pytest.mark.parametrize("name", DATASETS)
def test_loaded_and_free_of_encoding(name: str, tmp_path: Path) -> None:
    dataset = DATASETS[name]()
    assert all(isinstance(variable.data, np.ndarray) for variable in dataset.variables.values())
    assert dataset.encoding == {}
    assert all(variable.encoding == {} for variable in dataset.variables.values())
    dataset.to_zarr(tmp_path / "copy.zarr", zarr_format=3, consolidated=False)
    with xr.open_zarr(tmp_path / "copy.zarr", chunks=None, consolidated=False) as copy:
        xr.testing.assert_identical(copy.load(), dataset)
        assert all(variable.encoding["dtype"] == variable.dtype for variable in copy.data_vars.values())
