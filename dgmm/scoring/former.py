"""Scores that are there already: what is still as it was is carried over to those that take their place."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from dgmm.data import Samples, Versioned, local_path, store_at
from dgmm.errors import InputError, one_line
from dgmm.scoring.arrays import SCORES_FORMAT, chunk_key, look, zarr_store
from dgmm.scoring.entries import Entries, grid_of, names_of, read_ledger, read_sources, rows_of
from dgmm.store import Output, Status, for_each, place_at, settings_in, to_json
from dgmm.types import AnyArray

logger = logging.getLogger("dgmm")

#: Why nothing can be carried over to other regions.
OTHER_GRID = "the grid of the data is another"


@dataclass(frozen=True)
class Former:
    """Scores that are complete.

    Attributes
    ----------
    path : str
    attributes : dict
    head : dict
        Of their ledger.
    table : Entries
    sources : ndarray of uint64, shape (regions,), or None
        What each region was read from, as far as that could be told; see `dgmm.data.Seen`.
    """

    path: str
    attributes: dict[str, Any]
    head: dict[str, Any]
    table: Entries
    sources: AnyArray | None

    @classmethod
    def at(cls, path: str) -> Former | None:
        """Those at a path or URL; None where there are none, or none that can be gone on from, which is then said."""
        state = place_at(path).state()
        if state.status is not Status.FINISHED or state.what != "scores":
            return None
        try:
            store = store_at(path, read_only=True)
            group = zarr.open_group(store, mode="r", use_consolidated=False)
            attributes = dict(group.attrs)
            if attributes.get("format") != SCORES_FORMAT:
                raise ValueError(f"their format is {str(attributes.get('format'))[:40]!r}")
            head, table, _ = read_ledger(group)
            return cls(path, attributes, head, table, read_sources(group, head))
        except (ValueError, TypeError, KeyError, OSError) as error:
            logger.warning("%s is scored anew: what is there cannot be gone on from: %s", path, one_line(error)[:200])
            return None

    def cut(self, samples: Samples) -> Samples:
        """Samples in the regions of these scores, so that these stay what they are as the data grow; if that can be."""
        return samples.recut(grid_of(self.head).segment) or samples

    def standing(self, head: Mapping[str, Any], sources: AnyArray | None) -> AnyArray:
        """Which regions of what is to be written are these already; says so where that cannot be told of any."""
        grid = grid_of(head)
        found = np.zeros(len(grid), dtype=bool)
        why = self._objection(head, sources)
        if why:
            logger.info("%s is scored anew: %s", self.path, why)
            return found
        assert sources is not None
        assert self.sources is not None
        old, new = self._whole(head)
        found[new] = self.sources[old] == sources[new]
        if not found.any():
            logger.warning("%s is scored anew: no part of the data is as it was", self.path)
        return found

    def _whole(self, head: Mapping[str, Any]) -> tuple[AnyArray, AnyArray]:
        """Regions that have as many rows in what is to be written: their numbers here and there."""
        before, now = grid_of(self.head), grid_of(head)
        shared = [min(counts) for counts in zip(before.counts, now.counts, strict=True)]
        places = np.indices(shared).reshape(len(shared), -1)
        old, new = (np.asarray(np.ravel_multi_index(tuple(places), grid.counts)) for grid in (before, now))
        whole = rows_of(before)[old] == rows_of(now)[new]
        return old[whole], new[whole]

    def check_appended(self, head: Mapping[str, Any], sources: AnyArray | None, samples: Samples) -> None:
        """Raise `InputError` where what is to be written is more than rows that come after these.

        A region that is longer now is scored anew, and may have changed.
        """
        advice = "bring all of it up to date (--extend), or score it anew (--overwrite)"
        shapes = zip(samples.dims, self.head["shape"], head["shape"], strict=False)
        gone = [f"{now} along {dim} where {before} were scored" for dim, before, now in shapes if now < before]
        why = f"{samples.name} has {', '.join(gone)}" if gone else self._objection(head, sources)
        if why == OTHER_GRID and self._ends_within_a_chunk(head):
            logger.info("%s ends within a chunk of its only regions: all of it is scored", self.path)
            return
        if why:
            raise InputError(f"nothing can be appended to {self.path}: {why}: {advice}")
        assert sources is not None
        assert self.sources is not None
        old, new = self._whole(head)
        changed = new[self.sources[old] != sources[new]]
        if len(changed):
            first = zip(samples.dims, samples.grid.region(int(changed[0])), strict=True)
            place = ", ".join(f"{dim} {part.start}:{part.stop}" for dim, part in first)
            raise InputError(
                f"nothing can be appended to {self.path}: {samples.name} was changed in {len(changed)} of {len(new)} "
                f"regions that were scored (the first is {place}): {advice}"
            )

    def _ends_within_a_chunk(self, head: Mapping[str, Any]) -> bool:
        """Whether what has grown was one region along that dimension, which cannot stay what it was."""
        lengths = zip(self.head["shape"], head["shape"], self.head["segment"], strict=False)
        grown = [(before, segment) for before, now, segment in lengths if before != now]
        same = len(self.head["shape"]) == len(head["shape"])
        return same and len(grown) == 1 and grown[0][0] <= grown[0][1]

    def _objection(self, head: Mapping[str, Any], sources: AnyArray | None) -> str:
        """Why nothing can be carried over, if so."""
        if self.head["model"] != head["model"]:
            return f"it was by the model {self.head['model'][:16]}, now {head['model'][:16]}"
        if self.head.get("clusters") != head.get("clusters"):
            return "other clusters are asked for"
        if self.head.get("missing") != head.get("missing"):
            return "samples with missing values are scored in another way"
        if names_of(self.head) != names_of(head):
            return "other arrays are asked for"
        differ = sum(a != b for a, b in zip(self.head["shape"], head["shape"], strict=False))
        if self.head["segment"] != head["segment"] or len(self.head["shape"]) != len(head["shape"]) or differ > 1:
            return OTHER_GRID
        if sources is None:
            return "nothing tells which chunks of the data are still the same"
        if self.sources is None:
            return "it was not noted what each region was read from"
        return ""

    def is_all(self, head: Mapping[str, Any], settings: Mapping[str, Any], attributes: Mapping[str, Any]) -> bool:
        """Whether these are the scores that are asked for."""
        same = all(
            self.head.get(name) == head.get(name)
            for name in ("model", "clusters", "missing", "source", "arrays", "shape", "segment")
        )
        noted = all(self.attributes.get(name) == value for name, value in attributes.items())
        return same and noted and to_json(settings_in(self.attributes)) == to_json(dict(settings))

    def carry(self, output: Output, regions: AnyArray, head: Mapping[str, Any]) -> Entries:
        """Have the chunks of regions lie in an output too; the entries of those of which all are there.

        Parameters
        ----------
        output : Output
        regions : ndarray of int
            By their numbers in what is written.
        head : mapping
            Of that.
        """
        grid = grid_of(self.head)
        places = dict(zip(*(numbers.tolist() for numbers in self._whole(head)[::-1]), strict=True))
        ours = np.array([places[region] for region in regions.tolist()], dtype=np.int64)
        source, target = local_path(self.path), local_path(output.target)
        there = np.ones(len(grid), dtype=bool)
        if Versioned.of(self.path) is not None:
            chunks = {region: [chunk_key(n, grid, region) for n in names_of(self.head)] for region in ours.tolist()}
            there[ours] = _copied(store_at(self.path, read_only=True), zarr_store(output.left()), chunks)
        elif source is None or target is None or os.path.realpath(source) == os.path.realpath(target):
            # at a URL they are where they belong
            for name in names_of(self.head):
                there &= look(store_at(self.path, read_only=True), name, grid)[0]
        else:
            for region in ours.tolist():
                # where they are in a group does not depend on how far it goes
                keys = (chunk_key(name, grid, region) for name in names_of(self.head))
                there[region] = all(_linked(source, target, key) for key in keys)
        kept = there[ours]
        columns = self.table.columns[1:]
        return Entries(regions[kept].astype(self.table.region.dtype), *(column[ours[kept]] for column in columns))


def _copied(source: Any, target: Any, keys: Mapping[int, Sequence[str]]) -> list[bool]:
    """Copy the chunks of regions from one store to another, a few at a time; of which all were there."""
    found = dict.fromkeys(keys, True)

    async def copy(region: int) -> None:
        for name in keys[region]:
            value = await source.get(name, default_buffer_prototype())
            if value is None:
                found[region] = False
            else:
                await target.set(name, value)

    sync(for_each(keys, copy))
    return list(found.values())


def _linked(source: str, target: str, key: str) -> bool:
    """Have a file of one folder lie in another too, as a hard link where that can be; false if there is none."""
    here, there = os.path.join(source, key), os.path.join(target, key)
    os.makedirs(os.path.dirname(there), exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.remove(there)
    try:
        os.link(here, there)
    except FileNotFoundError:
        return False
    except OSError:  # another file system, or one without links
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(here, there)
        return os.path.exists(there)
    return True


def in_place(former: Former | None, output: Output) -> bool:
    """Whether an output is written where the former scores lie, as at a URL."""
    return former is not None and output.target.rstrip("/") == former.path.rstrip("/")
