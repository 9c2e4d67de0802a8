"""Parts of a mixture, and what follows from known values: closed forms, SciPy, integrals, the chain rule."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.integrate
import scipy.stats

import dgmm
from dgmm.families import FAMILIES, Poisson, Rates
from dgmm.mixture import LEAST_WEIGHT, Mixture
from tests.families import toy_family
from tests.families.test_families import FAMILY_NAMES, D, dense_covariances, random_mixture
from tests.families.toy_family import Binomial


@pytest.fixture(params=FAMILY_NAMES)
def mixture(request: pytest.FixtureRequest) -> Mixture:
    return random_mixture(request.param)


X = 2 * np.random.default_rng(8).standard_normal((20, D))


@pytest.mark.parametrize("features", [[2], [3, 0], [1, 2, 3], [2, 0, 3, 1]])
def test_marginals_are_scipys(mixture: Mixture, features: list[int]) -> None:
    part = mixture.marginal(features)
    assert part.covariance_type == mixture.family.unconstrained().name
    joint = [
        np.log(w) + scipy.stats.multivariate_normal(m[features], c[np.ix_(features, features)]).logpdf(X[:, features])
        for w, m, c in zip(mixture.weights, mixture.means, dense_covariances(mixture), strict=True)
    ]
    expected = np.logaddexp.reduce(joint, axis=0)
    np.testing.assert_allclose(part.log_density(X[:, features]), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("given", [[0], [3, 1], [2, 0, 1]])
def test_what_is_given_and_what_follows_make_the_joint_density(mixture: Mixture, given: list[int]) -> None:
    """``log p(x) = log p(x_g) + log p(x_r | x_g)``."""
    rest = [i for i in range(D) if i not in given]
    before, whole = mixture.marginal(given).log_density(X[:, given]), mixture.log_density(X)
    for x, a, b in zip(X, before, whole, strict=True):
        after = mixture.condition({i: x[i] for i in given})
        assert after.covariance_type == mixture.family.unconstrained().name
        assert after.weights.sum() == pytest.approx(1, rel=1e-14)
        assert a + after.log_density(x[None, rest])[0] == pytest.approx(b, rel=1e-10, abs=1e-10)


def test_conditionals_are_the_textbooks(mixture: Mixture) -> None:
    """Means and covariances by inverses, weights by SciPy's densities."""
    given, rest, values = [3, 1], [0, 2], np.array([0.7, -1.1])
    found = mixture.condition(dict(zip(given, values, strict=True)))
    covariances, weights = dense_covariances(mixture), []
    for k, (m, c) in enumerate(zip(mixture.means, covariances, strict=True)):
        slopes = c[np.ix_(rest, given)] @ np.linalg.inv(c[np.ix_(given, given)])
        np.testing.assert_allclose(found.means[k], m[rest] + slopes @ (values - m[given]), rtol=1e-11, atol=1e-12)
        left = c[np.ix_(rest, rest)] - slopes @ c[np.ix_(given, rest)]
        np.testing.assert_allclose(dense_covariances(found)[k], left, rtol=1e-11, atol=1e-12)
        weights.append(scipy.stats.multivariate_normal(m[given], c[np.ix_(given, given)]).pdf(values))
    expected = mixture.weights * weights
    np.testing.assert_allclose(found.weights, expected / expected.sum(), rtol=1e-10)


def test_a_conditional_density_is_a_slice_of_the_joint_one() -> None:
    """Its integral, by quadrature, is what it is divided by."""
    mixture = random_mixture("full", d=2)
    value = 1.3

    def joint(y: float) -> float:
        return float(np.exp(mixture.log_density(np.array([[value, y]]))[0]))

    total, _ = scipy.integrate.quad(joint, -40, 40, limit=400, epsabs=1e-13, points=mixture.means[:, 1].tolist())
    conditional = mixture.condition({0: value})
    for y in (-3.0, 0.0, 2.5):
        assert np.exp(conditional.log_density(np.array([[y]]))[0]) == pytest.approx(joint(y) / total, rel=1e-9)


def test_step_by_step_is_the_same_as_at_once(mixture: Mixture) -> None:
    at_once = mixture.condition({0: 0.3, 2: -0.4})
    stepwise = mixture.condition({2: -0.4}).condition({0: 0.3})
    np.testing.assert_allclose(stepwise.weights, at_once.weights, rtol=1e-11)
    np.testing.assert_allclose(stepwise.means, at_once.means, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(stepwise.covariances, at_once.covariances, rtol=1e-11)


def test_correlations_near_one_cost_no_digits() -> None:
    """Features that are a line but for 1e-9, in units a million apart: a difference of squares would have none left."""
    slope, left = 3e6, 3e-3
    factor = np.array([[1.0, 0.0], [slope, left]])
    family = FAMILIES["full"]
    one = type(random_mixture("full").components)(np.array([[5.0, 7e6]]), factor[None])
    mixture = Mixture(family, np.ones(1), one)
    found = mixture.condition({0: 5.25})
    assert found.means[0, 0] == pytest.approx(7e6 + 0.25 * slope, rel=1e-14)
    assert found.covariances[0, 0, 0] == pytest.approx(left**2, rel=1e-6)
    # the plain formula has lost it
    square = factor @ factor.T
    assert abs(square[1, 1] - square[1, 0] ** 2 / square[0, 0] - left**2) > 0.1 * left**2


def test_far_from_all_components_the_nearest_has_it_all() -> None:
    """Their densities are too small for numbers, their logarithms are not."""
    mixture = Mixture.gaussian("diag", [0.5, 0.5], [[0.0, 1.0], [10.0, 2.0]], np.ones((2, 2)))
    found = mixture.condition({0: 1e4})
    assert found.weights.tolist() == [LEAST_WEIGHT, 1.0]
    assert np.isfinite(found.log_density(np.zeros((1, 1)))).all()
    middle = mixture.condition({0: 5.0})
    assert middle.weights == pytest.approx([0.5, 0.5])


def test_independent_features_of_any_family() -> None:
    """Counts: what is given says only of which component a sample is."""
    rates, w = np.array([[1.0, 40.0], [9.0, 2.0]]), np.array([0.25, 0.75])
    mixture = Mixture(Poisson(), w, Rates(rates))
    assert mixture.marginal([1]).means.ravel().tolist() == [40.0, 2.0]
    found = mixture.condition({0: 3})
    expected = w * scipy.stats.poisson(rates[:, 0]).pmf(3)
    np.testing.assert_allclose(found.weights, expected / expected.sum(), rtol=1e-12)
    with pytest.raises(dgmm.InputError, match="binomial components are not known"):
        Mixture(Binomial(), w, toy_family.Rates(rates)).marginal([1])


@pytest.mark.parametrize("features", [[], [0, 0], [-1], [D]])
def test_features_that_are_none(mixture: Mixture, features: list[int]) -> None:
    with pytest.raises(dgmm.InputError, match="not some of 0 to 3, each of them once"):
        mixture.marginal(features)
    if len(features) == 1:
        with pytest.raises(dgmm.InputError, match="not some of 0 to 3"):
            mixture.condition(dict.fromkeys(features, 0.0))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_values_that_cannot_be(mixture: Mixture, value: float) -> None:
    with pytest.raises(dgmm.InputError, match="has no density at"):
        mixture.condition({1: value})


def test_something_must_be_left(mixture: Mixture) -> None:
    with pytest.raises(dgmm.InputError, match="all 4 features are given"):
        mixture.condition(dict.fromkeys(range(D), 0.0))


def test_features_by_their_names() -> None:
    fit = dgmm.train(dgmm.datasets.old_faithful(), 2)
    for found, expected in itertools.pairwise(
        (fit.condition({"waiting": 60.0}), fit.condition({1: 60.0}), fit.mixture.condition({1: 60.0}))
    ):
        np.testing.assert_array_equal(found.means, expected.means)
    np.testing.assert_array_equal(fit.marginal(["waiting"]).means, fit.mixture.means[:, 1:])
    with pytest.raises(dgmm.InputError, match="no feature 'wait': there are eruptions, waiting"):
        fit.marginal(["wait"])
    for number in (-1, 2, np.int64(2)):
        with pytest.raises(dgmm.InputError, match=r"^no feature .*: there are eruptions, waiting$"):
            fit.marginal([number])
    assert fit.place(np.int64(1)) == 1
    with pytest.raises(dgmm.InputError, match="given twice"):
        fit.condition({"waiting": 60.0, 1: 60.0})  # type: ignore[dict-item]
