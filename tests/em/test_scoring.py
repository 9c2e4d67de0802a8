"""Scores of a sample against numerical derivatives, scoring against plain EM to the end, and its rules, one by one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dgmm.em import (
    Ascent,
    Evaluated,
    Ground,
    Proposal,
    ScoringState,
    from_vector,
    information,
    maximise,
    scoring,
    to_vector,
)
from dgmm.em.information import Information, gradients_of, is_worth_it
from dgmm.families import Moments, get_family, make_frame
from dgmm.mixture import Mixture
from dgmm.rows import Rows
from dgmm.search.initialise import from_labels
from dgmm.search.sampled import Candidate, SampleRows, grounds_for

TYPES = ["full", "tied", "diag", "spherical"]


def overlapping(n: int, seed: int = 0) -> np.ndarray:
    """Three components within a standard deviation or two of each other, shape (n, 2)."""
    r = np.random.default_rng(seed)
    return r.standard_normal((n, 2)) + np.array([[0, 0], [1.5, 0], [0, 1.5]])[r.choice(3, size=n, p=[0.5, 0.3, 0.2])]


def rows_of(x: np.ndarray, weights: np.ndarray | None = None, labels: np.ndarray | None = None) -> SampleRows:
    moments = Moments.of(x, weights)
    frame = partial(make_frame, mean=moments.mean, covariance=moments.covariance)
    return SampleRows(Rows(x, weights, labels), frame, 1)


def problem(rows: SampleRows, kind: str, reg_covar: float = 0.0) -> tuple[Ground, Mixture]:
    """What is known of the data, which are their own sample, and a start."""
    ground = grounds_for([Candidate(3, kind)], rows.moments, rows.frame, reg_covar)[kind]
    labels = np.argmax(rows.rows.x @ np.array([[-1.0, 1, 0], [-1, 0, 1]]) + [1, 0, 0], axis=1)
    return replace(ground, sample=rows.rows), from_labels(get_family(kind), rows.rows, labels, 3, ground)


def evaluated(mixture: Mixture, rows: SampleRows, ground: Ground) -> Evaluated:
    return Evaluated.of(mixture, rows.accumulate([mixture])[0], ground)


def derivatives(function: Any, mixture: Mixture, h: float = 1e-5) -> np.ndarray:
    """By the unconstrained coordinates, central, shape (..., p)."""
    x = to_vector(mixture)
    steps = h * np.eye(len(x))
    return np.stack(
        [(function(from_vector(x + e, mixture)) - function(from_vector(x - e, mixture))) / (2 * h) for e in steps],
        axis=-1,
    )


@pytest.mark.parametrize("kind", TYPES)
def test_the_gradient_is_that_of_the_log_likelihood(kind: str) -> None:
    rows = rows_of(overlapping(500))
    ground, start = problem(rows, kind)
    point = evaluated(start, rows, ground)
    expected = derivatives(lambda m: evaluated(m, rows, ground).log_likelihood, start)
    np.testing.assert_allclose(gradients_of(point, point.image)[0], expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_information_is_the_sum_of_products_of_scores(kind: str, weighted: bool) -> None:
    weights = np.random.default_rng(1).uniform(0.5, 1.5, 400) if weighted else None
    rows = rows_of(overlapping(400), weights)
    ground, start = problem(rows, kind)
    found = Information.of(start, ground).observed

    def log_densities(mixture: Mixture) -> np.ndarray:
        return mixture.to_data(ground.frame).log_density(rows.rows.x)

    scores = derivatives(log_densities, start)
    expected = scores.T @ (scores if weights is None else weights[:, None] * scores)
    expected[:3, :3] += 400 / 3  # where all log weights go up together nothing changes: any number does there
    np.testing.assert_allclose(
        found, rows.moments.count / 400 * expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max()
    )


def test_with_every_component_known_all_is_observed() -> None:
    x = overlapping(400)
    labels = np.arange(400) % 3
    ground, start = problem(rows_of(x, labels=labels), "full")
    found = Information.of(start, ground)
    np.testing.assert_allclose(found.observed, found.complete, rtol=1e-9, atol=1e-6)


def test_a_step_is_newtons_or_with_much_damping_ems() -> None:
    """Of a single component all is known, and products of scores are what second derivatives are, on average."""
    a, b, gradient = np.diag([1.0, 4.0]), np.diag([2.0, 5.0]), np.array([1.0, 2.0])
    step, gain = Information(a, b).step(gradient, 0.0)
    np.testing.assert_allclose(step, [1.0, 0.5])
    assert gain == pytest.approx(0.5 * 1.0 + 0.5 * 1.0)
    np.testing.assert_allclose(Information(a, b).step(gradient, 1e9)[0], [0.5, 0.4])


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("reg_covar", [0.0, 0.1])
def test_the_gradient_vanishes_where_em_stands_still(kind: str, reg_covar: float) -> None:
    """With a floor on the covariances that is not where the log-likelihood is largest."""
    centres = np.array([[0, 0], [8, 0], [0, 8]])[np.arange(600) % 3]
    rows = rows_of(np.random.default_rng(0).standard_normal((600, 2)) + centres)
    ground, start = problem(rows, kind, reg_covar)
    for _ in range(200):
        start = maximise(start, rows.accumulate([start])[0], ground)
    point = evaluated(start, rows, ground)
    here, there = gradients_of(point, point.image)
    gradient = here - there
    assert gradient @ np.linalg.solve(Information.of(start, ground).observed, gradient) < 1e-6


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that cost nothing but the products."""
    monkeypatch.setattr(information, "ROWS_OF_DERIVATIVES", 0)


def climb(rows: SampleRows, start: Mixture, ground: Ground, acceleration: str, enough: float, most: int) -> Ascent:
    ascent = Ascent(start, ground, acceleration=acceleration, least_gain=enough)  # type: ignore[arg-type]
    while not ascent.done and len(ascent.trajectory) < most:
        ascent.update(rows.accumulate([ascent.proposal])[0])
    return ascent


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("kind", TYPES)
def test_scoring_ends_where_plain_em_does_and_soon(kind: str) -> None:
    rows = rows_of(overlapping(4000))
    ground, start = problem(rows, kind)
    scored = climb(rows, start, replace(ground, sample=rows.rows[:2000]), "anderson", 1e-4, 300)
    plain = climb(rows, start, ground, "none", 1e-4, 3000)
    assert scored.converged
    assert scored.log_likelihood >= plain.log_likelihood - 1e-2
    # plain EM goes nowhere from there
    rest = climb(rows, scored.mixture, ground, "none", 0.0, 50)
    assert 0 <= rest.log_likelihood - scored.log_likelihood < 1e-3
    assert len(scored.trajectory) < len(plain.trajectory) / 3


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("kind", TYPES)
def test_where_a_floor_keeps_em_from_the_top_nothing_is_scored(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """EM ends lower than it could there; scoring would look for higher mixtures, or fail again and again."""
    rows = rows_of(overlapping(4000))
    ground, start = problem(rows, kind, 1e-2)
    steps = []
    monkeypatch.setattr(scoring.Model, "ahead", lambda *given: steps.append(given))
    climbs = [climb(rows, start, g, "anderson", 1e-4, 60) for g in (ground, replace(ground, sample=None))]
    assert not steps
    assert climbs[0].trajectory == climbs[1].trajectory


def told(ground: Ground) -> bool:
    return isinstance(Ascent(START, ground).state, ScoringState)


START = problem(rows_of(overlapping(100)), "full")[1]


def test_there_is_no_scoring_without_a_sample() -> None:
    ground, _ = problem(rows_of(overlapping(100)), "full")
    assert told(ground)
    assert not told(replace(ground, sample=None))


@pytest.mark.parametrize(
    ("n", "n_sample", "k", "worth"),
    [
        # the derivatives cost as much as 800,000 rows, the products of 5 features of 17 parameters next to nothing
        (900_000, 1000, 3, True),
        (800_000, 1000, 3, False),
        # twenty rows per parameter
        (9_000_000, 20 * 17, 3, True),
        (9_000_000, 20 * 17 - 1, 3, False),
        # 83 components of 6 parameters are 497; 84 are 503
        (90_000_000, 20_000, 83, True),
        (90_000_000, 20_000, 84, False),
    ],
)
def test_where_scores_are_worth_it(n: int, n_sample: int, k: int, worth: bool) -> None:
    ground, start = problem(rows_of(overlapping(100)), "full")
    components = start.family.taken(start.components, np.arange(k) % 3)
    many = Mixture(start.family, np.full(k, 1 / k), components)
    moments = replace(ground.moments, count=float(n))
    given = replace(ground, moments=moments, sample=Rows(np.zeros((n_sample, 2))))
    assert is_worth_it(many, given) == worth


@pytest.mark.parametrize(
    ("n", "n_sample", "looked_at"),
    [
        # a hundred rows for each of 17 parameters
        (1000, 100_000, 1700),
        (1000, 1000, 1000),
        # products of 3 x 6 features cost a 25th of a row of a pass each; a fifth of a pass is five rows in 18
        (90_000, 100_000, 25_000),
        (900_000, 100_000, 100_000),
    ],
)
def test_how_many_rows_are_looked_at(n: int, n_sample: int, looked_at: int) -> None:
    ground, start = problem(rows_of(overlapping(100)), "full")
    moments = replace(ground.moments, count=float(n))
    given = replace(ground, moments=moments, sample=Rows(np.zeros((n_sample, 2))))
    assert information._rows_wanted(start, given) == looked_at


class Climb:
    """A `ScoringState` that is told log-likelihoods, one after the other; each step should gain one nat.

    Attributes
    ----------
    dampings : list of float
        Of all steps so far.
    score, floor : float
        What scores say is still to come, and what a floor keeps from being gained, in nats.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dampings: list[float] = []
        self.score, self.value, self.floor = 1.0, 0.0, 0.0
        climb = self

        class Script:
            """In the place of Anderson's method: all points are accepted."""

            def __init__(self, mixture: Any = None, accepted: int = 0) -> None:
                self.accepted, self.image, self.jumped = accepted, "image", False

            def step(self, point: Any) -> tuple[Script, Proposal]:
                return Script(accepted=self.accepted + 1), Proposal("anderson", 7.0)  # type: ignore[arg-type]

        class Said(SimpleNamespace):
            remaining_gain = property(lambda self: climb.score)

            def ahead(self, damping: float) -> tuple[str, float]:
                climb.dampings.append(damping)
                return "step", 1.0

        monkeypatch.setattr(scoring, "AndersonState", Script)
        monkeypatch.setattr(scoring, "replace", lambda a, **b: a if isinstance(a, Script) else replace(a, **b))
        monkeypatch.setattr(scoring, "is_worth_it", lambda *given: True)
        monkeypatch.setattr(scoring, "gradients_of", lambda *given: (np.zeros(1), np.zeros(1)))
        monkeypatch.setattr(scoring, "Information", SimpleNamespace(of=lambda *given: self))
        monkeypatch.setattr(scoring, "Model", lambda mixture, value, *others: Said(value=value))
        self.state: Any = ScoringState(Script(), None)  # type: ignore[arg-type]

    def step(self, gradient: Any, damping: float) -> tuple[None, float]:
        """As of `Information`: what the floor does."""
        return None, self.floor

    def tell(self, gain: float) -> tuple[Any, float]:
        """The point that was wanted is better by so much; what is wanted next, and the gain said to come."""
        mixture = SimpleNamespace(n_parameters=20)
        point: Any = SimpleNamespace(
            objective=self.value + gain, mixture=mixture, statistics=SimpleNamespace(local=np.zeros(1, dtype=bool))
        )
        self.value += max(gain, 0.0)
        self.state, found = self.state.step(point)
        return found.mixture, found.remaining_gain

    def until(self, wanted: str) -> int:
        """Tell of points that are better until something is wanted; how many these were."""
        for n in range(1, 100):
            if self.tell(1.0)[0] == wanted:
                return n
        raise AssertionError(f"never {wanted}")


def test_the_first_step_comes_after_five_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    climb = Climb(monkeypatch)
    assert climb.tell(1.0) == ("anderson", 7.0)
    assert climb.until("step") == 4


def test_damping_follows_what_steps_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    climb = Climb(monkeypatch)
    climb.until("step")
    for gain in (0.51, 0.49, 0.11, 0.09, -1.0):
        climb.tell(gain)
    assert climb.dampings == pytest.approx([1e-3, 2.5e-4, 2.5e-4, 2.5e-4, 5e-4, 4e-3])


def test_three_failures_in_a_row_hand_back_for_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    climb, waits = Climb(monkeypatch), []
    climb.until("step")
    for _ in range(3):
        assert [climb.tell(-1.0)[0] for _ in range(3)] == ["step", "step", "image"]
        waits.append(climb.until("step"))
    assert waits == [4, 8, 16]
    climb.tell(1.0)
    for _ in range(3):
        climb.tell(-1.0)
    assert climb.until("step") == 4, "a step that holds restores patience"


@pytest.mark.parametrize(("gain", "believed"), [(0.3, False), (0.34, True), (2.9, True), (3.1, False)])
def test_scores_are_believed_after_a_step_that_gained_what_it_should(
    monkeypatch: pytest.MonkeyPatch, gain: float, believed: bool
) -> None:
    climb = Climb(monkeypatch)
    climb.until("step")
    assert climb.tell(gain)[1] == (1.0 if believed else np.inf)


@pytest.mark.parametrize(("failures", "doubts"), [(2, False), (3, True)])
def test_where_steps_have_failed_anderson_must_agree(
    monkeypatch: pytest.MonkeyPatch, failures: int, doubts: bool
) -> None:
    """Twenty parameters: less than a hundredth of a nat is nothing."""
    climb = Climb(monkeypatch)
    climb.until("step")
    for _ in range(failures):
        climb.tell(-1.0)
        climb.tell(1.0)
    climb.score = 0.0101
    assert climb.tell(1.0) == ("step", climb.score)
    climb.score = 0.0099
    assert climb.tell(1.0) == (("image", np.inf) if doubts else ("step", climb.score))
    if doubts:
        assert [climb.tell(1.0)[1] for _ in range(19)] == [np.inf] * 18 + [7.0]


@pytest.mark.parametrize(("floor", "step"), [(0.99, True), (1.01, False), (np.nan, False)])
def test_a_floor_that_costs_a_tenth_of_what_chance_gives_rules_steps_out(
    monkeypatch: pytest.MonkeyPatch, floor: float, step: bool
) -> None:
    climb = Climb(monkeypatch)
    climb.floor = floor
    wanted = [climb.tell(1.0)[0] for _ in range(5)]
    assert wanted[-1] == ("step" if step else "anderson")


def test_where_nothing_is_known_there_is_no_step() -> None:
    """A component without rows makes the matrices singular."""
    nothing = Information(np.diag([1.0, 0.0]), np.diag([1.0, 0.0]))
    step, gain = nothing.step(np.ones(2), 0.1)
    assert np.isnan(step).all()
    assert np.isnan(gain)
    _, start = problem(rows_of(overlapping(100)), "full")
    p = len(to_vector(start))
    model = scoring.Model(start, 0.0, np.ones(p), Information(np.zeros((p, p)), np.zeros((p, p))))
    assert model.ahead(0.1)[0] is None
    assert model.remaining_gain == np.inf
