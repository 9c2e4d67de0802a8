"""The fold: every segment once, what stays in memory read once, and nothing kept that nobody owns."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from distributed import Client

import dgmm
from dgmm.data import Samples, open_samples
from dgmm.engine import Fold, Leaf, Workers, open_workers, resident
from dgmm.engine.fold import read_ahead
from dgmm.engine.leaf import digest
from dgmm.engine.memory import gathered_bytes, pass_bytes
from dgmm.engine.workers import threads
from dgmm.errors import ReadError
from dgmm.fits import Training
from dgmm.fitting import passes_over
from dgmm.mixture import Mixture
from dgmm.passes import Passes
from dgmm.passes import profile as profile_module
from dgmm.passes.estep import EStepSegment
from dgmm.passes.parts import Division
from dgmm.passes.profile import ProfileSegment
from dgmm.passes.sample import Draw
from dgmm.rows import Rows
from tests.stores import chunks_read, counted

CHUNK, CHUNKS = 5000, 8
#: Bytes of one segment of `rows`: float64, three features.
SEGMENT = CHUNK * 24


def rows() -> np.ndarray:
    r = np.random.default_rng(0)
    x = r.standard_normal((CHUNK * CHUNKS, 3))
    x[::2] += 5
    return x


def mixture() -> Mixture:
    return Mixture.gaussian("full", np.ones(2), np.array([[0.0] * 3, [5.0] * 3]), np.tile(np.eye(3), (2, 1, 1)))


def e_step(passes: Passes) -> Any:
    return passes.accumulate([mixture().to_frame(passes.frame("whitening"))])[0]


def with_room_for(segments: int, samples: Samples) -> Workers:
    """One thread that may keep so many segments beside an E-step."""
    leaf = EStepSegment(mixture().density_plan(), Division(missing=False, holdout=0.0, seed=0, scale=1.0))
    need = pass_bytes(samples, leaf, n_segments=2).total + gathered_bytes(samples, leaf, [range(CHUNKS)])
    # 0.6 of it are for tasks and what is kept
    return Workers(None, 1, 1, int((need + (segments + 0.5) * SEGMENT) / 0.6))


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The profile takes less memory than the E-step, as it does of segments of the usual size."""
    monkeypatch.setattr(profile_module, "PIECE_BYTES", 2**14)


@pytest.fixture(autouse=True)
def nothing_is_kept_yet() -> None:
    """What earlier tests have left to be collected is gone."""
    gc.collect()


@pytest.mark.parametrize("kept", [0, 3, CHUNKS])
def test_what_is_kept_is_read_once_and_the_rest_in_every_pass(kept: int, tmp_path: Path) -> None:
    samples = open_samples(counted(tmp_path, rows(), CHUNK))
    assert len(samples.grid) == CHUNKS
    passes = passes_over(samples, with_room_for(kept, samples), Training(sample_rows=1000))
    every = sorted(f"c/{i}/0" for i in range(CHUNKS))
    assert sorted(chunks_read(tmp_path)) == every
    assert passes.n_reads == 1
    for i in (1, 2):
        e_step(passes)
        again = chunks_read(tmp_path)
        assert len(again) == len(set(again)) == CHUNKS - kept
        assert passes.n_reads == 1 + i * (CHUNKS - kept) / CHUNKS
    assert passes.fold.n_passes == 3


@dataclass(frozen=True)
class Total:
    """A sum, and the segments that are in it, in order."""

    value: float
    segments: tuple[int, ...]

    def merge(self, other: Total) -> Total:
        return Total(self.value + other.value, self.segments + other.segments)


@dataclass(frozen=True)
class Sum(Leaf[Total]):
    """The leaf that adds everything up; it may fail at a segment."""

    fails_at: int = -1

    def __call__(self, segment: int, rows: Rows) -> Total:
        if segment == self.fails_at and len(rows):
            raise ArithmeticError(f"segment {segment}")
        return Total(float(rows.x.sum()), (segment,))

    def working_bytes(self, n_rows: int) -> int:
        return 0

    def result_bytes(self, n_rows: int) -> int:
        return 100


class ExactSum(Sum):
    """One whose tasks keep one value each."""

    exact = True


@pytest.mark.parametrize("leaf", [Sum(), ExactSum()])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_every_segment_is_folded_once_and_in_order(leaf: Sum, n_threads: int, tmp_path: Path) -> None:
    x = rows()
    fold = Fold(open_samples(counted(tmp_path, x, CHUNK)), threads(n_threads))
    found = fold(leaf)
    assert found.segments == tuple(range(CHUNKS))
    assert found.value == pytest.approx(x.sum(), rel=1e-12)


def test_the_tree_of_a_fold_is_the_datas(tmp_path: Path) -> None:
    """Sums of floats in another order would have other bits."""
    array = counted(tmp_path, rows() * 10.0 ** np.arange(CHUNK * CHUNKS)[:, None].clip(0, 30), CHUNK)
    assert len({Fold(open_samples(array), threads(n))(Sum()).value for n in (1, 2, 3, 8)}) == 1


# ---- reading ahead ---------------------------------------------------------------------------------------------------


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


@pytest.mark.parametrize("bad", [0, 3, CHUNKS - 1])
@pytest.mark.parametrize("ahead", [True, False])
def test_a_read_that_fails_is_the_last(bad: int, ahead: bool, tmp_path: Path) -> None:
    """Its error comes out once, where its segment would have; no thread is left."""
    samples = open_samples(counted(tmp_path, rows(), CHUNK, (f"c/{bad}/0",)))
    seen = []
    with pytest.raises(ReadError, match=f"cannot read c/{bad}/0"):
        for segment, x in read_ahead(samples, range(CHUNKS), samples.read, ahead=ahead):
            seen.append(segment)
            assert x.shape == (CHUNK, 3)
    assert seen == list(range(bad))
    # the one that fails is looked at again, to say which it was
    assert list(dict.fromkeys(chunks_read(tmp_path))) == [f"c/{i}/0" for i in range(bad + 1)]
    assert not readers()


def test_the_next_segment_is_read_while_one_is_worked_on(tmp_path: Path) -> None:
    samples = open_samples(counted(tmp_path, rows(), CHUNK))
    second_was_asked_for = threading.Event()

    def read(region: Any) -> int:
        start = int(region[0].start)
        if start:
            second_was_asked_for.set()
        return start

    for _ in read_ahead(samples, range(2), read):
        assert second_was_asked_for.wait(20)


def test_nothing_is_read_ahead_without_the_memory_for_it(tmp_path: Path) -> None:
    samples = open_samples(counted(tmp_path, rows(), CHUNK))
    gathered = gathered_bytes(samples, Sum(), [range(i, i + 2) for i in range(0, CHUNKS, 2)])
    both, one = (pass_bytes(samples, Sum(), n_segments=2, ahead=ahead).total + gathered for ahead in (True, False))
    assert both > one
    for memory in (both, both - 1, one):
        seen: list[int] = []

        @dataclass(frozen=True)
        class Look(Sum):
            def __call__(self, segment: int, rows: Rows, seen: list[int] = seen) -> Total:
                seen.append(len(readers()))
                return super().__call__(segment, rows)

        Fold(samples, Workers(None, 1, 1, memory))(Look())
        assert (max(seen) == 1) == (memory == both)
    with pytest.raises(dgmm.InsufficientMemoryError):
        Fold(samples, Workers(None, 1, 1, one - 1))(Sum())


def test_a_leaf_that_fails_leaves_no_thread(tmp_path: Path) -> None:
    samples = open_samples(counted(tmp_path, rows(), CHUNK))
    with pytest.raises(ArithmeticError, match="segment 4") as caught:
        Fold(samples, threads(2))(Sum(fails_at=4))
    assert caught.value is not None, "whoever holds the error holds the frames it went through"
    assert not readers()


# ---- what is asked has a name ----------------------------------------------------------------------------------------


def questions() -> list[Leaf[Any]]:
    """Leaves that all ask something else."""
    division = Division(missing=False, holdout=0.0, seed=0, scale=1.0)
    moved = Mixture.gaussian(
        "full", np.ones(2), np.array([[0.0] * 3, [5.0] * 3]) + 1e-15, np.tile(np.eye(3), (2, 1, 1))
    )
    plan = mixture().density_plan()
    return [
        Sum(),
        Sum(fails_at=1),
        EStepSegment(plan, division),
        EStepSegment(moved.density_plan(), division),
        EStepSegment(replace(plan, dtype=np.dtype(np.float32)), division),
        *(
            EStepSegment(plan, replace(division, **{k: v}))
            for k, v in [("missing", True), ("holdout", 0.1), ("seed", 1)]
        ),
        *(
            ProfileSegment("x", names, open_samples(np.zeros((9, 2))).grid, draw, 16)
            for names, draw in [(("a", "b"), Draw(10, 0)), (("a", "c"), Draw(10, 0)), (("a", "b"), Draw(10, 0, 8.0))]
        ),
    ]


KEYS = "from tests.engine.test_fold import questions; print(*(leaf.key() for leaf in questions()))"


def test_the_key_of_a_question_is_its_own_and_the_same_in_every_process() -> None:
    keys = [leaf.key() for leaf in questions()]
    assert len(set(keys)) == len(keys)
    assert [cloudpickle.loads(cloudpickle.dumps(leaf)).key() for leaf in questions()] == keys
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": root}
    said = subprocess.run(
        [sys.executable, "-c", KEYS], check=True, capture_output=True, text=True, cwd=root, env=environment
    )
    assert said.stdout.split() == keys


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (("ab", "c"), ("a", "bc")),
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        ("1", 1),
        (None, "None"),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.zeros(2), np.zeros(2, np.float32)),
        (((1,), 2), (1, (2,))),
        ({"a": 1}, {"b": 1}),
        (slice(0, 1), slice(0, 2)),
        (np.dtype("f4"), np.dtype("f8")),
        (np.zeros, np.ones),
    ],
)
def test_no_two_values_have_one_digest(a: Any, b: Any) -> None:
    assert digest(a) == digest(a) != digest(b) == digest(b)


def test_what_has_no_digest_is_said() -> None:
    with pytest.raises(TypeError, match="no digest of a set"):
        digest({1})


# ---- what is kept, and for how long ----------------------------------------------------------------------------------


def test_nothing_is_kept_when_the_workers_are_given_back(tmp_path: Path) -> None:
    samples = open_samples(counted(tmp_path, rows(), CHUNK))
    before = resident.resident_bytes()
    with open_workers("threads") as workers:
        passes = passes_over(samples, workers, Training(sample_rows=1000))
        assert resident.resident_bytes() - before == CHUNKS * SEGMENT
        assert passes.n_reads == 1
    assert resident.resident_bytes() == before
    with pytest.raises(ArithmeticError), open_workers("threads") as workers:
        fold = Fold(samples, workers)
        fold(Sum())
        assert resident.resident_bytes() > before
        fold(Sum(fails_at=2))
    assert resident.resident_bytes() == before


def test_nothing_is_kept_for_a_fold_that_is_gone(tmp_path: Path) -> None:
    samples = open_samples(counted(tmp_path, rows(), CHUNK))
    before = resident.resident_bytes()
    fold = Fold(samples, threads(2))
    fold(Sum())
    assert resident.resident_bytes() - before == CHUNKS * SEGMENT
    del fold
    gc.collect()
    assert resident.resident_bytes() == before
    Fold(samples, threads(2), keep=False)(Sum())
    assert resident.resident_bytes() == before


def test_folds_of_one_process_share_its_memory(tmp_path: Path) -> None:
    """Two fits at a time, each of which could keep five segments of eight."""
    samples = open_samples(counted(tmp_path, rows(), CHUNK))
    need = pass_bytes(samples, Sum(), n_segments=2).total + gathered_bytes(samples, Sum(), [range(CHUNKS)])
    workers = Workers(None, 1, 1, int((need + 5.5 * SEGMENT) / 0.6))
    before = resident.resident_bytes()
    first, second = Fold(samples, workers), Fold(samples, workers)
    for _ in range(2):
        first(Sum())
        second(Sum())
        assert resident.resident_bytes() - before <= 5.5 * SEGMENT
    first.close()
    second(Sum())
    assert resident.resident_bytes() - before == 5 * SEGMENT


def test_a_view_is_not_kept_with_all_that_it_is_a_view_of() -> None:
    whole = np.zeros((1000, 4))
    assert Rows(whole[:10]).owned().x.base is None
    assert Rows(whole, whole[:, 0]).owned().weights.base is None
    assert Rows(whole).owned().x is whole
    assert Rows(whole[:]).owned().nbytes == whole.nbytes
    frozen = np.frombuffer(bytes(80))
    assert Rows(frozen.reshape(5, 2)).owned().x.base is None


def test_what_is_kept_without_missing_rows_takes_less(tmp_path: Path) -> None:
    """What leaves are given is kept in the place of what was read."""
    x = rows()
    x[::4, 1] = np.nan
    before = resident.resident_bytes()
    with open_workers("threads") as workers:
        passes = passes_over(open_samples(counted(tmp_path, x, CHUNK)), workers, Training(sample_rows=1000))
        assert resident.resident_bytes() - before == CHUNKS * SEGMENT
        e_step(passes)
        assert resident.resident_bytes() - before == CHUNKS * SEGMENT * 3 // 4
        assert passes.n_reads == 1


def test_a_lease_that_travels_is_none() -> None:
    lease = resident.Lease("owner", "here")
    assert resident.shelf_of("owner") is not None
    again = pickle.loads(pickle.dumps(lease))
    lease.end()
    assert resident.shelf_of("owner") is None
    assert not isinstance(again, resident.Lease)


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether a condition comes to hold, on a cluster that has a second thread of thought."""
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def kept_by(client: Client) -> dict[str, int]:
    return dict(client.run(resident.resident_bytes))


def test_workers_keep_what_they_have_read_and_let_go_of_it(client: Client, tmp_path: Path) -> None:
    samples = open_samples(counted(tmp_path, rows(), CHUNK))
    assert set(kept_by(client).values()) == {0}
    with open_workers(client) as workers:
        passes = passes_over(samples, workers, Training(sample_rows=1000))
        assert sorted(chunks_read(tmp_path)) == sorted(f"c/{i}/0" for i in range(CHUNKS))
        assert sum(kept_by(client).values()) == CHUNKS * SEGMENT
        e_step(passes)
        # a worker with nothing to do may have taken a run from the other, and read it
        assert len(chunks_read(tmp_path)) < CHUNKS
        assert sum(kept_by(client).values()) == CHUNKS * SEGMENT
    assert eventually(lambda: set(kept_by(client).values()) == {0})
    with pytest.raises(ArithmeticError), open_workers(client) as workers:
        fold = Fold(samples, workers)
        fold(Sum())
        assert sum(kept_by(client).values()) == CHUNKS * SEGMENT
        fold(Sum(fails_at=3))
    assert eventually(lambda: set(kept_by(client).values()) == {0})


DIES = """
import os, signal, sys
from dgmm.data import open_samples
from dgmm.engine.fold import Fold
from dgmm.engine import open_workers
from tests.engine.test_fold import Sum

with open_workers(sys.argv[1]) as workers:
    Fold(open_samples(sys.argv[2]), workers)(Sum())
    print("kept", flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_keep_nothing_for_a_driver_that_was_killed(client: Client, tmp_path: Path) -> None:
    counted(tmp_path, rows(), CHUNK)
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", DIES, client.scheduler.address, str(tmp_path / "counted.zarr")]
    environment = os.environ | {"PYTHONPATH": root}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root, env=environment
    ) as driver:
        assert driver.stdin is not None
        assert driver.stdout is not None
        assert driver.stdout.readline() == "kept\n"
        assert sum(kept_by(client).values()) == CHUNKS * SEGMENT
        driver.stdin.write("\n")
        driver.stdin.close()
        assert driver.wait(60) == -signal.SIGKILL
    assert eventually(lambda: set(kept_by(client).values()) == {0})
