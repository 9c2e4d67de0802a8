"""An object store that is slow, busy, cut off or gone, or whose answers are lost after it has done what was asked."""

from __future__ import annotations

import atexit
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir, contextmanager
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import zarr

from dgmm.config import Data, Score
from dgmm.data import store_at
from dgmm.errors import DgmmError
from dgmm.pipeline import run_score
from dgmm.store import Status, place_at, save
from tests import journals, ledgers
from tests.proxy import Do, Proxy, Request
from tests.reliability.trials import Ended, Trial, fault
from tests.servers import environment, s3_environment, s3_server

#: What all trials share, until the process ends.
_open = ExitStack()
atexit.register(_open.close)
_names = itertools.count()

Plan = Callable[[Request], Do]


#: What is given: rows for fits, rows for scores, and a model for these.
DATA, ROWS, MODEL = (f"s3://bucket/given/{name}.zarr" for name in ("x", "rows", "model"))


@cache
def server() -> str:
    """The address of a store, with the rows and the model of all trials."""
    address = _open.enter_context(s3_server())
    with environment(s3_environment(address)):
        folder = Path(_open.enter_context(tempfile.TemporaryDirectory()))
        source = zarr.open_array(journals.write_data(folder), mode="r")
        array = zarr.create_array(store_at(DATA, read_only=False), shape=source.shape, chunks=(500, 2), dtype="f8")
        array[:] = source[:]
        rows = zarr.create_array(store_at(ROWS, read_only=False), shape=(238, 3), chunks=(20, 3), dtype="f8")
        rows[:] = ledgers.rows()
        save(ledgers.fit(), MODEL)
    return address


def train(out: str) -> Callable[[], dict[str, Any]]:
    """Fit and write a model; what it has come to, to be asked for afterwards."""
    journals.work(journals.train(DATA, out))
    return partial(journals.bits, out)


def select(out: str) -> Callable[[], dict[str, Any]]:
    """The same for a selection."""
    model = journals.work(journals.select(DATA, out, n_components=[1, 3], covariance_type=["full"]))
    return partial(journals.bits, model)


def score(out: str) -> Callable[[], dict[str, Any]]:
    """The same for scores."""
    with ledgers.small_for_a_while():
        run_score(Score(model=MODEL, data=Data(path=ROWS), out=out))
    return partial(ledgers.tree, out)


JOBS: dict[str, Callable[[str], Callable[[], dict[str, Any]]]] = {
    "training": train,
    "selection": select,
    "scoring": score,
}


def healthy(job: str, out: str) -> dict[str, Any]:
    """What a job comes to where the store is as it should be."""
    with environment(s3_environment(server())):
        return JOBS[job](out)()


@cache
def undisturbed(job: str) -> dict[str, Any]:
    """What a job comes to that nothing happens to."""
    return healthy(job, f"s3://bucket/undisturbed/{job}")


@contextmanager
def behind(plan: Plan, **how: float) -> Iterator[Proxy]:
    """Context in which the store is behind a proxy, and requests are made again sooner than they are for people.

    ``retry_for`` is for how many seconds, a minute in the table of faults.
    """
    retry_for = how.pop("retry_for", 60.0)
    backoff = {"init_backoff": timedelta(milliseconds=5), "max_backoff": timedelta(seconds=0.5), "base": 4}
    retries = {"max_retries": 1000, "retry_timeout": timedelta(seconds=retry_for), "backoff": backoff}
    with Proxy(server(), plan, **how) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setattr("dgmm.data.stores.RETRIES", retries)
        patch.setattr("dgmm.data.retries.RETRY_FOR", retry_for)
        patch.setattr("dgmm.data.retries.PAUSE", 0.005)
        with environment(s3_environment(proxy.address) | {"AWS_READ_TIMEOUT": "2s"}):
            yield proxy


def new_place() -> str:
    """A URL at which nothing lies."""
    return f"s3://bucket/trials/{next(_names)}/out"


def recovered(trial: Trial, job: str, plan: Plan, *done: Do, **how: float) -> Ended | None:
    """A job that ends as if nothing had happened, though something was done to its requests; None if nothing was."""
    expected, out = undisturbed(job), new_place()
    with behind(plan, **how) as proxy, chdir(trial.folder):
        found = JOBS[job](out)
        n = sum(proxy.n_done(do) for do in done)
    if not n:
        return None
    with environment(s3_environment(server())):
        assert found() == expected
        assert place_at(out).state().status is not Status.UNFINISHED
    return Ended.RECOVERED


# ---- for a while -----------------------------------------------------------------------------------------------------


def now_and_then(do: Do, share: float, trial: Trial) -> Plan:
    """A share of the requests, at random."""
    random = trial.random
    return lambda request: do if random.random() < share else Do.PASS


def for_a_while(do: Do, first: int, seconds: float) -> Plan:
    """All requests for some seconds, from one of them on."""
    began: list[float] = []

    def plan(request: Request) -> Do:
        if request.number >= first and not began:
            began.append(time.monotonic())
        return do if began and time.monotonic() < began[0] + seconds else Do.PASS

    return plan


def one_in_ten(trial: Trial, job: str, do: Do) -> Ended | None:
    return recovered(trial, job, now_and_then(do, 0.1 if trial.number % 2 else 0.3, trial), do, delay=0.05)


def two_seconds(trial: Trial, job: str) -> Ended | None:
    """All that is asked for two seconds, from anywhere on."""
    r = trial.random
    do = [Do.BUSY, Do.REFUSE, Do.LOSE, Do.DENY][int(r.integers(4))]
    return recovered(trial, job, for_a_while(do, int(r.integers(1, 60)), 2.0), do)


# ---- an answer that is lost ------------------------------------------------------------------------------------------


def one_write(trial: Trial, job: str, do: Do) -> Ended | None:
    """What the n-th request came to that has changed something is not heard of."""
    writes = itertools.count(1)

    def plan(request: Request) -> Do:
        return do if request.writes and next(writes) == trial.number else Do.PASS

    return recovered(trial, job, plan, do)


# ---- for good --------------------------------------------------------------------------------------------------------


def gone(trial: Trial, job: str, doing: tuple[Do, ...]) -> Ended | None:
    """From the n-th request on nothing works any more; once it does the same again goes on.

    Where only clearing up was left to do, the job has ended well, and says what it could not remove.
    """
    expected, out = undisturbed(job), new_place()
    do = doing[trial.number % len(doing)]

    def plan(request: Request) -> Do:
        return do if request.number >= trial.number else Do.PASS

    with behind(plan, retry_for=0.3) as proxy, environment({"AWS_READ_TIMEOUT": "100ms"}), chdir(trial.folder):
        try:
            found = JOBS[job](out)
        except DgmmError as error:
            said = str(error)
        else:
            with environment(s3_environment(server())):
                assert found() == expected
            return Ended.RECOVERED if proxy.n_done(do) else None
    assert "\n" not in said, said
    assert "s3://" in said or "/bucket/" in said, said
    with environment(s3_environment(server())):
        state = place_at(f"{out}/model.zarr" if job == "selection" else out).state()
        assert state.status in (Status.ABSENT, Status.UNFINISHED), state
    assert healthy(job, out) == expected
    return Ended.REFUSED


for job in JOBS:
    for do, kind in (
        (Do.DELAY, "object store slow"),
        (Do.BUSY, "object store busy (503)"),
        (Do.CUT, "answers of an object store cut off"),
        (Do.LOSE, "answers of an object store lost"),
        (Do.DENY, "requests carried out, and an error said (500)"),
    ):
        short = 1 if (job, do) in (("training", Do.CUT), ("selection", Do.LOSE), ("scoring", Do.BUSY)) else 0
        fault(kind, job, short=short, long=20)(partial(one_in_ten, job=job, do=do))
    fault("object store unanswering, one request in 100", job, short=0, long=10)(
        lambda trial, job=job: recovered(trial, job, now_and_then(Do.HANG, 0.01, trial), Do.HANG)
    )
    fault("object store away for two seconds", job, short=int(job == "training"), long=20)(
        partial(two_seconds, job=job)
    )
    fault("answer lost to the n-th write", job, short=2 * (job != "selection"), long=None, every=13)(
        partial(one_write, job=job, do=Do.LOSE)
    )
    fault("answer cut to the n-th write", job, short=0, long=None)(partial(one_write, job=job, do=Do.CUT))
    fault("object store gone from the n-th request on", job, short=2 * (job != "selection"), long=None, every=70)(
        partial(gone, job=job, doing=(Do.BUSY, Do.REFUSE, Do.CUT))
    )
    fault("object store silent from the n-th request on", job, short=0, long=None)(
        partial(gone, job=job, doing=(Do.HANG,))
    )
