"""The conjugate prior: against mclust, SciPy's densities, closed forms of the M-step, and an optimiser."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import invgamma, invwishart, multivariate_normal, norm

import dgmm
from dgmm.em import AndersonState, Ascent, Evaluated, Ground, climb, maximise
from dgmm.estep import plan as planning
from dgmm.families import FAMILIES, Moments, get_family
from dgmm.families.conjugate import Conjugate
from dgmm.mixture import Mixture
from dgmm.rows import Rows
from dgmm.search.initialise import feature_sums, from_sums, one_component
from dgmm.search.sampled import Candidate, SampleRows, grounds_for
from tests.families.test_structures import frames, grouped

#: Those for which the M-step is known.
NAMES = ["full", "tied", "diag", "spherical", "EEI", "EII"]
SHRINKAGE = 0.01
#: Log-likelihoods by mclust 6.0.0 of where EM comes to with its default prior, Old Faithful in two groups, Iris in
#: three and in two. Its EEI does not shrink the means, and its EII has the determinants of the prior without the scale:
#: they are not what the paper says.
MCLUST = {
    "faithful": {
        "full": -1130.5092636714,
        "tied": -1140.2609354816,
        "diag": -1229.21568993064,
        "spherical": -1709.58082960563,
    },
    "iris": {
        "full": -192.695283865326,
        "tied": -257.739376609873,
        "spherical": -384.478676217061,
    },
    "setosa": {
        "full": -223.602198413176,
        "tied": -297.194208547377,
        "diag": -393.114648224316,
        "spherical": -478.61583394207,
    },
}
EII_WITHOUT_SCALE = {"faithful": -1709.72581104477, "iris": -401.953185295208, "setosa": -536.753530969756}
K, D = 3, 3


def data(n: int = 300, seed: int = 0) -> np.ndarray:
    """Rows of three groups, far from the origin and in different units."""
    r = np.random.default_rng(seed)
    centres = np.array([[0.0, 0.0, 0.0], [4.0, 1.0, 0.0], [0.0, 4.0, 2.0]])
    x = centres[r.choice(3, n, p=[0.5, 0.3, 0.2])] + r.standard_normal((n, D)) @ np.tril(
        r.normal(size=(D, D)) + np.eye(D)
    )
    return x * [1.0, 3.0, 0.5] + [100.0, -5.0, 0.0]


def begun(name: str, x: np.ndarray, shares: np.ndarray, prior: str = "default") -> tuple[Mixture, Ground, SampleRows]:
    """One M-step from responsibilities (K, n), in frame coordinates, without a floor."""
    family, of = get_family(name), frames(x)
    candidate = Candidate(len(shares), family.name)
    ground = grounds_for([candidate], Moments.of(x), of.__getitem__, 0.0, prior=prior)[family.name]  # type: ignore[arg-type]
    start = from_sums(family, feature_sums(family, ground.frame.coordinates(x), shares), ground)
    return start, ground, SampleRows(Rows(x), of.__getitem__, 1)


def shares_of(x: np.ndarray, k: int = K, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(k, 0.3), len(x)).T


def closed_form(
    name: str, x: np.ndarray, r: np.ndarray, means: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Means and covariances as Fraley and Raftery have them, in the data's units; about other means, if given."""
    k, d = len(r), x.shape[1]
    n_k, nu, centre = r.sum(axis=1), d + 2, x.mean(axis=0)
    average = r @ x / n_k[:, None]
    if means is None:
        means = (n_k[:, None] * average + SHRINKAGE * centre) / (n_k[:, None] + SHRINKAGE)
    apart = x[None] - means[:, None]
    away = centre - means
    scatter = np.einsum("kn,kni,knj->kij", r, apart, apart) + SHRINKAGE * np.einsum("ki,kj->kij", away, away)
    scale = np.cov(x.T) / k ** (2 / d)
    own = np.diagonal(scatter, axis1=1, axis2=2)
    variance = np.trace(scale) / d
    found = {
        "full": (scatter + scale) / (nu + n_k + d + 2)[:, None, None],
        "tied": (scatter.sum(axis=0) + scale) / (nu + n_k.sum() + d + 1 + k),
        "diag": (own + variance) / (nu + n_k + 3)[:, None],
        "spherical": (own.sum(axis=1) + variance) / (nu + d * n_k + d + 2),
        "EEI": (own.sum(axis=0) + variance) / (nu + n_k.sum() + k + 2),
        "EII": (own.sum() + variance) / (nu + d * n_k.sum() + 2 + k * d),
    }[name]
    return means, found


def log_prior(mixture: Mixture, x: np.ndarray) -> float:
    """Its logarithm by SciPy, in the data's units, normalised."""
    k, d = mixture.means.shape
    name, covariances, centre = mixture.covariance_type, mixture.covariances, x.mean(axis=0)
    scale = np.cov(x.T) / k ** (2 / d)
    variance = np.trace(scale) / d
    nu = d + 2
    found = 0.0
    if name in ("full", "tied"):
        every = np.broadcast_to(covariances, (k, d, d))
        found += sum(
            multivariate_normal.logpdf(m, centre, c / SHRINKAGE) for m, c in zip(mixture.means, every, strict=True)
        )
        found += sum(invwishart.logpdf(c, nu, scale) for c in (every if name == "full" else every[:1]))
        return float(found)
    # of covariances along the features every variance that there is has one
    found += invgamma.logpdf(np.ravel(covariances), nu / 2, scale=variance / 2).sum()
    deviations = np.sqrt(mixture.family.variances(mixture.components) / SHRINKAGE)
    return float(found + norm.logpdf(mixture.means, centre, deviations).sum())


def test_those_that_have_one() -> None:
    moments = Moments.of(data())
    assert [name for name, family in FAMILIES.items() if family.prior(moments) is not None] == [
        "full", "tied", "diag", "spherical", "EII", "EEI",
    ]  # fmt: skip


def climbed(start: Mixture, ground: Ground, rows: SampleRows, acceleration: str = "none", gain: float = 1e-9) -> Ascent:
    ascent = Ascent(start, ground, acceleration=acceleration, least_gain=gain)  # type: ignore[arg-type]
    for _ in climb([ascent], rows.accumulate, 2000):
        pass
    return ascent


def in_groups(name: str, data: str) -> tuple[Mixture, Ground, SampleRows]:
    """One M-step from the groups of a data set."""
    x, labels = grouped("iris" if data == "setosa" else data)
    labels = np.minimum(labels, 1) if data == "setosa" else labels
    return begun(name, x, (labels == np.arange(labels.max() + 1)[:, None]).astype(float))


@pytest.mark.parametrize(("data", "name"), [(data, name) for data, tops in MCLUST.items() for name in tops])
def test_the_top_is_mclusts(data: str, name: str) -> None:
    start, ground, rows = in_groups(name, data)
    for acceleration in ("none", "anderson"):
        ascent = climbed(start, ground, rows, acceleration)
        assert ascent.log_likelihood == pytest.approx(MCLUST[data][name], abs=5e-5)
        density = ascent.mixture.to_data(ground.frame).log_density(rows.rows.x).sum()
        assert ascent.log_likelihood == pytest.approx(density, abs=1e-8)


@pytest.mark.parametrize("data", list(EII_WITHOUT_SCALE))
def test_equal_spheres_are_mclusts_without_the_scale(data: str) -> None:
    start, ground, rows = in_groups("EII", data)
    assert isinstance(ground.prior, Conjugate)
    ground = replace(ground, prior=replace(ground.prior, scatter=0 * ground.prior.scatter))
    ascent = climbed(start, ground, rows, gain=1e-10)
    assert ascent.log_likelihood == pytest.approx(EII_WITHOUT_SCALE[data], abs=5e-5)


@pytest.mark.parametrize("narrow", [False, True], ids=["common", "own"])
@pytest.mark.parametrize("fixed", [(), ("weights",), ("means",), ("covariances",), ("weights", "means")], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_the_m_step_is_the_closed_form(
    name: str, fixed: tuple[str, ...], narrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In coordinates of the frame and in those of each component."""
    if narrow:
        monkeypatch.setattr(planning, "TOLERATED_ERROR", 0.0)
    x = data()
    start, ground, rows = begun(name, x, shares_of(x))
    ground, before = replace(ground, fixed=frozenset(fixed)), start.to_data(ground.frame)
    (statistics,) = rows.accumulate([start])
    assert statistics.local.any() == narrow
    after = maximise(start, statistics, ground).to_data(ground.frame)
    shares = before.responsibilities(x).T
    means, covariances = closed_form(name, x, shares, before.means if "means" in fixed else None)
    weights = before.weights if "weights" in fixed else shares.mean(axis=1)
    np.testing.assert_allclose(after.weights, weights, rtol=1e-9)
    np.testing.assert_allclose(after.means, means, rtol=1e-9, atol=1e-9)
    expected = before.covariances if "covariances" in fixed else covariances
    np.testing.assert_allclose(after.covariances, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_its_density_is_scipys(name: str) -> None:
    """Up to a constant: between any two mixtures it differs by as much."""
    x = data()
    values = []
    for seed in range(4):
        start, ground, _ = begun(name, x, shares_of(x, seed=seed), prior="none")
        prior = start.family.prior(ground.moments)
        assert prior is not None
        values.append(prior.log_density(start.components) - log_prior(start.to_data(ground.frame), x))
    np.testing.assert_allclose(values, values[0], rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ["full", "spherical", "EEI"])
def test_an_optimiser_finds_no_better_m_step(name: str) -> None:
    """Of the expected log-likelihood and the density of the prior, both by other means."""
    x = data(60)[:, :2]
    shares = shares_of(x, 2)
    start, ground, _ = begun(name, x, shares)
    best, family = start.to_data(ground.frame), start.family

    def loss(vector: np.ndarray) -> float:
        mixture = replace(best, components=family.from_vector(vector, best.components))
        covariances = [family.covariance(mixture.components, k) for k in range(2)]
        densities = [multivariate_normal.logpdf(x, m, c) for m, c in zip(mixture.means, covariances, strict=True)]
        return -float((shares * np.array(densities)).sum()) - log_prior(mixture, x)

    vector = family.to_vector(best.components)
    found = minimize(loss, vector + 0.05, method="BFGS", options={"gtol": 1e-4})
    assert loss(vector) <= found.fun + 1e-6
    np.testing.assert_allclose(found.x, vector, atol=1e-3)


@pytest.mark.parametrize("assignment", ["soft", "hard"])
@pytest.mark.parametrize("name", NAMES)
def test_plain_em_never_falls(name: str, assignment: Any) -> None:
    """The log-likelihood, or that of the classification, and the density, both by other means."""
    x = data()
    start, ground, _ = begun(name, x, shares_of(x, 4))
    path = dgmm.em_path(x, start.to_data(ground.frame), 15, reg_covar=0, prior="default", assignment=assignment)
    values = []
    for m in path:
        shared = np.log(m.responsibilities(x).max(axis=1)).sum() if assignment == "hard" else 0.0
        values.append(m.log_density(x).sum() + shared + log_prior(m, x))
    assert (np.diff(values) > -1e-9 * abs(values[0])).all()
    assert values[-1] > values[0] + 1


@pytest.mark.parametrize("name", NAMES)
def test_acceleration_goes_by_the_likelihood_and_the_density(name: str) -> None:
    """What it holds against its last value, and what it expects of an EM step."""
    x = data()
    start, ground, rows = begun(name, x, shares_of(x))
    (statistics,) = rows.accumulate([start])
    point = Evaluated.of(start, statistics, ground)
    state, _ = AndersonState.start(start, ground).step(point)
    before, after = start.to_data(ground.frame), state.image.to_data(ground.frame)
    assert ground.prior is not None
    density = ground.prior.log_density(start.components)
    assert state.value == pytest.approx(before.log_density(x).sum() + density, abs=1e-8)
    shares = before.responsibilities(x)
    joint = [np.log(m.responsibilities(x)) + m.log_density(x)[:, None] for m in (before, after)]
    gain = (shares * (joint[1] - joint[0])).sum() + log_prior(after, x) - log_prior(before, x)
    assert state.expected == pytest.approx(gain, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_acceleration_comes_to_the_same_top(name: str) -> None:
    start, ground, rows = in_groups(name, "iris")
    plain, fast = (climbed(start, ground, rows, way, 1e-8) for way in ("none", "anderson"))
    assert fast.converged
    assert fast.objective == pytest.approx(plain.objective, abs=1e-5)
    np.testing.assert_allclose(fast.mixture.means, plain.mixture.means, atol=1e-2)
    assert np.diff(plain.trajectory).min() > -1e-9 * abs(plain.trajectory[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_single_component_is_a_closed_form(name: str) -> None:
    x = data()
    _, ground, _ = begun(name, x, np.ones((1, len(x))))
    means, covariances = closed_form(name, x, np.ones((1, len(x))))
    found = one_component(get_family(name), ground).to_data(ground.frame)
    np.testing.assert_allclose(found.means, means, rtol=1e-10)
    np.testing.assert_allclose(np.squeeze(found.covariances), np.squeeze(covariances), rtol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_repeated_rows(name: str) -> None:
    x = data(120)
    times = np.random.default_rng(2).integers(0, 4, len(x))
    repeated, of, shares = np.repeat(x, times, axis=0), frames(x), shares_of(x)
    ends = []
    for rows, its in (
        (Rows(x, times.astype(float)), shares * times),
        (Rows(repeated), np.repeat(shares, times, axis=1)),
    ):
        sample = SampleRows(rows, of.__getitem__, 1)
        ground = grounds_for([Candidate(K, name)], sample.moments, of.__getitem__, 0.0, prior="default")[name]
        start = from_sums(
            get_family(name), feature_sums(get_family(name), ground.frame.coordinates(rows.x), its), ground
        )
        ends.append(climbed(start, ground, sample, gain=1e-3))
    a, b = ends
    assert a.objective == pytest.approx(b.objective, rel=1e-9)
    np.testing.assert_allclose(a.mixture.means, b.mixture.means, rtol=1e-7, atol=1e-9)
