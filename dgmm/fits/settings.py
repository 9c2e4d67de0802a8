"""How settings of any kind are checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from dgmm.errors import InputError

#: An unknown setting is taken for a slip of the pen where a known one is this like it.
NEAR = 0.75


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


M = TypeVar("M", bound=Settings)


def validated(model: type[M], values: dict[str, Any]) -> M:
    """Settings from plain values; `InputError` with one line for everything that is wrong."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = []
        for e in error.errors():
            place = ".".join(str(part) for part in e["loc"]) or model.__name__
            if e["type"] == "too_short" and not e["input"]:
                problems.append(f"{place} is empty: give at least {e['ctx']['min_length']}")
                continue
            message = e["msg"].removeprefix("Value error, ")
            if e["type"] == "value_error" and not e["loc"]:  # of several settings, which it names
                problems.append(message)
                continue
            if e["type"] == "extra_forbidden":
                near = get_close_matches(str(e["loc"][-1]), known_in(model, e["loc"][:-1]), 1, NEAR)
                message = "unknown setting" + (f": did you mean {near[0]}?" if near else "")
            said = e["type"] in ("missing", "extra_forbidden") or repr(e["input"]) in message
            given = "" if said else f" (not {e['input']!r})"
            problems.append(f"{place}: {message}{given}")
        raise InputError("; ".join(problems)) from None


def known_in(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """Names of the settings of a model, or of a part of it."""
    for part in path:
        field = model.model_fields.get(str(part))
        inner = None if field is None else field.annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)


def as_list(value: Any) -> Any:
    """``a,b,c`` as a list of its parts, and a tuple as one."""
    if isinstance(value, tuple):
        return list(value)
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's."""
    return value.tolist() if hasattr(value, "tolist") else value


def by_model(options: Mapping[str, Any], *models: type[Settings]) -> list[dict[str, Any]]:
    """Keyword arguments by the models whose fields they are; last come the others."""
    options = {name: plain(value) for name, value in options.items()}
    parts = [{name: options[name] for name in model.model_fields if name in options} for model in models]
    taken = set().union(*parts)
    return [*parts, {name: value for name, value in options.items() if name not in taken}]
