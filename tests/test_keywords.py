"""Keyword arguments are the settings' schema. `python tests/test_keywords.py` writes their types."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import mypy.api
import pytest
from pydantic import ByteSize

import dgmm
import dgmm.types
from dgmm.config import (
    Cluster,
    Data,
    Fitting,
    Ingest,
    Ingesting,
    Labelling,
    Merge,
    Merging,
    Predict,
    Predicting,
    Readable,
    Sample,
    Sampling,
    Score,
    Select,
    Train,
    Update,
    Updating,
    Verifying,
    settings_of,
)
from dgmm.fits import Search, Settings, Training

FILE = Path(__file__).parents[1] / "dgmm" / "keywords.py"
PLACE = re.compile(r"(# ---- generated ----\n).*?(# ---- end ----)", re.DOTALL)
#: Each part of the schema, and what of it the functions take explicitly: Python says more there than a file can.
PARTS: dict[str, tuple[type[Settings], set[str]]] = {
    "ReadableOptions": (Readable, {"path"}),
    "DataOptions": (Data, {"path", "weights", "labels"}),
    "TrainingOptions": (Training, set()),
    "ClusterOptions": (Cluster, {"scheduler"}),
    "SearchOptions": (Search, {"n_components", "covariance_type"}),
    "LabellingOptions": (Labelling, set()),
    "VerifyingOptions": (Verifying, set()),
    "SamplingOptions": (Sampling, {"rows"}),
    "MergingOptions": (Merging, set()),
    "PredictingOptions": (Predicting, {"of"}),
    "UpdatingOptions": (Updating, set()),
    "IngestingOptions": (Ingesting, set()),
}
ALIASES = {value: name for name, value in vars(dgmm.types).items() if get_origin(value) is Literal}


def source_of(hint: Any) -> str:
    """What Python takes for a setting, as it is written."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in ALIASES:
        return ALIASES[hint]
    if origin is Annotated:
        return source_of(arguments[0])
    if origin in (Union, UnionType):
        return " | ".join(map(source_of, arguments))
    if origin is list:
        return f"Sequence[{source_of(arguments[0])}]"
    if origin is dict:
        return f"Mapping[{', '.join(map(source_of, arguments))}]"
    if hint is ByteSize:
        return "int | str"
    if hint is dgmm.types.Criterion:
        return f"Criterion | Literal[{', '.join(map(repr, map(str, hint)))}]".replace("'", '"')
    if isinstance(hint, type) and issubclass(hint, Settings):
        return "Mapping[str, Any]"
    return "None" if hint is NoneType else "Any" if hint is Any else hint.__name__


def written(parts: dict[str, tuple[type[Settings], set[str]]] = PARTS) -> str:
    """The parts as TypedDicts, with the descriptions where editors look for them; one may extend those before it."""
    lines = []
    before: dict[str, type[Settings]] = {}
    for name, (model, explicit) in parts.items():
        extended = {base: theirs for base, theirs in before.items() if issubclass(model, theirs)}
        bases = ", ".join(extended) or "TypedDict"
        lines += ["", "", f"class {name}({bases}, total=False):", f'    """Of `dgmm.config.{model.__name__}`."""', ""]
        before[name] = model
        known = explicit.union(*(theirs.model_fields for theirs in extended.values()))
        for field_name, field in model.model_fields.items():
            if field_name not in known:
                lines.append(f"    {field_name}: {source_of(field.annotation)}")
                text = f'"""{field.description}"""'
                lines += textwrap.wrap(text, 120, initial_indent="    ", subsequent_indent="    ")
    return "\n".join([*lines, "", "", ""])


def test_the_types_of_keywords_are_the_schemas() -> None:
    found = PLACE.search(FILE.read_text())
    assert found is not None
    assert found[0] == f"{found[1]}{written()}{found[2]}"


#: What each function calls the places of a job, and what only a file can ask for.
FUNCTIONS: dict[str, tuple[type[Settings], dict[str, str]]] = {
    "train": (Train, {"path": "source", "out": "", "overwrite": ""}),
    "select": (Select, {"path": "source", "out": "", "overwrite": ""}),
    "score": (Score, {"path": "source", "weights": "", "labels": ""}),
    "sample": (Sample, {}),
    "ingest": (Ingest, {"path": "source"}),
    "predict": (Predict, {"path": "source", "weights": "", "labels": ""}),
    "merge": (Merge, {"path": "source", "out": "", "overwrite": "", "weights": "weights", "labels": ""}),
    "update": (Update, {"path": "source", "out": "", "overwrite": "", "weights": "weights", "labels": ""}),
    "GaussianMixture.select": (
        Select,
        {s.name: "" for s in settings_of(Fitting) if "." not in s.path or s.path.startswith(("data", "cluster"))}
        | {"path": "X", "feature_dim": "feature_dims"},
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_setting_is_a_keyword_with_its_default_and_description(name: str) -> None:
    model, named = FUNCTIONS[name]
    function = attrgetter(name)(dgmm)
    parameters, documentation = dict(inspect.signature(function).parameters), inspect.getdoc(function)
    words = " ".join(documentation.split())
    for setting in settings_of(model):
        if not (keyword := named.get(setting.name, setting.name)):
            assert setting.name not in parameters
            continue
        parameter = parameters.pop(keyword)
        assert keyword in words
        if parameter.annotation in ("Weights | None", "str | Client | None") or parameter.default is parameter.empty:
            continue
        if setting.name not in ("n_components", "covariance_type", "feature_dim", "overwrite", "keep_journal"):
            assert parameter.default == setting.schema.get("default")
            assert " ".join(setting.field.description.split()) in words
    assert set(parameters) <= {"weights_init", "means_init", "precisions_init", "journal"}


@pytest.mark.parametrize("call", [
    lambda **more: dgmm.train("none.zarr", 2, **more),
    lambda **more: dgmm.select("none.zarr", [2], **more),
    lambda **more: dgmm.GaussianMixture.select([[0.0], [1.0]], [1], **more),
])  # fmt: skip
def test_a_keyword_that_is_none_is_refused(call: Callable[..., Any]) -> None:
    with pytest.raises(dgmm.InputError, match="n_initt: unknown setting"):
        call(n_initt=3)
    with pytest.raises(dgmm.InputError, match=r"n_init: .* greater than or equal to 1.*not 0"):
        call(n_init=0)


CALLS = """
import dgmm
dgmm.train("x", 3, n_init=3, init_params="random", decoder="zarrs", n_workers=2)
dgmm.select("x", [3], criterion="aic", keep_all=True)
dgmm.train("x", 3, n_initt=3)  # wrong
dgmm.train("x", 3, criterion="bic")  # wrong
dgmm.select("x", [3], criterion="bicc")  # wrong
dgmm.score("m", "x", "o", probabilities="all")  # wrong
dgmm.GaussianMixture.select([[1.0]], 3, keepall=True)  # wrong
dgmm.GaussianMixture(3, n_init=3, means_init=[[1.0]], stop="change")
dgmm.GaussianMixture(3, n_initt=3)  # wrong
dgmm.BayesianGaussianMixture(n_components=3, mean_prior=[1.0])
dgmm.BayesianGaussianMixture(n_components=3, stop="change")  # wrong
"""


@pytest.mark.slow
def test_a_type_checker_knows_the_keywords(tmp_path: Path) -> None:
    program = tmp_path / "calls.py"
    program.write_text(CALLS)
    found, _, _ = mypy.api.run(["--config-file", str(FILE.parents[1] / "pyproject.toml"), str(program)])
    wrong = {int(line.split(":")[1]) for line in found.splitlines() if ": error:" in line}
    assert wrong == {n for n, line in enumerate(CALLS.splitlines(), 1) if line.endswith("# wrong")}, found


if __name__ == "__main__":
    FILE.write_text(PLACE.sub(lambda m: m[1] + written() + m[2], FILE.read_text()))
