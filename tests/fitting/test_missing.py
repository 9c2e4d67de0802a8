"""Rows of which values are missing: fitted by what they have, exactly; or left out, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from scipy.optimize import approx_fprime, minimize
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm
from sklearn.datasets import load_iris

import dgmm
from dgmm.data import open_samples
from dgmm.em import Ascent, climb
from dgmm.em.anderson import from_vector, to_vector
from dgmm.engine.workers import threads
from dgmm.errors import InputError
from dgmm.families import FAMILIES, GROUPS, get_family
from dgmm.fits import Training
from dgmm.fitting import passes_over
from dgmm.passes import Passes
from dgmm.search import Candidate, grounds_for
from dgmm.search.initialise import from_labels
from dgmm.search.sampled import SampleRows
from dgmm.types import FloatArray
from tests.journals import Stop, at_record, bits, n_records, stop, train, work

QUICK: dict[str, Any] = {"search": "starts", "n_init": 2}


def groups(n: int = 400, d: int = 3, share: float = 0.25) -> FloatArray:
    """Rows of two overlapping groups with values missing at random, and none without any."""
    r = np.random.default_rng(7)
    x = np.where(r.random((n, 1)) < 0.4, 0.0, 2.5) + r.standard_normal((n, d)) @ r.standard_normal((d, d))
    x[r.random(x.shape) < share] = np.nan
    return x[~np.isnan(x).all(axis=1)]


def observed(x: FloatArray, weights: FloatArray, means: FloatArray, covariances: FloatArray) -> float:
    """Log-likelihood of what is observed, pattern by pattern."""
    total, missing = 0.0, np.isnan(x)
    for pattern in np.unique(missing, axis=0):
        o, rows = ~pattern, x[(missing == pattern).all(axis=1)]
        parts = [
            np.log(w) + multivariate_normal(mean[o], s[np.ix_(o, o)], allow_singular=True).logpdf(rows[:, o])
            for w, mean, s in zip(weights, means, covariances, strict=True)
        ]
        total += float(logsumexp(parts, axis=0).sum())
    return total


def told(m: Any, x: FloatArray) -> float:
    covariances = np.array([m.family.covariance(m.components, k) for k in range(m.n_components)])
    return observed(x, m.weights, m.means, covariances)


def passes_and_starts(x: FloatArray, kinds: list[str], k: int) -> tuple[Passes, dict[str, Ascent]]:
    """Passes over rows, and plain climbs of each kind from the same labels."""
    options = Training(missing="marginalise", reg_covar=0)
    passes = passes_over(open_samples(x), threads(1), options)
    rows = SampleRows(passes.profile.sample.first(len(x)), passes.frame, 1)
    several = [Candidate(k, get_family(kind).name) for kind in kinds]
    grounds = grounds_for(several, rows.moments, passes.frame, 0.0, marginal=True)
    labels = np.arange(len(x)) % k
    found = {}
    for name, ground in grounds.items():
        start = from_labels(get_family(name), rows.filled, labels, k, ground)
        found[name] = Ascent(start, ground, acceleration="none", stop=lambda _: False)
    return passes, found


def test_one_normal_is_where_the_likelihood_of_what_is_observed_is_highest() -> None:
    x, d = groups(80), 3
    lower = np.tril_indices(d)

    def parameters(v: FloatArray) -> tuple[FloatArray, FloatArray]:
        factor = np.zeros((d, d))
        factor[lower] = v[d:]
        return v[:d], factor @ factor.T + 1e-12 * np.eye(d)

    def loss(v: FloatArray) -> float:
        mean, covariance = parameters(v)
        return -observed(x, np.ones(1), mean[None], covariance[None])

    start = np.concatenate([np.nanmean(x, axis=0), np.diag(np.nanstd(x, axis=0))[lower]])
    best = minimize(loss, start, method="BFGS", options={"gtol": 1e-6})
    passes, climbs = passes_and_starts(x, ["full", "tied"], 1)
    mean, covariance = parameters(best.x)
    for each in climbs.values():
        end = Ascent(each.proposal, each.ground, least_gain=1e-11)
        list(climb([end], passes.accumulate, 300))
        assert end.log_likelihood == pytest.approx(-best.fun, abs=1e-7)
        mixture = end.mixture.to_data(each.ground.frame)
        np.testing.assert_allclose(mixture.means[0], mean, atol=1e-4)
        np.testing.assert_allclose(mixture.family.covariance(mixture.components, 0), covariance, atol=2e-4)
    # a single component has no closed form here, and is not taken for one that is there after a step
    fit = dgmm.train(x, 1, missing="marginalise", reg_covar=0)
    assert fit.n_passes > 2
    assert -best.fun - 0.005 < fit.log_likelihood < -best.fun


def test_a_step_of_diagonal_components_is_that_of_the_textbook() -> None:
    x, k = groups(150), 2
    there, filled = ~np.isnan(x), np.nan_to_num(x)
    passes, climbs = passes_and_starts(x, ["diag"], k)
    climb_, frame = climbs["diag"], climbs["diag"].ground.frame
    before = climb_.mixture.to_data(frame)
    list(climb([climb_], passes.accumulate, 1))
    after = climb_.proposal.to_data(frame)
    w, mu, sd = before.weights, before.means, np.sqrt(before.covariances)
    joint = np.log(w) + np.stack([(norm.logpdf(filled, mu[j], sd[j]) * there).sum(axis=1) for j in range(k)], axis=1)
    assert climb_.log_likelihood == pytest.approx(logsumexp(joint, axis=1).sum(), rel=1e-12)
    r = np.exp(joint - logsumexp(joint, axis=1)[:, None])
    np.testing.assert_allclose(after.weights, r.mean(axis=0), rtol=1e-10)
    for j in range(k):
        values = np.where(there, filled, mu[j])
        mean = r[:, j] @ values / r[:, j].sum()
        spread = r[:, j] @ ((values - mean) ** 2 + np.where(there, 0.0, sd[j] ** 2)) / r[:, j].sum()
        np.testing.assert_allclose(after.means[j], mean, rtol=1e-9)
        np.testing.assert_allclose(after.covariances[j], spread, rtol=1e-9)


def test_every_structure_climbs_what_is_observed_and_ends_where_it_is_flat() -> None:
    x, k = groups(250), 2
    kinds = [*GROUPS["mclust"], "factors:1"]
    assert {get_family(kind).name for kind in kinds} >= {name for name, f in FAMILIES.items() if f.incomplete}
    passes, climbs = passes_and_starts(x, kinds, k)
    profile = passes.profile
    assert (profile.n_samples, profile.n_incomplete, profile.n_missing) == (len(x), np.isnan(x).any(axis=1).sum(), 0)
    list(climb([*climbs.values()], passes.accumulate, 12))
    for name, each in climbs.items():
        gains = np.diff(each.trajectory)
        assert gains.min() > -1e-9 * abs(each.log_likelihood), name
        assert gains.sum() > 1, name
        assert each.log_likelihood == pytest.approx(told(each.mixture.to_data(each.ground.frame), x), rel=1e-11), name
    ground = climbs["full"].ground
    end = Ascent(climbs["full"].mixture, ground, least_gain=1e-9)
    list(climb([end], passes.accumulate, 400))
    assert end.converged

    def likelihood(v: FloatArray) -> float:
        there = from_vector(v, end.mixture)
        assert there is not None
        return float(there.to_data(ground.frame).log_density(x, marginal=True).sum())

    begun, ended = (approx_fprime(to_vector(m), likelihood, 1e-6) for m in (climbs["full"].mixture, end.mixture))
    assert np.abs(begun).max() > 1
    assert np.abs(ended).max() < 1e-2


def test_rows_that_lack_nothing_are_fitted_to_the_same_bits() -> None:
    x = groups(300, share=0.0)
    a, b = (dgmm.train(x, 2, missing=missing, **QUICK) for missing in ("omit", "marginalise"))  # type: ignore[arg-type]
    assert a.mixture.means.tobytes() == b.mixture.means.tobytes()
    assert a.trajectory == b.trajectory
    assert dgmm.train(x, 2, missing="raise", **QUICK).trajectory == a.trajectory


def test_chunks_weights_and_what_is_held_out_do_not_matter_but_for_rounding(tmp_path: Path) -> None:
    x = groups(600)
    for n in (50, 600):
        zarr.create_array(str(tmp_path / f"{n}.zarr"), shape=x.shape, chunks=(n, 3), dtype="f8")[:] = x
    given = {"missing": "marginalise", "holdout": 0.2, "weights": np.full(len(x), 3.0), **QUICK}
    a, b = (dgmm.train(str(tmp_path / f"{n}.zarr"), 2, **given) for n in (50, 600))
    assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=1e-12)
    assert a.held_out == pytest.approx(b.held_out, rel=1e-12)
    np.testing.assert_allclose(a.mixture.means, b.mixture.means, rtol=1e-8)
    # those that judge are the others, and each of them is judged by what it has
    n = a.n_samples
    total = a.mixture.log_density(x, marginal=True).sum()
    assert total == pytest.approx(a.log_likelihood + a.held_out * (len(x) - n), rel=1e-10)


def test_iris_of_which_a_fifth_is_lost_is_found_again_better_than_by_complete_flowers() -> None:
    x, _ = load_iris(return_X_y=True)
    truth = dgmm.train(x, 3, "tied", **QUICK)
    errors = {}
    r = np.random.default_rng(0)
    z = np.where(r.random(x.shape) < 0.2, np.nan, x)
    for missing in ("omit", "marginalise"):
        fit = dgmm.train(z, 3, "tied", missing=missing, **QUICK)
        order = [int(np.abs(fit.mixture.means - mean).sum(axis=1).argmin()) for mean in truth.mixture.means]
        errors[missing] = np.abs(fit.mixture.means[order] - truth.mixture.means).mean()
    # 61 of the 150 lack nothing
    assert errors["marginalise"] < 0.7 * errors["omit"]


@pytest.mark.parametrize("records", [2, 5])
def test_a_fit_that_was_interrupted_goes_on_to_the_same_bits(records: int, tmp_path: Path) -> None:
    x = groups(900, d=2)
    array = zarr.create_array(str(tmp_path / "x.zarr"), shape=x.shape, chunks=(300, 2), dtype="f8")
    array[:] = x
    data = str(tmp_path / "x.zarr")
    job = train(data, tmp_path / "m", k=2, training={"missing": "marginalise"})
    whole = train(data, tmp_path / "whole", k=2, training={"missing": "marginalise"}, keep_journal=True)
    undisturbed = bits(work(whole))
    assert n_records(f"{tmp_path}/whole.journal") > 5
    with at_record(records, stop), pytest.raises(Stop):
        work(job)
    assert bits(work(job)) == undisturbed
    assert dgmm.load(tmp_path / "m").missing == "marginalise"
    with at_record(records, stop), pytest.raises(Stop):
        work(train(data, tmp_path / "n", k=2))
    with pytest.raises(Exception, match=r"training.missing was .omit., now .marginalise."):
        work(train(data, tmp_path / "n", k=2, training={"missing": "marginalise"}))


def test_what_is_missing_is_counted_or_refused() -> None:
    x = groups(200)
    x[5] = np.nan
    assert dgmm.train(x, 2, **QUICK).n_missing == np.isnan(x).any(axis=1).sum()
    fit = dgmm.train(x, 2, missing="marginalise", noise=True, prior="default", **QUICK)
    assert (fit.n_samples, fit.n_missing) == (len(x) - 1, 1)
    assert fit.bic == pytest.approx(-2 * fit.log_likelihood + fit.n_parameters * np.log(len(x) - 1))
    i, j = np.argwhere(np.isnan(x))[0]
    with pytest.raises(InputError, match=rf"feature '{j}' of ndarray is missing at sample \({i}\): leave"):
        dgmm.train(x, 2, missing="raise")
    with pytest.raises(InputError, match="cannot be marginalised in a t_full mixture: choose from full, tied"):
        dgmm.train(x, 2, "t_full", missing="marginalise")
    x[:, 1] = np.nan
    with pytest.raises(InputError, match="feature '1' of ndarray is missing in every sample: leave it out"):
        dgmm.train(x, 2, missing="marginalise")


@pytest.mark.parametrize("more", [{"assignment": "hard"}, {"labels": True}, {"stability": 2}, {"fixed": ["weights"]}])
def test_other_ways_to_fit_take_such_rows_too(more: dict[str, Any]) -> None:
    x = groups(300)
    if more.get("labels"):
        side = np.where(np.isnan(x[:, 0]), -1, x[:, 0] > 1)
        more = {"labels": side.astype(np.int64)}
    fit = dgmm.train(x, 2, "tied", missing="marginalise", **QUICK, **more)
    assert fit.outcome.is_sound
    assert fit.n_samples == len(x)
    if more.get("assignment") != "hard" and "labels" not in more:
        assert fit.log_likelihood == pytest.approx(told(fit.mixture, x), rel=1e-11)


def positive(n: int = 500) -> FloatArray:
    """Rows of three positive features in units of their own, with values missing at random."""
    return np.exp(0.3 * groups(n)) * [1.0, 1e4, 1e-3]


@pytest.mark.parametrize("scale", ["standard", "robust", "none"])
def test_features_are_scaled_by_what_there_is_of_them(scale: str, tmp_path: Path) -> None:
    """As by NumPy, feature by feature, and a fit to what comes of that; in blocks as in memory, and with logarithms."""
    x = positive()
    logged = np.where([True, True, False], np.log(x), x)
    shift, unit = np.zeros(3), np.ones(3)
    if scale == "standard":
        shift, unit = np.nanmean(logged, axis=0), np.nanstd(logged, axis=0)
    elif scale == "robust":
        low, shift, high = np.nanpercentile(logged, [25, 50, 75], axis=0)
        unit = high - low
    y = (logged - shift) / unit
    zarr.create_array(str(tmp_path / "x.zarr"), shape=x.shape, chunks=(120, 3), dtype="f8")[:] = x
    asked: dict[str, Any] = {"preprocess": {"scale": scale, "log": ["0", "1"]}, "missing": "marginalise", **QUICK}
    plain = dgmm.train(y, 2, missing="marginalise", **QUICK)
    for source in (x, str(tmp_path / "x.zarr")):
        fit = dgmm.train(source, 2, **asked)
        assert fit.mixture.transform is not None
        np.testing.assert_allclose(fit.mixture.transform(x), y, rtol=1e-10, atol=1e-12)
        assert (fit.n_samples, fit.n_missing) == (len(x), 0)
        assert fit.log_likelihood == pytest.approx(told(fit.mixture, y), rel=1e-8)
        np.testing.assert_allclose(fit.mixture.means, plain.mixture.means, rtol=1e-6, atol=1e-8)
        assert fit.log_likelihood == pytest.approx(plain.log_likelihood, rel=1e-9)
        np.testing.assert_allclose(
            fit.mixture.log_density(x, marginal=True), plain.mixture.log_density(y, marginal=True), rtol=1e-6, atol=1e-6
        )
    found = dgmm.score(fit, str(tmp_path / "x.zarr"), tmp_path / "s.zarr")
    np.testing.assert_allclose(found.log_density, fit.mixture.log_density(x, marginal=True), rtol=1e-9)
    dgmm.save(fit, tmp_path / "m.zarr")
    again = dgmm.score(tmp_path / "m.zarr", str(tmp_path / "x.zarr"), tmp_path / "t.zarr")
    np.testing.assert_array_equal(again.label, found.label)
    assert dgmm.verify(tmp_path / "t.zarr", recompute=1.0).is_sound


def test_weights_count_in_the_scales_of_what_is_there() -> None:
    x, twice = groups(300), np.arange(300) % 3 == 0
    asked: dict[str, Any] = {"preprocess": {"scale": "standard"}, "missing": "marginalise"}
    w = np.where(twice, 2.0, 1.0)[: len(x)]
    transform = dgmm.train(x, 1, weights=w, **asked).mixture.transform
    repeated = np.repeat(x, w.astype(int), axis=0)
    assert transform is not None
    np.testing.assert_allclose(transform.shift, np.nanmean(repeated, axis=0), rtol=1e-12)
    np.testing.assert_allclose(transform.matrix, 1 / np.nanstd(repeated, axis=0), rtol=1e-12)
    robust = dgmm.train(x, 1, weights=w, preprocess={"scale": "robust"}, missing="marginalise").mixture.transform
    low, median, high = np.nanquantile(repeated, [0.25, 0.5, 0.75], axis=0, method="inverted_cdf")
    assert robust is not None
    np.testing.assert_allclose(robust.shift, median, rtol=1e-12)
    np.testing.assert_allclose(robust.matrix, 1 / (high - low), rtol=1e-12)


def test_what_is_missing_is_filled_in_through_scales(tmp_path: Path) -> None:
    """By the conditional normal in the data's units, to which scales make no difference; logarithms are drawn."""
    x = groups(400)
    asked: dict[str, Any] = {"missing": "marginalise"}
    fit = dgmm.train(x, 1, preprocess={"scale": "standard"}, **asked)
    (mean,), covariance = fit.mixture.physical_means, fit.mixture.physical_covariance(0)
    found = dgmm.predict(fit, x, tmp_path / "p.zarr", impute="mean")["data"].values
    for row, made in zip(x, found, strict=True):
        o = ~np.isnan(row)
        expected = mean + covariance[:, o] @ np.linalg.solve(covariance[np.ix_(o, o)], row[o] - mean[o])
        np.testing.assert_allclose(made, np.where(o, row, expected), rtol=1e-9)
    assert found[~np.isnan(x)].tobytes() == x[~np.isnan(x)].tobytes()
    p = positive()
    logs = dgmm.train(p, 1, preprocess={"log": ["0", "1", "2"]}, **asked)
    drawn = dgmm.predict(logs, p, tmp_path / "d.zarr", impute="draw")["data"].values
    plain = dgmm.train(np.log(p), 1, **asked)
    expected = np.exp(dgmm.predict(plain, np.log(p), tmp_path / "e.zarr", impute="draw")["data"].values)
    np.testing.assert_allclose(drawn, expected, rtol=1e-6)
    with pytest.raises(InputError, match=r"expected of logarithms .* \(impute: draw\)"):
        dgmm.predict(logs, p, tmp_path / "q.zarr", impute="mean")


def test_an_estimator_scales_what_there_is() -> None:
    x = groups(300)
    y = (x - np.nanmean(x, axis=0)) / np.nanstd(x, axis=0)
    how: dict[str, Any] = {"missing": "marginalise", "random_state": 0}
    scaled = dgmm.GaussianMixture(2, preprocess={"scale": "standard"}, **how).fit(x)
    plain = dgmm.GaussianMixture(2, **how).fit(y)
    np.testing.assert_allclose(scaled.means_, plain.means_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(scaled.score_samples(x), plain.score_samples(y), rtol=1e-6, atol=1e-6)
    assert (scaled.predict(x) == plain.predict(y)).all()


def test_what_cannot_be_preprocessed_piece_by_piece_is_refused(tmp_path: Path) -> None:
    x = positive()
    how: dict[str, Any] = {"missing": "marginalise", **QUICK}
    with pytest.raises(InputError, match="principal components need all values of a sample: leave pca out"):
        dgmm.train(x, 2, preprocess={"pca": 2}, **how)
    complete = dgmm.train(x, 2, preprocess={"pca": 2}, **QUICK)
    with pytest.raises(InputError, match="principal components need all values of a sample"):
        dgmm.train(x, 2, start=complete, **how)
    with pytest.raises(InputError, match="principal components need all values of a sample"):
        dgmm.score(complete, x, tmp_path / "s.zarr", missing="marginalise")
    with pytest.raises(InputError, match="principal components need all values of a sample"):
        dgmm.predict(complete, x, tmp_path / "p.zarr", impute="draw")
    i = int(np.flatnonzero(np.isnan(x[:, 0]) & ~np.isnan(x[:, 1]))[0])
    x[i, 1] = -2.5
    with pytest.raises(InputError, match=r"feature '1' is -2\.5 in a sample, which has no logarithm"):
        dgmm.train(x, 2, preprocess={"log": ["1"]}, **how)
    assert dgmm.train(x, 2, preprocess={"log": ["1"]}, **QUICK).n_samples == int((~np.isnan(x).any(axis=1)).sum())
    x[:, 0] = np.where(np.arange(len(x)) == 3, 1.0, np.nan)
    with pytest.raises(InputError, match=r"feature '0' is missing in all rows of the sample, .* \(sample_rows\)"):
        dgmm.train(x, 2, preprocess={"scale": "robust"}, sample_rows=2, **how)
