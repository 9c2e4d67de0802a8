"""What is known of a region once it is written, and whether what lies there is still that."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import zarr

from dgmm.data import Grid, LocalStore, Region, Stored, Watched, bounded, check_array, store_at
from dgmm.errors import ReadError
from dgmm.scoring.arrays import chunk_key
from dgmm.types import AnyArray
from dgmm.waits import stop_if_interrupted


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Attributes
    ----------
    what : str
    array : str
        In which it is, if it is in one.
    region : int or None
        Number of the region, in C order.
    path : str
        Of the chunk or the file.
    """

    what: str
    array: str = ""
    region: int | None = None
    path: str = ""

    def __str__(self) -> str:
        where = [*filter(None, [self.array]), *([] if self.region is None else [f"region {self.region}"])]
        where += [f"({self.path})"] if self.path else []
        return f"{' '.join(where)}: {self.what}" if where else self.what


@dataclass(frozen=True)
class Written:
    """Regions of the arrays of scores, as they lie in a store; travels to workers.

    Attributes
    ----------
    target : str
        Path or URL of the group.
    names : tuple of str
        Of the arrays.
    grid : Grid
    """

    target: str
    names: tuple[str, ...]
    grid: Grid

    def open(self) -> dict[str, Stored]:
        """The arrays, to be read."""
        return {name: self._open(name) for name in self.names}

    def _open(self, name: str) -> Stored:
        store = store_at(self.target, read_only=True)
        with bounded():
            array = zarr.open_array(store if isinstance(store, LocalStore) else Watched(store), path=name, mode="r")
        check_array(array, f"{name} in {self.target}")
        stored = Stored.of(array, self.target, self.target, "raise")
        if isinstance(array.store, Watched):
            array.store.watch(stored)
        return stored

    def read(self, stored: Stored, region: int) -> AnyArray:
        """One array in a region; raises `ReadError` if it is not there or cannot be decoded."""
        assert stored.array is not None
        array, place = stored.array, self.place(stored.variable, region)
        return stored.read(place, lambda: np.asarray(array[place]))

    def place(self, name: str, region: int) -> Region:
        """The slices of an array that are a region."""
        return (*self.grid.region(region), *([slice(None)] if name == "probabilities" else []))

    def path(self, name: str, region: int) -> str:
        """Path or URL of the chunk of an array that a region is."""
        return f"{self.target.rstrip('/')}/{chunk_key(name, self.grid, region)}"

    def examine(self, regions: Sequence[int], checksums: AnyArray) -> list[Finding]:
        """Read regions and compare them with their checksums, shape (regions, arrays)."""
        found: list[Finding] = []
        for name, expected in zip(self.names, checksums.T, strict=True):
            try:
                stored = self._open(name)
            except Exception as error:  # whatever damaged metadata lead to
                words = f"cannot be opened: {' '.join(str(error).split())[:200]}"
                found += [Finding(words, name, region, self.path(name, region)) for region in regions]
                continue
            for region, told in zip(regions, expected.tolist(), strict=True):
                stop_if_interrupted()
                try:
                    values = self.read(stored, region)
                except ReadError as error:
                    told_by = str(error).split(") ", 2)[-1].split(": write it again")[0]
                    found.append(Finding(told_by, name, region, self.path(name, region)))
                    continue
                if checksum(name, self.grid.region(region), values) != told:
                    words = "is not what was written: its checksum is another"
                    found.append(Finding(words, name, region, self.path(name, region)))
        return found


def checksum(name: str, region: Region, values: AnyArray) -> int:
    """Of what an array holds in a region, and of which array and region these are: 64 bits of a SHA-256."""
    plain = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    found = hashlib.sha256(f"{name} {plain.dtype.str} {[(s.start, s.stop) for s in region]} ".encode())
    found.update(plain.data)
    return int.from_bytes(found.digest()[:8], "little")
