"""Estimators on a Dask array that is larger than the memory of the one worker, measured."""

import re
from collections.abc import Callable
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
from dgmm.engine.schedulers import DISTRIBUTED_SETTINGS

STATUS = Path("/proc/self/status")
pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="the peak is measured where Linux tells it")


def peak() -> int:
    """Bytes of this process at the most so far; getrusage would tell those of the process that started it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    assert found is not None
    return int(found[1]) * 1024


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
        (used,) = client.run(peak).values()
    return x.nbytes, parse_bytes(memory_limit), int(used)


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


def check(n: int, memory_limit: str, place: Path) -> None:
    array, limit, used = measured(n, memory_limit, lambda x, client: fit_and_predict(x, client, place))
    print(f"array {array / 2**20:.0f} MiB, worker's limit {limit / 2**20:.0f} MiB, its peak {used / 2**20:.0f} MiB")
    assert used < limit < array


def test_an_array_larger_than_the_worker(tmp_path: Path) -> None:
    check(5_000_000, "600MB", tmp_path / "labels.zarr")


@pytest.mark.slow
def test_an_array_much_larger_than_the_worker(tmp_path: Path) -> None:
    check(50_000_000, "650MB", tmp_path / "labels.zarr")
