"""Whatever dies, the work that was done is kept, and the result has the same bits as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import psutil
import pytest
import zarr

import dgmm
from dgmm.config import Data, Pipeline
from dgmm.data import object_at
from dgmm.engine import Fold
from dgmm.passes import packed, unpacked
from dgmm.pipeline import select_stage
from dgmm.store import folders
from tests.journals import Stop, at_record, bits, n_records, select, stop, train, work, write_data

JOBS: dict[str, Callable[..., Any]] = {"train": train, "select": select}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_data(tmp_path_factory.mktemp("journal"))


@pytest.fixture(scope="module")
def undisturbed(data: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What jobs come to that nothing happens to, without a journal's help."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return {name: bits(work(job(data, folder / name))) for name, job in JOBS.items()}


@pytest.fixture(scope="module")
def journals(data: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, int]]:
    """The whole journals of jobs, and how many records they have."""
    folder = tmp_path_factory.mktemp("kept")
    found = {}
    for name, job in JOBS.items():
        journal = Path(f"{work(job(data, folder / name, keep_journal=True))}.journal")
        found[name] = journal, n_records(journal)
    return found


def resumed(name: str, data: str, journal: Path, out: Path) -> dict[str, Any]:
    """What a job comes to that finds a journal."""
    beside = out / "model.zarr.journal" if name == "select" else out.with_name(out.name + ".journal")
    beside.parent.mkdir(exist_ok=True, parents=True)
    shutil.copytree(journal, beside)
    return bits(work(JOBS[name](data, out)))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of passes that are made over the data."""
    made: list[str] = []
    call = Fold.__call__

    def counted(self: Fold, leaf: Any) -> Any:
        made.append(type(leaf).__name__)
        return call(self, leaf)

    monkeypatch.setattr(Fold, "__call__", counted)
    return made


def test_a_journal_changes_no_bit_and_does_away_with_all_passes(
    data: str,
    undisturbed: dict[str, dict[str, Any]],
    journals: dict[str, tuple[Path, int]],
    passes: list[str],
    tmp_path: Path,
) -> None:
    for name, (journal, n) in journals.items():
        assert n > 8
        assert resumed(name, data, journal, tmp_path / name) == undisturbed[name]
    assert passes == []
    x = np.asarray(zarr.open_array(data, mode="r"))
    without = dgmm.train(x, 3, **train(data, "m").training.model_dump(exclude_defaults=True))
    assert without.trajectory == dgmm.load(tmp_path / "train").trajectory
    assert {*passes} == {"ProfileSegment", "EStepSegment", "WorstSegment", "JudgeSegment"}


@pytest.mark.parametrize("name", JOBS)
def test_a_run_that_ends_after_any_record_goes_on_from_there(
    name: str, data: str, undisturbed: dict[str, dict[str, Any]], journals: dict[str, tuple[Path, int]],
    passes: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    _, n = journals[name]
    for number in range(1, n + 1):
        job = JOBS[name](data, tmp_path / f"{number}")
        with at_record(number, stop), pytest.raises(Stop):
            work(job)
        assert f"{number} passes are kept" in caplog.messages[-1]
        passes.clear()
        assert bits(work(job)) == undisturbed[name]
        assert len(passes) == n - number, "what was done is not done again"
    left = {path.name for path in tmp_path.rglob("*.journal*")}
    assert left == set(), "a fit that has ended leaves no journal"


def script(name: str, data: str, out: Path, number: int) -> list[str]:
    """A command that does a job, and is killed by SIGKILL once it has written so many records more."""
    code = (
        "import os, signal; from tests import journals as j\n"
        f"with j.at_record({number}, lambda: os.kill(os.getpid(), signal.SIGKILL)):\n"
        f"    j.work(j.{name}({data!r}, {str(out)!r}))"
    )
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("name", JOBS)
def test_a_driver_that_is_killed_again_and_again_comes_to_the_same(
    name: str, data: str, undisturbed: dict[str, dict[str, Any]], journals: dict[str, tuple[Path, int]], tmp_path: Path
) -> None:
    _, n = journals[name]
    out = tmp_path / "out"
    model = out / "model.zarr" if name == "select" else out
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    for number in [*range(3, n, 4), n]:
        run = subprocess.run(script(name, data, out, number), env=environment, capture_output=True, check=False)
        assert run.returncode == -signal.SIGKILL, run.stderr
        assert n_records(f"{model}.journal") == number
    run = subprocess.run(script(name, data, out, 0), env=environment, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr
    assert bits(str(model)) == undisturbed[name]
    assert [path.name for path in tmp_path.rglob("*") if ".journal" in path.name or ".partial" in path.name] == []


# ---- damage ----------------------------------------------------------------------------------------------------------


def test_a_record_that_is_torn_ends_the_journal_there(
    data: str, undisturbed: dict[str, dict[str, Any]], journals: dict[str, tuple[Path, int]], passes: list[str],
    tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    journal, n = journals["train"]
    whole = (journal / f"{n:08d}").read_bytes()
    for length in range(len(whole)):  # quickly at every length, and the whole way at some
        with pytest.raises(ValueError, match=r"not all of one|not what was written"):
            unpacked(whole[:length])
    for i, length in enumerate([0, 1, 20, len(whole) // 2, len(whole) - 1]):
        torn = tmp_path / f"torn{i}"
        shutil.copytree(journal, torn)
        (torn / f"{n:08d}").write_bytes(whole[:length])
        passes.clear()
        assert resumed("train", data, torn, tmp_path / f"m{i}") == undisturbed["train"]
        assert passes == ["JudgeSegment"]
        assert any(f"ends before record {n}" in message for message in caplog.messages)
        caplog.clear()


def test_a_bit_that_flips_in_any_record_ends_the_journal_there(
    data: str, undisturbed: dict[str, dict[str, Any]], journals: dict[str, tuple[Path, int]], passes: list[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    journal, n = journals["train"]
    r = np.random.default_rng(0)
    for number in range(n + 1):
        damaged = tmp_path / f"damaged{number}"
        shutil.copytree(journal, damaged)
        file = damaged / (f"{number:08d}" if number else "dgmm-journal.json")
        content = bytearray(file.read_bytes())
        content[r.integers(len(content))] ^= 1 << int(r.integers(8))
        file.write_bytes(content)
        passes.clear()
        assert resumed("train", data, damaged, tmp_path / f"m{number}") == undisturbed["train"]
        assert len(passes) == n - max(number - 1, 0)


def test_a_record_of_another_journal_does_not_follow(
    data: str, undisturbed: dict[str, dict[str, Any]], journals: dict[str, tuple[Path, int]], tmp_path: Path
) -> None:
    work(train(data, tmp_path / "other", keep_journal=True, k=2))
    mixed = tmp_path / "mixed"
    shutil.copytree(journals["train"][0], mixed)
    shutil.copy(tmp_path / "other.journal" / "00000003", mixed / "00000003")
    assert resumed("train", data, mixed, tmp_path / "m") == undisturbed["train"]


# ---- departures ------------------------------------------------------------------------------------------------------


def with_other_keys(journal: Path, number: int, folder: Path) -> Path:
    """A journal whose record of this number, counted from one, answers another question; its chain is whole."""
    shutil.copytree(journal, folder)
    before = None
    for file in sorted(folder.glob("0*")):
        header, arrays, _ = unpacked(file.read_bytes())
        if int(file.name) == number:
            header["entry"]["list"][0] = "0" * 64
        header["before"] = before or header["before"]
        del header["arrays"]
        content = packed(header, arrays)
        file.write_bytes(content)
        before = unpacked(content)[2]
    return folder


@pytest.mark.parametrize("name", JOBS)
def test_a_replay_that_departs_goes_on_from_the_best_mixture_and_says_so(
    name: str, data: str, journals: dict[str, tuple[Path, int]], passes: list[str], tmp_path: Path,
    undisturbed: dict[str, dict[str, Any]], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """From the second pass on; the log-likelihood is what the fit had reached, in fewer passes than it had taken."""
    journal, _ = journals[name]
    found = resumed(name, data, with_other_keys(journal, 2, tmp_path / "other"), tmp_path / "m")
    assert sum("asks for something else" in message for message in caplog.messages) == 1
    n = 1 if name == "train" else 6
    told = [message for message in caplog.messages if "going on from the best mixtures" in message]
    assert told == [f"going on from the best mixtures of the journal, for {n} of {n} candidates"]
    reached, whole = (json.loads(b["attributes"])["log_likelihood"] for b in (found, undisturbed[name]))
    assert reached > whole - 0.5
    trajectory = np.frombuffer(found["trajectory"])
    assert trajectory[0] == pytest.approx(max(np.frombuffer(undisturbed[name]["trajectory"])), abs=0.5)


def test_a_fit_that_has_departed_is_resumed_as_any_other(
    data: str, journals: dict[str, tuple[Path, int]], passes: list[str], tmp_path: Path
) -> None:
    other = with_other_keys(journals["train"][0], 4, tmp_path / "other")
    whole = resumed("train", data, other, tmp_path / "whole")
    shutil.copytree(other, tmp_path / "m.journal")
    with at_record(6, stop), pytest.raises(Stop):
        work(train(data, tmp_path / "m"))
    passes.clear()
    assert bits(work(train(data, tmp_path / "m"))) == whole
    assert passes, "there is something left to do"


def test_a_departure_in_the_first_pass_starts_over(
    data: str, journals: dict[str, tuple[Path, int]], undisturbed: dict[str, dict[str, Any]], passes: list[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    other = with_other_keys(journals["train"][0], 1, tmp_path / "other")
    assert resumed("train", data, other, tmp_path / "m") == undisturbed["train"]
    assert len(passes) == journals["train"][1]


# ---- other data, other settings, other runs --------------------------------------------------------------------------


@pytest.fixture
def left(data: str, tmp_path: Path) -> Path:
    """Where a run has left its journal."""
    with at_record(3, stop), pytest.raises(Stop):
        work(train(data, tmp_path / "m"))
    return tmp_path / "m"


def test_other_settings_are_refused_by_name(left: Path, data: str) -> None:
    before = {path: path.read_bytes() for path in left.parent.rglob("*") if path.is_file()}
    with pytest.raises(dgmm.OutputExistsError, match=r"other settings \(n_components was 3, now 4\).*--overwrite"):
        work(train(data, left, k=4))
    with pytest.raises(dgmm.OutputExistsError, match=r"\(training.seed was 0, now 1\)"):
        work(train(data, left, training={"seed": 1}))
    assert {path: path.read_bytes() for path in left.parent.rglob("*") if path.is_file()} == before
    assert work(train(data, left, k=4, overwrite=True)) == str(left)
    assert not left.with_name("m.journal").exists()


def test_other_data_are_refused_by_name(data: str, tmp_path: Path) -> None:
    copy = str(tmp_path / "x.zarr")
    shutil.copytree(data, copy)
    with at_record(3, stop), pytest.raises(Stop):
        work(train(copy, tmp_path / "m"))
    zarr.open_array(copy)[0] = 0.0
    with pytest.raises(dgmm.OutputExistsError, match=r"its data have changed \(stored chunks of values"):
        work(train(copy, tmp_path / "m"))
    zarr.open_array(copy).attrs["units"] = "degC"
    with pytest.raises(dgmm.OutputExistsError, match="attributes of values"):
        work(train(copy, tmp_path / "m"))
    shutil.rmtree(copy)
    zarr.save_array(copy, np.zeros((2000, 3), np.float32))
    with pytest.raises(dgmm.OutputExistsError, match=r"features; .*shape was .*3000.* now .*2000"):
        work(train(copy, tmp_path / "m"))


def test_a_second_run_is_refused_while_the_first_lives(data: str, tmp_path: Path) -> None:
    def second() -> None:
        with pytest.raises(dgmm.OutputExistsError, match="is being written by run"):
            work(train(data, tmp_path / "m"))
        with pytest.raises(dgmm.OutputExistsError, match="is being written by run"):
            dgmm.train(data, 3, journal=tmp_path / "m.journal")

    with at_record(2, second):
        work(train(data, tmp_path / "m"))


def test_a_finished_fit_leaves_its_journal_only_where_that_is_asked_for(data: str, tmp_path: Path) -> None:
    work(train(data, tmp_path / "m"))
    assert os.listdir(tmp_path) == ["m"]
    work(train(data, tmp_path / "m", keep_journal=True, overwrite=True))
    assert sorted(os.listdir(tmp_path)) == ["m", "m.journal"]


def test_a_journal_that_cannot_be_removed_does_not_undo_the_fit(
    data: str, undisturbed: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def fail(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(folders.LocalFolder, "remove", fail)
        assert bits(work(train(data, tmp_path / "m"))) == undisturbed["train"]
    assert "m.journal is of no use any more, and cannot be removed: [Errno 5]" in caplog.text
    work(train(data, tmp_path / "m", overwrite=True))
    assert os.listdir(tmp_path) == ["m"]


def test_a_stage_of_the_whole_job_goes_on(data: str, passes: list[str], tmp_path: Path) -> None:
    given = select(data, tmp_path / "run")
    job = Pipeline(**given.model_dump(exclude={"data"}), data=Data(path=data))
    with at_record(4, stop), pytest.raises(Stop):
        select_stage(job)
    passes.clear()
    select_stage(job)
    assert "ProfileSegment" not in passes
    assert sorted(os.listdir(tmp_path / "run")) == ["candidates.csv", "model.zarr"]


@pytest.mark.parametrize("name", JOBS)
def test_it_is_the_same_in_an_object_store(
    name: str, data: str, undisturbed: dict[str, dict[str, Any]], passes: list[str], s3: str
) -> None:
    job = JOBS[name](data, f"{s3}/m")
    for number in (2, 5):
        with at_record(number, stop), pytest.raises(Stop):
            work(job)
        passes.clear()
    assert bits(work(job)) == undisturbed[name]
    assert "ProfileSegment" not in passes
    objects, _ = object_at(f"{s3}/m")
    assert not [o["path"] for batch in obstore.list(objects) for o in batch if ".journal" in o["path"]]


def test_the_function_goes_on_where_it_is_given_a_journal(data: str, passes: list[str], tmp_path: Path) -> None:
    options = train(data, "m").training.model_dump(exclude_defaults=True)
    undisturbed = dgmm.train(data, 3, **options)
    n = len(passes)
    with at_record(5, stop), pytest.raises(Stop):
        dgmm.train(data, 3, journal=tmp_path / "j", **options)
    passes.clear()
    again = dgmm.train(data, 3, journal=tmp_path / "j", keep_journal=True, **options)
    assert again.trajectory == undisturbed.trajectory
    assert len(passes) == n - 5
    with pytest.raises(dgmm.OutputExistsError, match="n_components was 3, now 2"):
        dgmm.train(data, 2, journal=tmp_path / "j", **options)
    chosen = dgmm.select(data, [1, 2], ["tied"], journal=tmp_path / "s", **options)
    assert chosen.best.trajectory == dgmm.select(data, [1, 2], ["tied"], **options).best.trajectory
    assert os.listdir(tmp_path) == ["j"]


def test_seconds_and_reads_are_those_of_all_runs(data: str, tmp_path: Path) -> None:
    with at_record(6, stop), pytest.raises(Stop):
        work(select(data, tmp_path / "s"))
    began = time.perf_counter()
    found = dgmm.load(work(select(data, tmp_path / "s")))
    assert time.perf_counter() > began
    assert min(found.seconds) > 1e-4, "no pass takes no time"


# ---- signals and full disks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_fit_with_how_to_go_on(number: signal.Signals, data: str, tmp_path: Path) -> None:
    """The code is that of the signal, the last line says how to go on, and no process is left."""
    command = [
        sys.executable,
        "-m",
        "dgmm.cli",
        "train",
        data,
        "--k",
        "6",
        "--out",
        str(tmp_path / "m.zarr"),
        "--quiet",
    ]
    command += ["--scheduler", "processes", "--workers", "1", "--tol", "1e-15", "--search", "starts"]
    command += ["--max-iter", "1000000", "--accelerate", "none", "--n-init", "1"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 200
        while n_records(tmp_path / "m.zarr.journal") < 4 and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        (os.killpg if number == signal.SIGINT else os.kill)(run.pid, number)
        _, errors = run.communicate(timeout=100)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    n = n_records(tmp_path / "m.zarr.journal")
    word = "interrupted" if number == signal.SIGINT else "terminated"
    told = f"dgmm: {word}: nothing half-written is left; the same command again goes on after pass "
    # the signal may come between a record's rename and the flush after it, before which it does not count
    assert errors.splitlines()[-1] in (f"{told}{n}", f"{told}{n - 1}")
    assert run.returncode == 128 + number
    assert os.listdir(tmp_path) == ["m.zarr.journal"]
    processes = [p for p in psutil.process_iter(["pid"]) if p.pid != run.pid and _session(p.pid) == run.pid]
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_is_told_and_what_was_there_goes_on(
    failing: str, data: str, undisturbed: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill() -> None:
        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(folders.os, failing, full) if failing == "fsync" else monkeypatch.setattr(
            folders, "write_whole", full
        )

    with (
        at_record(5, fill),
        pytest.raises(dgmm.DgmmError, match=r"journal .*m.journal cannot be written: No space left on device"),
    ):
        work(train(data, tmp_path / "m"))
    monkeypatch.undo()
    assert n_records(tmp_path / "m.journal") == 5
    assert not list((tmp_path / "m.journal").glob("*.part"))
    assert bits(work(train(data, tmp_path / "m"))) == undisturbed["train"]
