"""What a task, a worker and the driver take of memory, measured, against what was projected; what is refused."""

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from dask.utils import parse_bytes
from distributed import Client, LocalCluster

import dgmm
from dgmm.data import Grid, Samples, open_samples
from dgmm.engine import Fold, Workers
from dgmm.engine.memory import BUFFER_BYTES, check_memory, pass_bytes
from dgmm.engine.schedulers import DISTRIBUTED_SETTINGS
from dgmm.engine.workers import of_client, threads
from dgmm.errors import InsufficientMemoryError
from dgmm.fits import Training
from dgmm.fitting import passes_over
from dgmm.passes.profile import ProfileSegment
from dgmm.passes.sample import Draw
from tests.peaks import ENVIRONMENT, Case, Job, leaf_of, next_result, resident, scoring_of

MIB = 2**20
SIZES = {"u1": 1, "f4": 4, "f8": 8}
#: What is projected is an upper bound, and may be no more than so many times what was measured.
TIMES = 2.2

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measured where Linux tells it")


def run(what: str, given: list[Any]) -> list[Any]:
    """What cases or jobs take, measured in a process of their own."""
    command = [sys.executable, "-c", "import sys; from tests.peaks import main; main(*sys.argv[1:])"]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [*command, what, json.dumps([asdict(one) for one in given])],
        check=False, capture_output=True, text=True, cwd=root, env=os.environ | ENVIRONMENT | {"PYTHONPATH": root},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "distributed" not in done.stderr, "a worker that is short of memory says so"
    return [json.loads(line) for line in done.stdout.splitlines()]


def check_bounds(peak: int, projected: int, of: object) -> None:
    told = f"{of}: peak {peak / MIB:.1f} MiB, projected {projected / MIB:.1f} MiB"
    print(told)
    assert peak <= projected, told
    assert projected <= TIMES * peak, told


# ---- a task ----------------------------------------------------------------------------------------------------------


def sized(ask: str, dtype: str, *, megabytes: int = 12, d: int = 32, **options: Any) -> Case:
    """A case with segments of one chunk of so many MiB."""
    return Case(ask, dtype, rows=megabytes * MIB // (d * SIZES[dtype]), d=d, **options)


#: Each of these needs a term of the projection, the one that is named, or is one of the three types.
SHORT = [
    # what is read, decoded and decompressed: it cannot be compressed
    sized("e_step", "u1", megabytes=8, chunks=2),
    # and what is worked on, with the next one read meanwhile
    sized("e_step", "f8", ahead=True, chunks=3),
    # and without missing rows
    sized("e_step", "f4", missing=True, ahead=True, chunks=3),
    sized("worst", "f8", missing=True, ahead=True, chunks=3),
    # what is in memory, stacked
    sized("e_step", "f4", memory=True),
    sized("profile", "f4", megabytes=8, missing=True, ahead=True, chunks=3),
    sized("worst", "f4", missing=True),
    sized("score", "f8", missing=True, ahead=True, chunks=3),
    sized("score", "u1", megabytes=4, ahead=True, chunks=3),
    # arithmetic: numbers of rows, parameters, probabilities
    Case("profile", "u1", rows=2_000_000, d=1, chunks=2),
    Case("e_step", "f8", rows=512, d=200, k=60, chunks=1),
    Case("probabilities", "f4", ahead=True, rows=200_000, d=2, k=16),
    # results: values of the tree, and one that grows
    Case("sample", "f8", rows=8192, d=16, chunks=64, limit=200_000),
    Case("worst", "u1", rows=8192, d=16, chunks=64, limit=300_000),
]


def named(case: Case) -> str:
    options = [name for name in ("missing", "ahead", "memory") if getattr(case, name)]
    return "-".join([case.ask, case.dtype, *options, f"{case.rows}x{case.d}"])


@pytest.fixture(scope="module")
def short() -> dict[Case, tuple[int, int]]:
    return dict(zip(SHORT, run("cases", SHORT), strict=True))


@pytest.mark.parametrize("case", SHORT, ids=named)
def test_a_task_takes_what_was_projected(case: Case, short: dict[Case, tuple[int, int]]) -> None:
    check_bounds(*short[case], case)


@pytest.mark.slow
def test_tasks_of_every_kind_take_what_was_projected() -> None:
    """All that is asked, of every type, with missing rows and without, reading ahead and not."""
    asked = ("profile", "sample", "e_step", "worst", "score", "probabilities")
    cases = [
        sized(ask, dtype, missing=missing, ahead=ahead, limit=limit)
        for ask, dtype, missing, ahead, limit in itertools.product(
            asked, SIZES, (False, True), (False, True), (1000, 50_000)
        )
        if (dtype != "u1" or not missing) and (ahead or ask not in ("score", "probabilities"))
    ]
    # what the reader knows of many small chunks
    cases.append(Case("e_step", "f4", rows=1, d=16, chunks=20_000, segment=20_000))
    for case, (peak, projected) in zip(cases, run("cases", cases), strict=True):
        check_bounds(peak, projected, case)


# ---- workers and the driver ------------------------------------------------------------------------------------------


#: Two workers with a store of many small chunks, and threads with one larger than the memory they may use.
PROCESSES = Job(2, "400MB", rows=1000, chunks=400, sample=100_000)
THREADS = Job(0, "40MB", rows=20_000, chunks=75)


@pytest.fixture(scope="module")
def jobs() -> dict[Job, dict[str, Any]]:
    return dict(zip((PROCESSES, THREADS), run("jobs", [PROCESSES, THREADS]), strict=True))


def check_fit(job: Job, found: dict[str, Any]) -> None:
    """What was written is two groups of one size."""
    np.testing.assert_allclose(found["weights"], 0.5, atol=0.01)
    assert found["counts"] == [job.rows * job.chunks // 2] * 2


def check_workers(job: Job, found: dict[str, Any]) -> None:
    """Within what was projected and their limit, and alive."""
    check_fit(job, found)
    assert found["lost"] == 0
    check_bounds(*found["worker"], "worker")
    assert found["worker"][0] < found["usable"]


def test_workers_of_400_megabytes_fit_and_score_many_small_chunks(jobs: dict[Job, dict[str, Any]]) -> None:
    check_workers(PROCESSES, jobs[PROCESSES])


@pytest.mark.parametrize("ask", ["profile", "worst"])
def test_a_sample_is_gathered_from_many_tasks_within_bounds(ask: str, jobs: dict[Job, dict[str, Any]]) -> None:
    """The driver has some times the sample, not one of each of 64 tasks; workers have what is not yet fetched."""
    found = jobs[PROCESSES]
    check_bounds(*found[ask], f"driver, {ask}")
    sample = PROCESSES.sample * (8 + 4 * PROCESSES.d)
    assert found[ask][0] < 7 * sample
    check_bounds(*found["worker, sampling"], "worker, sampling")


@pytest.mark.slow
@pytest.mark.parametrize("rows", [50_000, 1000])
def test_workers_of_400_megabytes_fit_and_score_stores_of_any_size(rows: int) -> None:
    """1.5 GB, and 128 MB in small chunks."""
    job = Job(2, "400MB", rows=rows, chunks=480 if rows == 50_000 else 2000)
    check_workers(job, *run("jobs", [job]))


def test_workers_let_go_of_results_that_were_fetched(client: Client) -> None:
    """While other tasks of the same pass still run."""
    assert all(result.alone for result in of_client(client).map(next_result, [(i,) for i in range(4)]))


def test_a_store_larger_than_the_memory_of_the_threads(jobs: dict[Job, dict[str, Any]]) -> None:
    found = jobs[THREADS]
    check_fit(THREADS, found)
    assert found["peak"] < found["usable"] < found["stored"] / 2


# ---- what is refused -------------------------------------------------------------------------------------------------


def in_chunks(rows: int, chunk: int, d: int = 16) -> zarr.Array[Any]:
    """An array that is nowhere."""
    return zarr.create_array(zarr.storage.MemoryStore(), shape=(rows, d), chunks=(chunk, d), dtype="f4")


@pytest.mark.parametrize("ask", ["profile", "e_step", "worst", "score"])
@pytest.mark.parametrize("room", [100 * MIB, 400 * MIB])
def test_a_chunk_larger_than_the_memory_is_refused_with_what_helps(ask: str, room: int) -> None:
    n, chunk = 40_000_000, 10_000_000
    samples = open_samples(in_chunks(n, chunk))
    workers = Workers(None, 1, 1, room)

    def need_of(samples: Samples) -> Any:
        if ask == "score":
            return pass_bytes(samples, scoring_of(samples))
        return pass_bytes(samples, leaf_of(samples, Case(ask, "f4", d=16)), ahead=False)

    with pytest.raises(InsufficientMemoryError) as refused:
        check_memory(samples, workers, need_of)
    told = str(refused.value)
    needed, has, takes = (int(found) for found in re.findall(r"(?:need|has|takes) (\d+) MiB", told))
    assert needed == pytest.approx(need_of(samples).total / MIB, abs=1)
    assert (has, takes) == (room // MIB, chunk * 64 // MIB)
    assert takes > has
    fits = int(re.search(r"to (\d+) samples a chunk", told)[1])  # type: ignore[index]
    check_memory(open_samples(in_chunks(n, fits)), workers, need_of)
    with pytest.raises(InsufficientMemoryError):
        check_memory(open_samples(in_chunks(n, 4 * fits)), workers, need_of)
    least = int(re.search(r"give it (\d+) MiB", told)[1])  # type: ignore[index]
    check_memory(samples, replace(workers, memory=least * MIB), need_of)
    with pytest.raises(InsufficientMemoryError):
        check_memory(samples, replace(workers, memory=(least - 1) * MIB), need_of)


def test_what_was_refused_works_in_the_chunks_that_were_named(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((600_000, 16), dtype=np.float32)
    workers = threads(1, "40MB")

    def stored(chunk: int) -> str:
        path = str(tmp_path / f"{chunk}.zarr")
        zarr.create_array(path, shape=x.shape, chunks=(chunk, 16), dtype=x.dtype)[:] = x
        return path

    with pytest.raises(InsufficientMemoryError) as refused:
        passes_over(open_samples(stored(300_000)), workers, Training(sample_rows=1000))
    chunk = int(re.search(r"to (\d+) samples a chunk", str(refused.value))[1])  # type: ignore[index]
    passes = passes_over(open_samples(stored(chunk)), workers, Training(sample_rows=1000))
    assert passes.profile.n_samples == len(x)


def test_no_chunks_are_named_where_none_would_do() -> None:
    """Of a sample too large for the memory, its size is what helps; without room for what is there, memory alone."""
    samples = open_samples(in_chunks(4_000_000, 10_000))
    fold = Fold(samples, Workers(None, 1, 1, 100 * MIB))
    leaf = ProfileSegment("x", samples.features, samples.grid, Draw(1_000_000, 0), samples.row_bytes)
    with pytest.raises(InsufficientMemoryError, match=r"to use: lower sample_rows \(1000000\), or give it \d+ MiB"):
        fold(leaf)
    # without the sample there would be what the profile takes for itself
    for few in (BUFFER_BYTES, 20 * MIB):
        with pytest.raises(InsufficientMemoryError, match=r"to use: give it \d+ MiB"):
            Fold(samples, Workers(None, 1, 1, few))(replace(leaf, draw=Draw(1000, 0)))
    # of parameters too large, the number of components is
    plan = leaf_of(samples, Case("e_step", "f4", d=16, k=5000))
    with pytest.raises(InsufficientMemoryError, match=r"to use: try fewer than 5000 components at a time"):
        Fold(samples, Workers(None, 1, 1, 40 * MIB))(plan)


def test_the_share_of_results_that_waits_in_a_worker_counts() -> None:
    samples = open_samples(in_chunks(4_000_000, 10_000))
    client: Any = object()
    workers = Workers(client, 8, 2, 375 * MIB)
    check_memory(samples, workers, lambda samples: pass_bytes(samples, scoring_of(samples)), gathered=0)
    with pytest.raises(InsufficientMemoryError, match=r"80 MiB for results"):
        check_memory(samples, workers, lambda samples: pass_bytes(samples, scoring_of(samples)), gathered=320 * MIB)


def test_chunks_along_several_dimensions_are_cut_along_the_longest() -> None:
    array = zarr.create_array(
        zarr.storage.MemoryStore(), shape=(10, 4000, 1000, 8), chunks=(5, 1000, 500, 8), dtype="f8"
    )
    samples = open_samples(array)
    assert samples.grid == Grid((10, 4000, 1000), (5, 1000, 500))

    def need_of(samples: Samples) -> Any:
        return pass_bytes(samples, scoring_of(samples))

    with pytest.raises(InsufficientMemoryError, match=r"to 312500 samples a chunk"):
        check_memory(samples, Workers(None, 1, 1, 150 * MIB), need_of)
    finer = zarr.create_array(
        zarr.storage.MemoryStore(), shape=(10, 4000, 1000, 8), chunks=(5, 125, 500, 8), dtype="f8"
    )
    check_memory(open_samples(finer), Workers(None, 1, 1, 150 * MIB), need_of)


# ---- estimators on a Dask array that is larger than the memory of the one worker -------------------------------------


def block(block_id: tuple[int, ...], rows: int, d: int) -> np.ndarray:
    """Two groups of rows; nothing of them exists before it is computed."""
    few = np.random.default_rng(block_id[0]).random((1000, d))
    x = np.tile(few, (rows // 1000, 1))
    x[: rows // 3] += 3.0
    return x


def measured(n: int, memory_limit: str, use: Callable[[da.Array, Client], None], d: int = 16) -> tuple[int, int, int]:
    """Bytes of the array, of a worker's limit and of its peak."""
    rows = 50_000
    chunks = ((rows,) * (n // rows), (d,))
    x = da.map_blocks(block, chunks=chunks, rows=rows, d=d, dtype=float, meta=np.empty((0, 0)))
    with (
        dask.config.set(DISTRIBUTED_SETTINGS),
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=True,
            memory_limit=memory_limit,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
        ) as cluster,
        Client(cluster) as client,
    ):
        use(x, client)
        (process,) = client.run(os.getpid).values()
        used = resident("VmHWM", process)
    return x.nbytes, parse_bytes(memory_limit), used


def fit_and_predict(x: da.Array, client: Client, place: Path) -> None:
    model = dgmm.GaussianMixture(2, covariance_type="diag", random_state=0, sample_rows=10_000).fit(x)
    assert model.converged_
    assert sorted(model.weights_.round(2).tolist()) == [0.33, 0.67]
    labels = model.predict(x)
    out = zarr.create_array(place, shape=labels.shape, chunks=labels.chunksize, dtype=labels.dtype)
    da.store(labels, out, lock=False)
    assert np.bincount(out[:]).tolist() == [round(w * x.shape[0]) for w in model.weights_]
    probabilities: Any = model.predict_proba(x)
    assert probabilities.mean(axis=0).compute() == pytest.approx(model.weights_, abs=1e-6)


def check_array(n: int, memory_limit: str, place: Path) -> None:
    array, limit, used = measured(n, memory_limit, lambda x, client: fit_and_predict(x, client, place))
    print(f"array {array / 2**20:.0f} MiB, worker's limit {limit / 2**20:.0f} MiB, its peak {used / 2**20:.0f} MiB")
    assert used < limit < array


@pytest.mark.slow
def test_an_array_larger_than_the_worker(tmp_path: Path) -> None:
    check_array(5_000_000, "600MB", tmp_path / "labels.zarr")


@pytest.mark.slow
def test_an_array_much_larger_than_the_worker(tmp_path: Path) -> None:
    check_array(50_000_000, "650MB", tmp_path / "labels.zarr")
