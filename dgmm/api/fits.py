"""Fit and choose."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from dgmm import store
from dgmm.api.calls import recorded, workers_named
from dgmm.config import Cluster, Data, Merge, Merging, Select, Train
from dgmm.data import Source, Weights, open_samples
from dgmm.errors import InputError
from dgmm.families import DEFAULT, get_family
from dgmm.fits import Fit, One, Search, Selection, Training, by_model, validated
from dgmm.fitting import merge_samples, path_of, projection_of, select_samples, started, train_samples
from dgmm.keywords import DataOptions, MergeOptions, SelectOptions, TrainOptions, check_only, takes
from dgmm.mixture import Mixture
from dgmm.search import Given, check_given
from dgmm.types import Assignment, Missing, Part, PriorName

if TYPE_CHECKING:
    from distributed import Client
    from numpy.typing import ArrayLike


@takes(TrainOptions, Train)
def train(
    source: Source,
    n_components: int | None = None,
    covariance_type: str = "full",
    *,
    weights_init: ArrayLike | None = None,
    means_init: ArrayLike | None = None,
    precisions_init: ArrayLike | None = None,
    weights: Weights | None = None,
    labels: Weights | None = None,
    components_per_class: int = 1,
    start: Fit | Mixture | str | os.PathLike[str] | None = None,
    scheduler: str | Client | None = None,
    journal: str | os.PathLike[str] | None = None,
    keep_journal: bool = False,
    **options: Unpack[TrainOptions],
) -> Fit:
    """Fit one mixture to a source of any size.

    Parameters
    ----------
    source : path, URL, zarr.Array, xarray object, dask.array.Array, ndarray or DataFrame
        Samples by features. Rows with missing values (NaN) are left out.
    n_components : int, optional
        Number of components K; with labels, if left out, that of the classes times ``components_per_class``.
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
    labels : str, xarray.DataArray or array, optional
        The class of each sample, given like the weights: a whole number from 0 up or a text where it is known; -1, an
        empty text or a missing value where it is not. Known samples count for the components of their class alone, and
        their joint density with it for the likelihood. If all are known, one component of each is what its samples say:
        discriminant analysis, quadratic (full), linear (tied) or naive Bayes (diag). `Fit.classes` are their names, the
        components those of one class after the other, and scores labels of classes. Starts are made of the known
        samples, and no moves are tried (``search``, ``worst_rows``, ``on_collapse``).
    components_per_class : int, default=1
        Components of each class, where samples have labels.
    start : Fit, Mixture or path, optional
        Model to begin with, of the same covariance type, in the place of the starts that n_init makes; what is fixed
        keeps its values. Its number of components is that of the fit. The features are found as `dgmm.score` finds
        them. Like any start it climbs on the sample first.
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
    wanted = {"n_components": n_components, "covariance_type": covariance_type}
    one = validated(One, {**wanted, "components_per_class": components_per_class})
    data, cluster, training = by_model(options, Data, Cluster)
    fitting = validated(Training, training)
    begun = start if start is None or isinstance(start, (Fit, Mixture)) else store.load(start)
    like = begun.layout if isinstance(begun, Fit) else None
    samples = open_samples(source, weights=weights, labels=labels, like=like, **data)
    parts = weights_init, means_init, precisions_init
    given: Given | None
    if begun is None:
        family = get_family(one.covariance_type)
        given = check_given(family, one.number(samples.labels), samples.n_features, *parts)
    elif any(part is not None for part in parts):
        raise InputError("start is a whole mixture: give it, or weights_init, means_init and precisions_init")
    else:
        one, samples, given = started(one, samples, begun)
    asked = {**one.model_dump(), "training": fitting.model_dump(mode="json"), **data, "given": written(given)}
    with (
        recorded(source, samples, journal, asked, keep=keep_journal) as records,
        workers_named(scheduler, cluster, projection_of(samples, one, fitting)) as workers,
    ):
        return train_samples(samples, workers, one, fitting, given, records)


@takes(DataOptions, Train)
def em_path(
    source: Source,
    start: Mixture,
    n_passes: int = 20,
    *,
    reg_covar: float = 1e-6,
    assignment: Assignment = "soft",
    fixed: Sequence[Part] = (),
    prior: PriorName = "none",
    missing: Missing = "omit",
    weights: Weights | None = None,
    scheduler: str | Client | None = None,
    **options: Unpack[DataOptions],
) -> tuple[Mixture, ...]:
    """Follow plain EM from a mixture, pass by pass over all the data: what `dgmm.plot.steps` draws.

    Parameters
    ----------
    source : path, URL, zarr.Array, xarray object, dask.array.Array, ndarray or DataFrame
    start : Mixture
        In the data's units.
    n_passes : int, default=20
        M-steps; no rule ends them sooner.
    reg_covar : float, default=1e-6
        Added to every covariance, as a share of the data's own covariance.
    assignment : {"soft", "hard"}
        Whether samples are shared out among components, or count for the most probable one alone.
    fixed : sequence of str
        Which of weights, means and covariances stay as they are.
    prior : {"none", "default"}
        Whether components have a conjugate prior.
    missing : {"omit", "raise", "marginalise"}
        What becomes of samples of which some values are missing.
    weights, scheduler
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
    check_only(options, DataOptions)
    asked = {"reg_covar": reg_covar, "max_iter": n_passes, "assignment": assignment, "fixed": fixed, "prior": prior}
    training = validated(Training, asked | {"missing": missing})
    samples = open_samples(source, weights=weights, **options)
    if samples.n_features != start.n_inputs:
        raise InputError(f"{samples.name} has {samples.n_features} features, the start {start.n_inputs}")
    with workers_named(scheduler, {}) as workers:
        return path_of(samples, workers, start, training.max_iter, training)


@takes(SelectOptions, Select)
def select(
    source: Source,
    n_components: Sequence[int] | str,
    covariance_type: Sequence[str] = DEFAULT,
    *,
    weights: Weights | None = None,
    labels: Weights | None = None,
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
    source : path, URL, zarr.Array, xarray object, dask.array.Array, ndarray or DataFrame
    n_components : sequence of int or str
        Numbers of components to try; ``"1:"`` goes on from one until three more components bring no better criterion.
    covariance_type : sequence of str
        Covariance types to try.
    weights, labels, scheduler, journal, keep_journal
        As for `train`; with labels, numbers of components are multiples of that of the classes.

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
    samples = open_samples(source, weights=weights, labels=labels, **data)
    asked = {**search.model_dump(mode="json"), "training": fitting.model_dump(mode="json"), **data}
    with (
        recorded(source, samples, journal, asked, keep=keep_journal) as records,
        workers_named(scheduler, cluster, projection_of(samples, search, fitting)) as workers,
    ):
        return select_samples(samples, workers, search, fitting, records)


@takes(MergeOptions, Merge)
def merge(
    model: Fit | str | os.PathLike[str],
    source: Source,
    *,
    weights: Weights | None = None,
    scheduler: str | Client | None = None,
    **options: Unpack[MergeOptions],
) -> Fit:
    """Merge the components of a mixture into clusters by entropy (Baudry et al. 2010), two at a time down to one.

    Several components may be one cluster that is no Gaussian. Those are merged first that share their rows the most:
    after which the entropy of the responsibilities is lowest. The mixture stays what it is.

    Parameters
    ----------
    model : Fit or path
    source : path, URL, zarr.Array, xarray object, dask.array.Array, ndarray or DataFrame
        What it was fitted to, or other data; read once. The features are found as `dgmm.score` finds them.
    weights
        How much each sample counts, as for `train`.
    scheduler
        As for `train`.

    Returns
    -------
    Fit
        The same with ``clusters``: ``clusters.level(4)`` says of which of four clusters each component is,
        ``clusters.probabilities(responsibilities, 4)`` sums responsibilities up, ``clusters.entropies`` is the curve,
        and ``clusters.elbow`` the number of clusters where it bends.

    Raises
    ------
    InputError
        If the features of the source are not those of the model, or no row is complete.
    """
    data, cluster, rest = by_model(options, Data, Cluster)
    how = validated(Merging, rest)
    fit = model if isinstance(model, Fit) else store.load(model)
    samples = open_samples(source, weights=weights, like=fit.layout, **data)
    with workers_named(scheduler, cluster) as workers:
        return merge_samples(fit, samples, workers, Training(**how.model_dump()))


def written(given: Given | None) -> dict[str, Any] | None:
    """What was given of a start, as JSON has it."""
    if given is None:
        return None
    if given.mixture is not None:
        return {"mixture": store.digest(given.mixture)}
    parts = {name: getattr(given, name) for name in ("weights", "means", "factors")}
    return {name: None if values is None else values.tolist() for name, values in parts.items()}
