"""The commands ``dgmm models``: a registry of models in a folder."""

from __future__ import annotations

import json
import shlex
from typing import Annotated

from cyclopts import Parameter

from dgmm import store
from dgmm.arguments import AsJson
from dgmm.config import Data
from dgmm.data import fingerprint
from dgmm.drift import baseline_of
from dgmm.engine import open_workers
from dgmm.errors import InputError
from dgmm.fits import validated
from dgmm.pipeline import samples_of
from dgmm.registry import Made, Registry

Folder = Annotated[str, Parameter(help="A registry, such as models/NAME.")]
Version = Annotated[
    str, Parameter(help="A version in a registry: models/NAME@champion, or the beginning of its date or digest.")
]
Why = Annotated[str, Parameter(help="Kept with the alias.")]


def add_version(
    registry: Folder,
    model: Annotated[str, Parameter(help="A model.")],
    /,
    *,
    data: Annotated[
        str | None,
        Parameter(
            help="What it was fitted to, read twice: its fingerprint goes on the card, and drift is told from it."
        ),
    ] = None,
    promote: Annotated[bool, Parameter(negative=(), help="Make it the champion too.")] = False,
) -> None:
    """Put a model into a registry, as its candidate."""
    record, where = store.read(model), _registry(registry)
    source = data or record.settings.get("data", {}).get("path")
    known, baseline = {}, ""
    if data is not None:
        fit = record.fit
        samples = samples_of(validated(Data, {**record.settings.get("data", {}), "path": data}), fit)
        known = fingerprint(samples)
        with open_workers(None) as workers:
            ours = samples.like(fit.features, fit.layout)
            baseline = baseline_of(ours, fit.mixture, workers, completed=fit.marginalises).to_json
    notes = (f"registered from {model}", *([f"fitted to {source}"] if source else []))
    command = shlex.join(["dgmm", "models", "add", registry, model])
    version = where.add(record.fit, Made(record.table, record.settings, known, command, notes, baseline))
    if promote:
        where.promote(version)
    print(f"{where.folder}@{version} is the {'champion' if promote else 'candidate'}")


def list_version(registry: Folder, /, *, as_json: AsJson = False) -> None:
    """List the versions in a registry, and which of them is in use."""
    where = _registry(registry)
    table = where.table()
    if as_json:
        rows = json.loads(table.to_json(orient="records", double_precision=15))
        print(json.dumps({"registry": where.folder, "aliases": where.aliases(), "versions": rows}))
    else:
        shown = table.to_string(index=False, float_format=lambda value: f"{value:.4f}")
        print(f"no versions in {where.folder}" if table.empty else shown)


def show_version(version: Version, /, *, as_json: AsJson = False) -> None:
    """Show the card of a version."""
    where, wanted = Registry.of(version)
    card = where.card(where.version(wanted or store.CHAMPION))
    print((card.to_json if as_json else card.to_markdown).rstrip())


def promote_version(version: Version, /, *, why: Why = "promoted") -> None:
    """Make a version the champion."""
    where, wanted = Registry.of(version)
    if not wanted:
        raise InputError(f"{version}: which version? Name it after an @, such as {where.folder}@candidate")
    print(f"{where.folder}@champion is {where.promote(wanted, why)}")


def rollback_version(registry: Folder, /, *, why: Why = "rolled back") -> None:
    """Make the version before the champion again."""
    where = _registry(registry)
    print(f"{where.folder}@champion is {where.rollback(why)}")


def _registry(name: str) -> Registry:
    where, wanted = Registry.of(name)
    if wanted:
        raise InputError(f"{name}: name the registry, without a version ({where.folder})")
    return where
