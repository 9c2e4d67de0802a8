"""What clusters of a class are started with, as Dask's own settings: data, under whatever the user has set.

A setting that comes from the user (an option of the class, a file of Dask's settings, the environment, or
``dask.config.set``) is left as it is. Workers that run elsewhere do not see the settings of this process: where the
package that starts them has a place for it, they get those that concern them through their environment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

import dask

#: The environment of worker processes: glibc keeps an arena for every thread otherwise, with what was freed in it.
WORKER_ENVIRONMENT = {"MALLOC_ARENA_MAX": 2}

#: Settings of worker processes: nothing is written to disk, as what tasks take is known beforehand; who does not answer
#: is asked again.
WORKER_PRESETS: dict[str, Any] = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.comm.retry.count": 3,
}


class Filled(StrEnum):
    """What stands for a value that a run knows; without one the setting is left out."""

    #: Bytes that a worker needs: the word may stand among a user's options as well.
    MEMORY = "projected"
    #: Arguments of a worker that leaves before the time of its job is up, and not together with all the others.
    LIFETIME = "lifetime"
    #: `WORKER_PRESETS` and `WORKER_ENVIRONMENT` as variables, and as lines of a shell.
    ENVIRONMENT = "environment"
    EXPORTS = "exports"


#: What a run with a class sets.
PRESETS: dict[str, Any] = {
    # nobody pays for a cluster that its owner has forgotten; a driver works by itself between passes, but less long
    "distributed.scheduler.idle-timeout": "2h",
    # machines are taken away, for which the task that was there is not to blame
    "distributed.scheduler.allowed-failures": 10,
    # who has not come back by then is replaced
    "distributed.deploy.lost-worker-timeout": "60s",
    # workers that have nothing to do between passes keep what they have read: five minutes before they are let go
    "distributed.adaptive.interval": "5s",
    "distributed.adaptive.wait-count": 60,
    **{f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in WORKER_ENVIRONMENT.items()},
    **WORKER_PRESETS,
    # where packages have settings of their own; * is every kind of batch system
    "jobqueue.*.cores": 1,
    "jobqueue.*.processes": 1,
    "jobqueue.*.memory": Filled.MEMORY,
    "jobqueue.*.death-timeout": 120,
    "jobqueue.*.worker-extra-args": Filled.LIFETIME,
    "jobqueue.*.job-script-prologue": Filled.EXPORTS,
    "jobqueue.*.scheduler-options": {"dashboard": False, "dashboard_address": "127.0.0.1:0"},
    "kubernetes.idle-timeout": 7200,
    "kubernetes.worker-command": "dask worker --death-timeout 120",
    "kubernetes.resources": {"requests": {"memory": Filled.MEMORY}},
    "kubernetes.env": Filled.ENVIRONMENT,
}

#: Seconds before the end of a job at which its worker leaves at the latest, by how many the workers are spread to both
#: sides, and for how many each works at least: what they have goes to others while they leave.
LEAVING, SPREAD, WORTH = 240, 180, 600

#: What classes call the threads of a worker.
THREADS = ("threads_per_worker", "nthreads", "cores")


def presets_for(options: Mapping[str, Any], memory: int | None) -> dict[str, Any]:
    """Presets that the user has not set, to be in Dask's settings while a cluster starts and runs.

    Parameters
    ----------
    options : mapping
        Of the class.
    memory : int or None
        Bytes that a worker needs, if they are known.
    """
    chosen = {}
    for key, preset in expanded(PRESETS):
        if not set_by_user(key):
            walltime = options.get("walltime") or dask.config.get(f"{key.rpartition('.')[0]}.walltime", None)
            value = filled(preset, values_of(memory, walltime))
            if value is not None:
                chosen[key] = value
    return chosen


def values_of(memory: int | None, walltime: str | None) -> dict[str, Any]:
    """What `Filled` stands for."""
    variables = {as_variable(key): str(value) for key, value in WORKER_PRESETS.items()}
    variables |= {name: str(value) for name, value in WORKER_ENVIRONMENT.items()}
    return {
        Filled.MEMORY: None if memory is None else str(memory),
        Filled.LIFETIME: lifetime(walltime),
        Filled.ENVIRONMENT: variables,
        Filled.EXPORTS: [f"export {name}={value}" for name, value in variables.items()],
    }


def filled(value: Any, values: Mapping[str, Any]) -> Any:
    """A value with what is known in the place of its `Filled` words; None where one of them is not known."""
    if isinstance(value, Mapping):
        inner = {name: filled(part, values) for name, part in value.items()}
        return None if any(inner[name] is None and part is not None for name, part in value.items()) else inner
    return values[value] if isinstance(value, str) and value in values else value


def asks_for_memory(value: Any) -> bool:
    """Whether an option, or one within it, is the memory that a worker needs."""
    if isinstance(value, Mapping):
        return any(map(asks_for_memory, value.values()))
    return bool(value == Filled.MEMORY)


def threads_of(options: Mapping[str, Any]) -> int:
    """Threads of a worker, by what the options of a class call them; one where they say nothing."""
    named = next((options[name] for name in THREADS if isinstance(options.get(name), int)), 1)
    return max(1, named // processes_of(options))


def processes_of(options: Mapping[str, Any]) -> int:
    """Worker processes that share what the options of a class ask for."""
    named = options.get("processes")
    return named if isinstance(named, int) and named > 0 else 1


def expanded(presets: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Presets with a ``*`` for everything that Dask has settings of; none of packages that are not loaded."""
    for key, value in presets.items():
        package, _, rest = key.partition(".")
        known = dask.config.get(package, {})
        for kind in known if rest.startswith("*.") else [""] * bool(known):
            yield key.replace("*", kind), value


def set_by_user(key: str) -> bool:
    """Whether one of Dask's settings is not what it is by default."""
    if dask.config.get(key, None, config=dask.config.collect()) is not None:
        return True
    default = dask.config.get(key, None, config=dask.config.merge(*dask.config.defaults))
    return dask.config.get(key, None) not in (None, default)


def as_variable(key: str) -> str:
    """The variable of the environment from which Dask takes a setting."""
    return f"DASK_{key.replace('.', '__').replace('-', '_').upper()}"


def lifetime(walltime: str | None) -> list[str] | None:
    """Arguments of a worker whose job may take so long (``[D-]HH:MM:SS``), if it is worth while to leave early."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", str(walltime))
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    middle = ((days * 24 + hours) * 60 + minutes) * 60 + seconds - LEAVING - SPREAD
    if middle - SPREAD < WORTH:
        return None
    return ["--lifetime", f"{middle}s", "--lifetime-stagger", f"{SPREAD}s"]
