"""The way of plain EM is scikit-learn's, and its pictures show what they are given."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import PathCollection
from matplotlib.patches import Ellipse
from sklearn.mixture import GaussianMixture

import dgmm
from dgmm.mixture import Mixture
from dgmm.plot import steps
from dgmm.report.steps import COLOURS, component_colours

DATA = dgmm.datasets.old_faithful()
X = np.stack([DATA["eruptions"], DATA["waiting"]], axis=1)
START = Mixture.gaussian("full", [0.5, 0.5], [[2.5, 80.0], [4.0, 55.0]], [np.diag([0.5, 60.0])] * 2)


@pytest.mark.parametrize("n", [1, 2, 6, 20])
def test_the_way_is_scikit_learns(n: int) -> None:
    """From the same start, after so many M-steps."""
    path = dgmm.em_path(DATA, START, 20, reg_covar=0.0)
    assert len(path) == 21
    assert path[0] is START
    theirs = GaussianMixture(
        2, tol=0, reg_covar=0, max_iter=n, weights_init=START.weights, means_init=START.means,
        precisions_init=np.linalg.inv(START.covariances),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.fit(X)
    np.testing.assert_allclose(path[n].weights, theirs.weights_, rtol=1e-9)
    np.testing.assert_allclose(path[n].means, theirs.means_, rtol=1e-9)
    np.testing.assert_allclose(path[n].covariances, theirs.covariances_, rtol=1e-8)


@pytest.fixture(scope="module")
def path() -> tuple[Mixture, ...]:
    return dgmm.em_path(DATA, START, 6)


def parts(figure: Any) -> list[tuple[list[Ellipse], np.ndarray]]:
    """Ellipses and colours of points of each panel."""
    return [
        (
            [p for p in axes.patches if isinstance(p, Ellipse)],
            next(c for c in axes.collections if isinstance(c, PathCollection)).get_facecolors()[:, :3],
        )
        for axes in figure.axes
        if axes.get_visible()
    ]


def test_a_panel_for_every_iteration_there_is(path: tuple[Mixture, ...]) -> None:
    figure = steps(path, DATA)
    shown = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
    assert shown == ["start", "iteration 1", "iteration 2", "iteration 3", "iteration 6"]
    assert figure.get_supxlabel() == "eruptions (min)"
    assert figure.get_supylabel() == "waiting (min)"


def test_ellipses_are_those_of_the_covariances(path: tuple[Mixture, ...]) -> None:
    """A rim of an ellipse is one or two standard deviations from the mean, by Mahalanobis."""
    (((ellipses, _),)) = parts(steps(path, DATA, at=[6]))
    seen = set()
    for ellipse in ellipses:
        k = int(np.argmin(np.abs(path[6].means - ellipse.center).sum(axis=1)))
        rim = ellipse.get_patch_transform().transform(ellipse.get_path().vertices[:1]) - path[6].means[k]
        distance = float(np.sqrt(np.einsum("ni,ij,nj->n", rim, np.linalg.inv(path[6].covariances[k]), rim))[0])
        assert min(abs(distance - 1), abs(distance - 2)) < 1e-9
        seen.add((k, round(distance)))
    assert seen == {(0, 1), (0, 2), (1, 1), (1, 2)}


def test_points_are_soft_or_hard(path: tuple[Mixture, ...]) -> None:
    colours = component_colours(2)
    (((_, soft),)) = parts(steps(path, DATA, at=[1]))
    np.testing.assert_allclose(soft, path[1].responsibilities(X) @ colours, atol=1e-12)
    (((_, hard),)) = parts(steps(path, DATA, at=[1], hard=True))
    np.testing.assert_allclose(hard, colours[path[1].responsibilities(X).argmax(axis=1)])
    assert len(np.unique(hard, axis=0)) == 2 < len(np.unique(soft, axis=0))


@pytest.mark.parametrize("n", [len(COLOURS), len(COLOURS) + 1, 40])
def test_colours_differ(n: int) -> None:
    assert len(np.unique(component_colours(n), axis=0)) == n


def test_several_variables_and_levels_are_followed_and_drawn_by_name() -> None:
    """As the matrix of them is."""
    r = np.random.default_rng(0)
    t, s = (r.normal(size=(150, 2)) + 4 * (np.arange(150) % 2)[:, None] for _ in range(2))
    data = xr.Dataset(
        {"T": (("n", "depth"), t, {"units": "degC"}), "S": (("n", "depth"), s)},
        coords={"depth": [10.0, 50.0], "w": ("n", np.arange(150) % 3 + 1.0)},
    )
    x, start = np.hstack([t, s]), Mixture.gaussian("full", [0.5, 0.5], [[1.0] * 4, [3.0] * 4], [np.eye(4)] * 2)
    how: dict[str, Any] = {"variables": ["T", "S"], "feature_dim": "depth"}
    way = dgmm.em_path(data, start, 3, weights="w", **how)
    plain = dgmm.em_path(np.repeat(x, np.arange(150) % 3 + 1, axis=0), start, 3)
    for ours, theirs in zip(way, plain, strict=True):
        np.testing.assert_allclose(ours.means, theirs.means, rtol=1e-10)
        np.testing.assert_allclose(ours.covariances, theirs.covariances, rtol=1e-8, atol=1e-10)
    figure = steps(way, data, at=[0, 3], features=("T@50", "S@10"), **how)
    assert figure.get_supxlabel() == "T@50 (degC)"
    assert figure.get_supylabel() == "S@10"
    for axes in figure.axes[:2]:
        points = next(c for c in axes.collections if isinstance(c, PathCollection))
        np.testing.assert_array_equal(points.get_offsets(), x[:, [1, 2]])
    with pytest.raises(dgmm.InputError, match="no feature 'S@20': there are T@10, T@50, S@10, S@50"):
        steps(way, data, features=("T@50", "S@20"), **how)
    for wrong in ({"weights": "w"}, {"featuredim": "depth"}):
        with pytest.raises(dgmm.InputError, match=f"{next(iter(wrong))}: unknown setting"):
            steps(way, data, **how, **wrong)
    with pytest.raises(dgmm.InputError, match="n_init: unknown setting"):
        dgmm.em_path(data, start, 3, n_init=3, **how)  # type: ignore[call-arg]


def test_a_step_from_rows_that_lack_values_is_that_of_the_textbook() -> None:
    """Of one normal with independent features, for which what is missing is expected at its mean."""
    r = np.random.default_rng(1)
    x = np.where(r.random((60, 2)) < 0.3, np.nan, r.normal(size=(60, 2)))
    x = x[~np.isnan(x).all(axis=1)]
    mean, variance = np.array([0.5, -0.5]), np.array([2.0, 3.0])
    start = Mixture.gaussian("diag", [1.0], mean[None], variance[None])
    _, after = dgmm.em_path(x, start, 1, reg_covar=0.0, missing="marginalise")
    expected = np.where(np.isnan(x), mean, x).mean(axis=0)
    spread = np.where(np.isnan(x), (mean - expected) ** 2 + variance, (x - expected) ** 2).mean(axis=0)
    np.testing.assert_allclose(after.means[0], expected, rtol=1e-12)
    np.testing.assert_allclose(after.covariances[0], spread, rtol=1e-12)
    with pytest.raises(dgmm.InputError, match="cannot be marginalised in a t_diag mixture"):
        dgmm.em_path(x, dgmm.train(np.nan_to_num(x), 1, "t_diag").mixture, 1, missing="marginalise")


def test_what_cannot_be_drawn_or_followed(path: tuple[Mixture, ...]) -> None:
    with pytest.raises(dgmm.InputError, match="none of the iterations"):
        steps(path, DATA, at=[7])
    with pytest.raises(dgmm.InputError, match="3 features, the mixtures have 2"):
        steps(path, np.zeros((5, 3)))
    with pytest.raises(dgmm.InputError, match="3 features, the start 2"):
        dgmm.em_path(np.zeros((5, 3)), START)
    with pytest.raises(dgmm.InputError, match="max_iter"):
        dgmm.em_path(DATA, START, 0)
