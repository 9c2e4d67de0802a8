"""A run: who is writing an output, and whether it is still alive."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psutil

#: Seconds between two signs of life, and those without one after which a run elsewhere counts as dead.
BEAT, SILENCE = 20.0, 180.0
#: Seconds by which two readings of when a process was started may differ.
START_ERROR = 5.0

#: Runs of this process that have not ended.
_active: set[str] = set()


@dataclass(frozen=True)
class Run:
    """Who is writing an output.

    Attributes
    ----------
    id : str
        32 hexadecimal digits that no other run has.
    host : str
        For people.
    machine : str
        The host since it was last started, and the processes that can be seen there: where `pid` means something.
    pid : int
    started : float
        When that process was started, in seconds since the epoch: a later one may have its number.
    since : float
        When the run began, in seconds since the epoch.
    seen : float
        Its last sign of life, in seconds since the epoch; zero where it has said that it is over.
    """

    id: str
    host: str
    machine: str
    pid: int
    started: float
    since: float
    seen: float

    @classmethod
    def begin(cls) -> Run:
        """A run of this process; `end` says that it is over."""
        now = time.time()
        run = cls(uuid.uuid4().hex, socket.gethostname(), machine(), os.getpid(), started(os.getpid()), now, now)
        _active.add(run.id)
        return run

    def end(self) -> None:
        """Say that it is over."""
        _active.discard(self.id)

    def now(self) -> Run:
        """The same with a sign of life of this moment."""
        return replace(self, seen=time.time())

    def over(self) -> Run:
        """The same with the word that it is over, for those who find what it has left."""
        return replace(self, seen=0.0)

    @property
    def alive(self) -> bool:
        """Whether it may still write: of a run on another machine only its signs of life tell."""
        if not self.seen:
            return False
        if self.machine != machine():
            return time.time() - self.seen < SILENCE
        if self.pid == os.getpid() and abs(self.started - started(self.pid)) < START_ERROR:
            return self.id in _active
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < START_ERROR
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def to_json(self) -> bytes:
        """As it is stored."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Run | None:
        """What `to_json` made; None where it is anything else."""
        try:
            values = json.loads(content)
            run = cls(**values)
            numbers = [float(n) for n in (run.pid, run.started, run.since, run.seen)]
        except (ValueError, TypeError, RecursionError):
            return None
        names = (run.id, run.host, run.machine)
        return run if all(isinstance(n, str) for n in names) and min(numbers) >= 0 and is_run_id(run.id) else None

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"run {self.id[:8]} on {self.host} (process {self.pid}, since {since})"


def is_run_id(text: str) -> bool:
    """Whether this is what `Run.id` looks like."""
    return len(text) == 32 and set(text) <= set("0123456789abcdef")


def machine() -> str:
    """What tells the processes that can be seen from here from those of other machines, starts and containers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{uuid.getnode():x} {round(psutil.boot_time(), -2):.0f}"


def started(pid: int) -> float:
    """When a process was started, in seconds since the epoch."""
    return float(psutil.Process(pid).create_time())


class Heartbeat:
    """Context with a thread that gives signs of life.

    Parameters
    ----------
    beat : callable
        Gives one; what it raises is passed over, since whoever writes looks by himself whether he still may.
    """

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dgmm-heartbeat", daemon=True)

    def _run(self) -> None:
        while not self._over.wait(BEAT):
            try:
                self._beat()
            except Exception:
                continue

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
