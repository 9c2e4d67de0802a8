"""Models on disk: what is saved comes back to the last bit, what is damaged is refused, what exists is safe."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

from dgmm.data import Layout
from dgmm.errors import DgmmError, InputError, OutputExistsError
from dgmm.fits import Fit, Outcome, OutcomeKind
from dgmm.mixture import Mixture
from dgmm.store import digest, place_at
from dgmm.store import models as store
from dgmm.store.local import LocalOutput
from dgmm.store.models import MAX_BYTES
from dgmm.store.record import PLAIN_FORMAT, to_dataset

TYPES = ("full", "tied", "diag", "spherical")


def covariances(kind: str, k: int, d: int, generator: np.random.Generator) -> np.ndarray:
    """Random covariances in the shape of the type."""
    root = generator.normal(size=(k, d, d))
    full = root @ root.transpose(0, 2, 1) + np.eye(d)
    diagonal = np.diagonal(full, axis1=1, axis2=2)
    return {"full": full, "tied": full[0], "diag": diagonal, "spherical": diagonal[:, 0]}[kind]


def make_fit(kind: str = "full", k: int = 3, d: int = 4, seed: int = 0) -> Fit:
    generator = np.random.default_rng(seed)
    weights = generator.dirichlet(np.full(k, 5.0))
    mixture = Mixture.gaussian(kind, weights, generator.normal(100, 50, (k, d)), covariances(kind, k, d, generator))
    return Fit(
        mixture=mixture,
        log_likelihood=-12345.678901234567,
        n_samples=1000,
        n_missing=7,
        n_passes=3,
        outcome=Outcome(OutcomeKind.COLLAPSED, 3, (2,), "component 2 has no extent"),
        remaining_gain=1.0000000000000002e-9,
        trajectory=(-12500.1, -12400.000000000002, -12345.678901234567),
        features=tuple(f"température {i} °C" for i in range(d)),
    )


def assert_same(a: Fit, b: Fit) -> None:
    """Equal to the last bit."""
    assert a.covariance_type == b.covariance_type
    assert a.mixture.weights.tobytes() == b.mixture.weights.tobytes()
    for name in ("means", "factors"):
        left, right = getattr(a.mixture.components, name), getattr(b.mixture.components, name)
        assert left.shape == right.shape
        assert left.tobytes() == right.tobytes()
    assert a.mixture.covariances.tobytes() == b.mixture.covariances.tobytes()
    for field in fields(Fit):
        if field.name != "mixture":
            left, right = getattr(a, field.name), getattr(b, field.name)
            assert left == right or (np.isnan(left) and np.isnan(right)), field.name


@pytest.fixture(params=["model.zarr", "model.json"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where to save, once for each form."""
    return tmp_path / request.param


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("k", "d"), [(3, 4), (1, 1), (1, 3), (5, 1)])
def test_round_trip(kind: str, k: int, d: int, path: Path) -> None:
    fit = replace(make_fit(kind, k, d), outcome=Outcome(OutcomeKind.CONVERGED, 3))
    store.save(fit, path)
    assert_same(store.load(path), fit)


@pytest.mark.parametrize(
    "change",
    [
        # too few passes to estimate anything
        {"remaining_gain": math.inf},
        {"outcome": Outcome(OutcomeKind.STOPPED, 3)},
        {"trajectory": (-1e300, 1e-300, 0.1 + 0.2)},
        {"log_likelihood": 5e-324},
        {"n_samples": 2**53 - 1, "n_missing": 2**40},
        {
            "outcome": Outcome(
                OutcomeKind.DROPPED, 2, (), "bic 3, at most 1 less by this climb, cannot reach 1 of full K=2"
            )
        },
        {"outcome": Outcome(OutcomeKind.COLLAPSED, 3, (0, 1), "components 0, 1 have no extent")},
        {"entropy": 0.1 + 0.2, "held_out": -1e-300, "held_out_se": 5e-324},
        # nothing is known of the first passes
        {"trajectory": (-3.0, -2.0, -1.0), "remaining_gains": (math.inf, 1e-9, 0.0), "seconds": (0.5, 0.25, 0.0)},
        {"layout": Layout(("a", "b"), "z", (0.1, -1.0, 1e300, 5e-324), "float64", ("°C", ""), "m")},
        {"layout": Layout((), "z", (2**62, -(2**62), 0, 1), "datetime64[ns]")},
        {"layout": Layout(("v",), "z", ("a", "", "é", '"'), "str")},
        {"layout": Layout(tuple(f"température {i} °C" for i in range(4)), units=("K", "", "K", "m"))},
        # names that mean something in JSON, paths or Zarr
        {"features": ('a"b', "c/d", "", "e\nf")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_round_trip_of_the_rest(change: dict[str, Any], path: Path) -> None:
    fit = replace(make_fit(), **change)
    store.save(fit, path)
    assert_same(store.load(str(path)), fit)


def test_extreme_parameters(path: Path) -> None:
    """Values whose decimal forms need all 17 digits, and the ends of the range."""
    fit = make_fit("diag", 2, 3)
    components = replace(
        fit.mixture.components,
        means=np.array([[1 / 3, 1e308, -5e-324], [math.pi, -0.0, 1e-17]]),
        factors=np.array([[1e-150, 0.1, 1e150], [1.0, 2 / 3, 1e-300]]),
    )
    outcome = Outcome(OutcomeKind.CONVERGED, 3)
    fit = replace(fit, mixture=replace(fit.mixture, components=components), outcome=outcome)
    store.save(fit, path)
    assert_same(store.load(path), fit)


def test_the_table_and_the_settings_are_kept(path: Path) -> None:
    table = pd.DataFrame(
        {"n_components": [2, 3], "covariance_type": ["full", "tied"], "bic": [0.1 + 0.2, np.nan], "collapsed": [0, 1]}
    )
    store.save(make_fit(), path, table=table, settings={"data": {"path": "x.zarr"}, "n_components": [1, 2]})
    pd.testing.assert_frame_equal(store.read(path).table, table, rtol=1e-14, atol=0)
    assert store.read(path).settings == {"data": {"path": "x.zarr"}, "n_components": [1, 2]}


def test_a_model_that_was_trained_alone_has_no_table(path: Path) -> None:
    store.save(make_fit(), path)
    assert store.read(path).table is None


@pytest.mark.parametrize("kind", TYPES)
def test_xarray_reads_it_with_named_dimensions(kind: str, tmp_path: Path) -> None:
    fit = make_fit(kind)
    store.save(fit, tmp_path / "m.zarr")
    dataset = xr.open_zarr(tmp_path / "m.zarr", consolidated=False)
    dims = {
        "full": ("component", "feature", "feature_"),
        "tied": ("feature", "feature_"),
        "diag": ("component", "feature"),
        "spherical": ("component",),
    }[kind]
    assert dataset["weights"].dims == ("component",)
    assert dataset["means"].dims == ("component", "feature")
    assert dataset["covariances"].dims == dims
    np.testing.assert_array_equal(dataset["covariances"], fit.mixture.covariances)
    np.testing.assert_array_equal(dataset["means"], fit.mixture.means)
    assert dataset.attrs["bic"] == fit.bic
    assert json.loads(dataset.attrs["features"]) == list(fit.features)


@pytest.mark.parametrize("kind", TYPES)
def test_xarray_opens_and_saves_a_model_without_a_word(kind: str, tmp_path: Path) -> None:
    """Plain `xr.open_zarr(path)`, and `to_netcdf` of what that gives, with all that a model may have."""
    table = pd.DataFrame({"n_components": [2], "covariance_type": ["full"], "bic": [np.nan]})
    fit = replace(make_fit(kind), outcome=Outcome(OutcomeKind.CONVERGED, 3), layout=Layout((), "z"), entropy=math.nan)
    store.save(fit, tmp_path / "m.zarr", table=table, settings={"a": {"b": None}})
    xr.open_zarr(tmp_path / "m.zarr").to_netcdf(tmp_path / "m.nc", engine="scipy")
    with xr.open_dataset(tmp_path / "m.nc", engine="scipy") as saved:
        np.testing.assert_array_equal(saved["means"], fit.mixture.means)
        assert json.loads(saved.attrs["features"]) == list(fit.features)
        assert saved.attrs["log_likelihood"] == fit.log_likelihood


def as_once(fit: Fit, **changes: Any) -> xr.Dataset:
    """A model in the format that had no checksum."""
    dataset = to_dataset(fit)
    later = ("layout", "digest", "checksum", "features", "settings", "format", "converged")
    attributes: dict[str, Any] = {"format": PLAIN_FORMAT, "features": list(fit.features), "converged": fit.converged}
    attributes |= dict.fromkeys(("icl", "entropy", "held_out", "remaining_gain"))
    attributes |= {name: value for name, value in dataset.attrs.items() if name not in later}
    return xr.Dataset(dataset.variables, attrs=attributes | changes)


def put(dataset: xr.Dataset, path: Path) -> None:
    """Write a dataset in the form that the path asks for."""
    if path.suffix == ".json":
        path.write_text(json.dumps(dataset.to_dict()))
    else:
        dataset.to_zarr(path, zarr_format=3, consolidated=False)


@pytest.mark.parametrize("change", [{}, {"settings": {"a": {"b": [1, None]}}}], ids=["trained", "by settings"])
def test_models_of_before_are_read(change: dict[str, Any], path: Path) -> None:
    """Without a layout or a checksum, the settings and the features as JSON has them."""
    fit = replace(make_fit(), remaining_gain=math.inf)
    put(as_once(fit, **change), path)
    assert_same(store.load(path), fit)
    assert store.read(path).settings == change.get("settings", {})


@pytest.mark.parametrize("kind", TYPES)
def test_a_model_of_another_program_needs_no_factors(kind: str, path: Path) -> None:
    """Weights, means and covariances say it all, but for the last bits."""
    fit = make_fit(kind)
    put(as_once(fit).drop_vars("factors"), path)
    np.testing.assert_allclose(store.load(path).mixture.covariances, fit.mixture.covariances, rtol=1e-13, atol=1e-13)


def test_the_two_forms_say_the_same(tmp_path: Path) -> None:
    fit = make_fit()
    store.save(fit, tmp_path / "m.zarr")
    store.save(fit, tmp_path / "m.json")
    xr.testing.assert_identical(store.load_dataset(tmp_path / "m.zarr"), store.load_dataset(tmp_path / "m.json"))


def test_json_is_plain(tmp_path: Path) -> None:
    """Any language reads it: no NaN, no Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    store.save(replace(make_fit(), remaining_gain=math.inf), tmp_path / "m.json")
    content = json.loads((tmp_path / "m.json").read_text(), parse_constant=refuse)
    np.testing.assert_array_equal(content["data_vars"]["weights"]["data"], make_fit().mixture.weights)


def test_nothing_in_a_store_is_pickled(tmp_path: Path) -> None:
    """Every array has a numeric type and every codec is of the format itself; objects would need a pickle codec."""
    table = pd.DataFrame({"n_components": [2], "covariance_type": ["full"], "state": ["converged"]})
    store.save(make_fit(), tmp_path / "m.zarr", table=table, settings={"a": "b"})
    group = zarr.open_group(str(tmp_path / "m.zarr"), mode="r")
    names = list(group.array_keys())
    assert "means" in names
    for name in names:
        assert group[name].dtype.kind == "f"
    for file in (tmp_path / "m.zarr").rglob("zarr.json"):
        assert "pickle" not in file.read_text()


# ---- damage ---------------------------------------------------------------------------------------------------------


def halve_weights(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.assign(weights=dataset["weights"] / 2)


def drop_component(dataset: xr.Dataset) -> xr.Dataset:
    weights = dataset["weights"].values[:2] / dataset["weights"].values[:2].sum()
    return dataset.drop_vars("weights").assign(weights=("other", weights))


def with_value(name: str, place: tuple[int, ...], value: float) -> Callable[[xr.Dataset], xr.Dataset]:
    def damage(dataset: xr.Dataset) -> xr.Dataset:
        values = dataset[name].values.copy()
        values[place] = value
        return dataset.assign({name: (dataset[name].dims, values)})

    return damage


def without(name: str) -> Callable[[xr.Dataset], xr.Dataset]:
    return lambda dataset: dataset.drop_vars(name)


def without_attribute(name: str) -> Callable[[xr.Dataset], xr.Dataset]:
    def damage(dataset: xr.Dataset) -> xr.Dataset:
        return dataset.drop_attrs(deep=False).assign_attrs({k: v for k, v in dataset.attrs.items() if k != name})

    return damage


def with_attribute(name: str, value: Any) -> Callable[[xr.Dataset], xr.Dataset]:
    return lambda dataset: dataset.assign_attrs({name: value})


def layout_text(**changes: Any) -> str:
    layout = Layout(("v",), "z", (1.0, 2.0, 3.0, 4.0), "float64", ("K",), "m")
    return json.dumps(asdict(layout) | changes)


DAMAGES: dict[str, tuple[Callable[[xr.Dataset], xr.Dataset], str]] = {
    "weights that do not sum to one": (halve_weights, "weights"),
    "a negative weight": (with_value("weights", (0,), -0.5), "weights"),
    "a weight that is NaN": (with_value("weights", (1,), np.nan), "weights"),
    "a weight too few": (drop_component, "weights"),
    "no weights": (without("weights"), "'weights' is missing"),
    "no means": (without("means"), "'means' is missing"),
    "neither factors nor covariances": (lambda dataset: dataset.drop_vars(["factors", "covariances"]), "is missing"),
    "no trajectory": (without("trajectory"), "'trajectory' is missing"),
    "a mean that is NaN": (with_value("means", (0, 0), np.nan), "finite"),
    "a mean that is infinite": (with_value("means", (2, 1), np.inf), "finite"),
    "a factor that is NaN": (with_value("factors", (0, 1, 0), np.nan), "finite"),
    "a factor whose diagonal is zero": (with_value("factors", (0, 1, 1), 0.0), "positive"),
    "factors of another type": (with_attribute("family", "tied"), "shape"),
    "an unknown type": (with_attribute("family", "vmf"), "'vmf'"),
    "no type": (without_attribute("family"), "'family' is missing"),
    "no log-likelihood": (without_attribute("log_likelihood"), "'log_likelihood' is missing"),
    "another format": (with_attribute("format", "dgmm-model-99"), "'dgmm-model-99', expected 'dgmm-model-2'"),
    "no format": (without_attribute("format"), "not a dgmm model"),
    "a feature too few": (with_attribute("features", ["a", "b"]), "2 names for 4 features"),
    "a count that is text": (with_attribute("n_samples", "many"), "n_samples: Input should be a valid integer"),
    "a count below its least": (with_attribute("n_samples", 0), "n_samples: "),
    "a truth value for a count": (with_attribute("n_missing", True), "n_missing: "),
    "a number that is infinite": (with_attribute("log_likelihood", math.inf), "attributes: "),
    "an unknown state": (with_attribute("state", "melted"), "unknown state 'melted'"),
    "a component that is none": (with_attribute("collapsed", [3]), "collapsed: [3] of 3 components"),
    "another number of parameters": (with_attribute("n_parameters", 7), "n_parameters is 7"),
    "another BIC": (with_attribute("bic", 1.0), "bic is 1.0"),
    "a pass too few": (with_attribute("n_passes", 2), "trajectory (3,) are not of 2 passes"),
    "features that are no JSON": (with_attribute("features", "[1"), "features: "),
    "features that are numbers": (with_attribute("features", "[1, 2, 3, 4]"), "features.0: "),
    "a layout of other features": (with_attribute("layout", layout_text(labels=[1.0, 2.0])), "2 labels for 4 features"),
    "a layout of a strange type": (with_attribute("layout", layout_text(dtype="S4")), "layout: "),
    "a layout that lacks something": (with_attribute("layout", "{}"), "0 labels for 4 features"),
    "a layout that is a list": (with_attribute("layout", "[]"), "layout: "),
    "settings that are a list": (with_attribute("settings", "[]"), "settings: "),
    "candidates that are no table": (with_attribute("candidates", '[{"bic": [1]}]'), "candidates.0.bic"),
    "a factor above the diagonal": (with_value("factors", (0, 0, 1), 1e-3), "lower triangular"),
    "a negative diagonal": (with_value("factors", (1, 2, 2), -1.0), "variances positive"),
    "a factor whose square overflows": (with_value("factors", (1, 3, 3), 1e200), "not the squares of its factors"),
    "another covariance": (with_value("covariances", (1, 3, 3), 1.0), "not the squares of its factors"),
    "a trajectory that is NaN": (with_value("trajectory", (0,), np.nan), "its trajectory are not all finite"),
    "another mean": (with_value("means", (0, 0), 1.0), "its parameters are others than those of its digest"),
    "another trajectory": (with_value("trajectory", (0,), -1.0), "its checksum is another"),
    "another name": (with_attribute("features", '["a", "b", "c", "d"]'), "its checksum is another"),
    "no checksum": (without_attribute("checksum"), "'checksum' is missing"),
    "one attribute more": (with_attribute("comment", "fine"), "its checksum is another"),
}


@pytest.mark.parametrize(("damage", "part"), DAMAGES.values(), ids=list(DAMAGES))
@pytest.mark.parametrize("form", ["zarr", "json"])
def test_damaged_models_are_refused(
    damage: Callable[[xr.Dataset], xr.Dataset], part: str, form: str, tmp_path: Path
) -> None:
    path = tmp_path / f"model.{form}"
    put(damage(to_dataset(make_fit())), path)
    with pytest.raises(InputError) as caught:
        store.load(path)
    message = str(caught.value)
    assert part in message
    assert str(path) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1, 2]", "3", "null", "{}", '{"data_vars": {"weights": 1}}', '{"attrs": {"format": "dgmm-model-1"}}'],
)
def test_json_that_is_no_model(text: str, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        store.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_model(tmp_path: Path) -> None:
    """An array, a dataset, scores, a folder, nothing at all."""
    zarr.create_array(str(tmp_path / "array.zarr"), shape=(3, 2), dtype="f8")
    xr.Dataset({"x": (("a", "b"), np.zeros((3, 2)))}).to_zarr(tmp_path / "data.zarr", consolidated=False)
    (tmp_path / "folder").mkdir()
    for name in ("array.zarr", "data.zarr"):
        with pytest.raises(InputError, match="is not a dgmm model"):
            store.load(tmp_path / name)
    with pytest.raises(InputError, match="is not a Zarr store"):
        store.load(tmp_path / "folder")
    for name in ("nothing.zarr", "nothing.json"):
        with pytest.raises(InputError, match=rf"^no such (store|model): .*{name}$"):
            store.load(tmp_path / name)


# ---- how large a model says it is -----------------------------------------------------------------------------------


def claim(path: Path, name: str, **changes: Any) -> None:
    """Change the metadata of an array of a model."""
    root, own = path / "zarr.json", path / name / "zarr.json"
    own.write_text(json.dumps(json.loads(own.read_text()) | changes))
    content = json.loads(root.read_text())
    content["consolidated_metadata"]["metadata"][name] |= changes
    root.write_text(json.dumps(content))


@pytest.mark.parametrize("what", ["shape", "chunks"])
def test_a_model_of_a_billion_components_is_refused_before_it_is_read(what: str, tmp_path: Path) -> None:
    path, k = tmp_path / "m.zarr", 10**9
    store.save(make_fit("spherical"), path)
    if what == "shape":
        claim(path, "weights", shape=[k])
    else:
        claim(path, "weights", chunk_grid={"name": "regular", "configuration": {"chunk_shape": [k]}})
    tracemalloc.start()
    with pytest.raises(InputError, match=r"says that its arrays have 8000\d{6} bytes \(weights \("):
        store.load(path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_how_large_a_model_may_be_can_be_said(path: Path) -> None:
    """Four GiB unless somebody knows better; to the byte."""
    store.save(make_fit(), path)
    assert MAX_BYTES == 4 * 2**30
    dataset = to_dataset(make_fit())
    size = path.stat().st_size if path.suffix == ".json" else sum(v.size * 8 for v in dataset.values())
    assert_same(store.load(path, max_bytes=size), make_fit())
    with pytest.raises(InputError, match=r"unless you say so \(max_bytes\)"):
        store.load(path, max_bytes=size - 1)


def test_only_numbers_of_the_third_format_are_read(tmp_path: Path) -> None:
    """In the second a filter may unpickle what it finds."""
    dataset = to_dataset(make_fit())
    dataset.to_zarr(tmp_path / "v2.zarr", zarr_format=2, consolidated=False)
    with pytest.raises(
        InputError, match=r"v2\.zarr is damaged: its \w+ are of type float64, not float64 in Zarr format 3"
    ):
        store.load(tmp_path / "v2.zarr")
    dataset.assign(means=dataset.means.astype("float32")).to_zarr(
        tmp_path / "f4.zarr", zarr_format=3, consolidated=False
    )
    with pytest.raises(InputError, match="its means are of type float32"):
        store.load(tmp_path / "f4.zarr")


# ---- the name of a mixture ------------------------------------------------------------------------------------------


def test_a_digest_is_of_what_a_mixture_is_made_of() -> None:
    """The same for the same numbers, another for any other, whatever follows from them."""
    fits = [make_fit(kind, k, d) for kind in TYPES for k, d in ((3, 4), (4, 3), (1, 1))]
    mixtures = [fit.mixture for fit in fits]
    assert len({digest(m) for m in mixtures}) == len(mixtures)
    for mixture in mixtures:
        again = replace(mixture, components=replace(mixture.components, means=mixture.means.copy()))
        assert digest(again) == digest(mixture)
        for name in ("means", "factors"):
            values = getattr(mixture.components, name).copy()
            values.flat[0] = np.nextafter(values.flat[0], np.inf)
            other = replace(mixture, components=replace(mixture.components, **{name: values}))
            assert digest(other) != digest(mixture)
        swapped = mixture.means.astype(">f8")
        assert digest(replace(mixture, components=replace(mixture.components, means=swapped))) == digest(mixture)


def test_a_digest_does_not_hang_on_how_a_processor_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    mixture = make_fit().mixture
    expected = digest(mixture)
    monkeypatch.setattr(type(mixture.family), "covariances", lambda self, components: np.zeros(3))
    assert digest(mixture) == expected


# ---- what exists ----------------------------------------------------------------------------------------------------


def test_an_existing_model_is_not_replaced_unasked(path: Path) -> None:
    first, second = make_fit(seed=0), make_fit(seed=1)
    store.save(first, path)
    with pytest.raises(OutputExistsError) as caught:
        store.save(second, path)
    assert str(path) in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert_same(store.load(path), first)
    store.save(second, path, overwrite=True)
    assert_same(store.load(path), second)


def test_nothing_of_the_old_model_stays(tmp_path: Path) -> None:
    """Another type, fewer components, no table: a reader must not find what was there before."""
    path = tmp_path / "m.zarr"
    store.save(make_fit("full", 5, 4), path, table=pd.DataFrame({"bic": [1.0]}))
    store.save(replace(make_fit("spherical", 2, 2), outcome=Outcome(OutcomeKind.CONVERGED, 3)), path, overwrite=True)
    assert store.read(path).table is None
    assert dict(store.load_dataset(path).sizes) == {"component": 2, "feature": 2, "pass": 3}


@pytest.mark.parametrize("name", ["folder", "file.txt"])
def test_what_is_no_zarr_store_is_never_replaced(name: str, tmp_path: Path) -> None:
    """Not even when asked to: a mistyped --out must not cost a folder of something else."""
    place = tmp_path / name
    if name == "folder":
        place.mkdir()
        precious = place / "precious.txt"
    else:
        precious = place
    precious.write_text("do not lose me")
    with pytest.raises(OutputExistsError, match="not written"):
        store.save(make_fit(), place, overwrite=True)
    assert precious.read_text() == "do not lose me"


def test_missing_folders_are_made(path: Path) -> None:
    deeper = path.parent / "a" / "b" / path.name
    store.save(make_fit(), deeper)
    assert_same(store.load(deeper), make_fit())


def test_a_trailing_slash_changes_nothing(tmp_path: Path) -> None:
    store.save(make_fit(), f"{tmp_path}/m.zarr/")
    assert [p.name for p in tmp_path.iterdir()] == ["m.zarr"]
    with pytest.raises(OutputExistsError):
        store.save(make_fit(), tmp_path / "m.zarr")


class Interruption(BaseException):
    """As Ctrl-C is: not an Exception."""


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, Interruption])
@pytest.mark.parametrize("existed", [False, True])
def test_an_interrupted_write_leaves_what_was_there(existed: bool, error: type[BaseException], tmp_path: Path) -> None:
    place, fit = tmp_path / "m.zarr", make_fit()
    if existed:
        store.save(fit, place)
    with pytest.raises(error), place_at(place).begin("model", overwrite=True) as output:
        store.write(output, make_fit(seed=1))
        assert place.exists() == existed, "a reader sees what was there before until all is done"
        raise error
    assert [p.name for p in tmp_path.iterdir()] == ["m.zarr"] * existed
    if existed:
        assert_same(store.load(place), fit)


def test_a_fit_that_cannot_be_written_leaves_nothing(path: Path) -> None:
    """NaN among the numbers that describe the fit is refused by JSON; settings may hold what it cannot express."""
    with pytest.raises((TypeError, ValueError)):
        store.save(make_fit(), path, settings={"when": object()})
    assert list(path.parent.iterdir()) == []


# ---- where else -----------------------------------------------------------------------------------------------------


def test_a_fit_that_cannot_be_written_where_it_belongs_is_written_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of work are not lost to a full disk."""
    full, free = tmp_path / "full", tmp_path / "free"
    full.mkdir(), free.mkdir()
    monkeypatch.chdir(full)
    monkeypatch.setattr("tempfile.tempdir", str(free))
    real = LocalOutput.publish

    def publish(output: LocalOutput) -> None:
        if str(full) in output.target:
            raise OSError(28, "No space left on device")
        real(output)

    monkeypatch.setattr(LocalOutput, "publish", publish)
    table = pd.DataFrame({"bic": [1.0]})
    with (
        pytest.raises(DgmmError, match=r"could not be written \(.*No space left on device\): the model") as caught,
        place_at(full / "m.zarr").begin("model", overwrite=False) as output,
        store.rescued(make_fit(), full / "m.zarr", table=table, settings={"k": 3}),
    ):
        store.write(output, make_fit())
        output.finish()
    (kept,) = free.iterdir()
    assert str(caught.value).endswith(f"the model is kept in {kept}")
    assert_same(store.load(kept), make_fit())
    assert store.read(kept).settings == {"k": 3}
    pd.testing.assert_frame_equal(store.read(kept).table, table)
    assert list(full.iterdir()) == []


def test_a_fit_that_can_be_written_nowhere_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LocalOutput, "publish", fail)
    with pytest.raises(OSError, match="No space left"), store.rescued(make_fit(), "m.zarr"):
        fail()
