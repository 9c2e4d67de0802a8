"""Tables, in memory and in Parquet: columns are features, and a fit is that of the same rows in Zarr, bit for bit."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import dask.dataframe
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr
from distributed import Client

import dgmm
from dgmm.data import fingerprint, open_samples, seen
from dgmm.data import grid as grid_module
from dgmm.data.samples import Samples
from dgmm.errors import InputError, ReadError


def read_all(samples: Samples) -> np.ndarray:
    """All samples in their order."""
    return np.concatenate([samples.read(samples.grid.region(i)) for i in range(len(samples.grid))])


@pytest.fixture
def frame(blobs: np.ndarray) -> pd.DataFrame:
    """600 rows of two features, in no alphabetical order, of which one value is missing."""
    frame = pd.DataFrame(blobs, columns=["z", "a"])
    frame.loc[5, "a"] = np.nan
    return frame


def in_zarr(frame: pd.DataFrame, path: Path, rows: int) -> str:
    """The same rows in a store, in chunks of so many."""
    encoding = {name: {"chunks": (rows,)} for name in frame}
    xr.Dataset({name: ("sample", frame[name].to_numpy()) for name in frame}).to_zarr(
        path, encoding=encoding, consolidated=False
    )
    return str(path)


# ---- in memory ------------------------------------------------------------------------------------------------------

KINDS = {
    "pandas": lambda f: f,
    "pandas' own types": lambda f: f.astype("Float64"),
    "pandas on Arrow": lambda f: f.astype("double[pyarrow]"),
    "polars": pl.from_pandas,
}


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_features_in_their_order(kind: str, frame: pd.DataFrame) -> None:
    samples = open_samples(KINDS[kind](frame))
    assert samples.features == ("z", "a")
    assert samples.dims == ("sample",)
    np.testing.assert_array_equal(read_all(samples), frame.to_numpy())


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame])
def test_whole_numbers_that_may_be_missing(make: Any) -> None:
    frame = make({"n": [3, None, 2**40], "m": [1, 2, 3]})
    if make is pd.DataFrame:
        frame = frame.astype({"n": "Int64"})
    np.testing.assert_array_equal(read_all(open_samples(frame)), [[3, 1], [np.nan, 2], [2**40, 3]])


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, None])
def test_a_column_that_is_called_as_the_rows_are_is_a_feature(make: Any, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(30, 2))
    source: Any = (make or pd.DataFrame)({"sample": x[:, 0], "x": x[:, 1]})
    if make is None:
        source.to_parquet(tmp_path / "x.parquet")
        source = tmp_path / "x.parquet"
    samples = open_samples(source)
    assert (samples.features, samples.dims) == (("sample", "x"), ("row",))
    np.testing.assert_array_equal(samples.read(samples.grid.region(0)), x)


def test_names_of_columns_may_be_those_of_a_frame(frame: pd.DataFrame, tmp_path: Path) -> None:
    """Which are an index, that has no truth and is no JSON."""
    numeric = frame.select_dtypes("number").fillna(0.0)
    fits = [
        dgmm.train(numeric, 1, variables=names, journal=tmp_path / "j", keep_journal=True)
        for names in (numeric.columns[1:], numeric.columns[1:].to_numpy(), tuple(numeric.columns[1:]))
    ]
    assert [fit.features for fit in fits] == [tuple(numeric.columns[1:])] * 3


def test_a_frame_is_fitted_scored_and_predicted(frame: pd.DataFrame, tmp_path: Path) -> None:
    fit = dgmm.train(frame, 3, search="starts", n_init=2)
    expected = dgmm.train(frame.to_numpy(), 3, search="starts", n_init=2)
    assert fit.log_likelihood == expected.log_likelihood
    assert fit.features == ("z", "a")
    days = pd.date_range("2020-01-01", periods=600, name="day")
    # the columns in another order, beside others, and rows with names of their own
    other = frame[["a", "z"]].assign(who="x").set_index(days)
    scores = dgmm.score(fit, other, tmp_path / "s.zarr")
    np.testing.assert_array_equal(scores["day"].to_numpy(), days.to_numpy())
    assert scores["label"].to_numpy()[5] == -1
    np.testing.assert_array_equal(np.bincount(scores["label"].to_numpy() + 1), [1, *np.bincount(_labels(fit, frame))])
    found = dgmm.predict(fit, pl.from_pandas(frame[["a"]]), tmp_path / "p.zarr", of=["z"])
    means, _ = fit.predict(frame[["a"]].to_numpy()[:5], ["z"], ["a"])
    np.testing.assert_allclose(found["z"].to_numpy()[:5], means[:, 0])


def _labels(fit: dgmm.Fit, frame: pd.DataFrame) -> np.ndarray:
    """The most probable component of every complete row."""
    return fit.mixture.responsibilities(frame.dropna().to_numpy()).argmax(axis=1)


def test_weights_and_labels_of_a_frame(frame: pd.DataFrame) -> None:
    table = frame.assign(w=np.arange(600.0), c=np.where(frame["z"] > 2, "far", "near"))
    fit = dgmm.train(table, labels="c", weights="w")
    assert fit.features == ("z", "a")
    assert fit.classes == ("far", "near")
    same = dgmm.train(frame, labels=table["c"], weights=table["w"])
    assert same.log_likelihood == fit.log_likelihood


@pytest.mark.parametrize("make", [lambda f: f, pl.from_pandas])
def test_columns_that_are_no_numbers_are_named(make: Any, frame: pd.DataFrame) -> None:
    table = make(frame.assign(who="x", good=True))
    with pytest.raises(InputError, match=r"DataFrame has columns that are not numeric, who \(object\), good \(bool\): "
                       r"name those to use \(variables\), of which there are z, a$"):  # fmt: skip
        open_samples(table)
    assert open_samples(table, ["a", "z"]).features == ("a", "z")


def test_numbered_columns_go_by_their_place(frame: pd.DataFrame) -> None:
    numbered = pd.DataFrame(frame.to_numpy())
    assert open_samples(numbered).layout == open_samples(frame.to_numpy()).layout


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (lambda f: dask.dataframe.from_pandas(f, npartitions=2), "is a lazy table: hand in"),
        (lambda f: pl.from_pandas(f).lazy(), r"LazyFrame is not computed: hand in df.collect\(\)"),
        (lambda f: f.set_axis(["a", "a"], axis=1), r"called the same \(a\)"),
        (lambda f: f.set_index([f["a"], f.index]), r"several levels.*reset_index\(\)"),
    ],
)
def test_frames_that_are_refused(source: Any, said: str, frame: pd.DataFrame) -> None:
    with pytest.raises(InputError, match=said) as caught:
        open_samples(source(frame))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", [{"group": "a"}, {"open": {"engine": "x"}}, {"storage": {"region": "x"}}])
def test_what_is_for_paths_is_refused(how: dict[str, Any], frame: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="are for paths and URLs"):
        open_samples(frame, **how)


# ---- Parquet --------------------------------------------------------------------------------------------------------


def in_parquet(frame: pd.DataFrame, folder: Path) -> str:
    """The same rows in three files of row groups of 100 rows and fewer."""
    folder.mkdir()
    for i, (a, b) in enumerate([(0, 250), (250, 280), (280, 600)]):
        frame.iloc[a:b].to_parquet(folder / f"part-{i}.parquet", row_group_size=100)
    (folder / "_SUCCESS").write_text("")
    (folder / "_common.parquet").write_text("not to be read")
    return str(folder)


def test_a_folder_gives_the_bits_of_zarr_and_is_read_in_other_processes(
    frame: pd.DataFrame, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid_module, "MIN_ROWS", 7)
    place, store = in_parquet(frame, tmp_path / "x.parquet"), in_zarr(frame, tmp_path / "x.zarr", 100)
    samples = open_samples(place)
    assert samples.features == ("z", "a")
    assert samples.grid.segment == open_samples(store).grid.segment == (100,)
    np.testing.assert_array_equal(read_all(samples), frame.to_numpy())
    np.testing.assert_array_equal(samples.read((slice(240, 290),)), frame.to_numpy()[240:290])
    elsewhere = client.submit(samples.read, (slice(240, 290),)).result()
    np.testing.assert_array_equal(elsewhere, frame.to_numpy()[240:290])
    how: dict[str, Any] = {"variables": ["z", "a"], "search": "starts", "n_init": 1}
    here = dgmm.train(store, 3, **how)
    there = dgmm.train(place, 3, **how)
    assert there.log_likelihood == here.log_likelihood
    np.testing.assert_array_equal(there.mixture.means, here.mixture.means)


def test_only_what_is_asked_for_is_read(frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.parquet"
    frame.assign(who="x").to_parquet(path, row_group_size=100)
    read: list[Any] = []
    whole = pq.ParquetFile.read_row_groups

    def noted(self: Any, groups: list[int], **how: Any) -> Any:
        read.append((groups, how["columns"]))
        return whole(self, groups, **how)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", noted)
    open_samples(path, ["a"]).read((slice(150, 310),))
    assert read == [([1, 2, 3], ["a"])]


def test_types_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table(
        {
            "f": pa.array([1.5, None, 3], pa.float32()),
            "n": pa.array([1, None, 3], pa.int16()),
            "d": pa.array([1.25, None, 3.5], pa.float64()).cast(pa.decimal128(10, 2)),
            "label": pa.array(["u", None, "v"]).dictionary_encode(),
            "day": pa.array([1, 2, 3], pa.date32()),
        }
    )
    pq.write_table(table, path)
    with pytest.raises(InputError, match=r"not numeric, label \(object\), day \(object\): .* there are f, n, d$"):
        open_samples(path)
    samples = open_samples(path, ["f", "n", "d"], labels="label")
    np.testing.assert_array_equal(read_all(samples), [[1.5, 1, 1.25], [np.nan] * 3, [3, 3, 3.5]])
    assert samples.labels is not None
    assert samples.labels.names == ("u", "v")
    assert samples.fields[0].array.dtype == np.float32


def test_what_tells_parquet_files_apart(frame: pd.DataFrame, tmp_path: Path) -> None:
    place = in_parquet(frame, tmp_path / "x.parquet")
    before = fingerprint(open_samples(place))
    assert fingerprint(pickle.loads(pickle.dumps(open_samples(place)))) == before
    frame.iloc[280:600].round(3).to_parquet(tmp_path / "x.parquet" / "part-2.parquet", row_group_size=100)
    assert fingerprint(open_samples(place)) != before


def test_scores_of_a_folder_that_has_grown_are_extended(
    frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read from files that are as they were is kept, and the rest scored: to what scoring anew gives."""
    monkeypatch.setattr(grid_module, "MIN_ROWS", 7)
    place = in_parquet(frame, tmp_path / "x.parquet")
    fit = dgmm.train(frame, 2, "diag", search="starts", n_init=1)
    dgmm.score(fit, place, tmp_path / "s.zarr")
    before = seen(open_samples(place)).regions
    frame.iloc[:130].to_parquet(tmp_path / "x.parquet" / "part-3.parquet", row_group_size=100)
    after = seen(open_samples(place)).regions
    assert before is not None
    assert after is not None
    np.testing.assert_array_equal(after[: len(before)], before)
    assert len(set(after.tolist())) == len(after) == 8
    # of a file that is another, what overlaps with it
    last = tmp_path / "x.parquet" / "part-2.parquet"
    os.utime(last, ns=(1, 1))
    moved = seen(open_samples(place)).regions
    assert moved is not None
    np.testing.assert_array_equal(moved == after, [True, True, False, False, False, False, True, True])
    found = dgmm.score(fit, place, tmp_path / "s.zarr", extend=True)
    anew = dgmm.score(fit, place, tmp_path / "t.zarr")
    xr.testing.assert_equal(found.load(), anew.load())
    assert found["label"].size == 730


def test_files_that_are_damaged_are_one_line(frame: pd.DataFrame, tmp_path: Path) -> None:
    place = in_parquet(frame, tmp_path / "x.parquet")
    samples = open_samples(place)
    last = tmp_path / "x.parquet" / "part-2.parquet"
    content = last.read_bytes()
    frame.iloc[280:590].to_parquet(last, row_group_size=100)
    with pytest.raises(ReadError, match=r"part-2.parquet was changed since it was opened"):
        read_all(samples)
    last.write_bytes(content[:200])
    with pytest.raises(InputError, match=r"part-2.parquet is not a Parquet file: [^\n]*$"):
        open_samples(place)
    # as long as it was, and no longer what it was
    last.write_bytes(content[:4] + bytes(300) + content[304:])
    with pytest.raises(ReadError, match=r"^z in .*part-2.parquet cannot be read \(row groups? 0.*\): [^\n]*$"):
        read_all(open_samples(place))
    frame.rename(columns={"z": "y"}).to_parquet(last)
    with pytest.raises(InputError, match=r"part-2.parquet has other columns than .*part-0.parquet"):
        open_samples(place)
    with pytest.raises(InputError, match="no such file"):
        open_samples(tmp_path / "nothing.parquet")
    (tmp_path / "empty.parquet").mkdir()
    with pytest.raises(InputError, match=r"no Parquet files in"):
        open_samples(tmp_path / "empty.parquet")
