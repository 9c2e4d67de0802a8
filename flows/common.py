"""What the flows share: tasks that are tried again, artifacts, and running a flow from a settings file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import pandas as pd
from cyclopts import App
from prefect import Task, runtime, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.assets import add_asset_metadata, materialize
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL
from prefect.tasks import exponential_backoff

from dgmm.arguments import SETTINGS_SUFFIXES, Changes, asked, options_of, with_options
from dgmm.cli import run_app
from dgmm.errors import DgmmError, InputError, may_pass, without_secrets
from dgmm.fits import CRITERION_NAMES, Settings
from dgmm.types import Criterion
from flows.assets import asset_of
from flows.watch import watched

S = TypeVar("S", bound=Settings)

R = TypeVar("R")


#: A phase that fails of what may pass is tried again so often, and after so many seconds for the first time.
RETRIES, FIRST_PAUSE = 3, 10.0


def limit_of(text: str | None) -> float | None:
    """Seconds that a run may take; none where nothing is said."""
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise InputError(f"DGMM_FLOW_SECONDS={text}: give the seconds that a flow may take, such as 7200")
    return seconds


def limit_given() -> float | None:
    """The limit that the environment gives."""
    return limit_of(os.environ.get("DGMM_FLOW_SECONDS"))


#: What all flows have in common. Their time ends by an exception, which stops the cluster and leaves the journal.
FLOW: dict[str, Any] = {"log_prints": True}
# a limit that is none would be a traceback here: the first phase of a flow refuses it
with suppress(InputError):
    FLOW["timeout_seconds"] = limit_given()


@dataclass(frozen=True)
class Made:
    """What a phase makes that others wait for.

    Attributes
    ----------
    path : str
    about : callable
        What is said of it, by its path.
    """

    path: str
    about: Callable[[str], dict[str, Any]]


def phase(name: str, work: Callable[[S], R], settings: S, makes: Made | None = None) -> R:
    """Do one phase of a flow as a task, tried again if it fails of what may pass.

    Nothing is cached or pickled: results lie where the settings say, and so does what another try goes on from.

    Parameters
    ----------
    name : str
    work : callable
    settings : Settings
    makes : Made, optional
        What it makes, which is then known as an asset.

    Raises
    ------
    InputError
        If the environment's limit of time is none.
    """
    limit_given()
    asset = None if makes is None else asset_of(makes.path)

    def watched_work(settings: S) -> R:
        with watched(name):
            found = work(settings)
        if makes is not None and asset is not None:
            add_asset_metadata(asset, makes.about(makes.path))
        return found

    options: dict[str, Any] = {
        "name": name,
        "cache_policy": NO_CACHE,
        "persist_result": False,
        "retries": RETRIES,
        "retry_delay_seconds": exponential_backoff(FIRST_PAUSE),
        "retry_jitter_factor": 0.5,
        "retry_condition_fn": is_worth_another_try,
    }
    decorate = task(**options) if asset is None else materialize(asset, by="dgmm", **options)
    done: R = decorate(watched_work)(settings)
    return done


def announce(made: Made) -> None:
    """Say that something was made, as an asset, where a phase could not know beforehand that it would be."""
    asset = asset_of(made.path)

    def say() -> None:
        add_asset_metadata(asset, made.about(made.path))

    materialize(asset, by="dgmm", name="asset", cache_policy=NO_CACHE, persist_result=False)(say)()


def is_worth_another_try(_: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether what a phase has failed of may pass."""
    return isinstance(state.data, BaseException) and may_pass(state.data)


def again() -> bool:
    """Whether the phase at work was tried before in the same run."""
    return max(runtime.task_run.run_count or 0, runtime.flow_run.run_count or 0) > 1


def publish_table(key: str, table: pd.DataFrame, criterion: str) -> None:
    """Publish the table of candidates as an artifact."""
    shown = table.astype(object).where(table.notna(), None)
    name = CRITERION_NAMES[Criterion(criterion)]
    create_table_artifact(key=key, table=shown.to_dict(orient="records"), description=f"Candidates by {name}")


def publish_summary(key: str, text: str) -> None:
    """Print what was found, and publish it as an artifact."""
    print(text)
    create_markdown_artifact(key=key, markdown=f"```\n{text}\n```", description="What was found")


@contextmanager
def server_refusals() -> Iterator[None]:
    """Say in one line what the server of Prefect says no with."""
    try:
        yield
    except PrefectHTTPStatusError as error:
        answer, api = error.response, without_secrets(str(PREFECT_API_URL.value()))
        said = f"{answer.status_code} {answer.reason_phrase}"
        if answer.status_code in (401, 403):
            raise InputError(
                f"the server of Prefect at {api} takes no flows from here ({said}): give its password in the "
                "environment (PREFECT_API_AUTH_STRING)"
            ) from error
        raise DgmmError(f"the server of Prefect at {api} fails ({said}): see its log, run the same again") from error


def main(flow: Callable[[S], Any], model: type[S]) -> None:
    """Run a flow from the command line, with a settings file and changes to it, and exit with its code."""
    app = App(
        name=f"python -m flows.{model.__name__.lower()}",
        help=flow.__doc__,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )

    @app.default
    @with_options(*options_of(model))
    def from_file(settings: str, /, *, changes: Changes = None, **given: Any) -> None:
        """Run with a settings file (.yaml) and what options change in it."""
        if not settings.endswith(SETTINGS_SUFFIXES):
            raise InputError(f"{settings} is no settings file: expected a .yaml")
        job = asked(model, given, changes, settings)
        with server_refusals():
            flow(job)

    sys.exit(run_app(app, sys.argv[1:]))
