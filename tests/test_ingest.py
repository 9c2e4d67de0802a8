"""What is no Zarr store is written as one: the same numbers, in whole chunks, and nothing half."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import dgmm
from dgmm import ingestion
from dgmm.cli import main
from dgmm.data import open_samples


@pytest.fixture
def frame() -> pd.DataFrame:
    """50 rows of two columns in no alphabetical order, one value missing, beside one of text."""
    x = np.random.default_rng(2).normal(size=(50, 2))
    x[7, 1] = np.nan
    return pd.DataFrame(x, columns=["z", "a"]).assign(who="x")


def read(path: Path, **how: Any) -> np.ndarray:
    samples = open_samples(path, **how)
    return np.concatenate([samples.read(samples.grid.region(i)) for i in range(len(samples.grid))])


def write(frame: pd.DataFrame, path: Path) -> str:
    """A frame in a file by its suffix."""
    match path.suffix:
        case ".parquet":
            frame.to_parquet(path, row_group_size=20)
        case ".tsv":
            frame.to_csv(path, sep="\t", index=False)
        case _:
            frame.to_csv(path, index=False)
    return str(path)


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "tsv", "parquet"])
@pytest.mark.parametrize("together", [False, True])
def test_a_table_is_written_in_whole_chunks(
    suffix: str, together: bool, frame: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = write(frame, tmp_path / f"x.{suffix}"), tmp_path / "x.zarr"
    options = ["--variables", "z,a", "--chunk-rows", "16", *(["--together"] if together else [])]
    assert main(["ingest", source, str(out), *options]) == 0
    told = capsys.readouterr().out
    sizes, chunks = ("sample 50, feature 2", "sample 16, feature 2") if together else ("sample 50", "sample 16")
    assert f"{'values' if together else 'z, a'} ({sizes}) in chunks of {chunks}" in told
    np.testing.assert_array_equal(read(out, variables=None if together else ["z", "a"]), frame[["z", "a"]].to_numpy())
    group = zarr.open_group(out, mode="r")
    assert {array.chunks for _, array in group.arrays() if array.dtype == float} == {(16, 2) if together else (16,)}
    assert open_samples(out).features == (("z", "a") if together else ("a", "z"))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([Path(source).name, "x.zarr"])
    # once more: refused, and done where that is asked for
    assert main(["ingest", source, str(out), *options]) == 2
    assert main(["ingest", source, str(out), *options, "--overwrite"]) == 0


def test_whole_numbers_and_a_table_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1;2\n3;NA\n;6.5\n")
    assert main(["ingest", str(tmp_path / "x.csv"), str(tmp_path / "x.zarr"), "--separator", ";"]) == 0
    np.testing.assert_array_equal(read(tmp_path / "x.zarr"), [[1, 2], [3, np.nan], [np.nan, 6.5]])


def test_a_grid_keeps_its_coordinates_and_what_lies_along_features(tmp_path: Path) -> None:
    values = np.random.default_rng(3).normal(size=(8, 3, 5))
    data = xr.Dataset(
        {"t": (("time", "depth", "lat"), values, {"units": "degC"})},
        coords={"time": pd.date_range("2020-01-01", periods=8), "depth": [0.0, 10.0, 20.0]},
    )
    data.to_netcdf(tmp_path / "x.nc", engine="h5netcdf", encoding={"t": {"chunksizes": (3, 1, 5)}})
    options = ["--feature-dim", "depth", "--chunk-rows", "10"]
    assert main(["ingest", str(tmp_path / "x.nc"), str(tmp_path / "x.zarr"), *options]) == 0
    found = xr.open_zarr(tmp_path / "x.zarr")
    xr.testing.assert_equal(found, data)
    assert found["t"].attrs["units"] == "degC"
    # all depths, all latitudes, and as many times as make ten samples
    assert found["t"].encoding["chunks"] == (2, 3, 5)


def test_an_array_of_numpys(tmp_path: Path) -> None:
    x = np.random.default_rng(4).normal(size=(30, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    assert main(["ingest", str(tmp_path / "x.npy"), str(tmp_path / "x.zarr"), "--chunk-rows", "8"]) == 0
    np.testing.assert_array_equal(read(tmp_path / "x.zarr"), x)
    assert zarr.open_group(tmp_path / "x.zarr", mode="r")["values"].chunks == (8, 4)


WRONG: dict[str, tuple[str, list[str], str]] = {
    "text where nobody asked": ("a,b\n1,x\n", [], "x.csv has columns that are not numeric, b ('x' in row 0): name"),
    "truth values": ("a,b\n1,True\n", [], "not numeric, b (True in row 0)"),
    "text far below": ("a,b\n" + "1,2\n" * 9 + "3,x\n", ["--chunk-rows", "4"], "no number, b ('x' in row 9): mend it"),
    "a line too long": ("a,b\n1,2\n3,4,5\n", [], "x.csv cannot be read as text: Error tokenizing data"),
    "a first line too long": ("a,b\n3,4,5\n1,2\n", [], "x.csv cannot be read as text: Length of header"),
    "nothing": ("", [], "x.csv cannot be read as text: No columns"),
    "no rows": ("a,b\n", [], "there are no rows below the header"),
    "an unknown column": ("a,b\n1,2\n", ["--variables", "c"], "no column 'c' in"),
    "a group": ("a,b\n1,2\n", ["--group", "g"], "group is not for text: leave it out"),
    "a name of two parts": ("wind m/s,b\n1,2\n", [], "'wind m/s' of"),
    "a name that is none": ("..,b\n1,2\n", [], "'..' of"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_written_is_one_line_and_leaves_nothing(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, options, said = WRONG[what]
    (tmp_path / "x.csv").write_text(text)
    assert main(["ingest", str(tmp_path / "x.csv"), str(tmp_path / "x.zarr"), *options, "--quiet"]) in (1, 2)
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x.csv"]


def test_columns_that_are_asked_for_twice_and_one_that_is_called_as_the_rows_are(tmp_path: Path) -> None:
    """A variable along a dimension of its name would be a coordinate, and no feature."""
    (tmp_path / "x.csv").write_text("sample,wind m/s,b\n1,2,3\n4,5,6\n7,8,10\n")
    for suffix in ("csv", "parquet"):
        pd.read_csv(tmp_path / "x.csv").to_parquet(tmp_path / "x.parquet")
        found = dgmm.ingest(tmp_path / f"x.{suffix}", tmp_path / f"{suffix}.zarr", variables=["sample", "b", "b"])
        assert found.sizes == {"row": 3}
        assert {*found.data_vars} == {"sample", "b"}
        np.testing.assert_array_equal(found["sample"], [1, 4, 7])
        together = dgmm.ingest(tmp_path / f"x.{suffix}", tmp_path / f"{suffix}-one.zarr", together=True)
        np.testing.assert_array_equal(together["values"], [[1, 2, 3], [4, 5, 6], [7, 8, 10]])
        assert together["feature"].values.tolist() == ["sample", "wind m/s", "b"]
    with pytest.raises(dgmm.InputError, match=r"'wind m/s' of .*x\.parquet cannot be the name of an array"):
        dgmm.ingest(tmp_path / "x.parquet", tmp_path / "y.zarr")


def test_an_interrupt_leaves_nothing(frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(frame[["z", "a"]], tmp_path / "x.csv")
    append, seen = ingestion.Columns.append, []

    def interrupted(self: ingestion.Columns, block: np.ndarray) -> None:
        append(self, block)
        seen.append(len(block))
        if len(seen) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(ingestion.Columns, "append", interrupted)
    assert main(["ingest", source, str(tmp_path / "x.zarr"), "--chunk-rows", "16"]) == 130
    # no more than a chunk at a time
    assert seen == [16, 16]
    assert [p.name for p in tmp_path.iterdir()] == ["x.csv"]


@pytest.mark.parametrize(
    ("sizes", "how", "chunks"),
    [
        ({"sample": 10**6}, (None, 1, None), {"sample": 131_072}),
        ({"sample": 10**6}, (None, 64, None), {"sample": 2**14}),
        ({"sample": 10**6, "feature": 64}, ("feature", 1, None), {"sample": 2**14, "feature": 64}),
        ({"t": 9, "z": 50, "y": 721, "x": 1440}, ("z", 1, None), {"t": 1, "z": 50, "y": 14, "x": 1440}),
        ({"sample": 100}, (None, 1, 7), {"sample": 7}),
        ({"sample": 3}, (None, 1, None), {"sample": 3}),
    ],
)
def test_a_chunk_holds_all_features_and_about_a_million_values(
    sizes: dict[str, int], how: tuple[str | None, int, int | None], chunks: dict[str, int]
) -> None:
    assert ingestion.lengths_of(sizes, *how) == chunks


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_python_writes_what_the_command_does(suffix: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    source, out = write(frame, tmp_path / f"x.{suffix}"), tmp_path / "x.zarr"
    how: dict[str, Any] = {"variables": ["z", "a"], "together": True, "chunk_rows": 16}
    found = dgmm.ingest(source, out, **how)
    assert not found["values"].chunksizes, "it is lazy, and no Dask array"
    assert found["feature"].values.tolist() == ["z", "a"]
    np.testing.assert_array_equal(found["values"], frame[["z", "a"]].to_numpy())
    assert (
        main(["ingest", source, str(tmp_path / "y.zarr"), "--variables", "z,a", "--together", "--chunk-rows", "16"])
        == 0
    )
    assert contents(out) == contents(tmp_path / "y.zarr")
    with pytest.raises(dgmm.OutputExistsError, match="overwrite"):
        dgmm.ingest(source, out)
    assert sorted(dgmm.ingest(source, out, variables=["a"], overwrite=True)) == ["a"]
    with pytest.raises(dgmm.InputError, match="chunk_rows"):
        dgmm.ingest(source, tmp_path / "z.zarr", chunk_rows=0)
    assert not (tmp_path / "z.zarr").exists()


def contents(folder: Path) -> dict[str, bytes]:
    """All files that hold values of a store."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("c/*/*")}
