"""Train, select, score: the library from Python."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from dgmm import store
from dgmm.blas import one_blas_thread
from dgmm.config import Training, validated
from dgmm.data import Samples, Source, Weights, open_samples, store_at
from dgmm.engine import Workers, open_workers
from dgmm.errors import CollapseError, InputError, one_line
from dgmm.families import get_family
from dgmm.fitting import Candidate, Criterion, Fit, Given, Selection, check_given, fit_candidates, select_candidates
from dgmm.passes import passes_over
from dgmm.scoring import score_samples
from dgmm.store import place_at

if TYPE_CHECKING:
    from distributed import Client
    from numpy.typing import ArrayLike

logger = logging.getLogger("dgmm")


def train(
    source: Source,
    n_components: int,
    covariance_type: str = "full",
    *,
    weights_init: ArrayLike | None = None,
    means_init: ArrayLike | None = None,
    precisions_init: ArrayLike | None = None,
    variables: Sequence[str] | None = None,
    feature_dim: str | None = None,
    weights: Weights | None = None,
    missing_chunks: str = "raise",
    scheduler: str | Client | None = None,
    **training: Any,
) -> Fit:
    """Fit one Gaussian mixture to a source of any size.

    Parameters
    ----------
    source : path, URL, zarr.Array, xarray.Dataset, xarray.DataArray, dask.array.Array or ndarray
        Samples by features. Rows with missing values (NaN) are left out.
    n_components : int
        Number of components K.
    covariance_type : {"full", "tied", "diag", "spherical"}
    weights_init : array_like, shape (K,), optional
    means_init : array_like, shape (K, d), optional
    precisions_init : array_like, optional
        Parameters to start from, in the data's units; precisions, inverses of the covariances, have shape (K, d, d)
        for full, (d, d) for tied, (K, d) for diag, (K,) for spherical. They take the place of those of each of the
        ``n_init`` starts that ``init_params`` makes, of which there is one if all three are given; like any start
        they climb on the sample first. A single component needs no start.
    variables, feature_dim : optional
        Which variables of a dataset to use, and which dimension holds the features; see `dgmm.data.open_samples`.
    weights : str, xarray.DataArray or array, optional
        How much each sample counts, such as the area it stands for: a variable or coordinate of a dataset by its
        name, an array along some of the samples' dimensions, or one in their shape. They are normalised to a mean
        of one over the samples that have any, so that the n of BIC and of all sums is the number of those samples,
        and only the ratios of the weights matter. Samples of weight zero, or whose weight is missing, are left out.
    missing_chunks : {"raise", "fill"}
        What becomes of chunks that are not in a store given by its path or URL: refused, or read as the fill value.
    scheduler : {"threads", "processes"}, address or distributed.Client, optional
        Who does the work: the open client if there is one, else threads of this process.
    **training
        Fields of `dgmm.config.Training`: tol, max_iter, reg_covar, n_init, init_params, seed, sample_rows,
        start_rows, accelerate, compute_dtype, worst_rows, on_collapse, holdout.

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
    options = validated(Training, training)
    samples = open_samples(source, variables, feature_dim, weights=weights, missing_chunks=missing_chunks)
    (k,) = check_components([n_components])
    family = get_family(covariance_type)
    given = check_given(family, k, samples.n_features, weights_init, means_init, precisions_init)
    with open_workers(scheduler) as workers:
        return train_samples(samples, workers, k, covariance_type, options, given)


def select(
    source: Source,
    n_components: Sequence[int],
    covariance_type: Sequence[str] = ("full", "tied", "diag", "spherical"),
    *,
    criterion: str = "bic",
    keep_all: bool = False,
    variables: Sequence[str] | None = None,
    feature_dim: str | None = None,
    weights: Weights | None = None,
    missing_chunks: str = "raise",
    scheduler: str | Client | None = None,
    **training: Any,
) -> Selection:
    """Choose the number of components and the covariance type; all candidates share every pass.

    Parameters
    ----------
    source : path, URL, zarr.Array, xarray.Dataset, xarray.DataArray, dask.array.Array or ndarray
    n_components : sequence of int
        Numbers of components to try.
    covariance_type : sequence of str
        Covariance types to try.
    criterion : {"bic", "aic", "icl", "held_out"}
        What to choose by; all are in the table. ``held_out``, the mean log density of rows that no fit sees, needs
        ``holdout``, their share.
    keep_all : bool
        Run every candidate to convergence instead of dropping those that can no longer win.
    variables, feature_dim, weights, missing_chunks, scheduler, **training
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
    options = validated(Training, training)
    kinds = [covariance_type] if isinstance(covariance_type, str) else list(covariance_type)
    samples = open_samples(source, variables, feature_dim, weights=weights, missing_chunks=missing_chunks)
    ks = check_components(n_components)
    if not kinds:
        raise InputError("covariance_type is empty: name at least one covariance type")
    for kind in kinds:
        get_family(kind)
    if criterion not in list(Criterion):
        raise InputError(f"unknown criterion {criterion!r}: use {', '.join(Criterion)}")
    with open_workers(scheduler) as workers:
        return select_samples(samples, workers, ks, kinds, options, keep_all=keep_all, criterion=criterion)


def score(
    model: Fit | str | os.PathLike[str],
    source: Source,
    out: str | os.PathLike[str],
    *,
    probabilities: bool = False,
    overwrite: bool = False,
    variables: Sequence[str] | None = None,
    feature_dim: str | None = None,
    missing_chunks: str = "raise",
    scheduler: str | Client | None = None,
) -> xr.Dataset:
    """Label every sample of a source with a fitted mixture, into a Zarr group on the grid of the source.

    The source is opened as the data of the model were. Features are told by their names, or by their labels along a
    dimension, and put in the order of the model; where neither side has such, they are taken by their place.

    Parameters
    ----------
    model : Fit or path
    source : path, URL, zarr.Array, xarray.Dataset, xarray.DataArray, dask.array.Array or ndarray
    out : path or URL
        Gets ``label`` (-1 where a value is missing), ``probability`` (of the label), ``log_density`` and, if asked
        for, ``probabilities`` (a last dimension ``component``), with the coordinates of the source.
    probabilities, overwrite : bool
    variables, feature_dim : optional
        As for `train`; those of the model by default.
    missing_chunks, scheduler
        As for `train`.

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
    fit = model if isinstance(model, Fit) else store.load(model)
    samples = open_samples(source, variables, feature_dim, missing_chunks=missing_chunks, like=fit.layout)
    inputs = [place for place in (model, source) if isinstance(place, (str, os.PathLike))]
    # workers of ours are gone before what they wrote of an output that is given up is removed
    with (
        place_at(out).begin("scores", overwrite=overwrite, inputs=inputs) as output,
        open_workers(scheduler) as workers,
    ):
        score_samples(fit, samples, output, workers, probabilities=probabilities)
    return open_scores(out)


def train_samples(
    samples: Samples,
    workers: Workers,
    n_components: int,
    covariance_type: str,
    options: Training,
    given: Given | None = None,
) -> Fit:
    """Fit one mixture; raises `CollapseError` where there is nothing to return."""
    candidate = Candidate(n_components, covariance_type)
    with one_blas_thread:
        passes = passes_over(samples, workers, options)
        fits, failures = fit_candidates(passes, [candidate], options, given=given)
    if failures:
        raise CollapseError(f"{candidate} collapsed: {failures[candidate].reason}")
    fit = fits[candidate]
    if not fit.outcome.is_sound:
        logger.warning("%s: %s", fit.state, fit.reason)
    elif not fit.converged:
        logger.warning(
            "%s, an estimated %.2g nats per sample short: raise max_iter (%d)",
            fit.state, fit.remaining_gain, options.max_iter,
        )  # fmt: skip
    return fit


def select_samples(
    samples: Samples,
    workers: Workers,
    n_components: Sequence[int],
    covariance_type: Sequence[str],
    options: Training,
    *,
    keep_all: bool,
    criterion: str,
) -> Selection:
    """Fit a grid and choose from it."""
    with one_blas_thread:
        passes = passes_over(samples, workers, options)
        return select_candidates(
            passes, n_components, covariance_type, options, keep_all=keep_all, criterion=Criterion(criterion)
        )


def check_components(n_components: Any) -> list[int]:
    """Numbers of components as whole numbers; refuses what are none."""
    given = list(n_components) if np.ndim(n_components) else [n_components]
    for k in given:
        if isinstance(k, bool) or not isinstance(k, (int, float, np.number)) or k != int(k) or k < 1:
            raise InputError(f"n_components must be whole numbers from 1 up, not {k!r}")
    if not given:
        raise InputError("n_components is empty: name at least one number of components")
    return [int(k) for k in given]


def open_scores(path: str | os.PathLike[str]) -> xr.Dataset:
    """Scores as a lazy dataset; `InputError` if they are none, or damaged beyond reading."""
    try:
        scores = xr.open_zarr(store_at(path, read_only=True), consolidated=False)
    except (InputError, OSError):
        raise
    except Exception as error:  # whatever metadata that are damaged lead to
        raise InputError(f"xarray cannot read {path}: {one_line(error)}") from None
    if "label" not in scores:
        raise InputError(f"{path} holds no scores: there is no label among {', '.join(sorted(map(str, scores)))}")
    return scores
