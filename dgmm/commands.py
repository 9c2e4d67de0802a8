"""The commands of the command line: their options are the settings' schema."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import wraps
from typing import Annotated, Any, TypeVar

from cyclopts import Parameter

from dgmm.config import (
    Data,
    Ingest,
    Merge,
    Predict,
    Refresh,
    Sample,
    Score,
    Select,
    Setting,
    Train,
    Update,
    Verify,
    Watch,
    read_settings,
    settings_of,
)
from dgmm.errors import InputError
from dgmm.fits import Settings, held_out_words, validated
from dgmm.yaml12 import parse

S = TypeVar("S", bound=Settings)
R = TypeVar("R")

SETTINGS_SUFFIXES = (".yaml", ".yml")
#: Options that have another name than their setting.
SHORT = {"n_components": "--k", "covariance_type": "--covariance", "n_workers": "--workers"}
#: What stands for a value in the help.
LABELS: dict[str, type] = {"integer": int, "number": float}


def options_of(model: type[Settings], only: Container[str] | None = None) -> Iterator[inspect.Parameter]:
    """A parameter for every setting, or for those that are named; its help is the setting's description."""
    for setting in settings_of(model):
        if only is None or setting.path in only:
            yield inspect.Parameter(
                setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(setting)
            )


def _option(setting: Setting) -> Any:
    words = [setting.field.description or ""]
    if setting.choices:
        words.append(f"One of {', '.join(setting.choices)}.")
    flag = setting.schema.get("type") == "boolean"
    if setting.default and not flag:
        words.append(f"Default: {setting.default}.")
    kinds = {part.get("type") for part in (setting.schema, *setting.schema.get("anyOf", ()))}
    label: Any = bool if flag else next((LABELS[k] for k in LABELS if k in kinds and "string" not in kinds), str)
    return Annotated[
        label | None,
        Parameter(
            name=SHORT.get(setting.name),
            help=" ".join(words),
            group=setting.path.rpartition(".")[0].capitalize() or "Parameters",
            negative=(),
            converter=None if flag else _as_written,
        ),
    ]


def _as_written(_: Any, tokens: Sequence[Any]) -> str:
    """The words of the line: it is the schema that judges them."""
    return str(tokens[0].value)


def with_options(*more: inspect.Parameter) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Decorator: these parameters take the place of ``*`` and ``**`` in the signature, which options come from."""

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        own = [
            p
            for p in inspect.signature(function).parameters.values()
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        ]
        parameters = sorted([*more, *own], key=lambda p: p.kind)
        function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return function

    return decorate


Changes = Annotated[
    list[str] | None,
    Parameter(
        name="--set", consume_multiple=False, negative=(), help="Any setting as key=value, such as training.seed=1."
    ),
]

AsJson = Annotated[bool, Parameter(name="--json", negative=(), help="Print one JSON object.")]
Quiet = Annotated[bool, Parameter(negative=(), help="No progress lines.")]


def asked(model: type[S], given: Mapping[str, Any], changes: Sequence[str] | None, file: str | None = None) -> S:
    """Validated settings: of a file, if there is one, then options by the names of settings, then ``--set``.

    Parameters
    ----------
    model : type
    given : dict
        Values by the settings' names, with or without the parts they are in; None where there is none.
    changes : sequence of str, optional
        As ``key=value``.
    file : path, optional
        In YAML.
    """
    settings = {} if file is None else read_settings(file)
    paths = {setting.name: setting.path for setting in settings_of(model)}
    for name, value in given.items():
        if value is not None:
            put(settings, paths.get(name, name), value)
    for change in changes or ():
        name, equals, value = change.partition("=")
        if not equals:
            raise InputError(f"--set {change}: expected key=value, such as training.seed=1")
        try:
            put(settings, name, parse(value))
        except InputError as error:
            raise InputError(f"--set {change}: {error}") from None
    return validated(model, settings)


def command(model: type[S], *places: str) -> Callable[[Callable[[S], str]], Callable[..., None]]:
    """Decorator of what settings are turned into, as text: a command that takes them.

    Parameters
    ----------
    model : type
    *places : str
        The settings that are arguments, in the place of the first of which there may be a settings file.
    """
    settings = {setting.path: setting for setting in settings_of(model)}
    arguments = [_argument(settings[path], first=path == places[0]) for path in places]
    options = options_of(model, settings.keys() - set(places))

    def decorate(work: Callable[[S], str]) -> Callable[..., None]:
        @with_options(*arguments, *options)
        def run(
            *values: str | None,
            changes: Changes = None,
            quiet: Quiet = False,
            **chosen: Any,
        ) -> None:
            # no setting may be called like one of these
            first = values[0] or ""
            file = first if first.endswith(SETTINGS_SUFFIXES) else None
            named = dict(zip(places, values, strict=False))
            if file is not None:
                del named[places[0]]
            wanted = asked(model, {**named, **chosen}, changes, file)
            show_progress(quiet)
            print(work(wanted))

        run.__doc__ = work.__doc__
        return run

    return decorate


def _argument(setting: Setting, *, first: bool) -> inspect.Parameter:
    """A setting by its place; its name is that of the part it is in."""
    words = f"{setting.field.description} {'Or a settings file (.yaml).' if first else 'Not with a settings file.'}"
    kind: Any = str if first else str | None
    default = inspect.Parameter.empty if first else None
    return inspect.Parameter(
        setting.path.partition(".")[0],
        inspect.Parameter.POSITIONAL_ONLY,
        default=default,
        annotation=Annotated[kind, Parameter(help=words)],
    )


def finding(run: Callable[..., int]) -> Callable[..., int]:
    """Decorator of a command whose exit code 1 says that something was found: that of what goes wrong is 2."""

    @wraps(run)
    def told(*args: Any, **options: Any) -> int:
        try:
            return run(*args, **options)
        except Exception as error:
            error.exit_code = 2  # type: ignore[attr-defined]
            raise

    return told


@command(Select, "data.path")
def select(settings: Select) -> str:
    """``dgmm select``."""
    from dgmm.pipeline import run_select
    from dgmm.words import show_selection

    return show_selection(settings, run_select(settings))


@command(Train, "data.path")
def train(settings: Train) -> str:
    """``dgmm train``."""
    from dgmm.pipeline import run_train
    from dgmm.words import show_fit

    return show_fit(settings, run_train(settings))


@command(Score, "model", "data.path")
def score(settings: Score) -> str:
    """``dgmm score``."""
    from dgmm.pipeline import run_score
    from dgmm.words import show_scored

    return show_scored(settings, run_score(settings))


@command(Sample, "model")
def sample(settings: Sample) -> str:
    """``dgmm sample``."""
    from dgmm.pipeline import run_sample

    run_sample(settings)
    return f"{settings.rows} samples: {settings.out}"


@command(Ingest, "path", "out")
def ingest(settings: Ingest) -> str:
    """``dgmm ingest``."""
    from dgmm.pipeline import run_ingest

    return f"{settings.out}: {run_ingest(settings)}"


@command(Predict, "model", "data.path")
def predict(settings: Predict) -> str:
    """``dgmm predict``."""
    from dgmm.pipeline import run_predict
    from dgmm.words import show_predicted

    return show_predicted(settings, run_predict(settings))


@command(Merge, "model", "data.path")
def merge(settings: Merge) -> str:
    """``dgmm merge``."""
    from dgmm.pipeline import run_merge
    from dgmm.words import show_merged

    return show_merged(settings, run_merge(settings))


@command(Update, "model", "data.path")
def update(settings: Update) -> str:
    """``dgmm update``."""
    from dgmm.pipeline import run_update
    from dgmm.words import show_updated

    return show_updated(settings, run_update(settings))


@command(Refresh, "data.path")
def refresh(settings: Refresh) -> str:
    """``dgmm refresh``."""
    from dgmm.refresh import run_refresh

    return run_refresh(settings)


@with_options(*options_of(Verify, {setting.path for setting in settings_of(Verify)} - {"path"}))
@finding
def verify(
    path: Annotated[str, Parameter(help="Scores or a model.")],
    /,
    *,
    as_json: AsJson = False,
    changes: Changes = None,
    quiet: Quiet = False,
    **given: Any,
) -> int:
    """Say whether scores or a model are what was written: exit code 0 if so, 1 if not, 2 if that cannot be told."""
    from dgmm.pipeline import run_verify

    wanted = asked(Verify, {"path": path, **given}, changes)
    show_progress(quiet)
    verdict = run_verify(wanted)
    print(json.dumps(verdict.to_json(), allow_nan=False) if as_json else verdict)
    return 0 if verdict.is_sound else 1


@with_options(*options_of(Watch, {setting.path for setting in settings_of(Watch)} - {"model", "data.path"}))
@finding
def drift(
    model: Annotated[str, Parameter(help="A model, best one in a registry: models/NAME@champion.")],
    path: Annotated[str, Parameter(help="Data.")],
    /,
    *,
    quiet: Quiet = False,
    as_json: AsJson = False,
    changes: Changes = None,
    **given: Any,
) -> int:
    """Say whether data are still like those of a model: exit code 0 if so, 1 if not, 2 if that cannot be told."""
    from dgmm.pipeline import run_watch

    wanted = asked(Watch, {"model": model, "data.path": path, **given}, changes)
    show_progress(quiet)
    found = run_watch(wanted)
    print(json.dumps(found.to_json, allow_nan=False) if as_json else found)
    return 1 if found.found else 0


@with_options(*options_of(Data, only=("variables", "feature_dim", "group", "open", "storage")))
def info(
    path: Annotated[str, Parameter(help="A model, scores or a Zarr store.")],
    /,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative=(), help="The model in its JSON form.")] = False,
    **reading: str | None,
) -> None:
    """Print what a model, scores or a store of samples hold."""
    from dgmm import store
    from dgmm.api import open_scores
    from dgmm.data import is_foreign
    from dgmm.pipeline import samples_of
    from dgmm.scoring import SCORES_KIND
    from dgmm.store import MODEL_KIND, from_dataset
    from dgmm.words import describe, show_clusters, show_table

    path = store.model_at(path)
    foreign = path.endswith(".json") or any(reading.values()) or is_foreign(path)
    attributes = {} if foreign else store.attributes(path)
    if path.endswith(".json") or str(attributes.get("format")).startswith(MODEL_KIND):
        dataset = store.load_dataset(path)
        record = from_dataset(dataset, path)
        fit, table = record.fit, record.table
        if as_json:
            print(json.dumps(dataset.to_dict(), indent=1, allow_nan=False))
            return
        print(describe(fit, record.criterion))
        if fit.layout is not None:
            print(f"features: {fit.layout.describe(fit.features)}")
        if fit.mixture.transform is not None:
            print(f"preprocessed: {fit.mixture.transform.words}; means are in the data's units, densities are not")
        stability, remarks = fit.stability, fit.mixture.family.remarks(fit.mixture.components)
        for component, (weight, mean) in enumerate(zip(fit.mixture.weights, fit.mixture.physical_means, strict=True)):
            values = ", ".join(f"{name} {value:.4g}" for name, value in zip(fit.features[:6], mean, strict=False))
            more = ", ..." if len(mean) > 6 else ""
            more += f"; {remarks[component]}" if remarks[component] else ""
            if stability is not None:
                more += f"; found again in {stability.found_again[component]:.0%} of the refits, "
                more += f"standard error of the weight {stability.weights_se[component]:.2g}"
            of = "" if fit.class_of(component) is None else f" of class {fit.class_of(component)}"
            print(f"component {component}{of}: weight {weight:.4f}, mean {values}{more}")
        if fit.noise is not None:
            print(f"noise: weight {fit.noise:.4f}")
        if stability is not None:
            print(stability.words)
        for batch in fit.updates:
            print(f"updated with {batch}")
        if fit.clusters is not None:
            print(show_clusters(fit.clusters))
        if table is not None:
            print(show_table(table, record.criterion))
            if words := held_out_words(table):
                print(words)
        return
    if as_json:
        raise InputError(f"{path} is not a model: only models have a JSON form")
    if str(attributes.get("format")).startswith(SCORES_KIND):
        scores = open_scores(path)
        sizes = ", ".join(f"{d} {n}" for d, n in scores["label"].sizes.items())
        print(f"{attributes.get('title', 'Scores')}, on {attributes.get('source', 'unknown data')}: {sizes}")
        print(f"variables: {', '.join(map(str, scores.data_vars))}; coordinates: {', '.join(map(str, scores.coords))}")
        return
    data = validated(Data, {"path": path, **reading})
    samples = samples_of(data)
    sizes = ", ".join(f"{d} {n}" for d, n in zip(samples.dims, samples.grid.shape, strict=True))
    print(f"{samples.grid.size} samples ({sizes}) of {samples.n_features} features ({', '.join(samples.features)})")
    print(f"read in {len(samples.grid)} segments of up to {samples.grid.largest} samples")
    for line in samples.storage():
        print(line)


def put(settings: dict[str, Any], name: str, value: Any) -> None:
    """Set a dotted name in nested settings."""
    *parents, last = name.split(".")
    for parent in parents:
        settings = settings.setdefault(parent, {})
        if not isinstance(settings, dict):
            raise InputError(f"{name}: {parent} is not a group of settings")
    settings[last] = value


def show_progress(quiet: bool) -> None:
    """One line per pass on standard error."""
    logger = logging.getLogger("dgmm")
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    # a handler of our own: one on the root would show how clusters start and stop too
    logger.handlers = [logging.StreamHandler()]
