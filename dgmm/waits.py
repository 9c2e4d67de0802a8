"""Waiting: what is waited for is said, and a task for which nobody waits any more stops."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Self, TypeVar

logger = logging.getLogger("dgmm")

#: Seconds after which a wait is spoken of, and again each time.
TOLD_EVERY = 10.0

#: What ends a run from outside: a person, the system, and the time that a run may take.
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)

#: Seconds after which an interrupt that was lost comes again.
AGAIN = 0.05

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
        try:
            self._thread.start()
        except BaseException:  # an interrupt, and nobody would tell it that the wait is over
            self._over.set()
            raise
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


@contextmanager
def interrupts_held_back(longest: float) -> Iterator[None]:
    """Context in which Ctrl-C, SIGTERM and alarms wait until its end, where what they stand for happens as it would.

    In a thread other than the main one, which signals do not interrupt, and for signals that nobody in Python has
    laid hands on, nothing changes.

    Parameters
    ----------
    longest : float
        Seconds after which they wait no more.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    began = time.monotonic()
    handlers: dict[int, Callable[[int, Any], Any]] = {}
    came: list[int] = []

    def note(number: int, frame: Any) -> None:
        if time.monotonic() - began > longest:
            handlers[number](number, frame)
        came.append(number)

    try:
        for number in map(int, INTERRUPTS):
            handler = signal.getsignal(number)
            if callable(handler):
                handlers[number] = handler
                signal.signal(number, note)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came[:1]:
            handlers[number](number, None)


@contextmanager
def undisturbed(context: AbstractContextManager[T], longest: float) -> Iterator[T]:
    """Enter and leave a context with interrupts held back; see `interrupts_held_back`."""
    with ExitStack() as outer:
        inner = ExitStack()

        @outer.callback
        def leave() -> None:
            with interrupts_held_back(longest):
                inner.close()

        with interrupts_held_back(longest):
            value = inner.enter_context(context)
        yield value


@contextmanager
def no_interrupt_lost() -> Iterator[None]:
    """Context in which an interrupt that Python ignores comes again, until it is felt.

    Python ignores what is raised in finalizers and in functions that libraries are called back by, as compilers are
    for seconds. A KeyboardInterrupt stands for SIGINT there, and a subclass of it for SIGTERM.
    """
    before = sys.unraisablehook

    def ignored(what: Any) -> None:
        if not issubclass(what.exc_type, KeyboardInterrupt):
            before(what)
            return
        number = signal.SIGINT if what.exc_type is KeyboardInterrupt else signal.SIGTERM
        again = threading.Timer(AGAIN, signal.pthread_kill, (threading.main_thread().ident, number))
        again.daemon = True
        again.start()

    sys.unraisablehook = ignored
    try:
        yield
    finally:
        sys.unraisablehook = before
