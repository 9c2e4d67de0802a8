"""Where samples lie on the map: on a grid of latitude and longitude, or each at a place of its own."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection

from dgmm.types import FloatArray

#: Names and units of the vertical and the horizontal axis of a map.
LATITUDE = ("lat", "latitude", "degrees_north", "degree_north")
LONGITUDE = ("lon", "longitude", "degrees_east", "degree_east")
#: Points of all markers together, in square points of print, and of the largest and the smallest.
AREA, LARGEST, SMALLEST = 60_000.0, 30.0, 0.5


def map_dims(scores: xr.Dataset) -> tuple[Hashable, ...] | None:
    """Dimensions of a map: those of the vertical and the horizontal axis, by name or CF units, or those of its points.

    None if it is no map. A grid has coordinates of one dimension each, whatever these dimensions are called, or axes
    called y and x and nothing better.
    """
    found = []
    label, points = scores["label"], point_coordinates(scores)
    for wanted, plain in ((LATITUDE, "y"), (LONGITUDE, "x")):
        named = [d for d in label.dims if axis_coordinate(scores, d, wanted) is not None]
        found += [*named, *(d for d in label.dims if str(d).lower() == plain and points is None)][:1]
    if len(found) == 2:
        return (found[0], found[1])
    return None if points is None else scores[points[0]].dims


def axis_coordinate(scores: xr.Dataset, dim: Hashable, wanted: tuple[str, ...]) -> Hashable | None:
    """The name of the latitude, or the longitude, along a dimension that has not both: its own or another of it."""
    if is_degrees(scores, dim, wanted):
        return dim
    along = [c for c in scores.coords if scores[c].dims == (dim,) and scores[c].dtype.kind in "fiu"]
    if any(is_degrees(scores, c, LATITUDE if wanted is LONGITUDE else LONGITUDE) for c in along):
        return None
    return next((c for c in along if is_degrees(scores, c, wanted)), None)


def point_coordinates(scores: xr.Dataset) -> tuple[Hashable, Hashable] | None:
    """Names of the latitude and the longitude of every sample, along the same dimensions; None if there are none."""
    found = []
    for wanted in (LATITUDE, LONGITUDE):
        names = [c for c in scores.coords if is_degrees(scores, c, wanted) and scores[c].dtype.kind in "fiu"]
        found += [c for c in names if scores[c].ndim and {*scores[c].dims} <= {*scores["label"].dims}][:1]
    if len(found) < 2 or scores[found[0]].dims != scores[found[1]].dims or found[0] in scores[found[0]].dims:
        return None
    return found[0], found[1]


def is_degrees(scores: xr.Dataset, name: Hashable, wanted: tuple[str, ...]) -> bool:
    """Whether a dimension or coordinate is a latitude, or a longitude, by its name or by what CF says of it."""
    attributes = scores[name].attrs if name in scores.coords else {}
    return str(name).lower() in wanted or attributes.get("units") in wanted or attributes.get("standard_name") in wanted


def draw_points(
    axes: Axes, values: xr.DataArray, scores: xr.Dataset, at: tuple[Hashable, Hashable], missing: str
) -> PathCollection:
    """A marker for every sample at its place, grey where its value is missing, longitudes from -180 to 180."""
    dims = scores[at[0]].dims
    y, x, v = (
        each.transpose(*dims).to_numpy().ravel().astype(float) for each in (scores[at[0]], scores[at[1]], values)
    )
    known = np.isfinite(y) & np.isfinite(x)
    y, x, v = y[known], wrapped(x[known]), v[known]
    size = min(max(AREA / max(len(v), 1), SMALLEST), LARGEST)
    how: dict[str, Any] = {"s": size, "marker": "s" if len(dims) > 1 else "o", "lw": 0, "rasterized": True}
    lacking = np.isnan(v)
    axes.scatter(x[lacking], y[lacking], color=missing, **how)
    return axes.scatter(x[~lacking], y[~lacking], c=v[~lacking], **how)


def wrapped(longitude: FloatArray) -> FloatArray:
    """Longitudes from -180 to 180."""
    return (longitude + 180.0) % 360 - 180
