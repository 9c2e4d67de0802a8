"""What the flows share: tasks without caches, artifacts, and running a flow from a settings file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pandas as pd
from cyclopts import App
from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL

from dgmm.cli import run_app
from dgmm.commands import SETTINGS_SUFFIXES, Changes, asked, options_of, with_options
from dgmm.errors import DgmmError, InputError, without_secrets
from dgmm.fits import CRITERION_NAMES, Settings
from dgmm.types import Criterion

S = TypeVar("S", bound=Settings)

R = TypeVar("R")


def phase(name: str, work: Callable[[S], R], settings: S) -> R:
    """Do one phase of a flow as a task; nothing is cached or pickled, results lie where the settings say."""
    return task(name=name, cache_policy=NO_CACHE, persist_result=False)(work)(settings)


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
