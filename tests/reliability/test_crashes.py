"""The disk that fails and the power that does: what they do to files, without which no fault of theirs could be one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.crashes import After, Crash
from tests.disks import Disk, Kind, Operation
from tests.ledgers import tree


def write(path: Path, *, flush: bool) -> None:
    with open(path, "wb") as file:
        file.write(b"content")
        if flush:
            file.flush()
            os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def carelessly(folder: Path) -> None:
    write(folder / "part", flush=False)
    os.replace(folder / "part", folder / "file")


def without_the_folder(folder: Path) -> None:
    write(folder / "part", flush=True)
    os.replace(folder / "part", folder / "file")


def carefully(folder: Path) -> None:
    without_the_folder(folder)
    flush_folder(folder)


def left(work: Callable[[Path], None], folder: Path, after: After, seed: int = 0) -> dict[str, bytes]:
    """What is left of what something does in a folder that holds an older file."""
    noted: list[Operation] = []
    (folder / "disk").mkdir(parents=True)
    (folder / "before").mkdir()
    for place in ("disk", "before"):
        (folder / place / "file").write_bytes(b"old")
    with Disk(str(folder / "disk"), note=noted.append).inserted():
        work(folder / "disk")
    crash = Crash(folder / "before", str(folder / "disk"), noted)
    crash.build(folder / "found", after, np.random.default_rng(seed))
    return tree(folder / "found")


@pytest.mark.parametrize(
    ("work", "after", "expected"),
    [
        (carelessly, After.KILL, b"content"),
        (carelessly, After.LOST, b"old"),
        (carelessly, After.EMPTY, b""),
        (carelessly, After.ZEROS, bytes(7)),
        (without_the_folder, After.LOST, b"old"),
        (without_the_folder, After.EMPTY, b"content"),
        (carefully, After.LOST, b"content"),
        (carefully, After.ZEROS, b"content"),
    ],
)
def test_what_is_not_flushed_is_not_there_for_sure(
    work: Callable[[Path], None], after: After, expected: bytes, tmp_path: Path
) -> None:
    assert left(work, tmp_path, after) == {"file": expected}


def test_anything_may_become_of_what_is_not_flushed(tmp_path: Path) -> None:
    cut = {left(carelessly, tmp_path / f"cut{i}", After.CUT, i)["file"] for i in range(20)}
    assert len(cut) > 3
    assert all(b"content".startswith(content) and content != b"content" for content in cut)
    found = [left(carelessly, tmp_path / f"any{i}", After.ANY, i) for i in range(40)]
    assert {b"old", b"", bytes(7), b"content"} <= {each["file"] for each in found}
    assert any("part" in each for each in found), "a name that was made, and its renaming lost"
    careful = [left(carefully, tmp_path / f"sure{i}", After.ANY, i)["file"] for i in range(20)]
    assert {*careful} == {b"content"}


@pytest.mark.parametrize("kind", [Kind.READ, Kind.WRITE, Kind.RENAME, Kind.FLUSH])
def test_the_operation_that_is_asked_for_fails_and_no_other(kind: Kind, tmp_path: Path) -> None:
    disk = Disk(str(tmp_path / "disk"), lambda what, number, _: what is kind and number == 2)
    (tmp_path / "disk").mkdir()
    said = []
    with disk.inserted():
        write(tmp_path / "elsewhere", flush=True)
        for i in range(3):
            try:
                write(tmp_path / "disk" / f"{i}", flush=True)
                os.replace(tmp_path / "disk" / f"{i}", tmp_path / "disk" / "file")
                assert (tmp_path / "disk" / "file").read_bytes() == b"content"
            except OSError as error:
                said.append(error.strerror)
    assert said == ["No space left on device" if kind is Kind.WRITE else "Input/output error"]
    assert disk.n_failed == 1
    assert (tmp_path / "elsewhere").read_bytes() == b"content"
