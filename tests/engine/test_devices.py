"""Workers that compute on a device: who has tasks, what is refused, and what stays there."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from distributed import Client, Scheduler, SpecCluster, Worker, get_worker

import dgmm
from dgmm import devices
from dgmm.engine import open_workers
from dgmm.engine.cluster import able_workers, resources_of
from dgmm.errors import InputError
from tests.devices import watched

jax = pytest.importorskip("jax")

_at_work: set[int] = set()


@contextmanager
def cluster_of(*resources: dict[str, float]) -> Iterator[Client]:
    """A client of workers of four threads in this process, each of which declares these."""
    quiet: dict[str, Any] = {"dashboard": False, "dashboard_address": "127.0.0.1:0", "host": "127.0.0.1", "port": 0}
    workers = {
        i: {"cls": Worker, "options": {"nthreads": 4, "resources": its, "host": "127.0.0.1", "dashboard": False}}
        for i, its in enumerate(resources)
    }
    with (
        SpecCluster(workers, scheduler={"cls": Scheduler, "options": quiet}) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def where(number: int) -> tuple[str, int]:
    """The worker of a task, and how many are at work in this process."""
    me = threading.get_ident()
    _at_work.add(me)
    time.sleep(0.02)
    n = len(_at_work)
    _at_work.discard(me)
    return str(get_worker().address), n


def test_tasks_go_to_those_who_declare_a_gpu_one_at_a_time() -> None:
    with cluster_of({}, {"GPU": 1}) as client:
        (able,) = able_workers(client)
        assert resources_of(client) == {"GPU": 1}
        with open_workers(client, device="jax") as workers:
            found = workers.map(where, [(i,) for i in range(12)])
        assert {address for address, _ in found} == {able}
        assert {n for _, n in found} == {1}
        with open_workers(client) as workers:
            found = workers.map(where, [(i,) for i in range(12)])
        assert max(n for _, n in found) > 1


def test_where_nobody_declares_any_all_have_tasks() -> None:
    with cluster_of({}, {}) as client:
        assert len(able_workers(client)) == 2
        assert resources_of(client) == {}
        with open_workers(client, device="jax") as workers:
            found = workers.map(where, [(i,) for i in range(24)])
        assert len({address for address, _ in found}) == 2


def test_a_worker_without_the_device_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> str:
        raise InputError(f"device {name}: JAX finds none here")

    monkeypatch.setattr("dgmm.engine.workers.described", none)
    with cluster_of({}) as client:
        with pytest.raises(InputError, match=r"^worker tcp://[^ ]*: device gpu: JAX finds none here$"):
            open_workers(client, device="gpu").__enter__()
        with open_workers(client, device="cpu"):
            pass
    with pytest.raises(InputError, match=r"^device gpu: JAX finds none here$"), open_workers("threads", device="gpu"):
        pass


def own_address(_: str, dask_worker: Worker) -> str:
    return dask_worker.address


def test_workers_with_different_devices_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dgmm.engine.workers.described", own_address)
    with cluster_of({}, {}) as client:
        kinds = "; ".join(sorted(able_workers(client)))
        with open_workers(client, device="jax"):
            pass
    assert f"the last bits hang on who computes what, on different devices: {kinds}" in caplog.text


def test_it_is_said_where_densities_are_computed(caplog: pytest.LogCaptureFixture) -> None:
    for scheduler, n in (("threads", 1), (None, 0)):
        caplog.clear()
        with caplog.at_level("INFO", "dgmm"), open_workers(scheduler, device="jax" if n else "cpu"):
            pass
        assert caplog.text.count(f"densities are computed on {devices.described('jax')}") == n


@pytest.mark.parametrize("missing", [False, True])
def test_an_array_in_memory_is_sent_to_the_device_once(missing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though every pass looks at it anew, and with missing rows at a copy."""
    r = np.random.default_rng(0)
    x = np.concatenate([r.standard_normal((3000, 2)), r.standard_normal((3000, 2)) + 3])
    if missing:
        x[::10, 0] = np.nan
    its, sent = watched(monkeypatch, 2**30)
    how = {"search": "starts", "n_init": 1, "start_rows": 500, "sample_rows": 1000, "worst_rows": 0, "tol": 1e-9}
    fit = dgmm.train(x, 2, **how, device="jax")
    assert len(fit.trajectory) > 3
    assert sum(sent) == np.isfinite(x).all(axis=1).sum()
    assert its.rows.nbytes == 0, "a fit that has ended holds nothing"
