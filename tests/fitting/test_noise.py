"""Fits with noise: every way to climb comes to the same, journals go on from it, refits and searches leave it alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dgmm
from dgmm.data import open_samples
from dgmm.engine.workers import threads
from dgmm.errors import InputError
from dgmm.families import get_family
from dgmm.fits import Training
from dgmm.fitting.fit import passes_over
from dgmm.passes import Passes
from dgmm.search import Candidate, SampleRows, Standing, grounds_for, twin
from tests.families.test_noise import MEANS, NOISE, K, log_likelihood, rows, start_of

X, LABELS = rows(3000, seed=8)


@pytest.mark.parametrize("name", ["full", "tied", "VEV"])
def test_acceleration_comes_to_the_same(name: str) -> None:
    found = [
        dgmm.train(X, K, name, noise=True, search="starts", tol=1e-11, max_iter=3000, **how)  # type: ignore[arg-type]
        for how in ({"accelerate": "none"}, {"accelerate": "anderson"})
    ]
    assert found[1].log_likelihood == pytest.approx(found[0].log_likelihood, abs=1e-4)
    assert found[1].noise == pytest.approx(found[0].noise, abs=1e-5)
    assert found[1].log_likelihood == pytest.approx(log_likelihood(found[1].mixture, X), rel=1e-10)
    assert (np.diff(found[0].trajectory) > -1e-7).all()


def test_single_precision() -> None:
    fit, single = (dgmm.train(X, K, noise=True, search="starts", compute_dtype=p) for p in ("float64", "float32"))
    assert single.noise == pytest.approx(fit.noise, abs=1e-4)
    assert single.log_likelihood == pytest.approx(fit.log_likelihood, abs=0.05)


def test_weights_of_samples_count_for_the_noise() -> None:
    """Rows of noise that count twice make a share of noise as if they were there twice."""
    times = np.where(LABELS == NOISE, 2.0, 1.0)
    weighted = dgmm.train(X, K, noise=True, weights=times, search="starts", tol=1e-10)
    repeated = dgmm.train(np.repeat(X, times.astype(int), axis=0), K, noise=True, search="starts", tol=1e-10)
    assert weighted.noise == pytest.approx(repeated.noise, abs=1e-4)
    assert repeated.noise > 0.15


def test_a_journal_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    how = {"noise": True, "search": "quick", "journal": tmp_path / "j", "keep_journal": True}
    first, again = (dgmm.train(X, K, "tied", **how) for _ in range(2))  # type: ignore[arg-type]
    assert again.trajectory == first.trajectory
    assert again.noise == first.noise
    with pytest.raises(InputError, match="noise"):
        dgmm.train(X, K, "tied", **{**how, "noise": False})  # type: ignore[arg-type]


def test_refits_say_how_stable_it_is() -> None:
    fit = dgmm.train(X, K, noise=True, search="quick", stability=3)
    assert fit.stability is not None
    assert fit.stability.found_again.tolist() == [1.0] * K
    assert fit.stability.means_se.shape == (K, 2)


def test_hard_assignments_count_rows() -> None:
    fit = dgmm.train(X, K, noise=True, assignment="hard", means_init=MEANS)
    found = fit.classify(X)
    assert fit.noise == pytest.approx((found == NOISE).mean(), rel=1e-9)
    np.testing.assert_allclose(fit.mixture.weights, [(found == k).mean() for k in range(K)], rtol=1e-9)
    with_noise = (found == NOISE) & (LABELS == NOISE)
    assert with_noise.sum() > 0.75 * (LABELS == NOISE).sum()


@pytest.mark.parametrize("name", ["full", "tied", "VEV"])
def test_moves_leave_the_noise_alone(name: str) -> None:
    """Splits, merges, twins and other families have it as it was, and take nothing from its rows."""
    options = Training(noise=True)
    passes = passes_over(open_samples(X), threads(1), options)
    assert passes.noise is not None
    np.testing.assert_array_equal(passes.noise.minimum, X.min(axis=0))
    np.testing.assert_array_equal(passes.noise.maximum, X.max(axis=0))
    sample = SampleRows(passes.profile.sample.rows, passes.frame, 1)
    kinds = [Candidate(K, name), Candidate(K, "full")]
    grounds = grounds_for(kinds, sample.moments, passes.frame, 1e-6, noise=passes.noise)
    truth = dgmm.train(X, K, name, noise=True, search="starts").mixture
    standing = Standing(truth.to_frame(grounds[name].frame), grounds[name], sample, 1e-6)
    made = [standing.split(split) for split in standing.splits]
    made += [m for _, i, j in standing.merges if (m := standing.merge(i, j)) is not None]
    made += [move.mixture for move in standing.replaced(standing.moves(3))]
    made += [twin(standing.mixture), standing.as_family(get_family("full"), grounds["full"])]
    assert {m.n_components for m in made} == {K - 1, K, K + 1}
    for mixture in made:
        assert mixture.noise == standing.mixture.noise
        assert mixture.weights.sum() + truth.noise.weight == pytest.approx(1, rel=1e-12)  # type: ignore[union-attr]
    other = made[-1].to_data(grounds["full"].frame)
    assert log_likelihood(other, X) >= log_likelihood(truth, X) - 1e-6


@pytest.mark.parametrize("noise", [False, True])
def test_no_worst_rows_are_looked_for(noise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be those of the noise."""
    looked: list[int] = []
    worst = Passes.worst
    monkeypatch.setattr(Passes, "worst", lambda *args: looked.append(1) or worst(*args))
    dgmm.train(X, K, noise=noise, start_rows=500, search="starts")
    assert bool(looked) == (not noise)


def test_scikit_learn_has_no_place_for_it() -> None:
    with pytest.raises(InputError, match="have no place for noise"):
        dgmm.GaussianMixture.select(X, [2, 3], noise=True)


@pytest.mark.parametrize("name", ["tied", "EVE"])
def test_what_climbs_is_the_same_mixture(name: str) -> None:
    """A start by itself, and one in the midst of others in the same plan."""
    starts = [start_of(name), start_of(name).beside(None), start_of("full")]
    alone = [dgmm.em_path(X, start, 3)[-1] for start in starts]
    assert [m.noise is None for m in alone] == [False, True, False]
    assert alone[0].covariance_type == get_family(name).name
