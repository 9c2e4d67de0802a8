"""How many workers a cluster should have, and what is done where some are gone for good."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from dgmm.errors import InputError

logger = logging.getLogger("dgmm")

#: Seconds between two looks at whether a worker is missing.
UPKEEP = 20.0


@dataclass(frozen=True)
class Size:
    """How many workers a cluster is asked for.

    Attributes
    ----------
    fixed : int or None
        So many; None leaves it to the class and its options.
    minimum, maximum : int or None
        As many as there is work for, within these bounds.
    """

    fixed: int | None = None
    minimum: int | None = None
    maximum: int | None = None

    @property
    def adaptive(self) -> bool:
        """Whether workers come and go."""
        return self.minimum is not None or self.maximum is not None

    @property
    def least(self) -> int:
        """As few as there may be, one where nothing is said."""
        return self.minimum or self.fixed or 1

    @property
    def most(self) -> int:
        """As many as there may be, one where nothing is said."""
        return self.maximum or self.fixed or self.minimum or 1

    def check(self) -> None:
        """Raise `InputError` for bounds that are none."""
        if not self.adaptive:
            return
        if self.fixed is not None:
            raise InputError(
                f"n_workers ({self.fixed}) is a fixed number: leave it out, or min_workers and max_workers"
            )
        if self.minimum is None or self.maximum is None:
            one, other = ("min", "max") if self.maximum is None else ("max", "min")
            raise InputError(f"{one}_workers needs {other}_workers beside it")
        if self.minimum > self.maximum:
            raise InputError(f"min_workers ({self.minimum}) is more than max_workers ({self.maximum}): lower it")


@contextmanager
def kept_up(cluster: Any, size: Size) -> Iterator[None]:
    """Context in which workers that are gone for good are replaced.

    Dask forgets a worker that does not come back, but asks nobody for another: a job that was ended, a machine that was
    taken away.
    """
    keeper = Keeper(cluster, size)
    keeper.start()
    try:
        yield
    finally:
        keeper.stop()


@dataclass
class Keeper:
    """A thread that asks a cluster again for the workers that it should have.

    Attributes
    ----------
    cluster : distributed.deploy.Cluster
    size : Size
    """

    cluster: Any
    size: Size
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, if it is known how many workers there should be and which there are."""
        if (self.size.adaptive or self.size.fixed) and hasattr(self.cluster, "worker_spec"):
            self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End, and wait for it."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(UPKEEP):
            with suppress(Exception):
                self.look()

    def look(self) -> None:
        """Ask for those that are missing: as many as are wanted now, which starts those that are gone."""
        wanted, there = len(self.cluster.worker_spec), len(self.cluster.workers)
        if there < wanted:
            logger.warning("asking for %d workers in the place of those that are gone", wanted - there)
            self.cluster.scale(self.size.fixed or len(self.cluster.plan))
