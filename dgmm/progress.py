"""How far a piece of work is, on the line of the log that says so: for whoever shows it otherwise than as a line."""

from __future__ import annotations

import logging
from dataclasses import dataclass

#: What a line that carries it is given.
FIELD = "progress"


@dataclass(frozen=True)
class Progress:
    """How far a piece of work is.

    Attributes
    ----------
    what : str
        What is counted: ``passes``, ``regions``.
    done : int
    left : int
        As estimated, where it cannot be known.
    seconds_left : float
        As estimated.
    log_likelihood : float or None
        Per sample, of whoever leads.
    """

    what: str
    done: int
    left: int
    seconds_left: float
    log_likelihood: float | None = None

    @property
    def percent(self) -> float:
        """Of all that there is to do."""
        return 100.0 * self.done / max(self.done + self.left, 1)

    @property
    def on_a_line(self) -> dict[str, Progress]:
        """To be given to a logger as ``extra``."""
        return {FIELD: self}

    def __str__(self) -> str:
        so_far = "" if self.log_likelihood is None else f", {self.log_likelihood:.6f} nats per sample"
        left = f", some {_duration(self.seconds_left)} to go" if self.left else ""
        return f"{self.done} {self.what} of an estimated {self.done + self.left}{so_far}{left}"


def progress_on(record: logging.LogRecord) -> Progress | None:
    """What a line of the log says of progress, if anything."""
    found = getattr(record, FIELD, None)
    return found if isinstance(found, Progress) else None


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
