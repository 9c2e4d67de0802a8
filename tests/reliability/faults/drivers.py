"""The driver dies: what was done is kept, and the same command again comes to the same bits."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tests import journals
from tests.reliability.trials import Ended, Trial, fault

JOBS: dict[str, Callable[..., Any]] = {"training": journals.train, "selection": journals.select}


@cache
def data() -> str:
    """The rows of all trials."""
    return journals.write_data(Path(tempfile.mkdtemp()))


@cache
def undisturbed(name: str) -> tuple[dict[str, Any], int]:
    """What a job comes to that nothing happens to, and how many records its journal has."""
    out = Path(tempfile.mkdtemp()) / "out"
    model = journals.work(JOBS[name](data(), out, keep_journal=True))
    return journals.bits(model), journals.n_records(f"{model}.journal")


def killed(trial: Trial, name: str) -> Ended | None:
    """A driver that is killed at a record; then again somewhere later, until one comes to the end."""
    expected, n = undisturbed(name)
    r, out, record = trial.random, trial.folder / "out", 0
    while True:
        record = int(r.integers(record + 1, n + 2))
        pid = os.fork()
        if pid == 0:
            with journals.at_record(record, lambda: os.kill(os.getpid(), signal.SIGKILL)):
                journals.work(JOBS[name](data(), out))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            break
    assert os.WEXITSTATUS(status) == 0
    model = out / "model.zarr" if name == "selection" else out
    assert journals.bits(str(model)) == expected
    return Ended.RECOVERED


for name in JOBS:
    fault("driver killed", name, short=4, long=100)(lambda trial, name=name: killed(trial, name))
