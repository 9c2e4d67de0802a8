"""Models and other results on disk: Zarr groups that xarray reads, JSON, no pickles."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import zarr

from dgmm.data import one_line, open_store, unfinished
from dgmm.errors import DgmmError, InputError
from dgmm.families import get_family
from dgmm.layout import Layout
from dgmm.mixture import Mixture
from dgmm.outcome import Outcome
from dgmm.places import Output, place_at
from dgmm.results import Fit

#: Written into every model; a reader of another version refuses.
FORMAT = "dgmm-model-1"
#: A gain still to come that is not known yet; JSON has no infinity.
UNKNOWN = -1.0

Path = str | os.PathLike[str]


def to_dataset(fit: Fit, table: pd.DataFrame | None = None, settings: Mapping[str, Any] | None = None) -> xr.Dataset:
    """A fit as a dataset.

    Variables: ``weights`` (component), ``means`` (component, feature), ``covariances`` in the shape of the covariance
    type, ``factors`` (their square roots, from which the mixture is rebuilt exactly) and ``trajectory`` (pass).
    Everything else, the table of candidates included, is in the attributes.
    """
    arrays = fit.mixture.family.arrays(fit.mixture.components)
    variables: dict[str, Any] = {name: (dims, values) for name, (dims, values) in arrays.items()}
    variables["weights"] = ("component", fit.mixture.weights)
    per_pass: list[tuple[str, tuple[float, ...], str, str]] = [
        ("trajectory", fit.trajectory, "total log-likelihood", "nat"),
        ("remaining_gains", fit.remaining_gains, f"gain still to come, per sample ({UNKNOWN}: unknown)", "nat"),
        ("seconds", fit.seconds, "duration, all candidates together", "s"),
    ]
    for name, series, long_name, units in per_pass:
        if series or name == "trajectory":
            known = np.nan_to_num(series, nan=UNKNOWN, posinf=UNKNOWN)
            variables[name] = ("pass", known, {"long_name": long_name, "units": units})
    attributes: dict[str, Any] = {
        "format": FORMAT,
        "family": fit.covariance_type,
        "features": list(fit.features),
        "log_likelihood": fit.log_likelihood,
        "bic": fit.bic,
        "aic": fit.aic,
        "icl": fit.icl if math.isfinite(fit.icl) else None,
        "entropy": fit.entropy if math.isfinite(fit.entropy) else None,
        "held_out": fit.held_out if math.isfinite(fit.held_out) else None,
        "n_parameters": fit.n_parameters,
        "n_samples": fit.n_samples,
        "n_missing": fit.n_missing,
        "n_passes": fit.n_passes,
        "converged": fit.converged,
        "remaining_gain": fit.remaining_gain if math.isfinite(fit.remaining_gain) else None,
        "collapsed": list(fit.collapsed),
        "state": fit.state,
        "reason": fit.reason,
    }
    if fit.layout is not None:
        attributes["layout"] = json.dumps(asdict(fit.layout))
    if settings is not None:
        attributes["settings"] = dict(settings)
    if table is not None:
        attributes["candidates"] = json.loads(table.to_json(orient="records", double_precision=15))
    return xr.Dataset(variables, attrs=attributes)


def from_dataset(dataset: xr.Dataset, name: str) -> Fit:
    """The fit that `to_dataset` wrote; `InputError` where it is none or has been damaged."""
    a = dataset.attrs
    if a.get("format") != FORMAT:
        raise InputError(f"{name} is not a dgmm model: its format is {a.get('format')!r}, expected {FORMAT!r}")
    try:
        family = get_family(a["family"])
        arrays = {str(v): np.asarray(dataset[v].values, dtype=np.float64) for v in dataset.data_vars}
        weights, empty = arrays["weights"], np.empty(0)
        fit = Fit(
            mixture=Mixture(family, weights, family.from_arrays(arrays)),
            log_likelihood=float(a["log_likelihood"]),
            n_samples=_whole(a, "n_samples"),
            n_missing=_whole(a, "n_missing"),
            n_passes=_whole(a, "n_passes"),
            outcome=Outcome.parse(a["state"], a["collapsed"], a["reason"], _whole(a, "n_passes")),
            remaining_gain=math.inf if a["remaining_gain"] is None else float(a["remaining_gain"]),
            trajectory=tuple(arrays["trajectory"].tolist()),
            features=tuple(a["features"]),
            entropy=np.nan if a["entropy"] is None else float(a["entropy"]),
            held_out=np.nan if a["held_out"] is None else float(a["held_out"]),
            remaining_gains=tuple(
                math.inf if v == UNKNOWN else v for v in arrays.get("remaining_gains", empty).tolist()
            ),
            seconds=tuple(arrays.get("seconds", empty).tolist()),
            layout=None if "layout" not in a else layout_of(json.loads(a["layout"])),
        )
    except KeyError as error:
        raise InputError(f"{name} is not a complete dgmm model: {error} is missing") from None
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is damaged: {error}") from None
    if weights.shape != (len(fit.mixture.means),) or not (weights > 0).all() or abs(weights.sum() - 1) > 1e-9:
        raise InputError(f"{name} is damaged: its weights {weights.shape} are not positive with sum one")
    if len(fit.features) != fit.mixture.n_features:
        raise InputError(f"{name} is damaged: {len(fit.features)} names for {fit.mixture.n_features} features")
    return fit


def layout_of(values: Mapping[str, Any]) -> Layout:
    """The layout that was stored as these values."""
    known: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return Layout(**known)


def _whole(attributes: Mapping[str, Any], name: str) -> int:
    """A number of something."""
    value = attributes[name]
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} is {value!r}")
    return value


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
        dataset.to_zarr(output.store(), mode="w-", zarr_format=3, consolidated=False)


@contextmanager
def rescued(
    fit: Fit, *, table: pd.DataFrame | None = None, settings: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """Context in which a fit is written where it belongs; if that fails it is written somewhere else.

    Raises
    ------
    DgmmError
        That says what failed, and where the fit lies.
    """
    try:
        yield
    except Exception as error:
        for folder in (os.getcwd(), tempfile.gettempdir(), os.path.expanduser("~")):
            place = os.path.join(folder, f"dgmm-model-{uuid.uuid4().hex[:8]}.json")
            try:
                save(fit, place, table=table, settings=settings)
            except Exception:
                continue
            raise DgmmError(f"the model could not be written ({one_line(error)}); it is kept in {place}") from error
        raise


def load(path: Path) -> Fit:
    """Read a fit from a Zarr group or its JSON form; nothing in it is ever executed."""
    return from_dataset(load_dataset(path), os.fspath(path))


def load_dataset(path: Path) -> xr.Dataset:
    """A stored model as a dataset, as it is."""
    if os.fspath(path).endswith(".json"):
        content = place_at(path).content()
        if content is None:
            raise InputError(f"no such model: {path}{unfinished(path)}")
        try:
            return xr.Dataset.from_dict(dict(json.loads(content)))
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(f"{path} is not a dgmm model: {error}") from None
    group = open_store(path)
    if not isinstance(group, zarr.Group):
        raise InputError(f"{path} is not a dgmm model: it is a single array")
    return xr.open_zarr(group.store, group=group.path or None, chunks=None, consolidated=False).load()


def attributes(path: Path) -> dict[str, Any]:
    """Attributes of a Zarr array or group."""
    return dict(open_store(path).attrs)


def digest(mixture: Mixture) -> str:
    """A name for exactly this mixture."""
    arrays = mixture.family.arrays(mixture.components)
    parts = [mixture.covariance_type.encode(), mixture.weights.tobytes()]
    parts += [np.ascontiguousarray(values).tobytes() for _, values in arrays.values()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def candidates(path: Path) -> pd.DataFrame | None:
    """The table of candidates stored with a selected model, None if it was trained alone."""
    records = load_dataset(path).attrs.get("candidates")
    return None if records is None else pd.DataFrame(records)
