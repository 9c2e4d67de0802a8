"""Paths as stores of Zarr's, and files of which nothing is read that is none, or is larger than it should be."""

from __future__ import annotations

import asyncio
import os
import stat
from typing import Any

import zarr.storage
from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest

from dgmm.errors import InputError

#: Files that say what lies in a folder, and the bytes that one may have.
METADATA, MOST_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"), 2**27


class LocalStore(zarr.storage.LocalStore):
    """A folder, to be read: a pipe in it would be waited for, and a device has no end.

    It has the name of Zarr's own, by which zarrs knows a store that it reads itself.
    """

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """As Zarr's; raises `InputError` for what is no file, and for metadata that are too large to be that."""
        try:
            self._look_at(key)
        except InputError:
            # of several that Zarr reads at a time it takes the first, and asyncio would tell of the others
            task = asyncio.current_task()
            if task is not None:
                task.add_done_callback(_heard)
            raise
        return await super().get(key, prototype, byte_range)

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """As `get`, for the versions of zarr that read without waiting."""
        self._look_at(key)
        theirs: Any = super()
        found: Buffer | None = theirs.get_sync(key, prototype=prototype, byte_range=byte_range)
        return found

    def _look_at(self, key: str) -> None:
        path = os.path.join(self.root, key)
        try:
            found = os.stat(path)
        except OSError:  # of which Zarr makes what it should
            return
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
            raise InputError(f"{self.root} is not a Zarr store: {path} is no file")
        if os.path.basename(path) in METADATA and found.st_size > MOST_METADATA:
            raise InputError(
                f"{self.root} is not a Zarr store: {path} has {found.st_size} bytes, more than {MOST_METADATA}"
            )


def _heard(task: asyncio.Task[Any]) -> None:
    _ = task.cancelled() or task.exception()


def read_bytes(path: str, size: int) -> bytes:
    """The first bytes of a file; none of a pipe, which would be waited for."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        return file.read(size) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
