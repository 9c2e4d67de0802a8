"""Mixtures of Poisson and Gamma distributions, against SciPy and published figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import zarr

import dgmm
from dgmm.cli import main
from dgmm.estep import Compiled, Plain, accumulate, backend_of, features, make_plan
from dgmm.families import FAMILIES, Gammas, Moments, Rates, get_family, make_frame
from dgmm.families.gamma import LARGEST_SHAPE, shapes_of
from dgmm.mixture import Mixture
from dgmm.rows import Rows

MEANS, SHAPES = np.array([[1.0, 20.0], [5.0, 4.0]]), np.array([[2.0, 9.0], [0.7, 30.0]])
WEIGHTS = np.array([0.3, 0.7])
#: Deaths of women over 80 in three years of The Times: days by their number (Hasselblad 1969).
DAYS = [162, 267, 271, 185, 111, 61, 27, 8, 3, 1]


def mixture(name: str) -> Mixture:
    components = {"gamma": Gammas(MEANS, SHAPES), "poisson": Rates(MEANS)}[name]
    return Mixture(get_family(name), WEIGHTS, components)


def expected(name: str, x: np.ndarray) -> np.ndarray:
    """SciPy's log densities."""
    each = {
        "gamma": lambda k: scipy.stats.gamma.logpdf(x, SHAPES[k], scale=MEANS[k] / SHAPES[k]),
        "poisson": lambda k: scipy.stats.poisson.logpmf(x, MEANS[k]),
    }[name]
    return np.logaddexp.reduce([np.log(WEIGHTS[k]) + each(k).sum(axis=1) for k in range(2)], axis=0)


@pytest.fixture(params=["poisson", "gamma"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def x(name: str) -> np.ndarray:
    return mixture(name).sample(5000, np.random.default_rng(0))[0]


def test_densities_are_scipys_from_the_compiled_kernel(name: str, x: np.ndarray) -> None:
    m = mixture(name)
    assert isinstance(backend_of(m.density_plan()), Compiled)
    np.testing.assert_allclose(m.log_density(x), expected(name, x), rtol=1e-12)


def test_sums_are_those_of_the_plain_form(name: str, x: np.ndarray) -> None:
    m, moments = mixture(name), Moments.of(x)
    frame = make_frame(m.family.frame, moments.mean, moments.covariance)
    plan = make_plan([m.to_frame(frame)], {m.family.frame: frame})
    ours, plain = accumulate(Rows(x), plan), Plain().accumulate(Rows(x), plan)
    np.testing.assert_allclose(ours.sums[0], plain.sums[0], rtol=1e-11)
    np.testing.assert_allclose(ours.log_likelihoods, plain.log_likelihoods, rtol=1e-13)


def test_logarithms_are_numpys() -> None:
    r = np.random.default_rng(1)
    x = np.concatenate([np.exp(r.uniform(-690, 345, 5000)), 1 + 1e-3 * r.standard_normal(500), [1.0, 0.5, 1e-300]])
    out = np.empty(len(x))
    features.logarithms(x, len(x), out)
    np.testing.assert_allclose(out, np.log(x), rtol=5e-16, atol=1e-300)


def test_sample_and_refit_recovers_the_parameters(name: str) -> None:
    true = mixture(name)
    fit = dgmm.train(true.sample(30_000, np.random.default_rng(2))[0], 2, name)
    order = np.argsort(fit.mixture.weights)
    np.testing.assert_allclose(fit.mixture.weights[order], WEIGHTS, atol=0.02)
    np.testing.assert_allclose(fit.mixture.means[order], MEANS, rtol=0.05)
    np.testing.assert_allclose(
        true.family.variances(fit.mixture.components)[order], true.family.variances(true.components), rtol=0.12
    )


def test_the_optimum_of_hasselblad() -> None:
    x = np.repeat(np.arange(10.0), DAYS)[:, None]
    fit = dgmm.train(x, 2, "poisson", reg_covar=0, tol=1e-14)
    assert fit.log_likelihood == pytest.approx(-1989.94586, abs=1e-5)
    np.testing.assert_allclose(fit.mixture.weights, [0.6401, 0.3599], atol=1e-4)
    np.testing.assert_allclose(fit.mixture.means.ravel(), [2.6634, 1.2561], atol=1e-4)


def test_a_single_gamma_is_scipys_fit() -> None:
    x = np.random.default_rng(3).gamma(3.0, 2.0, 500)
    shape, _, scale = scipy.stats.gamma.fit(x, floc=0)
    fit = dgmm.train(x[:, None], 1, "gamma", reg_covar=0)
    assert fit.mixture.components.shapes[0, 0] == pytest.approx(shape, rel=1e-6)
    assert fit.mixture.means[0, 0] == pytest.approx(shape * scale, rel=1e-6)
    assert fit.log_likelihood == pytest.approx(scipy.stats.gamma.logpdf(x, shape, scale=scale).sum(), rel=1e-12)


def test_shapes_solve_their_equation() -> None:
    a = 10.0 ** np.arange(-2, 3.1, 0.25)
    np.testing.assert_allclose(shapes_of(np.log(a) - scipy.special.digamma(a)), a, rtol=1e-9)
    # for large shapes the gap is 1 / 2a and a twelfth of its square
    np.testing.assert_allclose(shapes_of(np.array([0.5e-6 + 1e-12 / 12])), 1e6, rtol=1e-9)
    assert shapes_of(np.array([0.0]))[0] == pytest.approx(LARGEST_SHAPE)


def test_the_likelihood_never_falls_in_plain_em(name: str, x: np.ndarray) -> None:
    fit = dgmm.train(x, 3, name, accelerate="none", reg_covar=0, max_iter=40, search="starts")
    assert (np.diff(fit.trajectory) >= -1e-9 * abs(fit.log_likelihood)).all()


@pytest.mark.parametrize(("kind", "value"), [("gamma", 0.0), ("gamma", -2.0), ("poisson", -1.0), ("poisson", 1.5)])
@pytest.mark.parametrize("sample_rows", [100, 100_000])
def test_values_that_cannot_be_are_refused_with_their_row(kind: str, value: float, sample_rows: int) -> None:
    """Also those that neither the range nor the sample of rows shows."""
    x = mixture(kind).sample(3000, np.random.default_rng(0))[0]
    x[1, 0], x[2345, 1] = np.nan, value
    with pytest.raises(dgmm.InputError, match=rf"feature '1' of ndarray is {value:g} at sample \(2345\): a {kind}"):
        dgmm.train(x, 2, kind, sample_rows=sample_rows, start_rows=100)


def test_outside_of_its_support_a_density_is_zero() -> None:
    for kind in ("gamma", "poisson"):
        assert mixture(kind).log_density(np.array([[-1.0, 2.0], [3.0, 4.0]]))[0] == -np.inf


def test_counts_and_densities_are_not_compared() -> None:
    with pytest.raises(dgmm.InputError, match="poisson gives probabilities of counts and full, gamma densities"):
        dgmm.select(np.ones((9, 1)), [1], ["full", "poisson", "gamma"])


def test_families_of_two_chains_share_every_read() -> None:
    x = mixture("gamma").sample(3000, np.random.default_rng(4))[0]
    moments = Moments.of(x)
    frames = {kind: make_frame(kind, moments.mean, moments.covariance) for kind in ("whitening", "scaling")}
    full = Mixture.gaussian("full", WEIGHTS, MEANS, [np.eye(2), np.eye(2)])
    plan = make_plan([m.to_frame(frames[m.family.frame]) for m in (full, mixture("gamma"))], frames)
    assert len(plan.stacks) == 2
    assert isinstance(backend_of(plan), Compiled)
    for m, found in zip((full, mixture("gamma")), accumulate(Rows(x), plan).log_likelihoods, strict=True):
        assert found == pytest.approx(m.log_density(x).sum(), rel=1e-12)
    best = dgmm.select(x, [1, 2], ["full", "gamma"]).best
    assert (best.covariance_type, best.n_components) == ("gamma", 2)


def test_from_the_command_line(name: str, x: np.ndarray, tmp_path: Path) -> None:
    zarr.save_array(str(tmp_path / "x.zarr"), x)
    data, model, out = (str(tmp_path / part) for part in ("x.zarr", "model.json", "scores.zarr"))
    assert main(["train", data, "--k", "2", "--covariance", name, "--out", model]) == 0
    assert main(["score", model, data, "--out", out]) == 0
    for command in (["info", model], ["verify", model], ["verify", out]):
        assert main(command) == 0
    fit = dgmm.load(model)
    np.testing.assert_array_equal(zarr.open_group(out, mode="r")["log_density"][:], fit.mixture.log_density(x))
    assert list(FAMILIES)[-2:] == ["poisson", "gamma"]
