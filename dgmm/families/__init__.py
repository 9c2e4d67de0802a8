"""The families of components, one file each. A new one is a file here and a line in `FAMILIES`."""

from dgmm.errors import InputError
from dgmm.families.base import Family, FeatureMap, LocalFrames
from dgmm.families.diag import Diag
from dgmm.families.full import Full
from dgmm.families.gaussian import GaussianFamily, Gaussians
from dgmm.families.spherical import Spherical
from dgmm.families.tied import Tied

__all__ = [
    "DEFAULT",
    "FAMILIES",
    "Family",
    "FeatureMap",
    "GaussianFamily",
    "Gaussians",
    "LocalFrames",
    "gaussian_family",
    "get_family",
    "register",
]

#: Every family by name; settings, storage, tables and the contract tests read it.
FAMILIES: dict[str, Family] = {}


def register(family: Family) -> None:
    """Make a family known under its name."""
    FAMILIES[family.name] = family


def get_family(name: str) -> Family:
    """The family of this name, or an `InputError` that lists all of them."""
    try:
        return FAMILIES[name]
    except KeyError:
        raise InputError(f"unknown covariance type {name!r}: choose from {', '.join(FAMILIES)}") from None


def gaussian_family(name: str, what: str) -> GaussianFamily:
    """The family of this name, or an `InputError` that says what only Gaussian ones have."""
    family = get_family(name)
    if not isinstance(family, GaussianFamily):
        raise InputError(f"covariance type {name!r} has no {what}: it is not a Gaussian one")
    return family


for _family in (Full(), Tied(), Diag(), Spherical()):
    register(_family)

#: Names of those that a selection tries unless told otherwise.
DEFAULT = tuple(FAMILIES)
