"""Where Zarr stores lie: paths and URLs, how they are opened, and who is writing one."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import zarr
import zarr.storage

from dgmm.data.chunks import Watched
from dgmm.data.runs import Run
from dgmm.errors import InputError, one_line

#: Where Zarr stores may be, beside local paths.
SCHEMES = ("s3", "gs", "az", "file")
#: Suffix of the folder beside an output in which it is claimed and made, and the record in it of who does.
PARTIAL, RECORD = ".partial", "dgmm-run.json"


def open_store(source: str | os.PathLike[str], *, watched: bool = False) -> zarr.Array[Any] | zarr.Group:
    """Open a Zarr store for reading; `watched` if what is not a local file shall go through `Watched`."""
    place = store_at(source, read_only=True)
    if watched and not isinstance(place, str):
        place = Watched(place)
    with _obstore_errors(source):
        try:
            opened = zarr.open(place, mode="r")
            attributes: Any = opened.metadata.attributes
            if not isinstance(attributes, dict):
                raise ValueError("its attributes are no mapping")
            return opened
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(f"{source} is not a Zarr store{unfinished(source)}: {one_line(error)}") from None
        except OSError:
            raise
        except Exception as error:  # whatever metadata that are damaged lead to
            if type(error).__module__.startswith("obstore"):
                raise
            raise InputError(f"{source} is not a Zarr store{unfinished(source)}: {one_line(error)}") from None


@contextmanager
def _obstore_errors(url: str | os.PathLike[str]) -> Iterator[None]:
    """Say in one line what obstore says in many."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.startswith("obstore"):
            raise InputError(f"cannot open {url}: {str(error).strip().splitlines()[0]}") from None
        raise


def store_at(source: str | os.PathLike[str], *, read_only: bool) -> Any:
    """The zarr store of a path or URL; for reading it must exist."""
    url = os.fspath(source)
    path = local_path(url)
    if path is not None:
        if read_only and not os.path.exists(path):
            raise InputError(f"no such store: {url}{unfinished(url)}")
        return path
    check_url(url)
    import obstore.store

    with _obstore_errors(url):
        return zarr.storage.ObjectStore(obstore.store.from_url(url), read_only=read_only)


def check_url(url: str) -> None:
    """Raise `InputError` if this is no URL that can be opened, or obstore, which does, is not installed."""
    if url.split("://")[0] not in SCHEMES or "::" in url:
        raise InputError(f"cannot open {url}: use a path or one of {', '.join(s + '://' for s in SCHEMES)}")
    if importlib.util.find_spec("obstore") is None:
        raise InputError(f"{url} needs obstore: pip install dgmm[cloud]")


def local_path(place: str | os.PathLike[str]) -> str | None:
    """A path as it is, and that of a ``file://`` URL; None for any other URL."""
    url = os.fspath(place)
    if "://" not in url:
        return url
    if not url.startswith("file://"):
        return None
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise InputError(f"cannot open {url}: it names a host; use file:///path")
    return unquote(parts.path)


def object_at(url: str) -> tuple[Any, str]:
    """The obstore store and the key in it of a URL; the store is that of the folder."""
    scheme, _, rest = url.partition("://")
    parts = [part for part in rest.split("/") if part]
    if len(parts) < 2:
        raise InputError(f"{url} is a whole bucket: name a place within it")
    folder = store_at(f"{scheme}://{'/'.join(parts[:-1])}", read_only=False)
    return folder.store, parts[-1]


def record_of(place: str | os.PathLike[str]) -> Run | None:
    """The run that has claimed a path or URL for its output and not finished; None if there is none."""
    path = local_path(place)
    try:
        if path is not None:
            with open(os.path.join(path.rstrip("/") + PARTIAL, RECORD), "rb") as file:
                return Run.from_json(file.read())
        import obstore

        objects, key = object_at(os.fspath(place))
        return Run.from_json(bytes(obstore.get(objects, f"{key}{PARTIAL}/{RECORD}").bytes()))
    except (FileNotFoundError, NotADirectoryError):
        return None


def unfinished(place: str | os.PathLike[str]) -> str:
    """What to add to the news that nothing lies at a place: who is making it, or has died over it."""
    try:
        run = record_of(place)
    except Exception:  # it is only a remark
        return ""
    if run is None:
        return ""
    return f" ({run} {'is writing it' if run.alive else 'has died and left it unfinished'})"
