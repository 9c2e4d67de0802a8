"""Settings are read as YAML 1.2 has them: the tables and examples of its specification."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from dgmm.config import Select, Train, read_settings
from dgmm.errors import InputError
from dgmm.fits import validated
from dgmm.yaml12 import LONGEST, parse

#: Example 10.9 of the specification, and each line of the table of section 10.3.2 from both sides.
SCALARS: list[tuple[str, Any]] = [
    # null
    ("null", None), ("Null", None), ("NULL", None), ("~", None), ("", None), ("nUll", "nUll"), ("nil", "nil"),
    # truth values: two words, three spellings
    ("true", True), ("True", True), ("TRUE", True), ("false", False), ("False", False), ("FALSE", False),
    ("tRUE", "tRUE"), ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"), ("n", "n"), ("NO", "NO"),
    # whole numbers
    ("0", 0), ("-19", -19), ("+7", 7), ("012", 12), ("-007", -7), ("0o7", 7), ("0o14", 12), ("0x3A", 58), ("0x1F", 31),
    ("0o8", "0o8"), ("-0o7", "-0o7"), ("0xG", "0xG"), ("0b101", "0b101"), ("1_000", "1_000"), ("1,000", "1,000"),
    # other numbers
    ("0.", 0.0), ("-0.0", -0.0), (".5", 0.5), ("+12e03", 12e3), ("-2E+05", -2e5), ("1e-3", 1e-3), ("1e5", 1e5),
    ("6.02e23", 6.02e23), ("1.5.2", "1.5.2"), ("1e", "1e"), (".", "."), ("e5", "e5"), ("1_0.5", "1_0.5"),
    (".inf", math.inf), ("-.Inf", -math.inf), ("+.INF", math.inf), ("inf", "inf"), ("nan", "nan"), ("-.nan", "-.nan"),
    # what 1.1 took for numbers to base 60, dates and more
    ("1:12", "1:12"), ("1:2:3", "1:2:3"), ("190:20:30.15", "190:20:30.15"), ("2024-01-01", "2024-01-01"),
    ("2001-12-14t21:59:43.10-05:00", "2001-12-14t21:59:43.10-05:00"), ("<<", "<<"), ("=", "="),
    # quoted it is text, tagged it is what the tag says
    ("'12'", "12"), ('"true"', "true"), ("!!str 12", "12"), ("!!int '12'", 12), ("!!float 1", 1.0), ("!!null ''", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), SCALARS)
def test_scalars(text: str, expected: Any) -> None:
    """By themselves and as a value the same, of the same type."""
    for found in (parse(text), parse(f"a: {text}")["a"]):
        assert (found, type(found)) == (expected, type(expected))
        if isinstance(expected, float):
            assert math.copysign(1, found) == math.copysign(1, expected)


@pytest.mark.parametrize("text", [".nan", ".NaN", ".NAN"])
def test_not_a_number(text: str) -> None:
    assert math.isnan(parse(text))


def test_collections() -> None:
    text = "a: [1, two, {b: ~}]\nc:\n- d: 1e-3\n- |\n  some\n  lines\ne: {}\n"
    assert parse(text) == {"a": [1, "two", {"b": None}], "c": [{"d": 1e-3}, "some\nlines\n"], "e": {}}
    # what neither version reads otherwise
    assert parse(text.replace("1e-3", "0.001")) == yaml.safe_load(text.replace("1e-3", "0.001"))


BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)
)

REFUSED: dict[str, tuple[str, str]] = {
    "an alias": ("a: &x 1\nb: *x\n", "write the value of *x out: aliases are not read (line 2, column 4)"),
    "a few lines that stand for two million values": (BOMB, "aliases are not read"),
    "a key twice": ("a: 1\nb: 2\na: 3\n", "the key 'a' comes twice (line 3, column 1)"),
    "a key twice further in": ("a: {b: 1, c: 2, b: 1}", "the key 'b' comes twice"),
    "a key that is no value": ("? [1]\n: 2\n", "unhashable key"),
    "an object of Python": ("!!python/object/apply:os.system ['true']", "python/object"),
    "a tag of 1.1": ("!!binary aGk=", "binary"),
    "a date by its tag": ("!!timestamp 2024-01-01", "timestamp"),
    "what its tag denies": ("!!int 1:12", "'1:12' is no int (line 1, column 1)"),
    "a truth value of 1.1 by its tag": ("!!bool yes", "'yes' is no bool"),
    "brackets without end": ("[" * 100_000, "nested too deeply"),
    "a number of five thousand digits": ("9" * 5000, "digits"),
    "two documents": ("a: 1\n---\nb: 2\n", "document"),
    "a control character": ("a: \x07", "unacceptable character"),
    "nothing that closes": ("a: [1, 2", "line 1"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "part"), REFUSED.values(), ids=list(REFUSED))
def test_refused(text: str, part: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_longest_text() -> None:
    assert LONGEST == 2**20
    assert parse("a: " + "x" * (LONGEST - 3)) == {"a": "x" * (LONGEST - 3)}
    with pytest.raises(InputError, match="too long to be settings"):
        parse("a: " + "x" * (LONGEST - 2))


def test_a_settings_file_that_is_too_long_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("out: " + "x" * 2 * LONGEST)
    with pytest.raises(InputError, match=rf"{path} is not valid YAML: .* at most {LONGEST}"):
        read_settings(path)


def test_settings_mean_what_they_say(tmp_path: Path) -> None:
    """A range of numbers of components, a variable called no, a small tolerance, a seed with a leading zero."""
    path = tmp_path / "s.yaml"
    path.write_text(
        "data: {path: 2024-01-01, variables: [no, on, y], feature_dim: off}\n"
        "out: 1:30\nn_components: 1:12\ntraining: {tol: 1e-3, seed: 012}\n"
    )
    settings = validated(Select, read_settings(path))
    assert settings.n_components == list(range(1, 13))
    assert (settings.data.path, settings.data.variables, settings.data.feature_dim) == (
        "2024-01-01",
        ["no", "on", "y"],
        "off",
    )
    assert (settings.out, settings.training.tol, settings.training.seed) == ("1:30", 1e-3, 12)


def test_keys_are_names() -> None:
    with pytest.raises(InputError, match="1: Keys should be strings"):
        validated(Train, parse("1: 2\nout: x\nn_components: 2\ndata: {path: x}"))
