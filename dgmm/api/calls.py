"""What the functions have in common: the workers that keyword arguments name, and a journal."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from dgmm.config import Cluster
from dgmm.data import Samples, Source, check_unchanged, fingerprint
from dgmm.engine import Projection, Workers, open_workers
from dgmm.fits import validated
from dgmm.store import Records, journal_at

if TYPE_CHECKING:
    from distributed import Client


@contextmanager
def recorded(
    source: Source,
    samples: Samples,
    path: str | os.PathLike[str] | None,
    asked: Mapping[str, Any],
    *,
    keep: bool,
) -> Iterator[Records | None]:
    """Context of the journal at a path, for what is asked of samples; of None where there is no path.

    What lies at a path or URL must not change meanwhile; what somebody else has opened is theirs.
    """
    named = isinstance(source, (str, os.PathLike))
    before = fingerprint(samples) if named or path is not None else {}
    with nullcontext() if path is None else journal_at(path, before, asked, keep=keep) as records:
        yield records
        if named:
            check_unchanged(samples, before)


def workers_named(
    scheduler: str | Client | None, cluster: Mapping[str, Any], need: Projection | None = None
) -> AbstractContextManager[Workers]:
    """Context of the workers that keyword arguments name, for what needs so much memory."""
    return open_workers(scheduler, **validated(Cluster, dict(cluster)).model_dump(exclude={"scheduler"}), need=need)
