"""What attributes say by the CF conventions: which variables belong to others, where cells lie, how large they are."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import xarray as xr

from dgmm.data.grid import Grid
from dgmm.errors import InputError
from dgmm.types import FloatArray

logger = logging.getLogger("dgmm")

#: Attributes that name the limits of the cells along a coordinate, and those whose values name variables beside words.
LIMITS, WORDED = ("bounds", "climatology"), ("cell_measures", "formula_terms")
#: Attributes that name variables which say where others lie: coordinates, whatever a store calls them.
PLACING = (*LIMITS, *WORDED, "grid_mapping", "geometry", "node_coordinates", "node_count", "part_node_count",
           "interior_ring")  # fmt: skip
#: And such as say how good others are.
BESIDE = (*PLACING, "ancillary_variables")
#: Attributes of a variable that hold for any other on its grid; those of GeoZarr have a prefix.
OF_GRID, PREFIXES = ("grid_mapping", "cell_measures", "zarr_conventions"), ("proj:", "spatial:")
#: Units of latitudes, and what these are called where attributes say nothing.
NORTH = ("degrees_north", "degree_north", "degrees_N", "degree_N", "degreesN", "degreeN")
EAST = ("degrees_east", "degree_east", "degrees_E", "degree_E", "degreesE", "degreeE")
LATITUDES, LONGITUDES = ("latitude", "grid_latitude"), ("longitude", "grid_longitude")
#: Degrees beyond a pole by rounding.
BEYOND = 1e-3
#: Latitudes so many times as far apart as those beside them have others left out between them.
GAP = 1.5
#: Bytes of a coordinate up to which it is read when it is opened; a longer one is read in blocks when it is written.
LOADED = 2**24
#: How often a block of a coordinate is there while it is copied, decoded, encoded and compressed; of times 6 were seen.
COPIES = 8


def of(variable: Any) -> dict[str, Any]:
    """Attributes of a variable, also those that xarray has put aside for when it is written."""
    kept = {name: variable.encoding[name] for name in BESIDE if name in getattr(variable, "encoding", {})}
    return kept | dict(variable.attrs)


def named(attributes: Mapping[str, Any], wanted: Iterable[str] = BESIDE) -> set[str]:
    """Names of the variables that attributes speak of."""
    found: set[str] = set()
    for name in wanted:
        text = attributes.get(name)
        words = text.split() if isinstance(text, str) else []
        if name == "grid_mapping" and any(word.endswith(":") for word in words):
            # "crs: x y": the words that follow are coordinates as they are
            words = [word.removesuffix(":") for word in words if word.endswith(":")]
        found.update(word for word in words if name not in WORDED or not word.endswith(":"))
    return found


def belonging(dataset: xr.Dataset, wanted: Iterable[str] = BESIDE) -> set[str]:
    """Variables of a dataset that belong to others: limits of cells, their areas, a projection, flags of quality."""
    found = set().union(*(named(of(variable), wanted) for variable in dataset.variables.values()))
    return found & {*map(str, dataset.data_vars)}


def apart(dataset: xr.Dataset) -> xr.Dataset:
    """A dataset of the variables that do not belong to others: those that place them are coordinates, others gone."""
    placing = belonging(dataset, PLACING)
    return dataset.set_coords(sorted(placing)).drop_vars(sorted(belonging(dataset) - placing))


# ---- coordinates ----------------------------------------------------------------------------------------------------


def on_grid(coords: xr.Dataset, dims: Sequence[Hashable], inner: Set[str]) -> xr.Dataset:
    """The coordinates along these dimensions, with the limits of their cells, and no word of what is not among them."""
    kept = {name for name in coords.coords if {*coords[name].dims} <= {*dims}}
    for name in tuple(kept):
        for limits in named(of(coords[name].variable), LIMITS) & {*coords.coords}:
            if len({*coords[limits].dims} - {*dims}) == 1 and not inner & {*coords[limits].dims}:
                kept.add(limits)
    # a copy: what was handed in stays as it is
    found = coords[[name for name in coords.coords if name in kept]].copy(deep=False)
    for name in kept:
        attributes = of(coords[name].variable)
        lacking = {attribute for attribute in BESIDE if not named(attributes, [attribute]) <= kept}
        found[name].attrs = {key: value for key, value in attributes.items() if key not in lacking}
    return found


def common(variables: Iterable[Any], coords: xr.Dataset) -> dict[str, Any]:
    """Attributes of variables that hold for others on their grid, with these coordinates, and are the same of all."""
    found = [of(variable) for variable in variables]
    attributes = {
        name: value
        for name, value in (found[0] if found else {}).items()
        if (name in OF_GRID or name.startswith(PREFIXES))
        and named({name: value}) <= {*map(str, coords.coords)}
        and all(_same(each.get(name), value) for each in found)
    }
    beside = named(attributes).union(*(named(v.attrs) for v in coords.variables.values()))
    places = sorted(str(c) for c in coords.coords if c not in coords.dims and c not in beside)
    return attributes | ({"coordinates": " ".join(places)} if places and not any(" " in c for c in places) else {})


def _same(a: Any, b: Any) -> bool:
    """Whether two attributes are equal, whatever they are."""
    return np.array_equal(np.asarray(a), np.asarray(b))


def conventions(attributes: Mapping[str, Any]) -> str:
    """The conventions that an output follows: those of its source, and of CF anyway."""
    told = str(attributes.get("Conventions", "")).strip()
    return told if "CF-" in told else ", ".join(filter(None, ("CF-1.11", told)))


def is_long(variable: xr.Variable) -> bool:
    """Whether a coordinate is read in blocks: one that is not in memory, of numbers or times, and more than small."""
    return not variable._in_memory and variable.dtype.kind in "biufmMS" and variable.nbytes > LOADED


def block_of(variable: xr.Variable, chunks: Sequence[int] | None) -> tuple[int, ...]:
    """Lengths of the blocks in which a coordinate is read: whole chunks of it."""
    return Grid.along_chunks(variable.shape, chunks or variable.shape, variable.dtype.itemsize).segment


# ---- areas ----------------------------------------------------------------------------------------------------------


def measure_of(dataset: xr.Dataset, variables: Iterable[str]) -> str | None:
    """The variable that holds the areas of the cells of some others, as these say; None where they do not."""
    for name in variables:
        words = str(of(dataset[name].variable).get("cell_measures", "")).split()
        told = dict(zip(words[::2], words[1::2], strict=False))
        if "area:" in told:
            return told["area:"]
    return None


def areas_of(name: str, dataset: xr.Dataset, variables: Sequence[str]) -> str | xr.DataArray:
    """The area that each cell stands for: the variable that holds it by `cell_measures`, or that of bands of latitude.

    Areas are proportional to these where longitudes are evenly spaced, also where both are those of a rotated pole.

    Parameters
    ----------
    name : str
        Of the dataset, for messages.
    dataset : xarray.Dataset
    variables : sequence of str
        The features, along whose dimensions the latitude lies.

    Raises
    ------
    InputError
        If there is neither.
    """
    measure = measure_of(dataset, variables)
    if measure in dataset.variables:
        logger.info("cells of %s count by %s", name, measure)
        return str(measure)
    dims = {*dataset[variables[0]].dims} if variables else set()
    found = {c: v for c, v in dataset.coords.items() if v.ndim == 1 and {*v.dims} <= dims and v.dtype.kind in "fiu"}
    # places one by one are no cells: floats, stations, tracks
    east = {v.dims for c, v in found.items() if _says(str(c), v, LONGITUDES, EAST)}
    north = [v for c, v in found.items() if _says(str(c), v, LATITUDES, NORTH) and v.dims not in east]
    if len(north) != 1:
        why = f"{len(north)} of its coordinates are latitudes along one dimension" if north else (
            "it has no latitude along a dimension of its own")  # fmt: skip
        lack = f"its cell_measures name {measure}, which is not there, and {why}" if measure else f"{why}"
        raise InputError(
            f"the areas of the cells of {name} are not known: {lack}; name the variable that holds them (weights)"
        )
    latitude = north[0]
    degrees = np.asarray(latitude.values, dtype=float)
    if not (np.abs(degrees) <= 90 + BEYOND).all():
        raise InputError(
            f"{latitude.name} of {name} goes from {degrees.min():g} to {degrees.max():g}, and latitudes from -90 to 90 "
            "degrees: name the variable that holds the areas of cells (weights)"
        )
    limits = dataset.variables.get(of(latitude.variable).get("bounds"))
    if limits is not None and limits.shape == (len(degrees), 2):
        logger.info("cells of %s count by the areas between the bounds of %s", name, latitude.name)
        return latitude.copy(data=_bands(*np.asarray(limits.values, dtype=float).T))
    if len(np.unique(degrees)) < len(degrees):
        raise InputError(
            f"{latitude.name} of {name} has a latitude twice, so that the areas of its cells are not known: name the "
            "variable that holds them (weights)"
        )
    logger.info("cells of %s count by the areas of the bands around %s", name, latitude.name)
    return latitude.copy(data=areas_around(degrees))


def areas_around(degrees: FloatArray) -> FloatArray:
    """Areas of the bands around latitudes (n,), in any order: each to half way to its neighbours, up to the poles.

    At the ends, and where latitudes are left out between two, a band is as wide as on its other side.
    """
    if len(degrees) == 1:
        return np.ones(1)
    order = np.argsort(degrees)
    at = degrees[order]
    half = np.diff(at) / 2
    down, up = np.append(half[0], half), np.append(half, half[-1])
    south, north = np.where(down > GAP * up, up, down), np.where(up > GAP * down, down, up)
    areas = np.empty(len(at))
    areas[order] = _bands(at - south, at + north)
    return areas


def _bands(south: FloatArray, north: FloatArray) -> FloatArray:
    """Areas between latitudes on a sphere, in parts of that of a half."""
    sines = np.sin(np.deg2rad(np.clip([south, north], -90, 90)))
    return np.abs(sines[1] - sines[0])


def _says(name: str, coordinate: xr.DataArray, standard: tuple[str, ...], units: tuple[str, ...]) -> bool:
    """Whether a coordinate is one of these, by its attributes, or by its name where they say nothing."""
    attributes = coordinate.attrs
    told, unit = attributes.get("standard_name"), attributes.get("units")
    if told is not None:
        return told in standard and unit in (None, "degrees", "degree", *units)
    if unit is not None and unit in units:
        return True
    in_degrees = unit in (None, "degrees", "degree")
    by_axis = attributes.get("axis") == ("Y" if standard is LATITUDES else "X") and unit in ("degrees", "degree")
    return by_axis or (in_degrees and name.lower() in (standard[0], standard[0][:3]))
