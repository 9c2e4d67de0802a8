"""What may lie at a place, and how that is told by its first bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from dgmm.data import Run

#: By what it holds among its first bytes a file is known as an output of ours.
SIGNATURES = {
    "model": b'"format": "dgmm-model-',
    "alias": b'"format": "dgmm-alias-',
    "card": b'"format": "dgmm-card-',
    "baseline": b'"format": "dgmm-baseline-',
    "night": b'"format": "dgmm-night-',
    "table": b"n_components,covariance_type,",
    "report": b'name="generator" content="dgmm',
    "picture": b"Software\0dgmm",
}
HEAD = 4096
#: The file that makes a folder a journal; those of its records have digits for names.
JOURNAL_HEAD = "dgmm-journal.json"


class Status(StrEnum):
    """What lies at a place."""

    ABSENT = "absent"
    #: Claimed by a run, alive or dead, and not complete.
    UNFINISHED = "unfinished"
    FINISHED = "finished"
    #: Something that is not ours, and never replaced.
    STRANGE = "strange"


@dataclass(frozen=True)
class State:
    """What lies at a place.

    Attributes
    ----------
    status : Status
    what : str
        Of a finished output: model, scores, samples, example, table, report or picture.
    detail : str
        Why it is strange.
    run : Run or None
        Whose an unfinished output is.
    """

    status: Status
    what: str = ""
    detail: str = ""
    run: Run | None = None


def state_of_group(root: bytes | None, alien: Sequence[str]) -> State:
    """State of a folder by the metadata of its root, if any, and the names of what is no part of a Zarr group."""
    if JOURNAL_HEAD in alien and root is None:
        alien = [name for name in alien if name != JOURNAL_HEAD and not name.partition(".")[0].isdigit()]
        if not alien:
            return State(Status.FINISHED, what="journal")
    what = None if root is None else what_of(root)
    if root is not None and what is None:
        return State(Status.STRANGE, detail="was not written by dgmm")
    if alien:
        return State(Status.STRANGE, detail=f"holds what dgmm has not written ({', '.join(sorted(alien)[:3])})")
    return State(Status.UNFINISHED) if what is None else State(Status.FINISHED, what=what)


def what_of(root: bytes) -> str | None:
    """Kind of output by the metadata of a Zarr group; None if it is not ours."""
    try:
        name = json.loads(root)["attributes"]["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    parts = name.split("-") if isinstance(name, str) else []
    return parts[1] if len(parts) == 3 and parts[0] == "dgmm" else None


def state_of_file(head: bytes) -> State:
    """State of a file by its first bytes."""
    for what, signature in SIGNATURES.items():
        if signature in head:
            return State(Status.FINISHED, what=what)
    return State(Status.STRANGE, detail="is a file that was not written by dgmm")
