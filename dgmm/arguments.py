"""Arguments and options of commands, made of the settings' schema, and settings made of them."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import wraps
from typing import Annotated, Any, TypeVar

from cyclopts import Parameter

from dgmm.config import (
    Setting,
    read_settings,
    settings_of,
)
from dgmm.errors import InputError
from dgmm.fits import Settings, validated
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
