"""Clusters of several components: those are merged, two at a time, that tell rows apart the least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import entr

from dgmm.errors import InputError
from dgmm.mixture import Mixture
from dgmm.rows import Rows
from dgmm.types import FloatArray, IntArray

#: Rows whose sums are taken at a time, so that they stay in the processor's cache.
SLICE = 4096
#: A responsibility below this has less than 1e-14 nats of entropy.
NEGLIGIBLE = 1e-16
#: With fewer components there is nothing to choose among: any curve of three points is two lines.
LEAST_FOR_ELBOW = 4


@dataclass(frozen=True)
class Clusters:
    """A hierarchy of clusters, from the components of a mixture down to one (Baudry et al. 2010).

    Attributes
    ----------
    n_rows : int
        Rows of the data by which they were merged: a random sample of them, or all there are.
    levels : ndarray of int, shape (K, K)
        Row m - 1: of m clusters, that of each component. Clusters are numbered by the first of their components.
    entropies : ndarray, shape (K,)
        Mean entropy of the rows' responsibilities for 1, 2, ..., K clusters, in nats.
    """

    n_rows: int
    levels: IntArray
    entropies: FloatArray

    @classmethod
    def checked(cls, n_rows: int, levels: FloatArray, entropies: FloatArray, n_components: int) -> Clusters:
        """From what was stored of a mixture of so many components; raises `ValueError` for what cannot be."""
        with np.errstate(invalid="ignore"):
            k, found = n_components, levels.astype(np.int64)
        if levels.shape != (k, k) or entropies.shape != (k,) or (entropies < 0).any() or (found != levels).any():
            raise ValueError(f"its clusters {levels.shape} and their entropies {entropies.shape} are none")
        for m, level in enumerate(found, 1):
            finer = found[min(m, k - 1)]
            nested = len({*zip(finer.tolist(), level.tolist(), strict=True)}) == min(m + 1, k)
            if not nested or len(np.unique(level)) != m or (numbered(level) != level).any():
                raise ValueError(f"its {m} clusters {level.tolist()[:20]} are none of those after them")
        return cls(n_rows, found, entropies)

    @property
    def n_components(self) -> int:
        """Number of components K."""
        return len(self.entropies)

    def level(self, n_clusters: int) -> IntArray:
        """The cluster of each component where there are so many, shape (K,).

        Raises
        ------
        InputError
            If there are not so many components.
        """
        if not 1 <= n_clusters <= self.n_components:
            raise InputError(f"{n_clusters} clusters of {self.n_components} components: give 1 to {self.n_components}")
        return self.levels[n_clusters - 1]

    def probabilities(self, responsibilities: FloatArray, n_clusters: int) -> FloatArray:
        """Probability of each of so many clusters (n, n_clusters), from those of the components (n, K)."""
        return merged(responsibilities, self.level(n_clusters))

    def merged_at(self, n_clusters: int) -> tuple[IntArray, IntArray]:
        """The components of the two clusters that have become one where so many are left."""
        before, after = self.level(n_clusters + 1), self.level(n_clusters)
        (joined,) = (c for c in range(n_clusters) if len(np.unique(before[after == c])) == 2)
        a, b = (np.flatnonzero(before == part) for part in np.unique(before[after == joined]))
        return a, b

    @property
    def elbow(self) -> int | None:
        """The number of clusters at which the curve of the entropies bends; None of fewer than four components.

        That is the common end of the two straight lines, one on either side, which are nearest to it together in the
        sense of least squares. Where components hardly overlap there is no entropy to speak of, and it says nothing.
        """
        x, y = np.arange(1.0, self.n_components + 1), self.entropies
        if len(y) < LEAST_FOR_ELBOW:
            return None
        breaks = range(2, len(y))
        errors = [off_a_line(x[:c], y[:c]) + off_a_line(x[c - 1 :], y[c - 1 :]) for c in breaks]
        return breaks[int(np.argmin(errors))]

    @property
    def words(self) -> str:
        """In a sentence."""
        found = self.elbow
        bend = "" if found is None else f"; the elbow of the entropy suggests {found}"
        groups = [] if found is None else [np.flatnonzero(self.level(found) == c) for c in range(found)]
        several = [" + ".join(map(str, group)) for group in groups if len(group) > 1]
        made = f" (components {', '.join(several)})" if several else ""
        return f"clusters of merged components, by {self.n_rows} rows{bend}{made}"

    def reordered(self, order: IntArray) -> Clusters:
        """The same of the components in another order."""
        return replace(self, levels=np.array([numbered(level[order]) for level in self.levels]))


def clusters_of(mixture: Mixture, rows: Rows, *, marginal: bool = False) -> Clusters:
    """Merge components by entropy, those first after which that of the rows' responsibilities is lowest.

    Parameters
    ----------
    mixture : Mixture
        In the data's units.
    rows : Rows
        At least one; complete ones, unless marginal responsibilities are asked for.
    marginal : bool
    """
    t = mixture.responsibilities(rows.x, marginal=marginal)
    weights, k = rows.every_weight / rows.count, mixture.n_components
    level, every, saved = np.arange(k), [*range(k)], np.full((k, k), -np.inf)
    for a in every[:-1]:
        saved[a, a + 1 :] = savings(t, weights, a, every[a + 1 :])
    levels, entropies = [level], [float(weights @ entr(t).sum(axis=1))]
    while len(every) > 1:
        # of equal ones the first
        a, b = (int(i) for i in np.unravel_index(np.argmax(saved), saved.shape))
        entropies.append(entropies[-1] - float(saved[a, b]))
        t[:, a] += t[:, b]
        every.remove(b)
        level = np.where(level == b, a, level)
        levels.append(numbered(level))
        saved[b] = saved[:, b] = -np.inf
        others = [c for c in every if c != a]
        for c, value in zip(others, savings(t, weights, a, others), strict=True):
            saved[min(a, c), max(a, c)] = value
    # one cluster has none, but for rounding
    return Clusters(len(rows), np.array(levels[::-1]), np.maximum(entropies[::-1], 0.0))


def savings(t: FloatArray, weights: FloatArray, one: int, others: Sequence[int]) -> FloatArray:
    """How much entropy is saved where one column of responsibilities (n, K) and each of some others become one."""
    total = np.zeros(len(others))
    # nothing is saved of rows that are surely of others
    near = np.flatnonzero(t[:, one] > NEGLIGIBLE)
    for start in range(0, len(near), SLICE):
        some = near[start : start + SLICE]
        here, there = t[some, one][:, None], t[some][:, others]
        total += weights[some] @ (entr(here) + entr(there) - entr(here + there))
    return total


def numbered(clusters: IntArray) -> IntArray:
    """Clusters of components numbered by the first of them."""
    names, first = np.unique(clusters, return_index=True)
    ranks = np.empty(len(names), dtype=np.int64)
    ranks[np.argsort(first)] = np.arange(len(names))
    return ranks[np.searchsorted(names, clusters)]


def merged(responsibilities: FloatArray, clusters: IntArray) -> FloatArray:
    """Probabilities of clusters (n, m) from those of their components (n, K)."""
    order = np.argsort(clusters, kind="stable")
    first = np.searchsorted(clusters[order], np.arange(int(clusters.max()) + 1))
    found: FloatArray = np.add.reduceat(responsibilities[:, order], first, axis=1)
    return found


def off_a_line(x: FloatArray, y: FloatArray) -> float:
    """Sum of the squares of what a straight line leaves, that of least squares."""
    dx, dy = x - x.mean(), y - y.mean()
    return float(((dy - (dx @ dy) / (dx @ dx) * dx) ** 2).sum())
