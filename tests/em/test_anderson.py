"""The rules of the accelerated climb, one by one: what it remembers, how far it dares, when it tries again.

The mixtures are names here, and what EM and the secants would say of them is a script.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dgmm.em import AndersonState, Proposal, Secants, aitken, anderson


class Climb:
    """An `AndersonState`, told log-likelihoods one after the other.

    Attributes
    ----------
    remembered : list of int
        How many points the secants were made of, each time.
    bounds : list of float
        How many EM steps each proposal was allowed to go.
    slowest : float
        What the secants say next.
    expected : float
        What an EM step is said to gain next.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.remembered: list[int] = []
        self.bounds: list[float] = []
        self.slowest, self.expected, self.value = 0.1, 1.0, 0.0
        monkeypatch.setattr(anderson, "to_vector", lambda mixture: np.zeros(1))
        monkeypatch.setattr(anderson, "from_vector", lambda vector, like: "proposal")
        monkeypatch.setattr(anderson, "expected_gain", lambda *given: self.expected)
        monkeypatch.setattr(anderson, "Secants", SimpleNamespace(of=self._secants))
        self.state: Any = AndersonState.start("start", None)  # type: ignore[arg-type]

    def _secants(self, points: Any, residuals: Any) -> Any:
        assert len(points) == len(residuals)
        self.remembered.append(len(points))
        return SimpleNamespace(slowest=self.slowest, step=self._step) if len(points) > 1 else None

    def _step(self, bound: float) -> np.ndarray:
        self.bounds.append(bound)
        return np.zeros(1)

    def tell(self, gain: float) -> tuple[str, float]:
        """The point that was wanted is better by so much; what is wanted next, and the gain estimated to come."""
        point: Any = SimpleNamespace(
            objective=self.value + gain,
            mixture="point",
            statistics=SimpleNamespace(local=np.zeros(1, dtype=bool)),
            image="image",
            ground=SimpleNamespace(fixed=frozenset()),
        )
        if gain >= 0:
            self.value += gain
        self.state, found = self.state.step(point)
        assert isinstance(found, Proposal)
        return found.mixture, found.remaining_gain

    def to_proposal(self) -> int:
        """Tell of points that are better until the next proposal; how many these were."""
        for n in range(1, 100):
            if self.tell(1.0)[0] == "proposal":
                return n
        raise AssertionError("no proposal")


def test_six_points_are_remembered_and_two_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    climb = Climb(monkeypatch)
    for _ in range(9):
        climb.tell(1.0)
    assert climb.remembered == [1, 2, 3, 4, 5, 6, 6, 6, 6]
    climb.tell(-1.0)
    climb.tell(1.0)
    assert climb.remembered[9:] == [3], "two, and the one that came after"


def test_each_failure_in_a_row_doubles_the_plain_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    climb, waits = Climb(monkeypatch), []
    assert climb.to_proposal() == 2
    for _ in range(4):
        assert climb.tell(-1.0)[0] == "image", "the EM step from the point before"
        waits.append(climb.to_proposal())
    assert waits == [2, 4, 8, 16]
    assert climb.tell(1.0)[0] == "proposal", "what holds is followed by another"
    climb.tell(-1.0)
    assert climb.to_proposal() == 2


def test_steps_go_further_when_they_hold_and_nearer_when_they_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    climb = Climb(monkeypatch)
    climb.slowest = 1e-3  # further away than any bound here
    climb.to_proposal()
    for _ in range(5):
        climb.tell(1.0)
    assert climb.bounds == [4, 8, 16, 32, 64, 128]
    for _ in range(3):
        climb.tell(-1.0)
        climb.to_proposal()
    assert climb.bounds[6:] == [16, 2, 1.5], "an eighth, and never less than one and a half EM steps"


def test_steps_that_were_not_held_back_go_no_further_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    climb = Climb(monkeypatch)
    climb.slowest = 0.26  # four EM steps are enough
    climb.to_proposal()
    climb.tell(1.0)
    climb.slowest = 0.24
    climb.tell(1.0)
    climb.tell(1.0)
    assert climb.bounds == [4, 4, 4, 8]


def test_the_gain_to_come_is_the_largest_of_five_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    climb = Climb(monkeypatch)
    assert climb.tell(0.0)[1] == np.inf
    climb.expected = 100.0
    assert climb.tell(0.0)[1] == np.inf, "the first differences are of the first steps"
    climb.expected = 0.5
    # over the slowest rate of 0.1
    assert [climb.tell(0.0)[1] for _ in range(6)] == pytest.approx([1000] * 4 + [5, 5])
    assert climb.tell(2.0)[1] == pytest.approx(5)
    climb.expected = 1e-3
    assert climb.tell(2.0)[1] == pytest.approx(3), "what has been gained since is not to come"


@pytest.mark.parametrize(("share", "over"), [(0.9, True), (1.1, False)])
def test_a_gain_within_rounding_is_none(monkeypatch: pytest.MonkeyPatch, share: float, over: bool) -> None:
    """A hundredth of a millionth of a millionth of the log-likelihood."""
    climb = Climb(monkeypatch)
    climb.tell(1e6)
    climb.expected = share * 1e6 * 1e-14
    assert (climb.tell(0.0)[1] == 0.0) == over
    assert (aitken([1e6 * (1 + i * share * 1e-14) for i in range(5)]) == 0.0) == over


@pytest.mark.parametrize(("rate", "slowest"), [(1e-9, 1e-6), (2e-6, 2e-6), (0.3, 0.3), (1.7, 1.0)])
def test_rates_that_are_not_believed(rate: float, slowest: float) -> None:
    one = np.ones(1)
    assert Secants(one, one[:, None], one[:, None], np.array([-rate, 2.0]), one, one).slowest == slowest


@pytest.mark.parametrize(("share", "n"), [(0.99, 1), (1.01, 2)])
def test_directions_that_say_nothing_new(share: float, n: int) -> None:
    """Two unit vectors at an angle: their singular values have the ratio of the tangent of half of it."""
    angle = 2 * np.arctan(share * 1e-3)
    points = np.cumsum([[0.0, 0.0], [1.0, 0.0], [np.cos(angle), np.sin(angle)]], axis=0)
    secants = Secants.of(list(points), [p @ np.diag([-0.3, -0.7]) for p in points])
    assert secants is not None
    assert secants.directions.shape == (2, n)
