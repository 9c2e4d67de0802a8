"""The restore drill: a backup that would do, and backups that would not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dgmm.refresh import run_refresh
from tests.deploy.shelf import DEPLOY, ROOT
from tests.nights import append, job_of, night


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data of a night, its model and its scores."""
    folder = tmp_path_factory.mktemp("kept")
    append(folder / "data.zarr", night(0))
    run_refresh(job_of(folder))
    return folder


@pytest.fixture
def backup(kept: Path, tmp_path: Path) -> Path:
    """A copy of the model and the scores, as a backup has them."""
    shutil.copytree(kept / "models", tmp_path / "backup/models")
    shutil.copytree(kept / "scores.zarr", tmp_path / "backup/scores.zarr")
    return tmp_path / "backup"


def drill(*arguments: object, **given: str) -> subprocess.CompletedProcess[str]:
    """Go through the drill."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)} | given
    command = [str(DEPLOY / "drill.sh"), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def flip(file: Path) -> None:
    """Change a bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_whole_backup_would_do(kept: Path, backup: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in backup.rglob("*") if path.is_file()}
    (tmp_path / "tmp").mkdir()
    done = drill(
        backup / "models/water", backup / "scores.zarr", kept / "data.zarr", SHARE="100%", TMPDIR=str(tmp_path / "tmp")
    )
    assert done.returncode == 0, done.stderr
    assert "champion" in done.stdout
    assert "scored anew" in done.stdout
    assert done.stdout.count("sound") == 2
    assert "would do" in done.stdout
    assert {path: path.read_bytes() for path in backup.rglob("*") if path.is_file()} == before
    assert not list((tmp_path / "tmp").iterdir())


def test_damaged_scores_would_not(backup: Path) -> None:
    flip(
        next(
            path for path in sorted((backup / "scores.zarr/label").rglob("*")) if "/c/" in str(path) and path.is_file()
        )
    )
    done = drill(backup / "models/water", backup / "scores.zarr")
    assert done.returncode == 1
    assert "label" in done.stdout + done.stderr
    assert "would not do" in done.stderr


def test_a_damaged_model_would_not(backup: Path) -> None:
    (means,) = (backup / "models/water").rglob("model.zarr/means/c")
    flip(next(path for path in sorted(means.rglob("*")) if path.is_file()))
    assert drill(backup / "models/water", backup / "scores.zarr").returncode in (1, 2)


@pytest.mark.parametrize("arguments", [(), ("here",), ("nowhere", "nowhere")])
def test_what_cannot_be_told(arguments: tuple[str, ...]) -> None:
    done = drill(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
