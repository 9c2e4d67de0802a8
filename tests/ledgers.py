"""What tests of ledgers share: a small job of scoring in twelve regions, what it writes, and ways to disturb it."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
import zarr

from dgmm.config import Cluster, Data, Score
from dgmm.data import grid, object_at
from dgmm.fits import Fit, Outcome, OutcomeKind
from dgmm.mixture import Mixture
from dgmm.pipeline import run_score
from dgmm.scoring import ledger
from dgmm.scoring.segments import ScoreSegment
from dgmm.store import save

#: Regions of the job.
N = 12


def small() -> None:
    """Cut small arrays, too, and put every record into the ledger at once; in whatever process."""
    grid.MIN_ROWS = 16
    ledger.EVERY, ledger.RARELY = 0.0, 0


@contextmanager
def small_for_a_while() -> Iterator[None]:
    """The same, and back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "MIN_ROWS", 16)
        patch.setattr(ledger, "EVERY", 0.0)
        patch.setattr(ledger, "RARELY", 0)
        yield


def fit(seed: int = 0, k: int = 3) -> Fit:
    """A mixture of some components in three dimensions."""
    means = np.random.default_rng(seed).normal(0, 3, (k, 3))
    mixture = Mixture.gaussian("full", np.full(k, 1 / k), means, np.tile(np.eye(3), (k, 1, 1)))
    return Fit(mixture, -1.0, 10, 0, 1, Outcome(OutcomeKind.CONVERGED, 1), 0.0, (-1.0,), ("0", "1", "2"))


def rows() -> np.ndarray:
    """Samples, some incomplete, and nothing but incomplete ones in one region."""
    generator = np.random.default_rng(1)
    x = generator.normal(0, 3, (238, 3))
    x[generator.random(238) < 0.1, 1] = np.nan
    x[80:100] = np.nan
    return x


def write_job(folder: Path, **how: Any) -> Score:
    """A model and a source in a folder, and settings that score them into ``out``."""
    save(fit(), folder / "m.zarr")
    array = zarr.create_array(str(folder / "x.zarr"), shape=(238, 3), dtype="f8", **{"chunks": (20, 3), **how})
    array[:] = rows()
    return job_of(folder, folder / "out")


def job_of(folder: Path, out: Any, **more: Any) -> Score:
    """The settings."""
    cluster = Cluster(**more.pop("cluster", {"scheduler": "threads", "n_workers": 1}))
    data = Data(path=str(folder / "x.zarr"))
    return Score(model=str(folder / "m.zarr"), data=data, out=str(out), cluster=cluster, **more)


def tree(place: Any) -> dict[str, bytes]:
    """Everything that lies at a path or URL, as bytes."""
    if "://" in str(place):
        objects, key = object_at(str(place))
        keys = [found["path"] for batch in obstore.list(objects, f"{key}/") for found in batch]
        return {found.removeprefix(f"{key}/"): bytes(obstore.get(objects, found).bytes()) for found in keys}
    return {str(p.relative_to(place)): p.read_bytes() for p in sorted(Path(place).rglob("*")) if p.is_file()}


def object_put(place: str, key: str, content: bytes) -> None:
    """Put an object below a URL."""
    objects, name = object_at(place)
    obstore.put(objects, f"{name}/{key}", content)


class Stop(Exception):
    """What a test ends a run with."""


def stop() -> None:
    """End a run."""
    raise Stop


def kill() -> None:
    """End the process."""
    os.kill(os.getpid(), signal.SIGKILL)


def forked(work: Callable[[], Any]) -> int:
    """Do something in a child of this process; how that ended, as `os.waitpid` says it."""
    return os.waitpid(child_of(work), 0)[1]


def child_of(work: Callable[[], Any]) -> int:
    """The process id of a child of this process that does something, and ends with 0 if that did not fail."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which the child does without
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


@contextmanager
def at_region(number: int, do: Callable[[], Any]) -> Iterator[list[int]]:
    """Context in which something happens once so many regions, counted from one, are recorded; those that are."""
    recorded = ScoreSegment._recorded
    done: list[int] = []

    def then(self: ScoreSegment, recorder: Any, segment: int, given: Any) -> Any:
        found = recorded(self, recorder, segment, given)
        done.append(segment)
        if len(done) == number:
            do()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScoreSegment, "_recorded", then)
        yield done


def scored(job: Score) -> list[int]:
    """Do a job; the regions that were scored for it."""
    with at_region(0, stop) as done:
        run_score(job)
    return done


def left(job: Score, number: int) -> None:
    """Do a job until so many regions are recorded."""
    with at_region(number, stop), pytest.raises(Stop):
        run_score(job)


def killed_at_each(folder: str, out: str, numbers: str) -> None:
    """In a process of its own: for each number a child that is killed once it has recorded so many regions."""
    small()
    for number in map(int, numbers.split(",")):
        pid = os.fork()
        if pid == 0:
            with at_region(number, kill):
                run_score(job_of(Path(folder), out.format(number)))
            os._exit(1)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status), status
        assert os.WTERMSIG(status) == signal.SIGKILL


if __name__ == "__main__":
    killed_at_each(*sys.argv[1:])
