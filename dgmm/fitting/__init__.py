"""Which candidates climb, on what, and who wins.

Starts are made on the sample and compared there; the race carries those that may still win over all the data, in
shared passes, drops, takes up again and reseeds, and what has become of each candidate is an `Outcome`. A fit is
given out with all that is known of how it was come by.
"""

from dgmm.fitting.fit import fit_candidates, select_candidates
from dgmm.fitting.initialise import Given, check_given
from dgmm.fitting.outcome import SOUND, Outcome, OutcomeKind
from dgmm.fitting.results import NAMES, STRONG, Fit, Selection
from dgmm.fitting.starts import Candidate

__all__ = [
    "NAMES",
    "SOUND",
    "STRONG",
    "Candidate",
    "Fit",
    "Given",
    "Outcome",
    "OutcomeKind",
    "Selection",
    "check_given",
    "fit_candidates",
    "select_candidates",
]
