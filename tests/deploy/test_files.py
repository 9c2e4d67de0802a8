"""Every file of the deployments, as the tools for its kind see it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.shelf import DEPLOY, IMAGE, ROOT, accepted, make_secrets, tool

FILES = sorted(
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "deploy"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()
)  # fmt: skip
UNITS = [path for path in FILES if path.suffix in (".service", ".timer")]
SCRIPTS = [
    path for path in FILES if path.read_bytes().startswith((b"#!/bin/sh", b"#!/usr/bin/env bash", b"#!/bin/bash"))
]


def test_there_is_something_to_see() -> None:
    assert {path.name for path in SCRIPTS} >= {"entrypoint", "secrets.sh"}
    assert {path.suffix for path in UNITS} == {".service", ".timer"}


def test_yaml() -> None:
    files = [path for path in FILES if path.suffix in (".yaml", ".yml") and not path.name.startswith(".")]
    assert len(files) > 10
    accepted("yamllint", "--strict", "-c", DEPLOY / ".yamllint.yaml", *files)


def test_yaml_is_really_looked_at(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: 1\na: 2\n")
    assert tool("yamllint", "--strict", "-c", DEPLOY / ".yamllint.yaml", tmp_path / "bad.yaml").returncode == 1


def test_scripts() -> None:
    accepted("shellcheck", "--severity=style", *SCRIPTS)


def test_recipe_of_the_image(tmp_path: Path) -> None:
    accepted("hadolint", "--failure-threshold", "style", IMAGE / "Dockerfile")
    (tmp_path / "Dockerfile").write_text("FROM python:latest\nRUN cd /x\n")
    assert tool("hadolint", "--failure-threshold", "style", tmp_path / "Dockerfile").returncode == 1


def test_what_the_image_is_made_of_is_let_in_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copies = [line.split() for line in (IMAGE / "Dockerfile").read_text().splitlines() if line.startswith("COPY ")]
    taken = {
        path for words in copies if "--from=build" not in words for path in words[1:-1] if not path.startswith("--")
    }  # fmt: skip
    assert {path for path in let_in if not any(name.startswith(path) for name in taken)} == set()
    for path in taken:
        assert (ROOT / path).exists()
        assert any(f"{path}/".startswith(f"{prefix}/") for prefix in let_in), path


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze: see config/debian.txt")
def test_units(tmp_path: Path) -> None:
    # programs are looked for where this environment has them
    environment = str(Path(sys.executable).parent)
    for unit in UNITS:
        text = unit.read_text().replace("/opt/dgmm/bin", environment).replace("/etc/dgmm/alarm", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    units = [str(tmp_path / unit.name) for unit in UNITS]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    bad = tmp_path / "dgmm-refresh.service"
    bad.write_text(bad.read_text().replace("Type=oneshot", "Type=twoshot"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", bad], capture_output=True, text=True, check=False)
    assert "twoshot" in done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze: see config/debian.txt")
def test_units_are_hardened() -> None:
    for unit in UNITS:
        if unit.suffix == ".service":
            command = ["systemd-analyze", "security", "--offline=true", "--threshold=25", unit]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout


def test_units_do_not_overlap_and_go_on() -> None:
    text = (DEPLOY / "machine/dgmm-refresh.service").read_text()
    for line in ("Type=oneshot", "Restart=on-failure", "RestartPreventExitStatus=2 143", "SuccessExitStatus=143"):
        assert f"\n{line}\n" in text
    assert "flock --nonblock" in (DEPLOY / "machine/dgmm.cron").read_text()
    # a deadline that is shorter than the day between two nights
    hours = int(re.search(r"TimeoutStartSec=(\d+)h", text).group(1))  # type: ignore[union-attr]
    assert 1 <= hours < 24


def test_cron_has_five_times_a_user_and_a_command() -> None:
    lines = [line for line in (DEPLOY / "machine/dgmm.cron").read_text().splitlines() if line and line[0] not in "#"]
    (job,) = [line for line in lines if "=" not in line.split()[0]]
    *times, user, command = job.split(None, 6)
    assert all(re.fullmatch(r"[\d*/,-]+", time) for time in times)
    assert user == "dgmm"
    # to cron a percent sign is the end of the line
    assert "%" not in command
    done = subprocess.run(["sh", "-n", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_secrets_are_made_once_and_verify(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert make_secrets(folder).returncode == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert folder.stat().st_mode & 0o777 == 0o700
    # a container reads them as another user
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    command = ["openssl", "verify", "-CAfile", folder / "ca.pem", "-purpose", "sslserver", folder / "dask.pem"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert make_secrets(folder).returncode == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "postgres-password").unlink()
    assert make_secrets(folder).returncode == 0
    assert (folder / "postgres-password").read_bytes() != before["postgres-password"]
    assert (folder / "dask.pem").read_bytes() == before["dask.pem"]


@pytest.mark.parametrize(("arguments", "said"), [((), "usage:"), (("0",), "0 is no number of days")])
def test_secrets_refuse_in_one_line(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    command = [DEPLOY / "secrets.sh", *([tmp_path / "secrets"] if arguments else []), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "secrets").exists()


def test_no_secret_is_written_down() -> None:
    ignored = subprocess.run(
        ["git", "check-ignore", "deploy/secrets/ca.pem", "deploy/kubernetes/base/secrets/prefect-auth"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert len(ignored.stdout.split()) == 2
    for path in FILES:
        text = path.read_text()
        assert "PRIVATE KEY" not in text, path
        assert not re.search(r"://[^/\s:$]+:[^/\s@$]{8,}@", text), path
