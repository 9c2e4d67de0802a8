"""What lies at a path or URL, and the one way to put something there; nothing else deletes.

An output is claimed before the work on it begins, by a record in a folder beside its place (``OUT.partial``), so that
two runs never write the same one. At a path it is made in that folder and moved when it is complete; at a URL it is
written where it will lie, but what makes a Zarr group of it comes last. Either way it appears as a whole.
"""

import os

from dgmm.data import check_url, local_path
from dgmm.places.base import Output, Place, State, Status, Writer, overlap
from dgmm.places.local import LocalPlace

__all__ = ["Output", "Place", "State", "Status", "Writer", "overlap", "place_at"]


def place_at(path: str | os.PathLike[str]) -> Place:
    """The place of a path or URL; ``file://`` is a path like any other."""
    name = os.fspath(path)
    local = local_path(name)
    if local is not None:
        return LocalPlace(name, local)
    check_url(name)  # obstore is an extra
    from dgmm.places.objects import ObjectPlace

    return ObjectPlace(name)
