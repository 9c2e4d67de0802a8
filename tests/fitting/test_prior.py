"""Fits with the conjugate prior: what does not collapse, what is reported, and what it goes together with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from sklearn.datasets import load_iris

import dgmm
from dgmm.cli import main
from dgmm.mixture import Mixture
from dgmm.report.figures import convergence_figure
from dgmm.search.sampled import unsound_in
from dgmm.store import load_dataset
from dgmm.words import describe
from tests.families.test_conjugate import closed_form
from tests.families.test_structures import faithful
from tests.journals import Stop, at_record, bits, train, work, write_data

KINDS = ["full", "tied", "diag", "spherical", "EII", "EEI"]


def with_a_handful(n: int = 5, seed: int = 0) -> np.ndarray:
    """Two groups, and a few rows that are all the same."""
    r = np.random.default_rng(seed)
    second = r.standard_normal((200, 2)) + np.array([8.0, 0.0])
    return np.concatenate([r.standard_normal((300, 2)), second, np.full((n, 2), [20.0, 5.0])])


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_a_handful_of_equal_rows_is_a_component(kind: str) -> None:
    """It collapses without the prior, from a start that has it; with the prior it is found from no start at all."""
    x = with_a_handful()
    start: dict[str, Any] = {"weights_init": [0.59, 0.4, 0.01], "means_init": [[0.0, 0.0], [8.0, 0.0], [20.0, 5.0]]}
    start["precisions_init"] = np.ones({"full": (3, 2, 2), "diag": (3, 2), "spherical": 3}[kind])
    if kind == "full":
        start["precisions_init"][:] = np.eye(2)
    assert dgmm.train(x, 3, kind, reg_covar=1e-9, worst_rows=0, **start).collapsed
    for more in (start, {"search": "quick"}, {}):
        fit = dgmm.train(x, 3, kind, prior="default", reg_covar=0, **more)
        assert fit.converged
        assert not fit.collapsed
        np.testing.assert_allclose(fit.mixture.weights * len(x), [300, 200, 5], atol=0.5)
        np.testing.assert_allclose(fit.mixture.means[2], [20, 5], atol=0.1)
        shares = fit.mixture.responsibilities(x).T
        np.testing.assert_allclose(fit.mixture.covariances, closed_form(kind, x, shares)[1], rtol=2e-2)


def test_even_a_single_row_is() -> None:
    x = with_a_handful(1)
    fit = dgmm.train(x, 3, "full", prior="default", reg_covar=0)
    assert fit.converged
    np.testing.assert_allclose(fit.mixture.weights * len(x), [300, 200, 1], atol=0.5)


def test_a_row_is_one_but_for_rounding() -> None:
    ground: Any = SimpleNamespace(prior="default")
    mixture = Mixture.gaussian("full", [0.5, 0.5], np.zeros((2, 1)), np.ones((2, 1, 1)))
    assert unsound_in(mixture, np.array([1 - 1e-12, 1 - 1e-6]), ground, 0.0).tolist() == [False, True]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_reported_is_the_likelihood_of_the_mixture(kind: str) -> None:
    x = faithful()
    fit, plain = (dgmm.train(x, 2, kind, prior=prior, search="starts") for prior in ("default", "none"))
    assert fit.log_likelihood == pytest.approx(fit.mixture.log_density(x).sum(), rel=1e-10)
    assert fit.bic == pytest.approx(-2 * fit.log_likelihood + plain.n_parameters * np.log(len(x)))
    assert fit.log_likelihood < plain.log_likelihood - 1e-3
    assert (fit.prior, plain.prior) == ("default", "none")


def test_training_from_nothing_comes_to_mclusts_top() -> None:
    """By its default prior and without a floor (mclust 6.0.0, as in the tests of the prior)."""
    for kind, top in (("VVV", -1130.5092636714), ("EEE", -1140.2609354816), ("VII", -1709.58082960563)):
        fit = dgmm.train(faithful(), 2, kind, prior="default", reg_covar=0, tol=1e-9, search="quick")
        assert fit.log_likelihood == pytest.approx(top, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_known_classes_are_one_m_step(kind: str) -> None:
    x, labels = load_iris(return_X_y=True)
    fit = dgmm.train(x, covariance_type=kind, labels=labels, prior="default", reg_covar=0)
    means, covariances = closed_form(kind, x, (labels == np.arange(3)[:, None]).astype(float))
    assert fit.n_passes == 1
    np.testing.assert_allclose(fit.mixture.means, means, rtol=1e-9)
    np.testing.assert_allclose(fit.mixture.covariances, covariances, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    "settings", [{"fixed": ["weights"]}, {"fixed": ["covariances"]}, {"assignment": "hard"}], ids=str
)
@pytest.mark.parametrize("kind", ["full", "diag"])
def test_the_end_is_its_own_m_step(kind: str, settings: dict[str, Any]) -> None:
    """Together with what is held, and where every row counts for one component alone."""
    x = load_iris().data
    fit = dgmm.train(x, 3, kind, prior="default", reg_covar=0, tol=1e-10, **settings)
    assert fit.converged
    shares = fit.mixture.responsibilities(x).T
    if "assignment" in settings:
        shares = (shares == shares.max(axis=0)).astype(float)
    means, covariances = closed_form(kind, x, shares)
    np.testing.assert_allclose(fit.mixture.means, means, atol=2e-2)
    if "covariances" not in settings.get("fixed", ()):
        np.testing.assert_allclose(fit.mixture.covariances, covariances, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_beside_noise_is_its_own_m_step(kind: str) -> None:
    """Of the rows that the noise leaves."""
    r = np.random.default_rng(0)
    x = np.concatenate([r.normal(size=(60, 2)), 0.3 * r.normal(size=(40, 2)) + [6, 0], r.uniform(-10, 10, (20, 2))])
    fit = dgmm.train(x, 2, kind, prior="default", noise=True, reg_covar=0, tol=1e-10)
    shares = fit.mixture.responsibilities(x).T
    means, covariances = closed_form(kind, x, shares[:-1])
    np.testing.assert_allclose(fit.mixture.means, means, atol=1e-3)
    np.testing.assert_allclose(fit.mixture.covariances, covariances, atol=1e-3)
    assert fit.noise == pytest.approx(shares[-1].mean(), abs=1e-4)


def test_it_does_not_depend_on_chunks_and_units() -> None:
    x = faithful()
    how: dict[str, Any] = {"prior": "default", "reg_covar": 0, "search": "starts", "tol": 1e-8}
    fit = dgmm.train(x, 2, "full", **how)
    chunked = dgmm.train(da.from_array(x, chunks=(50, 2)), 2, "full", **how)
    scaled = dgmm.train(x * [60.0, 1e-3] + [0.0, 50.0], 2, "full", **how)
    np.testing.assert_allclose(chunked.mixture.means, fit.mixture.means, rtol=1e-6)
    np.testing.assert_allclose(scaled.mixture.means, fit.mixture.means * [60.0, 1e-3] + [0.0, 50.0], rtol=1e-4)


def test_a_selection_goes_by_the_likelihood() -> None:
    x = with_a_handful()
    chosen = dgmm.select(x, [1, 3], ["full", "tied", "diag"], prior="default", reg_covar=0, search="quick")
    assert not chosen.failures
    assert chosen.best.n_components == 3
    assert chosen.best.bic == min(f.bic for f in chosen.fits)
    for f in chosen.fits:
        assert f.log_likelihood == pytest.approx(f.mixture.log_density(x).sum(), rel=1e-9)


@pytest.mark.parametrize("kind", ["VEI", "EEV", "factors:1", "poisson", "gamma"])
def test_what_has_none_says_so(kind: str) -> None:
    x = 1.0 + np.random.default_rng(0).poisson(5, (50, 2))
    for ask in (lambda: dgmm.train(x, 2, kind, prior="default"), lambda: dgmm.select(x, [2], [kind], prior="default")):
        with pytest.raises(dgmm.InputError, match=f"a {kind} mixture has no conjugate prior: choose from full, tied"):
            ask()
    with pytest.raises(dgmm.InputError, match="prior"):
        dgmm.train(x, 2, prior="flat")


def test_it_is_stored_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zarr.save_array(str(tmp_path / "x.zarr"), with_a_handful())
    out = str(tmp_path / "m.zarr")
    what = ["--k", "3", "--prior", "default", "--search", "starts", "--quiet"]
    assert main(["train", str(tmp_path / "x.zarr"), "--out", out, *what]) == 0
    assert "with the conjugate prior" in capsys.readouterr().out
    fit = dgmm.load(out)
    assert fit.prior == "default"
    assert "prior" in load_dataset(out).trajectory.attrs["long_name"]
    # the way that is left ends at what is left
    left = convergence_figure(fit).axes[0].lines[0].get_ydata()
    assert np.asarray(left)[-1] == pytest.approx(fit.remaining_gain * fit.n_samples, abs=1e-6)
    dgmm.save(fit, tmp_path / "m.json")
    assert dgmm.load(tmp_path / "m.json").prior == "default"
    assert "prior" not in describe(dgmm.train(with_a_handful(), 1))


def test_refits_have_it_too() -> None:
    fit = dgmm.train(with_a_handful(), 3, "full", prior="default", reg_covar=0, search="starts", stability=3)
    assert fit.stability is not None
    assert np.isfinite(fit.stability.means_se).all()


def test_a_fit_that_is_resumed_comes_to_the_same_bits(tmp_path: Path) -> None:
    def stop() -> None:
        raise Stop

    data = write_data(tmp_path)
    whole, resumed = (train(data, tmp_path / name, training={"prior": "default"}) for name in ("whole", "resumed"))
    with at_record(4, stop), pytest.raises(Stop):
        work(resumed)
    assert bits(work(resumed)) == bits(work(whole)) != bits(work(train(data, tmp_path / "without")))
