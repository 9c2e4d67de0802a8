"""What every family keeps to, whatever is registered: climbs, sums, weights, chunks, samples, files, exports.

The data are counts from one up, which may come from any of them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import dgmm
from dgmm.em import Ground
from dgmm.estep import accumulate, make_plan, unpack
from dgmm.families import FAMILIES, Family, Moments, get_family, make_frame
from dgmm.mixture import Mixture
from dgmm.rows import Rows
from dgmm.search.initialise import from_labels

N, K = 400, 3
RATES = np.array([[5.0, 30.0, 9.0, 20.0, 12.0], [14.0, 6.0, 25.0, 8.0, 30.0], [40.0, 40.0, 15.0, 35.0, 20.0]])
#: All that are registered, and some of those that are made from a number.
NAMES = [*FAMILIES, "factors:1", "factors:2"]
#: What these names are about is nothing simpler than full in fewer features.
WIDE = {"factors:1": 4, "factors:2": 5}


def rows(d: int, n: int = N, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Counts from one up, shape (n, d), and which of three rates they come from."""
    r = np.random.default_rng(seed)
    labels = r.choice(K, n, p=[0.5, 0.3, 0.2])
    return 1.0 + r.poisson(RATES[labels, :d]), labels


def data_for(family: Family) -> tuple[np.ndarray, np.ndarray]:
    """As few features as there may be, two at least."""
    return rows(WIDE.get(family.name, 2))


@pytest.fixture(params=NAMES)
def family(request: pytest.FixtureRequest) -> Family:
    return get_family(request.param)


def ground_of(family: Family, x: np.ndarray) -> Ground:
    moments = Moments.of(x)
    frame = make_frame(family.frame, moments.mean, moments.covariance)
    moments = moments.in_frame(frame)
    return Ground(frame, moments, family.floor(1e-6, moments))


def start_of(family: Family, x: np.ndarray, labels: np.ndarray) -> Mixture:
    """An M-step from labels a tenth of which are wrong, in the data's units."""
    r = np.random.default_rng(1)
    wrong = np.where(r.random(len(x)) < 0.1, r.integers(0, K, len(x)), labels)
    ground = ground_of(family, x)
    return from_labels(family, Rows(x), wrong, K, ground).to_data(ground.frame)


def assert_same(a: Mixture, b: Mixture, x: np.ndarray, rtol: float) -> None:
    """Weights and densities agree."""
    np.testing.assert_allclose(a.weights, b.weights, rtol=rtol)
    np.testing.assert_allclose(a.log_density(x), b.log_density(x), rtol=rtol, atol=rtol)


def test_plain_em_never_falls(family: Family) -> None:
    x, labels = data_for(family)
    path = dgmm.em_path(x, start_of(family, x, labels), 25)
    values = np.array([mixture.log_density(x).sum() for mixture in path])
    assert (np.diff(values) > -1e-9 * abs(values[0])).all()
    assert values[-1] > values[0] + 1


def test_hard_assignments_never_fall(family: Family) -> None:
    """The classification likelihood: the joint one of samples and their most probable components."""
    x, labels = data_for(family)
    path = dgmm.em_path(x, start_of(family, x, labels), 15, assignment="hard")
    values = np.array([(m.log_density(x) + np.log(m.responsibilities(x).max(axis=1))).sum() for m in path])
    assert (np.diff(values) > -1e-9 * abs(values[0])).all()
    assert values[-1] > values[0] + 1


def test_known_classes_are_one_pass(family: Family) -> None:
    x, labels = data_for(family)
    fit = dgmm.train(x, covariance_type=family.name, labels=labels)
    np.testing.assert_allclose(fit.mixture.weights, np.bincount(labels) / N, rtol=1e-12)
    if family.hidden:  # there is more to a row than its class
        assert fit.converged
        return
    assert fit.n_passes == 1
    np.testing.assert_allclose(fit.mixture.means, [x[k == labels].mean(axis=0) for k in range(K)], rtol=1e-6)


def test_statistics_of_parts_add_up(family: Family) -> None:
    """To those of the whole, up to rounding, wherever it is cut."""
    x, labels = data_for(family)
    ground = ground_of(family, x)
    mixture = start_of(family, x, labels).to_frame(ground.frame)
    plan = make_plan([mixture], {family.frame: ground.frame})
    (whole,) = unpack(accumulate(Rows(x), plan), plan)
    for cut in (1, 137, N - 1):
        parts = accumulate(Rows(x[:cut]), plan).merge(accumulate(Rows(x[cut:]), plan))
        (found,) = unpack(parts, plan)
        assert found.log_likelihood == pytest.approx(whole.log_likelihood, rel=1e-12)
        np.testing.assert_allclose(found.sums, whole.sums, rtol=1e-10, atol=1e-10 * np.abs(whole.sums).max())


def test_sums_over_rows_are_those_of_the_e_step(family: Family) -> None:
    """The ones of the search and of new components on the worst rows are the ones of a pass, hidden parts included."""
    x, labels = data_for(family)
    ground = ground_of(family, x)
    mixture = start_of(family, x, labels).to_frame(ground.frame)
    plan = make_plan([mixture], {family.frame: ground.frame})
    (statistics,) = unpack(accumulate(Rows(x), plan), plan)
    shares = mixture.to_data(ground.frame).responsibilities(x).T
    found = family.sums_of(ground.frame.coordinates(x), shares, mixture.components)
    if not statistics.local.any():
        np.testing.assert_allclose(found, statistics.sums, rtol=1e-8, atol=1e-9 * np.abs(found).max())


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10)
@given(chunks=st.lists(st.integers(1, N // 2), min_size=1, max_size=6))
def test_chunks_change_nothing(name: str, chunks: list[int]) -> None:
    family = get_family(name)
    x, labels = data_for(family)
    sizes = [size for size, end in zip(chunks, np.cumsum(chunks), strict=True) if end < N]
    lazy = da.from_array(x, chunks=((*sizes, N - sum(sizes)), x.shape[1]))
    start = start_of(family, x, labels)
    assert_same(dgmm.em_path(lazy, start, 2)[-1], dgmm.em_path(x, start, 2)[-1], x, 1e-9)


def test_weights_are_repeated_rows(family: Family) -> None:
    times = np.random.default_rng(2).integers(0, 4, N)
    x, labels = data_for(family)
    repeated = np.repeat(x, times, axis=0)
    ground = ground_of(family, repeated)
    mixture = start_of(family, x, labels).to_frame(ground.frame)
    plan = make_plan([mixture], {family.frame: ground.frame})
    (weighted,) = unpack(accumulate(Rows(x, weights=times.astype(float)), plan), plan)
    (plain,) = unpack(accumulate(Rows(repeated), plan), plan)
    assert weighted.log_likelihood == pytest.approx(plain.log_likelihood, rel=1e-12)
    for a, b in zip(
        family.arrays(family.maximise(weighted, mixture.components, ground.moments, ground.floor)[1]).values(),
        family.arrays(family.maximise(plain, mixture.components, ground.moments, ground.floor)[1]).values(),
        strict=True,
    ):
        np.testing.assert_allclose(a[1], b[1], rtol=1e-7, atol=1e-9 * np.abs(b[1]).max())


def test_what_is_drawn_is_found_again(family: Family) -> None:
    """Means within five standard errors of those that the samples come from."""
    x, labels = data_for(family)
    truth = dgmm.em_path(x, start_of(family, x, labels), 30)[-1]
    x, labels = truth.sample(20_000, np.random.default_rng(3))
    found = dgmm.em_path(x, start_of(family, x, labels), 40)[-1]
    errors = np.sqrt(family.variances(truth.components) / (len(x) * truth.weights[:, None]))
    # labels are not known: what overlaps costs some of what they would tell
    assert (np.abs(found.means - truth.means) < 5 * 1.5 * errors).all()
    np.testing.assert_allclose(found.weights, truth.weights, atol=5 * 1.5 * 0.5 / np.sqrt(len(x)))


@pytest.fixture
def fit(family: Family) -> dgmm.Fit:
    """A fit of named features."""
    return fit_of(family)


@cache
def fit_of(family: Family) -> dgmm.Fit:
    x, _ = data_for(family)
    data = xr.Dataset({name: ("row", column, {"units": "1"}) for name, column in zip("pqrst", x.T, strict=False)})
    return dgmm.train(data, K, family.name, seed=0, search="quick", reg_covar=1e-4)


@pytest.mark.parametrize("name", ["m.zarr", "m.json"])
def test_a_stored_model_scores_the_same_bits(fit: dgmm.Fit, family: Family, name: str, tmp_path: Path) -> None:
    x, _ = data_for(family)
    dgmm.save(fit, tmp_path / name)
    again = dgmm.load(tmp_path / name)
    assert again.covariance_type == fit.covariance_type
    assert again.mixture.n_parameters == fit.mixture.n_parameters
    np.testing.assert_array_equal(again.mixture.log_density(x), fit.mixture.log_density(x))
    np.testing.assert_array_equal(again.mixture.responsibilities(x), fit.mixture.responsibilities(x))
    data = xr.Dataset({name: ("row", column) for name, column in zip("pqrst", x.T, strict=False)}).chunk(row=97)
    scores = dgmm.score(tmp_path / name, data, tmp_path / "s.zarr")
    np.testing.assert_array_equal(scores["label"], fit.mixture.responsibilities(x).argmax(axis=1))


def test_a_component_less_is_no_better(fit: dgmm.Fit, family: Family) -> None:
    """The number of components does something, and so do parameters: there are more of them with more components."""
    fewer = dgmm.train(data_for(family)[0], 1, family.name, reg_covar=1e-4)
    assert fewer.log_likelihood < fit.log_likelihood - 10
    assert fewer.n_parameters < fit.n_parameters
