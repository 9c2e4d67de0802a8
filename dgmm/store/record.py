"""A fit as it is stored, and back: every field checked, and a checksum over all of them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any

import numpy as np
import pandas as pd
import xarray as xr
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dgmm.data import Layout
from dgmm.errors import InputError, one_line
from dgmm.families import Noise, get_family
from dgmm.fits import Batch, Clusters, Fit, Outcome, Spread, Stability
from dgmm.mixture import Mixture
from dgmm.store.past import numbers_of, past_in, variables_of
from dgmm.store.steps import Steps, arrays_of, transform_in
from dgmm.transform import Transform
from dgmm.types import AnyArray, Assignment, Criterion, Missing, Part, PriorName

#: How the format of a model begins.
MODEL_KIND = "dgmm-model-"
#: Written into every model.
FORMAT = "dgmm-model-2"
#: Written into those with preprocessing, which who does not know of it must not take for others.
TRANSFORMED_FORMAT = "dgmm-model-3"
#: What was written before there were checksums, and what other programs may write.
PLAIN_FORMAT = "dgmm-model-1"
#: A gain still to come that is not known yet; JSON has no infinity.
UNKNOWN = -1.0
#: Attributes that hold JSON as text: netCDF takes neither mappings nor, in its classic form, lists of strings.
TEXTS = ("features", "layout", "spread", "settings", "candidates", "fixed", "classes", "preprocess", "updates")
#: What refits have said, as variables whose names begin with ``stability_``.
STABILITY = {
    "rand": ("refit",),
    "found_again": ("component",),
    "weights_se": ("component",),
    "means_se": ("component", "feature"),
}
#: How the names of variables begin that hold the mixtures of a climb, step by step.
OF_PATH = "path_"
#: How much is quoted of what is wrong: values may be long.
MOST_SAID = 300
#: To what share the stored values of what follows from others may differ from what follows here.
ROUNDING = 1e-9

Finite = Annotated[float, Field(allow_inf_nan=False)]
Scalar = bool | int | float | str | None


class Ends(BaseModel):
    """What a search has seen, as it is stored; see `Spread`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    found: int = Field(ge=1)
    paths: int = Field(ge=1)
    below: float | None = Field(None, gt=0)

    @classmethod
    def of(cls, spread: Spread) -> Ends:
        """With nothing for what is not known."""
        return cls(found=spread.found, paths=spread.paths, below=None if math.isnan(spread.below) else spread.below)

    def spread(self) -> Spread:
        """Inverse of `of`; raises `ValueError` for what cannot be."""
        if self.found > self.paths:
            raise ValueError(f"spread: found by {self.found} of {self.paths} paths")
        return Spread(self.found, self.paths, math.nan if self.below is None else self.below)


class Attributes(BaseModel):
    """The attributes of a stored model; those of others beside them are let be."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)

    family: str
    features: tuple[str, ...]
    log_likelihood: Finite
    n_samples: int = Field(ge=1, lt=2**63)
    n_missing: int = Field(ge=0, lt=2**63)
    n_passes: int = Field(ge=0, lt=2**63)
    collapsed: tuple[int, ...]
    state: str
    reason: str
    remaining_gain: Finite | None = None
    entropy: Finite | None = None
    held_out: Finite | None = None
    held_out_se: Finite | None = None
    stability_rows: int | None = Field(None, ge=1, lt=2**63)
    stability_blocks: int | None = Field(None, ge=0, lt=2**63)
    cluster_rows: int | None = Field(None, ge=1, lt=2**63)
    bic: Finite | None = None
    aic: Finite | None = None
    icl: Finite | None = None
    n_parameters: int | None = None
    layout: Layout | None = None
    spread: Ends | None = None
    settings: dict[str, Any] | None = None
    candidates: list[dict[str, Scalar]] | None = None
    fixed: tuple[Part, ...] = ()
    assignment: Assignment = "soft"
    prior: PriorName = "none"
    missing: Missing = "omit"
    classes: tuple[int, ...] | tuple[str, ...] = ()
    noise: Finite | None = None
    preprocess: Steps | None = None
    updates: tuple[Batch, ...] = ()
    digest: str | None = None
    checksum: str | None = None


@dataclass(frozen=True)
class Record:
    """What a stored model holds.

    Attributes
    ----------
    fit : Fit
    table : pandas.DataFrame or None
        Of all candidates, if it was selected.
    settings : dict
        What it was made with, as far as that was kept.
    """

    fit: Fit
    table: pd.DataFrame | None
    settings: dict[str, Any]

    @property
    def criterion(self) -> Criterion:
        """What it was chosen by, if it was."""
        chosen = self.settings.get("criterion")
        return Criterion(chosen) if chosen in list(Criterion) else Criterion.BIC


def digest(mixture: Mixture) -> str:
    """A name for exactly this mixture: of the weights and of the arrays that its components are made of."""
    found = hashlib.sha256(mixture.covariance_type.encode())
    components = {field.name: getattr(mixture.components, field.name) for field in fields(mixture.components)}
    for name, values in {"weights": mixture.weights, **components}.items():
        _add_array(found, name, values)
    if mixture.noise is not None:
        for field in fields(mixture.noise):
            _add_array(found, f"noise_{field.name}", np.asarray(getattr(mixture.noise, field.name)))
    if mixture.transform is not None:
        found.update(mixture.transform.digest.encode())
    return found.hexdigest()


def checksum(dataset: xr.Dataset) -> str:
    """Of all variables and attributes of a stored model but this one."""
    attributes = {name: value for name, value in dataset.attrs.items() if name != "checksum"}
    found = hashlib.sha256(json.dumps(attributes, sort_keys=True, allow_nan=False).encode())
    for name in sorted(map(str, dataset.data_vars)):
        _add_array(found, name, dataset[name].values)
    return found.hexdigest()


def _add_array(found: Any, name: str, values: AnyArray) -> None:
    """Add an array to a hash: name, type, shape and numbers, in the same order of bytes everywhere."""
    plain = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    found.update(f"\n{name} {plain.dtype.str} {plain.shape}\n".encode())
    found.update(plain.tobytes())


def to_dataset(fit: Fit, table: pd.DataFrame | None = None, settings: Mapping[str, Any] | None = None) -> xr.Dataset:
    """A fit as a dataset.

    Variables: ``weights`` (component), ``means`` (component, feature), ``covariances`` in the shape of the covariance
    type, ``factors`` (their square roots, from which the mixture is rebuilt exactly) and ``trajectory`` (pass); with
    ``path_`` before their names those of a path, if there is one (step); with ``statistics_`` the sums over the rows
    that it was fitted to, in coordinates of their own, which an update goes on from. Where features are preprocessed,
    these are of what comes of that, ``preprocess_shift`` and ``preprocess_matrix`` say how (input, feature), and
    ``physical_means`` (component, input) are in the data's units. Where there is noise, ``noise`` is its weight,
    an attribute; ``noise_minimum`` and ``noise_maximum`` (feature) its box.
    Everything else is in the attributes: numbers and texts; lists of texts, the settings and the table of candidates
    as JSON. ``digest`` is a name of the mixture, ``checksum`` one of everything.
    """
    arrays = fit.mixture.family.arrays(fit.mixture.components)
    variables: dict[str, Any] = {name: (dims, values) for name, (dims, values) in arrays.items()}
    variables["weights"] = ("component", fit.mixture.weights)
    with_prior = "" if fit.prior == "none" else " and log density of the prior, up to a constant"
    per_pass: list[tuple[str, tuple[float, ...], str, str]] = [
        ("trajectory", fit.trajectory, f"total log-likelihood{with_prior}", "nat"),
        ("remaining_gains", fit.remaining_gains, f"gain still to come, per sample ({UNKNOWN}: unknown)", "nat"),
        ("seconds", fit.seconds, "duration, all candidates together", "s"),
    ]
    for name, series, long_name, units in per_pass:
        if series or name == "trajectory":
            known = np.nan_to_num(series, nan=UNKNOWN, posinf=UNKNOWN)
            variables[name] = ("pass", known, {"long_name": long_name, "units": units})
    noise = fit.mixture.noise
    if noise is not None:
        variables |= {"noise_minimum": ("feature", noise.minimum), "noise_maximum": ("feature", noise.maximum)}
    if fit.stability is not None:
        for name, dims in STABILITY.items():
            variables[f"stability_{name}"] = (dims, getattr(fit.stability, name))
    if fit.clusters is not None:
        variables["clusters"] = (("level", "component"), fit.clusters.levels.astype(np.float64))
        variables["cluster_entropies"] = ("level", fit.clusters.entropies, {"units": "nat"})
    transform = fit.mixture.transform
    if transform is not None:
        variables |= arrays_of(transform)
        variables["physical_means"] = ("component", "input"), fit.mixture.physical_means
    for name, (dims, values) in _together(fit.path).items():
        variables[f"{OF_PATH}{name}"] = (("step", *dims), values)
    variables |= variables_of(fit.past, fit.mixture.family)
    numbers = {
        "log_likelihood": fit.log_likelihood,
        **{str(c): fit.criterion(c) for c in (Criterion.BIC, Criterion.AIC, Criterion.ICL)},
        "entropy": fit.entropy,
        "held_out": fit.held_out,
        "held_out_se": fit.held_out_se,
        "remaining_gain": fit.remaining_gain,
        **numbers_of(fit.past),
    }
    texts = {
        "features": list(fit.features),
        "layout": None if fit.layout is None else fit.layout.to_json(),
        "spread": None if fit.spread is None else Ends.of(fit.spread).model_dump(),
        "settings": None if settings is None else dict(settings),
        "candidates": None if table is None else json.loads(table.to_json(orient="records", double_precision=15)),
        "fixed": list(fit.fixed) or None,
        "classes": list(fit.classes) or None,
        "preprocess": None if transform is None else Steps.of(transform).model_dump(),
        "updates": [asdict(batch) for batch in fit.updates] or None,
    }
    attributes: dict[str, Any] = {
        "format": FORMAT if transform is None else TRANSFORMED_FORMAT,
        "family": fit.covariance_type,
        **({} if fit.assignment == "soft" else {"assignment": fit.assignment}),
        **({} if fit.prior == "none" else {"prior": fit.prior}),
        **({} if fit.missing == "omit" else {"missing": fit.missing}),
        **({} if noise is None else {"noise": noise.weight}),
        # what is not known is not there
        **{name: float(value) for name, value in numbers.items() if math.isfinite(value)},
        "n_parameters": fit.n_parameters,
        "n_samples": fit.n_samples,
        "n_missing": fit.n_missing,
        "n_passes": fit.n_passes,
        **(
            {}
            if fit.stability is None
            else {f"stability_{n}": getattr(fit.stability, f"n_{n}") for n in ("rows", "blocks")}
        ),
        **({} if fit.clusters is None else {"cluster_rows": fit.clusters.n_rows}),
        "converged": int(fit.converged),
        "collapsed": list(fit.collapsed),
        "state": fit.state,
        "reason": fit.reason,
        **{name: json.dumps(value, allow_nan=False) for name, value in texts.items() if value is not None},
        "digest": digest(fit.mixture),
    }
    dataset = xr.Dataset(variables, attrs=attributes)
    return dataset.assign_attrs(checksum=checksum(dataset))


def _together(path: tuple[Mixture, ...]) -> dict[str, tuple[tuple[str, ...], AnyArray]]:
    """Weights and arrays of the mixtures of a path, stacked, with the dimensions of each; the box of noise is one."""
    if not path:
        return {}
    noise = [mixture.noise.weight for mixture in path if mixture.noise is not None]
    every = [mixture.family.arrays(mixture.components) for mixture in path]
    found = {name: (dims, np.stack([arrays[name][1] for arrays in every])) for name, (dims, _) in every[0].items()}
    if noise:
        found["noise"] = (), np.array(noise)
    return {"weights": (("component",), np.stack([mixture.weights for mixture in path])), **found}


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


def settings_in(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among the attributes of a model or of scores, which are text or, as once, a mapping."""
    found = attributes.get("settings")
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except (ValueError, RecursionError):
            found = None
    return dict(found) if isinstance(found, dict) else {}


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
