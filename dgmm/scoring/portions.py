"""Regions in a handful of portions, one after the other: how far the work is can be said between them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from dgmm.data import Samples
from dgmm.engine import Fold, Leaf, Workers, cut
from dgmm.progress import Progress

logger = logging.getLogger("dgmm")

#: So many portions, each of at least so many regions for every thread: at its end some threads wait for the others.
PORTIONS, LEAST = 5, 4


def in_portions(samples: Samples, workers: Workers, leaf: Leaf[Any], regions: Sequence[int]) -> Any:
    """Apply a leaf, whose values merge exactly, to regions, of which there is one at least: its value."""
    # what lies in memory is sent to the workers by every fold
    most = 1 if samples.in_memory else len(regions) // (LEAST * workers.n_threads)
    began, value = time.perf_counter(), None
    for portion in cut(len(regions), min(PORTIONS, max(most, 1))):
        found = Fold(samples, workers, keep=False, only=regions[portion.start : portion.stop])(leaf)
        value = found if value is None else value.merge(found)
        done, left = portion.stop, len(regions) - portion.stop
        seconds = (time.perf_counter() - began) / done * left
        progress = Progress("regions", done, left, seconds)
        logger.info("%d of %d regions", done, len(regions), extra=progress.on_a_line)
    return value
