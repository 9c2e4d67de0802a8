"""Which candidates climb on all the data, and who wins.

The race carries those that may still win over all the data, in shared passes, drops, takes up again and reseeds, and
what has become of each candidate is an `Outcome`. A fit is given out with all that is known of how it was come by.
"""

from dgmm.fitting.fit import (
    fit_one,
    merge_samples,
    passes_over,
    path_of,
    select_samples,
    started,
    train_samples,
)
from dgmm.fitting.prepared import check_known
from dgmm.fitting.projection import projection_of
from dgmm.fitting.update import past_of, update_projection, update_samples

__all__ = [
    "check_known",
    "fit_one",
    "merge_samples",
    "passes_over",
    "past_of",
    "path_of",
    "projection_of",
    "select_samples",
    "started",
    "train_samples",
    "update_projection",
    "update_samples",
]
