"""Clusters of any kind: a class by its import path, which is all that is known here of who starts the workers."""

from __future__ import annotations

import gc
import inspect
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeGuard

import dask

from dgmm.engine.presets import Filled, asks_for_memory, filled, presets_for, processes_of, threads_of
from dgmm.engine.schedulers import STARTING, be_deaf, environment_kept, unwarned
from dgmm.engine.upkeep import Size, kept_up
from dgmm.errors import ClusterError, InputError, may_pass, one_line
from dgmm.waits import result_of

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger("dgmm")

#: What a class that is no `distributed.deploy.Cluster` needs to have: gateways.
NEEDED = ("get_client", "close", "scale", "adapt")
#: Extras of dgmm by the packages that they install.
EXTRAS = {"dask_jobqueue": "jobqueue", "dask_kubernetes": "kubernetes"}
#: Bytes that a worker of so many threads needs, where there are at most so many threads in all.
Projection = Callable[[int, int], int]


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
    except (Exception, SystemExit) as error:
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
    with dask.config.set(settings), environment_kept() as tidy, ExitStack() as running:
        given = filled(options, {Filled.MEMORY: str(memory)}) if asks_for_memory(options) else dict(options)
        cluster = start(path, build, given)
        running.callback(close, path, cluster)
        with hushed(running):
            resize(path, cluster, size)
        running.enter_context(kept_up(cluster, size))
        ours = isinstance(cluster, Cluster)
        with unwarned():
            client = Client(cluster, set_as_default=False, timeout=STARTING) if ours else cluster.get_client()
        running.enter_context(client)
        tidy()
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
            except BaseException:  # whatever ends a run
                with suppress(Exception):
                    close(path, coming.result())
                raise
    except Exception as error:
        first = first_of(error)
        if isinstance(first, (TypeError, ValueError)):
            raise InputError(f"{path} does not take these scheduler_options ({names}): {one_line(first)}") from error
        failed = ClusterError(
            f"{path} did not start ({type(first).__name__}: {one_line(first)}): see whether what it needs is there "
            "and can be reached from here"
        )
        failed.passing = may_pass(error)
        raise failed from error


def first_of(error: BaseException) -> BaseException:
    """What went wrong first, of what an error comes from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def resize(path: str, cluster: Any, size: Size) -> None:
    """Ask a cluster for its workers."""
    from distributed.deploy.spec import SpecCluster

    async def begun() -> None:
        cluster.scale(size.least)
        await cluster._correct_state()

    try:
        if isinstance(cluster, SpecCluster) and (size.adaptive or size.fixed):
            # what the first workers are refused for would only be logged
            cluster.sync(begun)
        if size.adaptive:
            cluster.adapt(minimum=size.minimum, maximum=size.maximum)
        elif size.fixed is not None:
            cluster.scale(size.fixed)
    except Exception as error:
        raise ClusterError(f"{path} does not get its first {size.least} workers: {one_line(error)}") from error


def close(path: str, cluster: Any) -> None:
    """Close a cluster; one that cannot be is named, as it may cost something."""
    try:
        note_failed(cluster)
        cluster.close()
    except Exception as error:
        logger.warning("%s could not be closed, see whether it is gone: %s", path, one_line(error))


def note_failed(cluster: Any) -> None:
    """Have workers that could not be started count as failed: Dask would complain of them instead of closing all.

    It is a function of its own since Dask complains of workers, too, that somebody holds.
    """
    from distributed.core import Status

    for worker in getattr(cluster, "workers", {}).values():
        if getattr(worker, "status", None) is Status.created:
            worker.status = Status.failed


@contextmanager
def hushed(until: ExitStack) -> Iterator[None]:
    """Context whose error is told once: loops do not log it with all its stacks, also not until a stack is closed."""
    loggers = [logging.getLogger(name) for name in ("tornado.application", "asyncio")]
    mute = threading.Event()

    def passes(_: logging.LogRecord) -> bool:
        return not mute.is_set()

    def end() -> None:
        gc.collect()  # what nobody has asked for is logged when it is collected
        for its in loggers:
            its.removeFilter(passes)

    for its in loggers:
        its.addFilter(passes)
    mute.set()
    try:
        yield
    except BaseException:
        until.callback(end)
        raise
    mute.clear()
    end()
