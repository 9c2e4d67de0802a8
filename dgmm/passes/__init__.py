"""What one read of the data can be asked: the leaves of the fold, and `Passes`, through which fits ask them.

The profile (moments, range, missing rows, a sample of rows), the E-step of any number of mixtures, the rows that
mixtures explain worst, what they say of the rows that judge. Which mixtures those are is no concern of this room.
"""

from dgmm.estep import row_hashes
from dgmm.passes.census import Census, CensusSegment, filled_in
from dgmm.passes.codec import from_parts, packed, to_parts, unpacked
from dgmm.passes.judge import BlockSums
from dgmm.passes.leaves import leaves_for
from dgmm.passes.misfits import refuse_values
from dgmm.passes.passes import Passes, judge_rows, profile_of
from dgmm.passes.profile import Profile, refuse_infinite
from dgmm.passes.sample import Sample

__all__ = [
    "BlockSums",
    "Census",
    "CensusSegment",
    "Passes",
    "Profile",
    "Sample",
    "filled_in",
    "from_parts",
    "judge_rows",
    "leaves_for",
    "packed",
    "profile_of",
    "refuse_infinite",
    "refuse_values",
    "row_hashes",
    "to_parts",
    "unpacked",
]
