"""Schedulers: one that is started here with workers of its own, or one that runs somewhere else."""

from __future__ import annotations

import asyncio
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

import dask
import psutil
from dask.utils import parse_bytes

from dgmm.engine.cluster import NO_WORKERS, address_of
from dgmm.errors import ClusterError, InputError, without_secrets
from dgmm.waits import Patience, result_of

if TYPE_CHECKING:
    from distributed import Client

#: How the address of a scheduler begins.
ADDRESSES = ("tcp://", "tls://", "ws://", "wss://", "ucx://")

#: Seconds within which a scheduler that runs somewhere else has to answer.
ANSWER = 10.0
#: Seconds for connections within a cluster that is being started here: a busy machine takes long.
STARTING = 120.0

#: Share of a worker's memory at which Dask gives a worker of ours no more tasks.
PAUSED_OURS = 0.9

#: Dask's name for the time that a connection may take.
CONNECT = "distributed.comm.timeouts.connect"

#: What a cluster of ours runs with. A lost worker must come back (the default closes it for good 15 s after any
#: loss), and a wait for workers must end. Nothing is written to disk: what tasks take is known beforehand, and results
#: are small.
DISTRIBUTED_SETTINGS = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": PAUSED_OURS,
    "distributed.deploy.lost-worker-timeout": "1h",
    "distributed.scheduler.allowed-failures": 10,
    "distributed.scheduler.no-workers-timeout": "60s",
    # whoever asks a dead worker for a result asks again for as long as this before it is computed anew
    CONNECT: "3s",
}

#: glibc's settings in processes with so much memory that some may lie idle: what a chunk was decoded into is used
#: again. Dask has it given back to the system at once, and getting it anew takes as long as decoding a chunk.
AMPLE_BYTES = 2**30
REUSING_MEMORY = {
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 32 * 2**20,
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 64 * 2**20,
    "distributed.nanny.pre-spawn-environ.MALLOC_ARENA_MAX": 1,
}

#: What a worker process of ours does first. One that ends need not look for garbage: with a compiler loaded that takes
#: seconds on a busy machine, and a worker that takes four is killed with a warning. Nor need it tell what it was at
#: when it was stopped: a task, or a sign of life to a scheduler that was faster.
PRELOAD = """
import atexit, gc, logging
atexit.register(gc.freeze)
logging.getLogger("distributed.worker.state_machine").setLevel(logging.ERROR)
logging.getLogger("distributed.worker").addFilter(lambda record: "heartbeat" not in record.getMessage())
"""


@contextmanager
def started(n_workers: int, threads_per_worker: int, memory_limit: str | int | None) -> Iterator[Client]:
    """A client of a cluster of processes that lasts for as long as the context.

    Parameters
    ----------
    n_workers, threads_per_worker : int
    memory_limit : str or int or None
        Of each worker; its share of what there is by default.
    """
    from distributed import Client
    from distributed.gc import disable_gc_diagnosis

    memory = parse_bytes(memory_limit) if memory_limit else psutil.virtual_memory().total // n_workers
    settings = DISTRIBUTED_SETTINGS | (REUSING_MEMORY if memory > AMPLE_BYTES else {})
    with dask.config.set(settings), environment_kept() as tidy, ExitStack() as running:
        with dask.config.set({CONNECT: STARTING}), ThreadPoolExecutor(1, initializer=be_deaf) as starter:
            coming = starter.submit(_local_cluster, n_workers, threads_per_worker, memory_limit or "auto")
            cluster = running.enter_context(result_of(coming, f"{n_workers} worker processes to start"))
            client = running.enter_context(Client(cluster, set_as_default=False, timeout=STARTING))
        tidy()
        # it is called back after every collection, and an interrupt that has come in the meantime would end there
        disable_gc_diagnosis()
        yield client


@contextmanager
def environment_kept() -> Iterator[Callable[[], None]]:
    """Context of a cluster, at whose end the environment of this process is what it was; what makes it so before.

    Nannies set in it what their workers are to begin with, and leave it there: to a cluster that is started later it
    would be what the user has chosen.
    """
    before = {name: os.environ.get(name) for name in dask.config.get("distributed.nanny.pre-spawn-environ")}

    def tidy() -> None:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    try:
        yield tidy
    finally:
        tidy()


def be_deaf() -> None:
    """Have SIGINT go to other threads, and not to processes that are started from here.

    Ctrl-C in a terminal reaches all processes, but it is this one that stops the workers.
    """
    resource_tracker.ensure_running()  # which, where it is started later, opens the ears of the thread that needs it
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _local_cluster(n_workers: int, threads_per_worker: int, memory_limit: str | int) -> AbstractContextManager[Any]:
    """A cluster of processes on loopback.

    All its threads are children of this one, and its processes, those that replace others too, children of those.
    """
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=n_workers,
        threads_per_worker=threads_per_worker,
        memory_limit=memory_limit,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": False},
        preload=[PRELOAD],
        config={CONNECT: DISTRIBUTED_SETTINGS[CONNECT]},
    )


@contextmanager
def unwarned() -> Iterator[None]:
    """Context in which a client does not warn of other versions: they are an error later, and in one line."""
    from distributed.versions import VersionMismatchWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VersionMismatchWarning)
        yield


@contextmanager
def connected(address: str, options: Mapping[str, Any] | None = None) -> Iterator[Client]:
    """A client of the scheduler at an address.

    Parameters
    ----------
    address : str
    options : mapping, optional
        Keyword arguments of `distributed.Security`; what they leave open is in Dask's settings.

    Raises
    ------
    InputError
        If this is no address, or one for which something is missing here.
    ClusterError
        If no scheduler answers there within `ANSWER` seconds.
    """
    from distributed import Client
    from distributed.security import Security

    if (without := without_secrets(address)) != address:
        raise InputError(
            f"cannot use {without} as the address of a scheduler: give it without a user or password; certificates say "
            "who may connect (scheduler_options, or distributed.comm.tls in Dask's settings)"
        )
    try:
        security = Security(**(options or {}))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"scheduler_options of the scheduler at {address}: {error}: they are those of distributed.Security, such "
            "as tls_ca_file, tls_client_cert and tls_client_key"
        ) from None
    secure = address.startswith(("tls://", "wss://"))
    try:
        with ThreadPoolExecutor(1) as asker:
            asker.submit(asyncio.run, _ask(address, security)).result()
        with unwarned():
            client = Client(address, set_as_default=False, security=security)
    except (ValueError, TypeError, ImportError) as error:  # no address, or no certificates or library for it
        advice = (
            "; scheduler_options (tls_ca_file, tls_client_cert, tls_client_key) or Dask's settings "
            "(distributed.comm.tls) say which certificates to use"
        )
        advice = advice if secure else ""
        raise InputError(f"cannot use {address} as the address of a scheduler: {error}{advice}") from None
    except OSError as error:  # as timeouts and files that are not there are
        if isinstance(error, FileNotFoundError) and secure:
            raise InputError(f"no such file of certificates for {address} (scheduler_options): {error}") from None
        why = " ".join(str(error).split()) or f"nothing came for {ANSWER:g} s"
        raise ClusterError(
            f"no scheduler answers at {address} ({why}): see whether it runs and can be reached from here"
        ) from error
    with client:
        yield client


async def _ask(address: str, security: Any) -> None:
    """Shake hands with a scheduler: a client would wait for its hand for ever."""
    from distributed.comm.core import connect

    options = security.get_connection_args("client")
    comm = await asyncio.wait_for(connect(address, timeout=ANSWER, **options), ANSWER)
    comm.abort()


def wait_for_a_worker(client: Client, patience: float | None = None) -> None:
    """Wait until a scheduler has a worker.

    Parameters
    ----------
    client : distributed.Client
    patience : float, optional
        Seconds, `NO_WORKERS` by default.

    Raises
    ------
    ClusterError
        If it has none for so long.
    """
    address, longest = address_of(client), NO_WORKERS if patience is None else patience
    ours = client.cluster is not None
    advice = (
        "see what keeps them (the queue, limits, their logs), ask for some (n_workers, or min_workers and "
        "max_workers), or wait longer (no_workers_timeout)"
        if ours
        else f"start some (dask worker {address})"
    )
    with Patience(lambda: f"a worker, of which there is none at {address} yet,"):
        try:
            client.wait_for_workers(1, timeout=longest)
        except TimeoutError:
            raise ClusterError(f"no worker at {address} for {longest:g} s: {advice}") from None
