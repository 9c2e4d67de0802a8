"""What one read of rows finds: the oracle is NumPy in extended precision, part by part."""

from __future__ import annotations

import numpy as np
import pytest

from dgmm.estep import FIT, HELD_LACKING, LACKING, LEFT_OUT, nearest, row_hashes, swept
from dgmm.estep.sweep import HELD, LANES, tile_rows
from dgmm.types import AnyArray

EPS = float(np.finfo(float).eps)


def rows_of(n: int, d: int, apart: float = 3.0) -> AnyArray:
    """Correlated rows with means that drift, so that tiles differ."""
    r = np.random.default_rng([n, d])
    return r.normal(size=(n, d)) @ r.normal(size=(d, d)) / d**0.5 + apart * np.linspace(-1, 1, n)[:, None]


def scatter_of(x: AnyArray, w: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Mean and scatter in extended precision."""
    x, w = x.astype(np.longdouble), w.astype(np.longdouble)
    mean = (w[:, None] * x).sum(axis=0) / w.sum()
    away = x - mean
    return mean, (w[:, None] * away).T @ away


def assert_found(x: AnyArray, weights: AnyArray | None, held: AnyArray | None, *, marginal: bool = False) -> None:
    found = swept(x, weights, held, marginal=marginal)
    x = np.asarray(x, dtype=float)
    lacks = np.isnan(x).sum(axis=1)
    out = np.zeros(len(x), dtype=bool) if held is None else held
    expected = np.where(out, HELD, FIT)
    expected[lacks > 0] += LACKING - FIT
    expected[(lacks == x.shape[1]) | ((lacks > 0) & (not marginal))] = LEFT_OUT
    w = np.ones(len(x)) if weights is None else weights
    expected[~(w > 0)] = LEFT_OUT
    np.testing.assert_array_equal(found.roles, expected)
    for part, role in enumerate((FIT, HELD)):
        its, its_w, moments = x[expected == role], w[expected == role], found.moments[part]
        np.testing.assert_array_equal(found.minimum[part], its.min(axis=0, initial=np.inf))
        np.testing.assert_array_equal(found.maximum[part], its.max(axis=0, initial=-np.inf))
        np.testing.assert_allclose(moments.count, its_w.sum(), rtol=1e-14)
        if len(its):
            mean, scatter = scatter_of(its, its_w)
            deviations = np.sqrt(np.diagonal(scatter) / its_w.sum()).astype(float)
            np.testing.assert_allclose(moments.mean, mean.astype(float), rtol=2 * EPS, atol=20 * EPS * deviations.max())
            scale = moments.count * np.outer(deviations, deviations)
            assert np.abs(moments.scatter - scatter).max() <= 50 * EPS * scale.max()
            np.testing.assert_array_equal(moments.scatter, moments.scatter.T)


@pytest.mark.parametrize("d", [1, 2, 3, 16, LANES, LANES + 1, 130])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_number_of_features(d: int, weighted: bool) -> None:
    """Three tiles and a part of one: of several rows side by side, of one, and as long as there are features."""
    x = rows_of(3 * tile_rows(d) + 7, d)
    r = np.random.default_rng(d)
    assert_found(x, r.exponential(size=len(x)) if weighted else None, None)
    assert_found(x, r.exponential(size=len(x)) if weighted else None, r.random(len(x)) < 0.3)


@pytest.mark.parametrize("kind", ["float32", "int16", "Fortran order", "every second row"])
@pytest.mark.parametrize("n", [0, 1, 1023, 1024, 1025, 5000])
def test_every_kind_and_length(kind: str, n: int) -> None:
    x = 100 * rows_of(n, 16)
    x = {
        "float32": lambda: x.astype(np.float32),
        "int16": lambda: x.astype(np.int16),
        "Fortran order": lambda: np.asfortranarray(x),
        "every second row": lambda: np.repeat(x, 2, axis=0)[::2],
    }[kind]()
    assert_found(x, None, np.arange(n) % 5 == 0)


@pytest.mark.parametrize("marginal", [False, True])
def test_what_becomes_of_rows(marginal: bool) -> None:
    """Missing values, whole rows of them, weights of nothing, and tiles without a row that is used."""
    x, r = rows_of(20_000, 4), np.random.default_rng(0)
    x[r.random(x.shape) < 0.05] = np.nan
    x[9000:14_000, 1] = np.nan
    x[15_000:15_100] = np.nan
    w = r.exponential(size=len(x))
    w[r.random(len(x)) < 0.1] = 0.0
    w[:50] = np.nan
    assert_found(x, w, r.random(len(x)) < 0.3, marginal=marginal)
    assert_found(x, None, None, marginal=marginal)
    if marginal:
        assert {LACKING, HELD_LACKING} < set(swept(x, w, r.random(len(x)) < 0.3, marginal=True).roles.tolist())


@pytest.mark.parametrize("offset", [1e8, -1e12])
@pytest.mark.parametrize("weighted", [False, True])
def test_neither_an_offset_nor_a_far_row_costs_digits(offset: float, weighted: bool) -> None:
    """Of multiples of 1/16, which an offset leaves what they are, and with the first row far from all others."""
    r = np.random.default_rng(1)
    x = r.integers(-1000, 1000, (50_000, 3)) / 16
    x[0] += 2.0**20
    w = r.exponential(size=len(x)) if weighted else np.ones(len(x))
    _, scatter = scatter_of(x, w)
    (moments, _) = swept(x + offset, w if weighted else None, None, marginal=False).moments
    np.testing.assert_allclose(moments.scatter, scatter.astype(float), rtol=1e-12, atol=1e-12 * float(scatter.max()))


def test_the_bits_are_those_of_rows_alone() -> None:
    """Not of the memory that they lie in, or of what is not used of them."""
    x = rows_of(5000, 3)
    a = swept(x, None, None, marginal=False).moments[0]
    for same in (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2]):
        b = swept(same, None, None, marginal=False).moments[0]
        assert (a.mean.tobytes(), a.scatter.tobytes()) == (b.mean.tobytes(), b.scatter.tobytes())


@pytest.mark.parametrize("share", [0.0, 1e-3, 0.5, 1.0])
@pytest.mark.parametrize("room", [1, 40, 3000, 10**6])
def test_the_nearest_are_the_smallest_hashes(share: float, room: int) -> None:
    rows, r = np.arange(10**6, 10**6 + 9000, dtype=np.uint64), np.random.default_rng(0)
    used = r.random(len(rows)) < share
    hashes = row_hashes(rows, 5)
    ordered = np.sort(hashes[used])
    for mask in (used, None) if share == 1 else (used,):
        keys, places, following = nearest(rows, mask, 5, room)
        np.testing.assert_array_equal(keys, hashes[places])
        np.testing.assert_array_equal(np.sort(keys), ordered[: len(keys)])
        assert len(keys) >= min(room, len(ordered))
        assert len(keys) < room + 7 * room**0.5 + 40
        assert following == (ordered[len(keys)] if len(keys) < len(ordered) else np.inf)


def test_what_does_not_belong_is_not_among_the_nearest() -> None:
    rows = np.arange(5000, dtype=np.uint64)
    ordered = np.sort(row_hashes(rows, 1))
    keys, _, following = nearest(rows, None, 1, 4000, below=float(ordered[99]))
    assert 98 <= len(keys) <= 101, "a float is not the hash to the last bit"
    keys, _, following = nearest(rows, None, 1, 4000, below=int(ordered[99]))
    np.testing.assert_array_equal(np.sort(keys), ordered[:100])
    assert following == ordered[100]


def test_where_fewer_are_near_than_expected_all_are_looked_at() -> None:
    """Hashes that are all large, as if chance had been very uneven."""
    rows = np.arange(200_000, dtype=np.uint64)
    rows = rows[np.argsort(row_hashes(rows, 2))[-1000:]]
    hashes = row_hashes(rows, 2)
    keys, places, following = nearest(rows, None, 2, 10)
    assert len(keys) == 1000
    assert following == np.inf
    np.testing.assert_array_equal(keys, hashes[places])
