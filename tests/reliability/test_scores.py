"""Scores that are disturbed come to the same bytes as scores that are not, and are complete or not there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import _local as local

import dgmm
from dgmm.config import Score
from dgmm.errors import DgmmError, OutputExistsError
from dgmm.pipeline import run_score
from dgmm.scoring import bulk, segments
from dgmm.scoring.ledger import HEAD
from dgmm.store import Status, folders, place_at, save
from tests import ledgers
from tests.ledgers import N, Stop, at_region, fit, job_of, left, scored, stop, tree, write_job

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with ledgers.small_for_a_while():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a model, a source, and the scores that nothing disturbs."""
    folder = tmp_path_factory.mktemp("job")
    with ledgers.small_for_a_while():
        run_score(write_job(folder))
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> dict[str, bytes]:
    return tree(folder / "out")


def job(folder: Path, tmp_path: Path, **more: Any) -> Score:
    return job_of(folder, tmp_path / "s", **more)


def records(tmp_path: Path) -> list[Path]:
    """The files of the records of an unfinished output."""
    return sorted(path for path in tmp_path.glob("s.partial/*-records/*") if path.name != HEAD)


def test_a_driver_that_is_killed_after_any_region_loses_none(
    folder: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    numbers = ",".join(map(str, range(1, N + 1)))
    command = [sys.executable, "-m", "tests.ledgers", str(folder), str(tmp_path / "{}"), numbers]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    for number in range(1, N + 1):
        out = tmp_path / f"{number}"
        assert place_at(out).state().status is Status.UNFINISHED
        assert not out.exists()
        assert (
            zarr.open_group(next(out.parent.glob(f"{number}.partial/{'[0-9a-f]' * 32}")), mode="r").attrs["complete"]
            == 0
        )
        assert len(scored(job_of(folder, out))) == N - number
        assert tree(out) == undisturbed
    assert sorted(os.listdir(tmp_path)) == sorted(map(str, range(1, N + 1)))


def test_a_driver_that_is_killed_again_and_again_gets_there(
    folder: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.ledgers", str(folder), str(tmp_path / "s"), "1,3,2,4"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert len(scored(job(folder, tmp_path))) == N - 10
    assert tree(tmp_path / "s") == undisturbed


@pytest.mark.parametrize("number", [1, 7, N])
def test_what_fails_midway_goes_on(
    number: int, folder: Path, undisturbed: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left(job(folder, tmp_path), number)
    assert f"{number} of {N} regions are kept" in caplog.messages[-1]
    assert len(scored(job(folder, tmp_path))) == N - number
    assert tree(tmp_path / "s") == undisturbed
    assert os.listdir(tmp_path) == ["s"]


@pytest.mark.parametrize("failing", ["write_coordinates", "write_ledger", "consolidate"])
def test_a_crash_at_the_very_end_scores_nothing_again(
    failing: str, folder: Path, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(bulk, failing, lambda *_: stop())
        with pytest.raises(Stop):
            run_score(job(folder, tmp_path))
    assert place_at(tmp_path / "s").state().status is Status.UNFINISHED
    assert scored(job(folder, tmp_path)) == []
    assert tree(tmp_path / "s") == undisturbed


def test_several_threads_write_the_same(folder: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    how = {"cluster": {"scheduler": "threads", "n_workers": 3}}
    left(job(folder, tmp_path, **how), 4)
    scored(job(folder, tmp_path, **how))
    assert tree(tmp_path / "s") == undisturbed


def test_a_worker_that_is_killed_changes_no_byte(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its task goes on where it was: of what was recorded nothing is scored twice."""
    big = tmp_path / "big"
    big.mkdir()
    save(fit(), big / "m.zarr")
    x = np.random.default_rng(0).normal(size=(40 * 4096, 3))
    zarr.create_array(str(big / "x.zarr"), shape=x.shape, chunks=(4096, 3), dtype="f8")[:] = x
    monkeypatch.undo()
    processes = {"scheduler": "processes", "n_workers": 2, "memory_limit": "1GB"}
    run_score(job_of(big, big / "out"))
    monkeypatch.setattr(bulk, "ScoreSegment", Fatal)
    Fatal.mark = str(tmp_path / "mark")
    Path(Fatal.mark).touch()
    run_score(job_of(big, tmp_path / "s", cluster=processes))
    assert not Path(Fatal.mark).exists(), "nobody died"
    assert tree(tmp_path / "s") == tree(big / "out")
    twice = Counter(map(int, (tmp_path / "mark.log").read_text().split()))
    assert {*twice} == {*range(40)}
    # of a portion of eight regions a worker has four; the last of each task whose result was lost is scored again
    assert sum(n - 1 for n in twice.values()) <= 4


class Fatal(segments.ScoreSegment):
    """A leaf that kills its worker, once, in the middle of a run."""

    mark = ""

    @classmethod
    def of(cls, *given: Any, **named: Any) -> Fatal:
        found = super().of(*given, **named)
        object.__setattr__(found, "mark", cls.mark)
        return found

    def on(self, device: str) -> Fatal:
        """Itself, with its mark, which is no field."""
        return self

    def _recorded(self, recorder: Any, segment: int, rows: Any) -> Any:
        found = super()._recorded(recorder, segment, rows)
        with open(f"{self.mark}.log", "a") as log:
            log.write(f"{segment}\n")
        if segment == 13 and Path(self.mark).exists():
            recorder.flush()
            Path(self.mark).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return found


# ---- damage ----------------------------------------------------------------------------------------------------------


def chunks(tmp_path: Path, name: str) -> list[Path]:
    return sorted((path for path in tmp_path.glob(f"s.partial/*/{name}/c/*")), key=lambda path: int(path.name))


def delete(path: Path, _: Path) -> None:
    path.unlink()


def truncate(path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path, _: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def swap(path: Path, other: Path) -> None:
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


def empty(path: Path, _: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("name", ["label", "probability", "log_density"])
@pytest.mark.parametrize("do", [delete, truncate, flip, empty, swap])
def test_a_region_that_is_recorded_and_not_what_was_written_is_scored_again(
    do: Any, name: str, folder: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    with at_region(8, stop) as first, pytest.raises(Stop):
        run_score(job(folder, tmp_path))
    found = chunks(tmp_path, name)
    do(*(next(path for path in found if path.name == str(region)) for region in (first[2], first[6])))
    expected = {*range(N)} - {*first} | {first[2], *([first[6]] if do is swap else [])}
    assert {*scored(job(folder, tmp_path))} == expected
    assert tree(tmp_path / "s") == undisturbed


def test_a_region_without_any_label_must_be_there_all_the_same(
    folder: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """The fifth holds nothing but missing values: a chunk that is not there reads the same."""
    left(job(folder, tmp_path), N)
    chunks(tmp_path, "label")[4].unlink()
    assert scored(job(folder, tmp_path)) == [4]
    assert tree(tmp_path / "s") == undisturbed


def test_what_a_killed_writer_leaves_does_not_stay(folder: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    left(job(folder, tmp_path), 3)
    target = chunks(tmp_path, "label")[0].parent
    for name in ("3.0123456789abcdef.partial", "77", "x"):
        (target / name).write_bytes(b"half")
    (target.parents[1] / "zarr.0123456789abcdef.partial").write_bytes(b"half")
    (target.parents[1] / "time").mkdir()
    (target.parents[1] / "time" / "zarr.json").write_bytes(b"{")
    scored(job(folder, tmp_path))
    assert tree(tmp_path / "s") == undisturbed


def test_a_ledger_that_is_damaged_anywhere_costs_no_more_than_its_records(
    folder: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """A task has one file: every length of it, and every bit of some bytes, is told."""
    four = {"cluster": {"scheduler": "threads", "n_workers": 2}}
    left(job(folder, tmp_path, **four), 9)
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "s.partial", kept)
    n = len(records(tmp_path))
    assert n > 2
    # a thread may end its region while another is stopped
    missing = len(scored(job(folder, tmp_path)))
    assert N - 9 - 2 <= missing <= N - 9
    generator = np.random.default_rng(0)
    for which in range(n):
        for how in ("truncated", "flipped", "gone"):
            shutil.rmtree(tmp_path / "s.partial", ignore_errors=True)
            shutil.rmtree(tmp_path / "s", ignore_errors=True)
            shutil.copytree(kept, tmp_path / "s.partial")
            file = records(tmp_path)[which]
            content = bytearray(file.read_bytes())
            content[generator.integers(len(content))] ^= 1 << int(generator.integers(8))
            file.unlink()
            if how != "gone":
                file.write_bytes(content if how == "flipped" else content[: generator.integers(len(content))])
            again = scored(job(folder, tmp_path))
            assert missing <= len(again) < N
            assert tree(tmp_path / "s") == undisturbed


def test_a_ledger_without_what_it_tells_of_is_of_no_use(
    folder: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    left(job(folder, tmp_path), 5)
    shutil.rmtree(chunks(tmp_path, "label")[0].parents[2])
    assert len(scored(job(folder, tmp_path))) == N
    assert tree(tmp_path / "s") == undisturbed


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": "dgmm-ledger-1"}', b"\xff", b"[" * 100_000])
def test_a_head_that_is_damaged_starts_over(
    content: bytes, folder: Path, undisturbed: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left(job(folder, tmp_path), 5)
    next(tmp_path.glob(f"s.partial/*-records/{HEAD}")).write_bytes(content)
    assert len(scored(job(folder, tmp_path))) == N
    assert "the ledger of" in caplog.text
    assert tree(tmp_path / "s") == undisturbed


def test_a_record_of_another_ledger_is_none(folder: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_job(other)
    save(fit(5), other / "m.zarr", overwrite=True)
    left(job_of(other, other / "s"), 6)
    left(job(folder, tmp_path), N)
    theirs, *_ = records(other)
    shutil.copy(theirs, records(tmp_path)[0].with_name("00000009-000000000000-aaaaaaaaaaaa"))
    assert scored(job(folder, tmp_path)) == []
    assert tree(tmp_path / "s") == undisturbed


# ---- other sources, other models, other runs ------------------------------------------------------------------------


def test_another_source_or_model_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    this = write_job(tmp_path).model_copy(update={"out": str(tmp_path / "s")})
    left(this, 5)
    before = {path.name: content for path, content in ((p, p.read_bytes()) for p in records(tmp_path))}
    array = zarr.open_array(this.data.path)
    first = array[0]
    array[0] = 1.0
    with pytest.raises(OutputExistsError, match=r"the source was [0-9a-f]{16}, now [0-9a-f]{16} \(stored chunks of"):
        run_score(this)
    save(fit(4), this.model, overwrite=True)
    message = (
        r"the model was [0-9a-f]{16}, now [0-9a-f]{16}; the source was [0-9a-f]{16}, now [0-9a-f]{16} .*--overwrite"
    )
    with pytest.raises(OutputExistsError, match=message):
        run_score(this)
    assert {path.name: path.read_bytes() for path in records(tmp_path)} == before
    # what was refused is still there for those who come back with what it was made of
    save(fit(), this.model, overwrite=True)
    array[0] = first
    with pytest.raises(OutputExistsError, match="the source was"):  # it was written anew
        run_score(this)
    again = this.model_copy(update={"overwrite": True})
    assert len(scored(again)) == N
    run_score(this.model_copy(update={"out": str(tmp_path / "undisturbed")}))
    assert tree(tmp_path / "s") == tree(tmp_path / "undisturbed")


def test_a_source_that_changes_while_it_is_scored_comes_to_nothing(tmp_path: Path) -> None:
    this = write_job(tmp_path).model_copy(update={"out": str(tmp_path / "s")})

    def change() -> None:
        zarr.open_array(this.data.path)[0] = 1.0

    message = r"x.zarr was changed while it was scored: it was [0-9a-f]{16}, and is [0-9a-f]{16} now"
    with at_region(5, change), pytest.raises(DgmmError, match=message):
        run_score(this)
    assert not (tmp_path / "s").exists()
    with pytest.raises(OutputExistsError, match="the source was"):
        run_score(this)
    assert len(scored(this.model_copy(update={"overwrite": True}))) == N


def test_what_was_asked_for_in_another_way_is_refused(folder: Path, tmp_path: Path) -> None:
    left(job(folder, tmp_path), 5)
    with pytest.raises(OutputExistsError, match="its arrays were"):
        run_score(job(folder, tmp_path, probabilities=True))
    assert len(scored(job(folder, tmp_path))) == N - 5


def test_a_second_run_is_refused_while_the_first_lives(
    folder: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    def second() -> None:
        for overwrite in (False, True):
            with pytest.raises(OutputExistsError, match="is being written by run"):
                run_score(job(folder, tmp_path, overwrite=overwrite))

    with at_region(5, second):
        run_score(job(folder, tmp_path))
    assert tree(tmp_path / "s") == undisturbed


def test_scores_that_are_being_replaced_stay_until_the_others_are_complete(folder: Path, tmp_path: Path) -> None:
    this = write_job(tmp_path).model_copy(update={"out": str(tmp_path / "s")})
    run_score(this)
    before = tree(tmp_path / "s")
    save(fit(4), this.model, overwrite=True)
    anew = this.model_copy(update={"overwrite": True})
    left(anew, 5)
    assert tree(tmp_path / "s") == before
    with pytest.raises(OutputExistsError, match="exists already"):
        run_score(this)
    assert len(scored(anew)) == N - 5
    run_score(this.model_copy(update={"out": str(tmp_path / "undisturbed")}))
    assert tree(tmp_path / "s") == tree(tmp_path / "undisturbed") != before


@pytest.mark.parametrize("where", ["records", "chunks"])
def test_a_full_disk_leaves_what_was_there(
    where: str, folder: Path, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    write = segments.ScoreSegment._write
    seen: list[int] = []

    def filled(self: Any, segment: int, rows: Any) -> Any:
        seen.extend([1] * bool(len(rows)))
        if len(seen) == 6:
            monkeypatch.setattr(*((folders.os, "fsync", full) if where == "records" else (local, "_put", full)))
        return write(self, segment, rows)

    monkeypatch.setattr(segments.ScoreSegment, "_write", filled)
    with pytest.raises(DgmmError, match=r"s cannot be written: No space left on device; see to that"):
        run_score(job(folder, tmp_path))
    monkeypatch.undo()
    with ledgers.small_for_a_while():
        assert len(scored(job(folder, tmp_path))) == N - 5
    assert tree(tmp_path / "s") == undisturbed


# ---- in an object store, in shards ----------------------------------------------------------------------------------


def test_it_is_the_same_in_an_object_store(folder: Path, s3: str) -> None:
    out, whole = job_of(folder, f"{s3}/s"), job_of(folder, f"{s3}/whole")
    run_score(whole)
    for number in (2, 3, 1):
        left(out, number)
        assert place_at(out.out).state().status is Status.UNFINISHED
        assert "zarr.json" not in tree(out.out)
    objects = tree(out.out)
    first, second = [key for key in objects if key.startswith("label/c/")][:2]
    ledgers.object_put(out.out, first, objects[second])
    assert len(scored(out)) == N - 5
    assert tree(out.out) == tree(whole.out)
    assert tree(f"{out.out}.partial") == {}


def test_a_source_in_shards_is_scored_along_them(tmp_path: Path) -> None:
    this = write_job(tmp_path, chunks=(10, 3), shards=(40, 3))
    run_score(this)
    assert zarr.open_group(this.out, mode="r")["label"].chunks == (40,)
    other = this.model_copy(update={"out": str(tmp_path / "s")})
    left(other, 2)
    assert len(scored(other)) == 4
    assert tree(tmp_path / "s") == tree(tmp_path / "out")


def test_the_function_goes_on_too(folder: Path, tmp_path: Path) -> None:
    given = (str(folder / "m.zarr"), str(folder / "x.zarr"))
    with at_region(5, stop), pytest.raises(Stop):
        dgmm.score(*given, tmp_path / "s", n_workers=1)
    with at_region(0, stop) as done:
        found = dgmm.score(*given, tmp_path / "s", n_workers=1)
    assert len(done) == N - 5
    assert found.attrs["complete"] == 1
    assert dgmm.verify(tmp_path / "s", recompute=1.0).is_sound
