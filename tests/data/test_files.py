"""What lies at a path or URL and is no Zarr store: opened, or refused with what to do; and groups within stores."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import obstore
import pandas as pd
import pytest
import xarray as xr
import zarr
from distributed import Client
from obstore.store import S3Store

import dgmm
from dgmm.data import Samples, fingerprint, open_samples
from dgmm.data.codecs import check_array
from dgmm.errors import InputError, ReadError
from tests.servers import file_server

pytestmark = pytest.mark.filterwarnings("ignore:.*onsolidated metadata")


def cast() -> xr.Dataset:
    """Profiles of a variable over three depths, and text that is no feature."""
    values = np.random.default_rng(1).normal(10, 2, (8, 3, 5))
    values[1, 2, 3] = np.nan
    return xr.Dataset(
        {"t": (("time", "depth", "lat"), values, {"units": "degC"}), "who": ("time", list("abcdefgh"))},
        coords={"depth": [0.0, 10.0, 20.0], "lat": np.arange(5.0)},
    )


def rows(dataset: xr.Dataset) -> np.ndarray:
    """Its samples, shape (n, 3)."""
    return np.moveaxis(dataset["t"].to_numpy(), 1, -1).reshape(-1, 3)


def read_all(source: Any, **how: Any) -> np.ndarray:
    samples = open_samples(source, **how)
    return np.concatenate([samples.read(samples.grid.region(i)) for i in range(len(samples.grid))])


def there(client: Client, samples: Samples) -> np.ndarray:
    """All samples, as another process reads them."""
    return client.submit(samples.read, tuple(slice(0, n) for n in samples.grid.shape)).result()


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"open": {"engine": "h5netcdf", "chunks": {"time": 4}}}])
def test_netcdf(how: dict[str, Any], tmp_path: Path, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    path, data = tmp_path / "x.nc", cast()
    data.to_netcdf(path, engine="h5netcdf", encoding={"t": {"chunksizes": (2, 3, 5)}})
    how = {"variables": ["t"], "feature_dim": "depth", **how}
    with caplog.at_level(logging.INFO, "dgmm"):
        samples = open_samples(path, **how)
    assert caplog.text.count("HDF5 reads one thing at a time") == 1
    assert samples.layout.units == ("degC",)
    assert samples.fields[0].chunks == ((4, 3, 5) if "open" in how else (2, 3, 5))
    np.testing.assert_array_equal(read_all(path, **how), rows(data))
    np.testing.assert_array_equal(there(client, samples), rows(data))
    before = fingerprint(samples)
    data.isel(time=slice(1)).to_netcdf(tmp_path / "y.nc", engine="h5netcdf")
    (tmp_path / "y.nc").replace(path)
    assert fingerprint(open_samples(path, **how)) != before


def test_a_group_of_netcdf(tmp_path: Path) -> None:
    path = tmp_path / "x.nc"
    cast().to_netcdf(path, group="a/b", engine="h5netcdf")
    np.testing.assert_array_equal(read_all(path, group="a/b", variables=["t"], feature_dim="depth"), rows(cast()))


def test_numpys_files(tmp_path: Path, blobs: np.ndarray, client: Client) -> None:
    path = tmp_path / "x.npy"
    np.save(path, blobs)
    assert open_samples(path).layout.identities() is None
    np.testing.assert_array_equal(there(client, open_samples(path)), blobs)
    before = fingerprint(open_samples(path))
    np.save(path, blobs[1:])
    assert fingerprint(open_samples(path)) != before


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "text": ("x.csv", {}, r"is not a Zarr store but text, .*\(dgmm ingest x.csv x.zarr\).* pandas.read_csv\('x.csv'\)"),
    "damaged NetCDF": ("x.nc", {}, "xarray cannot open .*x.nc"),
    "no NetCDF": ("none.nc", {}, "no such file: .*none.nc"),
    "an engine that is none": ("x.nc", {"open": {"engine": "nothing"}}, "xarray cannot open .*unrecognized engine"),
    "GRIB without its engine": ("x.grib2", {}, "x.grib2 needs cfgrib or gribberish: pip install cfgrib"),
    "damaged .npy": ("x.npy", {}, "is not a NumPy file"),
    "no .npy": ("none.npy", {}, "no such file"),
    "a group of .npy": ("x.npy", {"group": "a"}, r"has no groups: leave group \(a\) out"),
    "a secret": (
        "x.nc",
        {"open": {"backend_kwargs": {"storage_options": {"token": "hush"}}}},
        "open.backend_kwargs.storage_options.token may be a secret",
    ),
    "a secret in a URL": ("x.nc", {"open": {"url": "https://me:hush@host/x"}}, "open.url may be a secret"),
    "storage of a path": ("x.zarr", {"storage": {"region": "r"}}, r"storage \(region\) is for URLs"),
    "storage beside open": ("x.nc", {"open": {"a": 1}, "storage": {"region": "r"}}, "or open"),
    "storage that is a secret": (
        "s3://b/x.zarr",
        {"storage": {"secret_access_key": "hush"}},
        r"storage.secret_access_key is not for s3://: it takes anonymous, endpoint, region; keys",
    ),
    "an endpoint with a password": (
        "s3://b/x.zarr",
        {"storage": {"endpoint": "http://me:hush@h"}},
        "storage.endpoint is a text without a password",
    ),
    "anonymous as a text": ("s3://b/x.zarr", {"storage": {"anonymous": "hush"}}, "anonymous is true or false"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_says_what_to_do(what: str, tmp_path: Path) -> None:
    name, how, said = REFUSED[what]
    for made in ("x.csv", "x.nc", "x.npy", "x.grib2"):
        (tmp_path / made).write_text("a,b\n1,2\n")
    (tmp_path / "x.zarr").mkdir()
    with pytest.raises(InputError, match=said) as caught:
        open_samples(name if "://" in name else str(tmp_path / name), **how)
    assert "\n" not in str(caught.value)
    assert "hush" not in str(caught.value)


# ---- groups ---------------------------------------------------------------------------------------------------------


def test_groups_of_a_store(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    cast()[["t"]].to_zarr(path, group="model/one", consolidated=False)
    cast()[["t"]].to_zarr(path, group="obs", consolidated=False, mode="a")
    with pytest.raises(InputError, match=r"holds no variables, but groups that do, model/one, obs: name one \(group\)"):
        open_samples(path)
    np.testing.assert_array_equal(read_all(path, group="obs", feature_dim="depth"), rows(cast()))
    with pytest.raises(InputError, match=r"no such store: .*/nothing"):
        open_samples(path, group="nothing")


def test_nodes_of_a_tree() -> None:
    tree = xr.DataTree.from_dict({"/model/one": cast()[["t"]], "/obs": cast()[["t"]]})
    np.testing.assert_array_equal(read_all(tree["obs"], feature_dim="depth"), rows(cast()))
    np.testing.assert_array_equal(read_all(tree, group="model/one", feature_dim="depth"), rows(cast()))
    with pytest.raises(InputError, match=r"DataTree holds no variables, but groups that do, model/one, obs: name one"):
        open_samples(tree)
    with pytest.raises(InputError, match=r"no node 'b' in the DataTree: it has model/one, obs"):
        open_samples(tree, group="b")


def test_chunks_of_different_lengths_are_refused(tmp_path: Path) -> None:
    """Whatever this version of zarr says of them."""
    zarr.create_array(tmp_path / "x.zarr", shape=(30, 2), chunks=(10, 2), dtype="f8")
    group = zarr.create_group(tmp_path / "g.zarr")
    group.create_array("t", shape=(30, 2), chunks=(10, 2), dtype="f8", dimension_names=("s", "f"))
    for path in (tmp_path / "x.zarr", tmp_path / "g.zarr" / "t"):
        metadata = json.loads((path / "zarr.json").read_text())
        shapes = {"kind": "inline", "chunk_shapes": [[10, 20], [2]]}
        metadata["chunk_grid"] = {"name": "rectilinear", "configuration": shapes}
        (path / "zarr.json").write_text(json.dumps(metadata))
    for place in ("x.zarr", "g.zarr"):
        with pytest.raises(InputError, match=r"has chunks of different lengths \(a rectilinear grid\)") as caught:
            open_samples(tmp_path / place)
        assert "\n" not in str(caught.value)


def test_an_array_of_such_chunks_is_refused() -> None:
    """What zarr raises from 3.2 on, where an array with them has been opened."""

    class Rectilinear:
        ndim, shards = 1, None

        @property
        def chunks(self) -> tuple[int, ...]:
            raise NotImplementedError("chunks is not defined for rectilinear grids")

    array: Any = Rectilinear()
    with pytest.raises(InputError, match=r"t in x.zarr has chunks of different lengths"):
        check_array(array, "t in x.zarr")


# ---- URLs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """URL of a server on loopback of a folder."""
    with file_server(tmp_path) as address:
        yield address


def test_a_store_behind_http(web: str, tmp_path: Path, client: Client) -> None:
    cast()[["t"]].to_zarr(tmp_path / "x.zarr", zarr_format=3, consolidated=True)
    cast()[["t"]].to_zarr(tmp_path / "y.zarr", zarr_format=3, consolidated=False)
    url = f"{web}/x.zarr"
    np.testing.assert_array_equal(read_all(url, feature_dim="depth"), rows(cast()))
    np.testing.assert_array_equal(there(client, open_samples(url, feature_dim="depth")), rows(cast()))
    fit = dgmm.train(url, 1, "diag", feature_dim="depth")
    assert fit.n_samples == 39
    # one array by itself needs no list
    zarr.create_array(tmp_path / "a.zarr", data=rows(cast()), chunks=(7, 3))
    np.testing.assert_array_equal(read_all(f"{web}/a.zarr"), rows(cast()))
    with pytest.raises(InputError, match=r"cannot be listed, .* zarr\.consolidate_metadata"):
        open_samples(f"{web}/y.zarr")
    with pytest.raises(InputError, match="cannot write to http"):
        dgmm.save(fit, f"{web}/m.zarr")
    # a model has such a list
    dgmm.save(fit, tmp_path / "m.zarr")
    assert dgmm.load(f"{web}/m.zarr").log_likelihood == fit.log_likelihood


def test_storage_takes_the_place_of_the_environment(
    s3: str, blobs: np.ndarray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    xr.Dataset({"a": ("s", blobs[:, 0]), "b": ("s", blobs[:, 1])}).to_zarr(
        zarr.storage.ObjectStore(S3Store.from_url(f"{s3}/x.zarr")), consolidated=False
    )
    folder = S3Store.from_url(s3)
    for i, part in enumerate((blobs[:200], blobs[200:])):
        pd.DataFrame(part, columns=["a", "b"]).to_parquet(tmp_path / "p.parquet", row_group_size=150)
        obstore.put(folder, f"p.parquet/{i}.parquet", (tmp_path / "p.parquet").read_bytes())
    storage = {"endpoint": os.environ["AWS_ENDPOINT_URL"], "region": "us-east-1"}
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_ALLOW_HTTP"):
        monkeypatch.delenv(name)
    np.testing.assert_array_equal(read_all(f"{s3}/x.zarr", storage=storage), blobs)
    np.testing.assert_array_equal(read_all(f"{s3}/p.parquet", storage=storage), blobs)
    np.testing.assert_array_equal(read_all(f"{s3}/p.parquet/1.parquet", storage=storage), blobs[200:])
    opened = open_samples(f"{s3}/p.parquet", storage=storage)
    before = fingerprint(opened)
    obstore.put(folder, "p.parquet/1.parquet", (tmp_path / "p.parquet").read_bytes())
    assert fingerprint(open_samples(f"{s3}/p.parquet", storage=storage)) == before
    pd.DataFrame(blobs, columns=["a", "b"]).to_parquet(tmp_path / "p.parquet")
    obstore.put(folder, "p.parquet/1.parquet", (tmp_path / "p.parquet").read_bytes())
    assert fingerprint(open_samples(f"{s3}/p.parquet", storage=storage)) != before
    with pytest.raises(ReadError, match=r"1.parquet was changed since it was opened"):
        opened.read((slice(500, 600),))
    # nobody's keys are needed for what is public
    bucket = boto3.client("s3", endpoint_url=storage["endpoint"], region_name="us-east-1")
    for found in folder.list().collect():
        key = f"{s3.removeprefix('s3://bucket/')}/{found['path']}"
        bucket.put_object_acl(Bucket="bucket", Key=key, ACL="public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    np.testing.assert_array_equal(read_all(f"{s3}/x.zarr", storage={**storage, "anonymous": True}), blobs)
