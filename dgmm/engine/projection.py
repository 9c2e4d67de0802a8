"""What a worker will need of memory for all passes of a job, before there is any."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dgmm.data import Samples
from dgmm.engine.fold import runs_of
from dgmm.engine.leaf import Leaf
from dgmm.engine.memory import BASE_BYTES, gathered_bytes, pass_bytes, waiting_bytes
from dgmm.engine.workers import PAUSED, Workers

#: Libraries that are loaded and what was compiled take so much more than a worker has at first.
LOADED_BYTES = 96 * 2**20


def projected_bytes(samples: Samples, leaves: Iterable[Leaf[Any]], threads_per_worker: int, n_threads: int) -> int:
    """Bytes to give a worker, so that each of these passes fits with the next segment read ahead.

    Parameters
    ----------
    samples : Samples
    leaves : iterable of Leaf
        One for each pass that may be the largest.
    threads_per_worker, n_threads : int
        Tasks that run at a time in a worker, and in all of them.
    """
    workers = Workers(None, n_threads, threads_per_worker, 0)
    runs = runs_of(samples, workers)
    longest, needed = max(map(len, runs)), 0
    for leaf in leaves:
        need = pass_bytes(samples, leaf, n_segments=longest, ahead=True).total
        waiting = waiting_bytes(workers, gathered_bytes(samples, leaf, runs))
        needed = max(needed, threads_per_worker * need + waiting)
    fixed = BASE_BYTES + LOADED_BYTES + samples.sent_bytes
    return int((fixed + needed) / PAUSED)
