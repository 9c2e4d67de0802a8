"""Index arithmetic: a grid of samples, cut along its chunks into the segments that are read and reduced."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Segments are cut so that there are about this many, so that the work can be shared out ...
SEGMENTS = 64
#: ... but none has fewer samples than this, for the sake of overhead,
MIN_ROWS = 4096
#: or more samples or bytes as they are read than this, for the sake of memory: a task has several of them at a time,
#: and scores of one. A chunk that is larger is a segment of its own.
MAX_ROWS, MAX_BYTES = 131_072, 8 * 2**20

Region = tuple[slice, ...]


@dataclass(frozen=True)
class Grid:
    """A grid of samples cut into rectangular segments of whole chunks.

    The segments depend on the store alone, never on the cluster: partial sums are formed per segment and merged
    along a fixed tree, so that a result has the same bits wherever it is computed.

    Attributes
    ----------
    shape : tuple of int
        Samples along each dimension.
    segment : tuple of int
        Samples of one segment along each dimension: a multiple of the chunks, or all there are.
    """

    shape: tuple[int, ...]
    segment: tuple[int, ...]

    @classmethod
    def along_chunks(cls, shape: Sequence[int], chunks: Sequence[int], row_bytes: int) -> Grid:
        """Group neighbouring chunks, along the last dimensions first, until a segment is large enough.

        Parameters
        ----------
        shape, chunks : sequence of int
            Samples, and those of one chunk, along each dimension.
        row_bytes : int
            Bytes of one sample as it is read.
        """
        size = math.prod(shape)
        wanted = min(MAX_ROWS, MAX_BYTES // row_bytes, max(MIN_ROWS, math.ceil(size / SEGMENTS)))
        chunks = [min(c, s) for c, s in zip(chunks, shape, strict=True)]
        segment, rows = list(chunks), math.prod(chunks)
        for axis in reversed(range(len(segment))):
            factor = min(max(wanted // max(rows, 1), 1), math.ceil(shape[axis] / max(chunks[axis], 1)))
            segment[axis] = min(chunks[axis] * factor, shape[axis])
            rows = math.prod(segment)
            if segment[axis] < shape[axis]:
                break
        return cls(tuple(shape), tuple(segment))

    @property
    def size(self) -> int:
        """Number of samples."""
        return math.prod(self.shape)

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of segments along each dimension."""
        return tuple(-(-n // s) for n, s in zip(self.shape, self.segment, strict=True))

    def __len__(self) -> int:
        """Number of segments."""
        return math.prod(self.counts)

    def region(self, index: int) -> Region:
        """The slices of segment ``index``, in C order of the segments."""
        slices = []
        for length, n in zip(reversed(self.segment), reversed(self.shape), strict=True):
            index, place = divmod(index, -(-n // length))
            slices.append(slice(place * length, min((place + 1) * length, n)))
        if index:
            raise ValueError(f"there is no such segment of {len(self)}")
        return tuple(reversed(slices))

    def n_rows(self, index: int) -> int:
        """Number of samples of segment ``index``."""
        return math.prod(s.stop - s.start for s in self.region(index))

    @property
    def largest(self) -> int:
        """Number of samples of the largest segment."""
        return math.prod(self.segment)

    def rows(self, region: Region) -> NDArray[np.uint64]:
        """Global number of every sample of a region in C order of the whole grid: independent of the chunks."""
        return Blocks(self.shape, (1,) * len(self.shape)).of(region)


@dataclass(frozen=True)
class Blocks:
    """A grid of samples cut into rectangular blocks, whatever its chunks and segments are.

    Attributes
    ----------
    shape : tuple of int
        Samples of the grid along each dimension.
    lengths : tuple of int
        Samples of one block along each dimension; the last block may be shorter.
    """

    shape: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of blocks along each dimension."""
        return tuple(-(-n // length) for n, length in zip(self.shape, self.lengths, strict=True))

    def __len__(self) -> int:
        """Number of blocks."""
        return math.prod(self.counts)

    def of(self, region: Region) -> NDArray[np.uint64]:
        """Number of the block of every sample of a region, in C order of the blocks of the whole grid."""
        result = np.zeros((1,) * len(region), dtype=np.uint64)
        stride = 1
        for axis in reversed(range(len(region))):
            line = np.arange(region[axis].start, region[axis].stop, dtype=np.uint64)
            line = line // np.uint64(self.lengths[axis]) * np.uint64(stride)
            result = result + line.reshape([-1 if i == axis else 1 for i in range(len(region))])
            stride *= self.counts[axis]
        return result.ravel()
