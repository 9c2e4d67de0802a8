"""K-means of rows in memory: all starts in one E-step.

Equal spherical components share samples out as k-means does when their extent goes to nothing; so do they for the
kernel, with one so small that nothing is left to be shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dgmm.estep import Plan, Product, Stack, accumulate
from dgmm.families import get_family
from dgmm.rows import Rows
from dgmm.types import FloatArray, IntArray

#: The components' variance, of the squared distance between the nearest centres: rows so near to a boundary, of the way
#: between centres, are of both sides, all others of one.
EXTENT = 1e-8
#: Starts whose centres move by less than this share of the data's variance, squared and summed, have arrived.
ARRIVED = 1e-4
#: Lloyd's steps at most, where nobody asks for fewer.
STEPS = 300
#: Squared distances below this share of a row's square are nothing: they are differences of such.
ROUNDOFF = 1e-13


@dataclass(frozen=True)
class Clusters:
    """Where one start has ended.

    Attributes
    ----------
    labels : ndarray of int, shape (n,)
        The nearest centre of each row; none may have no row, where rows repeat each other.
    centres : ndarray, shape (K, d)
    inertia : float
        Sum of the rows' squared distances from their centres, times the rows' weights.
    """

    labels: IntArray
    centres: FloatArray
    inertia: float


def kmeans(
    x: FloatArray, n_clusters: int, seeds: Sequence[int], weights: FloatArray | None = None, *, steps: int = STEPS
) -> list[Clusters]:
    """Lloyd's algorithm from seeds of k-means++, one start for each random seed.

    Parameters
    ----------
    x : ndarray, shape (n, d)
    n_clusters : int
        At most n.
    seeds : sequence of int
    weights : ndarray, shape (n,), optional
    steps : int
        At most; starts that have arrived make no more.
    """
    x = np.ascontiguousarray(x, dtype=np.float64)
    origin = np.average(x, axis=0, weights=weights)
    rows = Rows(y := x - origin, weights)
    squares = (y**2).sum(axis=1)
    variance = float(np.average(squares, weights=weights)) / x.shape[1]
    centres = np.array([seeds_among(y, n_clusters, seed, weights) for seed in seeds])
    moving = np.arange(len(seeds) if variance > 0 else 0)
    for _ in range(steps):
        if not len(moving):
            break
        before = centres[moving]
        (sums,) = accumulate(rows, _plan(before)).sums
        sums = sums.reshape(*before.shape[:2], -1)
        counts = sums[..., :1]
        # a centre without rows stays
        after = np.divide(sums[..., 1:], counts, out=before.copy(), where=counts > 0)
        centres[moving] = after
        moving = moving[((after - before) ** 2).sum(axis=(1, 2)) > ARRIVED * variance]
    each = ((its, _apart(y, squares, its)) for its in centres)
    w = rows.every_weight
    return [Clusters(apart.argmin(axis=0), its + origin, float(w @ apart.min(axis=0))) for its, apart in each]


def seeds_among(y: FloatArray, n: int, seed: int, weights: FloatArray | None = None) -> FloatArray:
    """So many rows (n, d), far from each other: k-means++ (Arthur and Vassilvitskii 2007), the best of a few each time.

    Each is drawn in proportion to the squared distance from the nearest one before. Of some that are drawn the one
    goes on that leaves the smallest sum of these.
    """
    r, m, squares = np.random.default_rng(seed), len(y), (y**2).sum(axis=1)
    w = Rows(y, weights).every_weight
    trials = 2 + int(np.log(n))

    def drawn(rates: FloatArray, size: int) -> IntArray:
        upto = np.cumsum(rates)
        # rates of nothing but zeros, of rows that all have been drawn, leave any
        found = upto.searchsorted(r.random(size) * upto[-1], side="right") if upto[-1] > 0 else r.integers(m, size=size)
        return np.minimum(found, m - 1)

    chosen = [int(drawn(w, 1)[0])]
    left = _apart(y, squares, y[chosen])[0]
    while len(chosen) < n:
        # where nothing but rounding is left, a row is one that is chosen
        left[left < ROUNDOFF * squares] = 0.0
        several = drawn(w * left, trials)
        after = np.minimum(_apart(y, squares, y[several]), left)
        best = int((after @ w).argmin())
        chosen.append(int(several[best]))
        left = after[best]
    return y[chosen]


def nearest_of(x: FloatArray, points: FloatArray) -> IntArray:
    """The nearest point (K, d) to each row (n, d), the first of equals."""
    origin = points.mean(axis=0)
    y = x - origin
    return _apart(y, (y**2).sum(axis=1), points - origin).argmin(axis=0)


def _apart(y: FloatArray, squares: FloatArray, points: FloatArray) -> FloatArray:
    """Squared distances of rows (m, d) from points (p, d), shape (p, m), but for rounding."""
    apart: FloatArray = -2 * points @ y.T
    apart += (points**2).sum(axis=1)[:, None]
    apart += squares
    return apart


def _plan(centres: FloatArray) -> Plan:
    """The E-step of as many mixtures as there are starts, of components at centres (starts, K, d)."""
    starts, k, d = centres.shape
    # rows far from all others make the data's variance no measure of what is between clusters
    nearest = np.full(starts, np.inf)
    for i in range(k - 1):
        apart = ((centres[:, i + 1 :] - centres[:, i, None]) ** 2).sum(axis=2)
        nearest = np.minimum(nearest, np.where(apart > 0, apart, np.inf).min(axis=1))
    scaled = centres / (EXTENT * nearest)[:, None, None]
    theta = np.concatenate([-0.5 * (centres * scaled).sum(axis=2, keepdims=True), scaled], axis=2).reshape(-1, d + 1)
    tied = get_family("tied")
    products = (Product(slice(0, len(theta)), theta),)
    stack = Stack(np.zeros(d), None, np.ones(d), tied.features, tied.features.size(d), products)
    candidates = tuple(slice(i * k, (i + 1) * k) for i in range(starts))
    return Plan((stack,), candidates, (False,) * len(theta), (tied,) * starts, noisy=(False,) * starts)
