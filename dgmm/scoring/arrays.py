"""The group that scores are written to: its arrays, on the grid of the input, and what else lies in it."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from dgmm.data import Grid, Samples, conventions, copying_bytes, in_blocks
from dgmm.engine import Workers, mib
from dgmm.errors import DgmmError, InsufficientMemoryError, ReadError, is_of_obstore, one_line
from dgmm.families import NOISE
from dgmm.fits import Fit
from dgmm.store import UNSETTLED_DTYPE, digest

#: How the format of scores begins, whatever its number, and what is written into all scores.
SCORES_KIND = "dgmm-scores-"
SCORES_FORMAT = f"{SCORES_KIND}2"
#: The last one only if asked for.
VARIABLES = ("label", "probability", "log_density", "probabilities")
#: Attributes that say what labels are of, where there are any: those of a source by these names are not kept.
OF_LABELS = ("classes", "clusters", "noise")
#: Units of times, by their resolution.
SINCE = {"ns": "nanoseconds", "us": "microseconds", "ms": "milliseconds", "s": "seconds"}


def label_dtype(n_components: int) -> type[np.signedinteger]:
    """The smallest integer type that holds all labels, -1 and -2."""
    for dtype in (np.int8, np.int16, np.int32):
        if n_components - 1 <= np.iinfo(dtype).max:
            return dtype
    return np.int64


def n_labels(n_labels: int, level: Sequence[int] | None) -> int:
    """How many labels there are: those of a model, or clusters, of which each component is in one."""
    return n_labels if level is None else max(level) + 1


def labels_of(model: Fit, level: Sequence[int] | None) -> tuple[str, list[str]]:
    """What labels are of, and the name of each without blanks."""
    if level is None and model.classes:
        return "class", [str(name).replace(" ", "_") for name in model.classes]
    what = "component" if level is None else "cluster"
    noise = [] if model.noise is None else ["noise"]
    return what, [*(f"{what}_{i}" for i in range(n_labels(model.n_components, level))), *noise]


def labels_in(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """Each label in words, as the attributes of scores say them."""
    if "classes" in attributes:
        return tuple(f"class {name}" for name in json.loads(attributes["classes"]))
    what, n = "cluster" if "clusters" in attributes else "component", int(attributes["n_components"])
    return tuple("noise" if k == attributes.get("noise") else f"{what} {k}" for k in range(n))


def types_of(n_components: int, probabilities: bool) -> dict[str, np.dtype[Any]]:
    """The arrays that are written, with their types."""
    found: list[Any] = [label_dtype(n_components), np.float32, np.float64, *([np.float32] if probabilities else [])]
    return {name: np.dtype(kind) for name, kind in zip(VARIABLES, found, strict=False)}


def create(
    store: Any,
    samples: Samples,
    model: Fit,
    probabilities: bool,
    settings: Mapping[str, Any],
    level: Sequence[int] | None = None,
) -> None:
    """Create the group and its arrays in a store, around the chunks that may be there; it is not complete yet."""
    what, names = labels_of(model, level)
    k, made = len(names), "" if level is None else f" in {len(names)} clusters"
    group = zarr.create_group(store, zarr_format=3)
    group.attrs.update(
        {
            **{name: value for name, value in attributes_of_source(samples).items() if name not in OF_LABELS},
            "format": SCORES_FORMAT,
            "title": f"Scores of a {model.mixture.family.title} with {model.n_components} components{made}",
            "source": samples.name,
            "n_components": k,
            **({} if model.noise is None else {"noise": k - 1}),
            **({} if level is None else {"clusters": list(level)}),
            **({"classes": json.dumps(list(model.classes))} if model.classes else {}),
            "covariance_type": model.covariance_type,
            "model": digest(model.mixture),
            "settings": json.dumps(dict(settings)),
            "complete": 0,
        }
    )
    grid, dims = samples.grid, samples.dims
    described: dict[str, tuple[float, dict[str, Any]]] = {
        "label": (
            -1,
            {
                "long_name": f"most probable {what}",
                "flag_values": [-1, *(range(k) if model.noise is None else [*range(k - 1), NOISE])],
                "flag_meanings": " ".join(["missing", *names]),
            },
        ),
        "probability": (np.nan, {"long_name": f"probability of the most probable {what}"}),
        "log_density": (np.nan, {"long_name": f"logarithm of the density, {density_of(model)}"}),
        "probabilities": (np.nan, {"long_name": f"probability of each {what}"}),
    }
    for name, dtype in types_of(k, probabilities).items():
        every = name == "probabilities"
        fill, attributes = described[name]
        group.create_array(
            name,
            shape=(*grid.shape, k) if every else grid.shape,
            chunks=(*grid.segment, k) if every else grid.segment,
            dtype=dtype,
            fill_value=fill,
            compressors=ZstdCodec(level=1, checksum=True),
            dimension_names=(*dims, what) if every else dims,
            attributes=attributes | samples.said,
        )


def attributes_of_source(samples: Samples) -> dict[str, Any]:
    """The attributes of the source, with the conventions that an output follows."""
    found = {str(name): plain(value) for name, value in samples.coords.attrs.items()}
    return found | {"Conventions": conventions(found)}


def density_of(model: Fit) -> str:
    """Of what densities are."""
    transform = model.mixture.transform
    return "in the data's units" if transform is None else f"of the features as they were fitted ({transform.words})"


def plain(value: Any) -> Any:
    """An attribute as JSON takes it."""
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


def check_coordinates(samples: Samples, workers: Workers) -> None:
    """Raise `InsufficientMemoryError` if this process cannot copy the coordinates block by block."""
    needed, has = copying_bytes(samples.coords), workers.driver_bytes
    if needed > has:
        raise InsufficientMemoryError(
            f"this process would need {mib(needed)} to copy the coordinates of {samples.name} a chunk at a time, and "
            f"has {mib(has)} to use: rechunk them, or hand in the dataset without them (drop_vars)"
        )


def write_coordinates(store: Any, samples: Samples) -> None:
    """Add the coordinates of the input's grid to a store; those that are long block by block."""
    coords = in_blocks(samples.coords).drop_encoding()
    if not coords.variables:
        return
    for name, variable in coords.variables.items():
        limits = coords.variables.get(variable.attrs.get("bounds"))
        if limits is not None and variable.dtype.kind == limits.dtype.kind == "M":
            # limits are in the units of their coordinate
            unit = {"units": f"{SINCE[np.datetime_data(limits.dtype)[0]]} since 1970-01-01", "dtype": "int64"}
            coords[name].encoding = coords[variable.attrs["bounds"]].encoding = unit
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=UNSETTLED_DTYPE)
        warnings.filterwarnings("ignore", message=".* has datetime type and a bounds variable")
        attributes = xr.open_zarr(store, chunks=None, consolidated=False).attrs
        described = coords.assign_attrs(attributes)
        later = described.to_zarr(store, mode="a", zarr_format=3, consolidated=False, compute=False)
        try:
            later.compute(scheduler="synchronous")
        except (DgmmError, OSError):
            raise
        except Exception as error:  # whatever a store or a codec complains with
            if is_of_obstore(error):
                raise
            raise ReadError(f"the coordinates of {samples.name} cannot be copied: {one_line(error)[:300]}") from error


# ---- keys of a store ------------------------------------------------------------------------------------------------


def zarr_store(store: Any) -> Any:
    """A store of zarr's, also of a path that is written to."""
    return LocalStore(store) if isinstance(store, str) else store


def chunk_key(name: str, grid: Grid, region: int) -> str:
    """The key of the one chunk of an array that a region is."""
    place = np.unravel_index(region, grid.counts)
    return "/".join([name, "c", *(str(int(i)) for i in place), *(["0"] if name == "probabilities" else [])])


def keep_chunks(store: Any, names: Sequence[str]) -> None:
    """Delete all of a group but the chunks of these arrays."""

    async def run() -> None:
        found = zarr_store(store)
        for entry in [key async for key in found.list_dir("")]:
            if await found.exists(entry):  # also what a killed writer was writing
                await found.delete(entry)
            elif entry not in names:
                await found.delete_dir(entry)
        for name in names:
            await found.delete(f"{name}/zarr.json")

    sync(run())


def sweep(store: Any, name: str, grid: Grid) -> list[int]:
    """Delete what is no chunk of an array, such as what a killed writer was writing; the regions that have none."""
    there, strays = look(store, name, grid)

    async def run() -> None:
        for key in strays:
            await zarr_store(store).delete(key)

    sync(run())
    return np.flatnonzero(~there).tolist()


def look(store: Any, name: str, grid: Grid) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], list[str]]:
    """Which regions have their chunk of an array, and the keys of what is neither a chunk nor its metadata."""
    there, strays = np.zeros(len(grid), dtype=bool), []
    strides = [math.prod(grid.counts[i + 1 :]) for i in range(len(grid.counts))]

    async def run() -> None:
        async for key in zarr_store(store).list_prefix(f"{name}/"):
            parts = key.split("/")[2:]
            inside = all(part.isdecimal() and len(part) < 19 for part in parts) and len(parts) >= len(strides)
            region = sum(int(part) * stride for part, stride in zip(parts, strides, strict=False)) if inside else -1
            if 0 <= region < len(grid) and key == chunk_key(name, grid, region):
                there[region] = True
            elif key != f"{name}/zarr.json":
                strays.append(key)

    sync(run())
    return there, strays


def others_in(store: Any) -> list[str]:
    """Names of what lies in a group beside scores: coordinates and a ledger."""

    async def run() -> list[str]:
        return [key async for key in zarr_store(store).list_dir("")]

    return sorted(name for name in sync(run()) if name not in (*VARIABLES, "zarr.json"))


def stored_digest(store: Any, name: str) -> str:
    """Of all that is stored of an array, metadata and chunks, whatever its type."""
    found = hashlib.sha256()

    async def run() -> None:
        held = zarr_store(store)
        for key in sorted([key async for key in held.list_prefix(f"{name}/")]):
            value = await held.get(key, default_buffer_prototype())
            content = b"" if value is None else value.to_bytes()
            found.update(f"{key} {len(content)} ".encode())
            found.update(content)

    sync(run())
    return found.hexdigest()
