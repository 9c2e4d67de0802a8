"""Models and other results on disk: Zarr groups that xarray reads, JSON, no pickles."""

from __future__ import annotations

import json
import math
import os
import tempfile
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import zarr

from dgmm.data import Stored, local_path, members, open_store, unfinished
from dgmm.errors import DgmmError, InputError, ReadError, first_line, is_of_obstore, one_line
from dgmm.fits import Fit
from dgmm.store.at import model_at, place_at
from dgmm.store.places import Output
from dgmm.store.reading import check_format, from_dataset
from dgmm.store.record import Record, to_dataset
from dgmm.types import AnyArray

#: Bytes of the arrays of a model, or of its JSON form, that are read: metadata may say anything.
MAX_BYTES = 4 * 2**30

#: What zarr says of texts, which have no settled type in its third format: they are written as xarray reads them.
UNSETTLED_DTYPE = ".*does not have a Zarr V3 specification.*"

Path = str | os.PathLike[str]


def save(
    fit: Fit,
    path: Path,
    *,
    table: pd.DataFrame | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a fit to a Zarr group, or to JSON where the path ends in ``.json``.

    Parameters
    ----------
    fit : Fit
    path : path or URL
    table : pandas.DataFrame, optional
        Of all candidates, kept with the model.
    settings : mapping, optional
        What the fit was made with, kept with the model.
    overwrite : bool

    Raises
    ------
    OutputExistsError
        If the place is taken and ``overwrite`` is False.
    """
    with place_at(path).begin("model", overwrite=overwrite) as output:
        write(output, fit, table=table, settings=settings)
        output.finish()


def write(
    output: Output, fit: Fit, *, table: pd.DataFrame | None = None, settings: Mapping[str, Any] | None = None
) -> None:
    """Write a fit to an output that has been begun; see `save`."""
    dataset = to_dataset(fit, table, settings)
    if output.place.name.endswith(".json"):
        output.write((json.dumps(dataset.to_dict(), indent=1, allow_nan=False) + "\n").encode())
    else:
        dataset.to_zarr(output.store(), mode="w-", zarr_format=3, consolidated=False, write_empty_chunks=True)
        consolidate(output.store())


def consolidate(store: Any) -> None:
    """Put the metadata of all arrays of a group beside its own, where xarray looks for them first."""
    with warnings.catch_warnings():
        for message in (UNSETTLED_DTYPE, ".*onsolidated metadata.*"):
            warnings.filterwarnings("ignore", message=message)
        zarr.consolidate_metadata(store)


@contextmanager
def rescued(
    fit: Fit, place: Path, *, table: pd.DataFrame | None = None, settings: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """Context in which a fit is written where it belongs; if that fails it is written somewhere else.

    Parameters
    ----------
    fit : Fit
    place : path or URL
        Where it belongs, for messages.
    table, settings
        As for `save`.

    Raises
    ------
    DgmmError
        That says what failed, and where the fit lies.
    """
    try:
        yield
    except Exception as error:
        for folder in (os.getcwd(), tempfile.gettempdir(), os.path.expanduser("~")):
            other = os.path.join(folder, f"dgmm-model-{uuid.uuid4().hex[:8]}.json")
            try:
                save(fit, other, table=table, settings=settings)
            except Exception:
                continue
            why = first_line(error) if is_of_obstore(error) else one_line(error)
            raise DgmmError(f"{os.fspath(place)} could not be written ({why}): the model is kept in {other}") from error
        raise


def load(path: Path, *, max_bytes: int = MAX_BYTES) -> Fit:
    """Read a fit from a Zarr group or its JSON form; nothing in it is ever executed.

    Parameters
    ----------
    path : path or URL
        Or a version or alias in a registry: ``models/NAME@champion``.
    max_bytes : int
        A model that says it is larger is refused before it is read.

    Raises
    ------
    InputError
        If it is no model, or has been damaged.
    """
    return read(path, max_bytes=max_bytes).fit


def read(path: Path, *, max_bytes: int = MAX_BYTES) -> Record:
    """Read all that a stored model holds; see `load`."""
    return from_dataset(load_dataset(path, max_bytes=max_bytes), os.fspath(path))


def load_dataset(path: Path, *, max_bytes: int = MAX_BYTES) -> xr.Dataset:
    """A stored model as a dataset, as it is; see `load`."""
    path = model_at(path)
    try:
        if os.fspath(path).endswith(".json"):
            return _from_json(path, max_bytes)
        return _from_zarr(path, max_bytes)
    except (InputError, OSError):
        raise
    except Exception as error:  # whatever zarr says of what it cannot make out
        if is_of_obstore(error):
            raise InputError(f"cannot read {path}: {first_line(error)}") from error
        raise InputError(f"{path} is damaged: {type(error).__name__}: {one_line(error)[:300]}") from error


def _from_json(path: Path, max_bytes: int) -> xr.Dataset:
    local = local_path(path)
    size = os.stat(local).st_size if local is not None and os.path.exists(local) else 0
    content = b"" if size > max_bytes else place_at(path).content(max_bytes + 1)
    if content is None:
        raise InputError(f"no such model: {path}{unfinished(path)}")
    if max(size, len(content)) > max_bytes:
        raise InputError(f"{path} is larger than {max_bytes} bytes: no model is, unless you say so (max_bytes)")
    try:
        parts = json.loads(content)
        check_format(parts["attrs"], os.fspath(path))
        variables = {name: _variable(name, part) for name, part in parts["data_vars"].items()}
        return xr.Dataset(variables, attrs=parts["attrs"])
    except InputError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is not a dgmm model: {type(error).__name__}: {one_line(error)[:300]}") from None


def _variable(name: str, part: Mapping[str, Any]) -> tuple[list[str], AnyArray, dict[str, Any]]:
    """A variable of the JSON form, to make a dataset of."""
    values = np.asarray(part["data"])
    if values.dtype.kind not in "fiu":
        raise ValueError(f"its {name} are not numbers")
    return list(part["dims"]), values.astype(np.float64), dict(part.get("attrs", {}))


def _from_zarr(path: Path, max_bytes: int) -> xr.Dataset:
    # a node that zarr cannot make out is left out with a warning, and missed by whoever needs it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = open_store(path)
        if not isinstance(group, zarr.Group):
            raise InputError(f"{path} is not a dgmm model: it is a single array")
        attributes = dict(group.attrs)
        check_format(attributes, os.fspath(path))
        arrays = members(group, os.fspath(path))
    for name, array in arrays.items():
        # the second format has codecs by name that unpickle, the third has none
        if array.metadata.zarr_format != 3 or array.dtype != np.float64:
            raise InputError(f"{path} is damaged: its {name} are of type {array.dtype}, not float64 in Zarr format 3")
    sizes = {name: 8 * max(math.prod(array.shape), math.prod(array.chunks)) for name, array in arrays.items()}
    if sum(sizes.values()) > max_bytes:
        most = max(sizes, key=lambda name: sizes[name])
        raise InputError(
            f"{path} says that its arrays have {sum(sizes.values())} bytes ({most} {arrays[most].shape}), and more "
            f"than {max_bytes} are not read unless you say so (max_bytes)"
        )
    variables: dict[str, Any] = {}
    for name, array in arrays.items():
        metadata: Any = array.metadata
        stored = Stored.of(array, os.fspath(path), os.fspath(path))
        try:
            values = stored.read((slice(None),) * array.ndim, partial(array.__getitem__, ...))
        except ReadError as error:
            away = error.__cause__ is not None and is_of_obstore(error.__cause__)
            raise InputError(f"cannot read {path}: {error}" if away else f"{path} is damaged: {error}") from None
        about = {key: value for key, value in array.attrs.items() if key != "_FillValue"}
        # a number by itself has no dimensions, and comes without an array
        variables[name] = (metadata.dimension_names or (), np.asarray(values), about)
    return xr.Dataset(variables, attrs=attributes)


def attributes(path: Path) -> dict[str, Any]:
    """Attributes of a Zarr array or group."""
    return dict(open_store(path).attrs)
