"""Predict some features from others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

import xarray as xr

from dgmm import store
from dgmm.api.calls import workers_named
from dgmm.config import Cluster, Data, Predict, Predicting
from dgmm.data import Source, open_dataset, open_samples
from dgmm.fits import Fit, by_model, validated
from dgmm.keywords import PredictOptions, takes
from dgmm.prediction import Wanted, predict_projection, predict_samples, source_layout, with_given
from dgmm.store import place_at

if TYPE_CHECKING:
    from distributed import Client


@takes(PredictOptions, Predict)
def predict(
    model: Fit | str | os.PathLike[str],
    source: Source,
    out: str | os.PathLike[str],
    *,
    of: Sequence[str] | None = None,
    overwrite: bool = False,
    scheduler: str | Client | None = None,
    **options: Unpack[PredictOptions],
) -> xr.Dataset:
    """Predict some features of every sample from others, into a Zarr group on the grid of the source.

    That is regression by a mixture: every component has its own linear regression, and these count by the
    probabilities of the components given the known values. A sample of which a given value is missing has none.
    What an interrupted call has written is removed. `Fit.predict` does the same for arrays in memory.

    Parameters
    ----------
    model : Fit or path
    source : path, URL, zarr.Array, xarray object, dask.array.Array, ndarray or DataFrame
        With the given features; the others are not looked at, and need not be there where each is a variable. As
        many ``variables`` as the model has, or as are given, none of them called alike, stand for these in their order.
    out : path or URL
        Gets the means in variables as the model's data had them: one for each feature, or one for those along a
        dimension, with the levels in the order of the model where several lie along it; with their units and the
        coordinates and standard names of the source; ``NAME_variance`` if asked for.
    of : sequence of str, optional
        Features to predict, by name or number. None where what is missing is filled in (``impute``).
    overwrite : bool
        Replace what exists.
    scheduler
        As for `train`.

    Returns
    -------
    xarray.Dataset
        What was written, lazily.

    Raises
    ------
    InputError
        If a feature is none of the model's, or the source has not those that are given.
    ReadError
        If a chunk of the source is not there, or cannot be decoded.
    """
    data, cluster, rest = by_model(options, Data, Cluster)
    how = validated(Predicting, {"of": of, **rest})
    inputs = [place for place in (source,) if isinstance(place, (str, os.PathLike))]
    if not isinstance(model, Fit):
        inputs.append(store.model_at(model))
        model = store.load(inputs[-1])
    wanted = Wanted.asked(model, how.of, how.given, how.variance, how.dtype, how.impute, how.seed)
    samples = open_samples(source, like=source_layout(model, wanted, data.get("variables")), **data)
    if how.interpolate:
        samples, _ = with_given(samples, model, wanted, interpolate=True)
    with (
        place_at(out).begin("predictions", overwrite=overwrite, inputs=inputs) as output,
        workers_named(scheduler, cluster, predict_projection(model, samples, wanted, output)) as workers,
    ):
        predict_samples(model, samples, wanted, output, workers)
    return open_dataset(out)
