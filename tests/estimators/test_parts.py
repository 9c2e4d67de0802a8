"""Hard assignments, parts held fixed and the conjugate prior, with scikit-learn's interface."""

from __future__ import annotations

from typing import Any

import dask.array
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture as Theirs

import dgmm

X, Y = load_iris(return_X_y=True)
HELD: dict[str, Any] = {"weights_init": np.full(3, 1 / 3), "precisions_init": np.ones(3), "means_init": X[[0, 60, 120]]}


@pytest.mark.parametrize("chunked", [False, True])
def test_it_is_k_means(chunked: bool) -> None:
    x = dask.array.from_array(X, chunks=(40, 4)) if chunked else X
    ours = dgmm.GaussianMixture(
        3, covariance_type="spherical", assignment="hard", fixed=("weights", "covariances"), tol=0, **HELD
    ).fit(x)
    theirs = KMeans(3, init=HELD["means_init"], n_init=1, tol=0, algorithm="lloyd").fit(X)
    np.testing.assert_allclose(ours.means_, theirs.cluster_centers_, rtol=1e-10)
    np.testing.assert_array_equal(np.asarray(ours.predict(x)), theirs.labels_)
    constant = -np.log(3) - 2 * np.log(2 * np.pi)
    assert ours.lower_bound_ == pytest.approx(constant - theirs.inertia_ / 2 / len(X), rel=1e-12)


@pytest.mark.parametrize("part", ["weights", "means", "covariances"])
def test_what_is_held_is_what_was_given_and_is_not_counted(part: str) -> None:
    ours = dgmm.GaussianMixture(3, covariance_type="spherical", fixed=[part], **HELD).fit(X)
    theirs = Theirs(3, covariance_type="spherical", **HELD).fit(X)
    expected = {"weights": np.full(3, 1 / 3), "means": HELD["means_init"], "covariances": np.ones(3)}[part]
    np.testing.assert_allclose(getattr(ours, f"{part}_"), expected, rtol=1e-12)
    assert not np.allclose(getattr(theirs, f"{part}_"), expected, rtol=1e-3)
    free = theirs._n_parameters() - {"weights": 2, "means": 12, "covariances": 3}[part]
    assert ours.aic(X) == pytest.approx(-2 * len(X) * ours.score(X) + 2 * free)
    assert clone(ours).get_params()["fixed"] == [part]


def test_labels_of_scikit_learn_are_ignored_by_convention() -> None:
    with_labels, without = (dgmm.GaussianMixture(3, random_state=0).fit(X, y) for y in (Y, None))
    np.testing.assert_array_equal(with_labels.means_, without.means_)


def test_a_selection_keeps_what_it_was_asked_for() -> None:
    chosen = dgmm.GaussianMixture.select(X, [2, 3], ["diag"], assignment="hard", fixed=["weights"], prior="default")
    assert (chosen.assignment, chosen.fixed, chosen.prior) == ("hard", ("weights",), "default")


@pytest.mark.parametrize("accelerate", ["none", "anderson"])
@pytest.mark.parametrize(("kind", "top"), [("full", -192.695283865326), ("tied", -257.739376609873)])
def test_the_prior_comes_to_mclusts_top(kind: str, top: float, accelerate: str) -> None:
    """Of Iris by species, by mclust 6.0.0 with its default prior."""
    precisions = np.array([np.linalg.inv(np.cov(X[k == Y].T)) for k in range(3)])
    start: dict[str, Any] = {
        "weights_init": np.full(3, 1 / 3),
        "means_init": np.eye(3)[Y].T @ X / 50,
        "precisions_init": precisions if kind == "full" else np.linalg.inv(np.linalg.inv(precisions).mean(axis=0)),
    }
    how: dict[str, Any] = {"reg_covar": 0, "tol": 1e-9, "max_iter": 1000, "accelerate": accelerate}
    ours = dgmm.GaussianMixture(3, covariance_type=kind, prior="default", **how, **start).fit(X)
    assert len(X) * ours.score(X) == pytest.approx(top, abs=1e-3)
    assert np.diff(ours.lower_bounds_).min() > -1e-9 or accelerate == "anderson"
    assert clone(ours).prior == "default"


@pytest.mark.parametrize(
    "settings", [{"assignment": "firm"}, {"prior": "flat"}, {"fixed": ["mean"]}, {"fixed": "means"}]
)
def test_what_there_is_not_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        dgmm.GaussianMixture(2, **settings).fit(X)
