"""A kind of source in one file: NumPy's own files, read block by block."""

import dask.array
import numpy as np

from dgmm.data import register_opener
from dgmm.errors import InputError

SUFFIX = ".npy"


def open_npy(place: str) -> dask.array.Array:
    """The array of a file, cut along its samples."""
    try:
        array = np.load(place, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise InputError(f"{place} is not a NumPy file: {error}") from None
    return dask.array.from_array(array, chunks=(100, -1))


def register() -> None:
    register_opener(SUFFIX, open_npy)
