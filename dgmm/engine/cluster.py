"""Tasks on a Dask cluster: sent to the workers that are best for them, and again if those are lost."""

from __future__ import annotations

import contextlib
import logging
import pickle
import queue
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dask._task_spec import Task
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from dgmm import waits
from dgmm.engine.resident import Lease
from dgmm.errors import ClusterError, DgmmError, may_pass

if TYPE_CHECKING:
    from distributed import Client, Future

logger = logging.getLogger("dgmm")

#: Seconds between two looks at the cluster while no task ends.
LOOK_EVERY = 1.0
#: Seconds for which a cluster may be without a worker that can work.
NO_WORKERS = 60.0
#: Seconds for which tasks that are told to stop are waited for: more than a segment takes.
GRACE = 60.0
#: What workers declare of Dask's resources that have one.
GPU = "GPU"

T = TypeVar("T")

#: In a worker process: calls for whose tasks nobody waits any more.
_given_up: set[str] = set()


def places_of(client: Client | None) -> dict[str, str]:
    """Names of the processes where tasks run, and how each is: ``running``, or ``paused`` for want of memory."""
    if client is None:
        return {"": "running"}
    return {address: str(worker.get("status", "running")) for address, worker in workers_of(client).items()}


def workers_of(client: Client) -> dict[str, dict[str, Any]]:
    """What a scheduler knows of its workers, by their addresses.

    It is asked here, as what `Client.scheduler_info` has found is forgotten whenever the client asks for all but the
    workers, as it does every two seconds.

    Raises
    ------
    ClusterError
        If it does not answer.
    """
    if client.scheduler is None:
        raise lost_scheduler(client)
    try:
        found: dict[str, dict[str, Any]] = client.sync(client.scheduler.identity, n_workers=-1)["workers"]
    except OSError as error:
        raise lost_scheduler(client) from error
    return found


def resources_of(client: Client) -> dict[str, int]:
    """What a task that computes on a device takes of its worker: a GPU, where workers declare some; else nothing."""
    declared = any(worker.get("resources", {}).get(GPU) for worker in workers_of(client).values())
    return {GPU: 1} if declared else {}


def able_workers(client: Client) -> list[str]:
    """Addresses of the workers that are given tasks which compute on a device."""
    wanted = resources_of(client).keys()
    return [a for a, worker in workers_of(client).items() if wanted <= worker.get("resources", {}).keys()]


class ForgottenError(ClusterError):
    """What was sent to the workers for good went with the last of those that had it."""


class Leases:
    """The leases of one owner in all processes where tasks run; see `dgmm.engine.resident.Lease`.

    Attributes
    ----------
    owner : str
    """

    def __init__(self, client: Client | None) -> None:
        self.owner = uuid.uuid4().hex
        self._client = client
        self._held: dict[str, Any] = {}

    def renew(self, places: Iterable[str]) -> None:
        """Have a lease in each of these places, and in no other."""
        wanted = set(places)
        for lost in self._held.keys() - wanted:
            del self._held[lost]
        for place in sorted(wanted - self._held.keys()):
            if self._client is None:
                self._held[place] = Lease(self.owner, place)
            else:
                key = f"Lease-{self.owner}-{place}"
                with connected(self._client):
                    self._held[place] = self._client.submit(Lease, self.owner, place, key=key, workers=[place])

    def end(self) -> None:
        """Give all leases up."""
        for lease in self._held.values():
            if isinstance(lease, Lease):
                lease.end()
            else:  # a worker lets go of the result of a task that nobody holds
                lease.release()
        self._held.clear()


class Call(Generic[T]):
    """One function, called on the workers of a client with each of several arguments.

    Parameters
    ----------
    client : distributed.Client
    function : callable
    arguments : sequence of tuple
    homes : sequence of str or None
        The worker that each call is best made by, if any.
    changed : callable
        Told the places there are, when some have come or gone.
    patience : float, optional
        Seconds for which there may be no worker, `NO_WORKERS` by default.
    graph : mapping, optional
        Tasks of Dask by their keys, to whose results arguments refer.
    resources : mapping, optional
        What each call takes of those that its worker has declared.
    """

    def __init__(
        self,
        client: Client,
        function: Callable[..., T],
        arguments: Sequence[tuple[Any, ...]],
        homes: Sequence[str | None],
        changed: Callable[[Iterable[str]], None],
        patience: float | None = None,
        graph: Mapping[Any, Any] | None = None,
        resources: Mapping[str, int] | None = None,
    ) -> None:
        self.client = client
        self.patience = patience
        self.name = str(getattr(function, "__name__", type(function).__name__))
        self.id = uuid.uuid4().hex
        self.arguments = arguments
        self.homes = list(homes)
        self.changed = changed
        self._function = partial(call_on_worker, self.id, function)
        self._graph = graph or {}
        self._needed = {"resources": dict(resources)} if resources else {}
        self._sent: dict[Future[Any], int] = {}
        self._current: dict[int, Future[Any]] = {}
        self._done: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self._found: dict[int, T] = {}
        self._places = places_of(client)
        self._idle_since: float | None = None

    def results(self) -> list[T]:
        """Results in order; what goes wrong first is raised once nothing of the call runs any more."""
        try:
            with connected(self.client), waits.Patience(self._awaited) as patience:
                self._send(range(len(self.arguments)))
                while len(self._found) < len(self.arguments):
                    done = self._next()
                    if done:
                        self._gather(done)
                        patience.heard()
                    else:
                        self._look(time.monotonic())
        except BaseException:
            self._give_up()
            raise
        return [self._found[i] for i in range(len(self.arguments))]

    def _awaited(self) -> str:
        """What is waited for, as of the last look."""
        left, paused = len(self.arguments) - len(self._found), sum(s != "running" for s in self._places.values())
        pauses = f", {paused} of them paused for want of memory" if paused else ""
        return f"{left} of {len(self.arguments)} tasks ({self.name}) on {len(self._places)} workers{pauses}"

    def _send(self, indices: Iterable[int]) -> None:
        keys = {f"{self.name}-{self.id}-{i}-{len(self._sent)}": i for i in indices}
        tasks = {key: Task(key, self._function, *self.arguments[i]) for key, i in keys.items()}
        layers = {"": MaterializedLayer(needed(self._graph, chain(*(task.dependencies for task in tasks.values()))))}
        for home in {self.homes[i] for i in keys.values()}:
            wish = {} if home is None else {"workers": [home], "allow_other_workers": True}
            theirs = {key: tasks[key] for key, i in keys.items() if self.homes[i] == home}
            layers[home or "anywhere"] = MaterializedLayer(theirs, annotations=wish | self._needed)
        graph = HighLevelGraph(layers, {name: {""} - {name} for name in layers})
        for i, future in zip(keys.values(), self.client.get(graph, list(keys), sync=False), strict=True):
            self._sent[future] = i
            self._current[i] = future
            future.add_done_callback(self._done.put)

    def _next(self) -> list[Future[Any]]:
        """Futures that are done, once there is one; none after a while."""
        done: list[Future[Any]] = []
        with contextlib.suppress(queue.Empty):
            done.append(self._done.get(timeout=LOOK_EVERY))
            while True:
                done.append(self._done.get_nowait())
        return done

    def _gather(self, done: list[Future[Any]]) -> None:
        """Take in the results of futures that are done; one that was sent again may fail."""
        from distributed import KilledWorker

        wanted = [f for f in done if self._sent[f] not in self._found]
        wanted = [f for f in wanted if f.status == "finished" or self._current[self._sent[f]] is f]
        if self.client.status != "running":
            raise lost_scheduler(self.client)
        try:
            results = self.client.gather(wanted)
        except CancelledError as error:
            if self.client.status != "running":
                raise lost_scheduler(self.client) from error
            raise ForgottenError(
                "all workers are lost that had what was sent to them: see what ended them, and run the same again"
            ) from error
        except KilledWorker as error:
            raise ClusterError(
                f"{error.allowed_failures + 1} workers have died of one task ({self.name}), most likely for want of "
                "memory: raise memory_limit (cluster.memory_limit), or have fewer threads per worker "
                "(cluster.threads_per_worker)"
            ) from error
        for future, result in zip(wanted, results, strict=True):
            if isinstance(result, Failure):
                raise result.error
            i = self._sent.pop(future)
            self._found[i] = result
            # the worker has it no longer once nobody holds its future
            if self._current.get(i) is future:
                del self._current[i]

    def _look(self, now: float) -> None:
        """Look at the cluster: send again what was to go to workers that are lost."""
        if self.client.status != "running":
            raise lost_scheduler(self.client)
        try:
            places = places_of(self.client)
        except ClusterError:  # if it is gone and not only slow, its client is the next to know
            return
        if places.keys() != self._places.keys():
            lost = self._places.keys() - places.keys()
            if lost:
                logger.warning("lost %s: what they had is done again", ", ".join(sorted(lost)))
            self.changed(places)
        self._places = places
        # a task that was to go to a lost worker at a time when there was no other would wait for that one
        stranded = [
            i
            for i, home in enumerate(self.homes)
            if home is not None and home not in self._places and i not in self._found
        ]
        for i in stranded:
            self.homes[i] = None
        if stranded:
            self._send(stranded)
        if "running" in places.values():
            self._idle_since = None
            return
        self._idle_since = now if self._idle_since is None else self._idle_since
        longest = NO_WORKERS if self.patience is None else self.patience
        if now - self._idle_since > longest:
            why = "all workers are paused for want of memory" if places else "there are no workers any more"
            raise ClusterError(f"{why}, for {longest:.0f} s: start the cluster anew, with more memory or workers")

    def _give_up(self) -> None:
        """Have tasks that are at work stop after their segment, and those that are not begin none; wait for them."""
        if self.client.status != "running":
            return
        from distributed import wait

        with self.client.as_current(), contextlib.suppress(TimeoutError, CancelledError, ClusterError):
            with connected(self.client):
                self.client.run(give_up, self.id, wait=False, on_error="ignore")
            wait(list(self._current.values()), timeout=GRACE)


def needed(graph: Mapping[Any, Any], keys: Iterable[Any]) -> dict[Any, Any]:
    """What of a graph it takes to compute these keys; others are somebody else's."""
    found: dict[Any, Any] = {}
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        if key in graph and key not in found:
            found[key] = graph[key]
            waiting.extend(found[key].dependencies)
    return found


def address_of(client: Client) -> str:
    """The address of a client's scheduler."""
    return str(getattr(client.scheduler, "address", "an unknown address"))


def lost_scheduler(client: Client) -> ClusterError:
    """The error that the scheduler of a client is gone."""
    return ClusterError(f"lost the scheduler at {address_of(client)}: start it anew, and the same run again")


@contextlib.contextmanager
def connected(client: Client) -> Iterator[None]:
    """Context in which a connection that closes is the one to the scheduler; raises `ClusterError`."""
    from distributed.comm.core import CommClosedError

    try:
        yield
    except CommClosedError as error:
        raise lost_scheduler(client) from error


@dataclass(frozen=True)
class Failure:
    """What went wrong in a task; a result like any other, so that no worker prints it."""

    error: Exception


def call_on_worker(call: str, function: Callable[..., T], *given: Any) -> T | Failure:
    """Call a function as one of the tasks of a call."""
    try:
        waits.begin(lambda: call not in _given_up)
        return function(*given)
    except Exception as error:
        if isinstance(error, DgmmError):
            error.passing = may_pass(error)  # what it comes from stays here
        else:
            error.add_note(f"in a task, at\n{traceback.format_exc()}")
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return Failure(RuntimeError(f"{type(error).__name__}: {error}"))
        return Failure(error)
    finally:
        waits.end()


async def give_up(call: str) -> None:
    """Note in a worker process that nobody waits for the tasks of a call any more."""
    _given_up.add(call)
