"""Waiting: what is waited for is said, and a task for which nobody waits any more stops."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Self, TypeVar

logger = logging.getLogger("dgmm")

#: Seconds after which a wait is spoken of, and again each time.
TOLD_EVERY = 10.0

T = TypeVar("T")

_task = threading.local()


class Patience:
    """Context that lasts while something is waited for; says so every `TOLD_EVERY` seconds.

    Parameters
    ----------
    what : callable
        Says what is waited for, in a thread of its own.
    """

    def __init__(self, what: Callable[[], str]) -> None:
        self._what = what
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="patience", daemon=True)
        self.heard()

    def heard(self) -> None:
        """Something of it has come: the wait begins anew."""
        self._since = self._told = time.monotonic()

    def __enter__(self) -> Self:
        """Start to wait."""
        self.heard()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """The wait is over."""
        self._over.set()
        self._thread.join()

    def _tell(self) -> None:
        while not self._over.wait(max(self._told + TOLD_EVERY - time.monotonic(), 0.0)):
            now = time.monotonic()
            if now - self._told >= TOLD_EVERY:
                self._told = now
                logger.warning("waiting for %s for %.0f s", self._what(), now - self._since)


def result_of(future: Future[T], what: str) -> T:
    """The result of a future; says every `TOLD_EVERY` seconds what is waited for."""
    began = time.monotonic()
    while True:
        try:
            return future.result(timeout=TOLD_EVERY)
        except TimeoutError:
            if future.done():  # it is the future's own
                raise
        logger.warning("waiting for %s for %.0f s", what, time.monotonic() - began)


def begin(wanted: Callable[[], bool]) -> None:
    """Note what tells the task of this thread whether anybody waits for it still; stop it if nobody does."""
    _task.wanted = wanted
    stop_if_interrupted()


def end() -> None:
    """Forget it: the thread goes on to tasks of others."""
    _task.wanted = None


def stop_if_interrupted() -> None:
    """End a task for which nobody waits any more; to be called between segments."""
    wanted: Callable[[], bool] | None = getattr(_task, "wanted", None)
    if wanted is not None and not wanted():
        raise InterruptedError("the driver gave up")
