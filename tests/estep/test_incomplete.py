"""Rows of which values are missing: densities and sums against conditional normals written down one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

from dgmm.estep import accumulate, by_pattern, completed, make_plan, unpack, usable_rows
from dgmm.estep import incomplete as incomplete_
from dgmm.families import NOISE, Noise, SufficientStatistics, get_family, make_frame
from dgmm.mixture import Mixture
from dgmm.rows import Rows
from dgmm.types import FloatArray

K, D, N = 3, 4, 120
LOG_2PI = np.log(2 * np.pi)


def mixture(name: str, narrow: bool = False) -> Mixture:
    """Of three components of any shape; one of them is a sheet, if asked for."""
    r = np.random.default_rng(3)
    a = r.standard_normal((K, D, D))
    covariances = a @ np.swapaxes(a, 1, 2) + 0.2 * np.eye(D)
    if narrow:
        covariances[0] = np.diag([1e-13, 1.0, 2.0, 0.5])
    family = get_family(name)
    diagonals = np.diagonal(covariances, axis1=1, axis2=2)
    shapes = {(K, D, D): covariances, (D, D): covariances[1], (K, D): diagonals, (K,): diagonals[:, 0]}
    its = shapes[family.covariance_shape(K, D)]  # type: ignore[attr-defined]
    return Mixture.gaussian(name, np.array([0.2, 0.5, 0.3]), 50 + 2 * r.standard_normal((K, D)), its)


def rows(m: Mixture, share: float = 0.4) -> FloatArray:
    r = np.random.default_rng(5)
    x, _ = m.sample(N, r)
    x[r.random(x.shape) < share] = np.nan
    return x[~np.isnan(x).all(axis=1)]


def log_normal(x: FloatArray, mean: FloatArray, covariance: FloatArray) -> float:
    """Log density of a normal distribution."""
    factor = np.linalg.cholesky(covariance)
    z = solve_triangular(factor, x - mean, lower=True)
    return float(-0.5 * z @ z - np.log(np.diag(factor)).sum() - 0.5 * len(x) * LOG_2PI)


def told(m: Mixture, x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Joint log densities (n, K), conditional means (n, K, d) and covariances (n, K, d, d)."""
    joint, means, covariances = np.empty((len(x), K)), np.empty((len(x), K, D)), np.empty((len(x), K, D, D))
    for i, row in enumerate(x):
        o, gone = np.flatnonzero(~np.isnan(row)), np.flatnonzero(np.isnan(row))
        for k in range(K):
            mean, s = m.means[k], m.family.covariance(m.components, k)
            joint[i, k] = np.log(m.weights[k]) + log_normal(row[o], mean[o], s[np.ix_(o, o)])
            slopes = s[np.ix_(gone, o)] @ np.linalg.inv(s[np.ix_(o, o)])
            full, left = row.copy(), np.zeros((D, D))
            full[gone] = mean[gone] + slopes @ (row[o] - mean[o])
            left[np.ix_(gone, gone)] = s[np.ix_(gone, gone)] - slopes @ s[np.ix_(o, gone)]
            means[i, k], covariances[i, k] = full, left
    return joint, means, covariances


def expected_features(m: Mixture, x: FloatArray, shares: FloatArray, frame: object) -> FloatArray:
    """Sums of 1, y and y y' in a frame, shape (K, 1 + d + d d)."""
    _, means, left = told(m, x)
    forward = frame.forward if frame.forward.ndim == 2 else np.diag(frame.forward)  # type: ignore[attr-defined]
    origin = frame.origin  # type: ignore[attr-defined]
    y = (means - origin) @ forward.T
    second = y[..., :, None] * y[..., None, :] + forward @ left @ forward.T
    parts = [shares.sum(axis=0)[:, None], np.einsum("nk,nkd->kd", shares, y)]
    return np.hstack([*parts, np.einsum("nk,nkij->kij", shares, second).reshape(K, -1)])


def statistics_of(
    m: Mixture, x: FloatArray, weights: FloatArray | None = None
) -> tuple[SufficientStatistics, object, FloatArray]:
    """Statistics in the frame of the data, with that and the weights."""
    frame = make_frame(m.family.frame, m.means.mean(axis=0), 4 * np.eye(D))
    plan = make_plan([m.to_frame(frame)], {m.family.frame: frame}, marginal=True)
    (found,) = unpack(accumulate(Rows(x, weights), plan), plan)
    return found, frame, np.ones(len(x)) if weights is None else weights


@pytest.mark.parametrize("name", ["full", "tied", "diag", "spherical"])
def test_sums_are_those_of_conditional_normals(name: str) -> None:
    m, w = mixture(name), np.random.default_rng(1).uniform(0.5, 2, N)
    x = rows(m)
    found, frame, weights = statistics_of(m, x, w[: len(x)])
    joint, _, _ = told(m, x)
    total = logsumexp(joint, axis=1)
    shares = np.exp(joint - total[:, None])
    assert found.log_likelihood == pytest.approx(weights @ total, rel=1e-12)
    expected = expected_features(m, x, shares * weights[:, None], frame)
    second = expected[:, 1 + D :].reshape(K, D, D)
    i, j = np.triu_indices(D, 1)
    every = np.hstack([expected[:, : 1 + D], np.diagonal(second, axis1=1, axis2=2), second[:, i, j]])
    np.testing.assert_allclose(found.sums, every[:, : found.sums.shape[1]], rtol=1e-9, atol=1e-9 * len(x))
    entropy = -(weights[:, None] * shares * np.log(np.maximum(shares, 1e-300))).sum()
    assert found.entropy == pytest.approx(entropy, rel=1e-9)
    np.testing.assert_allclose(found.squares, (weights[:, None] ** 2 * shares).sum(axis=0), rtol=1e-10)


def test_a_narrow_component_has_its_sums_in_coordinates_of_its_own() -> None:
    m = mixture("full", narrow=True)
    x = rows(m)
    found, frame, _ = statistics_of(m, x)
    assert found.local.tolist() == [True, False, False]
    own = m.to_frame(frame)  # type: ignore[arg-type]
    own_frames = own.family.local_frames(own.components)
    joint, means, left = told(m, x)
    shares = np.exp(joint - logsumexp(joint, axis=1)[:, None])[:, 0]
    forward = own_frames.forwards[0] @ frame.forward  # type: ignore[attr-defined]
    u = (means[:, 0] - m.means[0]) @ forward.T
    np.testing.assert_allclose(found.sums[0, 1 : D + 1], shares @ u, rtol=1e-6, atol=1e-6)
    second = np.einsum("n,nij->ij", shares, u[:, :, None] * u[:, None] + forward @ left[:, 0] @ forward.T)
    np.testing.assert_allclose(found.sums[0, D + 1 : 2 * D + 1], np.diag(second), rtol=1e-5)


@pytest.mark.parametrize("name", ["full", "diag"])
def test_labels_hard_assignments_and_noise_are_those_of_the_densities(name: str) -> None:
    m = mixture(name)
    x, low, high = rows(m), m.means.min(axis=0) - 9, m.means.max(axis=0) + 9
    joint, _, _ = told(m, x)
    noise = Noise.between(0.3, low, high)
    of_noise = np.log(0.3) - (~np.isnan(x) * np.log(high - low)).sum(axis=1)
    every = np.column_stack([joint + np.log(0.7), of_noise])
    beside = m.beside(noise)
    np.testing.assert_allclose(beside.log_density(x, marginal=True), logsumexp(every, axis=1), rtol=1e-11)
    found, _, _ = statistics_of(beside, x)
    assert found.noise == pytest.approx(np.exp(of_noise - logsumexp(every, axis=1)).sum(), rel=1e-10)
    plan = replace(m.density_plan(marginal=True), sharing=replace(m.density_plan().sharing, hard=True))
    hard = accumulate(Rows(x), plan)
    assert hard.log_likelihoods[0] == pytest.approx(joint.max(axis=1).sum(), rel=1e-12)
    labels = np.where(np.arange(len(x)) % 2, 1, NOISE)
    known = accumulate(Rows(x, labels=labels), m.density_plan(marginal=True))
    each = np.where(labels == 1, joint[:, 1], logsumexp(joint, axis=1))
    assert known.log_likelihoods[0] == pytest.approx(each.sum(), rel=1e-12)


def test_neither_the_order_of_rows_nor_what_is_taken_together_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    m = mixture("full")
    x = np.concatenate([rows(m), rows(m, share=0.0)])
    plan, order = m.density_plan(marginal=True), by_pattern(x)
    assert order is not None
    assert by_pattern(x[order]) is None
    assert np.isnan(x[order]).any(axis=1).tolist() == sorted(np.isnan(x).any(axis=1))
    whole = accumulate(Rows(x), plan)
    monkeypatch.setattr(incomplete_, "PIECE", 7)
    monkeypatch.setattr(incomplete_, "SLICE", 200)
    for again in (accumulate(Rows(x), plan), accumulate(Rows(x[order]), plan)):
        np.testing.assert_allclose(again.log_likelihoods, whole.log_likelihoods, rtol=1e-13)
        np.testing.assert_allclose(again.sums[0], whole.sums[0], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(again.lost, whole.lost, rtol=1e-11)


def test_more_features_than_a_word_has_bits_are_sorted_too() -> None:
    r = np.random.default_rng(0)
    x = np.where(r.random((60, 70)) < 0.5, np.nan, 1.0)[r.integers(0, 60, 200)]
    order = by_pattern(x)
    assert order is not None
    missing = np.isnan(x[order])
    runs = 1 + (missing[1:] != missing[:-1]).any(axis=1).sum()
    assert runs == len(np.unique(missing, axis=0))


def test_complete_rows_have_the_bits_that_they_have_without() -> None:
    m = mixture("full")
    x = rows(m, share=0.0)
    a, b = (accumulate(Rows(x), m.density_plan(marginal=marginal)) for marginal in (False, True))
    assert a.sums[0].tobytes() == b.sums[0].tobytes()
    assert a.log_likelihoods.tobytes() == b.log_likelihoods.tobytes()
    assert m.density_plan().digest != m.density_plan(marginal=True).digest


def test_rows_with_any_value_can_be_used() -> None:
    x = np.array([[1.0, 2.0], [np.nan, 2.0], [np.nan, np.nan]])
    assert usable_rows(x, marginal=False).tolist() == [True, False, False]  # type: ignore[union-attr]
    assert usable_rows(x, marginal=True).tolist() == [True, True, False]  # type: ignore[union-attr]
    assert usable_rows(x[:2], marginal=True) is None


@pytest.mark.parametrize("name", ["full", "diag"])
def test_what_is_missing_is_expected_or_drawn(name: str) -> None:
    m = mixture(name)
    x, plan = rows(m), m.density_plan(marginal=True)
    joint, means, left = told(m, x)
    shares = np.exp(joint - logsumexp(joint, axis=1)[:, None])
    mean = np.einsum("nk,nkd->nd", shares, means)
    found, there = completed(x, plan), ~np.isnan(x)
    np.testing.assert_allclose(found, mean, rtol=1e-10)
    assert found[there].tobytes() == x[there].tobytes()
    # draws of one row have the moments of its conditional mixture
    r, n, i = np.random.default_rng(0), 20_000, int(np.flatnonzero((~there).sum(axis=1) == 2)[0])
    many = completed(np.tile(x[i], (n, 1)), plan, (r.random(n), r.standard_normal((n, D))))
    away = means[i] - mean[i]
    covariance = np.einsum("k,kij->ij", shares[i], left[i] + away[:, :, None] * away[:, None])
    gone = np.flatnonzero(~there[i])
    error = np.sqrt(np.diag(covariance)[gone] / n)
    assert (np.abs(many.mean(axis=0) - mean[i])[gone] < 5 * error).all()
    np.testing.assert_allclose(np.cov(many.T)[np.ix_(gone, gone)], covariance[np.ix_(gone, gone)], rtol=0.1, atol=0.05)
    assert (many[:, there[i]] == x[i, there[i]]).all()
