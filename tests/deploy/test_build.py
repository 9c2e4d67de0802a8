"""The image, built: its steps in a fresh environment, and all of it by Podman where that is there."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import dgmm
from tests.deploy.shelf import IMAGE, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.integration]
#: What builds an image without a container engine's rights: chroot is all the isolation that it asks for.
TOOLS = ("podman", "buildah", "debootstrap")
SETTINGS = """
out: run
example: old_faithful
data: {path: run/input.zarr, variables: [eruptions, waiting]}
n_components: "1:3"
"""


def steps() -> list[str]:
    """The RUNs of the stage in which the image's environment is made."""
    text = re.sub(r"\\\n\s*", "", (IMAGE / "Dockerfile").read_text())
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    build = text[text.index(" AS build") : text.index(" AS run")]
    return [line.removeprefix("RUN ") for line in build.splitlines() if line.startswith("RUN ")]


def names(listed: str) -> set[str]:
    """Names and versions in a list of packages, as if nobody wrote them in ways of their own."""
    return set(re.sub(r"[._]", "-", listed.lower()).split())


def test_steps_of_the_recipe_run_in_a_fresh_environment(tmp_path: Path) -> None:
    source, target = tmp_path / "src", tmp_path / "opt"
    (source / "config").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "config/constraints.txt"):
        shutil.copy(ROOT / name, source / name)
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    made = steps()
    assert len(made) == 3
    for number, step in enumerate(made):
        if number == 2:
            for name in ("dgmm", "flows"):
                shutil.rmtree(source / name)
                shutil.copytree(ROOT / name, source / name)
        command = ["sh", "-ec", step.replace("/opt/dgmm", str(target))]
        done = subprocess.run(command, cwd=source, env=kept, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    told = subprocess.check_output([target / "bin/dgmm", "--version"], cwd=tmp_path, env=kept, text=True)
    assert told.strip() == dgmm.__version__
    # nothing but what is pinned
    listed = subprocess.check_output([target / "bin/pip", "freeze", "--exclude=dgmm"], text=True)
    assert names(listed) <= names((ROOT / "config/constraints.txt").read_text())


@pytest.fixture
def base(tmp_path: Path) -> Iterator[str]:
    """An image of Debian with Python, made here; its name."""
    missing = [name for name in TOOLS if shutil.which(name) is None]
    if missing or os.geteuid():
        pytest.skip(f"an image is built by root, with {', '.join(TOOLS)}: {', '.join(missing) or 'not root'}")
    root, name = tmp_path / "root", "localhost/dgmm-test-base:latest"
    packages = "--include=python3,python3-venv,ca-certificates"
    subprocess.run(["debootstrap", "--variant=minbase", packages, "stable", root], capture_output=True, check=True)
    # packages come from where they come from here
    for path in ("/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt"):
        if Path(path).exists():
            shutil.copy(path, f"{root}{path}")
    with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run(["podman", "import", "-", name], stdin=tar.stdout, capture_output=True, check=True)
    shutil.rmtree(root)
    yield name
    subprocess.run(["podman", "rmi", "--force", name], capture_output=True, check=False)


def test_image_is_built_and_runs_a_flow(base: str) -> None:
    name = "localhost/dgmm-test:latest"
    build = ["podman", "build", "--isolation=chroot", "--format=docker", f"--build-arg=BASE={base}"]
    command = [*build, f"--file={IMAGE / 'Dockerfile'}", f"--tag={name}", str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    container = subprocess.check_output(["buildah", "from", name], text=True).strip()
    inside = ["buildah", "run", "--isolation=chroot", container, "--"]
    try:
        told = subprocess.check_output([*inside, "entrypoint", "--version"], text=True)
        assert told.strip() == dgmm.__version__
        assert subprocess.check_output([*inside, "id", "-u"], text=True).strip() == "10001"
        assert subprocess.run([*inside, "health"], check=False).returncode == 0
        seen = subprocess.check_output(["podman", "inspect", name], text=True)
        assert '"health"' in seen
        assert '"MALLOC_ARENA_MAX=2"' in seen
        # nothing but what it is made of
        files = subprocess.check_output([*inside, "sh", "-c", "ls /src /work 2>&1; ls /data"], text=True)
        assert "constraints" not in files
        script = f"cd /data && printf '%s' '{SETTINGS}' >s.yaml && entrypoint flow pipeline s.yaml && ls run"
        done = subprocess.run([*inside, "sh", "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert {"model.zarr", "scores.zarr", "report.html"} <= set(done.stdout.split())
    finally:
        subprocess.run(["buildah", "rm", container], capture_output=True, check=False)
        subprocess.run(["podman", "rmi", "--force", name], capture_output=True, check=False)
