"""A fold around the fold: what passes have returned is kept, and asked for first when the same work is done again.

Whatever is decided between two passes is a deterministic function of what the passes before returned, so that a record
of that, pass by pass, is all the state there is: to resume is to replay.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from dgmm.data import Samples
from dgmm.engine.fold import Fold
from dgmm.engine.leaf import Leaf
from dgmm.engine.tree import Mergeable
from dgmm.engine.workers import Workers

logger = logging.getLogger("dgmm")

#: Key of an entry that says from where a fit went on after its replay had departed.
DEPARTURE = "departure"

V = TypeVar("V", bound=Mergeable)


@dataclass(frozen=True)
class Entry:
    """What a journal holds of one pass.

    Attributes
    ----------
    key : str
        Digest of what was asked.
    value : object
        What the pass has returned.
    about : object
        What whoever goes on from it must know beside, see `Leaf.about`; None if nobody does.
    seconds : float
        What the pass took.
    reads : float
        How many times the whole source was read for it.
    """

    key: str
    value: Any
    about: Any = None
    seconds: float = 0.0
    reads: float = 0.0


class Journal(Protocol):
    """Entries in order, counted from zero."""

    def read(self, number: int) -> Entry | None:
        """An entry; None where there is none, or where it cannot be trusted: the journal ends there."""

    def write(self, number: int, entry: Entry) -> Entry:
        """Put an entry in its place, after which nothing follows any more; the entry as it will be read."""


class Departed(Exception):
    """The replay of a journal asks for something else than was asked then.

    Attributes
    ----------
    entries : tuple of Entry
        What followed in the journal.
    """

    def __init__(self, entries: tuple[Entry, ...]) -> None:
        super().__init__("a replay has departed from its journal")
        self.entries = entries


class Journaled:
    """Passes of leaves as those of a fold, the first of them from a journal, and all of them kept in it.

    Parameters
    ----------
    fold : Fold
    journal : Journal
    """

    def __init__(self, fold: Fold, journal: Journal) -> None:
        self.fold = fold
        self.journal = journal
        #: Entries that are behind, and what the passes of those that were replayed took and read.
        self._done, self._seconds, self._reads = 0, 0.0, 0.0
        self._is_replay = True

    @property
    def workers(self) -> Workers:
        """Those of the fold."""
        return self.fold.workers

    @property
    def n_reads(self) -> float:
        """How many times the whole source was read, also by those who wrote the journal."""
        return self._reads + self.fold.n_reads

    def clock(self) -> float:
        """Seconds, those included that replayed passes took when they were made."""
        return self._seconds + self.fold.clock()

    def __call__(self, leaf: Leaf[V]) -> V:
        """One pass: the value of all segments.

        Raises
        ------
        Departed
            If the journal goes on with another question than this one, and with something to go on from.
        """
        leaf = leaf.on(self.workers.device)
        key, entry = leaf.key(), self._following()
        if entry is not None and entry.key == key:
            self._done += 1
            self._seconds += entry.seconds
            self._reads += entry.reads
            return entry.value
        if entry is not None:
            self._depart(entry, leaf)
        began, before = time.perf_counter(), self.fold.n_reads
        value = self.fold(leaf)
        seconds, reads = time.perf_counter() - began, self.fold.n_reads - before
        found: V = self._write(Entry(key, value, leaf.about(), seconds, reads)).value
        return found

    def go_over(self, samples: Samples) -> None:
        """Passes to come are over samples seen in another way; see `Fold.go_over`."""
        self.fold.go_over(samples)

    def go_on_from(self, value: Any) -> Any:
        """Note in the journal from where the work goes on after a departure: replays go on from there, too."""
        return self._write(Entry(DEPARTURE, value)).value

    def _write(self, entry: Entry) -> Entry:
        found = self.journal.write(self._done, entry)
        self._done += 1
        return found

    def _following(self) -> Entry | None:
        """The entry that is to be replayed next; None once there is none."""
        entry = self.journal.read(self._done) if self._is_replay else None
        if entry is None and self._is_replay and self._done:
            logger.info("the first %d passes are those of the journal; the data are read from here on", self._done)
        self._is_replay = entry is not None
        return entry

    def _depart(self, entry: Entry, leaf: Leaf[Any]) -> None:
        """Leave the journal for good, or for where the work went on from when it was left before."""
        resumable = leaf.about() is not None
        if entry.key == DEPARTURE and resumable:
            self._done += 1
            raise Departed((entry,))
        self._is_replay = False
        logger.warning(
            "pass %d asks for something else than the journal holds: what wrote that was another release, library or "
            "processor", self._done + 1,
        )  # fmt: skip
        left, number = [entry], self._done + 1
        while (following := self.journal.read(number)) is not None:
            left.append(following)
            number += 1
        if resumable and any(each.about is not None or each.key == DEPARTURE for each in left):
            raise Departed(tuple(left))
