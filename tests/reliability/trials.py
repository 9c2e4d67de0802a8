"""Faults that are injected one by one, and what became of each: for the tests, and for the table.

A fault is a function of a :class:`Trial` that does something to a run and says how that ended; modules of
``tests/reliability/faults`` register theirs. Whatever it raises is a failure.
"""

from __future__ import annotations

import importlib
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from pathlib import Path

import numpy as np


class Ended(StrEnum):
    """How a run ended that something was done to."""

    #: With the same bits as if nothing had happened, by itself or by the same command again.
    RECOVERED = "recovered"
    #: With one clear line; what was there before is as it was, and nothing half is taken for whole.
    REFUSED = "refused"
    #: What was read is valid and is other data: no program could tell. Only where a fault says so.
    UNTOLD = "cannot be told"
    #: With another answer, a traceback, a hang, or without a word. Never.
    SILENT = "silent"


@dataclass(frozen=True)
class Trial:
    """One injection: its number from 1, the seed of the run, and an empty folder of its own."""

    number: int
    seed: int
    folder: Path

    @property
    def random(self) -> np.random.Generator:
        """Random numbers of this trial alone, from the start."""
        return np.random.default_rng([self.seed, self.number])


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong, and how often it is tried.

    ``try_one`` returns None where there is no such trial: all that could go wrong has. With ``long=None`` the long
    form goes on to that; ``every`` is the distance between the numbers tried in the short form.
    """

    kind: str
    where: str
    try_one: Callable[[Trial], Ended | None]
    short: int
    long: int | None
    every: int = 1
    may_end: frozenset[Ended] = frozenset({Ended.RECOVERED, Ended.REFUSED})

    def __str__(self) -> str:
        return f"{self.kind}, {self.where}"

    def numbers(self, long: bool) -> Iterator[int]:
        """The numbers of the trials of a form."""
        if long:
            return iter(range(1, self.long + 1)) if self.long is not None else count(1)
        return iter(range(1, 1 + self.short * self.every, self.every))


#: What is registered, in the order of the table.
FAULTS: list[Fault] = []


def fault(
    kind: str, where: str, *, short: int, long: int | None, every: int = 1, ends: set[Ended] | None = None
) -> Callable[[Callable[[Trial], Ended | None]], Callable[[Trial], Ended | None]]:
    """Register a fault: what is done, in which phase, how often in the short and the long form, how it may end.

    ``short=0`` leaves it to the long form.
    """

    def register(try_one: Callable[[Trial], Ended | None]) -> Callable[[Trial], Ended | None]:
        may_end = frozenset(ends) if ends else frozenset({Ended.RECOVERED, Ended.REFUSED})
        FAULTS.append(Fault(kind, where, try_one, short, long, every, may_end))
        return try_one

    return register


def registered() -> list[Fault]:
    """All faults there are."""
    here = Path(__file__).parent / "faults"
    for module in sorted(path.stem for path in here.glob("*.py")):
        importlib.import_module(f"tests.reliability.faults.{module}")
    return FAULTS


@dataclass
class Tally:
    """What became of the trials of one fault."""

    ended: Counter[Ended] = field(default_factory=Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)

    @property
    def n_trials(self) -> int:
        """How many there were."""
        return self.ended.total()


def run(fault: Fault, numbers: Iterator[int], seed: int = 0) -> Tally:
    """Try a fault again and again, each time in a folder of its own."""
    tally = Tally()
    for number in numbers:
        folder = Path(tempfile.mkdtemp())
        try:
            ended = fault.try_one(Trial(number, seed, folder))
        except Exception:
            tally.ended[Ended.SILENT] += 1
            tally.failures.append((number, traceback.format_exc()))
            continue
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if ended is None:
            break
        tally.ended[ended if ended in fault.may_end else Ended.SILENT] += 1
        if ended not in fault.may_end:
            tally.failures.append((number, f"ended as {ended}, and may not"))
    return tally
