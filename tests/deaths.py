"""Leaves that kill the workers that work on them, and a fold that asks such leaves."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dgmm.engine import Fold, Leaf
from dgmm.engine.leaf import Prepare


@dataclass(frozen=True)
class Fatal(Leaf[Any]):
    """A leaf that kills its worker in the middle of a run, as often as there are marks in a folder.

    Attributes
    ----------
    leaf : Leaf
    segment : int
        At which that happens.
    marks : str
    others : tuple of int
        Processes that die, too.
    """

    leaf: Leaf[Any]
    segment: int
    marks: str
    others: tuple[int, ...] = ()

    def __call__(self, segment: int, rows: Any) -> Any:
        """The value; leaves are tried in this way, which nobody dies of."""
        return self.leaf(segment, rows)

    @contextmanager
    def over(self, run: Sequence[int]) -> Iterator[tuple[Sequence[int], Callable[[int, Any], Any]]]:
        with self.leaf.over(run) as (wanted, value_of):
            yield wanted, lambda segment, rows: self._then(value_of, segment, rows)

    def _then(self, value_of: Callable[[int, Any], Any], segment: int, rows: Any) -> Any:
        for mark in sorted(Path(self.marks).iterdir()) if segment == self.segment else ():
            try:
                mark.unlink()
            except FileNotFoundError:  # another was faster
                continue
            for pid in (*self.others, os.getpid()):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        return value_of(segment, rows)

    @property
    def exact(self) -> bool:  # type: ignore[override]
        return self.leaf.exact

    @property
    def prepare(self) -> Prepare | None:  # type: ignore[override]
        return self.leaf.prepare

    def working_bytes(self, n_rows: int) -> int:
        return self.leaf.working_bytes(n_rows)

    def result_bytes(self, n_rows: int) -> int:
        return self.leaf.result_bytes(n_rows)


@dataclass(frozen=True)
class Greedy(Fatal):
    """A leaf that takes more and more memory at a segment, up to 2 GiB."""

    def _then(self, value_of: Callable[[int, Any], Any], segment: int, rows: Any) -> Any:
        taken = []
        for _ in range(256 if segment == self.segment else 0):
            taken.append(np.ones(2**20))
            time.sleep(0.02)
        return value_of(segment, rows)


@contextmanager
def fatal(
    kind: str, segment: int, marks: Path, times: int = 1, others: Sequence[int] = (), at: int = 1
) -> Iterator[None]:
    """Context in which workers die in a pass of one kind, the ``at``-th of those that are made."""
    call = Fold.__call__
    made = 0

    def perilous(self: Fold, leaf: Leaf[Any]) -> Any:
        nonlocal made
        made += type(leaf).__name__ == kind
        if type(leaf).__name__ != kind or made != at:
            return call(self, leaf)
        marks.mkdir(exist_ok=True)
        for number in range(times):
            (marks / str(number)).touch()
        try:
            return call(self, Fatal(leaf, segment, str(marks), tuple(others)))
        finally:
            assert not list(marks.iterdir()), "nobody died"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fold, "__call__", perilous)
        yield
    assert made >= at, "there was no such pass"
