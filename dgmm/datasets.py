"""Real data sets that come with the package."""

from collections.abc import Callable
from importlib.resources import as_file, files

import pandas as pd
import xarray as xr
from zarr.storage import ZipStore


def ocean_temperature() -> xr.Dataset:
    """Return the climatological monthly ocean temperature on a 2-degree grid.

    Returns
    -------
    xarray.Dataset
        Variable ``temperature`` in degrees Celsius, float64, with dimensions ``month`` (12), ``depth``
        (19 levels, 0 to 1000 m, positive down), ``lat`` (90) and ``lon`` (180). Land and levels below the
        sea floor are NaN; 108,972 of the 194,400 profiles along ``depth`` are complete. All in memory.

    Notes
    -----
    A subset of the NOAA ocean atlas as shipped in the Debian package ferret-datasets 7.6.0-5, file
    ``ocean_atlas_subset.nc``; a US government work. Temperatures are stored to 0.001 degrees.
    """
    with (
        as_file(files("dgmm") / "bundled" / "ocean_temperature.zarr.zip") as path,
        ZipStore(path, mode="r") as store,
    ):
        # chunks=None keeps Dask out of it: everything is read here, before the archive closes.
        dataset: xr.Dataset = xr.open_zarr(store, chunks=None, consolidated=False, zarr_format=3).load()
    # Without this a later to_zarr would pack the values as the archive does.
    return dataset.drop_encoding()


def old_faithful() -> xr.Dataset:
    """Return eruptions of the Old Faithful geyser: their length and the wait for the next one.

    Returns
    -------
    xarray.Dataset
        Variables ``eruptions`` (length of the eruption) and ``waiting`` (time to the next eruption), both
        float64 in minutes, on the dimension ``eruption`` (272), which has no coordinate.

    Notes
    -----
    The data set ``faithful`` of R [1]_.

    References
    ----------
    .. [1] A. Azzalini and A. W. Bowman (1990). A look at some data on the Old Faithful geyser. Applied
       Statistics 39, 357-365.
    """
    with (files("dgmm") / "bundled" / "old_faithful.csv").open() as file:
        table = pd.read_csv(file, dtype="float64")
    long_names = {"eruptions": "length of the eruption", "waiting": "time to the next eruption"}
    return xr.Dataset(
        {
            name: ("eruption", table[name].to_numpy(), {"long_name": long_name, "units": "min"})
            for name, long_name in long_names.items()
        },
        attrs={
            "title": "Eruptions of the Old Faithful geyser, Yellowstone National Park",
            "source": "Azzalini and Bowman (1990), Applied Statistics 39, 357-365; as in R's faithful",
        },
    )


DATASETS: dict[str, Callable[[], xr.Dataset]] = {
    "ocean_temperature": ocean_temperature,
    "old_faithful": old_faithful,
}
"""The data sets by name."""
