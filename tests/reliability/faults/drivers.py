"""The driver dies: what was done is kept, and the same command again comes to the same bits."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dgmm.pipeline import run_score
from tests import journals, ledgers
from tests.reliability.trials import Ended, Trial, fault

#: Seconds after which a driver is taken to hang.
HANGING = 60


@dataclass(frozen=True)
class Job:
    """Something that is done with a driver.

    Attributes
    ----------
    work : callable
        Does it, into a folder.
    found : callable
        What came of it there, to be compared.
    within : callable
        The context in which a driver is killed once so many steps are recorded.
    size : callable
        How many steps there are.
    """

    work: Callable[[Path], Any]
    found: Callable[[Path], Any]
    within: Callable[[int], AbstractContextManager[Any]]
    size: Callable[[Path], int]


@cache
def data() -> str:
    """The rows of all trials."""
    return journals.write_data(Path(tempfile.mkdtemp()))


@cache
def scored() -> Path:
    """A model and a source for all trials of scoring."""
    folder = Path(tempfile.mkdtemp())
    ledgers.write_job(folder)
    return folder


def at_record(number: int) -> AbstractContextManager[None]:
    """Context in which the process ends at a record of a journal."""
    return journals.at_record(number, ledgers.kill)


@contextmanager
def small() -> Iterator[None]:
    """Context in which small sources are cut, too."""
    with ledgers.small_for_a_while():
        yield


def work_scores(folder: Path) -> None:
    """Score."""
    with small():
        run_score(ledgers.job_of(scored(), folder / "out"))


JOBS: dict[str, Job] = {
    "training": Job(
        lambda folder: journals.work(journals.train(data(), folder / "out", keep_journal=True)),
        lambda folder: journals.bits(str(folder / "out")),
        at_record,
        lambda folder: journals.n_records(folder / "out.journal"),
    ),
    "selection": Job(
        lambda folder: journals.work(journals.select(data(), folder / "out", keep_journal=True)),
        lambda folder: journals.bits(str(folder / "out" / "model.zarr")),
        at_record,
        lambda folder: journals.n_records(folder / "out" / "model.zarr.journal"),
    ),
    "scoring": Job(
        work_scores,
        lambda folder: ledgers.tree(folder / "out"),
        lambda number: ledgers.at_region(number, ledgers.kill),
        lambda folder: ledgers.N,
    ),
}


@cache
def undisturbed(name: str) -> tuple[Any, int, float]:
    """What a job comes to that nothing happens to, how many steps it has, and how many seconds it takes."""
    folder, job = Path(tempfile.mkdtemp()), JOBS[name]
    job.work(folder)
    found, size = job.found(folder), job.size(folder)
    began = time.monotonic()
    job.work(Path(tempfile.mkdtemp()))
    return found, size, time.monotonic() - began


def child(job: Job, folder: Path, within: AbstractContextManager[Any]) -> int:
    """The process that does a job; one that hangs is killed by its alarm."""

    def work() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(HANGING)
        with within:
            job.work(folder)

    return ledgers.child_of(work)


def was_killed(pid: int) -> bool:
    """Whether a process was, or came to its end; nothing else may become of it."""
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, "it hangs"
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def killed(trial: Trial, name: str) -> Ended:
    """A driver that is killed at a record; then again somewhere later, until one comes to the end."""
    expected, n, _ = undisturbed(name)
    r, job, steps = trial.random, JOBS[name], 0
    # a journal counts its records from the first, a ledger what this run has added
    while True:
        step = int(r.integers(1, n + 2 - steps))
        steps += step
        if not was_killed(child(job, trial.folder, job.within(step if name == "scoring" else steps))):
            break
    assert job.found(trial.folder) == expected
    return Ended.RECOVERED


def killed_some_time(trial: Trial, name: str) -> Ended:
    """A driver that is killed whenever it may be, up to three times, whatever it is at; then one is let be."""
    expected, _, seconds = undisturbed(name)
    r, job = trial.random, JOBS[name]
    for _ in range(int(r.integers(1, 4))):
        pid = child(job, trial.folder, nullcontext())
        time.sleep(float(r.uniform(0, 1.1 * seconds)))
        os.kill(pid, signal.SIGKILL)
        if not was_killed(pid):
            break
    if not (trial.folder / "out").exists() or not _is_finished(trial.folder, name):
        assert not was_killed(child(job, trial.folder, nullcontext()))
    assert job.found(trial.folder) == expected
    return Ended.RECOVERED


def _is_finished(folder: Path, name: str) -> bool:
    """Whether the output is where it belongs: it is there as a whole or not at all."""
    return (folder / "out" / ("model.zarr" if name == "selection" else "")).exists()


for name in JOBS:
    long = 200 if name == "scoring" else 100
    fault("driver killed", name, short=4, long=long)(lambda trial, name=name: killed(trial, name))
for name in JOBS:
    fault("driver killed at any time", name, short=2, long=200)(lambda trial, name=name: killed_some_time(trial, name))
