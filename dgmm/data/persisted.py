"""Dask arrays that lie on a cluster: their blocks are results of its tasks, and are handed to those that read them."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dgmm.data.grid import Region
from dgmm.errors import ReadError
from dgmm.types import AnyArray

if TYPE_CHECKING:
    import dask.array
    from typing_extensions import TypeIs

#: A block of an array: what Dask calls the array, and where the block lies in it.
Block = tuple[str, tuple[int, ...]]


def is_lazy(array: Any) -> TypeIs[dask.array.Array]:
    """Whether an array is Dask's: where nobody has imported these, which takes 0.4 s, there is none."""
    kind = getattr(sys.modules.get("dask.array"), "Array", None)  # nor has it while another thread imports them
    return kind is not None and isinstance(array, kind)


def futures_in(array: dask.array.Array) -> tuple[Any, ...]:
    """Results of tasks on a cluster (distributed.Future) that an array is made of; none if it is made of none."""
    distributed = sys.modules.get("distributed")
    if distributed is None:  # nobody can have one
        return ()
    graph = dict(array.__dask_graph__())
    found: dict[Any, Any] = {}
    waiting = list(graph.values())
    while waiting:
        node = waiting.pop()
        if isinstance(node, distributed.Future):
            found[node.key] = node
        elif isinstance(node, (list, tuple, set, frozenset)):
            waiting.extend(node)
        elif isinstance(node, dict):
            waiting.extend(node.values())
        elif any(key not in graph for key in getattr(node, "dependencies", ())):
            waiting += [getattr(node, "args", ()), getattr(node, "kwargs", {})]
    return tuple(found.values())


def check_there(futures: Sequence[Any]) -> None:
    """Raise `ReadError` if the cluster has let go of some of these and does not know how they were made."""
    gone = sum(future.cancelled() for future in futures)
    if gone:
        raise ReadError(
            f"{gone} of {len(futures)} blocks that were persisted on a cluster are gone, with the workers that had "
            "them or with their client: persist them again, or hand in the array before persist()"
        )


def fetched(part: dask.array.Array, futures: Sequence[Any]) -> Any:
    """A part of an array as its cluster computes it, in this process."""
    check_there(futures)
    try:
        return part.compute(scheduler=futures[0].client.get)
    except Exception:
        check_there(futures)
        raise


@dataclass(frozen=True)
class Handed:
    """A Dask array of which those who read it are handed the blocks.

    Attributes
    ----------
    name : str
        What Dask calls it.
    chunks : tuple of tuple of int
        Lengths of its blocks along each dimension.
    dtype : numpy.dtype
    blocks : mapping of Block to ndarray
        Those that there are, also of other arrays.
    """

    name: str
    chunks: tuple[tuple[int, ...], ...]
    dtype: np.dtype[Any]
    blocks: Mapping[Block, AnyArray] = field(default_factory=dict)

    @classmethod
    def of(cls, array: dask.array.Array) -> Handed:
        """An array without its blocks."""
        return cls(array.name, array.chunks, array.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Length along each dimension."""
        return tuple(map(sum, self.chunks))

    @cached_property
    def _stops(self) -> list[AnyArray]:
        return [np.cumsum(lengths) for lengths in self.chunks]

    def within(self, region: Region) -> list[Block]:
        """The blocks that a region is read from."""
        return [(self.name, tuple(i for i, _, _ in spans)) for spans in self._spans(region)]

    def nbytes_of(self, block: Block) -> int:
        """Bytes of a block."""
        lengths = (lengths[i] for lengths, i in zip(self.chunks, block[1], strict=True))
        return int(np.prod([self.dtype.itemsize, *lengths]))

    def __getitem__(self, region: Region) -> AnyArray:
        """A region, put together from the blocks; of one block a view."""
        parts = []
        for spans in self._spans(region):
            places, inside, outside = zip(*spans, strict=True)
            parts.append((outside, self.blocks[self.name, places][inside]))
        if len(parts) == 1:
            return parts[0][1]
        masked = any(isinstance(part, np.ma.MaskedArray) for _, part in parts)
        shape = tuple(len(range(*s.indices(n))) for s, n in zip(region, self.shape, strict=True))
        made: AnyArray = (np.ma.empty if masked else np.empty)(shape, self.dtype)
        for place, part in parts:
            made[place] = part
        return made

    def _spans(self, region: Region) -> Iterator[tuple[tuple[int, slice, slice], ...]]:
        """Of every block that a region touches, along each dimension: its place, what is taken of it, and to where."""
        along = []
        for s, stops, lengths in zip(region, self._stops, self.chunks, strict=True):
            start, stop, _ = s.indices(int(stops[-1]) if len(stops) else 0)
            first, last = np.searchsorted(stops, start, side="right"), np.searchsorted(stops, stop, side="left")
            spans = []
            for i in range(int(first), min(int(last) + 1, len(lengths)) if start < stop else int(first)):
                begin = int(stops[i]) - lengths[i]
                a, b = max(start, begin), min(stop, int(stops[i]))
                if a < b:
                    spans.append((i, slice(a - begin, b - begin), slice(a - start, b - start)))
            along.append(spans)
        return itertools.product(*along)
