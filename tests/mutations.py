"""What is done to bytes, and to values within JSON, at random: by those who test what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Generator = np.random.Generator

BITS: list[Callable[[bytes, int, Generator], bytes]] = [
    lambda raw, i, g: raw[:i] + bytes([raw[i] ^ (1 << int(g.integers(8)))]) + raw[i + 1 :],
    lambda raw, i, g: raw[:i] + bytes([int(g.integers(256))]) + raw[i + 1 :],
    lambda raw, i, g: raw[:i],
    lambda raw, i, g: raw[:i] + raw[i + int(g.integers(1, 40)) :],
    lambda raw, i, g: raw[: i + 20] + raw[i:],
    lambda raw, i, g: raw[:i] + g.bytes(int(g.integers(1, 9))) + raw[i:],
    lambda raw, i, g: raw[:i] + bytes(len(raw) - i),
    lambda raw, i, g: b"",
]


def other_digit(raw: bytes, i: int, generator: Generator) -> bytes:
    places = [j for j in range(i, len(raw)) if raw[j : j + 1].isdigit()]
    if not places:
        return raw[1:]
    digit = str((int(raw[places[0] : places[0] + 1]) + int(generator.integers(1, 10))) % 10).encode()
    return raw[: places[0]] + digit + raw[places[0] + 1 :]


WORDS = [
    "NaN",
    "Infinity",
    "-",
    "e",
    "9" * 400,
    "1e999",
    "null",
    "true",
    '"',
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "\\",
    "\\u0000",
    "\n",
]
TEXT = [
    *BITS,
    lambda raw, i, g: raw[:i] + str(g.choice(WORDS)).encode() + raw[i:],
    lambda raw, i, g: raw[:i] + str(g.choice(WORDS)).encode() + raw[i + 1 :],
    # a digit for another, at the first digit from there on
    other_digit,
    other_digit,
]
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, -1e308, 5e-324, float("nan"), float("inf"),
    "", "text", "1", "[1, 2]", "{}", "[" * 5000, "dgmm-model-1", [], {}, [[]], [None], [1, "a"], {"a": 1}, [[[[1.0]]]],
]  # fmt: skip


def damaged(raw: bytes, generator: Generator, ways: list[Callable[[bytes, int, Generator], bytes]]) -> bytes:
    """The bytes after one damage, or several."""
    for _ in range(1 if generator.random() < 0.8 else 3):
        if raw:
            raw = ways[int(generator.integers(len(ways)))](raw, int(generator.integers(len(raw))), generator)
    return raw


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Ways to all values within a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def restructured(content: dict[str, Any], generator: Generator) -> dict[str, Any]:
    """The content with one value deleted, replaced, nested, renamed, repeated or swapped with another."""
    content = json.loads(json.dumps(content))
    ways = list(places(content))
    way, other = (ways[int(i)] for i in generator.integers(len(ways), size=2))
    parent, key = follow(content, way[:-1]), way[-1]
    match int(generator.integers(7)):
        case 0:
            del parent[key]
        case 1 | 2:
            parent[key] = VALUES[int(generator.integers(len(VALUES)))]
        case 3:
            parent[key] = [parent[key]] if generator.random() < 0.5 else {"a": parent[key]}
        case 4 if isinstance(parent, dict):
            parent[str(generator.choice(["x", "", "format", "checksum", "data"]))] = parent.pop(key)
        case 5 if isinstance(parent[key], (int, float)) and not isinstance(parent[key], bool):
            parent[key] = parent[key] * float(generator.choice([-1, 2, 1 + 1e-15, 1e300])) + float(
                generator.integers(2)
            )
        case _:
            parent[key] = json.loads(json.dumps(follow(content, other)))
    return content


def follow(value: Any, way: tuple[Any, ...]) -> Any:
    for key in way:
        value = value[key]
    return value
