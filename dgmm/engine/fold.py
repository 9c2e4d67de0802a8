"""The fold: one pass of a leaf over all segments of the samples, merged along the fixed tree.

The number of tasks depends on the workers, not on the number of chunks; the tree, and with it every bit of the
result, depends on the data alone. What fits in the workers' memory is read once and kept for the passes to come.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import psutil

from dgmm.blas import one_blas_thread
from dgmm.data import Region, Samples
from dgmm.devices import CPU
from dgmm.engine.cluster import ForgottenError
from dgmm.engine.handing import Handing
from dgmm.engine.leaf import Leaf
from dgmm.engine.memory import (
    BASE_BYTES,
    Need,
    check_memory,
    fixed_bytes,
    gathered_bytes,
    pass_bytes,
    waiting_bytes,
)
from dgmm.engine.resident import Shelf, resident_bytes, shelf_of
from dgmm.engine.tree import Mergeable, Node, grow, levels_of, merge_all
from dgmm.engine.workers import Workers
from dgmm.waits import result_of, stop_if_interrupted

logger = logging.getLogger("dgmm")

#: Tasks per thread and pass: enough to even out, few enough to read ahead within each; more where nothing is read.
TASKS_PER_THREAD, TASKS_IN_MEMORY = 4, 16
#: How often samples in memory are sent to workers once more for one pass, where all that had them are lost.
SENT_AGAIN = 10
#: Share of a worker's memory up to which segments are kept; at more, Dask would have some of it written to disk.
USABLE = 0.6

T = TypeVar("T")
V = TypeVar("V", bound=Mergeable)


def read_ahead(
    samples: Samples, run: Sequence[int], read: Callable[[Region], T], *, ahead: bool = True
) -> Generator[tuple[int, T], None, None]:
    """Segments of a run in order, the next one being read while the caller computes.

    A read that fails is the last one, and its error comes out where its segment would have.
    """
    if not ahead:
        for segment in run:
            yield segment, read(samples.grid.region(segment))
            stop_if_interrupted()
        return
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        coming: Future[T] | None = None
        for segment, following in zip(run, [*run[1:], None], strict=True):
            current = coming or reader.submit(read, samples.grid.region(segment))
            value = result_of(current, f"segment {segment} of {samples.name} to be read")
            coming = None if following is None else reader.submit(read, samples.grid.region(following))
            del current  # or it would hold the segment for as long as the next one is read
            yield segment, value
            del value
            stop_if_interrupted()


@dataclass(frozen=True)
class Residence:
    """What a task needs to know of what its worker may keep.

    Attributes
    ----------
    owner : str
        The fold.
    home : str or None
        Where segments of the task's run are kept already; they are kept nowhere else.
    budget : int
        Bytes that its process may keep.
    ahead : bool
        Whether there is memory to read the next segment while one is worked on.
    """

    owner: str
    home: str | None
    budget: int
    ahead: bool


@dataclass(frozen=True)
class Part:
    """What a task has come to.

    Attributes
    ----------
    nodes : list of Node
        Of the tree; one value alone where merging is exact.
    n_read : int
        Rows that were read, not found in memory.
    home : str or None
        Where segments of its run are kept now.
    """

    nodes: list[Node[Any]]
    n_read: int
    home: str | None


def fold_run(
    samples: Samples, leaf: Leaf[Any], run: Sequence[int], residence: Residence, blocks: Iterable[Any] = ()
) -> Part:
    """Apply a leaf to every segment of a run, read or kept, and merge what the tree lets merge.

    Samples are given the blocks of what lies on the cluster, those of the run.
    """
    if blocks:
        samples = samples.given(dict(zip(samples.blocks_of(run), blocks, strict=True)))
    stack: list[Node[Any]] = []
    shelf = shelf_of(residence.owner)
    if shelf is not None:
        shelf.trim(residence.budget)
    with one_blas_thread, leaf.over(run) as (wanted, value_of):
        reading = _Reading(samples, leaf, wanted, residence)
        with closing(reading.segments(shelf)) as segments:
            if value_of is leaf and not leaf.exact:
                first = wanted[0]
                for level in levels_of(wanted):
                    stack.append(Node(level, first >> level, leaf.several(first, _taken(segments, 1 << level))))
                    first += 1 << level
                return Part(stack, reading.n_read, reading.home)
            for segment, rows in segments:
                node = Node(0, segment, value_of(segment, rows))
                del rows
                if leaf.exact and stack:
                    stack[0] = replace(stack[0], value=stack[0].value.merge(node.value))
                else:
                    grow(stack, node)
    return Part(stack, reading.n_read, reading.home)


def _taken(segments: Iterator[tuple[int, Any]], n: int) -> Iterator[Any]:
    """The rows of the next segments, none of which is held once the next one is asked for."""
    for _ in range(n):
        rows = next(segments)[1]
        yield rows
        del rows


class _Reading:
    """How the segments of a run come to a leaf, and what became of that."""

    def __init__(self, samples: Samples, leaf: Leaf[Any], run: Sequence[int], residence: Residence) -> None:
        self.samples = samples
        self.prepare = leaf.prepare
        self.run = run
        self.residence = residence
        self.n_read = 0
        self.home: str | None = residence.home

    def segments(self, shelf: Shelf | None) -> Generator[tuple[int, Any], None, None]:
        """Segments in order, as the leaf takes them."""
        if self.samples.in_memory and shelf is None:
            for segment in self.run:
                rows = self.samples.read_rows(self.samples.grid.region(segment))
                self.n_read += len(rows)
                yield segment, rows if self.prepare is None else self.prepare(self.samples.grid, segment, rows)
                del rows
                stop_if_interrupted()
            return
        absent = [segment for segment in self.run if not self._kept(shelf, segment)]
        read, ahead = self.samples.read_rows, self.residence.ahead
        with closing(read_ahead(self.samples, absent, read, ahead=ahead)) as coming:
            expected = set(absent)
            for segment in self.run:
                found = None if shelf is None or segment in expected else shelf.get(segment)
                if found is not None and found[0] == self.prepare:
                    yield segment, found[1]
                    stop_if_interrupted()
                    continue
                if found is not None and found[0] is None:
                    rows = found[1]
                elif segment in expected:
                    rows = next(coming)[1]
                    self.n_read += len(rows)
                else:  # it was there a moment ago
                    rows = read(self.samples.grid.region(segment))
                    self.n_read += len(rows)
                del found
                value = rows if self.prepare is None else self.prepare(self.samples.grid, segment, rows)
                del rows
                self._keep(shelf, segment, value)
                yield segment, value
                del value

    def _kept(self, shelf: Shelf | None, segment: int) -> bool:
        """Whether a segment is there, in a form that can be used."""
        found = None if shelf is None else shelf.get(segment)
        return found is not None and found[0] in (None, self.prepare)

    def _keep(self, shelf: Shelf | None, segment: int, value: Any) -> None:
        if shelf is None or self.residence.home not in (None, *shelf.places):
            return
        # what lies in memory is no copy, and none is needed
        kept = value if self.samples.in_memory else value.owned()
        if shelf.put(segment, self.prepare, kept, self.residence.budget):
            self.home = next(iter(shelf.places), None)


def rehearse(samples: Samples, leaf: Leaf[Any]) -> int:
    """Try a leaf on no rows, which loads or compiles what it needs; bytes of this process then, all it keeps aside."""
    region = (slice(0, 0),) * len(samples.dims)
    rows = samples.read_rows(region)
    with one_blas_thread:
        leaf(0, rows if leaf.prepare is None else leaf.prepare(samples.grid, 0, rows))
    return int(psutil.Process().memory_info().rss) - resident_bytes()


class Fold:
    """Passes of leaves over one set of samples by one set of workers.

    Parameters
    ----------
    samples : Samples
    workers : Workers
    keep : bool
        Whether segments stay in memory for the next pass, as far as they fit.
    only : sequence of int, optional
        The segments to which leaves are applied, in order and at least one; their values merge exactly (`Leaf.exact`).
        Default: all.

    Attributes
    ----------
    n_passes : int
        Leaves folded so far.
    """

    def __init__(
        self, samples: Samples, workers: Workers, *, keep: bool = True, only: Sequence[int] | None = None
    ) -> None:
        self.workers = workers
        self.n_passes = 0
        self._n_read = 0
        self._handing: Handing
        self._runs: Sequence[Sequence[int]]
        self._begin(samples, keep=keep)
        if only is not None:
            self._runs = [tuple(only[run.start : run.stop]) for run in cut(len(only), len(self._runs))]
        self._homes: dict[Sequence[int], str] = {}
        self._tried: set[type] = set()
        #: Bytes of a worker process before any task.
        self._base = BASE_BYTES + waiting_bytes(workers, self._handing.nbytes)

    @property
    def n_reads(self) -> float:
        """How many times the whole source was read so far: one where all of it stays in memory."""
        return self._n_read / self.samples.grid.size

    def clock(self) -> float:
        """Seconds, from any moment on."""
        return time.perf_counter()

    def __call__(self, leaf: Leaf[V]) -> V:
        """One pass: the value of all segments.

        Raises
        ------
        InsufficientMemoryError
            If a worker or this process has too little memory for it.
        """
        leaf = leaf.on(self.workers.device)
        for _ in range(SENT_AGAIN):
            try:
                return self._pass(leaf)
            except ForgottenError:
                self._handing.check()
                logger.warning("all workers that had the samples are lost: sending these again")
                self._source = None
        return self._pass(leaf)

    def _pass(self, leaf: Leaf[V]) -> V:
        self.check(leaf)
        if self._source is None:
            self._handing.check()
            sent = self._handing.samples.without_coords()
            self._source = self.workers.share(sent, heavy=sent.in_memory)
        shared = self.workers.share(leaf)
        places = self.workers.places()
        if self._leases is not None:
            self._leases.renew(places)
        if self.workers.client is not None and type(leaf) not in self._tried:
            self._rehearse(leaf, shared, places)
        in_memory = self.samples.in_memory
        ahead, budget = (False, 0) if in_memory and self._leases is None else self.room(leaf)
        ahead = ahead and not in_memory
        homes = [self._homes.get(run) for run in self._runs]
        homes = [home if home in places else None for home in homes]
        owner = "" if self._leases is None else self._leases.owner
        given = [
            (self._source, shared, run, Residence(owner, home, budget, ahead), self._handing.blocks(run))
            for run, home in zip(self._runs, homes, strict=True)
        ]
        parts = self.workers.map(fold_run, given, homes, self._handing.graph)
        self.n_passes += 1
        self._n_read += sum(part.n_read for part in parts)
        self._homes = {run: part.home for run, part in zip(self._runs, parts, strict=True) if part.home is not None}
        nodes = [node for part in parts for node in part.nodes]
        del parts
        if leaf.exact:
            return reduce(type(nodes[0].value).merge, (node.value for node in drained(nodes)))
        return merge_all(drained(nodes), len(self.samples.grid))

    def go_over(self, samples: Samples) -> None:
        """Passes to come are over the same samples seen in another way, on the same grid; these may stay in memory."""
        self.close()
        self._begin(samples, keep=True)

    def _begin(self, samples: Samples, *, keep: bool) -> None:
        self.samples, self._source = samples, None
        self._handing = Handing(samples, self.workers)
        sent = self._handing.samples
        self._runs = runs_of(sent, self.workers)
        # rows of an array in memory are kept for what a device has of them
        self._leases = self.workers.leases() if keep and (not sent.in_memory or self.workers.device != CPU) else None

    def close(self) -> None:
        """Let go of all that is kept."""
        self._homes = {}
        if self._leases is not None:
            self._leases.end()

    def _rehearse(self, leaf: Leaf[Any], shared: Any, places: set[str]) -> None:
        """Have every worker load or compile a new kind of leaf, and see what that leaves of its memory."""
        if self.workers.local and self.workers.device == CPU:
            # compiled once, here: the workers find it on disk, and are spared what a compiler takes of their memory
            rehearse(self._handing.samples, leaf)
        everywhere = sorted(places)
        found = self.workers.map(rehearse, [(self._source, shared)] * len(everywhere), everywhere)
        self._base = max(self._base, *found)
        self._tried.add(type(leaf))
        self.check(leaf)

    def check(self, leaf: Leaf[Any]) -> None:
        """Raise `InsufficientMemoryError` if a worker or this process has too little memory for a pass."""
        leaf = leaf.on(self.workers.device)
        sent, blocks = self._handing.samples, self._blocks

        def need_of(samples: Samples) -> Need:
            n = -(-len(samples.grid) // len(self._runs))
            return pass_bytes(samples, leaf, n_segments=n, ahead=False, blocks=blocks)

        check_memory(sent, self.workers, need_of, base=self._base, gathered=self._gathered(leaf))

    def room(self, leaf: Leaf[Any]) -> tuple[bool, int]:
        """Whether there is memory to read ahead, and what a worker may keep."""
        sent = self._handing.samples
        need = pass_bytes(sent, leaf, n_segments=self._longest, ahead=True, blocks=self._blocks).total
        taken = fixed_bytes(sent, self.workers, base=self._base, gathered=self._gathered(leaf))
        taken += self.workers.threads_per_worker * need
        return taken <= self.workers.usable, max(0, int(USABLE * self.workers.memory) - taken)

    def _gathered(self, leaf: Leaf[Any]) -> int:
        return gathered_bytes(self.samples, leaf, self._runs)

    @property
    def _blocks(self) -> int:
        return self._handing.nbytes_of(self._runs)

    @property
    def _longest(self) -> int:
        return max(len(run) for run in self._runs)


def drained(items: list[T]) -> Iterator[T]:
    """The items of a list in order, none of which is there any more once the next one is asked for."""
    items.reverse()
    while items:
        yield items.pop()


def runs_of(samples: Samples, workers: Workers) -> list[range]:
    """The segments of each task: as many tasks as the workers need, however many segments there are."""
    return cut(len(samples.grid), workers.n_threads * (TASKS_IN_MEMORY if samples.in_memory else TASKS_PER_THREAD))


def cut(n_segments: int, n_runs: int) -> list[range]:
    """Neighbouring segments in at most ``n_runs`` runs of nearly equal length."""
    edges = np.linspace(0, n_segments, min(n_runs, n_segments) + 1).round().astype(int).tolist()
    return [range(a, b) for a, b in pairwise(edges)]
