"""The composition: valid, whole, closed to the outside, and of one mind with the image."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.shelf import DEPLOY, IMAGE, ROOT, accepted, make_secrets, tool

COMPOSE = DEPLOY / "compose.yaml"
CONTENT: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
SERVICES: dict[str, dict[str, Any]] = CONTENT["services"]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
#: The parts that run for as long as they are let.
LASTING = {name: service for name, service in SERVICES.items() if service["restart"] == "unless-stopped"}


def test_is_valid(tmp_path: Path) -> None:
    check = ("--builtin-schema", "vendor.compose-spec")
    accepted("check-jsonschema", *check, COMPOSE)
    (tmp_path / "compose.yaml").write_text(COMPOSE.read_text().replace("restart:", "restarts:", 1))
    assert tool("check-jsonschema", *check, tmp_path / "compose.yaml").returncode == 1


def test_has_all_parts() -> None:
    assert set(LASTING) == {"postgres", "store", "server", "scheduler", "worker", "prefect-worker"}
    assert set(SERVICES) - set(LASTING) == {"bucket"}


@pytest.mark.parametrize("name", SERVICES)
def test_uses_what_is_there(name: str) -> None:
    service = SERVICES[name]
    assert set(service.get("secrets", [])) <= set(CONTENT["secrets"])
    assert set(service["networks"]) <= set(CONTENT["networks"])
    assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= set(CONTENT["volumes"])
    assert set(service.get("depends_on", {})) <= set(SERVICES)
    for value in service.get("environment", {}).values():
        for secret in re.findall(r"/run/secrets/([\w-]+)", str(value)):
            assert secret in service["secrets"], f"{name} is told of {secret} and not given it"
        # a host that an address names is a service in one of its networks
        for host in re.findall(r"://([a-z][\w-]*):\d+", str(value)):
            assert set(SERVICES[host]["networks"]) & set(service["networks"]), f"{name} cannot reach {host}"


def test_every_secret_is_used_and_made(tmp_path: Path) -> None:
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert used == set(CONTENT["secrets"])
    assert make_secrets(tmp_path / "secrets").returncode == 0
    made = {path.name for path in (tmp_path / "secrets").iterdir()}
    for secret in CONTENT["secrets"].values():
        assert secret["file"].startswith("${DGMM_SECRETS:-./secrets}/")
        assert secret["file"].rpartition("/")[2] in made


@pytest.mark.parametrize("name", SERVICES)
def test_secrets_come_in_files(name: str) -> None:
    ours = SERVICES[name]["image"].startswith("dgmm:")
    taken = (IMAGE / "entrypoint").read_text()
    for variable in SERVICES[name].get("environment", {}):
        if re.search(r"PASSWORD|AUTH_STRING|ACCESS_KEY|ROOT_USER", variable):
            assert variable.endswith("_FILE"), variable
            assert not ours or variable.removesuffix("_FILE") in taken, f"entrypoint knows no {variable}"


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_is_bound_beyond_loopback(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("${DGMM_BIND:-127.0.0.1}:")
    assert "database" not in SERVICES[name]["networks"] or not name.startswith(("store", "worker"))
    assert CONTENT["networks"]["database"] == {"internal": True}


@pytest.mark.parametrize("name", SERVICES)
def test_is_bounded_and_comes_back(name: str) -> None:
    service = SERVICES[name]
    assert service["mem_limit"]
    assert service["logging"]["options"]["max-size"]
    # ours say themselves how they are (HEALTHCHECK of the image)
    assert name == "bucket" or service["image"].startswith("dgmm:") or service["healthcheck"]["test"]


def test_ours_are_one_image_and_confined() -> None:
    ours = {name: service for name, service in SERVICES.items() if service["image"].startswith("dgmm")}
    assert len(ours) == 4
    parts = set(re.findall(r"^([a-z-]+)\)$", (IMAGE / "entrypoint").read_text(), re.MULTILINE))
    for service in ours.values():
        assert service["image"] == f"dgmm:{VERSION}"
        assert service["command"][0] in parts
        assert service["read_only"]
        assert service["init"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert SERVICES["server"]["build"]["dockerfile"] == "deploy/image/Dockerfile"
    assert f'org.opencontainers.image.version="{VERSION}"' in (IMAGE / "Dockerfile").read_text()


def test_images_have_a_version() -> None:
    for service in SERVICES.values():
        tag = service["image"].partition(":")[2]
        assert re.search(r"\d", tag), service["image"]
        assert "@" not in service["image"]


def test_workers_know_less_memory_than_they_have() -> None:
    from dask.utils import parse_bytes

    worker = SERVICES["worker"]
    limit, told = (
        parse_bytes(worker["mem_limit"].replace("g", "GiB")),
        parse_bytes(worker["environment"]["DGMM_MEMORY"]),
    )
    assert 0.8 <= told / limit <= 0.9


def test_cluster_speaks_tls_only() -> None:
    for name in ("scheduler", "worker", "prefect-worker"):
        environment = SERVICES[name]["environment"]
        assert environment["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] == "true"
    assert SERVICES["worker"]["environment"]["DASK_SCHEDULER_ADDRESS"].startswith("tls://scheduler:")


def test_variables_are_those_that_prefect_knows() -> None:
    from prefect.settings import Settings

    known = {name.upper() for name in _names(Settings)}
    for service in SERVICES.values():
        for variable in service.get("environment", {}):
            if variable.startswith("PREFECT_"):
                assert variable.removesuffix("_FILE") in known, variable


def _names(model: Any, within: str = "prefect") -> Any:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and hasattr(inner, "model_fields"):
            yield from _names(inner, f"{within}_{name}")
        else:
            yield f"{within}_{name}"
