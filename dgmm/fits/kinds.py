"""Kinds of settings: numbers, families, criteria, lengths of blocks, as they are written and as they are meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)

from dgmm.errors import InputError
from dgmm.families import GROUPS, SERIES_PATTERN, get_family, names
from dgmm.fits.settings import as_list, plain
from dgmm.types import Criterion, Part

#: An open range begins with so many numbers, and goes on until so many more bring nothing, or to this number.
FIRST_NUMBERS, STEPS, LIMIT = 8, 3, 64


def _as_numbers(value: Any) -> Any:
    """``1:12`` as 1, 2, ..., 12 and ``2,4,8`` as those; what else holds numbers, and a single one, as lists."""
    if isinstance(value, str):
        return [number for part in as_list(value) for number in _span(part)]
    value = plain(value)
    if isinstance(value, Iterable) and not isinstance(value, (Mapping, bytes)):
        return list(value)
    return [value] if isinstance(value, (int, float)) else value


class OpenRange(list[int]):
    """Numbers from a first one up, as many as it takes: ``1:``. It holds those to begin with."""

    def __str__(self) -> str:
        return f"{self[0]}:"

    @staticmethod
    def after(last: int, best: int | None, most: int) -> Sequence[int]:
        """The numbers that come next: none, if the last ones have brought nothing.

        Parameters
        ----------
        last : int
            The largest number that was tried.
        best : int or None
            The best of all that were tried, if any means something.
        most : int
            There cannot be more.
        """
        if best is None or best <= last - STEPS:
            return ()
        return range(last + 1, min(2 * last, most, LIMIT) + 1)


def _open_or_numbers(value: Any, handler: ValidatorFunctionWrapHandler) -> list[int]:
    """``1:`` as an open range, the rest as numbers."""
    if isinstance(value, OpenRange):
        return value
    found = re.fullmatch(r"(\d+):", value.strip()) if isinstance(value, str) else None
    numbers: list[int] = handler(_as_numbers(value) if found is None else [found[1]])
    return numbers if found is None else OpenRange(range(numbers[0], numbers[0] + FIRST_NUMBERS))


def _written(numbers: list[int]) -> str | list[int]:
    return str(numbers) if isinstance(numbers, OpenRange) else numbers


def _span(text: str) -> list[Any]:
    """``1:12`` as its numbers; what is none is left to validation."""
    found = re.fullmatch(r"(\d+):(\d+)", text)
    return list(range(int(found[1]), int(found[2]) + 1)) if found else [text]


@dataclass(frozen=True)
class _Names:
    """The names that are registered when somebody asks, not when the schema was made."""

    groups: bool = False

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        known = [*names(), *GROUPS] if self.groups else names()
        return {**handler(schema), "anyOf": [{"enum": known}, {"pattern": SERIES_PATTERN}]}


def _known_family(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"unknown covariance type {value!r}: choose from {', '.join(names())}")
    try:
        return get_family(value).name
    except InputError as error:
        raise ValueError(str(error)) from None


CovarianceType = Annotated[
    str,
    Field(
        description="Structure of the covariances. factors:2 are two factors and a variance of each feature, and so on "
        "for any number of factors. t_full, t_tied and t_diag are Student t distributions; t_full:4 has 4 degrees of "
        "freedom, which are estimated else. poisson (counts) and gamma (positive values) are families without "
        "covariances, independent per feature."
    ),
    BeforeValidator(_known_family),
    _Names(),
]


def _as_families(value: Any) -> Any:
    """Names, with those of a group in its place."""
    listed = as_list(value)
    if not isinstance(listed, Iterable) or isinstance(listed, (Mapping, bytes)):
        return listed
    return [each for name in listed for each in (GROUPS[name] if isinstance(name, str) and name in GROUPS else [name])]


def _comparable(names: list[str]) -> list[str]:
    """Each once, if their likelihoods can be compared."""
    counts = [name for name in names if get_family(name).whole]
    others = [name for name in names if not get_family(name).whole]
    if counts and others:
        raise ValueError(
            f"{', '.join(counts)} gives probabilities of counts and {', '.join(others)} densities, which no criterion "
            "compares: select among one kind"
        )
    return list(dict.fromkeys(names))


Families = Annotated[
    list[CovarianceType],
    BeforeValidator(_as_families, json_schema_input_type=list[Annotated[str, _Names(groups=True)]]),
    AfterValidator(_comparable),
    Field(min_length=1),
]


def _known_criterion(value: Any) -> Criterion:
    if value not in list(Criterion):
        raise ValueError(f"unknown criterion {value!r}: use {', '.join(Criterion)}")
    return Criterion(value)


CriterionName = Annotated[
    Criterion,
    BeforeValidator(_known_criterion),
    # in place of a reference to an enumeration, which forms show less well
    WithJsonSchema({"type": "string", "enum": [c.value for c in Criterion]}),
]


def _whole(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """What pydantic says of numbers, and what to do."""
    advice = "give whole numbers from 1 up"
    # True and False are no numbers
    if isinstance(value := plain(value), bool):
        raise ValueError(f"expected a number: {advice}")
    try:
        return handler(value)
    except ValidationError as error:
        raise ValueError(f"{error.errors()[0]['msg']}: {advice}") from None


Count = Annotated[int, Field(ge=1), WrapValidator(_whole)]
_Counts = Annotated[list[Count], Field(min_length=1)]
#: Numbers of components to choose among.
Numbers = Annotated[
    _Counts, WrapValidator(_open_or_numbers, json_schema_input_type=_Counts | str), PlainSerializer(_written)
]


def _as_lengths(value: Any) -> Any:
    """``lat:10,lon:10`` as those lengths by their names."""
    if isinstance(value, str):
        parts = [part.partition(":") for part in as_list(value)]
        if not all(name and length for name, _, length in parts):
            raise ValueError("expected dimensions and lengths, such as lat:10,lon:10")
        return {name.strip(): length.strip() for name, _, length in parts}
    return value


BlockLengths = Annotated[Annotated[dict[str, Count], Field(min_length=1)] | None, BeforeValidator(_as_lengths)]


def _no_single(value: int) -> int:
    if value == 1:
        raise ValueError("a single refit says nothing of a spread: give 0, or 2 and more")
    return value


Refits = Annotated[int, AfterValidator(_no_single)]


def _some_parts(value: list[Part]) -> list[Part]:
    """In the order in which they are known, each once."""
    found = [part for part in get_args(Part) if part in value]
    if len(found) == len(get_args(Part)):
        raise ValueError(f"{', '.join(found)} are all there is: leave out what is to be fitted")
    return found


Parts = Annotated[list[Part], BeforeValidator(as_list), AfterValidator(_some_parts)]
