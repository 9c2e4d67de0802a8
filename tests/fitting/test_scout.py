"""What a scout proposes: what a climb on all the data may have missed, and what a simpler candidate grows to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dgmm
from dgmm.data import open_samples
from dgmm.em import Evaluated
from dgmm.engine.workers import threads
from dgmm.fits import Training
from dgmm.fitting import fit as fitting
from dgmm.fitting import passes_over
from dgmm.fitting.scout import Proposal, Scout
from dgmm.mixture import Mixture
from dgmm.search import Candidate, Starts, grounds_for
from dgmm.search.path import BUDGETS

CENTRES = np.array([[0.0, 0.0], [0.0, 12.0], [30.0, 0.0], [30.0, 6.0]])


def clouds(n: int = 30_000) -> np.ndarray:
    r = np.random.default_rng(2)
    return CENTRES[np.arange(n) % 4] + r.standard_normal((n, 2))


def scout_of(x: np.ndarray, starts: Starts | None = None, searches: bool = True, **options: Any) -> Scout:
    settings = Training(**options)
    passes = passes_over(open_samples(x), threads(2), settings)
    return Scout(passes, settings, starts or Starts({}, {}, {}, {}, {}), searches=searches)


def arrived(scout: Scout, mixture: Mixture) -> tuple[Candidate, Evaluated]:
    """A candidate where it stands on all the data."""
    c = Candidate(mixture.n_components, mixture.family.name)
    passes = scout.passes
    ground = grounds_for([c], passes.profile.moments, passes.frame, 1e-6)[c.covariance_type]
    inside = mixture.to_frame(ground.frame)
    (statistics,) = passes.accumulate([inside])
    return c, Evaluated.of(inside, statistics, ground)


def log_likelihood(scout: Scout, proposal: Proposal) -> float:
    mixture = proposal.mixture.to_data(scout.passes.frame(proposal.mixture.family.frame))
    return arrived(scout, mixture)[1].log_likelihood


def stuck() -> Mixture:
    """Two components on one of four clouds, and one on two."""
    means = np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, 12.0], [30.0, 3.0]])
    covariances = np.array([np.eye(2)] * 3 + [np.diag([1.0, 10.0])])
    return Mixture.gaussian("full", [0.125, 0.125, 0.25, 0.5], means, covariances)


def right() -> Mixture:
    """One component on each of four clouds."""
    return Mixture.gaussian("full", np.ones(4), CENTRES, np.array([np.eye(2)] * 4))


@pytest.mark.parametrize(("effort", "most"), [("quick", 3), ("standard", 7), ("thorough", 12)])
def test_moves_from_where_the_winner_has_arrived(effort: str, most: int) -> None:
    scout = scout_of(clouds(), search=effort, worst_rows=0, start_rows=5000, sample_rows=15_000)
    c, point = arrived(scout, stuck())
    found = [proposal for _, proposal in scout.missed({c: point}, {c: ()})]
    assert 0 < len(found) <= most == BUDGETS[scout.options.search].pairs
    assert all(p.at_once for p in found)
    # the first one puts it right, at once, but for what half of the rows leave undecided
    assert log_likelihood(scout, found[0]) > arrived(scout, right())[1].log_likelihood - 100
    assert arrived(scout, right())[1].log_likelihood > point.log_likelihood + 5000


@pytest.mark.parametrize(
    ("effort", "start_rows", "sample_rows", "moves"),
    [
        ("quick", 5000, 15_001, True),  # whose rounds are over the smallest sample alone
        ("quick", 15_001, 15_001, False),
        ("standard", 5000, 15_000, True),
        ("standard", 5000, 15_001, False),
        ("thorough", 5000, 15_001, False),
    ],
)
def test_no_moves_where_rounds_have_ended_on_most_of_the_data(
    effort: str, start_rows: int, sample_rows: int, moves: bool
) -> None:
    scout = scout_of(clouds(), search=effort, worst_rows=0, start_rows=start_rows, sample_rows=sample_rows)
    c, point = arrived(scout, stuck())
    assert bool(list(scout.missed({c: point}, {c: ()}))) == moves


def test_other_tops_of_the_sample_are_proposed_too() -> None:
    x = clouds()
    scout = scout_of(x, worst_rows=0)
    c, point = arrived(scout, stuck())
    other = right().to_frame(point.ground.frame)
    scout = scout_of(x, Starts({}, {}, {}, {}, {c: (other,)}), worst_rows=0)
    (_, first), *_ = scout.missed({c: point}, {c: ()})
    assert first.mixture is other
    assert not first.at_once


@pytest.mark.parametrize("worst_rows", [0, 1000])
def test_what_has_collapsed_or_asked_for_starts_alone_gets_no_moves(worst_rows: int) -> None:
    for searches, gone in ((False, ()), (True, (0,))):
        scout = scout_of(clouds(), searches=searches, worst_rows=worst_rows)
        c, point = arrived(scout, stuck())
        found = list(scout.missed({c: point}, {c: gone}))
        assert all("worst" in proposal.why for _, proposal in found)
        assert worst_rows or not found
    assert list(scout_of(clouds(), searches=False).beyond(Candidate(5, "full"), point)) == []


@pytest.mark.parametrize(
    ("kind", "inner"), [("full", "full"), ("full", "diag"), ("diag", "spherical"), ("full", "tied")]
)
def test_what_a_simpler_mixture_grows_to_is_no_less_likely(kind: str, inner: str) -> None:
    scout = scout_of(clouds())
    two = dgmm.train(clouds(), 2, inner, worst_rows=0).mixture
    _, point = arrived(scout, two)
    grown, same = scout.beyond(Candidate(4, kind), point)
    assert {p.mixture.n_components for p in (grown, same)} == {4}
    assert {p.mixture.family.name for p in (grown, same)} == {kind}
    # with twins it is the same density, or of another family the step from there on half of the rows
    assert log_likelihood(scout, same) >= point.log_likelihood - (1e-6 if kind == inner else 20)
    assert log_likelihood(scout, grown) > point.log_likelihood + 1000
    assert grown.why == f"what {inner} K=2 grows to on the sample"


def test_the_likelihood_does_not_fall_whatever_the_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four components begin where two are far from all rows: the climb ends below three."""
    start = fitting.start_on_sample

    def worse(*given: Any, **more: Any) -> Starts:
        found = start(*given, **more)
        bad = Candidate(4, "full")
        m = found.mixtures[bad]
        far = type(m.components)(np.tile(m.components.means.mean(axis=0), (4, 1)), np.tile(3 * np.eye(2), (4, 1, 1)))
        found.mixtures[bad] = Mixture(m.family, np.full(4, 0.25), far)
        return found

    how = {"keep_all": True, "worst_rows": 0}
    monkeypatch.setattr(fitting, "start_on_sample", worse)
    bad = dgmm.select(clouds(), [2, 3, 4], ["full"], search="starts", **how)
    good = dgmm.select(clouds(), [2, 3, 4], ["full"], **how)
    monkeypatch.undo()
    values, expected = ({f.n_components: f.log_likelihood for f in s.fits} for s in (bad, good))
    assert values[4] < values[3], "or this shows nothing"
    assert expected[4] > expected[3] > expected[2]
    assert expected[4] == pytest.approx(dgmm.train(clouds(), 4, worst_rows=0).log_likelihood, abs=0.1)
