"""Names of a package that are imported where they are first asked for (PEP 562)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def from_homes(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose modules have the names that are listed for each."""
    at = {name: home for home, names in homes.items() for name in names}

    def find(name: str) -> Any:
        if name not in at:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{at[name]}"), name)

    return find
