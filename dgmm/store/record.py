"""A fit as it is stored, with a checksum over all of it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

import numpy as np
import pandas as pd
import xarray as xr
from pydantic import BaseModel, ConfigDict, Field

from dgmm.data import Layout
from dgmm.fits import Batch, Fit, Spread
from dgmm.mixture import Mixture
from dgmm.store.past import numbers_of, variables_of
from dgmm.store.steps import Steps, arrays_of
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


def settings_in(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among the attributes of a model or of scores, which are text or, as once, a mapping."""
    found = attributes.get("settings")
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except (ValueError, RecursionError):
            found = None
    return dict(found) if isinstance(found, dict) else {}
