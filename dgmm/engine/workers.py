"""Who does the work: threads of this process, an open Dask client, or a cluster started for the occasion."""

from __future__ import annotations

import logging
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import dask
import dask.threaded
import psutil
from dask.system import CPU_COUNT
from dask.utils import parse_bytes

from dgmm import waits
from dgmm.engine.cluster import Call, Leases, places_of, workers_of
from dgmm.engine.schedulers import ADDRESSES, PAUSED_OURS, STARTING, connected, started, wait_for_a_worker
from dgmm.errors import InputError, without_secrets
from dgmm.waits import no_interrupt_lost, undisturbed

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")

logger = logging.getLogger("dgmm")

#: Share of a worker's memory at which Dask gives it no more tasks, by default.
PAUSED = 0.8


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
        Bytes of one worker.
    paused : float
        Share of its memory at which a worker is given no more tasks, for good if the rest is not freed.
    local : bool
        Whether the workers were started here, for this.
    """

    client: Client | None
    n_threads: int
    threads_per_worker: int
    memory: int
    paused: float = 1.0
    local: bool = False
    _leases: list[Leases] = field(default_factory=list, repr=False, compare=False)

    @property
    def usable(self) -> int:
        """Bytes that one worker may use."""
        return int(self.paused * self.memory)

    @property
    def driver_bytes(self) -> int:
        """Bytes that this process may use beside what it has."""
        return self.memory if self.client is None else int(psutil.virtual_memory().available)

    @property
    def driver_threads(self) -> int:
        """Threads that may work in this process while the workers wait for it."""
        return self.n_threads if self.client is None or self.local else CPU_COUNT

    def leases(self) -> Leases:
        """Leases of a new owner, to end with these workers if not before."""
        leases = Leases(self.client)
        self._leases.append(leases)
        return leases

    def _renew(self, places: Iterable[str]) -> None:
        for leases in self._leases:
            leases.renew(places)

    def release(self) -> None:
        """End all leases: nothing is kept any more."""
        while self._leases:
            self._leases.pop().end()

    def places(self) -> set[str]:
        """Where tasks may run now: addresses of the workers, or the one process of threads."""
        return set(places_of(self.client))

    def share(self, value: Any, *, heavy: bool = False) -> Any:
        """A value that many tasks take: it travels to the workers once.

        It goes as the result of a task of its own, which is computed anew if a worker is lost; heavy values
        (arrays in memory) are sent to every worker instead, and are lost with the last of them.
        """
        if self.client is None:
            return value
        if heavy:
            wait_for_a_worker(self.client)
            # hash=False: equal data scattered a second time would be lost with the first
            return self.client.scatter(value, broadcast=True, hash=False)
        key = f"{type(value).__name__}-{uuid.uuid4().hex}"
        return self.client.submit(itself, value, key=key, pure=False)

    def map(
        self,
        function: Callable[..., T],
        arguments: Sequence[tuple[Any, ...]],
        homes: Sequence[str | None] | None = None,
    ) -> list[T]:
        """Results of a function called with each of the arguments, in order.

        When it raises, nothing of it runs any more: what was begun has been told to stop, and waited for.

        Parameters
        ----------
        function : callable
        arguments : sequence of tuple
        homes : sequence of str or None, optional
            The worker that each call is best made by, if any; another will do.
        """
        if self.client is not None:
            changed = self._renew
            return Call(self.client, function, arguments, homes or [None] * len(arguments), changed).results()
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


def itself(value: T) -> T:
    """The value: a task whose result travels to the workers."""
    return value


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
    with no_interrupt_lost(), _found_or_started(scheduler, n_workers, threads_per_worker, memory_limit) as workers:
        try:
            yield workers
        finally:
            workers.release()


@contextmanager
def _found_or_started(
    scheduler: str | Client | None, n_workers: int | None, threads_per_worker: int, memory_limit: str | int | None
) -> Iterator[Workers]:
    if scheduler is None:
        client = current_client()
        yield threads(n_workers, memory_limit) if client is None else of_client(client)
    elif scheduler == "threads":
        yield threads(n_workers, memory_limit)
    elif scheduler == "processes":
        cluster = started(n_workers or CPU_COUNT, threads_per_worker, memory_limit)
        with undisturbed(cluster, STARTING) as client:
            yield replace(of_client(client), paused=PAUSED_OURS, local=True)
    elif isinstance(scheduler, str):
        if not scheduler.startswith(ADDRESSES):
            shown = without_secrets(scheduler)
            raise InputError(f"unknown scheduler {shown!r}: use threads, processes or an address tcp://host:port")
        if n_workers is not None or memory_limit is not None:
            raise InputError(f"the scheduler at {scheduler} has its own workers: leave n_workers and memory_limit out")
        with undisturbed(connected(scheduler), STARTING) as client:
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
    wait_for_a_worker(client)
    infos = workers_of(client).values()
    return Workers(
        client,
        sum(w["nthreads"] for w in infos),
        max(w["nthreads"] for w in infos),
        min(w["memory_limit"] or psutil.virtual_memory().total for w in infos),
        PAUSED,
    )


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
            waits.begin(lambda: not self._given_up)
            return function(*given)
        finally:
            waits.end()
            with self._change:
                self._at_work -= 1
                self._change.notify_all()

    def give_up(self) -> None:
        """Tell all tasks to go no further, and wait until none is at work."""
        with self._change:
            self._given_up = True
            self._change.wait_for(lambda: not self._at_work)
