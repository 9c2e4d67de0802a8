"""Fingerprints of samples: the same of the same data in every process, others of others, whatever holds them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.array
import numpy as np
import pytest
import xarray as xr
import zarr

from dgmm.data import fingerprint, fingerprints, open_samples, store_at

X = np.arange(24.0).reshape(12, 2)


@pytest.fixture(params=["path", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    where: str = request.getfixturevalue("s3") if request.param == "s3" else str(tmp_path)
    zarr.create_array(store_at(f"{where}/x.zarr", read_only=False), data=X, chunks=(4, 2))
    return f"{where}/x.zarr"


def changed(before: dict[str, str], now: dict[str, str]) -> set[str]:
    return {name for name in {*before, *now} if before.get(name) != now.get(name)}


def test_a_store_is_told_by_its_chunks_and_what_is_said_of_them(place: str) -> None:
    before = fingerprint(open_samples(place))
    assert fingerprint(open_samples(place)) == before
    array = zarr.open_array(store_at(place, read_only=False), mode="r+")
    array[5, 0] = -1.0
    assert changed(before, fingerprint(open_samples(place))) == {"stored chunks of values"}
    array.attrs["units"] = "m"
    assert "attributes of values" in changed(before, fingerprint(open_samples(place)))


def test_a_chunk_that_is_gone_is_noticed(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "x.zarr"), data=X, chunks=(4, 2))
    before = fingerprint(open_samples(tmp_path / "x.zarr"))
    (tmp_path / "x.zarr" / "c" / "1" / "0").unlink()
    assert changed(before, fingerprint(open_samples(tmp_path / "x.zarr"))) == {"stored chunks of values"}


def dataset(values: np.ndarray) -> xr.Dataset:
    return xr.Dataset({"a": ("i", values[:, 0]), "b": ("i", values[:, 1]), "w": ("i", values[:, 1] ** 2)})


HOLDERS: dict[str, Callable[[np.ndarray], Any]] = {
    "memory": lambda x: x,
    "columns": np.asfortranarray,
    "dask": lambda x: dask.array.from_array(x, chunks=(4, 2)),
    "zarr in memory": lambda x: zarr.create_array({}, data=x, chunks=(4, 2)),
    "dataset": dataset,
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_other_values_are_other_data_whatever_holds_them(holder: str) -> None:
    hold, other = HOLDERS[holder], X.copy()
    other[7, 1] += 1
    before = fingerprint(open_samples(hold(X)))
    assert fingerprint(open_samples(hold(X.copy()))) == before
    assert changed(before, fingerprint(open_samples(hold(other))))


def test_weights_and_the_choice_of_features_count() -> None:
    whole = fingerprint(open_samples(dataset(X), ["a", "b"]))
    assert changed(whole, fingerprint(open_samples(dataset(X), ["a"]))) >= {"features", "contents of b"}
    weighted = fingerprint(open_samples(dataset(X), ["a", "b"], weights="w"))
    assert changed(whole, weighted) == {"type of the weights", "contents of the weights"}
    assert changed(weighted, fingerprint(open_samples(dataset(X), ["a", "b"], weights=2 * dataset(X)["w"])))


def test_a_dataset_that_somebody_else_has_opened_is_told_by_where_it_lies(tmp_path: Path) -> None:
    path = str(tmp_path / "x.zarr")
    dataset(X).to_zarr(path, consolidated=False)
    before = fingerprint(open_samples(xr.open_zarr(path, chunks=None, consolidated=False), ["a", "b"]))
    dataset(X + 1).to_zarr(path, mode="w", consolidated=False)
    now = fingerprint(open_samples(xr.open_zarr(path, chunks=None, consolidated=False), ["a", "b"]))
    assert changed(before, now) == {"stored chunks of a", "stored chunks of b"}


def test_a_snapshot_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    store = SimpleNamespace(session=SimpleNamespace(snapshot_id=7))
    monkeypatch.setattr(fingerprints, "_store_of", lambda array: store)
    found = fingerprint(open_samples(zarr.create_array({}, data=X, chunks=(4, 2))))
    assert found["Icechunk snapshot of values"] == "7"
    assert "stored chunks of values" not in found


def test_it_is_the_same_in_every_process(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "x.zarr"), data=X, chunks=(4, 2))
    code = f"from dgmm.data import *; print(fingerprint(open_samples({str(tmp_path / 'x.zarr')!r})))"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    told = {
        subprocess.run(
            [sys.executable, "-c", code], env=environment | {"PYTHONHASHSEED": seed}, capture_output=True, text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert told == {f"{fingerprint(open_samples(tmp_path / 'x.zarr'))}\n"}
