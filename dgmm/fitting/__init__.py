"""Which candidates climb, on what, and who wins.

Starts are made on the sample and compared there; the race carries those that may still win over all the data, in
shared passes, drops, takes up again and reseeds, and what has become of each candidate is an `Outcome`. A fit is
given out with all that is known of how it was come by.
"""

from dgmm.fitting.fit import passes_over, select_samples, train_samples
from dgmm.fitting.initialise import check_given
from dgmm.fitting.options import Count, One, Search, Settings, Training, as_list, by_model, validated
from dgmm.fitting.outcome import SOUND, Outcome, OutcomeKind, Spread
from dgmm.fitting.results import CRITERION_NAMES, STRONG, Fit, Selection, held_out_words
from dgmm.fitting.stability import FOUND_AGAIN, Stability

__all__ = [
    "CRITERION_NAMES",
    "FOUND_AGAIN",
    "SOUND",
    "STRONG",
    "Count",
    "Fit",
    "One",
    "Outcome",
    "OutcomeKind",
    "Search",
    "Selection",
    "Settings",
    "Spread",
    "Stability",
    "Training",
    "as_list",
    "by_model",
    "check_given",
    "held_out_words",
    "passes_over",
    "select_samples",
    "train_samples",
    "validated",
]
