"""What kustomize makes of the overlays: valid to Kubernetes and to the operator, whole, confined, and of one mind."""

import json
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from dask.utils import parse_bytes

from tests.deploy.shelf import DEPLOY, IMAGE, OVERLAYS, pods, render, schema_of, tool
from tests.deploy.test_compose import VERSION, _names

#: The oldest and the newest Kubernetes that the manifests are held against.
VERSIONS = ("1.30", "1.37")
OPERATORS = ("DaskCluster", "DaskAutoscaler")


@pytest.fixture(scope="module")
def overlays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("rendered")
    return {name: render(name, folder) for name in OVERLAYS}


@cache
def template() -> dict[str, Any]:
    """The template of the jobs that flows run in."""
    content: dict[str, Any] = json.loads((DEPLOY / "kubernetes/components/jobs/job.json").read_text())
    return content


def job() -> dict[str, Any]:
    """The job of a flow of which nothing is asked that the template does not say by itself."""
    variables = template()["variables"]["properties"]
    # what Prefect fills in for every run
    given: dict[str, Any] = {
        "command": ["prefect", "flow-run", "execute"], "labels": {"prefect.io/flow-run-id": "x"}, "annotations": {},
        "name": "run", "env": [{"name": "PREFECT_API_URL", "value": "http://prefect-server:4200/api"}],
    }  # fmt: skip

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: filled(part) for name, part in value.items()}
        if isinstance(value, list):
            return [filled(part) for part in value]
        if isinstance(value, str) and (found := re.fullmatch(r"\{\{ (\w+) \}\}", value)):
            assert found[1] in variables
            return given[found[1]] if found[1] in given else variables[found[1]]["default"]
        return value.replace("{{ name }}", "run") if isinstance(value, str) else value

    result: dict[str, Any] = filled(template()["job_configuration"]["job_manifest"])
    return result


def all_pods(resources: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
    """The pods that resources ask for, and that of a flow where the Prefect worker starts jobs."""
    yield from pods(resources)
    if named(resources, "ConfigMap", "job-template"):
        pod = job()["spec"]["template"]
        yield "dgmm-flow", pod["spec"], pod["metadata"]["labels"]


def named(resources: list[dict[str, Any]], kind: str, name: str) -> list[dict[str, Any]]:
    """The resources of a kind and a name."""
    return [r for r in resources if r["kind"] == kind and r["metadata"]["name"] == name]


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("version", VERSIONS)
def test_is_valid(overlays: dict[str, Any], overlay: str, version: str) -> None:
    for resource in overlays[overlay]:
        if resource["kind"] not in OPERATORS:
            kubernetes_validate.validate(resource, version, strict=True)
    for name, spec, labels in all_pods(overlays[overlay]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
        kubernetes_validate.validate(pod, version, strict=True)
    kubernetes_validate.validate(job(), version, strict=True)


def test_validation_sees_a_slip(overlays: dict[str, Any]) -> None:
    (found,) = named(overlays["small"], "Deployment", "prefect-worker")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(found | {"spec": found["spec"] | {"replica": 1}}, VERSIONS[0], strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("kind", OPERATORS)
def test_operator_takes_its_resources(overlays: dict[str, Any], overlay: str, kind: str) -> None:
    (resource,) = [r for r in overlays[overlay] if r["kind"] == kind]
    validator = jsonschema.Draft202012Validator(schema_of(kind))
    assert [error.message for error in validator.iter_errors(resource)] == []
    resource = resource | {"spec": resource["spec"] | {"idleTimeOut": 5}}
    assert len(list(validator.iter_errors(resource))) == 1


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_that_is_named_is_there(overlays: dict[str, Any], overlay: str) -> None:
    resources = overlays[overlay]
    assert {r["metadata"].get("namespace", "dgmm") for r in resources} == {"dgmm"}
    keys = {
        (r["kind"], r["metadata"]["name"]): {*r.get("data", {}), *r.get("stringData", {})}
        for r in resources
        if r["kind"] in ("Secret", "ConfigMap")
    }
    used = set()
    accounts = {"default", *(r["metadata"]["name"] for r in resources if r["kind"] == "ServiceAccount")}
    for name, spec, _ in all_pods(resources):
        assert spec.get("serviceAccountName", "default") in accounts, name
        claims = [t["metadata"]["name"] for r in named(resources, "StatefulSet", name) for t in
                  r["spec"]["volumeClaimTemplates"]]  # fmt: skip
        volumes = {volume["name"]: volume for volume in spec["volumes"]} | {name: {} for name in claims}
        mounted = set()
        for volume in volumes.values():
            used |= {("Secret", volume["secret"]["secretName"])} if "secret" in volume else set()
            used |= {("ConfigMap", volume["configMap"]["name"])} if "configMap" in volume else set()
        for container in spec["containers"]:
            mounted |= {mount["name"] for mount in container["volumeMounts"]}
            for source in container.get("envFrom", []):
                used |= {("Secret", part["name"]) for key, part in source.items() if key == "secretRef"}
                used |= {("ConfigMap", part["name"]) for key, part in source.items() if key == "configMapRef"}
            for variable in container.get("env", []):
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    used.add(("Secret", reference["name"]))
                    assert reference["key"] in keys["Secret", reference["name"]]
            files = {f"{mount['mountPath']}/{key}" for mount in container["volumeMounts"]
                     for key in keys.get(("Secret", mount["name"]), ())}  # fmt: skip
            for path in re.findall(r"/etc/dask/tls/[\w.-]+", json.dumps(container)):
                assert path in files, f"{name} is told of {path}"
        assert mounted == set(volumes), name
    assert used == set(keys)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_addresses_are_those_of_services(overlays: dict[str, Any], overlay: str) -> None:
    resources = overlays[overlay]
    ports = {
        r["metadata"]["name"]: {p["port"] for p in r["spec"]["ports"]} for r in resources if r["kind"] == "Service"
    }
    # the operator's name for the service of a cluster's scheduler
    (cluster,) = [r for r in resources if r["kind"] == "DaskCluster"]
    name = cluster["metadata"]["name"]
    ports[f"{name}-scheduler"] = {p["port"] for p in cluster["spec"]["scheduler"]["service"]["ports"]}
    assert cluster["spec"]["scheduler"]["service"]["selector"] == {
        "dask.org/cluster-name": name, "dask.org/component": "scheduler"
    }  # fmt: skip
    text = json.dumps([r for r in resources if r["metadata"]["name"] != "job-template"])
    hosts = re.findall(r"(?:tls|http)://([a-z-]+)(?:\.dgmm\.svc)?:(\d+)", text)
    assert ("dgmm-scheduler", "8786") in hosts
    for host, port in hosts:
        assert int(port) in ports[host]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_confined(overlays: dict[str, Any], overlay: str) -> None:
    (namespace,) = [r for r in overlays[overlay] if r["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, spec, _ in all_pods(overlays[overlay]):
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        # only who starts jobs has rights
        trusted = name == "prefect-worker" and overlay == "large"
        assert spec["automountServiceAccountToken"] is trusted
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
            }  # fmt: skip
            assert parse_bytes(container["resources"]["limits"]["memory"])
            assert container["resources"]["requests"]["cpu"]
            assert name == "dgmm-flow" or container["livenessProbe"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_image_is_the_same_everywhere(overlays: dict[str, Any], overlay: str) -> None:
    images = {c["image"] for name, spec, _ in all_pods(overlays[overlay]) for c in spec["containers"]}
    assert images - {"postgres:17-bookworm"} == {f"dgmm:{VERSION}"}
    parts = set(re.findall(r"^([a-z-]+)\)$", (IMAGE / "entrypoint").read_text(), re.MULTILINE))
    for name, spec, _ in all_pods(overlays[overlay]):
        if name not in ("postgres", "dgmm-flow"):
            assert spec["containers"][0]["args"][0] in parts


@pytest.mark.parametrize(("overlay", "threads", "bounds"), [("small", "1", (1, 4)), ("large", "2", (4, 40))])
def test_workers_are_told_what_they_have(
    overlays: dict[str, Any], overlay: str, threads: str, bounds: tuple[int, int]
) -> None:
    (cluster,) = [r for r in overlays[overlay] if r["kind"] == "DaskCluster"]
    (worker,) = cluster["spec"]["worker"]["spec"]["containers"]
    told = {variable["name"]: variable["value"] for variable in worker["env"]}
    assert told["DGMM_THREADS"] == threads == worker["resources"]["requests"]["cpu"]
    # a nanny lives in it too
    assert 0.8 <= parse_bytes(told["DGMM_MEMORY"]) / parse_bytes(worker["resources"]["limits"]["memory"]) <= 0.95
    assert worker["resources"]["limits"]["memory"] == worker["resources"]["requests"]["memory"]
    assert told["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] == "true"
    assert told["DASK_SCHEDULER_ADDRESS"].startswith("tls://")
    (scaler,) = [r for r in overlays[overlay] if r["kind"] == "DaskAutoscaler"]
    assert scaler["spec"]["cluster"] == cluster["metadata"]["name"]
    assert (scaler["spec"]["minimum"], scaler["spec"]["maximum"]) == bounds
    assert cluster["spec"]["worker"]["replicas"] == bounds[0]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nobody_talks_to_anybody_unless_it_is_said(overlays: dict[str, Any], overlay: str) -> None:
    policies = [r["spec"] for r in overlays[overlay] if r["kind"] == "NetworkPolicy"]
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies
    everybody = [labels for _, _, labels in all_pods(overlays[overlay])]
    if overlay == "small":
        # a pool of its own has flows inside of the Prefect worker
        everybody.append({"app.kubernetes.io/name": "dgmm-flow"})
    for policy in policies:
        selectors = [policy["podSelector"]] + [
            peer["podSelector"]
            for way, end in (("ingress", "from"), ("egress", "to"))
            for rule in policy.get(way, [])
            for peer in rule.get(end, [])
            if "podSelector" in peer
        ]
        for selector in selectors:
            assert any(selects(selector, labels) for labels in everybody)
    # everybody is let out to somebody, beside whoever knows names
    for labels in everybody:
        ways = [policy for policy in policies if policy["podSelector"] and selects(policy["podSelector"], labels)]
        assert ways, labels
    for budget in (r["spec"] for r in overlays[overlay] if r["kind"] == "PodDisruptionBudget"):
        assert any(selects(budget["selector"], labels) for labels in everybody)


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a selector takes labels."""
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(
        labels.get(expression["key"]) in expression["values"] for expression in selector.get("matchExpressions", [])
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_variables_are_those_that_prefect_knows(overlays: dict[str, Any], overlay: str) -> None:
    from prefect.settings import Settings
    from prefect_kubernetes.settings import KubernetesSettings

    known = {name.upper() for name in _names(Settings)}
    known |= {name.upper() for name in _names(KubernetesSettings, "prefect_integrations_kubernetes")}
    text = json.dumps([r for r in overlays[overlay] if r["metadata"]["name"] != "job-template"])
    for variable in re.findall(r"\bPREFECT_\w+\b", text):
        assert variable in known


def test_template_is_one_that_prefect_takes() -> None:
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    configuration = template()["job_configuration"]
    assert set(configuration) <= set(KubernetesWorkerJobConfiguration.model_fields)
    jsonschema.Draft202012Validator.check_schema(template()["variables"])
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(configuration)))
    assert used == set(template()["variables"]["properties"])


def test_secrets_that_are_missing_are_named(tmp_path: Path) -> None:
    copy = tmp_path / "kubernetes"
    shutil.copytree(DEPLOY / "kubernetes", copy, ignore=shutil.ignore_patterns("secrets"))
    done = tool("kubectl", "kustomize", copy / "overlays/large")
    assert done.returncode == 1
    assert "secrets/" in done.stderr
