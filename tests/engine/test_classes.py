"""Clusters by the import path of their class: any, real ones here, closed whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import distributed
import numpy as np
import psutil
import pytest
import zarr
from distributed import LocalCluster

import dgmm
from dgmm.config import Train
from dgmm.engine import open_workers
from dgmm.engine.classes import cluster_class, is_path, start
from dgmm.engine.presets import Filled, filled
from dgmm.engine.upkeep import Keeper, Size
from dgmm.errors import ClusterError, InputError, may_pass
from tests import journals
from tests.engine.test_schedulers import of_session

LOCAL = "distributed.LocalCluster"
#: Two processes on loopback, one thread each.
OPTIONS = {"n_workers": 1, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}


def started(**more: Any) -> Any:
    """Workers of a cluster of processes, by its class."""
    return open_workers(more.pop("scheduler", LOCAL), **{"scheduler_options": OPTIONS, **more})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return journals.write_data(tmp_path_factory.mktemp("classes"))


# ---- what comes of it ------------------------------------------------------------------------------------------------


def model(settings: Train) -> dict[str, Any]:
    """What a model holds, but who made it where."""
    journals.work(settings)
    found = journals.bits(settings.out)
    del found["attributes"]
    return found


SIZES: dict[str, dict[str, Any]] = {
    "by-its-options": {},
    "fixed": {"n_workers": 2},
    "adaptive": {"min_workers": 1, "max_workers": 2},
}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_the_bits_are_those_of_threads(size: dict[str, Any], data: str, tmp_path: Path) -> None:
    cluster = {"scheduler": LOCAL, "scheduler_options": OPTIONS | {"memory_limit": "projected"}, **size}
    found = model(journals.train(data, tmp_path / "class.zarr", cluster=cluster))
    assert found == model(journals.train(data, tmp_path / "threads.zarr", cluster={"scheduler": "threads"}))


def test_the_projected_memory_is_enough(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody dies, and no pass is refused."""
    caplog.set_level("INFO", logger="dgmm")
    x = np.random.default_rng(0).normal(size=(400_000, 16))
    store = str(tmp_path / "x.zarr")
    zarr.create_array(store, shape=x.shape, chunks=(200_000, 16), dtype=x.dtype)[:] = x
    options = OPTIONS | {"memory_limit": "projected"}
    how: dict[str, Any] = {"n_init": 1, "max_iter": 2, "search": "starts", "sample_rows": 2000}
    fit = dgmm.train(store, 16, scheduler=LOCAL, scheduler_options=options, **how)
    dgmm.score(fit, store, tmp_path / "scores.zarr", scheduler=LOCAL, scheduler_options=options)
    told = [record.getMessage() for record in caplog.records if " needs " in record.getMessage()]
    assert len(told) == 2
    assert all(words.startswith("a worker of 1 thread(s) needs ") for words in told)
    assert "lost" not in caplog.text


def test_tasks_are_for_all_workers_there_may_be() -> None:
    with started(min_workers=1, max_workers=2) as workers:
        assert (workers.n_threads, workers.least, workers.threads_per_worker) == (2, 1, 1)
        assert workers.patience == 600


def test_a_class_may_encrypt(data: str, tmp_path: Path) -> None:
    options = OPTIONS | {"security": True, "protocol": "tls://"}
    with started(scheduler_options=options) as workers:
        assert workers.client.scheduler.address.startswith("tls://")
        assert all(place.startswith("tls://") for place in workers.places())


def test_presets_are_there_while_it_runs_and_reach_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)

    def seen() -> tuple[Any, Any]:
        return os.environ.get("MALLOC_ARENA_MAX"), dask.config.get("distributed.worker.memory.spill")

    before = dask.config.get("distributed.scheduler.idle-timeout")
    with started(no_workers_timeout=77) as workers:
        assert dask.config.get("distributed.scheduler.idle-timeout") == "2h"
        assert workers.client.cluster.scheduler.idle_timeout == 7200
        assert workers.client.cluster.scheduler.no_workers_timeout == 77
        assert list(workers.client.run(seen).values()) == [("2", False)]
    assert dask.config.get("distributed.scheduler.idle-timeout") == before


# ---- what is refused -------------------------------------------------------------------------------------------------


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a missing package with an extra": (
        {"scheduler": "dask_kubernetes_.KubeCluster"},
        r"there is no package dask_kubernetes_ here: pip install 'dask-kubernetes-'",
    ),
    "a wrong module": ({"scheduler": "distributed.deploi.LocalCluster"}, r"No module named 'distributed.deploi'"),
    "a wrong name": (
        {"scheduler": "distributed.LocalClutser"},
        r"has no LocalClutser: .* are LocalCluster",
    ),
    "another class": ({"scheduler": "distributed.Client"}, r"Client is no cluster class: its cluster classes are "),
    "no class": ({"scheduler": "os.path.join"}, r"join is no cluster class: its cluster classes are none"),
    "the base of all": ({"scheduler": "distributed.deploy.cluster.Cluster"}, r"Cluster is no cluster class"),
    "options it does not know": (
        {"scheduler_options": OPTIONS | {"colour": "red"}},
        r"distributed.LocalCluster does not take these scheduler_options \(n_workers, .*colour\): .*colour",
    ),
    "a loop of its own": (
        {"scheduler_options": {"asynchronous": True}},
        r"asynchronous is for programs .* leave it out",
    ),
    "threads": ({"threads_per_worker": 2}, r"threads_per_worker and memory_limit are not for distributed.LocalCluster"),
    "memory": ({"memory_limit": "1GB"}, r"give what it calls them in scheduler_options"),
    "one bound": ({"min_workers": 2}, r"min_workers needs max_workers beside it"),
    "the other bound": ({"max_workers": 2}, r"max_workers needs min_workers beside it"),
    "bounds the wrong way": ({"min_workers": 3, "max_workers": 2}, r"min_workers \(3\) is more than max_workers \(2\)"),
    "fixed and not": ({"n_workers": 1, "min_workers": 1, "max_workers": 2}, r"n_workers \(1\) is a fixed number"),
    "nothing is projected": (
        {"scheduler_options": {"memory_limit": "projected"}},
        r"the memory of this job is not projected: give a number",
    ),
    "bounds of threads": (
        {"scheduler": "threads", "min_workers": 1, "max_workers": 2},
        r"min_workers and max_workers are",
    ),
    "options of threads": ({"scheduler": "threads", "scheduler_options": {"a": 1}}, r"scheduler_options are for"),
    "time of threads": (
        {"scheduler": "threads", "scheduler_options": None, "no_workers_timeout": 1.0},
        r"no_workers_t",
    ),
    "options of an address": (
        {"scheduler": "tls://127.0.0.1:9", "scheduler_options": {"tls_ca": "x"}},
        r"they are those of distributed.Security, such as tls_ca_file",
    ),
    "certificates that are not there": (
        {"scheduler": "tls://127.0.0.1:9", "scheduler_options": {"tls_ca_file": "none.pem"}},
        r"cannot use tls://127.0.0.1:9|no such file of certificates",
    ),
}


@pytest.mark.parametrize(("given", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        started(**given).__enter__()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("package", "install"),
    [("dask_jobqueue", "dgmm[jobqueue]"), ("dask_kubernetes", "dgmm[kubernetes]"), ("dask_gateway", "dask-gateway")],
)
def test_a_missing_package_names_what_to_install(package: str, install: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError) as caught:
        cluster_class(f"{package}.SomeCluster")
    assert str(caught.value) == (
        f"scheduler {package}.SomeCluster: there is no package {package} here: pip install '{install}'"
    )


def test_what_looks_like_a_path() -> None:
    assert is_path("dask_jobqueue.SLURMCluster")
    assert not any(map(is_path, ("threads", "tcp://10.0.0.1:8786", "10.0.0.1:8786", "a..b", ".a", "a-b.C")))


class Gateway:
    """Used as gateways are: no subclass of Dask's."""

    closed = 0

    def __init__(self, **options: Any) -> None:
        self._inner = LocalCluster(**options)
        self.scheduler_address = self._inner.scheduler_address
        self.security = self._inner.security

    def get_client(self) -> Any:
        return distributed.Client(self._inner)

    def scale(self, n: int) -> None:
        self._inner.scale(n)

    def adapt(self, minimum: int, maximum: int) -> None:
        self._inner.adapt(minimum=minimum, maximum=maximum)

    def close(self) -> None:
        type(self).closed += 1
        self._inner.close()


class Broken(LocalCluster):
    """One whose machines cannot be reached."""

    def __init__(self, **_: Any) -> None:
        raise ConnectionError("no route\nto host")


class Empty(LocalCluster):
    """One that has no workers unless it is asked for them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "n_workers": 0})


def test_a_class_that_is_used_as_a_cluster_is_one() -> None:
    with started(scheduler=f"{__name__}.Gateway", n_workers=2) as workers:
        assert workers.map(abs, [(-1,), (-2,)]) == [1, 2]
    assert Gateway.closed == 1


def test_a_cluster_that_does_not_start_is_told_in_one_line() -> None:
    with pytest.raises(ClusterError) as caught:
        started(scheduler=f"{__name__}.Broken").__enter__()
    assert str(caught.value) == (
        f"{__name__}.Broken did not start (ConnectionError: no route to host): see whether what it needs is there and "
        "can be reached from here"
    )


def test_a_cluster_without_workers_says_how_to_get_some() -> None:
    with pytest.raises(
        ClusterError, match=r"no worker at tcp.* for 0.5 s: see what keeps them .* \(n_workers, or min_w"
    ):
        started(scheduler=f"{__name__}.Empty", no_workers_timeout=0.5).__enter__()
    assert [c for c in Empty._instances if isinstance(c, Empty) and c.status.name != "closed"] == []


# ---- nothing is left -------------------------------------------------------------------------------------------------


def children() -> set[int]:
    return {p.pid for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE}


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_it_is_closed_when_something_goes_wrong(error: type[BaseException]) -> None:
    before = children()
    with pytest.raises(error), started(n_workers=2):
        assert children() > before
        raise error
    psutil.wait_procs([psutil.Process(pid) for pid in children() - before], timeout=30)
    assert children() <= before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_process(number: signal.Signals, tmp_path: Path) -> None:
    store = str(tmp_path / "x.zarr")
    x = np.random.default_rng(0).normal(size=(20_000, 2))
    zarr.create_array(store, shape=x.shape, chunks=(5_000, 2), dtype=x.dtype)[:] = x
    command = [sys.executable, "-m", "dgmm.cli", "train", store, "--k", "6", "--out", str(tmp_path / "model.zarr")]
    command += ["--scheduler", LOCAL, "--scheduler-options", "{n_workers: 2, threads_per_worker: 1, host: 127.0.0.1}"]
    command += ["--search", "starts", "--n-init", "1"]
    command += ["--set", "training.tol=1e-15", "--set", "training.max_iter=100000", "--set", "training.accelerate=none"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    said = tmp_path / "said"
    with said.open("w") as file:
        run = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
    try:
        while run.poll() is None and "pass 3:" not in said.read_text():
            time.sleep(0.05)
        assert run.poll() is None, said.read_text()
        os.killpg(run.pid, number) if number == signal.SIGINT else os.kill(run.pid, number)
        code = run.wait(timeout=120)
        assert code in (128 + number, -number)
        _, left = psutil.wait_procs(of_session(run.pid), timeout=60)
        assert left == []
        assert "nothing half-written is left" in said.read_text()
        assert "Traceback" not in said.read_text()
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()


class Shrunk:
    """A cluster that has lost a worker."""

    def __init__(self, wanted: int, there: int) -> None:
        self.worker_spec, self.workers = dict.fromkeys(range(wanted)), dict.fromkeys(range(there))
        self.plan = set(self.worker_spec)
        self.asked: list[int] = []

    def scale(self, n: int) -> None:
        self.asked.append(n)


@pytest.mark.parametrize(
    ("cluster", "size", "asked"),
    [
        (Shrunk(3, 2), Size(fixed=3), [3]),
        (Shrunk(3, 2), Size(minimum=1, maximum=5), [3]),
        (Shrunk(3, 3), Size(fixed=3), []),
    ],
)
def test_those_that_are_missing_are_asked_for_again(cluster: Shrunk, size: Size, asked: list[int]) -> None:
    Keeper(cluster, size).look()
    assert cluster.asked == asked


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    """No cluster of a test outlives it."""
    before = {c for c in LocalCluster._instances if c.status.name == "running"}
    yield
    assert {c for c in LocalCluster._instances if c.status.name == "running"} <= before


# ---- what goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("does", ["raise SystemExit(0)", "raise RuntimeError('boom')"])
def test_a_module_that_cannot_be_imported_is_said_in_a_line(
    does: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_clusters.py").write_text(does)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"^scheduler broken_clusters\.Cluster: broken_clusters cannot be imported"):
        cluster_class("broken_clusters.Cluster")


@pytest.mark.parametrize(("error", "passes"), [(KeyError("image"), False), (ConnectionError("away"), True)])
def test_only_what_may_pass_is_worth_another_try(error: Exception, passes: bool) -> None:
    def build(**_: Any) -> Any:
        raise error

    with pytest.raises(ClusterError, match="did not start") as found:
        start("a.Cluster", build, {})
    assert may_pass(found.value) is passes


def test_a_cluster_is_closed_whatever_ends_the_run_while_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect ends runs by exceptions that are neither an interrupt nor an error."""

    class Ended(BaseException):
        pass

    closed = []

    class Slow:
        def close(self) -> None:
            closed.append(self)

    def interrupted(*_: Any) -> Any:
        raise Ended

    monkeypatch.setattr("dgmm.engine.classes.result_of", interrupted)
    with pytest.raises(Ended):
        start("a.Cluster", Slow, {})
    assert len(closed) == 1


def test_only_memory_is_filled_into_options_of_users() -> None:
    assert filled({"memory": "projected", "queue": "exports"}, {Filled.MEMORY: "7"}) == {
        "memory": "7",
        "queue": "exports",
    }
