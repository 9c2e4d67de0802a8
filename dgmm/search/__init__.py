"""The best starts there are: on the sample in memory, where a pass costs next to nothing.

Mixtures grow there by splits, shrink by merges and move by both, for every number of components at once; k-means and
its like compete with them, or stand alone where they are asked for by name.
"""

from dgmm.search.initialise import START_FLOOR, Given, check_given, copies, from_labels, one_component
from dgmm.search.ladder import SAMPLE_PASSES, sample_ascent, sample_sizes
from dgmm.search.lloyd import kmeans
from dgmm.search.moves import Standing, twin
from dgmm.search.path import BUDGETS, Path
from dgmm.search.sampled import Candidate, SampleRows, drawn, grounds_for, is_sound, unsound_components
from dgmm.search.starts import Starts, start_on_sample

__all__ = [
    "BUDGETS",
    "SAMPLE_PASSES",
    "START_FLOOR",
    "Candidate",
    "Given",
    "Path",
    "SampleRows",
    "Standing",
    "Starts",
    "check_given",
    "copies",
    "drawn",
    "from_labels",
    "grounds_for",
    "is_sound",
    "kmeans",
    "one_component",
    "sample_ascent",
    "sample_sizes",
    "start_on_sample",
    "twin",
    "unsound_components",
]
