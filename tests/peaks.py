"""Peaks of memory, measured, each against what was projected: it takes a process of its own.

What is measured is the resident set, as the kernel counts it: that is what a worker is killed for. It counts what
decoders, compiled code and the buffers of files take, of which tracemalloc knows nothing. The kernel forgets its
highest value when told to, so that one process can measure many cases; free memory goes back to the system at once, as
it does in Dask's workers, or a later case would be measured too small.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import patch

import cloudpickle
import numpy as np
import xarray as xr
import zarr

from dgmm.data import Grid, Samples, open_samples
from dgmm.engine import Fold, Leaf, open_workers
from dgmm.engine.fold import Residence, fold_run, rehearse
from dgmm.engine.memory import BASE_BYTES, pass_bytes, waiting_bytes
from dgmm.fits import One, Training
from dgmm.fitting import train_samples
from dgmm.mixture import Mixture
from dgmm.passes.estep import EStepSegment
from dgmm.passes.parts import Division
from dgmm.passes.profile import ProfileSegment, SampleSegment
from dgmm.passes.sample import Draw
from dgmm.passes.worst import WorstSegment
from dgmm.scoring import bulk as scoring
from dgmm.scoring import score_samples, segments
from dgmm.scoring.entries import head_of
from dgmm.scoring.ledger import Ledger, Recording
from dgmm.scoring.segments import ScoreSegment
from dgmm.store import Writer, place_at

#: What a process that measures has in its environment: memory that is free is given back.
ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Case:
    """What is asked, and of which samples.

    Attributes
    ----------
    ask : str
        profile, sample, e_step, worst, score or probabilities.
    dtype : str
    missing : bool
        Whether some rows have a missing value.
    ahead : bool
        Whether the next segment is read while one is worked on.
    rows, d, chunks : int
        Rows of a chunk, features, and chunks.
    k : int
        Components.
    limit : int
        Rows of the sample, or of the worst.
    memory : bool
        Whether the samples are variables in memory, of which the first has its dimensions in another order.
    segment : int
        Rows of a segment, if that is more than one chunk.
    """

    ask: str
    dtype: str
    missing: bool = False
    ahead: bool = False
    rows: int = 0
    d: int = 32
    chunks: int = 4
    k: int = 4
    limit: int = 1000
    memory: bool = False
    segment: int = 0


def resident(name: str = "VmRSS", process: int | str = "self") -> int:
    """Bytes of a process, now (VmRSS) or at the most (VmHWM)."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def peak_of(work: Callable[[], object]) -> int:
    """Bytes that this process takes at the most while something is done, beside what it had."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident()
    done = work()
    peak = resident("VmHWM") - before
    del done
    return peak


def values(rows: int, d: int, dtype: str, missing: bool) -> np.ndarray:
    """Noise that cannot be compressed."""
    r = np.random.default_rng(0)
    x = r.integers(0, 256, (rows, d), dtype=np.uint8) if dtype == "u1" else r.random((rows, d)).astype(dtype)
    if missing:
        x[::50, 0] = np.nan
    return x


def write(path: str, x: np.ndarray, chunks: int) -> None:
    """A store that has the same chunk many times, on disk once."""
    shape = (len(x) * chunks, x.shape[1])
    zarr.create_array(path, shape=shape, chunks=x.shape, dtype=x.dtype)[: len(x)] = x
    for i in range(1, chunks):
        os.mkdir(f"{path}/c/{i}")
        os.link(f"{path}/c/0/0", f"{path}/c/{i}/0")


def samples_of(folder: str, case: Case) -> Samples:
    """The samples of a case, in a store or in memory."""
    x = values(case.rows, case.d, case.dtype, case.missing)
    if case.memory:
        # the first variable tells the order of the dimensions: to look at the others is to copy them
        variables = {str(i): (("s", "t"), np.tile(column[:, None], case.chunks)) for i, column in enumerate(x.T)}
        return open_samples(xr.Dataset(variables | {"0": (("t", "s"), np.tile(x[:, 0], (case.chunks, 1)))}))
    path = tempfile.mkdtemp(dir=folder) + "/x.zarr"
    write(path, x, case.chunks)
    samples = open_samples(path).without_coords()
    return replace(samples, grid=Grid(samples.grid.shape, (case.segment,))) if case.segment else samples


def mixture_of(case: Case) -> Mixture:
    means = values(case.k, case.d, case.dtype, False).astype(float)
    return Mixture.gaussian("full", np.ones(case.k), means, np.tile(np.cov(means.T) + np.eye(case.d), (case.k, 1, 1)))


def leaf_of(samples: Samples, case: Case) -> Leaf[Any]:
    division = Division(case.missing, 0.0, 0, 1.0)
    if case.ask in ("profile", "sample"):
        kind = ProfileSegment if case.ask == "profile" else SampleSegment
        return kind("x", samples.features, samples.grid, Draw(case.limit, 0), samples.row_bytes)
    plan = mixture_of(case).density_plan()
    if case.ask == "e_step":
        return EStepSegment(plan, division)
    return WorstSegment((plan,), case.limit, samples.row_bytes, division)


class Overlap:
    """Has every segment wait until the next one is read, at the point where the most is in memory beside that.

    How far reading is by then is a matter of chance otherwise.
    """

    def __init__(self, segments: int) -> None:
        self._segments, self._read, self._seen = segments, 0, 0
        self._change = threading.Condition()

    def reader(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that reads a segment, counted."""

        def read(*given: Any) -> Any:
            found = function(*given)
            with self._change:
                self._read += 1
                self._change.notify_all()
            return found

        return read

    def waiter(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that is called once for each segment, and comes back when the next one is read."""

        def wait(*given: Any, **options: Any) -> Any:
            found = function(*given, **options)
            with self._change:
                self._seen += 1
                assert self._change.wait_for(lambda: self._read > min(self._seen, self._segments - 1), 120)
            return found

        return wait


def scoring_of(samples: Samples, *, probabilities: bool = False) -> ScoreSegment:
    """Scoring by a mixture of two components, of which nothing is written."""
    mixture = mixture_of(Case("score", "f8", d=samples.n_features, k=2))
    return ScoreSegment.of(mixture, samples, Recording("", "", 1, Writer("", "", "")), probabilities)


def measured(folder: str, case: Case) -> tuple[int, int]:
    """Bytes of one task over all segments: the peak, and what was projected."""
    samples = samples_of(folder, case)
    run = range(len(samples.grid))
    overlap = Overlap(len(run))
    with ExitStack() as patches:
        if case.ask in ("score", "probabilities"):
            probabilities = case.ask == "probabilities"
            fit: Any = SimpleNamespace(
                n_components=case.k, n_labels=case.k, classes=(), noise=None, covariance_type="full",
                mixture=mixture_of(case), missing="omit", marginalises=False,
            )  # fmt: skip
            place = place_at(f"{tempfile.mkdtemp(dir=folder)}/scores")
            output = patches.enter_context(place.begin("scores", overwrite=False))
            scoring.create(output.store(), samples, fit, probabilities, {})
            ledger = Ledger(output, head_of(samples, fit, probabilities))
            ledger.begin()
            leaf: Leaf[Any] = ScoreSegment.of(fit.mixture, samples, ledger.recording, probabilities)
            waits: tuple[Any, str] = (segments, "score")
        else:
            leaf, waits = leaf_of(samples, case), (Division, "__call__")
        need = pass_bytes(samples, leaf, n_segments=len(run), ahead=case.ahead)
        # as it comes to a worker, with nothing made of it yet
        sent, residence = cloudpickle.dumps(leaf), Residence("", None, 0, case.ahead)
        rehearse(samples, leaf)
        work = lambda: fold_run(samples, cloudpickle.loads(sent), run, residence)  # noqa: E731
        reads = Samples, "read_rows"
        if case.ahead:
            patches.enter_context(patch.object(*reads, overlap.reader(getattr(*reads))))
            patches.enter_context(patch.object(*waits, overlap.waiter(getattr(*waits))))
        return peak_of(work), need.total


@dataclass(frozen=True)
class Job:
    """A fit and scores on workers, and a large sample.

    Attributes
    ----------
    processes : int
        Worker processes; none for two threads of this one.
    memory_limit : str
        Of each process, or of the threads together.
    rows, d, chunks : int
        Rows of a chunk, features (float32), and chunks.
    sample : int
        Rows of the large sample; none if zero.
    """

    processes: int
    memory_limit: str
    rows: int
    chunks: int
    d: int = 16
    sample: int = 0


def done(folder: str, job: Job) -> dict[str, Any]:
    """Do a job on a store: what it came to, and what it took."""
    folder = tempfile.mkdtemp(dir=folder)
    path, out = f"{folder}/x.zarr", place_at(f"{folder}/scores.zarr")
    x = values(job.rows, job.d, "f4", False)
    x[::2] += 3
    write(path, x, job.chunks)
    samples, options = open_samples(path), Training(max_iter=1, n_init=1, sample_rows=10_000)
    kind, n = ("processes", job.processes) if job.processes else ("threads", 2)
    found: dict[str, Any] = {"stored": samples.nbytes}
    with open_workers(kind, n_workers=n, memory_limit=job.memory_limit) as workers:

        def fit_and_score() -> None:
            fit = train_samples(samples, workers, One(n_components=2), options)
            with out.begin("scores", overwrite=False) as output:
                scored = score_samples(fit, samples, output, workers)
            found["weights"], found["counts"] = fit.mixture.weights.tolist(), scored.counts.tolist()

        found["usable"] = workers.usable
        if workers.client is None:
            train_samples(open_samples(x[:5000].astype(float)), workers, One(n_components=2), options)
            found["peak"] = peak_of(fit_and_score)
            return found
        began = set(workers.client.run(os.getpid).values())
        fit_and_score()
        needs = [pass_bytes(samples, scoring_of(samples))]
        small, large = (Case("profile", "f4", rows=job.rows, d=job.d, k=2, limit=n) for n in (10_000, job.sample))
        needs += [pass_bytes(samples, leaf_of(samples, replace(small, ask=ask))) for ask in ("profile", "e_step")]
        found["worker"] = max(resident("VmHWM", i) for i in began), BASE_BYTES + max(need.total for need in needs)
        if job.sample:
            # as many tasks as eight workers would have
            fold = Fold(samples, replace(workers, n_threads=16), keep=False)
            for ask in ("profile", "worst"):
                leaf = leaf_of(samples, replace(large, ask=ask))
                found[ask] = peak_of(lambda leaf=leaf: fold(leaf)), fold._gathered(leaf)
                needs.append(pass_bytes(samples, leaf, n_segments=fold._longest))
            most = BASE_BYTES + waiting_bytes(workers, found["profile"][1]) + max(need.total for need in needs)
            found["worker, sampling"] = max(resident("VmHWM", i) for i in began), most
        found["lost"] = len(began - set(workers.client.run(os.getpid).values()))
    return found


class Result:
    """What a task comes to, known where it was made for as long as it is there."""

    there: ClassVar[weakref.WeakSet[Any]] = weakref.WeakSet()

    def __init__(self, alone: bool) -> None:
        self.alone = alone
        Result.there.add(self)


def next_result(i: int) -> Result:
    """A result, made once those that its process made before are gone, or it has been waited for that for long."""
    deadline = time.monotonic() + 30
    while len(Result.there) and time.monotonic() < deadline:
        time.sleep(0.01)
    return Result(not len(Result.there))


def main(what: str, given: str) -> None:
    """Print what cases (of tasks) or jobs take.

    To be called from a script that imports nothing else: worker processes import what the main script does.
    """
    with tempfile.TemporaryDirectory() as folder:
        for one in json.loads(given):
            found = measured(folder, Case(**one)) if what == "cases" else done(folder, Job(**one))
            print(json.dumps(found), flush=True)
