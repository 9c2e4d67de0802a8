"""What a ledger says: a head with what is to be written and of what, and an entry for every region that was."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from dgmm.data import Grid, Samples, Seen, Stored, bounded, check_array, fingerprint
from dgmm.errors import one_line
from dgmm.fits import Fit
from dgmm.scoring.arrays import VARIABLES, n_labels, types_of
from dgmm.store import digest, to_json, versions
from dgmm.types import AnyArray

#: Written into all ledgers, and the group in which scores have theirs.
FORMAT, GROUP = "dgmm-ledger-1", "ledger"
#: Bytes that the entries of a ledger, or the records of a task, may have.
MOST_BYTES = 4 * 2**30
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


def head_of(
    samples: Samples, model: Fit, probabilities: bool, found: Seen | None = None, level: Sequence[int] | None = None
) -> dict[str, Any]:
    """What is to be written, and of what; by what the samples were seen to be, if they were looked at already."""
    labels = n_labels(model.n_labels, level)
    arrays = types_of(labels, probabilities)
    sources = None if found is None else found.regions
    return {
        "format": FORMAT,
        "shape": list(samples.grid.shape),
        "segment": list(samples.grid.segment),
        "regions": len(samples.grid),
        "n_components": labels,
        **({} if level is None else {"clusters": list(level)}),
        **({"missing": model.missing} if model.marginalises else {}),
        "arrays": {name: dtype.str for name, dtype in arrays.items()},
        "model": digest(model.mixture),
        "source": fingerprint(samples) if found is None else found.fingerprint,
        **({} if sources is None else {"sources": digest_of_sources(sources)}),
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


def source_digest(head: Mapping[str, Any]) -> str:
    """The fingerprint of the source of a head, as one text."""
    return hashlib.sha256(to_json(head["source"])).hexdigest()


# ---- as it stays with the scores ------------------------------------------------------------------------------------


def digest_of_sources(sources: AnyArray) -> str:
    """Of what all regions were read from."""
    return hashlib.sha256(np.ascontiguousarray(sources, dtype="<u8").data).hexdigest()


def write_ledger(
    group: zarr.Group,
    head: Mapping[str, Any],
    table: Entries,
    coordinates: Mapping[str, str],
    sources: AnyArray | None = None,
) -> None:
    """Put a complete ledger into the group of the scores; what the regions were read from, if the head knows of it."""
    inner = group.create_group(GROUP)
    if sources is not None and head.get("sources") == digest_of_sources(sources):
        inner.create_array(
            "sources",
            data=sources,
            chunks=(min(CHUNK, len(sources)),),
            compressors=ZstdCodec(level=1, checksum=True),
            dimension_names=("region",),
        )
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
            columns.append(_column(inner, name, expected))
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


def read_sources(group: zarr.Group, head: Mapping[str, Any]) -> AnyArray | None:
    """What the regions were read from, by the ledger that lies with scores; None if that is not known.

    Raises
    ------
    ValueError
        If it is not what was written.
    """
    if "sources" not in head:
        return None
    try:
        inner: Any = group[GROUP]
        found = _column(inner, "sources", np.zeros(head["regions"], np.uint64))
    except ValueError:
        raise
    except Exception as error:  # whatever damaged metadata and chunks lead to
        raise ValueError(f"{type(error).__name__}: {one_line(error)[:200]}") from None
    if digest_of_sources(found) != head["sources"]:
        raise ValueError("its sources are not those of its head")
    return found


def _column(inner: zarr.Group, name: str, expected: AnyArray) -> AnyArray:
    """An array of a ledger that is like another; raises `ValueError` if it is not."""
    with bounded():
        array = inner[name]
    if not isinstance(array, zarr.Array) or array.shape != expected.shape or array.dtype != expected.dtype:
        raise ValueError(f"its {name} are none")
    if math.prod(array.chunks) > 2 * max(CHUNK, 1) * max(math.prod(expected.shape[1:]), 1):
        raise ValueError(f"the chunks of its {name} are {array.chunks}")
    check_array(array, name)
    Stored.of(array, name, name).check_files((slice(None),) * array.ndim)
    return np.asarray(array[...])
