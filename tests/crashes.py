"""What a folder may look like after a power failure, by what was done to its files until then and what was flushed.

The model of it is stricter than most file systems: what was written to a file is there for sure once that file was
flushed, and a name (of a file or folder that was made, renamed or removed) once the folder was in which it is. All else
may be there or not, whatever was done before or after; a rename is there as a whole or not at all, as file systems with
a journal have it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

from tests.disks import Operation


class After(IntEnum):
    """What becomes of what was not flushed."""

    #: It is there: the process was killed, and nothing else.
    KILL = 0
    #: Nothing of it is there.
    LOST = 1
    #: All names are there, and of what is in the files nothing.
    EMPTY = 2
    #: The same with zeros.
    ZEROS = 3
    #: The same with a part.
    CUT = 4
    #: Of names and of what is in the files anything, in any order.
    ANY = 5


@dataclass
class File:
    """A file: where it comes from, what was written since, and how much of that is flushed."""

    origin: Path | None = None
    #: Of every write what was written; None where it was emptied.
    writes: list[bytes | None] = field(default_factory=list)
    n_flushed: int = 0

    def content(self, n: int | None = None) -> bytes:
        """After so many writes, all by default."""
        found = b"" if self.origin is None else self.origin.read_bytes()
        for write in self.writes[:n]:
            found = b"" if write is None else found + write
        return found

    def after(self, after: After, random: np.random.Generator) -> bytes:
        """What may be in it after a crash."""
        flushed, whole = self.content(self.n_flushed), self.content()
        if after is After.ANY:
            after = After(int(random.integers(After.ANY)))
        if after is After.KILL or flushed == whole:
            return whole
        if after in (After.LOST, After.EMPTY):
            return flushed
        kept = flushed if whole.startswith(flushed) else b""
        if after is After.ZEROS:
            return kept + bytes(len(whole) - len(kept))
        return whole[: int(random.integers(len(kept), len(whole)))]


@dataclass(eq=False)
class Folder:
    """A folder: what lies in it by its name."""

    entries: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path) -> Folder:
        """What lies in a folder, all of it there for sure."""
        return cls({each.name: cls.of(each) if each.is_dir() else File(each) for each in path.iterdir()})

    def copied(self, made: dict[int, Folder]) -> Folder:
        """The same folders once more, with the same files in them; ``made`` has them by the identities of these."""
        found = made[id(self)] = Folder()
        found.entries = {n: e.copied(made) if isinstance(e, Folder) else e for n, e in self.entries.items()}
        return found


#: Takes which folder each is in another tree, and whether what must be there for it is there for sure.
Do = Callable[[Callable[[Folder], Folder], bool], None]


@dataclass
class Naming:
    """Something that was done to names, in which folders, and whether it is there for sure."""

    do: Do
    folders: tuple[Folder, ...]
    is_flushed: bool = False


class Crash:
    """What operations on the files below a folder have come to when the power fails.

    Parameters
    ----------
    before : Path
        What was there, all of it for sure.
    root : str
        The folder, in the paths of operations.
    operations : iterable
        As they are noted by `tests.disks.Disk`, up to the failure.
    """

    def __init__(self, before: Path, root: str, operations: Iterable[Operation]) -> None:
        self.root = root
        self.live = Folder.of(before)
        self.made: dict[int, Folder] = {}
        self.start = self.live.copied(self.made)
        self.namings: list[Naming] = []
        for name, path, *more in operations:
            getattr(self, f"_{name}")(path, *more)

    def _at(self, path: str) -> tuple[Folder, str]:
        """The folder in which something lies, and its name there."""
        *parents, name = os.path.relpath(path, self.root).split("/")
        folder = self.live
        for parent in parents:
            folder = folder.entries[parent]
        return folder, name

    def _name(self, do: Do, *folders: Folder) -> None:
        do(lambda folder: folder, True)
        self.namings.append(Naming(do, folders))

    def _put(self, folder: Folder, name: str, node: File | Folder) -> None:
        def do(of: Callable[[Folder], Folder], _: bool) -> None:
            of(folder).entries[name] = of(node) if isinstance(node, Folder) else node

        self._name(do, folder)

    def _create(self, path: str) -> None:
        folder, name = self._at(path)
        if name in folder.entries:
            folder.entries[name].writes.append(None)
        else:
            self._put(folder, name, File())

    def _mkdir(self, path: str) -> None:
        self._put(*self._at(path), Folder())

    def _unlink(self, path: str) -> None:
        folder, name = self._at(path)
        self._name(lambda of, _: of(folder).entries.pop(name, None), folder)

    _rmdir = _unlink

    def _rename(self, source: str, target: str) -> None:
        (there, before), (here, name) = self._at(source), self._at(target)
        node = there.entries[before]

        def do(of: Callable[[Folder], Folder], sure: bool) -> None:
            mine, in_the_way = of(node) if isinstance(node, Folder) else node, of(here).entries.get(name)
            is_there = of(there).entries.get(before) is mine
            if sure or (is_there and not (isinstance(in_the_way, Folder) and in_the_way.entries)):
                of(here).entries[name] = mine
                if is_there:
                    del of(there).entries[before]

        self._name(do, there, here)

    def _link(self, source: str, target: str) -> None:
        (there, before), (here, name) = self._at(source), self._at(target)
        self._put(here, name, there.entries[before])

    def _write(self, path: str, content: bytes) -> None:
        folder, name = self._at(path)
        folder.entries[name].writes.append(content)

    def _fsync(self, path: str) -> None:
        folder, name = self._at(path)
        node = self.live if name == "." else folder.entries[name]
        if isinstance(node, File):
            node.n_flushed = len(node.writes)
            return
        for naming in self.namings:
            naming.is_flushed |= node in naming.folders

    def build(self, place: Path, after: After, random: np.random.Generator) -> None:
        """Make a folder as it may be after the failure."""

        def of(folder: Folder) -> Folder:
            return self.made.setdefault(id(folder), Folder())

        for naming in self.namings:
            chance = {After.LOST: 0.0, After.ANY: 0.5}.get(after, 1.0)
            if naming.is_flushed or random.random() < chance:
                naming.do(of, naming.is_flushed)
        _write_out(self.start, place, after, random)


def _write_out(folder: Folder, place: Path, after: After, random: np.random.Generator) -> None:
    place.mkdir()
    for name, node in folder.entries.items():
        if isinstance(node, Folder):
            _write_out(node, place / name, after, random)
        elif node.origin is not None and not node.writes:
            shutil.copy2(node.origin, place / name)  # when it was written tells what it is
        else:
            (place / name).write_bytes(node.after(after, random))
