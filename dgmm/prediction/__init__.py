"""Regression by mixtures over data of any size: what is expected of some features where others are known.

Conditional means, and variances if asked for, or all features with what is missing filled in, are written region by
region on the grid of the input; nothing appears at its place before all of it is there.
"""

from dgmm.prediction.bulk import Predicted, PredictSegment, leaf_of, predict_projection, predict_samples
from dgmm.prediction.wanted import Wanted, source_layout, with_given

__all__ = [
    "PredictSegment",
    "Predicted",
    "Wanted",
    "leaf_of",
    "predict_projection",
    "predict_samples",
    "source_layout",
    "with_given",
]
