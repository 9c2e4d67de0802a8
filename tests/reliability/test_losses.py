"""Workers that are killed: the same bits, and no more memory than was allowed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import zarr

from dgmm.data import Samples, open_samples
from dgmm.engine import Fold, Leaf, Workers, open_workers, resident
from dgmm.engine.cluster import Call
from dgmm.engine.workers import threads
from dgmm.fits import Training
from dgmm.mixture import Mixture
from dgmm.passes import Passes, profile_of
from dgmm.passes.estep import EStepSegment
from dgmm.passes.parts import Division
from tests.deaths import fatal

OPTIONS = Training(sample_rows=1000, holdout=0.1)
DIVISION = Division(missing=True, holdout=0.1, seed=0, scale=1.0)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """Rows in 16 segments, one in forty with a missing value."""
    r = np.random.default_rng(0)
    x = r.standard_normal((80_000, 3)).astype(np.float32)
    x[::2] += 5
    x[::40, 1] = np.nan
    path = str(tmp_path_factory.mktemp("losses") / "x.zarr")
    array = zarr.create_array(path, shape=x.shape, chunks=(5_000, 3), dtype=x.dtype)
    array[:] = x
    return open_samples(path)


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with open_workers("processes", n_workers=2, memory_limit="1GB") as workers:
        yield workers


def mixture() -> Mixture:
    return Mixture.gaussian("full", np.ones(2), np.array([[0.0] * 3, [5.0] * 3]), np.tile(np.eye(3), (2, 1, 1)))


def bits(fold: Fold, samples: Samples) -> list[bytes]:
    """All that passes of each kind come to."""
    profile = profile_of(fold, samples, OPTIONS)
    passes = Passes(fold, samples, profile, OPTIONS)
    (statistics,) = passes.accumulate([mixture().to_frame(passes.frame("whitening"))])
    (worst,) = passes.worst([mixture()], 100)
    found = [profile.moments.mean, profile.moments.scatter, profile.sample.rows.x, profile.held_out.scatter]
    found += [np.array([statistics.log_likelihood, statistics.held_out]), statistics.sums, worst.keys, worst.rows.x]
    return [array.tobytes() for array in found]


@pytest.fixture(scope="module")
def expected(samples: Samples) -> list[bytes]:
    return bits(Fold(samples, threads(2)), samples)


@pytest.mark.parametrize("kind", ["ProfileSegment", "EStepSegment", "WorstSegment"])
def test_a_worker_that_is_killed_in_a_pass_changes_no_bit(
    kind: str, samples: Samples, workers: Workers, expected: list[bytes], tmp_path: Path
) -> None:
    fold = Fold(samples, workers)
    with fatal(kind, 9, tmp_path / "marks"):
        assert bits(fold, samples) == expected
    fold.close()


class Tight(Fold):
    """A fold whose workers may keep ten of sixteen segments each."""

    def room(self, leaf: Leaf[Any]) -> tuple[bool, int]:
        return True, 10 * 5_000 * 12


def kept_by(workers: Workers) -> list[int]:
    assert workers.client is not None
    return list(workers.client.run(resident.resident_bytes).values())


def test_what_a_lost_worker_kept_is_read_again_within_the_memory_of_the_others(
    samples: Samples, workers: Workers, expected: list[bytes]
) -> None:
    """Two workers keep all of it; the one that is left keeps no more than it may, until there is another."""
    assert workers.client is not None
    workers.client.wait_for_workers(2, timeout=60)
    fold = Tight(samples, workers)
    profile = profile_of(fold, samples, OPTIONS)
    _, budget = fold.room(EStepSegment(mixture().density_plan(), DIVISION))
    assert sum(kept_by(workers)) == samples.nbytes
    assert max(kept_by(workers)) <= budget
    victim = next(iter(workers.client.run(os.getpid).values()))
    os.kill(victim, signal.SIGKILL)
    passes = Passes(fold, samples, profile, OPTIONS)
    for _ in range(3):
        (statistics,) = passes.accumulate([mixture().to_frame(passes.frame("whitening"))])
        assert np.array([statistics.log_likelihood, statistics.held_out]).tobytes() == expected[4]
        assert max(kept_by(workers)) <= budget
    fold.close()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_task_that_was_sent_twice_may_come_back_twice_at_a_time(order: tuple[int, int]) -> None:
    client = Mock(status="running", gather=lambda futures: [f.value for f in futures])
    client.sync.return_value = {"workers": {"here": {}}}
    call = Call(client, abs, [(1,)], [None], lambda places: None)
    first, again = (Mock(status="finished", value="found") for _ in range(2))
    call._sent = {first: 0, again: 0}
    call._current = {0: again}
    call._gather([(first, again)[i] for i in order])
    assert call._found == {0: "found"}
    assert not call._current
