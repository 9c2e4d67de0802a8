"""Units as texts: which of them are spellings of one another."""

from __future__ import annotations

import re

#: Spellings of one unit each, without blanks and underscores; those of more than a letter in any case. A unit may have
#: several that are not each other's: practical salinity is a pure number in CF, and was one of thousandths.
SPELLINGS: tuple[frozenset[str], ...] = tuple(
    frozenset(spellings.split())
    for spellings in (
        "K kelvin kelvins degk degreek degreesk degreekelvin degreeskelvin °k",
        "C degc degreec degreesc celsius degcelsius degreecelsius degreescelsius centigrade degreecentigrade °c ºc ℃",
        "F degf degreef degreesf fahrenheit degreefahrenheit degreesfahrenheit °f ºf",
        "psu pss pss78 pss-78 practicalsalinityunit practicalsalinityunits 1e-3 1.e-3 0.001 10^-3",
        "psu pss pss78 pss-78 practicalsalinityunit practicalsalinityunits 1 1.0",
        "% percent",
        "m meter meters metre metres",
        "km kilometer kilometers kilometre kilometres",
        "cm centimeter centimeters centimetre centimetres",
        "mm millimeter millimeters millimetre millimetres",
        "dbar dbars decibar decibars",
        "hpa hectopascal hectopascals mbar millibar millibars mb",
        "s sec secs second seconds",
        "min minute minutes",
        "h hr hrs hour hours",
        "d day days",
        "kg kilogram kilograms",
        "g gram grams",
        "mol mole moles",
        "umol µmol μmol micromol micromole micromoles",
        "° deg degree degrees",
        "degreenorth degreesnorth degreen degreesn",
        "degreeeast degreeseast degreee degreese",
    )
)
#: A name and its power: ``m``, ``s-1``, ``m^3``, ``s**-2``.
FACTOR = re.compile(r"(?P<name>[^\W\d]+|[°º%][^\W\d]*)(?:(?:\*\*|\^)?(?P<power>[+-]?\d+))?")


def same_units(a: str, b: str) -> bool:
    """Whether two texts are the same unit: spellings of one, or products of the same powers of such.

    A text of which nothing is known is the same as itself alone.
    """
    if _alike(_joined(a), _joined(b)):
        return True
    ours, theirs = _factors(a), _factors(b)
    for name, power in ours:
        same = [i for i, (other, n) in enumerate(theirs) if n == power and _alike(name, other)]
        if not same:
            return False
        theirs.pop(same[0])
    return not theirs


def _alike(a: str, b: str) -> bool:
    """Whether two names without blanks are the same."""
    a, b = (name if len(name) == 1 else name.lower() if _is_known(name) else name for name in (a, b))
    return a == b or any(a in names and b in names for names in SPELLINGS)


def _is_known(name: str) -> bool:
    return any(name.lower() in names for names in SPELLINGS)


def _joined(text: str) -> str:
    """Without what stands between the words of one unit."""
    return re.sub(r"[\s_]+", "", text)


def _factors(text: str) -> list[tuple[str, int]]:
    """The names in a product and their powers: ``m/s`` and ``m s-1`` are m to the 1 and s to the -1."""
    found = []
    for i, part in enumerate(text.split("/")):
        for token in re.sub(r"[·⋅]|(?<!\*)\*(?!\*)|(?<=[^\W\d])\.", " ", part).split():
            token = token.replace("_", "")
            match = None if token[:1].isdigit() else FACTOR.fullmatch(token)
            name, power = (token, 1) if match is None else (match["name"], int(match["power"] or 1))
            if name != "1":
                found.append((name, -power if i else power))
    return found
