"""Repositories of Icechunk: what ``PLACE|icechunk:@branch.main/path`` names, opened at one snapshot of it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from dgmm.errors import DgmmError, InputError

#: What stands between the place of a repository and what is wanted of it (ZEP 8).
MARK = "|icechunk:"
#: How snapshots are named.
BRANCH, TAG, SNAPSHOT = "branch", "tag", "snapshot_id"
#: The branch that every repository has.
MAIN = "main"

# It warns of every local repository, at every opening, and is told once, as it is imported: in workers by a store.
os.environ.setdefault("ICECHUNK_LOG", "error")


@dataclass(frozen=True)
class Versioned:
    """A group or an array in a repository, at a branch, a tag or a snapshot.

    Attributes
    ----------
    place : str
        Path or URL of the repository.
    kind : str
        Of the reference: branch, tag or snapshot_id.
    ref : str
    path : str
        In the repository; empty for its root.
    """

    place: str
    kind: str
    ref: str
    path: str

    @classmethod
    def of(cls, url: str | os.PathLike[str]) -> Versioned | None:
        """What a path or URL names; None if that is in no repository.

        Raises
        ------
        InputError
            If it does not say where the repository is, or names no snapshot.
        """
        place, mark, wanted = os.fspath(url).partition(MARK)
        if not mark:
            return None
        wanted = wanted.strip("/")
        at, _, path = wanted.partition("/") if wanted.startswith("@") else (f"@{BRANCH}.{MAIN}", "", wanted)
        kind, dot, ref = at[1:].partition(".")
        if not dot:
            kind, ref = SNAPSHOT, kind
        if not place.rstrip("/") or not ref or kind not in (BRANCH, TAG, SNAPSHOT):
            raise InputError(f"cannot open {url}: write PLACE|icechunk:@branch.NAME/path, @tag.NAME or @SNAPSHOT")
        return cls(place.rstrip("/") if place.strip("/") else place, kind, ref, path.strip("/"))

    @property
    def staging(self) -> str:
        """Path or URL beside the repository where what is to be committed here is made."""
        known = hashlib.sha256(f"{self.kind}.{self.ref}/{self.path}".encode()).hexdigest()
        return f"{self.place}.{known[:12]}"

    def store(self) -> Any:
        """The zarr store of what is named, to be read at the snapshot that this is now."""
        with told(f"{self.place}{MARK}@{self.ref if self.kind == SNAPSHOT else f'{self.kind}.{self.ref}'}"):
            session = self.repository().readonly_session(**{self.kind: self.ref})
            return Within(session.store, self.path)

    def repository(self, *, create: bool = False) -> Any:
        """The repository, made if it is not there and shall be."""
        with told(self.place):
            storage = self._storage()
            if not self.exists():
                if create:
                    return _icechunk().Repository.create(storage)
                raise InputError(f"no such repository of Icechunk: {self.place}")
            return _icechunk().Repository.open(storage)

    def exists(self) -> bool:
        """Whether there is a repository."""
        # asking makes a folder
        there = self.folder is None or os.path.isdir(self.folder)
        with told(self.place):
            return there and bool(_icechunk().Repository.exists(self._storage()))

    @property
    def folder(self) -> str | None:
        """The path of the repository; None if it is in an object store."""
        if "://" not in self.place:
            return self.place
        return unquote(urlsplit(self.place).path) if self.place.startswith("file://") else None

    def _storage(self) -> Any:
        if self.folder is not None:
            return _icechunk().local_filesystem_storage(self.folder)
        scheme, _, rest = self.place.partition("://")
        bucket, _, prefix = rest.partition("/")
        if scheme != "s3" or not prefix:
            raise InputError(f"cannot open {self.place}{MARK}: use a path or s3://BUCKET/PREFIX")
        found = os.environ.get
        endpoint = found("AWS_ENDPOINT_URL_S3") or found("AWS_ENDPOINT_URL") or found("AWS_ENDPOINT")
        return _icechunk().s3_storage(
            bucket=bucket,
            prefix=prefix,
            region=found("AWS_REGION") or found("AWS_DEFAULT_REGION"),
            endpoint_url=endpoint,
            allow_http=found("AWS_ALLOW_HTTP", "").lower() in ("1", "true"),
            # buckets of one's own server have no names in DNS
            force_path_style=endpoint is not None,
            from_env=True,
        )


def _icechunk() -> Any:
    """The library."""
    if importlib.util.find_spec("icechunk") is None:
        raise InputError(f"{MARK} needs icechunk: pip install dgmm[icechunk]")
    return importlib.import_module("icechunk")


@contextmanager
def told(name: str) -> Iterator[None]:
    """Say in one line, and as a user's mistake, what Icechunk says in many."""
    try:
        yield
    except (DgmmError, OSError):
        raise
    except Exception as error:
        if not is_of_icechunk(error):
            raise
        raise InputError(f"cannot open {name}: {in_a_line(error)}") from None


def is_of_icechunk(error: Exception) -> bool:
    """Whether an error is Icechunk's."""
    return any(kind.__module__.partition(".")[0] == "icechunk" for kind in type(error).__mro__)


def in_a_line(error: Exception) -> str:
    """What Icechunk says, without where in it that was."""
    lines = [re.sub(r"^\s*[x×|]\s+", "", line).strip() for line in str(error).splitlines()]
    return next(filter(None, lines), type(error).__name__)[:300]


class Within(WrapperStore[Store]):
    """What lies below a path in a store, to be read.

    Parameters
    ----------
    store : zarr.abc.store.Store
    path : str
    """

    def __init__(self, store: Store, path: str) -> None:
        super().__init__(store)
        self.path = path
        self._below = f"{path}/" if path else ""

    def _with_store(self, store: Store) -> Within:
        return Within(store, self.path)

    def __str__(self) -> str:
        return f"icechunk:{self.path}"

    def _key(self, key: str) -> str:
        return f"{self._below}{key}"

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """A value, or a part of it; None if there is none."""
        return await self._store.get(self._key(key), prototype, byte_range)

    async def get_partial_values(self, prototype: BufferPrototype, key_ranges: Any) -> list[Buffer | None]:
        """Parts of values."""
        return await self._store.get_partial_values(prototype, [(self._key(key), part) for key, part in key_ranges])

    async def exists(self, key: str) -> bool:
        """Whether there is a value."""
        return await self._store.exists(self._key(key))

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Keys that begin with a prefix."""
        async for key in self._store.list_prefix(self._key(prefix)):
            yield key.removeprefix(self._below)

    async def list(self) -> AsyncIterator[str]:
        """All keys."""
        async for key in self.list_prefix(""):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names right below a prefix."""
        async for name in self._store.list_dir(self._key(prefix).rstrip("/")):
            yield name
