"""The ledger: what is to be written, said at the start, and a record of every region that was.

While scores are being written it lies beside the claim of their place: a head, and for every task a file with its
records, written aside, flushed and renamed every few seconds. What is finished holds it as a group of its own, whatever
happened on the way there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgmm.data import Grid, Samples, fingerprint
from dgmm.errors import DgmmError, OutputExistsError, one_line
from dgmm.passes import packed, unpacked
from dgmm.scoring.entries import FORMAT, MOST_BYTES, Entries, empty_table, rows_of, source_digest
from dgmm.store import (
    Output,
    Writer,
    differences,
    explained,
    folder_at,
    sealed,
    tell_of_versions,
    to_json,
    unsealed,
    writing,
)
from dgmm.types import AnyArray

logger = logging.getLogger("dgmm")

#: The file with the head, while there is no group, and the bytes that it may have.
HEAD, MOST_HEAD = "dgmm-ledger.json", 2**26
#: Seconds after which records are put into their file, and how many times longer than that took nothing is.
EVERY, RARELY = 2.0, 50


@dataclass(frozen=True)
class Recording:
    """What tasks need to put records into a ledger; travels to workers.

    Attributes
    ----------
    folder : str
        Path or URL.
    head : str
        Digest of the head.
    generation : int
        How many runs have written before, and one.
    writer : Writer
        Of the output, which says whether it is still to be written.
    """

    folder: str
    head: str
    generation: int
    writer: Writer


class Recorder:
    """The records of one task.

    Parameters
    ----------
    recording : Recording
    kind : Entries
        Of no regions, in the types of this ledger.
    first : int
        The first region of its run, by which whoever does the same again finds what was done.
    """

    def __init__(self, recording: Recording, kind: Entries, first: int) -> None:
        self.recording = recording
        self._kind = kind
        self._folder = folder_at(recording.folder)
        self._run = f"{recording.generation:08d}-{first:012d}-"
        self._name = self._run + uuid.uuid4().hex[:12]
        self._rows: list[tuple[Any, ...]] = []
        self._flushed = 0
        self._due = time.monotonic() + EVERY

    def before(self, grid: Grid) -> Entries:
        """What others have recorded of the same run in this generation: whose worker was lost."""
        names = sorted(name for name in self._folder.names() if name.startswith(self._run))
        rows = rows_of(grid) if names else np.empty(0)
        found = [read_entries(self._folder, name, self.recording.head, self._kind, rows) for name in names]
        kept = [self._kind, *(entries for entries in found if entries is not None)]
        _, places = np.unique(np.concatenate([entries.region for entries in kept]), return_index=True)
        parts = zip(*(entries.columns for entries in kept), strict=True)
        return Entries(*(np.concatenate(part)[places] for part in parts))

    def add(self, *row: Any) -> None:
        """Note a region: its number, missing rows, counts, sum of log densities and checksums."""
        self._rows.append(row)
        if time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Put all records where a crash leaves them."""
        if len(self._rows) == self._flushed:
            return
        began = time.monotonic()
        columns = [
            np.array(values, kind.dtype)
            for values, kind in zip(zip(*self._rows, strict=True), self._kind.columns, strict=True)
        ]
        content = packed({"head": self.recording.head}, columns)
        # whoever was taken for dead meanwhile must not write any more
        with writing(self.recording.writer.place):
            self.recording.writer.check()
            self._folder.put(self._name, content, replace=True)
        self._flushed = len(self._rows)
        now = time.monotonic()
        self._due = now + max(EVERY, RARELY * (now - began))


def read_entries(folder: Any, name: str, head: str, table: Entries, rows: AnyArray) -> Entries | None:
    """The records of a task; None if there are none that can be trusted."""
    try:
        content = folder.read(name, MOST_BYTES)
        if content is None:
            return None
        header, columns, _ = unpacked(content)
        if header["head"] != head or len(columns) != len(table.columns):
            raise ValueError("it belongs to another ledger")
        found = Entries(*columns)
        if not table.fit(found, rows):
            raise ValueError("its numbers are not those of regions")
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("%s/%s is damaged: its regions are scored again: %s", folder.name, name, one_line(error)[:200])
        return None
    return found


class Ledger:
    """The ledger of an output that is being written.

    Parameters
    ----------
    output : Output
    head : dict
        What is to be written, see `head_of`.
    """

    def __init__(self, output: Output, head: Mapping[str, Any]) -> None:
        self.output = output
        # as it is read again, to the order of its names
        self.head: dict[str, Any] = json.loads(to_json(head))
        self.name = output.place.name
        self.folder = folder_at(output.records)
        self._head = ""
        self._generation = 1

    def open(self) -> bool:
        """Whether there is something to go on from; what is of no use is removed.

        Raises
        ------
        OutputExistsError
            If it is of another source or model, or was asked for in another way, and is not to be replaced.
        """
        with explained(self.name, "look at"):
            found = self._stored_head()
            changed = [] if found is None else self._changed(found)
            if found is None or changed:
                if changed and not self.output.overwrite:
                    raise OutputExistsError(
                        f"{self.name} was left unfinished, and {'; '.join(changed)}: go on with those, start over "
                        "(--overwrite), or choose another place"
                    )
                self.output.discard()
                return False
            self.head = found
            self._head = hashlib.sha256(to_json(found)).hexdigest()
            names = [name for name in self.folder.names() if name != HEAD]
            self._generation = 1 + max((int(name[:8]) for name in names if name[:8].isdecimal()), default=0)
        tell_of_versions(self.name, found["versions"])
        return True

    def _stored_head(self) -> dict[str, Any] | None:
        content = self.folder.read(HEAD, MOST_HEAD) if self.output.kept else None
        if content is None:
            return None
        try:
            return unsealed(content, FORMAT)
        except ValueError as error:
            logger.warning("the ledger of %s is damaged (%s): starting over", self.name, one_line(error)[:200])
            return None

    def _changed(self, found: Mapping[str, Any]) -> list[str]:
        """In what a head differs from what is asked for, in words."""
        words = []
        if found["model"] != self.head["model"]:
            words.append(f"the model was {found['model'][:16]}, now {self.head['model'][:16]}")
        if found.get("clusters") != self.head.get("clusters"):
            ways = (head.get("clusters") for head in (found, self.head))
            was, now = ("components" if way is None else f"{max(way) + 1} clusters" for way in ways)
            words.append(f"the labels were those of {was}, now of {now}")
        if found.get("missing") != self.head.get("missing"):
            was, now = (head.get("missing", "omit") for head in (found, self.head))
            words.append(f"missing was {was}, now {now}")
        before, now = (source_digest(head) for head in (found, self.head))
        if before != now:
            what = ", ".join(sorted(text.split(" was ")[0] for text in self._source_changes(found)))
            words.append(f"the source was {before[:16]}, now {now[:16]} ({what})")
        for name in ("shape", "segment", "arrays"):
            if before == now and found[name] != self.head[name] and not (words and name == "arrays"):
                words.append(f"its {name} were {found[name]}, now {self.head[name]}")
        return words

    def _source_changes(self, found: Mapping[str, Any]) -> list[str]:
        return differences(found["source"], self.head["source"])

    def begin(self) -> None:
        """Say what is to be written."""
        self.folder.make()
        with writing(self.name):
            self.folder.put(HEAD, sealed(self.head), replace=True)
        self._head = hashlib.sha256(to_json(self.head)).hexdigest()

    def note(self, entries: Entries) -> None:
        """Record regions that nobody has scored for this output: they were there."""
        name = f"{0:08d}-{int(entries.region[0]):012d}-{uuid.uuid4().hex[:12]}"
        with writing(self.name):
            self.output.writer.check()
            self.folder.put(name, packed({"head": self._head}, list(entries.columns)))

    def check_source(self, samples: Samples) -> None:
        """Raise `DgmmError` if the source was changed while it was scored; arrays in memory are not looked at again."""
        now = self.head["source"] if samples.in_memory else fingerprint(samples)
        if now != self.head["source"]:
            before = source_digest(self.head)
            raise DgmmError(
                f"{samples.name} was changed while it was scored: it was {before[:16]}, and is "
                f"{source_digest({'source': now})[:16]} now; start over (--overwrite) when nobody writes to it"
            )

    @property
    def recording(self) -> Recording:
        """What tasks need."""
        return Recording(self.output.records, self._head, self._generation, self.output.writer)

    def load(self) -> tuple[Entries, AnyArray]:
        """Entries of all regions, and which of them there are."""
        table, rows = empty_table(self.head)
        known = np.zeros(len(rows), dtype=bool)
        with explained(self.name, "look at"):
            for name in sorted(self.folder.names()):
                found = None if name == HEAD else read_entries(self.folder, name, self._head, table, rows)
                if found is not None:
                    table.put(found.region, found)
                    known[found.region] = True
        return table, known
