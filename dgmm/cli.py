"""The command line: ``dgmm select``, ``dgmm train``, ``dgmm score``, ``dgmm info``."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import yaml
from cyclopts import App, CycloptsError, Parameter

from dgmm import __version__
from dgmm.errors import DgmmError, InputError

app = App(
    name="dgmm",
    version=__version__,
    help="Gaussian mixture models fitted, selected and applied straight from chunked Zarr arrays.",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)

SETTINGS_SUFFIXES = (".yaml", ".yml")


Variables = Annotated[str | None, Parameter(help="Variables to use, separated by commas; several are the features.")]
FeatureDim = Annotated[str | None, Parameter(help="Dimension that holds the features.")]
Scheduler = Annotated[str | None, Parameter(help="threads, processes, or the address of a Dask scheduler.")]
Workers = Annotated[int | None, Parameter(name="--workers", help="Threads or processes; one per core by default.")]
MemoryLimit = Annotated[str | None, Parameter(help="Memory of each process, such as 2GB.")]
Overwrite = Annotated[bool | None, Parameter(negative=(), help="Replace what exists.")]
Changes = Annotated[
    list[str] | None,
    Parameter(name="--set", consume_multiple=False, help="Any setting as key=value, such as training.seed=1."),
]
Quiet = Annotated[bool, Parameter(negative=(), help="No progress lines.")]


@app.command
def select(
    data: str,
    /,
    *,
    k: Annotated[str | None, Parameter(help="Numbers of components: 1:12, or 2,4,8.")] = None,
    covariance: Annotated[str | None, Parameter(help="Covariance types, separated by commas.")] = None,
    out: Annotated[str | None, Parameter(help="Folder for the model and the table of candidates.")] = None,
    keep_all: Annotated[bool | None, Parameter(negative=(), help="Run every candidate to convergence.")] = None,
    variables: Variables = None,
    feature_dim: FeatureDim = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
    memory_limit: MemoryLimit = None,
    set_: Changes = None,
    overwrite: Overwrite = None,
    quiet: Quiet = False,
) -> None:
    """Choose the number of components and the covariance type by BIC.

    Parameters
    ----------
    data
        A Zarr store, or a settings file (.yaml).
    """
    from dgmm.config import Select, validated
    from dgmm.pipeline import MODEL, describe, run_select, show_table

    given = {
        "n_components": k,
        "covariance_type": covariance,
        "out": out,
        "keep_all": keep_all,
        "overwrite": overwrite,
        **data_options(variables, feature_dim, scheduler, workers, memory_limit),
    }
    settings = validated(Select, merged(data, "data.path", given, set_))
    show_progress(quiet)
    selection = run_select(settings)
    print(show_table(selection.table))
    print(describe(selection.best))
    if selection.at_edge:
        print(f"the best K is the largest that was tried ({selection.best.n_components}): more may be better")
    print(f"model: {settings.out.rstrip('/')}/{MODEL}")


@app.command
def train(
    data: str,
    /,
    *,
    k: Annotated[str | None, Parameter(help="Number of components.")] = None,
    covariance: Annotated[str | None, Parameter(help="Covariance type; full by default.")] = None,
    out: Annotated[str | None, Parameter(help="Model to write, a Zarr group.")] = None,
    variables: Variables = None,
    feature_dim: FeatureDim = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
    memory_limit: MemoryLimit = None,
    set_: Changes = None,
    overwrite: Overwrite = None,
    quiet: Quiet = False,
) -> None:
    """Fit one mixture.

    Parameters
    ----------
    data
        A Zarr store, or a settings file (.yaml).
    """
    from dgmm.config import Train, validated
    from dgmm.pipeline import describe, run_train

    given = {
        "n_components": k,
        "covariance_type": covariance,
        "out": out,
        "overwrite": overwrite,
        **data_options(variables, feature_dim, scheduler, workers, memory_limit),
    }
    settings = validated(Train, merged(data, "data.path", given, set_))
    show_progress(quiet)
    print(describe(run_train(settings)))
    print(f"model: {settings.out}")


@app.command
def score(
    model: str,
    data: str | None = None,
    /,
    *,
    out: Annotated[str | None, Parameter(help="Scores to write, a Zarr group on the grid of the input.")] = None,
    probabilities: Annotated[bool | None, Parameter(negative=(), help="Write all probabilities too.")] = None,
    variables: Variables = None,
    feature_dim: FeatureDim = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
    memory_limit: MemoryLimit = None,
    set_: Changes = None,
    overwrite: Overwrite = None,
    quiet: Quiet = False,
) -> None:
    """Label every sample with a fitted mixture.

    Parameters
    ----------
    model
        A fitted model, or a settings file (.yaml).
    data
        A Zarr store; not needed with a settings file.
    """
    from dgmm.config import Score, validated
    from dgmm.pipeline import run_score

    given = {
        "out": out,
        "data.path": data,
        "probabilities": probabilities,
        "overwrite": overwrite,
        **data_options(variables, feature_dim, scheduler, workers, memory_limit),
    }
    settings = validated(Score, merged(model, "model", given, set_))
    show_progress(quiet)
    scored = run_score(settings)
    n = int(scored.counts.sum())
    for component, count in enumerate(scored.counts.tolist()):
        print(f"component {component}: {count} samples ({count / max(n, 1):.2%})")
    print(f"missing: {scored.n_missing}; mean log density {scored.log_density / max(n, 1):.6g}")
    print(f"scores: {settings.out}")


@app.command
def info(
    path: str,
    /,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative=(), help="The model in its JSON form.")] = False,
    variables: Variables = None,
    feature_dim: FeatureDim = None,
) -> None:
    """Say what a model, scores or a store of samples hold.

    Parameters
    ----------
    path
        A model, scores or a Zarr store.
    """
    from dgmm import store
    from dgmm.api import open_scores
    from dgmm.data import open_samples
    from dgmm.pipeline import describe, show_table
    from dgmm.scoring import SCORES_FORMAT

    attributes = {} if path.endswith(".json") else store.attributes(path)
    if path.endswith(".json") or attributes.get("format") == store.FORMAT:
        dataset = store.load_dataset(path)
        fit = store.from_dataset(dataset, path)
        if as_json:
            print(json.dumps(dataset.to_dict(), indent=1, allow_nan=False))
            return
        print(describe(fit))
        for component, (weight, mean) in enumerate(zip(fit.mixture.weights, fit.mixture.means, strict=True)):
            values = ", ".join(f"{name} {value:.4g}" for name, value in zip(fit.features[:6], mean, strict=False))
            print(f"component {component}: weight {weight:.4f}, mean {values}{', ...' if len(mean) > 6 else ''}")
        table = store.candidates(path)
        if table is not None:
            print(show_table(table))
        return
    if as_json:
        raise InputError(f"{path} is not a model: only models have a JSON form")
    if attributes.get("format") == SCORES_FORMAT:
        scores = open_scores(path)
        sizes = ", ".join(f"{d} {n}" for d, n in scores["label"].sizes.items())
        print(f"{attributes['title']}, on {attributes['source']}: {sizes}")
        print(f"variables: {', '.join(map(str, scores.data_vars))}; coordinates: {', '.join(map(str, scores.coords))}")
        return
    samples = open_samples(path, variables.split(",") if variables else None, feature_dim)
    sizes = ", ".join(f"{d} {n}" for d, n in zip(samples.dims, samples.grid.shape, strict=True))
    print(f"{samples.grid.size} samples ({sizes}) of {samples.n_features} features ({', '.join(samples.features)})")
    print(f"read in {len(samples.grid)} segments of up to {samples.grid.largest} samples")


def data_options(
    variables: str | None, feature_dim: str | None, scheduler: str | None, workers: int | None, memory_limit: str | None
) -> dict[str, Any]:
    """Options that every command shares, under the names of the settings."""
    return {
        "data.variables": variables,
        "data.feature_dim": feature_dim,
        "cluster.scheduler": scheduler,
        "cluster.n_workers": workers,
        "cluster.memory_limit": memory_limit,
    }


def merged(first: str, place: str, given: dict[str, Any], changes: Sequence[str] | None) -> dict[str, Any]:
    """Settings of a file, if the first argument is one, with options and then ``--set`` on top."""
    from dgmm.config import read_settings

    settings: dict[str, Any] = {}
    if first.endswith(SETTINGS_SUFFIXES):
        settings = read_settings(first)
    else:
        put(settings, place, first)
    for name, value in given.items():
        if value is not None:
            put(settings, name, value)
    for change in changes or ():
        name, equals, value = change.partition("=")
        if not equals:
            raise InputError(f"--set {change}: expected key=value, such as training.seed=1")
        try:
            put(settings, name, yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise InputError(f"--set {change}: {' '.join(str(error).split())}") from None
    return settings


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; see `run_app` for the exit code."""
    return run_app(app, sys.argv[1:] if arguments is None else arguments)


def run_app(which: App, arguments: Sequence[str]) -> int:
    """Run a command; the exit code is 0, 2 for bad input, 1 for what went wrong later, 130 for Ctrl-C."""
    try:
        which(list(arguments), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return complain(" ".join(str(error).split()), 2)
    except InputError as error:
        return complain(str(error), 2)
    except (DgmmError, OSError, RuntimeError) as error:  # a codec's complaint is a RuntimeError
        return complain(" ".join(str(error).split()) or type(error).__name__, 1)
    except KeyboardInterrupt:
        return complain("interrupted: nothing half-written is left; run the same command again", 130)
    return 0


def complain(message: str, code: int) -> int:
    """Print one line to standard error and return the exit code."""
    print(f"dgmm: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
