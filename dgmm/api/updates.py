"""Go on with new samples."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Unpack

from dgmm import store
from dgmm.api.calls import recorded, workers_named
from dgmm.config import Cluster, Data, Update, Updating
from dgmm.data import Source, Weights, fingerprint, open_samples
from dgmm.fits import Fit, by_model, validated
from dgmm.fitting import past_of, update_projection, update_samples
from dgmm.keywords import UpdateOptions, takes
from dgmm.store import check_new, digest_of_source

if TYPE_CHECKING:
    from distributed import Client


@takes(UpdateOptions, Update)
def update(
    model: Fit | str | os.PathLike[str],
    source: Source,
    *,
    weights: Weights | None = None,
    scheduler: str | Client | None = None,
    journal: str | os.PathLike[str] | None = None,
    **options: Unpack[UpdateOptions],
) -> Fit:
    """Go on with new samples, without those that a mixture was fitted to.

    A model has with it the sufficient statistics of its samples. These are held, at the shares of the components that
    they were last found with, while EM climbs on the new samples, which alone are read: incremental EM (Neal and Hinton
    1998). What is climbed, the new samples' log-likelihood and a lower bound of the old ones', is `Fit.log_likelihood`
    then: both together are at least as likely by the new mixture. Components keep their order, and so labels their
    meaning. Samples that are not like the old ones ask for `train` with ``start``, on old and new together.

    Parameters
    ----------
    model : Fit or path
        Of any family; with what is held fixed, the prior, hard assignments and noise that it was fitted with.
    source : path, URL, zarr.Array, xarray.Dataset, xarray.DataArray, dask.array.Array or ndarray
        The new samples alone. The features are found as `dgmm.score` finds them.
    weights
        How much each sample counts, as for `train`; to a mean of one over the new samples.
    scheduler, journal
        As for `train`.

    Returns
    -------
    Fit
        ``updates`` says what was added, batch by batch; ``n_samples`` are old and new ones together.

    Raises
    ------
    InputError
        If the model has no statistics with it, the features of the source are not those of the model, or a model at a
        path says that it has these very samples with it already.
    CollapseError
        If a component collapses.
    """
    data, cluster, rest = by_model(options, Data, Cluster)
    how = validated(Updating, rest)
    if isinstance(model, Fit):
        fit, record, name = model, None, "the model"
    else:
        record, name = store.read(model), str(model)
        fit = record.fit
    past = past_of(fit, name)
    samples = open_samples(source, weights=weights, like=fit.layout, **data).like(fit.features, fit.layout)
    if record is not None:
        check_new(name, record.settings, samples.name, digest_of_source(fingerprint(samples)))
    asked = {**how.model_dump(), **data, "model": store.digest(fit.mixture), "statistics": past.digest}
    with (
        recorded(source, samples, journal, asked, keep=False) as records,
        workers_named(scheduler, cluster, update_projection(fit, samples, how)) as workers,
    ):
        return update_samples(fit, samples, workers, how, how.forget, records)
