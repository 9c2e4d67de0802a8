"""YAML of version 1.2 with its core schema: what settings are written in.

PyYAML reads version 1.1, to which ``1:12`` is 72 (a number to base 60), ``no`` is False, ``012`` is ten and ``1e-3`` is
text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

import yaml

from dgmm.errors import InputError

#: Characters of a text; settings have a few thousand.
LONGEST = 2**20

TAG = "tag:yaml.org,2002:"

#: Which plain scalars are no strings, the first that matches (YAML 1.2.2, section 10.3.2).
SCALARS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "null": (r"null|Null|NULL|~|", lambda text: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", lambda text: int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        lambda text: float(re.sub(r"\.(?=[in])", "", text.lower())),
    ),
}


class Loader(yaml.SafeLoader):
    """Reads null, truth values, numbers, strings, lists and mappings; no other tags, no aliases, no key twice."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 (of the class, whatever its stub says)
    yaml_constructors: ClassVar[dict[Any, Any]] = {
        tag: yaml.SafeLoader.yaml_constructors[tag] for tag in (TAG + "str", TAG + "seq", TAG + "map", None)
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As PyYAML, but for aliases: a few lines of them stand for any number of values."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, f"write the value of *{event.anchor} out: aliases are not read", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As PyYAML, but for keys that come twice, of which it would take the last."""
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) < len(node.value):
            seen = set()
            for place, _ in node.value:
                key = self.construct_object(place, deep=True)
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key!r} comes twice", place.start_mark
                    )
                seen.add(key)
        return mapping


def _scalar(tag: str, pattern: re.Pattern[str], make: Callable[[str], Any]) -> None:
    """Teach the loader a kind of scalar."""

    def construct(loader: Loader, node: yaml.ScalarNode) -> Any:
        text = loader.construct_scalar(node)
        # it may be tagged as what it is not
        if not pattern.match(text):
            raise yaml.constructor.ConstructorError(None, None, f"{text!r} is no {tag}", node.start_mark)
        return make(text)

    Loader.add_implicit_resolver(TAG + tag, pattern, None)
    Loader.add_constructor(TAG + tag, construct)


for _tag, (_pattern, _make) in SCALARS.items():
    _scalar(_tag, re.compile(rf"(?:{_pattern})\Z"), _make)


def parse(text: str) -> Any:
    """The one document of a text: None, truth values, numbers, strings, lists and dicts.

    Raises
    ------
    InputError
        If it is not valid, too long or nested too deeply, has aliases, or a key twice.
    """
    if len(text) > LONGEST:
        raise InputError(f"a text of {len(text)} characters is too long to be settings: at most {LONGEST}")
    try:
        return yaml.load(text, Loader)
    except RecursionError:
        raise InputError("nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        mark: Any = error.problem_mark
        raise InputError(f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})") from None
    except (yaml.YAMLError, ValueError) as error:  # a ValueError: a number of thousands of digits
        raise InputError(" ".join(str(error).split())) from None
