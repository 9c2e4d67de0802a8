"""What may pass, and is worth another try, and what would only come again."""

from __future__ import annotations

import errno
import pickle

import pytest
from distributed.comm import CommClosedError
from obstore.exceptions import GenericError, NotFoundError

from dgmm.engine.cluster import Failure, call_on_worker
from dgmm.errors import (
    ClusterError,
    CollapseError,
    DgmmError,
    InputError,
    InsufficientMemoryError,
    OutputExistsError,
    ReadError,
    may_pass,
)


def raised(error: Exception, cause: Exception, *, said: bool = True) -> Exception:
    """An error that comes from another, of which it says so or not."""
    try:
        try:
            raise cause
        except Exception as inner:
            raise error from (inner if said else None)
    except Exception as found:
        return found


PASSING = [
    ClusterError("lost the scheduler"),
    ConnectionResetError("reset"),
    TimeoutError("late"),
    OSError(errno.ESTALE, "stale file handle"),
    OSError(errno.EIO, "input/output error"),
    CommClosedError("closed"),
    GenericError("503"),
    raised(ReadError("a chunk cannot be read"), GenericError("503")),
    raised(InputError("cannot open"), GenericError("no answer"), said=False),
    raised(DgmmError("an object store has failed"), ConnectionError("away")),
]
LASTING = [
    InputError("n_components=0"),
    OutputExistsError("exists"),
    CollapseError("collapsed"),
    InsufficientMemoryError("too little"),
    ReadError("a chunk is not there"),
    DgmmError("not finite"),
    FileNotFoundError(errno.ENOENT, "no such file"),
    OSError(errno.ENOSPC, "no space left"),
    NotFoundError("no such object"),
    MemoryError(),
    KeyError("bug"),
    raised(ReadError("cannot be decoded"), ValueError("checksum")),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_was_away_may_be_back(error: Exception) -> None:
    assert may_pass(error)


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_what_is_wrong_stays_wrong(error: Exception) -> None:
    assert not may_pass(error)


def test_a_task_says_whether_what_it_failed_of_may_pass() -> None:
    """What an error comes from does not travel."""

    def fail(error: Exception) -> None:
        raise error

    for error, expected in ((PASSING[7], True), (LASTING[-1], False)):
        found = pickle.loads(pickle.dumps(call_on_worker("id", fail, error)))
        assert isinstance(found, Failure)
        assert found.error.__cause__ is None
        assert may_pass(found.error) is expected
