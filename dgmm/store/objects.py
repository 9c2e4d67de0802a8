"""Places in an object store, where nothing can be moved: what makes an output of what was written comes last."""

from __future__ import annotations

from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, PreconditionError
from zarr.storage import WrapperStore

from dgmm.data import PARTIAL, RECORD, Run, again, content_of, delete, listed, object_at, store_at
from dgmm.errors import OutputExistsError
from dgmm.store.places import ROOT, Output, Place, explained
from dgmm.store.states import HEAD, State, Status, state_of_file, state_of_group

#: Beside the record of a claim, the folder of records of what was written.
RECORDS = "records"


class ObjectPlace(Place):
    """A URL.

    Attributes
    ----------
    objects : obstore store
        Of the folder in which it lies.
    key : str
        In that store: of an object, or of all that begin with it and a slash.
    record : str
        Key of the record of a claim.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.objects, self.key = object_at(name)
        self.record = f"{self.key}{PARTIAL}/{RECORD}"

    def content(self, size: int) -> bytes | None:
        """The first bytes of the object that lies here; None if there is none."""
        with explained(self.name, "look at"):
            return self.read(self.key, size)

    def found(self) -> State:
        """What lies here, claims aside."""
        head = self.read(self.key, HEAD)
        if head is not None:
            return state_of_file(head)
        found = again(self.name, lambda: obstore.list_with_delimiter(self.objects, f"{self.key}/"))
        files, folders = [last(o["path"]) for o in found["objects"]], found["common_prefixes"]
        if not files and not folders:
            return State(Status.ABSENT)
        alien = [name for name in files if name != ROOT]
        alien += [last(folder) for folder in folders if self.read(f"{self.key}/{last(folder)}/{ROOT}") is None]
        return state_of_group(self.read(f"{self.key}/{ROOT}"), alien)

    def read(self, key: str, size: int | None = None) -> bytes | None:
        """An object, or its first bytes; None if there is none."""

        def ask() -> bytes:
            length = obstore.head(self.objects, key)["size"]
            length = length if size is None else min(length, size)
            return bytes(obstore.get_range(self.objects, key, start=0, length=length)) if length else b""

        try:
            return again(self.name, ask)
        except FileNotFoundError:
            return None

    def output(self, run: Run, what: str, overwrite: bool, resumes: bool) -> Output:
        """An output to be made here."""
        return ObjectOutput(self, run, what, overwrite, resumes)


class ObjectOutput(Output):
    """An output that is written where it will lie, all but the metadata of its root."""

    place: ObjectPlace

    def __init__(self, place: ObjectPlace, run: Run, what: str, overwrite: bool, resumes: bool) -> None:
        super().__init__(place, run, what, overwrite, resumes)
        self._group: HeldBack | None = None
        self._content: bytes | None = None

    @property
    def target(self) -> str:
        """The URL itself."""
        return self.place.name

    @property
    def records(self) -> str:
        """A URL beside the record of the claim."""
        return f"{self.place.name.rstrip('/')}{PARTIAL}/{RECORDS}"

    def claim(self) -> None:
        """Take the place, over from a dead run if need be."""
        mode: Any = "create"
        while True:
            try:
                self._put(self.run, mode)
                self.kept = self.resumes and mode != "create"
                return
            except (AlreadyExistsError, PreconditionError):
                found, version = self._record()
                if found is not None and found.id == self.run.id:  # only the answer was lost
                    self.kept = self.resumes and mode != "create"
                    return
                mode = version
                if mode != "create" and found is None:
                    record = f"{self.place.name}{PARTIAL}/{RECORD}"
                    raise OutputExistsError(
                        f"{record} is in the way and was not left by dgmm: remove it yourself"
                    ) from None
                if found is not None:
                    self.refuse_claimed(found)

    def _record(self) -> tuple[Run | None, Any]:
        """Who has claimed the place, and the mode in which that very record is replaced."""
        try:
            content, meta = content_of(self.place.objects, self.place.name, self.place.record)
        except FileNotFoundError:
            return None, "create"
        version = {name: meta[name] for name in ("e_tag", "version") if meta[name] is not None}
        return Run.from_json(content), version

    def beat(self) -> None:
        """Give a sign of life."""
        self._tell(self.run.now())

    def leave(self) -> None:
        """Say that this run is over."""
        self._tell(self.run.over())

    def _put(self, run: Run, mode: Any) -> None:
        record, content = self.place.record, run.to_json()
        again(self.place.name, lambda: obstore.put(self.place.objects, record, content, mode=mode))

    def _tell(self, run: Run) -> None:
        found, mode = self._record()
        if found is not None and found.id == run.id:
            try:
                self._put(run, mode)
            except PreconditionError:  # the answer was lost, and it was said; or the claim is another's by now
                return

    def store(self) -> Any:
        """The zarr store of a group."""
        if self._group is None:
            self.writer.check()
            self.place.look(self.what, overwrite=self.overwrite)
            self._clear()
            self._group = HeldBack(store_at(self.target, read_only=False), {})
        return self._group

    def left(self) -> Any:
        """The zarr store of a group with what a dead run has left of it; it is none again until it is finished."""
        if self._group is None:
            self.writer.check()
            self._delete(f"{self.place.key}/{ROOT}")
            self._group = HeldBack(store_at(self.target, read_only=False), {})
        return self._group

    def discard(self) -> None:
        """Remove what a dead run has left: its records, as what lies at the place is deleted by `store`."""
        self._delete_below(f"{self.place.key}{PARTIAL}/{RECORDS}/")
        self.kept = False

    def _clear(self) -> None:
        """Delete what lies at the place; what makes an output of it first."""
        key = self.place.key
        self._delete(key, f"{key}/{ROOT}")
        self._delete_below(f"{key}/")

    def _delete(self, *keys: str) -> None:
        there = [key for key in keys if self.place.read(key, 1) is not None]
        delete(self.place.objects, self.place.name, there)

    def _delete_below(self, prefix: str) -> None:
        objects, name = self.place.objects, self.place.name
        delete(objects, name, [found["path"] for found in listed(objects, name, prefix)])

    def write(self, content: bytes) -> None:
        """The whole content of an object."""
        self._content = content

    def publish(self) -> None:
        """Put what is missing."""
        key = self.place.key
        if self._content is not None:
            self._publish(key, self._content)
        if self._group is not None:
            self._publish(f"{key}/{ROOT}", self._group.held[ROOT].to_bytes())

    def _publish(self, key: str, content: bytes) -> None:
        again(self.place.name, lambda: obstore.put(self.place.objects, key, content))

    def clean(self) -> None:
        """Delete what was written of an output that is given up, and the claim."""
        if not self.is_ours:
            return
        parts = self._group is not None or self.place.found().status is Status.UNFINISHED
        if not self.finished and parts:
            self._clear()
        self.discard()
        delete(self.place.objects, self.place.name, [self.place.record])


class HeldBack(WrapperStore[Any]):
    """A store that keeps the metadata of its root to itself: without them nobody else sees a group.

    Parameters
    ----------
    store : zarr.abc.store.Store
    held : dict
        The metadata, once there are any.
    """

    def __init__(self, store: Any, held: dict[str, Any]) -> None:
        super().__init__(store)
        self.held = held

    def _with_store(self, store: Any) -> HeldBack:
        return HeldBack(store, self.held)

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        """A value, None if there is none."""
        return self.held.get(key) if key == ROOT else await super().get(key, *args, **options)

    async def exists(self, key: str) -> bool:
        """Whether there is one."""
        return key in self.held if key == ROOT else await super().exists(key)

    async def set(self, key: str, value: Any, *args: Any, **options: Any) -> None:
        """Write a value."""
        if key == ROOT:
            self.held[key] = value
        else:
            await super().set(key, value, *args, **options)

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        """Write a value where there is none."""
        if key == ROOT:
            self.held.setdefault(key, value)
        else:
            await super().set_if_not_exists(key, value)


def last(key: str) -> str:
    """The last part of a key."""
    return key.rstrip("/").rpartition("/")[2]
