"""What can go wrong, as types: a user's mistake, and a fit that cannot go on; and what may be said of it."""

import re


class DgmmError(Exception):
    """Base of every error that dgmm raises on purpose. Its text is one line: what, the value, what to do."""


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
