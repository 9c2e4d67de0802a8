"""What is not as it was written is found, and named; what cannot be looked at is said."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import dgmm
from dgmm.cli import main
from dgmm.errors import InputError
from dgmm.pipeline import run_score
from dgmm.scoring.anew import departures
from dgmm.scoring.entries import read_ledger
from dgmm.scoring.regions import checksum
from dgmm.scoring.verify import part_of, some_of
from dgmm.store import consolidate, load, save
from tests import ledgers
from tests.ledgers import N, fit, job_of, left, rows, tree, write_job

NAMES = ("label", "probability", "log_density", "probabilities")


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with ledgers.small_for_a_while():
        yield
    # a command leaves a handler of the streams that it had
    logging.getLogger("dgmm").handlers = []


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a source, and scores, of the probabilities too."""
    folder = tmp_path_factory.mktemp("job")
    with ledgers.small_for_a_while():
        run_score(write_job(folder).model_copy(update={"probabilities": True}))
    return folder


@pytest.fixture
def scores(job: Path, tmp_path: Path) -> Path:
    """A copy of them, to be damaged."""
    return Path(shutil.copytree(job / "out", tmp_path / "s"))


def chunk(scores: Path, name: str, region: int) -> Path:
    return scores / name / "c" / str(region) / ("0" if name == "probabilities" else "")


def found(scores: Path, **how: Any) -> set[tuple[str, int | None]]:
    """Array and region of all findings, after a look at their paths and the exit code."""
    verdict = dgmm.verify(scores, **how)
    options = [f"--{name}={value}" if value is not True else f"--{name}" for name, value in how.items()]
    assert main(["verify", str(scores), *options]) == int(bool(verdict.findings))
    for finding in verdict.findings:
        assert finding.path.startswith(str(scores)), finding
        assert "\n" not in str(finding)
        if finding.region is not None:
            assert finding.path == str(chunk(scores, finding.array, finding.region))
    return {(finding.array, finding.region) for finding in verdict.findings}


@pytest.mark.parametrize("how", [{}, {"data": True}, {"subset": "2/5"}, {"recompute": "100%"}, {"recompute": 0.3}])
def test_scores_are_sound(how: dict[str, Any], job: Path, scores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert found(scores, **how) == set()
    assert capsys.readouterr().out.startswith(f"{scores}: scores, sound (12 regions, 4 arrays")


def test_the_ledger_says_what_was_written(job: Path) -> None:
    """By what scikit-learn would count, and by the arrays themselves."""
    group = zarr.open_group(job / "out", mode="r")
    head, table, _ = read_ledger(group)
    assert (head["shape"], head["segment"], head["regions"]) == ([238], [20], N)
    x, labels = rows(), group["label"][:]
    for region in range(N):
        part = slice(20 * region, 20 * region + 20)
        assert table.missing[region] == np.isnan(x[part]).any(axis=1).sum()
        assert table.counts[region].tolist() == [int((labels[part] == k).sum()) for k in range(3)]
        assert table.log_density[region] == pytest.approx(np.nansum(group["log_density"][part]), rel=1e-12)
        told = [checksum(name, (slice(20 * region, min(20 * region + 20, 238)),), group[name][part]) for name in NAMES]
        assert table.checksums[region].tolist() == told
    assert group.attrs["counts"] == table.counts.sum(axis=0).tolist()
    assert group.attrs["complete"] == 1


def test_readers_are_not_disturbed(job: Path) -> None:
    """The ledger is a group: those who open the scores see them and nothing else, and no warning."""
    for consolidated in (True, False):
        with xr.open_zarr(job / "out", consolidated=consolidated) as opened:
            assert set(opened.variables) == {*NAMES}
    with xr.open_datatree(job / "out", engine="zarr") as every:
        assert set(every["ledger"].variables) == {"missing", "counts", "log_density", "checksums", "sources"}
    assert set(zarr.open_group(job / "out", mode="r").array_keys()) == {*NAMES}


# ---- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_chunk_that_is_not_there_is_found_without_reading(name: str, scores: Path) -> None:
    """Also where nothing but missing values lies, which reads the same."""
    for region in (4, 11):
        chunk(scores, name, region).unlink()
    assert found(scores) == found(scores, data=True) == {(name, 4), (name, 11)}
    assert found(scores, subset="3/4") == {(name, 4), (name, 11)}, "the structure is that of all"


@pytest.mark.parametrize("name", NAMES)
def test_a_chunk_that_was_changed_is_found_by_reading(name: str, scores: Path) -> None:
    generator = np.random.default_rng(0)
    file = chunk(scores, name, 7)
    whole = file.read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], whole[:1], whole + b"x"):
        file.write_bytes(content)
        assert found(scores) == set()
        assert found(scores, data=True) == {(name, 7)}
    file.write_bytes(b"")
    assert found(scores, data=True) == {(name, 7)}
    assert found(scores, subset="8/12") == {(name, 7)}
    assert found(scores, subset="7/12") == set()
    file.write_bytes(whole)
    values, missed = zarr.open_array(scores / name, mode="r")[...].tobytes(), 0
    for _ in range(20):
        content = bytearray(whole)
        content[generator.integers(len(content))] ^= 1 << int(generator.integers(8))
        file.write_bytes(content)
        if dgmm.verify(scores, data=True).is_sound:  # there are bits in a frame that say nothing
            assert zarr.open_array(scores / name, mode="r")[...].tobytes() == values
            missed += 1
    assert missed < 5


@pytest.mark.parametrize("name", NAMES)
def test_chunks_that_changed_places_are_found(name: str, scores: Path) -> None:
    a, b = chunk(scores, name, 2), chunk(scores, name, 9)
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    assert found(scores, data=True) == {(name, 2), (name, 9)}


def test_a_chunk_in_the_place_of_that_of_another_array_is_found(scores: Path) -> None:
    """Two arrays of one type and shape, as scores of one component have."""
    values = np.zeros(20, np.float32)
    region = (slice(0, 20),)
    told = {checksum(name, region, values) for name in ("probability", "probabilities")}
    told |= {checksum("probability", (slice(20, 40),), values), checksum("probability", region, values.astype("f8"))}
    assert len(told) == 4


def test_values_that_were_written_by_somebody_else_are_found(scores: Path) -> None:
    """Well-formed chunks, their checksums right for what they hold."""
    array = zarr.open_array(scores / "label", mode="r+")
    array[45] = (array[45] + 1) % 3
    assert found(scores) == set()
    assert found(scores, data=True) == {("label", 2)}
    assert found(scores, recompute=1.0) == {("label", 2)}


def test_what_was_written_wrong_from_the_start_is_found_by_scoring_anew(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger says what was written, not that it was right: a fault of the machine that scored it."""
    score = dgmm.scoring.segments.ScoreSegment.score

    def wrong(self: Any, x: np.ndarray) -> Any:
        values, scored = score(self, x)
        if len(x) and x[0, 0] == rows()[120, 0]:
            values["log_density"][3] += 1e-3
        return values, scored

    with monkeypatch.context() as patch:
        patch.setattr(dgmm.scoring.segments.ScoreSegment, "score", wrong)
        run_score(job_of(job, tmp_path / "s"))
    assert found(tmp_path / "s", data=True) == set()
    assert found(tmp_path / "s", recompute=1.0) == {("log_density", 6)}
    chosen = some_of(np.arange(N), 0.25, 3)
    assert len(chosen) == 3
    assert found(tmp_path / "s", recompute=0.25, seed=3) == ({("log_density", 6)} if 6 in chosen else set())


def test_metadata_that_were_changed_are_found(scores: Path) -> None:
    for name in ("label", "ledger", "ledger/counts", "."):
        file = scores / name / "zarr.json"
        whole = file.read_text()
        for old, new in (("238", "237"), ('"int8"', '"int16"'), ('"complete": 1', '"complete": 0'), ("12", "11")):
            # not within the number of a temporary folder
            changed = re.sub(rf"(?<![-\w]){old}(?!\w)", new, whole, count=1)
            if changed != whole:
                file.write_text(changed)
                assert not dgmm.verify(scores).is_sound, (name, old)
        file.write_text(whole)
    assert found(scores) == set()
    (scores / "label" / "zarr.json").unlink()
    assert ("label", None) in found(scores)


def test_every_byte_of_the_ledger_counts(scores: Path) -> None:
    generator = np.random.default_rng(1)
    for file in sorted((scores / "ledger").rglob("c/*")):
        if file.is_dir():
            continue
        whole = file.read_bytes()
        array = scores / "ledger" / file.relative_to(scores / "ledger").parts[0]
        values = zarr.open_array(array, mode="r")[...].tobytes()
        for _ in range(8):
            content = bytearray(whole)
            content[generator.integers(len(content))] ^= 1 << int(generator.integers(8))
            file.write_bytes(content)
            if dgmm.verify(scores).is_sound:  # there are bits in a frame that say nothing
                assert zarr.open_array(array, mode="r")[...].tobytes() == values
        file.write_bytes(whole[:-1])
        assert not dgmm.verify(scores).is_sound
        file.unlink()
        assert not dgmm.verify(scores).is_sound
        os.mkfifo(file)  # which nobody writes to: whoever reads would wait for ever
        assert not dgmm.verify(scores).is_sound
        file.unlink()
        file.write_bytes(whole)
    for file in (scores / "ledger").glob("*/zarr.json"):
        file.rename(scores.parent / "aside")
        os.mkfifo(file)
        assert "ledger" in dgmm.verify(scores).findings[0].array
        file.unlink()
        (scores.parent / "aside").rename(file)
    assert dgmm.verify(scores).is_sound


def test_a_ledger_that_speaks_of_more_than_can_be_is_not_read(scores: Path) -> None:
    inner = zarr.open_group(scores / "ledger", mode="r+")
    inner.attrs.update({"shape": [10**12], "segment": [1], "regions": 10**12})
    (finding,) = dgmm.verify(scores).findings
    assert finding.array == "ledger"
    assert "regions, which would be" in finding.what


def test_strays_and_lost_coordinates_are_found(tmp_path: Path) -> None:
    source = xr.DataArray(rows(), dims=("s", "f"), coords={"s": np.arange(238.0), "t": ("s", np.arange(238))})
    how = {"consolidated": False, "encoding": {"v": {"chunks": (20, 3)}}, "write_empty_chunks": True}
    source.to_dataset(name="v").to_zarr(tmp_path / "x.zarr", **how)
    save(fit(), tmp_path / "m.zarr")
    out = tmp_path / "s"
    dgmm.score(tmp_path / "m.zarr", tmp_path / "x.zarr", out, variables=["v"])
    assert found(out, data=True, recompute=1.0) == set()
    coordinate = next((out / "t" / "c").iterdir())
    whole = coordinate.read_bytes()
    coordinate.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert found(out) == set()
    assert found(out, data=True) == {("t", None)}
    coordinate.unlink()
    os.mkfifo(coordinate)
    assert found(out, data=True) == {("t", None)}
    coordinate.unlink()
    coordinate.write_bytes(whole)
    (out / "label" / "c" / "3.abc.partial").write_bytes(b"")
    assert found(out) == {("label", None)}
    (out / "label" / "c" / "3.abc.partial").unlink()
    shutil.rmtree(out / "t")
    assert ("t", None) in found(out)


# ---- what cannot be looked at ----------------------------------------------------------------------------------------


def test_a_terabyte_in_the_place_of_metadata_is_not_read(scores: Path) -> None:
    os.truncate(scores / "zarr.json", 2**40)
    with pytest.raises(InputError, match="is neither scores nor a model"):
        dgmm.verify(scores)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a command that could not look."""
    capsys.readouterr()
    assert main(["verify", *arguments]) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert len(errors.splitlines()) == 1
    return errors


def test_what_is_not_ours_cannot_be_looked_at(job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is nothing" in refused(capsys, str(tmp_path / "nothing"))
    assert "neither scores nor a model" in refused(capsys, str(job / "x.zarr"))
    (tmp_path / "f").write_text("text")
    assert "neither scores nor a model" in refused(capsys, str(tmp_path / "f"))
    (tmp_path / "d").mkdir()
    assert "d" in refused(capsys, str(tmp_path / "d"))
    zarr.create_group(tmp_path / "old", attributes={"format": "dgmm-scores-1"})
    assert "dgmm-scores-1" in refused(capsys, str(tmp_path / "old"))


def test_scores_whose_metadata_are_no_more_cannot_be_looked_at(
    scores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They might be anybody's."""
    (scores / "zarr.json").write_bytes(b"{")
    assert "was not written by dgmm" in refused(capsys, str(scores))


def test_a_group_with_what_groups_have_not_is_damaged(scores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The Zarr library says so by a TypeError."""
    said = json.loads((scores / "zarr.json").read_text())
    (scores / "zarr.json").write_text(json.dumps(said | {"codecs": []}))
    assert main(["verify", str(scores)]) == 1
    assert "is damaged" in capsys.readouterr().out


def test_options_that_cannot_be(scores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--subset=0/7", "--subset=8/7", "--subset=3", "--recompute=2", "--recompute=x%", "--seed=-1"):
        assert option.split("=")[0].strip("-") in refused(capsys, str(scores), option)


def test_scoring_anew_needs_what_was_scored(job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the scores say, or by name; another model or another grid would prove nothing, a copy does."""
    out = str(tmp_path / "s")
    dgmm.score(load(job / "m.zarr"), rows(), out)
    assert "does not say where its model lies: name it (--model)" in refused(capsys, out, "--recompute=1")
    model, source = f"--model={job / 'm.zarr'}", f"--source={job / 'x.zarr'}"
    assert "its source lies: name it (--source)" in refused(capsys, out, "--recompute=1", model)
    # the array lay in memory, in other segments
    assert "name what was scored" in refused(capsys, out, "--recompute=1", model, source)
    dgmm.score(job / "m.zarr", job / "x.zarr", out, overwrite=True)
    save(fit(8), tmp_path / "other.zarr")
    assert "was scored with the model" in refused(capsys, out, "--recompute=1", f"--model={tmp_path / 'other.zarr'}")
    assert "no such" in refused(capsys, out, "--recompute=1", f"--source={tmp_path / 'none'}")
    shutil.copytree(job / "x.zarr", tmp_path / "copy.zarr", copy_function=shutil.copyfile)
    verdict = dgmm.verify(out, recompute=1, source=str(tmp_path / "copy.zarr"))
    assert verdict.is_sound
    assert "is not as it was when it was scored" in verdict.notes[0]
    zarr.open_array(tmp_path / "copy.zarr")[7] = 0.5
    assert {f.region for f in dgmm.verify(out, recompute=1, source=str(tmp_path / "copy.zarr")).findings} == {0}
    shutil.rmtree(tmp_path / "copy.zarr" / "c" / "3")
    assert "is not there" in refused(capsys, out, "--recompute=1", f"--source={tmp_path / 'copy.zarr'}")


def test_what_is_not_complete_is_found(job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left(job_of(job, tmp_path / "s"), 4)
    assert main(["verify", str(tmp_path / "s")]) == 1
    assert "they are not complete: run" in capsys.readouterr().out


def test_json_is_one_object(job: Path, scores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chunk(scores, "label", 4).unlink()
    assert main(["verify", str(scores), "--json", "--quiet"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["sound"] is False
    assert (told["path"], told["what"], told["looked"]) == (str(scores), "scores", {"regions": 12, "arrays": 4})
    path = str(chunk(scores, "label", 4))
    assert told["findings"] == [{"what": "is not there", "array": "label", "region": 4, "path": path}]
    assert main(["verify", str(job / "m.zarr"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["what"] == "model"


def test_what_fails_is_mended_by_scoring_again(job: Path, scores: Path) -> None:
    chunk(scores, "label", 4).unlink()
    assert main(["verify", str(scores)]) == 1
    run_score(job_of(job, scores, overwrite=True, probabilities=True))
    assert tree(scores) == tree(job / "out")


# ---- models ---------------------------------------------------------------------------------------------------------

DAMAGE: dict[str, Callable[[Path], Any]] = {
    "a chunk is gone": lambda m: next((m / "weights" / "c").iterdir()).unlink(),
    "an array is gone": lambda m: shutil.rmtree(m / "factors"),
    "weights": lambda m: zarr.open_array(m / "weights", mode="r+").__setitem__(0, 0.5),
    "covariances": lambda m: zarr.open_array(m / "covariances", mode="r+").__setitem__((0, 0, 0), -1.0),
    "not finite": lambda m: zarr.open_array(m / "means", mode="r+").__setitem__((0, 0), np.nan),
    "an attribute": lambda m: zarr.open_group(m, mode="r+").attrs.update(n_samples=11),
}


@pytest.mark.parametrize("do", DAMAGE.values(), ids=list(DAMAGE))
def test_a_damaged_model_is_found(do: Callable[[Path], Any], job: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(job / "m.zarr", tmp_path / "m.zarr"))
    assert found(model) == set()
    do(model)
    if (model / "factors").exists():
        consolidate(str(model))
    assert len(found(model)) == 1


def test_a_model_in_json(job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(load(job / "m.zarr"), tmp_path / "m.json")
    assert main(["verify", str(tmp_path / "m.json")]) == 0
    text = (tmp_path / "m.json").read_text()
    (tmp_path / "m.json").write_text(text.replace('"n_samples": 10', '"n_samples": 12'))
    assert main(["verify", str(tmp_path / "m.json")]) == 1
    assert "by its log-likelihood" in capsys.readouterr().out


def test_covariances_of_a_plain_model_must_be_what_they_are_called(job: Path, tmp_path: Path) -> None:
    """A model of another program has no checksum."""
    save(load(job / "m.zarr"), tmp_path / "m.json")
    parts = json.loads((tmp_path / "m.json").read_text())
    parts["attrs"]["format"] = "dgmm-model-1"
    for name in ("checksum", "digest"):
        del parts["attrs"][name]
    for change in (lambda c: -c, lambda c: 2 * c):
        covariances = change(np.array(parts["data_vars"]["covariances"]["data"]))
        wrong = {
            **parts["data_vars"],
            "covariances": {**parts["data_vars"]["covariances"], "data": covariances.tolist()},
        }
        (tmp_path / "m.json").write_text(json.dumps({**parts, "data_vars": wrong}))
        verdict = dgmm.verify(tmp_path / "m.json")
        assert "covariances" in str(verdict), verdict


# ---- parts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 12, 100])
def test_parts_are_all_and_disjoint(n: int) -> None:
    for parts in (1, 2, 7, 13):
        every = [part_of(n, (k, parts)) for k in range(1, parts + 1)]
        assert np.concatenate(every).tolist() == list(range(n))
        assert max(map(len, every)) - min(map(len, every)) <= 1


def test_a_share_is_of_the_part_and_of_the_seed() -> None:
    regions = np.arange(100, 300)
    assert len(some_of(regions, 0.01, 0)) == 2
    assert len(some_of(regions, 1e-9, 0)) == 1
    assert some_of(regions, 1.0, 0).tolist() == regions.tolist()
    assert {*some_of(regions, 0.1, 1)} <= {*regions}
    assert some_of(regions, 0.1, 1).tolist() != some_of(regions, 0.1, 2).tolist()


def test_rounding_is_no_departure() -> None:
    """A tie may go either way, and the last bits may differ; anything else is told."""
    every = np.array([[0.5, 0.5], [0.9, 0.1], [np.nan, np.nan]], np.float32)
    anew = {
        "label": np.array([0, 0, -1], np.int8),
        "probability": np.array([0.5, 0.9, np.nan], np.float32),
        "log_density": np.array([-3.0, -1e6, np.nan]),
        "probabilities": every,
    }
    stored = {name: values.copy() for name, values in anew.items()}
    stored["label"][0] = 1
    stored["log_density"][1] *= 1 + 1e-12
    stored["probability"] *= np.float32(1 + 1e-7)
    assert departures(stored, anew) == {}
    for name, row, value in (
        ("label", 1, 1), ("label", 2, 0), ("label", 0, -1), ("label", 1, 2), ("probability", 1, 0.899),
        ("log_density", 0, -3.0001), ("log_density", 2, 0.0), ("probability", 0, np.nan),
    ):  # fmt: skip
        wrong = {key: values.copy() for key, values in stored.items()}
        wrong[name][row] = value
        assert departures(wrong, anew) == {name: 1}


@pytest.mark.parametrize("how", [{}, {"data": True}, {"recompute": 1.0}])
def test_it_is_the_same_in_an_object_store(how: dict[str, Any], job: Path, s3: str) -> None:
    out = f"{s3}/s"
    dgmm.score(job / "m.zarr", job / "x.zarr", out)
    assert dgmm.verify(out, **how).is_sound
    objects = tree(out)
    ledgers.object_put(out, "label/c/2", objects["label/c/3"])
    verdict = dgmm.verify(out, **how)
    assert {(f.array, f.region, f.path) for f in verdict.findings} == (
        {("label", 2, f"{out}/label/c/2")} if how else set()
    )


def test_what_is_no_path_is_refused() -> None:
    with pytest.raises(InputError):
        dgmm.verify("ftp://nowhere/s")
