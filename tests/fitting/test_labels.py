"""Fits to samples of known classes: discriminant analyses, and what few labels do for the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client
from scipy.stats import multivariate_normal
from sklearn.datasets import load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.naive_bayes import GaussianNB

import dgmm
from dgmm.api import open_scores
from dgmm.cli import main
from dgmm.estep import score as score_rows
from dgmm.mixture import Mixture
from dgmm.scoring import Scored

X, Y = load_iris(return_X_y=True)
NAMES = np.array(load_iris().target_names)[Y]


def unbalanced() -> np.ndarray:
    """Which rows of Iris: 50, 40 and 30 of the classes, mixed."""
    rows = np.concatenate([np.flatnonzero(k == Y)[: 50 - 10 * k] for k in range(3)])
    return np.random.default_rng(0).permutation(rows)


def moons(n: int = 2000, share: float = 0.01, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two half moons of three round Gaussians each; samples, their moons, and the labels of a share of them."""
    r = np.random.default_rng(seed)
    angles = np.deg2rad([20, 90, 160])
    upper = np.stack([np.cos(angles), np.sin(angles)], axis=1) * 4
    centres = np.concatenate([upper, np.array([4.0, 1.0]) - upper])
    of = r.integers(6, size=n)
    x, y = centres[of] + 0.5 * r.standard_normal((n, 2)), of // 3
    labels = np.where(r.uniform(size=n) < share, y, -1)
    return x, y, labels


# ---- every class known ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_all_known_it_is_the_mean_and_covariance_of_each_class(kind: str) -> None:
    rows = unbalanced()
    x, y = X[rows], Y[rows]
    fit = dgmm.train(x, covariance_type=kind, labels=y, reg_covar=0)
    counts = np.bincount(y)
    own = np.array([np.cov(x[y == k].T, bias=True) for k in range(3)])
    expected = {
        "full": own,
        "tied": np.einsum("k,kij->ij", counts / len(x), own),
        "diag": np.diagonal(own, axis1=1, axis2=2),
        "spherical": np.trace(own, axis1=1, axis2=2) / 4,
    }[kind]
    np.testing.assert_allclose(fit.mixture.weights, counts / len(x), rtol=1e-12)
    np.testing.assert_allclose(fit.mixture.means, [x[y == k].mean(axis=0) for k in range(3)], rtol=1e-11)
    np.testing.assert_allclose(fit.mixture.covariances, expected, rtol=1e-9, atol=1e-12)
    assert (fit.classes, fit.converged, fit.n_passes) == ((0, 1, 2), True, 1)
    family = fit.mixture.family
    joint = sum(
        np.log(fit.mixture.weights[k])
        + multivariate_normal(fit.mixture.means[k], family.covariance(fit.mixture.components, k)).logpdf(row)
        for row, k in zip(x, y, strict=True)
    )
    assert fit.log_likelihood == pytest.approx(joint, rel=1e-11)


def test_full_is_quadratic_discriminant_analysis() -> None:
    rows = unbalanced()
    x, y = X[rows], Y[rows]
    fit = dgmm.train(x, labels=NAMES[rows], reg_covar=0)
    theirs = QuadraticDiscriminantAnalysis(store_covariance=True).fit(x, NAMES[rows])
    # its estimates may be those by n - 1
    factors = np.array([c[0, 0] for c in theirs.covariance_]) / fit.mixture.covariances[:, 0, 0]
    counts = np.bincount(y)
    assert np.allclose(factors, 1) or np.allclose(factors, counts / (counts - 1))
    scaled = Mixture.gaussian(
        "full", fit.mixture.weights, fit.mixture.means, factors[:, None, None] * fit.mixture.covariances
    )
    np.testing.assert_allclose(scaled.responsibilities(x), theirs.predict_proba(x), rtol=1e-7, atol=1e-12)
    assert fit.classes == tuple(theirs.classes_)
    assert (fit.classify(x) == theirs.predict(x)).all()


@pytest.mark.parametrize("solver", ["lsqr", "svd"])
def test_tied_is_linear_discriminant_analysis(solver: str) -> None:
    rows = unbalanced()
    x, y = X[rows], Y[rows]
    fit = dgmm.train(x, covariance_type="tied", labels=y, reg_covar=0)
    theirs = LinearDiscriminantAnalysis(solver=solver).fit(x, y)
    # they may divide the scatter by n - 3
    factors, mixture = (1.0, len(x) / (len(x) - 3)), fit.mixture
    ours = [Mixture.gaussian("tied", mixture.weights, mixture.means, f * mixture.covariances) for f in factors]
    assert any(np.allclose(m.responsibilities(x), theirs.predict_proba(x), rtol=1e-7, atol=1e-12) for m in ours)


@pytest.mark.parametrize("smoothing", [0.0, 1e-3])
def test_diag_is_naive_bayes(smoothing: float) -> None:
    """Theirs adds a share of the largest variance, ours of each feature's own: the same where these are equal."""
    rows = unbalanced()
    x, y = X[rows], Y[rows]
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    fit = dgmm.train(x, covariance_type="diag", labels=y, reg_covar=smoothing)
    theirs = GaussianNB(var_smoothing=smoothing).fit(x, y)
    np.testing.assert_allclose(fit.mixture.covariances, theirs.var_, rtol=1e-10)
    np.testing.assert_allclose(fit.class_probabilities(x), theirs.predict_proba(x), rtol=1e-8, atol=1e-12)


def test_weights_of_samples_are_as_good_as_repeated_rows() -> None:
    times = np.random.default_rng(0).integers(1, 4, len(X))
    weighted = dgmm.train(X, labels=Y, weights=times, reg_covar=0)
    repeated = dgmm.train(np.repeat(X, times, axis=0), labels=np.repeat(Y, times), reg_covar=0)
    np.testing.assert_allclose(weighted.mixture.means, repeated.mixture.means, rtol=1e-10)
    np.testing.assert_allclose(weighted.mixture.covariances, repeated.mixture.covariances, rtol=1e-8)
    np.testing.assert_allclose(weighted.mixture.weights, repeated.mixture.weights, rtol=1e-10)


def test_equal_priors_are_weights_held_fixed() -> None:
    rows = unbalanced()
    fit = dgmm.train(X[rows], covariance_type="tied", labels=Y[rows], reg_covar=0, fixed="weights")
    theirs = LinearDiscriminantAnalysis(solver="lsqr", priors=np.full(3, 1 / 3)).fit(X[rows], Y[rows])
    np.testing.assert_allclose(fit.mixture.weights, 1 / 3, rtol=1e-12)
    np.testing.assert_allclose(fit.mixture.means, theirs.means_, rtol=1e-10)
    own = np.array([np.cov(X[rows][Y[rows] == k].T, bias=True) for k in range(3)])
    expected = np.einsum("k,kij->ij", np.bincount(Y[rows]) / len(rows), own)
    np.testing.assert_allclose(fit.mixture.covariances, expected, rtol=1e-9)


def test_rows_with_missing_values_count_for_no_class() -> None:
    x = X.copy()
    x[::7, 1] = np.nan
    fit, kept = dgmm.train(x, labels=Y, reg_covar=0), ~np.isnan(x).any(axis=1)
    np.testing.assert_allclose(fit.mixture.means, [x[kept & (k == Y)].mean(axis=0) for k in range(3)], rtol=1e-11)
    assert fit.n_missing == (~kept).sum()


@pytest.mark.parametrize("n", [2, 4])
def test_a_class_of_too_few_rows_is_said(n: int) -> None:
    few = np.concatenate([np.arange(100), 100 + np.arange(n)])
    fit = dgmm.train(X[few], labels=NAMES[few])
    assert fit.state == "collapsed"
    assert fit.collapsed == (2,)
    assert "(class virginica) has too few samples" in fit.reason
    assert "leave such a class out" in fit.reason
    if n == 2:
        with pytest.raises(dgmm.CollapseError, match="of class 'virginica'"):
            dgmm.train(X[few], labels=NAMES[few], reg_covar=0)


def test_a_class_without_a_complete_row_is_said() -> None:
    x = X.copy()
    x[Y == 2, 0] = np.nan
    with pytest.raises(dgmm.InputError, match="class 'virginica' of ndarray has no complete row"):
        dgmm.train(x, labels=NAMES)


# ---- some known -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_one_label_in_a_hundred_names_the_moons(seed: int) -> None:
    x, y, labels = moons(share=0.015, seed=seed)
    fit = dgmm.train(x, labels=labels, components_per_class=3, covariance_type="spherical")
    assert fit.converged
    assert fit.n_components == 6
    assert (fit.classify(x) == y).mean() > 0.97
    # one Gaussian for each moon bends to neither
    single = dgmm.train(x, labels=labels, covariance_type="spherical")
    assert (single.classify(x) == y).mean() < 0.95
    # without labels, classes are numbered by weight: names are luck
    assert fit.class_of(0) == fit.class_of(2) == 0
    assert fit.class_of(3) == 1


def test_the_likelihood_is_that_of_what_is_known_and_never_falls() -> None:
    x, _, labels = moons(800, 0.1)
    fit = dgmm.train(x, labels=labels, components_per_class=2, accelerate="none", reg_covar=0)
    assert (np.diff(fit.trajectory) > -1e-7).all()
    family = fit.mixture.family
    joint = np.stack(
        [
            np.log(fit.mixture.weights[k])
            + multivariate_normal(fit.mixture.means[k], family.covariance(fit.mixture.components, k)).logpdf(x)
            for k in range(4)
        ],
        axis=1,
    )
    others = (labels[:, None] >= 0) & (np.arange(4) // 2 != labels[:, None])
    expected = np.logaddexp.reduce(np.where(others, -np.inf, joint), axis=1).sum()
    assert fit.log_likelihood == pytest.approx(expected, rel=1e-10)
    # and it is a maximum: one more step of EM, by its definition, changes hardly anything
    r = np.exp(
        np.where(others, -np.inf, joint) - np.logaddexp.reduce(np.where(others, -np.inf, joint), axis=1)[:, None]
    )
    np.testing.assert_allclose(r.mean(axis=0), fit.mixture.weights, atol=2e-3)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_with_few_labels_classes_are_where_all_would_have_put_them(kind: str) -> None:
    r = np.random.default_rng(1)
    y = r.choice(3, p=[0.5, 0.3, 0.2], size=3000)
    x = np.array([[0, 0], [4, 0], [0, 5]])[y] + r.standard_normal((3000, 2))
    labels = np.where(r.uniform(size=3000) < 0.02, y, -1)
    some, every = (dgmm.train(x, covariance_type=kind, labels=each) for each in (labels, y))
    np.testing.assert_allclose(some.mixture.means, every.mixture.means, atol=0.2)
    np.testing.assert_allclose(some.mixture.weights, every.mixture.weights, atol=0.02)
    assert (some.classify(x) == y).mean() > 0.97


def test_labels_at_the_edges_alone_let_a_shared_covariance_begin() -> None:
    """The scatter between such rows is more than that of all the data."""
    r = np.random.default_rng(2)
    y = r.integers(2, size=1000)
    x = np.array([[-2.0, 0], [2.0, 0]])[y] + r.standard_normal((1000, 2))
    labels = np.where(np.abs(x[:, 0]) > 3.8, y, -1)
    fit = dgmm.train(x, covariance_type="tied", labels=labels)
    assert (fit.classify(x) == y).mean() > 0.95


def test_several_components_of_a_class_follow_it_where_all_is_known() -> None:
    x, y, _ = moons(1200)
    fit = dgmm.train(x, labels=y, components_per_class=3, covariance_type="spherical")
    for k in (0, 1):
        alone = dgmm.train(x[y == k], 3, "spherical")
        ours = fit.mixture.means[3 * k : 3 * k + 3]
        order = np.lexsort(ours.T), np.lexsort(alone.mixture.means.T)
        np.testing.assert_allclose(ours[order[0]], alone.mixture.means[order[1]], atol=0.05)
        weights = fit.mixture.weights[3 * k : 3 * k + 3]
        assert weights.sum() == pytest.approx((y == k).mean(), rel=1e-9)
        assert (np.diff(weights) <= 0).all()


def test_hard_assignments_leave_known_samples_where_they_are() -> None:
    x, y, labels = moons(800, 0.1)
    fit = dgmm.train(x, labels=labels, components_per_class=3, covariance_type="spherical", assignment="hard")
    assert fit.converged
    assert (fit.classify(x) == y).mean() > 0.95


def test_a_selection_is_of_numbers_of_components_of_each_class() -> None:
    x, _, labels = moons(1500, 0.1)
    chosen = dgmm.select(x, [2, 4, 6, 8], ["spherical"], labels=labels)
    assert chosen.best.n_components == 6
    assert chosen.best.classes == (0, 1)
    with pytest.raises(dgmm.InputError, match="n_components=3 is no multiple of the number of classes"):
        dgmm.select(x, [2, 3], labels=labels)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({}, "n_components is missing"),
        ({"components_per_class": 2, "n_components": 2}, "is for samples with labels"),
        ({"labels": Y, "n_components": 4}, "no multiple of the number of classes of ndarray, 3 \\(0, 1, 2\\)"),
        ({"labels": Y, "n_components": 3, "components_per_class": 2}, "n_components=3 is not 3 classes times"),
        ({"labels": np.where(np.arange(150) % 50, -1, Y), "components_per_class": 2}, "class 0 has 1 known row"),
        ({"labels": np.full(150, -1)}, "all of them are unknown"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(dgmm.InputError, match=what):
        dgmm.train(X, **settings)


# ---- stores, files and the command line -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*Zarr V3 specification.*")
@pytest.mark.parametrize("per_class", [1, 2])
def test_classes_come_back_by_their_names(per_class: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, model, out = (str(tmp_path / name) for name in ("x.zarr", "m.zarr", "s.zarr"))
    data = {"values": (("sample", "feature"), X), "species": ("sample", np.where(np.arange(150) % 5, NAMES, ""))}
    xr.Dataset(data).chunk(sample=40).to_zarr(path, zarr_format=3, consolidated=False)
    more = ["--components-per-class", "2", "--covariance", "diag"] if per_class > 1 else []
    assert main(["train", path, "--labels", "species", "--out", model, "--quiet", *more]) == 0
    assert "classes setosa, versicolor, virginica" in capsys.readouterr().out
    assert main(["info", model]) == 0
    assert "component 0 of class setosa" in capsys.readouterr().out
    fit = dgmm.load(model)
    assert fit.classes == ("setosa", "versicolor", "virginica")
    dgmm.save(fit, tmp_path / "m.json")
    assert dgmm.load(tmp_path / "m.json").classes == fit.classes

    assert main(["score", model, path, "--out", out, "--set", "probabilities=true", "--quiet"]) == 0
    assert "class virginica: " in capsys.readouterr().out
    scores = open_scores(out)
    attributes = scores["label"].attrs
    assert attributes["flag_meanings"] == "missing setosa versicolor virginica"
    assert list(attributes["flag_values"]) == [-1, 0, 1, 2]
    assert json.loads(scores.attrs["classes"]) == list(fit.classes)
    assert Scored.in_attributes(scores.attrs).labels == ("class setosa", "class versicolor", "class virginica")
    expected = fit.class_probabilities(X)
    np.testing.assert_array_equal(scores["label"], expected.argmax(axis=1))
    np.testing.assert_allclose(scores["probability"], expected.max(axis=1), rtol=1e-6)
    np.testing.assert_allclose(scores["probabilities"], expected, atol=1e-6)
    np.testing.assert_allclose(scores["log_density"], fit.mixture.log_density(X), rtol=1e-9)
    assert (fit.classify(X) == NAMES).mean() > 0.95
    verdict = dgmm.verify(out, data=True, recompute=1.0)
    assert verdict.is_sound, verdict.findings


def test_a_label_of_a_class_sums_over_its_components() -> None:
    """Two halves of a class together outweigh another component that is larger than either."""
    mixture = Mixture.gaussian("spherical", [0.3, 0.3, 0.35, 0.05], np.zeros((4, 2)), np.ones(4))
    found = score_rows(np.zeros((3, 2)), mixture.density_plan(n_classes=2), probabilities=True)
    np.testing.assert_array_equal(found.label, 0)
    np.testing.assert_allclose(found.probability, 0.6)
    np.testing.assert_allclose(found.probabilities, [[0.6, 0.4]] * 3)
    by_component = score_rows(np.zeros((3, 2)), mixture.density_plan())
    np.testing.assert_array_equal(by_component.label, 2)
    np.testing.assert_allclose(found.log_density, by_component.log_density)


def test_a_journal_is_of_these_labels(tmp_path: Path) -> None:
    labels = np.where(np.arange(150) % 3, -1, Y)
    journal = tmp_path / "journal"
    first = dgmm.train(X, labels=labels, journal=journal, keep_journal=True)
    again = dgmm.train(X, labels=labels, journal=journal, keep_journal=True)
    assert again.mixture.means.tobytes() == first.mixture.means.tobytes()
    other = labels.copy()
    other[0] = -1
    with pytest.raises(dgmm.InputError, match="labels"):
        dgmm.train(X, labels=other, journal=journal)


def test_refits_keep_the_classes() -> None:
    x, _, labels = moons(600, 0.2)
    fit = dgmm.train(x, labels=labels, components_per_class=3, covariance_type="spherical", stability=3, holdout=0.2)
    assert fit.stability is not None
    assert (fit.stability.found_again > 0.5).all()
    assert np.isfinite(fit.held_out)
    assert fit.judged is not None
    assert fit.held_out == pytest.approx(fit.judged.mean, rel=1e-9)


@pytest.mark.filterwarnings("ignore:.*Zarr V3 specification.*")
def test_processes_read_the_labels_as_threads_do(tmp_path: Path, client: Client) -> None:
    x, y, labels = moons(900, 0.3)
    names = np.where(labels < 0, "", np.array(["upper", "lower"])[y])
    data = {"a": ("t", x[:, 0]), "b": ("t", x[:, 1]), "moon": ("t", names)}
    path = str(tmp_path / "x.zarr")
    xr.Dataset(data).chunk(t=200).to_zarr(path, zarr_format=3, consolidated=False)
    asked: dict[str, Any] = {"labels": "moon", "components_per_class": 3, "covariance_type": "spherical"}
    here, there = (dgmm.train(path, scheduler=scheduler, **asked) for scheduler in ("threads", client))
    assert here.classes == there.classes == ("lower", "upper")
    assert here.mixture.means.tobytes() == there.mixture.means.tobytes()
    in_memory = dgmm.train(x, labels=names, components_per_class=3, covariance_type="spherical")
    np.testing.assert_allclose(in_memory.mixture.means, here.mixture.means, rtol=1e-7)
