"""How many threads climb on the sample: as many as were asked for."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from dask.system import CPU_COUNT
from distributed import Client

import dgmm
from dgmm.data import open_samples
from dgmm.engine import open_workers
from dgmm.engine.workers import of_client, threads
from dgmm.estep import SOFT
from dgmm.fits import One, Training
from dgmm.fitting import passes_over, train_samples
from dgmm.rows import Rows
from dgmm.search import Candidate, sampled, starts
from dgmm.search.ladder import Ladder
from dgmm.search.path import Path
from dgmm.search.sampled import is_sound
from dgmm.search.screening import Screening
from dgmm.types import Criterion

OPTIONS = Training(n_init=1, start_rows=3000)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    x = np.random.default_rng(0).standard_normal((6000, 2))
    x[::2] += 5
    return x


def test_one_worker_is_one_thread(x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    at_work = []
    accumulate = sampled.accumulate

    def noted(*given: Any) -> Any:
        at_work.append(threading.current_thread())
        return accumulate(*given)

    monkeypatch.setattr(sampled, "accumulate", noted)
    with open_workers("threads", n_workers=1) as workers:
        train_samples(open_samples(x), workers, One(n_components=2), OPTIONS)
    assert set(at_work) == {threading.main_thread()}


def test_three_workers_are_three_threads_at_a_time(x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = passes_over(open_samples(x), threads(3))
    blocks, together = [], threading.Barrier(3)
    accumulate = sampled.accumulate

    def noted(*given: Any) -> Any:
        blocks.append(together.wait(timeout=60))
        return accumulate(*given)

    monkeypatch.setattr(sampled, "accumulate", noted)
    monkeypatch.setattr(sampled, "SAMPLE_BLOCK", 1000)
    starts.start_on_sample(
        passes.profile,
        [Candidate(2, "full")],
        OPTIONS.model_copy(update={"search": "starts"}),
        passes.frame,
        n_threads=passes.fold.workers.driver_threads,
    )
    assert set(blocks) == {0, 1, 2}


def test_the_driver_has_the_threads_that_were_asked_for_on_its_machine(client: Client) -> None:
    elsewhere = replace(of_client(client), n_threads=CPU_COUNT + 5)
    assert threads(CPU_COUNT + 5).driver_threads == CPU_COUNT + 5
    assert elsewhere.driver_threads == CPU_COUNT
    assert replace(elsewhere, local=True).driver_threads == CPU_COUNT + 5


def test_fewer_rows_are_evenly_of_all_with_what_fills_them(x: np.ndarray) -> None:
    passes = passes_over(open_samples(x), threads(1))
    holes = x.copy()
    holes[::5, 1] = np.nan
    weights = np.random.default_rng(1).uniform(0.5, 1.5, len(x))
    sample = sampled.SampleRows(Rows(holes, weights), passes.frame, 1)
    few = sample.thinned(2500)
    np.testing.assert_array_equal(few.rows.x, holes[::2])
    np.testing.assert_array_equal(few.rows.weights, weights[::2])
    np.testing.assert_array_equal(few.filled.x, sample.filled.x[::2])
    np.testing.assert_allclose(few.moments.mean, np.average(sample.filled.x[::2], axis=0, weights=weights[::2]))
    assert few.map is sample.map
    assert len(sample.thinned(2000).rows) == 2000
    # half of them would be too few
    assert sample.thinned(3001) is sample


# ---- several searches ------------------------------------------------------------------------------------------------

THOROUGH = {"search": "thorough", "start_rows": 700, "sample_rows": 3000, "n_init": 1, "worst_rows": 0}


def searches_of(monkeypatch: pytest.MonkeyPatch, x: np.ndarray, **options: Any) -> Any:
    """The rows on which each search begins, and the sample."""
    seen = []
    original = Ladder.starts

    def noted(self: Ladder, candidates: Any, small: Any, grounds: Any) -> Any:
        seen.append(small.rows.x)
        return original(self, candidates, small, grounds)

    monkeypatch.setattr(Ladder, "starts", noted)
    training = Training(**{**THOROUGH, **options})
    passes = passes_over(open_samples(x), threads(2), training)
    starts.start_on_sample(passes.profile, [Candidate(2, "full")], training, passes.frame, n_threads=1)
    return seen, passes.profile.sample.rows.x


@pytest.mark.parametrize(
    ("effort", "start_rows", "times"),
    # 3000 rows are four times 750; rows that fit but once are searched once, and so are all with less effort
    [("thorough", 750, 4), ("thorough", 751, 3), ("thorough", 1501, 1), ("standard", 700, 1), ("starts", 700, 1)],
)
def test_thorough_searches_begin_on_rows_of_their_own(
    effort: str, start_rows: int, times: int, x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, sample = searches_of(monkeypatch, x, search=effort, start_rows=start_rows)
    assert len(seen) == times
    begun = [{row.tobytes() for row in rows} for rows in seen]
    assert all(len(its) == start_rows for its in begun)
    # rows that are first are first for one search alone, and those between belong to one of the others each
    for i, j in combinations(range(1, times), 2):
        assert not begun[i] & begun[j]
    assert begun[0] == {row.tobytes() for row in sample[:start_rows]}


@pytest.mark.parametrize(("seed", "sound"), [(4, True), (8, False)])
def test_the_best_of_all_searches_counts(seed: int, sound: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the first one too, if no climb of it came to a sound end; it is the one here that ends lowest."""
    sample = Ladder.sample
    monkeypatch.setattr(Ladder, "sample", lambda self, size, turn: sample(self, size, (turn + 1) % 4))
    r = np.random.default_rng(seed)
    parts = [r.standard_t(3, size=(1500, 2)) * r.uniform(0.3, 2, 2) + 2 * r.normal(size=2) for _ in range(5)]
    c, training = Candidate(3, "full"), Training(**THOROUGH, seed=1)
    passes = passes_over(open_samples(np.concatenate(parts)), threads(2), training)
    screening = Screening(None, passes.profile.n_samples, training.reg_covar)
    ladder = Ladder(passes.profile, training, passes.frame, None, 1, SOFT, None, screening)
    singles = [ladder.climb([c], turn) for turn in range(4)]
    ends = [single.best[c].objective for single in singles]
    assert max(ends) - ends[0] > 1, "or this shows nothing"
    assert is_sound(singles[0].best[c], training.reg_covar) is bool(singles[0].spreads) is sound
    found = starts.start_on_sample(passes.profile, [c], training, passes.frame, n_threads=1)
    best = singles[int(np.argmax(ends))].best[c].mixture
    np.testing.assert_array_equal(found.mixtures[c].means, best.means)
    # every climb of every search counts, as they end on the same rows
    assert found.spreads[c].paths == sum(single.spreads[c].paths for single in singles if single.spreads)
    assert found.failures == {}


def test_candidates_that_are_ruled_out_are_not_searched_again(monkeypatch: pytest.MonkeyPatch, x: np.ndarray) -> None:
    """Two clusters far apart: one covariance for both is enough, and two spheres too little by far."""
    seen = []
    climb = Ladder.climb

    def noted(self: Ladder, candidates: Any, turn: int = 0) -> Any:
        seen.append(sorted(c.covariance_type for c in candidates))
        return climb(self, candidates, turn)

    monkeypatch.setattr(Ladder, "climb", noted)
    training = Training(**THOROUGH)
    passes = passes_over(open_samples(x * [1, 20]), threads(2), training)
    candidates = [Candidate(2, "full"), Candidate(2, "tied"), Candidate(2, "spherical")]
    starts.start_on_sample(passes.profile, candidates, training, passes.frame, criterion=Criterion.BIC, n_threads=1)
    assert seen == [["full", "spherical", "tied"]] + [["full", "tied"]] * 3


def test_types_that_cannot_win_are_not_walked(monkeypatch: pytest.MonkeyPatch, x: np.ndarray) -> None:
    """Two clusters far apart, in features of different units: no spheres."""
    walked, x = [], x * [1, 20]
    walk = Path.walk
    monkeypatch.setattr(Path, "walk", lambda self: walked.append(self.family.name) or walk(self))
    training = Training(search="standard", start_rows=1500)
    passes = passes_over(open_samples(x), threads(2), training)
    candidates = [Candidate(k, kind) for kind in ("full", "tied", "spherical") for k in (1, 2, 3)]
    found = starts.start_on_sample(passes.profile, candidates, training, passes.frame, criterion=Criterion.BIC)
    assert sorted(walked) == ["full", "tied"]
    # they have mixtures of every number all the same, and none is told without a criterion
    assert {c for c in found.mixtures if c.covariance_type == "spherical"} == {
        Candidate(k, "spherical") for k in (2, 3)
    }
    starts.start_on_sample(passes.profile, candidates, training, passes.frame)
    assert sorted(walked) == ["full", "full", "spherical", "tied", "tied"]


@pytest.mark.parametrize("seed", range(3))
def test_components_on_a_plane_are_not_cut(seed: int) -> None:
    """Values on a lattice, without regularisation: rows of a component may have no extent in some direction."""
    x = np.rint(np.random.default_rng(seed).standard_normal((900, 2)) * 1.5)
    found = dgmm.select(x, [3, 8], ["full"], search="standard", reg_covar=0.0)
    assert np.isfinite(found.best.bic)
