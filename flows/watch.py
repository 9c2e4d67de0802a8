"""What the library says while it works, for those who watch a run from afar: lines, progress, a sign for every pass."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from prefect import runtime
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.events import emit_event
from prefect.logging.handlers import APILogHandler

from dgmm.errors import one_line
from dgmm.progress import Progress, progress_on

#: Signs that a run has got further: to another phase, and over the data once more. Automations wait for them.
PHASE, PASS = "dgmm.phase", "dgmm.pass"
#: Seconds between two things that are told, and after a server has not answered.
EVERY, AFTER_SILENCE = 2.0, 60.0

logger = logging.getLogger("dgmm")


class Watcher(logging.Handler):
    """Tells of the progress that lines of the log carry: in one artifact, and by events.

    Parameters
    ----------
    phase : str
        What is at work.
    """

    def __init__(self, phase: str) -> None:
        super().__init__()
        self.phase = phase
        self._artifact: UUID | None = None
        self._next = 0.0
        self._last: Progress | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Tell of it, unless something was told a moment ago."""
        progress = progress_on(record)
        if progress is None:
            return
        self._last = progress
        if time.monotonic() >= self._next:
            self._tell(progress)

    def begin(self) -> None:
        """Tell that the phase has begun."""
        if runtime.flow_run.id:
            emit_event(PHASE, resource=this_run(), payload={"phase": self.phase})

    def finish(self) -> None:
        """Tell how it has ended."""
        if self._last is not None:
            self._tell(self._last, 100.0)

    def _tell(self, progress: Progress, percent: float | None = None) -> None:
        self._next = time.monotonic() + EVERY
        share = progress.percent if percent is None else percent
        try:
            if self._artifact is None:
                found = create_progress_artifact(share, key=f"dgmm-{self.phase}-progress", description=str(progress))
                assert isinstance(found, UUID)
                self._artifact = found
            else:
                update_progress_artifact(self._artifact, share, description=str(progress))
            emit_event(PASS, resource=this_run(), payload={"phase": self.phase, **vars(progress)})
        except Exception as error:  # whoever watches is not worth the work
            self._next = time.monotonic() + AFTER_SILENCE
            logger.warning("progress cannot be told: %s", one_line(error)[:200])


class LogOfRun(APILogHandler):
    """Puts lines into the log of the run that is at work when it is made, whatever thread they come from."""

    def __init__(self) -> None:
        super().__init__()
        self._run = {"flow_run_id": runtime.flow_run.id, "task_run_id": runtime.task_run.id}

    def emit(self, record: logging.LogRecord) -> None:
        """Put it there."""
        vars(record).update(self._run)
        super().emit(record)


def this_run() -> dict[str, str]:
    """The run as the resource of an event, by the name that Prefect's own events have for it."""
    return {
        "prefect.resource.id": f"prefect.flow-run.{runtime.flow_run.id}",
        "prefect.resource.name": str(runtime.flow_run.name),
    }


@contextmanager
def watched(phase: str) -> Iterator[None]:
    """Context in which what the library says is in the log of the run, and its progress is told."""
    watcher = Watcher(phase)
    with heard(watcher):
        watcher.begin()
        yield
        watcher.finish()


@contextmanager
def heard(*more: logging.Handler) -> Iterator[None]:
    """Context, or decorator of a flow, in which what the library says is in the log of the run."""
    before = list(logger.handlers)
    # Prefect's own takes no lines of threads beside the run's, and is not there where Prefect was set up, as in a
    # worker, before the flows could name their logger
    ours = [handler for handler in before if not isinstance(handler, APILogHandler)]
    logger.handlers = [*ours, *more, *([LogOfRun()] if runtime.flow_run.id else [])]
    try:
        yield
    finally:
        logger.handlers = before
