"""Passes on Dask: the same bits on any workers, few tasks, memory that is projected and kept."""

import os
import threading
import time
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import Client
from threadpoolctl import threadpool_info

import dgmm
from dgmm.blas import one_blas_thread
from dgmm.data import open_samples
from dgmm.engine import Workers, open_workers
from dgmm.engine.fold import TASKS_PER_THREAD, cut
from dgmm.engine.schedulers import DISTRIBUTED_SETTINGS
from dgmm.engine.workers import of_client, threads
from dgmm.errors import InsufficientMemoryError
from dgmm.fitting import passes_over
from dgmm.mixture import Mixture
from dgmm.passes import Passes
from dgmm.waits import stop_if_interrupted


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Rows in 30 chunks, one in forty with a missing value."""
    r = np.random.default_rng(0)
    x = np.concatenate([r.standard_normal((20_000, 5)), r.standard_normal((20_000, 5)) + 3]).astype(np.float32)
    x = r.permutation(x)
    x[::40, 2] = np.nan
    path = str(tmp_path_factory.mktemp("passes") / "x.zarr")
    array = zarr.create_array(path, shape=x.shape, chunks=(1_400, 5), dtype=x.dtype)
    array[:] = x
    return path


def mixtures() -> list[Mixture]:
    means = np.array([[0.0] * 5, [1.0] * 5, [3.0] * 5])
    shapes = {
        "full": np.tile(np.eye(5), (3, 1, 1)),
        "tied": np.eye(5),
        "diag": np.ones((3, 5)),
        "spherical": np.ones(3),
    }
    return [Mixture.gaussian(kind, np.ones(3), means, c) for kind, c in shapes.items()]


def bits(passes: Passes) -> list[bytes]:
    """Everything a pass and the profile add up to, to the last bit."""
    inside = [m.to_frame(passes.profile.frame(m.family.frame)) for m in mixtures()]
    p = passes.profile
    result = [p.moments.mean.tobytes(), p.moments.scatter.tobytes(), p.sample.rows.x.tobytes(), p.minimum.tobytes()]
    for s in passes.accumulate(inside):
        result += [np.float64(s.log_likelihood).tobytes(), s.sums.tobytes()]
    return result


def test_the_same_bits_on_any_number_of_threads_and_processes(store: str, client: Client) -> None:
    reference = bits(passes_over(open_samples(store), threads(1)))
    for n in (2, 4):
        assert bits(passes_over(open_samples(store), threads(n))) == reference
    assert bits(passes_over(open_samples(store), of_client(client))) == reference
    with open_workers("processes", n_workers=4, memory_limit="2GB") as workers:
        assert bits(passes_over(open_samples(store), workers)) == reference


def test_the_same_bits_resident_or_streamed(store: str) -> None:
    plenty = passes_over(open_samples(store), threads(2))
    streamed = passes_over(open_samples(store), Workers(None, 2, 2, 40 * 2**20))
    assert bits(streamed) == bits(plenty)
    assert (plenty.n_reads, streamed.n_reads) == (1, 2)


def test_a_whole_selection_has_the_same_bits_everywhere(store: str, client: Client) -> None:
    def chosen(scheduler: object) -> tuple:
        s = dgmm.select(store, [1, 2, 3], ["full", "diag"], scheduler=scheduler, n_init=2)
        return s.best.log_likelihood, s.best.mixture.means.tobytes(), s.best.mixture.covariances.tobytes(), s.n_reads

    assert chosen("threads") == chosen(client)


def test_an_open_client_is_used(store: str, client: Client) -> None:
    with client.as_current(), open_workers() as workers:
        assert workers.client is None or workers.client is client
    with open_workers(client) as workers:
        assert workers.client is client
        assert workers.n_threads == 2


def test_arrays_in_memory_travel_to_the_workers_once(client: Client) -> None:
    x = np.random.default_rng(0).standard_normal((20_000, 3))
    assert bits_of_fit(dgmm.train(x, 2, scheduler=client)) == bits_of_fit(dgmm.train(x, 2, scheduler="threads"))


def bits_of_fit(fit: dgmm.Fit) -> tuple[float, bytes]:
    return fit.log_likelihood, fit.mixture.means.tobytes()


def test_a_dataset_in_memory_is_an_array_in_memory() -> None:
    dataset = xr.Dataset({"x": (("s", "f"), np.zeros((10, 2)))})
    assert open_samples(dataset).in_memory
    assert not open_samples(dataset.chunk()).in_memory


def test_a_failure_stops_the_tasks_of_its_own_pass_alone() -> None:
    """Two fits at a time in one process: one fails, the other goes on."""
    began, go_on = threading.Event(), threading.Event()

    def patient(i: int) -> int:
        began.set()
        assert go_on.wait(20)
        stop_if_interrupted()
        return i

    def failing(i: int) -> int:
        raise ValueError(i)

    workers, results = threads(1), []
    other = threading.Thread(target=lambda: results.extend(workers.map(patient, [(1,)])))
    other.start()
    assert began.wait(20)
    with pytest.raises(ValueError, match="2"):
        threads(2).map(failing, [(2,)])
    go_on.set()
    other.join()
    assert results == [1]


def test_tasks_have_one_blas_thread_each_and_leave_the_limit_as_it_was() -> None:
    def blas_threads() -> list[int]:
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    def task(i: int) -> list[int]:
        with one_blas_thread:
            time.sleep(0.01 * (i % 3))
            return blas_threads()

    before = blas_threads()
    for _ in range(5):
        assert all(set(found) == {1} for found in threads(3).map(task, [(i,) for i in range(12)]))
        assert blas_threads() == before


def test_the_memory_limit_of_threads_is_kept_in_mind(store: str) -> None:
    assert threads(2, "100MB").memory == 100_000_000
    with open_workers("threads", memory_limit="10MB") as workers, pytest.raises(InsufficientMemoryError):
        passes_over(open_samples(store), workers)


def test_dask_arrays_are_read_by_the_workers(store: str, client: Client) -> None:
    import dask.array

    lazy = dask.array.from_zarr(store)
    expected = bits(passes_over(open_samples(store), threads(2)))
    assert bits(passes_over(open_samples(lazy), of_client(client))) == expected


def test_large_parameters_travel(client: Client) -> None:
    """More than 100 kB as an argument of client.map hangs a client: ours are the result of a task."""
    x = np.random.default_rng(0).standard_normal((3_000, 40))
    passes = passes_over(open_samples(x), of_client(client))
    k = 60
    big = Mixture.gaussian("full", np.ones(k), x[:k], np.tile(np.eye(40), (k, 1, 1)))
    (statistics,) = passes.accumulate([big.to_frame(passes.profile.frame("whitening"))])
    assert statistics.sums.nbytes > 400_000
    assert statistics.sums[:, 0].sum() == pytest.approx(3_000)


@pytest.mark.parametrize(("n_segments", "n_runs"), [(1, 8), (7, 8), (8, 8), (9, 8), (1_000_000, 8)])
def test_the_number_of_tasks_is_the_clusters(n_segments: int, n_runs: int) -> None:
    runs = cut(n_segments, n_runs)
    assert len(runs) == min(n_segments, n_runs)
    assert [i for run in (runs if n_segments < 100 else []) for i in run] == list(
        range(n_segments if n_segments < 100 else 0)
    )
    assert runs[0].start == 0
    assert runs[-1].stop == n_segments
    lengths = {len(run) for run in runs}
    assert max(lengths) - min(lengths) <= 1


def test_few_tasks_however_many_chunks(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    x = np.random.default_rng(0).standard_normal((10_000, 2))
    array = zarr.create_array(str(tmp_path / "x.zarr"), shape=x.shape, chunks=(20, 2), dtype=x.dtype)
    array[:] = x
    seen: list[int] = []
    run = Workers.map

    def counting(self: Workers, function: Any, arguments: list, *homes: Any) -> list:
        seen.append(len(arguments))
        return run(self, function, arguments, *homes)

    monkeypatch.setattr(Workers, "map", counting)
    dgmm.train(str(tmp_path / "x.zarr"), 2, scheduler="threads")
    assert seen
    assert max(seen) <= TASKS_PER_THREAD * threads().n_threads


def test_reads_are_counted(store: str) -> None:
    selection = dgmm.select(store, [1, 2], ["diag", "spherical"], n_init=1)
    assert selection.n_reads == 1, "all of it stays in memory"


def test_too_little_memory_is_refused_with_both_numbers(store: str) -> None:
    with pytest.raises(InsufficientMemoryError, match=r"would need \d+ MiB .* has 10 MiB"):
        passes_over(open_samples(store), Workers(None, 1, 1, 10 * 2**20))


def test_a_cluster_of_ours_outlives_lost_workers() -> None:
    """Dask's default closes a worker for good that is not back 15 s after any loss."""
    assert DISTRIBUTED_SETTINGS["distributed.deploy.lost-worker-timeout"] == "1h"
    with open_workers("processes", n_workers=1, memory_limit="1GB") as workers:
        assert workers.memory == pytest.approx(1e9, rel=0.01)
        assert workers.client is not None
        assert workers.client.scheduler_info()["address"].startswith("tcp://127.0.0.1:")


def test_an_unknown_scheduler_is_refused(store: str) -> None:
    with pytest.raises(dgmm.InputError, match=r"unknown scheduler 'spark': use threads"):
        dgmm.train(store, 2, scheduler="spark")


def write_repeated(path: str, n: int, d: int, chunk: int) -> None:
    """A store whose chunks are all the same noise: large to read, quick to write, small on disk."""
    r = np.random.default_rng(0)
    block = r.integers(-30, 30, (chunk, d)).astype(np.float32)
    block[::2] += 100
    array = zarr.create_array(path, shape=(n, d), chunks=(chunk, d), dtype="float32")
    for start in range(0, n, chunk):
        array[start : start + chunk] = block[: n - start]


@pytest.mark.slow
def test_a_store_larger_than_the_workers_memory(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """1280 MB of samples, two workers of 600 MB; a worker that exceeds its limit is killed and replaced by another."""
    n, d = 20_000_000, 16
    path, out = str(tmp_path / "x.zarr"), str(tmp_path / "scores.zarr")
    write_repeated(path, n, d, 100_000)
    with open_workers("processes", n_workers=2, memory_limit="600MB") as workers:
        assert workers.client is not None
        processes = set(workers.client.run(os.getpid).values())
        fit = dgmm.train(path, 2, "full", scheduler=workers.client, max_iter=1, n_init=1, sample_rows=10_000)
        dgmm.score(fit, path, out, scheduler=workers.client)
        assert set(workers.client.run(os.getpid).values()) == processes
    assert fit.n_samples == n
    np.testing.assert_allclose(fit.mixture.weights, 0.5, atol=0.01)
    label = zarr.open_group(out, mode="r")["label"]
    assert label.shape == (n,)
    assert label.nchunks_initialized == label.nchunks
    # even rows lie at 100, odd ones at 0
    assert set(np.unique(label[:1000:2])) | set(np.unique(label[1:1000:2])) == {0, 1}
    assert len(set(np.unique(label[:1000:2]))) == len(set(np.unique(label[1:1000:2]))) == 1


@pytest.mark.slow
def test_eight_million_rows_on_two_workers_of_one_gigabyte(tmp_path) -> None:  # type: ignore[no-untyped-def]
    n, d = 8_000_000, 16
    path = str(tmp_path / "x.zarr")
    r = np.random.default_rng(0)
    array = zarr.create_array(path, shape=(n, d), chunks=(250_000, d), dtype="float32")
    centres = 4 * r.standard_normal((16, d))
    for start in range(0, n, 250_000):
        labels = r.integers(16, size=250_000)
        array[start : start + 250_000] = centres[labels] + r.standard_normal((250_000, d))
    with open_workers("processes", n_workers=2, memory_limit="1GB") as workers:
        fit = dgmm.train(path, 16, "full", scheduler=workers.client)
    assert fit.converged
    order = np.lexsort(centres.T)
    found = fit.mixture.means[np.lexsort(np.round(fit.mixture.means, 1).T)]
    distances = np.linalg.norm(found[:, None] - centres[order], axis=2).min(axis=0)
    assert distances.max() < 0.1
