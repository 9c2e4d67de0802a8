"""Student t components: against SciPy, numerical optimisation, the published M-step and the Gaussian limit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import brentq, minimize
from scipy.special import digamma
from scipy.stats import multivariate_t, norm
from sklearn.metrics import adjusted_rand_score

import dgmm
from dgmm.api import open_scores
from dgmm.cli import main
from dgmm.em import Ascent, Ground, climb
from dgmm.em.information import is_worth_it
from dgmm.errors import InputError
from dgmm.estep import Compiled, Plain, Sharing, make_plan, unpack
from dgmm.families import FrameKind, Gaussians, Moments, Students, get_family, make_frame
from dgmm.families.student import LEAST_DEGREES, MOST_DEGREES
from dgmm.mixture import Mixture
from dgmm.report import write_report
from dgmm.rows import Rows
from dgmm.search import SampleRows
from dgmm.search.initialise import from_labels, summed

NAMES = ("t_full", "t_tied", "t_diag")
LIMITS = {"t_full": "full", "t_tied": "tied", "t_diag": "diag"}
SCALE = np.array([[2.0, 0.8, 0.0], [0.8, 1.0, -0.3], [0.0, -0.3, 0.5]])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def mixture_of(name: str, nu: list[float], means: np.ndarray, scale: np.ndarray, weights: np.ndarray) -> Mixture:
    """With one scale matrix, or its diagonal."""
    k = len(nu)
    factors = np.sqrt(np.diagonal(scale)) if name == "t_diag" else np.linalg.cholesky(scale)
    components = Students(means, np.tile(factors, (k, *[1] * factors.ndim)), np.array(nu))
    return Mixture(get_family(name), weights, components)


def density(name: str, mean: np.ndarray, scale: np.ndarray, nu: float) -> multivariate_t:
    return multivariate_t(mean, np.diag(np.diagonal(scale)) if name == "t_diag" else scale, df=nu)


def three(name: str) -> Mixture:
    means = np.array([[0.0, 0, 0], [3.0, -2, 1], [1e3, 0, 0]])
    return mixture_of(name, [2.5, 7.0, 40.0], means, SCALE, np.array([0.5, 0.3, 0.2]))


def ground_of(name: str, x: np.ndarray) -> Ground:
    family, moments = get_family(name), Moments.of(x)
    frame = make_frame(family.frame, moments.mean, moments.covariance)
    moments = moments.in_frame(frame)
    return Ground(frame, moments, family.floor(0.0, moments))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("nu", [1.0, 4.5, 300.0, 1e5])
def test_densities_are_those_of_scipy(name: str, nu: float) -> None:
    mean, x = np.array([1.0, -2, 30]), 30 * rng().standard_t(1, size=(500, 3))
    ours = mixture_of(name, [nu], mean[None], SCALE, np.ones(1)).log_density(x)
    np.testing.assert_allclose(ours, density(name, mean, SCALE, nu).logpdf(x), rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_responsibilities_are_shares_of_densities(name: str) -> None:
    mixture = three(name)
    x, _ = mixture.sample(300, rng(1))
    each = [
        w * density(name, m, SCALE, nu).pdf(x)
        for w, m, nu in zip(mixture.weights, mixture.means, mixture.components.degrees, strict=True)
    ]
    np.testing.assert_allclose(mixture.responsibilities(x), (np.array(each) / np.sum(each, axis=0)).T, atol=1e-10)
    np.testing.assert_allclose(mixture.log_density(x), np.log(np.sum(each, axis=0)), rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_narrow_components_keep_their_digits(name: str) -> None:
    """In coordinates of their own: a ten millionth as wide as the mixture."""
    means, scale = np.vstack([5 * np.eye(3), np.zeros(3)]), 1e-14 * SCALE
    mixture = mixture_of(name, [3.0] * 4, means, scale, np.full(4, 0.25))
    x = means[1] + 1e-7 * rng().standard_normal((50, 3))
    expected = np.log(0.25) + density(name, means[1], scale, 3.0).logpdf(x)
    np.testing.assert_allclose(mixture.log_density(x), expected, atol=1e-6)
    assert any(mixture.density_plan().local)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("hard", [False, True])
def test_the_compiled_form_is_the_plain_one(weighted: bool, hard: bool) -> None:
    """Together with Gaussian components, narrow ones, and from one degree of freedom to very many."""
    x = np.concatenate([rng().standard_t(2, size=(1500, 3)), rng(1).standard_t(2, size=(900, 3)) + 5])
    moments = Moments.of(x)
    kinds: tuple[FrameKind, ...] = ("whitening", "isotropic")
    frames = {kind: make_frame(kind, moments.mean, moments.covariance) for kind in kinds}
    means, mixtures = np.array([[0.0, 0, 0], [5.0, 5, 5]]), []
    for name in NAMES:
        for nu in (1.0, 6.0, 1e8):
            mixtures.append(mixture_of(name, [nu, 3.0], means, SCALE, np.array([0.6, 0.4])))
    mixtures.append(mixture_of("t_full", [3.0, 3.0], means, 1e-14 * SCALE, np.array([0.6, 0.4])))
    mixtures.append(Mixture.gaussian("full", [1.0, 1.0], means, np.tile(SCALE, (2, 1, 1))))
    inside = [m.to_frame(frames[m.family.frame]) for m in mixtures]
    plan = make_plan(inside, frames, sharing=Sharing(hard=hard))
    rows = Rows(x, rng(2).random(len(x)) if weighted else None)
    assert Compiled().takes(plan)
    a, b = unpack(Compiled().accumulate(rows, plan), plan), unpack(Plain().accumulate(rows, plan), plan)
    for ours, plain in zip(a, b, strict=True):
        assert ours.log_likelihood == pytest.approx(plain.log_likelihood, rel=1e-13)
        assert ours.entropy == pytest.approx(plain.entropy, abs=1e-8 * len(x))
        np.testing.assert_allclose(ours.sums, plain.sums, rtol=1e-8, atol=1e-9)


def test_gaussian_plans_are_without_links() -> None:
    mixture = Mixture.gaussian("full", [1.0], [[0.0, 0, 0]], SCALE[None])
    assert mixture.density_plan().links is None


def test_plans_of_other_degrees_of_freedom_are_others() -> None:
    """A journal may not take the passes of one for those of the other."""
    plans = [mixture_of("t_full", [nu], np.zeros((1, 3)), SCALE, np.ones(1)).density_plan() for nu in (3.0, 3.0, 4.0)]
    first, same, other = (plan.digest for plan in plans)
    assert first == same != other


def test_scores_of_rows_do_not_tell_of_these() -> None:
    """They are no linear functions of the features, as the information of a sample has it."""
    x = rng().standard_normal((2000, 2))
    for name, expected in (("full", True), ("t_full", False)):
        ground = ground_of(name, x)
        sample, many = Rows(x), replace(ground.moments, count=1e9)
        ground = replace(ground, sample=sample, moments=many)
        mixture = from_labels(get_family(name), sample, np.zeros(len(x), dtype=int), 1, ground_of(name, x))
        assert is_worth_it(mixture, ground) == expected


@pytest.mark.parametrize("name", NAMES)
def test_statistics_are_the_published_ones(name: str) -> None:
    """Peel and McLachlan (2000): u = (nu + d) / (nu + delta), and the M-step's equation for nu, from every sample."""
    mixture = three(name)
    x, _ = mixture.sample(4000, rng(3))
    ground = ground_of(name, x)
    inside = mixture.to_frame(ground.frame)
    plan = make_plan([inside], {inside.family.frame: ground.frame})
    (statistics,) = unpack(Compiled().accumulate(Rows(x), plan), plan)
    r = mixture.responsibilities(x)
    assert statistics.entropy == pytest.approx(-(r * np.log(np.maximum(r, 1e-300))).sum(), rel=1e-7)
    weights, after = inside.family.maximise(statistics, inside.components, ground.moments, ground.floor)
    after = Mixture(inside.family, weights, after).to_data(ground.frame)
    scale = np.diag(np.diagonal(SCALE)) if name == "t_diag" else SCALE
    scatters = np.zeros((3, 3, 3))
    for k, nu in enumerate(mixture.components.degrees):
        away = x - mixture.means[k]
        delta = np.einsum("ni,ij,nj->n", away, np.linalg.inv(scale), away)
        u, n = (nu + 3) / (nu + delta), r[:, k].sum()
        mean = (r[:, k] * u) @ x / (r[:, k] @ u)
        np.testing.assert_allclose(after.means[k], mean, rtol=1e-8, atol=1e-8)
        scatters[k] = ((x - mean).T * (r[:, k] * u)) @ (x - mean)
        rest = 1 + r[:, k] @ (np.log(u) - u) / n + digamma((nu + 3) / 2) - np.log((nu + 3) / 2)
        expected = brentq(lambda v, rest=rest: np.log(v / 2) - digamma(v / 2) + rest, 0.1, 1e4, xtol=1e-12)
        assert after.components.degrees[k] == pytest.approx(expected, rel=1e-6)
    counts = r.sum(axis=0)
    np.testing.assert_allclose(after.weights, counts / len(x), rtol=1e-9)
    for k in range(3):
        own = scatters.sum(axis=0) / len(x) if name == "t_tied" else scatters[k] / counts[k]
        own = np.diag(np.diagonal(own)) if name == "t_diag" else own
        np.testing.assert_allclose(after.family.covariance(after.components, k), own, rtol=1e-6, atol=1e-8)


def fitted(name: str, x: np.ndarray, labels: np.ndarray, acceleration: str = "anderson") -> Ascent:
    """Climbed to the top from labels, in the data's frame."""
    ground = ground_of(name, x)
    rows = SampleRows(Rows(x), lambda kind: ground.frame, 1)
    start = from_labels(get_family(name), Rows(x), labels, labels.max() + 1, ground)
    ascent = Ascent(start, ground, 1e-12, acceleration)  # type: ignore[arg-type]
    for _ in climb([ascent], rows.accumulate, 2000):
        pass
    assert ascent.converged
    return ascent


@pytest.mark.parametrize("seed", [0, 1])
def test_one_component_is_where_direct_optimisation_ends(seed: int) -> None:
    """Location, scale matrix and degrees of freedom at the top of SciPy's likelihood."""
    x = multivariate_t([1.0, -2.0], [[2.0, 0.7], [0.7, 1.0]], df=3.5).rvs(400, random_state=seed)

    def cost(v: np.ndarray) -> float:
        factor = np.array([[np.exp(v[2]), 0.0], [v[3], np.exp(v[4])]])
        return -multivariate_t(v[:2], factor @ factor.T, df=np.exp(v[5])).logpdf(x).sum()

    best = minimize(cost, np.array([0.0, 0, 0, 0, 0, 1.0]), method="BFGS", options={"gtol": 1e-4})
    ascent = fitted("t_full", x, np.zeros(len(x), dtype=int))
    found = ascent.mixture.to_data(ascent.ground.frame)
    assert -best.fun == pytest.approx(ascent.log_likelihood, abs=1e-3)
    factor = np.array([[np.exp(best.x[2]), 0.0], [best.x[3], np.exp(best.x[4])]])
    np.testing.assert_allclose(found.means[0], best.x[:2], atol=2e-3)
    np.testing.assert_allclose(found.covariances[0], factor @ factor.T, rtol=5e-3)
    assert found.components.degrees[0] == pytest.approx(np.exp(best.x[5]), rel=2e-2)


def test_training_on_one_component_goes_on_until_it_is_there() -> None:
    """The second value of a Gaussian is the top; this one is climbed."""
    x = multivariate_t([1.0, -2.0], [[2.0, 0.7], [0.7, 1.0]], df=3.5).rvs(400, random_state=0)
    fit = dgmm.train(x, 1, "t_full")
    ascent = fitted("t_full", x, np.zeros(len(x), dtype=int))
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(ascent.log_likelihood, abs=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_many_degrees_of_freedom_are_gaussian(name: str) -> None:
    """To 1e-8: log densities, responsibilities and the M-step."""
    means, weights = np.array([[0.0, 0, 0], [3.0, -2, 1]]), np.array([0.6, 0.4])
    ours = mixture_of(name, [1e12, 1e12], means, SCALE, weights)
    gaussians = ours.components.gaussians
    theirs = Mixture(
        get_family(LIMITS[name]),
        weights,
        Gaussians(means, gaussians.factors[0] if name == "t_tied" else gaussians.factors),
    )
    x, _ = theirs.sample(2000, rng(4))
    np.testing.assert_allclose(ours.log_density(x), theirs.log_density(x), rtol=1e-8)
    np.testing.assert_allclose(ours.responsibilities(x), theirs.responsibilities(x), atol=1e-8)
    after = [dgmm.em_path(x, mixture, 1, reg_covar=0.0)[1] for mixture in (ours, theirs)]
    np.testing.assert_allclose(after[0].means, after[1].means, atol=1e-8)
    np.testing.assert_allclose(after[0].weights, after[1].weights, rtol=1e-8)
    for k in range(2):
        np.testing.assert_allclose(*(m.family.covariance(m.components, k) for m in after), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_a_fit_with_many_degrees_of_freedom_is_the_gaussian_one(name: str) -> None:
    """From the same start, at the same pass, with the same number of parameters."""
    means = np.array([[0.0, 0, 0], [3.0, -2, 1]])
    labels = np.repeat([0, 1], 400)
    x = means[labels] + rng(8).standard_normal((800, 3)) @ np.linalg.cholesky(SCALE).T
    ours, theirs = fitted(f"{name}:1e12", x, labels, "none"), fitted(LIMITS[name], x, labels, "none")
    assert ours.mixture.n_parameters == theirs.mixture.n_parameters
    assert len(ours.trajectory) == pytest.approx(len(theirs.trajectory), abs=2)
    both = min(len(ours.trajectory), len(theirs.trajectory))
    np.testing.assert_allclose(ours.trajectory[:both], theirs.trajectory[:both], rtol=1e-8)
    np.testing.assert_allclose(ours.mixture.means, theirs.mixture.means, atol=1e-7)


def test_given_degrees_of_freedom_stay(tmp_path: Path) -> None:
    """A family of its own, with fewer parameters; less likely than where they are estimated."""
    x = multivariate_t([1.0, -2.0], [[2.0, 0.7], [0.7, 1.0]], df=3.5).rvs(600, random_state=0)
    given, estimated = dgmm.train(x, 1, "t_full:9.50"), dgmm.train(x, 1, "t_full")
    assert given.covariance_type == "t_full:9.5"
    assert given.mixture.components.degrees.tolist() == [9.5]
    assert given.n_parameters == estimated.n_parameters - 1 == 5
    assert given.log_likelihood < estimated.log_likelihood - 1
    near = dgmm.train(x, 1, f"t_full:{estimated.mixture.components.degrees[0]}")
    assert near.log_likelihood == pytest.approx(estimated.log_likelihood, abs=0.02)
    dgmm.save(given, tmp_path / "m.zarr")
    again = dgmm.load(tmp_path / "m.zarr").mixture
    assert again.n_parameters == 5
    np.testing.assert_array_equal(again.log_density(x), given.mixture.log_density(x))
    rest = given.mixture.condition({0: 1.0})
    assert rest.covariance_type == "t_full"
    assert rest.components.degrees.tolist() == [10.5]
    assert get_family("t_tied:4").unconstrained().name == "t_full:4"


def test_hard_assignments_arrive() -> None:
    """Where no row changes its component, degrees of freedom still creep on: by less than counts."""
    r = rng()
    x = np.concatenate([r.standard_t(4, size=(600, 2)), r.standard_t(3, size=(400, 2)) * 0.3 + [9, 0]])
    fit = dgmm.train(x, 2, "t_full", assignment="hard")
    assert fit.converged
    assert fit.n_passes < 100


@pytest.mark.parametrize("given", ["", "four", "0", "-1", "inf", "nan"])
def test_what_are_no_degrees_of_freedom_is_refused(given: str) -> None:
    with pytest.raises(InputError, match=f"t_full:{given} has no degrees of freedom: give a positive number"):
        get_family(f"t_full:{given}")
    with pytest.raises(InputError, match="t_full:"):
        dgmm.train(np.zeros((9, 2)), 2, f"t_full:{given}")


@pytest.mark.parametrize("name", ["full:4", "t_fool:4", ":4"])
def test_others_have_no_degrees_of_freedom(name: str) -> None:
    with pytest.raises(InputError, match=f"unknown covariance type '{name}': choose from full"):
        get_family(name)


def test_degrees_of_freedom_stay_between_their_bounds() -> None:
    """Tails heavier than Cauchy's, and lighter than a Gaussian's."""
    heavy = rng().standard_t(0.4, size=(2000, 1))
    ascent = fitted("t_full", heavy, np.zeros(2000, dtype=int))
    assert ascent.mixture.components.degrees.tolist() == [LEAST_DEGREES] == [1.0]
    family, ground = get_family("t_full"), ground_of("t_full", rng().random((50, 1)))
    many = np.array([[10.0, 0, 10, 10, -1e-8]])
    reference = family.spread(1, ground.moments, ground.floor)
    _, found = family.maximise(summed(10.0, many), reference, ground.moments, ground.floor)
    assert found.degrees.tolist() == [MOST_DEGREES] == [1e4]
    vector = family.to_vector(reference)
    vector[-1] = 50.0
    assert family.from_vector(vector, reference).degrees.tolist() == [MOST_DEGREES]
    vector[-1] = -50.0
    assert family.from_vector(vector, reference).degrees.tolist() == [LEAST_DEGREES]


def test_labels_say_nothing_of_degrees_of_freedom() -> None:
    """The M-step of labels is that of the Gaussian, at the degrees of freedom that there were."""
    x, labels = rng().standard_normal((100, 2)) + np.repeat([[0.0], [4.0]], 50, axis=0), np.repeat([0, 1], 50)
    ground = ground_of("t_full", x)
    start = from_labels(get_family("t_full"), Rows(x), labels, 2, ground).to_data(ground.frame)
    expected = get_family("t_full").spread(2, ground.moments, ground.floor).degrees
    assert start.components.degrees.tolist() == expected.tolist()
    np.testing.assert_allclose(start.means, [x[:50].mean(axis=0), x[50:].mean(axis=0)], rtol=1e-9)


def test_parts_are_held_fixed() -> None:
    means = np.array([[0.0, 0.0], [6.0, 0.0]])
    x = np.concatenate([m + rng(i).standard_t(4, size=(500, 2)) for i, m in enumerate(means)])
    fit = dgmm.train(x, 2, "t_full", means_init=means, fixed=["means"], seed=0)
    np.testing.assert_allclose(fit.mixture.means[np.argsort(fit.mixture.means[:, 0])], means, atol=1e-9)
    assert fit.n_parameters == 1 + 6 + 2
    path = dgmm.em_path(x, fit.mixture, 15, fixed=["covariances", "weights"])
    values = [m.log_density(x).sum() for m in path]
    assert (np.diff(values) > -1e-9 * abs(values[0])).all()
    np.testing.assert_allclose(path[-1].covariances, path[0].covariances, rtol=1e-12)
    assert np.abs(path[-1].components.degrees - path[0].components.degrees).max() > 0


@pytest.mark.parametrize("name", NAMES)
def test_conditional_and_marginal_densities(name: str) -> None:
    """``p(x) = p(x_given) p(x_rest | x_given)``."""
    mixture = three(name)
    x, _ = mixture.sample(5, rng(5))
    for row in x:
        there = mixture.marginal([2, 0])
        rest = mixture.condition({2: row[2], 0: row[0]})
        both = there.log_density(row[None, [2, 0]]) + rest.log_density(row[None, [1]])
        assert both[0] == pytest.approx(mixture.log_density(row[None])[0], abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_moments_of_the_conditional_density(name: str) -> None:
    """By quadrature of joint densities, tails far out included."""
    mixture = mixture_of(name, [4.5, 7.0], np.array([[0.0, 0, 0], [3.0, -2, 1]]), SCALE, np.array([0.6, 0.4]))
    t = np.linspace(-np.pi / 2, np.pi / 2, 200_001)[1:-1]
    y, weight = 3 * np.tan(t), 3 / np.cos(t) ** 2
    for given in ([0.5, -1.0], [4.0, 2.0]):
        rows = np.column_stack([np.full_like(y, given[0]), y, np.full_like(y, given[1])])
        density = np.exp(mixture.log_density(rows)) * weight
        mean = (density @ y) / density.sum()
        variance = (density @ (y - mean) ** 2) / density.sum()
        means, variances = mixture.predict(np.array([given]), [1], [0, 2])
        assert means[0, 0] == pytest.approx(mean, abs=1e-6)
        assert variances[0, 0] == pytest.approx(variance, rel=1e-4)
    one = mixture_of(name, [1.0], np.zeros((1, 3)), SCALE, np.ones(1))
    assert one.predict(np.zeros((1, 1)), [1], [0])[1].tolist() == [[np.inf]]


@pytest.mark.parametrize("name", NAMES)
def test_the_top_is_one_of_the_likelihood_of_scipy(name: str) -> None:
    """Where its derivatives vanish, by every mean, degree of freedom and log weight."""
    x, labels = mixture_of(name, [3.0, 6.0], np.array([[0.0, 0], [4, 1]]), SCALE[:2, :2], np.array([0.6, 0.4])).sample(
        700, rng(9)
    )
    ascent = fitted(name, x, labels)
    top = ascent.mixture.to_data(ascent.ground.frame)
    scales = [top.family.covariance(top.components, k) for k in range(2)]

    def likelihood(v: np.ndarray) -> float:
        weights = np.exp(v[4:6]) / np.exp(v[4:6]).sum()
        each = [w * multivariate_t(m, s * v[8], df=nu).pdf(x) for w, m, s, nu in zip(
            weights, v[:4].reshape(2, 2), scales, v[6:8], strict=True)]  # fmt: skip
        return float(np.log(np.sum(each, axis=0)).sum())

    here = np.concatenate([top.means.ravel(), np.log(top.weights), top.components.degrees, [1.0]])
    assert likelihood(here) == pytest.approx(ascent.log_likelihood, rel=1e-9)
    for i in range(len(here)):
        step = np.zeros(len(here))
        step[i] = 1e-3
        slope = (likelihood(here + step) - likelihood(here - step)) / 2e-3
        curvature = (likelihood(here + step) + likelihood(here - step) - 2 * likelihood(here)) / 1e-6
        # the gain that is left along it, in nats
        assert 0.5 * slope**2 / abs(curvature) < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_none_of_the_components_and_others_are_these(name: str) -> None:
    """As where the only component there is is cut."""
    mixture = three(name)
    none = mixture.family.taken(mixture.components, np.array([], dtype=int))
    again = mixture.family.joined([none, mixture.components], mixture.weights)
    np.testing.assert_allclose(again.factors, mixture.components.factors, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(again.degrees, mixture.components.degrees)


def test_samples_have_the_tails() -> None:
    """Of every feature, a t distribution (Kolmogorov's distance), and of its degrees of freedom alone."""
    mixture = mixture_of("t_full", [3.0], np.zeros((1, 3)), SCALE, np.ones(1))
    x, _ = mixture.sample(20_000, rng(6))
    from scipy.stats import kstest, t

    for j in range(3):
        z = x[:, j] / np.sqrt(SCALE[j, j])
        assert kstest(z, t(3).cdf).pvalue > 1e-3
        assert kstest(z, norm.cdf).pvalue < 1e-6
        assert kstest(z, t(4).cdf).pvalue < 1e-2


def with_outliers(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three clusters of 300 rows with 3 % gross outliers: rows, which cluster (-1: none), and the centres."""
    r = rng(seed)
    centres = np.array([[0.0, 0.0], [7.0, 0.0], [3.5, 6.0]])
    labels = np.repeat([0, 1, 2], 300)
    x = centres[labels] + r.standard_normal((900, 2))
    far = r.uniform(-60, 60, (28, 2))
    return np.concatenate([x, far]), np.concatenate([labels, np.full(28, -1)]), centres


def test_outliers_move_these_components_less() -> None:
    """Than Gaussian ones of the same shape: errors of means and of labels, over several seeds."""
    agreed, errors = {}, {}
    for name in ("full", "t_full"):
        agreed[name], errors[name] = [], []
        for seed in range(3):
            x, labels, centres = with_outliers(seed)
            fit, real = dgmm.train(x, 3, name, seed=seed, search="quick"), labels >= 0
            found = fit.mixture.responsibilities(x[real]).argmax(axis=1)
            agreed[name].append(adjusted_rand_score(labels[real], found))
            away = np.linalg.norm(centres[:, None] - fit.mixture.means, axis=2)
            errors[name].append(away.min(axis=1).max())
    # three standard errors of a mean of 300 rows, in two directions
    assert max(errors["t_full"]) < 0.25 < 1 < min(errors["full"])
    assert min(agreed["t_full"]) > 0.95 > max(agreed["full"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"degrees": np.ones(2)}, r"degrees of a t_full model have shape \(2,\), expected \(3,\)"),
        ({"degrees": np.array([1.0, 0, 1])}, "degrees of a t_full model must be finite and positive"),
        ({"degrees": np.array([1.0, np.inf, 1])}, "degrees of a t_full model must be finite and positive"),
        ({"degrees": np.ones((3, 1))}, r"have shape \(3, 1\), expected \(3,\)"),
        ({"scales": np.tile(2 * SCALE, (3, 1, 1))}, "are not the squares of its factors"),
    ],
)
def test_damaged_arrays_are_refused(change: dict, message: str) -> None:
    mixture = three("t_full")
    arrays = {name: values for name, (_, values) in mixture.family.arrays(mixture.components).items()}
    assert set(arrays) == {"means", "scales", "factors", "degrees"}
    with pytest.raises(InputError, match=message):
        mixture.family.from_arrays(arrays | change)


def test_the_command_line_takes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Selected among Gaussians where tails are heavy, scored, verified, drawn from, shown and reported."""
    import xarray as xr

    x, _ = mixture_of("t_diag", [3.0, 3.0], np.array([[0.0, 0], [9, 9]]), np.eye(2), np.array([0.6, 0.4])).sample(
        1200, rng(7)
    )
    data, model = str(tmp_path / "x.zarr"), str(tmp_path / "run" / "model.zarr")
    xr.Dataset({n: ("row", column) for n, column in zip("uv", x.T, strict=True)}).chunk(row=400).to_zarr(
        data, consolidated=False
    )

    def run(*words: str) -> str:
        assert main(list(words)) in (0, None)
        return capsys.readouterr().out

    run(
        "select", data, "--k", "1:3", "--covariance", "diag,t_diag,t_diag:50", "--out", str(tmp_path / "run"), "--quiet"
    )
    shown = run("info", model)
    assert "t_diag, K = 2" in shown
    assert shown.count("degrees of freedom") == 2
    assert dgmm.load(model).mixture.components.degrees == pytest.approx([3, 3], rel=0.35)
    run("score", model, data, "--out", str(tmp_path / "s.zarr"), "--quiet")
    run("verify", str(tmp_path / "s.zarr"), "--quiet")
    run("sample", model, "--rows", "100", "--out", str(tmp_path / "y.zarr"), "--quiet")
    scores = open_scores(tmp_path / "s.zarr")
    write_report(tmp_path / "r.html", title="Tails", fit=dgmm.load(model), table=None, scores=scores, sample=x)
    page = (tmp_path / "r.html").read_text()
    assert page.count("degrees of freedom") == 2
    assert "A t_diag mixture of 2 components, fitted" in page
