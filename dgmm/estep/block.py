"""Blocks of samples as the E-step takes them: complete rows, one after the other."""

from __future__ import annotations

import numpy as np

from dgmm.errors import InputError
from dgmm.estep import kernel
from dgmm.types import AnyArray


def complete_rows(x: AnyArray) -> AnyArray | None:
    """Which rows of ``x`` have no missing value (NaN), shape (n,); None if all."""
    if x.dtype.kind != "f":
        return None
    if x.dtype not in (np.float32, np.float64) or not x.flags.c_contiguous:
        found = np.asarray(~np.isnan(x).any(axis=1))
        return None if found.all() else found
    marks = np.empty(len(x), dtype=np.bool_)
    return None if kernel.find_complete(frozen(x), marks) == len(x) else marks


def as_block(x: AnyArray, n_features: int) -> AnyArray:
    """Samples as the kernel takes them: rows one after the other, float32 as it is and anything else float64."""
    if x.ndim != 2 or x.shape[1] != n_features:
        raise InputError(f"expected samples of shape (n, {n_features}), not {x.shape}")
    return frozen(np.ascontiguousarray(x, dtype=x.dtype if x.dtype == np.float32 else np.float64))


def frozen(array: AnyArray) -> AnyArray:
    """A read-only view: the kernel is compiled for those alone, wherever an array comes from."""
    view = array.view()
    view.flags.writeable = False
    return view
