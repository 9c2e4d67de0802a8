"""Every kind of source gives the samples that NumPy says it holds."""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from dgmm.data import Samples, open_samples
from dgmm.data import grid as grid_module
from dgmm.data.variables import MOST_FEATURES
from dgmm.errors import InputError


@pytest.fixture(autouse=True)
def several_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut small arrays too: seven samples are enough for a segment."""
    monkeypatch.setattr(grid_module, "MIN_ROWS", 7)


def read_all(samples: Samples) -> np.ndarray:
    """All samples, put at their global row numbers, each of which must come up once."""
    grid = samples.grid
    rows = np.concatenate([grid.rows(grid.region(i)) for i in range(len(grid))])
    blocks = [samples.read(grid.region(i)) for i in range(len(grid))]
    assert all(type(b) is np.ndarray for b in blocks)
    assert [len(b) for b in blocks] == [grid.n_rows(i) for i in range(len(grid))]
    np.testing.assert_array_equal(np.sort(rows), np.arange(grid.size))
    return np.concatenate(blocks)[np.argsort(rows)]


def table(n: int = 40, d: int = 3) -> np.ndarray:
    """Values (n, d), some of them missing."""
    generator = np.random.default_rng(3)
    x = generator.normal(10, 3, (n, d))
    x[generator.random((n, d)) < 0.1] = np.nan
    return x


def climatology() -> tuple[xr.Dataset, np.ndarray]:
    """A variable (month, depth, lat, lon) and its samples (month lat lon, depth)."""
    generator = np.random.default_rng(4)
    values = generator.normal(10, 3, (4, 3, 5, 6))
    values[:, 1:, 2, 3] = np.nan
    dims = ("month", "depth", "lat", "lon")
    dataset = xr.Dataset(
        {"temperature": (dims, values)},
        coords={
            "month": np.arange(4),
            "depth": [0.0, 10.0, 50.0],
            "lat": np.arange(5) * 2.0,
            "lon": np.arange(6) * 2.0,
        },
    )
    return dataset, np.moveaxis(values, 1, -1).reshape(-1, 3)


# ---- an (n, d) array in all its guises: each builds a source of the samples `table()` --------------------------------


def zarr_array(store: Any, x: np.ndarray, **how: Any) -> zarr.Array[Any]:
    array = zarr.create_array(store, shape=x.shape, dtype=x.dtype, **({"chunks": (9, 2)} | how))
    array[...] = x
    return array


def array_path(version: int) -> Callable[[Path], Any]:
    def build(folder: Path) -> str:
        zarr_array(str(folder / "a.zarr"), table(), zarr_format=version)
        return str(folder / "a.zarr")

    return build


def sharded_path(folder: Path) -> Path:
    zarr_array(str(folder / "a.zarr"), table(), chunks=(4, 1), shards=(12, 3), zarr_format=3)
    return folder / "a.zarr"


def variables_path(version: int) -> Callable[[Path], Any]:
    def build(folder: Path) -> str:
        columns = {f"v{i}": ("sample", c) for i, c in enumerate(table().T)}
        dataset = xr.Dataset(columns).chunk(sample=11)
        dataset.to_zarr(folder / "a.zarr", zarr_format=version, consolidated=False)
        return str(folder / "a.zarr")

    return build


def subgroup_path(folder: Path) -> str:
    xr.Dataset({"x": (("sample", "feature"), table())}).to_zarr(
        folder / "a.zarr", group="part/one", zarr_format=3, consolidated=False, encoding={"x": {"chunks": (9, 2)}}
    )
    return str(folder / "a.zarr" / "part" / "one")


def lazy_dataset(folder: Path) -> xr.Dataset:
    dataset = xr.Dataset({"x": (("sample", "feature"), table())}).chunk(sample=9, feature=2)
    dataset.to_zarr(folder / "a.zarr", zarr_format=3, consolidated=False)
    return xr.open_zarr(folder / "a.zarr", chunks=None, consolidated=False)


def irregular(_: Path) -> da.Array:
    return da.from_array(table(), chunks=((1, 20, 2, 17), (2, 1)))


def strided(_: Path) -> np.ndarray:
    x = table()
    wide = np.full((2 * len(x), 2 * x.shape[1]), np.inf)
    wide[::2, 1::2] = x
    return wide[::2, 1::2]


def masked(_: Path) -> np.ma.MaskedArray[Any, Any]:
    x = table()
    return np.ma.MaskedArray(np.nan_to_num(x, nan=-999.0), np.isnan(x))


SOURCES: dict[str, Callable[[Path], Any]] = {
    "numpy": lambda _: table(),
    "Fortran order": lambda _: np.asfortranarray(table()),
    "a strided view": strided,
    "a masked array: the mask means missing": masked,
    "a masked Dask array: the mask means missing": lambda p: da.from_array(masked(p), chunks=(13, 2)),
    "irregular Dask chunks": irregular,
    "path, v2": array_path(2),
    "path, v3": array_path(3),
    "path object, sharded": sharded_path,
    "zarr.Array, v2": lambda _: zarr_array(MemoryStore(), table(), zarr_format=2),
    "zarr.Array, v3": lambda _: zarr_array(MemoryStore(), table(), zarr_format=3),
    "zarr.Array, sharded": lambda _: zarr_array(MemoryStore(), table(), chunks=(4, 1), shards=(12, 3)),
    "zarr.Array with names": lambda _: zarr_array(MemoryStore(), table(), dimension_names=("profile", "level")),
    "DataArray": lambda _: xr.DataArray(table()),
    "DataArray on Dask": lambda p: xr.DataArray(irregular(p), name="x"),
    "Dataset of one variable": lambda _: xr.Dataset({"x": (("sample", "feature"), table())}),
    "Dataset of one variable on Dask": lambda p: xr.Dataset({"x": (("sample", "feature"), irregular(p))}),
    "Dataset of several variables": lambda _: xr.Dataset({f"v{i}": ("s", c) for i, c in enumerate(table().T)}),
    "lazy Dataset": lazy_dataset,
    "path of several variables, v2": variables_path(2),
    "path of several variables, v3": variables_path(3),
    "path of a group in a group": subgroup_path,
}


@pytest.mark.parametrize("decoder", ["zarr", "zarrs"])
@pytest.mark.parametrize("build", SOURCES.values(), ids=list(SOURCES))
def test_sources_hold_the_same_samples(build: Callable[[Path], Any], decoder: str, tmp_path: Path) -> None:
    samples = pickle.loads(pickle.dumps(open_samples(build(tmp_path), decoder=decoder)))
    np.testing.assert_array_equal(read_all(samples), table())
    assert samples.n_features == 3
    assert len(samples.grid) > 1 or not samples.fields[0].chunks


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("float32", -1e3, 1e3),
        ("float16", -1e3, 1e3),
        ("int16", -(2**15), 2**15 - 1),
        ("uint8", 0, 255),
        ("int64", -(2**52), 2**52),
        # big-endian, as a store made elsewhere may be
        (">f8", -1e3, 1e3),
        (">i2", -(2**15), 2**15 - 1),
    ],
)
@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr"])
def test_number_types(dtype: str, low: float, high: float, kind: str) -> None:
    """Values come as they are stored, the extremes of each type included."""
    x = np.linspace(low, high, 60).reshape(20, 3).astype(dtype)
    source = {"numpy": lambda: x, "dask": lambda: da.from_array(x, chunks=(6, 2)), "zarr": lambda: as_zarr(x)}[kind]()
    np.testing.assert_array_equal(read_all(open_samples(source)), x)


def test_a_decoder_is_used_where_it_was_asked_for(tmp_path: Path) -> None:
    path = array_path(3)(tmp_path)
    pipelines = [
        type(pickle.loads(pickle.dumps(open_samples(path, decoder=d))).fields[0].array._async_array.codec_pipeline)
        for d in ("zarr", "zarrs", "zarr")
    ]
    assert [p.__module__.split(".")[0] for p in pipelines] == ["zarr", "zarrs", "zarr"]


def test_an_unknown_decoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown decoder 'blosc': use zarr or zarrs"):
        open_samples(array_path(3)(tmp_path), decoder="blosc")


def as_zarr(x: np.ndarray) -> zarr.Array[Any]:
    return zarr_array(MemoryStore(), x, zarr_format=2)


def test_masked_integers_become_missing() -> None:
    x = np.ma.MaskedArray(np.arange(12, dtype="int16").reshape(6, 2), mask=False)
    x[2, 1] = np.ma.masked
    expected = np.arange(12.0).reshape(6, 2)
    expected[2, 1] = np.nan
    np.testing.assert_array_equal(read_all(open_samples(x)), expected)


# ---- variables on grids ---------------------------------------------------------------------------------------------

GRIDS: dict[str, Callable[[xr.Dataset, Path], Any]] = {
    "Dataset": lambda ds, _: ds,
    "Dataset on Dask": lambda ds, _: ds.chunk(month=3, depth=2, lat=4, lon=5),
    "DataArray": lambda ds, _: ds["temperature"],
    "DataArray on Dask": lambda ds, _: ds["temperature"].chunk(month=1, depth=1, lat=5, lon=4),
    "path, v2": lambda ds, p: written(ds, p, 2),
    "path, v3": lambda ds, p: written(ds, p, 3),
    "path, sharded": lambda ds, p: written(ds, p, 3, chunks=(1, 3, 2, 2), shards=(2, 3, 4, 4)),
    "path, float32": lambda ds, p: written(ds.astype("float32"), p, 3),
}


def written(dataset: xr.Dataset, folder: Path, version: int, **encoding: Any) -> str:
    how = {"temperature": {"chunks": (3, 2, 2, 4)} | encoding}
    dataset.to_zarr(folder / "grid.zarr", zarr_format=version, consolidated=False, encoding=how)
    return str(folder / "grid.zarr")


@pytest.mark.parametrize("build", GRIDS.values(), ids=list(GRIDS))
def test_one_dimension_holds_the_features(build: Callable[[xr.Dataset, Path], Any], tmp_path: Path) -> None:
    dataset, expected = climatology()
    source = build(dataset, tmp_path)
    samples = open_samples(source, feature_dim="depth")
    assert samples.dims == ("month", "lat", "lon")
    assert samples.grid.shape == (4, 5, 6)
    assert samples.features == ("0.0", "10.0", "50.0")
    found = read_all(samples)
    np.testing.assert_array_equal(found, expected.astype(found.dtype))
    assert set(samples.coords.coords) == {"month", "lat", "lon"}


@pytest.mark.parametrize("dims", [("depth", "lat", "month", "lon"), ("lon", "lat", "month", "depth")])
def test_any_order_of_dimensions(dims: tuple[str, ...]) -> None:
    """Samples are in the C order of the variable's own dimensions without that of the features."""
    dataset, _ = climatology()
    turned = dataset.transpose(*dims)
    samples = open_samples(turned.chunk(lat=2), feature_dim="depth")
    assert samples.dims == tuple(d for d in dims if d != "depth")
    expected = turned["temperature"].transpose(*samples.dims, "depth").to_numpy().reshape(-1, 3)
    np.testing.assert_array_equal(read_all(samples), expected)


def test_several_variables_with_dimensions_in_different_orders() -> None:
    dataset, _ = climatology()
    first = dataset["temperature"].isel(depth=0, drop=True)
    source = xr.Dataset({"a": first, "b": first.transpose("lon", "month", "lat") * 2}).chunk(lat=2)
    expected = first.to_numpy().ravel()
    np.testing.assert_array_equal(read_all(open_samples(source)), np.stack([expected, 2 * expected], axis=1))


def test_variables_are_the_features_in_the_order_that_was_asked_for() -> None:
    x = table()
    source = xr.Dataset({name: ("s", column) for name, column in zip("abc", x.T, strict=True)})
    samples = open_samples(source, ["c", "a"])
    assert samples.features == ("c", "a")
    np.testing.assert_array_equal(read_all(samples), x[:, [2, 0]])


class Listed(MemoryStore):
    """A store that lists what it holds in an order of its own, as file systems and buckets do."""

    order = ""

    def with_read_only(self, read_only: bool = False) -> Listed:
        """A view of the same content."""
        other = Listed(self._store_dict, read_only=read_only)
        other.order = self.order
        return other

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """The entries of a folder."""
        entries = [entry async for entry in super().list_dir(prefix)]
        for entry in sorted(entries, key=self.order.find):
            yield entry


def test_default_order_of_variables_does_not_depend_on_the_storage() -> None:
    """Two stores that hold the same are read the same way: a model is a matter of the order of features."""
    found = []
    for order in ("abcdef", "fedcba", "cafebd"):
        store = Listed()
        store.order = order
        dataset = xr.Dataset({name: ("s", np.full(3, float(i))) for i, name in enumerate("abcdef")})
        dataset.to_zarr(store, zarr_format=3, consolidated=False)
        with patch("dgmm.data.sources.open_store", lambda *_, store=store, **__: zarr.open_group(store, mode="r")):
            found.append(open_samples("listed.zarr").features)
        with xr.open_zarr(store, chunks=None, consolidated=False) as listed:
            assert "".join(map(str, listed)) == order
    assert found[0] == found[1] == found[2]


def test_packed_variables_are_decoded(tmp_path: Path) -> None:
    """CF packing: value = stored * scale_factor + add_offset, _FillValue is missing."""
    stored = np.array([[0, 1], [-32768, 300], [25, -1], [7, -32768]], dtype="int16")
    how = {"scale_factor": 0.5, "add_offset": 10.0, "_FillValue": np.int16(-32768)}
    source = xr.Dataset({"x": (("s", "f"), stored, how)})
    expected = np.where(stored == -32768, np.nan, stored * 0.5 + 10)
    for version in (2, 3):
        path = tmp_path / f"packed{version}.zarr"
        source.to_zarr(path, zarr_format=version, consolidated=False)
        np.testing.assert_array_equal(read_all(open_samples(path)), expected)


def test_a_packed_array_by_itself_is_decoded_or_refused(tmp_path: Path) -> None:
    """The path of one array inside a dataset: its packed integers are not its values."""
    values = np.array([[0.5, 1.0], [np.nan, 300.0]])
    how = {"x": {"scale_factor": 0.5, "_FillValue": np.int16(-1), "dtype": "int16"}}
    xr.Dataset({"x": (("s", "f"), values)}).to_zarr(tmp_path / "p.zarr", consolidated=False, encoding=how)
    found: np.ndarray | InputError
    try:
        found = read_all(open_samples(tmp_path / "p.zarr" / "x"))
    except InputError as error:
        found = error
    if isinstance(found, InputError):
        assert "scale_factor" in str(found)
    else:
        np.testing.assert_array_equal(found, values)


def test_a_variable_measured_in_days_is_a_number(tmp_path: Path) -> None:
    """xarray takes units of time for a reason to decode."""
    values = np.array([[1.5, 2.0], [3.0, 4.0]])
    xr.Dataset({"age": (("s", "f"), values, {"units": "days"})}).to_zarr(tmp_path / "d.zarr", consolidated=False)
    np.testing.assert_array_equal(read_all(open_samples(tmp_path / "d.zarr")), values)


def test_missing_chunks_read_as_the_fill_value_if_asked_for(tmp_path: Path) -> None:
    """A chunk that was never written holds the fill value, here NaN: missing, not zero."""
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=(20, 2), chunks=(10, 2), dtype="f8", fill_value=np.nan)
    array[:10] = 1.0
    expected = np.full((20, 2), np.nan)
    expected[:10] = 1.0
    samples = open_samples(tmp_path / "a.zarr", missing_chunks="fill")
    np.testing.assert_array_equal(read_all(samples), expected)


@pytest.mark.parametrize("how", ["zarr.Array", "path", "path of a variable"])
def test_segments_are_whole_shards(how: str, tmp_path: Path) -> None:
    """A shard is what is read and decoded as one: no two segments share one."""
    path = tmp_path / "sharded.zarr"
    if how == "path of a variable":
        dataset = xr.Dataset({"x": (("s", "f"), table(200))})
        dataset.to_zarr(path, consolidated=False, encoding={"x": {"chunks": (5, 3), "shards": (30, 3)}})
    else:
        zarr_array(str(path), table(200), chunks=(5, 3), shards=(30, 3))
    samples = open_samples(zarr.open_array(str(path), mode="r") if how == "zarr.Array" else path)
    assert samples.grid.segment[0] % 30 == 0
    assert len(samples.grid) > 1
    np.testing.assert_array_equal(read_all(samples), table(200))


@pytest.mark.parametrize("shards", [None, (6, 20, 3)], ids=["chunks", "shards"])
@pytest.mark.parametrize(
    "change",
    [
        lambda v: v,
        lambda v: v.transpose("lat", "t", "z"),
        lambda v: v.transpose("z", "lat", "t"),
        lambda v: v.isel(t=slice(3, None)).transpose("lat", "t", "z"),
    ],
    ids=["as stored", "transposed", "features first", "selected"],
)
def test_segments_are_whole_chunks_whatever_the_order_of_dimensions(
    change: Callable[[xr.DataArray], xr.DataArray], shards: tuple[int, ...] | None, tmp_path: Path
) -> None:
    """A shard cut by segments would be decoded once for each: lengths of chunks belong to dimensions by name."""
    values = np.random.default_rng(0).normal(size=(60, 40, 3))
    encoding = {"chunks": (2, 4, 3)} | ({"shards": shards} if shards else {})
    dataset = xr.Dataset({"v": (("t", "lat", "z"), values)})
    dataset.to_zarr(tmp_path / "v.zarr", consolidated=False, encoding={"v": encoding})
    variable = change(xr.open_zarr(tmp_path / "v.zarr", chunks=None, consolidated=False)["v"])
    samples = open_samples(variable, feature_dim="z")
    stored = {"t": 6, "lat": 20} if shards else {"t": 2, "lat": 4}
    assert len(samples.grid) > 1
    for dim, length, whole in zip(samples.dims, samples.grid.segment, samples.grid.shape, strict=True):
        assert length == whole or length % stored.get(dim, 1) == 0


def test_the_last_dimension_of_a_plain_array_holds_the_features() -> None:
    x = np.arange(60.0).reshape(3, 4, 5)
    samples = open_samples(x)
    assert samples.grid.shape == (3, 4)
    np.testing.assert_array_equal(read_all(samples), x.reshape(-1, 5))


def test_samples_are_passed_through() -> None:
    samples = open_samples(table())
    assert open_samples(samples) is samples


def test_coordinates_of_the_grid_are_kept_with_their_attributes() -> None:
    dataset, _ = climatology()
    dataset["lat"].attrs["units"] = "degrees_north"
    dataset = dataset.assign_coords(
        season=("month", ["w", "w", "s", "s"]), area=(("lat", "lon"), np.ones((5, 6))), thickness=("depth", [1.0, 2, 3])
    )
    coords = open_samples(dataset, feature_dim="depth").coords
    # what lies along the features is no coordinate of a sample
    assert set(coords.coords) == {"month", "lat", "lon", "season", "area"}
    xr.testing.assert_identical(
        coords["lat"], dataset["lat"].drop_vars([c for c in dataset["lat"].coords if c != "lat"])
    )
    assert coords["season"].values.tolist() == ["w", "w", "s", "s"]


# ---- shapes and chunkings -------------------------------------------------------------------------------------------


@st.composite
def arrays(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...], int]:
    """An array of two to four dimensions, chunk lengths, and the dimension that holds the features."""
    shape = tuple(draw(st.lists(st.integers(1, 8), min_size=2, max_size=4)))
    chunks = tuple(draw(st.integers(1, n)) for n in shape)
    return np.arange(float(np.prod(shape))).reshape(shape), chunks, draw(st.integers(0, len(shape) - 1))


@given(arrays(), st.sampled_from([2, 3]), st.sampled_from([1, 7, 4096]))
def test_zarr_of_any_shape_and_chunks(case: tuple[np.ndarray, tuple[int, ...], int], version: int, least: int) -> None:
    x, chunks, axis = case
    names = [f"dim_{i}" for i in range(x.ndim)]
    array = zarr_array(MemoryStore(), x, chunks=chunks, zarr_format=version)
    feature_dim = names[axis] if axis < x.ndim - 1 else None
    if x.ndim == 2:
        feature_dim = ("sample", "feature")[axis]
    with patch.object(grid_module, "MIN_ROWS", least):
        samples = open_samples(array, feature_dim=feature_dim)
    np.testing.assert_array_equal(read_all(samples), np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]))


@given(arrays(), st.data())
def test_dask_of_any_shape_and_irregular_chunks(
    case: tuple[np.ndarray, tuple[int, ...], int], data: st.DataObject
) -> None:
    x, _, axis = case
    chunks = []
    for n in x.shape:
        cuts = sorted(data.draw(st.sets(st.integers(1, n - 1), max_size=4))) if n > 1 else []
        chunks.append(tuple(np.diff([0, *cuts, n]).tolist()))
    dims = [f"d{i}" for i in range(x.ndim)]
    source = xr.DataArray(da.from_array(x, chunks=tuple(chunks)), dims=dims)
    samples = open_samples(source, feature_dim=dims[axis])
    np.testing.assert_array_equal(read_all(samples), np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]))


# ---- what cannot be read --------------------------------------------------------------------------------------------


def two_variables() -> xr.Dataset:
    return xr.Dataset({"u": (("x", "y"), np.zeros((3, 4))), "v": ("x", np.zeros(3))})


REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any], list[str]]] = {
    "one dimension": (lambda: np.zeros(5), {}, ["(5,)", "two dimensions"]),
    "no dimension": (lambda: np.array(1.0), {}, ["()", "two dimensions"]),
    "a DataArray without dimensions": (lambda: xr.DataArray(1.0), {}, ["dimension"]),
    "no samples": (lambda: np.zeros((0, 3)), {}, ["empty", "0 samples of 3 features"]),
    "no features": (lambda: np.zeros((5, 0)), {}, ["empty", "5 samples of 0 features"]),
    "strings": (lambda: np.array([["a", "b"]]), {}, ["not numeric", "<U1"]),
    "objects": (lambda: np.array([[1, 2]], dtype=object), {}, ["not numeric", "object"]),
    "complex numbers": (lambda: np.zeros((3, 2), dtype=complex), {}, ["not numeric", "complex128"]),
    "truth values": (lambda: np.zeros((3, 2), dtype=bool), {}, ["not numeric", "bool"]),
    "dates": (lambda: np.zeros((3, 2), dtype="datetime64[s]"), {}, ["not numeric", "datetime64"]),
    "one variable of strings": (
        lambda: xr.Dataset({"x": ("s", [1.0, 2.0]), "name": ("s", np.array(["a", "b"], dtype=object))}),
        {},
        ["'name'|name in", "not numeric"],
    ),
    "unknown variable": (two_variables, {"variables": ["u", "w"]}, ["no variable 'w'", "u, v"]),
    "variables of different dimensions": (two_variables, {}, ["u (x, y)", "v (x)", "(variables)"]),
    "unknown dimension of a dataset": (
        two_variables,
        {"variables": ["u"], "feature_dim": "z"},
        ["no dimension 'z'", "x, y"],
    ),
    "unknown dimension of an array": (
        lambda: np.zeros((3, 2)),
        {"feature_dim": "depth"},
        ["'depth'", "sample, feature"],
    ),
    "a variable along several dimensions": (
        lambda: xr.Dataset({v: (("x", "y", "z"), np.zeros((3, 4, 2))) for v in "uv"}),
        {"feature_dim": ["y", "z"]},
        ["u in", "several of the dimensions that hold features (y, z)", "(feature_dim)"],
    ),
    "variables that lie along other samples": (
        lambda: xr.Dataset({"u": (("x", "y"), np.zeros((3, 4))), "v": (("z", "y"), np.zeros((2, 4)))}),
        {"feature_dim": "y"},
        ["u (x, y)", "v (z, y)", "(variables)"],
    ),
    "no such dimension beside one": (
        two_variables,
        {"feature_dim": ["y", "z"]},
        ["no dimension 'z'", "x, y"],
    ),
    "four dimensions, none of them named": (lambda: climatology()[0], {}, ["month, depth, lat, lon", "feature_dim"]),
    "variables of an array": (lambda: np.zeros((3, 2)), {"variables": ["a"]}, ["no variables", "a"]),
    "variables of a DataArray": (lambda: xr.DataArray(np.zeros((3, 2))), {"variables": ["a"]}, ["no variable", "a"]),
    "an empty dataset": (xr.Dataset, {}, ["no variables"]),
    "chunks of unknown size": (
        lambda: da.from_array(np.ones((6, 2)), chunks=3)[da.from_array(np.ones(6, dtype=bool), chunks=3)],
        {},
        ["unknown size", "compute_chunk_sizes"],
    ),
    "a list": (lambda: [[1.0, 2.0]], {}, ["list", "Zarr store, array or dataset"]),
    "a scheme that nobody knows": (lambda: "ftp://host/a.zarr", {}, ["ftp://host/a.zarr", "s3://"]),
    "a chain of stores": (lambda: "simplecache::s3://bucket/a", {}, ["simplecache::s3://bucket/a"]),
}


@pytest.mark.parametrize(("build", "how", "parts"), REFUSED.values(), ids=list(REFUSED))
def test_refused(build: Callable[[], Any], how: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        open_samples(build(), **how)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert any(p in message for p in part.split("|")), message


def test_a_dimension_of_millions_does_not_hold_the_features() -> None:
    """Nor are names made for as many as metadata claim."""
    wide = np.broadcast_to(np.float32(1), (2, MOST_FEATURES + 1))
    assert open_samples(wide[:, 1:]).n_features == 10**6
    with pytest.raises(InputError, match=r"1000001 features along feature, and at most 1000000 .*\(feature_dim\)"):
        open_samples(wide)


def test_no_such_store(tmp_path: Path) -> None:
    path = str(tmp_path / "nothing.zarr")
    with pytest.raises(InputError) as caught:
        open_samples(path)
    assert str(caught.value) == f"no such store: {path}"


@pytest.mark.parametrize("what", ["empty folder", "text file", "folder of text", "damaged metadata"])
def test_not_a_zarr_store(what: str, tmp_path: Path) -> None:
    path = tmp_path / "thing"
    if what == "text file":
        path.write_text("1,2\n3,4\n")
    else:
        path.mkdir()
    if what == "folder of text":
        (path / "data.csv").write_text("1,2\n")
    if what == "damaged metadata":
        (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "arr')
    with pytest.raises(InputError) as caught:
        open_samples(path)
    assert f"{path} is not a Zarr store" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_group_holds_nothing(tmp_path: Path) -> None:
    zarr.create_group(str(tmp_path / "g.zarr"))
    with pytest.raises(InputError, match="holds no variables"):
        open_samples(tmp_path / "g.zarr")


def test_a_group_of_nameless_arrays_says_what_to_do(tmp_path: Path) -> None:
    """Format 3 without dimension names: xarray cannot read it, and its reason must come out as one line."""
    group = zarr.create_group(str(tmp_path / "g.zarr"), zarr_format=3)
    group.create_array("x", shape=(4, 2), dtype="f8")
    with pytest.raises(InputError) as caught:
        open_samples(tmp_path / "g.zarr")
    assert "\n" not in str(caught.value)


def test_datetime_features_keep_their_names() -> None:
    """Feature names are the labels along the feature dimension, whatever they are."""
    days = [datetime(2020, 1, 1), datetime(2020, 2, 1)]
    source = xr.DataArray(np.zeros((3, 2)), dims=("s", "time"), coords={"time": days})
    features = open_samples(source, feature_dim="time").features
    assert [f[:10] for f in features] == ["2020-01-01", "2020-02-01"]


def test_chunks_go_by_the_name_of_their_dimension(tmp_path: Path) -> None:
    dataset = xr.Dataset({"a": (("time", "lat", "depth"), np.arange(240.0).reshape(4, 20, 3))})
    dataset.to_zarr(tmp_path / "d.zarr", zarr_format=3, consolidated=False, encoding={"a": {"chunks": (1, 10, 3)}})
    lazy = xr.open_zarr(tmp_path / "d.zarr", chunks=None, consolidated=False).a
    for part, expected in (
        (lazy, (1, 10, 3)),
        (lazy.transpose("lat", "time", "depth"), (10, 1, 3)),
        (lazy.isel(time=0), (10, 3)),
        (lazy.isel(lat=slice(5)), (1, 5, 3)),
    ):
        samples = open_samples(part, feature_dim="depth")
        assert samples.fields[0].chunks == expected
        np.testing.assert_array_equal(read_all(samples), part.values.reshape(-1, 3))


def test_an_array_may_be_called_like_its_coordinate() -> None:
    depth = xr.DataArray([[1.0, 2.0], [4.0, 3.0]], {"depth": [0, 5]}, ("n", "depth"), name="depth")
    np.testing.assert_array_equal(read_all(open_samples(depth)), depth.values)


def test_the_one_variable_of_a_model_is_a_feature_on_any_grid() -> None:
    """Where it was one before; where nothing is known the last dimension holds the features."""
    x = np.arange(12.0).reshape(3, 4)
    data = xr.Dataset({"t": (("y", "x"), x), "s": (("y", "x"), x + 1)})
    like = open_samples(xr.Dataset({"t": ("row", np.arange(9.0))})).layout
    for source in (data, data[["t"]]):
        samples = open_samples(source, like=like)
        assert (samples.features, samples.grid.shape) == (("t",), (3, 4))
        np.testing.assert_array_equal(samples.read((slice(0, 3), slice(0, 4))), x.reshape(12, 1))
    assert open_samples(data[["t"]]).grid.shape == (3,)
    # what somebody names in its place stands for it
    samples = open_samples(data, ["s"], like=like)
    assert (samples.features, samples.grid.shape) == (("t",), (3, 4))
    np.testing.assert_array_equal(samples.read((slice(0, 3), slice(0, 4))), x.reshape(12, 1) + 1)
    assert open_samples(data, feature_dim="y", like=like).grid.shape == (4,)
