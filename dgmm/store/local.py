"""Places on a file system: outputs are made beside them and moved."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dgmm.data import PARTIAL, RECORD, Run, is_run_id, read_bytes, record_of, store_at
from dgmm.errors import OutputExistsError
from dgmm.store.places import OLD, ROOT, Output, Place
from dgmm.store.states import HEAD, State, Status, state_of_file, state_of_group

logger = logging.getLogger("dgmm")

#: Suffix, in the folder of a claim, of the folder of records.
RECORDS = "-records"
#: Files that are flushed at a time: a file system has them share what each would wait for.
FLUSHED_AT_ONCE = 8
#: Bytes of the metadata of a group that are looked at.
MOST_ROOT = 2**27


class LocalPlace(Place):
    """A path.

    Attributes
    ----------
    path : str
    folder : str
        Of a claim.
    """

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        self.path = path.rstrip("/") or "/"
        self.folder = self.path + PARTIAL

    def content(self, size: int) -> bytes | None:
        """The first bytes of the file that lies here; None if there is none."""
        try:
            return read_bytes(self.path, size)
        except FileNotFoundError:
            return None

    def found(self) -> State:
        """What lies here, claims aside."""
        try:
            os.lstat(self.path)
        except FileNotFoundError:
            return State(Status.ABSENT)
        if os.path.islink(self.path):
            return State(Status.STRANGE, detail="is a symbolic link: name what it points to")
        if not os.path.isdir(self.path):
            return state_of_file(read_bytes(self.path, HEAD))
        root = os.path.join(self.path, ROOT)
        alien = [name for name in os.listdir(self.path) if name != ROOT and not self._is_node(name)]
        state = state_of_group(read_bytes(root, MOST_ROOT) if os.path.isfile(root) else None, alien)
        if state.status is Status.UNFINISHED:  # that is never here
            return State(Status.STRANGE, detail="is a folder that was not made by dgmm")
        return state

    def _is_node(self, name: str) -> bool:
        return os.path.isfile(os.path.join(self.path, name, ROOT))

    def output(self, run: Run, what: str, overwrite: bool, resumes: bool) -> Output:
        """An output to be made here."""
        return LocalOutput(self, run, what, overwrite, resumes)


class LocalOutput(Output):
    """An output that is made in the folder of its claim."""

    place: LocalPlace

    def __init__(self, place: LocalPlace, run: Run, what: str, overwrite: bool, resumes: bool) -> None:
        super().__init__(place, run, what, overwrite, resumes)
        self._made: list[str] = []

    @property
    def target(self) -> str:
        """A path in the folder of the claim."""
        return os.path.join(self.place.folder, self.run.id)

    @property
    def records(self) -> str:
        """A path in the folder of the claim."""
        return self.target + RECORDS

    def claim(self) -> None:
        """Take the place, over from a dead run if need be."""
        self._make_folders()
        while not self._take():
            continue

    def _take(self) -> bool:
        """Put the record of the run into the folder of the claim; False if that was removed meanwhile."""
        folder = self.place.folder
        try:
            os.mkdir(folder)
        except FileExistsError:
            pass
        else:
            self._made.append(folder)
            flush_folder(os.path.dirname(os.path.abspath(folder)))
        if os.path.islink(folder) or os.path.isfile(folder):
            raise OutputExistsError(f"{folder} is in the way and was not left by dgmm: remove it yourself")
        # of several that find the claim of a dead run one takes it, and the others then find a live one
        with self._locked() as there:
            if not there:
                return False
            names, found = os.listdir(folder), record_of(self.place.name)
            if found is not None:
                self.refuse_claimed(found)
            elif not all(name == RECORD or is_run_id(name.partition("-")[0]) for name in names):
                raise OutputExistsError(f"{folder} is in the way and was not left by dgmm: remove it yourself")
            self._put_record(self.run.now())
            # a group before what somebody may have begun who was taken for dead
            for name in sorted(names, key=lambda name: not os.path.exists(os.path.join(folder, name, ROOT))):
                self._take_over(name)
            return True

    @contextlib.contextmanager
    def _locked(self) -> Iterator[bool]:
        """Context in which nobody else changes whose the folder of the claim is; false if there is no such folder."""
        folder = self.place.folder
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            yield False
            return
        try:
            with contextlib.suppress(OSError):  # not every file system has locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                same = os.path.samestat(os.fstat(descriptor), os.stat(folder))
            except FileNotFoundError:
                same = False
            yield same
        finally:
            os.close(descriptor)

    def _take_over(self, name: str) -> None:
        """Put back, go on from or remove what a dead run has left in the folder of its claim."""
        left, path = os.path.join(self.place.folder, name), self.place.path
        ours = self.target + name[len(self.run.id) :]
        known = self.resumes and os.path.isdir(left) and ours in (self.target, self.records)
        if name.endswith(OLD) and not os.path.lexists(path):
            os.rename(left, path)
            logger.info("%s: put back what a run was replacing when it died", self.place.name)
        elif known and not os.path.lexists(ours):
            # under this run's name the other does not find it, should it be alive after all
            os.rename(left, ours)
            self.kept = True
        elif name != RECORD:
            remove(left)

    def beat(self) -> None:
        """Give a sign of life."""
        with self._locked() as there:
            if there and self.is_ours:
                self._put_record(self.run.now())

    def leave(self) -> None:
        """Say that this run is over."""
        with self._locked() as there:
            if there and self.is_ours:
                self._put_record(self.run.over())

    def _put_record(self, run: Run) -> None:
        part = self.target + "-record"
        try:
            with open(part, "wb") as file:
                file.write(run.to_json())
            os.replace(part, os.path.join(self.place.folder, RECORD))
        except BaseException:
            with contextlib.suppress(OSError):
                os.remove(part)
            raise

    def store(self) -> Any:
        """The zarr store of a group."""
        return store_at(self.target, read_only=False)

    def left(self) -> Any:
        """The zarr store of a group with what a dead run has left of it."""
        return self.store()

    def discard(self) -> None:
        """Remove what a dead run has left."""
        for path in filter(os.path.lexists, (self.records, self.target)):
            remove(path)
        self.kept = False

    def write(self, content: bytes) -> None:
        """The whole content of a file."""
        with open(self.target, "wb") as file:
            file.write(content)

    def publish(self) -> None:
        """Flush it and move it into place; a group that is replaced is moved aside first, and removed with the claim.

        Once this returns neither a crash nor a power failure can undo it. If it fails, what was there is there again.
        """
        path, old = self.place.path, self.target + OLD
        replaced = os.path.lexists(path)
        is_file = not os.path.isdir(path) and not os.path.isdir(self.target)
        flush_tree(self.target)
        if replaced and not is_file:
            os.rename(path, old)
        try:
            (os.replace if is_file else os.rename)(self.target, path)
            flush_folder(os.path.dirname(os.path.abspath(path)))
        except BaseException:
            # what a file has replaced is gone
            if not os.path.lexists(self.target) and not (is_file and replaced):
                os.rename(path, self.target)
            self._put_back()
            raise

    def _put_back(self) -> None:
        """Put back what was to be replaced, if that was moved aside."""
        old = self.target + OLD
        if os.path.lexists(old) and not os.path.lexists(self.place.path):
            os.rename(old, self.place.path)

    def clean(self) -> None:
        """Remove the folder of the claim, and those above it that were made for an output that did not come."""
        with self._locked() as there:
            if there and self.is_ours:
                self._put_back()
                remove(self.place.folder)
        if not self.finished:
            for folder in reversed(self._made):
                with contextlib.suppress(OSError):  # somebody uses it by now
                    os.rmdir(folder)

    def _make_folders(self) -> None:
        """Make the folders above the place, and remember which."""
        missing, folder = [], os.path.dirname(os.path.abspath(self.place.path))
        while not os.path.lexists(folder):
            missing.append(folder)
            folder = os.path.dirname(folder)
        for folder in reversed(missing):
            os.mkdir(folder)
            self._made.append(folder)
            flush_folder(os.path.dirname(folder))


def read_whole(path: str, most: int) -> bytes:
    """A file of at most so many bytes; raises `ValueError` if it is larger, or a pipe or the like."""
    # one that nobody writes to would be waited for
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no file")
        check_size(found.st_size, most)
        return file.read()


def check_size(size: int, most: int) -> None:
    """Raise `ValueError` if that is more bytes than are read."""
    if size > most:
        raise ValueError(f"it has {size} bytes, more than {most}")


def remove(path: str) -> None:
    """Remove a file, or a folder with everything in it."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.remove(path)


def flush_tree(path: str) -> None:
    """Have a file, or a folder with everything in it, survive a power failure."""
    if not os.path.isdir(path):
        _flush(path)
        return
    folders = []
    with ThreadPoolExecutor(FLUSHED_AT_ONCE, thread_name_prefix="flush") as several:
        for folder, _, names in os.walk(path, onerror=_raise):
            folders.append(folder)
            for _ in several.map(_flush, [os.path.join(folder, name) for name in names]):
                pass
    for folder in reversed(folders):
        flush_folder(folder)


def flush_folder(path: str) -> None:
    """Have what was made or renamed in a folder survive a power failure, where the file system flushes folders."""
    try:
        _flush(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def _flush(path: str, flags: int = os.O_RDONLY) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _raise(error: OSError) -> None:
    raise error
