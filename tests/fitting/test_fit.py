"""Selection: shared passes, what is dropped and why, collapse, and the sample on which starts are tried."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import dgmm
from dgmm.datasets import ocean_temperature
from dgmm.em import Ascent
from dgmm.fits import Outcome, OutcomeKind, Training
from dgmm.fits.selection import choose
from dgmm.fits.table import make_table
from dgmm.fitting import race
from dgmm.passes.sample import is_held_out
from dgmm.search.ladder import sample_sizes
from dgmm.types import Criterion


def blobs(n: int = 4000, k: int = 4, d: int = 3, seed: int = 0) -> np.ndarray:
    r = np.random.default_rng(seed)
    centres = 6 * r.standard_normal((k, d))
    return centres[r.integers(k, size=n)] + r.standard_normal((n, d))


@pytest.fixture(scope="module")
def selection() -> dgmm.Selection:
    return dgmm.select(blobs(), range(1, 8), ["full", "spherical"])


def test_the_true_number_of_components_is_found(selection: dgmm.Selection) -> None:
    assert selection.best.n_components == 4
    assert selection.best.covariance_type == "spherical"
    assert selection.best.converged
    assert not selection.at_edge


def test_the_table_has_a_row_for_every_candidate_best_first(selection: dgmm.Selection) -> None:
    table = selection.table
    assert len(table) == 14
    assert table["bic"].iloc[0] == selection.best.bic == table["bic"].min()
    assert table["bic"].is_monotonic_increasing
    expected = -2 * table["log_likelihood"] + table["n_parameters"] * np.log(4000)
    np.testing.assert_allclose(table["bic"], expected, rtol=1e-13)
    np.testing.assert_allclose(table["aic"], -2 * table["log_likelihood"] + 2 * table["n_parameters"], rtol=1e-13)
    for fit in selection.fits:
        assert fit.log_likelihood == pytest.approx(fit.mixture.log_density(blobs()).sum(), rel=1e-11)


def test_what_is_dropped_would_not_have_won() -> None:
    x = blobs()
    dropped = dgmm.select(x, range(1, 8), ["full", "spherical"])
    everything = dgmm.select(x, range(1, 8), ["full", "spherical"], keep_all=True)
    assert everything.best.n_components == dropped.best.n_components
    assert everything.best.bic == pytest.approx(dropped.best.bic, abs=0.05)
    assert dropped.table["state"].str.startswith("dropped at pass").any()
    assert not everything.table["state"].str.startswith("dropped").any()
    for fit in everything.fits:
        assert fit.bic > dropped.best.bic - 0.05


def test_the_edge_of_the_grid_is_said() -> None:
    assert dgmm.select(blobs(), [1, 2, 3], ["spherical"]).at_edge
    assert not dgmm.select(blobs(), [3], ["spherical"]).at_edge


def test_a_component_on_equal_rows_collapses_and_cannot_win() -> None:
    """Thirty equal rows among a thousand: a likelihood without bound, and the best BIC, were it allowed."""
    r = np.random.default_rng(1)
    x = np.concatenate([r.standard_normal((1000, 2)), np.full((30, 2), 2.5)])
    chosen = dgmm.select(x, [1, 2, 3], ["full"], n_init=30, keep_all=True)
    table = chosen.table
    collapsed = table[table["collapsed"] > 0]
    assert len(collapsed)
    assert (collapsed["state"] == "collapsed").all()
    assert collapsed["bic"].min() < chosen.best.bic
    assert not chosen.best.collapsed


def test_without_a_floor_a_collapsing_candidate_fails_alone() -> None:
    """reg_covar = 0 on repeated values: what has no finite likelihood is named, the others go on."""
    r = np.random.default_rng(2)
    x = np.concatenate([r.standard_normal((300, 1)), np.full((100, 1), 9.0)])
    chosen = dgmm.select(x, [1, 2], ["full"], reg_covar=0)
    assert chosen.best.n_components == 1
    state = chosen.table.set_index("n_components")["reason"][2]
    assert "collapsed" in state
    with pytest.raises(dgmm.CollapseError, match=r"lower n_components \(2\) or raise reg_covar"):
        dgmm.train(x, 2, reg_covar=0)


def test_rows_with_missing_values_are_left_out() -> None:
    x = blobs()
    holes = np.vstack([x, np.full((50, 3), np.nan)])
    holes[-1, 0] = 1.0
    a, b = dgmm.train(x, 4, "diag"), dgmm.train(holes, 4, "diag")
    assert (b.n_samples, b.n_missing) == (4000, 50)
    assert b.log_likelihood == pytest.approx(a.log_likelihood, abs=0.05)


def test_a_store_sorted_by_time_is_sampled_over_all_its_blocks() -> None:
    """A start taken from the first block would know one cluster of four."""
    x = blobs(40_000)
    x = x[np.argsort(x[:, 0])]
    fit = dgmm.train(x, 4, "spherical", sample_rows=500, start_rows=500)
    assert fit.bic == pytest.approx(dgmm.train(x, 4, "spherical").bic, abs=0.5)


@pytest.mark.parametrize(
    ("start_rows", "n_sample", "expected"),
    [
        (10_000, 272, [272]),  # data that fit are simply fitted
        (10_000, 15_000, [10_000]),  # the next level would be most of the data
        (10_000, 100_000, [10_000, 100_000]),
        (1_000, 100_000, [1_000, 10_000, 100_000]),
    ],
)
def test_levels_of_the_sample(start_rows: int, n_sample: int, expected: list[int]) -> None:
    assert sample_sizes(Training(start_rows=start_rows), n_sample) == expected


def test_one_line_for_every_pass(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="dgmm"):
        fit = dgmm.train(blobs(), 5, "full")
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("pass ")]
    assert len(lines) == fit.n_passes
    assert "rows/s" in lines[0]
    assert "to come" in lines[0]


def test_the_lines_name_the_criterion_by_which_somebody_is_best(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="dgmm"):
        dgmm.select(blobs(), [2, 4], ["spherical"], criterion="icl", n_init=2)
    assert "alive, best by icl spherical K=4, " in next(m for m in caplog.messages if m.startswith("pass 2:"))
    assert any("dropped spherical K=2: its icl " in m for m in caplog.messages)


@pytest.mark.parametrize("k", [0, -1, 2.5, True])
def test_numbers_of_components_that_are_none(k: float) -> None:
    with pytest.raises(dgmm.InputError, match="whole numbers from 1 up"):
        dgmm.select(blobs(), [k])  # type: ignore[list-item]


def test_more_components_than_rows() -> None:
    with pytest.raises(dgmm.InputError, match=r"n_components=6 is more than the 5 complete rows"):
        dgmm.train(np.random.default_rng(0).standard_normal((5, 2)), 6)


def test_the_ocean_in_the_frame_is_exact_without_the_guard() -> None:
    """19 levels, correlation condition 1.4e5: whitened, the expanded form holds to better than 1e-8 nats."""
    ds = ocean_temperature()
    fit = dgmm.train(ds, 4, "full", feature_dim="depth", variables=["temperature"], max_iter=5, n_init=1)
    assert (fit.n_samples, fit.n_missing) == (108_972, 85_428)
    x = ds.temperature.transpose("month", "lat", "lon", "depth").values.reshape(-1, 19)
    x = x[~np.isnan(x).any(axis=1)][::37]
    precise = []
    for w, m, c in zip(fit.mixture.weights, fit.mixture.means, fit.mixture.covariances, strict=True):
        factor = np.linalg.cholesky(c)
        z = np.linalg.solve(factor, (x - m).T)
        precise.append(
            np.log(w) - 0.5 * (z**2).sum(axis=0) - np.log(np.diagonal(factor)).sum() - 9.5 * np.log(2 * np.pi)
        )
    np.testing.assert_allclose(fit.mixture.log_density(x), np.logaddexp.reduce(precise, axis=0), atol=1e-8)


def test_the_winner_is_converged_even_if_the_leader_collapses_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates that were dropped for a leader that collapsed afterwards are taken up again."""
    sound, calls = race.unsound_components, {"n": 0}

    def collapses_late(a: Ascent, reg_covar: float) -> tuple[int, ...]:
        calls["n"] += a.mixture.n_components == 4
        if a.mixture.n_components == 4 and calls["n"] > 3:  # after candidates were dropped at the second pass
            return (0,)
        return sound(a, reg_covar)

    monkeypatch.setattr(race, "unsound_components", collapses_late)
    monkeypatch.setattr(race, "SETTLED", 2)
    chosen = dgmm.select(blobs(), [1, 2, 3, 4], ["spherical"])
    assert chosen.best.n_components == 3
    assert chosen.best.converged
    assert chosen.best.state == "converged"


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_icl_charges_twice_the_entropy_of_the_responsibilities(kind: str) -> None:
    x = np.random.default_rng(0).standard_normal((3000, 2)) * [1, 2]
    fit = dgmm.train(x, 3, kind, n_init=2)
    r = fit.mixture.responsibilities(x)
    entropy = -(r * np.log(np.maximum(r, 1e-300))).sum()
    assert entropy > 100, "the components must overlap"
    assert fit.icl == pytest.approx(fit.bic + 2 * entropy, rel=1e-9)
    assert dgmm.train(x, 1, kind).icl == pytest.approx(dgmm.train(x, 1, kind).bic, rel=1e-12)


def test_icl_prefers_fewer_clusters_where_components_overlap() -> None:
    """A heavy-tailed cluster needs two components for its density, and is one cluster."""
    r = np.random.default_rng(1)
    heavy = r.standard_normal((3000, 2)) * np.where(r.random((3000, 1)) < 0.3, 3.0, 1.0)
    assert dgmm.select(heavy, [1, 2, 3], ["spherical"]).best.n_components == 2
    assert dgmm.select(heavy, [1, 2, 3], ["spherical"], criterion="icl").best.n_components == 1


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_rows_held_out_judge_and_are_never_fitted(kind: str) -> None:
    x = blobs(5000)
    holes = x.copy()
    holes[::7, 1] = np.nan
    out = is_held_out(np.arange(5000, dtype=np.uint64), 3, 0.2)
    assert 0.17 < out.mean() < 0.23
    complete = ~np.isnan(holes).any(axis=1)
    fit = dgmm.train(holes, 4, kind, holdout=0.2, seed=3)
    assert fit.n_samples == (complete & ~out).sum()
    assert fit.log_likelihood == pytest.approx(fit.mixture.log_density(x[complete & ~out]).sum(), rel=1e-11)
    assert fit.held_out == pytest.approx(fit.mixture.log_density(x[complete & out]).mean(), rel=1e-11)
    moved = holes.copy()
    moved[out] *= 3.0
    assert dgmm.train(moved, 4, kind, holdout=0.2, seed=3).log_likelihood == fit.log_likelihood
    assert np.isnan(dgmm.train(holes, 4, kind).held_out)


def test_single_precision_ends_also_where_its_rounding_is_more_than_what_is_left_to_gain() -> None:
    """That is so from some 100,000 rows on: such fits went on to the last pass that they might make."""
    x = blobs(400_000, k=4)
    fit, double = (dgmm.train(x, 4, search="starts", n_init=2, compute_dtype=p) for p in ("float32", "float64"))
    assert fit.converged
    assert fit.n_passes < 100
    assert fit.log_likelihood == pytest.approx(double.log_likelihood, rel=1e-6)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_what_decides_is_told_in_double_precision(kind: str) -> None:
    """Single precision alone is wrong in the eighth digit here: hundredths in BIC, and a hundred at 1e9 rows."""
    x = blobs(6000, k=3) + 100
    out = is_held_out(np.arange(6000, dtype=np.uint64), 0, 0.1)
    how: dict[str, Any] = {"holdout": 0.1, "n_init": 2, "keep_all": True, "start_rows": 3000}
    single = dgmm.select(x, [1, 2, 3], [kind], compute_dtype="float32", **how)
    for fit in single.fits:
        density, r = fit.mixture.log_density(x), fit.mixture.responsibilities(x[~out])
        entropy = -(r * np.log(np.maximum(r, 1e-300))).sum()
        assert fit.log_likelihood == pytest.approx(density[~out].sum(), rel=1e-10)
        assert fit.held_out == pytest.approx(density[out].mean(), rel=1e-10)
        assert fit.entropy == pytest.approx(entropy, rel=1e-8, abs=1e-6)
    rough = [abs(max(f.trajectory) / f.log_likelihood - 1) for f in single.fits]
    assert max(rough) > 1e-9, "single precision must have been used"
    double = dgmm.select(x, [1, 2, 3], [kind], **how)
    climbs = [max(f.n_passes for f in s.fits) for s in (single, double)]
    extra = [s.n_reads - n for s, n in zip((single, double), climbs, strict=True)]
    assert extra[0] == extra[1] + 1, "one more pass, which all candidates share"


def test_held_out_rows_choose(tmp_path: Path) -> None:
    x = blobs(6000)
    chosen = dgmm.select(x, range(1, 8), ["spherical"], criterion="held_out", holdout=0.3)
    assert chosen.best.n_components == 4 or 4 in {t.n_components for t in chosen.ties}
    assert chosen.table["held_out"].iloc[0] == chosen.table["held_out"].max()
    array = zarr.create_array(str(tmp_path / "x.zarr"), shape=x.shape, chunks=(700, 2), dtype=x.dtype)
    array[:] = x
    stored = dgmm.select(str(tmp_path / "x.zarr"), range(1, 8), ["spherical"], criterion="held_out", holdout=0.3)
    assert stored.best.held_out == pytest.approx(chosen.best.held_out, rel=1e-9), "whatever the chunks"


def test_criteria_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(dgmm.InputError, match="criterion held_out needs rows that no fit sees: give holdout"):
        dgmm.select(blobs(100), [1], criterion="held_out")
    with pytest.raises(dgmm.InputError, match="unknown criterion 'dic': use bic, aic, icl, held_out"):
        dgmm.select(blobs(100), [1], criterion="dic")
    with pytest.raises(dgmm.InputError, match="holdout: Input should be less than or equal to"):
        dgmm.train(blobs(100), 1, holdout=0.9)


def test_a_holdout_that_holds_no_row_out_cannot_choose() -> None:
    """All would be NaN, and the first of the grid the winner."""
    with pytest.raises(dgmm.InputError) as caught:
        dgmm.select(blobs(50), [1, 2, 3], ["full"], criterion="held_out", holdout=1e-4)
    assert str(caught.value) == (
        "criterion held_out has no row to go by: holdout 0.0001 holds none of the 50 complete rows of ndarray out: "
        "raise it, or choose by another criterion"
    )
    fit = dgmm.train(blobs(50), 1, holdout=1e-4)
    assert np.isnan(fit.held_out), "where nobody asks for it, it is just not known"


def test_a_holdout_of_all_rows_is_refused() -> None:
    seed = next(s for s in range(100) if is_held_out(np.arange(2, dtype=np.uint64), s, 0.5).all())
    with pytest.raises(dgmm.InputError, match=r"holdout 0.5 leaves none of the complete rows of ndarray to fit"):
        dgmm.train(blobs(2), 1, holdout=0.5, seed=seed)


def test_what_was_dropped_says_when_and_why(selection: dgmm.Selection) -> None:
    table = selection.table
    dropped = table[table["state"].str.startswith("dropped")]
    assert len(dropped)
    assert (
        dropped["reason"].str.fullmatch(r"bic \S+, at most \S+ less by this climb, cannot reach \S+ of \w+ K=\d").all()
    )
    assert (table[table["state"] == "converged"]["reason"] == "").all()


def test_a_fit_within_the_uncertainty_of_another_is_a_tie() -> None:
    x = blobs()
    fits = {k: dgmm.train(x, k, "spherical", n_init=2) for k in (3, 4, 5)}
    lower = replace(fits[5], log_likelihood=fits[5].log_likelihood + (fits[5].bic - fits[4].bic) / 2 + 0.05)
    best, ties = choose([replace(f, remaining_gain=0.0) for f in (fits[4], lower)], Criterion.BIC)
    assert (best.n_components, ties) == (5, ()), "0.1 better, and certainly so"
    unsure = replace(lower, remaining_gain=0.1 / 4000)
    best, ties = choose([fits[3], fits[4], unsure], Criterion.BIC)
    assert best is fits[4]
    assert ties == (unsure,)
    table = make_table([fits[3], fits[4], unsure], {}, tied=[best, *ties])
    assert table["tie"].tolist() == [True, True, False]
    assert choose([replace(unsure, outcome=Outcome(OutcomeKind.STOPPED, 9)), fits[4]], Criterion.BIC)[1] == ()


def test_the_trajectory_says_what_was_to_come_and_how_long_it_took() -> None:
    fit = dgmm.train(blobs(), 5, "full")
    assert len(fit.trajectory) == len(fit.remaining_gains) == len(fit.seconds) == fit.n_passes
    assert fit.remaining_gains[-1] == fit.remaining_gain
    assert min(fit.seconds) > 0
