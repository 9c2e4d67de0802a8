"""Samples drawn chunk by chunk: what was asked for, the same bits for all workers, read as any data are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import dgmm
from dgmm.cli import main
from dgmm.data import Span, open_samples
from dgmm.engine.workers import threads
from dgmm.errors import InsufficientMemoryError, OutputExistsError
from dgmm.families import FAMILIES, Poisson, Rates
from dgmm.mixture import Mixture
from dgmm.sampling import CHUNK_ROWS, CHUNK_VALUES, Drawing, check_memory
from dgmm.store import Status, Writer, place_at
from tests.families.test_families import dense_covariances, random_mixture

#: So many standard errors are never exceeded, but for one draw in a million.
SURE = 5.0


def content(path: Path) -> dict[str, bytes]:
    """All that lies in a folder."""
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", [name for name in FAMILIES if name in ("full", "tied", "diag", "spherical")])
def test_samples_are_those_of_the_model(name: str, tmp_path: Path) -> None:
    """Shares, means and covariances lie within their standard errors, and the chunks are not copies of each other."""
    n, mixture = 60_000, random_mixture(name)
    drawn = dgmm.sample(mixture, n, tmp_path / "x.zarr", labels=True, chunk_rows=7000, seed=5)
    x, labels = drawn["data"].to_numpy(), drawn["label"].to_numpy()
    assert x.shape == (n, mixture.n_features)
    assert len(np.unique(x[:, 0])) == n
    counts, w = np.bincount(labels, minlength=mixture.n_components), mixture.weights
    assert (np.abs(counts - n * w) < SURE * np.sqrt(n * w * (1 - w))).all()
    for k, covariance in enumerate(dense_covariances(mixture)):
        own, variances = x[labels == k], np.diagonal(covariance)
        assert (np.abs(own.mean(axis=0) - mixture.means[k]) < SURE * np.sqrt(variances / counts[k])).all()
        error = np.sqrt((np.outer(variances, variances) + covariance**2) / counts[k])
        assert (np.abs(np.cov(own.T) - covariance) < SURE * error).all()


def test_fitted_again_the_model_comes_back(tmp_path: Path) -> None:
    """With the log-likelihood per sample that the model expects of itself, to its standard error."""
    true = Mixture.gaussian("full", [0.6, 0.4], [[0, 0], [6, 2]], [[[2, 0.8], [0.8, 1]], [[1, -0.4], [-0.4, 0.5]]])
    dgmm.sample(true, 50_000, tmp_path / "x.zarr", chunk_rows=10_000)
    fit = dgmm.train(tmp_path / "x.zarr", 2)
    np.testing.assert_allclose(fit.mixture.weights, true.weights, atol=0.02)
    np.testing.assert_allclose(fit.mixture.means, true.means, atol=0.05)
    np.testing.assert_allclose(fit.mixture.covariances, true.covariances, atol=0.08)


@pytest.mark.parametrize("how", [{"n_workers": 3}, {"scheduler": "processes", "n_workers": 2}])
def test_the_workers_change_no_bit(how: dict[str, Any], tmp_path: Path) -> None:
    mixture, more = random_mixture("full"), {"labels": True, "chunk_rows": 100, "seed": 3}
    dgmm.sample(mixture, 1234, tmp_path / "one.zarr", scheduler="threads", n_workers=1, **more)
    dgmm.sample(mixture, 1234, tmp_path / "two.zarr", **more, **how)
    one = content(tmp_path / "one.zarr")
    assert one == content(tmp_path / "two.zarr")
    assert sum(key.startswith("data/c/") for key in one) == sum(key.startswith("labels/label/c/") for key in one) == 13


def test_seeds_differ_and_do_not_overlap(tmp_path: Path) -> None:
    mixture = random_mixture("diag")
    drawn = [dgmm.sample(mixture, 300, tmp_path / f"{s}.zarr", seed=s, chunk_rows=100)["data"] for s in (0, 1, 2)]
    assert len(np.unique(np.concatenate(drawn)[:, 0])) == 900


def test_a_chunk_does_not_depend_on_those_after_it(tmp_path: Path) -> None:
    mixture = random_mixture("tied")
    few, many = (dgmm.sample(mixture, n, tmp_path / f"{n}.zarr", chunk_rows=100)["data"] for n in (200, 1050))
    np.testing.assert_array_equal(few, many[:200])


class TestWhatTheModelKnows:
    """Samples lie as the data of the model did, and are trained on and scored with no word more."""

    def drawn(self, data: Any, tmp_path: Path, **more: Any) -> tuple[dgmm.Fit, xr.Dataset]:
        fit = dgmm.train(data, 2, seed=1, **more)
        drawn = dgmm.sample(fit, 500, tmp_path / "x.zarr", labels=True, chunk_rows=200)
        scores = dgmm.score(fit, tmp_path / "x.zarr", tmp_path / "scores.zarr")
        assert (scores["label"] == drawn["label"]).mean() > 0.9
        again = open_samples(tmp_path / "x.zarr")
        assert again.features == fit.features
        return fit, drawn

    def test_variables_with_units(self, tmp_path: Path) -> None:
        _, drawn = self.drawn(dgmm.datasets.old_faithful(), tmp_path)
        assert {name: v.dims for name, v in drawn.data_vars.items()} == dict.fromkeys(
            ("eruptions", "waiting", "label"), ("sample",)
        )
        assert drawn["waiting"].attrs["units"] == "min"

    @pytest.mark.parametrize("labels", [[0.0, 10.0], np.array(["2001-01-01", "2001-02-01"], "M8[ns]"), ["u", "v"]])
    def test_features_along_a_dimension(self, labels: Any, tmp_path: Path) -> None:
        r = np.random.default_rng(0)
        x = np.concatenate([r.standard_normal((300, 2)), r.standard_normal((300, 2)) + 8]).T
        depth = ("depth", labels, {} if isinstance(labels, np.ndarray) else {"units": "m"})
        data = xr.Dataset({"t": (("depth", "sample"), x, {"units": "K"})}, coords={"depth": depth})
        _, drawn = self.drawn(data, tmp_path, feature_dim="depth")
        assert drawn["t"].dims == ("sample", "depth")
        assert drawn["t"].attrs["units"] == "K"
        xr.testing.assert_identical(drawn["depth"], data["depth"])

    def test_a_plain_array(self, tmp_path: Path) -> None:
        r = np.random.default_rng(0)
        x = np.concatenate([r.standard_normal((300, 2)), r.standard_normal((300, 2)) + 8])
        _, drawn = self.drawn(x, tmp_path)
        assert drawn["data"].dims == ("sample", "feature")

    def test_the_dimension_of_the_rows_gives_way(self, tmp_path: Path) -> None:
        data = xr.Dataset({"sample": ("row", np.arange(9.0)), "draw": ("row", np.arange(9.0) ** 2)})
        assert dict(dgmm.sample(dgmm.train(data, 1), 20, tmp_path / "x.zarr").sizes) == {"row": 20}

    def test_names_that_are_taken(self, tmp_path: Path) -> None:
        data = xr.Dataset({"labels": ("row", np.arange(9.0))})
        fit = dgmm.train(data, 1)
        with pytest.raises(dgmm.InputError, match="features called labels"):
            dgmm.sample(fit, 20, tmp_path / "x.zarr", labels=True)
        assert "labels" in dgmm.sample(fit, 20, tmp_path / "x.zarr")
        split = dgmm.train(xr.Dataset({"wind m/s": ("row", np.arange(9.0))}), 1)
        with pytest.raises(dgmm.InputError, match="'wind m/s' of the model cannot be the name of an array"):
            dgmm.sample(split, 20, tmp_path / "y.zarr")
        assert [path.name for path in tmp_path.iterdir()] == ["x.zarr"]


def test_any_family_is_drawn_from(tmp_path: Path) -> None:
    rates = np.array([[1.0, 40.0], [9.0, 2.0]])
    drawn = dgmm.sample(
        Mixture(Poisson(), np.array([0.25, 0.75]), Rates(rates)), 20_000, tmp_path / "x.zarr", labels=True
    )
    x, labels = drawn["data"].to_numpy(), drawn["label"].to_numpy()
    assert (x == x.round()).all()
    for k in (0, 1):
        own = x[labels == k]
        assert (np.abs(own.mean(axis=0) - rates[k]) < SURE * np.sqrt(rates[k] / len(own))).all()


def test_single_precision_is_the_same_draw_rounded(tmp_path: Path) -> None:
    mixture = random_mixture("full")
    double, single = (
        dgmm.sample(mixture, 50, tmp_path / f"{t}.zarr", dtype=t)["data"].to_numpy() for t in ("float64", "float32")
    )
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single, double.astype(np.float32))
    far = Mixture.gaussian("diag", [1.0], [[1e39]], [[1.0]])
    with pytest.raises(dgmm.InputError, match="beyond what float32 holds"):
        dgmm.sample(far, 5, tmp_path / "far.zarr", dtype="float32")
    assert not (tmp_path / "far.zarr").exists()


def test_chunks_by_default(tmp_path: Path) -> None:
    """About a million values, and none has more than so many rows."""
    for d in (1, 20):
        mixture = Mixture.gaussian("spherical", [1.0], np.zeros((1, d)), [1.0])
        dgmm.sample(mixture, 140_000, tmp_path / f"{d}.zarr", dtype="float32")
        array = zarr.open_array(str(tmp_path / f"{d}.zarr/data"), mode="r")
        assert array.chunks == (min(CHUNK_ROWS, CHUNK_VALUES // d), d)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"rows": 0}, "rows: Input should be greater than or equal to 1 .not 0."),
        ({"rows": -5}, "rows"),
        ({"rows": 1.5}, "rows"),
        ({"rows": "many"}, "rows.*'many'"),
        ({"rows": 5, "seed": -1}, "seed"),
        ({"rows": 5, "chunk_rows": 0}, "chunk_rows"),
        ({"rows": 5, "dtype": "int8"}, "dtype"),
        ({"rows": 5, "sed": 3}, "sed: unknown setting: did you mean seed"),
    ],
)
def test_nonsense_is_refused(more: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(dgmm.InputError, match=words):
        dgmm.sample(random_mixture("full"), out=tmp_path / "x.zarr", **more)
    assert list(tmp_path.iterdir()) == []


def test_too_large_a_chunk_says_how_large_it_may_be() -> None:
    spans = (Span("data", "feature", random_mixture("full").n_features),)
    drawing = Drawing(random_mixture("full"), spans, 10**9, 10**8, 0, "float64", False, Writer("", "", ""))
    workers = threads(2, "1GiB")
    with pytest.raises(InsufficientMemoryError, match="lower chunk_rows to ") as caught:
        check_memory(drawing, workers)
    fitting = int(str(caught.value).rpartition(" ")[2])
    fits, more = (
        Drawing(drawing.mixture, spans, 10**9, n, 0, "float64", False, drawing.writer) for n in (fitting, fitting + 1)
    )
    check_memory(fits, workers)
    with pytest.raises(InsufficientMemoryError):
        check_memory(more, workers)


def test_what_is_there_is_replaced_only_if_asked(tmp_path: Path) -> None:
    out = tmp_path / "x.zarr"
    first = dgmm.sample(random_mixture("full"), 20, out)["data"].to_numpy()
    with pytest.raises(OutputExistsError, match="exists already"):
        dgmm.sample(random_mixture("full"), 30, out)
    again = dgmm.sample(random_mixture("full"), 30, out, overwrite=True, seed=1)["data"].to_numpy()
    assert (len(first), len(again)) == (20, 30)
    with pytest.raises(OutputExistsError, match="samples, not model"):
        dgmm.save(dgmm.train(first, 1), out, overwrite=True)


def test_what_was_interrupted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the same again starts over."""
    whole, draw = Drawing.draw, Drawing.draw

    def interrupted(self: Drawing, chunk: int) -> Any:
        if chunk == 5:
            raise KeyboardInterrupt
        return draw(self, chunk)

    out, more = tmp_path / "x.zarr", {"chunk_rows": 10, "scheduler": "threads", "n_workers": 1}
    monkeypatch.setattr(Drawing, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dgmm.sample(random_mixture("full"), 100, out, **more)
    assert place_at(out).state().status is Status.ABSENT
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(Drawing, "draw", whole)
    dgmm.sample(random_mixture("full"), 100, out, **more)
    dgmm.sample(random_mixture("full"), 100, tmp_path / "other.zarr", **more)
    assert content(out) == content(tmp_path / "other.zarr")


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out, again = (str(tmp_path / name) for name in ("model.json", "x.zarr", "scores.zarr"))
    fit = dgmm.train(dgmm.datasets.old_faithful(), 2)
    dgmm.save(fit, model)
    assert (
        main(["sample", model, "--rows", "1e4", "--out", out, "--labels", "--seed", "7", "--chunk-rows", "3000"]) == 0
    )
    assert capsys.readouterr().out == f"10000 samples: {out}\n"
    here = dgmm.sample(fit, 10_000, tmp_path / "here.zarr", labels=True, seed=7, chunk_rows=3000)
    there = xr.open_zarr(out, consolidated=True).load()
    np.testing.assert_array_equal(there["waiting"], here["waiting"])
    assert main(["score", model, out, "--out", again]) == 0
    assert main(["sample", model, "--rows", "1e4", "--out", model]) == 2
    assert main(["sample", model, "--rows", "0.5", "--out", again]) == 2
