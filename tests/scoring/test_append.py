"""Scores to which those of appended data are appended: nothing else is scored, and nothing else is let pass."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zarr

import dgmm
from dgmm.data import grid
from dgmm.pipeline import is_done, run_score
from dgmm.store import save
from tests.ledgers import at_region, fit, forked, job_of, kill, left, small_for_a_while, tree
from tests.scoring.test_extend import anew, damaged, dropped, grow, scored, source


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with small_for_a_while():
        yield


def appending(folder: Path, **more: Any) -> Any:
    return job_of(folder, folder / "out", append=True, **more)


@pytest.mark.parametrize(("before", "expected"), [(160, [8, 9, 10, 11]), (150, [7, 8, 9, 10, 11])])
def test_what_was_appended_is_scored_and_then_nothing(tmp_path: Path, before: int, expected: list[int]) -> None:
    """Where the last chunk was a part of one it is scored anew, with what has come to it."""
    source(tmp_path, before)
    assert len(scored(appending(tmp_path))) == 8, "where nothing is all of it is scored"
    assert scored(appending(tmp_path)) == []
    grow(tmp_path)
    assert scored(appending(tmp_path)) == expected
    assert tree(tmp_path / "out") == anew(tmp_path)
    assert dgmm.verify(str(tmp_path / "out"), data=True, recompute=1.0).is_sound
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert scored(appending(tmp_path)) == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == times
    # a flow asks it, too, though it is there by the same settings
    assert not is_done(str(tmp_path / "out"), appending(tmp_path))
    assert is_done(str(tmp_path / "out"), job_of(tmp_path, tmp_path / "out"))


def rewrite(folder: Path) -> None:
    array = zarr.open_array(str(folder / "x.zarr"), mode="r+")
    array[65] = array[65] + 1.0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (rewrite, r"was changed in 1 of 8 regions that were scored \(the first is sample 60:80\)"),
        (lambda folder: zarr.open_array(str(folder / "x.zarr")).attrs.update(units="K"), "in 8 of 8 regions"),
        (lambda folder: save(fit(1), folder / "m.zarr", overwrite=True), "it was by the model"),
        (lambda folder: dropped(folder / "out"), "not noted what each region was read from"),
        (lambda folder: damaged(folder / "out"), "holds no scores that can be appended to"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, change: Callable[[Path], Any], why: str) -> None:
    source(tmp_path)
    run_score(appending(tmp_path))
    change(tmp_path)
    grow(tmp_path)
    before = tree(tmp_path / "out")
    with pytest.raises(dgmm.InputError, match=why):
        scored(appending(tmp_path))
    assert tree(tmp_path / "out") == before
    assert not (tmp_path / "out.partial").exists()
    assert len(scored(appending(tmp_path, overwrite=True))) == 12
    rewrite(tmp_path)  # also where nothing has come to them
    with pytest.raises(dgmm.InputError, match="in 1 of 12 regions"):
        scored(appending(tmp_path))


def test_rows_that_are_gone_are_missed(tmp_path: Path) -> None:
    array = source(tmp_path, 238)
    run_score(appending(tmp_path))
    array.resize((110, 3))
    with pytest.raises(dgmm.InputError, match="has 110 along sample where 238 were scored: bring all of it up to date"):
        run_score(appending(tmp_path))
    with pytest.raises(dgmm.InputError, match="other arrays are asked for"):
        array.resize((238, 3))
        run_score(appending(tmp_path, probabilities=True))


def test_one_that_was_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    source(tmp_path, 150)
    run_score(appending(tmp_path))
    before = tree(tmp_path / "out")
    grow(tmp_path)

    def killed() -> None:
        with at_region(2, kill):
            run_score(appending(tmp_path))

    assert os.WTERMSIG(forked(killed)) == 9
    assert tree(tmp_path / "out") == before, "what readers find"
    left(appending(tmp_path), 1)
    assert len(scored(appending(tmp_path))) == 2
    assert tree(tmp_path / "out") == anew(tmp_path)


def test_what_is_one_region_is_scored_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "MIN_ROWS", 4096)
    source(tmp_path, 150)
    run_score(appending(tmp_path))
    grow(tmp_path)
    assert scored(appending(tmp_path)) == [0]
    assert tree(tmp_path / "out") == anew(tmp_path)
