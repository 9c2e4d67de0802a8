"""Places: what lies there is told apart, only what is ours is replaced, and two runs never write the same one."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import obstore.store
import pytest
import xarray as xr
import zarr

from dgmm.data import PARTIAL, RECORD, Heartbeat, Run, record_of, runs, store_at
from dgmm.data.runs import BEAT, SILENCE
from dgmm.errors import DgmmError, InputError, OutputError, OutputExistsError
from dgmm.store import Output, Status, folder_at, place_at, places
from dgmm.store import models as store
from dgmm.store.places import overlap
from tests.store.test_models import assert_same, make_fit


class Site:
    """A folder or a prefix of a bucket, and everything in it as bytes."""

    def __init__(self, root: str, prefix: str) -> None:
        self.root = root
        self.objects = obstore.store.from_url(prefix) if "://" in prefix else None
        self.prefix = prefix

    def __str__(self) -> str:
        return self.root

    @property
    def place(self) -> str:
        return f"{self.root}/out.zarr"

    def put(self, key: str, content: bytes) -> None:
        if self.objects is not None:
            obstore.put(self.objects, key, content)
            return
        path = Path(self.prefix, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def files(self) -> dict[str, bytes]:
        if self.objects is not None:
            keys = [found["path"] for batch in obstore.list(self.objects) for found in batch]
            return {key: bytes(obstore.get(self.objects, key).bytes()) for key in keys}
        paths = [path for path in Path(self.prefix).rglob("*") if path.is_file()]
        return {str(path.relative_to(self.prefix)): path.read_bytes() for path in paths}

    def zarr(self, name: str, attributes: dict[str, Any]) -> None:
        """A group with one array, as dgmm or somebody else would write it."""
        target = store_at(f"{self.root}/{name}", read_only=False)
        group = zarr.create_group(target, attributes=attributes)
        group.create_array("x", data=np.arange(6.0), chunks=(2,))

    def record(self, name: str, run: Run) -> None:
        """The claim of a run."""
        self.put(f"{name}{PARTIAL}/{RECORD}", run.to_json())


@pytest.fixture(params=["path", "file", "s3"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    """The same as a path, a file:// URL and in an object store."""
    if request.param == "s3":
        url = request.getfixturevalue("s3")
        return Site(url, url)
    return Site(f"file://{tmp_path}" if request.param == "file" else str(tmp_path), str(tmp_path))


@pytest.fixture
def dead() -> Run:
    """A run of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    began = runs.started(process.pid)
    process.wait()
    run = Run.begin()
    run.end()
    return replace(run, pid=process.pid, started=began)


def write_group(output: Output, value: float = 1.0) -> None:
    dataset = xr.Dataset({"v": ("i", np.full(4, value))}, attrs={"format": "dgmm-scores-1"})
    dataset.to_zarr(output.store(), mode="w-", zarr_format=3, consolidated=False)


def write(place: str, value: float = 1.0, *, overwrite: bool = False, what: str = "scores") -> None:
    with place_at(place).begin(what, overwrite=overwrite) as output:
        write_group(output, value)
        output.finish()


def value_at(place: str) -> float:
    dataset = xr.open_zarr(store_at(place, read_only=True), consolidated=False)
    return float(dataset["v"].values[0])


# ---- what lies there x overwrite -> what is left --------------------------------------------------------------------


def nothing(site: Site, dead: Run) -> None:
    pass


def ours(site: Site, dead: Run) -> None:
    write(site.place, 7.0)


def another_output(site: Site, dead: Run) -> None:
    site.zarr("out.zarr", {"format": "dgmm-model-1"})


def a_model_in_json(site: Site, dead: Run) -> None:
    store.save(make_fit(), f"{site}/model.json")
    site.put("out.zarr", site.files()["model.json"])


def a_store_of_somebody(site: Site, dead: Run) -> None:
    site.zarr("out.zarr", {"title": "years of work"})


def something_like_ours(site: Site, dead: Run) -> None:
    site.zarr("out.zarr", {"format": "dgmm"})


def ours_with_a_file_in_it(site: Site, dead: Run) -> None:
    write(site.place, 7.0)
    site.put("out.zarr/notes.txt", b"do not lose me")


def ours_with_a_folder_in_it(site: Site, dead: Run) -> None:
    write(site.place, 7.0)
    site.put("out.zarr/letters/1.txt", b"do not lose me")


def files(site: Site, dead: Run) -> None:
    site.put("out.zarr/notes.txt", b"do not lose me")


def a_file(site: Site, dead: Run) -> None:
    site.put("out.zarr", b"do not lose me")


def a_damaged_group(site: Site, dead: Run) -> None:
    site.put("out.zarr/zarr.json", b"{")


def left_by_a_dead_run(site: Site, dead: Run) -> None:
    site.record("out.zarr", dead)
    if site.objects is not None:
        site.put("out.zarr/v/zarr.json", b"{}")
        site.put("out.zarr/v/c/0", b"half")
    else:
        site.put(f"out.zarr{PARTIAL}/{dead.id}/v/c/0", b"half")
        site.put(f"out.zarr{PARTIAL}/{dead.id}-record", b"half")


def a_dead_run_and_files_of_somebody(site: Site, dead: Run) -> None:
    site.record("out.zarr", dead)
    site.put("out.zarr/notes.txt", b"do not lose me")


def a_run_at_work(site: Site, dead: Run) -> None:
    site.record("out.zarr", replace(dead, pid=os.getppid(), started=runs.started(os.getppid())))


def a_run_at_work_elsewhere(site: Site, dead: Run) -> None:
    site.record("out.zarr", replace(dead, machine="another", seen=time.time() - SILENCE / 2))


def a_run_that_died_elsewhere(site: Site, dead: Run) -> None:
    site.record("out.zarr", replace(dead, machine="another", seen=time.time() - 2 * SILENCE))


def a_number_given_to_another_process(site: Site, dead: Run) -> None:
    site.record("out.zarr", replace(dead, pid=os.getppid(), started=runs.started(os.getppid()) - 60))


def somebodys_partial_folder(site: Site, dead: Run) -> None:
    site.put(f"out.zarr{PARTIAL}/thesis.tex", b"do not lose me")


def somebodys_record(site: Site, dead: Run) -> None:
    site.put(f"out.zarr{PARTIAL}/{RECORD}", b'{"runs": ["marathon"]}')
    site.put(f"out.zarr{PARTIAL}/thesis.tex", b"do not lose me")


REFUSED, WRITTEN = "refused", "written"


@pytest.mark.parametrize(
    ("there", "status", "unasked", "asked"),
    [
        (nothing, Status.ABSENT, WRITTEN, WRITTEN),
        (ours, Status.FINISHED, REFUSED, WRITTEN),
        (another_output, Status.FINISHED, REFUSED, REFUSED),
        (a_model_in_json, Status.FINISHED, REFUSED, REFUSED),
        (a_store_of_somebody, Status.STRANGE, REFUSED, REFUSED),
        (something_like_ours, Status.STRANGE, REFUSED, REFUSED),
        (ours_with_a_file_in_it, Status.STRANGE, REFUSED, REFUSED),
        (ours_with_a_folder_in_it, Status.STRANGE, REFUSED, REFUSED),
        (files, Status.STRANGE, REFUSED, REFUSED),
        (a_file, Status.STRANGE, REFUSED, REFUSED),
        (a_damaged_group, Status.STRANGE, REFUSED, REFUSED),
        (left_by_a_dead_run, Status.UNFINISHED, WRITTEN, WRITTEN),
        (a_dead_run_and_files_of_somebody, Status.STRANGE, REFUSED, REFUSED),
        (a_run_at_work, Status.UNFINISHED, REFUSED, REFUSED),
        (a_run_at_work_elsewhere, Status.UNFINISHED, REFUSED, REFUSED),
        (a_run_that_died_elsewhere, Status.UNFINISHED, WRITTEN, WRITTEN),
        (a_number_given_to_another_process, Status.UNFINISHED, WRITTEN, WRITTEN),
        (somebodys_partial_folder, Status.ABSENT, REFUSED, REFUSED),
        (somebodys_record, Status.ABSENT, REFUSED, REFUSED),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_may_be_replaced(
    there: Callable[[Site, Run], None], status: Status, unasked: str, asked: str, overwrite: bool, site: Site, dead: Run
) -> None:
    there(site, dead)
    before = site.files()
    assert place_at(site.place).state().status is status
    if there is somebodys_partial_folder and site.objects is not None:
        # keys do not get into each other's way
        asked = unasked = WRITTEN
    if (asked if overwrite else unasked) == REFUSED:
        with pytest.raises(OutputExistsError) as caught:
            write(site.place, overwrite=overwrite)
        assert "\n" not in str(caught.value)
        assert "out.zarr" in str(caught.value)
        assert site.files() == before, "nothing is lost, nothing is left"
        return
    write(site.place, 1.5, overwrite=overwrite)
    assert value_at(site.place) == 1.5
    left = {name.split("/")[0] for name in site.files()}
    assert left == {name.split("/")[0] for name in before if "thesis" in name} | {"out.zarr"}
    assert place_at(site.place).state() == places.State(Status.FINISHED, "scores")


def test_a_place_that_is_refused_is_left_as_it_was(site: Site) -> None:
    """No folders are made on the way to a refusal, nor for an output that does not come."""
    with pytest.raises(RuntimeError), place_at(f"{site}/a/b/out.zarr").begin("scores", overwrite=False):
        raise RuntimeError
    assert site.files() == {}
    if site.objects is None:
        assert os.listdir(site.prefix) == []


# ---- two runs ----------------------------------------------------------------------------------------------------


def test_the_second_of_two_runs_is_refused_while_the_first_lives(site: Site) -> None:
    with place_at(site.place).begin("scores", overwrite=True) as first:
        with pytest.raises(OutputExistsError, match=r"is being written by run \w{8} on .* \(process \d+, since"):
            write(site.place, 2.0, overwrite=True)
        write_group(first, 1.0)
        with pytest.raises(OutputExistsError, match="is being written"):
            write(site.place, 2.0, overwrite=True)
        first.finish()
    assert value_at(site.place) == 1.0
    write(site.place, 2.0, overwrite=True)
    assert value_at(site.place) == 2.0


PROGRAM = """
import sys, time
from dgmm.store import place_at
from tests.store.test_places import write_group
with place_at(sys.argv[1]).begin("scores", overwrite=True) as output:
    write_group(output, 3.0)
    print("writing", flush=True)
    sys.stdin.read()
    output.finish()
"""


def other_process(place: str) -> subprocess.Popen[str]:
    """Another process in the middle of writing."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def test_a_run_of_another_process_is_respected_until_it_is_killed(site: Site) -> None:
    write(site.place, 1.0)
    with other_process(site.place) as process:
        with pytest.raises(OutputExistsError, match=f"process {process.pid},"):
            write(site.place, 2.0, overwrite=True)
        process.kill()
    write(site.place, 2.0, overwrite=True)
    assert value_at(site.place) == 2.0
    assert {name.split("/")[0] for name in site.files()} == {"out.zarr"}


def test_a_run_of_another_process_is_told_of_where_its_output_is_missing(site: Site) -> None:
    with other_process(site.place) as process:
        with pytest.raises(InputError, match="is writing it"):
            store.attributes(site.place)
        process.kill()
    with pytest.raises(InputError, match="has died and left it unfinished"):
        store.attributes(site.place)


@pytest.mark.parametrize("n", [2, 8])
def test_of_many_who_find_a_dead_run_one_takes_over(site: Site, dead: Run, n: int) -> None:
    left_by_a_dead_run(site, dead)
    start, over, results = threading.Barrier(n), threading.Barrier(n), []

    def contend(value: float) -> None:
        start.wait()
        with contextlib.ExitStack() as stack:
            try:
                output = stack.enter_context(place_at(site.place).begin("scores", overwrite=True))
                write_group(output, value)
                results.append(value)
            except Exception as error:  # nobody may wait for ever
                output = None
                results.append(repr(error))
            over.wait()
            if output is not None:
                output.finish()

    threads = [threading.Thread(target=contend, args=(float(i),)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [r for r in results if isinstance(r, float)]
    assert len(results) == n
    assert all(isinstance(r, float) or "is being written" in r for r in results)
    assert value_at(site.place) == winner


def test_a_run_that_was_taken_for_dead_can_write_no_more(site: Site) -> None:
    """It has lost its claim to another: nothing of it gets into the output of that."""
    with pytest.raises(DgmmError, match="is not to be written by run"), place_at(site.place).begin(
        "scores", overwrite=True
    ) as first:  # fmt: skip
        write_group(first, 1.0)
        lost = replace(first.run, machine="another", seen=time.time() - 2 * SILENCE)
        site.record("out.zarr", lost)
        write(site.place, 2.0, overwrite=True)
        with pytest.raises(DgmmError, match="its claim is gone"):
            first.writer.check()
        first.finish()
    assert value_at(site.place) == 2.0


def test_an_output_that_another_run_has_claimed_is_not_cleared_away(site: Site) -> None:
    """The first gives up while the second is at work: what it removes is its own."""
    with place_at(site.place).begin("scores", overwrite=True) as first:
        write_group(first, 1.0)
        site.record("out.zarr", replace(first.run, machine="another", seen=0.0))
        second = place_at(site.place).begin("scores", overwrite=True)
        output = second.__enter__()
        write_group(output, 2.0)
    output.finish()
    second.__exit__(None, None, None)
    assert value_at(site.place) == 2.0


def test_signs_of_life_are_given(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 3 * BEAT < SILENCE, "a beat or two may be lost"
    monkeypatch.setattr(runs, "BEAT", 0.01)
    with place_at(site.place).begin("scores", overwrite=True):
        first = record_of(site.place)
        assert first is not None
        while (found := record_of(site.place)) is not None and found.seen == first.seen:
            time.sleep(0.01)
        assert found == replace(first, seen=found.seen)
        assert found.seen > first.seen
    assert not [t for t in threading.enumerate() if t.name == "dgmm-heartbeat"]


def test_a_run_gives_no_signs_of_life_for_another(site: Site) -> None:
    with place_at(site.place).begin("scores", overwrite=True) as output:
        stolen = replace(output.run, id="0" * 32)
        site.record("out.zarr", stolen)
        output.beat()
        assert record_of(site.place) == stolen


def test_a_heartbeat_survives_what_goes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "BEAT", 0.001)
    beats: list[int] = []

    def beat() -> None:
        beats.append(1)
        raise OSError("the store is away")

    with Heartbeat(beat):
        while len(beats) < 3:
            time.sleep(0.001)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b"7", b'{"id": 7}', b"\xff", b"[" * 100_000], ids=lambda c: repr(c[:8])
)
def test_what_is_no_record_is_told(content: bytes) -> None:
    assert Run.from_json(content) is None


@pytest.mark.parametrize("change", [{"id": "x"}, {"id": 3}, {"pid": -1}, {"seen": "now"}, {"host": None}, {"more": 1}])
def test_a_record_must_be_whole(change: dict[str, Any], dead: Run) -> None:
    assert Run.from_json(dead.to_json()) == dead
    values = {**json.loads(dead.to_json()), **change}
    assert Run.from_json(json.dumps(values).encode()) is None


# ---- replacing ---------------------------------------------------------------------------------------------------


def test_what_was_there_stays_until_its_successor_is_complete(site: Site) -> None:
    write(site.place, 1.0)
    with pytest.raises(RuntimeError), place_at(site.place).begin("scores", overwrite=True) as output:
        assert value_at(site.place) == 1.0
        if site.objects is None:  # nothing can be moved in a bucket: there the old makes room for the new
            write_group(output, 2.0)
            assert value_at(site.place) == 1.0
        raise RuntimeError
    assert value_at(site.place) == 1.0
    assert {name.split("/")[0] for name in site.files()} == {"out.zarr"}


def test_at_a_url_there_is_no_group_until_all_is_written(s3: str) -> None:
    """Neither for dgmm nor for anybody else, and not while an old one makes room either."""
    place = f"{s3}/out.zarr"
    write(place, 1.0)
    with place_at(place).begin("scores", overwrite=True) as output:
        write_group(output, 2.0)
        for reader in (store.attributes, value_at):
            with pytest.raises((InputError, FileNotFoundError)):
                reader(place)
        output.finish()
    assert value_at(place) == 2.0


def died_while_replacing(folder: Path, dead: Run, at: str) -> None:
    """What is left by a run that was killed between two steps of putting its output in place of another."""
    write(str(folder / "out.zarr"), 1.0)
    write(str(folder / "new.zarr"), 2.0)
    claim = folder / f"out.zarr{PARTIAL}"
    claim.mkdir()
    (claim / RECORD).write_bytes(dead.to_json())
    os.rename(folder / "new.zarr", claim / dead.id)
    os.rename(folder / "out.zarr", claim / f"{dead.id}-old")
    if at == "moved in":
        os.rename(claim / dead.id, folder / "out.zarr")


@pytest.mark.parametrize(("at", "left"), [("moved aside", 1.0), ("moved in", 2.0)])
def test_a_run_killed_while_replacing_loses_nothing(at: str, left: float, tmp_path: Path, dead: Run) -> None:
    died_while_replacing(tmp_path, dead, at)
    place = str(tmp_path / "out.zarr")
    with pytest.raises(OutputExistsError, match="exists already"):
        write(place, 3.0)
    if at == "moved in":  # the finished output is refused before anything is looked at beside it
        assert value_at(place) == left
    write(place, 3.0, overwrite=True)
    assert value_at(place) == 3.0
    assert os.listdir(tmp_path) == ["out.zarr"]


def test_what_was_moved_aside_is_put_back(tmp_path: Path, dead: Run) -> None:
    died_while_replacing(tmp_path, dead, "moved aside")
    place = str(tmp_path / "out.zarr")
    with pytest.raises(OutputExistsError, match="exists already"):
        write(place, 3.0)
    assert value_at(place) == 1.0
    assert os.listdir(tmp_path) == ["out.zarr"]


def test_an_output_that_cannot_be_moved_in_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, rename = str(tmp_path / "out.zarr"), os.rename
    write(place, 1.0)

    def fail(source: str, target: str) -> None:
        if target == place and not source.endswith("-old"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write(place, 2.0, overwrite=True)
    assert value_at(place) == 1.0
    assert os.listdir(tmp_path) == ["out.zarr"]


def test_what_comes_to_lie_there_meanwhile_is_not_replaced(site: Site) -> None:
    with pytest.raises(OutputExistsError), place_at(site.place).begin("scores", overwrite=False) as output:
        if site.objects is None:
            write_group(output, 2.0)
        site.zarr("out.zarr", {"title": "years of work"})
        before = {k: v for k, v in site.files().items() if PARTIAL not in k}
        write_group(output, 2.0) if site.objects is not None else output.finish()
    assert site.files() == before


# ---- places that cannot be used --------------------------------------------------------------------------------------


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("do not lose me")
    for place in (tmp_path / "file" / "out.zarr", tmp_path / "file" / "a" / "out.zarr"):
        with pytest.raises(OutputError, match=r"cannot .* .*out\.zarr: Not a directory"):
            write(str(place))
    assert (tmp_path / "file").read_text() == "do not lose me"


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(28, "No space left on device")])
@pytest.mark.parametrize("what", ["mkdir", "open"])
def test_what_cannot_be_written_is_found_when_it_is_claimed(
    error: OSError, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os if what == "mkdir" else "builtins", what, fail) if what == "mkdir" else patch.setattr(
            "builtins.open", only_for_writing(fail)
        )
        with pytest.raises(OutputError, match=f"cannot write to .*out.zarr: {error.strerror}"):
            write(str(tmp_path / "a" / "out.zarr"))
    assert os.listdir(tmp_path) == []


def only_for_writing(fail: Callable[..., None]) -> Callable[..., Any]:
    """`open` that fails to write."""
    real = open

    def opened(path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if "w" in mode:
            fail()
        return real(path, mode, *rest, **options)

    return opened


def test_what_cannot_be_looked_at_is_not_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "lstat", fail)
    with pytest.raises(OutputError, match=r"cannot look at .*out\.zarr: Permission denied"):
        place_at(tmp_path / "out.zarr").state()


def test_a_bucket_that_cannot_be_looked_at_is_not_free(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match=r"cannot look at s3://nobody/out\.zarr: "):
        place_at("s3://nobody/out.zarr").state()
    with pytest.raises(InputError, match="s3://bucket is a whole bucket: name a place within it"):
        place_at("s3://bucket")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    write(str(tmp_path / "real.zarr"), 1.0)
    (tmp_path / "out.zarr").symlink_to(tmp_path / "real.zarr")
    with pytest.raises(OutputExistsError, match="is a symbolic link"):
        write(str(tmp_path / "out.zarr"), 2.0, overwrite=True)
    assert value_at(str(tmp_path / "real.zarr")) == 1.0


@pytest.mark.parametrize("kind", ["file", "link"])
def test_something_else_where_the_claim_would_be(kind: str, tmp_path: Path) -> None:
    partial = tmp_path / f"out.zarr{PARTIAL}"
    (tmp_path / "elsewhere").mkdir()
    partial.write_text("do not lose me") if kind == "file" else partial.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputExistsError, match="is in the way"):
        write(str(tmp_path / "out.zarr"))
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", partial.name]


# ---- inputs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "together"),
    [
        ("x.zarr", "x.zarr", True),
        ("x.zarr", "./y/../x.zarr/", True),
        ("x.zarr", "x.zarr/out", True),
        ("x.zarr/group", "x.zarr", True),
        ("x.zarr", "x.zarr2", False),
        ("a/x.zarr", "b/x.zarr", False),
        ("s3://bucket/x", "s3://bucket/x/", True),
        ("s3://bucket/x", "s3://bucket//x/y", True),
        ("s3://bucket/x", "s3://bucket/xy", False),
        ("s3://bucket/x", "gs://bucket/x", False),
        ("s3://bucket/x", "bucket/x", False),
    ],
)
def test_places_within_each_other(a: str, b: str, together: bool, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert overlap(a, b) is together
    assert overlap(b, a) is together
    if "://" not in a + b:
        assert overlap(f"file://{tmp_path}/{a}", b) is together


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    assert overlap(f"file://{tmp_path}/a%20b", tmp_path / "a b")
    assert overlap(f"file://localhost{tmp_path}/a%20b", tmp_path / "a b")
    with pytest.raises(InputError, match="names a host"):
        place_at("file://host/x.zarr")


def test_an_input_is_not_replaced(site: Site) -> None:
    write(site.place, 1.0)
    before = site.files()
    for source in (site.place, f"{site}/out.zarr/v", str(site)):
        for overwrite in (False, True):
            with (
                pytest.raises(OutputExistsError, match="is where the input"),
                place_at(site.place).begin("scores", overwrite=overwrite, inputs=[source]),
            ):
                pass
    assert site.files() == before


# ---- models as files ------------------------------------------------------------------------------------------------


def test_a_model_in_json_at_any_place(site: Site) -> None:
    place, first, second = f"{site}/model.json", make_fit(seed=0), make_fit(seed=1)
    store.save(first, place)
    assert_same(store.load(place), first)
    with pytest.raises(OutputExistsError, match="exists already"):
        store.save(second, place)
    assert_same(store.load(place), first)
    store.save(second, place, overwrite=True)
    assert_same(store.load(place), second)
    assert list(site.files()) == ["model.json"]
    with pytest.raises(InputError, match="no such model"):
        store.load(f"{site}/other.json")


def test_a_group_takes_the_place_of_a_file(tmp_path: Path) -> None:
    """A model in JSON at a path that does not say so is a model all the same."""
    place = tmp_path / "model"
    store.save(make_fit(seed=0), tmp_path / "model.json")
    os.rename(tmp_path / "model.json", place)
    store.save(make_fit(seed=1), place, overwrite=True)
    assert_same(store.load(place), make_fit(seed=1))
    assert os.listdir(tmp_path) == ["model"]


# ---- what a run leaves to another -----------------------------------------------------------------------------------


def leave(site: Site, value: float = 1.0, what: str = "scores") -> None:
    """Begin an output with a record, and leave it unfinished."""
    with pytest.raises(RuntimeError), place_at(site.place).begin(what, overwrite=True, resumes=True) as output:
        write_group(output, value)
        records = folder_at(output.records)
        records.make()
        records.put("a", b"record")
        output.kept = True
        raise RuntimeError


def parts(site: Site) -> set[str]:
    """What lies there beside the claim, without the names of runs."""
    found = {key.replace("file://", "") for key in site.files()}
    return {re.sub(r"[0-9a-f]{32}-?", "", key) for key in found if not key.endswith(RECORD)}


def test_what_a_run_leaves_is_found_by_the_next_one(site: Site) -> None:
    leave(site)
    state = place_at(site.place).state()
    assert state.status is Status.UNFINISHED
    assert state.run is not None
    assert not state.run.alive, "it has said that it is over"
    with place_at(site.place).begin("scores", overwrite=False, resumes=True) as output:
        assert output.kept
        assert folder_at(output.records).read("a", 100) == b"record"
        group = zarr.open_array(output.left(), path="v", mode="r+")
        assert group[:].tolist() == [1.0] * 4
        zarr.open_group(output.left(), mode="a").attrs["format"] = "dgmm-scores-2"
        output.finish()
    assert place_at(site.place).state() == places.State(Status.FINISHED, "scores")
    assert value_at(site.place) == 1.0
    assert not any(PARTIAL in key for key in site.files())


def test_what_a_run_leaves_can_be_discarded(site: Site) -> None:
    leave(site, 1.0)
    with place_at(site.place).begin("scores", overwrite=False, resumes=True) as output:
        output.discard()
        assert not output.kept
        assert folder_at(output.records).names() == []
        write_group(output, 2.0)
        output.finish()
    assert value_at(site.place) == 2.0
    assert not any(PARTIAL in key for key in site.files())


def test_what_a_run_leaves_is_removed_by_those_who_do_not_go_on(site: Site) -> None:
    leave(site)
    with pytest.raises(RuntimeError), place_at(site.place).begin("scores", overwrite=False):
        raise RuntimeError
    assert site.files() == {}


def test_what_is_refused_leaves_what_was_left(site: Site) -> None:
    leave(site)
    before = parts(site)
    assert any("records" in key for key in before)
    with pytest.raises(OutputExistsError), place_at(site.place).begin("scores", overwrite=False, resumes=True):
        raise OutputExistsError("of another model")
    assert parts(site) == before


@pytest.fixture(autouse=True)
def _no_run_is_left() -> Iterator[None]:
    before = set(runs._active)  # whatever tests of other files have left to die
    yield
    assert runs._active <= before
