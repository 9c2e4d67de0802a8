"""The flows as they run every night: the repository's own deployments, a worker that runs them, and what goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import dgmm
from dgmm.config import Pipeline, Train, read_settings
from dgmm.fits import validated
from dgmm.pipeline import run_train
from dgmm.registry import Registry
from dgmm.store import attributes, digest
from tests import journals, nights, programs
from tests.programs import MARK, Programs, RefusedError, marked, wait
from tests.servers import ROOT

pytestmark = pytest.mark.integration

TRAIN = "dgmm-train/weekly-sunday-0100-utc-process"
SCORE = "dgmm-score/after-train-process"
SELECT = "dgmm-select/monthly-first-0400-utc-process"
PIPELINE = "dgmm-pipeline/by-hand-process"
REFRESH = "dgmm-refresh/nightly-0230-utc-process"
#: The event that says that something was made.
MADE = "prefect.asset.materialization.succeeded"
#: Rows of a night.
NIGHT = 60_000
#: Many passes, since nothing is there to be found and every step is a plain one.
SLOW: dict[str, Any] = {
    "search": "starts",
    "n_init": 1,
    "sample_rows": 2000,
    "start_rows": 500,
    "accelerate": "none",
    "max_iter": 80,
}
QUICK: dict[str, Any] = {"search": "starts", "n_init": 1, "sample_rows": 1000, "start_rows": 400, "max_iter": 10}


def write_rows(path: Path, n: int, seed: int = 0) -> None:
    """Rows of three groups in chunks of 500."""
    r = np.random.default_rng(seed)
    x = r.standard_normal((n, 2)) + r.choice([[0.0, 0.0], [6.0, 0.0], [0.0, 7.0]], n)
    zarr.create_array(str(path), shape=x.shape, chunks=(500, 2), dtype="f8")[:] = x


def deployed(folder: Path, address: str, at: datetime) -> Path:
    """A copy of what the repository deploys, for small data on a cluster, whose monthly run comes at a time."""
    config = folder / "nightly"
    config.mkdir()
    for file in sorted((ROOT / "config" / "nightly").glob("*.yaml")):
        settings = read_settings(file)
        settings["cluster"] = {"scheduler": address}
        if file.stem == "refresh":
            settings["data"] = {"path": "/data/growing.zarr", "variables": ["t", "s"]}
            settings |= {"n_components": [2, 3], "covariance_type": ["full"]}
            settings["training"] = {"holdout": 0.2, "search": "quick"}
        elif "n_components" in settings:
            settings["training"] = QUICK
            settings["n_components"] = 3 if file.stem == "train" else [2, 3]
        (config / file.name).write_text(json.dumps(settings))
    text = (ROOT / "deploy" / "prefect.yaml").read_text()
    monthly = 'cron: "0 4 1 * *", timezone: UTC, active: false'
    assert text.count(monthly) == 1
    text = text.replace(monthly, f'cron: "{at.minute} {at.hour} * * *", timezone: UTC, active: true')
    text = text.replace("config/nightly/", f"{config}/")
    (folder / "prefect.yaml").write_text(text)
    return folder / "prefect.yaml"


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Programs, str]]:
    """Everything that runs at night, with all deployments; and the address of the cluster."""
    folder = tmp_path_factory.mktemp("nightly")
    root = folder / "data"
    root.mkdir()
    write_rows(root / "input.zarr", 3000)
    trusted = programs.certificates(folder)
    with programs.prefect_server(folder / "prefect") as there:
        there = Programs(folder, there.api, there.environment | trusted)
        with programs.dask_cluster(folder, there.environment) as address:
            there.prefect("work-pool", "create", "--type", "process", "dgmm-process")
            for kind in ("docker", "kubernetes"):
                there.ask("work_pools/", {"name": f"dgmm-{kind}", "type": kind})
            at = datetime.now(UTC) + timedelta(seconds=100)
            file = deployed(folder, address, at)
            there.prefect("deploy", "--all", "--prefect-file", str(file), DGMM_ROOT=str(root))
            with programs.prefect_worker(there, "dgmm-process"):
                there.run([sys.executable, "-m", "flows.automations", *map(str, automations(folder))])
                yield there, address


def automations(folder: Path) -> list[Path]:
    """Copies of the repository's automations; of those that wait, with a shorter wait, for what is to hang."""
    found = []
    for path in sorted((ROOT / "deploy" / "automations").glob("*.yaml")):
        text = path.read_text()
        if path.stem == "dgmm-no-pass":
            every = 'match: {prefect.resource.id: "prefect.flow-run.*"}'
            assert text.count("within: 3600") == text.count(every) == 1
            text = text.replace("within: 3600", "within: 45").replace(every, "match: {prefect.resource.name: hung}")
        if path.stem == "dgmm-late":
            assert text.count("within: 93600") == 1
            text = text.replace("within: 93600", "within: 15")
        (folder / path.name).write_text(text)
        found.append(folder / path.name)
    return found


@pytest.fixture(scope="module")
def doomed(night: tuple[Programs, str]) -> Iterator[dict[str, str]]:
    """Runs that no worker looks after, by what becomes of them at their third pass."""
    there, address = night
    data = journals.write_data(there.folder)
    ends = {"dead": "os.kill(os.getpid(), signal.SIGKILL)", "hung": "time.sleep(3600)"}
    with ExitStack() as running:
        for name, what in ends.items():
            job = journals.train(data, there.folder / name, cluster={"scheduler": address})
            (there.folder / f"{name}.yaml").write_text(job.model_dump_json(exclude_defaults=True))
            code = (
                "import os, signal, sys, time; from tests import journals; from flows.common import main; "
                "from flows.train import train; from dgmm.config import Train\n"
                f"sys.argv = ['flows.train', {str(there.folder / f'{name}.yaml')!r}]\n"
                f"with journals.at_record(3, lambda: {what}):\n"
                f"    main(train.with_options(flow_run_name={name!r}), Train)"
            )
            environment = there.environment | {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
            command = [sys.executable, "-c", code]
            running.enter_context(programs.process(command, environment, there.folder / f"{name}.log"))
        for name in ends:
            wait(lambda name=name: journals.n_records(there.folder / f"{name}.journal") >= 3, f"{name}'s third pass")
        runs = there.ask("flow_runs/filter", {"flow_runs": {"name": {"any_": list(ends)}}})
        yield {run["name"]: run["id"] for run in runs}


@pytest.fixture
def there(night: tuple[Programs, str]) -> Programs:
    return night[0]


@pytest.fixture
def slow(night: tuple[Programs, str], tmp_path: Path) -> dict[str, Any]:
    """Settings of a training that takes a while, on the cluster."""
    there, address = night
    data = there.folder / "slow.zarr"
    if not data.exists():
        x = np.random.default_rng(0).random((20_000, 3))
        zarr.create_array(str(data), shape=x.shape, chunks=(2500, 3), dtype="f8")[:] = x
    return {
        "data": {"path": str(data)},
        "out": str(tmp_path / "model.zarr"),
        "n_components": 6,
        "cluster": {"scheduler": address},
        "training": SLOW,
        "overwrite": True,
    }


def n_records(settings: dict[str, Any]) -> int:
    """Passes in the journal of a training."""
    return journals.n_records(settings["out"] + ".journal")


def test_all_is_deployed_with_its_settings(there: Programs, doomed: dict[str, str]) -> None:
    assert doomed.keys() == {"dead", "hung"}, "what happens to them takes a while"
    deployed = {TRAIN: "Train", SCORE: "Score", SELECT: "Select", PIPELINE: "Pipeline", REFRESH: "Refresh"}
    for name, model in deployed.items():
        found = there.deployment(name)
        assert found["concurrency_options"]["collision_strategy"] == "CANCEL_NEW", name
        assert found["global_concurrency_limit"]["limit"] == 1
        assert not found["pull_steps"], "the flows are those of the installed package"
        assert found["path"] in (None, "."), "no folder of whoever has deployed it"
        assert found["parameters"]["settings"]["data"]["path"].startswith(str(there.folder / "data"))
        schema = found["parameter_openapi_schema"]
        assert schema["definitions"][model]["properties"]["out"]["description"]
        if model != "Score":
            assert schema["definitions"]["Training"]["properties"]["max_iter"]["minimum"] == 1, "the form shows bounds"
    assert there.deployment(TRAIN)["schedules"][0]["schedule"]["cron"] == "0 1 * * 0"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n_components": 0}, "n_components"),
        ({"n_componets": 3}, "n_componets"),
        ({"training": {"max_iter": -1}}, "max_iter"),
        ({"data": {}}, "path"),
    ],
)
def test_bad_settings_are_refused_by_the_server(wrong: dict[str, Any], said: str, there: Programs) -> None:
    deployment = there.deployment(TRAIN)
    settings = {**deployment["parameters"]["settings"], **wrong}
    with pytest.raises(RefusedError, match=f"^409: .*{said}"):
        there.ask(f"deployments/{deployment['id']}/create_flow_run", {"parameters": {"settings": settings}})


def test_a_run_that_is_killed_goes_on_when_it_is_tried_again(there: Programs, slow: dict[str, Any]) -> None:
    """From the journal, although it was to replace what is there, and to the same bits."""
    run = there.begin(TRAIN, slow)
    process = there.process(run)
    wait(lambda: n_records(slow) >= 4, "four passes")
    process.kill()
    assert there.ended(run)["type"] == "CRASHED"
    kept = n_records(slow)
    assert kept >= 4
    # the worker says so twice, and ends whatever runs under this name when it does
    gone = "prefect.flow_runs.worker - Check whether the flow run exceeded"
    wait(lambda: gone in (there.folder / "worker.log").read_text(), "the worker to be through with it")
    there.prefect("flow-run", "retry", run)
    wait(lambda: there.state(run)["type"] == "COMPLETED", "the second try")
    wait(lambda: f"going on after {kept} passes" in there.said(run), "its log")

    undisturbed = slow | {"out": slow["out"] + "-undisturbed", "cluster": {"scheduler": "threads"}}
    run_train(validated(Train, undisturbed))
    assert journals.bits(slow["out"]) == journals.bits(undisturbed["out"])
    shown = there.artifacts(run)
    assert shown["dgmm-train-progress"] == 100
    assert "log-likelihood" in shown["dgmm-train"]
    ours = f"prefect.flow-run.{run}"
    wait(lambda: ours in {event["resource"]["prefect.resource.id"] for event in there.events("dgmm.pass")}, "passes")


def test_a_run_that_is_cancelled_leaves_its_journal_and_no_process(there: Programs, slow: dict[str, Any]) -> None:
    """Nor do two runs come near one output: not of one deployment, nor of whoever else."""
    own = slow | {"cluster": {"scheduler": "processes", "n_workers": 2}, "n_components": 12}
    own |= {"training": SLOW | {"max_iter": 100_000}}
    mark = Path(slow["out"]).parent.name
    run = there.begin(TRAIN, own, **{MARK: mark})
    wait(lambda: n_records(slow) >= 2, "two passes")
    assert len(marked(mark)) >= 3, "the flow, and two workers"

    second = there.begin(TRAIN, own)
    assert there.ended(second)["type"] == "CANCELLED"
    command = [sys.executable, "-m", "dgmm.cli", "train", slow["data"]["path"], "--k", "2", "--out", slow["out"]]
    other = subprocess.run(command, capture_output=True, text=True, check=False, env=there.environment)
    assert other.returncode == 2, other.stderr
    assert "is being written by run" in other.stderr

    there.prefect("flow-run", "cancel", run)
    assert there.ended(run)["type"] == "CANCELLED"
    wait(lambda: not marked(mark), "all processes to end")
    assert n_records(slow) >= 2
    assert not Path(slow["out"]).exists()
    assert not Path(slow["out"] + ".partial").exists()


def test_a_finished_night_is_done(there: Programs) -> None:
    """The same again reads nothing, and makes nothing that others wait for."""
    settings = there.deployment(PIPELINE)["parameters"]["settings"]
    first = there.begin(PIPELINE, settings)
    assert there.ended(first)["type"] == "COMPLETED", there.said(first)
    out = Path(settings["out"])
    shown = there.artifacts(first)
    assert {
        "dgmm-candidates",
        "dgmm-pipeline",
        "dgmm-report",
        "dgmm-verification",
        "dgmm-score-progress",
    } <= shown.keys()
    assert "sound" in shown["dgmm-verification"]
    assert (out / "report.html").as_uri() in shown["dgmm-report"]
    its, scores = there.asset(out / "model.zarr", first), there.asset(out / "scores.zarr", first)
    assert its["digest"] == digest(dgmm.load(out / "model.zarr").mixture)
    assert (scores["rows"], scores["missing"], scores["model_digest"]) == (3000, 0, its["digest"])
    assert sum(scores["shares"]) == pytest.approx(1)

    n_made = len(there.events(MADE))
    before = {path: path.stat().st_mtime_ns for path in (out / "model.zarr").rglob("*")}
    again = there.begin(PIPELINE, settings)
    assert there.ended(again)["type"] == "COMPLETED", there.said(again)
    assert {path: path.stat().st_mtime_ns for path in (out / "model.zarr").rglob("*")} == before
    wait(lambda: "kept" in there.said(again), "its log")
    assert "pass 1:" not in there.said(again)
    assert len(there.events(MADE)) == n_made
    assert validated(Pipeline, settings).out == str(out)


def test_what_is_to_come_by_the_clock_comes(there: Programs) -> None:
    wait(lambda: [r for r in there.runs(SELECT) if r["state"]["type"] in programs.ENDED], "a run by the clock")
    (run,) = there.runs(SELECT)
    assert run["auto_scheduled"]
    assert run["state"]["type"] == "COMPLETED", there.said(run["id"])
    out = Path(there.deployment(SELECT)["parameters"]["settings"]["out"])
    assert dgmm.load(out / "model.zarr").n_components == 3
    assert "dgmm-candidates" in there.artifacts(run["id"])


def test_a_new_model_sets_off_the_scoring(there: Programs) -> None:
    run = there.begin(TRAIN, there.deployment(TRAIN)["parameters"]["settings"])
    assert there.ended(run)["type"] == "COMPLETED", there.said(run)
    root = there.folder / "data" / "train"
    wait(lambda: [r for r in there.runs(SCORE) if r["state"]["type"] in programs.ENDED], "scoring")
    (scoring,) = there.runs(SCORE)
    assert scoring["state"]["type"] == "COMPLETED", there.said(scoring["id"])
    assert attributes(str(root / "scores.zarr"))["model"] == digest(dgmm.load(root / "model.zarr").mixture)


def nightly(there: Programs, **settings: Any) -> str:
    """Have the nightly deployment run to its end; the run's id."""
    run = there.begin(REFRESH, there.deployment(REFRESH)["parameters"]["settings"] | settings)
    assert there.ended(run)["type"] == "COMPLETED", there.said(run)
    return run


def append(path: str, number: int, means: np.ndarray = nights.MEANS) -> None:
    """The data of a night, of more rows than a segment has at least."""
    more = nights.night(number, means, NIGHT)
    nights.append(Path(path), more.assign_coords(time=np.arange(NIGHT) + number * NIGHT))


def test_three_nights_in_a_row(there: Programs) -> None:
    """What is new is scored, a night that is done stays, drift is told, its candidate refused; and the way back."""
    settings = there.deployment(REFRESH)["parameters"]["settings"]
    data, registry, out = settings["data"]["path"], Registry(settings["registry"]), settings["out"]

    append(data, 0)
    run = nightly(there)
    first = registry.aliases()["champion"]
    assert dgmm.load(f"{registry.folder}@champion").n_components == 3
    assert there.asset(registry.folder, run)["version"] == first
    scored = there.asset(out, run)
    assert (scored["rows"], scored["drifted"]) == (NIGHT, None)
    assert {"dgmm-refresh", "dgmm-verification", "dgmm-fit-progress", "dgmm-score-progress"} <= there.artifacts(
        run
    ).keys()

    # a second run of a finished night does nothing
    n_made = len(there.events(MADE))
    before = {path: path.stat().st_mtime_ns for path in Path(out).parent.rglob("*")}
    run = nightly(there)
    assert {path: path.stat().st_mtime_ns for path in Path(out).parent.rglob("*")} == before
    assert len(there.events(MADE)) == n_made
    wait(lambda: "nothing to do" in there.said(run), "its log")

    append(data, 1)
    run = nightly(there)
    assert registry.aliases()["champion"] == first
    assert "no figure has moved" in there.artifacts(run)["dgmm-drift"]
    assert not there.events("dgmm.drift")
    wait(lambda: "regions are as they were: the others are scored" in there.said(run), "its log")

    # one class has gone somewhere else
    append(data, 2, nights.MEANS + np.array([[0.0, 0.0], [0.0, 0.0], [14.0, 14.0]]))
    run = nightly(there)
    assert registry.aliases()["champion"] == first
    candidate = registry.aliases()["candidate"]
    judgement = registry.card(candidate).judgement
    assert candidate != first
    assert judgement is not None
    assert not judgement.accepted
    assert "refused" in there.artifacts(run)["dgmm-refresh"]
    wait(lambda: there.events("dgmm.drift"), "drift to be told")
    (event,) = there.events("dgmm.drift")
    assert event["resource"]["prefect.resource.id"] == f"prefect.flow-run.{run}"
    assert any(words.startswith("unlikely: ") for words in event["payload"]["found"])
    assert there.asset(out, run)["drifted"] is True
    wait(lambda: "dgmm-drift" in there.triggered(), "the automation to notice")

    dgmm_cli = [sys.executable, "-m", "dgmm.cli"]
    there.run([*dgmm_cli, "models", "promote", f"{registry.folder}@candidate"])
    assert registry.aliases()["champion"] == candidate
    there.run([*dgmm_cli, "models", "rollback", registry.folder])
    assert registry.aliases()["champion"] == first
    assert "sound" in there.run([*dgmm_cli, "verify", out, "--data"])
    assert attributes(out)["model"] == digest(dgmm.load(f"{registry.folder}@champion").mixture)


def test_runs_that_are_dead_or_hang_are_noticed(there: Programs, doomed: dict[str, str]) -> None:
    """One that was killed where no worker saw it, and one that lives and does nothing."""
    wait(lambda: there.state(doomed["dead"])["type"] == "CRASHED", "no heartbeat to be noticed")
    wait(lambda: there.state(doomed["hung"])["type"] in ("CANCELLING", "CANCELLED"), "no pass to be noticed")
    assert {"dgmm-no-heartbeat", "dgmm-no-pass"} <= there.triggered()
    assert "No sign of life" in there.state(doomed["dead"])["message"]


def test_what_fails_comes_late_or_does_not_come_is_noticed(there: Programs, tmp_path: Path) -> None:
    """Nobody works for a pool of containers here, and no night comes after those that were."""
    docker = there.deployment(REFRESH.replace("-process", "-docker"))
    late = there.begin(REFRESH.replace("-process", "-docker"), docker["parameters"]["settings"])
    settings = there.deployment(TRAIN)["parameters"]["settings"]
    failed = there.begin(TRAIN, settings | {"data": {"path": str(tmp_path / "nothing.zarr")}})
    assert there.ended(failed)["type"] == "FAILED"
    assert "nothing.zarr" in there.state(failed)["message"]
    wait(lambda: {"dgmm-failed", "dgmm-late", "dgmm-stale"} <= there.triggered(), "all to be noticed")
    assert there.state(late)["name"] == "Late"
