"""Training and scoring again and again in one process: nothing grows, and nothing is left behind."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from dgmm.config import Cluster, Data, Score
from dgmm.pipeline import run_score, run_train
from tests import journals

#: Cycles after which memory is taken to have reached what it needs, and the share by which it may grow from there.
WARM, GROWTH = 20, 0.05


@dataclass(frozen=True)
class Held:
    """What a process has: bytes, open files, threads, children, and what lies in the temporary folder."""

    resident: int
    files: int
    threads: int
    children: int
    left: tuple[str, ...]

    @classmethod
    def now(cls) -> Held:
        """As it is."""
        gc.collect()
        process = psutil.Process()
        left = tuple(sorted(os.listdir(tempfile.gettempdir())))
        resident, n = process.memory_info().rss, threading.active_count()
        return cls(resident, process.num_fds(), n, len(process.children()), left)


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder that nobody else has."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def cycles(folder: Path, number: int) -> Iterator[Held]:
    """Train and score so many times, each time over what was there; what the process has after each."""
    data = journals.write_data(folder)
    cluster = Cluster(scheduler="threads", n_workers=2)
    train = journals.train(data, folder / "model", cluster=cluster, overwrite=True)
    score = Score(
        model=train.out, data=Data(path=data), out=str(folder / "scores"), cluster=cluster, overwrite=True,
        probabilities=True,
    )  # fmt: skip
    for _ in range(number):
        run_train(train)
        run_score(score)
        assert {path.name for path in folder.iterdir()} <= {"x.zarr", "model", "scores", "temporary"}
        yield Held.now()


def check(found: list[Held], warm: int) -> None:
    """After the first cycles there are as many files, threads and children as ever, and nothing lies about."""
    first, last = found[warm], found[-1]
    # clusters of other tests in this process open connections and close them: one file a cycle would be three more
    files = [held.files for held in found[warm:]]
    assert min(files[-3:]) <= max(files[:3])
    assert last.threads <= first.threads
    assert last.children == first.children == found[0].children
    assert {held.left for held in found} == {()}


def test_a_few_cycles_leave_nothing(own_folder: Path, tmp_path: Path) -> None:
    found = list(cycles(tmp_path, 10))
    check(found, 4)


@pytest.mark.slow
def test_two_hundred_cycles_take_no_more_than_the_first(own_folder: Path, tmp_path: Path) -> None:
    found = list(cycles(tmp_path, 200))
    for i in (0, WARM, 50, 100, 150, 199):
        print(i, found[i])
    check(found, WARM)
    assert found[-1].resident < (1 + GROWTH) * found[WARM].resident
