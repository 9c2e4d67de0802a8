"""The place of a path or URL, and of what an alias in a registry of models stands for."""

from __future__ import annotations

import json
import os
import re

from dgmm.data import Versioned, check_url, local_path
from dgmm.errors import InputError
from dgmm.store.commits import LocalCommitPlace, check_branch
from dgmm.store.local import LocalPlace
from dgmm.store.places import Place

#: The model of a version, in its folder.
MODEL_OF_VERSION = "model.zarr"
#: What is in use; its file says too what was before, so that both change at once.
CHAMPION, PREVIOUS = "champion", "previous"
#: The names of versions, and of aliases of them.
VERSION = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,63}")
#: Bytes of the file of an alias, which says why, too.
MOST_ALIAS = 2**20


def place_at(path: str | os.PathLike[str]) -> Place:
    """The place of a path or URL; ``file://`` is a path like any other."""
    name = os.fspath(path)
    within = Versioned.of(name)
    if within is not None:
        check_branch(name, within)
        if within.folder is not None:
            return LocalCommitPlace(name, within)
        check_url(within.place)
        from dgmm.store.bucket_commits import BucketCommitPlace

        return BucketCommitPlace(name, within)
    local = local_path(name)
    if local is not None:
        return LocalPlace(name, local)
    check_url(name)  # obstore is an extra
    from dgmm.store.objects import ObjectPlace

    return ObjectPlace(name)


def model_at(path: str | os.PathLike[str]) -> str:
    """The path or URL of a model, also where it is named by a version or an alias: ``models/NAME@champion``.

    Raises
    ------
    InputError
        If there is no such alias, or what it holds is no version's name.
    """
    name = os.fspath(path)
    folder, at, wanted = name.rpartition("@")
    # the last part of a path, and not what comes before a host
    within = "/" in folder.partition("://")[2] if "://" in folder else True
    if not at or not within or "/" in wanted or not (VERSION.fullmatch(wanted) or ALIAS.fullmatch(wanted)):
        return name
    version = wanted if VERSION.fullmatch(wanted) else version_of(folder, wanted)
    if version is None:
        raise InputError(f"no {wanted} in the registry {folder}: dgmm models list {folder} says what there is")
    return f"{folder}/{version}/{MODEL_OF_VERSION}"


def version_of(folder: str, alias: str) -> str | None:
    """The version that an alias stands for; None if there is no such alias."""
    file, field = (CHAMPION, PREVIOUS) if alias == PREVIOUS else (alias, "version")
    content = place_at(f"{folder}/{file}").content(MOST_ALIAS)
    if content is None:
        return None
    try:
        version = json.loads(content)[field]
        if version is None and alias == PREVIOUS:
            return None
        if not VERSION.fullmatch(version):
            raise ValueError(version)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(
            f"{folder}/{file} is damaged: it names no version; promote one (dgmm models promote)"
        ) from None
    return str(version)
