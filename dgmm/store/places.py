"""What all places have in common: what may lie there, who may write, and when an output appears."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import zarr

from dgmm.data import Heartbeat, Run, Versioned, awaited, local_path, record_of, store_at
from dgmm.errors import DgmmError, OutputError, OutputExistsError, first_line, is_of_obstore, one_line
from dgmm.store.states import State, Status

logger = logging.getLogger("dgmm")

Path = str | os.PathLike[str]

#: What makes a folder a Zarr group.
ROOT = "zarr.json"
#: An output that is replaced waits in the folder of the claim under this suffix until its successor is in its place.
OLD = "-old"


@dataclass(frozen=True)
class Writer:
    """What tasks need to write their parts of an output; travels to workers.

    Attributes
    ----------
    place : str
    target : str
        Path or URL at which the group is being made.
    run : str
        Whose output it is.
    """

    place: str
    target: str
    run: str

    def check(self) -> None:
        """Raise where the output is not this run's any more: it was given up, and another may be at work."""
        found = record_of(self.place)
        if found is None or found.id != self.run:
            now = "its claim is gone" if found is None else f"it is now that of {found}"
            raise DgmmError(f"{self.place} is not to be written by run {self.run[:8]} any more: {now}")

    def array(self, name: str) -> zarr.Array[Any]:
        """One of the arrays, to be written to."""
        return zarr.open_array(store_at(self.target, read_only=False), path=name, mode="r+")


class Output(ABC):
    """An output that is being made.

    Attributes
    ----------
    place : Place
    run : Run
    what : str
        Kind of output.
    overwrite : bool
        Whether it may take the place of another of its kind.
    resumes : bool
        Whether it may go on from what a dead run has left, and leave something itself.
    kept : bool
        Whether there is something to go on from: it is not removed where this run does not finish.
    finished : bool
    """

    def __init__(self, place: Place, run: Run, what: str, overwrite: bool, resumes: bool) -> None:
        self.place = place
        self.run = run
        self.what = what
        self.overwrite = overwrite
        self.resumes = resumes
        self.kept = False
        self.finished = False

    @property
    @abstractmethod
    def target(self) -> str:
        """Path or URL at which a group is being made."""

    @property
    @abstractmethod
    def records(self) -> str:
        """Path or URL of a folder, beside the claim, for records of what was written."""

    @property
    def writer(self) -> Writer:
        """What tasks need to write their parts."""
        return Writer(self.place.name, self.target, self.run.id)

    @property
    def is_ours(self) -> bool:
        """Whether the claim is still that of this run."""
        found = record_of(self.place.name)
        return found is not None and found.id == self.run.id

    @abstractmethod
    def claim(self) -> None:
        """Take the place, over from a dead run if need be."""

    @abstractmethod
    def beat(self) -> None:
        """Give a sign of life."""

    @abstractmethod
    def store(self) -> Any:
        """The zarr store of a group, empty at the first call, which is when what is replaced at a URL is deleted."""

    @abstractmethod
    def left(self) -> Any:
        """The zarr store of a group with what a dead run has left of it, which is kept, in the place of `store`."""

    @abstractmethod
    def discard(self) -> None:
        """Remove what a dead run has left."""

    @abstractmethod
    def leave(self) -> None:
        """Say that this run is over, and let lie what it has written."""

    @abstractmethod
    def write(self, content: bytes) -> None:
        """The whole content of an output that is a single file."""

    def finish(self) -> None:
        """Let it appear at its place.

        Raises
        ------
        OutputError
            If something has come to lie there in the meantime.
        DgmmError
            If another run has taken over.
        """
        with awaited(self.place.name):
            self.writer.check()
        self.place.look(self.what, overwrite=self.overwrite)
        with awaited(self.place.name):
            self.publish()
        self.finished = True

    @abstractmethod
    def publish(self) -> None:
        """Put it where it belongs."""

    @abstractmethod
    def clean(self) -> None:
        """Remove the claim, and all that was written of an output that is given up."""

    def refuse_claimed(self, found: Run) -> None:
        """Raise if the run that has claimed the place is alive."""
        name = self.place.name
        if found.alive:
            raise OutputExistsError(f"{name} is being written by {found}: wait for it or stop it, or choose another")
        logger.info("%s was left unfinished by %s, which is dead: taking over", name, found)


class Place(ABC):
    """A path or URL at which an output lies or will lie.

    Attributes
    ----------
    name : str
        As it was given, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def state(self) -> State:
        """What lies here.

        Raises
        ------
        OutputError
            If that cannot be told: nothing is taken for free that could not be looked at.
        """
        with explained(self.name, "look at"):
            found = self.found()
            run = None if found.status in (Status.FINISHED, Status.STRANGE) else record_of(self.name)
        if run is not None:
            return State(Status.UNFINISHED, run=run)
        if found.status is Status.UNFINISHED:
            return State(Status.STRANGE, detail="holds files that no run of dgmm lays claim to")
        return found

    def look(self, what: str, *, overwrite: bool, inputs: Iterable[Path] = ()) -> State:
        """Raise if an output may not come here; nothing is changed.

        Parameters
        ----------
        what : str
            Kind of output; only one of the same kind is ever replaced.
        overwrite : bool
        inputs : iterable of paths and URLs
            What the output is made from.

        Raises
        ------
        OutputExistsError
            If something finished lies here and is not to be replaced, or something that is not ours, or if the place
            lies within an input or around it.
        OutputError
            If it cannot be looked at.
        """
        for source in inputs:
            if overlap(self.name, source):
                raise OutputExistsError(f"{self.name} is where the input {source} lies: choose another place")
        state = self.state()
        if state.status is Status.STRANGE:
            raise OutputExistsError(f"{self.name} {state.detail}: remove it yourself, or choose another place")
        if state.status is Status.FINISHED and state.what != what:
            raise OutputExistsError(
                f"{self.name} holds another output of dgmm ({state.what}, not {what}): remove it yourself, or choose "
                "another place"
            )
        if state.status is Status.FINISHED and not overwrite:
            raise OutputExistsError(f"{self.name} exists already: choose another place, or overwrite it (--overwrite)")
        return state

    @contextmanager
    def begin(
        self, what: str, *, overwrite: bool, inputs: Iterable[Path] = (), resumes: bool = False
    ) -> Iterator[Output]:
        """Claim the place for an output; it is given up again unless `Output.finish` is called, or something is kept.

        Parameters
        ----------
        what, overwrite, inputs
            As for `look`.
        resumes : bool
            Whether the output may go on from what a dead run has left, and leave something itself (`Output.kept`).

        Raises
        ------
        OutputError
            As for `look`; if another run is at work here; or if the place cannot be written to.
        """
        self.look(what, overwrite=overwrite, inputs=inputs)
        run = Run.begin()
        output = self.output(run, what, overwrite, resumes)
        try:
            with explained(self.name, "write to"):
                output.claim()
            # again: an output may have been put back, or finished by somebody who was faster
            self.look(what, overwrite=overwrite)
            with Heartbeat(output.beat):
                yield output
        except Exception as error:
            if is_of_obstore(error):
                raise DgmmError(
                    f"an object store has failed while {self.name} was made: {first_line(error)}; see to that, and run "
                    "the same again"
                ) from error
            raise
        finally:
            try:
                with awaited(self.name):
                    if output.resumes and output.kept and not output.finished:
                        output.leave()
                    else:
                        output.clean()
            except Exception as error:
                logger.warning("%s: what %s leaves behind could not be removed: %s", self.name, run, one_line(error))
            run.end()

    @abstractmethod
    def content(self, size: int) -> bytes | None:
        """The first bytes of the file that lies here; None if there is none."""

    @abstractmethod
    def found(self) -> State:
        """What lies here, claims aside; unfinished if there are parts of an output."""

    @abstractmethod
    def output(self, run: Run, what: str, overwrite: bool, resumes: bool) -> Output:
        """An output to be made here."""


def overlap(a: Path, b: Path) -> bool:
    """Whether one place lies within the other, or is the same."""
    first, second = parts_of(a), parts_of(b)
    n = min(len(first), len(second))
    return first[:n] == second[:n]


def parts_of(path: Path) -> tuple[str, ...]:
    """A path or URL as the names on the way to it, links followed."""
    within = Versioned.of(path)
    if within is not None:
        return (*parts_of(within.place), f"{within.kind}.{within.ref}", *within.path.split("/"))
    local = local_path(path)
    if local is not None:
        return ("", *os.path.realpath(local).strip("/").split("/"))
    scheme, _, rest = os.fspath(path).partition("://")
    return (scheme, *(part for part in rest.split("/") if part))


def unwritten(name: str, error: Exception) -> DgmmError:
    """What to say where an output or what belongs to it cannot be written, and may be the next time."""
    told = error.strerror if isinstance(error, OSError) else first_line(error)
    return DgmmError(f"{name} cannot be written: {told or one_line(error)}; see to that, and run the same again")


@contextmanager
def explained(name: str, doing: str) -> Iterator[None]:
    """Say in one line, and as a user's mistake, what a file system or an object store says in its own words."""
    try:
        with awaited(name):
            yield
    except DgmmError:
        raise
    except Exception as error:
        if isinstance(error, OSError):
            raise OutputError(f"cannot {doing} {name}: {error.strerror or one_line(error)}") from error
        if is_of_obstore(error):
            raise OutputError(f"cannot {doing} {name}: {first_line(error)}") from error
        raise


@contextmanager
def writing(place: str) -> Iterator[None]:
    """Context in which a part of an output is written: says so where that takes long, or cannot be done."""
    try:
        with awaited(place):
            yield
    except Exception as error:
        if isinstance(error, OSError) or is_of_obstore(error):
            raise unwritten(place, error) from error
        raise
