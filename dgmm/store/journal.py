"""A journal on disk: one file for each pass, chained by digests, arrays and JSON."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from functools import cache
from typing import Any

from dgmm.data import awaited
from dgmm.engine import Entry
from dgmm.errors import (
    CollapseError,
    DgmmError,
    InputError,
    OutputError,
    OutputExistsError,
    first_line,
    is_of_obstore,
    one_line,
)
from dgmm.passes import from_parts, packed, to_parts, unpacked
from dgmm.store.at import place_at
from dgmm.store.folders import Folder, folder_at
from dgmm.store.places import Output, explained, unwritten
from dgmm.store.states import JOURNAL_HEAD
from dgmm.types import AnyArray

logger = logging.getLogger("dgmm")

#: Suffix of the journal beside an output.
JOURNAL = ".journal"
FORMAT = "dgmm-journal-1"
#: Bytes that a record and the head of a journal may have.
MOST_BYTES, MOST_HEAD = 4 * 2**30, 2**24
#: The longest value of a setting that is shown.
MOST_SHOWN = 60
#: What code that is given what it never gave itself fails with; sealed records are taken for what they say they are.
UNFOUNDED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, MemoryError)
#: What the bits of a result depend on, beside the data and the settings.
LIBRARIES = ("dgmm", "numpy", "scipy", "numba", "scikit-learn")


class Records:
    """The entries of a journal, for the run that has claimed it.

    Parameters
    ----------
    output : Output
        The claim.
    source, settings : mapping
        What tells whether they are still the same; see `dgmm.data.fingerprint`.
    """

    def __init__(self, output: Output, source: Mapping[str, str], settings: Mapping[str, Any]) -> None:
        self.name = output.place.name
        self.output = output
        self.folder: Folder = folder_at(self.name)
        self._expected = {"source": dict(source), "settings": json.loads(json.dumps(settings))}
        #: Of the head, and of every record that was read or written.
        self._digests: list[str] = []
        self._stored = 0
        #: How many were read.
        self.n_read = 0

    @property
    def n_kept(self) -> int:
        """How many entries there are to go on from."""
        return max(len(self._digests) - 1, self._stored)

    def open(self) -> None:
        """Look for what an earlier run has left.

        Raises
        ------
        OutputExistsError
            If it was made from other data, or with other settings.
        """
        with explained(self.name, "look at"):
            head = self._head()
            if head is None:
                return
            for what, advice in (("source", "its data have changed"), ("settings", "it was made with other settings")):
                changed = differences(head[what], self._expected[what])
                if changed:
                    raise OutputExistsError(
                        f"{self.name} is the journal of a fit that has not ended, and {advice} ({'; '.join(changed)}): "
                        "go on with those, start over (--overwrite, or remove it), or choose another place"
                    )
            self._stored = sum(name.isdigit() for name in self.folder.names())
        if self._stored:
            logger.info("%s: going on after %d passes", self.name, self._stored)
        tell_of_versions(self.name, head["versions"])

    def _head(self) -> dict[str, Any] | None:
        """The head of the journal; None if there is none, or it is of no use and was removed."""
        content = None
        try:
            content = self.folder.read(JOURNAL_HEAD, MOST_HEAD)
            if content is None:
                return None
            head = unsealed(content, FORMAT)
        except ValueError as error:
            logger.warning("%s is damaged (%s): starting over", self.name, one_line(error)[:200])
            self.remove()
            return None
        self._digests = [hashlib.sha256(content).hexdigest()]
        return head

    def read(self, number: int) -> Entry | None:
        """An entry; None where the journal ends."""
        if number >= len(self._digests):
            return None
        try:
            content = self.folder.read(file_of(number), MOST_BYTES)
            if content is None:
                return None
            header, arrays, digest = unpacked(content)
            if header["before"] != self._digests[number]:
                raise ValueError("it does not follow the one before")
            entry = entry_of(header["entry"], arrays)
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("%s ends before record %d: %s", self.name, number + 1, one_line(error)[:200])
            return None
        self._digests[number + 1 :] = [digest]
        self.n_read += 1
        return entry

    def write(self, number: int, entry: Entry) -> Entry:
        """Put an entry in its place, the last one; it as it will be read."""
        try:
            with awaited(self.name):
                content = self._put(number, entry)
        except Exception as error:
            if isinstance(error, OSError) or is_of_obstore(error):
                raise unwritten(f"the journal {self.name}", error) from error
            raise
        read, arrays, digest = unpacked(content)
        self._digests[number + 1 :] = [digest]
        self._stored = number + 1
        return entry_of(read["entry"], arrays)

    def _put(self, number: int, entry: Entry) -> bytes:
        # whoever was taken for dead meanwhile must not write any more
        self.output.writer.check()
        if not self._digests:
            self._begin()
        tree, arrays = to_parts([getattr(entry, field.name) for field in fields(Entry)])
        header = {"before": self._digests[number], "run": self.output.run.id, "entry": tree}
        content = packed(header, arrays)
        self.folder.put(file_of(number), content, replace=number < self._stored)
        if number + 1 < self._stored:
            self.folder.delete([file_of(n) for n in reversed(range(number + 1, self._stored))])
        return content

    def _begin(self) -> None:
        begun = datetime.now(UTC).isoformat(timespec="seconds")
        head = {"format": FORMAT, "run": str(self.output.run), "begun": begun, "versions": versions(), **self._expected}
        content = sealed(head)
        self.folder.begin(JOURNAL_HEAD, content, self.output)
        self._digests = [hashlib.sha256(content).hexdigest()]

    def forget(self) -> None:
        """Delete it, as what it is of is there; say so where that cannot be done."""
        try:
            with awaited(self.name):
                self.remove()
        except Exception as error:
            if not isinstance(error, OSError) and not is_of_obstore(error):
                raise
            logger.warning("%s is of no use any more, and cannot be removed: %s", self.name, first_line(error)[:200])

    def remove(self) -> None:
        """Delete it."""
        if self.folder.names():
            self.folder.remove(JOURNAL_HEAD, self.output)
        self._digests, self._stored = [], 0


@contextmanager
def journal_at(
    path: str | os.PathLike[str],
    source: Mapping[str, str],
    settings: Mapping[str, Any],
    *,
    overwrite: bool = False,
    keep: bool = False,
    supersede: bool = False,
    inputs: Iterable[str | os.PathLike[str]] = (),
) -> Iterator[Records]:
    """Context of the journal of one fit: removed when the fit has ended, kept when it has not.

    Parameters
    ----------
    path : path or URL
    source : mapping
        Fingerprint of the data.
    settings : mapping
        All that the fit depends on beside them, as JSON has it.
    overwrite : bool
        Start over, whatever is there.
    keep : bool
        Keep the journal of a fit that has ended, too.
    supersede : bool
        Start over where the journal there is of other data or settings.
    inputs : iterable of paths and URLs
        Where it must not lie.

    Raises
    ------
    OutputExistsError
        If the journal there is of other data or settings, or another run writes it, or something else lies there.
    """
    with place_at(path).begin("journal", overwrite=True, inputs=inputs) as output:
        records = Records(output, source, settings)
        if overwrite:
            with explained(records.name, "write to"):
                records.remove()
        try:
            records.open()
        except OutputExistsError as error:
            if not supersede:
                raise
            logger.info("%s: starting over", error)
            with explained(records.name, "write to"):
                records.remove()
        try:
            yield records
        except OutputError:
            raise
        except (CollapseError, InputError):  # that is what the fit has come to, and would again
            records.forget()
            raise
        except KeyboardInterrupt as interrupt:
            if records.n_kept:
                interrupt.add_note(f"the same command again goes on after pass {records.n_kept}")
            raise
        except Exception as error:
            if records.n_read and isinstance(error, UNFOUNDED) and not isinstance(error, DgmmError):
                raise OutputError(
                    f"{records.name} holds what no fit comes to ({type(error).__name__}: {one_line(error)[:200]}): "
                    "start over (--overwrite, or remove it)"
                ) from error
            if records.n_kept:
                logger.warning("%d passes are kept in %s: the same again goes on from there",
                               records.n_kept, records.name)  # fmt: skip
            raise
        if not keep:
            records.forget()


def file_of(number: int) -> str:
    """Name of the file of an entry."""
    return f"{number + 1:08d}"


def to_json(value: Any) -> bytes:
    """As it is hashed and stored."""
    return json.dumps(value, sort_keys=True, allow_nan=False).encode()


def sealed(head: Mapping[str, Any]) -> bytes:
    """The head of a series of records as it is stored, with a checksum."""
    return to_json({**head, "checksum": hashlib.sha256(to_json(head)).hexdigest()})


def unsealed(content: bytes, kind: str) -> dict[str, Any]:
    """Inverse of `sealed`; raises `ValueError` if it is no head of this format, or was damaged."""
    try:
        head: dict[str, Any] = json.loads(content)
        told = head.pop("checksum")
        if head["format"] != kind or told != hashlib.sha256(to_json(head)).hexdigest():
            raise ValueError("its checksum is another")
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(one_line(error)) from None
    return head


def versions() -> dict[str, str]:
    """Of what bits may depend on."""
    return dict(_versions())


def tell_of_versions(name: str, before: Mapping[str, str]) -> None:
    """Say in what the versions of an earlier run, which may have been of another release, are others than these."""
    for library, version in before.items():
        now = versions().get(library, "unknown")
        if now != version:
            logger.info("%s: %s was %s, and is %s now", name, library, version, now)


@cache
def _versions() -> dict[str, str]:
    """Read once: what libraries say of themselves takes as long as a small journal."""
    found = {"python": platform.python_version(), "processor": platform.machine()}
    return found | {library: importlib.metadata.version(library) for library in LIBRARIES}


def differences(before: Mapping[str, Any], now: Mapping[str, Any], within: str = "") -> list[str]:
    """What is not the same in two mappings, in words."""
    found = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{within}{name}.")
        elif old != new:
            texts = [json.dumps(value) for value in (old, new)]
            short = max(map(len, texts)) <= MOST_SHOWN
            found.append(f"{within}{name} was {texts[0]}, now {texts[1]}" if short else within + name)
    return found


def entry_of(tree: Any, arrays: Sequence[AnyArray]) -> Entry:
    """The entry of a record; raises `ValueError` if it is none."""
    values = from_parts(tree, arrays)
    if not isinstance(values, list) or len(values) != len(fields(Entry)):
        raise ValueError("it holds no entry")
    key, _, _, seconds, reads = values
    if not isinstance(key, str) or not isinstance(seconds, float) or not isinstance(reads, float):
        raise ValueError("it holds no entry")
    return Entry(*values)
