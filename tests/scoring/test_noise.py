"""Scores, samples and pictures of a mixture with noise: the label -2, the last of the probabilities."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from matplotlib.colors import to_rgba

import dgmm
from dgmm.cli import main
from dgmm.errors import InputError
from dgmm.families import NOISE, Noise
from dgmm.report import write_report
from dgmm.report.figures import map_figure, sample_figure
from dgmm.report.looks import DUST, new_figure
from dgmm.report.steps import draw
from dgmm.store import digest, save
from tests.ledgers import fit, rows, small_for_a_while

LOW, HIGH = np.full(3, -9.0), np.full(3, 9.0)


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with small_for_a_while():
        yield


@pytest.fixture
def model(tmp_path: Path) -> dgmm.Fit:
    """Three components and noise, stored, and rows beside it."""
    plain = fit()
    found = dataclasses.replace(plain, mixture=plain.mixture.beside(Noise.between(0.2, LOW, HIGH)))
    save(found, tmp_path / "m.zarr")
    zarr.create_array(str(tmp_path / "x.zarr"), shape=(238, 3), dtype="f8", chunks=(20, 3))[:] = rows()
    return found


def expected(model: dgmm.Fit) -> np.ndarray:
    """Labels by the definition: where the density of noise is above that of every component."""
    x, mixture = rows(), model.mixture
    assert mixture.noise is not None
    each = [
        np.log(w) - 0.5 * ((x - mean) ** 2).sum(axis=1) - 1.5 * np.log(2 * np.pi)
        for w, mean in zip(mixture.weights, mixture.means, strict=True)
    ]
    noise = np.log(0.2 / np.prod(HIGH - LOW))
    labels = np.where(np.max(each, axis=0) > noise, np.argmax(each, axis=0), NOISE)
    return np.where(np.isnan(x).any(axis=1), -1, labels)


def test_labels_and_probabilities(model: dgmm.Fit, tmp_path: Path) -> None:
    scores = dgmm.score(tmp_path / "m.zarr", tmp_path / "x.zarr", tmp_path / "s.zarr", probabilities=True).load()
    labels = expected(model)
    assert (labels == NOISE).sum() > 20
    np.testing.assert_array_equal(scores["label"], labels)
    every, present = scores["probabilities"].values, labels != -1
    np.testing.assert_allclose(every[present].sum(axis=1), 1, rtol=1e-6)
    best = every[np.arange(len(labels)), np.where(labels == NOISE, 3, np.maximum(labels, 0))]
    np.testing.assert_allclose(scores["probability"].values[present], best[present], rtol=1e-6)
    np.testing.assert_array_equal(model.classify(rows()[present]), labels[present])
    assert scores.attrs["counts"] == [(labels == k).sum() for k in (0, 1, 2, NOISE)]
    flags = dict(zip(scores["label"].attrs["flag_meanings"].split(), scores["label"].attrs["flag_values"], strict=True))
    assert flags == {"missing": -1, "component_0": 0, "component_1": 1, "component_2": 2, "noise": NOISE}
    assert scores.attrs["noise"] == 3


def test_scores_are_verified_anew(model: dgmm.Fit, tmp_path: Path) -> None:
    dgmm.score(tmp_path / "m.zarr", tmp_path / "x.zarr", tmp_path / "s.zarr")
    assert dgmm.verify(tmp_path / "s.zarr", recompute=1.0).is_sound
    array = zarr.open_array(tmp_path / "s.zarr" / "label", mode="r+")
    for wrong in (0, -1, 3):  # noise is not called by its column either
        place = int(np.flatnonzero(expected(model) == NOISE)[0])
        array[place] = wrong
        findings = dgmm.verify(tmp_path / "s.zarr", recompute=1.0).findings
        assert any("is not what the model says of the source, in 1 of" in str(finding) for finding in findings)
        array[place] = NOISE
    assert dgmm.verify(tmp_path / "s.zarr", recompute=1.0, data=True).is_sound


def test_the_noise_is_part_of_the_model(model: dgmm.Fit) -> None:
    """Two models that differ in nothing else have other names."""
    noise = model.mixture.noise
    assert noise is not None
    others = [
        model.mixture.beside(None),
        model.mixture.beside(noise.weighing(0.2000001)),
        model.mixture.beside(dataclasses.replace(noise, maximum=HIGH + 1)),
    ]
    assert len({digest(model.mixture), *map(digest, others)}) == 4


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("noise_maximum", -10.0, "the box of the noise has no volume"),
        ("weights", 0.5, "are not positive with sum one"),
    ],
)
def test_what_cannot_be_noise_is_refused(name: str, wrong: float, said: str, model: dgmm.Fit, tmp_path: Path) -> None:
    zarr.open_array(tmp_path / "m.zarr" / name, mode="r+")[0] = wrong
    with pytest.raises(InputError, match=said):
        dgmm.load(tmp_path / "m.zarr")


def test_the_command_line_says_how_much_is_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    r = np.random.default_rng(0)
    x = np.concatenate([r.normal(-5, 1, (500, 2)), r.normal(5, 1, (400, 2)), r.uniform(-12, 12, (100, 2))])
    source, out = str(tmp_path / "x.zarr"), str(tmp_path / "m.zarr")
    zarr.create_array(source, shape=x.shape, dtype="f8", chunks=(250, 2))[:] = x
    assert main(["train", source, "--k", "2", "--noise", "--out", out, "--search", "starts"]) == 0
    share = dgmm.load(out).noise
    assert share == pytest.approx(0.1, abs=0.03)
    assert f"noise {share:.1%} of the rows" in capsys.readouterr().out
    assert main(["info", out]) == 0
    assert f"noise: weight {share:.4f}" in capsys.readouterr().out
    assert main(["score", out, source, "--out", str(tmp_path / "s.zarr")]) == 0
    labels = xr.open_zarr(tmp_path / "s.zarr")["label"].values
    n = int((labels == NOISE).sum())
    assert n > 60
    assert f"noise: {n} samples ({n / 1000:.2%})" in capsys.readouterr().out
    drawn = str(tmp_path / "d.zarr")
    assert main(["sample", out, "--rows", "2000", "--out", drawn, "--labels"]) == 0
    label = zarr.open_array(f"{drawn}/labels/label")
    assert (label[:] == NOISE).mean() == pytest.approx(share, abs=0.03)
    assert "-2 for noise" in label.attrs["long_name"]
    again = dgmm.train(drawn, 2, noise=True, search="starts")
    assert again.noise == pytest.approx(share, abs=0.03)
    assert main(["merge", out, source]) == 2
    assert "belongs to no cluster" in capsys.readouterr().err


def test_pictures_and_pages_show_it(model: dgmm.Fit, tmp_path: Path) -> None:
    mixture, x = model.mixture, rows()[~np.isnan(rows()).any(axis=1)]
    figure = sample_figure(mixture, x, model.features)
    (legend,) = [t.get_text() for t in figure.axes[0].get_legend().get_texts() if "noise" in t.get_text()]
    assert legend == "noise  (20.0%)"
    colours = figure.axes[0].collections[0].get_facecolors()[:, :3]
    n = (model.classify(x) == NOISE).sum()
    assert (colours == to_rgba(DUST)[:3]).all(axis=1).sum() == n
    label = np.array([[[-2, -1, 0], [1, 2, -2]]])
    dims = ("month", "lat", "lon")
    coords = {"month": [1], "lat": [-45.0, 45.0], "lon": [45.0, 135.0, 180.0]}
    scores = xr.Dataset({"label": (dims, label.astype(np.int8)), "probability": (dims, np.ones(label.shape))}, coords)
    cells = map_figure(scores, mixture).axes[0].collections[0]
    assert sorted(cells.get_array().compressed().tolist()) == [0, 1, 2, 3, 3]
    assert cells.cmap(cells.norm(3)) == to_rgba(DUST)
    write_report(tmp_path / "r.html", title="noise", fit=model, table=None, scores=scores, sample=x)
    page = " ".join((tmp_path / "r.html").read_text().split())
    assert "<dt>Noise, share of the samples</dt><dd>20.00 %</dd>" in page
    axes = new_figure(4, 3).subplots()
    draw(axes, mixture, x, (0, 1), hard=True)
    assert (axes.collections[0].get_facecolors()[:, :3] == to_rgba(DUST)[:3]).all(axis=1).sum() == n
