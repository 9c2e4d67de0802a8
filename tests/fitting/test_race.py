"""The race on all the data, played to a script: no data, only what each pass is to say.

A script lists a candidate's criterion (BIC, leader near zero) pass by pass, and what it estimates to gain yet. Expected
is who is dropped, revived, challenged or collapsed, and after which pass: the numbers in this file are the rules' own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dgmm import em
from dgmm.em import Ascent, Evaluated, Ground
from dgmm.errors import CollapseError, InsufficientMemoryError
from dgmm.estep import SOFT
from dgmm.families import Frame, Moments, SufficientStatistics
from dgmm.fits import Outcome, OutcomeKind, Training
from dgmm.fits.results import CriterionTerms
from dgmm.fitting import race
from dgmm.fitting.race import Race
from dgmm.fitting.runner import TRANSITIONS, Runner, State
from dgmm.fitting.scout import Proposal
from dgmm.mixture import Mixture
from dgmm.search.sampled import Candidate
from dgmm.types import Criterion
from tests.scripts import scripted

N = 1000
MOMENTS = Moments(float(N), np.zeros(1), np.array([[float(N)]]))
GROUND = Ground(Frame(np.zeros(1), np.ones(1), np.ones(1)), MOMENTS, np.zeros((1, 1)))
A, B, C = (Candidate(k, "spherical") for k in (2, 3, 4))
#: Where a challenger's components lie.
ELSEWHERE, BEYOND = 5.0, 7.0


@dataclass
class Script:
    """What becomes of one candidate, or of its challenger.

    Attributes
    ----------
    values : sequence of float
        The criterion after each pass; the last one stays.
    remaining : float
        What it estimates to gain yet, on the scale of the criterion, after every pass.
    lasts : int
        After so many passes it has arrived: no gain to come.
    collapses, recovers : int
        From the first of these passes until the other its components mean nothing.
    fails : int
        After this pass its M-step fails.
    double : float, optional
        The criterion of its end in double precision.
    """

    values: Sequence[float]
    remaining: float = 0.1
    lasts: int = 30
    collapses: int = 10**6
    recovers: int = 10**6
    fails: int = 10**6
    double: float | None = None
    passes: int = field(default=0, init=False)


def mixture(k: int, place: float = 0.0) -> Mixture:
    return Mixture.gaussian("spherical", np.ones(k), np.full((k, 1), place), np.ones(k))


def gaining(bic: float, passes: int) -> list[float]:
    """A criterion that is reached in so many passes, each of which says that it gains."""
    return np.linspace(bic + 0.09, bic, passes).tolist()


def log_likelihood(k: int, bic: float) -> float:
    return 0.5 * (mixture(k).n_parameters * np.log(N) - bic)


class Play:
    """A race to scripts, and the passes that it makes."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        scripts: dict[Candidate, Script],
        challengers: dict[Candidate, Script] | None = None,
        attainable: dict[Candidate, float] | None = None,
        dtype: str = "float64",
        beyond: dict[Candidate, Script] | None = None,
        at_once: bool = False,
        **options: Any,
    ) -> None:
        self.scripts = {(c.n_components, 0.0): s for c, s in scripts.items()}
        self.scripts |= {(c.n_components, ELSEWHERE): s for c, s in (challengers or {}).items()}
        self.scripts |= {(c.n_components, BEYOND): s for c, s in (beyond or {}).items()}
        self.dtype = np.dtype(dtype)
        self.samples = SimpleNamespace(features=("x",), layout=None, labels=None)
        self.sharing = SOFT
        sample = SimpleNamespace(first=lambda n: None)
        self.profile = SimpleNamespace(n_samples=N, n_missing=0, held_out=SimpleNamespace(count=0.0), sample=sample)
        #: Who took part in each pass, and in those in double precision.
        self.seen: list[list[tuple[int, float]]] = []
        self.measured: list[list[tuple[int, float]]] = []
        self.looked = 0
        self.fallen: list[tuple[Candidate, int]] = []
        self.at_once = at_once
        monkeypatch.setitem(em.METHODS, "none", scripted(self._climb))
        monkeypatch.setattr(race, "unsound_components", self._unsound)
        starts = {c: Ascent(mixture(c.n_components), GROUND, None, "none") for c in scripts}
        settings = Training(**{"accelerate": "none", "start_rows": 100, **options})
        self.race = Race(self, starts, settings, Criterion.BIC, attainable or {}, self)  # type: ignore[arg-type]

    def clock(self) -> float:
        return time.perf_counter()

    def _key(self, m: Mixture) -> tuple[int, float]:
        return m.n_components, float(m.means[0, 0])

    def _climb(self, start: Mixture, ground: Ground) -> Iterator[Any]:
        script, remaining = self.scripts[self._key(start)], np.inf
        while True:
            yield start, remaining
            if script.passes == script.fails:
                raise CollapseError("component 1 collapsed: no extent", (1,))
            remaining = 0.0 if script.passes >= script.lasts else script.remaining / 2

    def _unsound(self, a: Ascent, reg_covar: float) -> tuple[int, ...]:
        script = self.scripts[self._key(a.mixture)]
        return (0,) if script.collapses <= script.passes < script.recovers else ()

    def missed(self, points: Mapping[Candidate, Evaluated], collapsed: Any) -> Iterator[tuple[Candidate, Proposal]]:
        """The scout's part."""
        self.looked += bool(points)
        for c in points:
            if (c.n_components, ELSEWHERE) in self.scripts:
                yield c, Proposal(mixture(c.n_components, ELSEWHERE), "elsewhere", self.at_once)

    def beyond(self, c: Candidate, inner: Evaluated) -> Iterator[Proposal]:
        """The scout's part."""
        self.fallen.append((c, inner.mixture.n_components))
        if (c.n_components, BEYOND) in self.scripts:
            yield Proposal(mixture(c.n_components, BEYOND), "beyond")

    def accumulate(self, mixtures: Sequence[Mixture], dtype: np.dtype[Any] | None = None) -> list[SufficientStatistics]:
        keys, found = [self._key(m) for m in mixtures], []
        (self.seen if dtype is None else self.measured).append(keys)
        for key in keys:
            script = self.scripts[key]
            if dtype is None:
                value = script.values[min(script.passes, len(script.values) - 1)]
                script.passes += 1
            else:
                assert dtype == np.float64
                assert script.double is not None
                value = script.double
            sums, local = np.ones((key[0], 3)), np.zeros(key[0], dtype=bool)
            found.append(SufficientStatistics(log_likelihood(key[0], value), float(N), sums, local, 0.0))
        return found

    def run(self, *, keep_all: bool = False) -> dict[Candidate, Outcome]:
        self.race.run(keep_all=keep_all)
        fits, failed = self.race.results()
        return {c: f.outcome for c, f in fits.items()} | failed


def outcome_of_two(monkeypatch: pytest.MonkeyPatch, second: Script, **how: Any) -> str:
    """What becomes of a candidate beside one that stays at a criterion of zero for 30 passes."""
    return Play(monkeypatch, {A: Script([0.0]), B: second}, **how).run()[B].state


#: Falls as an early climb does, and then by the numbers given.
FALLING = [1000.0, 500.0, 100.0]


@pytest.mark.parametrize(
    ("second", "state"),
    [
        # by a margin of 10, with twice the gain that it estimates
        (Script([9.7], remaining=0.1), "converged"),
        (Script([10.15], remaining=0.1), "converged"),
        (Script([10.25], remaining=0.1), "dropped at pass 6"),
        (Script([27.9], remaining=9), "converged"),
        (Script([28.1], remaining=9), "dropped at pass 6"),
        # what the later half of its passes has gained counts where that is more, and twice as well
        (Script([*FALLING, 90, 80, 69.9], lasts=6), "converged"),
        (Script([*FALLING, 90, 80, 70.1], lasts=7), "dropped at pass 6"),
        # of seven passes, the last three against the best of the first four
        (Script([*FALLING, 99, 80, 69.9, 69.6]), "dropped at pass 7"),
        (Script([*FALLING, 99, 80, 69.9, 69.3], lasts=8), "converged"),
        # a gain of the first half is over
        (Script([1000, 100, 99.9, 99.9, 99.9, 99.9]), "dropped at pass 6"),
        # nobody is dropped before the sixth pass, or after it has arrived
        (Script([1e6], lasts=5), "converged"),
        (Script([1e6], lasts=6), "converged"),
        (Script([1e6], lasts=7), "dropped at pass 6"),
        # it comes from behind
        (Script([*FALLING, 50, 20, 1, -50], lasts=8), "converged"),
    ],
)
def test_who_is_dropped_and_when(monkeypatch: pytest.MonkeyPatch, second: Script, state: str) -> None:
    assert outcome_of_two(monkeypatch, second) == state


@pytest.mark.parametrize(
    ("value", "hope", "state"),
    [
        # twice the hope on the sample, of so many nats per sample, and the margin
        (10 + 2 * N * 0.05 - 0.1, 0.05, "dropped at pass 6"),
        (10 + 2 * N * 0.05 + 0.1, 0.05, "dropped at pass 1"),
        (1e6, np.inf, "dropped at pass 6"),
    ],
)
def test_what_cannot_win_on_the_sample_shows_its_criterion_once(
    monkeypatch: pytest.MonkeyPatch, value: float, hope: float, state: str
) -> None:
    attainable = {B: hope} if hope < np.inf else {}
    assert outcome_of_two(monkeypatch, Script([value]), attainable=attainable) == state


def test_nobody_is_dropped_where_all_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(monkeypatch, {A: Script([0.0]), B: Script([1e6])}, attainable={B: 0.0})
    assert {o.state for o in play.run(keep_all=True).values()} == {"converged"}


def test_what_is_dropped_takes_part_in_no_further_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(monkeypatch, {A: Script([0.0], lasts=9), B: Script([1e3]), C: Script([1e3], lasts=2)})
    outcomes = play.run()
    assert [len(seen) for seen in play.seen] == [3, 3, 2, 2, 2, 2, 1, 1, 1]
    assert outcomes[B].reason == "bic 1000, at most 0.2 less by this climb, cannot reach 0 of spherical K=2"
    assert outcomes[C].state == "converged", "what has arrived is there"


def test_passes_end_at_max_iter(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(monkeypatch, {A: Script([0.0]), B: Script([5.0], lasts=3)}, max_iter=4)
    outcomes = play.run()
    assert outcomes == {A: Outcome(OutcomeKind.STOPPED, 4), B: Outcome(OutcomeKind.CONVERGED, 3)}
    assert play.looked == 0, "no pass is left to try anything"


@pytest.mark.parametrize(("share", "converged"), [(0.99, True), (1.01, False)])
def test_a_gain_of_a_thousandth_of_chance_is_none(
    monkeypatch: pytest.MonkeyPatch, share: float, converged: bool
) -> None:
    """Half a nat per parameter is what chance gives; the script's gains are twice that, on the scale of BIC."""
    enough = 1e-3 * mixture(A.n_components).n_parameters
    play = Play(monkeypatch, {A: Script([0.0], remaining=share * enough)}, max_iter=5)
    assert (play.run()[A].state == "converged") == converged


# ---- collapse -------------------------------------------------------------------------------------------------------


def test_those_that_lost_to_what_collapsed_climb_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropped at the sixth pass; the leader collapses at the eighth, and is done."""
    play = Play(monkeypatch, {A: Script([0.0], lasts=8, collapses=8), B: Script([1e3] * 8 + [900.0], lasts=12)})
    outcomes = play.run()
    assert [len(seen) for seen in play.seen[:9]] == [2, 2, 2, 2, 2, 2, 1, 1, 1]
    assert outcomes[A].state == "collapsed"
    assert outcomes[A].components == (0,)
    assert outcomes[B] == Outcome(OutcomeKind.CONVERGED, 12)


def test_what_is_left_when_the_passes_are_used_up_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """It lost to what has collapsed: it has not been dropped for good reason, and there is no pass left for it."""
    outcomes = Play(monkeypatch, {A: Script([0.0], collapses=8), B: Script([1e3])}, max_iter=8).run()
    assert outcomes[A].state == "collapsed"
    assert outcomes[B] == Outcome(OutcomeKind.STOPPED, 6)


def test_those_far_behind_are_not_taken_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that were dropped, the one that could never win stays out."""
    scripts = {A: Script([0.0], lasts=8, collapses=8), B: Script([1e3], lasts=12), C: Script([5e3])}
    outcomes = Play(monkeypatch, scripts).run()
    assert outcomes[B].state == "converged"
    assert outcomes[C].state == "dropped at pass 6"
    assert "of spherical K=2" in outcomes[C].reason


def test_what_was_taken_up_again_may_lose_to_the_new_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = {
        A: Script([0.0], lasts=8, collapses=8),
        B: Script([1e3] * 9 + [900.0], lasts=12),
        C: Script([1100.0], remaining=60, lasts=20),
    }
    outcomes = Play(monkeypatch, scripts).run()
    assert outcomes[B] == Outcome(OutcomeKind.CONVERGED, 12)
    assert outcomes[C].state == "dropped at pass 12", "when the new leader is there: it missed two passes"
    assert outcomes[C].reason == "bic 1100, at most 120 less by this climb, cannot reach 900 of spherical K=3"


def test_what_has_collapsed_leads_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(monkeypatch, {A: Script([0.0], collapses=0), B: Script([1e3]), C: Script([2e3])})
    outcomes = play.run()
    assert outcomes[B].state == "converged"
    assert outcomes[C].state == "dropped at pass 6"
    assert outcomes[C].reason.endswith("cannot reach 1000 of spherical K=3")


def test_a_climb_that_fails_has_collapsed_though_its_best_mixture_looks_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(monkeypatch, {A: Script([0.0], fails=4), B: Script([1e3])}, reg_covar=0.5, on_collapse="report")
    outcomes = play.run()
    assert outcomes[A] == Outcome(
        OutcomeKind.COLLAPSED,
        4,
        (1,),
        "component 1 has too few samples or no extent, which ended its climb at pass 4: lower n_components (2) or "
        "raise reg_covar (0.5)",
    )
    assert outcomes[B].state == "converged"


def test_a_likelihood_that_is_none_is_no_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = Play(monkeypatch, {A: Script([np.nan], lasts=1), B: Script([1e3])}).run()
    assert outcomes[A] == Outcome(OutcomeKind.FAILED, 1, (), "its log-likelihood is nan")
    assert outcomes[B].state == "converged"


# ---- challengers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("challenger", "passes"),
    [
        (Script([-1.0], lasts=3), 13),  # better
        (Script([1.0], lasts=3), 10),  # worse
        (Script([0.0], lasts=3), 10),  # the same
        (Script([-50.0], lasts=3, collapses=2), 10),  # better, and means nothing
        (Script([-50.0], lasts=9, fails=2), 10),  # better, and its climb fails
        (Script([np.nan], lasts=3), 10),
    ],
)
def test_a_challenger_wins_by_its_likelihood_if_it_is_sound(
    monkeypatch: pytest.MonkeyPatch, challenger: Script, passes: int
) -> None:
    play = Play(monkeypatch, {A: Script([0.0], lasts=10), B: Script([100.0], lasts=10)}, {A: challenger})
    outcomes = play.run()
    assert outcomes[A] == Outcome(OutcomeKind.CONVERGED, passes)
    fit = play.race.to_fit(A)
    assert fit.bic == pytest.approx(-1.0 if passes > 10 else 0.0)
    assert fit.n_passes == len(fit.trajectory) == len(fit.seconds) == len(fit.remaining_gains) == passes
    assert play.looked == 1


@pytest.mark.parametrize(
    ("values", "left"),
    [
        # after six passes, if twice the gain of the later half does not make up for what is lacking
        ([1e3, 1e3, 100.0, 60.0, 50.0, 40.2], False),  # 40.2 - 2 * 59.8 < 0
        ([1e3, 1e3, 100.0, 99.0, 98.0, 66.6], False),  # 66.6 - 2 * 33.4 < 0
        ([1e3, 1e3, 100.0, 99.0, 98.0, 66.8], True),  # 66.8 - 2 * 33.2 > 0
        ([1e3, 1e3, 1e3, 1e3, 1e3, 900.0], True),
    ],
)
def test_a_challenger_that_cannot_reach_the_winner_is_left(
    monkeypatch: pytest.MonkeyPatch, values: list[float], left: bool
) -> None:
    play = Play(monkeypatch, {A: Script([0.0], lasts=2)}, {A: Script(values)})
    play.run()
    assert (play.scripts[2, ELSEWHERE].passes == 6) == left


def test_only_the_winner_is_challenged_and_collapsed_ones_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    again = {c: Script([1e4], lasts=9) for c in (A, B, C)}
    scripts = {A: Script([0.0], lasts=3), B: Script([5.0], lasts=3), C: Script([-99.0], lasts=3, collapses=0)}
    play = Play(monkeypatch, scripts, again)
    outcomes = play.run()
    # what has collapsed is replaced whatever that costs, and by a climb to its end
    assert outcomes == {
        A: Outcome(OutcomeKind.CONVERGED, 3),
        B: Outcome(OutcomeKind.CONVERGED, 3),
        C: Outcome(OutcomeKind.CONVERGED, 12),
    }
    assert [script.passes for script in again.values()] == [6, 0, 9]
    assert play.race.to_fit(C).bic == pytest.approx(1e4)


def test_a_climb_that_failed_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = {A: Script([0.0], fails=4), B: Script([1e3], lasts=9)}
    outcomes = Play(monkeypatch, scripts, {A: Script([50.0], lasts=3)}).run()
    assert outcomes[A] == Outcome(OutcomeKind.CONVERGED, 7)


@pytest.mark.parametrize(
    ("how", "tried"),
    [
        ({"on_collapse": "report"}, False),
        ({"on_collapse": "reseed"}, True),
        ({}, False),  # in training
    ],
)
def test_whether_a_collapse_tries_again_is_a_setting(
    monkeypatch: pytest.MonkeyPatch, how: dict[str, Any], tried: bool
) -> None:
    play = Play(monkeypatch, {A: Script([0.0], lasts=3, collapses=2)}, {A: Script([50.0], lasts=3)}, **how)
    assert play.run()[A].state == ("converged" if tried else "collapsed")
    assert play.looked == tried


@pytest.mark.parametrize(("start_rows", "looks"), [(N - 1, 1), (N, 0)])
def test_what_the_starts_have_seen_whole_needs_no_look(
    monkeypatch: pytest.MonkeyPatch, start_rows: int, looks: int
) -> None:
    play = Play(monkeypatch, {A: Script([0.0], lasts=2)}, start_rows=start_rows)
    play.run()
    assert play.looked == looks


@pytest.mark.parametrize(
    ("values", "passes", "bic"),
    [
        ([0.0], 1, 0.0),  # no gain, no second pass
        ([1.0, -9.0], 1, 0.0),
        ([-0.1, -9.0], 9, -9.0),
    ],
)
def test_what_has_climbed_on_the_sample_gains_at_once_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, values: list[float], passes: int, bic: float
) -> None:
    challenger = Script(values, lasts=9)
    play = Play(monkeypatch, {A: Script([0.0], lasts=2)}, {A: challenger}, at_once=True)
    play.run()
    assert challenger.passes == passes
    assert play.race.to_fit(A).bic == pytest.approx(bic)


def test_challengers_that_take_too_much_memory_together_are_evaluated_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few as candidates were evaluated together have room, and no fewer are tried."""
    play = Play(monkeypatch, {A: Script([0.0], lasts=2)}, {A: Script([-1.0], lasts=3)})
    monkeypatch.setattr(play, "missed", lambda *given: list(Play.missed(play, *given)) * 5)
    accumulate, made = play.accumulate, []

    def little(mixtures: Sequence[Mixture], dtype: Any = None) -> Any:
        made.append(len(mixtures))
        if len(mixtures) > room:
            raise InsufficientMemoryError("too much")
        return accumulate(mixtures, dtype)

    monkeypatch.setattr(play, "accumulate", little)
    room = 1
    play.run()
    assert made[2:11] == [5, 2, 1, 1, 3, 1, 2, 1, 1]
    assert play.race.to_fit(A).bic == pytest.approx(-1.0)
    play, room = Play(monkeypatch, {A: Script([0.0], lasts=2)}), 0
    monkeypatch.setattr(play, "accumulate", little)
    with pytest.raises(InsufficientMemoryError, match="too much"):
        play.run()


# ---- where the likelihood has fallen ----------------------------------------------------------------------------


def bic_of(k: int, more: float) -> float:
    """The criterion of K components that are more likely than two at a criterion of zero by so many nats."""
    return (mixture(k).n_parameters - mixture(2).n_parameters) * np.log(N) - 2 * more


#: What climbs of four components leave undecided.
UNDECIDED = 0.02 * 0.5 * mixture(4).n_parameters


@pytest.mark.parametrize(
    ("more", "remaining", "fell"),
    [
        (1.0, 0.0, False),
        (0.01 - UNDECIDED, 0.0, False),
        (-0.01 - UNDECIDED, 0.0, True),
        (-0.01 - UNDECIDED, 0.1, False),  # it may gain that yet
    ],
)
def test_the_likelihood_has_fallen_where_more_components_are_less_likely(
    monkeypatch: pytest.MonkeyPatch, more: float, remaining: float, fell: bool
) -> None:
    scripts = {A: Script([0.0], lasts=9), C: Script([bic_of(4, more)], 2 * remaining, lasts=40 if remaining else 9)}
    play = Play(monkeypatch, scripts, max_iter=9 if remaining else 1000)
    if remaining:
        play.race._climb(keep_all=True)
        assert (C in play.race.fallen()) == fell
        return
    play.run(keep_all=True)
    assert play.fallen == ([(C, 2)] if fell else [])


def test_what_a_simpler_candidate_grows_to_takes_the_place_of_what_fell(monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = {A: Script([0.0], lasts=9), B: Script([bic_of(3, 50)], lasts=9), C: Script([bic_of(4, -9)], lasts=9)}
    play = Play(monkeypatch, scripts, beyond={C: Script([bic_of(4, 40), bic_of(4, 51)], lasts=8)})
    outcomes = play.run(keep_all=True)
    assert play.fallen == [(C, 3)], "it contains both, and three are more likely"
    assert play.race.to_fit(C).log_likelihood == pytest.approx(log_likelihood(2, 0) + 51)
    assert outcomes[C] == Outcome(OutcomeKind.CONVERGED, 17)


@pytest.mark.parametrize("keep_all", [False, True])
def test_what_fell_and_cannot_win_either_way_is_dropped_again(monkeypatch: pytest.MonkeyPatch, keep_all: bool) -> None:
    scripts = {A: Script([0.0], lasts=20), C: Script([100.0], lasts=20)}
    play = Play(monkeypatch, scripts, beyond={C: Script([bic_of(4, 0.1)], lasts=20)})
    outcomes = play.run(keep_all=keep_all)
    assert play.fallen == [(C, 2)]
    assert outcomes[C].state == ("converged" if keep_all else "dropped at pass 26")
    assert play.race.to_fit(C).log_likelihood == pytest.approx(log_likelihood(2, 0) + 0.1)


# ---- single precision -----------------------------------------------------------------------------------------------


def test_the_end_of_single_precision_is_told_in_double_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """All candidates share it, the dropped one and the challenger too."""
    scripts = {
        A: Script(gaining(0.0, 9), lasts=9, double=0.3),
        B: Script(gaining(1e3, 9), double=1001.0),
        C: Script(gaining(4.0, 9), 0.1, 9, double=4.4),
    }
    play = Play(monkeypatch, scripts, {A: Script([1.0], lasts=2, double=-0.5)}, dtype="float32")
    outcomes = play.run()
    assert play.measured == [[(2, 0.0), (3, 0.0), (4, 0.0), (2, ELSEWHERE)]]
    assert {c: play.race.to_fit(c).bic for c in (A, B, C)} == pytest.approx({A: -0.5, B: 1001.0, C: 4.4})
    assert outcomes[A].at_pass == 11, "better in double precision, if not in single"
    assert outcomes[B].state == "dropped at pass 6"


def test_what_single_precision_dropped_and_double_would_not_climbs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = {A: Script(gaining(0.0, 9), lasts=9, double=0.0), B: Script(gaining(50.0, 20), lasts=20, double=9.0)}
    play = Play(monkeypatch, scripts, dtype="float32")
    outcomes = play.run()
    assert outcomes[B] == Outcome(OutcomeKind.CONVERGED, 20)
    assert [len(seen) for seen in play.seen[5:8]] == [2, 1, 1]
    assert play.measured == [[(2, 0.0), (3, 0.0)], [(3, 0.0)]], "and only what has changed is evaluated again"
    assert play.race.to_fit(B).bic == pytest.approx(9.0)


@pytest.mark.parametrize(
    ("before", "late", "settled"),
    [
        ([9.0, 0.3], 13 * [0.1] + 7 * [0.4], True),
        ([9.0, 0.5], 13 * [0.1] + 7 * [0.4], False),  # it has gained more than that
        ([9.0, 0.3], 14 * [0.1] + 6 * [5.0], False),  # six may be steps that were too long
        ([0.3], 12 * [0.1] + 7 * [0.4], False),  # of twenty passes
        ([0.0], 20 * [0.0], True),
        ([np.inf], 20 * [np.inf], False),
    ],
)
def test_single_precision_ends_where_values_go_up_and_down(
    before: list[float], late: list[float], settled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for remaining in (7.0, np.inf):
        runner = Play(monkeypatch, {A: Script([0.0])}).race.runners[A]
        a: Any = runner.ascent
        a.trajectory = [-100.0 - by for by in [*before, *late]]
        best = -np.inf if before == [np.inf] else -100.0
        a.best = Evaluated(mixture(2), SufficientStatistics(best, N, np.ones((2, 3)), np.zeros(2, bool)), GROUND)
        a.remaining_gain = remaining
        runner.settle()
        assert a.converged == settled
        told = max(late) if late.count(max(late)) > 6 else 0.0
        left = told if settled and remaining == np.inf else remaining
        assert a.remaining_gain == pytest.approx(left), "as it is, if it is known"


def test_double_precision_needs_no_pass_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(monkeypatch, {A: Script([0.0], lasts=4), B: Script([3.0], lasts=4)})
    play.run()
    assert play.measured == []


# ---- the judgement itself -------------------------------------------------------------------------------------------


def test_who_may_win_at_the_limit_it_can_hope_for(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(monkeypatch, {A: Script([0.0]), B: Script([1e3])}, attainable={B: 0.3})
    leader, other = play.race.runners[A], play.race.runners[B]
    assert play.race.value(other) == np.inf, "of what nobody has seen"
    for runner, value in ((leader, 0.0), (other, 600.0)):
        k = runner.ascent.mixture.n_components
        runner.ascent.update(SufficientStatistics(log_likelihood(k, value), N, np.ones((k, 3)), np.zeros(k, bool), 0.0))
    assert play.race.attainable(other) == pytest.approx(2 * N * 0.3)
    assert play.race.may_win(other, A)
    other.attainable_on_sample = 0.2949
    assert not play.race.may_win(other, A)
    assert play.race.attainable(Runner(Ascent(mixture(2), GROUND, None, "none"))) == np.inf


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        (Criterion.BIC, 200 + 7 * np.log(50)),
        (Criterion.AIC, 200 + 2 * 7),
        (Criterion.ICL, 200 + 7 * np.log(50) + 2 * 11),
        (Criterion.HELD_OUT, -2 * 50 * -3.0),
    ],
)
def test_criteria_of_a_standing(criterion: Criterion, expected: float) -> None:
    """-2 LL and a penalty, by their definitions."""
    assert CriterionTerms(-100.0, 7, 50, 11.0, -3.0).criterion(criterion) == pytest.approx(expected)
    assert CriterionTerms(-100.0, 7, 50, 11.0, -3.0).criterion(str(criterion)) == pytest.approx(expected)


# ---- the states of a candidate ---------------------------------------------------------------------------------------


def runner_in(state: State) -> Runner:
    ascent = Ascent(mixture(2), GROUND, None, "none")
    runner = Runner(ascent)
    if state is State.DROPPED:
        runner.drop(Outcome(OutcomeKind.DROPPED, 3))
    ascent.converged = state is State.CONVERGED
    ascent.failure = CollapseError("component 0 collapsed", (0,)) if state is State.COLLAPSED else None
    assert runner.state is state
    return runner


@pytest.mark.parametrize("state", State)
def test_only_what_climbs_is_dropped_and_only_what_was_dropped_climbs_again(state: State) -> None:
    runner = runner_in(state)
    if state is State.CLIMBING:
        runner.drop(Outcome(OutcomeKind.DROPPED, 3))
        assert (runner.state, runner.ascent.done) == (State.DROPPED, True)
    else:
        with pytest.raises(ValueError, match=f"a candidate that is {state} cannot be dropped"):
            runner.drop(Outcome(OutcomeKind.DROPPED, 3))
    runner = runner_in(state)
    if state is State.DROPPED:
        runner.readmit(for_good=True)
        assert (runner.state, runner.ascent.done, runner.pardoned) == (State.CLIMBING, False, True)
    else:
        with pytest.raises(ValueError, match=f"a candidate that is {state} cannot be climbing"):
            runner.readmit()


def test_a_race_makes_all_the_transitions_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leads until it collapses, B was dropped for it and climbs on, C climbs to its end, D to a collapse."""
    scripts = {
        A: Script([0.0], collapses=8),
        B: Script([1000.0], lasts=20),
        Candidate(4, "spherical"): Script([0.0], lasts=9),
        Candidate(5, "spherical"): Script([0.0], fails=4),
    }
    play = Play(monkeypatch, {c: s for c, s in scripts.items() if c.n_components < 4})
    seen: set[tuple[State, State]] = set()
    for chosen in (scripts, {A: scripts[A], B: scripts[B]}):
        for script in scripts.values():
            script.passes = 0
        play = Play(monkeypatch, chosen)
        before = {c: r.state for c, r in play.race.runners.items()}
        accumulate = play.accumulate

        def noted(*given: Any, play: Any = play, before: Any = before, accumulate: Any = accumulate) -> Any:
            for c, r in play.race.runners.items():
                if r.state is not before[c]:
                    seen.add((before[c], r.state))
                before[c] = r.state
            return accumulate(*given)

        monkeypatch.setattr(play, "accumulate", noted)
        play.run()
        noted([])
    allowed = {(a, b) for a, following in TRANSITIONS.items() for b in following}
    assert seen == allowed
