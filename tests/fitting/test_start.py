"""Fits that begin with a whole model: what it says, held or as a start, whoever hands it in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.special import logsumexp
from scipy.stats import poisson
from sklearn.mixture import GaussianMixture

import dgmm
from dgmm.cli import main
from dgmm.config import Train
from dgmm.fits import validated
from dgmm.mixture import Mixture
from dgmm.pipeline import is_done, run_train

DATA = dgmm.datasets.old_faithful()
X = DATA.to_dataarray().values.T
COUNTS = np.random.default_rng(0).poisson([[3.0, 9.0], [12.0, 2.0], [7.0, 7.0]], (200, 3, 2)).reshape(-1, 2)
#: Nothing but a climb from there.
PLAIN: dict[str, Any] = {"accelerate": "none", "tol": 1e-12, "reg_covar": 0, "worst_rows": 0}


def far(kind: str = "full") -> Mixture:
    """A mixture of two that is no optimum of the eruptions."""
    covariances = {"full": np.stack([np.diag([0.5, 90.0])] * 2), "tied": np.diag([0.5, 90.0])}[kind]
    return Mixture.gaussian(kind, np.array([0.3, 0.7]), np.array([[3.0, 60.0], [3.5, 75.0]]), covariances)


@pytest.mark.parametrize("kind", ["full", "tied"])
def test_it_climbs_from_there_as_scikit_learn_does(kind: str) -> None:
    start = far(kind)
    precisions = np.linalg.inv(start.covariances)
    theirs = GaussianMixture(
        2, covariance_type=kind, weights_init=start.weights, means_init=start.means, precisions_init=precisions,
        reg_covar=0, tol=1e-12, max_iter=2000,
    ).fit(X)  # fmt: skip
    ours = dgmm.train(X, covariance_type=kind, start=start, **PLAIN)
    order = np.argsort(-theirs.weights_)
    np.testing.assert_allclose(ours.mixture.weights, theirs.weights_[order], rtol=1e-4)
    np.testing.assert_allclose(ours.mixture.means, theirs.means_[order], rtol=1e-4)
    assert ours.n_components == 2


def test_any_family_begins_with_a_model() -> None:
    """EM by its definition, with weights that are held at others than those of the data."""
    rates, weights = np.array([[3.0, 9.0], [12.0, 3.0], [9.0, 5.0]]), np.array([0.6, 0.25, 0.15])
    family = dgmm.train(COUNTS, 1, "poisson").mixture.family
    start = Mixture(family, weights, family.from_arrays({"means": rates}))
    ours = dgmm.train(COUNTS, covariance_type="poisson", start=start, fixed=["weights"], **PLAIN)
    for _ in range(500):
        joint = np.log(weights) + poisson(rates).logpmf(COUNTS[:, None, :]).sum(axis=2)
        r = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
        rates = (r.T @ COUNTS) / r.sum(axis=0)[:, None]
    # what it stops at: 0.1 % of p/2 nats, as it estimates them
    assert ours.log_likelihood == pytest.approx(logsumexp(joint, axis=1).sum(), abs=0.05)
    np.testing.assert_allclose(ours.mixture.weights, [0.6, 0.25, 0.15], rtol=1e-12)


def test_its_values_are_held_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, model, out, again = (str(tmp_path / name) for name in ("x.zarr", "m.zarr", "out.zarr", "again.zarr"))
    DATA.to_zarr(source, zarr_format=3, consolidated=False)
    start = dgmm.train(source, 3, "diag", variables=["waiting", "eruptions"], search="starts")
    dgmm.save(start, model)
    what = ["--start", model, "--covariance", "diag", "--fixed", "weights,covariances", "--quiet"]
    assert main(["train", source, "--out", out, *what]) == 0
    fit = dgmm.load(out)
    assert (fit.n_components, fit.features) == (3, ("waiting", "eruptions"))
    np.testing.assert_allclose(fit.mixture.weights, start.mixture.weights, rtol=1e-12)
    np.testing.assert_allclose(fit.mixture.covariances, start.mixture.covariances, rtol=1e-12)
    assert (fit.mixture.means != start.mixture.means).all()
    assert "weights and covariances held fixed" in capsys.readouterr().out
    same = dgmm.train(source, covariance_type="diag", start=model, fixed=["weights", "covariances"])
    np.testing.assert_array_equal(same.mixture.means, fit.mixture.means)
    assert main(["train", source, "--out", model, "--overwrite", *what]) == 2
    assert main(["train", source, "--out", again, "--start", model, "--k", "2", "--covariance", "diag"]) == 2
    said = "n_components=2, covariance_type=diag are not those of the start, 3 and diag"
    assert said in capsys.readouterr().err


def test_another_model_at_its_place_is_another_fit(tmp_path: Path) -> None:
    source, model, out = (str(tmp_path / name) for name in ("x.zarr", "m.json", "out.zarr"))
    DATA.to_zarr(source, zarr_format=3, consolidated=False)
    dgmm.save(dgmm.train(DATA, 2, sample_rows=50, search="starts"), model)
    asked = validated(Train, {"data": {"path": source}, "out": out, "start": model})
    run_train(asked)
    assert is_done(out, asked)
    place = Path(model)
    place.unlink()
    dgmm.save(dgmm.train(DATA, 2, sample_rows=60, search="starts"), place)
    with pytest.raises(dgmm.OutputExistsError, match=r"made with other settings \(start_digest\)"):
        is_done(out, asked)


def test_a_journal_knows_the_start(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"journal": str(tmp_path / "j"), "keep_journal": True}
    first, again = (dgmm.train(X, start=far(), **asked) for _ in range(2))
    assert first.trajectory == again.trajectory
    with pytest.raises(dgmm.OutputExistsError, match="given"):
        dgmm.train(X, start=first.mixture, **asked)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"covariance_type": "tied"}, "covariance_type=tied are not those of the start, 2 and full: ask for these"),
        ({"n_components": 3}, "n_components=3"),
        ({"labels": np.arange(272) % 2}, "a start is for samples without labels"),
        ({"means_init": X[:2]}, "start is a whole mixture"),
        ({"components_per_class": 2}, "for samples with labels"),
    ],
)
def test_what_contradicts_it_is_refused(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(dgmm.InputError, match=said):
        dgmm.train(X, start=far(), **asked)


def test_other_features_are_refused() -> None:
    with pytest.raises(dgmm.InputError, match="has 1 features, the start 2"):
        dgmm.train(X[:, :1], start=far())
    with pytest.raises(dgmm.InputError, match="waiting"):
        dgmm.train(xr.Dataset({"eruptions": DATA["eruptions"]}), start=dgmm.train(DATA, 2))


def test_settings_with_labels_are_refused() -> None:
    asked = {"data": {"path": "x", "labels": "y"}, "out": "o", "start": "m"}
    with pytest.raises(dgmm.InputError, match="start: samples with labels"):
        validated(Train, asked)
