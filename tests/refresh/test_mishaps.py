"""What goes wrong around a night, and what other people do in the middle of one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import dgmm
from dgmm import store
from dgmm.errors import DgmmError, InputError
from dgmm.pipeline import run_score
from dgmm.refresh import run_refresh, stages
from dgmm.registry import Judgement, Registry
from tests.ledgers import small_for_a_while
from tests.nights import MEANS, ROWS, append, job_of, night, night_of

#: One class goes somewhere else.
ELSEWHERE = MEANS + np.array([[0.0, 0.0], [0.0, 0.0], [14.0, 14.0]])


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with small_for_a_while():
        yield


def test_chunks_behind_links_are_seen_to_change(tmp_path: Path) -> None:
    """As where old years were moved to another disk."""
    job, data = job_of(tmp_path), tmp_path / "data.zarr"
    append(data, night(0))
    for name in ("t", "s"):
        shutil.move(data / name / "c", tmp_path / f"disk-{name}")
        os.symlink(tmp_path / f"disk-{name}", data / name / "c")
    # a link that leads back is followed once
    os.symlink(data / "t", tmp_path / "disk-t" / "back")
    run_refresh(job)
    zarr.open_array(data / "t", mode="r+")[500:1000] = 8.0
    run_refresh(job.model_copy(update={"refit": "never"}))
    assert dgmm.verify(job.out, data=True, recompute=1.0).is_sound


def test_damage_is_told_every_time_until_it_is_mended(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    append(tmp_path / "data.zarr", night(0))
    run_refresh(job)
    shutil.rmtree(Path(job.out) / "label" / "c")
    for _ in range(2):
        with pytest.raises(DgmmError, match="is not what was written"):
            run_refresh(job)
    run_refresh(job.model_copy(update={"overwrite": True, "refit": "never"}))
    assert dgmm.verify(job.out, data=True).is_sound


def test_the_same_night_again_is_of_the_same_new_data(tmp_path: Path) -> None:
    job, data = job_of(tmp_path, refit="never"), tmp_path / "data.zarr"
    append(data, night(0))
    run_refresh(job.model_copy(update={"refit": "drifted"}))
    for number, means in ((1, MEANS), (2, ELSEWHERE)):
        append(data, night(number, means))
        run_refresh(job)
    told = night_of(job)
    assert (told["since"], told["drift"]["drifted"]) == (2 * ROWS, True)
    # the parts that are named are those of the data, not of what was looked at
    places = {place["where"] for place in told["drift"]["places"]}
    assert places
    assert all(int(place.removeprefix("time ").partition(":")[0]) >= 2 * ROWS for place in places)
    run_refresh(job.model_copy(update={"threshold": 2.5}))
    again = night_of(job)
    assert (again["since"], again["drift"]["threshold"]) == (2 * ROWS, 2.5)
    assert again["drift"]["shifts"] == told["drift"]["shifts"]


def test_who_becomes_the_champion_meanwhile_stays_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, data = (
        job_of(tmp_path, refit="always", acceptance={"max_loss": 10.0, "min_overlap": 0.0}),
        tmp_path / "data.zarr",
    )
    append(data, night(0))
    run_refresh(job)
    registry = Registry(job.registry)
    other = registry.add(dgmm.train(data, 2, "full", variables=["t", "s"], search="starts"))
    judged = stages.judged

    def promoted_in_the_middle(*given: Any) -> Judgement:
        registry.promote(other)
        return judged(*given)

    monkeypatch.setattr(stages, "judged", promoted_in_the_middle)
    append(data, night(1))
    stages.guard_stage(job)
    stages.drift_stage(job)
    stages.fit_stage(job)
    stages.accept_stage(job)
    assert registry.aliases()["champion"] == other


def test_a_candidate_is_judged_anew_by_another_rule(tmp_path: Path) -> None:
    job, data = job_of(tmp_path), tmp_path / "data.zarr"
    append(data, night(0))
    run_refresh(job)
    first = Registry(job.registry).aliases()["champion"]
    append(data, night(1, ELSEWHERE))
    run_refresh(job)
    assert "refused" in night_of(job)["decision"]
    assert Registry(job.registry).aliases()["champion"] == first
    lenient = job.acceptance.model_copy(update={"min_overlap": 0.0, "max_loss": 100.0})
    run_refresh(job.model_copy(update={"acceptance": lenient}))
    assert "accepted" in night_of(job)["decision"]
    assert Registry(job.registry).aliases()["champion"] != first


def test_scores_that_somebody_else_brought_up_to_date_are_still_those_of_a_night(tmp_path: Path) -> None:
    job, data = job_of(tmp_path, refit="never"), tmp_path / "data.zarr"
    append(data, night(0))
    run_refresh(job)
    append(data, night(1))
    by_hand = stages.Score(model=f"{job.registry}@champion", data=job.data, out=job.out, extend=True)
    run_score(by_hand)
    assert night_of(job)["structure"]["shape"] == [ROWS]
    shutil.rmtree(data)
    append(data, night(0, n=ROWS // 2))
    with pytest.raises(InputError, match=f"along time it had {ROWS}, now {ROWS // 2}"):
        run_refresh(job)


def test_scores_by_another_model_are_not_those_of_the_night(tmp_path: Path) -> None:
    job, data = job_of(tmp_path, refit="never"), tmp_path / "data.zarr"
    append(data, night(0))
    run_refresh(job)
    other = str(tmp_path / "other.zarr")
    store.save(dgmm.train(data, 2, "full", variables=["t", "s"], search="starts"), other)
    run_score(stages.Score(model=other, data=job.data, out=job.out, extend=True))
    assert not stages.is_finished(job)
    run_refresh(job)
    assert store.attributes(job.out)["model"] == store.digest(dgmm.load(f"{job.registry}@champion").mixture)


def test_a_candidate_file_that_is_damaged_stops_no_night(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    append(tmp_path / "data.zarr", night(0))
    run_refresh(job)
    (Path(job.registry) / "candidate").write_text('{"format": "dgmm-alias-1", "version": 3}')
    assert "scored by" in run_refresh(job)
