"""The command line: ``dgmm select``, ``dgmm train``, ``dgmm score``, ``dgmm info``."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import App, CycloptsError, Parameter

from dgmm import __version__
from dgmm.errors import DgmmError, InputError
from dgmm.yaml12 import parse

if TYPE_CHECKING:
    from dgmm.config import Settings

S = TypeVar("S", bound="Settings")

app = App(
    name="dgmm",
    version=__version__,
    help="Gaussian mixture models fitted, selected and applied straight from chunked Zarr arrays.",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)

#: What to do about errors of libraries that take longer to import than most commands to run, by their names.
ADVICE = {
    "KilledWorker": "most likely for want of memory; raise memory_limit (cluster.memory_limit), or have fewer threads "
    "per worker (cluster.threads_per_worker)",
    "NoValidWorkerError": "no worker may take this task; start workers, or leave the scheduler to dgmm",
    "NoWorkerError": "there is no worker left; start workers, or leave the scheduler to dgmm",
    "CancelledError": "the scheduler has given up the work; see whether it still runs, and run the same command again",
    "CommClosedError": "the connection to the scheduler or a worker is lost; see whether they still run, and run the "
    "same command again",
    "TimeoutError": "an answer took too long; see whether the other side runs and can be reached, and run the same "
    "command again",
    "LinAlgError": "a covariance is singular to rounding; raise reg_covar (training.reg_covar), or leave features out "
    "that follow from others",
    "MemoryError": "there is not enough memory; use smaller chunks or fewer workers (cluster.n_workers)",
}

SETTINGS_SUFFIXES = (".yaml", ".yml")


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """What every command that reads data and writes a result takes."""

    variables: Annotated[
        str | None, Parameter(help="Variables to use, separated by commas; several are the features.")
    ] = None
    feature_dim: Annotated[str | None, Parameter(help="Dimension that holds the features.")] = None
    scheduler: Annotated[str | None, Parameter(help="threads, processes, or the address of a Dask scheduler.")] = None
    workers: Annotated[int | None, Parameter(help="Threads or processes; one per core by default.")] = None
    memory_limit: Annotated[str | None, Parameter(help="Memory of each process, such as 2GB.")] = None
    changes: Annotated[
        list[str] | None,
        Parameter(
            name="--set", consume_multiple=False, negative=(), help="Any setting as key=value, such as training.seed=1."
        ),
    ] = None
    overwrite: Annotated[bool | None, Parameter(negative=(), help="Replace what exists.")] = None
    quiet: Annotated[bool, Parameter(negative=(), help="No progress lines.")] = False

    def settings(self, model: type[S], first: str, place: str, given: dict[str, Any]) -> S:
        """Validated settings: of a file, if the first argument is one, then options, then ``--set``."""
        from dgmm.config import validated

        options = {
            **given,
            "overwrite": self.overwrite,
            "data.variables": self.variables,
            "data.feature_dim": self.feature_dim,
            "cluster.scheduler": self.scheduler,
            "cluster.n_workers": self.workers,
            "cluster.memory_limit": self.memory_limit,
        }
        settings = validated(model, merged(first, place, options, self.changes))
        show_progress(self.quiet)
        return settings


NOTHING = Common()


@app.command
def select(
    data: str,
    /,
    *,
    k: Annotated[str | None, Parameter(help="Numbers of components: 1:12, or 2,4,8.")] = None,
    covariance: Annotated[str | None, Parameter(help="Covariance types, separated by commas.")] = None,
    out: Annotated[str | None, Parameter(help="Folder for the model and the table of candidates.")] = None,
    keep_all: Annotated[bool | None, Parameter(negative=(), help="Run every candidate to convergence.")] = None,
    common: Common = NOTHING,
) -> None:
    """Choose the number of components and the covariance type, by BIC or another criterion (--set criterion=aic).

    Parameters
    ----------
    data
        A Zarr store, or a settings file (.yaml).
    """
    from dgmm.config import Select
    from dgmm.pipeline import MODEL, describe, run_select, show_table

    given = {
        "n_components": k,
        "covariance_type": covariance,
        "out": out,
        "keep_all": keep_all,
    }
    settings = common.settings(Select, data, "data.path", given)
    selection = run_select(settings)
    print(show_table(selection.table, selection.criterion))
    print(describe(selection.best, selection.criterion))
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
    common: Common = NOTHING,
) -> None:
    """Fit one mixture.

    Parameters
    ----------
    data
        A Zarr store, or a settings file (.yaml).
    """
    from dgmm.config import Train
    from dgmm.pipeline import describe, run_train

    given = {
        "n_components": k,
        "covariance_type": covariance,
        "out": out,
    }
    settings = common.settings(Train, data, "data.path", given)
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
    common: Common = NOTHING,
) -> None:
    """Label every sample with a fitted mixture.

    Parameters
    ----------
    model
        A fitted model, or a settings file (.yaml).
    data
        A Zarr store; not needed with a settings file.
    """
    from dgmm.config import Score
    from dgmm.pipeline import run_score

    given = {
        "out": out,
        "data.path": data,
        "probabilities": probabilities,
    }
    settings = common.settings(Score, model, "model", given)
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
    variables: Annotated[str | None, Parameter(help="Variables to use, separated by commas.")] = None,
    feature_dim: Annotated[str | None, Parameter(help="Dimension that holds the features.")] = None,
) -> None:
    """Say what a model, scores or a store of samples hold.

    Parameters
    ----------
    path
        A model, scores or a Zarr store.
    """
    from dgmm import store
    from dgmm.api import open_scores
    from dgmm.config import Data, validated
    from dgmm.pipeline import describe, samples_of, show_table
    from dgmm.scoring import SCORES_FORMAT
    from dgmm.store import MODEL_KIND, from_dataset

    attributes = {} if path.endswith(".json") else store.attributes(path)
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
        for component, (weight, mean) in enumerate(zip(fit.mixture.weights, fit.mixture.means, strict=True)):
            values = ", ".join(f"{name} {value:.4g}" for name, value in zip(fit.features[:6], mean, strict=False))
            print(f"component {component}: weight {weight:.4f}, mean {values}{', ...' if len(mean) > 6 else ''}")
        if table is not None:
            print(show_table(table, record.criterion))
        return
    if as_json:
        raise InputError(f"{path} is not a model: only models have a JSON form")
    if attributes.get("format") == SCORES_FORMAT:
        scores = open_scores(path)
        sizes = ", ".join(f"{d} {n}" for d, n in scores["label"].sizes.items())
        print(f"{attributes.get('title', 'Scores')}, on {attributes.get('source', 'unknown data')}: {sizes}")
        print(f"variables: {', '.join(map(str, scores.data_vars))}; coordinates: {', '.join(map(str, scores.coords))}")
        return
    data = validated(Data, {"path": path, "variables": variables, "feature_dim": feature_dim})
    samples = samples_of(data)
    sizes = ", ".join(f"{d} {n}" for d, n in zip(samples.dims, samples.grid.shape, strict=True))
    print(f"{samples.grid.size} samples ({sizes}) of {samples.n_features} features ({', '.join(samples.features)})")
    print(f"read in {len(samples.grid)} segments of up to {samples.grid.largest} samples")


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
            put(settings, name, parse(value))
        except InputError as error:
            raise InputError(f"--set {change}: {error}") from None
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
    """Run a command; its exit code.

    It is 0, 2 for bad input, 1 for what went wrong later, 130 for Ctrl-C, 143 where the system ended it (SIGTERM).
    """
    try:
        with terminable():
            which(list(arguments), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return complain(" ".join(str(error).split()), 2)
    except InputError as error:
        return complain(str(error), 2)
    except DgmmError as error:
        return complain(" ".join(str(error).split()), 1)
    except Exception as error:
        advice = next((ADVICE[base.__name__] for base in type(error).__mro__ if base.__name__ in ADVICE), None)
        if advice is None and not isinstance(error, (OSError, RuntimeError)):
            raise
        words = " ".join(str(error).split()) or type(error).__name__
        # some say more than a sentence, and where to read on
        return complain(words if advice is None else f"{words.split('. ')[0].rstrip('.')}: {advice}", 1)
    except Terminated:
        return complain("terminated: nothing half-written is left; run the same command again", 143)
    except KeyboardInterrupt:
        return complain("interrupted: nothing half-written is left; run the same command again", 130)
    return 0


class Terminated(KeyboardInterrupt):
    """SIGTERM, by which the system asks a process to end."""


@contextmanager
def terminable() -> Iterator[None]:
    """Context in which SIGTERM interrupts as Ctrl-C does, so that everything is cleared up."""

    def terminate(*_: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def complain(message: str, code: int) -> int:
    """Print one line to standard error and return the exit code."""
    print(f"dgmm: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
