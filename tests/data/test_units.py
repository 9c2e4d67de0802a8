"""Units: CF's and other spellings of one, and what must not be taken for it."""

from __future__ import annotations

import pytest

from dgmm.data.units import same_units


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("degC", "degree_Celsius"),
        ("degrees C", "DEGC"),
        ("°C", "celsius"),
        ("C", "deg_C"),
        ("K", "kelvin"),
        ("m", "metres"),
        ("dbar", "decibar"),
        ("hPa", "mbar"),
        # practical salinity has been all of these
        ("psu", "PSU"),
        ("psu", "1"),
        ("psu", "1e-3"),
        ("m s-1", "m/s"),
        ("m.s-1", "m*s**-1"),
        ("kg m-3", "kg/m^3"),
        ("umol kg-1", "micromole/kg"),
        ("1/s", "s-1"),
        ("furlong", " furlong "),
        ("W m-2", "W/m2"),
    ],
)
def test_spellings_of_one_unit(a: str, b: str) -> None:
    assert same_units(a, b)
    assert same_units(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("degC", "K"),
        ("degC", "psu"),
        ("1", "1e-3"),
        ("g kg-1", "psu"),
        ("m", "M"),
        ("m", "km"),
        ("m", "dbar"),
        ("m s-1", "m s-2"),
        ("m s", "m"),
        ("kg/m3", "kg m3"),
        ("mS/cm", "MS/cm"),
        ("furlong", "Furlong"),
    ],
)
def test_other_units(a: str, b: str) -> None:
    assert not same_units(a, b)
    assert not same_units(b, a)
