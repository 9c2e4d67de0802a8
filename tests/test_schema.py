"""A setting is one line in the schema: files, options, help, forms, signatures and tables have it by themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypedDict

import pytest
from cyclopts import App
from pydantic import Field

import dgmm.keywords
from dgmm import arguments, commands, models
from dgmm import cli as command_line
from dgmm.arguments import SHORT, asked, command
from dgmm.cli import COMMANDS, app, main, run_app
from dgmm.config import Merge, Pipeline, Predict, Sample, Score, Select, Train, Update, settings_of
from dgmm.families import FAMILIES, register
from dgmm.fits import Count, Settings, Training, validated
from dgmm.keywords import takes
from tests.families.toy_family import Binomial
from tests.integration.test_readme import table
from tests.test_keywords import written


class Patient(Training):
    """As `Training`, and one setting more."""

    patience: Count = Field(7, description="How long to wait.")


class PatientTrain(Train):
    """As `Train`, with that."""

    training: Patient = Patient()


LEAST = {"data": {"path": "x.zarr"}, "out": "y", "model": "m.zarr", "n_components": 2}


def least(model: type[Settings], **changes: Any) -> dict[str, Any]:
    """The settings of a model without which there is none."""
    return deepcopy({name: value for name, value in LEAST.items() if name in model.model_fields}) | changes


def shown(run: Callable[[], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The words of a help, without its frames."""
    monkeypatch.setenv("COLUMNS", "600")
    assert run() == 0
    return " ".join(re.sub(r"[─-╿]", " ", capsys.readouterr().out).split())


class TestOneLine:
    @pytest.fixture
    def run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
        """A command of these settings, after a file that says 3; how long it was asked to wait."""
        monkeypatch.chdir(tmp_path)
        Path("s.yaml").write_text("data: {path: x.zarr}\nout: y\nn_components: 2\ntraining: {patience: 3}\n")

        def call(*arguments: str) -> list[int]:
            waited: list[int] = []

            @command(PatientTrain, "data.path")
            def work(settings: PatientTrain) -> str:
                waited.append(settings.training.patience)
                return ""

            own = App(result_action="return_value")
            own.default(work)
            assert run_app(own, arguments) == 0
            return waited

        return call

    def test_in_files_and_options(self, run: Callable[..., list[int]]) -> None:
        assert run("x.zarr", "--k", "2", "--out", "y") == [7]
        assert run("s.yaml") == [3]
        assert run("s.yaml", "--patience", "4") == [4]
        assert run("s.yaml", "--patience", "4", "--set", "training.patience=5") == [5]

    def test_in_the_help(
        self,
        run: Callable[..., list[int]],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        words = shown(lambda: len(run("--help")), monkeypatch, capsys)
        assert "--patience INT How long to wait. Default: 7." in words

    def test_in_the_form_of_a_flow(self) -> None:
        import_module("flows")  # its environment comes before Prefect's
        from prefect.utilities.callables import parameter_schema

        def flow(settings: PatientTrain) -> None: ...

        part = parameter_schema(flow).model_dump()["definitions"]["Patient"]["properties"]["patience"]
        assert (part["default"], part["minimum"], part["description"]) == (7, 1, "How long to wait.")

    def test_in_signatures_and_tables(self) -> None:
        text = written({"PatientOptions": (Patient, {*Training.model_fields})})
        assert '    patience: int\n    """How long to wait."""' in text
        names: dict[str, Any] = {"TypedDict": TypedDict, "Literal": Literal}
        exec(text, names)

        @takes(names["PatientOptions"], PatientTrain)
        def train(source: str, **options: Any) -> None:
            """Train."""

        assert str(inspect.signature(train)) == "(source: 'str', *, patience: int = 7) -> 'None'"
        assert "patience : optional, default=7\n    How long to wait." in (train.__doc__ or "")
        assert "| `patience` | `7` | How long to wait. |" in table(Patient)


MODELS = (Train, Select, Score, Pipeline)


@pytest.mark.parametrize("model", MODELS)
def test_every_setting_can_be_set(model: type[Settings]) -> None:
    """Its default, as the help writes it, is the same as saying nothing, in a file, by --set and by an option."""
    settings = validated(model, least(model))
    found = list(settings_of(model))
    assert len({setting.name for setting in found}) == len(found), "options have the names of settings"
    for setting in found:
        if setting.default:
            changes = [f"{setting.path}={setting.default}"]
            assert asked(model, least(model), changes) == settings
            assert asked(model, least(model, **{setting.name: setting.default}), None) == settings
        with pytest.raises(dgmm.InputError, match=re.escape(setting.path)):
            asked(model, least(model), [f"{setting.path}={{}}"])


@pytest.mark.parametrize("name", ["train", "select", "score", "sample", "predict", "merge", "update"])
def test_the_help_has_every_setting(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {m.__name__.lower(): m for m in (Train, Select, Score, Sample, Predict, Merge, Update)}[name]
    words = shown(lambda: main([name, "--help"]), monkeypatch, capsys)
    for setting in settings_of(model):
        assert (setting.field.description or "?").replace("`", "") in words
        if setting.path not in ("data.path", "model"):
            assert f" {SHORT.get(setting.name, '--' + setting.name.replace('_', '-'))} " in words
    # and the list of commands what the settings say of themselves
    assert (model.__doc__ or "?") in shown(lambda: main(["--help"]), monkeypatch, capsys)


@pytest.mark.parametrize("name", ["train", "select", "score", "pipeline"])
def test_the_form_of_a_flow_has_every_setting(name: str) -> None:
    flow = getattr(import_module(f"flows.{name}"), name)
    (model,) = (model for model in MODELS if model.__name__.lower() == name)
    definitions = flow.parameters.model_dump()["definitions"]
    for setting in settings_of(model):
        *parts, last = setting.path.split(".")
        properties = definitions[parts[0].capitalize() if parts else model.__name__]["properties"]
        assert properties[last]["description"] == setting.field.description


@pytest.fixture
def _binomial() -> Iterator[None]:
    register(Binomial())
    yield
    del FAMILIES["binomial"]


@pytest.mark.usefixtures("_binomial")
@pytest.mark.parametrize("model", [Train, Select])
def test_a_family_that_is_registered_can_be_chosen(model: type[Settings]) -> None:
    """In settings, in the form and in the help, which is a list of all there are."""
    assert "binomial" in str(validated(model, least(model, covariance_type="binomial")))
    (setting,) = (setting for setting in settings_of(model) if setting.name == "covariance_type")
    assert setting.choices[:4] == ["full", "tied", "diag", "spherical"]
    assert {"poisson", "gamma", "binomial", "VVV", "EVE"} < set(setting.choices)
    assert ("mclust" in setting.choices) == (model is Select)
    (option,) = arguments.options_of(model, only={"covariance_type"})
    assert f"One of {', '.join(setting.choices)}." in option.annotation.__metadata__[0].help


def test_the_commands_are_those_that_are_listed() -> None:
    assert {name for name in app if not name.startswith("-")} == {*COMMANDS, "models"}
    for name in COMMANDS:
        assert callable(getattr(commands, name))
    for name in command_line.MODELS:
        assert callable(getattr(models, f"{name}_version"))
