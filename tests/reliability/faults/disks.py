"""A disk fails: the first read, write, rename or flush, the second, and so on until none is left; or it is full."""

from __future__ import annotations

import json
import math
import resource
from itertools import count
from pathlib import Path

from tests.commands import JOBS, Scene, at, run
from tests.disks import Disk, Kind
from tests.ledgers import forked
from tests.reliability.trials import Ended, Trial, fault

#: Parts of paths that a full disk is tried on, by what is written there.
FULL = {"journal": ("training", ".journal"), "model": ("training", "out.partial"), "scores": ("scoring", "out.partial")}
#: Bytes that a file may have where the system allows no more: less than the largest has.
LIMITS = {"training": 20_000, "selection": 20_000, "scoring": 1_000}


def fails(trial: Trial, name: str, kind: Kind, within: str = "", lasting: bool = False) -> Ended | None:
    """The n-th operation of a kind fails, or all from there on, and then the same command is run again.

    Odd trials write where nothing lies, even ones where another output is to be replaced.
    """
    number, over = (trial.number + 1) // 2, trial.number % 2 == 0
    scene, found = Scene(name, trial.folder / "disk", over), count(1)

    def strikes(what: Kind, _: int, path: str) -> bool:
        if what is not kind or within not in path:
            return False
        n = next(found)
        return n == number or (lasting and n > number)

    with at(scene.folder):
        disk = Disk(str(scene.folder), strikes)
        with disk.inserted():
            code, said = scene.run()
        if not disk.n_failed:
            # where another is replaced there is more to do
            following = Trial(trial.number + 1, trial.seed, trial.folder / "over")
            return None if over else fails(following, name, kind, within, lasting)
        settled(scene, code, said)
    return Ended.RECOVERED


def limited(trial: Trial, name: str) -> Ended:
    """The system itself refuses what is written to a file beyond so many bytes."""
    scene, told = Scene(name, trial.folder / "disk", trial.number % 2 == 0), trial.folder / "told"
    most = int(math.exp(trial.random.uniform(math.log(20), math.log(LIMITS[name]))))
    with at(scene.folder):
        assert forked(lambda: run_limited(scene, most, told)) == 0
        code, said = json.loads(told.read_text())
        assert code, "nothing was injected"
        settled(scene, code, said)
    return Ended.RECOVERED


def run_limited(scene: Scene, most: int, told: Path) -> None:
    """Do a job with a limit, and put down how it ended."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    ended = scene.run()
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    told.write_text(json.dumps(ended))


def settled(scene: Scene, code: int, said: str) -> None:
    """See that a disturbed run has ended well, and that the same again comes to the same."""
    scene.check_words(code, said)
    scene.check_outputs()
    scene.check_rescued(said)
    if code:
        scene.check_again()
        return
    assert scene.job.found() == scene.new
    if scene.rubbish():
        assert said, "what is left about is spoken of"
        run(scene.job.command, "--overwrite")
        assert scene.job.found() == scene.new
        assert not scene.rubbish()


SHORT = {Kind.READ: 37, Kind.WRITE: 45, Kind.RENAME: 19, Kind.FLUSH: 13}

for name in JOBS:
    for kind, every in SHORT.items():
        fault(f"{kind} fails", name, short=4, every=every, long=None)(
            lambda trial, name=name, kind=kind: fails(trial, name, kind)
        )
for what, (name, within) in FULL.items():
    fault("disk full", what, short=3, every=9, long=None)(
        lambda trial, name=name, within=within: fails(trial, name, Kind.WRITE, within, lasting=True)
    )
for name in JOBS:
    fault("file size limited", name, short=2, long=60)(lambda trial, name=name: limited(trial, name))
