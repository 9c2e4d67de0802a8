"""What tests of the deployments share: where they lie, and what they come to."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
IMAGE = DEPLOY / "image"
OVERLAYS = ("small", "large")
#: The two that kustomize makes out of every overlay need secrets there.
SECRETS = ("base", "overlays/small")


def tool(name: str, *arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run one of the programs that come with this environment; what it says."""
    program = Path(sys.executable).with_name(name)
    return subprocess.run([program, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False)


def accepted(name: str, *arguments: object, cwd: Path = ROOT) -> str:
    """What a program says that must find nothing."""
    done = tool(name, *arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def make_secrets(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Make the secrets of a deployment in a folder."""
    command = [DEPLOY / "secrets.sh", folder, *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def render(overlay: str, folder: Path) -> list[dict[str, Any]]:
    """The resources that an overlay comes to, out of a copy with secrets."""
    copy = folder / "kubernetes"
    if not copy.exists():
        shutil.copytree(DEPLOY / "kubernetes", copy, ignore=shutil.ignore_patterns("secrets"))
        for place in SECRETS:
            done = make_secrets(copy / place / "secrets")
            assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(accepted("kubectl", "kustomize", copy / "overlays" / overlay)))


@cache
def schema_of(kind: str) -> dict[str, Any]:
    """The operator's own schema of one of its kinds, which takes nothing that it does not name."""
    (place,) = find_spec("dask_kubernetes").submodule_search_locations  # type: ignore[union-attr, misc]
    crds = Path(place, "operator", "deployment", "helm", "dask-kubernetes-operator", "crds")
    (version,) = yaml.safe_load((crds / f"{kind.lower()}.yaml").read_text())["spec"]["versions"]
    schema: dict[str, Any] = closed(version["schema"]["openAPIV3Schema"])
    # every resource has these, which definitions do not name
    schema["properties"] |= {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
    }
    return schema


def closed(schema: Any) -> Any:
    """A schema of Kubernetes as its server means it: what is not named is refused, unless it says otherwise."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {name: closed(part) for name, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        parts.setdefault("additionalProperties", False)
    return parts


def pods(resources: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
    """Every pod that resources ask for: its name, specification and labels."""
    for resource in resources:
        kind, name, spec = resource["kind"], resource["metadata"]["name"], resource.get("spec", {})
        if kind in ("Deployment", "StatefulSet"):
            yield name, spec["template"]["spec"], spec["template"]["metadata"]["labels"]
        elif kind == "DaskCluster":
            for part in ("scheduler", "worker"):
                labels = {"dask.org/cluster-name": name, "dask.org/component": part}
                yield f"{name}-{part}", spec[part]["spec"], labels
