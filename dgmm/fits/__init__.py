"""What a fit is asked for, and what comes of it: a fit, an outcome, a table of candidates."""

from dgmm.fits.clusters import Clusters, clusters_of, merged
from dgmm.fits.kinds import Count, Numbers, OpenRange
from dgmm.fits.options import Climbing, One, Search, Training
from dgmm.fits.outcome import SAME, SOUND, Outcome, OutcomeKind, Spread
from dgmm.fits.preprocess import Preprocess
from dgmm.fits.results import CRITERION_NAMES, STRONG, CriterionTerms, Fit
from dgmm.fits.selection import Selection, choose
from dgmm.fits.settings import Settings, as_list, by_model, validated
from dgmm.fits.stability import FOUND_AGAIN, Stability
from dgmm.fits.table import held_out_words
from dgmm.fits.updates import Batch

__all__ = [
    "CRITERION_NAMES",
    "FOUND_AGAIN",
    "SAME",
    "SOUND",
    "STRONG",
    "Batch",
    "Climbing",
    "Clusters",
    "Count",
    "CriterionTerms",
    "Fit",
    "Numbers",
    "One",
    "OpenRange",
    "Outcome",
    "OutcomeKind",
    "Preprocess",
    "Search",
    "Selection",
    "Settings",
    "Spread",
    "Stability",
    "Training",
    "as_list",
    "by_model",
    "choose",
    "clusters_of",
    "held_out_words",
    "merged",
    "validated",
]
