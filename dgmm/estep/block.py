"""Blocks of samples as the E-step takes them: complete rows, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dgmm.errors import InputError
from dgmm.estep.jit import compiled
from dgmm.types import AnyArray

#: Bytes of samples that are converted to double precision at a time.
CONVERTED_BYTES = 2**20


@compiled()
def find_complete(x: AnyArray, complete: AnyArray) -> int:
    """Mark the rows of ``x`` without NaN; returns how many there are."""
    count = 0
    for i in range(len(x)):
        found = True
        for j in range(x.shape[1]):
            found &= x[i, j] == x[i, j]
        complete[i] = found
        count += found
    return count


def complete_rows(x: AnyArray) -> AnyArray | None:
    """Which rows of ``x`` have no missing value (NaN), shape (n,); None if all."""
    if x.dtype.kind != "f":
        return None
    if x.dtype not in (np.float32, np.float64) or not x.flags.c_contiguous:
        found = np.asarray(~np.isnan(x).any(axis=1))
        return None if found.all() else found
    marks = np.empty(len(x), dtype=np.bool_)
    return None if find_complete(frozen(x), marks) == len(x) else marks


def check_shape(x: AnyArray, n_features: int) -> None:
    """Refuse samples that are not of shape (n, n_features)."""
    if x.ndim != 2 or x.shape[1] != n_features:
        raise InputError(f"expected samples of shape (n, {n_features}), not {x.shape}")


def blocks(x: AnyArray, n_features: int, width: int) -> Iterator[tuple[slice, AnyArray]]:
    """Samples as the kernel takes them: rows one after the other, float32 as it is and anything else float64.

    What has to be converted for that comes in blocks of whole slices of a width, so that there is never much of it
    twice, and sums have the same bits as if it had come as one.
    """
    check_shape(x, n_features)
    dtype = np.dtype(np.float32 if x.dtype == np.float32 else np.float64)
    whole = x.dtype == dtype and x.flags.c_contiguous
    length = max(len(x), 1) if whole else max(1, CONVERTED_BYTES // (8 * n_features * width)) * width
    for start in range(0, max(len(x), 1), length):
        place = slice(start, min(start + length, len(x)))
        yield place, frozen(np.ascontiguousarray(x[place], dtype=dtype))


def frozen(array: AnyArray) -> AnyArray:
    """A read-only view: the kernel is compiled for those alone, wherever an array comes from."""
    view = array.view()
    view.flags.writeable = False
    return view
