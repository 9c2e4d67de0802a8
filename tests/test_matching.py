"""Which component is which: overlaps against their integrals and closed forms, mixtures that were shuffled or split."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm

from dgmm.errors import InputError
from dgmm.matching import match, overlaps
from dgmm.mixture import Mixture

RANDOM = np.random.default_rng(5)


def gaussian(weights: list[float], means: np.ndarray, covariances: np.ndarray, kind: str = "full") -> Mixture:
    return Mixture.gaussian(kind, np.array(weights), np.atleast_2d(means), covariances)


def some(k: int, d: int, seed: int) -> Mixture:
    r = np.random.default_rng(seed)
    roots = r.normal(size=(k, d, d))
    return gaussian(r.dirichlet(np.ones(k)).tolist(), r.normal(0, 3, (k, d)), roots @ roots.swapaxes(1, 2) + np.eye(d))


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.7, 1.0), (2.0, 0.5), (-3.0, 4.0), (0.0, 1e-4)])
def test_an_overlap_is_the_integral_of_the_geometric_mean(mean: float, deviation: float) -> None:
    def root(x: float) -> float:
        return float(np.sqrt(norm.pdf(x, 1.0, 2.0) * norm.pdf(x, mean, deviation)))

    points = [mean + s * deviation for s in (-8, -2, 0, 2, 8)]
    integral = sum(quad(root, a, b, limit=200)[0] for a, b in zip([-60, *points], [*points, 60], strict=True))
    a, b = (
        gaussian([1.0], np.array([1.0]), np.array([[[4.0]]])),
        gaussian([1.0], np.array([mean]), np.array([[[deviation**2]]])),
    )
    assert overlaps(a, b)[0, 0] == pytest.approx(integral, rel=1e-7)


def test_overlaps_are_those_of_the_textbook_for_any_families() -> None:
    a = some(3, 4, 1)
    b = Mixture.gaussian("diag", np.array([0.4, 0.6]), RANDOM.normal(0, 2, (2, 4)), RANDOM.uniform(0.5, 3, (2, 4)))
    for k, j in np.ndindex(3, 2):
        one, other = a.covariances[k], np.diag(b.covariances[j])
        middle = (one + other) / 2
        shift = a.means[k] - b.means[j]
        distance = shift @ np.linalg.solve(middle, shift) / 8
        distance += np.log(np.linalg.det(middle) / np.sqrt(np.linalg.det(one) * np.linalg.det(other))) / 2
        assert overlaps(a, b)[k, j] == pytest.approx(np.exp(-distance), rel=1e-10)
        assert overlaps(b, a)[j, k] == pytest.approx(np.exp(-distance), rel=1e-10)


def test_an_overlap_is_a_mean_over_a_sample() -> None:
    a, b = some(2, 3, 2), some(2, 3, 3)
    x = np.random.default_rng(0).multivariate_normal(a.means[0], a.covariances[0], 200_000)
    first = multivariate_normal(a.means[0], a.covariances[0])
    second = multivariate_normal(b.means[1], b.covariances[1])
    roots = np.exp((second.logpdf(x) - first.logpdf(x)) / 2)
    assert overlaps(a, b)[0, 1] == pytest.approx(roots.mean(), abs=5 * roots.std() / np.sqrt(len(x)))


def test_units_and_offsets_do_not_matter() -> None:
    a, b = some(3, 3, 4), some(3, 3, 5)
    scales, offsets = np.array([1e-6, 1.0, 1e7]), np.array([1.0, -1e3, 1e12])

    def moved(m: Mixture) -> Mixture:
        return gaussian(m.weights.tolist(), m.means * scales + offsets, m.covariances * np.outer(scales, scales))

    assert overlaps(moved(a), moved(b)) == pytest.approx(overlaps(a, b), rel=1e-6)
    narrow = gaussian([1.0], np.zeros((1, 2)), 1e-14 * np.eye(2)[None])
    assert overlaps(narrow, narrow)[0, 0] == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_a_shuffled_mixture_comes_back_in_order(kind: str) -> None:
    r, k, d = np.random.default_rng(6), 6, 3
    covariances = {
        "full": np.tile(np.eye(d), (k, 1, 1)),
        "tied": np.eye(d),
        "diag": np.ones((k, d)),
        "spherical": np.ones(k),
    }
    before = gaussian([1 / k] * k, r.normal(0, 4, (k, d)), covariances[kind], kind)
    order = r.permutation(k)
    now = before.taken(order)
    found = match(now, before)
    assert found.before == tuple(range(k))
    assert found.overlap == pytest.approx([1.0] * k)
    assert (now.taken(found.order).means == before.means).all()
    assert found.lost(before.weights, 0.0, 0.99) == []


def test_the_best_assignment_is_taken_not_the_nearest_one_by_one() -> None:
    # the first of the new ones is nearest to both of those before
    before = gaussian([0.5, 0.5], np.array([[0.0], [1.0]]), np.ones((2, 1, 1)))
    now = gaussian([0.5, 0.5], np.array([[0.6], [2.5]]), np.ones((2, 1, 1)))
    assert overlaps(now, before)[0].min() > overlaps(now, before)[1].max()
    assert match(now, before).order.tolist() == [0, 1]


def test_a_split_class_keeps_its_number_and_what_is_new_comes_after() -> None:
    before = gaussian([0.6, 0.4], np.array([[0.0, 0.0], [9.0, 0.0]]), np.tile(np.eye(2), (2, 1, 1)))
    halves = np.array([[9.0, 0.0], [-0.9, 0.0], [0.7, 0.0], [50.0, 50.0]])
    now = gaussian([0.3, 0.2, 0.4, 0.1], halves, np.array([np.eye(2), np.diag([0.3, 1]), np.diag([0.5, 1]), np.eye(2)]))
    found = match(now, before)
    assert found.order.tolist() == [2, 0, 1, 3], "the new ones by weight"
    assert found.before == (0, 1, None, None)
    assert 0.5 < found.overlap[0] < 0.99
    assert found.overlap[1] == pytest.approx(1.0)
    assert found.overlap[2:] == (0.0, 0.0)


def test_what_is_lost_is_said_from_both_sides_of_the_bounds() -> None:
    before = gaussian([0.7, 0.2, 0.1], np.array([[0.0], [10.0], [20.0]]), np.ones((3, 1, 1)))
    now = gaussian([0.8, 0.2], np.array([[0.0], [11.0]]), np.ones((2, 1, 1)))
    found, near = match(now, before), float(np.exp(-1 / 8))
    assert found.before == (0, 1)
    assert found.lost(before.weights, 0.1, near + 1e-9) == [(1, pytest.approx(near)), (2, 0.0)]
    assert found.lost(before.weights, 0.1, near - 1e-9) == [(2, 0.0)]
    assert found.lost(before.weights, 0.1 + 1e-9, near - 1e-9) == []


def test_what_does_not_overlap_at_all_is_not_matched() -> None:
    before = gaussian([1.0], np.array([[0.0]]), np.ones((1, 1, 1)))
    now = gaussian([1.0], np.array([[1e6]]), np.ones((1, 1, 1)))
    assert match(now, before).before == (None,)


def test_mixtures_of_other_features_are_refused() -> None:
    with pytest.raises(InputError, match="of 2 and 3 features"):
        match(some(2, 2, 0), some(2, 3, 0))


def test_a_class_that_is_lost_leaves_its_number_to_what_is_new() -> None:
    """0, 1 and 2 before; 1 is gone, and there is something else: 2 stays 2."""
    unit = np.eye(1)[None]
    before = gaussian([0.4, 0.2, 0.4], np.array([[0.0], [1e4], [50.0]]), np.repeat(unit, 3, 0))
    now = gaussian([0.4, 0.2, 0.4], np.array([[50.1], [-1e4], [0.1]]), np.repeat(unit, 3, 0))
    found = match(now, before)
    assert found.before == (0, None, 2)
    assert found.order.tolist() == [2, 1, 0]
    assert found.renumbered == []
    # where there are fewer, the last ones move into what is free
    fewer = match(gaussian([0.5, 0.5], np.array([[50.1], [0.1]]), np.repeat(unit, 2, 0)), before)
    assert (fewer.before, fewer.order.tolist(), fewer.renumbered) == ((0, 2), [1, 0], [(2, 1)])
