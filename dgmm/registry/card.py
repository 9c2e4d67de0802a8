"""The card of a model: what it was made of, how, and what to be careful about, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from dgmm.fits import CRITERION_NAMES, Fit
from dgmm.store import digest, versions
from dgmm.types import Criterion

FORMAT = "dgmm-card-1"
#: A card is not larger: it is read before anything is known of it.
MAX_BYTES = 4 * 2**20
#: A search whose tops were found by a smaller share of its paths than this may find another one next time.
SELDOM = 0.25


class Class(BaseModel):
    """Which class of an earlier version a class goes on from.

    Attributes
    ----------
    before : int or None
        Its number there; None for a new one.
    overlap : float
        Bhattacharyya's, with that; zero for a new one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    before: int | None = Field(ge=0)
    overlap: float = Field(ge=0, le=1)


class Judgement(BaseModel):
    """What has come of comparing a version with the one that was in use.

    Attributes
    ----------
    accepted : bool
    why : str
    champion : str
        The version in use; empty if there was none.
    gain : float or None
        In nats per sample, of rows that were held out; None if it was not compared.
    standard_error : float or None
        Of that, over blocks; None of fewer than two.
    classes : tuple of Class
        Of each class, in its order.
    rule : dict
        By which it was judged; see `dgmm.config.Acceptance`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    accepted: bool
    why: str
    champion: str = ""
    gain: float | None = None
    standard_error: float | None = None
    classes: tuple[Class, ...] = ()
    rule: dict[str, float] = Field(default_factory=dict)


class Card(BaseModel):
    """What is known of a version of a model.

    Attributes
    ----------
    version, model : str
        Its name, and the digest of the mixture.
    created : str
        When it was registered, ISO 8601, in UTC.
    command : str
        What has made it, if that is known.
    seconds : float
        How long its passes over the data took.
    covariance_type : str
    n_components, n_features, n_samples, n_missing, n_passes : int
    state : str
        How its climb has ended.
    criteria : dict
        Log-likelihood per sample, BIC, AIC, ICL, and what rows that were held out say; as far as they are known.
    data : dict
        The fingerprint of the samples, as texts.
    settings, versions : dict
        What the fit was made with.
    cautions : list of str
    notes : list of str
        Where it comes from.
    judgement : Judgement or None
        Whether it was taken into use, and why; None where nobody has asked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: str = FORMAT
    version: str
    model: str
    created: str
    command: str = ""
    seconds: float = Field(ge=0)
    covariance_type: str
    n_components: int = Field(ge=1)
    n_features: int = Field(ge=1)
    n_samples: int = Field(ge=1)
    n_missing: int = Field(ge=0)
    n_passes: int = Field(ge=0)
    state: str
    criteria: dict[str, float]
    data: dict[str, str]
    settings: dict[str, Any]
    versions: dict[str, str]
    cautions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    judgement: Judgement | None = None

    @property
    def to_json(self) -> str:
        """For programs."""
        return json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"

    @property
    def to_markdown(self) -> str:
        """For people."""
        samples = f"{self.n_samples} samples ({self.n_missing} missing) of {self.n_features} features"
        about = {
            "model": f"{self.covariance_type}, K = {self.n_components}",
            "fitted to": samples,
            "ended": f"{self.state} after {self.n_passes} passes, {self.seconds:.0f} s",
            "registered": self.created,
            "command": self.command or "not known",
            "digest": self.model,
        }
        parts = [
            f'# {self.version}\n\n<!-- "format": "{FORMAT}" -->',
            *_list("Cautions", self.cautions or ("none",)),
            *_list("Notes", self.notes),
            *self._judged(),
            *_table("", about),
            *_table("Criteria", {name: f"{value:.10g}" for name, value in self.criteria.items()}),
            *_table("Settings", _flat(self.settings)),
            *_table("Data", self.data),
            *_table("Versions", self.versions),
        ]
        return "\n".join(parts) + "\n"

    def _judged(self) -> list[str]:
        """What was decided, and which class goes on from which."""
        if self.judgement is None:
            return []
        its, before = self.judgement, self.judgement.champion
        told = {
            f"class {k}": "new" if c.before is None else f"class {c.before} of {before}, overlap {c.overlap:.3f}"
            for k, c in enumerate(its.classes)
        }
        return [*_list("Accepted" if its.accepted else "Refused", (its.why,)), *_table("Classes", told)]


@dataclass(frozen=True)
class Made:
    """How a fit has come about, as far as that is known.

    Attributes
    ----------
    table : pandas.DataFrame or None
        Of all candidates, if it was selected.
    settings : mapping
    data : mapping
        The fingerprint of the samples; see `dgmm.data.fingerprint`.
    command : str
    notes : tuple of str
    baseline : str
        What the samples look like through it; see `dgmm.drift.Baseline`.
    judgement : Judgement or None
        Whether it is taken into use.
    when : datetime
        When it is registered.
    """

    table: pd.DataFrame | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    notes: tuple[str, ...] = ()
    baseline: str = ""
    judgement: Judgement | None = None
    when: datetime = field(default_factory=lambda: datetime.now(UTC))


def card_of(fit: Fit, version: str, made: Made) -> Card:
    """The card of a fit."""
    known = {
        "log-likelihood per sample": fit.log_likelihood / fit.n_samples,
        **{CRITERION_NAMES[c]: fit.criterion(c) for c in (Criterion.BIC, Criterion.AIC, Criterion.ICL)},
        "held out, per sample": fit.held_out,
        "held out, standard error": fit.held_out_se,
    }
    return Card(
        version=version,
        model=digest(fit.mixture),
        created=made.when.isoformat(timespec="seconds"),
        command=made.command,
        seconds=float(sum(fit.seconds)),
        covariance_type=fit.covariance_type,
        n_components=fit.n_components,
        n_features=fit.mixture.n_inputs,
        n_samples=fit.n_samples,
        n_missing=fit.n_missing,
        n_passes=fit.n_passes,
        state=fit.state,
        criteria={name: float(value) for name, value in known.items() if pd.notna(value) and abs(value) < float("inf")},
        data=dict(made.data),
        settings=json.loads(json.dumps(dict(made.settings))),
        versions=versions(),
        cautions=tuple(cautions(fit, made.table)),
        notes=made.notes,
        judgement=made.judgement,
    )


def cautions(fit: Fit, table: pd.DataFrame | None = None) -> list[str]:
    """What whoever uses a fit should know first."""
    found = []
    if not fit.outcome.is_sound:
        found.append(f"it means little: {fit.state}, {fit.reason}")
    elif fit.remaining_gain > 0 and not fit.state.startswith("converged"):
        found.append(f"it was stopped an estimated {fit.remaining_gain:.2g} nats per sample short of its top")
    if fit.spread is not None and fit.spread.found < SELDOM * fit.spread.paths:
        found.append(f"another search may end elsewhere: {fit.spread}")
    if table is not None and (chosen := table["n_components"].max()) == fit.n_components and len(table) > 1:
        found.append(f"more components than the {chosen} that were tried may be better")
    if fit.stability is not None and (fit.stability.found_again < 1).any():
        found.append(fit.stability.words)
    if fit.n_missing:
        share = fit.n_missing / (fit.n_missing + fit.n_samples)
        found.append(f"{share:.1%} of the samples have missing values and took no part")
    return found


def _list(title: str, items: tuple[str, ...]) -> list[str]:
    return [f"\n## {title}\n", *(f"- {_text(item)}" for item in items)] if items else []


def _table(title: str, rows: Mapping[str, str]) -> list[str]:
    """A table of two columns in Markdown."""
    head = [f"\n## {title}\n"] if title else [""]
    return [*head, "| | |", "|---|---|", *(f"| {_text(k)} | {_text(v)} |" for k, v in rows.items())] if rows else []


def _text(value: str) -> str:
    """A text that stays in its cell."""
    return " ".join(value.split()).replace("|", "\\|").replace("<", "&lt;")


def _flat(settings: Mapping[str, Any], within: str = "") -> dict[str, str]:
    """Settings by their dotted names."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{within}{name}.")
        elif value is not None:
            found[within + name] = json.dumps(value) if not isinstance(value, str) else value
    return found
