"""Threads, and what becomes of them."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from distributed import Client
from distributed.comm.core import CommClosedError

from dgmm.engine import Workers, open_workers
from dgmm.engine.cluster import places_of
from dgmm.engine.schedulers import PRELOAD
from dgmm.engine.workers import of_client, threads
from dgmm.errors import ClusterError, InputError
from dgmm.waits import stop_if_interrupted

FORKED = """
import os, signal
import numpy as np
import dgmm

few, many = (np.random.default_rng(0).normal(size=(n, 2)) for n in (500, 10_000))
fits = [dgmm.train(x, 2, n_init=1, max_iter=5, n_workers=2) for x in (few, many)]
child = os.fork()
if not child:
    signal.alarm(60)
    for x, fit in zip((few, many), fits):
        assert dgmm.train(x, 2, n_init=1, max_iter=5, n_workers=2).log_likelihood == fit.log_likelihood
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_can_compute_as_its_parent_did() -> None:
    """Servers and multiprocessing fork: threads do not come along, those that work and the one that limits BLAS."""
    command = [sys.executable, "-W", "ignore", "-c", FORKED]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


LOOP = """
class Loop:
    def __del__(self):
        print("collected")

loop = Loop()
loop.itself = loop
"""


@pytest.mark.parametrize(("before", "said"), [("", "collected\n"), (PRELOAD, "")])
def test_a_worker_that_ends_looks_for_no_garbage(before: str, said: str) -> None:
    """What only the last collection of a process would find."""
    done = subprocess.run([sys.executable, "-c", before + LOOP], check=True, capture_output=True, text=True)
    assert done.stdout == said


QUIET = """
import numpy as np
import zarr
import dgmm
from dgmm.engine import open_workers

if __name__ == "__main__":
    x = np.random.default_rng(0).normal(size=(20_000, 2))
    x[::2] += 8
    array = zarr.create_array("x.zarr", shape=x.shape, chunks=(5_000, 2), dtype=x.dtype)
    array[:] = x
    with open_workers("processes", n_workers=2, memory_limit="600MB") as workers:
        fit = dgmm.train("x.zarr", 2, scheduler=workers.client, n_init=1)
        dgmm.score(fit, "x.zarr", "scores.zarr", scheduler=workers.client)
    print(fit.converged)
"""


def test_a_good_run_on_processes_says_nothing_of_them(tmp_path: Path) -> None:
    (tmp_path / "quiet.py").write_text(QUIET)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "quiet.py"], check=False, capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    # a busy machine is waited for
    said = [line for line in done.stderr.splitlines() if not line.startswith("waiting for ")]
    assert (said, done.stdout, done.returncode) == ([], "True\n", 0)


def test_workers_are_not_missed_when_the_client_looks_beside_them(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it does every two seconds, and at just the wrong moment if the machine is busy."""
    look = client._update_scheduler_info
    monkeypatch.setattr(client, "_update_scheduler_info", lambda n_workers=0: look(n_workers=0))
    assert len(places_of(client)) == 2
    assert of_client(client).n_threads == 2


def test_a_scheduler_that_hangs_up_is_told(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang_up(**_: int) -> None:
        raise OSError("the line is dead")

    monkeypatch.setattr(client.scheduler, "identity", hang_up, raising=False)
    with pytest.raises(ClusterError, match=r"lost the scheduler at tcp://127.0.0.1:.*: start it anew"):
        places_of(client)


@pytest.mark.parametrize("where", ["gather", "get"])
def test_a_scheduler_that_hangs_up_in_the_middle_of_a_call_is_told(
    where: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client does not know yet, and telling the tasks to stop fails as well."""

    def hang_up(*_: object, **__: object) -> None:
        raise CommClosedError("the line is dead")

    workers = of_client(client)
    for name in (where, "run"):
        monkeypatch.setattr(client, name, hang_up)
    with pytest.raises(ClusterError, match=r"lost the scheduler at tcp://127.0.0.1:.*: start it anew"):
        workers.map(abs, [(-1,), (-2,)])


@pytest.mark.parametrize(("where", "heavy"), [("submit", False), ("scatter", True)])
def test_a_scheduler_that_hangs_up_as_values_are_sent_is_told(
    where: str, heavy: bool, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang_up(*_: object, **__: object) -> None:
        raise CommClosedError("the line is dead")

    monkeypatch.setattr(client, where, hang_up)
    with pytest.raises(ClusterError, match="lost the scheduler"):
        of_client(client).share(1, heavy=heavy)


# ---- when a call ends, nothing of it runs any more -------------------------------------------------------------------


def work(folder: str, i: int, fails: bool) -> int:
    """A task that says for how long it is at work; all fail but the one that begins first, which is at work then."""
    mark = Path(folder, f"task-{i}")
    mark.touch()
    try:
        if fails:
            try:
                os.mkdir(f"{folder}-begun")
            except FileExistsError:
                raise InputError("a task has had enough") from None
        for _ in range(3000 if fails or i % 2 else 1):
            time.sleep(0.01)
            stop_if_interrupted()
        return i
    finally:
        mark.unlink()


@pytest.fixture(params=["threads", "processes"])
def workers(request: pytest.FixtureRequest) -> Workers:
    return threads(2) if request.param == "threads" else of_client(request.getfixturevalue("client"))


def test_a_failure_stops_all_tasks_and_waits_for_them(workers: Workers, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a task has had enough"):
        workers.map(work, [(str(tmp_path), i, True) for i in range(8)])
    assert os.listdir(tmp_path) == []


def test_an_interrupt_stops_all_tasks_and_waits_for_them(workers: Workers, tmp_path: Path) -> None:
    def interrupt() -> None:
        while len(os.listdir(tmp_path)) < 2:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        workers.map(work, [(str(tmp_path), i, False) for i in range(8)])
    assert os.listdir(tmp_path) == []
    assert workers.map(work, [(str(tmp_path), 2 * i, False) for i in range(3)]) == [0, 2, 4], "the next call is another"


def test_threads_stay_from_call_to_call_and_end_with_the_workers() -> None:
    """They keep their buffers."""

    def at_once(barrier: threading.Barrier) -> int:
        barrier.wait(60)
        return threading.get_ident()

    with open_workers("threads", n_workers=3) as workers:
        found = [set(workers.map(at_once, [(barrier,)] * 3)) for barrier in map(threading.Barrier, (3, 3))]
        assert found[0] == found[1]
        assert len(found[0]) == 3
        assert threading.get_ident() not in found[0]
    assert not found[0] & {thread.ident for thread in threading.enumerate()}


def test_a_call_takes_no_more_threads_than_it_may() -> None:
    at_work, most, lock = set(), [], threading.Lock()

    def count(i: int) -> int:
        with lock:
            at_work.add(i)
            most.append(len(at_work))
        time.sleep(0.01)
        with lock:
            at_work.remove(i)
        return i

    assert threads(2).map(count, [(i,) for i in range(20)]) == list(range(20))
    assert max(most) == 2


def look(i: int) -> int:
    """A task that would stop if nobody waited for it."""
    stop_if_interrupted()
    return i


def test_threads_that_worked_for_a_call_that_was_given_up_work_for_others(client: Client, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a task has had enough"):
        of_client(client).map(work, [(str(tmp_path), i, True) for i in range(8)])
    assert client.gather([client.submit(look, i, pure=False) for i in range(8)]) == list(range(8))


class Unpicklable(Exception):
    """What cannot travel."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


def fail(kind: str) -> None:
    if kind == "input":
        raise InputError("one line")
    raise Unpicklable(1, 2) if kind == "unpicklable" else ZeroDivisionError("division by zero")


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        ("input", InputError, "one line"),
        ("other", ZeroDivisionError, "division by zero"),
        ("unpicklable", RuntimeError, "Unpicklable: 1 and 2"),
    ],
)
def test_what_goes_wrong_in_a_worker_comes_back_and_is_not_printed(
    kind: str, error: type[Exception], text: str, client: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(error, match=text) as caught:
        of_client(client).map(fail, [(kind,), (kind,)])
    assert capfd.readouterr().err == ""
    notes = getattr(caught.value, "__notes__", [])
    assert ("in fail" in "".join(notes)) == (kind == "other"), "a mistake of ours can be found, a user's needs no stack"
