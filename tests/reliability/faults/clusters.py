"""Workers of a cluster die, in whatever a job is at, or its scheduler does, and those whose samples they held."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import zarr

import dgmm
from dgmm.data import open_samples
from dgmm.engine import Workers, open_workers
from dgmm.errors import ClusterError
from dgmm.pipeline import run_score
from tests import journals, ledgers
from tests.deaths import Greedy, fatal
from tests.reliability.faults import drivers
from tests.reliability.trials import Ended, Trial, fault
from tests.servers import free_port, server

#: What all trials share, until the process ends.
_open = ExitStack()
atexit.register(_open.close)

#: Workers of the cluster that trials share.
N_WORKERS = 2


@cache
def workers() -> Workers:
    """A cluster of processes."""
    return _open.enter_context(open_workers("processes", n_workers=N_WORKERS, memory_limit="1GB"))


@contextmanager
def on(those: Workers) -> Iterator[None]:
    """Context in which jobs are done by these workers, whatever their settings say."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dgmm.pipeline.jobs.workers_of", lambda cluster, need=None: nullcontext(those))
        yield


@cache
def scores() -> tuple[Path, dict[str, bytes]]:
    """A folder with a model and a source to be scored, and the scores that come of it."""
    folder = Path(_open.enter_context(tempfile.TemporaryDirectory()))
    job = ledgers.write_job(folder)
    with ledgers.small_for_a_while():
        run_score(job)
    return folder, ledgers.tree(job.out)


def fitted(job: Callable[..., Any], out: Path, **how: Any) -> dict[str, Any]:
    """What a fit comes to, in as many segments as there are chunks."""
    with ledgers.small_for_a_while():
        return journals.bits(journals.work(job(drivers.data(), out, **how)))


@cache
def undisturbed(job: Callable[..., Any]) -> dict[str, Any]:
    """The same where nothing happens."""
    return fitted(job, Path(_open.enter_context(tempfile.TemporaryDirectory())) / "out")


def train(out: Path, **how: Any) -> None:
    """Train, and see that it comes to what it does undisturbed."""
    assert fitted(journals.train, out, **how) == undisturbed(journals.train)


def select(out: Path, **how: Any) -> None:
    """The same for a selection."""
    assert fitted(journals.select, out, **how) == undisturbed(journals.select)


def score(out: Path, **how: Any) -> None:
    """The same for scores."""
    folder, expected = scores()
    with ledgers.small_for_a_while():
        run_score(ledgers.job_of(folder, out, **how))
    assert ledgers.tree(out) == expected


JOBS: dict[str, Callable[..., None]] = {"training": train, "selection": select, "scoring": score}


# ---- workers ---------------------------------------------------------------------------------------------------------

#: The passes in which workers die, and of which job; each has at least six segments.
PASSES = {
    "profile and sample": ("ProfileSegment", train),
    "E-step": ("EStepSegment", train),
    "worst rows": ("WorstSegment", train),
    "judge": ("JudgeSegment", train),
    "E-step of a selection": ("EStepSegment", select),
    "scoring": ("ScoreSegment", score),
}


def pids_of(those: Workers) -> list[int]:
    """The processes of all workers, once all of them are there."""
    assert those.client is not None
    those.client.wait_for_workers(N_WORKERS, timeout=120)
    return sorted(those.client.run(os.getpid).values())


def killed_workers(trial: Trial, kind: str, job: Callable[..., None]) -> Ended | None:
    """One of two workers dies in the middle of a pass; or both at once; or one after the other, three times."""
    r, pids = trial.random, pids_of(workers())
    others = pids if trial.number % 3 == 1 else []
    times = 3 if trial.number % 3 == 2 else 1
    at = int(r.integers(1, 4)) if kind == "EStepSegment" else 1
    with on(workers()), fatal(kind, int(r.integers(6)), trial.folder / "marks", times, others, at):
        job(trial.folder / "out")
    return Ended.RECOVERED


def killed_now_and_then(trial: Trial) -> Ended | None:
    """Whichever worker, every one to three seconds, for as long as a selection takes."""
    r, over, killed = trial.random, threading.Event(), []
    pids_of(workers())
    client = workers().client
    assert client is not None

    def kill() -> None:
        while not over.wait(float(r.uniform(1, 3))):
            found = [worker.process.pid for worker in client.cluster.workers.values() if worker.process]
            alive = [pid for pid in found if pid]
            if alive:
                os.kill(alive[int(r.integers(len(alive)))], signal.SIGKILL)
                killed.append(1)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        with on(workers()):
            for number in range(10):
                select(trial.folder / str(number))
                if killed:
                    break
    finally:
        over.set()
        thread.join()
    assert killed
    return Ended.RECOVERED


@fault("workers over their memory limit", "training", short=1, long=5, ends={Ended.REFUSED})
def greedy(trial: Trial) -> Ended | None:
    """Every worker that takes up a task grows beyond its limit: the setting is named, and nothing is written."""
    from dgmm.engine import Fold, schedulers

    call, segment = Fold.__call__, int(trial.random.integers(6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(schedulers.DISTRIBUTED_SETTINGS, "distributed.scheduler.allowed-failures", 1)
        patch.setattr(Fold, "__call__", lambda fold, leaf: call(fold, Greedy(leaf, segment, "")))
        with open_workers("processes", n_workers=1, memory_limit="450MB") as those, on(those):
            try:
                train(trial.folder / "out")
            except ClusterError as error:
                said = str(error)
            else:
                raise AssertionError("nobody died")
    assert said.startswith("2 workers have died of one task"), said
    assert "raise memory_limit (cluster.memory_limit)" in said, said
    assert not (trial.folder / "out").exists()
    return Ended.REFUSED


# ---- samples in memory -----------------------------------------------------------------------------------------------


@cache
def in_memory() -> tuple[np.ndarray, float]:
    """Samples, and what they come to without a cluster."""
    x = np.asarray(zarr.open_array(drivers.data(), mode="r"))
    return x, dgmm.train(x, 2, n_init=1, scheduler="threads").log_likelihood


def lost_samples(trial: Trial, kind: str) -> Ended | None:
    """All workers die that hold samples that the driver has in memory."""
    x, expected = in_memory()
    source: Any = x if kind == "NumPy" else dask.array.from_array(x, chunks=(500, 2))
    segment = int(trial.random.integers(len(open_samples(source).grid)))
    pids = pids_of(workers())
    with fatal("EStepSegment", segment, trial.folder / "marks", 1, pids, at=2):
        fit = dgmm.train(source, 2, n_init=1, scheduler=workers().client)
    assert fit.log_likelihood == expected
    return Ended.RECOVERED


# ---- the scheduler ---------------------------------------------------------------------------------------------------


def keep(context: AbstractContextManager[Any]) -> Any:
    """Enter a context that lasts until the process ends."""
    return _open.enter_context(context)


@contextmanager
def scheduler(port: int, protocol: str = "tcp", options: Sequence[str] = ()) -> Iterator[subprocess.Popen[Any]]:
    """A scheduler at a port, with workers."""
    folder = tempfile.mkdtemp()
    python = [sys.executable, "-W", "ignore", "-m"]
    address = ["--protocol", protocol, "--host", "127.0.0.1", "--port", str(port)]
    command = [*python, "distributed.cli.dask_scheduler", *address, "--no-dashboard", "--no-show", *options]
    crew = [*python, "distributed.cli.dask_worker", f"{protocol}://127.0.0.1:{port}", "--nworkers", "2"]
    crew += ["--nthreads", "1", "--memory-limit", "1GB", "--no-dashboard", "--host", "127.0.0.1", *options]
    crew += ["--local-directory", folder]
    try:
        with server(command, port) as process, ExitStack() as stack:
            # workers have no port that is known beforehand: dgmm waits for the first of them
            stack.enter_context(server(crew, port))
            yield process
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def killed_scheduler(trial: Trial, name: str) -> Ended | None:
    """A scheduler dies at any moment of a job; the same command with another one at its place goes on."""
    r, out, port = trial.random, trial.folder / "out", free_port()
    how = {"cluster": {"scheduler": f"tcp://127.0.0.1:{port}"}}
    scores()  # what it comes to undisturbed takes a pass, too
    with scheduler(port) as process:
        died: list[float] = []

        def die() -> None:
            process.kill()
            died.append(time.monotonic())

        timer = threading.Timer(float(r.uniform(0, 0.2)), die)
        progress = journals.at_record(int(r.integers(1, 6)), timer.start) if name != "scoring" else at_pass(timer.start)
        try:
            with progress:
                JOBS[name](out, **how)
        except ClusterError as error:
            said, waited = str(error), time.monotonic() - died[0]
        else:
            raise AssertionError("the scheduler died too late")
        finally:
            timer.cancel()
    assert f"tcp://127.0.0.1:{port}" in said, said
    assert "start it anew" in said, said
    assert "\n" not in said, said
    assert waited < 60, waited
    with scheduler(port):
        JOBS[name](out, **how)
    return Ended.RECOVERED


@contextmanager
def at_pass(do: Callable[[], Any]) -> Iterator[None]:
    """Context in which something happens as a pass begins."""
    from dgmm.engine import Fold

    call = Fold.__call__

    def then(self: Fold, leaf: Any) -> Any:
        do()
        return call(self, leaf)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fold, "__call__", then)
        yield


for number, (phase, (kind, job)) in enumerate(PASSES.items()):
    fault("workers killed", phase, short=int(number in (1, 5)), long=60)(partial(killed_workers, kind=kind, job=job))
fault("workers killed now and then", "selection", short=0, long=20)(killed_now_and_then)
for kind in ("NumPy", "Dask"):
    fault(f"workers lost with arrays of {kind}", "training", short=int(kind == "NumPy"), long=20)(
        partial(lost_samples, kind=kind)
    )
for name in JOBS:
    fault("scheduler killed", name, short=int(name == "training"), long=10)(partial(killed_scheduler, name=name))
