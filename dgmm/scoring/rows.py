"""One definition of scores of rows: those of the complete ones, and what stands for a score elsewhere."""

from __future__ import annotations

import numpy as np

from dgmm.types import AnyArray


def scattered(values: AnyArray, present: AnyArray | None, missing: AnyArray) -> AnyArray:
    """Scores of complete rows where these lie among all rows, in the type of what stands for a missing one.

    Parameters
    ----------
    values : ndarray, shape (m, ...)
        Of the complete rows.
    present : ndarray of bool, shape (n,), or None
        Which rows are complete; None if all.
    missing : ndarray, shape ()
        What the others get.
    """
    if present is None:
        return values.astype(missing.dtype, copy=False)
    found = np.full((len(present), *values.shape[1:]), missing, dtype=missing.dtype)
    found[present] = values
    return found
