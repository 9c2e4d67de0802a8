"""Components on the rows explained worst: rare groups that the sample missed, and collapsed components."""

import numpy as np
import pytest

import dgmm
from dgmm.data import open_samples
from dgmm.em import Evaluated
from dgmm.engine.workers import threads
from dgmm.fitting import passes_over
from dgmm.fitting.reseed import groups_of, reseed
from dgmm.passes import Sample
from dgmm.rows import Rows
from dgmm.search.sampled import Candidate, grounds_for


def with_rare_group(n: int, rare: int) -> np.ndarray:
    """Three large clusters and one of ``rare`` rows, far away."""
    r = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])
    x = (centres[r.integers(3, size=n)] + r.standard_normal((n, 2))).astype(np.float32)
    x[r.choice(n, rare, replace=False)] = np.array([30.0, 30.0]) + 0.5 * r.standard_normal((rare, 2))
    return x


def test_a_group_of_one_row_in_a_hundred_thousand_is_found() -> None:
    """The sample has one of its rows or none: without the rows explained worst, no component is for them."""
    n, rare = 3_000_000, 30
    x = with_rare_group(n, rare)
    missed, found = (
        dgmm.train(x, 4, worst_rows=w, n_init=3, search="starts", tol=1e-6, on_collapse="reseed") for w in (0, 1000)
    )
    assert abs(missed.mixture.weights[-1] * n - rare) > rare / 2
    assert found.mixture.weights[-1] * n == pytest.approx(rare, rel=1e-3)
    rows = x[x.sum(axis=1) > 40].astype(float)
    np.testing.assert_allclose(found.mixture.means[-1], rows.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(found.mixture.covariances[-1], np.cov(rows.T, bias=True), atol=1e-3)
    assert found.log_likelihood > missed.log_likelihood + 10_000
    assert not found.collapsed
    assert len(found.trajectory) == len(found.seconds) == found.n_passes


def test_nothing_is_replaced_where_nothing_was_missed() -> None:
    r = np.random.default_rng(1)
    x = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])[r.integers(3, size=50_000)] + r.standard_normal((50_000, 2))
    plain, looked = (dgmm.train(x, 3, worst_rows=w, start_rows=5000) for w in (0, 1000))
    assert looked.trajectory[: plain.n_passes] == plain.trajectory
    assert looked.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-6)


def test_the_worst_rows_are_those_of_lowest_density() -> None:
    x = with_rare_group(20_000, 15)
    fit = dgmm.train(x, 3, worst_rows=0)
    passes = passes_over(open_samples(x), threads(2))
    (worst,) = passes.worst([fit.mixture], 40)
    expected = np.argsort(fit.mixture.log_density(x))[:40]
    np.testing.assert_array_equal(worst.rows.x, x[expected])


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_a_collapsed_component_gets_another_place(kind: str) -> None:
    x = with_rare_group(20_000, 60).astype(float)
    passes = passes_over(open_samples(x), threads(1))
    ground = grounds_for([Candidate(4, kind)], passes.profile.moments, passes.frame, 1e-6)[kind]
    inside = dgmm.train(x, 4, kind, worst_rows=0, n_init=2).mixture.to_frame(ground.frame)
    (statistics,) = passes.accumulate([inside])
    (worst,) = passes.worst([inside.to_data(ground.frame)], 200)
    new = reseed(Evaluated(inside, statistics, ground), worst, passes.profile.sample.rows, collapsed=(2,))
    assert new is not None
    assert new.replaced == (2,)
    others = [0, 1, 3]
    after = new.mixture.to_data(ground.frame)
    np.testing.assert_allclose(after.means[others], inside.to_data(ground.frame).means[others], atol=0.1)
    assert np.abs(after.means[2] - inside.to_data(ground.frame).means[2]).max() > 0.1


def two_clusters_and_an_outlier() -> np.ndarray:
    r = np.random.default_rng(1)
    return np.concatenate([r.standard_normal((1000, 2)), 9 + r.standard_normal((1000, 2)), [[25.0, 25.0]]])


def test_a_component_on_one_row_is_reported_or_tries_again() -> None:
    x = two_clusters_and_an_outlier()
    start = {"means_init": [[4.5, 4.5], [25.0, 25.0]], "weights_init": [0.999, 0.001], "n_init": 1}
    start["precisions_init"] = [0.05 * np.eye(2), np.eye(2)]
    reported = dgmm.train(x, 2, **start)
    assert reported.state == "collapsed"
    assert reported.collapsed == (1,)
    assert reported.reason == (
        "component 1 has too few samples, or less extent than reg_covar (1e-06) of the data's: lower n_components (2), "
        "or reg_covar if clusters so thin are real"
    )
    again = dgmm.train(x, 2, **start, on_collapse="reseed")
    assert again.state == "converged"
    np.testing.assert_allclose(again.mixture.weights, 0.5, atol=0.02)
    assert again.n_passes > reported.n_passes


def test_groups_too_small_for_a_component_are_none() -> None:
    assert groups_of(np.random.default_rng(0).standard_normal((3, 2)), 0) == []
    groups = groups_of(np.random.default_rng(0).standard_normal((100, 2)), 0)
    assert all(len(g) > 3 for g in groups)
    assert len(np.unique(np.concatenate(groups))) == sum(map(len, groups))


def test_the_smallest_keys_win() -> None:
    a = Sample.of(np.array([3.0, -1.0, 2.0]), Rows(np.arange(6.0).reshape(3, 2)), 2).ordered()
    np.testing.assert_array_equal(a.keys, [-1.0, 2.0])
    np.testing.assert_array_equal(a.rows.x, [[2, 3], [4, 5]])
