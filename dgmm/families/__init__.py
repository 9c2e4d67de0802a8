"""What a component is: the families, one file each, in coordinates of a frame of the data.

A family knows all that depends on the kind of its components: features and natural parameters for the E-step, the
M-step, how they are stored, moved from one frame to another, regularised and put in order. Nothing outside asks for a
covariance type or a number of dimensions. A new family is a file here and a line in `FAMILIES`.
"""

from collections.abc import Callable
from functools import cache

from dgmm.errors import InputError
from dgmm.families.aligned import EEI, EII, EVI, VEI
from dgmm.families.base import Family, LocalFrames
from dgmm.families.diag import Diag
from dgmm.families.ellipsoids import EEV, EVE, EVV, VEE, VEV, VVE
from dgmm.families.factors import Analysers, Factors
from dgmm.families.features import GAUSSIAN_CHAIN, FeatureMap, pack_second
from dgmm.families.frame import Frame, FrameKind, Moments, apply_linear, make_frame
from dgmm.families.full import Full
from dgmm.families.gamma import LOGARITHMIC_CHAIN, Gamma, Gammas
from dgmm.families.gaussian import GaussianFamily, Gaussians, proportions
from dgmm.families.noise import NOISE, Noise
from dgmm.families.poisson import Poisson, Rates
from dgmm.families.prior import Prior
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
    "NOISE",
    "SCIKIT_LEARN",
    "SERIES",
    "SERIES_PATTERN",
    "Analysers",
    "Factors",
    "Family",
    "FeatureMap",
    "Frame",
    "FrameKind",
    "Gammas",
    "GaussianFamily",
    "Gaussians",
    "LocalFrames",
    "Moments",
    "Noise",
    "Prior",
    "Rates",
    "Students",
    "SufficientStatistics",
    "apply_linear",
    "gaussian_family",
    "get_family",
    "make_frame",
    "names",
    "pack_second",
    "proportions",
    "register",
    "with_hidden",
]

#: Every family by name; settings, storage, tables and the contract tests read it.
FAMILIES: dict[str, Family] = {}
#: Other names of families -> theirs.
ALIASES: dict[str, str] = {}
#: Names before a colon -> how to make one of endlessly many families of the number after it.
SERIES: dict[str, Callable[[str], Family]] = {
    "factors": Factors.of_number,
    **{family.name: family.of_number for family in (StudentFull, StudentTied, StudentDiag)},
}
#: What all names of `SERIES` are like.
SERIES_PATTERN = rf"^({'|'.join(SERIES)}):[0-9.]+$"
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
    first, colon, number = name.partition(":")
    if colon and first in SERIES:
        return _of_series(first, number)
    try:
        return FAMILIES[ALIASES.get(name, name)]
    except KeyError:
        known = f"{', '.join(names())}, or {', '.join(SERIES)} with a colon and a number"
        raise InputError(f"unknown covariance type {name!r}: choose from {known}") from None


@cache
def _of_series(first: str, number: str) -> Family:
    """One for each number: what asks whether families are the same asks for the same object."""
    family = SERIES[first](number)
    return family if family.name == f"{first}:{number}" else get_family(family.name)


def names() -> list[str]:
    """Every name of a family, but for those of `SERIES`."""
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
