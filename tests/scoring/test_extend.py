"""Scores that are brought up to date: what is as it was is kept, the rest is scored, and nobody could tell."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import dgmm
from dgmm.config import Data, Score
from dgmm.data import grid, open_samples, seen, store_at
from dgmm.errors import OutputExistsError
from dgmm.mixture import Mixture
from dgmm.pipeline import run_score
from dgmm.scoring import ledger
from dgmm.store import save
from tests.ledgers import at_region, fit, forked, job_of, kill, left, rows, small_for_a_while, stop, tree

#: Rows of the source before it grows: eight chunks.
BEFORE = 160


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with small_for_a_while():
        yield


def scored(job: Score) -> list[int]:
    """Do a job; the regions that were scored for it, in order."""
    with at_region(0, stop) as done:
        run_score(job)
    return sorted(done)


def source(folder: Path, n: int = BEFORE, **how: Any) -> zarr.Array[Any]:
    save(fit(), folder / "m.zarr")
    array = zarr.create_array(str(folder / "x.zarr"), shape=(n, 3), dtype="f8", **{"chunks": (20, 3), **how})
    array[:] = rows()[:n]
    return array


def grow(folder: Path, n: int = 238) -> None:
    """Append rows to the source, as a writer would: chunks that are full are left alone."""
    array = zarr.open_array(str(folder / "x.zarr"), mode="r+")
    before = array.shape[0]
    array.resize((n, 3))
    array[before:] = rows()[before:n]


def extending(folder: Path, out: Any = None, **more: Any) -> Score:
    return job_of(folder, folder / "out" if out is None else out, extend=True, **more)


def anew(folder: Path, name: str = "anew") -> dict[str, bytes]:
    run_score(job_of(folder, folder / name))
    return tree(folder / name)


@pytest.mark.parametrize(
    ("before", "how", "expected"),
    [
        (BEFORE, {}, [8, 9, 10, 11]),
        (150, {}, [7, 8, 9, 10, 11]),  # of the last chunk there was only a part
        (BEFORE, {"zarr_format": 2}, [8, 9, 10, 11]),
        (BEFORE, {"chunks": (10, 3), "shards": (20, 3)}, [8, 9, 10, 11]),
        (BEFORE, {"chunks": (20, 1)}, [8, 9, 10, 11]),
        (238, {}, []),
    ],
)
def test_what_was_appended_is_scored_and_the_rest_kept(
    tmp_path: Path, before: int, how: dict[str, Any], expected: list[int]
) -> None:
    source(tmp_path, before, **how)
    assert len(scored(extending(tmp_path))) == -(-before // 20), "where nothing is all of it is scored"
    grow(tmp_path)
    assert scored(extending(tmp_path)) == expected
    assert tree(tmp_path / "out") == anew(tmp_path)
    assert dgmm.verify(str(tmp_path / "out"), data=True, recompute=1.0).is_sound


def test_chunks_that_have_changed_are_scored_again(tmp_path: Path) -> None:
    array = source(tmp_path)
    run_score(extending(tmp_path))
    array[65] = array[65] + 1.0
    grow(tmp_path, 200)
    assert scored(extending(tmp_path)) == [3, 8, 9]
    assert tree(tmp_path / "out") == anew(tmp_path)


def test_what_is_there_already_is_not_touched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source(tmp_path)
    run_score(extending(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    with caplog.at_level(logging.INFO, "dgmm"):
        first, again = run_score(extending(tmp_path)), run_score(job_of(tmp_path, tmp_path / "anew"))
    assert "nothing is to be scored" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    assert first.counts.tolist() == again.counts.tolist()
    with pytest.raises(OutputExistsError, match="exists already"):
        run_score(job_of(tmp_path, tmp_path / "out"))


def test_rows_that_are_gone_are_gone(tmp_path: Path) -> None:
    array = source(tmp_path, 238)
    run_score(extending(tmp_path))
    array.resize((110, 3))
    assert scored(extending(tmp_path)) == [5]
    assert tree(tmp_path / "out") == anew(tmp_path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda folder: save(fit(1), folder / "m.zarr", overwrite=True), "it was by the model"),
        (lambda folder: dropped(folder / "out"), "it was not noted what each region was read from"),
        (lambda folder: damaged(folder / "out"), "what is there cannot be gone on from"),
        (lambda folder: zarr.open_array(str(folder / "x.zarr")).attrs.update(units="K"), "0 of 12 regions"),
    ],
)
def test_where_nothing_tells_all_of_it_is_scored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Callable[[Path], Any], why: str
) -> None:
    source(tmp_path)
    run_score(extending(tmp_path))
    change(tmp_path)
    grow(tmp_path)
    with caplog.at_level(logging.INFO, "dgmm"):
        assert scored(extending(tmp_path)) == list(range(12))
    assert why in caplog.text or why == "0 of 12 regions"
    assert tree(tmp_path / "out") == anew(tmp_path)


def dropped(out: Path) -> None:
    """Scores as they were written before what each region was read from was noted."""
    from dgmm.scoring.entries import read_ledger, write_ledger
    from dgmm.store import consolidate

    group = zarr.open_group(str(out), mode="r+", use_consolidated=False)
    head, table, coordinates = read_ledger(group)
    del head["sources"], group["ledger"]
    write_ledger(group, head, table, coordinates)
    consolidate(group.store)


def damaged(out: Path) -> None:
    chunk = out / "ledger" / "sources" / "c" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 16
    chunk.write_bytes(content)


def test_other_arrays_are_written_for_all(tmp_path: Path) -> None:
    source(tmp_path)
    run_score(extending(tmp_path))
    assert len(scored(extending(tmp_path, probabilities=True))) == 8
    assert "probabilities" in tree(tmp_path / "out").keys().__str__()


def test_without_links_chunks_are_copied_and_what_is_gone_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source(tmp_path)
    run_score(extending(tmp_path))
    (tmp_path / "out" / "label" / "c" / "2").unlink()
    grow(tmp_path)

    link = os.link

    def no_links(here: Any, there: Any) -> None:
        if str(here).startswith(f"{tmp_path}/out/"):
            raise OSError(1, "no links here")
        link(here, there)

    monkeypatch.setattr(os, "link", no_links)
    assert scored(extending(tmp_path)) == [2, 8, 9, 10, 11]
    assert tree(tmp_path / "out") == anew(tmp_path)


@pytest.mark.parametrize("number", [1, 3])
def test_a_killed_extension_goes_on_and_what_was_there_can_be_read_meanwhile(tmp_path: Path, number: int) -> None:
    source(tmp_path)
    run_score(extending(tmp_path))
    before = tree(tmp_path / "out")
    grow(tmp_path)

    def killed() -> None:
        with at_region(number, kill):
            run_score(extending(tmp_path))

    assert os.WTERMSIG(forked(killed)) == 9
    assert tree(tmp_path / "out") == before, "what readers find"
    assert len(scored(extending(tmp_path))) == 4 - number
    assert tree(tmp_path / "out") == anew(tmp_path)
    assert not (tmp_path / "out.partial").exists()


def test_data_that_grow_while_an_extension_lies_unfinished_are_scored_all_the_same(tmp_path: Path) -> None:
    source(tmp_path)
    run_score(extending(tmp_path))
    grow(tmp_path, 200)
    left(extending(tmp_path), 1)
    grow(tmp_path)
    assert scored(extending(tmp_path)) == [8, 9, 10, 11]
    assert tree(tmp_path / "out") == anew(tmp_path)


def test_at_a_url_what_is_as_it_was_stays_where_it_is(tmp_path: Path, s3: str) -> None:
    source(tmp_path, 150)
    out = f"{s3}/out"
    assert len(scored(extending(tmp_path, out))) == 8
    grow(tmp_path)
    left(extending(tmp_path, out), 2)
    assert len(scored(extending(tmp_path, out))) == 3
    assert tree(out) == anew(tmp_path)
    assert scored(extending(tmp_path, out)) == []


def test_a_source_at_a_url_is_told_by_its_tags(tmp_path: Path, s3: str) -> None:
    source(tmp_path)
    url = f"{s3}/x.zarr"

    def put(n: int) -> None:
        dataset = xr.Dataset({"v": (("row", "feature"), rows()[:n])})
        if n == BEFORE:
            dataset.to_zarr(
                store_at(url, read_only=False), zarr_format=3, consolidated=False, encoding={"v": {"chunks": (20, 3)}}
            )
        else:
            dataset.isel(row=slice(BEFORE, None)).to_zarr(
                store_at(url, read_only=False), append_dim="row", consolidated=False
            )

    job = extending(tmp_path).model_copy(update={"data": Data(path=url, missing_chunks="fill")})
    put(BEFORE)
    assert len(scored(job)) == 8
    put(238)
    assert scored(job) == [8, 9, 10, 11]


@pytest.mark.parametrize("names", [("v",), ("v", "w")], ids=["levels", "variables"])
def test_grids_of_several_dimensions_grow_along_any(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Also where that is not the slowest dimension of the arrays, and chunks are cut at both ends."""
    model, url, r = fit(), str(tmp_path / "grid.zarr"), np.random.default_rng(3)
    many = len(names) > 1
    if many:
        mixture = Mixture.gaussian("diag", model.mixture.weights, model.mixture.means[:, :2], np.ones((3, 2)))
        model = replace(model, mixture=mixture, features=names)
    dims, shape, chunks = ("lat", "time", "depth"), (10, 12, 3), (4, 5, 3)
    whole = xr.Dataset({name: (dims[: 3 - many], r.normal(0, 3, shape[: 3 - many])) for name in names})
    whole = whole.assign_coords(time=np.arange(12.0), lat=np.arange(10.0), depth=np.arange(3))

    def put(a: int, b: int) -> None:
        part = whole.isel(time=slice(a, b)).transpose("time", ...) if many else whole.isel(time=slice(a, b))
        sizes = dict(zip(dims, chunks, strict=True))
        encoding = {name: {"chunks": tuple(sizes[str(dim)] for dim in part[name].dims)} for name in names}
        how: dict[str, Any] = {"append_dim": "time"} if a else {"zarr_format": 3, "encoding": encoding}
        part.to_zarr(url, consolidated=False, **how)

    def score(out: str, **how: Any) -> list[int]:
        with at_region(0, stop) as done:
            samples = {"variables": list(names), **({} if many else {"feature_dim": "depth"})}
            dgmm.score(model, url, tmp_path / out, scheduler="threads", **samples, **how)
        return sorted(done)

    put(0, 7)
    n = len(score("out", extend=True))
    put(7, 12)
    done = score("out", extend=True)
    # the regions at its end, which were shorter, are scored again
    assert len(done) == len(score("anew")) - (n - 3)
    assert tree(tmp_path / "out") == tree(tmp_path / "anew")


def test_regions_stay_as_long_as_they_were_while_data_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "SEGMENTS", 8)
    source(tmp_path, 160)
    assert len(scored(extending(tmp_path))) == 8
    grow(tmp_path)
    monkeypatch.setattr(grid, "SEGMENTS", 4)
    assert open_samples(str(tmp_path / "x.zarr")).grid.segment == (60,)
    assert scored(extending(tmp_path)) == [8, 9, 10, 11]
    assert dgmm.verify(str(tmp_path / "out"), recompute=1.0).is_sound


def test_arrays_in_memory_are_told_by_what_they_hold(tmp_path: Path) -> None:
    def score(n: int) -> list[int]:
        with at_region(0, stop) as done:
            dgmm.score(fit(), rows()[:n], tmp_path / "out", extend=True, scheduler="threads")
        return sorted(done)

    assert len(score(64)) == 4
    assert score(80) == [4]


def test_a_region_is_told_by_what_it_is_read_from_and_nothing_else(tmp_path: Path) -> None:
    array = source(tmp_path)

    def regions() -> np.ndarray:
        found = seen(open_samples(str(tmp_path / "x.zarr"))).regions
        assert found is not None
        return found

    first = regions()
    assert len(set(first.tolist())) == 8
    grow(tmp_path)
    assert regions()[:8].tolist() == first.tolist()
    array = zarr.open_array(str(tmp_path / "x.zarr"), mode="r+")
    array[25] = 0.0
    assert np.flatnonzero(regions()[:8] != first).tolist() == [1]
    assert seen(open_samples(xr.DataArray(array).chunk(20).data)).regions is None
    assert ledger.EVERY == 0.0
