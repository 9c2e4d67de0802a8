"""Schedulers that are not there, do not answer or have no workers; and interrupts while processes start and stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
import pytest
import zarr
from distributed import LocalCluster

from dgmm.engine import open_workers
from dgmm.engine.schedulers import CONNECT, DISTRIBUTED_SETTINGS, STARTING
from dgmm.errors import ClusterError, InputError


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that accepts every connection, and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


def test_a_scheduler_that_does_not_answer_is_told(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgmm.engine.schedulers.ANSWER", 0.5)
    address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(
        ClusterError, match=rf"no scheduler answers at {address} \(nothing came for 0.5 s\): see whether"
    ):
        open_workers(address).__enter__()


def test_a_scheduler_that_is_not_there_is_told(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgmm.engine.schedulers.ANSWER", 0.5)
    address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    with pytest.raises(ClusterError, match=rf"no scheduler answers at {address} \(.* 0.5 s\): see whether it runs"):
        open_workers(address).__enter__()


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("tcp://127.0.0.1", "missing port number"),
        ("tls://127.0.0.1:8786", "TLS expects"),  # no certificates
    ],
)
def test_what_is_no_address_is_told_at_once(address: str, why: str) -> None:
    with pytest.raises(InputError, match=f"cannot use {address} as the address of a scheduler: .*{why}"):
        open_workers(address).__enter__()


def test_a_scheduler_without_workers_is_waited_for_with_a_word_and_an_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dgmm.engine.schedulers.NO_WORKERS", 0.5)
    monkeypatch.setattr("dgmm.waits.TOLD_EVERY", 0.1)
    with LocalCluster(
        n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False}
    ) as cluster:
        address = cluster.scheduler_address
        with pytest.raises(
            ClusterError, match=rf"no worker at {address} for 0.5 s: start some \(dask worker {address}"
        ):
            open_workers(address).__enter__()
    assert f"waiting for a worker, of which there is none at {address} yet, for 0 s" in caplog.text


def connect_timeout() -> object:
    return dask.config.get(CONNECT)


def test_a_cluster_has_time_to_start_and_its_workers_are_missed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    while_starting = []
    cluster = LocalCluster.__init__

    def init(self: LocalCluster, *args: object, **options: object) -> None:
        while_starting.append(connect_timeout())
        cluster(self, *args, **options)

    monkeypatch.setattr(LocalCluster, "__init__", init)
    before = connect_timeout()
    with open_workers("processes", n_workers=1, memory_limit="1GB") as workers:
        assert workers.client is not None
        soon = DISTRIBUTED_SETTINGS[CONNECT]
        assert (while_starting, connect_timeout()) == ([STARTING], soon)
        assert list(workers.client.run(connect_timeout).values()) == [soon]
    assert connect_timeout() == before


# ---- interrupts ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Overlapping groups: EM climbs for ever."""
    path = str(tmp_path_factory.mktemp("interrupts") / "x.zarr")
    x = np.random.default_rng(0).normal(size=(20_000, 2))
    array = zarr.create_array(path, shape=x.shape, chunks=(5_000, 2), dtype=x.dtype)
    array[:] = x
    return path


def of_session(leader: int) -> list[psutil.Process]:
    """The processes of a session that are alive, but for its leader."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = process.pid != leader and os.getsid(process.pid) == leader
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, ProcessLookupError):
            continue
    return found


def n_workers(leader: int) -> int:
    """How many processes of workers there are in a session."""
    n = 0
    for process in of_session(leader):
        try:
            n += any("spawn_main" in word for word in process.cmdline())
        except psutil.Error:
            continue
    return n


def send(leader: int, number: signal.Signals) -> None:
    """Ctrl-C reaches all processes of a terminal, SIGTERM the one to which it is sent."""
    (os.killpg if number == signal.SIGINT else os.kill)(leader, number)


#: Which signal, how many workers there are at least when it comes, and how many at most when it comes again.
INTERRUPTS = {
    "as-the-first-worker-starts": (signal.SIGINT, [1]),
    "as-the-last-worker-starts": (signal.SIGINT, [2]),
    "again-as-they-stop": (signal.SIGINT, [2, 1]),
    "sigterm": (signal.SIGTERM, [1]),
}


@pytest.mark.parametrize(("number", "moments"), INTERRUPTS.values(), ids=INTERRUPTS)
def test_an_interrupt_while_processes_start_or_stop_is_one_line(
    number: signal.Signals, moments: list[int], data: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "dgmm.cli", "train", data, "--k", "6", "--out", str(tmp_path / "model.zarr")]
    command += ["--scheduler", "processes", "--workers", "2", "--quiet", "--set", "training.tol=1e-15"]
    command += ["--set", "training.max_iter=1000000", "--set", "training.accelerate=none"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    errors = tmp_path / "errors"
    with errors.open("w") as file:
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file, env=environment, start_new_session=True)
    try:
        while run.poll() is None and n_workers(run.pid) < moments[0]:
            time.sleep(0.01)
        assert run.poll() is None, f"it ended before it was interrupted: {errors.read_text()}"
        send(run.pid, number)
        for most in moments[1:]:
            while run.poll() is None and n_workers(run.pid) > most:
                time.sleep(0.01)
            if run.poll() is None:
                send(run.pid, number)
        code = run.wait(timeout=300)
        _, left = psutil.wait_procs(of_session(run.pid), timeout=60)
        # a busy machine is waited for
        said = [line for line in errors.read_text().splitlines() if not line.startswith("waiting for ")]
        word = "interrupted" if number == signal.SIGINT else "terminated"
        assert said == [f"dgmm: {word}: nothing half-written is left; run the same command again"]
        # Python ends by SIGINT if that has once come at certain moments, which is 130 for a shell
        assert code == 128 + number or (number, code) == (signal.SIGINT, -signal.SIGINT)
        assert left == []
        assert os.listdir(tmp_path) == ["errors"]
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()


def test_a_cluster_of_ours_listens_on_loopback_only() -> None:
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    mine = listening(psutil.Process())
    with open_workers("processes", n_workers=2, memory_limit="1GB") as workers:
        assert workers.client is not None
        started = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
        found = (listening(psutil.Process()) - mine).union(*map(listening, started))
        # at least that of the scheduler, of two nannies and of two workers
        assert len(found) >= 5
        assert {host for host, _ in found} == {"127.0.0.1"}


def listening(process: psutil.Process) -> set[tuple[str, int]]:
    """The addresses and ports at which a process takes connections, of any family."""
    return {(c.laddr.ip, c.laddr.port) for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}


@pytest.mark.parametrize("kind", ["processes", "distributed.LocalCluster"])
def test_the_environment_is_left_as_it_was(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nannies put there would be, to a cluster that is started later, what the user has chosen."""
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "12345")
    before = dict(os.environ)

    def seen() -> tuple[str | None, str | None]:
        return os.environ.get("MALLOC_ARENA_MAX"), os.environ.get("MALLOC_TRIM_THRESHOLD_")

    options = {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1", "n_workers": 1, "threads_per_worker": 1}
    how: dict[str, Any] = {"n_workers": 1, "memory_limit": "2GB"}
    with open_workers(kind, **(how if kind == "processes" else {"scheduler_options": options})) as workers:
        assert workers.client is not None
        assert dict(os.environ) == before
        expected = "1" if kind == "processes" else "2"
        assert list(workers.client.run(seen).values()) == [(expected, "12345")]
        # a worker that takes the place of another begins with the same, and what that leaves goes at the end
        workers.client.restart()
        assert list(workers.client.run(seen).values()) == [(expected, "12345")]
    assert dict(os.environ) == before
