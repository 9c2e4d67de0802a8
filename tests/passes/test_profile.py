"""The first pass: moments, range, missing rows, and a sample that belongs to the data and the seed alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from dgmm.data import Samples, open_samples
from dgmm.data import grid as grid_module
from dgmm.engine.workers import of_client, threads
from dgmm.errors import InputError
from dgmm.fits import Training
from dgmm.fitting import passes_over
from dgmm.passes import Profile, Sample, row_hashes
from dgmm.rows import Rows


@pytest.fixture(autouse=True)
def several_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut small arrays too."""
    monkeypatch.setattr(grid_module, "MIN_ROWS", 16)


def profile_of(
    source: Any, *, n_threads: int = 2, seed: int = 0, sample_rows: int = 100, feature_dim: str | None = None
) -> Profile:
    samples = source if isinstance(source, Samples) else open_samples(source, feature_dim=feature_dim)
    return passes_over(samples, threads(n_threads), Training(seed=seed, sample_rows=sample_rows)).profile


def chunked(x: np.ndarray, *chunks: int) -> zarr.Array[Any]:
    array = zarr.create_array(MemoryStore(), shape=x.shape, chunks=chunks, dtype=x.dtype)
    array[...] = x
    return array


def table(n: int = 500, d: int = 3, dtype: str = "float64") -> np.ndarray:
    """Values (n, d) with 10 % missing in the second feature."""
    generator = np.random.default_rng(11)
    x = generator.normal((0, 5, -3), (1, 2, 0.1), (n, d))
    x[generator.random(n) < 0.1, 1] = np.nan
    return x.astype(dtype)


def complete(x: np.ndarray) -> np.ndarray:
    return x[~np.isnan(x).any(axis=1)]


def test_moments_range_and_counts() -> None:
    x = table()
    profile, rows = profile_of(chunked(x, 30, 2)), complete(x)
    assert profile.n_samples == len(rows) < len(x)
    assert profile.n_missing == len(x) - len(rows)
    np.testing.assert_allclose(profile.moments.mean, rows.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(profile.moments.covariance, np.cov(rows.T, bias=True), rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(profile.minimum, rows.min(axis=0))
    np.testing.assert_array_equal(profile.maximum, rows.max(axis=0))


@pytest.mark.parametrize("offset", [1e8, -1e8, 1e12])
def test_an_offset_costs_no_digits(offset: float) -> None:
    """Multiples of 1/16 stay exact under the offset, so that the covariance is the same number. All that may be lost is
    the rounding of the means; raw second moments, of size 1e16 and more, would lose every digit."""
    x = np.random.default_rng(5).integers(-1000, 1000, (400, 3)) / 16
    moments = profile_of(chunked(x + offset, 50, 3)).moments
    rounding = np.spacing(abs(offset))
    deviation = x.std(axis=0).max()
    np.testing.assert_allclose(moments.covariance, np.cov(x.T, bias=True), rtol=0, atol=rounding * deviation)
    np.testing.assert_allclose(moments.mean - offset, x.mean(axis=0), rtol=0, atol=2 * rounding)


def test_float32_is_summed_in_double() -> None:
    """Far from zero: variances of the float32 values themselves."""
    x = np.random.default_rng(6).normal(300, 1, (5000, 2)).astype("float32")
    moments = profile_of(chunked(x, 700, 2)).moments
    np.testing.assert_allclose(moments.covariance, np.cov(x.astype(float).T, bias=True), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", ["int16", "uint8", "int64"])
def test_integers(dtype: str) -> None:
    x = np.random.default_rng(7).integers(0, 200, (300, 2)).astype(dtype)
    profile = profile_of(chunked(x, 64, 2))
    np.testing.assert_allclose(profile.moments.covariance, np.cov(x.astype(float).T, bias=True), rtol=1e-12)
    assert (profile.n_samples, profile.n_missing) == (300, 0)


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=8),
    st.lists(st.integers(0, 3), min_size=1, max_size=8),
    st.integers(1, 70),
)
def test_any_pattern_of_missing_rows(lengths: list[int], missing: list[int], chunk: int) -> None:
    """Runs of complete and missing rows, whole segments without a complete row included."""
    parts = []
    for i, length in enumerate(lengths):
        part = np.random.default_rng(i).normal(i, 1, (length, 2))
        if missing[i % len(missing)]:
            part[:, i % 2] = np.nan
        parts.append(part)
    x = np.concatenate([*parts, [[0.5, -0.5]]])
    rows = complete(x)
    profile = profile_of(chunked(x, chunk, 1), sample_rows=10**6)
    assert (profile.n_samples, profile.n_missing) == (len(rows), len(x) - len(rows))
    np.testing.assert_allclose(profile.moments.mean, rows.mean(axis=0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(profile.moments.scatter, (len(rows) * np.cov(rows.T, bias=True)), rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(profile.minimum, rows.min(axis=0))
    # a sample with room for everything is everything
    np.testing.assert_array_equal(np.sort(profile.sample.rows.x[:, 0]), np.sort(rows[:, 0]))


# ---- the sample of rows ---------------------------------------------------------------------------------------------

SOURCES: dict[str, Callable[[np.ndarray], Any]] = {
    "numpy": lambda x: x,
    "Fortran order": np.asfortranarray,
    "one chunk": lambda x: chunked(x, 500, 3),
    "small chunks": lambda x: chunked(x, 7, 1),
    "irregular Dask chunks": lambda x: da.from_array(x, chunks=((3, 200, 1, 296), (1, 2))),
    "a DataArray": xr.DataArray,
    "several variables": lambda x: xr.Dataset({f"v{i}": ("s", c) for i, c in enumerate(x.T)}),
    "features first": lambda x: xr.DataArray(x.T, dims=("f", "s")),
}


@pytest.mark.parametrize("build", SOURCES.values(), ids=list(SOURCES))
def test_the_sample_depends_on_neither_source_nor_chunks(build: Callable[[np.ndarray], Any]) -> None:
    """The oracle: the rows whose numbers have the smallest hashes, missing ones left out."""
    x = table()
    hashes = row_hashes(np.arange(len(x), dtype=np.uint64), 9)
    hashes[np.isnan(x).any(axis=1)] = np.iinfo(np.uint64).max
    chosen = np.argsort(hashes)[:40]
    source = build(x)
    feature_dim = "f" if isinstance(source, xr.DataArray) and "f" in source.dims else None
    sample = profile_of(source, seed=9, sample_rows=40, feature_dim=feature_dim).sample
    np.testing.assert_array_equal(sample.keys, hashes[chosen])
    np.testing.assert_array_equal(sample.rows.x, x[chosen])


@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_the_whole_profile_has_the_same_bits_on_any_number_of_threads(n_threads: int) -> None:
    assert_identical(profile_of(chunked(table(), 17, 3), n_threads=n_threads), profile_of(chunked(table(), 17, 3)))


def test_the_whole_profile_has_the_same_bits_on_a_cluster(client: Client) -> None:
    """Arrays in memory are scattered, others read by the workers."""
    x = table()
    for source in (x, da.from_array(x, chunks=(50, 3))):
        samples = open_samples(source)
        passes = passes_over(samples, of_client(client), Training(sample_rows=100))
        assert len(samples.grid) > 4
        assert_identical(passes.profile, profile_of(samples, n_threads=1))


def assert_identical(a: Profile, b: Profile) -> None:
    assert a.n_missing == b.n_missing
    assert a.moments.count == b.moments.count
    for left, right in [
        (a.moments.mean, b.moments.mean),
        (a.moments.scatter, b.moments.scatter),
        (a.minimum, b.minimum),
        (a.maximum, b.maximum),
        (a.sample.keys, b.sample.keys),
        (a.sample.rows.x, b.sample.rows.x),
    ]:
        assert left.tobytes() == right.tobytes()


def test_a_smaller_sample_is_the_beginning_of_a_larger_one() -> None:
    small, large = (profile_of(table(), seed=4, sample_rows=n).sample for n in (25, 200))
    np.testing.assert_array_equal(small.rows.x, large.rows.x[:25])
    np.testing.assert_array_equal(small.keys, large.keys[:25])


def test_another_seed_is_another_sample() -> None:
    """Of 25 rows out of 450, two independent samples share 1.4 on average."""
    first, second = (profile_of(table(), seed=s, sample_rows=25).sample.rows.x for s in (0, 1))
    shared = {tuple(r) for r in first} & {tuple(r) for r in second}
    assert len(shared) < 10


def test_hashes_are_the_published_generator() -> None:
    """The first outputs of splitmix64 seeded with zero, as printed with its reference implementation."""
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    assert [int(h) for h in row_hashes(np.arange(4, dtype=np.uint64), 0)] == expected


@pytest.mark.parametrize("seed", [0, 1, 2**31])
def test_the_sample_is_spread_evenly(seed: int) -> None:
    """Chi-squared over ten blocks of a sorted store: its 99.99 % point for nine degrees of freedom is 33.7."""
    x = np.stack([np.arange(20_000.0), np.random.default_rng(1).normal(size=20_000)], axis=1)
    rows = profile_of(x, seed=seed, sample_rows=2000).sample.rows.x[:, 0]
    counts = np.bincount((rows // 2000).astype(int), minlength=10)
    # a sample without replacement of a tenth varies a tenth less
    assert ((counts - 200.0) ** 2 / 200 / 0.9).sum() < 33.7


@given(st.integers(1, 60), st.integers(1, 40), st.lists(st.integers(0, 60), max_size=5))
def test_samples_merge_to_the_sample_of_everything(n: int, limit: int, cuts: list[int]) -> None:
    x = np.random.default_rng(n).normal(size=(n, 2))
    hashes = row_hashes(np.arange(n, dtype=np.uint64), 3)
    edges = [0, *sorted(min(c, n) for c in cuts), n]
    parts = [Sample.of(hashes[a:b], Rows(x[a:b]), limit) for a, b in pairwise(edges)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    chosen = np.argsort(hashes)[:limit]
    merged = merged.ordered()
    np.testing.assert_array_equal(merged.keys, hashes[chosen])
    np.testing.assert_array_equal(merged.rows.x, x[chosen])


# ---- values that cannot be fitted -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e200, -1e200])
def test_values_that_are_too_large_are_named_with_their_place(value: float) -> None:
    values = np.random.default_rng(2).normal(size=(4, 3, 5, 6))
    values[2, 1, 4, 3] = value
    coords = {"depth": [0.0, 10.0, 50.0]}
    source = xr.DataArray(values, dims=("month", "depth", "lat", "lon"), coords=coords).chunk(month=1)
    with pytest.raises(InputError) as caught:
        profile_of(source, feature_dim="depth")
    message = str(caught.value)
    assert "'10.0'" in message
    assert "(2, 4, 3)" in message
    assert str(value) in message
    assert "missing (NaN)" in message
    assert "\n" not in message


def test_infinite_float32(client: Client) -> None:
    """The same error from a worker process."""
    x = np.random.default_rng(2).normal(size=(300, 2)).astype("float32")
    x[123, 0] = np.inf
    samples = open_samples(da.from_array(x, chunks=(50, 2)))
    with pytest.raises(InputError, match=r"feature '0' .* is inf at sample \(123\)"):
        passes_over(samples, of_client(client))


def test_an_infinite_value_in_a_row_that_is_left_out_does_not_matter() -> None:
    x = table()
    row = int(np.flatnonzero(np.isnan(x[:, 1]))[0])
    expected = profile_of(x)
    x[row, 0] = np.inf
    assert_identical(profile_of(x), expected)


def test_no_complete_row() -> None:
    x = table()
    x[:, 2] = np.nan
    with pytest.raises(InputError, match=r"no complete row in ndarray: all 500 have a missing value"):
        profile_of(x)


def test_grid_indices_need_no_particular_segments() -> None:
    """The place that an error names does not depend on how the store was cut."""
    x = np.zeros((90, 2)) + np.arange(90.0)[:, None]
    x[77, 1] = -np.inf
    messages = set()
    for least in (1, 16, 4096):
        with patch.object(grid_module, "MIN_ROWS", least), pytest.raises(InputError) as caught:
            profile_of(chunked(x, 8, 2))
        messages.add(str(caught.value))
    assert len(messages) == 1
    assert "(77)" in messages.pop()
