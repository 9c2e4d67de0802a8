"""What a mixture says of every row: labels, probabilities and log densities, -1 or NaN where a value is missing.

One definition of that, for blocks in memory and for bulk scoring, which writes an output region by region on the grid
of the input, and the total over all rows. A ledger says what is to be written and what was: what a run has left another
goes on from, and whatever lies there can be verified, also by scoring it anew.
"""

from dgmm.scoring.arrays import (
    SCORES_FORMAT,
    SCORES_KIND,
    attributes_of_source,
    check_coordinates,
    write_coordinates,
)
from dgmm.scoring.bulk import score_projection, score_samples, scored_as
from dgmm.scoring.portions import in_portions
from dgmm.scoring.rows import scattered
from dgmm.scoring.segments import Scored
from dgmm.scoring.total import total_log_density
from dgmm.scoring.verify import (
    Verdict,
    kind_of,
    open_written,
    part_of,
    some_of,
    verify_anew,
    verify_data,
    verify_model,
    verify_structure,
)

__all__ = [
    "SCORES_FORMAT",
    "SCORES_KIND",
    "Scored",
    "Verdict",
    "attributes_of_source",
    "check_coordinates",
    "in_portions",
    "kind_of",
    "open_written",
    "part_of",
    "scattered",
    "score_projection",
    "score_samples",
    "scored_as",
    "some_of",
    "total_log_density",
    "verify_anew",
    "verify_data",
    "verify_model",
    "verify_structure",
    "write_coordinates",
]
