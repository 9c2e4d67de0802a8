"""Starts: the four methods against scikit-learn, and parameters that are given."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

import dgmm
from dgmm.data import open_samples
from dgmm.em import Ascent, Evaluated, Ground
from dgmm.engine.workers import threads
from dgmm.families import SufficientStatistics, get_family
from dgmm.fits import Training
from dgmm.fitting import passes_over as passes_over_samples
from dgmm.mixture import Mixture
from dgmm.passes import Passes
from dgmm.rows import Rows
from dgmm.search import check_given, initialise, ladder
from dgmm.search.initialise import Given, from_labels, start_labels
from dgmm.search.ladder import views_of
from dgmm.search.sampled import Candidate, grounds_for
from dgmm.search.screening import Screening
from dgmm.search.starts import start_on_sample
from dgmm.types import Criterion, StartMethod

KINDS = ["full", "tied", "diag", "spherical"]
METHODS: list[StartMethod] = ["kmeans", "k-means++", "random", "random_from_data"]
K, D = 4, 3


def clouds(n: int = 2000, seed: int = 0) -> np.ndarray:
    """Four groups at the corners of a tetrahedron, unequal in size and shape, far apart."""
    r = np.random.default_rng(seed)
    corners = 14.0 * np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]])
    labels = r.choice(K, size=n, p=[0.4, 0.3, 0.2, 0.1])
    return corners[labels] + r.standard_normal((n, D)) * np.array([1.0, 0.5, 1.5]) + 3


def passes_over(x: np.ndarray) -> Passes:
    return passes_over_samples(open_samples(x), threads(2))


def ground_of(x: np.ndarray, kind: str, reg_covar: float = 0) -> Ground:
    passes = passes_over(x)
    return grounds_for([Candidate(K, kind)], passes.profile.moments, passes.frame, reg_covar)[kind]


def labels_of(x: np.ndarray, method: StartMethod, n_init: int = 2, seed: int = 0) -> list[np.ndarray]:
    whitened = (x - x.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return list(start_labels(method, [(x - x.mean(axis=0)) / x.std(axis=0), whitened], K, n_init, seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_a_start_is_a_mixture_within_the_data(method: StartMethod, kind: str) -> None:
    x = clouds()
    ground = ground_of(x, kind)
    for labels in labels_of(x, method, n_init=4):
        assert labels.shape == (len(x),)
        assert set(labels) == set(range(K))
        start = from_labels(get_family(kind), Rows(x), labels, K, ground).to_data(ground.frame)
        assert start.weights.sum() == pytest.approx(1)
        assert (start.weights > 0).all()
        assert ((start.means >= x.min(axis=0)) & (start.means <= x.max(axis=0))).all()
        assert np.isfinite(start.log_density(x)).all()
        # no component is wider than all the data with the start's floor
        assert start.covariances.max() <= 1.02 * np.cov(x.T).max() / min(start.weights)


@pytest.mark.parametrize("method", METHODS)
def test_starts_depend_on_the_seed_and_nothing_else(method: StartMethod) -> None:
    x = clouds()
    with threadpool_limits(1):
        alone = labels_of(x, method, n_init=6)
    with threadpool_limits(2):
        together = labels_of(x, method, n_init=6)
    np.testing.assert_array_equal(alone, together)
    # clusters that are found again have other numbers at least
    assert len({r.tobytes() for r in alone}) > 1
    assert not np.array_equal(alone, labels_of(x, method, n_init=6, seed=1))


@pytest.mark.parametrize("method", METHODS)
def test_a_fit_is_reproducible(method: StartMethod) -> None:
    x = clouds(500)
    first, again = (dgmm.train(x, K, init_params=method, n_init=2, seed=3) for _ in range(2))
    assert first.trajectory == again.trajectory
    assert dgmm.train(x, K, init_params=method, n_init=2, seed=4).trajectory != first.trajectory


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_the_best_of_ten_starts_is_scikit_learns(method: StartMethod, kind: str) -> None:
    x = clouds()
    reference = GaussianMixture(
        K, covariance_type=kind, n_init=10, tol=1e-12, max_iter=1000, reg_covar=0, random_state=0
    )
    fit = dgmm.train(x, K, kind, init_params=method, n_init=10, reg_covar=1e-12)
    assert fit.log_likelihood / len(x) == pytest.approx(reference.fit(x).score(x), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_from_labels_is_scikit_learns(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apart from the extent that a start is given."""
    x = clouds()
    labels = np.random.default_rng(5).integers(K, size=len(x))
    reference = GaussianMixture(K, covariance_type=kind, reg_covar=0)
    with np.errstate(divide="ignore"):
        reference._m_step(x, np.log(np.eye(K)[labels]))
    monkeypatch.setattr(initialise, "START_FLOOR", 0.0)
    ground = ground_of(x, kind)
    start = from_labels(get_family(kind), Rows(x), labels, K, ground).to_data(ground.frame)
    np.testing.assert_allclose(start.weights, reference.weights_, rtol=1e-12)
    np.testing.assert_allclose(start.means, reference.means_, rtol=1e-12)
    np.testing.assert_allclose(start.covariances, reference.covariances_, rtol=1e-9, atol=1e-9)


def test_the_floor_of_a_start_is_a_share_of_the_datas_covariance() -> None:
    x = clouds()
    ground = ground_of(x, "full")
    labels = np.arange(len(x)) % K
    start = from_labels(get_family("full"), Rows(x), labels, K, ground).to_data(ground.frame)
    for k in range(K):
        expected = np.cov(x[labels == k].T, bias=True) + initialise.START_FLOOR * np.cov(x.T, bias=True)
        np.testing.assert_allclose(start.covariances[k], expected, rtol=1e-9, atol=1e-9)


def test_random_rows_are_distinct() -> None:
    """Whole numbers from 0 to 3, most of them 0: two equal centres would leave a component empty."""
    x = np.random.default_rng(0).choice(4, size=(300, 1), p=[0.91, 0.03, 0.03, 0.03]).astype(float)
    for labels in start_labels("random_from_data", [x], 4, 20, 0):
        assert set(labels) == {0, 1, 2, 3}


def test_each_view_shows_groups_that_the_others_hide() -> None:
    """Thin layers when whitened, groups along one feature that is the widest, or would be if others had its unit."""
    r = np.random.default_rng(0)
    groups, halves = np.arange(900) % 3, np.arange(900) % 2

    def seen(x: np.ndarray, groups: np.ndarray = groups) -> list[float]:
        passes = passes_over(x)
        views, k = views_of(x, passes.profile.moments, passes.frame), groups.max() + 1
        found = [[adjusted_rand_score(groups, its) for its in start_labels("kmeans", [v], k, 30, 0)] for v in views]
        return [round(max(agreements), 1) for agreements in found]

    wide = r.standard_normal((900, 20))
    wide[:, 0] += 8 * groups
    layers = r.standard_normal((900, 2)) * [10, 0.1]
    layers[:, 1] += halves
    slanted = layers @ np.array([[0.6, 0.8], [-0.8, 0.6]])
    units = r.standard_normal((900, 2)) * [0.3, 1000]
    units[:, 0] += 5 * halves
    assert seen(wide)[2] == 1
    assert seen(wide)[0] < 0.5
    assert seen(slanted, halves)[1] == 1
    assert max(seen(slanted, halves)[0], seen(slanted, halves)[2]) < 0.5
    assert seen(units, halves)[0] == 1
    assert seen(units, halves)[2] < 0.5


# --- given parameters ---


def parameters(kind: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights, means and covariances near the clouds."""
    r = np.random.default_rng(seed)
    roots = r.standard_normal((K, D, D)) + 3 * np.eye(D)
    full = roots @ np.swapaxes(roots, 1, 2)
    covariances = {
        "full": full,
        "tied": full[0],
        "diag": np.diagonal(full, axis1=1, axis2=2),
        "spherical": full[:, 0, 0],
    }[kind]
    return {"weights": r.dirichlet(np.full(K, 5.0)), "means": 10 * r.random((K, D)), "covariances": covariances}


def inverse(covariances: np.ndarray, kind: str) -> np.ndarray:
    return np.linalg.inv(covariances) if kind in ("full", "tied") else 1 / covariances


def given_of(kind: str, *names: str) -> Given:
    p = parameters(kind)
    values = {"weights": p["weights"], "means": p["means"], "precisions": inverse(p["covariances"], kind)}
    given = check_given(
        get_family(kind), K, D, *(values[n] if n in names else None for n in ("weights", "means", "precisions"))
    )
    assert given is not None
    return given


def starts_of(
    x: np.ndarray, kind: str, given: Given | None, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> list[Mixture]:
    """The mixtures from which the climb on the sample begins, in frame coordinates."""
    seen: list[list[Mixture]] = []

    def record(what: str, tried: list[tuple[Candidate, Ascent]], *more: Any) -> None:
        seen.append([a.mixture for _, a in tried])

    monkeypatch.setattr(ladder, "_climb_on_sample", record)
    passes = passes_over(x)
    start_on_sample(passes.profile, [Candidate(K, kind)], Training(search="starts", **options), passes.frame, given)
    return seen[0]


def assert_same(a: Mixture, b: Mixture) -> None:
    np.testing.assert_allclose(a.weights, b.weights, rtol=1e-14)
    np.testing.assert_allclose(a.means, b.means, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(a.covariances, b.covariances, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_given_parameters_are_the_one_start(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = clouds()
    (start,) = starts_of(x, kind, given_of(kind, "weights", "means", "precisions"), monkeypatch, n_init=5)
    assert_same(start, Mixture.gaussian(kind, **parameters(kind)).to_frame(ground_of(x, kind).frame))


@pytest.mark.parametrize("names", [["means"], ["weights"], ["precisions"], ["means", "precisions"]], ids="-".join)
@pytest.mark.parametrize("kind", KINDS)
def test_given_parts_replace_those_of_every_start(kind: str, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    x = clouds()
    own = starts_of(x, kind, None, monkeypatch, n_init=3)
    replaced = starts_of(x, kind, given_of(kind, *names), monkeypatch, n_init=3)
    assert len(replaced) == len(own) == 3
    frame, p = ground_of(x, kind).frame, parameters(kind)
    for before, after in zip(own, replaced, strict=True):
        plain = before.to_data(frame)
        expected = Mixture.gaussian(
            kind,
            p["weights"] if "weights" in names else plain.weights,
            p["means"] if "means" in names else plain.means,
            p["covariances"] if "precisions" in names else plain.covariances,
        )
        assert_same(after, expected.to_frame(frame))


def test_nothing_given_is_nothing() -> None:
    assert check_given(get_family("full"), K, D, None, None, None) is None


@pytest.mark.parametrize("kind", KINDS)
def test_scikit_learns_precisions_are_understood(kind: str) -> None:
    family = get_family(kind)
    reference = GaussianMixture(K, covariance_type=kind, reg_covar=0, random_state=0).fit(clouds())
    given = check_given(family, K, D, reference.weights_, reference.means_, reference.precisions_)
    assert given is not None
    components = family.from_arrays({"means": given.means, "factors": given.factors})  # type: ignore[dict-item]
    np.testing.assert_allclose(family.covariances(components), reference.covariances_, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["full", "tied"])
def test_features_of_wildly_different_units_have_precisions(kind: str) -> None:
    """What is symmetric, and positive, is so relative to them."""
    units = np.outer(*[[1e-9, 1.0, 1e9]] * 2)
    covariances = parameters(kind)["covariances"]
    given = check_given(get_family(kind), K, D, None, None, inverse(covariances, kind) / units)
    assert given is not None
    assert given.factors is not None
    np.testing.assert_allclose(given.factors @ np.swapaxes(given.factors, -1, -2) / units, covariances, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_from_given_parameters_climbs_where_scikit_learn_climbs(kind: str) -> None:
    """Two components begin on one group and one on two: an optimum that is not the best, and that stays."""
    x = clouds()
    means = np.array([[3.0, 3, 3], [17, 17, 3], [10, 10, 17], [3.5, 2, 4]])
    given = {
        "weights_init": [0.3, 0.3, 0.3, 0.1],
        "means_init": means,
        "precisions_init": {
            "full": np.tile(0.1 * np.eye(D), (K, 1, 1)),
            "tied": 0.1 * np.eye(D),
            "diag": np.full((K, D), 0.1),
            "spherical": np.full(K, 0.1),
        }[kind],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        reference = GaussianMixture(K, covariance_type=kind, reg_covar=0, tol=1e-10, max_iter=5000, **given).fit(x)
    fit = dgmm.train(x, K, kind, reg_covar=1e-12, **given)
    # what training leaves undone is 0.1 % of p/2 nats, estimated
    assert fit.log_likelihood == pytest.approx(reference.score(x) * len(x), abs=0.1)
    assert fit.log_likelihood < dgmm.train(x, K, kind).log_likelihood - 100


def changed(values: np.ndarray, place: Any, value: float) -> np.ndarray:
    values = np.array(values, dtype=float)
    values[place] = value
    return values


EYES = np.tile(np.eye(D), (K, 1, 1))


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        ("full", "weights", [0.5, 0.5], r"weights_init has shape (2,), expected (4,)"),
        ("full", "weights", [0.5, 0.7, -0.2, 0.0], r"weights_init[2] is -0.2: it must be positive; "),
        ("full", "weights", [0.5, 0.5, 0.0, 0.0], r"weights_init[2] is 0: it must be positive; "),
        ("full", "weights", [0.2, 0.2, 0.2, 0.2], r"weights_init sum to 0.8, not to one: divide them by their sum"),
        ("full", "weights", [0.5, 0.5, np.nan, 0], r"weights_init[2] is nan: give finite numbers"),
        ("full", "weights", "equal", r"weights_init is no array of numbers ("),
        ("full", "means", np.zeros((K, 2)), r"means_init has shape (4, 2), expected (4, 3)"),
        ("full", "means", np.zeros(K), r"means_init has shape (4,), expected (4, 3)"),
        ("full", "means", [[0, 1, 2], [0, 1]], r"means_init is no array of numbers ("),
        ("diag", "means", changed(np.zeros((K, D)), (3, 1), np.inf), r"means_init[3, 1] is inf: give finite numbers"),
        # the shape is the covariance type's
        ("full", "precisions", np.eye(D), r"precisions_init has shape (3, 3), expected (4, 3, 3)"),
        ("tied", "precisions", EYES, r"precisions_init has shape (4, 3, 3), expected (3, 3)"),
        ("diag", "precisions", np.ones((D, K)), r"precisions_init has shape (3, 4), expected (4, 3)"),
        ("spherical", "precisions", 1.0, r"precisions_init has shape (), expected (4,)"),
        ("diag", "precisions", changed(np.ones((K, D)), (1, 2), 0), r"precisions_init[1, 2] is 0: it must be positive"),
        ("spherical", "precisions", [1, 1, 1, -2], r"precisions_init[3] is -2: it must be positive; "),
        (
            "full", "precisions", changed(EYES, (2, 0, 0), -3),
            r"precisions_init[2] is not symmetric positive definite (its smallest eigenvalue is -3): give the",
        ),
        (
            "full", "precisions", changed(EYES, (0, 0, 1), 0.5),
            r"precisions_init[0] is not symmetric positive definite (it is not symmetric): give the",
        ),
        (
            "tied", "precisions", np.zeros((D, D)),
            r"precisions_init is not symmetric positive definite (its smallest eigenvalue is 0): give the",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_a_start(kind: str, name: str, value: Any, message: str) -> None:
    with pytest.raises(dgmm.InputError) as caught:
        dgmm.train(clouds(50), K, kind, **{f"{name}_init": value})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_an_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(dgmm.InputError, match=r"init_params: .*'kmeans', 'k-means\+\+', 'random' or 'random_from_"):
        dgmm.train(clouds(50), K, init_params="kmean")


def test_starts_that_cannot_win_on_the_sample_are_left(caplog: pytest.LogCaptureFixture) -> None:
    """Diagonal covariances on strongly correlated features: the sample says no, and no more is spent on them."""
    r = np.random.default_rng(0)
    x = r.normal(size=(40_000, 2)) @ [[1.0, 0.99], [0.0, 0.1]] + 20 * r.integers(0, 2, (40_000, 1))
    candidates = [Candidate(2, "full"), Candidate(2, "diag"), Candidate(2, "spherical")]
    passes, options = passes_over(x), Training(start_rows=4000, search="starts")
    with caplog.at_level("INFO", logger="dgmm"):
        raced = start_on_sample(passes.profile, candidates, options, passes.frame, criterion=Criterion.BIC)
        kept = start_on_sample(passes.profile, candidates, options, passes.frame)
    counts = [int(record.getMessage().split()[1]) for record in caplog.records if "sample:" in record.getMessage()]
    assert counts == [1, 3]
    assert set(raced.mixtures) == set(kept.mixtures) == set(candidates)
    assert set(raced.attainable) == set(candidates[1:])
    assert kept.attainable == {}
    best = candidates[0]
    np.testing.assert_array_equal(raced.mixtures[best].means, kept.mixtures[best].means)


def test_a_likelihood_that_means_nothing_leaves_nobody_behind() -> None:
    """A component on next to nothing has any likelihood: the candidate that it is in is no measure of the others."""
    x = clouds()
    ground = ground_of(x, "full", reg_covar=1e-6)
    narrow, wide = np.stack([np.eye(D), 1e-14 * np.eye(D)]), np.stack([np.eye(D)] * 2)
    best: dict[Candidate, Ascent] = {}
    for k, (covariances, value) in enumerate(((narrow, 1e6), (wide, -1e3)), 2):
        mixture = Mixture.gaussian("full", [0.5, 0.5], x[:2], covariances).to_frame(ground.frame)
        a = Ascent(mixture, ground)
        a.trajectory, a.remaining_gain = [value, value], 0.0
        statistics = SufficientStatistics(value, len(x), np.ones((2, 10)), np.zeros(2, dtype=bool), 0.0)
        a.best = Evaluated(mixture, statistics, ground)
        best[Candidate(k, "full")] = a
    screening = Screening(Criterion.BIC, len(x), 1e-6)
    assert screening.ruled_out(best) == {}
    first = best[Candidate(2, "full")]
    assert first.best is not None
    first.best = replace(first.best, mixture=best[Candidate(3, "full")].mixture)
    assert set(screening.ruled_out(best)) == {Candidate(3, "full")}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_leaving_candidates_on_the_sample_does_not_change_who_wins(seed: int) -> None:
    r = np.random.default_rng(seed)
    centres, shapes = 2 * r.normal(size=(8, 3)), np.eye(3) + 0.4 * r.normal(size=(8, 3, 3))
    labels = r.choice(8, size=12_000, p=r.dirichlet(np.full(8, 3.0)))
    x = np.einsum("nj,njk->nk", r.normal(size=(12_000, 3)), shapes[labels]) + centres[labels]
    how: dict[str, Any] = {"n_components": [2, 4, 6, 8, 10], "start_rows": 2000, "n_init": 3, "seed": seed}
    raced, kept = dgmm.select(x, **how), dgmm.select(x, keep_all=True, **how)
    assert any(f.state == "dropped at pass 1" for f in raced.fits)
    assert raced.best.bic <= kept.best.bic + 1
