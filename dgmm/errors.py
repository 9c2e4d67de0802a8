"""What can go wrong, as types: a user's mistake, and a fit that cannot go on; and what may be said of it."""

import errno
import re
from collections.abc import Iterator


class DgmmError(Exception):
    """Base of every error that dgmm raises on purpose. Its text is one line: what, the value, what to do.

    Attributes
    ----------
    passing : bool
        Whether the same again may succeed, where what it comes from does not say; see `may_pass`.
    """

    passing = False


class InputError(DgmmError, ValueError):
    """Something that was handed in cannot be used: data, settings, a path. The command line exits with 2."""


class OutputError(InputError):
    """The place to write to cannot be used."""


class OutputExistsError(OutputError):
    """The place to write to is taken: by an output that is not to be replaced, a stranger, or another run."""


class ReadError(DgmmError):
    """A part of the data is not there or cannot be decoded; array, chunk and path are in the text."""


class CollapseError(DgmmError, ValueError):
    """A component has lost its samples or its extent, and the likelihood no longer means anything.

    Attributes
    ----------
    components : tuple of int
        Which ones, where they are some of a mixture's.
    """

    def __init__(self, message: str, components: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.components = components


class InsufficientMemoryError(DgmmError):
    """A task would need more memory than its worker has; both numbers are in the text."""


class ClusterError(DgmmError):
    """The scheduler or all workers are gone."""

    passing = True


#: Characters of what others say that are quoted: it may hold a value, and that be long.
MOST_QUOTED = 600


def one_line(error: BaseException) -> str:
    """What an error says, in one line that ends."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= MOST_QUOTED else f"{words[:MOST_QUOTED]}..."


def is_of_obstore(error: BaseException) -> bool:
    """Whether this is what an object store complains with; obstore, which asks it, need not be there."""
    return type(error).__module__.startswith("obstore")


def first_line(error: BaseException) -> str:
    """What obstore says first: its own insides follow."""
    said = str(error).strip().split("Debug source:")[0].splitlines()
    return " ".join(said[0].split()) if said else type(error).__name__


def without_secrets(url: str) -> str:
    """A URL with dots for what may be a user's name, a password or a signature."""
    shown = re.sub(r"(?<=://)[^/?#]*@", "...@", url)
    return re.sub(r"(?<=[?#]).*", "...", shown) if "://" in shown else shown


#: What passes, of what the system and Dask complain of: a network that is away, and file systems on one.
PASSING_NUMBERS = {errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ENETUNREACH, errno.EHOSTUNREACH}
PASSING_NAMES = {"CommClosedError", "NoValidWorkerError", "NoWorkerError"}
#: What obstore raises for whatever has no error of its own: no answer, or one that says that the store has failed.
NO_ANSWER = "GenericError"


def may_pass(error: BaseException) -> bool:
    """Whether the same again may succeed: a scheduler, workers or a store were away, and nothing else was wrong."""
    return any(_is_passing(each) for each in _with_causes(error))


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, DgmmError):
        return error.passing
    if is_of_obstore(error):
        return type(error).__name__ == NO_ANSWER
    number = error.errno if isinstance(error, OSError) else None
    is_named = any(kind.__name__ in PASSING_NAMES for kind in type(error).__mro__)
    return isinstance(error, (ConnectionError, TimeoutError)) or is_named or number in PASSING_NUMBERS


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it comes from, said or not."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
