"""The path through K on the sample: how it goes, what it keeps, and what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

import dgmm
from dgmm.data import open_samples
from dgmm.em import Ascent, Evaluated, climb
from dgmm.engine.workers import threads
from dgmm.families import SufficientStatistics, get_family
from dgmm.fits import Outcome, OutcomeKind, Spread, Training
from dgmm.fitting import passes_over
from dgmm.mixture import Mixture
from dgmm.search.initialise import from_labels, one_component
from dgmm.search.ladder import Found, starts_beside
from dgmm.search.path import BUDGETS, Budget, Path, Promise
from dgmm.search.sampled import Candidate, SampleRows, grounds_for
from dgmm.search.starts import start_on_sample
from dgmm.types import FloatArray

KINDS = ["spherical", "diag", "tied", "full"]


def overlapping(n: int = 4000, d: int = 3, k: int = 6, seed: int = 0) -> FloatArray:
    r = np.random.default_rng(seed)
    centres, shapes = 2 * r.normal(size=(k, d)), np.eye(d) + 0.4 * r.normal(size=(k, d, d))
    labels = r.choice(k, size=n, p=r.dirichlet(np.full(k, 3.0)))
    return np.einsum("nj,njk->nk", r.normal(size=(n, d)), shapes[labels]) + centres[labels]


def unbalanced(n: int = 50_000) -> tuple[FloatArray, np.ndarray]:
    """Seven clusters, the rarest a hundredth of the rows."""
    r = np.random.default_rng(7)
    means = 3 * r.standard_normal((7, 10))
    shapes = 0.7 * np.eye(10) + 0.5 * r.standard_normal((7, 10, 10))
    labels = r.choice(7, n, p=[0.40, 0.25, 0.15, 0.10, 0.06, 0.03, 0.01])
    return means[labels] + np.einsum("nij,nj->ni", shapes[labels], r.standard_normal((n, 10))), labels


def path_on(x: FloatArray, kind: str, wanted: Sequence[int], n_threads: int = 1, **options: Any) -> Path:
    training = Training(**options)
    passes = passes_over(open_samples(x), threads(1), training)
    sample = SampleRows(passes.profile.sample.first(10_000), passes.frame, n_threads)
    ground = grounds_for([Candidate(1, kind)], sample.moments, passes.frame, 1e-6)[kind]
    return Path(get_family(kind), sample, ground, training, wanted)


@pytest.fixture(scope="module")
def found() -> dict[str, dict[int, float]]:
    """Log-likelihoods on the sample, of every family and number of components."""
    x = overlapping()
    passes = passes_over(open_samples(x), threads(2))
    candidates = [Candidate(k, kind) for kind in KINDS for k in range(2, 9)]
    starts = start_on_sample(passes.profile, candidates, Training(n_init=1), passes.frame, n_threads=2)
    sample = SampleRows(passes.profile.sample.first(10_000), passes.frame, 1)
    assert set(starts.mixtures) == set(candidates)
    grounds = grounds_for(candidates, sample.moments, passes.frame, 1e-6)
    return {
        kind: {
            c.n_components: Evaluated.of(m, sample.accumulate([m])[0], grounds[kind]).log_likelihood
            for c, m in starts.mixtures.items()
            if c.covariance_type == kind
        }
        for kind in KINDS
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_likelihood_never_falls_as_k_grows(kind: str, found: dict[str, dict[int, float]]) -> None:
    for k, more in pairwise(sorted(found[kind])):
        assert found[kind][more] >= found[kind][k] - 1e-6


@pytest.mark.parametrize(("simple", "general"), [("spherical", "diag"), ("diag", "full"), ("tied", "full")])
def test_the_likelihood_never_falls_to_a_family_that_contains_another(
    simple: str, general: str, found: dict[str, dict[int, float]]
) -> None:
    for k, value in found[simple].items():
        assert found[general][k] >= value - 1e-6


@pytest.mark.parametrize("n_threads", [2, 3])
def test_the_path_does_not_depend_on_who_works(n_threads: int) -> None:
    x = overlapping()
    one, other = path_on(x, "full", [4], 1), path_on(x, "full", [4], n_threads)
    for path in (one, other):
        path.walk()
        path.explore()
    a, b = (p.tops[4][0].ascent.mixture for p in (one, other))
    np.testing.assert_array_equal(a.means, b.means)
    np.testing.assert_array_equal(a.covariances, b.covariances)
    assert one.ends == other.ends


def test_the_order_of_proposals_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    x = overlapping()
    plain = path_on(x, "full", [4])
    plain.walk()
    shuffled = path_on(x, "full", [4])
    r, chosen = np.random.default_rng(1), shuffled._chosen

    def in_another_order(pool: Sequence[Promise], width: int) -> list[Mixture]:
        return chosen([pool[i] for i in r.permutation(len(pool))], width)

    monkeypatch.setattr(shuffled, "_chosen", in_another_order)
    shuffled.walk()
    assert plain.ends == shuffled.ends
    np.testing.assert_array_equal(plain.tops[4][0].ascent.mixture.means, shuffled.tops[4][0].ascent.mixture.means)


# ---- the rules, on scripted climbs ------------------------------------------------------------------------------


class Scripted:
    """A path whose climbs end where they are told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, effort: str = "standard", **more: Any) -> None:
        self.path = path_on(overlapping(300), "diag", [2], search=effort, **more)
        self.m = self.path.ground.moments.count
        self.climbed: list[list[str]] = []
        self.values: dict[float, float] = {}
        self.monkeypatch = monkeypatch

    def end(self, k: int, value: float, spread: float = 1.0) -> None:
        """One climb that came to this value."""
        single = one_component(self.path.family, self.path.ground)
        order = np.zeros(k, dtype=np.int64)
        components = self.path.family.taken(single.components, order)
        mixture = Mixture(
            self.path.family, np.full(k, 1 / k), type(components)(components.means, spread * components.factors)
        )
        a = Ascent(mixture, self.path.ground)
        statistics = SufficientStatistics(value, self.m, np.full((k, 7), self.m / k), np.zeros(k, dtype=bool), 0.0)
        a.best = Evaluated(mixture, statistics, self.path.ground)
        a.trajectory = [value]
        self.path.add(k, a)


@pytest.mark.parametrize(("effort", "beam"), [("quick", 1), ("standard", 2), ("thorough", 4)])
def test_the_best_tops_are_kept_alive_each_once(monkeypatch: pytest.MonkeyPatch, effort: str, beam: int) -> None:
    script = Scripted(monkeypatch, effort)
    m = script.m
    values = [-7.0, -5.0, -6.0, -5.0004, -8.0, -9.0]
    for value in values:
        script.end(2, value * m)
    assert [top.objective / m for top in script.path.tops[2]] == pytest.approx([-5.0, -6.0, -7.0, -8.0][:beam])
    assert script.path.spread(2) == Spread(2, 6, pytest.approx(1.0))


def test_a_likelihood_that_means_nothing_is_no_top(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Scripted(monkeypatch)
    script.end(2, -5.0, spread=1e-7)
    assert script.path.tops == {}
    assert script.path.ends == {}


def test_the_most_promising_climb_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Scripted(monkeypatch)
    single = one_component(script.path.family, script.path.ground)
    promises = [3.0, 9.0, 1.0, 7.0, 8.0, 2.0]

    def moved(p: float) -> Mixture:
        components = type(single.components)(single.means + p, single.components.factors)
        return Mixture(single.family, single.weights, components)

    pool = [(p, partial(moved, p)) for p in promises]
    for width, best in ((4, [9.0, 8.0, 7.0, 3.0]), (2, [9.0, 8.0])):
        seen = [float(s.means[0, 0]) for s in script.path._chosen(pool, width)]
        assert np.array(seen) - single.means[0, 0] == pytest.approx(best)


@pytest.mark.parametrize(("pairs", "moves"), [(1, [4, 2, 2]), (3, [4, 3, 3]), (5, [5, 5, 5])])
def test_how_many_climb(monkeypatch: pytest.MonkeyPatch, pairs: int, moves: list[int]) -> None:
    """Eight components are two proposals of four, two climb of more than that, and of moves as many as pairs."""
    path = path_on(overlapping(600, 2, 5), "diag", [2, 4, 5, 6])
    monkeypatch.setattr(path, "budget", Budget(beam=2, proposals=2, components=8, overshoot=1, rounds=1, pairs=pairs))
    widths: list[int] = []
    chosen = path._chosen

    def noted(pool: Sequence[Promise], width: int) -> list[Mixture]:
        widths.append(width)
        return chosen(pool, width)

    monkeypatch.setattr(path, "_chosen", noted)
    path.walk()
    assert widths == [4, 2, 2, 2, 2, 2, 2, 2, 2, 2, 4]
    widths.clear()
    for k in (2, 4, 5):
        path.move(k)
    assert widths == moves


@pytest.mark.parametrize(("sound_from", "climbs"), [(0, 1), (5, 2), (9, 3), (10**6, 4)])
def test_where_the_best_splits_end_unsound_the_next_ones_are_tried(
    monkeypatch: pytest.MonkeyPatch, sound_from: int, climbs: int
) -> None:
    """Four at a time, until one is sound or there are no more."""
    path = path_on(overlapping(2000), "diag", [9], search="standard")
    monkeypatch.setattr(path, "budget", Budget(beam=1, proposals=4, components=0, overshoot=0, rounds=0, pairs=0))
    path.climb(1, [one_component(path.family, path.ground)])
    path.grow(1)
    splits = [replace(split, gain=-i) for i, split in enumerate((path.tops[2][0].standing.splits * 13)[:13])]
    path.tops[2][0].standing.splits = splits
    climbed: list[Sequence[Mixture]] = []

    def climb(k: int, starts: Sequence[Mixture]) -> bool:
        assert k == 3
        climbed.append(starts)
        if sum(map(len, climbed)) > sound_from:
            path.tops[3] = path.tops[2]
        return True

    monkeypatch.setattr(path, "climb", climb)
    path.grow(2)
    assert [len(starts) for starts in climbed] == [4, 4, 4, 1][:climbs]


def test_tops_that_the_sample_cannot_tell_apart_are_rivals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ways to put three components on four clouds alike, and a third way, which is surely lower."""
    r = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [0.0, 9.0], [16.0, 0.0], [16.0, 9.2]])
    x = centres[np.arange(4000) % 4] + r.standard_normal((4000, 2))
    path = path_on(x, "full", [3], search="thorough")

    own = np.linalg.norm(path.sample.rows.x[:, None] - centres, axis=2).argmin(axis=1)

    def joined_rows(i: int, j: int) -> Mixture:
        labels = np.searchsorted([k for k in range(4) if k != j], np.where(own == j, i, own))
        return from_labels(path.family, path.sample.rows, labels, 3, path.ground)

    for pair in ((0, 1), (2, 3), (0, 2)):
        a = Ascent(joined_rows(*pair), path.ground)
        list(climb([a], path.sample.accumulate, 1))
        path.add(3, a)
    values = [top.objective / 4000 for top in path.tops[3]]
    assert len(values) == 3
    assert values[0] - values[1] < 0.02
    assert values[0] - values[2] > 0.1
    (rival,) = path.rivals(3)
    assert rival is path.tops[3][1].ascent.mixture
    assert path.rivals(2) == ()
    # by two standard errors of the difference, from both sides
    a, b = (top.ascent.mixture.to_data(path.ground.frame).log_density(path.sample.rows.x) for top in path.tops[3][:2])
    errors = float((a - b).mean() / ((a - b).std() / np.sqrt(4000)))
    for certain, rivals in ((errors * 1.01, 1), (errors * 0.99, 0)):
        monkeypatch.setattr("dgmm.search.path.CERTAIN", certain)
        assert len(path.rivals(3)) == rivals


def test_what_cannot_reach_the_tops_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Scripted(monkeypatch, "quick")
    script.end(2, -500.0)

    class Climbing:
        done, failure, abandoned = False, None, False

        def __init__(self, value: float, attainable: float) -> None:
            self.objective, self.attainable_gain = value, attainable

    near, far, high = Climbing(-510.0, 11.0), Climbing(-510.0, 9.0), Climbing(-499.0, 0.0)
    script.path._give_up(2, [near, far])  # type: ignore[list-item]
    assert (near.abandoned, far.abandoned) == (False, True)
    # one that is already higher raises the bar
    script.path._give_up(2, [near, high])  # type: ignore[list-item]
    assert (near.abandoned, high.abandoned) == (False, False)
    near.attainable_gain = 10.5
    script.path._give_up(2, [near, high])  # type: ignore[list-item]
    assert near.abandoned


@pytest.mark.parametrize(("effort", "last"), [("quick", 4), ("standard", 5), ("thorough", 8)])
def test_the_path_goes_too_far_and_comes_back(monkeypatch: pytest.MonkeyPatch, effort: str, last: int) -> None:
    path = path_on(overlapping(300), "diag", [3, 4], search=effort)
    steps: list[tuple[str, int]] = []
    for name in ("grow", "shrink"):
        monkeypatch.setattr(path, name, lambda k, name=name: steps.append((name, k)))
    path.walk()
    up = [("grow", k) for k in range(1, last)]
    assert steps == [*up, *(("shrink", k) for k in range(last, 3, -1))]


@pytest.mark.parametrize(
    ("effort", "ends", "steps"),
    [
        # of a type that cannot win
        ("hopeless quick", [-500.0], ["climb"]),
        ("hopeless standard", [-500.0], ["climb"]),
        ("quick", [-500.0, -500.2], ["climb"]),  # of 300 samples: within a thousandth of a nat each
        ("quick", [-500.0, -500.4], ["climb", "walk"]),
        ("quick", [-500.0], ["climb", "walk"]),
        ("quick", [], ["climb", "walk"]),
        ("standard", [-500.0, -500.2], ["walk", "climb"]),
        ("thorough", [-500.0, -500.2], ["walk", "climb"]),
    ],
)
def test_a_quick_search_walks_only_where_starts_differ(
    monkeypatch: pytest.MonkeyPatch, effort: str, ends: list[float], steps: list[str]
) -> None:
    script, made = Scripted(monkeypatch, effort.removeprefix("hopeless ")), []

    def climbed(k: int, starts: Sequence[Mixture], firm: int = 4) -> bool:
        made.append("climb")
        for i, value in enumerate(ends):
            script.end(k, value, 1 + i / 10)
        return True

    monkeypatch.setattr(script.path, "walk", lambda: made.append("walk"))
    monkeypatch.setattr(script.path, "climb", climbed)
    script.path.begin({2: []}, hopeless=effort.startswith("hopeless"))
    assert made == steps


@pytest.mark.parametrize(("effort", "explored"), [("quick", [500]), ("standard", [500, 4000, 32000])])
def test_a_quick_search_moves_on_the_smallest_sample_alone(
    monkeypatch: pytest.MonkeyPatch, effort: str, explored: list[int]
) -> None:
    rows: list[int] = []
    monkeypatch.setattr(Path, "explore", lambda self, *, last: rows.append(len(self.sample.rows)))
    x = overlapping(64_000, 2, 3)
    passes = passes_over(open_samples(x), threads(1), Training(start_rows=500, sample_rows=32_000))
    how = Training(search=effort, start_rows=500, sample_rows=32_000)
    start_on_sample(passes.profile, [Candidate(3, "diag")], how, passes.frame, n_threads=1)
    assert rows == explored
    # where there is one sample only, that is the smallest
    rows.clear()
    how = Training(search=effort, start_rows=32_000, sample_rows=32_000)
    start_on_sample(passes.profile, [Candidate(3, "diag")], how, passes.frame, n_threads=1)
    assert rows == [32_000]


def test_rounds_of_moves_end_when_none_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    path = path_on(overlapping(300), "diag", [2, 3, 4], search="thorough")
    gains = {3: iter([True, True, False]), 4: iter([True] * 99)}
    made: list[int] = []
    monkeypatch.setattr(path, "move", lambda k: (made.append(k), next(gains[k]))[1])
    path.explore()
    assert made == [3] * 3 + [4] * BUDGETS["thorough"].rounds


@pytest.mark.parametrize(("last", "rows", "explored"), [(False, 2329, []), (False, 2330, [3]), (True, 2329, [3])])
def test_few_rows_have_no_moves_where_there_are_more(
    monkeypatch: pytest.MonkeyPatch, last: bool, rows: int, explored: list[int]
) -> None:
    """Ten for each of 233 parameters: of fewer, a top owes more to chance than moves gain."""
    path = path_on(overlapping(rows, 11, 3), "full", [3])
    assert path.family.n_parameters(3, 11) == 3 * (11 + 66) + 2 == 233
    made: list[int] = []
    monkeypatch.setattr(path, "move", made.append)
    path.explore(last=last)
    assert sorted(set(made)) == explored


def test_moves_begin_on_fewer_rows_and_those_that_get_furthest_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts of labels of which more and more are wrong: whatever their order, the three of fewest go on."""
    x = overlapping(6000, 2, 3)
    path = path_on(x, "full", [3])
    r = np.random.default_rng(0)
    right = dgmm.train(x, 3).mixture.responsibilities(x).argmax(axis=1)
    starts = []
    for share in (0.8, 0.0, 0.6, 0.2, 0.4):
        labels = np.where(r.random(len(x)) < share, r.integers(0, 3, len(x)), right)
        starts.append(from_labels(path.family, path.sample.rows, labels, 3, path.ground))
    monkeypatch.setattr("dgmm.search.path.PASSES_ON_FEW", 1)
    assert [id(start) for start in path._foremost(3, starts)] == [id(starts[i]) for i in (1, 3, 4)]
    # what is not sound there stays behind
    with monkeypatch.context() as context:
        context.setattr("dgmm.search.path.is_sound", lambda a, _: a.mixture is not starts[3])
        assert [id(start) for start in path._foremost(3, starts)] == [id(starts[i]) for i in (1, 4, 2)]
    # of no more rows than tell them apart all go on
    monkeypatch.setattr("dgmm.search.moves.ROWS_ENOUGH", 3001)
    assert path._foremost(3, starts) is starts


def test_moves_make_twelve_passes_over_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    path, made = path_on(overlapping(6000, 2, 6), "full", [3]), []
    accumulate = SampleRows.accumulate

    def counted(self: SampleRows, mixtures: Sequence[Mixture]) -> Any:
        made.append(len(self.rows))
        return accumulate(self, mixtures)

    monkeypatch.setattr(SampleRows, "accumulate", counted)
    labels = np.random.default_rng(0).integers(0, 3, len(path.sample.rows))
    start = from_labels(path.family, path.sample.rows, labels, 3, path.ground)
    made.clear()
    path._foremost(3, [start])
    assert made == [3000] * 12


def test_settings_say_what_is_spent() -> None:
    told = Training.model_fields["search"].description or ""
    standard, thorough, quick = (BUDGETS[effort] for effort in ("standard", "thorough", "quick"))
    for budget in (standard, thorough):
        assert f"{budget.proposals} splits, " in told
        assert f"{budget.rounds} rounds of {budget.pairs**2} " in told
    assert f"{quick.proposals} splits and a round of {quick.pairs**2} and {quick.pairs}" in told
    assert (standard.rounds, standard.pairs, standard.beam, standard.overshoot, standard.searches) == (8, 7, 2, 1, 1)
    assert (thorough.rounds, thorough.pairs, thorough.beam, thorough.overshoot, thorough.searches) == (10, 12, 4, 4, 4)


def test_a_round_tries_the_cheapest_merges_with_the_best_cut_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    path = path_on(overlapping(600, 2, 5), "full", [5], search="quick")
    path.walk()
    top = path.tops[5][0].standing
    tried: list[tuple[int, int, int]] = []
    made = type(top).replaced

    def replaced(self: Any, moves: Any) -> Any:
        for i, j, split in moves:
            tried.append((i, j, split.component))
            best = max(s.gain for s in self.splits if s.component == split.component)
            assert split.gain == best
        return made(self, moves)

    monkeypatch.setattr(type(top), "replaced", replaced)
    path.sample.map = map
    before = path.best(5)
    path.move(5)
    assert path.best(5) >= before
    assert list(dict.fromkeys((i, j) for i, j, _ in tried)) == [(i, j) for _, i, j in top.merges[:3]]
    assert len(set(tried)) == len(tried)
    assert all(k not in (i, j) for i, j, k in tried)


# ---- what it finds ----------------------------------------------------------------------------------------------


def test_the_search_finds_what_starts_do_not() -> None:
    """Ten components that overlap: a start of random labels, alone, ends 0.04 nats per sample below."""
    x = overlapping(6000, 4, 10)
    how: dict[str, Any] = {"n_init": 1, "init_params": "random", "worst_rows": 0}
    alone, searched = (dgmm.train(x, 10, search=effort, **how) for effort in ("starts", "quick"))
    assert searched.log_likelihood > alone.log_likelihood + 100


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(1, 20))])
def test_unbalanced_clusters_are_found_by_selection(seed: int) -> None:
    x, labels = unbalanced()
    chosen = dgmm.select(x, range(1, 11), ["full"], seed=seed)
    assert chosen.best.n_components == 7
    said = chosen.best.mixture.responsibilities(x).argmax(axis=1)
    assert adjusted_rand_score(labels, said) > 0.99


def test_the_spread_is_in_the_fit_and_in_words() -> None:
    fit = dgmm.train(overlapping(), 4)
    assert fit.spread is not None
    assert 1 <= fit.spread.found <= fit.spread.paths
    assert str(Spread(5, 8, 0.003)) == "found by 5 of 8 paths; next best 0.003 nats per sample below"
    assert str(Spread(1, 1)) == "found by 1 of 1 path"
    # of the sample on which there was more than one climb
    fit = dgmm.train(overlapping(16_000, 2, 3), 3, "diag", search="quick", start_rows=500)
    assert fit.spread is not None
    assert fit.spread.paths > 1


def test_ends_within_a_thousandth_are_the_same_top() -> None:
    spread = Spread.of([-100.0, -100.9, -101.1, -150.0], 1000.0)
    assert (spread.found, spread.paths) == (2, 4)
    assert spread.below == pytest.approx(1.1e-3)


@pytest.mark.parametrize(
    ("how", "made"),
    [({"search": "starts"}, 10), ({}, 30), ({"weights_init": [0.3, 0.7]}, 10), ({"n_init": 4}, 4)],
)
def test_starts_beside_a_path_are_others(how: dict[str, Any], made: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="dgmm"):
        dgmm.train(overlapping(300), 2, **how)
    assert f"starts: {made} mixtures (" in caplog.text


def test_starts_beside_a_path_are_as_many_as_cost_little() -> None:
    """Half a million responsibilities, and 3 to 30."""
    counts = [starts_beside(n) for n in (1, 16_129, 16_667, 100_000, 125_001, 10**7)]
    assert counts == [30, 30, 29, 5, 3, 3]


def test_starts_beside_a_path_share_between_candidates(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="dgmm"):
        dgmm.select(overlapping(3000), [1, 2, 3, 4], ["full", "diag"], search="quick")
    each = 500_000 // (3000 * 2 * 9)
    assert f"starts: {3 * 2 * each} mixtures ({9 * 2 * each} components)" in caplog.text


def test_what_a_later_search_finds_alone_is_no_more_likely_than_what_contains_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first search has a low top of full covariances, and none of tied ones."""
    x = overlapping(1500)
    full, tied = path_on(x, "full", [4]), path_on(x, "tied", [4])
    wrong = np.random.default_rng(0).integers(0, 4, len(full.sample.rows))
    with monkeypatch.context() as context:
        context.setattr("dgmm.search.path.PASSES", 1)
        full.climb(4, [from_labels(full.family, full.sample.rows, wrong, 4, full.ground)])
    tied.walk()
    assert tied.likelihood(4) > full.likelihood(4) > -np.inf, "or this shows nothing"
    candidates = [Candidate(4, "full"), Candidate(4, "tied")]
    found = Found({candidates[0]: full.tops[4][0].ascent}, paths=[full])
    found.failures[candidates[1]] = Outcome(OutcomeKind.FAILED, reason="none of its starts holds")
    found.join(Found(paths=[tied]), candidates)
    full_one, tied_one = (found.best[c] for c in candidates)
    assert full_one.log_likelihood >= tied_one.log_likelihood == tied.likelihood(4)
    assert found.failures == {}
    assert set(found.spreads) == {*candidates}
