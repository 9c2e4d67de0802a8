"""How functions are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

#: Reassociation and NaN tricks stay off: the same bits every time, and NaN stays NaN.
CONTRACT = {"contract", "nsz"}

F = TypeVar("F", bound=Callable[..., Any])


def compiled(**options: Any) -> Callable[[F], F]:
    """Compile on first use, without the interpreter's lock, kept on disk where a folder for that can be written."""

    def decorate(function: F) -> F:
        try:
            return numba.njit(nogil=True, error_model="numpy", cache=True, **options)(function)
        except RuntimeError:  # no folder for the cache
            return numba.njit(nogil=True, error_model="numpy", **options)(function)

    return decorate
