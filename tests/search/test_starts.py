"""How many threads climb on the sample: as many as were asked for."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dask.system import CPU_COUNT
from distributed import Client

from dgmm.data import open_samples
from dgmm.engine import open_workers
from dgmm.engine.workers import of_client, threads
from dgmm.fits import One, Training
from dgmm.fitting import passes_over, train_samples
from dgmm.rows import Rows
from dgmm.search import sampled, starts

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
        [starts.Candidate(2, "full")],
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
