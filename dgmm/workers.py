"""Who does the work: threads of this process, an open Dask client, or a cluster started for the occasion."""

from __future__ import annotations

import contextlib
import pickle
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import dask
import dask.threaded
import psutil
from dask.delayed import delayed
from dask.system import CPU_COUNT
from dask.utils import parse_bytes

from dgmm.errors import DgmmError, InputError

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")

#: How the address of a scheduler begins.
ADDRESSES = ("tcp://", "tls://", "ws://", "wss://", "ucx://")

#: What a cluster of ours runs with. A lost worker must come back (the default closes it for good 15 s after any
#: loss), a wait for workers must end, and the dashboard is for those who ask.
DISTRIBUTED_SETTINGS = {
    "distributed.deploy.lost-worker-timeout": "1h",
    "distributed.scheduler.allowed-failures": 10,
    "distributed.scheduler.no-workers-timeout": "60s",
    "distributed.comm.retry.count": 3,
}

#: glibc's settings in processes with so much memory that some may lie idle: what a chunk was decoded into is used
#: again. Dask has it given back to the system at once, and getting it anew takes as long as decoding a chunk.
AMPLE_BYTES = 2**30
REUSING_MEMORY = {
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 32 * 2**20,
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 64 * 2**20,
    "distributed.nanny.pre-spawn-environ.MALLOC_ARENA_MAX": 1,
}

#: Seconds for which tasks that are told to stop are waited for: more than a segment takes.
GRACE = 60.0

#: Ctrl-C in a terminal reaches the workers too; it is the driver that stops them.
DEAF_TO_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


@dataclass(frozen=True)
class Workers:
    """Where tasks run and what there is of memory.

    Attributes
    ----------
    client : distributed.Client or None
        None for threads of this process.
    n_threads : int
        Tasks that run at a time, over all workers.
    threads_per_worker : int
    memory : int
        Bytes that one worker may use.
    """

    client: Client | None
    n_threads: int
    threads_per_worker: int
    memory: int

    def share(self, value: Any, *, heavy: bool = False) -> Any:
        """A value that many tasks take: it travels to the workers once.

        It goes as the result of a task of its own, which is computed anew if a worker is lost; heavy values
        (arrays in memory) are sent to every worker instead, and are lost with the last of them.
        """
        if self.client is None:
            return value
        if heavy:
            # hash=False: equal data scattered a second time would be lost with the first
            return self.client.scatter(value, broadcast=True, hash=False)
        return delayed(value, name=f"{type(value).__name__}-{uuid.uuid4().hex}", traverse=False)

    def map(self, function: Callable[..., T], arguments: Sequence[tuple[Any, ...]]) -> list[T]:
        """Results of a function called with each of the arguments, in order.

        When it raises, nothing of it runs any more: what was begun has been told to stop, and waited for.
        """
        if self.client is not None:
            return map_on_cluster(self.client, function, arguments)
        if len(arguments) == 1:
            return [function(*arguments[0])]
        crew = Crew()
        # a partial leaves nothing for Dask to look into
        graph = {i: (partial(crew.call, function, *given),) for i, given in enumerate(arguments)}
        try:
            return list(dask.threaded.get(graph, list(graph), num_workers=self.n_threads))
        except BaseException:
            crew.give_up()
            raise

    def keep(self, function: Callable[..., T], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """As `map`, but the results stay where they were computed; each can be an argument of later tasks."""
        if self.client is None:
            return self.map(function, arguments)
        task = delayed(function, pure=False)
        return list(dask.persist(*[task(*given) for given in arguments], scheduler=self.client, traverse=False))


@contextmanager
def open_workers(
    scheduler: str | Client | None = None,
    *,
    n_workers: int | None = None,
    threads_per_worker: int = 1,
    memory_limit: str | int | None = None,
) -> Iterator[Workers]:
    """Find or start workers; what was started is stopped at the end.

    Parameters
    ----------
    scheduler : {None, "threads", "processes"}, address or distributed.Client
        None takes the open client if there is one and threads otherwise; ``processes`` starts a LocalCluster; an
        address such as ``tcp://host:8786`` connects to a running scheduler.
    n_workers : int, optional
        Threads, or processes of the cluster; as many as there are cores by default.
    threads_per_worker : int
        Of the cluster's processes.
    memory_limit : str or int, optional
        Of each process, such as ``2GB``, or bytes.
    """
    if scheduler is None:
        client = current_client()
        yield threads(n_workers, memory_limit) if client is None else of_client(client)
    elif scheduler == "threads":
        yield threads(n_workers, memory_limit)
    elif scheduler == "processes":
        from distributed import Client, LocalCluster

        n = n_workers or CPU_COUNT
        memory = parse_bytes(memory_limit) if memory_limit else psutil.virtual_memory().total // n
        with (
            dask.config.set(DISTRIBUTED_SETTINGS | (REUSING_MEMORY if memory > AMPLE_BYTES else {})),
            LocalCluster(
                n_workers=n,
                threads_per_worker=threads_per_worker,
                memory_limit=memory_limit or "auto",
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                preload=[DEAF_TO_INTERRUPTS],
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield of_client(client)
    elif isinstance(scheduler, str):
        from distributed import Client

        if not scheduler.startswith(ADDRESSES):
            raise InputError(f"unknown scheduler {scheduler!r}: use threads, processes or an address tcp://host:port")
        if n_workers is not None or memory_limit is not None:
            raise InputError(f"the scheduler at {scheduler} has its own workers: leave n_workers and memory_limit out")
        with Client(scheduler, set_as_default=False) as client:
            yield of_client(client)
    else:
        yield of_client(scheduler)


def current_client() -> Client | None:
    """The open default client, if any; looking for it must not be what imports distributed."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        client: Client = distributed.default_client()
    except ValueError:
        return None
    return client


def threads(n_workers: int | None = None, memory_limit: str | int | None = None) -> Workers:
    """Threads of this process, and what memory they may use together."""
    n, free = n_workers or CPU_COUNT, int(psutil.virtual_memory().available)
    return Workers(None, n, n, free if memory_limit is None else min(free, parse_bytes(memory_limit)))


def of_client(client: Client) -> Workers:
    """The workers of a client, once there is one."""
    client.wait_for_workers(1, timeout=60)
    infos = client.scheduler_info(n_workers=-1)["workers"].values()
    return Workers(
        client,
        sum(w["nthreads"] for w in infos),
        max(w["nthreads"] for w in infos),
        min(w["memory_limit"] or psutil.virtual_memory().total for w in infos),
    )


_task = threading.local()


class Crew:
    """Tasks of one call that can be told that nobody waits for them any more, and waited for."""

    def __init__(self) -> None:
        self._given_up = False
        self._at_work = 0
        self._change = threading.Condition()

    def call(self, function: Callable[..., T], *given: Any) -> T:
        """Call a function as one of the tasks."""
        with self._change:
            self._at_work += 1
        try:
            _task.wanted = lambda: not self._given_up
            stop_if_interrupted()
            return function(*given)
        finally:
            _task.wanted = None
            with self._change:
                self._at_work -= 1
                self._change.notify_all()

    def give_up(self) -> None:
        """Tell all tasks to go no further, and wait until none is at work."""
        with self._change:
            self._given_up = True
            self._change.wait_for(lambda: not self._at_work)


#: In a worker process: calls for whose tasks nobody waits any more.
_given_up: set[str] = set()


@dataclass(frozen=True)
class Failure:
    """What went wrong in a task; a result like any other, so that no worker prints it."""

    error: Exception


def map_on_cluster(client: Client, function: Callable[..., T], arguments: Sequence[tuple[Any, ...]]) -> list[T]:
    """`Workers.map` on the workers of a client."""
    from distributed import as_completed, wait

    call = uuid.uuid4().hex
    task = delayed(partial(call_on_worker, call, function), pure=False, name=_name(function), traverse=False)
    futures = client.compute(
        [task(*given, dask_key_name=f"{_name(function)}-{call}-{i}") for i, given in enumerate(arguments)],
        traverse=False,
    )
    results = {}
    try:
        for future, result in as_completed(futures, with_results=True, loop=client.loop):
            if isinstance(result, Failure):
                raise result.error
            results[future.key] = result
    except BaseException:
        # those that are at work stop after their segment, and those that are not begin none
        if client.status == "running":
            client.run(give_up, call, wait=False, on_error="ignore")
            with client.as_current(), contextlib.suppress(TimeoutError):
                wait(futures, timeout=GRACE)
        raise
    return [results[future.key] for future in futures]


def call_on_worker(call: str, function: Callable[..., T], *given: Any) -> T | Failure:
    """Call a function as one of the tasks of a call."""
    _task.wanted = lambda: call not in _given_up
    try:
        stop_if_interrupted()
        return function(*given)
    except Exception as error:
        if not isinstance(error, DgmmError):
            error.add_note(f"in a task, at\n{traceback.format_exc()}")
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return Failure(RuntimeError(f"{type(error).__name__}: {error}"))
        return Failure(error)
    finally:
        # the thread goes on to tasks of others
        _task.wanted = None


async def give_up(call: str) -> None:
    """Note in a worker process that nobody waits for the tasks of a call any more."""
    _given_up.add(call)


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def stop_if_interrupted() -> None:
    """End a task for which nobody waits any more; to be called between segments."""
    wanted: Callable[[], bool] | None = getattr(_task, "wanted", None)
    if wanted is not None and not wanted():
        raise InterruptedError("the driver gave up")
