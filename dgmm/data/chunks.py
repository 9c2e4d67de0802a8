"""Chunks of stored arrays by their names: those that are not there, and those that cannot be decoded."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import zarr
from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, Store
from zarr.core.sync import sync
from zarr.storage import LocalStore, WrapperStore

from dgmm.data.codecs import outer_frame
from dgmm.data.decoded import At, most_of, swelling
from dgmm.errors import DgmmError, ReadError, is_of_obstore

T = TypeVar("T")

#: The key of a chunk below its array, in either format.
CHUNK_KEY = re.compile(r"(c[/.])?\d+([/.]\d+)*")
#: Seconds for which the other reads are waited for when one has failed.
GRACE = 10.0


@dataclass(frozen=True)
class Stored:
    """A stored array that is read piece by piece, and what to call it.

    Attributes
    ----------
    source : str
        What the data are called in messages.
    variable : str
        Its name there; empty for an array by itself.
    array : zarr.Array or None
        None where it lies behind a lazy variable that was handed in: nothing is known of its chunks.
    place : str
        Path or URL of the array.
    whole : bool
        Whether a chunk that is not there is refused.
    fill_value : object
        What it would be read as.
    frame : str
        The codec whose frames its chunks are, where these are to be looked at before they are decoded; else empty.
    most : int
        Bytes that a chunk becomes at most.
    largest : int
        Bytes that are stored for one at most; none are read of a file that has more.
    """

    source: str
    variable: str
    array: zarr.Array[Any] | None = None
    place: str = ""
    whole: bool = False
    fill_value: Any = None
    frame: str = ""
    most: int = 0
    largest: int = 2**63

    @classmethod
    def of(cls, array: zarr.Array[Any], source: str, place: str, missing: str = "fill") -> Stored:
        """An array of a store; `place` is the path or URL of the store itself."""
        place = f"{place.rstrip('/')}/{array.path}".rstrip("/")
        most = most_of(array.shards or array.chunks, array.dtype.itemsize if array.dtype.kind in "fiubcmM" else None)
        sizes = array.shards or array.chunks
        # a shard has an index of its chunks, and each of these what its codecs put around it
        inner = math.prod(-(-n // max(1, m)) for n, m in zip(sizes, array.chunks, strict=True))
        frame, fill = outer_frame(array), array.fill_value
        return cls(source, array.path, array, place, missing == "raise", fill, frame, most, 2 * most + 64 * inner)

    @property
    def _name(self) -> str:
        return f"{self.variable} in {self.source}" if self.variable else self.source

    def chunks(self, region: Sequence[slice]) -> Iterator[tuple[int, ...]]:
        """The chunks that a region touches, in C order: the shards where there are any."""
        if self.array is None:
            return iter(())
        bounds = [s.indices(n)[:2] for s, n in zip(region, self.array.shape, strict=True)]
        sizes = [max(1, size) for size in self.array.shards or self.array.chunks]  # of a hostile store zero
        return itertools.product(
            *(range(a // size, math.ceil(b / size)) for (a, b), size in zip(bounds, sizes, strict=True))
        )

    def check_files(self, region: Sequence[slice]) -> None:
        """Before a region is read: raise `ReadError` if a chunk of it has no file, or not all of it."""
        if self.array is None or not isinstance(self.array.store, LocalStore):
            return
        folder = os.path.join(self.array.store.root, self.array.path)
        for chunk in self.chunks(region):
            key = self.array.metadata.encode_chunk_key(chunk)
            with _looked_at(os.path.join(folder, key), self.frame) as (size, at):
                fault = self.fault(size, at)
            if fault:
                raise self._error(chunk, fault)

    def check_answers(self, region: Sequence[slice]) -> None:
        """After a region was read: the same of a store that is `Watched`."""
        found = self._noted(region)
        if found is not None:
            raise found

    def _noted(self, region: Sequence[slice]) -> ReadError | None:
        """What a `Watched` store has noted of a region."""
        if self.array is None or not isinstance(self.array.store, Watched) or not self.array.store.faults:
            return None
        for chunk in self.chunks(region):
            key = self.array.metadata.encode_chunk_key(chunk)
            fault = self.array.store.faults.get(f"{self.array.path}/{key}".lstrip("/"))
            if fault:
                return self._error(chunk, fault)
        return None

    def fault(self, size: int | None, at: At) -> str:
        """What is wrong with a chunk of so many bytes, if anything; `at` reads some of them.

        None: it is not there; -1: it is no file.
        """
        if size is None and self.whole:
            return (
                f"is not there: write it again, or have missing chunks read as their fill value, {self.fill_value} "
                "(missing_chunks: fill)"
            )
        if size is not None and size < 0:
            return "is no file: write it again"
        if size == 0:
            return "is empty: write it again"
        if size is not None and size > self.largest:
            return f"has {size} bytes, and a chunk no more than {self.largest}: write it again"
        return swelling(self.frame, at, size, self.most) if size is not None and self.frame else ""

    def read(self, region: Sequence[slice], block: Callable[[], T]) -> T:
        """What a function reads of a region; raises `ReadError` if a chunk is not there or cannot be decoded."""
        self.check_files(region)
        try:
            found = block()
        except (DgmmError, MemoryError):
            raise
        except Exception as error:  # whatever a store or a codec, each in its own way, complains with
            raise self.explain(region, error) from error
        self.check_answers(region)
        return found

    def explain(self, region: Sequence[slice], error: Exception) -> ReadError:
        """What went wrong when a region was read: which chunk it was, and what its decoder said."""
        wait_for_others()
        # a store that does not answer need not be asked again
        away = is_of_obstore(error)
        within = ", ".join("all" if s == slice(None) else f"{s.start}:{s.stop}" for s in region)
        return (
            self._noted(region)
            or (None if away else self._undecodable(region))
            or ReadError(f"{self._name} {_fault_of(error)} (within {within})")
        )

    def _undecodable(self, region: Sequence[slice]) -> ReadError | None:
        """The first chunk of a region that cannot be read by itself."""
        if self.array is None:
            return None
        sizes = self.array.shards or self.array.chunks
        for chunk in self.chunks(region):
            try:
                self.array[tuple(slice(i * n, (i + 1) * n) for i, n in zip(chunk, sizes, strict=True))]
            except Exception as error:
                wait_for_others()
                return self._error(chunk, _fault_of(error))
        return None

    def _error(self, chunk: tuple[int, ...], fault: str) -> ReadError:
        key = "" if self.array is None else self.array.metadata.encode_chunk_key(chunk)
        return ReadError(f"chunk ({', '.join(map(str, chunk))}) of {self._name} ({self.place}/{key}) {fault}")


class Watched(WrapperStore[Store]):
    """A store that notes which chunks are not there, or not all of them, where zarr would go on without a word.

    It raises nothing of its own: zarr would leave the reads that it has under way to themselves.

    Attributes
    ----------
    arrays : dict
        Path in the store -> an array that is watched. Others may have holes: coordinates that are zero, say.
    faults : dict
        Key of a chunk -> what is wrong with it.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.arrays: dict[str, Stored] = {}
        self.faults: dict[str, str] = {}

    def watch(self, stored: Stored) -> None:
        """Watch an array of this store."""
        if stored.array is not None:
            self.arrays[stored.array.path] = replace(stored, array=None)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """As the store; None for what is of no use."""
        with self._noting(key):
            return self._judged(key, await self._store.get(key, prototype, byte_range), byte_range)

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """As `get`, for the versions of zarr that read without waiting."""
        store: Any = self._store
        with self._noting(key):
            return self._judged(key, store.get_sync(key, prototype=prototype, byte_range=byte_range), byte_range)

    @contextmanager
    def _noting(self, key: str) -> Iterator[None]:
        """Note which chunk it was that the store could not give."""
        try:
            yield
        except Exception as error:
            self.faults[key] = _fault_of(error)
            raise

    def _judged(self, key: str, found: Buffer | None, byte_range: ByteRequest | None) -> Buffer | None:
        self.faults.pop(key, None)
        stored = next((s for path, s in self.arrays.items() if _is_chunk(key, path)), None)
        if stored is None:
            return found
        if found is not None and len(found) and byte_range is not None:  # of a part there is nothing to tell
            return found
        fault = stored.fault(None if found is None else len(found), _within(found))
        if fault:
            self.faults[key] = fault
            return None
        return found


def _is_chunk(key: str, path: str) -> bool:
    """Whether a key is that of a chunk of the array at a path."""
    return key.startswith(f"{path}/" if path else "") and bool(CHUNK_KEY.fullmatch(key, len(path) + bool(path)))


@contextmanager
def _looked_at(path: str, opened: str) -> Iterator[tuple[int | None, At]]:
    """Size of a file, None if there is none, and what reads some of it, for whoever wants to."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        yield None, _nothing
        return
    if stat.S_ISDIR(found.st_mode):
        yield None, _nothing
    elif not stat.S_ISREG(found.st_mode):  # a pipe would be waited for, and a device has no end
        yield -1, _nothing
    elif not opened:
        yield found.st_size, _nothing
    else:
        with open(path, "rb", buffering=0) as file:
            yield found.st_size, lambda place, n: os.pread(file.fileno(), n, place)


def _nothing(place: int, n: int) -> bytes:
    return b""


def _within(found: Buffer | None) -> At:
    """What reads some of what a store has given."""
    return _nothing if found is None else lambda place, n: found[place : place + n].to_bytes()


def _fault_of(error: Exception) -> str:
    """What a store or a decoder says, in one line."""
    # obstore lets its own insides follow
    text = " ".join(str(error).split("Debug source:")[0].split())
    return f"cannot be read: {text[:300] or type(error).__name__}"


def wait_for_others() -> None:
    """Wait for the reads that zarr has left to themselves when one failed: as the process ends each would tell."""
    sync(_others_done())


async def _others_done() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=GRACE)
