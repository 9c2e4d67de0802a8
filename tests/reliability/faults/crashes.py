"""The power fails after any operation on a file: what is left is gone on from, and nothing half is taken for whole."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from tests.commands import JOBS, Scene, at, run
from tests.crashes import After, Crash
from tests.disks import Disk, Operation
from tests.reliability.trials import Ended, Trial, fault


@cache
def operations(name: str, over: bool) -> tuple[str, list[Operation]]:
    """What a job does to files that nothing happens to, and where it was done."""
    scene = Scene(name, Path(tempfile.mkdtemp()) / "disk", over)
    noted: list[Operation] = []
    with at(scene.folder):
        disk = Disk(str(scene.folder), note=noted.append)
        with disk.inserted():
            assert scene.run() == (0, "")
    return disk.root, noted


def crashed(trial: Trial, name: str) -> Ended | None:
    """The power fails after an operation, in each way there is: where nothing lies, then where another output does."""
    number, over = trial.number - 1, False
    if number // len(After) > len(operations(name, over)[1]):
        number, over = number - len(After) * (len(operations(name, over)[1]) + 1), True
    n, after = number // len(After), After(number % len(After))
    root, noted = operations(name, over)
    if n > len(noted):
        return None
    scene = Scene(name, trial.folder / "other", over)
    crash = Crash(scene.folder, root, noted[:n])
    scene.folder = trial.folder / "disk"
    crash.build(scene.folder, after, trial.random)
    with at(scene.folder):
        return recovered(scene)


def recovered(scene: Scene) -> Ended:
    """See that what a crash has left is whole, or not there, and that the same command comes to the same."""
    found = scene.job.found()
    if scene.over and None in found.values():  # it was moved aside to be replaced: whoever comes puts it back
        code, said = run(scene.job.command)
        assert code == 2, said
        assert "exists already" in said
    scene.check_outputs()
    if found == scene.new and not scene.over:
        code, said = scene.run()
        assert code == 2, said
        assert "exists already" in said
        scene.over = True
    scene.check_again()
    return Ended.RECOVERED


for name in JOBS:
    fault("power failure", name, short=8, every=307, long=None)(lambda trial, name=name: crashed(trial, name))
