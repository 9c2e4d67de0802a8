"""Preprocessing: found in the profile of the data, done as blocks are read, and kept with what is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.linalg import block_diag, eigh

from dgmm.data import Layout, Samples, shortened, transformed
from dgmm.engine import Fold, Journal, Journaled, Workers
from dgmm.errors import InputError
from dgmm.families import Frame, Moments
from dgmm.fits import Fit, Preprocess, Training
from dgmm.mixture import Mixture
from dgmm.passes import Passes, Profile, profile_of
from dgmm.rows import Rows
from dgmm.search import Given
from dgmm.transform import Transform
from dgmm.types import AnyArray, FloatArray

#: The quartiles between which half of the values lie.
QUARTILES = (0.25, 0.5, 0.75)


def prepared_passes(
    samples: Samples,
    workers: Workers,
    options: Training,
    *,
    known: Transform | None = None,
    ridge: float | None = None,
    journal: Journal | None = None,
    frame: Frame | None = None,
) -> Passes:
    """The profile pass over samples that are preprocessed, and what further passes over them need.

    Parameters
    ----------
    samples : Samples
    workers : Workers
    options : Training
    known : Transform, optional
        What is done to them; by default it is found in the profile, by what the options ask for.
    ridge, journal, frame
        As for `passes_over`; a frame for what is done in a known way.

    Raises
    ------
    InputError
        If it cannot be done.
    """
    asked = options.preprocess or Preprocess()
    incomplete = options.missing == "marginalise"
    if known is not None:
        known = replace(known, features=samples.features)
        if incomplete:
            known.check_incomplete()
        view = transformed(samples, known, incomplete=incomplete)
        plain = Fold(view, workers)
        fold = plain if journal is None else Journaled(plain, journal)
        how: dict[str, Any] = {"ridge": ridge, "transform": known, "frame": frame}
        return Passes(fold, view, profile_of(fold, view, options), options, **how)
    logs = Transform.logs(samples.features, logs_of(asked, samples.features, samples.layout))
    if incomplete and asked.pca is not None:
        replace(logs, matrix=np.empty((samples.n_features, 0))).check_incomplete()
    before = transformed(samples, logs, incomplete=incomplete) if logs.log else samples
    # nothing of this pass stays in memory: what stays is what the next one makes of it
    plain = Fold(before, workers, keep=False)
    fold = plain if journal is None else Journaled(plain, journal)
    profile = profile_of(fold, before, options)
    found = transform_of(asked, profile, logs, samples.layout)
    if options.noise and found.matrix.ndim == 2:
        raise InputError("noise fills the box of the data, which principal components have not: leave noise or pca out")
    view = transformed(samples, found, incomplete=incomplete)
    fold.go_over(view)
    return Passes(fold, view, seen_through(profile, found), options, ridge=ridge, transform=found)


def check_known(known: Transform | None, options: Training, samples: Samples, what: str = "the start") -> None:
    """Raise `InputError` if another preprocessing is asked for than that of what a fit goes on from."""
    asked = options.preprocess
    if asked is None:
        return
    if known is None:
        raise InputError(f"{what} was fitted without preprocess: leave it out")
    logs = logs_of(asked, samples.features, samples.layout)
    if (known.scale, known.pca, known.pca_of, known.log) != (asked.scale, asked.pca, asked.pca_of, logs):
        raise InputError(f"preprocess is another than that of {what} ({known.words}): leave it out")


def logs_of(asked: Preprocess, features: Sequence[str], layout: Layout) -> tuple[int, ...]:
    """Numbers of the features whose logarithms are asked for, by their names or those of their variables."""
    found: set[int] = set()
    for name in asked.log:
        its = [i for i, feature in enumerate(features) if feature == name or feature.startswith(f"{name}@")]
        if not its and layout.feature_dim is not None and layout.variables == (name,):
            its = [*range(len(features))]
        if not its:
            raise InputError(f"preprocess.log: no feature {name!r}: the data have {shortened([*features])}")
        found.update(its)
    return tuple(sorted(found))


def transform_of(asked: Preprocess, profile: Profile, logs: Transform, layout: Layout) -> Transform:
    """What is done to samples, by the profile of these or of their logarithms."""
    d, mean, covariance = logs.n_inputs, profile.moments.mean, profile.moments.covariance
    shift: FloatArray = mean
    units: FloatArray = np.ones(d)
    if asked.scale == "standard":
        units = deviations_of(mean, covariance)
    elif asked.scale == "robust":
        shift, units = quartiles_of(profile.sample.first(len(profile.sample.rows)), logs.features)
    made: dict[str, Any] = {"scale": asked.scale, "pca": asked.pca}
    if asked.pca is None:
        if asked.scale == "none":
            shift = np.zeros(d)
        return replace(logs, shift=shift, matrix=1 / units, **made)
    scaled = covariance / units / units[:, None]
    places = places_of(layout, d) if asked.pca_of == "variable" else (slice(0, d),)
    found = [principal(scaled[place, place], asked.pca) for place in places]
    shares = np.concatenate([values for _, values in found]) / np.trace(scaled)
    made |= {"explained": tuple(shares.tolist()), "units": units, "pca_of": asked.pca_of}
    return replace(logs, shift=mean, matrix=block_diag(*(vectors for vectors, _ in found)) / units[:, None], **made)


def places_of(layout: Layout, d: int) -> tuple[slice, ...]:
    """Where the features of each variable lie; raises `InputError` where these hold one each."""
    sizes = [span.size for span in layout.as_spans(d)] or [d]
    if max(sizes) == 1:
        raise InputError("preprocess.pca_of: each variable is one feature here: leave it out, for components of all")
    ends = np.cumsum(sizes).tolist()
    return tuple(slice(end - size, end) for size, end in zip(sizes, ends, strict=True))


def deviations_of(mean: FloatArray, covariance: FloatArray) -> FloatArray:
    """Standard deviations; one of features that are constant."""
    variances = np.diagonal(covariance)
    constant = variances <= (np.finfo(float).eps * 4 * np.abs(mean)) ** 2
    return np.where(constant, 1.0, np.sqrt(np.maximum(variances, 0)))


def quartiles_of(rows: Rows, features: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    """Medians and interquartile ranges of what there is in rows, each (d,)."""
    missing = np.isnan(rows.x)
    if (nothing := missing.all(axis=0)).any():
        raise InputError(
            f"feature {features[int(np.argmax(nothing))]!r} is missing in all rows of the sample, by which robust "
            "scales go: draw more (sample_rows), or scale by standard deviations (standard)"
        )
    found = []
    for column, lacks in zip(rows.x.T, missing.T, strict=True):
        how: dict[str, Any] = {}
        if rows.weights is not None:
            how = {"weights": rows.weights[~lacks], "method": "inverted_cdf"}
        found.append(np.quantile(column[~lacks], QUARTILES, **how))
    low, median, high = np.array(found).T
    if not (high > low).all():
        name = features[int(np.argmin(high - low))]
        raise InputError(
            f"half of the values of feature {name!r} are the same, so that robust scales have nothing to go by: scale "
            "by standard deviations (standard), or leave the feature out"
        )
    return median, high - low


def principal(covariance: FloatArray, wanted: float | int) -> tuple[FloatArray, FloatArray]:
    """Principal components (d, q) of a covariance, and the variances along them (q,).

    Parameters
    ----------
    covariance : ndarray, shape (d, d)
    wanted : float or int
        The share of the variance that they keep at least, or their number.
    """
    d = len(covariance)
    if wanted >= 1 and wanted > d:
        raise InputError(f"preprocess.pca: {wanted} principal components of {d} features: ask for {d} at most")
    values, vectors = (found[..., ::-1] for found in eigh(covariance))
    values = np.maximum(values, 0)
    shares = values / values.sum()
    q = int(wanted) if wanted >= 1 else min(d, int(np.searchsorted(np.cumsum(shares), wanted, side="right")) + 1)
    chosen = vectors[:, :q]
    # of the two directions that where the largest entry is positive
    signs = np.sign(chosen[np.argmax(np.abs(chosen), axis=0), np.arange(q)])
    return chosen * signs, values[:q]


def seen_through(profile: Profile, transform: Transform) -> Profile:
    """The profile of samples after a transform, by that of their logarithms; no pass is made for it.

    Principal components have the range that they have in the sample of rows.
    """
    after = replace(transform, log=())
    sample = replace(profile.sample, rows=replace(profile.sample.rows, x=after(profile.sample.rows.x)))
    low, high = (
        after(np.stack([profile.minimum, profile.maximum])) if after.matrix.ndim == 1 else range_of(sample.rows.x)
    )
    moments, held_out = (moments_after(m, after) for m in (profile.moments, profile.held_out))
    return replace(profile, moments=moments, held_out=held_out, minimum=low, maximum=high, sample=sample)


def range_of(x: AnyArray) -> tuple[FloatArray, FloatArray]:
    """The smallest and the largest values of rows (n, d), each (d,)."""
    return x.min(axis=0), x.max(axis=0)


def moments_after(moments: Moments, transform: Transform) -> Moments:
    """Moments of samples after a transform without logarithms."""
    matrix = transform.matrix
    diagonal = matrix.ndim == 1
    scatter = moments.scatter * matrix * matrix[:, None] if diagonal else matrix.T @ moments.scatter @ matrix
    return Moments(moments.count, transform(moments.mean[None])[0], (scatter + scatter.T) / 2)


def given_after(given: Given | None, transform: Transform | None) -> Given | None:
    """Parts of a start, in the data's units, as those of what is fitted; a whole mixture is of that already.

    Raises
    ------
    InputError
        On precisions, which are not those of anything that is fitted.
    """
    if given is None or transform is None:
        return given
    if given.mixture is not None:
        return replace(given, mixture=replace(given.mixture, transform=None))
    if given.factors is not None:
        raise InputError("precisions_init are of the data, and preprocess fits other features: leave one of them out")
    return given if given.means is None else replace(given, means=transform(given.means))


def before_transform(fit: Fit, samples: Samples, transform: Transform | None) -> Fit:
    """A fit to samples that were preprocessed, as one that takes samples as they are."""
    if transform is None:
        return fit

    def whole(mixture: Mixture) -> Mixture:
        return replace(mixture, transform=transform)

    return replace(
        fit,
        mixture=whole(fit.mixture),
        path=tuple(map(whole, fit.path)),
        features=samples.features,
        layout=samples.layout,
    )
