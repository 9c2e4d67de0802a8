"""Places in a repository of Icechunk: what is written there is made beside it, and comes to be in one commit."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from zarr.core.buffer import cpu, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from dgmm.data import Run, Versioned, in_a_line, is_of_icechunk, local_path
from dgmm.errors import DgmmError, InputError
from dgmm.store.local import LocalOutput, LocalPlace
from dgmm.store.places import ROOT, Output
from dgmm.store.states import State, Status, state_of_group

T = TypeVar("T")

#: What may be written into a repository.
KINDS = ("scores", "predictions", "samples", "example")
#: Items that are worked on at a time.
AT_ONCE = 8
#: What makes a group of nothing but what is below it.
GROUP = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}).encode()


def check_branch(name: str, within: Versioned) -> None:
    """Raise `InputError` if nothing can be committed there."""
    if within.kind != "branch" or not within.path:
        raise InputError(f"cannot write {name}: name a branch, and a path in it (PLACE|icechunk:@branch.main/path)")


def found_in(within: Versioned) -> State:
    """What lies on the branch now, claims aside."""
    if not within.exists():
        folder = within.folder
        strange = folder is not None and os.path.lexists(folder) and (not os.path.isdir(folder) or os.listdir(folder))
        detail = f"cannot be made: {folder} is no repository of Icechunk"
        return State(Status.STRANGE, detail=detail) if strange else State(Status.ABSENT)
    store = within.store()

    async def look() -> tuple[bytes | None, list[str]]:
        root = await store.get(ROOT, default_buffer_prototype())
        names = [name async for name in store.list_dir("")]
        alien = [name for name in names if name != ROOT and not await store.exists(f"{name}/{ROOT}")]
        return None if root is None else root.to_bytes(), alien

    root, alien = sync(look())
    return State(Status.ABSENT) if root is None and not alien else state_of_group(root, alien)


def commit(name: str, within: Versioned, source: Any, output: Output) -> str:
    """Copy a group into a repository, in the place of what is there, in one commit; the snapshot that this makes.

    Parameters
    ----------
    name : str
        What the output is called.
    within : Versioned
    source : zarr.abc.store.Store
        Of the group.
    output : Output
        Says whether it is still to be written.
    """
    try:
        repository = within.repository(create=True)
        import icechunk

        session = repository.writable_session(within.ref)
        about = sync(_copy(source, session.store, within.path))
        output.writer.check()
        # what others have committed meanwhile elsewhere in the repository stays
        return str(
            session.commit(
                message_of(about, output.what),
                {"dgmm_run": output.run.id, "model": str(about.get("model", ""))},
                rebase_with=icechunk.ConflictDetector(),
            )
        )
    except Exception as error:
        if not isinstance(error, InputError) and not is_of_icechunk(error):
            raise
        # no mistake of who asked for it: what was made is kept for the next try
        raise DgmmError(f"{name} cannot be committed: {in_a_line(error)}; run the same again") from error


def message_of(about: dict[str, Any], what: str) -> str:
    """What a commit says: what it is, of which data, by which model."""
    title, model = about.get("title", what), str(about.get("model", ""))[:16]
    source = f" on {about['source']}" if "source" in about else ""
    return f"{title}{source}" + (f" (model {model})" if model else "")


async def _copy(source: Any, target: Any, path: str) -> dict[str, Any]:
    """Copy all that is in a store below a path of another, as it is, a few values at a time; attributes of the root."""
    prototype = default_buffer_prototype()
    parts = path.split("/")
    for parent in ("/".join(parts[:i]) for i in range(len(parts))):
        key = f"{parent}/{ROOT}".lstrip("/")
        if not await target.exists(key):
            await target.set(key, cpu.Buffer.from_bytes(GROUP))
    await target.delete_dir(path)
    keys = {ROOT} | {key async for key in source.list_prefix("")}
    # metadata before the chunks of an array, groups before what is in them
    metadata = sorted((key for key in keys if key.endswith(ROOT)), key=lambda key: key.count("/"))
    for key in metadata:
        await target.set(f"{path}/{key}", await source.get(key, prototype))

    async def copy(key: str) -> None:
        await target.set(f"{path}/{key}", await source.get(key, prototype))

    await for_each(sorted(keys - {*metadata}), copy)
    root = await source.get(ROOT, prototype)
    return dict(json.loads(root.to_bytes())["attributes"])


async def for_each(items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Do something with each item, a few at a time."""
    left = iter(items)

    async def some() -> None:
        for item in left:
            await work(item)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))


def check_kind(name: str, what: str) -> None:
    """Raise `InputError` if this is not written into a repository."""
    if what not in KINDS:
        raise InputError(f"a {what} is not written into a repository of Icechunk ({name}): name a path or a URL")


class OnBranch:
    """What places on branches have in common, wherever the repository is."""

    within: Versioned

    def content(self, size: int) -> bytes | None:
        """Nothing: there are no files in a repository."""
        return None

    def found(self) -> State:
        """What lies on the branch, claims aside."""
        return found_in(self.within)


class LocalCommitPlace(OnBranch, LocalPlace):
    """On a branch of a repository on a file system."""

    def __init__(self, name: str, within: Versioned) -> None:
        super().__init__(name, str(local_path(within.staging)))
        self.within = within

    def output(self, run: Run, what: str, overwrite: bool, resumes: bool) -> Output:
        """An output to be made beside the repository."""
        check_kind(self.name, what)
        return LocalCommitOutput(self, run, what, overwrite, resumes)


class LocalCommitOutput(LocalOutput):
    """An output that is made in the folder of its claim, and committed."""

    place: LocalCommitPlace

    def publish(self) -> None:
        """Commit it; what was made is removed with the claim."""
        source = LocalStore(self.target, read_only=True)
        commit(self.place.name, self.place.within, source, self)
