"""How functions are compiled."""

from __future__ import annotations

import gc
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
    """Says that functions of this package are compiled, once in a process, and not where they are on disk.

    Cyclic garbage is left alone meanwhile: nothing that a compiler makes becomes any before it is done, and to look for
    it takes a sixth of the time. One thread compiles at a time, under Numba's lock.
    """

    def __init__(self) -> None:
        self._said, self._collecting = False, list[bool]()

    def on_start(self, event: event.Event) -> None:
        """Of a function."""
        if not ours(event):
            return
        if not self._said:
            self._said = True
            logger.info("compiling for this machine, the first time here: some seconds")
        self._collecting.append(gc.isenabled())
        gc.disable()

    def on_end(self, event: event.Event) -> None:
        """Of a function, or of one that it calls."""
        if ours(event) and self._collecting.pop():
            gc.enable()


def ours(event: event.Event) -> bool:
    """Whether what is compiled is a function of this package."""
    module: str = event.data["dispatcher"].py_func.__module__
    return module.startswith("dgmm.")


event.register("numba:compile", Notice())


#: Of all functions; none of them is called from C, or takes memory: each array that it has is its caller's.
EVERY: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True, "_nrt": False}


def compiled(*, called: bool = True, **options: Any) -> Callable[[F], F]:
    """Compile on first use, without the interpreter's lock, kept on disk where a folder for that can be written.

    What is not ``called`` from Python, but by compiled functions alone, is less to compile, and calling it a crash.
    """
    every = {**EVERY, **options, "no_cpython_wrapper": not called}

    def decorate(function: F) -> F:
        try:
            return numba.njit(cache=True, **every)(function)
        except RuntimeError:  # no folder for the cache
            return numba.njit(**every)(function)

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
