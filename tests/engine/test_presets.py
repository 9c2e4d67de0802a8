"""Presets are Dask's own settings, under whatever the user has set, and reach workers that run elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import distributed  # noqa: F401  (its settings)
import pytest
from dask.utils import parse_timedelta

from dgmm.engine.presets import (
    LEAVING,
    PRESETS,
    SPREAD,
    WORKER_ENVIRONMENT,
    WORKER_PRESETS,
    Filled,
    as_variable,
    asks_for_memory,
    filled,
    lifetime,
    presets_for,
    processes_of,
    threads_of,
    values_of,
)
from dgmm.engine.schedulers import DISTRIBUTED_SETTINGS

IDLE = "distributed.scheduler.idle-timeout"
#: What batch systems have of settings, as far as it matters here.
SECTION = {"cores": None, "memory": None, "death-timeout": 60, "walltime": "00:30:00", "worker-extra-args": []}


@pytest.fixture(autouse=True)
def as_shipped() -> Iterator[None]:
    """Dask's own settings, though a cluster of this process may be open that has set others for itself."""
    shipped = dask.config.merge(*dask.config.defaults)
    with dask.config.set({key: dask.config.get(key, None, config=shipped) for key in DISTRIBUTED_SETTINGS}):
        yield


@pytest.fixture
def queues() -> Iterator[None]:
    """Settings of two batch systems, as a package brings them."""
    given = {"jobqueue": {"one": SECTION, "other": SECTION | {"walltime": "00:30"}}}
    dask.config.defaults.append(given)
    try:
        with dask.config.set(given):
            yield
    finally:
        dask.config.defaults.remove(given)


def test_presets_are_settings_that_dask_has_and_understands() -> None:
    for key, value in PRESETS.items():
        if key.startswith("distributed") and "pre-spawn" not in key:
            dask.config.get(key)  # or a KeyError
        if key.endswith(("timeout", "interval")) and isinstance(value, str):
            assert parse_timedelta(value) > 0


def test_what_users_complain_of_is_preset() -> None:
    """Clusters that outlive their owner, workers that nobody misses, idle ones that go too soon, memory that stays."""
    found = presets_for({}, None)
    assert found[IDLE] == "2h"
    assert found["distributed.deploy.lost-worker-timeout"] == "60s"
    assert found["distributed.scheduler.allowed-failures"] == 10
    waits = found["distributed.adaptive.wait-count"] * parse_timedelta(found["distributed.adaptive.interval"])
    assert waits == 300
    assert found["distributed.nanny.pre-spawn-environ.MALLOC_ARENA_MAX"] == 2
    assert found["distributed.worker.memory.spill"] is False
    assert dask.config.get("distributed.nanny.pre-spawn-environ.OMP_NUM_THREADS") == 1


def test_the_user_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    with dask.config.set({IDLE: "5m"}):
        assert IDLE not in presets_for({}, None)
    assert IDLE in presets_for({}, None)
    # also with what happens to be the default
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__MEMORY__SPILL", "0.7")
    assert "distributed.worker.memory.spill" not in presets_for({}, None)


def test_packages_that_are_not_there_have_no_presets(queues: None) -> None:
    keys = presets_for({}, 10**9).keys()
    assert not [key for key in keys if key.startswith("kubernetes")]
    assert {key.split(".")[1] for key in keys if key.startswith("jobqueue")} == {"one", "other"}


def test_jobs_get_what_the_plan_needs_and_leave_before_their_time_is_up(queues: None) -> None:
    found = presets_for({"walltime": "01:00:00"}, 123)
    assert (found["jobqueue.one.cores"], found["jobqueue.one.memory"]) == (1, "123")
    left = 3600 - LEAVING - SPREAD
    assert found["jobqueue.one.worker-extra-args"] == ["--lifetime", f"{left}s", "--lifetime-stagger", f"{SPREAD}s"]
    found = presets_for({}, None)
    assert found["jobqueue.one.worker-extra-args"][1] == f"{1800 - LEAVING - SPREAD}s"
    # hours and minutes, or minutes and seconds: who knows
    assert "jobqueue.other.worker-extra-args" not in found
    assert "jobqueue.one.memory" not in found, "it is not known"
    assert found["jobqueue.one.death-timeout"] == 120


@pytest.mark.parametrize(
    ("walltime", "seconds"),
    [
        ("1-00:00:00", 86400 - LEAVING - SPREAD),
        ("00:20:00", 1200 - LEAVING - SPREAD),
        ("00:19:59", None),  # too short to leave early
        ("30", None),
        ("30:00", None),
        (None, None),
    ],
)
def test_lifetimes(walltime: str | None, seconds: int | None) -> None:
    found = lifetime(walltime)
    assert (found and found[1]) == (None if seconds is None else f"{seconds}s")


def test_nobody_stays_until_the_job_is_ended_or_goes_before_it_has_worked() -> None:
    """Dask draws each lifetime from the middle, give or take the spread."""
    _, middle, _, spread = lifetime("00:20:00") or []
    first, last = (float(middle[:-1]) + sign * float(spread[:-1]) for sign in (-1, 1))
    assert (first, last) == (600, 1200 - 240)


def test_workers_elsewhere_take_them_from_their_environment() -> None:
    """By lines of a shell, or as variables: it is Dask that reads them there."""
    values = values_of(None, None)
    assert len(values["exports"]) == len(WORKER_PRESETS) + len(WORKER_ENVIRONMENT)
    code = "import dask, distributed, os; print(*[dask.config.get(k) for k in {!r}], os.environ['MALLOC_ARENA_MAX'])"
    shell = "\n".join([*values["exports"], f'"{sys.executable}" -c "{code.format(list(WORKER_PRESETS))}"'])
    said = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True).stdout
    assert said.split() == [*(str(value) for value in WORKER_PRESETS.values()), "2"]
    program = [sys.executable, "-c", code.format(list(WORKER_PRESETS))]
    environment = os.environ | values["environment"]
    assert subprocess.run(program, capture_output=True, text=True, check=True, env=environment).stdout == said


def test_variables_are_named_as_dask_does() -> None:
    assert as_variable("distributed.worker.lost-worker.a_b") == "DASK_DISTRIBUTED__WORKER__LOST_WORKER__A_B"


@pytest.mark.parametrize(
    ("options", "asks", "expected"),
    [
        ({"memory": "projected", "cores": 2}, True, {"memory": "7", "cores": 2}),
        ({"resources": {"limits": {"memory": "projected"}}}, True, {"resources": {"limits": {"memory": "7"}}}),
        ({"memory": "2GB", "names": ["a"]}, False, {"memory": "2GB", "names": ["a"]}),
    ],
)
def test_options_may_ask_for_what_is_projected(options: dict[str, Any], asks: bool, expected: dict[str, Any]) -> None:
    assert asks_for_memory(options) is asks
    assert filled(options, values_of(7, None)) == expected


@pytest.mark.parametrize(
    ("options", "threads", "processes"),
    [
        ({}, 1, 1),
        ({"cores": 4}, 4, 1),
        ({"cores": 4, "processes": 2}, 2, 2),
        ({"threads_per_worker": 3, "n_workers": 2}, 3, 1),
        ({"processes": True, "threads_per_worker": 3}, 3, 1),
        ({"cores": "4"}, 1, 1),
    ],
)
def test_threads_and_processes_by_what_classes_call_them(options: dict[str, Any], threads: int, processes: int) -> None:
    assert (threads_of(options), processes_of(options)) == (threads, processes)


def test_the_table_of_presets_is_complete() -> None:
    table = (Path(__file__).parents[2] / "deploy" / "CLUSTERS.md").read_text()
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    told = {name for names, _ in rows for name in re.findall(r"`([^`]+)`", names)}
    assert told == {*PRESETS, "distributed.scheduler.no-workers-timeout"}
    # and the values that are short enough to be told
    for names, values in rows:
        for name, value in zip(re.findall(r"`([^`]+)`", names), values.split(","), strict=False):
            if isinstance(preset := PRESETS.get(name), (int, str)) and not isinstance(preset, (bool, Filled)):
                assert value.strip(" `") in str(preset), name


def test_presets_of_kubernetes_make_pods_of_them() -> None:
    """By the package itself, without a cluster."""
    made = pytest.importorskip("dask_kubernetes.operator.kubecluster.kubecluster")
    pytest.importorskip("dask_kubernetes")
    found = {key: value for key, value in presets_for({}, 123).items() if key.startswith("kubernetes")}
    with dask.config.set(found):
        given = {name: dask.config.get(f"kubernetes.{name.replace('_', '-')}") for name in ("env", "resources")}
        spec = made.make_cluster_spec(
            name="x",
            worker_command=dask.config.get("kubernetes.worker-command").split(" "),
            idle_timeout=dask.config.get("kubernetes.idle-timeout"),
            **given,
        )
    (worker,) = spec["spec"]["worker"]["spec"]["containers"]
    assert worker["args"][:4] == ["dask", "worker", "--death-timeout", "120"]
    assert {"name": "MALLOC_ARENA_MAX", "value": "2"} in worker["env"]
    assert worker["resources"] == {"requests": {"memory": "123"}}
    assert spec["spec"]["idleTimeout"] == 7200
