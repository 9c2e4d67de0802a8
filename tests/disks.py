"""A disk between the tests and the file system: it can fail at any operation, and knows what was flushed of it.

What this process does to files below a folder goes through a :class:`Disk`: each operation is counted by its kind, may
fail as it would on a disk that does, and may be noted for :class:`tests.crashes.Notes`. Only files in Python are seen,
which is all that dgmm and zarr write with.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import pytest


class Kind(StrEnum):
    """What can fail."""

    #: Of a file, by opening it, or of some of its bytes; or a listing.
    READ = "read"
    #: Of bytes, or that of a new file or folder.
    WRITE = "write"
    RENAME = "rename"
    FLUSH = "flush"
    REMOVE = "removal"


#: What a system says where an operation fails.
ERRORS = dict.fromkeys(Kind, errno.EIO) | {Kind.WRITE: errno.ENOSPC}

Operation = tuple[Any, ...]


class Disk:
    """What lies below a folder.

    Parameters
    ----------
    root : str
    fails : callable, optional
        Says of an operation, by its kind, its number among those of its kind, from one, and its path, whether it fails.
    note : callable, optional
        Is told of every operation that changes something and has not failed, in order.

    Attributes
    ----------
    counts : dict
        How many operations of each kind there were.
    n_failed : int
        How many have failed.
    """

    def __init__(
        self,
        root: str,
        fails: Callable[[Kind, int, str], bool] | None = None,
        note: Callable[[Operation], None] | None = None,
    ) -> None:
        self.root = os.path.abspath(root)
        self.counts = dict.fromkeys(Kind, 0)
        self.n_failed = 0
        self._fails = fails
        self._note = note
        self.lock = threading.RLock()

    def inside(self, path: Any) -> str | None:
        """The absolute path of what lies on this disk; None for all else."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        found = os.path.abspath(os.fsdecode(path))
        return found if found == self.root or found.startswith(self.root + "/") else None

    def check(self, kind: Kind, path: str) -> None:
        """Count an operation, and raise `OSError` if it fails."""
        self.counts[kind] += 1
        if self._fails is not None and self._fails(kind, self.counts[kind], path):
            self.n_failed += 1
            raise OSError(ERRORS[kind], os.strerror(ERRORS[kind]), path)

    def note(self, *operation: Any) -> None:
        """Tell of an operation."""
        if self._note is not None:
            self._note(operation)

    @contextmanager
    def inserted(self) -> Iterator[Disk]:
        """Context in which it is there."""
        with pytest.MonkeyPatch.context() as patch:
            for function, kind in (("listdir", Kind.READ), ("scandir", Kind.READ), ("fsync", Kind.FLUSH)):
                patch.setattr(os, function, self._of_one(getattr(os, function), kind))
            for function, kind in (("mkdir", Kind.WRITE), ("rmdir", Kind.REMOVE), ("unlink", Kind.REMOVE)):
                patch.setattr(os, function, self._of_one(getattr(os, function), kind))
            patch.setattr(os, "remove", os.unlink)
            for function in ("rename", "replace", "link"):
                patch.setattr(os, function, self._of_two(getattr(os, function)))
            # or folders would be removed by descriptors
            patch.setattr(shutil, "_use_fd_functions", False)
            opened = self._open(io.open)
            patch.setattr("builtins.open", opened)
            patch.setattr(io, "open", opened)
            yield self

    def _of_one(self, function: Callable[..., Any], kind: Kind) -> Callable[..., Any]:
        def call(path: Any = ".", *given: Any, **named: Any) -> Any:
            within = self.inside(path)
            if within is None:
                return function(path, *given, **named)
            with self.lock:
                self.check(kind, within)
                found = function(path, *given, **named)
                if kind is not Kind.READ:
                    self.note(function.__name__, within)
                return found

        return call

    def _of_two(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(source: Any, target: Any, **named: Any) -> Any:
            first, second = self.inside(source), self.inside(target)
            if first is None or second is None:
                return function(source, target, **named)
            with self.lock:
                self.check(Kind.RENAME, second)
                found = function(source, target, **named)
                self.note("link" if function.__name__ == "link" else "rename", first, second)
                return found

        return call

    def _open(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", buffering: int = -1, *given: Any, **named: Any) -> Any:
            within = None if isinstance(file, int) else self.inside(file)
            if within is None:
                return function(file, mode, buffering, *given, **named)
            raw = File(self, within, mode.replace("b", "").replace("t", ""))
            buffered: Any = io.BufferedWriter(raw) if raw.writable() else io.BufferedReader(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, *given, **named)

        return call


class File(io.FileIO):
    """A file on a `Disk`, opened for reading or for writing."""

    def __init__(self, disk: Disk, path: str, mode: str) -> None:
        assert "+" not in mode
        assert "a" not in mode
        self.disk = disk
        self.path = path
        with disk.lock:
            disk.check(Kind.READ if mode == "r" else Kind.WRITE, path)
            super().__init__(path, mode)
            if mode != "r":
                disk.note("create", path)

    def readall(self) -> bytes:
        """All that is left."""
        with self.disk.lock:
            self.disk.check(Kind.READ, self.path)
        return super().readall()

    def readinto(self, buffer: Any) -> int:
        """Some bytes."""
        with self.disk.lock:
            self.disk.check(Kind.READ, self.path)
        return super().readinto(buffer) or 0

    def write(self, content: Any) -> int:
        """Some bytes; where it fails half of them have been written."""
        with self.disk.lock:
            content = bytes(content)
            try:
                self.disk.check(Kind.WRITE, self.path)
            except OSError:
                super().write(content[: len(content) // 2])
                raise
            n = super().write(content)
            self.disk.note("write", self.path, content[:n])
            return n
