"""The README's table of what people have and what to write: every line of it runs, to the same fit."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array
import icechunk
import numpy as np
import pandas
import polars
import pytest
import xarray as xr
import zarr
from zarr.storage import ObjectStore

import dgmm
from dgmm.cli import main
from tests.servers import file_server

README = Path(__file__).parents[2] / "README.md"
ROWS = re.findall(
    r"^\| (.*?) \| (.*?) \|$", README.read_text().partition("| what you have |")[2].partition("\n\n")[0], re.M
)
WRITTEN = [
    code.replace("\\|", "|")
    for _, says in ROWS
    for code in re.findall(r"`([^`]*)`", says)
    if re.match(r"dgmm (train|ingest)|dgmm\.", code)
]
pytestmark = pytest.mark.filterwarnings("ignore:.*onsolidated metadata")


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    """60 rows of two features."""
    return np.random.default_rng(6).normal((3, 5), (1, 2), (60, 2))


@pytest.fixture(scope="module")
def kept(x: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has them in every format."""
    folder = tmp_path_factory.mktemp("formats")
    table = pandas.DataFrame(x, columns=["a", "b"])
    columns = xr.Dataset({"a": ("time", x[:, 0]), "b": ("time", x[:, 1])})
    profiles = xr.Dataset({"t": (("time", "depth"), x)}, coords={"depth": [0.0, 10.0]})
    columns.to_zarr(folder / "x.zarr")
    columns.to_zarr(folder / "x.zarr", group="obs/deep", mode="a", consolidated=False)
    table.assign(who="x").to_parquet(folder / "x.parquet", row_group_size=25)
    columns.merge(profiles).to_netcdf(folder / "x.nc", engine="h5netcdf")
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(folder / "x.icechunk")))
    session = repository.writable_session("main")
    columns.to_zarr(session.store, group="path", consolidated=False)
    session.commit("x")
    np.save(folder / "x.npy", x)
    table.to_csv(folder / "x.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def web(kept: Path) -> Iterator[str]:
    """A server of that folder on loopback."""
    with file_server(kept) as address:
        yield address


def test_there_is_a_line_for_every_format() -> None:
    assert len(ROWS) >= 12
    assert len(WRITTEN) >= len(ROWS)


@pytest.mark.parametrize("code", WRITTEN)
def test_every_line_gives_the_same_fit(
    code: str,
    x: np.ndarray,
    kept: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(kept)
    expected = dgmm.train(x, 1).log_likelihood
    if not code.startswith("dgmm."):
        found = of_command(code, tmp_path, request)
    else:
        table = pandas.DataFrame(x, columns=["a", "b"])
        ds = xr.Dataset({"a": ("s", x[:, 0]), "b": ("s", x[:, 1])})
        code = code.replace(", 3", ", 1").replace('"y.zarr"', f'"{tmp_path}/y.zarr", overwrite=True')
        known: dict[str, Any] = {"dgmm": dgmm, "pandas": pandas, "ds": ds, "tree": xr.DataTree.from_dict({"obs": ds})}
        lazy = dask.array.from_array(x, chunks=(20, 2))
        if "client" in code:
            known["client"] = request.getfixturevalue("client")
        for df in (table, polars.from_pandas(table)):
            for array in (lazy,) if "client" in code else (x, lazy, zarr.array(x)):
                found = eval(code, known | {"df": df, "x": array}).log_likelihood
                assert found == pytest.approx(expected, rel=1e-12)
    assert found == pytest.approx(expected, rel=1e-12)


def of_command(code: str, tmp_path: Path, request: pytest.FixtureRequest) -> float:
    """The log-likelihood of what a command has trained, where its hosts are those on loopback."""
    if "s3://" in code:
        bucket = request.getfixturevalue("s3")
        from obstore.store import S3Store

        store = ObjectStore(S3Store.from_url(f"{bucket}/x.zarr"))
        xr.open_zarr("x.zarr").to_zarr(store)
        # what is stored on loopback is nobody else's, and lies in another region
        code = code.replace("s3://bucket", bucket).replace("anonymous: true", "anonymous: false")
        code = code.replace("eu-west-1", "us-east-1")
    if "https://host" in code:
        code = code.replace("https://host", request.getfixturevalue("web"))
    words = shlex.split(code)[1:]
    if words[0] == "ingest":
        words[2] = str(tmp_path / words[2])
        assert main(words) == 0
        words = ["train", words[2]]
    out = str(tmp_path / "m.zarr")
    assert main([*words, "--k", "1", "--out", out, "--quiet"]) == 0
    return dgmm.load(out).log_likelihood
