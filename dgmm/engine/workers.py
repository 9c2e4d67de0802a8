"""Who does the work: threads of this process, or the workers of a Dask client."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
from dask.system import CPU_COUNT
from dask.utils import parse_bytes

from dgmm import waits
from dgmm.devices import CPU, described
from dgmm.engine.cluster import Call, Leases, able_workers, connected, places_of, resources_of, workers_of
from dgmm.engine.schedulers import wait_for_a_worker
from dgmm.engine.versions import check_versions
from dgmm.errors import InputError

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
    least : int
        Tasks that run at a time when there are as few workers as there may be.
    patience : float or None
        Seconds for which there may be no worker, if not as many as usual.
    device : str
        Where every one of them computes; see `dgmm.devices`.
    """

    client: Client | None
    n_threads: int
    threads_per_worker: int
    memory: int
    paused: float = 1.0
    local: bool = False
    least: int = 0
    patience: float | None = None
    device: str = CPU
    _leases: list[Leases] = field(default_factory=list, repr=False, compare=False)
    _known: set[str] = field(default_factory=set, repr=False, compare=False)

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
        self._look_at(places)
        for leases in self._leases:
            leases.renew(places)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        """Threads that keep their buffers from pass to pass, and end when these workers are released or forgotten."""
        return ThreadPoolExecutor(self.n_threads, thread_name_prefix="dgmm")

    def release(self) -> None:
        """End all leases, and the threads: nothing is kept any more."""
        while self._leases:
            self._leases.pop().end()
        pool = vars(self).pop("_pool", None)
        if pool is not None:
            pool.shutdown()

    def places(self) -> set[str]:
        """Where tasks may run now: addresses of the workers, or the one process of threads."""
        found = set(places_of(self.client))
        self._look_at(found)
        return found

    def _look_at(self, places: Iterable[str]) -> None:
        """Refuse workers that have come meanwhile and are not what the others are."""
        new = set(places) - self._known
        if self.client is not None and not self.local and new:
            with connected(self.client):
                self._known.update(check_versions(self.client, new))
                self.check_device(new)

    def check_device(self, only: Collection[str] | None = None) -> None:
        """Refuse workers that have not the device where they are to compute; all of those that have tasks, by default.

        Raises
        ------
        InputError
        """
        if self.device == CPU:
            return
        if self.client is None:
            found: dict[str, Any] = {"": described(self.device)}
        else:
            able = able_workers(self.client)
            asked = [*able] if only is None else [address for address in only if address in able]
            found = self.client.run(described, self.device, workers=asked, on_error="return")
        for address, words in found.items():
            if isinstance(words, InputError):
                raise InputError(f"worker {address}: {words}")
            # one that is gone meanwhile computes nowhere
            if isinstance(words, Exception) and not isinstance(words, OSError):
                raise words
        kinds = sorted({words for words in found.values() if isinstance(words, str)})
        if len(kinds) > 1:
            logger.warning("the last bits hang on who computes what, on different devices: %s", "; ".join(kinds))
        elif kinds:
            logger.info("densities are computed on %s", *kinds)

    def share(self, value: Any, *, heavy: bool = False) -> Any:
        """A value that many tasks take: it travels to the workers once.

        It goes as the result of a task of its own, which is computed anew if a worker is lost; heavy values
        (arrays in memory) are sent to every worker instead, and are lost with the last of them.
        """
        if self.client is None:
            return value
        if heavy:
            wait_for_a_worker(self.client, self.patience)
        key = f"{type(value).__name__}-{uuid.uuid4().hex}"
        with connected(self.client):
            # hash=False: equal data scattered a second time would be lost with the first
            if heavy:
                return self.client.scatter(value, broadcast=True, hash=False)
            return self.client.submit(itself, value, key=key, pure=False)

    def map(
        self,
        function: Callable[..., T],
        arguments: Sequence[tuple[Any, ...]],
        homes: Sequence[str | None] | None = None,
        graph: Mapping[Any, Any] | None = None,
    ) -> list[T]:
        """Results of a function called with each of the arguments, in order.

        When it raises, nothing of it runs any more: what was begun has been told to stop, and waited for.

        Parameters
        ----------
        function : callable
        arguments : sequence of tuple
        homes : sequence of str or None, optional
            The worker that each call is best made by, if any; another will do.
        graph : mapping, optional
            Tasks of Dask by their keys, to whose results arguments refer; see `Handing`.
        """
        if self.client is not None:
            changed, wish = self._renew, {} if self.device == CPU else resources_of(self.client)
            homes = homes or [None] * len(arguments)
            return Call(self.client, function, arguments, homes, changed, self.patience, graph, wish).results()
        if len(arguments) == 1:
            return [function(*arguments[0])]
        crew, calls = Crew(), iter(enumerate(arguments))
        found: list[Any] = [None] * len(arguments)

        def pull() -> None:
            for i, given in calls:
                found[i] = crew.call(function, *given)

        loops: list[Future[None]] = []
        try:
            for _ in range(min(self.n_threads, len(arguments))):
                loops.append(self._pool.submit(pull))
            for loop in wait(loops, return_when=FIRST_EXCEPTION).done:
                loop.result()
        except BaseException:
            crew.give_up()
            raise
        finally:
            loops.clear()  # they hold the error, and what it was raised from holds them
        return found


def itself(value: T) -> T:
    """The value: a task whose result travels to the workers."""
    return value


def threads(n_workers: int | None = None, memory_limit: str | int | None = None) -> Workers:
    """Threads of this process, and what memory they may use together."""
    n, free = n_workers or CPU_COUNT, int(psutil.virtual_memory().available)
    return Workers(None, n, n, free if memory_limit is None else min(free, parse_bytes(memory_limit)))


def of_client(client: Client, patience: float | None = None, *, ours: bool = False) -> Workers:
    """The workers of a client, once there is one; ours are what this process is."""
    wait_for_a_worker(client, patience)
    if not ours:
        check_versions(client)
    found = workers_of(client)
    infos = found.values()
    workers = Workers(
        client,
        sum(w["nthreads"] for w in infos),
        max(w["nthreads"] for w in infos),
        min(w["memory_limit"] or psutil.virtual_memory().total for w in infos),
        PAUSED,
        patience=patience,
    )
    workers._known.update(found)
    return workers


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
