"""Hard assignments: k-means where it is that, the classification likelihood, and an end where nothing changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from scipy.stats import multivariate_normal
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris

import dgmm
from dgmm.cli import main
from dgmm.estep import Compiled, Plain, Sharing, make_plan, unpack
from dgmm.estep import plan as planning
from dgmm.families import make_frame
from dgmm.mixture import Mixture
from dgmm.rows import Rows

K = 4


def data(n: int = 800, d: int = 3, seed: int = 0) -> np.ndarray:
    r = np.random.default_rng(seed)
    centres = 2.5 * r.standard_normal((K, d))
    return centres[r.integers(K, size=n)] + r.standard_normal((n, d))


def as_kmeans(x: np.ndarray, means: np.ndarray, **settings: Any) -> dgmm.Fit:
    """Equal weights and one common spherical covariance, both held: Lloyd's algorithm."""
    k = len(means)
    return dgmm.train(
        x, k, "spherical", assignment="hard", fixed=["weights", "covariances"], weights_init=np.full(k, 1 / k),
        means_init=means, precisions_init=np.ones(k), **settings,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_it_is_k_means(seed: int) -> None:
    x = data(seed=seed)
    start = np.random.default_rng(seed).permutation(x)[:K]
    theirs = KMeans(K, init=start, n_init=1, tol=0, max_iter=1000, algorithm="lloyd").fit(x)
    fit = as_kmeans(x, start)
    assert fit.converged
    labels = fit.mixture.responsibilities(x).argmax(axis=1)
    pairs = np.unique(np.stack([labels, theirs.labels_]), axis=1)
    assert pairs.shape[1] == K, "the same partition"
    np.testing.assert_allclose(fit.mixture.means[pairs[0]], theirs.cluster_centers_[pairs[1]], rtol=1e-9, atol=1e-9)
    # the classification likelihood is the inertia in nats
    constant = -len(x) * (np.log(K) + 1.5 * np.log(2 * np.pi))
    assert fit.log_likelihood == pytest.approx(constant - theirs.inertia_ / 2, rel=1e-11)
    assert fit.n_parameters == 3 * K


def classification(mixture: Mixture, x: np.ndarray) -> np.ndarray:
    """``log w_k p(x | k)`` by SciPy, shape (n, K)."""
    family, k = mixture.family, mixture.n_components
    normals = [multivariate_normal(mixture.means[j], family.covariance(mixture.components, j)) for j in range(k)]
    return np.stack([np.log(w) + p.logpdf(x) for w, p in zip(mixture.weights, normals, strict=True)], axis=1)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_it_ends_where_the_parts_are_those_of_their_own_estimates(kind: str) -> None:
    x = np.asarray(load_iris().data)
    fit = dgmm.train(x, 3, kind, assignment="hard", reg_covar=0)
    assert fit.converged
    assert fit.remaining_gain == 0
    joint = classification(fit.mixture, x)
    labels = joint.argmax(axis=1)
    assert fit.log_likelihood == pytest.approx(joint.max(axis=1).sum(), rel=1e-10)
    np.testing.assert_allclose(fit.mixture.weights, np.bincount(labels) / len(x), rtol=1e-12)
    np.testing.assert_allclose(fit.mixture.means, [x[labels == j].mean(axis=0) for j in range(3)], rtol=1e-10)
    own = np.array([np.cov(x[labels == j].T, bias=True) for j in range(3)])
    expected = {
        "full": own,
        "tied": np.einsum("k,kij->ij", fit.mixture.weights, own),
        "diag": np.diagonal(own, axis1=1, axis2=2),
        "spherical": np.trace(own, axis1=1, axis2=2) / 4,
    }[kind]
    np.testing.assert_allclose(fit.mixture.covariances, expected, rtol=1e-8, atol=1e-12)
    assert (np.diff(fit.trajectory) >= -1e-9).all()


def test_it_is_another_fit_than_soft_and_bic_is_icl() -> None:
    x = data()
    soft, hard = (dgmm.train(x, K, "full", search="starts", assignment=a) for a in ("soft", "hard"))
    assert hard.log_likelihood < soft.log_likelihood
    # nothing has a higher classification likelihood than what was looked for by it
    assert hard.log_likelihood > classification(soft.mixture, x).max(axis=1).sum()
    assert hard.entropy == pytest.approx(0, abs=1e-6)
    assert hard.bic == pytest.approx(hard.icl, abs=1e-5)
    assert hard.bic == pytest.approx(-2 * hard.log_likelihood + hard.n_parameters * np.log(len(x)))


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("backend", [Compiled(), Plain()], ids=lambda b: b.name)
def test_both_back_ends_share_out_by_the_largest(
    backend: Any, weighted: bool, narrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if narrow:
        monkeypatch.setattr(planning, "TOLERATED_ERROR", 0.0)
    x, r = data(700), np.random.default_rng(1)
    w = r.uniform(0.5, 1.5, len(x)) if weighted else None
    mixtures = [
        Mixture.gaussian("full", np.ones(K) / K, x[:K], np.tile(np.eye(3), (K, 1, 1))),
        Mixture.gaussian("diag", np.ones(2) / 2, x[:2], np.ones((2, 3))),
    ]
    frames = {m.family.frame: make_frame(m.family.frame, x.mean(axis=0), np.cov(x.T)) for m in mixtures}
    plan = make_plan([m.to_frame(frames[m.family.frame]) for m in mixtures], frames, sharing=Sharing(hard=True))
    found = unpack(backend.accumulate(Rows(x, w), plan), plan)
    w = np.ones(len(x)) if w is None else w
    for statistics, mixture in zip(found, mixtures, strict=True):
        joint = classification(mixture, x)
        labels = joint.argmax(axis=1)
        assert statistics.log_likelihood == pytest.approx(w @ joint.max(axis=1), rel=1e-11)
        np.testing.assert_allclose(statistics.sums[:, 0], np.bincount(labels, w, mixture.n_components), rtol=1e-12)
        assert statistics.entropy == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("backend", [Compiled(), Plain()], ids=lambda b: b.name)
def test_of_equals_the_first_has_it(backend: Any) -> None:
    x = data(50)
    twins = Mixture.gaussian("diag", np.ones(3) / 3, np.zeros((3, 3)), np.ones((3, 3)))
    frames = {"isotropic": make_frame("isotropic", x.mean(axis=0), np.cov(x.T))}
    plan = make_plan([twins.to_frame(frames["isotropic"])], frames, sharing=Sharing(hard=True))
    (statistics,) = unpack(backend.accumulate(Rows(x), plan), plan)
    np.testing.assert_array_equal(statistics.sums[:, 0], [50, 0, 0])


def test_plans_that_share_out_otherwise_have_another_name() -> None:
    x = data(50)
    mixture = Mixture.gaussian("diag", np.ones(2) / 2, x[:2], np.ones((2, 3)))
    frames = {"isotropic": make_frame("isotropic", np.zeros(3), np.eye(3))}
    plans = [make_plan([mixture], frames, sharing=s) for s in (Sharing(), Sharing(hard=True), Sharing(n_classes=2))]
    assert len({plan.digest for plan in plans}) == 3
    assert all(plan.as_density.digest == plans[0].digest for plan in plans)


def test_an_empty_component_has_collapsed() -> None:
    x = data(200)
    fit = as_kmeans(x, np.concatenate([x[: K - 1], [[1e3, 1e3, 1e3]]]))
    assert len(fit.collapsed) == 1
    assert "component" in fit.reason


def test_rows_that_judge_are_judged_by_their_density() -> None:
    apart = []
    for seed in range(8):
        x = data(2000, seed=seed)
        soft, hard = (dgmm.train(x, K, "full", assignment=a, holdout=0.3) for a in ("soft", "hard"))
        assert soft.held_out is not None
        assert hard.held_out is not None
        apart.append(hard.held_out - soft.held_out)
    # the mean log density of some 600 rows each: that of a classification would be lower by the entropy, 0.1
    assert np.mean(apart) == pytest.approx(0.0, abs=0.02)
    assert hard.judged is not None
    assert hard.held_out == pytest.approx(hard.judged.mean, rel=1e-9)


def test_chunks_and_workers_change_no_assignment(tmp_path: Path) -> None:
    x = data(1200)
    zarr.create_array(str(tmp_path / "x.zarr"), data=x, chunks=(170, 3))
    start = x[:K]
    whole, parts = as_kmeans(x, start), as_kmeans(str(tmp_path / "x.zarr"), start)  # type: ignore[arg-type]
    np.testing.assert_allclose(parts.mixture.means, whole.mixture.means, rtol=1e-10)
    assert parts.n_passes == whole.n_passes


def test_a_selection_goes_by_icl_and_it_is_stored_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = data(800) + 20 * np.eye(K)[np.arange(800) % K, :3]
    chosen = dgmm.select(x, range(1, 7), ["spherical"], assignment="hard")
    assert chosen.best.n_components > 2
    best = chosen.table.iloc[0]
    assert best["bic"] == pytest.approx(best["icl"], rel=1e-9)
    zarr.save_array(str(tmp_path / "x.zarr"), x)
    out = str(tmp_path / "m.zarr")
    assert main(["train", str(tmp_path / "x.zarr"), "--k", "4", "--out", out, "--assignment", "hard", "--quiet"]) == 0
    assert "classification log-likelihood" in capsys.readouterr().out
    assert dgmm.load(out).assignment == "hard"
    with pytest.raises(dgmm.InputError, match="assignment"):
        dgmm.train(x, 2, assignment="firm")  # type: ignore[arg-type]


def test_a_path_of_hard_steps_is_that_of_k_means() -> None:
    x = data(300)
    start = Mixture.gaussian("spherical", np.full(K, 1 / K), x[:K], np.ones(K))
    path = dgmm.em_path(x, start, 3, assignment="hard", fixed=["weights", "covariances"])
    means = x[:K]
    for mixture in path[1:]:
        labels = ((x[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
        means = np.array([x[labels == j].mean(axis=0) for j in range(K)])
        np.testing.assert_allclose(mixture.means, means, rtol=1e-10)
