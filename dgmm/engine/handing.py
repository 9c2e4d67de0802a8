"""What lies on a cluster already goes to the tasks that read it: each is handed the blocks that its run is read from.

Dask then runs a task where most of its blocks are, and makes blocks that went with a worker again from what they were
made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from dask._task_spec import List, TaskRef

from dgmm.data import Block, Handed, Samples, check_there
from dgmm.engine.cluster import address_of
from dgmm.engine.workers import Workers
from dgmm.errors import InputError


class Handing:
    """Samples as they travel to tasks, and the blocks that a task is handed beside them.

    Parameters
    ----------
    samples : Samples
    workers : Workers

    Attributes
    ----------
    samples : Samples
        Without the blocks of what lies on the cluster.
    graph : dict
        Tasks of Dask by their keys that make these blocks of what lies there; none where it is the blocks.
    nbytes : int
        Bytes of all of them.

    Raises
    ------
    InputError
        If something lies on another cluster than that of the workers.
    """

    def __init__(self, samples: Samples, workers: Workers) -> None:
        # threads of this process read it themselves
        held = [] if workers.client is None else samples.persisted
        self.samples = samples.outlined() if held else samples
        self.nbytes = 0
        self._futures = [future for field in held for future in field.futures]
        for client in {id(future.client): future.client for future in self._futures}.values():
            check_same(samples.name, client, workers.client)
        self.graph: dict[Any, Any] = {}
        self._blocks: dict[Block, Any] = {}
        self._sizes: dict[Block, int] = {}
        self._runs: dict[Sequence[int], list[Block]] = {}
        for array in {field.lazy.name: field.lazy for field in held if field.lazy is not None}.values():
            tasks = dict(array.__dask_optimize__(array.__dask_graph__(), array.__dask_keys__()))
            futures = {future.key: future for future in self._futures}
            self.graph |= {key: task for key, task in tasks.items() if key not in futures}
            outline = Handed.of(array)
            for place in np.ndindex(*array.numblocks):
                key = (array.name, *place)
                self._blocks[array.name, place] = futures.get(key) or TaskRef(key)
                self._sizes[array.name, place] = outline.nbytes_of((array.name, place))
        self.nbytes = sum(self._sizes.values())

    def blocks(self, run: Sequence[int]) -> Iterable[Any]:
        """What becomes the blocks that a run is read from, in the order of `Samples.blocks_of`, once a task has it."""
        return () if not self._blocks else List(*(self._blocks[block] for block in self._read_by(run)))

    def nbytes_of(self, runs: Iterable[Sequence[int]]) -> int:
        """Bytes of the blocks that one of these runs is read from, at most."""
        return max(sum(self._sizes[block] for block in self._read_by(run)) for run in runs) if self._sizes else 0

    def _read_by(self, run: Sequence[int]) -> list[Block]:
        """The blocks that a run is read from, found once."""
        if run not in self._runs:
            self._runs[run] = self.samples.blocks_of(run)
        return self._runs[run]

    def check(self) -> None:
        """Raise `ReadError` if blocks are gone for good."""
        check_there(self._futures)


def check_same(name: str, theirs: Any, ours: Any) -> None:
    """Raise `InputError` if two clients are of different clusters."""
    one, other = (client.scheduler_info(n_workers=0).get("id") for client in (theirs, ours))
    if one != other:
        raise InputError(
            f"{name} is persisted on the cluster at {address_of(theirs)}, and the workers are those of "
            f"{address_of(ours)}: hand in the array before persist(), or have that cluster do the work (scheduler)"
        )
