"""What is asked to be done to features before a mixture is fitted."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from dgmm.fits.settings import Settings, as_list, plain
from dgmm.types import PcaOf, Scale


def _share_or_number(value: Any) -> Any:
    """A share of the variance below one, or a whole number of components."""
    advice = "give a share of the variance such as 0.99, or a whole number of components"
    if isinstance(value := plain(value), bool):
        raise ValueError(advice)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(advice) from None
    if 0 < number < 1:
        return number
    if not (number >= 1 and number.is_integer()):
        raise ValueError(advice)
    return int(number)


def as_preprocess(value: Any) -> Any:
    """``scale:standard,pca:0.99,log:a`` as those parts by their names; ``log`` may come more than once."""
    if not isinstance(value, str):
        return value
    found: dict[str, Any] = {}
    for part in as_list(value):
        name, _, given = part.partition(":")
        if not (name.strip() and given.strip()):
            raise ValueError("expected names and values, such as scale:standard,pca:0.99,log:a,log:b")
        found |= {name.strip(): [*found.get("log", []), given.strip()] if name.strip() == "log" else given.strip()}
    return found


class Preprocess(Settings):
    """What is done to the features before a mixture is fitted."""

    scale: Scale = Field(
        "none",
        description="By what features are divided: standard deviations, or interquartile ranges (robust) with the "
        "median in the place of the mean, both of the sample of rows.",
    )
    pca: Annotated[float | int | None, BeforeValidator(lambda v: None if v is None else _share_or_number(v))] = Field(
        None, description="Share of the variance that principal components keep, such as 0.99, or their number."
    )
    pca_of: PcaOf = Field(
        "all",
        description="Principal components of all features together, or of those of each variable by itself (variable), "
        "such as of temperature and of salinity over the same levels.",
    )
    log: Annotated[list[str], BeforeValidator(as_list)] = Field(
        [], description="Features, or variables of several, whose logarithms are taken first."
    )


def something(value: Preprocess | None) -> Preprocess | None:
    """None where there is nothing to do."""
    if value is not None and not value.model_fields_set:
        raise ValueError("nothing is asked for: give scale, pca or log, or leave it out")
    return None if value == Preprocess() else value
