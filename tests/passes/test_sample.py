"""The sample of rows: the same whatever the parts, little of it at a time, and right where it was too little."""

from __future__ import annotations

import itertools
import tracemalloc
from functools import reduce
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from dgmm.data import grid as grid_module
from dgmm.data import open_samples
from dgmm.engine import Fold, Node, merge_all
from dgmm.engine.fold import cut
from dgmm.engine.memory import gathered_bytes
from dgmm.engine.tree import grow
from dgmm.engine.workers import threads
from dgmm.fits import Training
from dgmm.passes import Sample, profile_of, row_hashes
from dgmm.passes.profile import ProfileSegment
from dgmm.passes.sample import OVERSAMPLED, SPARE, Draw, sample_keys
from dgmm.rows import Rows

LIMIT, SEGMENTS, LENGTH = 400, 50, 200
N = SEGMENTS * LENGTH


def numbers() -> np.ndarray:
    return np.arange(N, dtype=np.uint64)


def keys_of(there: np.ndarray, weights: np.ndarray | None, seed: int = 0) -> np.ndarray:
    return sample_keys(row_hashes(numbers()[there], seed), None if weights is None else weights[there])


def drawn(there: np.ndarray, weights: np.ndarray | None, draw: Draw, runs: int = 7) -> tuple[Sample, int]:
    """The sample that tasks and the tree come to, and the rows of all that tasks would send."""
    nodes: list[Node[Sample]] = []
    for run in cut(SEGMENTS, runs):
        stack: list[Node[Sample]] = []
        for segment in run:
            place = slice(segment * LENGTH, (segment + 1) * LENGTH)
            its = numbers()[place][there[place]]
            rows = Rows(its[:, None].astype(float), None if weights is None else weights[place][there[place]])
            grow(stack, Node(0, segment, draw.of(rows, its, LENGTH / N)))
        nodes.extend(stack)
    return merge_all(nodes, SEGMENTS).ordered(), sum(len(node.value.keys) for node in nodes)


def smallest_of(there: np.ndarray, weights: np.ndarray | None, limit: int) -> np.ndarray:
    """The oracle: numbers of the rows with the smallest keys."""
    return numbers()[there][np.argsort(keys_of(there, weights), kind="stable")[:limit]]


@given(
    st.lists(st.floats(0, 1), min_size=SEGMENTS, max_size=SEGMENTS),
    st.sampled_from([None, 0.0, 1.0, 4.0]),
    st.integers(1, 50),
    st.sampled_from([1, 60, LIMIT, N]),
    st.integers(0, 5),
)
def test_a_sample_is_that_of_everything_or_says_that_it_is_short(
    shares: list[float], spread: float | None, runs: int, limit: int, seed: int
) -> None:
    """Segments of which any share is missing, and weights that differ by any factor from segment to segment."""
    r = np.random.default_rng(seed)
    there = r.random(N) >= np.repeat(shares, LENGTH)
    there[r.integers(N)] = True
    weights = None if spread is None else np.repeat(np.exp(spread * r.standard_normal(SEGMENTS)), LENGTH)
    draw = Draw(limit, 0)
    sample, _ = drawn(there, weights, draw, runs)
    expected = smallest_of(there, weights, limit)
    assert sample.short == (not np.array_equal(sample.rows.x[:, 0], expected.astype(float)))
    if limit < there.sum() and not sample.short:
        after = np.sort(keys_of(there, weights))[limit]
        assert sample.next_key == after
    times = 0
    while sample.short:
        draw = draw.again(sample)
        sample, _ = drawn(there, weights, draw, runs)
        times += 1
    np.testing.assert_array_equal(sample.rows.x[:, 0], expected)
    assert times <= 3, "each draw keeps eight times as much: 4 x 8 x 8 is more than 50 segments"


@pytest.mark.parametrize("runs", [1, 5, 50])
def test_what_tasks_send_is_some_times_the_sample(runs: int) -> None:
    """However many tasks there are: four times the limit, and a few rows for each node."""
    everywhere = np.ones(N, dtype=bool)
    sample, sent = drawn(everywhere, None, Draw(LIMIT, 0), runs)
    assert not sample.short
    assert LIMIT <= sent <= OVERSAMPLED * LIMIT + 2 * SPARE * runs * np.log2(SEGMENTS)
    assert drawn(everywhere, None, Draw(LIMIT, 0, times=np.inf), 50)[1] == N, "without a bound it is everything"


@pytest.mark.parametrize(("factor", "short"), [(3.0, False), (6.0, True)])
@pytest.mark.parametrize("weighted", [False, True])
def test_how_uneven_data_may_be(factor: float, short: bool, weighted: bool) -> None:
    """A fifth of the segments have so many times the rows, or the weight, of the average."""
    few = np.repeat(np.arange(SEGMENTS) % 5 == 0, LENGTH)
    share = min(factor / 5, 1.0)
    rest = 0.25 * (1 - share)
    r = np.random.default_rng(0)
    if weighted:
        there, weights = np.ones(N, dtype=bool), np.where(few, share, max(rest, 1e-6))
    else:
        there, weights = r.random(N) < np.where(few, share, rest), None
    if factor > 5:  # nearly all of it in a twelfth
        twelfth = np.repeat(np.arange(SEGMENTS) % 12 == 0, LENGTH)
        there, weights = (np.ones(N, dtype=bool), np.where(twelfth, 1.0, 1e-6)) if weighted else (twelfth, None)
    assert drawn(there, weights, Draw(LIMIT, 0))[0].short == short


def test_little_more_than_the_sample_is_sent_when_it_is_drawn_again() -> None:
    """What is known of the keys from the first time keeps the rest away."""
    weights = np.where(np.repeat(np.arange(SEGMENTS) % 7 == 0, LENGTH), 1.0, 1e-6)
    everywhere, draw = np.ones(N, dtype=bool), Draw(LIMIT, 0, times=2.5)
    first, _ = drawn(everywhere, weights, draw)
    again, sent = drawn(everywhere, weights, draw.again(first))
    assert first.short
    assert not again.short
    assert LIMIT <= sent < 1.5 * LIMIT


def test_small_parts_may_be_uneven_by_chance() -> None:
    """Eight rows of the sample are expected of each segment; more than 64 of one are as good as impossible."""
    everywhere = np.ones(N, dtype=bool)
    for seed in range(200):
        counts = np.bincount(np.argsort(row_hashes(numbers(), seed))[:LIMIT] // LENGTH, minlength=SEGMENTS)
        assert counts.max() <= OVERSAMPLED * LIMIT / SEGMENTS + SPARE
    # without the spare rows, the first that is drawn from any of a thousand parts would be one too many now and then
    tiny = [
        Sample.of(keys_of(everywhere, None)[a : a + 10], Rows(np.zeros((10, 1))), 10, share=0.04)
        for a in range(0, N, 10)
    ]
    assert all(len(part.keys) == 10 for part in tiny)


def test_equal_keys_are_taken_from_the_first_on() -> None:
    """Log densities are equal where rows are: the lowest are the same however the rows are shared out."""
    keys = np.array([3.0, 1.0, 2.0, 1.0, 2.0, 2.0, 0.0, 1.0, 2.0, 3.0])
    rows = Rows(np.arange(10.0)[:, None])
    expected = np.argsort(keys, kind="stable")[:5]
    for edges in ([0, 10], [0, 3, 10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [0, 0, 9, 10]):
        parts = [Sample.of(keys[a:b], rows[a:b], 5) for a, b in itertools.pairwise(edges)]
        np.testing.assert_array_equal(reduce(Sample.merge, parts).ordered().rows.x[:, 0], expected)


def test_what_is_merged_is_copied_once() -> None:
    """The largest of all samples are merged in the driver, which has many of them."""
    r = np.random.default_rng(0)
    limit = 50_000
    a, b = (Sample.of(r.random(limit), Rows(r.random((limit, 16)), r.random(limit)), limit) for _ in range(2))
    tracemalloc.start()
    try:
        merged = a.merge(b)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    keys = np.concatenate([a.keys, b.keys])
    kept = np.sort(np.argsort(keys)[:limit])
    np.testing.assert_array_equal(merged.rows.x, np.concatenate([a.rows.x, b.rows.x])[kept])
    np.testing.assert_array_equal(merged.rows.weights, np.concatenate([a.rows.weights, b.rows.weights])[kept])
    # the rest is keys, masks and indices
    assert peak < 1.5 * (merged.rows.nbytes + merged.keys.nbytes)


# ---- from the data ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_module, "MIN_ROWS", LENGTH)


def stored(x: np.ndarray) -> zarr.Array[Any]:
    array = zarr.create_array(MemoryStore(), shape=x.shape, chunks=(LENGTH, x.shape[1]), dtype=x.dtype)
    array[:] = x
    return array


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize(("where", "passes"), [(slice(None), 1), (slice(0, 2000), 2), (slice(N - 201, N - 1), 2)])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_sample_that_came_out_short_is_drawn_again(where: slice, passes: int, weighted: bool) -> None:
    """All complete rows, or all weight, in a part of the data: 2 % of it at the least, which holds half the sample."""
    x = np.random.default_rng(0).standard_normal((N, 2))
    there = np.zeros(N, dtype=bool)
    there[where] = True
    weights = None
    if weighted:
        weights = np.where(there, 1.0, 1e-9)
        there[:] = True
    else:
        x[~there, 1] = np.nan
    samples = open_samples(stored(x), weights=weights)
    assert len(samples.grid) == SEGMENTS
    fold = Fold(samples, threads(2))
    profile = profile_of(fold, samples, Training(sample_rows=LIMIT))
    expected = x[smallest_of(there, weights, LIMIT).astype(int)]
    np.testing.assert_array_equal(profile.sample.rows.x, expected)
    assert fold.n_passes == passes
    assert fold.n_reads == 1, "it is in memory by then"


@pytest.mark.usefixtures("small_segments")
def test_the_sample_is_kept_as_it_is_read_until_it_is_all_there() -> None:
    x = np.random.default_rng(0).integers(0, 200, (N, 3)).astype(np.uint8)
    samples = open_samples(stored(x))
    leaf = ProfileSegment("x", samples.features, samples.grid, Draw(LIMIT, 0), samples.row_bytes)
    found = [leaf(i, samples.read_rows(samples.grid.region(i))) for i in range(2)]
    assert all(part.sample.rows.x.dtype == np.uint8 for part in found)
    for part in found:
        sizes = part.sample.rows.nbytes + part.sample.keys.nbytes
        assert sizes <= leaf.draw.nbytes(1 / SEGMENTS, LENGTH, samples.row_bytes)
    profile = profile_of(Fold(samples, threads(1)), samples, Training(sample_rows=LIMIT))
    assert profile.sample.rows.x.dtype == np.float64


def test_what_is_gathered_does_not_grow_with_the_data() -> None:
    """A thousand times the rows, and the tasks of a hundred threads: the sample, some times, and little else."""
    sizes = []
    for n, tasks in ((10**7, 8), (10**10, 400)):
        samples = open_samples(np.broadcast_to(np.zeros((1, 16), np.float32), (100, 16)))
        grid = grid_module.Grid((n,), (100_000,))
        leaf = ProfileSegment("x", samples.features, grid, Draw(100_000, 0), 64)
        large = type(samples)(**(vars(samples) | {"grid": grid}))
        sizes.append(gathered_bytes(large, leaf, cut(len(grid), tasks)))
    sample = 100_000 * 72
    assert 4 * sample < sizes[0] < 7 * sample
    assert sizes[1] < 10 * sample
