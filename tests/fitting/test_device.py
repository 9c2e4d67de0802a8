"""Whole fits and scores on a device come to what they come to on the cores, whoever the workers are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import Client

import dgmm
from dgmm.errors import DgmmError

pytest.importorskip("jax")

#: Little is searched: every pass over all the data is another on a device.
HOW: dict[str, Any] = {"search": "starts", "n_init": 2, "start_rows": 1000, "sample_rows": 2000, "tol": 1e-9}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """6,000 samples in 12 chunks, some with missing values."""
    r = np.random.default_rng(0)
    x = np.concatenate([r.standard_normal((3000, 3)), 0.7 * r.standard_normal((3000, 3)) + 1.2])[r.permutation(6000)]
    x[::50, 1] = np.nan
    path = str(tmp_path_factory.mktemp("device") / "x.zarr")
    zarr.create_array(path, data=x, chunks=(500, 3))
    return path


def assert_close(a: dgmm.Fit, b: dgmm.Fit) -> None:
    assert len(a.trajectory) == len(b.trajectory)
    for name in ("weights", "means", "covariances"):
        np.testing.assert_allclose(getattr(a.mixture, name), getattr(b.mixture, name), rtol=1e-8, atol=1e-8)
    assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=1e-10)


@pytest.mark.parametrize(
    "more", [{}, {"missing": "marginalise"}, {"holdout": 0.2}, {"noise": True}, {"assignment": "hard"}]
)
def test_a_fit_is_that_of_the_cores(store: str, more: dict[str, Any]) -> None:
    ours, theirs = (dgmm.train(store, 2, **HOW, **more, device=device, n_workers=2) for device in ("jax", "cpu"))
    assert len(ours.trajectory) > 3
    assert_close(ours, theirs)


def test_a_selection_is_that_of_the_cores(store: str) -> None:
    ours, theirs = (
        dgmm.select(store, [1, 2, 3], covariance_type=["full", "diag"], **HOW, device=device).table
        for device in ("jax", "cpu")
    )
    assert ours[["n_components", "covariance_type"]].equals(theirs[["n_components", "covariance_type"]])
    np.testing.assert_allclose(ours["bic"], theirs["bic"], rtol=1e-10)


def test_any_workers_give_the_same_bits(store: str, client: Client) -> None:
    """Threads, one and two, and two processes."""
    fits = [dgmm.train(store, 3, **HOW, device="jax", scheduler="threads", n_workers=n) for n in (1, 2)]
    fits.append(dgmm.train(store, 3, **HOW, device="jax", scheduler=client))
    for other in fits[1:]:
        np.testing.assert_array_equal(other.mixture.means, fits[0].mixture.means)
        np.testing.assert_array_equal(other.mixture.covariances, fits[0].mixture.covariances)
        assert other.log_likelihood == fits[0].log_likelihood


def test_a_fit_goes_on_from_its_journal_and_from_that_of_another_device(store: str, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    first = dgmm.train(store, 2, **HOW, device="jax", journal=journal, keep_journal=True)
    again = dgmm.train(store, 2, **HOW, device="jax", journal=journal, keep_journal=True)
    assert again.log_likelihood == first.log_likelihood
    np.testing.assert_array_equal(again.mixture.means, first.mixture.means)
    on_cores = dgmm.train(store, 2, **HOW, journal=journal)
    np.testing.assert_allclose(on_cores.mixture.means, first.mixture.means, rtol=1e-6, atol=1e-6)


def test_scores_are_those_of_the_cores(store: str, tmp_path: Path) -> None:
    model, found = str(tmp_path / "model.zarr"), {}
    dgmm.save(dgmm.train(store, 2, **HOW), model)
    for device in ("jax", "cpu"):
        out = str(tmp_path / device)
        dgmm.score(model, store, out, probabilities=True, device=device)
        found[device] = xr.open_zarr(out).load()
    np.testing.assert_array_equal(found["jax"].label, found["cpu"].label)
    for name in ("log_density", "probability", "probabilities"):
        np.testing.assert_allclose(found["jax"][name], found["cpu"][name], rtol=1e-6 if "prob" in name else 1e-10)
    # and either says so of what the other has written
    for device, other in (("jax", "cpu"), ("cpu", "jax")):
        assert dgmm.verify(str(tmp_path / device), recompute=1.0, device=other).is_sound


def test_a_device_that_is_none_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(DgmmError, match=r"device: .*'cpu', 'gpu' or 'jax'"):
        dgmm.train(np.zeros((10, 2)), 1, device="tpu")
