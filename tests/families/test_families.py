"""One contract for every family, and a toy family added from outside."""

import numpy as np
import pytest
import scipy.stats
from sklearn.mixture import GaussianMixture

import dgmm
from dgmm.cli import main
from dgmm.em import Ground, from_vector, maximise, to_vector
from dgmm.estep import accumulate, make_plan, unpack
from dgmm.estep import plan as planning
from dgmm.families import FAMILIES, Analysers, Gaussians, Moments, get_family, make_frame, register
from dgmm.families.spherical import Spherical
from dgmm.mixture import Mixture
from dgmm.rows import Rows

K, D = 3, 4
OF_SCIKIT_LEARN = ["full", "tied", "diag", "spherical"]
FAMILY_NAMES = [*OF_SCIKIT_LEARN, "EII", "EEI", "VEI", "EVI", "VEE", "EVE", "VVE", "EEV", "VEV", "EVV", "factors:1"]


def random_mixture(name: str, seed: int = 0, k: int = K, d: int = D) -> Mixture:
    r = np.random.default_rng(seed)
    if name == "factors:1":
        components = Analysers.of(
            3 * r.standard_normal((k, d)), 0.8 * r.standard_normal((k, d, 1)), np.exp(r.standard_normal((k, d)))
        )
        return Mixture(get_family(name), r.dirichlet(np.full(k, 5.0)), components)
    roots = r.standard_normal((k, d, d)) * 0.5 + np.eye(d)
    full = roots @ np.swapaxes(roots, 1, 2)
    axes = np.linalg.qr(roots)[0]
    volumes, shapes = np.exp(r.standard_normal(k)), np.exp(r.standard_normal((k, d)))
    shapes /= np.exp(np.log(shapes).mean(axis=1, keepdims=True))
    unit = full / np.linalg.det(full)[:, None, None] ** (1 / d)

    def turned(axes: np.ndarray, variances: np.ndarray) -> np.ndarray:
        return axes * variances[:, None, :] @ np.swapaxes(axes, 1, 2)

    covariances = {
        "full": full,
        "tied": full[0],
        "diag": np.diagonal(full, axis1=1, axis2=2),
        "spherical": full[:, 0, 0],
        "EII": 0.7,
        "EEI": shapes[0],
        "VEI": volumes[:, None] * shapes[0],
        "EVI": 0.7 * shapes,
        "VEE": volumes[:, None, None] * unit[0],
        "EVE": turned(axes[:1], 0.7 * shapes),
        "VVE": turned(axes[:1], volumes[:, None] * shapes),
        "EEV": turned(axes, 0.7 * shapes[:1]),
        "VEV": turned(axes, volumes[:, None] * shapes[0]),
        "EVV": 0.7 * unit,
    }[name]
    return Mixture.gaussian(name, r.dirichlet(np.full(k, 5.0)), 3 * r.standard_normal((k, d)), covariances)


def dense_covariances(mixture: Mixture) -> np.ndarray:
    c, k, d = mixture.covariances, mixture.n_components, mixture.n_features
    if c.ndim == 3:
        return c
    if mixture.covariance_type == "tied":
        return np.broadcast_to(c, (k, d, d))
    variances = c[:, None] if mixture.covariance_type == "spherical" else c
    return np.array([np.diag(v) for v in np.broadcast_to(variances, (k, d))])


def scipy_joint(mixture: Mixture, x: np.ndarray) -> np.ndarray:
    return np.stack(
        [
            np.log(w) + scipy.stats.multivariate_normal.logpdf(x, m, c)
            for w, m, c in zip(mixture.weights, mixture.means, dense_covariances(mixture), strict=True)
        ],
        axis=1,
    )


def ground_for(mixture: Mixture, x: np.ndarray) -> Ground:
    moments = Moments.of(x)
    frame = make_frame(mixture.family.frame, moments.mean, moments.covariance)
    return Ground(frame, moments.in_frame(frame), np.zeros((x.shape[1], x.shape[1])))


def one_step(mixture: Mixture, x: np.ndarray) -> tuple[float, Mixture]:
    """Log-likelihood of a mixture, and the mixture after one EM step, both in the data's units."""
    ground = ground_for(mixture, x)
    inside = mixture.to_frame(ground.frame)
    plan = make_plan([inside], {mixture.family.frame: ground.frame})
    (statistics,) = unpack(accumulate(Rows(x), plan), plan)
    shared = 0.0
    if not statistics.local.all():
        shared = mixture.family.shared_log_likelihood(inside.components, ground.moments)
    return statistics.log_likelihood + shared, maximise(inside, statistics, ground).to_data(ground.frame)


@pytest.fixture(params=FAMILY_NAMES)
def mixture(request: pytest.FixtureRequest) -> Mixture:
    return random_mixture(request.param)


@pytest.fixture
def x() -> np.ndarray:
    r = np.random.default_rng(1)
    return np.concatenate([r.standard_normal((200, D)) @ r.standard_normal((D, D)) + 3 * i for i in range(K)])


def test_log_density_is_scipys(mixture: Mixture, x: np.ndarray) -> None:
    joint = scipy_joint(mixture, x)
    expected = np.logaddexp.reduce(joint, axis=1)
    np.testing.assert_allclose(mixture.log_density(x), expected, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(mixture.responsibilities(x), np.exp(joint - expected[:, None]), atol=1e-11)


def test_log_likelihood_of_a_step_is_the_evaluated_mixtures(mixture: Mixture, x: np.ndarray) -> None:
    value, _ = one_step(mixture, x)
    assert value == pytest.approx(mixture.log_density(x).sum(), rel=1e-12)


@pytest.mark.parametrize("mixture", OF_SCIKIT_LEARN, indirect=True)
def test_number_of_parameters_is_scikit_learns(mixture: Mixture, x: np.ndarray) -> None:
    reference = GaussianMixture(K, covariance_type=mixture.covariance_type, random_state=0).fit(x)
    assert mixture.n_parameters == reference._n_parameters()


def test_number_of_parameters_is_the_dimension_of_the_model(mixture: Mixture) -> None:
    """The rank of the derivatives of weights, means and covariances by the coordinates."""

    def parameters(vector: np.ndarray) -> np.ndarray:
        moved = from_vector(vector, mixture)
        assert moved is not None
        return np.concatenate([np.log(moved.weights), moved.means.ravel(), dense_covariances(moved).ravel()])

    vector = to_vector(mixture)
    steps = 1e-5 * np.eye(len(vector))
    slopes = [(parameters(vector + s) - parameters(vector - s)) / 2e-5 for s in steps]
    assert np.linalg.matrix_rank(np.array(slopes), tol=1e-4) == mixture.n_parameters


def test_m_step_is_the_constrained_maximum(mixture: Mixture, x: np.ndarray) -> None:
    """Moving any parameter of the M-step's result lowers the expected log-likelihood."""
    _, after = one_step(mixture, x)
    r = mixture.responsibilities(x)

    def expected(m: Mixture) -> float:
        return float((r * scipy_joint(m, x)).sum())

    best, vector = expected(after), to_vector(after)
    assert best > expected(mixture)
    # a uniqueness at the least there may be would gain next to nothing by less
    loose = 1e-7 if mixture.covariance_type == "factors:1" else 1e-9
    for i in range(len(vector)):
        for step in (-1e-3, 1e-3):
            moved = vector.copy()
            moved[i] += step
            other = from_vector(moved, after)
            assert other is not None
            assert expected(other) < best + loose


def test_m_step_in_coordinates_of_their_own_is_the_same(
    mixture: Mixture, x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, after = one_step(mixture, x)
    monkeypatch.setattr(planning, "TOLERATED_ERROR", -1.0)
    own_value, own = one_step(mixture, x)
    assert own_value == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(own.means, after.means, rtol=1e-10, atol=1e-10)
    # a variance that factors explain to a millionth has six digits less; an orientation in common is where its value
    # is as low as a double tells, which is half of the digits
    loose = {"factors:1": 1e-9, "EVE": 1e-7, "VVE": 1e-7}.get(mixture.covariance_type, 1e-10)
    np.testing.assert_allclose(own.covariances, after.covariances, rtol=loose, atol=loose)


def test_vector_round_trip(mixture: Mixture) -> None:
    back = from_vector(to_vector(mixture), mixture)
    assert back is not None
    np.testing.assert_allclose(back.weights, mixture.weights, rtol=1e-14)
    np.testing.assert_allclose(back.means, mixture.means, rtol=1e-14)
    np.testing.assert_allclose(back.covariances, mixture.covariances, rtol=1e-13)


def test_any_vector_is_a_mixture(mixture: Mixture, x: np.ndarray) -> None:
    vector = to_vector(mixture) + np.random.default_rng(2).standard_normal(len(to_vector(mixture)))
    other = from_vector(vector, mixture)
    assert other is not None
    assert other.weights.sum() == pytest.approx(1)
    assert np.linalg.eigvalsh(dense_covariances(other)).min() > 0
    assert np.isfinite(other.log_density(x)).all()


def test_frames_change_nothing(mixture: Mixture, x: np.ndarray) -> None:
    frame = ground_for(mixture, x).frame
    back = mixture.to_frame(frame).to_data(frame)
    np.testing.assert_allclose(back.means, mixture.means, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(back.covariances, mixture.covariances, rtol=1e-12, atol=1e-12)
    inside = mixture.to_frame(frame)
    y = frame.to_frame((x - frame.origin).T).T
    np.testing.assert_allclose(inside.log_density(y) + frame.log_volume, mixture.log_density(x), rtol=1e-9)


def test_samples_have_the_mixtures_moments(mixture: Mixture) -> None:
    x, labels = mixture.sample(200_000, np.random.default_rng(3))
    shares = np.bincount(labels, minlength=K) / len(x)
    np.testing.assert_allclose(shares, mixture.weights, atol=0.005)
    for k, covariance in enumerate(dense_covariances(mixture)):
        own = x[labels == k]
        scale = np.sqrt(np.diagonal(covariance))
        np.testing.assert_allclose(own.mean(axis=0), mixture.means[k], atol=0.02 * scale.max())
        np.testing.assert_allclose(np.cov(own.T), covariance, atol=0.04 * covariance.max())


def test_sample_and_refit_recovers_the_parameters() -> None:
    true = Mixture.gaussian("full", [0.6, 0.4], [[0, 0], [6, 2]], [[[2, 0.8], [0.8, 1]], [[1, -0.4], [-0.4, 0.5]]])
    x, _ = true.sample(50_000, np.random.default_rng(4))
    fit = dgmm.train(x, 2)
    np.testing.assert_allclose(fit.mixture.weights, true.weights, atol=0.01)
    np.testing.assert_allclose(fit.mixture.means, true.means, atol=0.05)
    np.testing.assert_allclose(fit.mixture.covariances, true.covariances, atol=0.06)


def test_canonical_order_is_by_weight_then_mean() -> None:
    mixture = Mixture.gaussian("spherical", [0.25, 0.5, 0.25], [[2.0], [0.0], [1.0]], [1.0, 2.0, 3.0])
    ordered = mixture.canonical()
    assert ordered.means.ravel().tolist() == [0.0, 1.0, 2.0]
    assert ordered.covariances == pytest.approx([2.0, 3.0, 1.0])


@pytest.mark.parametrize(
    ("weights", "means", "covariances", "what"),
    [
        ([0.5, 0.5], [[0.0], [1.0]], [[[1.0]], [[-1.0]]], "positive definite"),
        ([0.5, -0.5], [[0.0], [1.0]], [[[1.0]], [[1.0]]], "positive"),
        ([1.0], [[0.0], [1.0]], [[[1.0]], [[1.0]]], r"\(1,\) and means \(2, 1\)"),
        ([0.5, 0.5], [[0.0], [np.nan]], [[[1.0]], [[1.0]]], "finite"),
        ([0.5, 0.5], [[0.0], [1.0]], [[[1.0]]], "shape"),
    ],
)
def test_impossible_parameters_are_refused(weights: list, means: list, covariances: list, what: str) -> None:
    with pytest.raises(dgmm.InputError, match=what):
        Mixture.gaussian("full", weights, means, covariances)


class Equal(Spherical):
    """A toy family: one variance for all components and features (EII of Celeux and Govaert)."""

    name = "equal"

    def maximise(self, statistics, reference, moments, floor):  # type: ignore[no-untyped-def]
        weights, components = super().maximise(statistics, reference, moments, floor)
        common = np.sqrt(weights @ components.factors**2)
        return weights, Gaussians(components.means, np.full(len(weights), common))

    def free_covariances(self, n_components: int, n_features: int) -> int:
        return 1


@pytest.fixture
def equal() -> object:
    register(Equal())
    yield
    del FAMILIES["equal"]


def test_candidates_of_a_family_with_an_m_step_of_its_own_have_nothing_in_common(equal: object) -> None:
    assert get_family("spherical").separate
    assert not get_family("equal").separate, "it has not said so"
    x = np.random.default_rng(0).standard_normal((600, 2)) * [1.0, 2.0] + np.repeat([[0.0], [4.0], [9.0]], 200, axis=0)
    how: dict = {"search": "starts", "keep_all": True, "seed": 1}
    together = dgmm.select(x, [1, 2, 3], ["equal"], **how)
    for fit in together.fits:
        alone = dgmm.select(x, [fit.n_components], ["equal"], **how)
        assert fit.log_likelihood == pytest.approx(alone.best.log_likelihood, rel=1e-9)


@pytest.mark.usefixtures("equal")
def test_a_family_from_outside_trains_selects_stores_and_scores(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    """Everything reads the registry: nothing but the class itself knows of the new family."""
    r = np.random.default_rng(5)
    x = np.concatenate([r.standard_normal((400, 2)), 0.8 * r.standard_normal((400, 2)) + [8, 0]])
    fit = dgmm.train(x, 2, "equal", reg_covar=0)
    labels = x[:, 0] > 4
    within = sum(((x[labels == s] - x[labels == s].mean(axis=0)) ** 2).sum() for s in (False, True)) / x.size
    assert fit.mixture.covariances == pytest.approx([within, within], rel=1e-3)
    assert fit.n_parameters == 1 + 4 + 1
    selection = dgmm.select(x, [1, 2, 3], ["equal", "spherical"])
    assert set(selection.table["covariance_type"]) == {"equal", "spherical"}
    import zarr

    zarr.save_array(str(tmp_path / "x.zarr"), x)
    data, model, out = (str(tmp_path / name) for name in ("x.zarr", "model.zarr", "scores.zarr"))
    assert main(["train", data, "--k", "2", "--covariance", "equal", "--out", model]) == 0
    assert main(["score", model, data, "--out", out]) == 0
    assert dgmm.load(model).covariance_type == "equal"
    assert "equal, K = 2" in capsys.readouterr().out


@pytest.mark.parametrize("weighted", [False, True])
def test_moments_of_single_precision_are_those_of_double(weighted: bool) -> None:
    r = np.random.default_rng(0)
    x = (1e4 + r.standard_normal((5000, 3))).astype(np.float32)
    weights = r.uniform(0.5, 1.5, len(x)) if weighted else None
    one, other = Moments.of(x, weights), Moments.of(x.astype(np.float64), weights)
    assert (one.count, one.scatter.dtype) == (other.count, np.float64)
    np.testing.assert_array_equal(one.mean, other.mean)
    np.testing.assert_array_equal(one.scatter, other.scatter)
