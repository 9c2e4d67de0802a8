"""The kernel: stacking, exactness, and the guard against components that are too narrow for the expanded form."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture
from sklearn.mixture._gaussian_mixture import _compute_precision_cholesky

import dgmm
from dgmm.errors import InputError
from dgmm.estep import Backend, Compiled, Plain, Sharing, accumulate, buffer_bytes, kernel, make_plan, score, unpack
from dgmm.estep import block as blocks_module
from dgmm.estep import compiled as compiled_form
from dgmm.estep import plan as planning
from dgmm.estep.compiled import memory_for, packed, slice_width
from dgmm.families import FrameKind, Moments, Students, get_family, make_frame
from dgmm.mixture import Mixture
from dgmm.rows import Rows

KINDS: tuple[FrameKind, ...] = ("whitening", "isotropic")


def frames_of(x: np.ndarray) -> dict:
    moments = Moments.of(x)
    return {kind: make_frame(kind, moments.mean, moments.covariance) for kind in KINDS}


def clouds(n: int = 600, d: int = 3, seed: int = 0) -> np.ndarray:
    r = np.random.default_rng(seed)
    return np.concatenate([r.standard_normal((n, d)), 0.5 * r.standard_normal((n, d)) + 4])


def candidates(x: np.ndarray, frames: dict) -> list[Mixture]:
    d = x.shape[1]
    shapes = {"full": (1, d, d), "tied": (d, d), "diag": (1, d), "spherical": (1,)}
    result = []
    for k in (1, 2, 5):
        for name, shape in shapes.items():
            base = np.eye(d) if "full" in name or name == "tied" else np.ones(())
            covariance = np.broadcast_to(base, (k, *shape[1:]) if name != "tied" else shape)
            mixture = Mixture.gaussian(name, np.ones(k), x[:: len(x) // k][:k], covariance)
            result.append(mixture.to_frame(frames[mixture.family.frame]))
    return result


def test_a_stack_is_what_each_mixture_is_alone() -> None:
    x = clouds()
    frames = frames_of(x)
    mixtures = candidates(x, frames)
    plan = make_plan(mixtures, frames)
    together = unpack(accumulate(Rows(x), plan), plan)
    for mixture, stacked in zip(mixtures, together, strict=True):
        alone_plan = make_plan([mixture], frames)
        (alone,) = unpack(accumulate(Rows(x), alone_plan), alone_plan)
        assert stacked.log_likelihood == pytest.approx(alone.log_likelihood, rel=1e-13)
        np.testing.assert_allclose(stacked.sums, alone.sums, rtol=1e-11, atol=1e-9)
        assert stacked.sums[:, 0].sum() == pytest.approx(len(x), rel=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_any_dtype_is_added_up_in_float64(dtype: str) -> None:
    x = (10 * clouds()).astype(dtype)
    frames = frames_of(x.astype(float))
    mixtures = candidates(x.astype(float), frames)
    plan = make_plan(mixtures, frames)
    a, b = accumulate(Rows(x), plan), accumulate(Rows(x.astype(float)), plan)
    np.testing.assert_array_equal(a.log_likelihoods, b.log_likelihoods)
    for left, right in zip(a.sums, b.sums, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64", ">f8"])
@pytest.mark.parametrize("weighted", [False, True])
def test_samples_converted_block_by_block_have_the_bits_of_the_whole(
    order: str, dtype: str, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = (10 * clouds() + 60).astype(dtype)
    double = x.astype(float) if dtype != "float32" else x
    frames = frames_of(double.astype(float))
    plan = make_plan(candidates(double.astype(float), frames), frames)
    weights = np.random.default_rng(1).random(len(x)) if weighted else None
    single = Mixture.gaussian(
        "full", [1.0, 1.0], double[:2].astype(float), np.tile(np.eye(3), (2, 1, 1))
    ).density_plan()
    expected, scores = accumulate(Rows(double, weights), plan), score(double, single, probabilities=True)
    monkeypatch.setattr(blocks_module, "CONVERTED_BYTES", 1)
    width = slice_width(plan)
    lengths = [len(block) for _, block in blocks_module.blocks(np.asarray(x, order=order), plan.n_features, width)]
    converted = order == "F" or dtype not in ("float32", "float64")
    assert lengths == ([width] * (len(x) // width) + [len(x) % width] if converted else [len(x)])
    found = accumulate(Rows(np.asarray(x, order=order), weights), plan)
    again = score(np.asarray(x, order=order), single, probabilities=True)
    np.testing.assert_array_equal(found.log_likelihoods, expected.log_likelihoods)
    for ours, whole in zip(found.sums, expected.sums, strict=True):
        np.testing.assert_array_equal(ours, whole)
    for name in ("label", "probability", "log_density", "probabilities"):
        np.testing.assert_array_equal(getattr(again, name), getattr(scores, name))


def test_memory_order_changes_no_bit() -> None:
    x = clouds()
    frames = frames_of(x)
    plan = make_plan(candidates(x, frames), frames)
    a, b = accumulate(Rows(x), plan), accumulate(Rows(np.asfortranarray(x)), plan)
    np.testing.assert_array_equal(a.log_likelihoods, b.log_likelihoods)


@pytest.mark.parametrize("shape", [(5,), (5, 2), (5, 4), (0, 1), (5, 40)])
def test_samples_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    mixture = Mixture.gaussian("full", [1.0], [[0.0] * 3], [np.eye(3)])
    with pytest.raises(InputError, match=r"expected samples of shape \(n, 3\), not"):
        mixture.log_density(np.zeros(shape))


def test_no_samples_add_nothing() -> None:
    x = clouds()
    frames = frames_of(x)
    plan = make_plan(candidates(x, frames), frames)
    totals = accumulate(Rows(x[:0]), plan)
    assert totals.count == 0
    assert not totals.log_likelihoods.any()


@pytest.mark.parametrize("panel", [4, 7, 1024])
@pytest.mark.parametrize("width", [64, 128, 2048])
def test_the_compiled_form_is_the_plain_one(panel: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the slices and panels, with ordinary components and with some in coordinates of their own."""
    monkeypatch.setattr(compiled_form, "PANEL", panel)
    monkeypatch.setattr(compiled_form, "NARROWEST", width)
    monkeypatch.setattr(compiled_form, "WIDEST", width)
    x = clouds()
    frames = frames_of(x)
    narrow = Mixture.gaussian("full", [1, 1], x[:2], [np.eye(3), 1e-14 * np.eye(3)]).to_frame(frames["whitening"])
    plan = make_plan([*candidates(x, frames), narrow], frames)
    assert sum(plan.local) == 1
    compiled, plain = accumulate(Rows(x), plan), Plain().accumulate(Rows(x), plan)
    np.testing.assert_allclose(compiled.log_likelihoods, plain.log_likelihoods, rtol=1e-13)
    for left, right in zip(compiled.sums, plain.sums, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-11, atol=1e-9)


def test_the_compiled_exponential_is_exact_to_the_last_places() -> None:
    """Two components of equal weight at distance z: responsibilities are 1 / (1 + exp(-z))."""
    z = np.concatenate([np.linspace(-60, 60, 5001), [-650.0, 650.0, -2000.0, 2000.0]])
    mixture = Mixture.gaussian("spherical", [0.5, 0.5], [[0.5], [-0.5]], [1.0, 1.0])
    expected = np.stack([1 / (1 + np.exp(-np.clip(z, -700, 700))), 1 / (1 + np.exp(np.clip(z, -700, 700)))], axis=1)
    np.testing.assert_allclose(mixture.responsibilities(z[:, None]), expected, rtol=1e-12, atol=1e-270)


def test_mixtures_of_very_different_merit_share_a_pass() -> None:
    x = clouds()
    frames = frames_of(x)
    good, bad = (
        Mixture.gaussian("spherical", [1, 1], [[0.0] * 3, [4.0] * 3], variances).to_frame(frames["isotropic"])
        for variances in ([1.0, 0.25], [1e-4, 1e-4])
    )
    plan = make_plan([good, bad], frames)
    together = unpack(accumulate(Rows(x), plan), plan)
    for mixture, statistics in zip((good, bad), together, strict=True):
        expected = mixture.to_data(frames["isotropic"]).log_density(x).sum()
        assert statistics.log_likelihood == pytest.approx(expected, rel=1e-11)


def test_far_samples_go_to_the_nearest_in_mahalanobis_terms() -> None:
    """Elsewhere such a sample underflows to responsibilities of one half."""
    mixture = Mixture.gaussian("full", [0.5, 0.5], [[0.0, 0.0], [10.0, 0.0]], [np.eye(2), 4 * np.eye(2)])
    far = np.array([[1e4, 0.0], [-1e4, 0.0], [0.0, 1e5]])
    assert np.isfinite(mixture.log_density(far)).all()
    np.testing.assert_array_equal(mixture.responsibilities(far), [[0, 1], [0, 1], [0, 1]])


def long_log_density(x: np.ndarray, mixture: Mixture) -> np.ndarray:
    """Log density of a diagonal mixture in extended precision."""
    x, means = x.astype(np.longdouble), mixture.means.astype(np.longdouble)
    variances = mixture.covariances.astype(np.longdouble)
    joint = [
        np.log(np.longdouble(w)) - 0.5 * (((x - m) ** 2 / v) + np.log(2 * np.pi * v)).sum(axis=1)
        for w, m, v in zip(mixture.weights, means, variances, strict=True)
    ]
    return np.logaddexp.reduce(joint, axis=0).astype(float)


def narrow_case() -> tuple[np.ndarray, Mixture]:
    """A component 1e-7 as wide as the data, away from their mean."""
    r = np.random.default_rng(3)
    x = np.concatenate([r.standard_normal((2000, 3)), 3 + 1e-7 * r.standard_normal((200, 3))])
    return x, Mixture.gaussian("diag", [10, 1], [[0.0] * 3, [3.0] * 3], [[1.0] * 3, [1e-14] * 3])


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="no extended precision here")
def test_a_component_too_narrow_for_the_expanded_form_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    x, diagonal = narrow_case()
    reference = long_log_density(x, diagonal)
    full = Mixture.gaussian("full", diagonal.weights, diagonal.means, [np.diag(v) for v in diagonal.covariances])
    for mixture in (diagonal, full):
        # samples are rounded at 1e-16 of their size: at 3 that is 4e-9 of the component's width
        np.testing.assert_allclose(mixture.log_density(x), reference, atol=2e-7)
        assert sum(mixture.density_plan().local) == 1
    monkeypatch.setattr(planning, "TOLERATED_ERROR", np.inf)
    for mixture in (diagonal, full):
        wrong = np.abs(mixture.log_density(x) - reference).max()
        assert wrong > 1e-3, "the case must be one in which the expanded form alone fails"


def test_m_step_of_a_narrow_component_is_exact() -> None:
    """Its scatter comes from centred residuals, so its covariance is that of its rows."""
    x, diagonal = narrow_case()
    full = Mixture.gaussian("full", diagonal.weights, diagonal.means, [np.diag(v) for v in diagonal.covariances])
    frames = frames_of(x)
    inside = full.to_frame(frames["whitening"])
    plan = make_plan([inside], frames)
    (statistics,) = unpack(accumulate(Rows(x), plan), plan)
    weights, components = full.family.maximise(
        statistics, inside.components, Moments.of(x).in_frame(frames["whitening"]), np.zeros((3, 3))
    )
    after = Mixture(full.family, weights, components).to_data(frames["whitening"])
    rows = x[2000:]
    centred = rows - rows.mean(axis=0)
    np.testing.assert_allclose(after.covariances[1], centred.T @ centred / len(rows), rtol=1e-6, atol=1e-21)
    np.testing.assert_allclose(after.means[1], rows.mean(axis=0), atol=1e-14)


def test_the_guard_leaves_ordinary_data_to_the_fast_form() -> None:
    x = clouds()
    frames = frames_of(x)
    assert not any(make_plan(candidates(x, frames), frames).local)


@pytest.mark.parametrize("panel", [7, 1024])
def test_separated_data_take_the_sparse_form(panel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten clusters hundreds of deviations apart, a stack of several mixtures: the sums are those of the plain form."""
    monkeypatch.setattr(compiled_form, "PANEL", panel)
    r = np.random.default_rng(0)
    centres = 500 * r.standard_normal((10, 4))
    x = centres[r.integers(10, size=3000)] + r.standard_normal((3000, 4))
    frames = frames_of(x)
    mixtures = [
        Mixture.gaussian(
            kind, np.ones(k), centres[:k], {"full": np.tile(np.eye(4), (k, 1, 1)), "tied": np.eye(4)}[kind]
        )
        for kind, k in (("full", 10), ("tied", 10), ("full", 9))
    ]
    plan = make_plan([m.to_frame(frames["whitening"]) for m in mixtures], frames)
    n = len(x)
    responsibilities = mixtures[0].responsibilities(x).T.ravel()
    assert kernel.is_sparse(responsibilities, 0, 10, n, n), "the case must be one in which samples are picked out"
    assert not kernel.is_sparse(np.full(500, 0.1), 0, 10, 50, 50)
    compiled, plain = accumulate(Rows(x), plan), Plain().accumulate(Rows(x), plan)
    np.testing.assert_allclose(compiled.log_likelihoods, plain.log_likelihoods, rtol=1e-12)
    for left, right in zip(compiled.sums, plain.sums, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-11, atol=1e-9)


#: The cases of the benchmark.
CASES = [
    *(("full", d, k) for d, k in [(2, 3), (4, 8), (8, 8), (8, 32), (16, 16), (16, 64), (32, 32), (64, 64), (128, 32)]),
    *((kind, 16, 16) for kind in ("tied", "diag", "spherical")),
]


@pytest.mark.parametrize("apart", [0.3, 1.5, 15.0])
@pytest.mark.parametrize(("kind", "d", "k"), CASES)
def test_the_e_step_is_that_of_scikit_learn(kind: str, d: int, k: int, apart: float) -> None:
    """Log-likelihood to 1e-9, statistics to 1e-8 of what their terms add up to, near and far apart."""
    r = np.random.default_rng(d + k)
    n = 1500 + 4 * d
    centres, mix = apart * r.standard_normal((k, d)), np.eye(d) + 0.5 * r.standard_normal((d, d)) / np.sqrt(d)
    x = centres[r.integers(k, size=n)] + r.standard_normal((n, d)) @ mix + 100
    covariances = {
        "full": mix.T @ mix * r.uniform(0.5, 2, (k, 1, 1)),
        "tied": mix.T @ mix,
        "diag": r.uniform(0.5, 2, (k, d)),
        "spherical": r.uniform(0.5, 2, k),
    }[kind]
    mixture = Mixture.gaussian(kind, r.uniform(1, 2, k), centres + 100, covariances)
    theirs = GaussianMixture(k, covariance_type=kind)
    theirs.weights_, theirs.means_, theirs.covariances_ = mixture.weights, mixture.means, covariances
    theirs.precisions_cholesky_ = _compute_precision_cholesky(covariances, kind)
    frames = frames_of(x)
    frame = frames[mixture.family.frame]
    inside = mixture.to_frame(frame)
    plan = make_plan([inside], frames)
    assert not any(plan.local)
    (ours,) = unpack(accumulate(Rows(x), plan), plan)
    common = mixture.family.shared_log_likelihood(inside.components, Moments.of(x).in_frame(frame))
    assert ours.log_likelihood + common == pytest.approx(theirs.score_samples(x).sum(), rel=1e-9)
    r = theirs.predict_proba(x)
    assert ours.entropy == pytest.approx(-(r * np.log(np.maximum(r, 1e-300))).sum(), rel=1e-8, abs=1e-8 * n)
    phi = np.empty((mixture.family.features.size(d), n))
    mixture.family.features.fill(frame.to_frame((x - frame.origin).T), phi)
    responsibilities = theirs.predict_proba(x).T
    off = np.abs(ours.sums - responsibilities @ phi.T) / (responsibilities @ np.abs(phi).T + 1e-300)
    assert off[responsibilities.sum(axis=1) > 1e-3].max() < 1e-8


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_single_precision_products_keep_their_documented_error(kind: str) -> None:
    r = np.random.default_rng(1)
    centres = r.standard_normal((6, 5))
    x = centres[r.integers(6, size=20_000)] + 0.3 * r.standard_normal((20_000, 5)) + 1000
    shape = {"full": np.tile(0.09 * np.eye(5), (6, 1, 1)), "tied": 0.09 * np.eye(5)}
    mixture = Mixture.gaussian(
        kind, np.ones(6), centres + 1000, shape.get(kind, np.full((6, 5) if kind == "diag" else 6, 0.09))
    )
    frames = frames_of(x)
    inside = mixture.to_frame(frames[mixture.family.frame])
    plans = [make_plan([inside], frames, np.dtype(t)) for t in ("float64", "float32")]
    assert compiled_form.packed(plans[1]).theta.dtype == np.float32
    double, single = (unpack(accumulate(Rows(x), p), p)[0] for p in plans)
    assert double.log_likelihood != single.log_likelihood, "single precision must have been used"
    assert single.log_likelihood / len(x) == pytest.approx(double.log_likelihood / len(x), abs=1e-5)
    assert np.abs(double.sums - single.sums).max() < 1e-5 * len(x)
    np.testing.assert_allclose(single.sums[:, 0], double.sums[:, 0], rtol=1e-5)


def test_in_single_precision_fewer_components_are_wide_enough() -> None:
    x = clouds()
    frames = frames_of(x)
    mixture = Mixture.gaussian("full", [1, 1], x[:2], [np.eye(3), 1e-6 * np.eye(3)]).to_frame(frames["whitening"])
    assert not any(make_plan([mixture], frames).local)
    plan = make_plan([mixture], frames, np.dtype("float32"))
    assert plan.local == (False, True)
    (expected,) = unpack(Plain().accumulate(Rows(x), plan), plan)
    (found,) = unpack(accumulate(Rows(x), plan), plan)
    assert found.log_likelihood / len(x) == pytest.approx(expected.log_likelihood / len(x), abs=1e-4)


def test_a_fit_in_single_precision_ends_where_the_other_does() -> None:
    x = clouds(3000)
    double, single = (dgmm.train(x, 2, compute_dtype=t, sample_rows=1000) for t in ("float64", "float32"))
    assert double.log_likelihood != single.log_likelihood
    assert single.log_likelihood / len(x) == pytest.approx(double.log_likelihood / len(x), abs=1e-5)
    np.testing.assert_allclose(single.mixture.means, double.mixture.means, atol=1e-3)
    with pytest.raises(InputError, match="compute_dtype: Input should be 'float64' or 'float32'"):
        dgmm.train(x, 2, compute_dtype="float16")


@pytest.mark.parametrize(("dtype", "k"), [("float64", 3), ("float32", 3), ("float64", 700)])
@pytest.mark.parametrize("d", [1, 3, 50])
@pytest.mark.parametrize("linked", [False, True])
def test_the_bytes_of_the_buffers_are_told_exactly(dtype: str, k: int, d: int, linked: bool) -> None:
    x = np.random.default_rng(0).standard_normal((2 * k, d))
    frames = frames_of(np.random.default_rng(1).standard_normal((200, d)))
    narrow = np.tile(np.eye(d), (k, 1, 1))
    narrow[0] *= 1e-14  # a component in coordinates of its own
    mixtures = [
        Mixture.gaussian("full", np.ones(k), x[:k], narrow),
        Mixture.gaussian("diag", np.ones(1), x[:1], np.ones((1, d))),
    ]
    if linked:
        components = Students(x[:k], np.ones((k, d)), np.full(k, 4.0))
        mixtures.append(Mixture(get_family("t_diag"), np.full(k, 1 / k), components))
    plan = make_plan([m.to_frame(frames[m.family.frame]) for m in mixtures], frames, np.dtype(dtype))
    *buffers, product, lines, hidden = memory_for(plan, slice_width(plan))
    shared = product is buffers[2] and lines is buffers[1]
    assert bool(hidden.size) == linked
    made = (
        sum(b.nbytes for b in buffers)
        + hidden.nbytes
        + packed(plan).pairs.nbytes
        + (0 if shared else product.nbytes + lines.nbytes)
    )
    assert buffer_bytes(plan) - max(blocks_module.CONVERTED_BYTES, 8 * d * slice_width(plan)) == made


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("backend", [Compiled(), Plain()], ids=lambda b: b.name)
def test_samples_whose_component_is_known(backend: Backend, weighted: bool) -> None:
    """They belong to it wholly and add its joint density; the others are shared out as ever."""
    x, r = clouds(), np.random.default_rng(1)
    weights = r.uniform(0.5, 1.5, len(x)) if weighted else None
    labels = r.integers(-1, 2, len(x))
    frames = frames_of(x)
    mixtures = [m for m in candidates(x, frames) if m.n_components > 1]
    plan = make_plan(mixtures, frames)
    found = unpack(backend.accumulate(Rows(x, weights, labels), plan), plan)
    known, w = labels >= 0, np.ones(len(x)) if weights is None else weights
    for statistics, m in zip(found, mixtures, strict=True):
        mixture = m.to_data(frames[m.family.frame])
        covariances = [m.family.covariance(mixture.components, k) for k in range(m.n_components)]
        normals = [multivariate_normal(m, c).logpdf(x) for m, c in zip(mixture.means, covariances, strict=True)]
        log_joint = np.log(mixture.weights) + np.stack(normals, axis=1)
        others = known[:, None] & (np.arange(m.n_components) != labels[:, None])
        log_joint[others] = -np.inf
        density = np.logaddexp.reduce(log_joint, axis=1)
        shared = m.family.shared_log_likelihood(m.components, Moments.of(x, weights).in_frame(frames[m.family.frame]))
        assert statistics.log_likelihood + shared == pytest.approx(w @ density, rel=1e-11)
        responsibilities = w[:, None] * np.exp(log_joint - density[:, None])
        np.testing.assert_allclose(statistics.sums[:, 0], responsibilities.sum(axis=0), rtol=1e-10)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("backend", [Compiled(), Plain()], ids=lambda b: b.name)
def test_samples_whose_class_is_known_are_shared_out_within_it(backend: Backend, hard: bool) -> None:
    """Two classes of two components each: a label leaves the sample to those of its class."""
    x, labels = clouds(), np.random.default_rng(1).integers(-1, 2, 1200)
    frames = frames_of(x)
    mixture = Mixture.gaussian("full", [0.1, 0.2, 0.3, 0.4], x[:4], np.tile(np.eye(3), (4, 1, 1)))
    plan = make_plan([mixture.to_frame(frames["whitening"])], frames, sharing=Sharing(hard, 2))
    (found,) = unpack(backend.accumulate(Rows(x, labels=labels), plan), plan)
    normals = [multivariate_normal(m, np.eye(3)).logpdf(x) for m in mixture.means]
    joint = np.log(mixture.weights) + np.stack(normals, axis=1)
    joint[(labels[:, None] >= 0) & (np.array([0, 0, 1, 1]) != labels[:, None])] = -np.inf
    density = joint.max(axis=1) if hard else np.logaddexp.reduce(joint, axis=1)
    shares = np.eye(4)[joint.argmax(axis=1)] if hard else np.exp(joint - density[:, None])
    assert found.log_likelihood == pytest.approx(density.sum(), rel=1e-11)
    np.testing.assert_allclose(found.sums[:, 0], shares.sum(axis=0), rtol=1e-10)
    with pytest.raises(InputError, match="a sample has the label 2, and the classes are 0 to 1"):
        accumulate(Rows(x, labels=np.full(1200, 2)), plan)


def test_a_label_that_is_no_component_is_refused() -> None:
    x = clouds()
    frames = frames_of(x)
    plan = make_plan(candidates(x, frames), frames)
    with pytest.raises(InputError, match="a sample has the label 2, and the components are 0 to 0"):
        accumulate(Rows(x, labels=np.full(len(x), 2)), plan)
    accumulate(Rows(x, labels=np.full(len(x), -1)), plan)


def test_rows_keep_what_is_known_of_them_together() -> None:
    rows = Rows(np.arange(6.0).reshape(3, 2), np.array([1.0, 2.0, 3.0]), np.array([-1, 0, 4]))
    both = rows[1:].merge(rows[:1]).owned()
    np.testing.assert_array_equal(both.x[:, 0], [2, 4, 0])
    np.testing.assert_array_equal(both.weights, [2, 3, 1])
    np.testing.assert_array_equal(both.labels, [0, 4, -1])
    assert both.nbytes == 6 * 8 + 3 * 8 + 3 * 8
    assert Rows(rows.x).merge(rows).labels is None
