"""What rows that are held out say of mixtures, block by block, and how well that is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
import xarray as xr

import dgmm
from dgmm.data import open_samples
from dgmm.engine.workers import threads
from dgmm.fits import Training
from dgmm.fitting import passes_over
from dgmm.mixture import Mixture
from dgmm.passes import BlockSums
from dgmm.passes.sample import GROUPS
from tests.passes.test_blocks import field, held


def test_of_equal_blocks_it_is_that_of_the_mean_of_their_means() -> None:
    x = np.random.default_rng(0).gamma(2.0, size=(12, 50)) + np.arange(12)[:, None]
    # blocks that are not held out have no rows
    sums = BlockSums(np.append(np.full(12, 50.0), [0.0, 0.0]), np.append(x.sum(axis=1), [0.0, 0.0]))
    assert sums.mean == pytest.approx(x.mean(), rel=1e-13)
    assert sums.standard_error == pytest.approx(scipy.stats.sem(x.mean(axis=1)), rel=1e-12)


def test_of_unequal_blocks_it_is_the_jackknifes() -> None:
    """Leave out one block at a time (Quenouille, Tukey): another way to the same."""
    r = np.random.default_rng(1)
    counts = r.uniform(20, 60, size=80)
    sums = counts * (r.standard_normal(80) - 7.0)
    without = (sums.sum() - sums) / (counts.sum() - counts)
    jackknife = np.sqrt(79 / 80 * ((without - without.mean()) ** 2).sum())
    assert BlockSums(counts, sums).standard_error == pytest.approx(jackknife, rel=0.02)


def test_one_block_says_nothing_of_its_error() -> None:
    assert np.isnan(BlockSums(np.array([0.0, 9.0]), np.array([0.0, -3.0])).standard_error)


@pytest.mark.parametrize("copies", [1, 20])
def test_copies_of_the_same_rows_are_worth_one(copies: int) -> None:
    """A log density of d normal features has variance d/2: 4000 rows by themselves, or as blocks of copies."""
    x = np.repeat(np.random.default_rng(2).standard_normal((4000, 3)), copies, axis=0)
    data = xr.DataArray(x, dims=("row", "level"))
    blocks = {"holdout_by": {"row": copies}} if copies > 1 else {}
    fit = dgmm.train(data, 1, feature_dim="level", holdout=0.5, **blocks)
    held = (len(x) - fit.n_samples) / copies
    assert fit.held_out_se == pytest.approx(np.sqrt(1.5 / held), rel=0.1)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("weighted", [False, True])
def test_candidates_are_compared_block_by_block(kind: str, weighted: bool) -> None:
    data, lengths = field(), {"lat": 2, "lon": 5}
    w = xr.DataArray(np.random.default_rng(4).gamma(2.0, size=data.shape[:3]), dims=data.dims[:3])
    how: dict[str, Any] = {"weights": w} if weighted else {}
    found = dgmm.select(
        data, [1, 2, 3], [kind], feature_dim="level", holdout=0.4, holdout_by=lengths, keep_all=True, **how
    )
    out = data.notnull().all("level").to_numpy() & held(lengths, 0, 0.4)
    blocks = np.broadcast_to(np.arange(10)[:, None] // 2 * 3 + np.arange(15) // 5, out.shape)[out]
    weights = w.to_numpy()[out] if weighted else np.ones(out.sum())
    densities = {f.n_components: f.mixture.log_density(data.to_numpy()[out]) for f in found.fits}
    best = max(densities, key=lambda k: np.average(densities[k], weights=weights))

    def error(values: np.ndarray) -> float:
        mean, chosen = np.average(values, weights=weights), np.unique(blocks)
        residuals = [(weights * (values - mean))[blocks == b].sum() for b in chosen]
        return float(np.sqrt(len(chosen) / (len(chosen) - 1) * np.square(residuals).sum()) / weights.sum())

    for row in found.table.itertuples():
        values = densities[row.n_components]
        assert row.held_out == pytest.approx(np.average(values, weights=weights), rel=1e-10)
        assert row.held_out_se == pytest.approx(error(values), rel=1e-9)
        assert row.behind_se == pytest.approx(error(values - densities[best]), rel=1e-9, abs=1e-12)
    assert found.best.held_out_se in set(found.table["held_out_se"])


def test_no_rows_held_out_no_pass_and_no_error() -> None:
    found = dgmm.select(field(), [1, 2], ["diag"], feature_dim="level", keep_all=True)
    assert found.table[["held_out", "held_out_se", "behind_se"]].isna().all(axis=None)
    assert found.parsimonious is None


@pytest.mark.parametrize(("by", "groups"), [({"month": 1}, 12), ({"lat": 2, "lon": 5}, 15), (None, GROUPS)])
def test_sums_do_not_depend_on_who_makes_them(
    by: dict[str, int] | None, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dgmm.data.grid.MIN_ROWS", 1)
    samples = open_samples(field(), feature_dim="level")
    assert len(samples.grid) > 3
    mixtures = [Mixture.gaussian("diag", np.ones(1), np.full((1, 2), m), np.ones((1, 2))) for m in (0.0, 3.0)]
    options = Training(holdout=0.4, holdout_by=by)
    one, three = (passes_over(samples, threads(n), options).judge(mixtures) for n in (1, 3))
    for a, b in zip(one, three, strict=True):
        assert len(a.counts) == groups
        assert (a.counts.tobytes(), a.sums.tobytes()) == (b.counts.tobytes(), b.sums.tobytes())
    rows = samples.read_rows(tuple(slice(0, n) for n in samples.grid.shape))
    judges = ~np.isnan(rows.x).any(axis=1) & held(by or {"month": 1, "lat": 1, "lon": 1}, 0, 0.4).ravel()
    assert one[0].counts.sum() == judges.sum()
    if by is None:
        # as many groups stay empty as chance has it
        expected = GROUPS * (1 - np.exp(-judges.sum() / GROUPS))
        assert abs(np.count_nonzero(one[0].counts) - expected) < 4 * np.sqrt(expected * (1 - expected / GROUPS))
