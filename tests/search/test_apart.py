"""Mixtures that climb apart: all in step, and each as if it were alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dgmm.em import Ascent, Ground, climb
from dgmm.families import Moments, get_family, make_frame
from dgmm.mixture import Mixture
from dgmm.rows import Rows
from dgmm.search import apart
from dgmm.search.apart import Apart, Portion, alive, climb_apart, evaluate
from dgmm.search.initialise import from_shares
from dgmm.search.sampled import SampleRows
from dgmm.types import FloatArray

KINDS = ["full", "tied", "diag", "spherical", "EEV", "t_full", "t_tied", "t_diag:4", "factors:1", "gamma"]
#: Rows of three portions, which overlap.
PLACES = np.arange(0, 900), np.arange(300, 1500), np.arange(1, 1500, 2)


def rows_of(lacking: bool = False, scale: float = 1.0) -> FloatArray:
    r = np.random.default_rng(7)
    x = r.standard_normal((1500, 3)) * r.uniform(0.5, 2, 3)
    x[::3] += [4.0, 0.0, -2.0]
    x[1::3] *= scale
    if lacking:
        x[r.random(x.shape) < 0.05] = np.nan
        x[np.isnan(x).all(axis=1)] = 0.0
    return x


def portions_of(kind: str, x: FloatArray, reg_covar: float = 1e-6, **given: object) -> list[Portion]:
    known = x[~np.isnan(x).any(axis=1)]
    moments, family = Moments.of(known), get_family(kind)
    sample = SampleRows(Rows(x), lambda its: make_frame(its, moments.mean, moments.covariance), 2)
    frame = sample.frame(family.frame)
    inside = sample.moments.in_frame(frame)
    ground = Ground(frame, inside, family.floor(reg_covar, inside), marginal=sample.marginal, **given)  # type: ignore[arg-type]
    r = np.random.default_rng(8)
    return [Portion(sample, places, r.uniform(0.2, 1.0, len(places)), ground) for places in PLACES]


def starts_on(portion: Portion, family_name: str, n: int = 2) -> list[Mixture]:
    """Mixtures of two components that are made of random shares."""
    family = get_family(family_name)
    y = portion.sample.coordinates(family.frame)[:, portion.own]
    r = np.random.default_rng(len(portion.own))
    shares = r.dirichlet(np.ones(2), (n, y.shape[1]))
    return [from_shares(family, y, portion.r * its.T, portion.ground, None) for its in shares]


def alone(a: Apart, passes: int) -> Ascent:
    """The same by the climb that all others make."""
    portion = a.portion
    filled = Rows(portion.sample.filled.x[portion.own], portion.r)
    sample = SampleRows(portion.rows, portion.sample.frame, 1, filled=filled)
    ascent = Ascent(a.mixture, portion.ground, acceleration="none", stop=lambda _: False)
    list(climb([ascent], sample.accumulate, passes))
    return ascent


def assert_same(kind: str, portions: list[Portion]) -> None:
    each = [Apart(p, start) for p in portions for start in starts_on(p, kind)]
    expected = [alone(a, 4) for a in each]
    climb_apart(each, 4)
    for a, ascent in zip(each, expected, strict=True):
        assert not a.collapsed
        assert a.objective == pytest.approx(ascent.trajectory[-1], rel=1e-9)
        np.testing.assert_allclose(a.mixture.weights, ascent.proposal.weights, rtol=1e-7)
        np.testing.assert_allclose(a.mixture.means, ascent.proposal.means, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(a.mixture.covariances, ascent.proposal.covariances, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_each_climbs_as_if_it_were_alone(kind: str) -> None:
    x = rows_of()
    assert_same(kind, portions_of(kind, np.exp(x) if kind == "gamma" else x))


@pytest.mark.parametrize("kind", ["full", "tied"])
def test_with_missing_values(kind: str) -> None:
    assert_same(kind, portions_of(kind, rows_of(lacking=True)))


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_with_a_prior(kind: str) -> None:
    portions = portions_of(kind, rows_of())
    ground = portions[0].all_rows
    prior = get_family(kind).prior(ground.moments)
    assert prior is not None
    for p in portions:
        p.all_rows = replace(ground, prior=prior)
    assert_same(kind, portions)


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_with_a_component_too_narrow_for_the_common_frame(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    portions = portions_of(kind, rows_of(scale=1e-7), reg_covar=0.0)
    each = [Apart(portions[0], start) for start in starts_on(portions[0], kind)]
    # a component on the narrow rows alone
    wide, narrow = (PLACES[0] % 3 != 1).astype(float), (PLACES[0] % 3 == 1).astype(float)
    p = portions[0]
    y = p.sample.coordinates(get_family(kind).frame)[:, p.own]
    each.append(Apart(p, from_shares(get_family(kind), y, p.r * np.array([wide, narrow]), p.ground, None)))
    expected = [alone(a, 3) for a in each]
    assert expected[-1].best is not None
    assert expected[-1].best.statistics.local.any(), "or this shows nothing"
    climb_apart(each, 3)
    for a, ascent in zip(each, expected, strict=True):
        assert a.objective == pytest.approx(ascent.trajectory[-1], rel=1e-9)


def test_what_collapses_stays_behind_alone() -> None:
    """Without a floor: one of the mixtures has a component on a single value."""
    x = rows_of()
    x[1::3] = 5.0
    portions = portions_of("full", x, reg_covar=0.0)
    each = [Apart(p, start) for p in portions for start in starts_on(p, "full")]
    p = portions[1]
    shares = np.array([p.own % 3 == 1, p.own % 3 != 1]) * p.r
    y = p.sample.coordinates("whitening")[:, p.own]
    floored = replace(p.ground, floor=1e-12 * np.eye(3))
    doomed = Apart(p, from_shares(get_family("full"), y, shares, floored, None))
    expected = [alone(a, 3) for a in each]
    climb_apart([each[0], doomed, *each[1:]], 3)
    assert doomed.collapsed
    assert alive([doomed, *each]) == each
    for a, ascent in zip(each, expected, strict=True):
        assert a.objective == pytest.approx(ascent.trajectory[-1], rel=1e-9)
    before = doomed.mixture
    climb_apart([doomed], 2)
    assert doomed.mixture is before


def test_an_evaluation_moves_nothing() -> None:
    (p, *_) = portions_of("full", rows_of())
    a = Apart(p, starts_on(p, "full")[0])
    before = a.mixture
    (point,) = evaluate([a])
    assert a.mixture is before
    expected = p.r @ before.to_data(p.all_rows.frame).log_density(p.rows.x)
    assert a.objective == point.log_likelihood == pytest.approx(expected, rel=1e-12)
    assert evaluate([]) == []


@pytest.mark.parametrize("kept", [0, 1, 2**26])
def test_rows_that_are_kept_change_nothing(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are taken from the sample once, as far as there is room for them, or in every pass."""
    portions = portions_of("full", rows_of())
    monkeypatch.setattr(apart, "KEPT_BYTES", portions[0].nbytes if kept == 1 else kept)
    taken: list[int] = []
    rows = Portion.rows.fget
    assert rows is not None
    monkeypatch.setattr(Portion, "rows", property(lambda self: (taken.append(len(self.own)), rows(self))[1]))
    each = [Apart(p, start) for p in portions for start in starts_on(p, "full")]
    climb_apart(each, 3)
    times = {0: [3, 3, 3], 1: [1, 3, 3], 2**26: [1, 1, 1]}[kept]
    assert [taken.count(len(places)) for places in PLACES] == times
    assert portions[0].nbytes == portions[0].rows.nbytes
    monkeypatch.undo()
    again = [Apart(p, start) for p in portions for start in starts_on(p, "full")]
    climb_apart(again, 3)
    assert [a.objective for a in again] == [a.objective for a in each]


def test_the_bits_are_those_of_one_thread() -> None:
    found = []
    for n_threads in (1, 3):
        portions = portions_of("full", rows_of())
        sample = portions[0].sample
        for p in portions:
            p.sample = SampleRows(sample.rows, sample.frame, n_threads)
        each = [Apart(p, start) for p in portions for start in starts_on(p, "full")]
        climb_apart(each, 3)
        found.append([a.objective for a in each])
    assert found[0] == found[1]


def test_what_has_no_likelihood_stays_behind() -> None:
    (p, *_) = portions_of("full", rows_of())
    one, lost = (Apart(p, start) for start in starts_on(p, "full"))
    lost.mixture = replace(lost.mixture, weights=np.array([np.nan, 1.0]))
    before = one.mixture
    climb_apart([lost, one], 2)
    assert lost.collapsed
    assert not one.collapsed
    assert one.mixture is not before
