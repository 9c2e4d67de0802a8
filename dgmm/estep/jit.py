"""How functions are compiled."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numba.core import event
from numba.extending import register_jitable

#: Reassociation and NaN tricks stay off: the same bits every time, and NaN stays NaN.
CONTRACT = {"contract", "nsz"}

F = TypeVar("F", bound=Callable[..., Any])

logger = logging.getLogger("dgmm")


class Notice(event.Listener):
    """Says that functions of this package are compiled, once in a process, and not where they are on disk."""

    def __init__(self) -> None:
        self._said = False

    def on_start(self, event: event.Event) -> None:
        """Of a function."""
        if not self._said and event.data["dispatcher"].py_func.__module__.startswith("dgmm."):
            self._said = True
            logger.info("compiling for this machine, the first time here: some seconds")

    def on_end(self, event: event.Event) -> None:
        """Nothing."""


event.register("numba:compile", Notice())


#: Of all functions; none of them is called from C.
EVERY: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}


def compiled(**options: Any) -> Callable[[F], F]:
    """Compile on first use, without the interpreter's lock, kept on disk where a folder for that can be written."""

    def decorate(function: F) -> F:
        try:
            return numba.njit(cache=True, **EVERY, **options)(function)
        except RuntimeError:  # no folder for the cache
            return numba.njit(**EVERY, **options)(function)

    return decorate


def inlined(function: F) -> F:
    """A part of the compiled functions that call it, and of nothing else.

    That is less to compile than a function of its own, which is optimised by itself and once more within each that
    calls it. What is called in many places, and is long, is better `compiled`.
    """
    return numba.njit(inline="always", **EVERY)(function)


def both(function: F) -> F:
    """A small function of Python that compiled functions may call."""
    found: F = register_jitable(function)
    return found
