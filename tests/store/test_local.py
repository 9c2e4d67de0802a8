"""Outputs on a disk that fails, or whose power does: there as a whole, or what was there before."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import dgmm
from dgmm.store import local, save
from tests.crashes import After, Crash
from tests.disks import Disk, Kind, Operation
from tests.store.test_models import make_fit

#: As a group and as a file.
NAMES = ["m.zarr", "m.json"]


def write(place: Path, seed: int, **how: bool) -> None:
    save(make_fit(seed=seed), place, **how)


def seed_at(place: Path) -> int:
    """Of the model that lies there; whatever is half raises."""
    weights = dgmm.load(place).mixture.weights
    return next(seed for seed in (1, 2, 3) if (make_fit(seed=seed).mixture.weights == weights).all())


def noted(folder: Path, work: Callable[[], None]) -> list[Operation]:
    """What was done to files below a folder."""
    found: list[Operation] = []
    with Disk(str(folder), note=found.append).inserted():
        work()
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("replaced", [False, True])
def test_what_was_finished_survives_a_power_failure(name: str, replaced: bool, tmp_path: Path) -> None:
    """From when it appears at its place on; until then what it replaces does."""
    disk, before = tmp_path / "disk", tmp_path / "before"
    disk.mkdir()
    if replaced:
        write(disk / name, 1)
    shutil.copytree(disk, before)
    operations = noted(disk, lambda: write(disk / name, 2, overwrite=replaced))
    appeared = max(
        i for i, (what, *paths) in enumerate(operations) if what == "rename" and paths[1] == f"{disk}/{name}"
    )
    for n in (appeared, appeared + 1, appeared + 2, len(operations)):
        for after in After:
            found = tmp_path / f"{n}-{after}"
            Crash(before, str(disk), operations[:n]).build(found, after, np.random.default_rng(n))
            left = {seed_at(path) for path in (found / name, *found.glob("*.partial/*-old")) if path.exists()}
            assert left <= {1, 2}
            assert left or not replaced
            if n > appeared + 1:  # the folder around it was flushed
                assert seed_at(found / name) == 2


@pytest.mark.parametrize("over", [False, True])
def test_a_flush_that_fails_at_the_end_leaves_what_was_there(over: bool, tmp_path: Path) -> None:
    for name in ("counted", "fails"):
        (tmp_path / name).mkdir()
        if over:
            write(tmp_path / name / "m", 1)
    done = noted(tmp_path / "counted", lambda: write(tmp_path / "counted" / "m", 2, overwrite=over))
    last = [what for what, *_ in done].count("fsync")
    folder = tmp_path / "fails"
    disk = Disk(str(folder), lambda kind, number, _: kind is Kind.FLUSH and number == last)
    with disk.inserted(), pytest.raises(OSError, match="Input/output error"):
        write(folder / "m", 2, overwrite=over)
    assert os.listdir(folder) == (["m"] if over else [])
    assert not over or seed_at(folder / "m") == 1


def test_what_cannot_be_put_back_is_not_removed(tmp_path: Path) -> None:
    """Neither with the claim: the next run puts it back."""
    place = tmp_path / "m"
    write(place, 1)
    disk = Disk(str(tmp_path), lambda kind, _, path: kind is Kind.RENAME and path == str(place))
    with disk.inserted(), pytest.raises(OSError, match="Input/output error"):
        write(place, 2, overwrite=True)
    assert not place.exists()
    with pytest.raises(dgmm.OutputExistsError, match="exists already"):
        write(place, 3)
    assert seed_at(place) == 1
    assert os.listdir(tmp_path) == ["m"]


def test_folders_that_cannot_be_flushed_are_let_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every file system flushes folders; one that fails is another matter."""
    for number, match in ((22, None), (5, "Input/output error")):

        def fail(_: int, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fail)
        if match is None:
            local.flush_folder(str(tmp_path))
            continue
        with pytest.raises(OSError, match=match):
            local.flush_folder(str(tmp_path))
