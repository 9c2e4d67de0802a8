"""Train, select, score: the library from Python."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Unpack

import xarray as xr

from dgmm import store
from dgmm.config import Cluster, Data, Sample, Sampling, Score, Scoring, Select, Train, Verify, Verifying
from dgmm.data import Samples, Source, Weights, check_unchanged, fingerprint, open_dataset, open_samples
from dgmm.engine import Projection, Workers, open_workers
from dgmm.errors import InputError
from dgmm.families import DEFAULT, get_family
from dgmm.fits import Fit, One, Search, Selection, Training, by_model, validated
from dgmm.fitting import path_of, projection_of, select_samples, train_samples
from dgmm.keywords import SampleOptions, ScoreOptions, SelectOptions, TrainOptions, VerifyOptions, takes
from dgmm.mixture import Mixture
from dgmm.sampling import LABELS, sample_into
from dgmm.scoring import (
    Verdict,
    kind_of,
    open_written,
    part_of,
    score_projection,
    score_samples,
    some_of,
    verify_anew,
    verify_data,
    verify_model,
    verify_structure,
)
from dgmm.search import Given, check_given
from dgmm.store import Records, journal_at, place_at, settings_in

if TYPE_CHECKING:
    from distributed import Client
    from numpy.typing import ArrayLike

logger = logging.getLogger("dgmm")


@takes(TrainOptions, Train)
def train(
    source: Source,
    n_components: int,
    covariance_type: str = "full",
    *,
    weights_init: ArrayLike | None = None,
    means_init: ArrayLike | None = None,
    precisions_init: ArrayLike | None = None,
    weights: Weights | None = None,
    scheduler: str | Client | None = None,
    journal: str | os.PathLike[str] | None = None,
    keep_journal: bool = False,
    **options: Unpack[TrainOptions],
) -> Fit:
    """Fit one Gaussian mixture to a source of any size.

    Parameters
    ----------
    source : path, URL, zarr.Array, xarray.Dataset, xarray.DataArray, dask.array.Array or ndarray
        Samples by features. Rows with missing values (NaN) are left out.
    n_components : int
        Number of components K.
    covariance_type : str
        One of `dgmm.families.FAMILIES`.
    weights_init : array_like, shape (K,), optional
    means_init : array_like, shape (K, d), optional
    precisions_init : array_like, optional
        Parameters to start from, in the data's units; precisions, inverses of the covariances, have shape (K, d, d)
        for full, (d, d) for tied, (K, d) for diag, (K,) for spherical. They take the place of those of each of the
        ``n_init`` starts that ``init_params`` makes, of which there is one if all three are given; like any start
        they climb on the sample first. A single component needs no start.
    weights : str, xarray.DataArray or array, optional
        How much each sample counts, such as the area it stands for: a variable or coordinate of a dataset by its
        name, an array along some of the samples' dimensions, or one in their shape. They are normalised to a mean
        of one over the samples that have any, so that the n of BIC and of all sums is the number of those samples,
        and only the ratios of the weights matter. Samples of weight zero, or whose weight is missing, are left out.
    scheduler : {"threads", "processes"}, address, import path or distributed.Client, optional
        Who does the work: the open client if there is one, else threads of this process. A path such as
        ``dask_jobqueue.SLURMCluster`` starts a cluster of that class for the call.
    journal : path or URL, optional
        Where to note what every pass returns. The same call goes on from there if it was interrupted, to the same bits;
        one with other data or settings is refused. It is removed once the fit is returned.
    keep_journal : bool, default=False
        Keep the journal once the fit has ended, too: the same call then reads no data.

    Returns
    -------
    Fit

    Raises
    ------
    InputError
        If the source or a parameter cannot be used.
    ReadError
        If a chunk of the source is not there, or cannot be decoded.
    CollapseError
        If a component collapses in every start. A fit of which a component collapses on all the data is returned: its
        ``state`` is ``collapsed``, and a warning says what to do.
    """
    one = validated(One, {"n_components": n_components, "covariance_type": covariance_type})
    data, cluster, training = by_model(options, Data, Cluster)
    fitting = validated(Training, training)
    samples = open_samples(source, weights=weights, **data)
    family = get_family(one.covariance_type)
    given = check_given(family, one.n_components, samples.n_features, weights_init, means_init, precisions_init)
    asked = {**one.model_dump(), "training": fitting.model_dump(mode="json"), **data, "given": written(given)}
    with (
        recorded(source, samples, journal, asked, keep=keep_journal) as records,
        workers_named(scheduler, cluster, projection_of(samples, one, fitting)) as workers,
    ):
        return train_samples(samples, workers, one, fitting, given, records)


def em_path(
    source: Source,
    start: Mixture,
    n_passes: int = 20,
    *,
    reg_covar: float = 1e-6,
    scheduler: str | Client | None = None,
) -> tuple[Mixture, ...]:
    """Follow plain EM from a mixture, pass by pass over all the data: what `dgmm.plot.steps` draws.

    Parameters
    ----------
    source : path, URL, zarr.Array, xarray.Dataset, xarray.DataArray, dask.array.Array or ndarray
    start : Mixture
        In the data's units.
    n_passes : int, default=20
        M-steps; no rule ends them sooner.
    reg_covar : float, default=1e-6
        Added to every covariance, as a share of the data's own covariance.
    scheduler
        As for `train`.

    Returns
    -------
    tuple of Mixture
        The start, and what each pass has made of it; components stay in their order.

    Raises
    ------
    InputError
        If the samples have another number of features, or ``n_passes`` is below one.
    CollapseError
        If a component collapses on the way.
    """
    options, samples = validated(Training, {"reg_covar": reg_covar, "max_iter": n_passes}), open_samples(source)
    if samples.n_features != start.n_features:
        raise InputError(f"{samples.name} has {samples.n_features} features, the start {start.n_features}")
    with workers_named(scheduler, {}) as workers:
        return path_of(samples, workers, start, options.max_iter, options)


@takes(SelectOptions, Select)
def select(
    source: Source,
    n_components: Sequence[int] | str,
    covariance_type: Sequence[str] = DEFAULT,
    *,
    weights: Weights | None = None,
    scheduler: str | Client | None = None,
    journal: str | os.PathLike[str] | None = None,
    keep_journal: bool = False,
    **options: Unpack[SelectOptions],
) -> Selection:
    """Choose the number of components and the covariance type; all candidates share every pass.

    All criteria are in the table; ``held_out``, the mean log density of rows that no fit sees, needs ``holdout``,
    their share.

    Parameters
    ----------
    source : path, URL, zarr.Array, xarray.Dataset, xarray.DataArray, dask.array.Array or ndarray
    n_components : sequence of int or str
        Numbers of components to try; ``"1:"`` goes on from one until three more components bring no better criterion.
    covariance_type : sequence of str
        Covariance types to try.
    weights, scheduler, journal, keep_journal
        As for `train`.

    Returns
    -------
    Selection
        ``best`` is converged on all the data; ``table`` has a row for every candidate.

    Raises
    ------
    InputError
        If the source or a parameter cannot be used.
    CollapseError
        If a component of every candidate collapses.
    """
    given, data, cluster, training = by_model(options, Search, Data, Cluster)
    search = validated(Search, {"n_components": n_components, "covariance_type": covariance_type, **given})
    fitting = validated(Training, training)
    samples = open_samples(source, weights=weights, **data)
    asked = {**search.model_dump(mode="json"), "training": fitting.model_dump(mode="json"), **data}
    with (
        recorded(source, samples, journal, asked, keep=keep_journal) as records,
        workers_named(scheduler, cluster, projection_of(samples, search, fitting)) as workers,
    ):
        return select_samples(samples, workers, search, fitting, records)


@takes(ScoreOptions, Score)
def score(
    model: Fit | str | os.PathLike[str],
    source: Source,
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    extend: bool = False,
    scheduler: str | Client | None = None,
    **options: Unpack[ScoreOptions],
) -> xr.Dataset:
    """Label every sample of a source with a fitted mixture, into a Zarr group on the grid of the source.

    The source is opened as the data of the model were, unless ``variables`` or ``feature_dim`` say otherwise. Features
    are told by their names, or by their labels along a dimension, and put in the order of the model; where neither
    side has such, they are taken by their place.

    Parameters
    ----------
    model : Fit or path
    source : path, URL, zarr.Array, xarray.Dataset, xarray.DataArray, dask.array.Array or ndarray
    out : path or URL
        Gets ``label`` (-1 where a value is missing), ``probability`` (of the label), ``log_density`` and, if asked
        for, ``probabilities`` (a last dimension ``component``), with the coordinates of the source.
    overwrite : bool
        Replace what exists.
    extend : bool
        Scores that are there are brought up to date: of chunks of the data that are as they were, those by the same
        model are kept, and what was appended or has changed is scored. Where nothing tells, or by another model, all
        of it is.
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
    how = validated(Scoring, rest)
    if not isinstance(model, Fit):
        model = store.model_at(model)
    fit = model if isinstance(model, Fit) else store.load(model)
    samples = open_samples(source, like=fit.layout, **data)
    inputs = [place for place in (model, source) if isinstance(place, (str, os.PathLike))]
    # where to look when the scores are verified
    named: dict[str, Any] = {"model": os.fspath(model)} if isinstance(model, (str, os.PathLike)) else {}
    if isinstance(source, (str, os.PathLike)):
        named["data"] = {"path": os.fspath(source), **data}
    # workers of ours are gone before what they wrote of an output that is given up is removed
    with (
        place_at(out).begin("scores", overwrite=overwrite or extend, inputs=inputs, resumes=True) as output,
        workers_named(scheduler, cluster, score_projection(fit, samples, output, how.probabilities)) as workers,
    ):
        score_samples(
            fit, samples, output, workers, **how.model_dump(), settings=named, extend=extend and not overwrite
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
    return fit, open_samples(opened.path, **opened.model_dump(exclude={"path"}), like=fit.layout)


def written(given: Given | None) -> dict[str, Any] | None:
    """What was given of a start, as JSON has it."""
    if given is None:
        return None
    return {part.name: None if (v := getattr(given, part.name)) is None else v.tolist() for part in fields(given)}


@contextmanager
def recorded(
    source: Source,
    samples: Samples,
    path: str | os.PathLike[str] | None,
    asked: Mapping[str, Any],
    *,
    keep: bool,
) -> Iterator[Records | None]:
    """Context of the journal at a path, for what is asked of samples; of None where there is no path.

    What lies at a path or URL must not change meanwhile; what somebody else has opened is theirs.
    """
    named = isinstance(source, (str, os.PathLike))
    before = fingerprint(samples) if named or path is not None else {}
    with nullcontext() if path is None else journal_at(path, before, asked, keep=keep) as records:
        yield records
        if named:
            check_unchanged(samples, before)


def workers_named(
    scheduler: str | Client | None, cluster: Mapping[str, Any], need: Projection | None = None
) -> AbstractContextManager[Workers]:
    """Context of the workers that keyword arguments name, for what needs so much memory."""
    return open_workers(scheduler, **validated(Cluster, dict(cluster)).model_dump(exclude={"scheduler"}), need=need)


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
