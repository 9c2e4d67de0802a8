"""Inject every fault and print what became of it: ``python -m tests.reliability [--long]``.

``--only WORDS`` runs the faults whose names hold these words, ``--number N`` one trial alone, ``--first N`` those from
there on, ``--most N`` no more of each. Everything is a function of ``--seed`` and the number.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from itertools import dropwhile, islice

from tests.benchmarks.tables import head, line
from tests.reliability.trials import Ended, registered, run

#: What is not among the faults, and why.
NOT_TESTED: tuple[str, ...] = (
    "power failures of a real disk (writes that were not flushed are dropped in a copy of the folder)",
    "real object stores (a local server that speaks S3, behind a proxy)",
    "bits that flip in memory or in a processor",
)


def main() -> int:
    """Print the table; 1 if anything ended as it may not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="the long form, of hours")
    parser.add_argument("--only", default="", metavar="WORDS", help="faults whose names hold these words")
    parser.add_argument("--number", type=int, metavar="N", help="this trial alone")
    parser.add_argument("--first", type=int, default=1, metavar="N", help="leave out the trials before this one")
    parser.add_argument("--most", type=int, metavar="N", help="end after so many trials of a fault")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    head("Faults, and what became of them", "fault", "where", "injected", *Ended, "bits equal", "seconds")
    failures = 0
    for fault in registered():
        if not all(word in str(fault) for word in given.only.split()):
            continue
        numbers = iter([given.number]) if given.number is not None else fault.numbers(given.long)
        numbers = islice(dropwhile(given.first.__gt__, numbers), given.most)
        began = time.monotonic()
        tally = run(fault, numbers, given.seed)
        if not tally.n_trials:
            continue
        equal = "no" if tally.ended[Ended.SILENT] else "other data" if tally.ended[Ended.UNTOLD] else "yes"
        counts = [str(tally.ended[ended]) for ended in Ended]
        line(fault.kind, fault.where, str(tally.n_trials), *counts, equal, f"{time.monotonic() - began:.0f}")
        failures += len(tally.failures)
        for number, what in tally.failures:
            print(f"    python -m tests.reliability --only {str(fault)!r} --seed {given.seed} --number {number}", what)
    print(f"\nSeed {given.seed}. Not tested:", *NOT_TESTED, sep="\n- ")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
