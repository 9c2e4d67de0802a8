"""A night that is killed in any of its phases goes on to the same end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

import dgmm
from dgmm import store
from dgmm.config import Refresh
from dgmm.refresh import renewal, run_refresh, stages
from dgmm.registry import Registry
from tests.journals import at_record
from tests.ledgers import at_region, forked, kill, small_for_a_while
from tests.nights import append, job_of, night


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with small_for_a_while():
        yield


def job(folder: Path) -> Refresh:
    training = {"holdout": 0.2, "search": "starts", "n_init": 2}
    return job_of(folder, refit="always", training=training, n_components=[3])


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A night that is over, and the data of the next one."""
    folder = tmp_path_factory.mktemp("begun")
    append(folder / "data.zarr", night(0))
    run_refresh(job(folder))
    append(folder / "data.zarr", night(1))
    return folder


def end_of(folder: Path) -> tuple[Any, ...]:
    """What a night has come to, whenever and wherever it was."""
    its = job(folder)
    registry, scores = Registry(its.registry), dgmm.api.open_scores(its.out)
    aliases = {alias: registry.card(version).model for alias, version in registry.aliases().items()}
    last = stages.last_night(its.out)
    assert last is not None
    assert last.drift is not None
    told = last.drift["shifts"], last.decision.partition(" ")[2], registry.card(last.version).model
    return aliases, len(registry.versions()), told, {name: scores[name].values.tobytes() for name in scores}


@pytest.fixture(scope="module")
def expected(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    folder = shutil.copytree(begun, tmp_path_factory.mktemp("expected") / "f")
    run_refresh(job(folder))
    return end_of(folder)


@contextmanager
def at(owner: Any, name: str, *, after: bool = False) -> Iterator[None]:
    """Context in which the process is killed when something is called, or once it is done."""
    done = getattr(owner, name)

    def killing(*args: Any, **options: Any) -> Any:
        if after:
            done(*args, **options)
        kill()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, killing)
        yield


POINTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "guards": lambda: at(stages, "check_values"),
    "drift": lambda: at(stages, "drift_of", after=True),
    "noted": lambda: at(stages, "note", after=True),
    "fit": lambda: at_record(2, kill),
    "fitted": lambda: at(renewal, "describe"),
    "judged": lambda: at(Registry, "add"),
    "saved": lambda: at(Registry, "nominate"),
    "added": lambda: at(Registry, "promote"),
    "promoted": lambda: at(Registry, "promote", after=True),
    "score": lambda: at_region(3, kill),
    "scored": lambda: at(stages, "verified"),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_night_goes_on(point: str, begun: Path, expected: tuple[Any, ...], tmp_path: Path) -> None:
    folder = shutil.copytree(begun, tmp_path / "f")
    before = dgmm.api.open_scores(job(folder).out)["label"].values

    def killed() -> None:
        with POINTS[point]():
            run_refresh(job(folder))

    assert os.WTERMSIG(forked(killed)) == 9, "it was killed there"
    if point != "scored":
        assert (dgmm.api.open_scores(job(folder).out)["label"].values == before).all(), "what readers find"
    run_refresh(job(folder))
    assert end_of(folder) == expected
    assert not list(folder.glob("*.partial"))
    assert not list(folder.glob("*.journal"))
    assert store.attributes(job(folder).out)["complete"] == 1


def test_a_fit_that_was_killed_starts_over_where_the_data_have_grown_since(begun: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(begun, tmp_path / "f")

    def killed() -> None:
        with at_record(2, kill):
            run_refresh(job(folder))

    assert os.WTERMSIG(forked(killed)) == 9
    append(folder / "data.zarr", night(2))
    run_refresh(job(folder))
    assert dgmm.load(f"{job(folder).registry}@champion").n_samples > 4000
    assert not list(folder.glob("*.journal"))
