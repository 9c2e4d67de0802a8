"""Apply a model: score samples, draw some, and look at what was written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

import xarray as xr

from dgmm import store
from dgmm.api.calls import workers_named
from dgmm.config import Cluster, Data, Labelling, Sample, Sampling, Score, Verify, Verifying
from dgmm.data import Samples, Source, open_dataset, open_samples
from dgmm.errors import InputError
from dgmm.fits import Fit, by_model, validated
from dgmm.keywords import SampleOptions, ScoreOptions, VerifyOptions, takes
from dgmm.mixture import Mixture
from dgmm.sampling import LABELS, sample_into
from dgmm.scoring import (
    Verdict,
    kind_of,
    open_written,
    part_of,
    score_projection,
    score_samples,
    scored_as,
    some_of,
    verify_anew,
    verify_data,
    verify_model,
    verify_structure,
)
from dgmm.store import place_at, settings_in

if TYPE_CHECKING:
    from distributed import Client


@takes(ScoreOptions, Score)
def score(
    model: Fit | str | os.PathLike[str],
    source: Source,
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    extend: bool = False,
    append: bool = False,
    scheduler: str | Client | None = None,
    **options: Unpack[ScoreOptions],
) -> xr.Dataset:
    """Label every sample of a source with a fitted mixture, into a Zarr group on the grid of the source.

    The source is opened as the data of the model were, unless ``variables`` or ``feature_dim`` say otherwise. Features
    are told by their names, or by their labels along a dimension, and put in the order of the model; where neither
    side has such, they are taken by their place. Others are refused, and so are other units; ``interpolate`` takes
    what lies between other levels. As many ``variables`` as the model has, none of which is called like one of those,
    stand for them in their order.

    Parameters
    ----------
    model : Fit or path
    source : path, URL, zarr.Array, xarray object, dask.array.Array, ndarray or DataFrame
    out : path or URL
        Gets ``label`` (-1 where a value is missing, -2 for noise), ``probability`` (of the label), ``log_density`` and,
        if asked for, ``probabilities`` (a last dimension ``component``, in the last place noise), with the coordinates
        of the source.
    overwrite : bool
        Replace what exists.
    extend : bool
        Scores that are there are brought up to date: of chunks of the data that are as they were, those by the same
        model are kept, and what was appended or has changed is scored. Where nothing tells, or by another model, all
        of it is.
    append : bool
        As extend, and refused where there is more to do than score what has been appended along one dimension: where
        scored data have changed or are gone, nothing tells, or the model is another.
    scheduler
        As for `train`.

    The same call goes on from what one that was interrupted or killed has left beside the output; one with another
    model or source is refused, or starts over where it may overwrite.

    Returns
    -------
    xarray.Dataset
        What was written, lazily.

    Raises
    ------
    InputError
        If the features of the source are not those of the model, or it cannot be told.
    ReadError
        If a chunk of the source is not there, or cannot be decoded.
    """
    data, cluster, rest = by_model(options, Data, Cluster)
    how = validated(Labelling, rest)
    if not isinstance(model, Fit):
        model = store.model_at(model)
    fit = scored_as(model if isinstance(model, Fit) else store.load(model), how.missing)
    samples = open_samples(source, like=fit.layout, **data)
    if how.interpolate:
        samples = samples.like(fit.features, fit.layout, interpolate=True)
    inputs = [place for place in (model, source) if isinstance(place, (str, os.PathLike))]
    # where to look when the scores are verified
    named: dict[str, Any] = {"model": os.fspath(model)} if isinstance(model, (str, os.PathLike)) else {}
    if isinstance(source, (str, os.PathLike)):
        named["data"] = {"path": os.fspath(source), **data}
    if how.interpolate:
        named["interpolate"] = True
    # workers of ours are gone before what they wrote of an output that is given up is removed
    with (
        place_at(out).begin("scores", overwrite=overwrite or extend or append, inputs=inputs, resumes=True) as output,
        workers_named(
            scheduler, cluster, score_projection(fit, samples, output, how.probabilities, how.clusters)
        ) as workers,
    ):
        score_samples(
            fit,
            samples,
            output,
            workers,
            **how.model_dump(exclude={"missing", "interpolate"}),
            settings=named,
            extend=extend and not overwrite,
            append=append and not overwrite,
        )
    return open_scores(out)


@takes(SampleOptions, Sample)
def sample(
    model: Fit | Mixture | str | os.PathLike[str],
    rows: int,
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    scheduler: str | Client | None = None,
    **options: Unpack[SampleOptions],
) -> xr.Dataset:
    """Draw samples of any number from a mixture, into a Zarr group that is read as any data are.

    They are drawn and written chunk by chunk, with the names and units of the model's features. The same seed and
    chunks give the same samples, whoever the workers are. What an interrupted call has written is removed.

    Parameters
    ----------
    model : Fit, Mixture or path
    rows : int
        How many samples to draw, such as 1e9.
    out : path or URL
        Gets what the model was fitted to: a variable for each feature, or one that holds them along a dimension.
    overwrite : bool
        Replace what exists.
    scheduler
        As for `train`.

    Returns
    -------
    xarray.Dataset
        What was written, lazily, with ``label`` where labels are asked for.

    Raises
    ------
    InputError
        If the model or a parameter cannot be used.
    """
    cluster, rest = by_model(options, Cluster)
    how = validated(Sampling, {"rows": rows, **rest})
    inputs: list[str] = []
    if not isinstance(model, (Fit, Mixture)):
        inputs = [store.model_at(model)]
        model = store.load(inputs[0])
    with (
        place_at(out).begin("samples", overwrite=overwrite, inputs=inputs) as output,
        workers_named(scheduler, cluster) as workers,
    ):
        sample_into(model, output, workers, **how.model_dump())
    return open_drawn(out, labels=how.labels)


@takes(VerifyOptions, Verify)
def verify(
    path: str | os.PathLike[str], *, scheduler: str | Client | None = None, **options: Unpack[VerifyOptions]
) -> Verdict:
    """Say whether scores or a model are what was written; nothing is mended.

    Of a model everything is looked at, of scores their structure and their ledger, unless more is asked for.

    Parameters
    ----------
    path : path or URL
    scheduler
        As for `train`.

    Returns
    -------
    Verdict
        ``is_sound``, and ``findings`` with the array, the region and the path of each.

    Raises
    ------
    InputError
        If it could not be looked at: nothing of dgmm's lies there, or the model or the source of the scores cannot be
        found or are others.
    """
    cluster, rest = by_model(options, Cluster)
    how, name = validated(Verifying, rest), store.model_at(path)
    subset = part_named(how.subset)
    if kind_of(name) == "model":
        return verify_model(name)
    verdict = Verdict(name, "scores")
    scores = open_written(name, verdict)
    if scores is None:
        return verdict
    verify_structure(scores, verdict)
    regions = part_of(scores.head["regions"], subset)
    if not (how.data or subset or how.recompute) or not len(regions):
        return verdict
    with workers_named(scheduler, cluster) as workers:
        if how.data or subset:
            verify_data(scores, verdict, workers, regions, coordinates=subset is None)
        if how.recompute:
            found = settings_in(scores.group.attrs)
            fit, samples = model_and_source(name, found, how)
            verify_anew(scores, verdict, workers, some_of(regions, how.recompute, how.seed), fit, samples)
    return verdict


def part_named(subset: str | None) -> tuple[int, int] | None:
    """The part that ``3/7`` names."""
    if subset is None:
        return None
    k, n = map(int, subset.split("/"))
    if not 1 <= k <= n:
        raise InputError(f"subset {subset} is no part: 1/{max(n, 1)} is the first")
    return k, n


def model_and_source(path: str, found: Mapping[str, Any], how: Verifying) -> tuple[Fit, Samples]:
    """The model and the samples that scores were made of, by what is said of them or else what these say."""
    place = how.model or found.get("model")
    data = {**(found.get("data") or {}), **({} if how.source is None else {"path": how.source})}
    for what, known in (("model", place), ("source", data.get("path"))):
        if not known:
            raise InputError(f"{path} does not say where its {what} lies: name it (--{what})")
    fit, opened = store.load(str(place)), validated(Data, data)
    samples = open_samples(opened.path, **opened.model_dump(exclude={"path"}), like=fit.layout)
    if found.get("interpolate"):
        samples = samples.like(fit.features, fit.layout, interpolate=True)
    return fit, samples


def open_scores(path: str | os.PathLike[str]) -> xr.Dataset:
    """Scores as a lazy dataset; `InputError` if they are none, or damaged beyond reading."""
    scores = open_dataset(path)
    if "label" not in scores:
        raise InputError(f"{path} holds no scores: there is no label among {', '.join(sorted(map(str, scores)))}")
    return scores


def open_drawn(path: str | os.PathLike[str], *, labels: bool) -> xr.Dataset:
    """Samples that were drawn as a lazy dataset, with the component of each where that was written."""
    samples = open_dataset(path)
    return samples.assign(open_dataset(f"{os.fspath(path).rstrip('/')}/{LABELS}")) if labels else samples
