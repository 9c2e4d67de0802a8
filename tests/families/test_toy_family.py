"""A family from outside with features, coordinates and a base measure of its own goes through everything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import zarr

import dgmm
from dgmm.cli import main
from dgmm.estep import Plain, accumulate, backend_of, make_plan, unpack
from dgmm.families import FAMILIES, Moments, get_family, make_frame, register
from dgmm.mixture import Mixture
from dgmm.passes.sample import is_held_out
from dgmm.rows import Rows
from tests.families.toy_family import TRIALS, Binomial, Rates

RATES, WEIGHTS = np.array([[2.0, 30.0, 5.0], [20.0, 3.0, 6.0]]), np.array([0.3, 0.7])


@pytest.fixture(autouse=True)
def _binomial() -> Iterator[None]:
    register(Binomial())
    yield
    del FAMILIES["binomial"]


@pytest.fixture
def x() -> np.ndarray:
    labels = np.arange(2000) % 10 >= 3
    return np.random.default_rng(0).binomial(TRIALS, RATES[labels.astype(int)] / TRIALS).astype(float)


def joint(x: np.ndarray, rates: np.ndarray = RATES, weights: np.ndarray = WEIGHTS) -> np.ndarray:
    """SciPy's log joint densities (n, K)."""
    return np.stack(
        [
            np.log(w) + scipy.stats.binom.logpmf(x, TRIALS, r / TRIALS).sum(axis=1)
            for w, r in zip(weights, rates, strict=True)
        ],
        axis=1,
    )


def mixture() -> Mixture:
    return Mixture(get_family("binomial"), WEIGHTS, Rates(RATES))


def test_densities_are_scipys(x: np.ndarray) -> None:
    expected = np.logaddexp.reduce(joint(x), axis=1)
    np.testing.assert_allclose(mixture().log_density(x), expected, rtol=1e-12)
    np.testing.assert_allclose(mixture().responsibilities(x), np.exp(joint(x) - expected[:, None]), atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_an_e_step_of_both_kinds_together(weighted: bool, x: np.ndarray) -> None:
    """Stacks with origins of their own; the base measure is part of the log-likelihood and not of the entropy."""
    weights = np.random.default_rng(1).uniform(0.5, 1.5, len(x)) if weighted else None
    moments = Moments.of(x)
    frames = {k: make_frame(k, moments.mean, moments.covariance) for k in ("whitening", "identity")}
    gaussian = Mixture.gaussian("full", WEIGHTS, RATES, np.stack([np.diag(RATES[0]), np.diag(RATES[1])]))
    plan = make_plan([gaussian.to_frame(frames["whitening"]), mixture()], frames)
    assert isinstance(backend_of(plan), Plain)
    found = unpack(accumulate(Rows(x, weights), plan), plan)
    w = np.ones(len(x)) if weights is None else weights
    for statistics, m in zip(found, (gaussian, mixture()), strict=True):
        assert statistics.log_likelihood == pytest.approx(w @ m.log_density(x), rel=1e-12)
        r = m.responsibilities(x)
        np.testing.assert_allclose(statistics.sums[:, 0], w @ r, rtol=1e-10)
        entropy = -(w[:, None] * r * np.log(np.maximum(r, 1e-300))).sum()
        assert statistics.entropy == pytest.approx(entropy, abs=1e-6)
    np.testing.assert_allclose(found[1].sums[:, 1:], (w[:, None] * mixture().responsibilities(x)).T @ x, rtol=1e-10)


def test_it_trains_to_a_fixed_point_of_its_own_m_step(x: np.ndarray) -> None:
    fit = dgmm.train(x, 2, "binomial", reg_covar=0, n_init=2, tol=1e-13)
    rates, weights = fit.mixture.means, fit.mixture.weights
    r = np.exp(joint(x, rates, weights))
    r /= r.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(r.T @ x / r.sum(axis=0)[:, None], rates, rtol=1e-4)
    assert fit.log_likelihood == pytest.approx(np.logaddexp.reduce(joint(x, rates, weights), axis=1).sum(), rel=1e-12)


def test_rows_that_judge_are_measured_by_the_same_measure(x: np.ndarray) -> None:
    fit = dgmm.train(x, 2, "binomial", n_init=1, holdout=0.3)
    out = is_held_out(np.arange(len(x), dtype=np.uint64), 0, 0.3)
    assert fit.held_out == pytest.approx(fit.mixture.log_density(x[out]).mean(), rel=1e-11)


def test_families_of_both_kinds_are_compared_in_shared_passes(x: np.ndarray) -> None:
    selection = dgmm.select(x, [1, 2, 3], ["binomial", "poisson"], n_init=2)
    assert (selection.best.covariance_type, selection.best.n_components) == ("binomial", 2)


def test_what_it_cannot_hold_is_refused(x: np.ndarray) -> None:
    x[7, 1] = -1
    with pytest.raises(dgmm.InputError, match="cannot come from a binomial mixture: '1' is -1 somewhere: counts are"):
        dgmm.train(x, 2, "binomial")


def test_it_is_stored_and_scores(x: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zarr.save_array(str(tmp_path / "x.zarr"), x)
    data, model, out = (str(tmp_path / name) for name in ("x.zarr", "model.zarr", "scores.zarr"))
    assert main(["train", data, "--k", "2", "--covariance", "binomial", "--out", model]) == 0
    assert main(["score", model, data, "--out", out]) == 0
    fit = dgmm.load(model)
    found = zarr.open_group(out, mode="r")
    np.testing.assert_allclose(found["log_density"][:], fit.mixture.log_density(x), rtol=1e-12)
    assert "binomial, K = 2" in capsys.readouterr().out
