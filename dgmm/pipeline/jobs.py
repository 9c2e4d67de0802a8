"""What settings ask for, one job at a time: train, select, score, and so on."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from dgmm import store
from dgmm.api import verify
from dgmm.config import (
    Cluster,
    Data,
    Ingest,
    Merge,
    Merging,
    Predict,
    Sample,
    Sampling,
    Score,
    Select,
    Train,
    Update,
    Verify,
    Watch,
)
from dgmm.data import Samples, check_unchanged, fingerprint, open_samples
from dgmm.drift import Baseline, Drift, baseline_of, census_of, compare
from dgmm.engine import Projection, Workers, open_workers
from dgmm.errors import InputError, OutputExistsError
from dgmm.fits import Fit, One, Selection, Settings, Training
from dgmm.fitting import (
    merge_samples,
    past_of,
    projection_of,
    select_samples,
    started,
    train_samples,
    update_projection,
    update_samples,
)
from dgmm.ingestion import Ingested, ingest_into
from dgmm.prediction import Predicted, Wanted, predict_projection, predict_samples, source_layout, with_given
from dgmm.registry import Registry
from dgmm.sampling import sample_into
from dgmm.scoring import Scored, Verdict, score_projection, score_samples, scored_as
from dgmm.store import (
    JOURNAL,
    SOURCE,
    UPDATED,
    Records,
    Status,
    check_new,
    digest,
    digest_of_source,
    earlier_updates,
    journal_at,
    place_at,
    settings_in,
)

logger = logging.getLogger("dgmm")

#: Names of what a selection writes into its folder.
MODEL, TABLE = "model.zarr", "candidates.csv"
#: Under which the settings of a model say how its components were merged.
MERGED = "merge"


def samples_of(data: Data, model: Fit | None = None) -> Samples:
    """The samples that settings name; what they leave open is as for the samples that a model was fitted to."""
    # a model knows its classes: what is known of those of other data is of no use to it
    how = data.model_dump(exclude={"path"} if model is None else {"path", "labels"})
    return open_samples(data.path, **how, like=None if model is None else model.layout)


def samples_for(data: Data, model: Fit) -> Samples:
    """The samples that settings name, with the features of a model in its order."""
    return samples_of(data, model).like(model.features, model.layout)


def workers_of(cluster: Cluster, need: Projection | None = None) -> AbstractContextManager[Workers]:
    """Context of the workers that settings name, for what needs so much memory."""
    return open_workers(**cluster.model_dump(), need=need)


def run_train(settings: Train, *, again: bool = False) -> Fit:
    """Train and write the model; another try of the same run goes on from its journal, whatever is to be replaced."""
    one: One = settings
    start, given, inputs = start_of(settings), None, [settings.data.path]
    samples = samples_of(settings.data, start)
    if settings.start is not None and start is not None:
        one, samples, given = started(settings, samples, start)
        inputs.append(store.model_at(settings.start))
    before, made = fingerprint(samples), made_with(settings) | about_start(start)
    # claimed first: what cannot be written is better found before the work than after it
    with (
        place_at(settings.out).begin("model", overwrite=settings.overwrite, inputs=inputs) as output,
        journal_beside(settings.out, settings, before, made, again=again) as journal,
        workers_of(settings.cluster, projection_of(samples, one, settings.training)) as workers,
    ):
        fit = train_samples(samples, workers, one, settings.training, given, journal)
        check_unchanged(samples, before)
        made |= {SOURCE: digest_of_source(before)}
        with store.rescued(fit, settings.out, settings=made):
            store.write(output, fit, settings=made)
            output.finish()
    return fit


def start_of(settings: Settings) -> Fit | None:
    """The model that a fit begins with, if settings name one."""
    return store.load(settings.start) if isinstance(settings, Train) and settings.start is not None else None


def about_start(start: Fit | None) -> dict[str, Any]:
    """What is said of it beside where it lies."""
    return {} if start is None else {"start_digest": digest(start.mixture)}


def run_select(settings: Select, *, again: bool = False) -> Selection:
    """Select and write the best model and the table of candidates; with another try it is as for `run_train`."""
    samples, inputs = samples_of(settings.data), [settings.data.path]
    before = fingerprint(samples)
    model, table = (place_at(os.path.join(settings.out, name)) for name in (MODEL, TABLE))
    # a table without its model is what a run has left that got no further
    stale = settings.overwrite or model.state().status is not Status.FINISHED
    with (
        model.begin("model", overwrite=settings.overwrite, inputs=inputs) as output,
        table.begin("table", overwrite=stale, inputs=inputs) as listing,
        journal_beside(model.name, settings, before, made_with(settings), again=again) as journal,
        workers_of(settings.cluster, projection_of(samples, settings, settings.training)) as workers,
    ):
        selection = select_samples(samples, workers, settings, settings.training, journal)
        check_unchanged(samples, before)
        made = made_with(settings) | {SOURCE: digest_of_source(before)}
        with store.rescued(selection.best, model.name, table=selection.table, settings=made):
            store.write(output, selection.best, table=selection.table, settings=made)
            listing.write(selection.table.to_csv(index=False).encode())
            listing.finish()
            output.finish()
    return selection


def journal_beside(
    out: str, settings: Train | Select, source: Mapping[str, str], made: Mapping[str, Any], *, again: bool = False
) -> AbstractContextManager[Records]:
    """Context of the journal of a fit, beside its output: what an interrupted run with these settings goes on from."""
    return journal_at(
        out.rstrip("/") + JOURNAL,
        source,
        made,
        overwrite=settings.overwrite and not again,
        keep=settings.keep_journal,
    )


def run_score(settings: Score, attributes: Mapping[str, Any] | None = None, *, any_units: bool = False) -> Scored:
    """Score and write the scores, with the version that an alias stands for now and with what else is said of them.

    Units that differ from those of the model's data are refused, unless somebody has judged them (``any_units``).
    """
    settings = settings.model_copy(update={"model": store.model_at(settings.model)})
    fit = scored_as(store.load(settings.model), settings.missing)
    samples, inputs = samples_of(settings.data, fit), [settings.data.path, settings.model]
    samples = replace(samples, any_units=any_units)
    if settings.interpolate:
        samples = samples.like(fit.features, fit.layout, interpolate=True)
    replaces = settings.overwrite or settings.extend or settings.append
    with (
        place_at(settings.out).begin("scores", overwrite=replaces, inputs=inputs, resumes=True) as output,
        workers_of(
            settings.cluster, score_projection(fit, samples, output, settings.probabilities, settings.clusters)
        ) as workers,
    ):
        return score_samples(
            fit,
            samples,
            output,
            workers,
            probabilities=settings.probabilities,
            clusters=settings.clusters,
            settings=made_with(settings),
            extend=settings.extend and not settings.overwrite,
            append=settings.append and not settings.overwrite,
            attributes=attributes,
        )


def run_sample(settings: Sample) -> None:
    """Draw samples and write them."""
    model = store.model_at(settings.model)
    drawn = settings.model_dump(include={*Sampling.model_fields})
    with (
        place_at(settings.out).begin("samples", overwrite=settings.overwrite, inputs=[model]) as output,
        workers_of(settings.cluster) as workers,
    ):
        sample_into(store.load(model), output, workers, **drawn, settings=made_with(settings))


def run_ingest(settings: Ingest) -> Ingested:
    """Write what is no Zarr store as one."""
    how = settings.model_dump(exclude={"path", "out", "overwrite"})
    with place_at(settings.out).begin("data", overwrite=settings.overwrite, inputs=[settings.path]) as output:
        return ingest_into(settings.path, output, **how)


def run_predict(settings: Predict) -> Predicted:
    """Predict features and write what is expected of them."""
    settings = settings.model_copy(update={"model": store.model_at(settings.model)})
    fit, inputs = store.load(settings.model), [settings.data.path, settings.model]
    asked = settings.model_dump(include={"of", "given", "variance", "dtype", "impute", "seed"})
    wanted = Wanted.asked(fit, **asked)
    data = settings.data.model_dump(exclude={"path"})
    samples = open_samples(settings.data.path, **data, like=source_layout(fit, wanted, settings.data.variables))
    if settings.interpolate:
        samples, _ = with_given(samples, fit, wanted, interpolate=True)
    with (
        place_at(settings.out).begin("predictions", overwrite=settings.overwrite, inputs=inputs) as output,
        workers_of(settings.cluster, predict_projection(fit, samples, wanted, output)) as workers,
    ):
        return predict_samples(fit, samples, wanted, output, workers, settings=made_with(settings))


def run_merge(settings: Merge) -> Fit:
    """Merge components into clusters, and write the model with these if that is asked for."""
    settings = settings.model_copy(update={"model": store.model_at(settings.model)})
    record = store.read(settings.model)
    samples, inputs = samples_of(settings.data, record.fit), [settings.data.path, settings.model]
    how = Training(**settings.model_dump(include={*Merging.model_fields}))
    with (
        nullcontext()
        if settings.out is None
        else place_at(settings.out).begin("model", overwrite=settings.overwrite, inputs=inputs) as output,
        workers_of(settings.cluster) as workers,
    ):
        fit = merge_samples(record.fit, samples, workers, how)
        if output is not None:
            merged = {**record.settings, MERGED: made_with(settings)}
            store.write(output, fit, table=record.table, settings=merged)
            output.finish()
    return fit


def run_update(settings: Update, *, again: bool = False) -> Fit:
    """Go on with new samples and write the model; with another try it is as for `run_train`."""
    settings = settings.model_copy(update={"model": store.model_at(settings.model)})
    record, inputs = store.read(settings.model), [settings.data.path, settings.model]
    past = past_of(record.fit, settings.model)
    samples = samples_for(settings.data, record.fit)
    before, earlier = fingerprint(samples), earlier_updates(record.settings)
    source = digest_of_source(before)
    made = made_with(settings) | about_model(record.fit) | {SOURCE: source}
    check_new(settings.model, record.settings, samples.name, source)
    with (
        place_at(settings.out).begin("model", overwrite=settings.overwrite, inputs=inputs) as output,
        journal_at(
            settings.out.rstrip("/") + JOURNAL,
            before,
            made | {"statistics": past.digest},
            overwrite=settings.overwrite and not again,
        ) as journal,
        workers_of(settings.cluster, update_projection(record.fit, samples, settings)) as workers,
    ):
        fit = update_samples(record.fit, samples, workers, settings, settings.forget, journal)
        check_unchanged(samples, before)
        updated = {**record.settings, UPDATED: [*earlier, made]}
        with store.rescued(fit, settings.out, settings=updated):
            store.write(output, fit, settings=updated)
            output.finish()
    return fit


def about_model(fit: Fit) -> dict[str, Any]:
    """What is said of a model beside where it lies."""
    return {"model_digest": digest(fit.mixture)}


def run_verify(settings: Verify) -> Verdict:
    """Look at scores or a model."""
    return verify(settings.path, **settings.model_dump(exclude={"path", "cluster"}), **settings.cluster.model_dump())


def run_watch(settings: Watch) -> Drift:
    """Compare data with those that a model was fitted to."""
    model = store.load(settings.model)
    samples = samples_for(settings.data, model)
    with workers_of(settings.cluster) as workers:
        if settings.reference is not None:
            was = settings.data.model_copy(update={"path": settings.reference})
            baseline = baseline_of(samples_for(was, model), model.mixture, workers, completed=model.marginalises)
        else:
            baseline = baseline_in(settings.model, model)
        now = census_of(samples, model.mixture, baseline.bound, workers, completed=baseline.completed)
    noisy = model.noise is not None
    return compare(baseline, now, settings.threshold, lambda part: where(samples, part), noisy=noisy)


def baseline_in(name: str, model: Fit) -> Baseline:
    """The baseline that lies beside a version of a model; raises `InputError` if there is none, or one of another."""
    registry, version = Registry.of(name)
    content = registry.baseline(registry.version(version)) if version else None
    if content is None:
        raise InputError(
            f"{name} has no baseline: name what it was fitted to (reference), or register it with its data"
        )
    baseline = Baseline.from_json(content, f"the baseline of {name}")
    if baseline.model != digest(model.mixture):
        raise InputError(f"the baseline of {name} is of another model: register it again with its data")
    return baseline


def where(samples: Samples, segment: int) -> str:
    """A segment in words."""
    starts = (samples.start, *(0 for _ in samples.dims[1:]))
    places = zip(samples.dims, samples.grid.region(segment), starts, strict=True)
    return ", ".join(f"{dim} {s.start + start}:{s.stop + start}" for dim, s, start in places)


def made_with(settings: Settings) -> dict[str, Any]:
    """What a result depends on: the settings without those that only say where and by whom."""
    return settings.model_dump(mode="json", exclude={"out", "cluster", "overwrite", "keep_journal", "extend", "append"})


def is_done(path: str, wanted: Train | Select | Score | Predict | Merge | Update) -> bool:
    """Whether a result is there, made with these settings; one made with others is not replaced unasked."""
    grows = isinstance(wanted, Score) and (wanted.extend or wanted.append)  # which is to be looked at
    if wanted.overwrite or grows or place_at(path).state().status is not Status.FINISHED:
        return False
    found = store.attributes(path)
    before, now = settings_in(found), made_with(wanted) | about_start(start_of(wanted))
    if isinstance(wanted, Merge):
        before = dict(before.get(MERGED, {}))
    if isinstance(wanted, Update):
        *_, before = earlier_updates(before) or [{}]
        now |= about_model(store.load(wanted.model))
    if not isinstance(wanted, (Score, Predict)):
        before = {name: value for name, value in before.items() if name != SOURCE}
    if isinstance(wanted, (Score, Predict, Merge)):
        # a merged model is the same mixture
        before["model_digest"] = found.get("digest" if isinstance(wanted, Merge) else "model")
        now["model_digest"] = digest(store.load(wanted.model).mixture)
    if before == now:
        logger.info("%s exists, made with the same settings: kept (--overwrite makes it anew)", path)
        return True
    changed = sorted(k for k in now if before.get(k) != now[k])
    raise OutputExistsError(
        f"{path} exists, made with other settings ({', '.join(changed)}): overwrite it (--overwrite), or choose "
        "another out"
    )
