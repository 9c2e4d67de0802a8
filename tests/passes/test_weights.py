"""Weights of the samples: as often as they say, in every sum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import Client
from scipy.special import logsumexp
from scipy.stats import kstest, multivariate_normal

import dgmm
from dgmm.config import Train
from dgmm.data import open_samples
from dgmm.datasets import ocean_temperature
from dgmm.engine.workers import of_client, threads
from dgmm.errors import InputError
from dgmm.estep import Plain, accumulate, make_plan
from dgmm.families import Moments, SufficientStatistics, make_frame
from dgmm.fits import Training
from dgmm.fitting import passes_over
from dgmm.mixture import Mixture
from dgmm.passes import Sample, row_hashes
from dgmm.passes.sample import is_held_out, sample_keys
from dgmm.pipeline import run_train
from dgmm.rows import Rows

KINDS = ["full", "tied", "diag", "spherical"]
COVARIANCES: dict[str, Any] = {
    "full": [np.diag([2.0, 1.0]), [[1.0, 0.3], [0.3, 0.5]], np.eye(2)],
    "tied": [[1.0, 0.3], [0.3, 0.5]],
    "diag": [[2.0, 1.0], [1.0, 0.5], [1.0, 1.0]],
    "spherical": [1.5, 0.7, 1.0],
}


def mixture_of(kind: str, apart: float = 1.0) -> Mixture:
    means = apart * np.array([[0.0, 0.0], [9.0, 1.0], [4.0, 12.0]])
    return Mixture.gaussian(kind, [0.5, 0.3, 0.2], means, COVARIANCES[kind])


def weights_for(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(0.5, size=n) + 1e-3


@pytest.mark.parametrize("apart", [0.1, 1.0, 30.0])  # 30: most responsibilities are zero, and not multiplied
@pytest.mark.parametrize("kinds", [["full"], ["tied", "full"], ["diag", "spherical"]])
def test_the_compiled_e_step_weighs_as_the_plain_one(blobs: np.ndarray, kinds: list[str], apart: float) -> None:
    x, weights = apart * blobs, weights_for(len(blobs))
    moments = Moments.of(x, weights)
    frames = {kind: make_frame(kind, moments.mean, moments.covariance) for kind in ("whitening", "isotropic")}
    single = Mixture.gaussian("full", [1.0], [[1.0, 2.0]], [np.eye(2)])
    mixtures = [m.to_frame(frames[m.family.frame]) for m in (*(mixture_of(kind, apart) for kind in kinds), single)]
    plan = make_plan(mixtures, frames)
    a, b = accumulate(Rows(x, weights), plan), Plain().accumulate(Rows(x, weights), plan)
    np.testing.assert_allclose(a.log_likelihoods, b.log_likelihoods, rtol=1e-12)
    np.testing.assert_allclose(a.squares, b.squares, rtol=1e-11, atol=1e-11 * weights.max())
    np.testing.assert_allclose(a.count, weights.sum(), rtol=1e-14)
    assert a.count == b.count
    for ours, theirs in zip(a.sums, b.sums, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10 * np.abs(theirs).max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cluster", [False, True])
def test_a_pass_is_that_of_scipy(blobs: np.ndarray, kind: str, cluster: bool, client: Client) -> None:
    """Statistics of the weighted rows, from SciPy's densities, with weights of mean one."""
    raw = 1e-9 * weights_for(len(blobs))
    raw[::7] = 0.0
    source = da.from_array(np.array(blobs), chunks=(100, 2))
    passes = passes_over(
        open_samples(source, weights=da.from_array(raw, chunks=50)), of_client(client) if cluster else threads(2)
    )
    used = raw > 0
    x, w = blobs[used], raw[used] / raw[used].mean()
    mixture = mixture_of(kind)
    frame = passes.frame(mixture.family.frame)
    (found,) = passes.accumulate([mixture.to_frame(frame)])
    shared = mixture.family.shared_log_likelihood(
        mixture.to_frame(frame).components, passes.profile.moments.in_frame(frame)
    )
    full = [np.eye(2) * c if np.ndim(c) == 0 else np.diag(c) if np.ndim(c) == 1 else c for c in COVARIANCES[kind]]
    if kind == "tied":
        full = [COVARIANCES[kind]] * 3
    joint = np.stack(
        [
            multivariate_normal(m, c).logpdf(x) + np.log(p)
            for m, c, p in zip(mixture.means, full, mixture.weights, strict=True)
        ]
    )
    density = logsumexp(joint, axis=0)
    r = w * np.exp(joint - density)
    assert (passes.profile.n_samples, passes.profile.n_missing) == (used.sum(), (~used).sum())
    np.testing.assert_allclose(passes.profile.moments.count, used.sum(), rtol=1e-12)
    np.testing.assert_allclose(passes.profile.moments.mean, np.average(x, axis=0, weights=w), rtol=1e-12)
    np.testing.assert_allclose(passes.profile.moments.covariance, np.cov(x.T, aweights=w, ddof=0), rtol=1e-10)
    np.testing.assert_allclose(found.log_likelihood + shared, w @ density, rtol=1e-12)
    np.testing.assert_allclose(found.sums[:, 0], r.sum(axis=1), rtol=1e-10)
    np.testing.assert_allclose(found.sums[:, 1:3], r @ frame.to_frame((x - frame.origin).T).T, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.squares, (w * r).sum(axis=1), rtol=1e-10)
    np.testing.assert_allclose(found.effective_shares, r.sum(axis=1) / (w * r).sum(axis=1), rtol=1e-9)
    responsibilities = r / w
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(responsibilities > 0, responsibilities * np.log(responsibilities), 0.0)
    np.testing.assert_allclose(found.entropy, -(w * terms).sum(), atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("accelerate", ["anderson", "none"])
def test_a_weight_of_two_is_the_row_twice_and_of_zero_none(blobs: np.ndarray, kind: str, accelerate: str) -> None:
    times = np.random.default_rng(1).integers(0, 4, len(blobs))
    given = {"means_init": [[0.0, 0.0], [9.0, 1.0], [4.0, 12.0]], "accelerate": accelerate}
    weighted = dgmm.train(blobs, 3, kind, weights=times.astype(float), **given)
    repeated = dgmm.train(np.repeat(blobs, times, axis=0), 3, kind, **given)
    assert (weighted.n_samples, weighted.n_missing) == ((times > 0).sum(), (times == 0).sum())
    np.testing.assert_allclose(
        weighted.log_likelihood / weighted.n_samples, repeated.log_likelihood / times.sum(), rtol=1e-6
    )
    np.testing.assert_allclose(weighted.mixture.means, repeated.mixture.means, atol=1e-3)
    np.testing.assert_allclose(weighted.mixture.weights, repeated.mixture.weights, atol=1e-4)
    np.testing.assert_allclose(weighted.mixture.covariances, repeated.mixture.covariances, rtol=1e-2, atol=1e-3)


def test_only_the_ratios_matter(blobs: np.ndarray) -> None:
    w = weights_for(len(blobs))
    small, large = (dgmm.train(blobs, 3, weights=scale * w) for scale in (2.0**-40, 2.0**30))
    assert small.log_likelihood == large.log_likelihood
    np.testing.assert_array_equal(small.mixture.means, large.mixture.means)
    assert small.bic == large.bic
    assert small.bic != dgmm.train(blobs, 3).bic


def test_held_out_rows_are_weighted(blobs: np.ndarray) -> None:
    w = weights_for(len(blobs))
    fit = dgmm.train(blobs, 3, weights=w, holdout=0.3)
    out = is_held_out(np.arange(len(blobs), dtype=np.uint64), 0, 0.3)
    assert fit.n_samples == (~out).sum()
    np.testing.assert_allclose(fit.held_out, np.average(fit.mixture.log_density(blobs[out]), weights=w[out]), rtol=1e-9)


@pytest.mark.parametrize("limit", [50, 300, 600])
def test_the_sample_stands_for_the_weighted_data(limit: int) -> None:
    """Averages over many weighted samples are those of all the data, however many of the rows they hold."""
    generator = np.random.default_rng(0)
    x, w = generator.normal(size=(600, 1)), generator.gamma(0.3, size=600) + 1e-3
    x += 0.3 * np.log(w[:, None])
    found = []
    for seed in range(400):
        keys = sample_keys(row_hashes(np.arange(600, dtype=np.uint64), seed), w)
        halves = [Sample.of(keys[a:b], Rows(x[a:b], w[a:b]), limit) for a, b in ((0, 200), (200, 600))]
        rows = halves[0].merge(halves[1]).ordered().first(limit)
        assert rows.weights is not None
        assert len(rows) == limit
        np.testing.assert_allclose(rows.weights.mean(), 1.0)
        found.append(np.average(rows.x[:, 0], weights=rows.weights))
    error = np.std(found) / np.sqrt(len(found))
    wanted = np.average(x[:, 0], weights=w)
    assert abs(np.mean(found) - wanted) < 4 * error + 1e-12 + 0.02 * (limit == 50)  # a ratio is biased by 1/m
    assert (error < 1e-12) == (limit == 600)


@pytest.mark.parametrize("holdout", [0.0, 0.05, 0.2, 0.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_sample_stands_for_the_data_whatever_is_held_out(weighted: bool, holdout: float) -> None:
    """Weights cos(lat), over samples of many seeds: weighted means of |lat| and its square are the population's."""
    lat = np.random.default_rng(0).uniform(-90, 90, 2000)
    w = np.cos(np.deg2rad(lat)) if weighted else np.ones(2000)
    samples = open_samples(np.abs(lat)[:, None], weights=w if weighted else None)
    found, kept = [], []
    for seed in range(60):
        profile = passes_over(samples, threads(1), Training(seed=seed, sample_rows=200, holdout=holdout)).profile
        rows = profile.sample.first(150)
        found.append([np.average(rows.x[:, 0] ** p, weights=rows.weights) for p in (1, 2)])
        kept.append(profile.n_samples)
    assert abs(np.mean(kept) / 2000 - (1 - holdout)) < 4 * np.sqrt(holdout * (1 - holdout) / 2000 / 60) + 1e-12
    error = np.std(found, axis=0) / np.sqrt(len(found))
    wanted = np.array([np.average(np.abs(lat) ** p, weights=w) for p in (1, 2)])
    assert (error < 0.02 * wanted).all(), "the test must be able to tell"
    assert (np.abs(np.mean(found, axis=0) - wanted) < 4 * error).all()


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_keys_of_the_sample_know_nothing_of_who_is_held_out(share: float) -> None:
    """Times their weights they are standard exponential numbers, among the rows held out and among the others."""
    rows, w = np.arange(20_000, dtype=np.uint64), weights_for(20_000)
    keys, out = sample_keys(row_hashes(rows, 3), w), is_held_out(rows, 3, share)
    for part in (out, ~out):
        assert kstest((keys * w)[part], "expon").pvalue > 1e-3
    assert abs(out.mean() - share) < 4 * np.sqrt(share * (1 - share) / len(rows))


@pytest.mark.parametrize("share", [0.0, 1e-17, 1e-300])
def test_a_share_of_next_to_nothing_holds_nothing_out(share: float) -> None:
    assert not is_held_out(np.arange(100, dtype=np.uint64), 0, share).any()


def test_a_sample_of_a_sample_weighs_by_its_own_last_key() -> None:
    w = np.array([5.0, 1.0, 1.0, 1.0])
    sample = Sample.of(
        sample_keys(row_hashes(np.arange(4, dtype=np.uint64), 0), w), Rows(np.zeros((4, 1)), w), 4
    ).ordered()
    all_rows, two = sample.first(4), sample.first(2)
    assert all_rows.weights is not None
    assert two.weights is not None
    np.testing.assert_allclose(np.sort(all_rows.weights), np.sort(w / w.mean()))
    after = sample.keys[2]
    raw = sample.rows.weights[:2] / (1 - np.exp(-sample.rows.weights[:2] * after))
    np.testing.assert_allclose(two.weights, raw / raw.mean())


def test_other_rows_of_a_sample_weigh_what_they_do_in_all_of_it() -> None:
    w = np.random.default_rng(0).uniform(0.1, 9.0, 100)
    x = np.arange(100.0)[:, None]
    sample = Sample.of(sample_keys(row_hashes(np.arange(100, dtype=np.uint64), 0), w), Rows(x, w), 80).ordered()
    whole = sample.first(80)
    assert whole.weights is not None
    weight = dict(zip(whole.x[:, 0], whole.weights, strict=True))
    parts = [sample.other(20, turn) for turn in range(1, 5)]
    # four quarters are all of it, and none is of the heavy ones alone, which are first
    assert sorted(np.concatenate([part.x[:, 0] for part in parts])) == sorted(weight)
    for part in parts:
        assert part.weights is not None
        its = np.array([weight[row] for row in part.x[:, 0]])
        np.testing.assert_allclose(part.weights, its / its.mean())
        assert w[part.x[:, 0].astype(int)].mean() == pytest.approx(w[whole.x[:, 0].astype(int)].mean(), rel=0.2)
    np.testing.assert_array_equal(sample.other(20, 0).x, sample.first(20).x)
    # of all rows the order is the same each time, and with it every sum
    np.testing.assert_array_equal(sample.other(80, 3).x, whole.x)


@pytest.mark.parametrize("method", ["kmeans", "k-means++", "random", "random_from_data"])
def test_starts_see_the_weights(blobs: np.ndarray, method: str) -> None:
    """With all the weight on two of the groups, two components find them."""
    group = np.argmin(((blobs[:, None] - np.array([[0.0, 0.0], [9.0, 1.0], [4.0, 12.0]])) ** 2).sum(axis=2), axis=1)
    w = np.where(group == 2, 1e-9, 1.0)
    fit = dgmm.train(blobs, 2, weights=w, init_params=method)
    np.testing.assert_allclose(fit.mixture.means, [[0.0, 0.0], [9.0, 1.0]], atol=0.3)


def line_at(place: float, n: int, seed: int = 0) -> np.ndarray:
    """Rows that are nearly collinear."""
    r = np.random.default_rng(seed)
    return np.array([place, 0.0, 0.0]) + r.standard_normal((n, 1)) + 0.05 * r.standard_normal((n, 3))


@pytest.mark.parametrize(
    ("group", "weight", "collapsed"),
    [
        (line_at(12, 5), 60.0, (1,)),  # 300 rows by weight, and a line through five
        (line_at(12, 300), 1.0, ()),  # a line that 300 rows confirm
        (line_at(12, 13), 1.0, (1,)),  # fewer than five in each dimension
        (line_at(12, 20), 1.0, ()),
        (
            12 * np.eye(3)[0] + np.random.default_rng(1).standard_normal((1000, 3)),
            1e-3,
            (),
        ),  # one row by weight, not few
        (12 * np.eye(3)[0] + np.random.default_rng(1).standard_normal((3, 3)), 1e3, (0,)),  # nothing but three rows
    ],
)
def test_a_component_means_something_by_its_effective_rows(
    group: np.ndarray, weight: float, collapsed: tuple[int, ...]
) -> None:
    x = np.concatenate([np.random.default_rng(0).standard_normal((2000, 3)), group])
    w = np.concatenate([np.ones(2000), np.full(len(group), weight)])
    given = {"means_init": [[0.0] * 3, [12.0, 0, 0]], "weights_init": [0.9, 0.1], "precisions_init": [np.eye(3)] * 2}
    assert dgmm.train(x, 2, weights=w, **given).collapsed == collapsed


def test_effective_shares_are_one_without_weights_and_where_there_is_nothing() -> None:
    sums, none = np.array([[4.0, 1.0], [0.0, 0.0]]), np.zeros(2, dtype=bool)
    assert SufficientStatistics(0.0, 4.0, sums, none).effective_shares.tolist() == [1, 1]
    equal = SufficientStatistics(0.0, 4.0, sums, none, squares=np.array([8.0, 0.0]))
    assert equal.effective_shares.tolist() == [0.5, 1], "two rows of weight two"


def test_a_coordinate_or_variable_weighs_along_its_dimensions() -> None:
    dataset = ocean_temperature().isel(month=[0, 6], depth=[0, 5, 10])
    area = np.cos(np.deg2rad(dataset.lat))
    whole = np.broadcast_to(area.values[None, :, None], (2, dataset.sizes["lat"], dataset.sizes["lon"]))
    profile = dataset.temperature.transpose("month", "lat", "lon", "depth")
    how: dict[str, Any] = {"n_components": 3, "feature_dim": "depth", "n_init": 2}
    expected = dgmm.train(profile.values, 3, weights=np.ascontiguousarray(whole), n_init=2)
    assert expected.bic != dgmm.train(profile, **how).bic
    for source, weights in (
        (profile, area),
        (profile.to_dataset(name="t").assign(area=area), "area"),
        (profile.assign_coords(area=area), "area"),
        (profile.chunk(lat=40), area.chunk(lat=40)),
    ):
        fit = dgmm.train(source, weights=weights, **how)
        np.testing.assert_allclose(fit.mixture.means, expected.mixture.means, rtol=1e-6)
        assert (fit.n_samples, fit.n_missing) == (expected.n_samples, expected.n_missing)


def test_settings_name_the_weights(tmp_path: Path, blobs: np.ndarray) -> None:
    w = weights_for(len(blobs))
    dataset = xr.Dataset({"a": ("n", blobs[:, 0]), "b": ("n", blobs[:, 1]), "area": ("n", w)})
    dataset.to_zarr(tmp_path / "d.zarr", zarr_format=3, consolidated=False)
    out = str(tmp_path / "m.zarr")
    settings = {"data": {"path": str(tmp_path / "d.zarr"), "weights": "area"}, "out": out, "n_components": 3}
    fit = run_train(Train.model_validate(settings))
    assert fit.features == ("a", "b")
    assert fit.bic == dgmm.train(blobs, 3, weights=w).bic
    scores = dgmm.score(out, tmp_path / "d.zarr", tmp_path / "s.zarr")  # the model knows its variables
    assert (scores.label.values >= 0).all()


def test_selection_takes_weights(blobs: np.ndarray) -> None:
    w = weights_for(len(blobs))
    selection = dgmm.select(blobs, [2, 3], ["full", "diag"], weights=w)
    assert selection.best.n_components == 3
    np.testing.assert_allclose(
        selection.best.log_likelihood,
        w / w.mean() @ selection.best.mixture.log_density(blobs),
        rtol=1e-10,
    )


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            np.array([1.0, -2.0, 1.0]),
            r"the weight of sample \(1\) of ndarray is -2: weights must be finite and not neg",
        ),
        (np.array([1.0, 1.0, np.inf]), r"the weight of sample \(2\) of ndarray is inf"),
        (np.ones(4), r"weights have shape \(4,\), the samples of ndarray \(3,\) \(sample\)"),
        (np.ones((3, 1)), r"weights have shape \(3, 1\)"),
        ([1.0, 2.0], r"weights have shape \(2,\)"),
        (np.array(["a", "b", "c"]), "weights in ndarray is not numeric"),
        ("area", "ndarray is a single array: hand in the weights as an array, not as 'area'"),
        (np.zeros(3), "no complete row in ndarray: all 3 have a missing value or no weight"),
        (xr.DataArray(np.ones(3), dims="time"), r"weights have shape \(3,\)"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(weights: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dgmm.train(np.arange(6.0).reshape(3, 2) ** 2, 1, weights=weights)


def test_weights_of_a_dataset_must_be_there_and_aligned() -> None:
    dataset = xr.Dataset({"a": ("t", [1.0, 2.0, 4.0])}, {"t": [1, 2, 3]})
    with pytest.raises(InputError, match="no variable 'w' in Dataset to take the weights from: it has a, t"):
        dgmm.train(dataset, 1, weights="w")
    turned = xr.DataArray([1.0, 2.0, 3.0], {"t": [3, 2, 1]}, "t")
    with pytest.raises(InputError, match="weights and Dataset differ in their coordinate 't': align them first"):
        dgmm.train(dataset, 1, weights=turned)


def test_a_missing_weight_leaves_the_sample_out(tmp_path: Path, blobs: np.ndarray) -> None:
    w = weights_for(len(blobs))
    w[:40] = np.nan
    store = zarr.create_array(tmp_path / "w.zarr", data=w, chunks=(100,))
    fit = dgmm.train(blobs, 3, weights=store)
    assert (fit.n_samples, fit.n_missing) == (560, 40)
    assert fit.bic == pytest.approx(dgmm.train(blobs[40:], 3, weights=w[40:]).bic, rel=1e-6)
