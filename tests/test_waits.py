"""What is waited for is said, and interrupts come when they can be borne, and not twice or never."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dgmm import waits
from dgmm.engine import open_workers
from dgmm.waits import INTERRUPTS, Patience, interrupts_held_back, no_interrupt_lost, undisturbed


class Terminated(KeyboardInterrupt):
    """What SIGTERM stands for here."""


class TimeIsOver(KeyboardInterrupt):
    """What SIGALRM stands for here."""


@pytest.fixture
def terminable() -> Iterator[None]:
    def terminate(*_: object) -> None:
        raise Terminated

    def time_is_over(*_: object) -> None:
        raise TimeIsOver

    before, alarm = signal.signal(signal.SIGTERM, terminate), signal.signal(signal.SIGALRM, time_is_over)
    yield
    signal.signal(signal.SIGTERM, before)
    signal.signal(signal.SIGALRM, alarm)


def send(number: int) -> None:
    """Have a signal reach this process, and Python know of it."""
    os.kill(os.getpid(), number)


@pytest.mark.usefixtures("terminable")
@pytest.mark.parametrize(
    ("number", "what"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated), (signal.SIGALRM, TimeIsOver)],
    ids=["ctrl-c", "sigterm", "sigalrm"],
)
def test_an_interrupt_that_is_held_back_comes_at_the_end_once(number: int, what: type[KeyboardInterrupt]) -> None:
    handlers = [signal.getsignal(n) for n in INTERRUPTS]
    done = []
    with pytest.raises(KeyboardInterrupt) as caught, interrupts_held_back(60.0):
        for _ in range(3):
            send(number)
            done.append(number)
    assert (caught.type, len(done)) == (what, 3)
    assert [signal.getsignal(n) for n in INTERRUPTS] == handlers


def test_an_interrupt_waits_no_longer_than_it_has_to() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts_held_back(-1.0):
        send(signal.SIGINT)
        done.append("went on")
    assert done == []


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN], ids=["default", "ignored"])
def test_what_nobody_handles_is_left_alone(handler: signal.Handlers) -> None:
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with interrupts_held_back(60.0):
            assert signal.getsignal(signal.SIGTERM) is handler
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_lay_no_hands_on_signals() -> None:
    found = []

    def look() -> None:
        with interrupts_held_back(60.0):
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]


@pytest.mark.parametrize("when", ["entered", "left"])
def test_a_context_that_is_not_to_be_disturbed_is_entered_and_left_as_a_whole(when: str) -> None:
    seen = []

    @contextmanager
    def resource() -> Iterator[str]:
        if when == "entered":
            send(signal.SIGINT)
        seen.append("entered")
        try:
            yield "resource"
        finally:
            if when == "left":
                send(signal.SIGINT)
            seen.append("left")

    with pytest.raises(KeyboardInterrupt), undisturbed(resource(), 60.0) as value:
        seen.append(value)
    assert seen == (["entered", "left"] if when == "entered" else ["entered", "resource", "left"])


class Finalised:
    """Something in whose finalizer a signal comes."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        send(self.number)


@pytest.mark.usefixtures("terminable")
@pytest.mark.parametrize(
    ("number", "what"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)], ids=["ctrl-c", "sigterm"]
)
def test_an_interrupt_that_python_ignores_comes_again(number: int, what: type[KeyboardInterrupt]) -> None:
    hook = sys.unraisablehook
    with pytest.raises(KeyboardInterrupt) as caught, open_workers("threads", n_workers=1):
        thing = Finalised(number)
        del thing
        threading.Event().wait(60)
        pytest.fail("the interrupt was lost")
    assert caught.type is what
    assert sys.unraisablehook is hook


def test_other_things_that_python_ignores_are_told_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: told.append(what.exc_type))

    class Broken:
        def __del__(self) -> None:
            raise ZeroDivisionError

    with no_interrupt_lost():
        Broken()
    assert told == [ZeroDivisionError]


def test_a_wait_is_spoken_of_until_it_is_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waits, "TOLD_EVERY", 0.01)
    told, looked = threading.Event(), []

    def what() -> str:
        looked.append(1)
        if len(looked) == 3:
            told.set()
        return "the rain"

    with Patience(what):
        assert told.wait(60)
    assert "waiting for the rain for 0 s" in caplog.text
    assert "patience" not in {thread.name for thread in threading.enumerate()}


def test_a_wait_that_is_interrupted_as_it_begins_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    patience = Patience(lambda: "the rain")
    start = patience._thread.start

    def interrupted() -> None:
        start()
        raise KeyboardInterrupt

    monkeypatch.setattr(patience._thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        patience.__enter__()
    patience._thread.join(timeout=60)
    assert not patience._thread.is_alive()
