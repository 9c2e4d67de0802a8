"""Clusters of any kind: a class by its import path, which is all that is known here of who starts the workers."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeGuard

import dask

from dgmm.engine.presets import asks_for_memory, filled, presets_for, processes_of, threads_of, values_of
from dgmm.engine.schedulers import STARTING, be_deaf, unwarned
from dgmm.errors import ClusterError, InputError, one_line
from dgmm.waits import result_of

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger("dgmm")

#: What a class that is no `distributed.deploy.Cluster` needs to have: gateways.
NEEDED = ("get_client", "close", "scale", "adapt")
#: Extras of dgmm by the packages that they install.
EXTRAS = {"dask_jobqueue": "jobqueue", "dask_kubernetes": "kubernetes"}
#: Seconds between two looks at whether a worker is missing.
UPKEEP = 20.0

#: Bytes that a worker of so many threads needs, where there are at most so many threads in all.
Projection = Callable[[int, int], int]


@dataclass(frozen=True)
class Size:
    """How many workers a cluster is asked for.

    Attributes
    ----------
    fixed : int or None
        So many; None leaves it to the class and its options.
    minimum, maximum : int or None
        As many as there is work for, within these bounds.
    """

    fixed: int | None = None
    minimum: int | None = None
    maximum: int | None = None

    @property
    def adaptive(self) -> bool:
        """Whether workers come and go."""
        return self.minimum is not None or self.maximum is not None

    @property
    def least(self) -> int:
        """As few as there may be, one where nothing is said."""
        return self.minimum or self.fixed or 1

    @property
    def most(self) -> int:
        """As many as there may be, one where nothing is said."""
        return self.maximum or self.fixed or self.minimum or 1

    def check(self) -> None:
        """Raise `InputError` for bounds that are none."""
        if not self.adaptive:
            return
        if self.fixed is not None:
            raise InputError(
                f"n_workers ({self.fixed}) is a fixed number: leave it out, or min_workers and max_workers"
            )
        if self.minimum is None or self.maximum is None:
            one, other = ("min", "max") if self.maximum is None else ("max", "min")
            raise InputError(f"{one}_workers needs {other}_workers beside it")
        if self.minimum > self.maximum:
            raise InputError(f"min_workers ({self.minimum}) is more than max_workers ({self.maximum}): lower it")


def is_path(scheduler: str) -> bool:
    """Whether this could be the import path of a class."""
    return "." in scheduler and all(part.isidentifier() for part in scheduler.split("."))


def cluster_class(path: str) -> type[Any]:
    """The class at an import path.

    Raises
    ------
    InputError
        If it is not there, or no cluster's; what to install is named.
    """
    module, _, name = path.rpartition(".")
    package = module.partition(".")[0]
    try:
        home = import_module(module)
    except ModuleNotFoundError as error:
        if error.name == package:
            extra = f"dgmm[{EXTRAS[package]}]" if package in EXTRAS else package.replace("_", "-")
            raise InputError(f"scheduler {path}: there is no package {package} here: pip install '{extra}'") from None
        raise InputError(f"scheduler {path}: {one_line(error)}: see where {package} has its cluster classes") from None
    except ImportError as error:
        raise InputError(f"scheduler {path}: {package} cannot be imported: {one_line(error)}") from None
    found = getattr(home, name, None)
    if is_cluster(found):
        return found
    there = [other for other, value in vars(home).items() if is_cluster(value)]
    near = ", ".join(get_close_matches(name, there, 3, 0.0)) or "none"
    what = f"{module} has no {name}" if found is None else f"{name} is no cluster class"
    raise InputError(f"scheduler {path}: {what}: its cluster classes are {near}")


def is_cluster(found: Any) -> TypeGuard[type[Any]]:
    """Whether something is a class of clusters that can be started: Dask's, or one that is used in the same way."""
    from distributed.deploy.cluster import Cluster

    if not isinstance(found, type) or found is Cluster or inspect.isabstract(found):
        return False
    return issubclass(found, Cluster) or all(callable(getattr(found, name, None)) for name in NEEDED)


@contextmanager
def of_class(
    path: str, options: Mapping[str, Any], size: Size, patience: float, need: Projection | None
) -> Iterator[Client]:
    """A client of a cluster of a class, which is closed at the end whatever happens.

    Parameters
    ----------
    path : str
        Where the class is to be imported from.
    options : mapping
        Its keyword arguments.
    size : Size
    patience : float
        Seconds for which there may be no worker.
    need : callable, optional
        What a worker needs of memory.

    Raises
    ------
    InputError
        If there is no such class, or it does not take the options.
    ClusterError
        If it does not start.
    """
    from distributed import Client
    from distributed.deploy.cluster import Cluster
    from distributed.gc import disable_gc_diagnosis

    size.check()
    build = cluster_class(path)
    if options.get("asynchronous"):
        raise InputError(f"scheduler_options of {path}: asynchronous is for programs that have a loop: leave it out")
    memory = projected(options, size, need)
    if memory is None and asks_for_memory(options):
        raise InputError("scheduler_options: the memory of this job is not projected: give a number in its place")
    settings = presets_for(options, memory) | {"distributed.scheduler.no-workers-timeout": f"{patience:g}s"}
    with dask.config.set(settings), ExitStack() as running:
        given = filled(options, values_of(memory, None)) if asks_for_memory(options) else dict(options)
        cluster = start(path, build, given)
        running.callback(close, path, cluster)
        resize(path, cluster, size)
        running.enter_context(kept_up(cluster, size))
        ours = isinstance(cluster, Cluster)
        with unwarned():
            client = Client(cluster, set_as_default=False, timeout=STARTING) if ours else cluster.get_client()
        running.enter_context(client)
        disable_gc_diagnosis()
        yield client


def projected(options: Mapping[str, Any], size: Size, need: Projection | None) -> int | None:
    """Bytes for what the options of a class ask for, and a word on what they are for."""
    if need is None:
        return None
    threads, processes = threads_of(options), processes_of(options)
    memory = need(threads, threads * size.least)
    logger.info("a worker of %d thread(s) needs %d MiB; with more, data stay in memory", threads, memory >> 20)
    return memory * processes


def start(path: str, build: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """A cluster; its processes on this machine do not hear Ctrl-C, as it is this one that stops them."""
    names = ", ".join(options) or "none"
    try:
        with ThreadPoolExecutor(1, initializer=be_deaf) as starter:
            coming = starter.submit(build, **options)
            try:
                return result_of(coming, f"{path} to start")
            except KeyboardInterrupt:
                with suppress(Exception):
                    close(path, coming.result())
                raise
    except Exception as error:
        first = first_of(error)
        if isinstance(first, (TypeError, ValueError)):
            raise InputError(f"{path} does not take these scheduler_options ({names}): {one_line(first)}") from error
        raise ClusterError(
            f"{path} did not start ({type(first).__name__}: {one_line(first)}): see whether what it needs is there "
            "and can be reached from here"
        ) from error


def first_of(error: BaseException) -> BaseException:
    """What went wrong first, of what an error comes from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def resize(path: str, cluster: Any, size: Size) -> None:
    """Ask a cluster for its workers."""
    try:
        if size.adaptive:
            cluster.adapt(minimum=size.minimum, maximum=size.maximum)
        elif size.fixed is not None:
            cluster.scale(size.fixed)
    except Exception as error:
        raise ClusterError(f"{path} could not be scaled to {size.most} workers: {one_line(error)}") from error


def close(path: str, cluster: Any) -> None:
    """Close a cluster; one that cannot be is named, as it may cost something."""
    try:
        cluster.close()
    except Exception as error:
        logger.warning("%s could not be closed, see whether it is gone: %s", path, one_line(error))


@contextmanager
def kept_up(cluster: Any, size: Size) -> Iterator[None]:
    """Context in which workers that are gone for good are replaced.

    Dask forgets a worker that does not come back, but asks nobody for another: a job that was ended, a machine that was
    taken away.
    """
    keeper = Keeper(cluster, size)
    keeper.start()
    try:
        yield
    finally:
        keeper.stop()


@dataclass
class Keeper:
    """A thread that asks a cluster again for the workers that it should have.

    Attributes
    ----------
    cluster : distributed.deploy.Cluster
    size : Size
    """

    cluster: Any
    size: Size
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, if it is known how many workers there should be and which there are."""
        if (self.size.adaptive or self.size.fixed) and hasattr(self.cluster, "worker_spec"):
            self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End, and wait for it."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(UPKEEP):
            with suppress(Exception):
                self.look()

    def look(self) -> None:
        """Ask for those that are missing: as many as are wanted now, which starts those that are gone."""
        wanted, there = len(self.cluster.worker_spec), len(self.cluster.workers)
        if there < wanted:
            logger.warning("asking for %d workers in the place of those that are gone", wanted - there)
            self.cluster.scale(self.size.fixed or len(self.cluster.plan))
