"""What is missing of samples filled in, and samples scored by what they have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from scipy.stats import kstest, norm, uniform

import dgmm
from dgmm.cli import main
from dgmm.errors import InputError
from dgmm.families import Noise, get_family
from dgmm.fits import Fit
from dgmm.types import FloatArray


def data() -> tuple[FloatArray, FloatArray]:
    """Rows of two correlated features and their whole, of which the second is missing at times, and all at others."""
    r = np.random.default_rng(4)
    whole = r.standard_normal((2000, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]]) + [10, 20]
    x = whole.copy()
    x[::3, 1] = np.nan
    x[5] = np.nan
    return x, whole


@pytest.fixture(scope="module")
def fit() -> Fit:
    return dgmm.train(data()[0], 1, missing="marginalise", reg_covar=0)


def grid(x: FloatArray, length: int) -> xr.Dataset:
    """As two variables on a grid, in chunks."""
    shaped = x.reshape(40, 50, 2)
    names = {"t": shaped[..., 0], "s": shaped[..., 1]}
    dataset = xr.Dataset({n: (("lat", "lon"), v) for n, v in names.items()}, {"lat": np.arange(40.0)})
    return dataset.chunk({"lat": length, "lon": 50})


def test_means_and_draws_are_those_of_the_conditional_normal(fit: Fit, tmp_path: Path) -> None:
    x, _ = data()
    mean = dgmm.predict(fit, x, tmp_path / "mean.zarr", impute="mean")["data"].values
    draw = dgmm.predict(fit, x, tmp_path / "draw.zarr", impute="draw", seed=3)["data"].values
    (m,), (s,) = fit.mixture.means, fit.mixture.covariances
    gone, slope = np.isnan(x[:, 1]), s[0, 1] / s[0, 0]
    gone[5] = False
    np.testing.assert_allclose(mean[gone, 1], m[1] + slope * (x[gone, 0] - m[0]), rtol=1e-12)
    left = (draw[gone, 1] - mean[gone, 1]) / np.sqrt(s[1, 1] - slope * s[0, 1])
    assert kstest(left, norm.cdf).pvalue > 0.01
    for found in (mean, draw):
        assert found[~np.isnan(x)].tobytes() == x[~np.isnan(x)].tobytes()
        assert np.isnan(found[5]).all()
        assert np.isfinite(np.delete(found, 5, axis=0)).all()


def test_the_same_is_drawn_whatever_the_chunks(fit: Fit, tmp_path: Path) -> None:
    x, _ = data()
    plain = dgmm.predict(fit, x, tmp_path / "plain.zarr", impute="draw", seed=1)["data"].values
    named = fit.__class__(**{**vars(fit), "features": ("t", "s"), "layout": None})
    for length in (7, 40):
        place = tmp_path / f"{length}.zarr"
        grid(x, length).to_zarr(place, zarr_format=3, consolidated=False)
        found = dgmm.predict(named, place, tmp_path / f"out{length}.zarr", impute="draw", seed=1)
        assert found.s.dims == ("lat", "lon")
        assert "what is missing drawn by a full Gaussian mixture" in found.attrs["title"]
        np.testing.assert_allclose(found.s.values.ravel(), plain[:, 1], rtol=1e-12)
        np.testing.assert_array_equal(found.t.values.ravel(), x[:, 0])
    other = dgmm.predict(fit, x, tmp_path / "other.zarr", impute="draw", seed=2)["data"].values
    assert (other[::3, 1] != plain[::3, 1]).sum() > 600


def test_scores_follow_the_model_unless_they_are_asked_for_otherwise(fit: Fit, tmp_path: Path) -> None:
    x, _ = data()
    other = dgmm.train(x, 1)
    dgmm.save(other, tmp_path / "other.zarr")
    zarr.create_array(str(tmp_path / "x.zarr"), shape=x.shape, chunks=(300, 2), dtype="f8")[:] = x
    n_incomplete = int(np.isnan(x).any(axis=1).sum())
    assert int((dgmm.score(fit, x, tmp_path / "omit.zarr", missing="omit").label < 0).sum()) == n_incomplete
    assert int((dgmm.score(other, x, tmp_path / "plain.zarr").label < 0).sum()) == n_incomplete
    assert int((dgmm.score(fit, x, tmp_path / "own.zarr").label < 0).sum()) == 1
    asked = dgmm.score(tmp_path / "other.zarr", tmp_path / "x.zarr", tmp_path / "asked.zarr", missing="marginalise")
    assert asked.attrs["n_missing"] == int((asked.label < 0).sum()) == 1
    assert dgmm.verify(tmp_path / "asked.zarr", recompute=1.0).is_sound
    (m,), (s,) = other.mixture.means, other.mixture.covariances
    expected = norm.logpdf(x[::3, 0], m[0], np.sqrt(s[0, 0]))
    np.testing.assert_allclose(asked.log_density.values[::3], expected, rtol=1e-9)
    again = dgmm.score(tmp_path / "other.zarr", tmp_path / "x.zarr", tmp_path / "asked.zarr", extend=True)
    assert int((again.label < 0).sum()) == n_incomplete, "those that were scored in another way are scored anew"


def test_the_command_fills_in_and_refuses_what_it_cannot(fit: Fit, tmp_path: Path) -> None:
    x, _ = data()
    named = fit.__class__(**{**vars(fit), "features": ("t", "s"), "layout": None})
    dgmm.save(named, tmp_path / "m.zarr")
    assert dgmm.load(tmp_path / "m.zarr").missing == "marginalise"
    grid(x, 10).to_zarr(tmp_path / "x.zarr", zarr_format=3, consolidated=False)
    places = [str(tmp_path / name) for name in ("m.zarr", "x.zarr", "p.zarr")]
    model, source, out = places
    assert main(["predict", model, source, "--out", out, "--impute", "mean", "--scheduler", "threads", "--quiet"]) == 0
    assert int(np.isnan(xr.open_zarr(tmp_path / "p.zarr").s).sum()) == 1
    with pytest.raises(InputError, match="of: name the features to predict, or fill in what is missing"):
        dgmm.predict(fit, x, tmp_path / "q.zarr")
    with pytest.raises(InputError, match="impute: what is there is given"):
        dgmm.predict(fit, x, tmp_path / "q.zarr", impute="mean", variance=True)
    student = dgmm.train(data()[1], 1, "t_full", search="starts")
    with pytest.raises(InputError, match="is of t_full components: give one of Gaussian components"):
        dgmm.predict(student, x, tmp_path / "q.zarr", impute="mean")
    with pytest.raises(InputError, match="what is missing cannot be marginalised in a t_full model"):
        dgmm.score(student, x, tmp_path / "q.zarr", missing="marginalise")
    assert not get_family("t_full").incomplete


def test_other_levels_are_interpolated_and_then_filled_in(tmp_path: Path) -> None:
    """As they are when they are interpolated first."""
    r = np.random.default_rng(2)
    level, fine = np.array([15.0, 35.0, 42.0]), np.array([10.0, 20.0, 30.0, 40.0, 50.0])
    x = np.cumsum(r.normal(size=(80, 5)), axis=1)
    x[r.random(x.shape) < 0.15] = np.nan
    source = xr.Dataset({"t": (("n", "z"), x)}, {"z": fine})
    model = dgmm.train(source.interp(z=level), 1, feature_dim="z", missing="marginalise")
    with pytest.raises(InputError, match="interpolate"):
        dgmm.predict(model, source, tmp_path / "no.zarr", impute="mean")
    found = dgmm.predict(model, source, tmp_path / "a.zarr", impute="mean", interpolate=True)
    expected = dgmm.predict(model, source.interp(z=level), tmp_path / "b.zarr", impute="mean")
    np.testing.assert_allclose(found["t"].values, expected["t"].values, rtol=1e-12)
    with pytest.raises(InputError, match="42"):
        dgmm.predict(model, source.isel(z=slice(0, 4)), tmp_path / "c.zarr", impute="mean", interpolate=True)


@pytest.fixture(scope="module")
def noisy() -> Fit:
    """Of a narrow line and a tenth of noise, in a box that it leaves by a corner."""
    x = data()[0]
    fit = dgmm.train(x, 1, missing="marginalise", noise=True, search="starts")
    noise = Noise.between(0.1, np.array([8.0, 15.0]), np.array([11.0, 30.0]))
    return replace(fit, mixture=fit.mixture.beside(noise))


def test_noise_is_expected_in_the_middle_of_its_box(noisy: Fit, tmp_path: Path) -> None:
    """By its probability given what there is: the law of total expectation, with SciPy's densities."""
    x, _ = data()
    mean = dgmm.predict(noisy, x, tmp_path / "mean.zarr", impute="mean")["data"].values
    (m,), (s,) = noisy.mixture.means, noisy.mixture.covariances
    slope, known = s[0, 1] / s[0, 0], x[::3, 0]
    own, noise = 0.9 * norm.pdf(known, m[0], np.sqrt(s[0, 0])), 0.1 / 3.0
    expected = (own * (m[1] + slope * (known - m[0])) + noise * 22.5) / (own + noise)
    np.testing.assert_allclose(mean[::3, 1], expected, rtol=1e-12)
    assert mean[~np.isnan(x)].tobytes() == x[~np.isnan(x)].tobytes()
    np.testing.assert_allclose(mean[::3, 1], noisy.predict(x[::3, :1], [1], [0])[0][:, 0], rtol=1e-12)


def test_noise_is_drawn_all_over_its_box(noisy: Fit, tmp_path: Path) -> None:
    """Beside what is drawn of the component, where both are as probable."""
    (m,), (s,) = noisy.mixture.means, noisy.mixture.covariances
    at = m[0] + 1.5 * np.sqrt(s[0, 0])
    x = np.column_stack([np.full(4000, at), np.full(4000, np.nan)])
    drawn = dgmm.predict(noisy, x, tmp_path / "draw.zarr", impute="draw")["data"].values[:, 1]
    own, noise = 0.9 * norm.pdf(at, m[0], np.sqrt(s[0, 0])), 0.1 / 3.0
    share, slope = own / (own + noise), s[0, 1] / s[0, 0]
    assert 0.2 < share < 0.9
    inner = norm(m[1] + slope * (at - m[0]), np.sqrt(s[1, 1] - slope * s[0, 1]))
    found = kstest(drawn, lambda y: share * inner.cdf(y) + (1 - share) * uniform.cdf(y, 15, 15))
    assert found.pvalue > 0.01
    assert (drawn.min() >= 15) & (drawn.max() <= 30)


def test_components_are_merged_by_rows_that_lack_values_too() -> None:
    """Where no row is complete there is nothing else."""
    r = np.random.default_rng(3)
    x = r.normal(size=(300, 3)) + 8 * (np.arange(300) % 2)[:, None]
    x[np.arange(300), r.integers(0, 3, 300)] = np.nan
    fit = dgmm.train(x, 3, "diag", missing="marginalise", search="starts")
    merged = dgmm.merge(fit, x)
    assert merged.clusters is not None
    two = np.asarray(merged.clusters.level(2))[merged.mixture.responsibilities(x, marginal=True).argmax(axis=1)]
    assert len({*zip(two.tolist(), (np.arange(300) % 2).tolist(), strict=True)}) == 2
