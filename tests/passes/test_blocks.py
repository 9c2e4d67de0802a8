"""Whole blocks held out: which rows that are, whatever the chunks, and what they say of a fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

import dgmm
from dgmm.config import Select
from dgmm.data import Blocks, open_samples
from dgmm.engine.workers import threads
from dgmm.fits import Training, validated
from dgmm.fitting import passes_over
from dgmm.passes.parts import Division
from dgmm.passes.sample import is_held_out
from dgmm.rows import Role

SHAPE = (12, 10, 15)
DIMS = ("month", "lat", "lon", "level")


def field(seed: int = 0) -> xr.DataArray:
    """Three clusters on a grid, features along ``level``, one sample in seven missing."""
    r = np.random.default_rng(seed)
    x = 4.0 * r.integers(3, size=(*SHAPE, 1)) + r.standard_normal((*SHAPE, 2)) @ np.array([[1.0, 0.5], [0.0, 1.0]])
    x[r.random(SHAPE) < 1 / 7] = np.nan
    return xr.DataArray(x, dims=DIMS, name="t")


def held(lengths: dict[str, int], seed: int, share: float, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Which samples are held out, in the shape of the grid; block by block, as it is said."""
    steps = [lengths.get(dim, n) for dim, n in zip(DIMS, shape, strict=False)]
    corners = [range(0, n, step) for n, step in zip(shape, steps, strict=True)]
    found = np.zeros(shape, dtype=bool)
    for number, place in enumerate(np.ndindex(*map(len, corners))):
        block = tuple(slice(c[i], c[i] + step) for c, i, step in zip(corners, place, steps, strict=True))
        found[block] = is_held_out(np.array([number], dtype=np.uint64), seed, share)[0]
    return found


@given(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 9)), min_size=1, max_size=4))
def test_blocks_are_boxes_numbered_in_order(sizes: list[tuple[int, int]]) -> None:
    shape, lengths = (tuple(n) for n in zip(*sizes, strict=True))
    blocks = Blocks(shape, lengths)
    places = np.stack(np.unravel_index(np.arange(np.prod(shape)), shape)) // np.array(lengths)[:, None]
    found = blocks.of(tuple(slice(0, n) for n in shape))
    np.testing.assert_array_equal(found, np.ravel_multi_index(tuple(places), blocks.counts))
    assert len(blocks) == found.max() + 1


@pytest.mark.parametrize("lengths", [{"month": 1}, {"lat": 3, "lon": 4}, {"lon": 7}])
@pytest.mark.parametrize("chunks", [(12, 10, 15, 2), (1, 10, 15, 2), (5, 4, 4, 1)])
def test_the_same_rows_are_held_out_whatever_the_chunks(
    lengths: dict[str, int], chunks: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dgmm.data.grid.MIN_ROWS", 1)
    data = field().fillna(-9.0)
    data.to_dataset().to_zarr(tmp_path / "x.zarr", encoding={"t": {"chunks": chunks}}, consolidated=False)
    samples = open_samples(str(tmp_path / "x.zarr"), feature_dim="level")
    blocks = Blocks(SHAPE, tuple(lengths.get(dim, n) for dim, n in zip(DIMS, SHAPE, strict=False)))
    divide = Division(missing=True, holdout=0.4, seed=5, scale=1.0, blocks=blocks)
    out = held(lengths, 5, 0.4)
    assert 0 < out.mean() < 1
    assert len(samples.grid) > (chunks[0] != 12)
    for i in range(len(samples.grid)):
        region = samples.grid.region(i)
        parts = divide(samples.grid, i, samples.read_rows(region))
        for role, which in ((Role.JUDGE, out), (Role.FIT, ~out)):
            np.testing.assert_array_equal(parts.rows[role].x, data.to_numpy()[region][which[region]])


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("lengths", [{"month": 1}, {"lat": 2, "lon": 5}])
def test_blocks_held_out_judge_and_are_never_fitted(kind: str, lengths: dict[str, int]) -> None:
    data, out = field(), held(lengths, 1, 0.3)
    complete = data.notnull().all("level").to_numpy()
    fit = dgmm.train(data, 3, kind, feature_dim="level", holdout=0.3, holdout_by=lengths, seed=1)
    x = data.to_numpy()
    assert fit.n_samples == (complete & ~out).sum()
    assert fit.n_missing == (~complete).sum()
    assert fit.log_likelihood == pytest.approx(fit.mixture.log_density(x[complete & ~out]).sum(), rel=1e-11)
    assert fit.held_out == pytest.approx(fit.mixture.log_density(x[complete & out]).mean(), rel=1e-11)
    moved = data.where(~out[..., None], 3 * data)
    again = dgmm.train(moved, 3, kind, feature_dim="level", holdout=0.3, holdout_by=lengths, seed=1)
    assert again.log_likelihood == fit.log_likelihood


def test_the_sample_has_no_row_of_a_block_that_is_held_out() -> None:
    numbers = xr.DataArray(np.arange(np.prod(SHAPE), dtype=float).reshape(*SHAPE, 1), dims=DIMS)
    samples = open_samples(numbers, feature_dim="level")
    options = Training(holdout=0.3, holdout_by={"month": 1}, sample_rows=500)
    found = passes_over(samples, threads(1), options).profile.sample.rows.x
    assert not held({"month": 1}, 0, 0.3).ravel()[found.astype(int).ravel()].any()


def test_weights_count_in_blocks() -> None:
    data, out = field(), held({"lat": 2}, 0, 0.4)
    w = xr.DataArray(np.random.default_rng(4).gamma(2.0, size=SHAPE[1]), dims="lat")
    fit = dgmm.train(data, 2, feature_dim="level", weights=w, holdout=0.4, holdout_by={"lat": 2})
    judges = data.notnull().all("level").to_numpy() & out
    its = np.broadcast_to(w.to_numpy()[:, None], SHAPE)[judges]
    density = fit.mixture.log_density(data.to_numpy()[judges])
    assert fit.held_out == pytest.approx(np.average(density, weights=its), rel=1e-10)


def test_blocks_of_one_sample_are_rows() -> None:
    data = field()
    how: dict[str, Any] = {"feature_dim": "level", "holdout": 0.2}
    rows = dgmm.train(data, 2, **how)
    ones = dgmm.train(data, 2, holdout_by={"month": 1, "lat": 1, "lon": 1}, **how)
    assert (rows.held_out, rows.log_likelihood) == (ones.held_out, ones.log_likelihood)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"holdout_by": {"month": 1}},
            "holdout_by says what is held out together: give holdout, the share of the blocks, such as 0.1",
        ),
        (
            {"holdout": 0.2, "holdout_by": {"level": 1}},
            "holdout_by: level holds the features of DataArray: choose from month, lat, lon",
        ),
        (
            {"holdout": 0.2, "holdout_by": {"lat": 2, "time": 1}},
            "holdout_by: time is no dimension of the samples of DataArray: choose from month, lat, lon",
        ),
        (
            {"holdout": 0.2, "holdout_by": {"lat": 10, "lon": 20}},
            "holdout_by {lat: 10, lon: 20} makes one block of all of DataArray (month 12, lat 10, lon 15): shorten it",
        ),
        (
            {"holdout": 0.2, "holdout_by": {"lat": 0}},
            "holdout_by.lat: Input should be greater than or equal to 1: give whole numbers from 1 up (not 0)",
        ),
        ({"holdout": 0.2, "holdout_by": {}}, "holdout_by is empty: give at least 1"),
        (
            {"holdout": 0.2, "holdout_by": "lat"},
            "holdout_by: expected dimensions and lengths, such as lat:10,lon:10 (not 'lat')",
        ),
    ],
)
def test_blocks_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(dgmm.InputError) as caught:
        dgmm.train(field(), 2, feature_dim="level", **options)
    assert str(caught.value) == message


def test_lengths_in_words() -> None:
    given = {"data": {"path": "x"}, "out": "y", "n_components": 2}
    for written in ("lat:10, lon:5", {"lat": 10, "lon": 5}, {"lat": "10", "lon": np.int64(5)}):
        assert validated(Select, {**given, "training": {"holdout_by": written}}).training.holdout_by == {
            "lat": 10,
            "lon": 5,
        }


def test_blocks_along_the_rows_of_an_array(tmp_path: Path) -> None:
    """An array has a dimension too, by the name that the message says."""
    x = field().to_numpy().reshape(-1, 2)
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=x.shape, chunks=(100, 2), dtype=x.dtype)
    array[:] = x
    here, there = (dgmm.train(s, 2, holdout=0.3, holdout_by={"sample": 150}) for s in (x, str(tmp_path / "a.zarr")))
    assert here.held_out == pytest.approx(there.held_out, rel=1e-9)
    assert here.n_samples == there.n_samples
    with pytest.raises(dgmm.InputError, match="row is no dimension of the samples of ndarray: choose from sample"):
        dgmm.train(x, 2, holdout=0.3, holdout_by={"row": 3})
