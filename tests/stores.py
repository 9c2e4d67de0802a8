"""Stores that say what is read of them, or do not answer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.storage import LocalStore, WrapperStore


class CountingStore(WrapperStore[LocalStore]):
    """A store that adds a line to a file for every chunk that is read, in whatever process.

    Chunks named in ``broken`` cannot be read.
    """

    def __init__(self, store: LocalStore, log: str = "", broken: tuple[str, ...] = ()) -> None:
        super().__init__(store)
        self.log = log
        self.broken = broken

    def _with_store(self, store: Any) -> CountingStore:
        return CountingStore(store, self.log, self.broken)

    def with_read_only(self, read_only: bool = False) -> Store:
        return CountingStore(self._store.with_read_only(read_only), self.log, self.broken)

    def __getstate__(self) -> dict[str, Any]:
        return {"store": self._store, "log": self.log, "broken": self.broken}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["store"], state["log"], state["broken"])  # type: ignore[misc]

    async def get(self, key: str, *arguments: Any, **options: Any) -> Any:
        if key.startswith("c/"):
            descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, f"{key}\n".encode())
            os.close(descriptor)
            if key in self.broken:
                raise OSError(f"cannot read {key}")
        return await super().get(key, *arguments, **options)


def counted(folder: Path, x: np.ndarray, chunk: int, broken: tuple[str, ...] = ()) -> zarr.Array[Any]:
    """An array (n, d) in chunks of so many rows, whose reads are counted."""
    path = folder / "counted.zarr"
    array = zarr.create_array(str(path), shape=x.shape, chunks=(chunk, x.shape[1]), dtype=x.dtype)
    array[:] = x
    return zarr.open_array(CountingStore(LocalStore(path), str(folder / "reads"), broken), mode="r")


def chunks_read(folder: Path) -> list[str]:
    """Names of the chunks that were read since the last time somebody asked, in order."""
    log = folder / "reads"
    found = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return found
