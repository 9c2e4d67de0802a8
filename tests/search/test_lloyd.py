"""K-means on the kernel: scikit-learn's, from the same seeds; what seeds are, and rows that repeat each other."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans

from dgmm.search.initialise import LLOYD_STEPS
from dgmm.search.lloyd import kmeans, nearest_of, seeds_among


def groups(n: int, d: int, k: int, apart: float = 3.0, seed: int = 0) -> np.ndarray:
    r = np.random.default_rng(seed)
    return apart * r.standard_normal((k, d))[r.integers(k, size=n)] + r.standard_normal((n, d))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "d", "k"), [(300, 1, 2), (1000, 2, 5), (3000, 7, 8), (2000, 17, 13), (900, 40, 3)])
def test_it_is_lloyds_algorithm(n: int, d: int, k: int, weighted: bool) -> None:
    """Overlapping groups far from the origin; all starts at once are each of them alone."""
    x = groups(n, d, k, apart=1.0) + 1000.0
    weights = np.random.default_rng(1).gamma(2.0, size=n) if weighted else None
    starts = kmeans(x, k, range(6), weights)
    for seed, its in enumerate(starts):
        origin = np.average(x, axis=0, weights=weights)
        seeds = seeds_among(x - origin, k, seed, weights) + origin
        theirs = KMeans(k, init=seeds, n_init=1, max_iter=300, algorithm="lloyd", tol=1e-4).fit(
            x, sample_weight=weights
        )
        np.testing.assert_array_equal(its.labels, theirs.labels_)
        # theirs have made a step more, where nothing but the centres has moved
        np.testing.assert_allclose(its.centres, theirs.cluster_centers_, rtol=0, atol=2e-2)
        assert its.inertia == pytest.approx(theirs.inertia_, rel=1e-3)
        distances = cdist(x, its.centres, "sqeuclidean")
        assert its.inertia == pytest.approx(np.sum(distances.min(axis=1) * (1 if weights is None else weights)))
        (alone,) = kmeans(x, k, [seed], weights)
        np.testing.assert_array_equal(alone.labels, its.labels)


def test_steps_end_where_they_are_told_to() -> None:
    x = groups(2000, 4, 12, apart=0.3)
    for steps in (0, 1, 2, LLOYD_STEPS):
        (its,) = kmeans(x, 12, [0], steps=steps)
        centres = seeds_among(x - x.mean(axis=0), 12, 0) + x.mean(axis=0)
        for _ in range(steps):
            labels = cdist(x, centres).argmin(axis=1)
            centres = np.array([x[labels == k].mean(axis=0) for k in range(12)])
        np.testing.assert_allclose(its.centres, centres, atol=1e-9)


def test_starts_that_have_arrived_stay_where_they_are() -> None:
    """Well separated groups need a step or two; others beside them need many."""
    x = groups(3000, 2, 5, apart=20.0)
    few, many = kmeans(x, 5, range(8), steps=30), kmeans(x, 5, range(8), steps=300)
    for a, b in zip(few, many, strict=True):
        np.testing.assert_array_equal(a.centres, b.centres)
    assert len({round(its.inertia, 6) for its in many}) < 8


def test_seeds_are_far_from_each_other_and_rows() -> None:
    """Of groups far apart each has one, whatever their sizes: 20 of 20 seeds; random rows miss the small ones."""
    r = np.random.default_rng(0)
    sizes = np.repeat(np.arange(6), [900, 60, 20, 10, 5, 5])
    x = 100.0 * np.eye(6)[sizes] + r.standard_normal((len(sizes), 6))
    for seed in range(20):
        chosen = seeds_among(x, 6, seed)
        places = cdist(chosen, x).argmin(axis=1)
        np.testing.assert_array_equal(chosen, x[places])
        assert sorted(sizes[places]) == list(range(6))


def test_seeds_go_by_the_weights() -> None:
    x = np.arange(10.0)[:, None]
    weights = np.where(np.isin(np.arange(10), (2, 7)), 1.0, 0.0)
    for seed in range(10):
        assert sorted(seeds_among(x, 2, seed, weights)[:, 0]) == [2.0, 7.0]


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_of_rows_that_repeat_each_other_every_kind_is_drawn(offset: float) -> None:
    """Rounding of their distances is no distance; where there are fewer kinds than clusters, some stay empty."""
    r = np.random.default_rng(0)
    kinds = r.standard_normal((4, 3))
    which = np.concatenate([np.arange(4), r.choice(4, 396, p=[0.97, 0.01, 0.01, 0.01])])
    x = kinds[which] + offset
    for seed in range(10):
        (its,) = kmeans(x, 4, [seed])
        assert len(np.unique(its.labels)) == 4
        assert its.inertia == pytest.approx(0.0, abs=1e-12 * max(1.0, offset**2))
        (more,) = kmeans(x, 6, [seed])
        assert len(np.unique(more.labels)) == 4


@pytest.mark.parametrize("far", [1e3, 1e6, 1e9])
def test_a_row_far_from_all_others_is_one_cluster_and_the_others_are_divided_all_the_same(far: float) -> None:
    x = np.concatenate([groups(2000, 3, 4, apart=8.0), [[far, 0.0, 0.0]]])
    for seed in range(5):
        seeds = seeds_among(x - x.mean(axis=0), 5, seed) + x.mean(axis=0)
        (its,) = kmeans(x, 5, [seed], steps=1)
        labels = cdist(x, seeds).argmin(axis=1)
        expected = np.array([x[labels == k].mean(axis=0) for k in range(5)])
        np.testing.assert_allclose(its.centres, expected, atol=1e-13 * far + 1e-9)
        assert (its.labels == its.labels[-1]).sum() == 1


def test_equal_rows_are_one_cluster() -> None:
    (its,) = kmeans(np.full((50, 2), 3.0), 3, [0])
    np.testing.assert_array_equal(its.labels, np.zeros(50))
    np.testing.assert_array_equal(its.centres, np.full((3, 2), 3.0))
    assert its.inertia == 0


def test_nearest_is_the_nearest() -> None:
    x, points = groups(500, 5, 3) + 1e4, groups(7, 5, 3, seed=1) + 1e4
    np.testing.assert_array_equal(nearest_of(x, points), cdist(x, points).argmin(axis=1))
    np.testing.assert_array_equal(nearest_of(x, points[[3, 3, 0]]) == 1, np.zeros(500, dtype=bool))
