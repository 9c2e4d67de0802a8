"""The variational posterior against scikit-learn step by step, and against closed forms."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy.special import multigammaln
from scipy.stats import beta, dirichlet, wishart
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture

from dgmm.em import PRIOR, Ground, Posterior, Priors, maximise, variational_update
from dgmm.em.variational import EMPTY
from dgmm.errors import CollapseError, InputError
from dgmm.estep import accumulate, make_plan, unpack
from dgmm.estep import plan as planning
from dgmm.families import FAMILIES, Frame, Moments, gaussian_family, get_family, make_frame
from dgmm.rows import Rows

KINDS = ["full", "tied", "diag", "spherical"]
PROCESS, DISTRIBUTION = "dirichlet_process", "dirichlet_distribution"
D = 3


def clouds(n: int = 900, seed: int = 0) -> np.ndarray:
    """Three groups of different shapes, some way apart."""
    r = np.random.default_rng(seed)
    parts = [r.standard_normal((n // 3, D)) @ r.standard_normal((D, D)) + 4 * r.standard_normal(D) for _ in range(3)]
    return np.concatenate(parts)


def scikit_learns(x: np.ndarray, kind: str, k: int, max_iter: int, **options: Any) -> BayesianGaussianMixture:
    options = {"init_params": "random_from_data", "random_state": 1, "tol": 0} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return BayesianGaussianMixture(n_components=k, covariance_type=kind, max_iter=max_iter, **options).fit(x)


def posterior_from(
    kind: str, *, weight_concentration: Any, mean_precision: Any, means: Any, degrees_of_freedom: Any, covariances: Any
) -> Posterior:
    """A posterior from what scikit-learn's model has under the same names and an underscore."""
    family = gaussian_family(kind, PRIOR)
    a, b, m, nu, c = (
        np.array(v, dtype=float) for v in (weight_concentration, mean_precision, means, degrees_of_freedom, covariances)
    )
    if family.square:  # scikit-learn's own rounding
        c = 0.5 * (c + np.swapaxes(c, -1, -2))
    return Posterior(family, a, b, nu, family.from_arrays({"means": m, "covariances": c}))


def posterior_of(g: BayesianGaussianMixture) -> Posterior:
    return posterior_from(
        g.covariance_type,
        weight_concentration=g.weight_concentration_,
        mean_precision=g.mean_precision_,
        means=g.means_,
        degrees_of_freedom=g.degrees_of_freedom_,
        covariances=g.covariances_,
    )


def ground_of(x: np.ndarray, kind: str, reg_covar: float = 0.0, frame: Frame | None = None) -> Ground:
    """With a floor in the data's units."""
    moments = Moments.of(x)
    frame = frame or make_frame(get_family(kind).frame, moments.mean, moments.covariance)
    return Ground(frame, moments.in_frame(frame), frame.to_frame(frame.to_frame(reg_covar * np.eye(x.shape[1])).T))


@dataclass
class Run:
    """Where the steps from a start have led, in the data's units."""

    posterior: Posterior
    lower_bounds: np.ndarray
    n_local: int


def iterated(
    x: np.ndarray, start: Posterior, priors: Priors, n: int, reg_covar: float = 0.0, frame: Frame | None = None
) -> Run:
    ground = ground_of(x, start.covariance_type, reg_covar, frame)
    posterior, bounds, n_local = start.to_frame(ground.frame), [], 0
    for _ in range(n):
        mixture = posterior.expected_mixture
        plan = make_plan([mixture], {mixture.family.frame: ground.frame})
        [statistics] = unpack(accumulate(Rows(x), plan), plan)
        n_local += int(statistics.local.sum())
        posterior = variational_update(mixture, statistics, ground, priors)
        bounds.append(posterior.to_data(ground.frame).lower_bound(statistics.entropy))
    return Run(posterior.to_data(ground.frame), np.array(bounds), n_local)


def compare(
    x: np.ndarray,
    kind: str,
    k: int,
    n: int,
    concentration_type: Any,
    reg_covar: float = 1e-6,
    rtol: float = 1e-8,
    init_params: str = "random_from_data",
    frame: Frame | None = None,
    **given: Any,
) -> Run:
    """Our steps from scikit-learn's start against its own; ``given`` are priors under our names."""
    options = {f"{name}_prior": value for name, value in given.items()}
    options |= {
        "weight_concentration_prior_type": concentration_type,
        "reg_covar": reg_covar,
        "init_params": init_params,
    }
    reference = scikit_learns(x, kind, k, n, **options)
    priors = Priors.for_data(kind, k, Moments.of(x), weight_concentration_type=concentration_type, **given)
    start = scikit_learns(x, kind, k, 0, **options)
    if kind in ("full", "tied"):
        # raw second moments of data far from zero leave it asymmetric in the sixth digit on some processors
        start.covariances_ = 0.5 * (start.covariances_ + np.swapaxes(start.covariances_, -1, -2))
    run = iterated(x, posterior_of(start), priors, n, reg_covar, frame)
    p = run.posterior
    # scikit-learn stops where two bounds are equal to the last bit
    m = len(reference.lower_bounds_)
    assert m >= min(n, 2)
    np.testing.assert_allclose(run.lower_bounds[:m], np.ravel(reference.lower_bounds_), rtol=rtol)
    for ours, theirs in (
        (p.expected_weights, reference.weights_),
        (p.means, reference.means_),
        (p.covariances, reference.covariances_),
        (p.mean_precision, reference.mean_precision_),
        (p.degrees_of_freedom, reference.degrees_of_freedom_),
        (p.weight_concentration, np.array(reference.weight_concentration_)),
        (priors.covariance, reference.covariance_prior_),
        (priors.mean, reference.mean_prior_),
        (p.expected_mixture.log_density(x) + p.log_scale, reference.score_samples(x)),
    ):
        assert ours.shape == np.shape(theirs)
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * np.abs(theirs).max())
    np.testing.assert_allclose(p.expected_log_weights, reference._estimate_log_weights(), rtol=rtol, atol=rtol)
    assert priors.weight_concentration == reference.weight_concentration_prior_
    assert priors.degrees_of_freedom == reference.degrees_of_freedom_prior_
    assert priors.mean_precision == reference.mean_precision_prior_
    return run


@pytest.mark.parametrize("concentration_type", [PROCESS, DISTRIBUTION])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 4])
def test_steps_are_scikit_learns(kind: str, k: int, concentration_type: str) -> None:
    compare(clouds(), kind, k, 25, concentration_type)


@pytest.mark.parametrize("concentration_type", [PROCESS, DISTRIBUTION])
@pytest.mark.parametrize("kind", KINDS)
def test_one_feature_is_enough(kind: str, concentration_type: str) -> None:
    compare(clouds()[:, :1], kind, 3, 10, concentration_type)
    compare(clouds()[:, :1], kind, 1, 3, concentration_type)


GIVEN: dict[str, Any] = {
    "weight_concentration": 30.0,
    "mean_precision": 50.0,
    "mean": [1.0, -2.0, 3.0],
    "degrees_of_freedom": 40.5,
}
SCATTER = np.array([[40.0, 10, 0], [10, 30, -5], [0, -5, 20]])
SCATTERS = {"full": SCATTER, "tied": SCATTER, "diag": np.diagonal(SCATTER), "spherical": 25.0}


@pytest.mark.parametrize("concentration_type", [PROCESS, DISTRIBUTION])
@pytest.mark.parametrize("kind", KINDS)
def test_given_priors_count_as_they_do_there(kind: str, concentration_type: str) -> None:
    x = clouds()
    given = GIVEN | {"covariance": SCATTERS[kind]}
    default = compare(x, kind, 3, 8, concentration_type).lower_bounds[-1]
    for name, value in given.items():
        changed = compare(x, kind, 3, 8, concentration_type, **{name: value}).lower_bounds[-1]
        assert abs(changed - default) > 0.1, name
    compare(x, kind, 3, 8, concentration_type, reg_covar=0.5, **given)


@pytest.mark.parametrize("concentration_type", [PROCESS, DISTRIBUTION])
@pytest.mark.parametrize("kind", KINDS)
def test_surplus_components_empty_as_they_do_there(kind: str, concentration_type: str) -> None:
    r = np.random.default_rng(2)
    x = np.concatenate([r.standard_normal((300, D)) + centre for centre in ([0, 0, 0], [9, 0, 0], [0, 9, 4])])
    run = compare(x, kind, 12, 100, concentration_type, weight_concentration=1e-3, reg_covar=0.0)
    assert (run.posterior.expected_weights > 1e-2).sum() < 12


@pytest.mark.parametrize("weight_concentration", [1e-3, 1e-12])
@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_components_posterior_is_its_prior(kind: str, weight_concentration: float) -> None:
    """The expected logarithm of its weight is beyond any double."""
    x = clouds()
    far, near = np.full((1, D), 1e4), np.stack([x.mean(axis=0)] * 2)
    shapes = {"full": np.eye(D)[None].repeat(3, 0), "tied": np.eye(D), "diag": np.ones((3, D)), "spherical": np.ones(3)}
    start = posterior_from(
        kind,
        weight_concentration=np.array([450, 450, weight_concentration]),
        mean_precision=np.array([450.0, 450, 1]),
        means=np.concatenate([near + np.array([[0.1], [-0.1]]), far]),
        degrees_of_freedom=np.array(300.0) if kind == "tied" else np.array([450.0, 450, D]),
        covariances=shapes[kind],
    )
    options: dict[str, Any] = {"weight_concentration_type": DISTRIBUTION, "weight_concentration": weight_concentration}
    priors = Priors.for_data(kind, 3, Moments.of(x), **options, mean=[1.0, 2, 3])
    p = iterated(x, start, priors, 3).posterior
    assert p.weight_concentration[2] == weight_concentration + EMPTY
    assert p.mean_precision[2] == pytest.approx(priors.mean_precision, rel=1e-14)
    np.testing.assert_allclose(p.means[2], priors.mean, rtol=1e-13)
    if kind != "tied":
        assert p.degrees_of_freedom[2] == pytest.approx(D, rel=1e-14)
        np.testing.assert_allclose(p.covariances[2], priors.covariance / D, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("concentration_type", [PROCESS, DISTRIBUTION])
@pytest.mark.parametrize("kind", KINDS)
def test_an_offset_costs_nothing(kind: str, concentration_type: Any) -> None:
    """Scikit-learn loses up to six digits of a diagonal covariance here."""
    x = np.round(clouds() * 2**20) / 2**20
    offset = 2.0**20
    start = posterior_of(scikit_learns(x, kind, 4, 0, weight_concentration_prior_type=concentration_type))
    moved = posterior_from(
        kind,
        weight_concentration=start.weight_concentration,
        mean_precision=start.mean_precision,
        means=start.means + offset,
        degrees_of_freedom=start.degrees_of_freedom,
        covariances=start.covariances,
    )
    runs = [
        iterated(y, s, Priors.for_data(kind, 4, Moments.of(y), weight_concentration_type=concentration_type), 20)
        for y, s in ((x, start), (x + offset, moved))
    ]
    here, there = (run.posterior for run in runs)
    np.testing.assert_allclose(runs[1].lower_bounds, runs[0].lower_bounds, rtol=1e-9)
    np.testing.assert_allclose(there.expected_weights, here.expected_weights, rtol=1e-7)
    np.testing.assert_allclose(there.means - offset, here.means, atol=1e-7)
    np.testing.assert_allclose(there.covariances, here.covariances, rtol=1e-7, atol=1e-7)
    density = there.expected_mixture.log_density(x + offset) + there.log_scale
    np.testing.assert_allclose(density, here.expected_mixture.log_density(x) + here.log_scale, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_own_coordinates_of_narrow_components_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = clouds()
    start = posterior_of(scikit_learns(x, kind, 4, 0))
    priors = Priors.for_data(kind, 4, Moments.of(x), mean=[1.0, 2, 3])
    expected = iterated(x, start, priors, 10, reg_covar=0.3)
    assert not expected.n_local
    monkeypatch.setattr(planning, "TOLERATED_ERROR", 0.0)
    run = iterated(x, start, priors, 10, reg_covar=0.3)
    assert run.n_local == 40
    np.testing.assert_allclose(run.lower_bounds, expected.lower_bounds, rtol=1e-12)
    np.testing.assert_allclose(run.posterior.means, expected.posterior.means, rtol=1e-9)
    np.testing.assert_allclose(run.posterior.covariances, expected.posterior.covariances, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_components_too_narrow_for_the_frame_are_scikit_learns(kind: str) -> None:
    """With a prior that lets them be."""
    r = np.random.default_rng(3)
    wide = 1.0 if kind == "tied" else 1e5
    x = np.concatenate([1e5 + r.standard_normal((200, 2)), -1e5 + wide * r.standard_normal((200, 2))])
    scatter = {"full": np.eye(2), "tied": np.eye(2), "diag": np.ones(2), "spherical": 1.0}[kind]
    run = compare(x, kind, 2, 6, PROCESS, rtol=1e-5, init_params="kmeans", covariance=scatter, mean_precision=1e-9)
    assert run.n_local > 0


@pytest.mark.parametrize("concentration_type", [PROCESS, DISTRIBUTION])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [3, 8])
def test_the_bound_never_falls(kind: str, k: int, concentration_type: Any) -> None:
    x = clouds()
    start = posterior_of(scikit_learns(x, kind, k, 0, weight_concentration_prior_type=concentration_type))
    priors = Priors.for_data(kind, k, Moments.of(x), weight_concentration_type=concentration_type)
    bounds = iterated(x, start, priors, 100).lower_bounds
    assert (np.diff(bounds) > -1e-12 * np.abs(bounds[1:])).all()


def test_a_component_on_a_single_sample_needs_no_floor() -> None:
    """The prior keeps it from the collapse that is the end of a fit by maximum likelihood."""
    x = np.concatenate([clouds(), [[80.0, 80, 80]]])
    start = posterior_from(
        "full",
        weight_concentration=np.array([900.0, 1]),
        mean_precision=np.array([900.0, 1]),
        means=np.array([x[:-1].mean(axis=0), x[-1]]),
        degrees_of_freedom=np.array([900.0, D]),
        covariances=np.array([np.cov(x[:-1].T), 1e-2 * np.eye(D)]),
    )
    priors, ground = Priors.for_data("full", 2, Moments.of(x)), ground_of(x, "full")
    mixture = start.to_frame(ground.frame).expected_mixture
    plan = make_plan([mixture], {"whitening": ground.frame})
    [statistics] = unpack(accumulate(Rows(x), plan), plan)
    with pytest.raises(CollapseError):
        maximise(mixture, statistics, ground)
    posterior = variational_update(mixture, statistics, ground, priors).to_data(ground.frame)
    np.testing.assert_allclose(posterior.mean_precision, [len(x), 2])
    np.testing.assert_allclose(posterior.means[1], (priors.mean + x[-1]) / 2)
    away = x[-1] - priors.mean
    np.testing.assert_allclose(posterior.covariances[1], (priors.covariance + np.outer(away, away) / 2) / (D + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_feature_needs_a_floor(kind: str) -> None:
    """And a frame that does not mind."""
    x = clouds()
    x[:, 1] = 7.0
    frame = Frame(x.mean(axis=0), np.ones(D), np.ones(D))
    if get_family(kind).frame == "whitening":
        frame = Frame(x.mean(axis=0), np.eye(D), np.eye(D))
    run = compare(x, kind, 3, 8, PROCESS, reg_covar=0.1, rtol=1e-7, frame=frame)
    if kind != "spherical":
        with pytest.raises(CollapseError, match="reg_covar"):
            iterated(x, run.posterior, Priors.for_data(kind, 3, Moments.of(x)), 1, frame=frame)


def test_log_weights_are_expectations() -> None:
    r = np.random.default_rng(0)
    b, m, nu, c = np.ones(3), np.zeros((3, 1)), np.ones(3), np.ones((3, 1, 1))
    rest: dict[str, Any] = {"mean_precision": b, "means": m, "degrees_of_freedom": nu, "covariances": c}
    a = np.array([2.0, 0.7, 5.0])
    p = posterior_from("full", weight_concentration=a, **rest)
    draws = dirichlet(a).rvs(200_000, random_state=r)
    np.testing.assert_allclose(p.expected_weights, dirichlet(a).mean(), rtol=1e-12)
    np.testing.assert_allclose(p.expected_log_weights, np.log(draws).mean(axis=0), atol=0.02)
    first, second = np.array([2.0, 3.0, 1.0]), np.array([4.0, 1.5, 0.8])
    p = posterior_from("full", weight_concentration=(first, second), **rest)
    shares = beta(first, second).rvs((200_000, 3), random_state=r)
    sticks = shares * np.cumprod(np.hstack([np.ones((200_000, 1)), 1 - shares[:, :-1]]), axis=1)
    np.testing.assert_allclose(p.expected_weights, sticks.mean(axis=0) / sticks.mean(axis=0).sum(), rtol=0.01)
    np.testing.assert_allclose(p.expected_log_weights, np.log(sticks).mean(axis=0), atol=0.02)


def test_no_weight_of_a_mixture_is_nothing() -> None:
    """The rest that many broken sticks leave is less than any double."""
    k = 200
    p = posterior_from(
        "spherical",
        weight_concentration=(np.ones(k), np.full(k, 0.005)),
        mean_precision=np.ones(k),
        means=np.zeros((k, 1)),
        degrees_of_freedom=np.ones(k),
        covariances=np.ones(k),
    )
    assert p.expected_weights[-1] == 0
    for mixture in (p.mixture, p.expected_mixture):
        assert (mixture.weights > 0).all()
        assert np.isfinite(mixture.log_density(np.zeros((1, 1)))).all()


def test_the_expected_mixture_is_the_expectation_of_the_log_density() -> None:
    """Drawn from the Gaussian-Wishart distribution."""
    r = np.random.default_rng(1)
    d, nu, precision, mean = 2, 7.0, 3.0, np.array([1.0, -1.0])
    covariance = np.array([[2.0, 0.5], [0.5, 1.0]])
    p = posterior_from(
        "full",
        weight_concentration=np.ones(1),
        mean_precision=np.array([precision]),
        means=mean[None],
        degrees_of_freedom=np.array([nu]),
        covariances=covariance[None],
    )
    x = np.array([[0.0, 0.0], [3.0, 1.0]])
    precisions = wishart(nu, np.linalg.inv(covariance) / nu).rvs(100_000, random_state=r)
    whitening = np.linalg.cholesky(precision * precisions)
    noise = r.standard_normal((len(precisions), d))
    means = mean + np.linalg.solve(np.swapaxes(whitening, 1, 2), noise[:, :, None])[:, :, 0]
    away = x[:, None] - means
    quadratic = np.einsum("nki,kij,nkj->nk", away, precisions, away)
    log_density = 0.5 * (np.linalg.slogdet(precisions)[1] - d * np.log(2 * np.pi) - quadratic)
    np.testing.assert_allclose(p.expected_mixture.log_density(x) + p.log_scale, log_density.mean(axis=1), atol=0.03)
    assert p.log_scale < 0
    np.testing.assert_array_equal(p.mixture.weights, [1.0])


def test_the_bound_of_one_component_is_the_evidence() -> None:
    """Up to the constants that are left out: Murphy (2007), equation 266, for any data and priors."""
    r = np.random.default_rng(4)

    def left_out(n: int, precision: float, freedom: float, scale: float) -> tuple[float, float]:
        x = scale * r.standard_normal((n, D)) + 1
        given: dict[str, Any] = {"mean_precision": precision, "degrees_of_freedom": freedom, "mean": np.zeros(D)}
        priors = Priors.for_data("full", 1, Moments.of(x), **given, weight_concentration_type=DISTRIBUTION)
        start = posterior_of(scikit_learns(x, "full", 1, 0))
        run = iterated(x, start, priors, 1)
        p = run.posterior
        log_evidence = (
            -0.5 * n * D * np.log(np.pi)
            + multigammaln(p.degrees_of_freedom[0] / 2, D)
            - multigammaln(freedom / 2, D)
            + 0.5 * freedom * np.linalg.slogdet(priors.covariance)[1]
            - 0.5 * p.degrees_of_freedom[0] * np.linalg.slogdet(p.degrees_of_freedom[0] * p.covariances[0])[1]
            + 0.5 * D * np.log(precision / p.mean_precision[0])
        )
        constant = (
            -0.5 * n * D * np.log(2 * np.pi)
            - multigammaln(freedom / 2, D)
            + D * (D - 1) / 4 * np.log(np.pi)
            - 0.5 * freedom * D * np.log(2)
            + 0.5 * freedom * np.linalg.slogdet(priors.covariance)[1]
            + 0.5 * D * np.log(precision)
        )
        return log_evidence, run.lower_bounds[-1] + constant

    for case in ((50, 1.0, 3.0, 1.0), (200, 0.1, 9.5, 30.0)):
        evidence, bound = left_out(*case)
        assert bound == pytest.approx(evidence, rel=1e-9)


def test_coordinates_go_there_and_back() -> None:
    x = clouds()
    for kind in KINDS:
        p = posterior_of(scikit_learns(x, kind, 3, 0))
        frame = ground_of(x, kind).frame
        back = p.to_frame(frame).to_data(frame)
        assert (back.covariance_type, back.n_components, back.n_features) == (kind, 3, D)
        np.testing.assert_allclose(back.means, p.means, rtol=1e-12)
        np.testing.assert_allclose(back.covariances, p.covariances, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "given", "what"),
    [
        ("full", {"weight_concentration_type": "dirichlet"}, "dirichlet_process, dirichlet_distribution"),
        ("full", {"weight_concentration": 0.0}, "weight_concentration_prior must be positive"),
        ("full", {"mean_precision": np.nan}, "mean_precision_prior must be positive"),
        ("full", {"degrees_of_freedom": 2.0}, "greater than 2"),
        ("full", {"mean": [1.0, 2]}, "mean_prior must be 3 finite numbers"),
        ("full", {"covariance": np.ones(3)}, "covariance"),
        ("tied", {"covariance": -np.eye(3)}, "positive definite"),
        ("full", {"covariance": np.eye(3) + 0.1 * np.eye(3, k=1)}, "symmetric"),
        ("diag", {"covariance": np.array([1.0, 1, 0])}, "positive"),
        ("spherical", {"covariance": np.ones(3)}, "covariance"),
        ("round", {}, "unknown covariance type"),
    ],
)
def test_priors_that_are_none(kind: str, given: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        Priors.for_data(kind, 2, Moments.of(clouds()), **given)


def test_covariances_may_be_symmetric_up_to_rounding() -> None:
    rounded = np.eye(3) + 1e-17 * np.eye(3, k=1)
    priors = Priors.for_data("full", 2, Moments.of(clouds()), covariance=rounded)
    np.testing.assert_array_equal(priors.covariance, priors.covariance.T)


def test_one_sample_says_nothing_of_the_covariance() -> None:
    one = Moments.of(np.zeros((1, D)))
    with pytest.raises(InputError, match="covariance_prior"):
        Priors.for_data("full", 2, one)
    assert Priors.for_data("spherical", 2, one, covariance=2.0).covariance == 2.0


def test_only_gaussian_families_have_such_a_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "other", object())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Gaussian-Wishart"):
        gaussian_family("other", PRIOR)


@pytest.mark.parametrize("kind", ["EII", "VEI", "VVE"])
def test_structures_without_such_a_prior_are_refused(kind: str) -> None:
    with pytest.raises(InputError, match=f"for full, tied, diag, spherical: not for {kind}"):
        Priors.for_data(kind, 2, Moments.of(np.eye(3)))
