"""The schema of settings: the shipped files, ranges of numbers, bounds, unknown keys, descriptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from dgmm.config import Pipeline, Refresh, Score, Select, Train, read_settings
from dgmm.errors import InputError
from dgmm.fits import Settings, Training, validated

CONFIG = Path(__file__).parents[2] / "config"
MODELS = (Train, Select, Score, Pipeline)
LEAST = {"data": {"path": "x.zarr"}, "out": "y"}


def select(**changes: Any) -> Select:
    return validated(Select, {**LEAST, "n_components": [1, 2], **changes})


def train(**changes: Any) -> Train:
    return validated(Train, {**LEAST, "n_components": 2, **changes})


@pytest.mark.parametrize(
    ("name", "model", "n_components"),
    [
        ("ocean.yaml", Pipeline, range(1, 13)),
        ("old_faithful.yaml", Pipeline, range(1, 7)),
        ("select_array.yaml", Select, range(1, 17)),
        ("refresh.yaml", Refresh, range(1, 13)),
    ],
)
def test_shipped_files_are_valid(name: str, model: type[Settings], n_components: range) -> None:
    settings = validated(model, read_settings(CONFIG / name))
    assert isinstance(settings, (Pipeline, Select, Refresh))
    assert settings.n_components == list(n_components)


def test_every_shipped_file_is_tested() -> None:
    shipped = {"ocean.yaml", "old_faithful.yaml", "refresh.yaml", "select_array.yaml"}
    assert {p.name for p in CONFIG.glob("*.yaml")} == shipped


def test_the_ocean_is_what_the_readme_promises() -> None:
    """K = 1 to 12 and all four covariance types, on two processes."""
    settings = validated(Pipeline, read_settings(CONFIG / "ocean.yaml"))
    assert settings.covariance_type == ["full", "tied", "diag", "spherical"]
    assert (settings.data.feature_dim, settings.data.variables) == ("depth", ["temperature"])
    assert (settings.out, settings.data.path) == ("runs/ocean", "runs/ocean/input.zarr")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("1:12", list(range(1, 13))),
        ("2,4,8", [2, 4, 8]),
        # ranges among numbers, spaces, both ends of a range
        ("1:3, 8 ,10:11", [1, 2, 3, 8, 10, 11]),
        ("5", [5]),
        ("4:4", [4]),
        (5, [5]),
        ([3, 1], [3, 1]),
        (range(2, 5), [2, 3, 4]),
        ([2, "3"], [2, 3]),
        # as Python has them
        ((2, 3.0), [2, 3]),
        (np.arange(2, 4), [2, 3]),
        ([np.int64(2)], [2]),
        (np.int64(5), [5]),
        ((k for k in (2, 3)), [2, 3]),
    ],
)
def test_numbers_of_components(given: Any, expected: list[int]) -> None:
    assert select(n_components=given).n_components == expected


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (0, "greater than or equal to 1"),
        ([1, 0], "greater than or equal to 1"),
        ("0:3", "greater than or equal to 1"),
        (-2, "-2"),
        ("-1:2", "-1"),
        ([], "at least 1"),
        # an empty range, not a descending one
        ("5:2", "n_components"),
        ("", "n_components"),
        ("a:3", "a:3"),
        ("1:2:3", "1:2:3"),
        # a range without an end would be a guess
        (":4", ":4"),
        ([1.5], "1.5"),
        (True, "True"),
        (None, "None"),
    ],
)
def test_numbers_of_components_that_are_none(given: Any, part: str) -> None:
    with pytest.raises(InputError) as caught:
        select(n_components=given)
    assert str(caught.value).startswith("n_components")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [0, -1, 1.5, "two", None, True, [2], np.True_, np.int64(0)])
def test_one_number_of_components_that_is_none(given: Any) -> None:
    with pytest.raises(InputError, match=r"^n_components: "):
        train(n_components=given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("full,tied", ["full", "tied"]), (" diag , full ", ["diag", "full"]), (["spherical"], ["spherical"])],
)
def test_covariance_types(given: Any, expected: list[str]) -> None:
    assert select(covariance_type=given).covariance_type == expected


def test_all_covariance_types_by_default() -> None:
    assert select().covariance_type == ["full", "tied", "diag", "spherical"]
    assert train().covariance_type == "full"


@pytest.mark.parametrize("given", ["fool", ["full", "fool"], "full,fool", "", []])
def test_unknown_covariance_types(given: Any) -> None:
    with pytest.raises(InputError, match="covariance_type"):
        select(covariance_type=given)


def test_an_unknown_covariance_type_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'fool': choose from full, tied, diag, spherical"):
        train(covariance_type="fool")


@pytest.mark.parametrize(
    ("changes", "place", "near"),
    [
        # like cluster by 0.62, which is no slip
        ({"colour": "red"}, "colour", ""),
        ({"training": {"n_inits": 3}}, "training.n_inits", "n_init"),
        ({"data": {"path": "x", "variable": "t"}}, "data.variable", "variables"),
        ({"cluster": {"workers": 3}}, "cluster.workers", "n_workers"),
        ({"training": {"tolerance": 3}}, "training.tolerance", ""),
        ({"training": {"seeds": 3}}, "training.seeds", "seed"),
        ({"training": {"sead": 3}}, "training.sead", "seed"),
        ({"training": {"maximum": 3}}, "training.maximum", ""),
    ],
)
def test_unknown_settings(changes: dict[str, Any], place: str, near: str) -> None:
    with pytest.raises(InputError) as caught:
        train(**changes)
    assert str(caught.value) == f"{place}: unknown setting" + (f": did you mean {near}?" if near else "")


def test_everything_that_is_wrong_comes_at_once() -> None:
    with pytest.raises(InputError) as caught:
        train(n_components=0, training={"tol": -1}, colour="red")
    message = str(caught.value)
    assert all(part in message for part in ("n_components: ", "training.tol: ", "colour: unknown setting", "(not -1)"))
    assert "\n" not in message


def test_what_is_missing_is_named() -> None:
    with pytest.raises(InputError, match=r"data: .*; out: .*"):
        validated(Train, {})


@pytest.mark.parametrize(
    ("name", "low", "refused"),
    [
        # the least value that is allowed, and one below it
        ("max_iter", 1, 0),
        ("n_init", 1, 0),
        ("sample_rows", 1, 0),
        ("start_rows", 1, 0),
        ("seed", 0, -1),
        ("reg_covar", 0.0, -1e-9),
        ("tol", 1e-300, 0.0),
    ],
)
def test_bounds_of_training(name: str, low: float, refused: float) -> None:
    assert getattr(validated(Training, {name: low}), name) == low
    with pytest.raises(InputError, match=name):
        validated(Training, {name: refused})


@pytest.mark.parametrize("name", ["tol", "reg_covar"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_must_be_finite(name: str, value: float) -> None:
    """Infinite tolerance stops at once, NaN never: neither is what anybody wants."""
    with pytest.raises(InputError, match=name):
        validated(Training, {name: value})


def test_settings_are_values() -> None:
    """Frozen, and equal when they say the same."""
    settings = train()
    assert settings == train()
    with pytest.raises(ValidationError, match="frozen"):
        settings.out = "elsewhere"


@pytest.mark.parametrize("model", MODELS)
def test_settings_survive_json(model: type[Settings]) -> None:
    """As Prefect and the stored models keep them."""
    values = {**LEAST, "n_components": [1, 2], "model": "m.zarr"}
    given = {k: v for k, v in values.items() if k in model.model_fields}
    if model is Train:
        given["n_components"] = 2
    settings = validated(model, given)
    assert validated(model, settings.model_dump(mode="json")) == settings


def described(schema: dict[str, Any], definitions: dict[str, Any]) -> bool:
    """Whether a part of a JSON schema says what it is, itself or where it points."""
    target = schema.get("$ref", "").removeprefix("#/$defs/")
    return bool(schema.get("description") or definitions.get(target, {}).get("description"))


@pytest.mark.parametrize("model", MODELS)
def test_every_field_has_a_description(model: type[Settings]) -> None:
    """The form, the help and the README's table are made of them."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    without = [
        f"{title}.{name}"
        for title, part in ((model.__name__, schema), *definitions.items())
        for name, field in part["properties"].items()
        if not described(field, definitions)
    ]
    assert without == []


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("data: [unclosed", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
        ("- a\n- b\n", "holds no settings"),
        ("just text", "holds no settings"),
        ("", "holds no settings"),
        # a tag that would make a Python object
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_files_that_hold_no_settings(text: str, part: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_settings(path)
    assert part in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["missing", "folder", "not text"])
def test_files_that_cannot_be_read(what: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    if what == "folder":
        path.mkdir()
    if what == "not text":
        path.write_bytes(b"\xff\xfe\x00out: x\x00")
    with pytest.raises(InputError) as caught:
        read_settings(path)
    assert str(path) in str(caught.value)


def test_a_night_takes_no_labels() -> None:
    settings = {"data": {"path": "x.zarr", "labels": "kind"}, "registry": "models/x", "out": "scores.zarr"}
    with pytest.raises(InputError, match="classes of new data are those of the model"):
        validated(Refresh, settings)
