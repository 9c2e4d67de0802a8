"""The place of a path or URL."""

from __future__ import annotations

import os

from dgmm.data import check_url, local_path
from dgmm.store.local import LocalPlace
from dgmm.store.places import Place


def place_at(path: str | os.PathLike[str]) -> Place:
    """The place of a path or URL; ``file://`` is a path like any other."""
    name = os.fspath(path)
    local = local_path(name)
    if local is not None:
        return LocalPlace(name, local)
    check_url(name)  # obstore is an extra
    from dgmm.store.objects import ObjectPlace

    return ObjectPlace(name)
