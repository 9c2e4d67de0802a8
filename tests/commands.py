"""What tests that disturb files share: small jobs by the command line, each in a folder of its own, and their results.

Paths are relative to that folder: a job is the same in all of them, to the byte.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import dgmm
from dgmm.cli import main
from dgmm.store import save
from tests import journals, ledgers
from tests.reliability.test_refusals import quiet

FIT = [f"--set=training.{name}={value}" for name, value in journals.TRAINING.items()]
COMMON = ["--scheduler=threads", "--workers=1", "--quiet"]


def model_at(place: Path) -> Any:
    """What a model holds."""
    return journals.bits(str(place))


@dataclass(frozen=True)
class Job:
    """A command, and another that writes the same kind of output to the same place.

    Attributes
    ----------
    command, other : tuple of str
    outputs : dict
        Place -> what lies there, which is as it should be: raises for what is half.
    """

    command: tuple[str, ...]
    other: tuple[str, ...]
    outputs: dict[str, Callable[[Path], Any]]

    def found(self) -> dict[str, Any]:
        """What lies at the places of the outputs; None where nothing does."""
        return {place: read(Path(place)) if os.path.lexists(place) else None for place, read in self.outputs.items()}


JOBS = {
    "training": Job(
        ("train", "x.zarr", "--k=3", "--out=out", *FIT, *COMMON),
        ("train", "x.zarr", "--k=2", "--out=out", *FIT, *COMMON),
        {"out": model_at},
    ),
    "selection": Job(
        ("select", "x.zarr", "--k=1:3", "--covariance=full,tied", "--out=run", *FIT, *COMMON),
        ("select", "x.zarr", "--k=1:2", "--covariance=full", "--out=run", *FIT, *COMMON),
        {"run/model.zarr": model_at, "run/candidates.csv": Path.read_bytes},
    ),
    "scoring": Job(
        ("score", "m.zarr", "y.zarr", "--out=out", *COMMON),
        ("score", "n.zarr", "y.zarr", "--out=out", *COMMON),
        {"out": ledgers.tree},
    ),
}


def run(command: tuple[str, ...], *more: str) -> tuple[int, str]:
    """Run a command in this process; its exit code, and what it says on standard error."""
    before = logging.root.manager.disable
    logging.disable(logging.NOTSET)
    try:
        with quiet() as said:
            code = main([*command, *more])
    finally:
        logging.disable(before)
    return code, said.getvalue()


@dataclass(frozen=True)
class Undisturbed:
    """What a job comes to that nothing happens to.

    Attributes
    ----------
    inputs : Path
        Folder with what it reads.
    before : Path
        The same, with the finished output of the other command.
    old, new : dict
        What that output is, and what the job's is.
    """

    inputs: Path
    before: Path
    old: dict[str, Any]
    new: dict[str, Any]


@cache
def undisturbed(name: str) -> Undisturbed:
    """What a job comes to, and what it is done on."""
    job, folder = JOBS[name], Path(tempfile.mkdtemp())
    inputs, before = folder / "inputs", folder / "before"
    inputs.mkdir()
    if name == "scoring":
        ledgers.write_job(inputs)
        (inputs / "x.zarr").rename(inputs / "y.zarr")
        save(ledgers.fit(4), inputs / "n.zarr")
    else:
        journals.write_data(inputs)
    shutil.copytree(inputs, before)
    with at(before):
        assert run(job.other) == (0, "")
        old = job.found()
    shutil.copytree(inputs, folder / "after")
    with at(folder / "after"):
        assert run(job.command) == (0, "")
        new = job.found()
    assert None not in (*old.values(), *new.values())
    return Undisturbed(inputs, before, old, new)


@contextmanager
def at(folder: Path) -> Iterator[None]:
    """Context in which a folder is the one that is worked in, small arrays are cut, and nothing is kept elsewhere."""
    aside = Path(f"{folder}-aside")
    aside.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, ledgers.small_for_a_while(), contextlib.chdir(folder):
        patch.setenv("TMPDIR", str(aside))
        patch.setenv("HOME", str(aside))
        patch.setattr(tempfile, "tempdir", None)
        yield


class Scene:
    """A job in a folder, to be disturbed.

    Parameters
    ----------
    name : str
    folder : Path
        To be made.
    over : bool
        Whether another output lies there, which is to be replaced.
    """

    def __init__(self, name: str, folder: Path, over: bool) -> None:
        self.job, self.folder, self.over = JOBS[name], folder, over
        self.undisturbed = undisturbed(name)
        shutil.copytree(self.undisturbed.before if over else self.undisturbed.inputs, folder)
        self.names = {*os.listdir(self.undisturbed.inputs)}
        self.new = self.undisturbed.new
        self.old = self.undisturbed.old if over else dict.fromkeys(self.new)

    def run(self) -> tuple[int, str]:
        """Do the job."""
        return run(self.job.command, *(["--overwrite"] if self.over else []))

    def rubbish(self) -> set[str]:
        """What lies about that is neither an input nor an output."""
        places = {name for place in self.job.outputs for name in (place, os.path.dirname(place))}
        near = {*os.listdir(), *(f"run/{name}" for name in (os.listdir("run") if os.path.exists("run") else []))}
        return near - self.names - places

    def check_words(self, code: int, said: str) -> None:
        """See that a command that has failed ends with one clear line, and no other ends with one."""
        assert "Traceback" not in said, said
        last = [line for line in said.splitlines() if line.startswith("dgmm: ")]
        assert last == (said.splitlines()[-1:] if code else []), said
        assert code in (0, 1, 2)
        assert bool(last) == bool(code), said

    def check_outputs(self) -> None:
        """See that whatever lies at a place is whole: what was there before, or what was to come."""
        for place, found in self.job.found().items():
            assert found in (self.old[place], self.new[place]), f"{place} is neither what it was nor what was to come"

    def check_rescued(self, said: str) -> None:
        """See that a model that could not be written where it belongs lies whole where that is said."""
        for folder in (self.folder, Path(f"{self.folder}-aside")):
            for file in folder.glob("dgmm-model-*.json"):
                assert file.name in said
                (wanted,) = (found for place, found in self.new.items() if "csv" not in place)
                assert dgmm.load(file).mixture.means.tobytes() == wanted["means"]
                file.unlink()

    def check_again(self) -> None:
        """See that the same command comes to the same bits and leaves nothing about."""
        code, said = self.run()
        assert code == 0, said
        assert self.job.found() == self.new
        assert not self.rubbish()
