"""EM against scikit-learn from the same start, acceleration against plain EM, and convergence that means something."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

import dgmm
from dgmm.data import Grid, open_samples
from dgmm.em import Ascent, Evaluated, Ground, Secants, aitken, anderson, climb, find_images, maximise, to_vector
from dgmm.em.anderson import expected_gain
from dgmm.engine.workers import threads
from dgmm.errors import CollapseError
from dgmm.families import Moments, get_family, make_frame
from dgmm.fits import Training
from dgmm.fitting import passes_over
from dgmm.mixture import Mixture
from dgmm.passes import Passes
from dgmm.rows import Rows
from dgmm.search.initialise import from_shares
from dgmm.search.sampled import Candidate, SampleRows, grounds_for

TYPES = ["full", "tied", "diag", "spherical"]


def data(n: int = 3000, seed: int = 0) -> np.ndarray:
    r = np.random.default_rng(seed)
    parts = [r.standard_normal((n // 3, 4)) @ r.standard_normal((4, 4)) + 2.5 * r.standard_normal(4) for _ in range(3)]
    return r.permutation(np.concatenate(parts))


def start_of(x: np.ndarray, kind: str, k: int) -> Mixture:
    """What scikit-learn makes of k-means in one M-step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        g = GaussianMixture(k, covariance_type=kind, max_iter=1, random_state=1, reg_covar=0)
        g.fit(x)
    return Mixture.gaussian(kind, g.weights_, g.means_, g.covariances_)


def passes_in_blocks(x: np.ndarray, blocks: int) -> Passes:
    samples = open_samples(x)
    grid = Grid((len(x),), (-(-len(x) // blocks),))
    assert len(grid) == blocks
    return passes_over(type(samples)(**{**vars(samples), "grid": grid}), threads(2))


def climbed(
    x: np.ndarray,
    start: Mixture,
    acceleration: str,
    blocks: int = 1,
    n: int = 40,
    tol: float = 0,
    to_the_end: bool = False,
) -> Ascent:
    passes = passes_in_blocks(x, blocks)
    kind = start.covariance_type
    ground = grounds_for([Candidate(start.n_components, kind)], passes.profile.moments, passes.profile.frame, 0)[kind]
    ascent = Ascent(start.to_frame(ground.frame), ground, tol, acceleration)  # type: ignore[arg-type]
    if to_the_end:
        ascent.least_gain = 0.0  # whatever chance gives
    for _ in climb([ascent], passes.accumulate, n):
        pass
    return ascent


@pytest.mark.parametrize("blocks", [1, 7, 50])
@pytest.mark.parametrize("kind", TYPES)
def test_trajectory_is_scikit_learns(kind: str, blocks: int) -> None:
    x = data()
    start = start_of(x, kind, 4)
    inverse = (
        np.linalg.inv(start.covariances) if start.covariances.ndim > 1 and kind != "diag" else 1 / start.covariances
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        reference = GaussianMixture(
            4, covariance_type=kind, reg_covar=0, tol=0, max_iter=40,
            weights_init=start.weights, means_init=start.means, precisions_init=inverse,
        ).fit(x)  # fmt: skip
    ascent = climbed(x, start, "none", blocks)
    n = min(len(reference.lower_bounds_), len(ascent.trajectory))
    assert n > 15
    np.testing.assert_allclose(np.array(ascent.trajectory[:n]) / len(x), reference.lower_bounds_[:n], rtol=1e-9)


def passes_to(ascent: Ascent, log_likelihood: float) -> int:
    """Passes until the log-likelihood was reached."""
    there = np.array(ascent.trajectory) >= log_likelihood
    assert there.any()
    return int(np.argmax(there)) + 1


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("kind", TYPES)
def test_acceleration_has_the_limit_of_plain_em_and_is_there_sooner(kind: str, k: int) -> None:
    x = data()
    start = start_of(x, kind, k)
    plain = climbed(x, start, "none", n=3000, tol=1e-11, to_the_end=True)
    fast = climbed(x, start, "anderson", n=3000, tol=1e-11, to_the_end=True)
    assert plain.converged
    assert fast.converged
    assert fast.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-6)
    close = plain.log_likelihood - 1e-6 * len(x)
    assert passes_to(fast, close) <= passes_to(plain, close) + 2


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("distance", [5, 7, 10, 20])
def test_acceleration_costs_separated_clusters_two_passes_at_most(kind: str, distance: float) -> None:
    r = np.random.default_rng(1)
    x = r.standard_normal((2000, 3))
    x[:, 0] += distance * r.integers(4, size=2000)
    start = start_of(x, kind, 4)
    plain, fast = (climbed(x, start, how, n=500) for how in ("none", "anderson"))
    assert plain.converged
    assert fast.converged
    assert len(fast.trajectory) <= len(plain.trajectory) + 2
    limit = max(plain.log_likelihood, fast.log_likelihood)
    assert limit - fast.log_likelihood <= 2 * fast.least_gain


def test_acceleration_saves_most_passes_where_there_are_too_many_components() -> None:
    """Twelve on three clusters: plain EM crawls along ridges."""
    x = data()[:, :2]
    start = start_of(x, "full", 12)
    plain = climbed(x, start, "none", n=400)
    fast = climbed(x, start, "anderson", n=400)
    assert passes_to(fast, plain.log_likelihood) < len(plain.trajectory) / 3


@pytest.mark.parametrize(("kind", "k"), [("full", 5), ("full", 8), ("tied", 6), ("diag", 8), ("spherical", 8)])
def test_accepted_points_of_the_acceleration_never_fall(kind: str, k: int) -> None:
    ascent = climbed(data(), start_of(data(), kind, k), "anderson", n=300)
    best = np.maximum.accumulate(ascent.trajectory)
    assert ascent.log_likelihood == best[-1]
    # a failure is followed by the EM step from the best point
    wasted = np.array(ascent.trajectory) < best - 1e-13 * np.abs(best)
    assert not (wasted[1:] & wasted[:-1]).any()


def test_where_no_proposal_holds_acceleration_is_plain_em_and_seldom_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    x = data()
    start = start_of(x, "full", 5)
    plain = climbed(x, start, "none", n=100, to_the_end=True)
    monkeypatch.setattr(anderson, "from_vector", lambda vector, like: None)
    fast = climbed(x, start, "anderson", n=100, to_the_end=True)
    assert fast.trajectory == plain.trajectory[: len(fast.trajectory)]
    # proposals that are worse than any point on the way
    worst = Mixture(start.family, np.full(5, 0.2), start.family.spread(5, fast.ground.moments, fast.ground.floor))
    monkeypatch.setattr(anderson, "from_vector", lambda vector, like: worst)
    fast = climbed(x, start, "anderson", n=100, to_the_end=True)
    values = np.array(fast.trajectory)
    failed = values < plain.trajectory[0]
    assert 3 < failed.sum() < 8
    np.testing.assert_array_equal(values[~failed], plain.trajectory[: (~failed).sum()])


def points_of(matrix: np.ndarray, fixed: np.ndarray, start: np.ndarray, n: int) -> tuple[list, list]:
    """EM's own points where f(x) = matrix (fixed - x)."""
    points = [start]
    for _ in range(n - 1):
        points.append(points[-1] + matrix @ (fixed - points[-1]))
    return points, [matrix @ (fixed - x) for x in points]


def test_secants_find_the_fixed_point_of_a_linear_iteration() -> None:
    r = np.random.default_rng(0)
    basis = np.linalg.qr(r.standard_normal((3, 3))).Q
    fixed, start = r.standard_normal((2, 3))
    points, residuals = points_of(basis * [0.02, 0.3, 0.9] @ basis.T, fixed, start, 4)
    secants = Secants.of(points, residuals)
    assert secants is not None
    assert secants.slowest == pytest.approx(0.02, rel=1e-6)
    np.testing.assert_allclose(points[-1] + secants.step(1e6), fixed, rtol=1e-6)
    # no further along the slow direction than so many EM steps
    along = basis[:, 0] @ secants.step(10.0)
    assert along == pytest.approx(10 * basis[:, 0] @ residuals[-1], rel=1e-6)


def test_secants_lead_away_from_a_saddle() -> None:
    fixed, start = np.zeros(2), np.array([1.0, 0.1])
    points, residuals = points_of(np.diag([0.2, -0.1]), fixed, start, 3)
    secants = Secants.of(points, residuals)
    assert secants is not None
    x = points[-1] + secants.step(1e6)
    assert x[0] == pytest.approx(0, abs=1e-9)
    assert x[1] == pytest.approx(2 * points[-1][1])


def test_secants_of_points_that_do_not_differ_say_nothing() -> None:
    assert Secants.of([np.ones(3)] * 3, [np.zeros(3)] * 3) is None


@pytest.mark.parametrize("kind", TYPES)
def test_an_em_step_gains_what_is_expected_at_the_least(kind: str) -> None:
    """And at most twice that, close to the limit."""
    x = data()
    ascent = climbed(x, start_of(x, kind, 3), "none", n=100)
    passes = passes_in_blocks(x, 1)
    mixture = ascent.mixture
    [statistics] = passes.accumulate([mixture])
    image = maximise(mixture, statistics, ascent.ground)
    expected = expected_gain(Evaluated(mixture, statistics, ascent.ground), image)
    frame = ascent.ground.frame
    gain = (image.to_data(frame).log_density(x) - mixture.to_data(frame).log_density(x)).sum()
    assert expected > 0
    assert 1 < gain / expected < 2


def test_acceleration_with_a_component_in_coordinates_of_its_own() -> None:
    r = np.random.default_rng(0)
    x = np.concatenate(
        [r.standard_normal((2000, 2)), 1e-7 * r.standard_normal((500, 2)) + 0.5, r.normal(2, 1, (900, 2))]
    )
    start = Mixture.gaussian(
        "full", np.ones(3), np.array([[0, 0], [0.5, 0.5], [2, 2]]), np.array([1, 1e-13, 1])[:, None, None] * np.eye(2)
    )
    [statistics] = (p := passes_in_blocks(x, 1)).accumulate([start.to_frame(p.frame("whitening"))])
    assert statistics.local.any()
    plain, fast = (climbed(x, start, how, n=2000, tol=1e-8, to_the_end=True) for how in ("none", "anderson"))
    assert fast.converged
    assert fast.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-3)
    assert len(fast.trajectory) < len(plain.trajectory)


def test_the_log_likelihood_is_the_returned_models() -> None:
    """Elsewhere the returned model is one M-step past the scored one."""
    x = data()
    for acceleration in ("anderson", "none"):
        fit = dgmm.train(x, 3, "full", accelerate=acceleration, max_iter=5)
        assert fit.log_likelihood == pytest.approx(fit.mixture.log_density(x).sum(), rel=1e-12)
        assert fit.bic == pytest.approx(-2 * fit.log_likelihood + fit.n_parameters * np.log(len(x)), rel=1e-14)


def test_the_remaining_gain_is_what_remains() -> None:
    """What is estimated at the stop is what a much longer run still gains, within a factor of three."""
    x = data()
    start = start_of(x, "full", 3)
    stopped = climbed(x, start, "none", n=3000, tol=1e-6)
    assert stopped.converged
    to_the_end = climbed(x, stopped.best.in_data_units(), "anderson", n=3000, tol=1e-12)
    gained = to_the_end.log_likelihood - stopped.log_likelihood
    assert gained / 3 < stopped.remaining_gain < gained * 3
    assert stopped.remaining_gain <= max(1e-6 * len(x), 5e-4 * start.n_parameters)


@pytest.mark.parametrize("kind", TYPES)
def test_the_remaining_gain_of_the_acceleration_is_not_less_than_what_remains(kind: str) -> None:
    x = data()
    start = start_of(x, kind, 3)
    limit = climbed(x, start, "anderson", n=3000, tol=1e-12, to_the_end=True).log_likelihood
    stopped = climbed(x, start, "anderson", n=3000)
    assert stopped.converged
    assert limit - stopped.log_likelihood < 1.5 * stopped.remaining_gain
    assert stopped.remaining_gain <= stopped.least_gain


def test_aitken_knows_the_limit_of_a_geometric_sequence() -> None:
    values = [-10 * 0.8**t for t in range(9)]
    assert aitken(values) == pytest.approx(-values[-1], rel=1e-9)
    assert aitken(values[:3]) == np.inf
    assert aitken([5.0, 5.0, 5.0]) == 0.0
    assert aitken([0.0, 1.0, 2.0, 3.0]) == np.inf


@pytest.mark.parametrize("kind", TYPES)
def test_one_component_is_exact_in_one_pass(kind: str) -> None:
    x = data()
    fit = dgmm.train(x, 1, kind, reg_covar=0)
    covariance = np.cov(x.T, bias=True)
    expected = {
        "full": covariance[None],
        "tied": covariance,
        "diag": np.diagonal(covariance)[None],
        "spherical": np.array([np.diagonal(covariance).mean()]),
    }[kind]
    assert fit.n_passes == 1
    assert fit.converged
    assert fit.remaining_gain == 0
    np.testing.assert_allclose(fit.mixture.means[0], x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(fit.mixture.covariances, expected, rtol=1e-11, atol=1e-12)
    assert fit.log_likelihood == pytest.approx(fit.mixture.log_density(x).sum(), rel=1e-12)


@pytest.mark.parametrize("kind", TYPES)
def test_an_offset_shifts_the_model_and_nothing_else(kind: str) -> None:
    """Elsewhere raw second moments make tied 30 % wrong and diag and spherical fail."""
    x = np.round(data(), 4)
    fit, shifted = dgmm.train(x, 3, kind), dgmm.train(x + 1e8, 3, kind)
    assert shifted.log_likelihood == pytest.approx(fit.log_likelihood, rel=1e-7)
    np.testing.assert_allclose(shifted.mixture.means - 1e8, fit.mixture.means, atol=1e-4)
    np.testing.assert_allclose(shifted.mixture.covariances, fit.mixture.covariances, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("scale", [1e-150, 1e-4, 1e6])
def test_fit_of_scaled_data_is_the_scaled_fit(kind: str, scale: float) -> None:
    """Elsewhere an absolute floor on the covariances takes over for small data."""
    x = data()
    fit, scaled = (dgmm.train(factor * x, 3, kind, search="starts") for factor in (1.0, scale))
    np.testing.assert_allclose(scaled.mixture.means / scale, fit.mixture.means, rtol=1e-4, atol=1e-4)
    expected = fit.log_likelihood - x.size * np.log(scale)
    assert scaled.log_likelihood == pytest.approx(expected, rel=1e-7)


def test_features_of_wildly_different_units_cost_nothing() -> None:
    x, units = data(), np.array([1e-6, 1.0, 1e6, 1e3])
    fit, mixed = dgmm.train(x, 3), dgmm.train(x * units, 3)
    np.testing.assert_allclose(mixed.mixture.means / units, fit.mixture.means, rtol=1e-5, atol=1e-5)


def test_float32_with_an_offset_keeps_its_variances() -> None:
    """Elsewhere diag variances of 0.992 come out as 1.109, without a warning."""
    x = (np.random.default_rng(0).standard_normal((4000, 2)) + 300).astype(np.float32)
    fit = dgmm.train(x, 1, "diag")
    np.testing.assert_allclose(fit.mixture.covariances[0], x.astype(float).var(axis=0), rtol=1e-3)


@pytest.mark.parametrize("d", [30, 50])
def test_many_dimensions_do_not_underflow(d: int) -> None:
    """Two clusters 8 sigma apart: elsewhere densities underflow and all responsibilities are one half."""
    r = np.random.default_rng(0)
    shift = np.full(d, 8 / np.sqrt(d))
    x = np.concatenate([r.standard_normal((500, d)), r.standard_normal((500, d)) + shift])
    fit = dgmm.train(x, 2, "spherical", reg_covar=0, tol=1e-12)
    reference = GaussianMixture(2, covariance_type="spherical", reg_covar=0, tol=1e-12, max_iter=1000, random_state=0)
    assert fit.log_likelihood == pytest.approx(reference.fit(x).score(x) * len(x), rel=1e-9)
    np.testing.assert_allclose(np.sort(fit.mixture.responsibilities(x).max(axis=1))[5:], 1, atol=1e-3)


def test_every_training_setting_changes_something() -> None:
    """A parameter that does nothing would be a lie."""
    x = data(1200)

    def outcome(x: np.ndarray = x, k: int = 5, **settings: object) -> tuple:
        fit = dgmm.train(x, k, "full", **settings)
        return fit.log_likelihood, fit.n_passes, fit.mixture.means.tobytes(), fit.stability is None, len(fit.path)

    base = {"search": "starts", "n_init": 4, "start_rows": 400, "sample_rows": 800, "max_iter": 60, "tol": 1e-6}
    reference = outcome(**base)
    changes = {
        "tol": 1e-2, "max_iter": 4, "reg_covar": 0.05, "n_init": 1, "seed": 7, "start_rows": 150, "accelerate": "none",
        "init_params": "random", "search": "quick", "compute_dtype": "float32", "holdout": 0.2,
        "stability": 2, "assignment": "hard", "fixed": ["weights"], "prior": "default", "noise": True,
        "keep_path": True, "preprocess": {"pca": 1},
    }  # fmt: skip
    for name, value in changes.items():
        assert outcome(**{**base, name: value}) != reference, name
    assert outcome(**base, holdout=0.2, holdout_by={"sample": 10}) != outcome(**base, holdout=0.2)
    holes = np.where(np.arange(len(x))[:, None] % 7 == np.arange(x.shape[1]), np.nan, x)
    assert outcome(holes, **base, missing="marginalise") != outcome(holes, **base)
    # with fewer rows in the sample than start_rows asks for, the starts see fewer
    assert outcome(**{**base, "sample_rows": 120}) != reference
    # a component on a row far from two clusters
    r = np.random.default_rng(1)
    lonely = np.concatenate([r.standard_normal((1000, 2)), 9 + r.standard_normal((1000, 2)), [[25.0, 25.0]]])
    start = {"means_init": [[4.5, 4.5], [25.0, 25.0]], "weights_init": [0.999, 0.001]}
    start["precisions_init"] = [0.05 * np.eye(2), np.eye(2)]
    reported, again, never, few = (
        outcome(lonely, 2, **start, on_collapse=what, worst_rows=n)
        for what, n in (("report", 1000), ("reseed", 1000), ("reseed", 0), ("reseed", 40))
    )
    assert again != reported, "on_collapse"
    assert again not in (never, few), "worst_rows"
    assert {*changes, "missing", "holdout_by", "sample_rows", "worst_rows", "on_collapse"} == set(Training.model_fields)


def test_stopping_short_is_said(caplog: pytest.LogCaptureFixture) -> None:
    fit = dgmm.train(data(), 4, "diag", max_iter=2, n_init=1)
    assert not fit.converged
    assert fit.state == "stopped at pass 2"
    assert "raise max_iter (2)" in caplog.text


def test_another_rule_for_stopping_is_told_the_ascent() -> None:
    x = data()
    passes = passes_in_blocks(x, 3)
    ground = grounds_for([Candidate(4, "diag")], passes.profile.moments, passes.profile.frame, 0)["diag"]
    start = start_of(x, "diag", 4).to_frame(ground.frame)
    ascent = Ascent(start, ground, acceleration="none", stop=lambda a: len(a.trajectory) == 3)
    assert [step.number for step in climb([ascent], passes.accumulate, 10)] == [1, 2, 3]
    assert ascent.converged


SEPARATE = ["full", "diag", "spherical", "t_full", "t_diag:4", "gamma", "poisson"]


def evaluated_by(kind: str, reg_covar: float = 1e-6, **given: object) -> list[Evaluated]:
    """Mixtures of 3, 1 and 2 components, and what rows say of each."""
    r, family = np.random.default_rng(3), get_family(kind)
    x = r.poisson(r.choice([2.0, 30.0], (400, 1)), (400, 3)) + 1.0
    moments = Moments.of(x)
    sample = SampleRows(Rows(x), lambda its: make_frame(its, moments.mean, moments.covariance), 1)
    frame = sample.frame(family.frame)
    inside = moments.in_frame(frame)
    ground = Ground(frame, inside, family.floor(reg_covar, inside), **given)  # type: ignore[arg-type]
    y = sample.coordinates(family.frame)
    starts = [from_shares(family, y, r.dirichlet(np.ones(k), y.shape[1]).T, ground, None) for k in (3, 1, 2)]
    return [Evaluated(m, s, ground) for m, s in zip(starts, sample.accumulate(starts), strict=True)]


@pytest.mark.parametrize("kind", SEPARATE)
def test_images_that_are_found_together_have_the_bits_of_those_alone(kind: str) -> None:
    points = evaluated_by(kind)
    alone = [maximise(p.mixture, p.statistics, p.ground) for p in points]
    find_images(points)
    for point, expected in zip(points, alone, strict=True):
        assert "image" in vars(point), "found"
        assert point.image.weights.tobytes() == expected.weights.tobytes()
        assert to_vector(point.image).tobytes() == to_vector(expected).tobytes()


@pytest.mark.parametrize(
    ("kind", "given"), [("tied", {}), ("EEV", {}), ("full", {"fixed": frozenset(["means"])}), ("full", {"prior": True})]
)
def test_images_of_components_that_have_something_in_common_are_found_alone(kind: str, given: dict) -> None:
    if "prior" in given:
        ground = evaluated_by(kind)[0].ground
        given = {"prior": get_family(kind).prior(ground.moments)}
    points = evaluated_by(kind, **given)
    find_images(points)
    assert not any("image" in vars(point) for point in points)


def test_of_images_one_of_which_is_none_the_others_are_found() -> None:
    first, _, last = evaluated_by("full", reg_covar=0.0)
    sums = last.statistics.sums.copy()
    sums[0, 1:] = 0.0  # all at one place
    singular = Evaluated(last.mixture, replace(last.statistics, sums=sums), last.ground)
    find_images([first, singular])
    assert first.image.means.tobytes() == maximise(first.mixture, first.statistics, first.ground).means.tobytes()
    with pytest.raises(CollapseError, match="component 0 collapsed"):
        _ = singular.image


def test_a_proposal_that_means_nothing_is_left_alone() -> None:
    first, second, last = evaluated_by("gamma")
    wrong = Evaluated(
        second.mixture,
        replace(second.statistics, log_likelihood=np.nan, sums=np.nan * second.statistics.sums),
        last.ground,
    )
    find_images([first, wrong, last])
    assert ["image" in vars(point) for point in (first, wrong, last)] == [True, False, True]
