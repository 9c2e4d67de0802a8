"""What stays decoded in the memory of a process from one pass to the next.

Nobody may rely on it: a task that does not find a segment here reads it.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

#: One lock for all shelves; a collection may end a lease while it is held.
_lock = threading.RLock()


@dataclass
class Shelf:
    """The segments of one owner in this process.

    Attributes
    ----------
    places : list of str
        Names under which this process has leases for the owner.
    segments : dict
        Segment -> what was made of its rows (None: the rows themselves), that, and its bytes.
    """

    places: list[str] = field(default_factory=list)
    segments: dict[int, tuple[Any, Any, int]] = field(default_factory=dict)

    def __contains__(self, segment: int) -> bool:
        """Whether a segment is there now."""
        return segment in self.segments

    @property
    def nbytes(self) -> int:
        """Bytes of all segments."""
        with _lock:
            return sum(size for _, _, size in self.segments.values())

    def get(self, segment: int) -> tuple[Any, Any] | None:
        """What made it, and what is kept of a segment; None if nothing is."""
        found = self.segments.get(segment)
        return None if found is None else found[:2]

    def put(self, segment: int, made_by: Any, kept: Any, budget: int) -> bool:
        """Keep a segment, if that leaves all that this process keeps within a budget of bytes."""
        size = int(kept.nbytes)
        with _lock:
            before = self.segments.get(segment, (None, None, 0))[2]
            if not self.places or resident_bytes() - before + size > budget:
                self.segments.pop(segment, None)
                return False
            self.segments[segment] = (made_by, kept, size)
            return True

    def trim(self, budget: int) -> None:
        """Let go of the segments that came last, until what this process keeps is within a budget."""
        with _lock:
            excess = resident_bytes() - budget
            while excess > 0 and self.segments:
                excess -= self.segments.popitem()[1][2]


_shelves: dict[str, Shelf] = {}


def shelf_of(owner: str) -> Shelf | None:
    """The shelf of an owner who has a lease in this process."""
    return _shelves.get(owner)


def resident_bytes() -> int:
    """Bytes that this process keeps, for all owners together."""
    with _lock:
        return sum(shelf.nbytes for shelf in _shelves.values())


class Lease:
    """The right of an owner to keep segments in this process; they go when it does.

    In a worker process it is the result of a task: Dask lets go of it when its owner does, when the connection to
    the owner is lost, and when memory runs short. What is sent to another process is no lease any more.

    Parameters
    ----------
    owner : str
    place : str
        Name of this process; workers that share one have a name each.
    """

    def __init__(self, owner: str, place: str) -> None:
        with _lock:
            _shelves.setdefault(owner, Shelf()).places.append(place)
        self.end = weakref.finalize(self, _end, owner, place)

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Nothing, elsewhere."""
        return object, ()


def _end(owner: str, place: str) -> None:
    with _lock:
        shelf = _shelves[owner]
        shelf.places.remove(place)
        if not shelf.places:
            del _shelves[owner]
            shelf.segments.clear()
