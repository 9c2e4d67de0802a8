"""What is deployed, as files: deployments take their settings from config/, automations are what a server takes."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from dgmm.errors import InputError
from tests.servers import ROOT

pytestmark = pytest.mark.prefect

AUTOMATIONS = sorted((ROOT / "deploy" / "automations").glob("*.yaml"))
CONFIG = ROOT / "config" / "nightly"


def deployments() -> dict[str, dict[str, Any]]:
    content = yaml.safe_load((ROOT / "deploy" / "prefect.yaml").read_text())
    assert content["pull"] == []
    return {f"{each['entrypoint']}/{each['name']}": each for each in content["deployments"]}


@pytest.mark.parametrize("name", deployments())
def test_every_deployment_takes_its_settings_from_a_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.deployment import settings

    monkeypatch.chdir(ROOT)
    given = deployments()[name]
    (step,) = given["build"]
    (function, inputs) = next(iter(step.items()))
    assert function == "flows.deployment.settings"
    assert given["parameters"] == {"settings": "{{ job.settings }}"}
    assert given["entrypoint"] == f"flows.{inputs['flow']}:{inputs['flow']}"
    found = settings(inputs["flow"], inputs["file"])
    assert found["settings"]["data"]["path"].startswith("/data/")
    assert given["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    # its name says when and where
    where = given["work_pool"]["name"].removeprefix("dgmm-")
    assert given["name"].endswith(f"-{where}")
    for schedule in given.get("schedules", ()):
        minute, hour, *_ = schedule["cron"].split()
        assert f"-{int(hour):02}{int(minute):02}-utc-" in given["name"]
        assert schedule["timezone"] == "UTC"


def test_every_file_of_settings_is_deployed() -> None:
    used = {next(iter(each["build"][0].values()))["file"] for each in deployments().values()}
    assert used == {str(path.relative_to(ROOT)) for path in CONFIG.glob("*.yaml")}


def test_runs_end_before_the_next_one_is_due() -> None:
    for each in deployments().values():
        seconds = float(each["work_pool"]["job_variables"]["env"]["DGMM_FLOW_SECONDS"])
        assert 3600 <= seconds < 24 * 3600


def test_paths_are_put_below_another_root(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.deployment import settings

    monkeypatch.setenv("DGMM_ROOT", "/srv/x/")
    found = settings("score", str(CONFIG / "score.yaml"))
    assert found["settings"]["model"] == "/srv/x/train/model.zarr"
    assert found["model"] == "file:///srv/x/train/model.zarr"
    assert found["settings"]["data"]["path"] == "/srv/x/input.zarr"
    assert found["settings"]["cluster"] == {"scheduler": "processes"}
    assert settings("train", str(CONFIG / "train.yaml"))["model"] == ""


@pytest.mark.parametrize(
    ("flow", "text", "said"),
    [
        ("train", "n_components: 2\nout: x\n", "data"),
        ("train", "n_components: 0\nout: x\ndata: {path: y}\n", "n_components"),
        ("trains", "out: x\n", "no flow 'trains'"),
        ("read_settings", "out: x\n", "no flow"),
    ],
)
def test_settings_that_are_wrong_are_not_deployed(flow: str, text: str, said: str, tmp_path: Path) -> None:
    from flows.deployment import settings

    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(InputError, match=said):
        settings(flow, str(tmp_path / "s.yaml"))


def test_automations_have_the_names_of_their_files() -> None:
    from flows.automations import automations_in

    names = {}
    for path in AUTOMATIONS:
        found = automations_in(str(path))
        assert found[0].name == path.stem
        names |= {each.name: each for each in found}
        assert all(each.enabled and each.description for each in found)
    assert names.keys() == {
        "dgmm-drift", "dgmm-failed", "dgmm-late", "dgmm-no-heartbeat", "dgmm-no-pass", "dgmm-stale"
    }  # fmt: skip


def test_automations_listen_for_what_flows_say() -> None:
    from flows.artifacts import DRIFT
    from flows.automations import automations_in
    from flows.watch import PASS, PHASE

    waited_for = {
        path.stem: automations_in(str(path))[0].trigger.expect | automations_in(str(path))[0].trigger.after
        for path in AUTOMATIONS
    }
    assert {PASS, PHASE} <= waited_for["dgmm-no-pass"]
    assert DRIFT in waited_for["dgmm-drift"]
    assert "prefect.flow-run.heartbeat" in waited_for["dgmm-no-heartbeat"]
    # three heartbeats
    (silent,) = automations_in(str(ROOT / "deploy" / "automations" / "dgmm-no-heartbeat.yaml"))
    beat = {float(d["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) for d in
            deployments().values()}  # fmt: skip
    assert beat == {30.0}
    assert 3 * 30 <= silent.trigger.within.total_seconds() <= 4 * 30


def test_whoever_is_to_be_told_is_told() -> None:
    from uuid import uuid4

    from flows.automations import automations_in, telling

    block = uuid4()
    for path in AUTOMATIONS:
        for before in automations_in(str(path)):
            after = telling(before, block)
            assert after.actions[-1].block_document_id == block
            assert "do-nothing" not in {action.type for action in after.actions}
            did = [action for action in before.actions if action.type != "do-nothing"]
            assert after.actions[:-1] == did


@pytest.mark.parametrize("text", ["name: x\n", "- 1\n", "a: [\n"])
def test_what_is_no_automation_is_refused(text: str, tmp_path: Path) -> None:
    from flows.automations import automations_in

    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match="holds no automation"):
        automations_in(str(tmp_path / "a.yaml"))


def test_every_entrypoint_is_a_flow() -> None:
    for each in deployments().values():
        module, name = each["entrypoint"].split(":")
        flow = getattr(import_module(module), name)
        assert re.fullmatch(rf"dgmm-{name}", flow.name)


@pytest.mark.parametrize("name", deployments())
def test_the_server_takes_what_is_deployed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the schema that it holds runs against."""
    from prefect.utilities.schema_tools import ValidationError, validate

    from flows.deployment import settings

    monkeypatch.chdir(ROOT)
    module, flow = deployments()[name]["entrypoint"].split(":")
    schema = getattr(import_module(module), flow).parameters.model_dump()
    found = settings(flow, str(CONFIG / f"{flow}.yaml"))["settings"]
    validate({"settings": found}, schema, raise_on_error=True, preprocess=False)
    if flow == "select":
        validate({"settings": found | {"n_components": "1:"}}, schema, raise_on_error=True, preprocess=False)
    with pytest.raises(ValidationError, match="'x' is not"):
        validate({"settings": found | {"data": "x"}}, schema, raise_on_error=True, preprocess=False)
