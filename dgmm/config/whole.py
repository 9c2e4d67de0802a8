"""What several jobs in a row are asked for: the whole job, and every night."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    AfterValidator,
    Field,
)

from dgmm.config.jobs import Fitting, Scoring, without_labels
from dgmm.config.sources import Data
from dgmm.fits import Numbers, Search, Settings
from dgmm.types import Refit, Renewal


class Pipeline(Scoring, Search, Fitting):
    """The whole job: select, score, report."""

    out: str = Field(min_length=1, description="Folder for everything that is written.")
    example: str | None = Field(None, description="Bundled data set to write to data.path first.")
    overwrite: bool = Field(False, description="Replace what exists instead of going on from it.")


class Acceptance(Settings):
    """When a new version of a model takes the place of the champion."""

    max_loss: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="How much less likely rows that were held out of the new data may be by a new version than by the "
        "champion: nats per sample, beyond the standard error of the difference over blocks.",
    )
    min_share: float = Field(
        0.01, ge=0, le=1, description="Classes of the champion with this share or more must be found again."
    )
    min_overlap: float = Field(
        0.7,
        ge=0,
        le=1,
        description="A class is found again where it overlaps as much with one of the new version (Bhattacharyya's "
        "coefficient: 1 for the same, 0.88 for a shift by one standard deviation, 0.61 by two).",
    )


class Refresh(Scoring, Search, Fitting):
    """What is done every night: look at the new data, renew the model where that is asked for, score what is new."""

    data: Annotated[Data, AfterValidator(without_labels)]
    registry: str = Field(min_length=1, description="Registry of the model: models/NAME.")
    out: str = Field(min_length=1, description="Scores to keep up to date, a Zarr group on the grid of the data.")
    n_components: Numbers = Field(
        "1:",
        validate_default=True,
        description="Numbers of components to try where a model is looked for (how: search, and the first one): a "
        "list, a range such as 1:12, or an open one: 1: goes on until more components bring no better criterion.",
    )
    refit: Refit = Field(
        "drifted",
        description="When the model is renewed: never, where the new data have drifted, or always when there are any.",
    )
    how: Renewal = Field(
        "update",
        description="How the model is renewed: EM on all the data from the champion on (update), or a whole selection "
        "(search). Where there is no champion yet one is looked for.",
    )
    threshold: float = Field(
        3.0,
        gt=0,
        allow_inf_nan=False,
        description="How far a figure of the new data may move, in standard deviations between blocks of the training "
        "data, before they count as drifted.",
    )
    acceptance: Acceptance = Acceptance()
    accept_changes: bool = Field(
        False,
        description="Take data for what they are where their structure has changed, or rows are gone, since the last "
        "night.",
    )
