"""Scores that are there already: what is still as it was is carried over to those that take their place."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from dgmm.data import Samples, Versioned, local_path, store_at
from dgmm.errors import one_line
from dgmm.scoring.arrays import SCORES_FORMAT, chunk_key, look, zarr_store
from dgmm.scoring.entries import Entries, grid_of, names_of, read_ledger, read_sources, rows_of
from dgmm.store import Output, Status, place_at, settings_in, to_json
from dgmm.types import AnyArray

logger = logging.getLogger("dgmm")


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
        if Versioned.of(path) is not None:
            logger.info("%s is scored anew: what is committed is committed as a whole", path)
            return None
        state = place_at(path).state()
        if state.status is not Status.FINISHED or state.what != "scores":
            return None
        try:
            store = zarr_store(store_at(path, read_only=True), read_only=True)
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
        n = min(len(found), len(self.sources))
        whole = rows_of(grid)[:n] == rows_of(grid_of(self.head))[:n]
        found[:n] = whole & (self.sources[:n] == sources[:n])
        if not found.any():
            logger.warning("%s is scored anew: no part of the data is as it was", self.path)
        return found

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
        if self.head["segment"] != head["segment"] or self.head["shape"][1:] != head["shape"][1:]:
            return "the grid of the data is another"
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

    def carry(self, output: Output, regions: AnyArray) -> Entries:
        """Have the chunks of regions lie in an output too; the entries of those of which all are there."""
        grid = grid_of(self.head)
        source, target = local_path(self.path), local_path(output.target)
        there = np.ones(len(grid), dtype=bool)
        if source is None or target is None or os.path.realpath(source) == os.path.realpath(target):
            # at a URL they are where they belong
            for name in names_of(self.head):
                there &= look(zarr_store(store_at(self.path, read_only=True), read_only=True), name, grid)[0]
        else:
            for region in regions.tolist():
                keys = (chunk_key(name, grid, region) for name in names_of(self.head))
                there[region] = all(_linked(source, target, key) for key in keys)
        kept = regions[there[regions]]
        return Entries(*(column[kept] for column in self.table.columns))


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
