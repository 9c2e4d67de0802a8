"""Where to cut a component in two: rows on one side of it and on the other, and a mixture of two made of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from dgmm.em import Ground
from dgmm.errors import CollapseError, InputError
from dgmm.families import Family, GaussianFamily, Moments
from dgmm.mixture import Mixture
from dgmm.search.initialise import feature_sums, from_sums
from dgmm.types import BoolArray, FloatArray

#: A component is cut across its first principal axes, each at so many standard deviations from its mean.
CUTS = ((0.0, -1.0, 1.0), (0.0,))
#: Where the axis of the highest kurtosis is cut, towards its heavier tail, in standard deviations.
FAR = 2.0
#: How far apart, in standard deviations, the halves of a cut by moments are put.
NEAR = 0.5
#: Lloyd steps of the cut by two means.
TWO_MEANS_STEPS = 10


def cut(family: Family, y: FloatArray, weights: FloatArray, ground: Ground, scale: FloatArray) -> Iterator[Mixture]:
    """Two components in the place of one, in as many ways as there are to cut its rows.

    Parameters
    ----------
    family : Family
    y : ndarray, shape (d, n)
        Rows in frame coordinates.
    weights : ndarray, shape (n,)
        How much of each belongs to the component.
    ground : Ground
        Of these rows with these weights.
    scale : ndarray, shape (d,)
        What counts as one in each coordinate, for axes and distances.
    """
    view = family.view(y.T)
    seen, moments, unit = y, ground.moments, scale
    if view is not None:
        seen, moments, unit = view.T, Moments.of(view, weights), np.ones(len(y))
    values, vectors = principal_axes(moments, unit)
    z = (seen - moments.mean[:, None]) / unit[:, None]
    parts = [weights * sides for sides in cuts(z, weights, values, vectors)]
    parts = [part for part in parts if len(y) < part.sum() < weights.sum() - len(y)]
    whole, *sums = feature_sums(family, y, np.array([weights, *parts]))
    for part in sums:
        with suppress(CollapseError):
            yield from_sums(family, np.array([part, whole - part]), ground, begin=True)
    if isinstance(family, GaussianFamily):
        with suppress(np.linalg.LinAlgError, InputError):
            yield split_by_moments(family, ground.moments, scale * np.sqrt(values[0]) * vectors[:, 0], NEAR)


def principal_axes(moments: Moments, scale: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Variances, largest first, and the directions, one a column, in units of a scale; signs are fixed."""
    values, vectors = np.linalg.eigh(moments.covariance / np.outer(scale, scale))
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(len(values))]
    return values, vectors * np.sign(largest)


def cuts(z: FloatArray, weights: FloatArray, values: FloatArray, vectors: FloatArray) -> Iterator[BoolArray]:
    """Which rows (d, n) are on one side: across the first axes, across those of the extreme kurtoses, by two means.

    A few rows far away, whose direction is no principal one, make for the highest kurtosis of all whitened directions,
    two groups alike for the lowest (fourth-order blind identification: Cardoso 1989).
    """
    used = values > 0
    along = vectors[:, used].T @ z / np.sqrt(values[used])[:, None]
    for axis, places in zip(along, CUTS, strict=False):
        for at in places:
            yield axis > at
    if len(along):
        squared = weights * (along**2).sum(axis=0)
        _, axes = np.linalg.eigh((along * squared) @ along.T)
        low, high = axes[:, 0] @ along, axes[:, -1] @ along
        yield low > low.mean()
        yield high * np.sign(weights @ high**3) > FAR
        yield two_means(z, weights, along[0] > 0)
        yield two_means(along, weights, along[0] > 0)


def two_means(z: FloatArray, weights: FloatArray, sides: BoolArray) -> BoolArray:
    """Lloyd's steps from some sides."""
    for _ in range(TWO_MEANS_STEPS):
        first, second = weights * sides, weights * ~sides
        if not (first.any() and second.any()):
            return sides
        a, b = z @ first / first.sum(), z @ second / second.sum()
        after: BoolArray = (a - b) @ z > 0.5 * (a @ a - b @ b)
        if (after == sides).all():
            return sides
        sides = after
    return sides


def split_by_moments(family: GaussianFamily, moments: Moments, axis: FloatArray, t: float) -> Mixture:
    """Two halves with the mean and the covariance of the whole: ``mu +- t a``, ``C - t^2 a a'``.

    Parameters
    ----------
    family : GaussianFamily
        A family that restricts covariances has less of them.
    moments : Moments
    axis : ndarray, shape (d,)
        A principal axis times its standard deviation.
    t : float
        Between zero and one.
    """
    step = t * axis
    halves = family.factors(2, moments.covariance - np.outer(step, step))
    means = np.array([moments.mean + step, moments.mean - step])
    return Mixture(family, np.array([0.5, 0.5]), family.from_arrays({"means": means, "factors": halves}))
