"""The numbers of the rules: who means nothing, who goes on from the sample, which groups are worth a component.

Each is tried from both sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import dgmm
from dgmm import em
from dgmm.data import open_samples
from dgmm.em import Ascent, Evaluated, Ground
from dgmm.engine.workers import threads
from dgmm.families import Frame, Moments, SufficientStatistics
from dgmm.fits import Training
from dgmm.fitting import fit as fitting_fit
from dgmm.fitting import passes_over, reseed
from dgmm.mixture import Mixture
from dgmm.passes import Profile
from dgmm.search import ladder
from dgmm.search.ladder import sample_sizes
from dgmm.search.sampled import Candidate, unsound_components
from dgmm.search.screening import Screening
from dgmm.search.starts import start_on_sample
from dgmm.types import Criterion
from tests.scripts import scripted

N, D = 1000, 3
KINDS = ["full", "tied", "diag", "spherical"]


def ground_of(n: int = N, d: int = D) -> Ground:
    """Of standardised data."""
    moments = Moments(float(n), np.zeros(d), n * np.eye(d))
    return Ground(Frame(np.zeros(d), np.ones(d), np.ones(d)), moments, np.zeros((d, d)))


# ---- components that mean nothing -----------------------------------------------------------------------------------


def ascent_to(count: float, smallest: float, kind: str = "full") -> Ascent:
    """A mixture whose second component has so many rows and this variance in its narrowest direction."""
    full = np.stack([np.eye(D), np.diag([1.0, 1.0, smallest])])
    covariances = {
        "full": full,
        "tied": full[1],
        "diag": np.diagonal(full, axis1=1, axis2=2),
        "spherical": np.array([1.0, smallest]),
    }[kind]
    return Ascent(Mixture.gaussian(kind, [N - count, count], np.zeros((2, D)), covariances), ground_of())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("count", "smallest", "sound"),
    [
        # fewer rows than d + 1 = 4
        (3.99, 1.0, False),
        (4.01, 1.0, True),
        # within twice the floor of 1e-4, on however many rows
        (500.0, 1.99e-4, False),
        (500.0, 2.01e-4, True),
        # narrower than a hundredth on fewer than five rows per dimension
        (14.9, 0.99e-2, False),
        (15.1, 0.99e-2, True),
        (14.9, 1.01e-2, True),
    ],
)
def test_what_means_nothing(count: float, smallest: float, sound: bool, kind: str) -> None:
    found = unsound_components(ascent_to(count, smallest, kind), 1e-4)
    # the common covariance is narrow in the other component too, which is at the floor with it, but has its rows
    common = (0, 1) if kind == "tied" and count > 100 else (1,)
    assert found == (() if sound else common)


# ---- the screening on the sample -------------------------------------------------------------------------------------

A, B = Candidate(2, "full"), Candidate(3, "full")


def climbed(candidate: Candidate, trajectory: Sequence[float], remaining: float, n: int) -> Ascent:
    k = candidate.n_components
    a = Ascent(Mixture.gaussian("full", np.ones(k), np.zeros((k, D)), np.tile(np.eye(D), (k, 1, 1))), ground_of(n))
    a.trajectory, a.remaining_gain = list(trajectory), remaining
    said(a, trajectory[-1])
    return a


def said(a: Ascent, log_likelihood: float, entropy: float = 0.0) -> None:
    """What is known of its best mixture."""
    k, d = a.mixture.n_components, a.mixture.n_features
    sums, local = np.ones((k, 1 + d + d * (d + 1) // 2)), np.zeros(k, dtype=bool)
    statistics = SufficientStatistics(log_likelihood, a.ground.moments.count, sums, local, entropy)
    a.best = Evaluated(a.mixture, statistics, a.ground)


#: Free parameters of a full component more, in three dimensions.
MORE = 10


@pytest.mark.parametrize(
    ("before", "remaining", "hope"),
    [
        ([0.0, 0.0, 0.0], 0.0, 0.0),
        ([0.0, 0.0, 0.0], 7.0, 14.0),  # twice what it estimates
        ([-40.0, 0.0, 0.0], 0.0, 40.0),  # what it has gained so far it may gain once more
        ([-40.0, -30.0, -30.0], 0.0, 60.0),  # twice what its later half has gained
    ],
)
@pytest.mark.parametrize("times", [1, 20])
def test_who_cannot_win_on_the_sample(before: list[float], remaining: float, hope: float, times: int) -> None:
    """Fifty nats of the sample are beyond doubt, beside what is chance in it and what parameters cost on all data."""
    screening = Screening(Criterion.BIC, times * N, 1e-6)
    others = 1 - 1 / times
    penalty = MORE * (0.5 * np.log(times * N) / times + others)
    for lack, hopeless in ((49.9, False), (50.1, True)):
        gained = hope + lack - penalty
        best = {A: climbed(A, [gained, gained], 0.0, N), B: climbed(B, [*before, 0.0], remaining, N)}
        found = screening.ruled_out(best)
        assert set(found) == ({B} if hopeless else set())
        if hopeless:
            assert found[B] == pytest.approx((hope + best[B].mixture.n_parameters * others) / N)
    assert Screening(None, N, 1e-6).ruled_out(best) == {}


@pytest.mark.parametrize(
    ("leading", "others", "most"),
    [
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 0.0], [-40.0, -30.0, 0.0], 40.0),  # what it has gained it may gain once more
        ([-40.0, 0.0], [0.0, 0.0], 40.0),  # or what another has
    ],
)
def test_which_types_cannot_win_after_their_starts(leading: list[float], others: list[float], most: float) -> None:
    screening = Screening(Criterion.BIC, N, 1e-6)
    simple, simpler = Candidate(3, "diag"), Candidate(2, "diag")
    for lack, hopeless in ((49.9, False), (50.1, True)):
        gained = most + lack - MORE * 0.5 * np.log(N)
        best = {A: climbed(A, [a + gained for a in leading], np.inf, N), simple: climbed(simple, others, np.inf, N)}
        assert screening.hopeless(best) == ({"diag"} if hopeless else set())
        # each of a type has to
        best[simpler] = climbed(simpler, [gained], np.inf, N)
        assert screening.hopeless(best) == set()
    assert Screening(None, N, 1e-6).hopeless(best) == set()
    assert screening.hopeless({}) == set()


def test_the_criterion_on_the_sample_is_what_all_the_data_would_have() -> None:
    a = climbed(B, [-700.0, -500.0], 1.0, N)
    said(a, -500.0, 30.0)
    p, n = a.mixture.n_parameters, 20 * N
    lost = 2 * (500 * 20 + p * 19)
    values = {
        Criterion.BIC: lost + p * np.log(n),
        Criterion.AIC: lost + 2 * p,
        Criterion.ICL: lost + p * np.log(n) + 2 * 20 * 30,
        Criterion.HELD_OUT: lost + 2 * p,
    }
    for criterion, value in values.items():
        assert Screening(criterion, n, 1e-6).value(a) == pytest.approx(value / n)


# ---- the starts -----------------------------------------------------------------------------------------------------


class Recorded:
    """What `start_on_sample` has climb, without the climb: starts get better and better."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.climbs: list[tuple[str, list[Ascent], int, int]] = []
        monkeypatch.setattr(ladder, "_climb_on_sample", self._climb)
        x = np.random.default_rng(0).standard_normal((2000, D))
        self.passes = passes_over(open_samples(x), threads(1))
        found = start_on_sample(self.passes.profile, [A], Training(search="starts", **options), self.passes.frame)
        self.mixture = found.mixtures[A]

    def _climb(self, what: str, tried: Sequence[tuple[Candidate, Ascent]], rows: Any, max_passes: int) -> None:
        ascents = [a for _, a in tried]
        for i, a in enumerate(ascents):
            said(a, float((7 * i) % len(ascents)))  # no order that sorting would keep
        self.climbs.append((what, ascents, max_passes, len(rows.rows)))


def test_ten_starts_make_twenty_passes_and_the_best_three_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Recorded(monkeypatch, start_rows=100)
    assert [(what, len(ascents), n, rows) for what, ascents, n, rows in record.climbs] == [
        ("starts", 10, 20, 100),
        ("best starts", 3, 200, 100),
        ("sample", 1, 200, 2000),
    ]
    first, second, third = (ascents for _, ascents, _, _ in record.climbs)
    best = sorted(first, key=lambda a: -a.log_likelihood)[:3]
    assert [id(a.mixture) for a in second] == [id(a.mixture) for a in best]
    winner = max(second, key=lambda a: a.log_likelihood)
    assert third[0].mixture is winner.mixture
    assert record.mixture is third[0].mixture


def test_starts_climb_plainly_and_the_rest_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []

    def noting(name: str) -> Any:
        def proposals(start: Mixture, ground: Ground) -> Iterator[Any]:
            used.append(name)
            while True:
                yield start, np.inf

        return proposals

    for name in ("none", "anderson"):
        monkeypatch.setitem(em.METHODS, name, scripted(noting(name)))
    Recorded(monkeypatch, start_rows=100, n_init=4)
    assert used == ["none"] * 4 + ["anderson"] * 4


@pytest.mark.parametrize(("share", "converged"), [(0.99, True), (1.01, False)])
def test_the_sample_is_left_within_a_fiftieth_of_what_chance_gives(
    monkeypatch: pytest.MonkeyPatch, share: float, converged: bool
) -> None:
    def proposals(start: Mixture, ground: Ground) -> Iterator[Any]:
        yield start, np.inf
        yield start, share * 0.02 * 0.5 * start.n_parameters

    monkeypatch.setitem(em.METHODS, "anderson", scripted(proposals))
    record = Recorded(monkeypatch, start_rows=100)
    for _, ascents, _, _ in record.climbs[1:]:
        a = ascents[0]
        a.update(SufficientStatistics(0.0, a.ground.moments.count, np.ones((2, 10)), np.zeros(2, dtype=bool)))
        assert a.converged == converged


@pytest.mark.parametrize(
    ("n_sample", "expected"),
    [
        # a level of its own for eight times the rows, as nearly as may be
        (22_500, [1000, 22_500]),
        (22_800, [1000, 4775, 22_800]),
        # the last one has all of them, and is worth having from twice the first on
        (2000, [1000, 2000]),
        (1999, [1000]),
    ],
)
def test_levels_of_the_sample(n_sample: int, expected: list[int]) -> None:
    assert sample_sizes(Training(start_rows=1000), n_sample) == expected


@pytest.mark.parametrize(("n_parameters", "n_features", "rows"), [(2500, 10, 10_000), (2501, 10, 10_004)])
def test_starts_have_forty_values_for_each_parameter(n_parameters: int, n_features: int, rows: int) -> None:
    assert Training().begun_for(n_parameters, n_features).first_rows == rows
    assert Training(start_rows=200).begun_for(n_parameters, n_features).first_rows == 200


def test_starts_see_as_many_rows_as_the_largest_candidate_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the features that are fitted, and of all covariance types."""
    x = np.random.default_rng(0).standard_normal((600, 6))
    x[:, 3:] *= 1e-3
    seen: list[int] = []
    start = fitting_fit.start_on_sample

    def noted(profile: Profile, candidates: Any, options: Training, *args: Any, **more: Any) -> Any:
        seen.append(options.first_rows)
        return start(profile, candidates, options, *args, **more)

    monkeypatch.setattr("dgmm.fits.options.START_ROWS", 100)
    monkeypatch.setattr(fitting_fit, "start_on_sample", noted)
    how: dict[str, Any] = {"search": "starts", "n_init": 1, "max_iter": 1}
    dgmm.select(x, [2, 3], ["diag", "full"], **how)
    dgmm.train(x, 3, "diag", **how)
    dgmm.train(x, 3, preprocess="pca:3", **how)
    # (2 + 3 (6 + 21)) / 6, (2 + 3 * 12) / 6, and (2 + 3 (3 + 6)) / 3, each times 40
    assert seen == [554, 254, 387]


@pytest.mark.parametrize(("off", "refused"), [(0.9e-6, False), (1.1e-6, True)])
def test_given_weights_may_miss_one_by_the_rounding_of_single_precision(off: float, refused: bool) -> None:
    x = np.random.default_rng(0).standard_normal((60, 1))
    weights = [0.5, 0.5 + off]
    if refused:
        with pytest.raises(dgmm.InputError, match="weights_init sum to"):
            dgmm.train(x, 2, weights_init=weights, n_init=1, max_iter=1)
    else:
        assert dgmm.train(x, 2, weights_init=weights, n_init=1, max_iter=1).n_passes == 1


# ---- the rows explained worst ---------------------------------------------------------------------------------------


def clumps(n_clumps: int, size: int) -> np.ndarray:
    r = np.random.default_rng(0)
    return np.concatenate([100.0 * i + r.standard_normal((size, 2)) for i in range(n_clumps)])


@pytest.mark.parametrize(("n_clumps", "size", "n_groups"), [(12, 30, 8), (8, 30, 8), (2, 4, 2), (1, 4, 1)])
def test_the_worst_rows_are_eight_groups_at_most(n_clumps: int, size: int, n_groups: int) -> None:
    """Where there are rows for them: each wants more than d + 1 = 3."""
    groups = reseed.groups_of(clumps(n_clumps, size), 0)
    assert len(groups) == n_groups
    assert sum(map(len, groups)) == n_clumps * size


def ratio_of(found: reseed.Reseeding, before: Mixture, x: np.ndarray, worst: np.ndarray, frame: Frame) -> float:
    """What it promises to gain over the standard error of that, by their definitions."""
    after, others = found.mixture.to_data(frame), N_ROWS - len(worst)
    change = after.log_density(x) - before.log_density(x)
    gain = (after.log_density(worst) - before.log_density(worst)).sum() + others * change.mean()
    assert found.gain == pytest.approx(gain, rel=1e-6, abs=1e-6)
    return float(gain / (others * change.std() / np.sqrt(len(x))))


N_ROWS = 4000


def test_a_gain_counts_from_two_standard_errors_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the change of the sample's log density, times the rows that are not among the worst."""
    before = Mixture.gaussian("full", [0.5, 0.5], [[-0.3, 0], [0.3, 0]], np.tile(np.eye(2), (2, 1, 1)))
    highest, taken = [], []
    for seed in range(24):
        r, n_rare = np.random.default_rng(seed), 8 + 2 * seed
        rare = [4.5, 0] + 0.7 * r.standard_normal((n_rare, 2))
        passes = passes_over(
            open_samples(np.concatenate([r.standard_normal((N_ROWS - n_rare, 2)), rare])),
            threads(1),
            Training(sample_rows=300),
        )
        frame, sample = passes.frame("whitening"), passes.profile.sample.rows
        inside = before.to_frame(frame)
        ground = Ground(frame, passes.profile.moments.in_frame(frame), np.zeros((2, 2)))
        (statistics,), (worst,) = passes.accumulate([inside]), passes.worst([before], 40)
        given = Evaluated(inside, statistics, ground), worst, sample
        with monkeypatch.context() as patch:
            patch.setattr(reseed, "CERTAIN", -np.inf)
            anyway = reseed.reseed(*given)
        found = reseed.reseed(*given)
        assert anyway is not None
        highest.append(ratio_of(anyway, before, sample.x, worst.rows.x, frame))
        if highest[-1] > 2:
            assert found is not None
            assert found.gain == anyway.gain
        if found is not None:
            taken.append(ratio_of(found, before, sample.x, worst.rows.x, frame))
    assert min(taken) > 2
    # there must be something to decide
    assert any(1.9 < ratio < 2 for ratio in highest)
    assert any(2 < ratio < 2.1 for ratio in highest)
