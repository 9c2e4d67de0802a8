"""How much memory a task and the driver will need at most, and the refusal of what cannot work."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dgmm.data import Grid, Samples
from dgmm.engine.leaf import Leaf
from dgmm.engine.tree import levels_of
from dgmm.engine.workers import Workers
from dgmm.errors import InsufficientMemoryError

#: What a worker process needs for itself: the interpreter, the libraries (with pyarrow, which pandas loads where there
#: is one, and which takes 30 MiB) and the compiled E-step, as measured.
BASE_BYTES = 310 * 2**20
#: What small things need, and the memory that is not given back at once.
BUFFER_BYTES = 4 * 2**20
#: While a segment is read there is what is read, what it is decoded from, and that before it was decompressed; while
#: the next one is read ahead, there is the segment that is worked on too.
READING, AHEAD = 3, 1
#: What the reader has of every chunk of a segment beside its data, as measured.
CHUNK_BYTES = 2560
#: A segment of data in memory is a view, or what its variables are put into, and what is picked of these if any is.
LOOKING = 1


@dataclass(frozen=True)
class Need:
    """Bytes of one task at most, by what they are for.

    Attributes
    ----------
    reading : int
        Segments, read and being read.
    working : int
        What is computed from them.
    results : int
        Values of the tree that wait for a sibling, and what is merged of them.
    lever : str
        What makes the results smaller.
    """

    reading: int
    working: int
    results: int
    lever: str

    @property
    def total(self) -> int:
        """Bytes of one task."""
        return self.reading + self.working + self.results + BUFFER_BYTES


def segments_bytes(samples: Samples, *, ahead: bool, copies: bool) -> int:
    """Bytes of the segments that a task has in memory at a time.

    Parameters
    ----------
    samples : Samples
    ahead : bool
        Whether the next segment is read while one is worked on.
    copies : bool
        Whether what is worked on is a copy, without missing rows.
    """
    looking = LOOKING + (samples.order is not None)
    times, more = (looking, copies) if samples.in_memory else (READING, AHEAD * ahead + copies)
    one = times * samples.read_bytes + samples.made_bytes + more * samples.row_bytes
    return samples.grid.largest * one + CHUNK_BYTES * chunks_in_segment(samples)


def chunks_in_segment(samples: Samples) -> int:
    """Chunks of all variables that a segment is read from, at most; shards where there are any."""
    rows = dict(zip(samples.dims, samples.grid.segment, strict=True))
    return sum(
        math.prod(
            math.ceil(rows.get(dim, n) / chunk)
            for dim, n, chunk in zip(field.dims, field.array.shape, field.chunks, strict=True)
        )
        for field in samples.fields
        if field.chunks is not None
    )


def pass_bytes(
    samples: Samples, leaf: Leaf[Any], *, n_segments: int | None = None, ahead: bool = True, blocks: int = 0
) -> Need:
    """What one task of a pass needs, over a run of so many segments (all, by default) and blocks of so many bytes."""
    largest, n = samples.grid.largest, len(samples.grid) if n_segments is None else n_segments
    if leaf.exact:
        # what was found so far, what is found now, and both together
        results = 2 * leaf.result_bytes(largest * n) + leaf.result_bytes(largest)
    else:
        # at most one node of each level waits, and the last of them is being merged
        levels = [leaf.result_bytes(largest << level) for level in range(n.bit_length())]
        results = sum(levels) + levels[-1]
    copies = leaf.prepare is not None and leaf.prepare.copies
    reading = segments_bytes(samples, ahead=ahead, copies=copies) + blocks
    return Need(reading, leaf.working_bytes(largest), results, leaf.lever)


def gathered_bytes(samples: Samples, leaf: Leaf[Any], runs: Iterable[Sequence[int]]) -> int:
    """Bytes of what the tasks of a pass send to the driver, and of what it merges that into."""
    largest, whole = samples.grid.largest, leaf.result_bytes(samples.grid.size)
    if leaf.exact:
        return sum(leaf.result_bytes(largest * len(run)) for run in runs) + 2 * whole
    return sum(leaf.result_bytes(largest << level) for run in runs for level in levels_of(run)) + 2 * whole


def fixed_bytes(samples: Samples, workers: Workers, *, base: int = BASE_BYTES, gathered: int = 0) -> int:
    """Bytes of a worker, or of this process where it has the threads, beside those of the tasks.

    Parameters
    ----------
    samples : Samples
        Sent to every worker if they are in memory.
    workers : Workers
    base : int
        Of a worker process before any task.
    gathered : int
        Of the results of all tasks, in this process; a worker has its share of them until they are fetched.
    """
    if workers.client is None:
        return gathered
    return base + samples.sent_bytes + waiting_bytes(workers, gathered)


def waiting_bytes(workers: Workers, gathered: int) -> int:
    """Bytes of the results of all tasks that one worker may have."""
    return gathered * workers.threads_per_worker // (workers.least or workers.n_threads)


def check_memory(
    samples: Samples,
    workers: Workers,
    need_of: Callable[[Samples], Need],
    *,
    base: int = BASE_BYTES,
    gathered: int = 0,
) -> None:
    """Refuse what cannot work, with both numbers and what would help.

    Parameters
    ----------
    samples : Samples
    workers : Workers
    need_of : callable
        What one task needs on these samples, or on the same in other chunks.
    base : int
        Bytes of a worker process before any task.
    gathered : int
        Bytes of the results of all tasks, in this process.

    Raises
    ------
    InsufficientMemoryError
    """
    threads, here, need = workers.threads_per_worker, workers.client is None, need_of(samples)
    fixed = fixed_bytes(samples, workers, base=base, gathered=gathered)
    needed = fixed + threads * need.total
    if needed > workers.usable:
        waiting = gathered if here else waiting_bytes(workers, gathered)
        parts = [("itself", fixed - waiting), ("segments of samples", threads * need.reading)]
        parts += [("arithmetic", threads * need.working), ("results", threads * need.results + waiting)]
        told = ", ".join(f"{mib(size)} for {what}" for what, size in parts if size >= 2**20)
        raise InsufficientMemoryError(
            f"{'this process' if here else 'a worker'} would need {mib(needed)} for {threads} task(s) on "
            f"{samples.name} ({told or 'little each'}), and has {mib(workers.usable)} to use: "
            f"{advice(samples, workers, need_of, fixed, waiting)}"
        )
    if not here and gathered > workers.driver_bytes:
        raise InsufficientMemoryError(
            f"the results of all tasks would take {mib(gathered)} in this process, which has "
            f"{mib(workers.driver_bytes)} to use: {need.lever}"
        )


def advice(samples: Samples, workers: Workers, need_of: Callable[[Samples], Need], fixed: int, waiting: int) -> str:
    """What would help, the most effective first; nothing that is not enough."""
    threads, need, levers = workers.threads_per_worker, need_of(samples), []
    rows = rows_that_fit(samples, need_of, (workers.usable - fixed) // threads)
    if rows:
        chunk = f"one chunk {samples.chunk_text} takes {mib(samples.grid.largest * samples.row_bytes)}"
        levers.append(f"rechunk {samples.name}, of which {chunk}, to {rows} samples a chunk")
    # arithmetic on large results grows with them; on small ones it has reasons of its own
    relief = waiting + threads * (need.results + need.working * (need.working < 2 * need.results))
    if need.lever and fixed + threads * need.total - relief <= workers.usable:
        levers.append(need.lever)
    if threads > 1:
        levers.append(f"take fewer than {threads} threads per worker")
    least = -(-(fixed + threads * need.total) // int(workers.usable / workers.memory * 2**20))
    levers.append(f"give {'it' if workers.client is None else 'each worker'} {least} MiB (memory_limit)")
    return ", or ".join(levers)


def rows_that_fit(samples: Samples, need_of: Callable[[Samples], Need], room: int) -> int:
    """Samples of a chunk with which a task would need no more than so many bytes; zero if chunks are not the matter."""
    chunk = list(samples.grid.segment)
    while samples.cut_by_chunks and max(chunk) > 1:
        longest = chunk.index(max(chunk))
        chunk[longest] //= 2
        grid = Grid.along_chunks(samples.grid.shape, chunk, samples.row_bytes)
        if need_of(replace(samples, grid=grid)).total <= room:
            return math.prod(chunk)
    return 0


def mib(size: float) -> str:
    """A number of bytes, for people."""
    return f"{size / 2**20:.0f} MiB"
