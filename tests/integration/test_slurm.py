"""A real Slurm of one node: the batch script, taken from its node twice, and a cluster whose workers are jobs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import yaml
import zarr

from dgmm.config import Cluster, Train, read_settings
from dgmm.engine import Workers, open_workers
from dgmm.errors import ClusterError
from dgmm.pipeline import run_train
from tests import journals, servers, slurm
from tests.servers import ROOT

why_not = slurm.missing()
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(bool(why_not), reason=f"Slurm is {why_not}"),
]

DEPLOY = ROOT / "deploy" / "slurm"
#: Hundreds of passes that gain hardly anything: there is a middle.
SLOW = {"tol": 1e-15, "max_iter": 300, "accelerate": "none", "worst_rows": 0}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """What the environment says of a node that is up."""
    with slurm.node(tmp_path_factory.mktemp("slurm")) as environment, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        for name, value in environment.items():
            patch.setenv(name, value)
        yield environment


@pytest.fixture
def slow(tmp_path: Path) -> Train:
    """A training of one cloud by six components."""
    data = str(tmp_path / "x.zarr")
    x = np.random.default_rng(0).normal(size=(20_000, 2))
    zarr.create_array(data, shape=x.shape, chunks=(5_000, 2), dtype=x.dtype)[:] = x
    return journals.train(data, tmp_path / "model.zarr", k=6, training=SLOW)


def awaited(is_so: Callable[[], bool], process: subprocess.Popen[Any] | None = None) -> None:
    """Wait until something is so; on a machine that is busy programs take a minute to start."""
    servers.awaited(is_so, process, seconds=300)


def written(settings: Train, folder: Path) -> Path:
    """A settings file."""
    file = folder / "train.yaml"
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_defaults=True)))
    return file


@pytest.fixture
def program(tmp_path: Path) -> str:
    """What is to be run as dgmm."""
    dgmm = tmp_path / "dgmm"
    dgmm.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dgmm.cli "$@"\n')
    dgmm.chmod(0o755)
    return str(dgmm)


def start_now(environment: Mapping[str, str], job: str) -> None:
    """End the two minutes for which Slurm holds a job back; a node takes none within the seconds of its last end."""
    time.sleep(3)
    slurm.asked(environment, "scontrol", "update", f"JobId={job}", "StartTime=now")


def state(environment: Mapping[str, str], job: str) -> str:
    """How a job is, with its exit code."""
    found = re.findall(r"(?:JobState|ExitCode)=(\S+)", slurm.asked(environment, "scontrol", "show", "job", job))
    return " ".join(found)


def model(settings: Train) -> dict[str, Any]:
    """What a model holds, but who made it where."""
    found = journals.bits(settings.out)
    del found["attributes"]
    return found


def test_a_batch_job_that_is_taken_from_its_node_goes_on(
    environment: Mapping[str, str], slow: Train, program: str, tmp_path: Path
) -> None:
    file, log, journal = written(slow, tmp_path), tmp_path / "job.log", f"{slow.out}.journal"
    given = ["--parsable", f"--output={log}", f"--chdir={tmp_path}", str(DEPLOY / "dgmm.sbatch"), "train", str(file)]
    said = slurm.asked(environment | {"DGMM": program}, "sbatch", *given)
    job = said.strip()
    assert job.isdigit(), said

    def recorded(more_than: int) -> int:
        awaited(lambda: os.path.isdir(journal) and journals.n_records(journal) > more_than)
        return journals.n_records(journal)

    def waits_for_another_turn() -> bool:
        return state(environment, job).startswith("PENDING")

    # the end of its time, of which the script alone is told; then a pre-emption, of which everybody is
    recorded(4)
    slurm.asked(environment, "scancel", "--batch", "--signal=USR1", job)
    awaited(waits_for_another_turn)
    done = journals.n_records(journal)
    start_now(environment, job)
    done = recorded(done + 4)
    slurm.asked(environment, "scontrol", "requeue", job)
    awaited(waits_for_another_turn)
    between = journals.n_records(journal)
    start_now(environment, job)
    awaited(lambda: not re.match("PENDING|RUNNING|COMPLETING", state(environment, job)))

    words = log.read_text()
    assert state(environment, job) == "COMPLETED 0:0", words
    assert [f"start {n} of job {job}" in words for n in (1, 2, 3, 4)] == [True, True, True, False]
    assert words.count("dgmm: terminated: nothing half-written is left") == 2
    assert f"going on after {between} passes" in words
    assert between >= done
    assert not os.path.exists(journal)
    found = model(slow)
    undisturbed = slow.model_copy(update={"out": str(tmp_path / "undisturbed.zarr")})
    run_train(undisturbed)
    assert found == model(undisturbed)


def test_a_job_that_starts_again_once_all_is_written_has_nothing_to_do(program: str, tmp_path: Path) -> None:
    """As where a node is lost before Slurm knew that the job had ended."""
    settings = journals.train(journals.write_data(tmp_path), tmp_path / "model.zarr", training={"max_iter": 2})
    run_train(settings)
    again = os.environ | {"DGMM": program, "PYTHONPATH": str(ROOT), "SLURM_RESTART_COUNT": "1"}
    command = ["bash", str(DEPLOY / "dgmm.sbatch"), "train", str(written(settings, tmp_path))]
    done = subprocess.run(command, env=again, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{settings.out} is finished and sound" in done.stdout


@pytest.mark.parametrize(
    ("command", "settings", "options", "runs"),
    [
        ("score", "out: x.zarr", [], False),
        ("score", "out: x.zarr\nextend: true", [], True),
        ("score", "out: x.zarr", ["--extend"], True),
        ("score", "out: x.zarr\nappend: true", [], True),
        ("score", "out: x.zarr", ["--append"], True),
        ("train", "out: x.zarr", [], False),
        ("train", "out: x.zarr\noverwrite: true", [], True),
        ("train", "out: x.zarr", ["--overwrite"], True),
        ("train", "out: x.zarr", ["--out", "y.zarr"], True),
        ("refresh", "out: x.zarr", [], True),
    ],
)
def test_a_job_that_brings_scores_up_to_date_does_so_when_it_starts_again(
    tmp_path: Path, command: str, settings: str, options: list[str], runs: bool
) -> None:
    """Those of the night before are finished and sound, too; here whatever dgmm is asked succeeds."""
    (tmp_path / "settings.yaml").write_text(settings + "\n")
    again = os.environ | {"DGMM": "echo", "SLURM_RESTART_COUNT": "1"}
    line = ["bash", str(DEPLOY / "dgmm.sbatch"), command, "settings.yaml", *options]
    done = subprocess.run(line, env=again, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (f"\n{command} settings.yaml" in done.stdout) is runs
    assert ("x.zarr is finished and sound" in done.stdout) is not runs


def cluster_settings(folder: Path) -> dict[str, Any]:
    """Those that are shipped, on the only node there is."""
    found: dict[str, Any] = read_settings(DEPLOY / "cluster.yaml")["cluster"]
    # two tasks of Slurm's on two cores, and where nobody else looks
    options = {"cores": 1, "log_directory": str(folder), "local_directory": str(folder), "python": sys.executable}
    options |= {
        "scheduler_options": {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"},
        "worker_extra_args": ["--host=127.0.0.1"],
    }
    return found | {"max_workers": 2, "scheduler_options": found["scheduler_options"] | options}


def test_a_training_whose_workers_are_jobs_comes_to_the_same_bits(
    environment: Mapping[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = journals.write_data(tmp_path)
    caplog.set_level("INFO", logger="dgmm")
    cluster = cluster_settings(tmp_path)
    settings = [
        journals.train(data, tmp_path / f"{name}.zarr", cluster=given)
        for name, given in (("jobs", cluster), ("threads", {"scheduler": "threads"}))
    ]
    for one in settings:
        run_train(one)
    assert model(settings[0]) == model(settings[1])
    assert "a worker of 1 thread(s) needs" in caplog.text
    assert "could not be closed" not in caplog.text
    assert slurm.asked(environment, "squeue", "-h", "-t", "pending,running") == ""


@pytest.mark.parametrize("size", [{"n_workers": 1}, {"min_workers": 1, "max_workers": 2}])
def test_what_slurm_refuses_is_told_at_once_and_once(
    size: dict[str, int], environment: Mapping[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = cluster_settings(tmp_path)
    options = given["scheduler_options"] | {"memory": "300MB", "queue": "nowhere"}
    with pytest.raises(ClusterError, match=r"does not get its first 1 workers: .*invalid partition specified: nowhere"):
        open_workers(given["scheduler"], scheduler_options=options, **size).__enter__()
    assert "Traceback" not in caplog.text
    assert "could not be closed" not in caplog.text


def test_a_job_that_is_gone_is_replaced(
    environment: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Dask itself asks nobody for another."""
    monkeypatch.setattr("dgmm.engine.upkeep.UPKEEP", 1.0)
    given = cluster_settings(tmp_path)
    options = given.pop("scheduler_options") | {"memory": "400MB"}
    given |= {"min_workers": None, "max_workers": None, "n_workers": 1}
    del options["worker_extra_args"]
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"}):
        with open_workers(given.pop("scheduler"), scheduler_options=options, **given) as workers:
            assert isinstance(workers, Workers)
            assert workers.client is not None
            before = workers.places()
            # the settings of this process are those of the job, too
            assert set(workers.client.run(seen).values()) == {("2", False, True)}
            (job,) = slurm.asked(environment, "squeue", "-h", "-o", "%i").split()
            slurm.asked(environment, "scancel", job)
            awaited(lambda: bool(places := set(workers_addresses(workers))) and not places & before)
            assert workers.map(abs, [(-1,), (-2,)]) == [1, 2]
        left = slurm.asked(environment, "squeue", "-h", "-t", "pending,running")
    assert left == ""
    assert "could not be closed" not in caplog.text


def seen(dask_worker: Any) -> tuple[str | None, Any, bool]:
    """What a worker has in its environment, has been told of spilling, and whether it leaves before its time."""
    spills = dask.config.get("distributed.worker.memory.spill")
    return os.environ.get("MALLOC_ARENA_MAX"), spills, bool(dask_worker.lifetime)


def workers_addresses(workers: Workers) -> list[str]:
    """Where the workers are now."""
    assert workers.client is not None
    return list(workers.client.scheduler_info(n_workers=-1)["workers"])


def test_jobs_end_by_themselves_when_nobody_is_left_to_end_them(
    environment: Mapping[str, str], slow: Train, tmp_path: Path
) -> None:
    """The driver is killed: its scheduler is gone with it."""
    cluster = cluster_settings(tmp_path)
    cluster["scheduler_options"]["death_timeout"] = 3
    settings = slow.model_copy(update={"cluster": Cluster(**cluster)})
    file = written(settings, tmp_path)
    with open(tmp_path / "driver.log", "w") as log:
        command = [sys.executable, "-m", "dgmm.cli", "train", str(file)]
        driver = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environment)
        try:
            journal = f"{settings.out}.journal"
            awaited(lambda: os.path.isdir(journal) and journals.n_records(journal) > 2, driver)
        finally:
            driver.kill()
            driver.wait()
    awaited(lambda: slurm.asked(environment, "squeue", "-h") == "")
