"""The report: facts, pictures, warnings."""

import base64
import dataclasses
import io
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from dgmm.fits import CRITERION_NAMES, STRONG, Fit, Outcome, OutcomeKind, Stability, held_out_words
from dgmm.fits.table import make_table
from dgmm.mixture import Mixture
from dgmm.passes import BlockSums
from dgmm.report import write_report
from dgmm.report.figures import (
    CELLS,
    MISSING,
    class_colours,
    criterion_figure,
    map_figure,
    means_figure,
    most_frequent,
    sample_figure,
    strides,
)
from dgmm.report.page import cautions
from dgmm.types import Criterion, FloatArray


def make_fit(k: int, d: int = 2, kind: str = "full", log_likelihood: float = -500.0) -> Fit:
    covariances = {"full": np.tile(np.eye(d), (k, 1, 1)), "tied": np.eye(d), "diag": np.ones((k, d))}
    means = np.arange(k * d, dtype=float).reshape(k, d) * 3
    mixture = Mixture.gaussian(kind, np.arange(k, 0, -1.0), means, covariances.get(kind, np.ones(k)))
    names = tuple(f"feature {i}" for i in range(d))
    trajectory = (log_likelihood - 50, log_likelihood - 5, log_likelihood - 20, log_likelihood)
    return Fit(mixture, log_likelihood, 1234, 56, 4, Outcome(OutcomeKind.CONVERGED, 4), 1e-6, trajectory, names)


def some_fits() -> list[Fit]:
    starts = {"full": -900, "diag": -1000}
    fits = [make_fit(k, kind=kind, log_likelihood=starts[kind] + 90 * k) for kind in starts for k in (1, 2, 3)]
    fits[3] = dataclasses.replace(fits[3], outcome=Outcome(OutcomeKind.DROPPED, 6))
    fits[4] = dataclasses.replace(fits[4], outcome=Outcome(OutcomeKind.COLLAPSED, 4, (1,)), log_likelihood=1e6)
    return fits


def grid_scores(label: FloatArray) -> xr.Dataset:
    """Scores with the given labels (month, lat, lon), longitudes from 0 to 360."""
    dims = ("month", "lat", "lon")
    coords = {"month": [1, 4], "lat": [-45.0, 45.0], "lon": [45.0, 135.0, 225.0, 315.0]}
    probability = np.where(label < 0, np.nan, 0.9)
    variables = {"label": (dims, label.astype(np.int8)), "probability": (dims, probability)}
    return xr.Dataset({**variables, "log_density": (dims, -probability)}, coords=coords)


@pytest.fixture(autouse=True)
def _quick_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgmm.report.page.DPI", 50)


@pytest.fixture
def scores() -> xr.Dataset:
    label = np.array([[[0, 1, 2, -1], [0, 0, 1, 2]], [[0, 2, 2, -1], [-1, 0, 1, 2]]])
    return grid_scores(label)


def images(page: str) -> list[FloatArray]:
    found = re.findall(r'src="data:image/png;base64,([A-Za-z0-9+/=]+)"', page)
    assert len(found) == page.count("<img ")
    return [matplotlib.image.imread(io.BytesIO(base64.b64decode(text)), format="png") for text in found]


def has_colour(image: FloatArray, colour: str | FloatArray) -> bool:
    return bool((np.abs(image - np.array(to_rgba(colour))) < 0.01).all(axis=-1).any())


def test_gridded(tmp_path: Path, scores: xr.Dataset) -> None:
    fits = some_fits()
    best = fits[2]
    depth = xr.DataArray([0.0, 10.0], dims="depth", name="depth", attrs={"units": "m", "positive": "down"})
    write_report(
        tmp_path / "report.html",
        title="Classes <of> water",
        fit=best,
        table=make_table(fits, {(9, "full"): Outcome(OutcomeKind.FAILED, reason="no <start>")}),
        scores=scores,
        features=depth,
        picture=tmp_path / "picture.png",
    )
    page = (tmp_path / "report.html").read_text()
    assert f"{best.bic:,.1f}" in page
    assert "A full Gaussian mixture of 3 components, fitted" in page
    assert "1,234" in page
    assert "Classes &lt;of&gt; water" in page
    assert "<of>" not in page
    assert "no &lt;start&gt;" in page
    assert "K = 3 is the largest that was tried" in page
    assert "collapsed and cannot win: diag K = 2." in page
    assert "could not be fitted: full K = 9." in page
    assert "http" not in re.sub(r"base64,[^\"]+", "", page)
    pictures = images(page)
    assert len(pictures) == 4
    a_map = pictures[1]
    for colour in (MISSING, *class_colours(best.mixture)):
        assert has_colour(a_map, colour)
    assert has_colour(matplotlib.image.imread(tmp_path / "picture.png"), MISSING)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["picture.png", "report.html"]


@pytest.mark.parametrize("d", [1, 2, 5])
def test_single_model_of_plain_rows(tmp_path: Path, d: int) -> None:
    fit = dataclasses.replace(make_fit(2, d), remaining_gain=np.inf, outcome=Outcome(OutcomeKind.STOPPED, 4))
    sample, labels = fit.mixture.sample(60, np.random.default_rng(0))
    sample[0] = np.nan
    scores = xr.Dataset({"label": ("row", labels), "probability": ("row", np.full(60, 0.8))})
    paths = tmp_path / "report.html", tmp_path / "picture.png"
    write_report(paths[0], title="Rows", fit=fit, table=None, scores=scores, sample=sample, picture=paths[1])
    page = paths[0].read_text()
    assert f"{fit.bic:,.1f}" in page
    assert "Not converged: training ended after 4 passes with more still to be gained." in page
    assert "Candidates" not in page
    assert "largest that was tried" not in page
    pictures = images(page)
    assert len(pictures) == (3 if d > 2 else 2)
    if d > 1:
        for k, colour in enumerate(class_colours(fit.mixture)):
            assert has_colour(pictures[0], colour), k


def test_nothing_but_the_model(tmp_path: Path) -> None:
    fit = dataclasses.replace(make_fit(1), trajectory=(-500.0,))
    scores = xr.Dataset({"label": ("row", [-1]), "probability": ("row", [np.nan])})
    write_report(tmp_path / "report.html", title="Bare", fit=fit, table=None, scores=scores)
    page = (tmp_path / "report.html").read_text()
    assert "A full Gaussian mixture of 1 component, fitted" in page
    assert images(page) == []


def test_map_shows_the_modal_label_north_up_from_180_west(scores: xr.Dataset) -> None:
    figure = map_figure(scores, make_fit(3).mixture)
    large, first, second, certainty = figure.axes[:4]
    shown = large.collections[0].get_array().filled(-1)
    np.testing.assert_array_equal(shown, [[2, -1, 0, 1], [1, 2, 0, 0]])
    assert large.get_ylim()[0] < large.get_ylim()[1]
    assert large.get_xlim() == (-180, 180)
    assert first.get_title("left") == "Class, month 1"
    assert second.get_title("left") == "Class, month 4"
    np.testing.assert_array_equal(second.collections[0].get_array().filled(-1), [[2, -1, 0, 2], [1, 2, -1, 0]])
    assert certainty.collections[0].get_array().mask.sum() == 1


def test_classes_have_their_names_and_the_colour_of_their_first_component(tmp_path: Path, scores: xr.Dataset) -> None:
    """Three classes of two components each: labels 0, 1 and 2 are components 0, 2 and 4 on the map."""
    fit = dataclasses.replace(make_fit(6), classes=("ice", "land", "sea"))
    figure = map_figure(scores, fit.mixture, names=fit.classes)
    shown = figure.axes[0].collections[0].get_array().filled(-1)
    np.testing.assert_array_equal(shown, [[4, -1, 0, 2], [2, 4, 0, 0]])
    words = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    shares = fit.mixture.weights.reshape(3, 2).sum(axis=1)
    assert words == [*(f"{n}  ({s:.1%})" for n, s in zip(fit.classes, shares, strict=True)), "missing"]
    write_report(tmp_path / "report.html", title="Classes", fit=fit, table=None, scores=scores)
    page = (tmp_path / "report.html").read_text()
    assert "</span>3 of land</td>" in page
    assert "scores label the classes" in page


def test_most_frequent() -> None:
    label = xr.DataArray([[[3, -1, 1]], [[3, -1, 0]], [[1, -1, -1]], [[-1, 2, -1]]], dims=("a", "y", "x"))
    np.testing.assert_array_equal(most_frequent(label, ("y", "x")), [[3, 2, 0]])
    np.testing.assert_array_equal(most_frequent(label, ("x", "y")), [[3], [2], [0]])
    np.testing.assert_array_equal(most_frequent(label.where(False, -1), ("y", "x")), [[-1, -1, -1]])


@pytest.mark.parametrize(
    ("shape", "keep"), [((12, 90, 180), (1, 2)), ((900, 720, 1440), (1, 2)), ((10**9,), ()), ((9000, 9000), (0, 1))]
)
def test_strides_bound_what_is_read(shape: tuple[int, ...], keep: tuple[int, ...]) -> None:
    label = xr.DataArray(np.broadcast_to(np.int8(0), shape))
    steps = strides(label, [label.dims[i] for i in keep])
    thinned = label.isel({d: slice(None, None, s) for d, s in steps.items()})
    assert thinned.size <= CELLS
    assert thinned.size > CELLS / 16 or thinned.size == label.size
    assert (set(steps.values()) == {1}) == (label.size <= CELLS)


def test_strided_scores_are_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scores: xr.Dataset) -> None:
    monkeypatch.setattr("dgmm.report.figures.CELLS", 8)
    write_report(tmp_path / "report.html", title="Large", fit=make_fit(3), table=None, scores=scores.chunk())
    assert "one in 2 along month" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("names", "units", "expected"), [("yx", (), True), ("ab", ("north", "east"), True), ("ab", (), False)]
)
def test_maps_need_two_axes(names: str, units: tuple[str, ...], expected: bool) -> None:
    scores = xr.Dataset({v: (tuple(names), np.zeros((2, 3), int)) for v in ("label", "probability")})
    for name, unit in zip(names, units, strict=False):
        scores = scores.assign_coords({name: (name, np.arange(scores.sizes[name]), {"units": f"degrees_{unit}"})})
    if expected:
        assert len(map_figure(scores, make_fit(1).mixture).axes) == 3  # class, probability, colour bar
    else:
        with pytest.raises(ValueError, match="no latitude and longitude"):
            map_figure(scores, make_fit(1).mixture)


def test_cautions() -> None:
    fits = [make_fit(k, log_likelihood=-500 + k) for k in (1, 2, 3)]
    assert cautions(fits[0], make_table(fits[:1], {})) == []
    (close,) = cautions(fits[0], make_table([fits[0], make_fit(1, kind="tied", log_likelihood=-503)], {}))
    assert close == "A close contest: tied K = 1 is only 8.0 worse in BIC."
    (edge,) = cautions(fits[2], make_table([*fits[2:], make_fit(1, log_likelihood=-900)], {}))
    assert edge.startswith("The best K = 3 is the largest")
    (collapsed,) = cautions(dataclasses.replace(fits[0], outcome=Outcome(OutcomeKind.COLLAPSED, 4, (0,))), None)
    assert collapsed.startswith("Collapsed components: 0.")


def test_bic_of_all_states() -> None:
    fits = some_fits()
    table = make_table(fits, {(4, "diag"): Outcome(OutcomeKind.FAILED, reason="no start")})
    all_of_it, close = criterion_figure(table, fits[2]).axes
    texts = [text.get_text() for text in close.get_legend().get_texts()]
    assert texts == ["diag", "full", "the model", "converged", "dropped", "collapsed", "failed"]
    low, high = all_of_it.get_ylim()
    assert all(low <= y <= high for line in all_of_it.lines for y in line.get_ydata())
    open_markers = [line for line in close.lines if line.get_marker() == "o" and line.get_mfc() == "white"]
    assert [line.get_xdata().tolist() for line in open_markers] == [[1]]


@pytest.mark.parametrize("criterion", list(Criterion))
def test_the_contest_is_shown_in_what_decided_it(tmp_path: Path, scores: xr.Dataset, criterion: Criterion) -> None:
    fits = [
        dataclasses.replace(make_fit(k, log_likelihood=-500.0), entropy=40.0 * k, held_out=-2.0 - 0.01 * k)
        for k in (1, 2)
    ]
    table = make_table(fits, {}, criterion)
    worse = fits[1].criterion(criterion) - fits[0].criterion(criterion)
    _, close = criterion_figure(table, fits[0], criterion).axes
    (line,) = [line for line in close.lines if line.get_linestyle() == "-"]
    np.testing.assert_allclose(line.get_ydata(), [0.0, worse], rtol=1e-12)
    found = [c for c in cautions(fits[0], table, criterion) if "close contest" in c]
    assert found == (
        [f"A close contest: full K = 2 is only {worse:.1f} worse in {CRITERION_NAMES[criterion]}."] * (worse < STRONG)
    )
    write_report(tmp_path / "r.html", title="One", fit=fits[0], table=table, scores=scores, criterion=criterion)
    assert f"{CRITERION_NAMES[criterion]} of every candidate" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("d", [2, 4])
def test_ellipses_of_all_types(kind: str, d: int) -> None:
    fit = make_fit(2, d, kind)
    sample, _ = fit.mixture.sample(50, np.random.default_rng(0))
    figure = sample_figure(fit.mixture, sample, fit.features)
    widths = [patch.get_width() for patch in figure.axes[0].patches]
    np.testing.assert_allclose(widths, [2, 4, 2, 4] if d == 2 else [widths[0], 2 * widths[0]] * 2)
    assert isinstance(means_figure(fit.mixture, fit.features), Figure)


def test_what_held_out_blocks_say_stands_beside_what_chose(tmp_path: Path, scores: xr.Dataset) -> None:
    counts = np.array([10.0, 10.0, 20.0])
    fits = []
    for k, sums in ((1, [-12.0, -22.0, -64.0]), (2, [-12.0, -18.0, -61.0]), (3, [-10.0, -20.0, -60.0])):
        judged = BlockSums(counts, np.array(sums))
        more = {"held_out": judged.mean, "held_out_se": judged.standard_error, "judged": judged}
        fits.append(dataclasses.replace(make_fit(k, log_likelihood=-900.0 + 90 * k), **more))
    table = make_table(fits, {})
    write_report(tmp_path / "r.html", title="One", fit=fits[2], table=table, scores=scores)
    page = (tmp_path / "r.html").read_text()
    words = held_out_words(table)
    assert "the smallest K within one standard error of it is full K = 2, 0.0250 below" in words
    assert words[1:] in page
    assert "BIC of every candidate" in page
    assert f"<td>{fits[0].held_out:,.4f} ± {fits[0].held_out_se:,.4f}</td>" in page
    # a table without rows held out, or as it was once stored, says nothing of them
    old = table.drop(columns=["held_out_se", "behind_se"]).assign(held_out=np.nan)
    write_report(tmp_path / "old.html", title="One", fit=fits[2], table=old, scores=scores)
    assert "held out" not in (tmp_path / "old.html").read_text().lower()


def test_classes_that_are_seldom_found_again_are_named(tmp_path: Path, scores: xr.Dataset) -> None:
    found = Stability(
        900, 30, np.array([0.9, 1.0]), np.array([1.0, 0.31]), np.array([0.01, 0.0234]), np.full((2, 2), 0.5)
    )
    fit = dataclasses.replace(make_fit(2), stability=found)
    assert cautions(fit, None) == ["Class 1 is found again in 31% of the refits only (2)."]
    write_report(tmp_path / "r.html", title="One", fit=fit, table=None, scores=scores)
    page = (tmp_path / "r.html").read_text()
    assert found.words in page
    assert "<td>2.34 %</td><td>31 %</td>" in page
    write_report(tmp_path / "without.html", title="One", fit=make_fit(2), table=None, scores=scores)
    assert "refits" not in (tmp_path / "without.html").read_text()


def test_candidates_beyond_the_table_are_counted(tmp_path: Path, scores: xr.Dataset) -> None:
    fits = [make_fit(k, log_likelihood=-500.0) for k in range(1, 25)]
    table: pd.DataFrame = make_table(fits, {})
    write_report(tmp_path / "report.html", title="Many", fit=fits[0], table=table, scores=scores)
    page = (tmp_path / "report.html").read_text()
    assert "4 more are not shown" in page
