"""Folders of small files that are written once each, and must be there whole or not at all after any crash."""

from __future__ import annotations

import contextlib
import os
import uuid
from abc import ABC, abstractmethod
from typing import Any

from dgmm.data import again, content_of, delete, listed, local_path, object_at
from dgmm.errors import DgmmError
from dgmm.store.local import flush_folder, read_whole, remove
from dgmm.store.places import Output

#: Suffix of a file that is being written.
PART = ".part"


class Folder(ABC):
    """A folder at a path or URL.

    Attributes
    ----------
    name : str
        As it was given, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def names(self) -> list[str]:
        """Of the files, in any order; none if there is no such folder."""

    @abstractmethod
    def folders(self) -> list[str]:
        """Names of the folders in it, in any order; none if there is no such folder."""

    @abstractmethod
    def read(self, name: str, most: int) -> bytes | None:
        """A file of at most so many bytes; None if there is none; raises `ValueError` if it is larger."""

    @abstractmethod
    def make(self) -> None:
        """Make the folder, unless it is there."""

    @abstractmethod
    def begin(self, name: str, content: bytes, output: Output) -> None:
        """Make the folder, with a first file in it; ``output`` is the claim of whoever does."""

    @abstractmethod
    def put(self, name: str, content: bytes, *, replace: bool = False) -> None:
        """Write a file, which lies there for good once this returns.

        Parameters
        ----------
        name : str
        content : bytes
        replace : bool
            Whether one of this name is known, and of no use any more.

        Raises
        ------
        DgmmError
            If somebody else has written that one.
        """

    @abstractmethod
    def delete(self, names: list[str]) -> None:
        """Delete files, one after the other."""

    @abstractmethod
    def remove(self, first: str, output: Output) -> None:
        """Delete the folder, which is one until its first file has gone."""


class LocalFolder(Folder):
    """On a file system: files are written aside, flushed and renamed.

    Attributes
    ----------
    path : str
    """

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        self.path = path.rstrip("/") or "/"

    def names(self) -> list[str]:
        """Of the files."""
        try:
            return [name for name in os.listdir(self.path) if not name.endswith(PART)]
        except FileNotFoundError:
            return []

    def folders(self) -> list[str]:
        """Of the folders."""
        try:
            return [entry.name for entry in os.scandir(self.path) if entry.is_dir()]
        except FileNotFoundError:
            return []

    def read(self, name: str, most: int) -> bytes | None:
        """A file."""
        try:
            return read_whole(os.path.join(self.path, name), most)
        except FileNotFoundError:
            return None

    def make(self) -> None:
        """Make the folder."""
        os.makedirs(self.path, exist_ok=True)
        flush_folder(os.path.dirname(os.path.abspath(self.path)))

    def begin(self, name: str, content: bytes, output: Output) -> None:
        """Make it beside its place."""
        os.mkdir(output.target)
        write_whole(os.path.join(output.target, name), content)
        os.rename(output.target, self.path)
        flush_folder(os.path.dirname(os.path.abspath(self.path)))

    def put(self, name: str, content: bytes, *, replace: bool = False) -> None:
        """Write a file; whoever has lost the claim finds out before."""
        write_whole(os.path.join(self.path, name), content)

    def delete(self, names: list[str]) -> None:
        """Delete files."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(self.path, name))
        flush_folder(self.path)

    def remove(self, first: str, output: Output) -> None:
        """Move it into the claim, whose taker deletes what is left there."""
        aside = f"{output.target}-removed"
        os.rename(self.path, aside)
        # or a power failure might bring it back without its first file, as nobody's
        flush_folder(os.path.dirname(os.path.abspath(self.path)))
        remove(aside)


class ObjectFolder(Folder):
    """In an object store: files are put where there are none."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.objects, self.key = object_at(name)

    def names(self) -> list[str]:
        """Of the objects."""
        return [found["path"].rpartition("/")[2] for found in listed(self.objects, self.name, f"{self.key}/")]

    def folders(self) -> list[str]:
        """Of the prefixes."""
        import obstore

        found = again(self.name, lambda: obstore.list_with_delimiter(self.objects, f"{self.key}/"))
        return [prefix.rstrip("/").rpartition("/")[2] for prefix in found["common_prefixes"]]

    def read(self, name: str, most: int) -> bytes | None:
        """An object."""
        try:
            return content_of(self.objects, self.name, f"{self.key}/{name}", most)[0]
        except FileNotFoundError:
            return None

    def make(self) -> None:
        """Nothing: it is there with its first object."""

    def begin(self, name: str, content: bytes, output: Output) -> None:
        """Put the first object."""
        self.put(name, content)

    def put(self, name: str, content: bytes, *, replace: bool = False) -> None:
        """Put an object."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "overwrite" if replace else "create"
        try:
            again(self.name, lambda: obstore.put(self.objects, f"{self.key}/{name}", content, mode=mode))
        except (AlreadyExistsError, PreconditionError):
            if self.read(name, len(content) + 1) != content:  # or only the answer was lost
                raise DgmmError(f"{self.name}/{name} was written by another run: one of the two must stop") from None

    def delete(self, names: list[str]) -> None:
        """Delete objects."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                delete(self.objects, self.name, [f"{self.key}/{name}"])

    def remove(self, first: str, output: Output) -> None:
        """Delete all objects, the first one last."""
        self.delete(sorted(self.names(), key=lambda name: name == first))


def folder_at(path: str | os.PathLike[str]) -> Folder:
    """The folder of a path or URL."""
    name = os.fspath(path)
    local = local_path(name)
    return ObjectFolder(name) if local is None else LocalFolder(name, local)


def write_whole(path: str, content: bytes) -> None:
    """Write a file that is there whole, and stays, or not at all."""
    part = f"{path}.{uuid.uuid4().hex}{PART}"
    try:
        with open(part, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(part)
        raise
    flush_folder(os.path.dirname(path))
