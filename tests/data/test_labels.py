"""Labels of samples: what is a class, where it is unknown, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import xarray as xr
import zarr

from dgmm.data import fingerprint, open_samples
from dgmm.errors import InputError

X = np.arange(24.0).reshape(12, 2)
CODES = [0, 1, -1, 2, 1, 0, 0, -1, 2, 2, 1, 0]
TEXTS = ["sea", "land", "", "ice", "land", "sea", "sea", "", "ice", "ice", "land", "sea"]


def read(labels: Any, source: Any = X, **how: Any) -> tuple[tuple[Any, ...], list[int], bool]:
    samples = open_samples(source, labels=labels, **how)
    assert samples.labels is not None
    parts = [samples.read_rows(samples.grid.region(i)).labels for i in range(len(samples.grid))]
    return samples.labels.names, np.concatenate([p for p in parts if p is not None]).tolist(), samples.labels.all_known


NUMBERS = np.array(CODES)


@pytest.mark.parametrize(
    "labels",
    [
        NUMBERS, NUMBERS.astype(np.int8), np.where(NUMBERS < 0, np.nan, NUMBERS), CODES,
        np.ma.masked_array(NUMBERS, NUMBERS < 0), xr.DataArray(NUMBERS, dims="sample"),
        dask.array.from_array(NUMBERS, chunks=5), zarr.array(NUMBERS, chunks=(5,)),
    ],
)  # fmt: skip
def test_numbers_of_any_kind_are_classes_and_missing_ones_are_unknown(labels: Any) -> None:
    assert read(labels) == ((0, 1, 2), CODES, False)


def test_numbers_keep_their_names() -> None:
    names, codes, known = read(np.array([7, 3, 7, 3, 40, 7, 3, 3, 3, 3, 3, 3]))
    assert names == (3, 7, 40)
    assert codes == [1, 0, 1, 0, 2, 1, 0, 0, 0, 0, 0, 0]
    assert known


@pytest.mark.parametrize(
    "labels",
    [
        TEXTS, np.array(TEXTS), np.array([t or None for t in TEXTS], dtype=object),
        np.array([t or np.nan for t in TEXTS], dtype=object), np.array([t.encode() for t in TEXTS]),
        np.array(TEXTS, dtype=np.dtypes.StringDType()),
    ],
)  # fmt: skip
def test_texts_of_any_kind_are_classes(labels: Any) -> None:
    assert read(labels) == (("ice", "land", "sea"), [2, 1, -1, 0, 1, 2, 2, -1, 0, 0, 1, 2], False)


@pytest.mark.filterwarnings("ignore:.*Zarr V3 specification.*")
@pytest.mark.parametrize("labels", [NUMBERS, np.where(NUMBERS < 0, np.nan, NUMBERS), np.array(TEXTS), TEXTS])
def test_a_variable_of_a_store_is_no_feature(labels: Any, tmp_path: Path) -> None:
    data = {"a": ("t", X[:, 0]), "b": ("t", X[:, 1]), "kind": ("t", labels)}
    xr.Dataset(data).chunk(t=5).to_zarr(tmp_path / "x.zarr", zarr_format=3, consolidated=False)
    names, codes, _ = read("kind", str(tmp_path / "x.zarr"))
    assert (len(names), codes.count(-1)) == (3, 2)
    assert open_samples(str(tmp_path / "x.zarr"), labels="kind").features == ("a", "b")


def test_labels_along_some_dimensions_are_those_of_all_there() -> None:
    x = xr.DataArray(np.arange(24.0).reshape(3, 4, 2), dims=("year", "place", "feature"))
    names, codes, known = read(xr.DataArray(["a", "b", "a", ""], dims="place"), x)
    assert names == ("a", "b")
    assert codes == [0, 1, 0, -1] * 3
    assert not known


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        (np.full(12, -1), "no sample of ndarray has a label: all of them are unknown"),
        ([""] * 12, "no sample of ndarray has a label"),
        (np.full(12, np.nan), "no sample of ndarray has a label"),
        (np.array([*CODES[:-1], 1.5]), "a label of ndarray is 1.5: give whole numbers from 0 up"),
        (np.array([*CODES[:-1], -2]), "a label of ndarray is -2: give whole numbers from 0 up"),
        (np.array([*CODES[:-1], 1e300]), r"a label of ndarray is 1e\+300: give whole numbers"),
        (np.zeros(12, dtype="datetime64[s]"), r"the labels of ndarray are of type datetime64\[s\]"),
        (np.zeros(11, dtype=int), r"labels have shape \(11,\), .*give one label for each"),
        ("kind", "hand in the labels as an array"),
    ],
)  # fmt: skip
def test_what_are_no_labels_is_refused(labels: Any, what: str) -> None:
    with pytest.raises(InputError, match=what):
        open_samples(X, labels=labels)


def test_measurements_are_no_classes() -> None:
    with pytest.raises(InputError, match="more than 1000 values"):
        open_samples(np.zeros((1001, 2)), labels=np.arange(1001))
    assert read(np.arange(1000), np.zeros((1000, 2)))[2]


def test_no_such_variable_is_said() -> None:
    data = xr.Dataset({"a": ("t", X[:, 0]), "b": ("t", X[:, 1])})
    with pytest.raises(InputError, match="no variable 'kind' in Dataset to take the labels from: it has a, b"):
        open_samples(data, labels="kind")


def test_other_labels_are_another_source() -> None:
    found = [fingerprint(open_samples(X, labels=labels)) for labels in (NUMBERS, NUMBERS[::-1].copy(), None)]
    assert len({str(sorted(f.items())) for f in found}) == 3


def test_labels_that_change_meanwhile_are_noticed() -> None:
    labels = NUMBERS.copy()
    samples = open_samples(X, labels=labels)
    labels[3] = 9
    with pytest.raises(InputError, match="were changed while they were read: 9 is new"):
        samples.read_rows(samples.grid.region(0))
