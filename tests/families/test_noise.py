"""Noise beside components: against SciPy's densities and optimiser, and what mixtures with it keep to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import kstest, multivariate_normal, norm

import dgmm
from dgmm.em import Evaluated, Ground, from_vector, to_vector
from dgmm.em.anderson import expected_gain
from dgmm.errors import CollapseError, InputError
from dgmm.estep import accumulate, make_plan, unpack
from dgmm.families import FAMILIES, NOISE, Frame, Gaussians, Moments, Noise, get_family, make_frame
from dgmm.mixture import Mixture
from dgmm.passes import from_parts, to_parts
from dgmm.rows import Rows
from dgmm.search.initialise import from_labels

#: One of every kind: with and without something in common, along the axes and not.
STRUCTURES = ["full", "tied", "diag", "spherical", "EII", "VEV", "EVE"]
#: All that may have noise beside them.
EVERY = [name for name, family in FAMILIES.items() if family.noisy]
MEANS, WEIGHTS, SHARE, BOX = np.array([[-6.0, 0.0], [4.0, 5.0], [5.0, -6.0]]), [0.5, 0.3, 0.2], 0.1, 12.0
N, K = 1500, 3


def rows(n: int = N, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, 2) of three clusters and of noise, and where each comes from."""
    r = np.random.default_rng(seed)
    labels = r.choice(K, n, p=WEIGHTS)
    x = MEANS[labels] + r.normal(size=(n, 2)) @ np.array([[1.0, 0.4], [0.0, 0.8]])
    noise = r.random(n) < SHARE
    x[noise] = r.uniform(-BOX, BOX, (int(noise.sum()), 2))
    return x, np.where(noise, NOISE, labels)


X, LABELS = rows()


def box(weight: float = 0.05, x: np.ndarray = X) -> Noise:
    return Noise.between(weight, x.min(axis=0), x.max(axis=0))


def ground_of(name: str, x: np.ndarray = X) -> Ground:
    moments, family = Moments.of(x), get_family(name)
    frame = make_frame(family.frame, moments.mean, moments.covariance)
    moments = moments.in_frame(frame)
    return Ground(frame, moments, family.floor(1e-6, moments))


def start_of(name: str, x: np.ndarray = X, labels: np.ndarray = LABELS) -> Mixture:
    """An M-step of labels, noise dealt out among the clusters, in the data's units."""
    ground = ground_of(name, x)
    dealt = np.where(labels < 0, np.arange(len(x)) % K, labels)
    return from_labels(get_family(name), Rows(x), dealt, K, ground).to_data(ground.frame).beside(box(x=x))


def joint(mixture: Mixture, x: np.ndarray) -> np.ndarray:
    """Log joint densities (n, K + 1) by SciPy, noise last."""
    assert mixture.noise is not None
    parts = [
        np.log(w) + multivariate_normal(mean, mixture.family.covariance(mixture.components, k)).logpdf(x)
        for k, (w, mean) in enumerate(zip(mixture.weights, mixture.means, strict=True))
    ]
    volume = np.prod(mixture.noise.maximum - mixture.noise.minimum)
    return np.column_stack([*parts, np.full(len(x), np.log(mixture.noise.weight / volume))])


def log_likelihood(mixture: Mixture, x: np.ndarray = X) -> float:
    return float(np.logaddexp.reduce(joint(mixture, x), axis=1).sum())


@pytest.mark.parametrize("name", EVERY)
def test_densities_are_those_of_scipy(name: str) -> None:
    mixture = start_of(name)
    mixture = mixture.beside(box(0.3))
    assert mixture.weights.sum() == pytest.approx(0.7, rel=1e-12)
    each = joint(mixture, X)
    total = np.logaddexp.reduce(each, axis=1)
    np.testing.assert_allclose(mixture.log_density(X), total, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(mixture.responsibilities(X), np.exp(each - total[:, None]), atol=1e-9)


def test_a_component_in_coordinates_of_its_own_has_noise_beside_it() -> None:
    """A needle far from the others, whose expanded form would lose digits."""
    mixture = Mixture.gaussian("full", [0.5, 0.5], [[0, 0], [500, 2.0]], [np.eye(2), np.diag([1.0, 1e-12])])
    mixture = mixture.beside(Noise.between(0.2, np.array([-600.0, -5]), np.array([600.0, 5])))
    assert mixture.density_plan().local == (False, True, False)
    x = np.array([[500.5, 2 + 1e-6], [500.0, 1.0], [0.0, 0.0], [-300.0, 2.0]])
    parts = [
        np.log(0.4) + norm([0, 0], 1).logpdf(x).sum(axis=1),
        np.log(0.4) + norm([500, 2], [1, 1e-6]).logpdf(x).sum(axis=1),
        np.full(4, np.log(0.2 / 12_000)),
    ]
    np.testing.assert_allclose(mixture.log_density(x), np.logaddexp.reduce(parts, axis=0), rtol=1e-9)


@pytest.mark.parametrize("name", EVERY)
def test_plain_em_never_falls(name: str) -> None:
    values = np.array([log_likelihood(mixture) for mixture in dgmm.em_path(X, start_of(name), 25)])
    assert (np.diff(values) > -1e-9 * abs(values[0])).all()
    assert values[-1] > values[0] + 10


@pytest.mark.parametrize("name", ["full", "tied", "VEV"])
def test_hard_assignments_never_fall(name: str) -> None:
    path = dgmm.em_path(X, start_of(name), 15, assignment="hard")
    values = np.array([joint(mixture, X).max(axis=1).sum() for mixture in path])
    assert (np.diff(values) > -1e-9 * abs(values[0])).all()
    assert values[-1] > values[0] + 10


@pytest.mark.parametrize("name", ["full", "tied", "diag"])
def test_an_m_step_is_of_the_rows_that_belong_to_components(name: str) -> None:
    """Weights, means and covariances as NumPy makes them of responsibilities, noise left out."""
    start = start_of(name)
    _, after = dgmm.em_path(X, start, 1, reg_covar=0.0)
    each = joint(start, X)
    r = np.exp(each - np.logaddexp.reduce(each, axis=1)[:, None])
    counts = r.sum(axis=0)
    assert after.noise is not None
    assert after.noise.weight == pytest.approx(counts[-1] / N, rel=1e-9)
    np.testing.assert_allclose(after.weights, counts[:K] / N, rtol=1e-9)
    means = (r[:, :K].T @ X) / counts[:K, None]
    scatters = np.array([(r[:, k, None] * (X - means[k])).T @ (X - means[k]) for k in range(K)])
    expected = {
        "full": scatters / counts[:K, None, None],
        "tied": scatters.sum(axis=0) / counts[:K].sum(),
        "diag": scatters.diagonal(axis1=1, axis2=2) / counts[:K, None],
    }
    np.testing.assert_allclose(after.means, means, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(after.covariances, expected[name], rtol=1e-8, atol=1e-10)


def test_one_component_is_the_optimum_of_scipy() -> None:
    """Weight, mean and covariance beside noise, by a general optimiser of the likelihood."""
    r = np.random.default_rng(1)
    x = np.vstack([r.normal(size=(270, 2)) @ [[1.0, 0.7], [0.0, 0.6]] + 3, r.uniform(-6, 9, (30, 2))])
    volume = np.prod(np.ptp(x, axis=0))

    def minus(p: np.ndarray) -> float:
        root = np.array([[np.exp(p[3]), 0.0], [p[4], np.exp(p[5])]])
        w = 1 / (1 + np.exp(-p[0]))
        density = (1 - w) * multivariate_normal(p[1:3], root @ root.T).pdf(x) + w / volume
        return -float(np.log(density).sum())

    found = minimize(minus, [-2.0, 3.0, 3.0, 0.0, 0.0, 0.0], method="BFGS", options={"gtol": 1e-7})
    fit = dgmm.train(x, 1, noise=True, reg_covar=0.0, tol=1e-12, max_iter=5000)
    assert fit.log_likelihood == pytest.approx(-found.fun, abs=1e-6)
    assert fit.noise == pytest.approx(1 / (1 + np.exp(-found.x[0])), abs=1e-5)
    np.testing.assert_allclose(fit.mixture.means[0], found.x[1:3], atol=1e-4)
    assert fit.n_parameters == 0 + 2 + 3 + 2
    assert fit.bic == pytest.approx(2 * found.fun + 7 * np.log(300), abs=1e-5)


@pytest.mark.parametrize("name", ["full", "tied", "EVE"])
def test_parameters_are_two_more(name: str) -> None:
    """A weight and a volume, as mclust counts."""
    mixture = start_of(name)
    assert mixture.n_parameters - mixture.beside(None).n_parameters == 2
    assert mixture.n_free(["weights"]) == mixture.n_parameters - (K - 1)


@pytest.mark.parametrize("name", EVERY)
def test_statistics_add_up_and_weights_are_repeated_rows(name: str) -> None:
    ground, times = ground_of(name), np.random.default_rng(2).integers(0, 4, N)
    mixture = start_of(name).to_frame(ground.frame)
    other = Mixture(mixture.family, mixture.weights, mixture.components).beside(None)  # has none, in the same plan
    plan = make_plan([other, mixture], {mixture.family.frame: ground.frame})
    weighted = unpack(accumulate(Rows(X, times.astype(float)), plan), plan)[1]
    repeated = np.repeat(X, times, axis=0)
    parts = [accumulate(Rows(part), plan) for part in (repeated[:700], repeated[700:])]
    plain = unpack(parts[0].merge(parts[1]), plan)[1]
    assert weighted.log_likelihood == pytest.approx(plain.log_likelihood, rel=1e-12)
    assert weighted.noise == pytest.approx(plain.noise, rel=1e-10)
    assert weighted.noise + weighted.sums[:, 0].sum() == pytest.approx(times.sum(), rel=1e-10)
    np.testing.assert_allclose(weighted.sums, plain.sums, rtol=1e-8, atol=1e-8 * np.abs(plain.sums).max())


def test_a_known_row_is_no_noise() -> None:
    """In the E-step of samples with labels: neither in sums nor in the likelihood."""
    ground = ground_of("full")
    mixture = start_of("full")
    plan = make_plan([mixture.to_frame(ground.frame)], {"whitening": ground.frame})
    labels = np.where(np.arange(N) % 2 == 0, np.maximum(LABELS, 0), -1)
    (found,) = unpack(accumulate(Rows(X, labels=labels), plan), plan)
    each, known = joint(mixture, X), labels >= 0
    log_densities = np.where(known, each[np.arange(N), labels], np.logaddexp.reduce(each, axis=1))
    assert found.log_likelihood == pytest.approx(log_densities.sum(), rel=1e-10)
    noise = np.exp(each[:, -1] - np.logaddexp.reduce(each, axis=1))[~known].sum()
    assert found.noise == pytest.approx(noise, rel=1e-9)
    with pytest.raises(InputError, match="a sample has the label 3, and the components are 0 to 2"):
        accumulate(Rows(X, labels=np.full(N, K)), plan)


@pytest.mark.parametrize("name", ["full", "tied"])
def test_what_a_step_gains_at_the_least(name: str) -> None:
    """The gain in expected log-likelihood, as SciPy has it, is no more than that in log-likelihood."""
    ground = ground_of(name)
    before, after = dgmm.em_path(X, start_of(name), 1)
    start = before.to_frame(ground.frame)
    plan = make_plan([start], {start.family.frame: ground.frame})
    (statistics,) = unpack(accumulate(Rows(X), plan), plan)
    found = expected_gain(Evaluated.of(start, statistics, ground), after.to_frame(ground.frame))
    each = joint(before, X)
    r = np.exp(each - np.logaddexp.reduce(each, axis=1)[:, None])
    assert found == pytest.approx((r * (joint(after, X) - each)).sum(), rel=1e-8)
    assert 0 < found < log_likelihood(after) - log_likelihood(before)


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_search_finds_clusters_and_noise(name: str) -> None:
    """The share of the noise within three standard errors, every mean near one that the rows come from."""
    x, labels = rows(4000, seed=5)
    fit = dgmm.train(x, K, name, noise=True, search="quick")
    assert fit.converged
    assert fit.noise == pytest.approx((labels == NOISE).mean(), abs=3 * np.sqrt(SHARE * (1 - SHARE) / len(x)))
    distances = np.linalg.norm(fit.mixture.means[:, None] - MEANS, axis=2).min(axis=1)
    assert (distances < 0.2).all()
    found = fit.classify(x)
    assert {*found.tolist()} == {NOISE, 0, 1, 2}
    assert ((found == NOISE) & (labels == NOISE)).sum() > 0.75 * (labels == NOISE).sum()
    assert ((found == NOISE) & (labels == NOISE)).sum() > 0.9 * (found == NOISE).sum()


def test_a_selection_counts_clusters_beside_the_noise() -> None:
    x, _ = rows(3000, seed=6)
    found = dgmm.select(x, range(1, 6), ["full", "tied"], noise=True, search="quick")
    assert found.best.n_components == K
    assert sorted(set(found.table["n_components"])) == [1, 2, 3, 4, 5]
    assert (found.table["n_parameters"] - found.table["n_components"] * 3 + 1 - 2).min() == 3  # tied: one covariance


def test_noise_may_be_none_of_the_rows() -> None:
    """Its weight goes down to nothing, or what the tails of a sample look like, and the fit is the one without."""
    x = np.random.default_rng(3).normal(size=(2000, 4))
    fit, plain = dgmm.train(x, 1, noise=True, tol=1e-9), dgmm.train(x, 1)
    assert fit.noise is not None
    assert fit.noise < 0.01
    np.testing.assert_allclose(fit.mixture.means, plain.mixture.means, atol=0.02)
    assert fit.log_likelihood >= plain.log_likelihood - 1e-6


def test_components_without_a_row_have_collapsed() -> None:
    """Where every row is nearer to noise than to them, and counts for it alone."""
    far = start_of("full")
    far = Mixture(far.family, far.weights, Gaussians(far.means + 500, far.components.factors), far.noise)
    with pytest.raises(CollapseError, match="every sample is noise"):
        dgmm.em_path(X, far, 2, assignment="hard")
    assert box().weighing(1.0).weight < 1


def test_samples_are_uniform_in_the_box() -> None:
    mixture = start_of("full").beside(Noise.between(0.25, np.array([-3.0, 10]), np.array([5.0, 11])))
    x, labels = mixture.sample(20_000, np.random.default_rng(0))
    own = x[labels == NOISE]
    assert abs(len(own) / len(x) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / len(x))
    for values, low, width in zip(own.T, (-3, 10), (8, 1), strict=True):
        assert kstest(values, "uniform", args=(low, width)).pvalue > 1e-3
    means = [x[labels == k].mean(axis=0) for k in range(K)]
    np.testing.assert_allclose(means, mixture.means, atol=0.4)


def test_marginal_and_conditional_densities() -> None:
    """The joint density over the marginal one is the conditional one."""
    mixture = start_of("full").beside(box(0.2))
    given, rest = 1.5, np.linspace(-8, 8, 9)[:, None]
    both = np.column_stack([np.full(9, given), rest])
    marginal, conditional = mixture.marginal([0]), mixture.condition({0: given})
    assert marginal.noise is not None
    assert conditional.noise is not None
    expected = mixture.log_density(both) - marginal.log_density(np.array([[given]]))
    np.testing.assert_allclose(conditional.log_density(rest), expected, rtol=1e-9)
    mean, variance = mixture.predict(np.array([[given]]), [1])
    shares, noise = conditional.weights, conditional.noise
    middle, spread = noise.mean[0], noise.variances[0]
    first = shares @ conditional.means[:, 0] + noise.weight * middle
    second = shares @ (conditional.covariances[:, 0, 0] + conditional.means[:, 0] ** 2)
    second += noise.weight * (spread + middle**2)
    assert mean[0, 0] == pytest.approx(first, rel=1e-9)
    assert variance[0, 0] == pytest.approx(second - first**2, rel=1e-9)
    assert spread == pytest.approx((noise.maximum[0] - noise.minimum[0]) ** 2 / 12)


@pytest.mark.parametrize("place", ["m.zarr", "m.json"])
@pytest.mark.parametrize("name", ["full", "tied"])
def test_a_stored_model_is_the_same(name: str, place: str, tmp_path: Path) -> None:
    fit = dgmm.train(X, K, name, noise=True, search="starts")
    dgmm.save(fit, tmp_path / place)
    again = dgmm.load(tmp_path / place)
    assert again.noise == fit.noise
    assert again.n_parameters == fit.n_parameters
    assert again.noise is not None
    np.testing.assert_array_equal(again.mixture.weights, fit.mixture.weights)
    np.testing.assert_allclose(again.mixture.responsibilities(X), fit.mixture.responsibilities(X), rtol=0, atol=1e-12)
    assert dgmm.verify(tmp_path / place).is_sound


def test_a_journal_keeps_it_to_the_bit() -> None:
    mixture = start_of("tied")
    again = from_parts(*to_parts(mixture))
    assert again.noise is not None
    np.testing.assert_array_equal(again.log_density(X), mixture.log_density(X))


def test_frames_leave_the_box_alone() -> None:
    mixture = start_of("full")
    frame = Frame(np.array([1.0, 2]), np.array([3.0, 4]), 1 / np.array([3.0, 4]))
    there = mixture.to_frame(frame)
    assert there.noise is mixture.noise
    np.testing.assert_allclose(there.to_data(frame).log_density(X), mixture.log_density(X), rtol=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_unconstrained_coordinates_and_back(name: str) -> None:
    mixture = start_of(name)
    vector = to_vector(mixture)
    again = from_vector(vector + 3.0 * (np.arange(len(vector)) <= K), mixture)  # of log weights only differences count
    assert again is not None
    assert again.noise is not None
    assert again.noise.weight == pytest.approx(0.05, rel=1e-12)
    np.testing.assert_allclose(again.log_density(X), mixture.log_density(X), rtol=1e-8)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_units_do_not_matter(scale: float) -> None:
    fit, scaled = (dgmm.train(x, K, noise=True, search="starts") for x in (X, X * scale))
    assert scaled.noise == pytest.approx(fit.noise, rel=1e-6)
    np.testing.assert_allclose(scaled.mixture.means, scale * fit.mixture.means, rtol=1e-5, atol=1e-5 * scale)
    assert scaled.log_likelihood == pytest.approx(fit.log_likelihood - N * 2 * np.log(scale), abs=1e-3)


def test_weights_that_are_held_are_those_among_the_components() -> None:
    fit = dgmm.train(X, K, noise=True, fixed=["weights"], weights_init=[0.5, 0.3, 0.2], means_init=MEANS)
    assert fit.noise is not None
    np.testing.assert_allclose(fit.mixture.weights, (1 - fit.noise) * np.array([0.5, 0.3, 0.2]), rtol=1e-9)
    assert fit.noise == pytest.approx((LABELS == NOISE).mean(), abs=0.03)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"covariance_type": "poisson"}, "noise stands beside Gaussian components, not beside poisson ones"),
        ({"covariance_type": "gamma"}, "noise stands beside Gaussian components, not beside gamma ones"),
        ({"labels": np.arange(60) % 3}, "has labels: leave one out"),
    ],
)
def test_what_cannot_have_noise_is_refused(wrong: dict[str, object], said: str) -> None:
    x = 1.0 + np.random.default_rng(0).poisson(4.0, (60, 2))
    with pytest.raises(InputError, match=said):
        dgmm.train(x, 3, noise=True, **wrong)  # type: ignore[arg-type]


def test_clusters_of_components_are_refused() -> None:
    fit = dgmm.train(X, K, noise=True, search="starts")
    with pytest.raises(InputError, match="noise beside its components, which belongs to no cluster"):
        dgmm.merge(fit, X)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_noise_has_a_weight_and_a_volume(weight: float) -> None:
    with pytest.raises(InputError, match=f"the weight of the noise is {weight:g}"):
        box(weight)
    with pytest.raises(InputError, match="has no volume"):
        Noise.between(0.5, np.zeros(2), np.array([1.0, 0.0]))
