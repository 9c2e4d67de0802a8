"""What is shown of a run where it is watched: the report, what a check has come to, what has moved."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.events import emit_event

from dgmm.drift import Drift, Shift
from dgmm.errors import without_secrets
from flows.watch import this_run

#: Bytes of a picture that is put into an artifact; a larger one is only linked to.
LARGEST_PICTURE = 300_000
#: What an event is called that says that data have moved away from what the model was fitted to.
DRIFT = "dgmm.drift"


def publish_report(report: str, picture: str) -> None:
    """Link to a report, and show its picture."""
    create_link_artifact(link=link_to(report), key="dgmm-report", description="The report")
    if "://" not in picture and os.path.exists(picture) and os.path.getsize(picture) <= LARGEST_PICTURE:
        shown = f"data:image/png;base64,{b64encode(Path(picture).read_bytes()).decode()}"
        create_image_artifact(image_url=shown, key="dgmm-picture", description="The report's picture")


def link_to(path: str) -> str:
    """A link to what lies at a path or URL, without what may be secret."""
    return without_secrets(path) if "://" in path else Path(path).absolute().as_uri()


def publish_verification(path: str, words: str) -> None:
    """Show what looking at scores or a model has come to."""
    text = f"`{without_secrets(path)}`\n\n```\n{words}\n```"
    create_markdown_artifact(key="dgmm-verification", markdown=text, description="What was looked at, and found")


def publish_drift(drift: Mapping[str, Any]) -> None:
    """Show what has moved and where, as `Drift.to_json` has it; send an event if that is more than it may be."""
    shifts, places = ([Shift(**each) for each in drift[name]] for name in ("shifts", "places"))
    found = Drift(drift["threshold"], tuple(shifts), tuple(places), drift["parts_moved"], drift["parts"])
    create_markdown_artifact(key="dgmm-drift", markdown=f"```\n{found}\n```", description="What has moved, and where")
    rows = [{**vars(shift), "found": shift in found.found} for shift in (*shifts, *places)]
    create_table_artifact(key="dgmm-shifts", table=rows, description="Figures before and now; effects in deviations")
    if found.found:
        words = [str(shift) for shift in (*found.found, *places)]
        emit_event(DRIFT, resource=this_run(), payload={"found": words, "threshold": found.threshold})
