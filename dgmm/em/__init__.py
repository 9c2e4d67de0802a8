"""How one candidate climbs the likelihood, given the E-step: expectation maximisation, written once against one seam.

``accumulate: mixtures -> statistics per mixture`` is the seam: "apply the E-step to every sample and add up". An
`Ascent` says which mixture is to be evaluated next and goes on from its statistics, so that any number of them climb in
lockstep and share every pass over the data. Nothing here knows where samples come from, or who is worth it.
"""

from dgmm.em.anderson import AndersonState, Secants, from_vector, to_vector
from dgmm.em.ascent import METHODS, Ascent, Climber, Pass, climb
from dgmm.em.mstep import Accumulate, Evaluated, Ground, find_images, is_separate, maximise
from dgmm.em.past import Past
from dgmm.em.plain import PlainState, Proposal, aitken
from dgmm.em.posterior import PRIOR, Posterior, Priors
from dgmm.em.scoring import ScoringState
from dgmm.em.variational import VariationalAscent, variational_update

__all__ = [
    "METHODS",
    "PRIOR",
    "Accumulate",
    "AndersonState",
    "Ascent",
    "Climber",
    "Evaluated",
    "Ground",
    "Pass",
    "Past",
    "PlainState",
    "Posterior",
    "Priors",
    "Proposal",
    "ScoringState",
    "Secants",
    "VariationalAscent",
    "aitken",
    "climb",
    "find_images",
    "from_vector",
    "is_separate",
    "maximise",
    "to_vector",
    "variational_update",
]
