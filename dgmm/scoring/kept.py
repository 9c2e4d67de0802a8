"""What a run of scoring begins with, goes on from, and leaves where it does not come to its end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from dgmm.data import Grid
from dgmm.engine import Workers
from dgmm.errors import InputError, OutputError
from dgmm.scoring.arrays import keep_chunks
from dgmm.scoring.entries import grid_of, names_of
from dgmm.scoring.former import Former, in_place
from dgmm.scoring.ledger import Ledger
from dgmm.scoring.regions import Finding, Written
from dgmm.store import Output
from dgmm.types import AnyArray

logger = logging.getLogger("dgmm")


def begun(
    output: Output,
    ledger: Ledger,
    create: Callable[[Any], None],
    sources: AnyArray | None,
    former: Former | None,
    workers: Workers,
) -> tuple[Any, list[int]]:
    """The store of an output, with what is there of it, and the regions that are still to be scored.

    Parameters
    ----------
    output : Output
    ledger : Ledger
    create : callable
        Makes a group of a store, around the chunks that are there.
    sources : ndarray or None
        What each region is read from; see `dgmm.data.Seen`.
    former : Former or None
        Scores at the same place, of which what is still as it was is carried over.
    workers : Workers
    """
    goes_on, names, grid = ledger.open(), names_of(ledger.head), grid_of(ledger.head)
    standing = np.zeros(len(grid), dtype=bool) if former is None else former.standing(ledger.head, sources)
    if former is not None and in_place(former, output) and not goes_on and standing.any():
        # said before what is there is none any more
        ledger.begin()
        done = carried(former, output, ledger, standing)
        store = output.left()
        keep_chunks(store, names)
        create(store)
        return store, np.flatnonzero(~done).tolist()
    if goes_on:
        store = output.left()
        keep_chunks(store, names)
    else:
        store = output.store()
        ledger.begin()
    create(store)
    missing = np.zeros(len(grid), dtype=bool)
    # what was recorded and does not lie there as it was written may have been carried over like that
    untouched = ~ledger.load()[1]
    missing[missing_regions(ledger, grid, workers)] = True
    if former is not None and not in_place(former, output):
        missing &= ~carried(former, output, ledger, standing & untouched)
    return store, np.flatnonzero(missing).tolist()


def carried(former: Former, output: Output, ledger: Ledger, standing: AnyArray) -> AnyArray:
    """Carry over the regions that a mask names; which of them are there now."""
    entries, found = former.carry(output, np.flatnonzero(standing), ledger.head), np.zeros(len(standing), dtype=bool)
    found[entries.region] = True
    if found.any():
        ledger.note(entries)
        logger.info(
            "%s: %d of %d regions are as they were: the others are scored", ledger.name, found.sum(), len(found)
        )
    return found


def missing_regions(ledger: Ledger, grid: Grid, workers: Workers) -> list[int]:
    """The regions that are still to be scored: all that are not recorded, or do not lie there as they were written."""
    table, known = ledger.load()
    recorded = np.flatnonzero(known)
    if not len(recorded):
        return list(range(len(grid)))
    written = Written(ledger.output.target, names_of(ledger.head), grid)
    unsound = {f.region for f in examine(written, recorded, table.checksums[recorded], workers) if f.region is not None}
    known[list(unsound)] = False
    logger.info(
        "%s: %d of %d regions are there%s: going on with the others", ledger.name, known.sum(), len(grid),
        f", {len(unsound)} are recorded and are not what was written" if unsound else "",
    )  # fmt: skip
    return np.flatnonzero(~known).tolist()


def examine(written: Written, regions: AnyArray, checksums: AnyArray, workers: Workers) -> list[Finding]:
    """Read regions on the workers and compare them with their checksums; what is not as it should be."""
    parts = np.array_split(np.arange(len(regions)), min(len(regions), 4 * workers.n_threads))
    given = [(regions[part].tolist(), checksums[part]) for part in parts]
    return [finding for found in workers.map(written.examine, given) for finding in found] if len(regions) else []


@contextmanager
def kept_for_another(output: Output, ledger: Ledger) -> Iterator[None]:
    """Context in which an output is made: when it is not finished, what is recorded of it is kept, and it is said."""
    try:
        yield
    except OutputError:
        raise
    except InputError:  # the same again would come to the same
        output.kept = False
        raise
    except BaseException as error:
        n = 0
        try:
            n = int(ledger.load()[1].sum())
            output.kept = n > 0
        except Exception:  # it cannot be told now
            output.kept = True
        if output.resumes and n and isinstance(error, KeyboardInterrupt):
            error.add_note(f"the same command again goes on after {n} of {ledger.head['regions']} regions")
        elif output.resumes and n:
            logger.warning("%d of %d regions are kept beside %s: the same again goes on from there",
                           n, ledger.head["regions"], ledger.name)  # fmt: skip
        raise
