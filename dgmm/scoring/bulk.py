"""Bulk scoring: labels, probabilities and log densities on the grid of the input, written region by region."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import zarr

from dgmm.data import Samples, check_names, seen
from dgmm.engine import Fold, Projection, Workers, projected_bytes
from dgmm.errors import DgmmError, InputError
from dgmm.fits import Fit
from dgmm.scoring.arrays import (
    VARIABLES,
    check_coordinates,
    create,
    labels_in,
    labels_of,
    others_in,
    stored_digest,
    sweep,
    write_coordinates,
)
from dgmm.scoring.entries import GROUP, head_of, names_of, write_ledger
from dgmm.scoring.former import Former
from dgmm.scoring.kept import begun, kept_for_another
from dgmm.scoring.ledger import Ledger
from dgmm.scoring.portions import in_portions
from dgmm.scoring.segments import Scored, ScoreSegment
from dgmm.store import Output, Status, consolidate
from dgmm.types import ScoredMissing

logger = logging.getLogger("dgmm")


def level_of(model: Fit, clusters: int | None) -> tuple[int, ...] | None:
    """The cluster of each component where so many clusters are to be labelled; None for components by themselves."""
    if clusters is None:
        return None
    if model.clusters is None:
        raise InputError(f"the model has no clusters, and {clusters} are asked for: merge its components (dgmm merge)")
    return tuple(model.clusters.level(clusters).tolist())


def scored_as(model: Fit, missing: ScoredMissing | None) -> Fit:
    """A model that takes samples of which values are missing as asked; None: as it was fitted."""
    if missing is None or missing == model.missing:
        return model
    if missing == "marginalise":
        if not model.mixture.family.incomplete:
            raise InputError(
                f"what is missing cannot be marginalised in a {model.covariance_type} model: leave such samples out "
                "(missing=omit)"
            )
        if model.mixture.transform is not None:
            model.mixture.transform.check_incomplete()
    return replace(model, missing=missing)


def score_projection(
    model: Fit, samples: Samples, output: Output, probabilities: bool, clusters: int | None = None
) -> Projection:
    """What a worker needs to score samples into an output."""

    def need(threads_per_worker: int, n_threads: int) -> int:
        ours = samples.like(model.features, model.layout)
        level, n = level_of(model, clusters), len(model.classes)
        leaf = ScoreSegment.of(
            model.mixture, ours, Ledger(output, {}).recording, probabilities, level, n_classes=n,
            marginal=model.marginalises,
        )  # fmt: skip
        return projected_bytes(ours, [leaf], threads_per_worker, n_threads)

    return need


def score_samples(
    model: Fit,
    samples: Samples,
    output: Output,
    workers: Workers,
    *,
    probabilities: bool = False,
    clusters: int | None = None,
    settings: Mapping[str, Any] | None = None,
    extend: bool = False,
    append: bool = False,
    attributes: Mapping[str, Any] | None = None,
) -> Scored:
    """Score all samples into an output that has been begun, and finish it.

    Of an output that a dead run has left, regions that are recorded and lie there as they were written are kept.

    Parameters
    ----------
    model : Fit
    samples : Samples
    output : Output
    workers : Workers
    probabilities : bool
        Write those of every component too.
    clusters : int, optional
        Label so many clusters of merged components in the place of components.
    settings : mapping, optional
        What they are made with, kept with the scores.
    extend : bool
        Carry over what lies at the place already, by the same model, of chunks that have not changed since.
    append : bool
        The same, and raise `InputError` where there is more to do than score what has been appended.
    attributes : mapping, optional
        What else is said of the scores.

    Raises
    ------
    OutputExistsError
        If what was left is of another source or model, and not to be replaced.
    """
    samples = samples.like(model.features, model.layout)
    taken = {*VARIABLES, GROUP} & {*map(str, samples.coords.coords), *samples.dims}
    level = level_of(model, clusters)
    taken |= {labels_of(model, level)[0]} & {*samples.dims, *samples.coords.dims}
    if taken:
        raise InputError(f"{samples.name} has a coordinate called {', '.join(sorted(taken))}, as scores do: rename it")
    check_names(samples.name, samples.coords.coords)
    former = Former.at(output.place.name) if extend or append else None
    if append and former is None and output.place.state().status is Status.FINISHED:
        raise InputError(
            f"{output.place.name} holds no scores that can be appended to: choose another place, or --overwrite"
        )
    samples = samples if former is None else former.cut(samples)
    found = seen(samples)
    ledger = Ledger(output, head_of(samples, model, probabilities, found, level))
    if former is not None and append:
        former.check_appended(ledger.head, found.regions, samples)
    if former is not None and former.is_all(ledger.head, settings or {}, attributes or {}):
        logger.info("%s is of these data and this model already: nothing is to be scored", output.place.name)
        # what somebody has begun and not ended is of no use any more
        output.kept = False
        return Scored.of(former.table, labels_in(former.attributes))

    def leaf() -> ScoreSegment:
        """Made when it is wanted: who records what may have changed."""
        n = len(model.classes)
        return ScoreSegment.of(
            model.mixture, samples, ledger.recording, probabilities, level, n_classes=n, marginal=model.marginalises
        )

    Fold(samples, workers, keep=False).check(leaf())
    check_coordinates(samples, workers)
    began = time.perf_counter()
    with kept_for_another(output, ledger):
        names = names_of(ledger.head)
        how = partial(
            create, samples=samples, model=model, probabilities=probabilities, settings=settings or {}, level=level
        )
        store, todo = begun(output, ledger, how, found.regions, former, workers)
        if todo:
            in_portions(samples, workers, leaf(), todo)
        ledger.check_source(samples)
        table, known = ledger.load()
        lost = {*np.flatnonzero(~known).tolist()}.union(*(sweep(store, name, samples.grid) for name in names))
        if lost:
            raise DgmmError(
                f"{len(lost)} regions of {output.place.name} are gone (first {min(lost)}): run the same again"
            )
        write_coordinates(store, samples)
        group = zarr.open_group(store, mode="r+", use_consolidated=False)
        scored = Scored.of(table, labels_in(group.attrs))
        coordinates = {name: stored_digest(store, name) for name in others_in(store)}
        write_ledger(group, ledger.head, table, coordinates, found.regions)
        # what others have said of scores that are brought up to date is still said
        said = {} if former is None else {k: v for k, v in former.attributes.items() if k not in group.attrs}
        group.attrs.update(said | dict(attributes or {}) | attributes_of(scored) | {"complete": 1})
        consolidate(store)
        output.finish()
    seconds, size = time.perf_counter() - began, samples.grid.size
    n = sum(map(samples.grid.n_rows, todo))
    logger.info(
        "scored %s samples (%d missing) in %.1f s, %.3g rows/s",
        size if n == size else f"{n} of {size}", scored.n_missing, seconds, n / seconds,
    )  # fmt: skip
    return scored


def attributes_of(scored: Scored) -> dict[str, Any]:
    """What is said of scores in their attributes once they are complete."""
    return {"counts": scored.counts.tolist(), "n_missing": scored.n_missing, "log_likelihood": scored.log_density}
