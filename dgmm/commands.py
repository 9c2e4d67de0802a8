"""The commands of the command line."""

from __future__ import annotations

import json
from typing import Annotated, Any

from cyclopts import Parameter

from dgmm.arguments import AsJson, Changes, Quiet, asked, command, finding, options_of, show_progress, with_options
from dgmm.config import (
    Data,
    Ingest,
    Merge,
    Predict,
    Refresh,
    Sample,
    Score,
    Select,
    Train,
    Update,
    Verify,
    Watch,
    settings_of,
)
from dgmm.errors import InputError
from dgmm.fits import validated


@command(Select, "data.path")
def select(settings: Select) -> str:
    """``dgmm select``."""
    from dgmm.pipeline import run_select
    from dgmm.words import show_selection

    return show_selection(settings, run_select(settings))


@command(Train, "data.path")
def train(settings: Train) -> str:
    """``dgmm train``."""
    from dgmm.pipeline import run_train
    from dgmm.words import show_fit

    return show_fit(settings, run_train(settings))


@command(Score, "model", "data.path")
def score(settings: Score) -> str:
    """``dgmm score``."""
    from dgmm.pipeline import run_score
    from dgmm.words import show_scored

    return show_scored(settings, run_score(settings))


@command(Sample, "model")
def sample(settings: Sample) -> str:
    """``dgmm sample``."""
    from dgmm.pipeline import run_sample

    run_sample(settings)
    return f"{settings.rows} samples: {settings.out}"


@command(Ingest, "path", "out")
def ingest(settings: Ingest) -> str:
    """``dgmm ingest``."""
    from dgmm.pipeline import run_ingest

    return f"{settings.out}: {run_ingest(settings)}"


@command(Predict, "model", "data.path")
def predict(settings: Predict) -> str:
    """``dgmm predict``."""
    from dgmm.pipeline import run_predict
    from dgmm.words import show_predicted

    return show_predicted(settings, run_predict(settings))


@command(Merge, "model", "data.path")
def merge(settings: Merge) -> str:
    """``dgmm merge``."""
    from dgmm.pipeline import run_merge
    from dgmm.words import show_merged

    return show_merged(settings, run_merge(settings))


@command(Update, "model", "data.path")
def update(settings: Update) -> str:
    """``dgmm update``."""
    from dgmm.pipeline import run_update
    from dgmm.words import show_updated

    return show_updated(settings, run_update(settings))


@command(Refresh, "data.path")
def refresh(settings: Refresh) -> str:
    """``dgmm refresh``."""
    from dgmm.refresh import run_refresh

    return run_refresh(settings)


@with_options(*options_of(Verify, {setting.path for setting in settings_of(Verify)} - {"path"}))
@finding
def verify(
    path: Annotated[str, Parameter(help="Scores or a model.")],
    /,
    *,
    as_json: AsJson = False,
    changes: Changes = None,
    quiet: Quiet = False,
    **given: Any,
) -> int:
    """Say whether scores or a model are what was written: exit code 0 if so, 1 if not, 2 if that cannot be told."""
    from dgmm.pipeline import run_verify

    wanted = asked(Verify, {"path": path, **given}, changes)
    show_progress(quiet)
    verdict = run_verify(wanted)
    print(json.dumps(verdict.to_json(), allow_nan=False) if as_json else verdict)
    return 0 if verdict.is_sound else 1


@with_options(*options_of(Watch, {setting.path for setting in settings_of(Watch)} - {"model", "data.path"}))
@finding
def drift(
    model: Annotated[str, Parameter(help="A model, best one in a registry: models/NAME@champion.")],
    path: Annotated[str, Parameter(help="Data.")],
    /,
    *,
    quiet: Quiet = False,
    as_json: AsJson = False,
    changes: Changes = None,
    **given: Any,
) -> int:
    """Say whether data are still like those of a model: exit code 0 if so, 1 if not, 2 if that cannot be told."""
    from dgmm.pipeline import run_watch

    wanted = asked(Watch, {"model": model, "data.path": path, **given}, changes)
    show_progress(quiet)
    found = run_watch(wanted)
    print(json.dumps(found.to_json, allow_nan=False) if as_json else found)
    return 1 if found.found else 0


@with_options(*options_of(Data, only=("variables", "feature_dim", "group", "open", "storage")))
def info(
    path: Annotated[str, Parameter(help="A model, scores or a Zarr store.")],
    /,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative=(), help="The model in its JSON form.")] = False,
    **reading: str | None,
) -> None:
    """Print what a model, scores or a store of samples hold."""
    from dgmm import store
    from dgmm.data import is_foreign
    from dgmm.pipeline import samples_of
    from dgmm.scoring import SCORES_KIND
    from dgmm.words import show_record, show_samples, show_scores

    path = store.model_at(path)
    foreign = path.endswith(".json") or any(reading.values()) or is_foreign(path)
    attributes = {} if foreign else store.attributes(path)
    if path.endswith(".json") or str(attributes.get("format")).startswith(store.MODEL_KIND):
        dataset = store.load_dataset(path)
        record = store.from_dataset(dataset, path)
        print(json.dumps(dataset.to_dict(), indent=1, allow_nan=False) if as_json else show_record(record))
    elif as_json:
        raise InputError(f"{path} is not a model: only models have a JSON form")
    elif str(attributes.get("format")).startswith(SCORES_KIND):
        print(show_scores(path, attributes))
    else:
        print(show_samples(samples_of(validated(Data, {"path": path, **reading}))))
