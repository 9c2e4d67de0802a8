"""Moves between mixtures: what is cut, what is put together, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from dgmm.em import Ground
from dgmm.families import FAMILIES, Moments, get_family, make_frame
from dgmm.mixture import Mixture
from dgmm.rows import Rows
from dgmm.search.apart import climb_apart
from dgmm.search.cuts import cuts, principal_axes, split_by_moments, two_means
from dgmm.search.initialise import one_component
from dgmm.search.moves import LOCAL_MORE, LOCAL_PASSES, Standing, twin
from dgmm.search.sampled import SampleRows
from dgmm.types import FloatArray
from tests.families.toy_family import Binomial

KINDS = ["full", "tied", "diag", "spherical"]
MEANS = np.array([[0.0, 0.0], [6.0, 1.0], [-2.0, 7.0]])
SHAPES = np.array([[[1.0, 0.3], [0.0, 0.8]], [[1.5, 0.0], [0.4, 0.6]], [[0.7, 0.0], [0.0, 1.2]]])


def clouds(n: int = 3000) -> FloatArray:
    r = np.random.default_rng(0)
    labels = r.choice(3, n, p=[0.5, 0.3, 0.2])
    return np.einsum("nj,njk->nk", r.standard_normal((n, 2)), SHAPES[labels]) + MEANS[labels]


def standing(kind: str, x: FloatArray, k: int = 3, weights: FloatArray | None = None) -> Standing:
    """A mixture with means near those of the clouds, after one step of EM."""
    moments = Moments.of(x, weights)
    family = get_family(kind)
    frame = make_frame(family.frame, moments.mean, moments.covariance)
    inside = moments.in_frame(frame)
    ground = Ground(frame, inside, family.floor(1e-6, inside))
    sample = SampleRows(Rows(x, weights), lambda kind: make_frame(kind, moments.mean, moments.covariance), 1)
    means = frame.coordinates((MEANS + 0.3)[:k]).T
    spread = family.spread(k, inside, ground.floor)
    start = Mixture(family, np.full(k, 1 / k), type(spread)(means, 0.3 * spread.factors))
    (statistics,) = sample.accumulate([start])
    weights_, components = family.maximise(statistics, start.components, inside, ground.floor)
    return Standing(Mixture(family, weights_, components), ground, sample, 1e-6)


def moments_of(weights: FloatArray, means: FloatArray, covariances: FloatArray) -> tuple[FloatArray, FloatArray]:
    mean = weights @ means
    apart = means - mean
    return mean, np.einsum("k,kij->ij", weights, covariances) + (apart.T * weights) @ apart


@pytest.mark.parametrize("t", [0.5, 0.9])
def test_a_split_by_moments_keeps_two_moments(t: float) -> None:
    moments = Moments.of(clouds())
    values, vectors = principal_axes(moments, np.ones(2))
    halves = split_by_moments(get_family("full"), moments, np.sqrt(values[0]) * vectors[:, 0], t)
    mean, covariance = moments_of(halves.weights, halves.means, halves.covariances)
    np.testing.assert_allclose(mean, moments.mean, rtol=1e-12)
    np.testing.assert_allclose(covariance, moments.covariance, rtol=1e-12)
    apart = halves.means[0] - halves.means[1]
    assert np.linalg.norm(apart) == pytest.approx(2 * t * np.sqrt(values[0]))


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_merge_keeps_two_moments(kind: str, weighted: bool) -> None:
    x = clouds()
    s = standing(kind, x, weights=np.random.default_rng(1).uniform(0.5, 1.5, len(x)) if weighted else None)
    merged = s.merge(0, 2)
    assert merged is not None
    assert merged.n_components == 2
    # of what an EM step makes of the two, which is what they are made of
    r = s.responsibilities
    both = r[0] + r[2]
    y = s.coordinates
    mean = y @ both / both.sum()
    scatter = (y - mean[:, None]) * both @ (y - mean[:, None]).T / both.sum() + s.ground.floor
    expected = {"full": scatter, "diag": np.diagonal(scatter), "spherical": np.trace(scatter) / 2}[kind]
    assert merged.weights[0] == pytest.approx(both.sum() / r.sum())
    np.testing.assert_allclose(merged.means[0], mean, rtol=1e-9)
    np.testing.assert_allclose(merged.covariances[0], expected, rtol=1e-9)


def kl_to_merged(weights: FloatArray, means: FloatArray, covariances: FloatArray) -> float:
    """Divergence of a pair from the Gaussian with its moments, by a grid."""
    mean, covariance = moments_of(weights, means, covariances)
    side = [np.linspace(m - 9 * s, m + 9 * s, 600) for m, s in zip(mean, np.sqrt(np.diagonal(covariance)), strict=True)]
    grid = np.stack(np.meshgrid(*side, indexing="ij"), axis=-1)
    area = (side[0][1] - side[0][0]) * (side[1][1] - side[1][0])
    parts = [multivariate_normal(m, c).logpdf(grid) for m, c in zip(means, covariances, strict=True)]
    log_pair = logsumexp(np.array(parts) + np.log(weights)[:, None, None], axis=0)
    log_one = multivariate_normal(mean, covariance).logpdf(grid)
    return float((np.exp(log_pair) * (log_pair - log_one)).sum() * area)


def test_what_a_merge_costs_is_runnalls_bound() -> None:
    s = standing("full", clouds())
    image = Mixture(s.mixture.family, *s.mixture.family.maximise(
        s.sample.accumulate([s.mixture])[0], s.mixture.components, s.ground.moments, s.ground.floor
    ))  # fmt: skip
    w, n = image.weights, s.ground.moments.count
    assert [c for c, _, _ in s.merges] == sorted(c for c, _, _ in s.merges)
    for cost, i, j in s.merges:
        pair = w[[i, j]] / w[[i, j]].sum()
        _, both = moments_of(pair, image.means[[i, j]], image.covariances[[i, j]])
        dets = [np.linalg.slogdet(c)[1] for c in (both, image.covariances[i], image.covariances[j])]
        bound = 0.5 * ((w[i] + w[j]) * dets[0] - w[i] * dets[1] - w[j] * dets[2])
        assert cost / n == pytest.approx(bound, rel=1e-3)
        # and a bound it is: the pair's own share of the mixture loses no more
        assert (w[i] + w[j]) * kl_to_merged(pair, image.means[[i, j]], image.covariances[[i, j]]) <= bound


def test_what_a_merge_costs_with_one_covariance() -> None:
    s = standing("tied", clouds())
    precision = np.linalg.inv(s.mixture.covariances)
    n = s.responsibilities.sum(axis=1)
    for cost, i, j in s.merges:
        apart = s.mixture.means[i] - s.mixture.means[j]
        assert cost == pytest.approx(0.5 * n[i] * n[j] / (n[i] + n[j]) * apart @ precision @ apart)


@pytest.mark.parametrize("kind", KINDS)
def test_two_clouds_under_one_component_are_cut_apart(kind: str) -> None:
    x = clouds()
    s = standing(kind, x, 1)
    assert s.mixture.n_components == 1
    best = max(s.splits, key=lambda split: split.gain)
    cut = s.split(best)
    before, after = (a.log_likelihood for a in s.sample.accumulate([s.mixture, cut]))
    if kind != "tied":  # whose covariance is known to none of the parts
        assert after - before == pytest.approx(best.gain, rel=0.02)
    nearest = np.linalg.norm(cut.to_data(s.ground.frame).means[:, None] - MEANS, axis=2).min(axis=1)
    assert nearest.min() < 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_split_promises_is_kept(kind: str) -> None:
    """The gain is a bound, by Jensen's inequality, but for the rows that hardly belong."""
    s = standing(kind, clouds(), 2)
    (before,) = (a.log_likelihood for a in s.sample.accumulate([s.mixture]))
    assert len(s.splits) >= 2
    for split in s.splits if kind != "tied" else []:
        (after,) = (a.log_likelihood for a in s.sample.accumulate([s.split(split)]))
        assert after - before >= split.gain - 0.002 * len(s.sample.rows)


def stuck(kind: str) -> Standing:
    """Of four clouds one has two components, and another component has two clouds."""
    r = np.random.default_rng(2)
    centres = np.array([[0.0, 0.0], [0.0, 12.0], [30.0, 0.0], [30.0, 6.0]])
    x = centres[np.arange(4000) % 4] + r.standard_normal((4000, 2))
    s = standing(kind, x)
    means = np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, 12.0], [30.0, 3.0]])
    covariances = np.array([np.eye(2)] * 3 + [np.diag([1.0, 10.0])])
    if kind == "diag":
        covariances = np.diagonal(covariances, axis1=1, axis2=2)
    if kind == "spherical":
        covariances = np.array([1.0, 1.0, 1.0, 6.0])
    start = Mixture.gaussian(kind, [0.125, 0.125, 0.25, 0.5], means, covariances).to_frame(s.ground.frame)
    return Standing(start, s.ground, s.sample, 1e-6)


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_two_for_one_and_one_for_two_are_put_right_on_the_rows_of_three(kind: str) -> None:
    """The cloud under two components gets one, the two clouds under one component get two; the fourth stays."""
    s = stuck(kind)
    _, i, j = s.merges[0]
    assert (i, j) == (0, 1)
    best = max((split for split in s.splits if split.component == 3), key=lambda split: split.gain)
    (found,) = s.replaced([(0, 1, best)])
    means = found.mixture.to_data(s.ground.frame).means
    for centre in ([0.0, 0.0], [0.0, 12.0], [30.0, 0.0], [30.0, 6.0]):
        assert np.linalg.norm(means - centre, axis=1).min() < 0.2
    before, after = (a.log_likelihood for a in s.sample.accumulate([s.mixture, found.mixture]))
    # the fourth is far from the three, so that what they gain by themselves is all there is
    assert after - before == pytest.approx(found.gain, rel=1e-3)
    assert found.gain > 500


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_a_move_that_loses_says_so(kind: str) -> None:
    """Two clouds as one, and a cloud cut: a bound on the loss, but for the rows that hardly belong."""
    s = standing(kind, clouds())
    split = next(split for split in s.splits if split.component == 2)
    (found,) = s.replaced([(0, 1, split)])
    before, after = (a.log_likelihood for a in s.sample.accumulate([s.mixture, found.mixture]))
    assert found.gain < 0
    assert after - before >= found.gain - 0.002 * len(s.sample.rows)


def test_all_moves_climb_a_little_and_the_best_third_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What gains is among four moves, whatever their order, and two of the four go on."""
    s = stuck("full")
    cuts = [max((c for c in s.splits if c.component == k), key=lambda c: c.gain) for k in range(4)]
    moves = [(0, 1, cuts[2]), (1, 2, cuts[3]), (0, 1, cuts[3]), (0, 2, cuts[3])]
    climbs: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "dgmm.search.moves.climb_apart", lambda each, n: climbs.append((len(each), n)) or climb_apart(each, n)
    )
    found = s.replaced(moves)
    assert climbs == [(4, LOCAL_PASSES), (2, LOCAL_MORE)]
    assert len(found) == 2
    assert found[0].gain > max(500, found[1].gain)
    again = stuck("full").replaced(moves[::-1])
    assert [m.gain for m in again] == [m.gain for m in found]


@pytest.mark.parametrize(("per_parameter", "enough"), [(10, 2048), (900, 2048), (10**4, 2048), (10, 10**6)])
def test_more_rows_than_are_needed_are_thinned_without_bias(
    per_parameter: int, enough: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To so many in all or for each parameter, whichever is more, with the weight of all."""
    monkeypatch.setattr("dgmm.search.moves.ROWS_PER_PARAMETER", per_parameter)
    monkeypatch.setattr("dgmm.search.moves.ROWS_ENOUGH", enough)
    s = standing("full", clouds(30_000))
    portion = s._portion([0])
    own, r = portion.own, portion.r
    whole = s.responsibilities[0][s.responsibilities[0] > 0.01]
    needed = max(enough, per_parameter * get_family("full").n_parameters(1, 2))
    assert r.sum() == pytest.approx(whole.sum(), rel=1e-12)
    assert min(needed, len(whole)) <= len(own) < 2 * needed
    # the mean of so many rows errs by their standard deviation over the root of their number
    mean = s.coordinates[:, own] @ r / r.sum()
    exact = s.coordinates @ s.responsibilities[0] / s.responsibilities[0].sum()
    error = np.sqrt(np.diagonal(s.mixture.covariances[0]) / len(own))
    assert (abs(mean - exact) < 4 * error).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_twin_is_the_same_density(kind: str) -> None:
    s = standing(kind, clouds())
    double = twin(s.mixture)
    assert double.n_components == 4
    one, other = s.sample.accumulate([s.mixture, double])
    assert other.log_likelihood == pytest.approx(one.log_likelihood, rel=1e-12)


@pytest.mark.parametrize(("simple", "general"), [("spherical", "diag"), ("diag", "full"), ("tied", "full")])
def test_a_family_that_contains_another_is_no_less_likely(simple: str, general: str) -> None:
    s = standing(simple, clouds())
    other = standing(general, clouds())
    assert get_family(general).contains(get_family(simple))
    assert not get_family(simple).contains(get_family(general))
    after = s.as_family(get_family(general), other.ground)
    before = Mixture.log_density(s.mixture.to_data(s.ground.frame), s.sample.rows.x).sum()
    assert after.to_data(other.ground.frame).log_density(s.sample.rows.x).sum() > before


def test_the_sides_of_an_axis_are_told_by_it_alone() -> None:
    z = np.array([[-2.0, -0.5, 0.5, 2.0, 3.0], [0.1, -0.1, 0.1, -0.1, 0.0]])
    found = list(cuts(z, np.ones(5), np.array([1.0, 0.01]), np.eye(2)))
    assert [side.tolist() for side in found[:3]] == [list(z[0] > at) for at in (0, -1, 1)]


def whitened_cuts(x: FloatArray) -> list[FloatArray]:
    """Cuts of rows (n, d), as they are made of a component's own."""
    z = ((x - x.mean(axis=0)) / x.std(axis=0)).T
    values, vectors = np.linalg.eigh(np.cov(z, bias=True))
    return [side.astype(float) for side in cuts(z, np.ones(len(x)), values[::-1], vectors[:, ::-1])]


def agreement(found: list[FloatArray], group: FloatArray) -> float:
    """The share of rows that the best of the cuts has on their side."""
    return max(max((side == group).mean(), (side != group).mean()) for side in found)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_few_rows_far_away_are_cut_off_whichever_axis_they_lie_on(sign: float) -> None:
    """One row in fifty, along the axis of the least variance, which no principal cut and no two means see."""
    r = np.random.default_rng(4)
    x = r.standard_normal((5000, 6)) @ np.linalg.cholesky(0.9 * np.ones((6, 6)) + 0.1 * np.eye(6)).T
    group = (np.arange(5000) % 50 == 0).astype(float)
    x[:, 0] += sign * 3.0 * group
    x[:, 1] -= sign * 3.0 * group
    found = whitened_cuts(x)
    assert agreement(found, group) > 0.995
    assert agreement([*found[:4], *found[6:]], group) < 0.98


def test_two_groups_alike_are_cut_apart_whichever_axis_they_lie_on() -> None:
    """Along the axis of the least variance, where the lowest kurtosis is."""
    r = np.random.default_rng(4)
    x = r.standard_normal((5000, 6)) @ np.linalg.cholesky(0.95 * np.ones((6, 6)) + 0.05 * np.eye(6)).T
    group = (np.arange(5000) % 2).astype(float)
    x[:, 0] += 2.0 * (group - 0.5)
    x[:, 1] -= 2.0 * (group - 0.5)
    assert agreement(whitened_cuts(x)[4:5], group) > 0.99


def test_two_means_separate_two_groups_whatever_the_first_sides() -> None:
    r = np.random.default_rng(0)
    z = np.concatenate([r.normal(0, 0.3, (2, 40)), r.normal(4, 0.3, (2, 60))], axis=1)
    sides = two_means(z, np.ones(100), z[0] > 3.9)
    assert set(np.flatnonzero(sides)) in ({*range(40)}, {*range(40, 100)})


def test_weights_pull_the_two_means() -> None:
    z = np.array([[0.0, 1.0, 4.4, 10.0]])
    # the light row goes with the mean that it is nearer to, and does not move it
    light = two_means(z, np.array([1.0, 1.0, 1e-9, 1.0]), z[0] > 3)
    heavy = two_means(z, np.array([1.0, 1.0, 9.0, 1.0]), z[0] > 3)
    assert light.tolist() == [False, False, False, True]
    assert heavy.tolist() == [False, False, True, True]


@pytest.fixture
def binomial() -> Iterator[str]:
    FAMILIES["binomial"] = Binomial()
    yield "binomial"
    del FAMILIES["binomial"]


def test_any_family_is_cut_and_put_together(binomial: str) -> None:
    r = np.random.default_rng(3)
    x = r.binomial(100, np.array([[0.02, 0.09], [0.12, 0.03]])[r.integers(2, size=2000)]).astype(float)
    moments, family = Moments.of(x), get_family(binomial)
    frame = make_frame("identity", moments.mean, moments.covariance)
    ground = Ground(frame, moments.in_frame(frame), family.floor(1e-6, moments))
    s = Standing(one_component(family, ground), ground, SampleRows(Rows(x), lambda _: frame, 1), 1e-6)
    best = max(s.splits, key=lambda split: split.gain)
    cut = s.split(best)
    np.testing.assert_allclose(cut.means[np.argsort(cut.means[:, 0])], [[2, 9], [12, 3]], atol=0.3)
    two = Standing(cut, ground, s.sample, 1e-6)
    ((cost, i, j),) = two.merges
    merged = two.merge(i, j)
    assert merged is not None
    np.testing.assert_allclose(merged.means, [x.mean(axis=0)], rtol=1e-12)
    # the loss is that of the clearly separated pair, all but exactly: no row has to choose
    before, after = (a.log_likelihood for a in s.sample.accumulate([cut, merged]))
    entropy = -len(x) * float(cut.weights @ np.log(cut.weights))
    assert before - after == pytest.approx(cost - entropy, rel=0.02)


def test_what_is_shared_is_the_first_ones() -> None:
    family = get_family("tied")
    one, other = standing("tied", clouds()).mixture.components, standing("tied", clouds(), 2).mixture.components
    both = family.joined([one, other], np.ones(len(family.means(one)) + len(family.means(other))))
    np.testing.assert_array_equal(family.means(both), np.vstack([one.means, other.means]))
    np.testing.assert_array_equal(family.covariances(both), family.covariances(one))
