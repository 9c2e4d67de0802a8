"""How much memory a task will need at most, and the refusal of what cannot work."""

from __future__ import annotations

import numpy as np

from dgmm.data import Samples
from dgmm.errors import InsufficientMemoryError
from dgmm.workers import Workers

#: What a worker process needs for itself: the interpreter and the libraries, the compiler among them.
BASE_BYTES = 300 * 2**20
#: Share of a worker's memory at which Dask gives it no more tasks, for good if the rest is not freed.
PAUSED = 0.8
#: What the slices of the E-step and the reading of chunks need beside the segments.
BUFFER_BYTES = 16 * 2**20


def pass_bytes(samples: Samples, statistics: int = 0, sample_rows: int = 0) -> int:
    """Bytes of one task of a pass.

    Two segments as they are read and one without its missing rows, the profile's copy as float64, and the nodes of
    the tree that wait for a sibling, each with statistics of so many bytes and a sample of at most so many rows.
    """
    weighted = samples.weights is not None
    segment = samples.grid.largest * (samples.n_features + weighted)
    levels = 2 + int(np.log2(len(samples.grid)))
    sampled = sum(min(sample_rows, samples.grid.largest << level) for level in range(levels))
    waiting = levels * statistics + sampled * 8 * (samples.n_features + 1 + weighted)
    return 3 * samples.grid.largest * samples.row_bytes + 2 * 8 * segment + waiting + BUFFER_BYTES


def score_bytes(samples: Samples, n_components: int, *, probabilities: bool) -> int:
    """Bytes of one task of scoring: segments as for a pass, and the scores of one."""
    scores = 32 + 12 * n_components * probabilities
    return samples.grid.largest * (scores + 3 * samples.n_features * samples.itemsize) + BUFFER_BYTES


def check_memory(samples: Samples, workers: Workers, task_bytes: int) -> None:
    """Refuse what cannot work, with both numbers."""
    needed, usable = workers.threads_per_worker * task_bytes, workers.memory
    if workers.client is not None:
        needed, usable = needed + BASE_BYTES, int(PAUSED * usable)
    if needed > usable:
        raise InsufficientMemoryError(
            f"a worker would need {needed / 2**20:.0f} MiB for {workers.threads_per_worker} task(s) and has "
            f"{usable / 2**20:.0f} MiB to use: smaller chunks (a segment of {samples.name} has "
            f"{samples.grid.largest} samples), fewer threads per worker or more memory will help"
        )
