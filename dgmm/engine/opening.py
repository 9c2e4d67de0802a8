"""Finding workers: an open client, threads, a scheduler at an address, or a cluster started for the occasion."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dask.system import CPU_COUNT

from dgmm.devices import CPU
from dgmm.engine.classes import Projection, is_path, of_class
from dgmm.engine.schedulers import ADDRESSES, PAUSED_OURS, STARTING, connected, started
from dgmm.engine.upkeep import Size
from dgmm.engine.workers import Workers, of_client, threads
from dgmm.errors import InputError, without_secrets
from dgmm.waits import no_interrupt_lost, undisturbed

if TYPE_CHECKING:
    from distributed import Client

#: Seconds for which a cluster that is started by its class may have no worker: queues and clouds take their time.
QUEUED = 600.0


@contextmanager
def open_workers(
    scheduler: str | Client | None = None,
    *,
    n_workers: int | None = None,
    threads_per_worker: int = 1,
    memory_limit: str | int | None = None,
    scheduler_options: Mapping[str, Any] | None = None,
    min_workers: int | None = None,
    max_workers: int | None = None,
    no_workers_timeout: float | None = None,
    device: str = CPU,
    need: Projection | None = None,
) -> Iterator[Workers]:
    """Find or start workers; what was started is stopped at the end.

    Parameters
    ----------
    scheduler : {None, "threads", "processes"}, address, import path or distributed.Client
        None takes the open client if there is one and threads otherwise; ``processes`` starts a LocalCluster; an
        address such as ``tcp://host:8786`` connects to a running scheduler; a path such as
        ``dask_jobqueue.SLURMCluster`` starts a cluster of that class.
    n_workers : int, optional
        Threads, or processes of the cluster; as many as there are cores by default.
    threads_per_worker : int
        Of the cluster's processes.
    memory_limit : str or int, optional
        Of each process, such as ``2GB``, or bytes.
    scheduler_options : mapping, optional
        Keyword arguments of the class, or of `distributed.Security` for an address.
    min_workers, max_workers : int, optional
        Of a cluster of a class: as many as there is work for.
    no_workers_timeout : float, optional
        Seconds for which there may be no worker.
    device : {"cpu", "gpu", "jax"}
        Where every worker computes densities; see `dgmm.devices`.
    need : callable, optional
        What a worker needs of memory; see `Projection`.

    Raises
    ------
    InputError
        If workers have no such device, or cannot be what is asked for.
    """
    size, options, patience = Size(n_workers, min_workers, max_workers), scheduler_options or {}, no_workers_timeout
    if isinstance(scheduler, str) and is_path(scheduler):
        if threads_per_worker != 1 or memory_limit is not None:
            raise InputError(
                f"threads_per_worker and memory_limit are not for {scheduler}: give what it calls them in "
                "scheduler_options"
            )
        context = _of_class(scheduler, options, size, QUEUED if patience is None else patience, need)
    else:
        if size.adaptive:
            raise InputError(
                "min_workers and max_workers are for clusters that are started by their class, such as "
                "dask_jobqueue.SLURMCluster: name it as the scheduler, or leave them out"
            )
        at_address = isinstance(scheduler, str) and scheduler.startswith(ADDRESSES)
        if options and not at_address:
            raise InputError(
                "scheduler_options are for a scheduler at an address, or for a class such as "
                "dask_jobqueue.SLURMCluster: leave them out"
            )
        if patience is not None and not at_address:
            raise InputError("no_workers_timeout is for a scheduler at an address, or for a class: leave it out")
        context = _found_or_started(scheduler, n_workers, threads_per_worker, memory_limit, options, patience)
    with no_interrupt_lost(), context as workers:
        workers = replace(workers, device=device)
        try:
            workers.check_device()
            yield workers
        finally:
            workers.release()


@contextmanager
def _of_class(
    path: str, options: Mapping[str, Any], size: Size, patience: float, need: Projection | None
) -> Iterator[Workers]:
    with undisturbed(of_class(path, options, size, patience, need), STARTING) as client:
        found = of_client(client, patience)
        threads = found.threads_per_worker
        # tasks for those that are still to come, memory for as few as there may be
        most = max(found.n_threads, threads * size.most)
        yield replace(found, n_threads=most, least=threads * size.least)


@contextmanager
def _found_or_started(
    scheduler: str | Client | None,
    n_workers: int | None,
    threads_per_worker: int,
    memory_limit: str | int | None,
    options: Mapping[str, Any],
    patience: float | None,
) -> Iterator[Workers]:
    if scheduler is None:
        client = current_client()
        yield threads(n_workers, memory_limit) if client is None else of_client(client)
    elif scheduler == "threads":
        yield threads(n_workers, memory_limit)
    elif scheduler == "processes":
        cluster = started(n_workers or CPU_COUNT, threads_per_worker, memory_limit)
        with undisturbed(cluster, STARTING) as client:
            yield replace(of_client(client, ours=True), paused=PAUSED_OURS, local=True)
    elif isinstance(scheduler, str):
        if not scheduler.startswith(ADDRESSES):
            shown = without_secrets(scheduler)
            raise InputError(
                f"unknown scheduler {shown!r}: use threads, processes, an address tcp://host:port or the import path "
                "of a class"
            )
        if n_workers is not None or memory_limit is not None:
            shown = without_secrets(scheduler)
            raise InputError(f"the scheduler at {shown} has its own workers: leave n_workers and memory_limit out")
        with undisturbed(connected(scheduler, options), STARTING) as client:
            yield of_client(client, patience)
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
