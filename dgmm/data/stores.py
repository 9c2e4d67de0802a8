"""Where Zarr stores lie: paths and URLs, how they are opened, and who is writing one."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import zarr

from dgmm.data.chunks import Watched, wait_for_others
from dgmm.data.codecs import bounded, check_array, unreadable
from dgmm.data.paths import LocalStore, read_bytes
from dgmm.data.repositories import Versioned
from dgmm.data.retries import RETRIES, Patient, content_of
from dgmm.data.runs import Run
from dgmm.errors import InputError, first_line, is_of_obstore, one_line, without_secrets
from dgmm.waits import Patience

#: Where Zarr stores may be, beside local paths.
SCHEMES = ("s3", "gs", "az", "https", "http", "file")
#: Those that are only read from, file by file: nothing can be listed there.
READ_ONLY = ("https", "http")
#: How the variables of the environment begin that are settings of an object store.
PREFIXES = {"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_"}
#: What may be said of an object store beside the environment, and what obstore calls it. None of it is a secret.
STORAGE = {"anonymous": "skip_signature", "region": "region", "endpoint": "endpoint"}
#: How long object stores are waited for, unless the environment says otherwise (AWS_READ_TIMEOUT and so on): for a
#: connection, for the next bytes (or for the answer, while something is sent), and for a whole object, which may be
#: large and the line slow.
TIMEOUTS = {"connect_timeout": "5s", "read_timeout": "30s", "timeout": "10min"}
#: What obstore finds in the environment by itself, but not beside settings that it is given.
CLIENT_OPTIONS = (
    *TIMEOUTS, "allow_http", "allow_invalid_certificates", "default_content_type", "http1_only", "http2_only",
    "http2_keep_alive_interval", "http2_keep_alive_timeout", "http2_keep_alive_while_idle", "pool_idle_timeout",
    "pool_max_idle_per_host", "proxy_ca_certificate", "proxy_excludes", "proxy_url", "randomize_addresses",
    "root_certificate", "user_agent",
)  # fmt: skip

#: Suffix of the folder beside an output in which it is claimed and made, the record in it of who does, and its bytes.
PARTIAL, RECORD, MOST_RECORD = ".partial", "dgmm-run.json", 2**16


def open_store(
    source: str | os.PathLike[str], *, watched: bool = False, storage: Mapping[str, Any] | None = None
) -> zarr.Array[Any] | zarr.Group:
    """Open a Zarr store for reading; `watched` if what is not a local file shall go through `Watched`."""
    place = store_at(source, read_only=True, storage=storage)
    if watched and not isinstance(place, LocalStore):
        place = Watched(place)
    with obstore_errors(source), awaited(source), bounded():
        try:
            opened = zarr.open(place, mode="r")
            attributes: Any = opened.metadata.attributes
            if not isinstance(attributes, dict):
                raise ValueError("its attributes are no mapping")
            if isinstance(opened, zarr.Array):
                check_array(opened, os.fspath(source))
            return opened
        except InputError:
            raise
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(f"{source} is not a Zarr store{unfinished(source)}: {one_line(error)}") from None
        except OSError:
            raise
        except Exception as error:  # whatever metadata that are damaged lead to
            if is_of_obstore(error):
                raise
            raise unreadable(os.fspath(source), f"is not a Zarr store{unfinished(source)}", error) from None


def members(group: zarr.Group, name: str) -> dict[str, zarr.Array[Any]]:
    """The arrays of a group by their names, each such that it may be read; `name` is that of the store.

    Raises
    ------
    InputError
        If the metadata of one speak of what no array has.
    """
    with bounded():
        found = dict(group.arrays())
    for each, array in found.items():
        check_array(array, f"{each} in {name}")
    return found


def check_names(source: str, names: Iterable[Hashable]) -> None:
    """Raise `InputError` for names of a source's that no array of a group can have: they would be lost below it."""
    for name in map(str, names):
        if {"/", "\\"} & {*name} or name in ("", ".", "..", "zarr.json"):
            raise InputError(
                f"{name!r} of {source} cannot be the name of an array in a Zarr store, where / stands between groups: "
                "rename it"
            )


@contextmanager
def obstore_errors(url: str | os.PathLike[str]) -> Iterator[None]:
    """Say in one line what obstore says in many."""
    try:
        yield
    except Exception as error:
        if is_of_obstore(error):
            wait_for_others()
            raise InputError(f"cannot open {url}: {first_line(error)}") from None
        raise


def awaited(place: str | os.PathLike[str]) -> Patience:
    """Context in which a path or URL is asked for something."""
    return Patience(lambda: f"{os.fspath(place)} to answer")


def store_at(source: str | os.PathLike[str], *, read_only: bool, storage: Mapping[str, Any] | None = None) -> Any:
    """The zarr store of a path or URL; for reading it must exist. How a URL is reached is known from `STORAGE`."""
    url = os.fspath(source)
    within = Versioned.of(url)
    if within is not None:
        if not read_only:
            raise InputError(f"{url} is not written to but in a commit")
        if within.folder is None:
            check_url(within.place)
        return within.store()
    path = local_path(url)
    if path is not None:
        if storage:
            raise InputError(f"storage ({', '.join(storage)}) is for URLs, and {url} is a path: leave it out")
        if read_only and not os.path.exists(path):
            raise InputError(f"no such store: {url}{unfinished(url)}")
        return LocalStore(path, read_only=True) if read_only else path
    check_url(url)
    import obstore.store

    retries: Any = RETRIES
    scheme = url.split("://")[0]
    if scheme in READ_ONLY and not read_only:
        raise InputError(f"cannot write to {url}: name a path or one of {_urls(set(SCHEMES) - set(READ_ONLY))}")
    options: Any = client_options(scheme)
    config: Any = storage_config(url, storage)
    if str(config.get("endpoint", url)).startswith("http://"):
        options["allow_http"] = "true"
    with obstore_errors(url):
        more = {"config": config} if config else {}
        objects = obstore.store.from_url(url, client_options=options, retry_config=retries, **more)
        return Patient(objects, read_only=read_only)


def storage_config(url: str, storage: Mapping[str, Any] | None) -> dict[str, Any]:
    """What obstore is told of an object store beside the environment.

    Raises
    ------
    InputError
        If something else is asked for: that may be a secret, and what is asked for is written into outputs.
    """
    asked = {name: value for name, value in (storage or {}).items() if value is not None}
    scheme = url.split("://")[0]
    known = {"s3": STORAGE, "az": {"anonymous", "endpoint"}, "gs": {"anonymous"}}.get(scheme, {})
    wrong = sorted(set(asked) - set(known))
    if wrong:
        raise InputError(
            f"storage.{wrong[0]} is not for {scheme}://: it takes {', '.join(sorted(known)) or 'nothing'}; keys and "
            "other secrets are taken from the environment (AWS_..., GOOGLE_..., AZURE_...)"
        )
    if not isinstance(asked.get("anonymous", True), bool):
        raise InputError("storage.anonymous is true or false")
    for name in {"region", "endpoint"} & asked.keys():
        # a value that is none is not shown: it may be a secret in the wrong place
        if not isinstance(asked[name], str) or without_secrets(asked[name]) != asked[name]:
            raise InputError(f"storage.{name} is a text without a password, such as https://host:9000")
    return {STORAGE[name]: value for name, value in asked.items()}


def client_options(scheme: str) -> dict[str, str]:
    """How the object stores of a scheme are talked to: with time limits, and as the environment says."""
    prefix = PREFIXES.get(scheme)
    names = CLIENT_OPTIONS if prefix else ()
    found = {name: os.environ.get(f"{prefix}{name.upper()}") for name in names}
    return TIMEOUTS | {name: value for name, value in found.items() if value is not None}


def check_url(url: str) -> None:
    """Raise `InputError` if this is no URL that can be opened, or obstore, which does, is not installed."""
    if (without := without_secrets(url)) != url:
        raise InputError(
            f"cannot open {without}: a URL is written into logs and outputs, so that passwords and signatures are not "
            "taken from it; give them in the environment (AWS_..., GOOGLE_..., AZURE_...)"
        )
    if url.split("://")[0] not in SCHEMES or "::" in url:
        raise InputError(f"cannot open {url}: use a path or one of {_urls(SCHEMES)}")
    if importlib.util.find_spec("obstore") is None:
        raise InputError(f"{url} needs obstore: pip install dgmm[cloud]")


def _urls(schemes: Iterable[str]) -> str:
    return ", ".join(f"{scheme}://" for scheme in SCHEMES if scheme in schemes)


def is_listed(place: str | os.PathLike[str]) -> bool:
    """Whether what lies at a path or URL can be listed: not where files are only handed out by their names."""
    return os.fspath(place).split("://")[0] not in READ_ONLY or "://" not in os.fspath(place)


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


def object_at(url: str, storage: Mapping[str, Any] | None = None, *, read_only: bool = False) -> tuple[Any, str]:
    """The obstore store and the key in it of a URL; the store is that of the folder."""
    scheme, _, rest = url.partition("://")
    parts = [part for part in rest.split("/") if part]
    if len(parts) < 2:
        raise InputError(f"{url} is a whole bucket: name a place within it")
    folder = store_at(f"{scheme}://{'/'.join(parts[:-1])}", read_only=read_only, storage=storage)
    return folder.store, parts[-1]


def record_of(place: str | os.PathLike[str]) -> Run | None:
    """The run that has claimed a path or URL for its output and not finished; None if there is none."""
    within = Versioned.of(place)
    place = place if within is None else within.staging
    path = local_path(place)
    if not is_listed(place):  # nobody writes there
        return None
    try:
        if path is not None:
            return Run.from_json(read_bytes(os.path.join(path.rstrip("/") + PARTIAL, RECORD), MOST_RECORD))
        objects, key = object_at(os.fspath(place))
        return Run.from_json(content_of(objects, os.fspath(place), f"{key}{PARTIAL}/{RECORD}")[0])
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
