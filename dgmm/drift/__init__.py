"""Whether data are still like those that a model was fitted to: by how much, in which classes, and where.

By effect size, not by significance: of millions of rows every difference is significant. What differs between blocks of
the training data anyhow is the measure of what differs now.
"""

from dgmm.drift.baseline import Baseline, baseline_of, census_of
from dgmm.drift.shifts import Drift, Shift, compare

__all__ = ["Baseline", "Drift", "Shift", "baseline_of", "census_of", "compare"]
