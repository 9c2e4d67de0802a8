"""What is kept of a night: a note beside the scores while it lasts, and with the scores when it is over."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dgmm import store
from dgmm.errors import one_line
from dgmm.refresh.structure import Structure
from dgmm.store import Status, place_at, to_json

logger = logging.getLogger("dgmm")

FORMAT = "dgmm-night-1"
#: Suffixes of the note and of the candidate beside the scores; the name of the note among their attributes.
NOTE, CANDIDATE, ATTRIBUTE = ".night", ".candidate", "night"
#: A note is not larger.
MOST_BYTES = 4 * 2**20


class Night(BaseModel):
    """What is known of a night.

    Attributes
    ----------
    source : str
        Digest of the fingerprint of the data.
    structure : Structure
    settings : str
        Digest of what was asked for.
    compared : str
        The version that the new data were compared with; empty where there was none.
    since : int
        Where they begin along the first dimension.
    drift : dict or None
        What has come of it; see `dgmm.drift.Drift`.
    version : str
        The version that the scores are by, once there are any.
    decision : str
        What was decided of a candidate, if there was one.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: str = Field(FORMAT, pattern=f"^{FORMAT}$")
    source: str
    structure: Structure
    settings: str
    compared: str = ""
    since: int = Field(0, ge=0)
    drift: dict[str, Any] | None = None
    version: str = ""
    decision: str = ""

    @property
    def drifted(self) -> bool:
        """Whether the new data have moved beyond the threshold."""
        return bool(self.drift and self.drift.get("drifted"))

    @property
    def to_json(self) -> str:
        """As it is stored."""
        return json.dumps(self.model_dump(mode="json"), allow_nan=False)


def digest_of(values: Mapping[str, Any]) -> str:
    """A name for plain values."""
    return hashlib.sha256(to_json(dict(values))).hexdigest()


def parsed(content: str | bytes, name: str) -> Night | None:
    """A night as it is stored; None, which is said, if it is none."""
    try:
        return Night.model_validate(json.loads(content))
    except (ValueError, RecursionError, ValidationError) as error:
        logger.warning("%s tells nothing of the last night: %s", name, one_line(error)[:200])
        return None


def last_night(out: str) -> Night | None:
    """The night whose scores lie at a place, if there are any."""
    state = place_at(out).state()
    if state.status is not Status.FINISHED or state.what != "scores":
        return None
    content = store.attributes(out).get(ATTRIBUTE)
    return parsed(content, out) if isinstance(content, str) else None


def noted(out: str) -> Night | None:
    """The note of a night that lies beside the scores, if there is one."""
    content = place_at(out.rstrip("/") + NOTE).content(MOST_BYTES)
    return None if content is None else parsed(content, out.rstrip("/") + NOTE)


def note(out: str, night: Night) -> None:
    """Put the note of a night beside the scores."""
    with place_at(out.rstrip("/") + NOTE).begin("night", overwrite=True) as output:
        output.write((night.to_json + "\n").encode())
        output.finish()
