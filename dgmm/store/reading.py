"""What is stored as a fit again: every field checked, and what follows from others."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from pydantic import ValidationError

from dgmm.errors import InputError, one_line
from dgmm.families import Noise, get_family
from dgmm.fits import Clusters, Fit, Outcome, Stability
from dgmm.mixture import Mixture
from dgmm.store.past import past_in
from dgmm.store.record import (
    FORMAT,
    OF_PATH,
    PLAIN_FORMAT,
    STABILITY,
    TEXTS,
    TRANSFORMED_FORMAT,
    UNKNOWN,
    Attributes,
    Record,
    checksum,
    digest,
)
from dgmm.store.steps import transform_in
from dgmm.transform import Transform
from dgmm.types import AnyArray, Criterion

#: How much is quoted of what is wrong: values may be long.
MOST_SAID = 300
#: To what share the stored values of what follows from others may differ from what follows here.
ROUNDING = 1e-9


def check_format(attributes: Mapping[str, Any], name: str) -> None:
    """Raise `InputError` for what is no model, or one of another version."""
    if attributes.get("format") not in (FORMAT, TRANSFORMED_FORMAT, PLAIN_FORMAT):
        found = _shown(attributes.get("format"))
        raise InputError(f"{name} is not a dgmm model: its format is {found}, expected {FORMAT!r}")


def from_dataset(dataset: xr.Dataset, name: str) -> Record:
    """What `to_dataset` wrote.

    Raises
    ------
    InputError
        If it is none or has been damaged; one line that names the field.
    """
    check_format(dataset.attrs, name)
    a = _attributes(dataset.attrs, name)
    try:
        fit = _fit(dataset, a)
        if dataset.attrs["format"] != PLAIN_FORMAT and a.checksum is None:
            raise KeyError("checksum")
        if a.checksum is not None and a.checksum != checksum(dataset):
            raise ValueError("its checksum is another: something was changed since it was written")
    except KeyError as error:
        raise InputError(f"{name} is not a complete dgmm model: {error} is missing") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name} is damaged: {one_line(error)[:MOST_SAID]}") from None
    return Record(fit, None if a.candidates is None else pd.DataFrame(a.candidates), a.settings or {})


def _attributes(attributes: Mapping[str, Any], name: str) -> Attributes:
    """The attributes, each of the right type and within its range."""
    where = ""
    try:
        values = dict(attributes)
        for where in TEXTS:
            if isinstance(values.get(where), str):
                values[where] = json.loads(values[where], parse_constant=_refuse)
        where = "attributes"
        return Attributes.model_validate_json(json.dumps(values, allow_nan=False))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise InputError(f"{name} is not a complete dgmm model: {field!r} is missing") from None
        raise InputError(f"{name} is damaged: {field}: {first['msg']} (not {_shown(first['input'])})") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{name} is damaged: {where}: {one_line(error)[:MOST_SAID]}") from None


def _refuse(constant: str) -> None:
    """For NaN and Infinity, which JSON has not but its reader takes."""
    raise ValueError(f"{constant} is no number")


def _shown(value: Any) -> str:
    """A value as it is, or the beginning of it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _fit(dataset: xr.Dataset, a: Attributes) -> Fit:
    """The fit; raises `KeyError` for what is missing and `ValueError` for what cannot be."""
    family = get_family(a.family)
    arrays = {str(name): np.asarray(dataset[name].values, dtype=np.float64) for name in dataset.data_vars}
    weights, trajectory, empty = arrays["weights"], arrays["trajectory"], np.empty(0)
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise ValueError(f"its {name} are not all finite")
    noise = None
    if a.noise is not None:
        noise = Noise.between(a.noise, arrays["noise_minimum"], arrays["noise_maximum"])
    transform = transform_in(arrays, a.preprocess, a.features)
    fit = Fit(
        mixture=Mixture(family, weights, family.from_arrays(arrays), noise, transform),
        log_likelihood=a.log_likelihood,
        n_samples=a.n_samples,
        n_missing=a.n_missing,
        n_passes=a.n_passes,
        outcome=Outcome.parse(a.state, a.collapsed, a.reason, a.n_passes),
        remaining_gain=math.inf if a.remaining_gain is None else a.remaining_gain,
        trajectory=tuple(trajectory.tolist()),
        features=a.features,
        entropy=math.nan if a.entropy is None else a.entropy,
        held_out=math.nan if a.held_out is None else a.held_out,
        held_out_se=math.nan if a.held_out_se is None else a.held_out_se,
        remaining_gains=tuple(math.inf if v == UNKNOWN else v for v in arrays.get("remaining_gains", empty).tolist()),
        seconds=tuple(arrays.get("seconds", empty).tolist()),
        layout=a.layout,
        spread=None if a.spread is None else a.spread.spread(),
        stability=_stability(arrays, a),
        clusters=_clusters(arrays, a),
        path=_path(arrays, a, noise, transform),
        fixed=a.fixed,
        assignment=a.assignment,
        prior=a.prior,
        missing=a.missing,
        classes=a.classes,
        updates=a.updates,
    )
    fit = replace(fit, past=past_in(arrays, dataset.attrs, fit.mixture))
    k, d = fit.mixture.means.shape
    total = weights.sum() + (0.0 if noise is None else noise.weight)
    if noise is not None and noise.minimum.shape != (d,):
        raise ValueError(f"the box of its noise {noise.minimum.shape} is not of {d} features")
    if weights.shape != (k,) or not (weights > 0).all() or abs(total - 1) > 1e-9:
        raise ValueError(f"its weights {weights.shape} are not positive with sum one")
    if len(fit.features) != fit.mixture.n_inputs:
        raise ValueError(f"{len(fit.features)} names for {fit.mixture.n_inputs} features")
    if fit.classes and (k % len(fit.classes) or len(set(fit.classes)) < len(fit.classes)):
        raise ValueError(f"classes: {_shown(list(fit.classes))} of {k} components")
    if any(c not in range(k) for c in fit.collapsed):
        raise ValueError(f"collapsed: {_shown(list(fit.collapsed))} of {k} components")
    for name, series in (
        ("trajectory", trajectory),
        ("remaining_gains", fit.remaining_gains),
        ("seconds", fit.seconds),
    ):
        if np.shape(series) != (fit.n_passes,) and (name == "trajectory" or len(series)):
            raise ValueError(f"its {name} {np.shape(series)} are not of {fit.n_passes} passes")
    if fit.layout is not None:
        fit.layout.check(fit.features)
    _check_derived(fit, a)
    return fit


def _stability(arrays: Mapping[str, AnyArray], a: Attributes) -> Stability | None:
    """What refits have said; raises `ValueError` where shapes do not fit the model."""
    if a.stability_rows is None or a.stability_blocks is None:
        return None
    found = {name: arrays[f"stability_{name}"] for name in STABILITY}
    sizes = {"refit": len(found["rand"]), "component": len(arrays["weights"]), "feature": arrays["means"].shape[1]}
    for name, dims in STABILITY.items():
        if found[name].shape != tuple(sizes[dim] for dim in dims) or not sizes["refit"]:
            raise ValueError(f"its stability_{name} have shape {found[name].shape}")
    return Stability(a.stability_rows, a.stability_blocks, **found)


def _path(
    arrays: Mapping[str, AnyArray], a: Attributes, noise: Noise | None, transform: Transform | None
) -> tuple[Mixture, ...]:
    """The mixtures of a climb; raises `ValueError` where they are none of the model's kind."""
    family, shapes = get_family(a.family), {name: values.shape for name, values in arrays.items()}
    if noise is not None:
        shapes["noise"] = ()
    found = {name.removeprefix(OF_PATH): values for name, values in arrays.items() if name.startswith(OF_PATH)}
    if any(values.shape[1:] != shapes[name] or len(values) > a.n_passes for name, values in found.items()):
        raise ValueError("its path is not one of such mixtures")
    n = {len(values) for values in found.values()}
    if len(n) > 1:
        raise ValueError(f"its path has {' and '.join(map(str, sorted(n)))} steps")
    steps = ({name: values[i] for name, values in found.items()} for i in range(max(n, default=0)))
    return tuple(
        Mixture(
            family, step["weights"], family.from_arrays(step),
            None if noise is None else Noise.between(float(step["noise"]), noise.minimum, noise.maximum),
            transform,
        )
        for step in steps
    )  # fmt: skip


def _clusters(arrays: Mapping[str, AnyArray], a: Attributes) -> Clusters | None:
    """Clusters of components; raises `ValueError` where they do not fit the model."""
    if a.cluster_rows is None:
        return None
    return Clusters.checked(a.cluster_rows, arrays["clusters"], arrays["cluster_entropies"], len(arrays["weights"]))


def _check_derived(fit: Fit, a: Attributes) -> None:
    """Raise `ValueError` where a stored value does not follow from the others as it should."""
    if a.n_parameters not in (None, fit.n_parameters):
        raise ValueError(f"n_parameters is {a.n_parameters}, of a {fit.covariance_type} model {fit.n_parameters}")
    for criterion in (Criterion.BIC, Criterion.AIC, Criterion.ICL):
        stored, value = getattr(a, criterion), fit.criterion(criterion)
        if stored is not None and not math.isclose(stored, value, rel_tol=ROUNDING, abs_tol=ROUNDING):
            raise ValueError(f"{criterion} is {stored}, and {value} by its log-likelihood")
    if a.digest is not None and a.digest != digest(fit.mixture):
        raise ValueError("its parameters are others than those of its digest")
