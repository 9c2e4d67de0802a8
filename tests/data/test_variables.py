"""Several variables along dimensions of their own: read as NumPy puts them side by side, told apart, interpolated."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from pydantic import TypeAdapter

from dgmm.data import Layout, Samples, Span, fingerprint, open_samples
from dgmm.data import grid as grid_module
from dgmm.errors import InputError

DEPTH, BANDS = [10.0, 50.5, 1000.0], [443, 560]
ALONG = ["depth", "band"]


@pytest.fixture(autouse=True)
def several_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_module, "MIN_ROWS", 7)


def sea() -> xr.Dataset:
    """Temperature and salinity over depth, reflectance over bands, and a height, in several orders of dimensions."""
    r = np.random.default_rng(0)
    t = r.normal(10, 3, (5, 3, 4)).astype("float32")
    t[2, 1:, 3] = np.nan
    return xr.Dataset(
        {
            "T": (("y", "depth", "x"), t, {"units": "degC"}),
            "S": (("x", "y", "depth"), r.normal(35, 1, (4, 5, 3)), {"units": "psu"}),
            "R": (("band", "y", "x"), r.integers(0, 9, (2, 5, 4)).astype("int16")),
            "h": (("y", "x"), r.normal(0, 1, (5, 4)).astype("float32"), {"units": "m"}),
        },
        coords={"depth": ("depth", DEPTH, {"units": "m", "positive": "down"}), "band": BANDS, "y": np.arange(5)},
    )


def side_by_side(data: xr.Dataset, order: str = "TSRh") -> np.ndarray:
    """What all samples are, (n, d)."""
    inner = {"T": ["depth"], "S": ["depth"], "R": ["band"], "h": []}
    columns = [data[v].transpose("y", "x", *inner[v]).values.reshape(20, -1) for v in order]
    return np.concatenate(columns, axis=1)


def everything(samples: Samples) -> np.ndarray:
    grid = samples.grid
    rows = np.concatenate([grid.rows(grid.region(i)) for i in range(len(grid))])
    blocks = [samples.read(grid.region(i)) for i in range(len(grid))]
    assert {b.nbytes // len(b) for b in blocks} == {samples.n_features * samples.itemsize}
    assert samples.row_bytes >= samples.n_features * samples.itemsize
    return np.concatenate(blocks)[np.argsort(rows)]


def stored(data: xr.Dataset, folder: Path) -> str:
    chunks = {"T": (2, 2, 3), "S": (4, 2, 1), "R": (1, 3, 2), "h": (1, 4)}
    path = str(folder / "in.zarr")
    how = {name: {"chunks": tuple(map(min, sizes, data[name].shape))} for name, sizes in chunks.items()}
    data.to_zarr(path, consolidated=False, encoding=how)
    return path


@pytest.mark.parametrize(
    "build", [lambda d, _: d, lambda d, _: d.chunk(y=2, depth=2), stored], ids=["memory", "dask", "zarr"]
)
def test_variables_side_by_side(build: Callable[[xr.Dataset, Path], Any], tmp_path: Path) -> None:
    samples = open_samples(build(sea(), tmp_path), list("TSRh"), ALONG)
    assert samples.features == (
        "T@10", "T@50.5", "T@1000", "S@10", "S@50.5", "S@1000", "R@443", "R@560", "h",
    )  # fmt: skip
    assert (samples.dims, samples.grid.shape, samples.feature_dim) == (("y", "x"), (5, 4), None)
    np.testing.assert_array_equal(everything(samples), side_by_side(sea()))
    assert samples.field_names == tuple("TSRh")
    assert len(samples.grid) > 1
    assert [(a.name, a.attrs["value_name"], a.attrs["features"]) for a in samples.axes] == [
        ("depth", "T", slice(0, 3)),
        ("depth", "S", slice(3, 6)),
        ("band", "R", slice(6, 8)),
    ]
    assert {f"type of {name}" for name in "TSRh"} < fingerprint(samples).keys()
    if build is stored:
        assert [line.partition(" in ")[0] for line in samples.storage()][:4] == [
            "stored as float32", "stored as float64", "stored as int16", "stored as float32",
        ]  # fmt: skip


def test_a_single_variable_is_what_it_was() -> None:
    """A list of one dimension is that dimension; nothing new is stored."""
    one = open_samples(sea(), ["T"], ["depth"])
    assert one.layout == open_samples(sea(), ["T"], "depth").layout
    assert one.features == ("10.0", "50.5", "1000.0")
    assert "spans" not in one.layout.to_json()


def test_layouts_are_stored_and_checked() -> None:
    samples = open_samples(sea(), list("hT"), "depth")
    layout = samples.layout
    assert layout == Layout(
        ("h", "T"),
        units=("m", "degC"),
        spans=(Span("h"), Span("T", "depth", 3, (10.0, 50.5, 1000.0), "float64", "m")),
    )
    text = json.dumps(layout.to_json())
    assert TypeAdapter(Layout).validate_json(text, strict=True) == layout
    layout.check(samples.features)
    assert layout.describe(samples.features) == "h (m); T (degC) along depth (m): 10, 50.5, 1000"
    assert layout.feature_units(4) == ("m", "degC", "degC", "degC")
    wrong = [
        replace(layout, variables=("h", "S")),
        replace(layout, spans=(Span("h", size=2), *layout.spans[1:])),
        replace(layout, spans=(layout.spans[0], replace(layout.spans[1], size=10**15, labels=None))),
        replace(layout, spans=(layout.spans[0], replace(layout.spans[1], dtype="complex128"))),
        replace(layout, spans=(layout.spans[0], replace(layout.spans[1], labels=(1.0, 2.0)))),
    ]
    for each in wrong:
        with pytest.raises(ValueError, match="layout: "):
            each.check(samples.features)


def test_some_of_the_features_by_variable() -> None:
    layout = open_samples(sea(), list("TSh"), "depth").layout
    found = layout.taken([0, 2, 4, 6])
    assert [span.names for span in found.spans] == [("T@10", "T@1000"), ("S@50.5",), ("h",)]
    assert found.units == ("degC", "psu", "m")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.isel(depth=[2, 0, 1], band=[1, 0]),
        lambda d: d.assign_coords(depth=np.array(DEPTH, "float32")),
        lambda d: d.rename(depth="level"),
        lambda d: d.assign(other=d.h * 2),
        lambda d: d.assign(T=d["T"].assign_attrs(units="celsius")),
    ],
    ids=["shuffled", "in single precision", "along another dimension", "with more", "spelt differently"],
)
def test_a_models_features_are_put_in_order(change: Callable[[xr.Dataset], xr.Dataset]) -> None:
    """Whatever the order of variables and levels, and as often as it is asked."""
    model, data = open_samples(sea(), list("TSRh"), ALONG), change(sea())
    along = None if "depth" in data.dims else ["level", "band"]
    for variables in (None, list("hRST"), None if "other" not in data else ["other", *"RShT"]):
        samples = open_samples(data, variables, along or ALONG, like=model.layout)
        for _ in range(2):
            samples = samples.like(model.features, model.layout)
            np.testing.assert_array_equal(everything(samples), side_by_side(sea()))
            assert samples.layout.as_spans()[0].names == ("T@10", "T@50.5", "T@1000")


def test_what_was_put_in_order_is_put_in_another() -> None:
    """Of one variable as of several, and after an interpolation."""
    for variables in (["T"], list("TS")):
        first, second = (open_samples(sea().isel(depth=order), variables, "depth") for order in ([1, 2, 0], [2, 0, 1]))
        samples = open_samples(sea(), variables, "depth").like(first.features, first.layout)
        np.testing.assert_array_equal(everything(samples), everything(first))
        samples = samples.like(second.features, second.layout)
        np.testing.assert_array_equal(everything(samples), everything(second))
        between = open_samples(sea().interp(depth=[20.0, 15.0, 60.0]), variables, "depth")
        turned = open_samples(sea().interp(depth=[60.0, 20.0, 15.0]), variables, "depth")
        samples = open_samples(sea(), variables, "depth")
        samples = samples.like(first.features, first.layout).like(between.features, between.layout, interpolate=True)
        np.testing.assert_allclose(everything(samples), everything(between), rtol=1e-6)
        samples = samples.like(turned.features, turned.layout)
        np.testing.assert_allclose(everything(samples), everything(turned), rtol=1e-6)


REFUSED: dict[str, tuple[Callable[[xr.Dataset], xr.Dataset], str]] = {
    "another level": (
        lambda d: d.assign_coords(depth=[10.0, 50.5, 900.0]),
        r"T@10, T@50.5, T@900, .* fitted on 9 \(T@10",
    ),
    "a level less": (lambda d: d.isel(depth=[0, 1]), r"has 7 features \(T@10, T@50.5, S@10"),
    "no levels": (lambda d: d.drop_vars("depth"), "nothing tells which of those of Dataset"),
    "a level where there were several": (lambda d: d.assign(T=d["T"].isel(depth=0)), r"has 7 features \(T, S@10"),
    "another variable": (lambda d: d.rename(S="U"), "no variable 'S' in Dataset, which has R, T, U, h"),
    "in kelvin": (
        lambda d: d.assign(T=(d["T"] + 273.15).assign_attrs(units="K")),
        "T of Dataset has the units 'K', and the model was fitted to 'degC': convert",
    ),
    "levels by pressure": (
        lambda d: d.assign_coords(depth=("depth", DEPTH, {"units": "dbar"})),
        "depth of T of Dataset has the units 'dbar', and the model was fitted to 'm'",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=list(REFUSED))
def test_other_features_are_refused(change: Callable[[xr.Dataset], xr.Dataset], words: str) -> None:
    model = open_samples(sea(), list("TSRh"), ALONG)
    with pytest.raises(InputError, match=words) as caught:
        open_samples(change(sea()), like=model.layout).like(model.features, model.layout)
    assert "\n" not in str(caught.value)


def test_variables_that_are_named_stand_for_those_of_the_model() -> None:
    """In its order; where one of them is called like one of the model's, names say which is which."""
    model = open_samples(sea(), list("TS"), "depth")
    data = sea().rename(T="thetao", S="so")
    samples = open_samples(data, ["thetao", "so"], like=model.layout).like(model.features, model.layout)
    np.testing.assert_array_equal(everything(samples), side_by_side(sea(), "TS"))
    with pytest.raises(InputError, match="T of Dataset has the units 'psu'"):
        open_samples(data, ["so", "thetao"], like=model.layout).like(model.features, model.layout)
    with pytest.raises(InputError, match=r"has 6 features \(S@10, .*the model was fitted on 6 \(T@10"):
        open_samples(data.rename(so="S"), ["S", "thetao"], like=model.layout).like(model.features, model.layout)


def test_an_array_of_another_name_is_refused_unless_it_is_named() -> None:
    model = open_samples(sea()["T"], feature_dim="depth").layout
    for source in (sea()["T"], sea()["T"].rename(None)):
        assert open_samples(source, like=model).features == ("10.0", "50.5", "1000.0")
    other = sea()["S"].drop_attrs()
    with pytest.raises(InputError, match=r"is called S, and the model was fitted on T: name it \(variables: S\)"):
        open_samples(other, like=model)
    assert open_samples(other, ["S"], like=model).features == ("10.0", "50.5", "1000.0")


# ---- other levels ----------------------------------------------------------------------------------------------------

LEVELS = np.array([5.0, 20.0, 50.0, 120.0, 300.0])
WANTED = np.array([300.0, 5.0, 12.5, 50.0, 299.0])


def column(name: str, dtype: str = "float64") -> xr.DataArray:
    r = np.random.default_rng(sum(map(ord, name)))
    values = r.normal(10, 3, (30, 5)).astype(dtype)
    values[r.random(values.shape) < 0.1] = np.nan
    return xr.DataArray(values, dims=("s", "z"), coords={"z": ("z", LEVELS, {"units": "m"})}, name=name)


def interpolated(x: xr.DataArray) -> np.ndarray:
    """By xarray; what lies on a level is that level, whatever its neighbour is."""
    found = x.astype(float).interp(z=WANTED).values
    on = np.isin(WANTED, LEVELS)
    found[:, on] = x.sel(z=WANTED[on]).values
    return found


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 2, 0, 1, 3]])
def test_other_levels_are_interpolated_as_xarray_does(dtype: str, order: list[int]) -> None:
    def model(*names: str) -> Samples:
        # whatever its values are: what counts is where they lie
        like = {
            name: column(name).isel(z=[0] * 5).assign_coords(z=("z", WANTED, {"units": "metres"})) for name in names
        }
        return open_samples(xr.Dataset(like), list(names), "z")

    data = xr.Dataset({name: column(name, dtype).isel(z=order) for name in "uv"})
    for names in (["u"], ["u", "v"]):
        wanted = model(*names)
        samples = open_samples(data, like=wanted.layout)
        with pytest.raises(InputError, match=r"or interpolate where they are scored \(interpolate: true\)"):
            samples.like(wanted.features, wanted.layout)
        found = samples.like(wanted.features, wanted.layout, interpolate=True)
        expected = np.concatenate([interpolated(column(name, dtype)) for name in names], axis=1)
        assert np.isnan(expected).any()
        np.testing.assert_allclose(everything(found), expected, rtol=1e-13)
        assert found.features == wanted.features
        assert fingerprint(found)["features"] != fingerprint(samples)["features"]
        # what is asked for again is there
        np.testing.assert_array_equal(everything(found.like(wanted.features, wanted.layout)), everything(found))


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ([4.9, 50.0], r"u of DataArray along z goes from 5 to 300 m, and the model needs 4\.9: nothing"),
        ([50.0, 301.0], r"needs 301: nothing is interpolated beyond the ends"),
        (["a", "b"], r"the model was fitted on 2 \(a, b\)"),
    ],
)
def test_nothing_is_interpolated_beyond_the_ends(levels: list[Any], words: str) -> None:
    model = open_samples(column("u").isel(z=[0, 1]).assign_coords(z=levels))
    with pytest.raises(InputError, match=words):
        open_samples(column("u"), like=model.layout).like(model.features, model.layout, interpolate=True)
