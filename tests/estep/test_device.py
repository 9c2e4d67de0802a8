"""The back end on a device, here that of JAX on the processor: it says what the compiled form and SciPy say."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from dgmm import devices
from dgmm.devices import Device, device_called
from dgmm.errors import InputError, InsufficientMemoryError
from dgmm.estep import OnDevice, Plan, Scores, Sharing, accumulate, buffer_bytes, device, make_plan, score, unpack
from dgmm.families import Moments, Noise, get_family, make_frame
from dgmm.mixture import Mixture
from dgmm.rows import Rows
from tests.devices import watched
from tests.estep.test_kernel import long_log_density, narrow_case
from tests.estep.test_tally import X, plan_of, rows_of
from tests.families.test_contract import rows as counts
from tests.families.test_contract import start_of
from tests.families.toy_family import Binomial
from tests.families.toy_family import Rates as Toys

jax = pytest.importorskip("jax")
placed = pytest.importorskip("dgmm.estep.placed")

NAMES = ["full", "tied", "diag", "spherical", "EVE", "VEI", "factors:1", "t_full", "t_diag:4", "poisson", "gamma"]
STACKS = ["several", "narrow", "noise", "hidden", "counts", "incomplete"]
#: Relative to what the largest sums are.
CLOSE = 1e-10


@pytest.fixture(params=[(2**18, 2**8), (2**8, 2**6)], ids=["one piece", "pieces and slices"])
def _cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in one piece, and in pieces of several slices, the last of them not full."""
    most, narrowest = request.param
    monkeypatch.setattr(device, "MOST", most)
    monkeypatch.setattr(device, "FEWEST", min(most, 2**10))
    monkeypatch.setattr(placed, "FEWEST", min(most, 2**10))
    monkeypatch.setattr(placed, "NARROWEST", narrowest)
    monkeypatch.setattr(placed.programs, "TOGETHER", narrowest)
    monkeypatch.setattr(placed, "SLICE_BYTES", 1)


def assert_agree(rows: Rows, plan: Plan, rtol: float = CLOSE) -> None:
    """Totals on the device are those of the compiled form."""
    found, expected = accumulate(rows, plan.on("jax")), accumulate(rows, plan)
    for field in fields(expected):
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        for a, b in zip(ours, theirs, strict=True) if field.name == "sums" else [(ours, theirs)]:
            # what cancels is as exact as what it is made of
            size = np.abs(b).max(initial=0.0) if np.ndim(b) else abs(b)
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.nan_to_num(size), err_msg=field.name)


@pytest.mark.usefixtures("_cut")
@pytest.mark.parametrize("what", STACKS)
def test_stacks_of_mixtures_have_the_totals_of_the_compiled_form(what: str, request: pytest.FixtureRequest) -> None:
    plan, rows = plan_of(what), rows_of(what, weighted="slices" in request.node.name)
    assert any(plan.local) == (what == "narrow")
    assert_agree(rows, plan)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("what", ["narrow", "noise", "hidden"])
def test_known_and_hard_assignments_have_the_totals_of_the_compiled_form(what: str, hard: bool) -> None:
    plan, rows = replace(plan_of(what), sharing=Sharing(hard=hard)), rows_of(what, weighted=hard)
    assert_agree(replace(rows, labels=np.arange(len(rows)) % 3 - 1), plan)
    if hard:
        assert_agree(rows, plan)


def test_any_number_of_rows_is_added_up() -> None:
    """None, one, and as many as pieces have, or one more."""
    plan, r = plan_of("counts"), np.random.default_rng(0)
    for n in (0, 1, device.FEWEST, device.FEWEST + 1):
        assert_agree(Rows(1.0 + r.poisson(3, (n, 3))), plan)


@pytest.mark.parametrize("name", NAMES)
def test_every_family_has_the_totals_and_scores_of_the_compiled_form(name: str) -> None:
    x, labels = counts(5)
    mixture = start_of(get_family(name), x, labels)
    plan = mixture.density_plan()
    assert_agree(Rows(x), plan)
    found, expected = (score(x, p, probabilities=True) for p in (plan.on("jax"), plan))
    np.testing.assert_array_equal(found.label, expected.label)
    for what in ("probability", "log_density", "probabilities"):
        np.testing.assert_allclose(getattr(found, what), getattr(expected, what), rtol=CLOSE, atol=CLOSE)


@pytest.mark.usefixtures("_cut")
@pytest.mark.parametrize("kind", ["float64", "float32", "int16", ">f8"])
def test_scores_are_those_of_scipy(kind: str) -> None:
    x = (10 * X).astype(kind)
    weights, means = np.array([0.7, 0.3]), np.array([[0.0, 1.0, 2.0], [30.0, 40.0, 35.0]])
    covariances = np.array([np.diag([90.0, 110.0, 100.0]) + 5, 50 * np.eye(3)])
    plan = Mixture.gaussian("full", weights, means, covariances).density_plan().on("jax")
    y = x.astype(float)
    joint = [
        np.log(w) + multivariate_normal(m, c).logpdf(y) for w, m, c in zip(weights, means, covariances, strict=True)
    ]
    total = np.logaddexp(*joint)
    found = score(x, plan, probabilities=True)
    np.testing.assert_allclose(found.log_density, total, rtol=1e-10)
    np.testing.assert_allclose(found.probabilities, np.exp(np.array(joint) - total).T, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(found.label, np.argmax(joint, axis=0))
    alone = score(x, plan)
    np.testing.assert_array_equal(alone.probability, found.probabilities.max(axis=1))
    assert len(alone.probabilities) == 0


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="no extended precision here")
def test_narrow_components_are_exact() -> None:
    """Components 1e-7 as wide as the data, of several kinds of coordinates."""
    x, diagonal = narrow_case()
    reference = long_log_density(x, diagonal)
    full = Mixture.gaussian("full", diagonal.weights, diagonal.means, [np.diag(v) for v in diagonal.covariances])
    for mixture in (diagonal, full):
        plan = mixture.density_plan()
        assert sum(plan.local) == 1
        np.testing.assert_allclose(score(x, plan.on("jax")).log_density, reference, atol=2e-7)
        assert_agree(Rows(x), plan)


def test_classes_of_several_components_share_their_rows() -> None:
    x, mixture = X, Mixture.gaussian("diag", np.ones(4), X[:4], np.ones((4, 3)))
    plan = mixture.density_plan(n_classes=2)
    labels = np.where(x[:, 0] > 2, 1, -1)
    assert_agree(Rows(x, labels=labels), plan)
    found, expected = score(x, plan.on("jax")), score(x, plan)
    np.testing.assert_array_equal(found.label, expected.label)
    np.testing.assert_allclose(found.probability, expected.probability, rtol=CLOSE)


def test_noise_is_scored_as_the_last_label() -> None:
    box = Noise.between(0.1, X.min(axis=0) - 50, X.max(axis=0) + 50)
    plan = Mixture.gaussian("full", [0.9], X[:1], [np.eye(3)]).beside(box).density_plan()
    far = np.array([[40.0, 40.0, 40.0], X[0]])
    found = score(far, plan.on("jax"))
    np.testing.assert_array_equal(found.label, [1, 0])
    assert found.log_density[0] == pytest.approx(box.log_density, rel=1e-12)


def test_single_precision_is_that_of_the_products_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far more exact than numbers of tensor cores, less than double precision, whatever the slices."""
    r = np.random.default_rng(0)
    x = np.concatenate([r.standard_normal((40_000, 3)), r.standard_normal((40_000, 3)) + 3])
    moments = Moments.of(x)
    frames = {"whitening": make_frame("whitening", moments.mean, moments.covariance)}
    mixture = Mixture.gaussian("full", [1, 1], [[0.0] * 3, [3.0] * 3], [np.eye(3), np.eye(3)]).to_frame(
        frames["whitening"]
    )
    single, double = (make_plan([mixture], frames, np.dtype(kind)) for kind in ("float32", "float64"))
    (exact,) = unpack(accumulate(Rows(x), double), double)
    errors = []
    for size in (1, 2**30):
        monkeypatch.setattr(placed, "SLICE_BYTES", size)
        plan = replace(single, device="jax")
        (found,) = unpack(accumulate(Rows(x), plan), plan)
        errors.append(np.abs(found.sums - exact.sums).max() / len(x))
        assert found.log_likelihood == pytest.approx(exact.log_likelihood, rel=1e-6)
    (kernel,) = unpack(accumulate(Rows(x), single), single)
    error = np.abs(kernel.sums - exact.sums).max() / len(x)
    assert 0.1 * error < min(errors)
    assert max(errors) < 4 * error, "whatever the slices"


def test_samples_of_another_shape_and_labels_of_no_component_are_refused() -> None:
    plan = plan_of("several").on("jax")
    with pytest.raises(InputError, match=r"expected samples of shape \(n, 3\), not \(5, 2\)"):
        accumulate(Rows(np.zeros((5, 2))), plan)
    with pytest.raises(InputError, match="a sample has the label 2, and the components are 0 to 1"):
        accumulate(Rows(X, labels=np.full(len(X), 2)), plan)


def test_features_that_it_does_not_know_are_refused() -> None:
    plan = Mixture(Binomial(), np.ones(1), Toys(np.full((1, 3), 4.0))).density_plan().on("jax")
    with pytest.raises(
        InputError, match=r"device jax does not know the features \(binomial\) of binomial: take device cpu"
    ):
        score(np.ones((2, 3)), plan)


def test_what_others_do_with_jax_is_not_changed() -> None:
    before = jax.numpy.ones(1).dtype
    accumulate(Rows(X), plan_of("several").on("jax"))
    assert jax.numpy.ones(1).dtype == before == np.float32
    assert not jax.config.jax_enable_x64


def test_nobody_imports_jax_who_has_not_asked_for_it() -> None:
    code = (
        "import sys, numpy as np, dgmm\n"
        "dgmm.Mixture.gaussian('full', [1.0], [[0.0]], [[[1.0]]]).log_density(np.zeros((3, 1)))\n"
        "assert 'jax' not in sys.modules, 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_jax_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    devices._found.cache_clear()
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(InputError, match=r"device gpu needs JAX \(.*\): pip install 'dgmm\[gpu\]', or take device cpu"):
        device_called("gpu")


@pytest.mark.skipif(any(d.platform == "gpu" for d in jax.devices()), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(InputError, match=r"device gpu: JAX finds none here \(.*\): pip install 'dgmm\[gpu\]' beside"):
        accumulate(Rows(X), plan_of("several").on("gpu"))


def test_a_device_without_memory_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte\nmore")

    monkeypatch.setattr(placed.programs, "accumulate", fail)
    with pytest.raises(
        InsufficientMemoryError, match=r"has too little memory for 10 components of 3 features \(RESOURCE"
    ) as told:
        accumulate(Rows(X), plan_of("several").on("jax"))
    assert "\n" not in str(told.value)


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A device with a memory of its own, of a million bytes, and the numbers of rows that were sent there."""
    its, sent = watched(monkeypatch, 2**20)
    yield sent
    gc.collect()
    assert its.rows.nbytes == its.plans.nbytes == 0


def test_rows_stay_on_the_device_for_as_long_as_they_are_here(roomy: list[int]) -> None:
    x, weights, plan = X.copy(), np.ones(len(X)), plan_of("several")
    totals = [accumulate(Rows(x, weights), plan.on("jax")) for _ in range(3)]
    assert roomy == [len(x), len(x)]
    np.testing.assert_array_equal(totals[0].log_likelihoods, totals[2].log_likelihoods)
    its = device.device_called("jax")
    assert its.rows.nbytes == 1024 * 8 * 4
    del x
    assert its.rows.nbytes == 1024 * 8
    # others that lie where they did are others
    for seed in range(5):
        y = np.random.default_rng(seed).standard_normal((700, 3))
        assert_agree(Rows(y), plan)
        del y


def test_rows_that_do_not_fit_are_sent_again(roomy: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    plan, first, second = plan_of("several").on("jax"), X.copy(), X.copy()
    size = 1024 * 3 * 8
    for room, expected in ((2 * size, 2), (2 * size - 1, 4)):
        monkeypatch.setattr(devices, "RESIDENT", room / 2**20)
        first, second = X.copy(), X.copy()
        roomy.clear()
        for _ in range(3):
            for x in (first, second):
                accumulate(Rows(x), plan)
        assert len(roomy) == expected, "whatever came first stays"


def test_slices_take_a_share_of_a_memory_and_no_more() -> None:
    plan = plan_of("several")
    for memory in (2**28, 2**30, 2**34 + 12345, 80 * 2**30):
        width = placed.slice_width(plan, memory)
        taken = width * placed.row_bytes(plan)
        assert taken <= placed.SLICE_SHARE * memory or width == placed.NARROWEST
        assert 2 * taken > placed.SLICE_SHARE * memory or width == device.MOST
        assert width & (width - 1) == 0


def test_half_of_a_memory_is_for_rows_that_stay() -> None:
    assert Device(None, 2**20).room == 2**19
    assert Device(None, None).room == 0


def test_its_buffers_are_those_of_a_piece() -> None:
    plan = plan_of("several").on("jax")
    rows = device.piece_rows(plan)
    assert rows * 8 * plan.n_features <= device.PIECE_BYTES
    assert buffer_bytes(plan) == device.PIECE_BYTES + 8 * rows * (plan.n_rows + 3)


def test_plans_for_devices_are_other_questions() -> None:
    plan = plan_of("several")
    assert plan.on("cpu") is plan
    assert len({plan.digest, plan.on("jax").digest, plan.on("gpu").digest}) == 3
    assert OnDevice().takes(plan.on("gpu"))
    assert not OnDevice().takes(plan)


def test_scores_go_into_their_places() -> None:
    plan = Mixture.gaussian("full", [1, 1], X[:2], np.tile(np.eye(3), (2, 1, 1))).density_plan()
    scores = Scores.empty(len(X), 2, probabilities=True)
    OnDevice().score(X, plan.on("jax"), scores)
    np.testing.assert_allclose(scores.probabilities.sum(axis=1), 1, rtol=1e-14)
    np.testing.assert_allclose(scores.log_density, score(X, plan).log_density, rtol=CLOSE)
