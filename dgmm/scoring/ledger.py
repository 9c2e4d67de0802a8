"""The ledger: what is to be written, said at the start, and a record of every region that was.

While scores are being written it lies beside the claim of their place: a head, and for every task a file with its
records, written aside, flushed and renamed every few seconds. What is finished holds it as a group of its own, whatever
happened on the way there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from dgmm.data import Grid, Samples, fingerprint
from dgmm.errors import DgmmError, OutputExistsError, one_line
from dgmm.fits import Fit
from dgmm.passes import packed, unpacked
from dgmm.scoring.arrays import VARIABLES, types_of
from dgmm.store import Output, Writer, differences, digest, explained, folder_at, sealed, to_json, unsealed, versions
from dgmm.types import AnyArray

logger = logging.getLogger("dgmm")

#: Written into all ledgers, and the group in which scores have theirs.
FORMAT, GROUP = "dgmm-ledger-1", "ledger"
#: The file with the head, while there is no group.
HEAD = "dgmm-ledger.json"
#: Bytes that a head and the records of a task may have.
MOST_HEAD, MOST_BYTES = 2**26, 4 * 2**30
#: Seconds after which records are put into their file, and how many times longer than that took nothing is.
EVERY, RARELY = 2.0, 50
#: Regions in one chunk of the finished ledger.
CHUNK = 2**16


@dataclass(frozen=True)
class Entries:
    """Records of regions.

    Attributes
    ----------
    region : ndarray of int, shape (m,)
        In C order of the grid's segments.
    missing : ndarray of int, shape (m,)
        Rows with a missing value.
    counts : ndarray of int, shape (m, K)
        Rows with each label.
    log_density : ndarray, shape (m,)
        Sum over the rows.
    checksums : ndarray of uint64, shape (m, arrays)
    """

    region: AnyArray
    missing: AnyArray
    counts: AnyArray
    log_density: AnyArray
    checksums: AnyArray

    @classmethod
    def nothing(cls, n: int, n_components: int, n_arrays: int, largest: int) -> Entries:
        """Of ``n`` regions, with zeros; in types that hold the numbers of regions of so many rows at most."""
        rows = np.min_scalar_type(largest)
        return cls(
            np.arange(n), np.zeros(n, rows), np.zeros((n, n_components), rows), np.zeros(n),
            np.zeros((n, n_arrays), np.uint64),
        )  # fmt: skip

    @property
    def columns(self) -> tuple[AnyArray, ...]:
        """All arrays."""
        return (self.region, self.missing, self.counts, self.log_density, self.checksums)

    def put(self, place: Any, other: Entries) -> None:
        """Put others in a place."""
        for mine, theirs in zip(self.columns[1:], other.columns[1:], strict=True):
            mine[place] = theirs

    def fit(self, other: Entries, rows: AnyArray) -> bool:
        """Whether others can be entries of these regions, which have so many rows each."""
        same = all(
            a.dtype == b.dtype and a.shape == (len(other.region), *b.shape[1:])
            for a, b in zip(other.columns, self.columns, strict=True)
        )
        if not same or other.region.ndim != 1 or not ((other.region >= 0) & (other.region < len(rows))).all():
            return False
        sums = other.counts.sum(axis=1, dtype=np.int64) + other.missing
        return bool((sums == rows[other.region]).all() and np.isfinite(other.log_density).all())


def head_of(samples: Samples, model: Fit, probabilities: bool) -> dict[str, Any]:
    """What is to be written, and of what."""
    arrays = types_of(model.n_components, probabilities)
    return {
        "format": FORMAT,
        "shape": list(samples.grid.shape),
        "segment": list(samples.grid.segment),
        "regions": len(samples.grid),
        "n_components": model.n_components,
        "arrays": {name: dtype.str for name, dtype in arrays.items()},
        "model": digest(model.mixture),
        "source": fingerprint(samples),
        "versions": versions(),
    }


def empty_table(head: Mapping[str, Any]) -> tuple[Entries, AnyArray]:
    """Entries of all regions of a head, with nothing in them, and how many rows each region has."""
    grid = grid_of(head)
    return Entries.nothing(len(grid), head["n_components"], len(head["arrays"]), grid.largest), rows_of(grid)


def names_of(head: Mapping[str, Any]) -> tuple[str, ...]:
    """The arrays that are written, in the order of their checksums."""
    return tuple(name for name in VARIABLES if name in head["arrays"])


def grid_of(head: Mapping[str, Any]) -> Grid:
    """The grid of what is to be written."""
    return Grid(tuple(head["shape"]), tuple(head["segment"]))


def rows_of(grid: Grid) -> AnyArray:
    """How many rows every region has."""
    rows = np.ones(1, dtype=np.int64)
    for n, s, count in zip(grid.shape, grid.segment, grid.counts, strict=True):
        rows = np.multiply.outer(rows, np.minimum(s, n - s * np.arange(count))).ravel()
    return rows


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
        self.recording.writer.check()
        try:
            self._folder.put(self._name, content, replace=True)
        except OSError as error:
            raise unwritten(self.recording.writer.place, error) from error
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


def unwritten(place: str, error: OSError) -> DgmmError:
    """What to say where scores or their records cannot be written."""
    return DgmmError(
        f"{place} cannot be written: {error.strerror or one_line(error)}; see to that, and run the same again"
    )


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
        for library, version in found["versions"].items():
            if versions().get(library) != version:
                logger.info("%s: %s was %s, and is %s now", self.name, library, version, versions().get(library))
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
        try:
            self.folder.put(HEAD, sealed(self.head), replace=True)
        except OSError as error:
            raise unwritten(self.name, error) from error
        self._head = hashlib.sha256(to_json(self.head)).hexdigest()

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


def source_digest(head: Mapping[str, Any]) -> str:
    """The fingerprint of the source of a head, as one text."""
    return hashlib.sha256(to_json(head["source"])).hexdigest()


# ---- as it stays with the scores ------------------------------------------------------------------------------------


def write_ledger(group: zarr.Group, head: Mapping[str, Any], table: Entries, coordinates: Mapping[str, str]) -> None:
    """Put a complete ledger into the group of the scores."""
    inner = group.create_group(GROUP)
    dims = {"missing": (), "counts": ("component",), "log_density": (), "checksums": ("array",)}
    for name, more in dims.items():
        values = getattr(table, name)
        inner.create_array(
            name,
            data=values,
            chunks=(min(CHUNK, len(values)), *values.shape[1:]),
            compressors=ZstdCodec(level=1, checksum=True),
            dimension_names=("region", *more),
        )
    inner.attrs.update({**head, "coordinates": dict(coordinates), "checksum": seal_of(head, table, coordinates)})


def seal_of(head: Mapping[str, Any], table: Entries, coordinates: Mapping[str, str]) -> str:
    """A checksum of all that a ledger says."""
    found = hashlib.sha256(to_json([head, dict(coordinates)]))
    for values in table.columns:
        plain = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
        found.update(f"{plain.dtype.str} {plain.shape} ".encode())
        found.update(plain.data)
    return found.hexdigest()


def read_ledger(group: zarr.Group, most: int = MOST_BYTES) -> tuple[dict[str, Any], Entries, dict[str, str]]:
    """The head of the ledger that lies with scores, its entries, and the digests of the coordinates.

    Raises
    ------
    ValueError
        If it is none, or not what was written; metadata that speak of more bytes than that are not believed.
    """
    try:
        inner = group[GROUP]
        if not isinstance(inner, zarr.Group):
            raise ValueError("it is an array")
        head: dict[str, Any] = dict(inner.attrs)
        told, coordinates = head.pop("checksum"), dict(head.pop("coordinates"))
        if head["format"] != FORMAT:
            raise ValueError(f"its format is {str(head['format'])[:40]!r}, expected {FORMAT!r}")
        n = math.prod(-(-a // b) for a, b in zip(head["shape"], head["segment"], strict=True))
        size = n * (8 * head["n_components"] + 8 * len(head["arrays"]) + 32)
        if not 0 < size <= most or n != head["regions"]:
            raise ValueError(f"it speaks of {head['regions']} regions, which would be {size} bytes")
        table, rows = empty_table(head)
        columns: list[AnyArray] = [table.region]
        for name, expected in zip(("missing", "counts", "log_density", "checksums"), table.columns[1:], strict=True):
            array = inner[name]
            if not isinstance(array, zarr.Array) or array.shape != expected.shape or array.dtype != expected.dtype:
                raise ValueError(f"its {name} are none")
            if math.prod(array.chunks) > 2 * max(CHUNK, 1) * max(math.prod(expected.shape[1:]), 1):
                raise ValueError(f"the chunks of its {name} are {array.chunks}")
            columns.append(np.asarray(array[...]))
        found = Entries(*columns)
        if told != seal_of(head, found, coordinates):
            raise ValueError("its checksum is another")
        if not table.fit(found, rows):
            raise ValueError("the counts are not those of the rows")
    except ValueError:
        raise
    except Exception as error:  # whatever damaged metadata and chunks lead to
        raise ValueError(f"{type(error).__name__}: {one_line(error)[:200]}") from None
    return head, found, coordinates
