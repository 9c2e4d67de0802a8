"""What a mixture says of every row: labels, probabilities and log densities, -1 or NaN where a value is missing.

One definition of that, for blocks in memory and for bulk scoring, which writes an output region by region on the grid
of the input, and the total over all rows.
"""

from dgmm.scoring.bulk import SCORES_FORMAT, Scored, score_samples
from dgmm.scoring.rows import scattered
from dgmm.scoring.total import total_log_density

__all__ = [
    "SCORES_FORMAT",
    "Scored",
    "scattered",
    "score_samples",
    "total_log_density",
]
