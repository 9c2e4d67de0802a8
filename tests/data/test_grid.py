"""The arithmetic of segments: a partition of the grid along its chunks, and global row numbers."""

from __future__ import annotations

import math
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgmm.data import Grid
from dgmm.data import grid as module
from dgmm.data.grid import MAX_BYTES, MAX_ROWS

Shape = tuple[int, ...]


@st.composite
def shapes_and_chunks(draw: st.DrawFn, longest: int) -> tuple[Shape, Shape]:
    """Shapes of one to four dimensions and chunks that need not divide them, or are longer than they are."""
    shape = tuple(draw(st.lists(st.integers(1, longest), min_size=1, max_size=4)))
    return shape, tuple(draw(st.integers(1, n + 3)) for n in shape)


def small_grid(shape: Shape, chunks: Shape, least: int) -> Grid:
    """A grid of segments of at least so many rows, so that a small grid has several."""
    with patch.object(module, "MIN_ROWS", least):
        return Grid.along_chunks(shape, chunks, 24)


@given(shapes_and_chunks(9), st.sampled_from([1, 5, 30, 4096]))
def test_segments_cover_every_sample_once(case: tuple[Shape, Shape], least: int) -> None:
    grid = small_grid(*case, least)
    covered = np.zeros(grid.shape, dtype=int)
    for i in range(len(grid)):
        covered[grid.region(i)] += 1
        assert grid.n_rows(i) == covered[grid.region(i)].size <= grid.largest
    np.testing.assert_array_equal(covered, 1)
    assert grid.size == covered.size == sum(grid.n_rows(i) for i in range(len(grid)))


@given(shapes_and_chunks(9), st.sampled_from([1, 5, 30, 4096]))
def test_segments_are_whole_chunks(case: tuple[Shape, Shape], least: int) -> None:
    """No chunk is read for two segments: each one lies in exactly one."""
    shape, chunks = case
    grid = small_grid(shape, chunks, least)
    for n, chunk, length in zip(shape, chunks, grid.segment, strict=True):
        assert length == n or length % chunk == 0
    owner = np.empty(grid.shape, dtype=int)
    for i in range(len(grid)):
        owner[grid.region(i)] = i
    for corner in np.ndindex(*(-(-n // c) for n, c in zip(shape, chunks, strict=True))):
        chunk = tuple(slice(i * c, (i + 1) * c) for i, c in zip(corner, chunks, strict=True))
        assert len(np.unique(owner[chunk])) == 1


@given(shapes_and_chunks(9), st.sampled_from([1, 5, 30]))
def test_rows_are_c_order_numbers_of_the_whole_grid(case: tuple[Shape, Shape], least: int) -> None:
    grid = small_grid(*case, least)
    for i in range(len(grid)):
        region = grid.region(i)
        indices = np.meshgrid(*(np.arange(s.start, s.stop) for s in region), indexing="ij")
        rows = grid.rows(region)
        assert rows.dtype == np.uint64
        np.testing.assert_array_equal(rows, np.ravel_multi_index(tuple(indices), grid.shape).ravel())


def test_rows_beyond_32_bits() -> None:
    """A grid of 2^40 samples, never in memory."""
    grid = Grid.along_chunks((2**20, 2**20), (1024, 1024), 32)
    last = (slice(2**20 - 1, 2**20), slice(2**20 - 2, 2**20))
    assert grid.rows(last).tolist() == [2**40 - 2, 2**40 - 1]


@given(shapes_and_chunks(100_000), st.integers(1, 40_000))
def test_segments_are_bounded(case: tuple[Shape, Shape], row_bytes: int) -> None:
    """A segment is a single chunk, or it stays below what a task may take, and is not needlessly small."""
    shape, chunks = case
    grid = Grid.along_chunks(shape, chunks, row_bytes)
    chunk = math.prod(min(c, n) for c, n in zip(chunks, shape, strict=True))
    assert grid.largest == chunk or (grid.largest * row_bytes <= MAX_BYTES and grid.largest <= MAX_ROWS)
    assert grid.largest >= chunk
    last = len(grid) - 1
    assert tuple(s.stop for s in grid.region(last)) == shape
    assert tuple(s.start for s in grid.region(0)) == (0,) * len(shape)


@pytest.mark.parametrize(
    ("shape", "chunks", "row_bytes", "segment"),
    [
        # all of a small array is one segment: fewer rows than MIN_ROWS
        ((272,), (100,), 16, (272,)),
        # 10^6 / 64 = 15,625 rows wanted: 15 chunks of 1,000
        ((1_000_000,), (1000,), 32, (15_000,)),
        # a chunk that is larger than any segment need be stays whole
        ((1_000_000,), (500_000,), 512, (500_000,)),
        # months of 16,200 profiles: one month is enough rows
        ((12, 90, 180), (1, 90, 180), 152, (1, 90, 180)),
        # tiny chunks join along the last dimension first: 4,096 // 60 = 68 of 3 columns, then rows of the whole width
        ((100, 120), (20, 3), 16, (20, 120)),
        # 8 MiB / 40,000 = 209 rows: 20 chunks of 10
        ((100_000,), (10,), 40_000, (200,)),
        # 10^8 / 64 would be more than 131,072 rows: 131 chunks of 1,000
        ((100_000_000,), (1000,), 4, (131_000,)),
        # a chunk longer than the array
        ((50, 7), (1000, 1000), 16, (50, 7)),
    ],
)
def test_segments_by_hand(shape: Shape, chunks: Shape, row_bytes: int, segment: Shape) -> None:
    assert Grid.along_chunks(shape, chunks, row_bytes).segment == segment


def test_segments_do_not_depend_on_anything_but_the_store() -> None:
    """Equal shape, chunks and features: an equal grid, which is what makes results reproducible."""
    assert Grid.along_chunks((1000, 30), (10, 30), 40) == Grid.along_chunks([1000, 30], [10, 30], 40)
