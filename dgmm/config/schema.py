"""What a setting is, and the settings in a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from dgmm.errors import InputError
from dgmm.fits import Settings
from dgmm.yaml12 import LONGEST, parse


@dataclass(frozen=True)
class Setting:
    """One setting of a model or of a part of it: what the command line, the signatures and the tables are made of.

    Attributes
    ----------
    path : str
        Its name in a settings file, with the names of the parts that it belongs to: ``training.seed``.
    field : pydantic.fields.FieldInfo
    schema : dict
        The same as JSON schema.
    """

    path: str
    field: FieldInfo
    schema: dict[str, Any]

    @property
    def name(self) -> str:
        """Its own name."""
        return self.path.rpartition(".")[2]

    @property
    def default(self) -> str:
        """Its default as it is written on the command line; nothing where there is none."""
        value = self.schema.get("default")
        return "" if value is None else ",".join(value) if isinstance(value, list) else str(value)

    @property
    def choices(self) -> list[str]:
        """What may be chosen from, if that is a list of names."""
        return _choices(self.schema)


def _choices(schema: dict[str, Any]) -> list[str]:
    parts = [schema.get("items", {}), *schema.get("anyOf", ())] if schema else []
    return [*schema.get("enum", ()), *(name for part in parts for name in _choices(part))]


def settings_of(model: type[Settings]) -> tuple[Setting, ...]:
    """Every setting of a model and of its parts."""
    whole = model.model_json_schema()
    return tuple(_settings(model, whole, whole.get("$defs", {}), ""))


def _settings(model: type[Settings], schema: dict[str, Any], parts: dict[str, Any], within: str) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Settings):
            yield from _settings(kind, parts[kind.__name__], parts, f"{within}{name}.")
        else:
            yield Setting(within + name, field, schema["properties"][name])


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a settings file in YAML 1.2."""
    try:
        with open(path, encoding="utf-8") as file:
            content = parse(file.read(LONGEST + 1))
    except FileNotFoundError:
        raise InputError(f"no such settings file: {path}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (InputError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no settings: expected 'name: value' lines")
    return content
