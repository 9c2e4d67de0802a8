"""Journals on disk: what lies there, who may write it, and what is made of a damaged one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest

from dgmm.data import PARTIAL, RECORD, Run, object_at
from dgmm.engine import Entry
from dgmm.errors import CollapseError, DgmmError, InputError, OutputExistsError
from dgmm.store import Records, Status, folders, journal, journal_at, place_at, versions
from dgmm.store.journal import MOST_BYTES

SOURCE, SETTINGS = {"shape": "(3,)"}, {"n_components": 2, "training": {"seed": 0}}


def entry(i: int) -> Entry:
    return Entry(f"key {i}", {"x": np.arange(4.0) + i, "n": i}, (np.float32(i),), 0.5, 1.0)


@pytest.fixture(params=["path", "file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same as a path, a file:// URL and in an object store."""
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/m.journal"
    return f"{'file://' if request.param == 'file' else ''}{tmp_path}/m.journal"


def files(place: str) -> list[str]:
    """Everything that lies beside a journal or in it."""
    if place.startswith("s3"):
        objects, _ = object_at(place)
        return sorted(found["path"] for batch in obstore.list(objects) for found in batch)
    folder = Path(place.removeprefix("file://")).parent
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class Stop(Exception):
    """What ends a run."""


@contextlib.contextmanager
def opened(place: str, **more: Any) -> Iterator[Records]:
    """A journal that is kept, as that of a run that ends too early."""
    with contextlib.suppress(Stop), journal_at(place, more.pop("source", SOURCE), more.pop("settings", SETTINGS),
                                               **more) as records:  # fmt: skip
        yield records
        raise Stop


def written(place: str, n: int = 3) -> None:
    with opened(place) as records:
        for i in range(n):
            records.write(i, entry(i))


def values(records: Records) -> list[int]:
    found = []
    while (read := records.read(len(found))) is not None:
        assert read.key == f"key {len(found)}"
        found.append(int(read.value["x"][0]))
    return found


def test_what_was_written_is_read(place: str) -> None:
    with opened(place) as records:
        assert records.read(0) is None
        for i in range(3):
            again = records.write(i, entry(i))
            assert again.value["x"].tobytes() == entry(i).value["x"].tobytes()
            again.value["x"][:] = 0  # it may be written to, and the journal stays what it is
    assert files(place) == ["m.journal/00000001", "m.journal/00000002", "m.journal/00000003",
                            "m.journal/dgmm-journal.json"]  # fmt: skip
    assert place_at(place).state().what == "journal"
    with opened(place) as records:
        assert records.n_kept == 3
        assert values(records) == [0, 1, 2]


def test_what_is_written_in_between_ends_the_journal(place: str) -> None:
    written(place, 5)
    with opened(place) as records:
        assert records.read(0) is not None
        records.write(1, entry(7))
    assert len(files(place)) == 3
    with opened(place) as records:
        assert [read.key for i in range(3) if (read := records.read(i)) is not None] == ["key 0", "key 7"]
        assert records.n_kept == 2


def test_an_end_removes_it_and_what_no_repetition_changes_is_one(place: str) -> None:
    for error in (None, CollapseError("collapsed"), InputError("feature '1' is constant")):
        written(place)
        with contextlib.suppress(CollapseError, InputError), journal_at(place, SOURCE, SETTINGS) as records:
            records.write(0, entry(0))
            if error is not None:
                raise error
        assert files(place) == []
        assert place_at(place).state().status is Status.ABSENT


def test_one_that_is_kept_is_kept_and_one_without_records_is_not_there(place: str) -> None:
    with opened(place):
        pass
    assert files(place) == []
    with journal_at(place, SOURCE, SETTINGS, keep=True) as records:
        records.write(0, entry(0))
    assert len(files(place)) == 2


def test_others_are_refused_by_name(place: str) -> None:
    written(place)
    before = files(place)
    with pytest.raises(OutputExistsError, match=r"settings \(n_components was 2, now 3; training.seed was 0, now 1\)"):
        opened(place, settings={"n_components": 3, "training": {"seed": 1}}).__enter__()
    with pytest.raises(OutputExistsError, match=r'data have changed \(shape was "\(3,\)", now null\)'):
        opened(place, source={}).__enter__()
    assert files(place) == before
    with opened(place, settings={}, overwrite=True) as records:
        assert records.read(0) is None
    assert files(place) == []


def test_one_at_a_time(place: str) -> None:
    with opened(place) as records:
        records.write(0, entry(0))
        with pytest.raises(OutputExistsError, match="is being written by run"):
            opened(place).__enter__()
        records.write(1, entry(1))
    with opened(place) as records:
        assert values(records) == [0, 1]


def test_whoever_was_taken_for_dead_writes_no_more(place: str) -> None:
    """Another run has taken the claim over."""
    with opened(place) as records:
        records.write(0, entry(0))
        other = Run.begin().to_json()
        if place.startswith("s3"):
            objects, key = object_at(place)
            obstore.put(objects, f"{key}{PARTIAL}/{RECORD}", other)
        else:
            Path(place.removeprefix("file://") + PARTIAL, RECORD).write_bytes(other)
        with pytest.raises(DgmmError, match="is not to be written by run"):
            records.write(1, entry(1))
    assert "m.journal/00000002" not in files(place)


def test_a_record_of_somebody_else_is_not_written_over(s3: str) -> None:
    place = f"{s3}/m.journal"
    with opened(place) as records:
        records.write(0, entry(0))
        objects, key = object_at(place)
        obstore.put(objects, f"{key}/00000002", b"of another run")
        with pytest.raises(DgmmError, match="was written by another run"):
            records.write(1, entry(1))


def test_what_is_no_journal_is_not_touched(place: str) -> None:
    written(place)
    if place.startswith("s3"):
        objects, key = object_at(place)
        obstore.put(objects, f"{key}/notes.txt", b"do not lose me")
    else:
        Path(place.removeprefix("file://"), "notes.txt").write_text("do not lose me")
    before = files(place)
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError, match="holds what dgmm has not written"):
            opened(place, overwrite=overwrite).__enter__()
    assert files(place) == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"format": "dgmm-journal-9"}', b"\xff"])
def test_a_head_that_is_damaged_starts_over(content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = str(tmp_path / "m.journal")
    written(place)
    Path(place, "dgmm-journal.json").write_bytes(content)
    with opened(place) as records:
        assert records.read(0) is None
        assert "is damaged" in caplog.text
        records.write(0, entry(4))
    with opened(place) as records:
        assert records.n_kept == 1


def test_one_of_another_release_is_gone_on_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bits may have hung on a library that no longer matters, or is not here."""
    place = str(tmp_path / "m.journal")
    caplog.set_level("INFO", logger="dgmm")
    with monkeypatch.context() as patch:
        patch.setattr(journal, "versions", lambda: versions() | {"numpy": "1.0", "gone": "2.0"})
        written(place)
    with opened(place) as records:
        assert values(records) == [0, 1, 2]
    assert "numpy was 1.0, and is " in caplog.text
    assert "gone was 2.0, and is unknown now" in caplog.text


def test_what_died_while_it_wrote_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    place = tmp_path / "m.journal"
    written(str(place))
    (place / f"00000004.{'0' * 32}.part").write_bytes(b"half")
    with opened(str(place)) as records:
        assert values(records) == [0, 1, 2]
    with journal_at(place, SOURCE, SETTINGS):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_what_was_there(failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "m.journal"

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    with opened(str(place)) as records:
        records.write(0, entry(0))
        if failing == "write":
            monkeypatch.setattr(folders, "open", full, raising=False)
        else:
            monkeypatch.setattr(f"dgmm.store.folders.os.{failing}", full)
        with pytest.raises(DgmmError, match=r"m.journal cannot be written: No space left on device"):
            records.write(1, entry(1))
        monkeypatch.undo()
    assert sorted(os.listdir(place)) == ["00000001", "dgmm-journal.json"]
    with opened(str(place)) as records:
        assert values(records) == [0]
        records.write(1, entry(1))


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    place = tmp_path / "m.journal"
    written(str(place))
    with (place / "00000002").open("r+b") as file:
        file.truncate(MOST_BYTES + 1)
    with opened(str(place)) as records:
        assert values(records) == [0]
