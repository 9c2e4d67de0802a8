"""Which samples a model has with it: those that it was fitted to, and those of its updates."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from dgmm.errors import InputError
from dgmm.store.journal import to_json

#: Under which the settings of a model have what it has gone on with since, and each the digest of its samples.
UPDATED, SOURCE = "updates", "source"


def digest_of_source(seen: Mapping[str, str]) -> str:
    """What a model keeps of the fingerprint of its samples."""
    return hashlib.sha256(to_json(dict(seen))).hexdigest()


def earlier_updates(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the settings of a model say of its updates; what is none is left out."""
    found = settings.get(UPDATED)
    return [update for update in found if isinstance(update, dict)] if isinstance(found, list) else []


def check_new(model: str, settings: Mapping[str, Any], samples: str, source: str) -> None:
    """Raise `InputError` if a model has samples with it already, which would count twice."""
    if settings.get(SOURCE) == source:
        raise InputError(
            f"{model} was fitted to these samples ({samples}), which would count twice: name new ones, or train on all "
            f"of them (dgmm train --start {model})"
        )
    if any(update.get(SOURCE) == source for update in earlier_updates(settings)):
        raise InputError(f"{model} has these samples with it already ({samples}): name others")
