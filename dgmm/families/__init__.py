"""What a component is: the families, one file each, in coordinates of a frame of the data.

A family knows all that depends on the kind of its components: features and natural parameters for the E-step, the
M-step, how they are stored, moved from one frame to another, regularised and put in order. Nothing outside asks for a
covariance type or a number of dimensions. A new family is a file here and a line in `FAMILIES`.
"""

from functools import cache

from dgmm.errors import InputError
from dgmm.families.aligned import EEI, EII, EVI, VEI
from dgmm.families.base import Family, FeatureMap, LocalFrames
from dgmm.families.diag import Diag
from dgmm.families.ellipsoids import EEV, EVE, EVV, VEE, VEV, VVE
from dgmm.families.frame import Frame, FrameKind, Moments, apply_linear, make_frame
from dgmm.families.full import Full
from dgmm.families.gamma import LOGARITHMIC_CHAIN, Gamma, Gammas
from dgmm.families.gaussian import GAUSSIAN_CHAIN, GaussianFamily, Gaussians, pack_second
from dgmm.families.poisson import Poisson, Rates
from dgmm.families.spherical import Spherical
from dgmm.families.statistics import SufficientStatistics
from dgmm.families.student import StudentDiag, StudentFull, Students, StudentTied, with_hidden
from dgmm.families.tied import Tied

__all__ = [
    "ALIASES",
    "DEFAULT",
    "FAMILIES",
    "GAUSSIAN_CHAIN",
    "GROUPS",
    "LOGARITHMIC_CHAIN",
    "SCIKIT_LEARN",
    "Family",
    "FeatureMap",
    "Frame",
    "FrameKind",
    "Gammas",
    "GaussianFamily",
    "Gaussians",
    "LocalFrames",
    "Moments",
    "Rates",
    "Students",
    "SufficientStatistics",
    "apply_linear",
    "gaussian_family",
    "get_family",
    "make_frame",
    "names",
    "pack_second",
    "register",
    "with_hidden",
]

#: Every family by name; settings, storage, tables and the contract tests read it.
FAMILIES: dict[str, Family] = {}
#: Other names of families -> theirs.
ALIASES: dict[str, str] = {}
#: Names that stand for several families.
GROUPS = {
    # the covariance structures of Celeux and Govaert (1995), in the order of mclust
    "mclust": ("EII", "VII", "EEI", "VEI", "EVI", "VVI", "EEE", "VEE", "EVE", "VVE", "EEV", "VEV", "EVV", "VVV"),
}


def register(family: Family) -> None:
    """Make a family known under its names."""
    FAMILIES[family.name] = family
    # those that its class says of itself: what is made from another has other names
    ALIASES.update(dict.fromkeys(vars(type(family)).get("aliases", ()), family.name))


def get_family(name: str) -> Family:
    """The family of this name, or an `InputError` that lists all of them."""
    plain, colon, given = name.partition(":")
    family = FAMILIES.get(ALIASES.get(plain, plain))
    found = _variant(family, given) if family and colon else family
    if found is None:
        raise InputError(f"unknown covariance type {name!r}: choose from {', '.join(names())}")
    return found


@cache
def _variant(family: Family, given: str) -> Family | None:
    return family.variant(given)


def names() -> list[str]:
    """Every name of a family."""
    return [*FAMILIES, *ALIASES]


def gaussian_family(name: str, what: str) -> GaussianFamily:
    """The family of this name, or an `InputError` that says what only Gaussian ones have."""
    family = get_family(name)
    if not isinstance(family, GaussianFamily):
        raise InputError(f"covariance type {name!r} has no {what}: it is not a Gaussian one")
    return family


for _family in (Full(), Tied(), Diag(), Spherical()):
    register(_family)

#: Names of those that scikit-learn has.
SCIKIT_LEARN = tuple(FAMILIES)
#: Names of those that a selection tries unless told otherwise.
DEFAULT = SCIKIT_LEARN

for _family in (EII(), EEI(), VEI(), EVI(), VEE(), EVE(), VVE(), EEV(), VEV(), EVV()):
    register(_family)
for _other in (StudentFull(), StudentTied(), StudentDiag(), Poisson(), Gamma()):
    register(_other)
