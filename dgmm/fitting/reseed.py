"""New components on the rows that a mixture explains worst: what the sample of rows missed, and for collapsed ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dgmm.blas import one_thread
from dgmm.em import Evaluated, maximise
from dgmm.errors import CollapseError
from dgmm.mixture import Mixture
from dgmm.passes import Sample
from dgmm.rows import Rows
from dgmm.search import kmeans
from dgmm.types import FloatArray, IntArray

#: The worst rows are split into this many groups, each of which may become a component.
GROUPS = 8
#: In the best of so many ways that k-means finds.
WAYS = 3
#: A gain counts if it is this many times its standard error.
CERTAIN = 2.0


@dataclass(frozen=True)
class Reseeding:
    """A mixture with other components in the place of some.

    Attributes
    ----------
    mixture : Mixture
        In frame coordinates.
    replaced : tuple of int
        Which components are new.
    gain : float
        What its start promises to add to the total log-likelihood, in nats, estimated on rows of the sample.
    error : float
        Standard error of that.
    """

    mixture: Mixture
    replaced: tuple[int, ...]
    gain: float
    error: float = 0.0


def groups_of(y: FloatArray, seed: int) -> list[IntArray]:
    """Indices of rows that lie together, in as many groups as there may be, those too small for a component left out.

    Parameters
    ----------
    y : ndarray, shape (m, d)
        In frame coordinates.
    """
    m, d = y.shape
    labels = np.zeros(m, dtype=np.int64)
    if m >= 2 * (d + 1):
        with one_thread():
            starts = kmeans(y, min(GROUPS, m // (d + 1)), range(seed, seed + WAYS))
        labels = min(starts, key=lambda its: its.inertia).labels
    groups = [np.flatnonzero(labels == g) for g in range(labels.max() + 1)]
    return [g for g in groups if len(g) > d + 1]


def reseed(
    point: Evaluated,
    worst: Sample,
    sample: Rows,
    *,
    collapsed: Sequence[int] = (),
    seed: int = 0,
) -> Reseeding | None:
    """Put components on groups of badly explained rows, where that promises a gain.

    Collapsed components are all replaced, whatever that costs: their likelihood means nothing. Otherwise one
    component is merged with another, whose statistics simply add, and takes the place of the group that gains most
    (split and merge EM, Ueda et al. 2000).

    Parameters
    ----------
    point : Evaluated
        A mixture and what all the data say of it.
    worst : Sample
        The rows of lowest log density, in the data's units.
    sample : Rows
        Of all kinds, in the data's units.
    collapsed : sequence of int
    seed : int

    Returns
    -------
    Reseeding or None
        None if there is no group, or none that promises anything.
    """
    mixture, statistics, ground = point.mixture, point.statistics, point.ground
    frame = ground.frame
    y = frame.coordinates(worst.rows.x)
    w = worst.rows.every_weight
    groups = groups_of(y.T, seed)
    if not groups:
        return None
    before = mixture.to_data(frame)
    r_worst = (w[:, None] * before.responsibilities(worst.rows.x)).T

    def made_with(places: dict[int, IntArray], merged: int | None = None) -> Mixture | None:
        """One M-step with the rows of groups, taken from wherever they were, as the only ones of some components."""
        sums, local = statistics.sums.copy(), statistics.local.copy()
        if merged is not None and local.any():
            return None  # sums in coordinates of their own do not add to others
        local[list(places)] = False
        if local.any():
            return None
        for rows in places.values():
            sums -= mixture.family.sums_of(y[:, rows], r_worst[:, rows], mixture.components)
        if merged is not None:
            sums[merged] += sum(sums[k] for k in places)
        for k, rows in places.items():
            (sums[k],) = mixture.family.sums_of(y[:, rows], w[None, rows])
        try:
            return maximise(mixture, replace(statistics, sums=sums, local=local), ground)
        except CollapseError:
            return None

    at_worst = worst.keys
    if collapsed:
        # where most is missing first; where there are more components than groups, some stay as they are
        order = sorted(groups, key=lambda rows: float(w[rows] @ (at_worst[rows] - at_worst.max())))
        places = dict(zip(collapsed, order, strict=False))
        made = made_with(places)
        return None if made is None else Reseeding(made, tuple(places), np.inf)
    at_sample = before.log_density(sample.x)
    responsibilities = before.responsibilities(sample.x)
    w_sample = sample.every_weight
    overlap = (responsibilities.T * w_sample) @ responsibilities
    np.fill_diagonal(overlap, -1.0)

    def attempt(k: int, rows: IntArray) -> Reseeding | None:
        """Merge component k with the one that shares most with it, and put it on a group."""
        made = made_with({k: rows}, merged=int(overlap[k].argmax()))
        if made is None:
            return None
        after = made.to_data(frame)
        others, change = max(ground.moments.count - w.sum(), 0.0), after.log_density(sample.x) - at_sample
        mean = np.average(change, weights=w_sample)
        gain = float(w @ (after.log_density(worst.rows.x) - at_worst) + others * mean)
        error = others * float(np.sqrt(np.average((change - mean) ** 2, weights=w_sample) / len(sample)))
        return Reseeding(made, (k,), gain, error)

    farthest = min(groups, key=lambda rows: at_worst[rows].mean())
    tries = [t for k in range(mixture.n_components) if (t := attempt(k, farthest)) is not None]
    if not tries:
        return None
    (weakest,) = max(tries, key=lambda t: t.gain).replaced
    tries += [t for rows in groups if rows is not farthest and (t := attempt(weakest, rows)) is not None]
    return max((t for t in tries if t.gain > CERTAIN * t.error), key=lambda t: t.gain, default=None)
