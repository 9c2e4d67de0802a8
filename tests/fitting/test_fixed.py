"""Weights, means and covariances that are held fixed: what is left is at its best, and what is held stays."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from scipy.optimize import minimize
from sklearn.mixture import GaussianMixture

import dgmm
from dgmm.cli import main
from dgmm.em import Ascent, Ground, climb, maximise
from dgmm.estep import accumulate, make_plan, unpack
from dgmm.estep import plan as planning
from dgmm.families import FAMILIES, Moments, make_frame
from dgmm.mixture import Mixture
from dgmm.rows import Rows

K, D = 3, 2
KINDS = ["full", "tied", "diag", "spherical"]
SETS = [set(c) for n in (1, 2) for c in combinations(("weights", "means", "covariances"), n)]
MEANS = np.array([[0.0, 0.0], [3.0, 1.0], [-2.0, 3.0]])
WEIGHTS = np.array([0.5, 0.3, 0.2])


def data(n: int = 600, seed: int = 0) -> np.ndarray:
    r = np.random.default_rng(seed)
    spread = np.array([[[1.0, 0.0], [0.5, 0.8]], [[0.7, 0.0], [-0.2, 1.2]], [[1.1, 0.0], [0.0, 0.6]]])
    of = r.choice(K, size=n, p=WEIGHTS)
    return MEANS[of] + np.einsum("nij,nj->ni", spread[of], r.standard_normal((n, D)))


def covariances(kind: str, size: float = 1.0) -> np.ndarray:
    shape = {"full": (K, D, D), "tied": (D, D), "diag": (K, D), "spherical": (K,)}[kind]
    one = np.eye(D) if kind in ("full", "tied") else 1.0
    return np.broadcast_to(size * one, shape).copy()


def start_of(kind: str) -> Mixture:
    return Mixture.gaussian(kind, np.array([0.2, 0.3, 0.5]), MEANS + 0.7, covariances(kind, 1.5))


def climbed(kind: str, fixed: set[str], acceleration: Any = "none", passes: int = 60) -> tuple[Ascent, Ground]:
    x, start = data(), start_of(kind)
    moments = Moments.of(x)
    frame = make_frame(start.family.frame, moments.mean, moments.covariance)
    ground = Ground(frame, moments.in_frame(frame), np.zeros((D, D)), fixed=frozenset(fixed))
    ascent = Ascent(start.to_frame(frame), ground, acceleration=acceleration)

    def evaluate(mixtures: Any) -> Any:
        plan = make_plan(mixtures, {start.family.frame: frame})
        return unpack(accumulate(Rows(x), plan), plan)

    for _ in climb([ascent], evaluate, passes):
        pass
    return ascent, ground


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fixed", SETS, ids=lambda s: "+".join(sorted(s)))
@pytest.mark.parametrize("acceleration", ["none", "anderson"])
def test_what_is_held_stays_and_the_likelihood_never_falls(kind: str, fixed: set[str], acceleration: str) -> None:
    ascent, ground = climbed(kind, fixed, acceleration)
    start, end = start_of(kind), ascent.mixture.to_data(ground.frame)
    for part in ("weights", "means", "covariances"):
        same = np.allclose(getattr(end, part), getattr(start, part), rtol=1e-12, atol=1e-12)
        assert same == (part in fixed), part
    if acceleration == "none":
        assert np.diff(ascent.trajectory).min() >= -1e-8
    assert ascent.log_likelihood > ascent.trajectory[0] + 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fixed", SETS, ids=lambda s: "+".join(sorted(s)))
def test_acceleration_and_plain_em_come_to_the_same(kind: str, fixed: set[str]) -> None:
    plain, _ = climbed(kind, fixed, passes=1000)
    fast, _ = climbed(kind, fixed, "anderson", passes=1000)
    assert plain.converged
    assert fast.converged
    assert fast.log_likelihood == pytest.approx(plain.log_likelihood, abs=2e-2)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_covariances_are_about_means_that_are_held(kind: str, narrow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One M-step: by its definition, in coordinates of the frame and in a component's own."""
    if narrow:
        monkeypatch.setattr(planning, "TOLERATED_ERROR", 0.0)
    x, start = data(), start_of(kind)
    moments = Moments.of(x)
    frame = make_frame(start.family.frame, moments.mean, moments.covariance)
    ground = Ground(frame, moments.in_frame(frame), np.zeros((D, D)), fixed=frozenset({"means"}))
    inside = start.to_frame(frame)
    plan = make_plan([inside], {start.family.frame: frame})
    (statistics,) = unpack(accumulate(Rows(x), plan), plan)
    assert statistics.local.any() == narrow
    after = maximise(inside, statistics, ground).to_data(frame)

    r = start.responsibilities(x)
    centred = x[:, None] - start.means
    full = np.einsum("nk,nki,nkj->kij", r, centred, centred)
    expected = {
        "full": full / r.sum(axis=0)[:, None, None],
        "tied": full.sum(axis=0) / len(x),
        "diag": np.diagonal(full, axis1=1, axis2=2) / r.sum(axis=0)[:, None],
        "spherical": np.trace(full, axis1=1, axis2=2) / D / r.sum(axis=0),
    }[kind]
    np.testing.assert_allclose(after.covariances, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(after.means, start.means, rtol=1e-12, atol=1e-13)


def test_means_only_is_the_maximum_of_the_likelihood_in_the_means() -> None:
    x = data()
    fit = dgmm.train(
        x, K, "spherical", fixed=["weights", "covariances"], reg_covar=0, tol=1e-9,
        weights_init=WEIGHTS, means_init=MEANS, precisions_init=np.ones(K),
    )  # fmt: skip
    order = np.argsort(fit.mixture.means[:, 0])[np.argsort(np.argsort(MEANS[:, 0]))]
    found = fit.mixture.taken(order)
    np.testing.assert_allclose(found.weights, WEIGHTS, rtol=1e-12)
    np.testing.assert_allclose(found.covariances, 1.0, rtol=1e-12)

    def loss(means: np.ndarray) -> float:
        return -Mixture.gaussian("spherical", WEIGHTS, means.reshape(K, D), np.ones(K)).log_density(x).mean()

    best = minimize(loss, MEANS.ravel(), method="BFGS", options={"gtol": 1e-7})
    np.testing.assert_allclose(found.means.ravel(), best.x, atol=1e-3)
    assert fit.log_likelihood >= -best.fun * len(x) - 1e-3


def test_weights_alone_are_the_limit_of_scikit_learns_e_step() -> None:
    x = data()
    fit = dgmm.train(
        x, K, "full", fixed="means,covariances", tol=1e-12,
        means_init=MEANS, precisions_init=np.broadcast_to(np.eye(D), (K, D, D)),
    )  # fmt: skip
    theirs = GaussianMixture(K)
    theirs.means_, theirs.weights_ = MEANS, np.full(K, 1 / K)
    theirs.precisions_cholesky_ = theirs.precisions_ = np.broadcast_to(np.eye(D), (K, D, D))
    for _ in range(2000):
        theirs.weights_ = theirs.predict_proba(x).mean(axis=0)
    np.testing.assert_allclose(fit.mixture.weights, np.sort(theirs.weights_)[::-1], atol=1e-4)
    assert fit.log_likelihood == pytest.approx(theirs.score_samples(x).sum(), abs=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_that_are_held_are_not_counted(kind: str) -> None:
    free = FAMILIES[kind].n_parameters(K, D)
    sizes = {"weights": K - 1, "means": K * D}
    sizes["covariances"] = free - sum(sizes.values())
    for fixed in SETS:
        assert start_of(kind).n_free(fixed) == free - sum(sizes[part] for part in fixed)
    fit = dgmm.train(data(), K, kind, fixed=["covariances"])
    assert fit.n_parameters == free - sizes["covariances"]
    assert fit.bic == pytest.approx(-2 * fit.log_likelihood + fit.n_parameters * np.log(600))
    assert fit.fixed == ("covariances",)


@pytest.mark.parametrize("fixed", ["means", "covariances"])
def test_a_single_component_holds_what_is_given(fixed: str) -> None:
    x, mean, scale = data(), np.array([[0.5, 0.5]]), np.array([[2.0, 3.0]])
    fit = dgmm.train(x, 1, "diag", fixed=fixed, reg_covar=0, means_init=mean, precisions_init=1 / scale)
    held = {"means": fixed == "means", "covariances": fixed == "covariances"}
    centre = mean[0] if held["means"] else x.mean(axis=0)
    np.testing.assert_allclose(fit.mixture.means[0], centre, rtol=1e-12)
    expected = scale[0] if held["covariances"] else ((x - centre) ** 2).mean(axis=0)
    np.testing.assert_allclose(fit.mixture.covariances[0], expected, rtol=1e-10)


def test_what_is_held_at_the_start_is_not_moved_by_anything_else() -> None:
    """Whatever else is asked for: worst rows, another try for what collapses, a search, refits, a selection."""
    x = data()
    settings: dict[str, Any] = {"search": "thorough", "on_collapse": "reseed", "worst_rows": 500, "start_rows": 200}
    fit = dgmm.train(x, K, "full", fixed="weights", weights_init=[0.6, 0.3, 0.1], stability=3, **settings)
    np.testing.assert_allclose(fit.mixture.weights, [0.6, 0.3, 0.1], rtol=1e-12)
    assert fit.stability is not None
    np.testing.assert_allclose(fit.stability.weights_se, 0.0, atol=1e-12)
    chosen = dgmm.select(x, [1, 2, 3], ["tied", "spherical"], fixed=["covariances"], **settings)
    assert all(f.fixed == ("covariances",) for f in chosen.fits)


def test_covariances_that_are_held_let_few_rows_be_a_component() -> None:
    """With an extent of its own a component of two rows means something, which it does not otherwise."""
    r = np.random.default_rng(0)
    x = np.concatenate([r.standard_normal((500, 2)), np.full((2, 2), 30.0)])
    means, weights = np.array([[0.0, 0.0], [30.0, 30.0]]), np.array([0.5, 0.5])
    given: dict[str, Any] = {"weights_init": weights, "means_init": means, "precisions_init": np.ones(2)}
    assert dgmm.train(x, 2, "spherical", **given).collapsed
    held = dgmm.train(x, 2, "spherical", fixed=["covariances"], reg_covar=0, **given)
    assert held.converged
    np.testing.assert_allclose(held.mixture.means, [x[:500].mean(axis=0), [30, 30]], atol=1e-9)


def test_it_is_stored_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = dgmm.train(data(), K, "diag", fixed=["weights", "means"])
    for name in ("a.zarr", "a.json"):
        dgmm.save(fit, tmp_path / name)
        again = dgmm.load(tmp_path / name)
        assert (again.fixed, again.n_parameters) == (("weights", "means"), K * D)
    zarr.save_array(str(tmp_path / "x.zarr"), data())
    out = str(tmp_path / "m.zarr")
    what = ["--k", "3", "--fixed", "covariances,weights", "--quiet"]
    assert main(["train", str(tmp_path / "x.zarr"), "--out", out, *what]) == 0
    assert "weights and covariances held fixed" in capsys.readouterr().out
    assert dgmm.load(out).fixed == ("weights", "covariances")


@pytest.mark.parametrize(
    ("fixed", "what"),
    [
        (["weights", "means", "covariances"], "leave out what is to be fitted"),
        (["mean"], "fixed"),
        ("weights,factors", "fixed"),
    ],
)
def test_what_cannot_be_held_is_refused(fixed: Any, what: str) -> None:
    with pytest.raises(dgmm.InputError, match=what):
        dgmm.train(data(100), 2, fixed=fixed)


def test_a_family_without_such_parts_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(FAMILIES["diag"]), "parts", ())
    with pytest.raises(dgmm.InputError, match="a diag mixture has no means to hold fixed: choose from weights"):
        dgmm.train(data(100), 2, "diag", fixed=["means"])
