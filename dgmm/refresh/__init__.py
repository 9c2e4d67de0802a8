"""What is done every night: look at the new data, renew the model where that is asked for, score what is new.

Each phase is a function of the settings alone. What a phase has come to lies where the next one finds it: a note beside
the scores (``OUT.night``), a candidate (``OUT.candidate``) with its journal, a registry of versions, the scores with
their ledger. So whatever is killed goes on where it was, and what is done is not done again.
"""

from dgmm.refresh.night import Night, last_night
from dgmm.refresh.renewal import fit_stage
from dgmm.refresh.stages import (
    accept_stage,
    drift_stage,
    guard_stage,
    is_finished,
    run_refresh,
    score_stage,
    summary,
    verify_stage,
)
from dgmm.refresh.structure import Structure

__all__ = [
    "Night",
    "Structure",
    "accept_stage",
    "drift_stage",
    "fit_stage",
    "guard_stage",
    "is_finished",
    "last_night",
    "run_refresh",
    "score_stage",
    "summary",
    "verify_stage",
]
