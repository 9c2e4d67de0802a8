"""The way of a fit, kept: what its passes have evaluated, against the log-likelihoods that they found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

import dgmm
from dgmm.cli import main
from dgmm.errors import InputError
from dgmm.store.reading import from_dataset
from dgmm.store.record import to_dataset

X = dgmm.datasets.old_faithful().to_dataarray().values.T


@pytest.mark.parametrize("accelerate", ["none", "anderson"])
@pytest.mark.parametrize("kind", ["full", "tied", "EVE", "gamma"])
def test_every_step_is_what_a_pass_has_evaluated(kind: str, accelerate: str) -> None:
    asked = {"sample_rows": 30, "seed": 1, "search": "starts", "accelerate": accelerate}
    fit = dgmm.train(X, 3, kind, keep_path=True, **asked)
    assert len(fit.path) == fit.n_passes > 2
    found = [mixture.log_density(X).sum() for mixture in fit.path]
    np.testing.assert_allclose(found, fit.trajectory, rtol=1e-9)
    best = fit.path[int(np.argmax(fit.trajectory))]
    np.testing.assert_array_equal(best.weights, fit.mixture.weights)
    np.testing.assert_array_equal(best.means, fit.mixture.means)
    plain = dgmm.train(X, 3, kind, **asked)
    assert plain.path == ()
    assert plain.trajectory == fit.trajectory
    np.testing.assert_array_equal(plain.mixture.covariances, fit.mixture.covariances)


@pytest.mark.parametrize("kind", ["full", "tied"])
@pytest.mark.parametrize("name", ["m.zarr", "m.json"])
def test_noise_comes_along(kind: str, name: str, tmp_path: Path) -> None:
    x = np.vstack([X, np.random.default_rng(0).uniform(X.min(axis=0), X.max(axis=0), (30, 2))])
    fit = dgmm.train(x, 2, kind, noise=True, sample_rows=60, search="starts", keep_path=True)
    found = [mixture.log_density(x).sum() for mixture in fit.path]
    np.testing.assert_allclose(found, fit.trajectory, rtol=1e-9)
    dgmm.save(fit, tmp_path / name)
    for ours, theirs in zip(dgmm.load(tmp_path / name).path, fit.path, strict=True):
        assert ours.noise is not None
        assert theirs.noise is not None
        assert ours.noise.weight == theirs.noise.weight
        np.testing.assert_allclose(ours.log_density(x), theirs.log_density(x), rtol=1e-12)


def test_plain_steps_are_those_of_em() -> None:
    """In any order of the components, which the end has decided."""
    fit = dgmm.train(X, 2, sample_rows=30, seed=1, search="starts", accelerate="none", keep_path=True)
    way = dgmm.em_path(X, fit.path[0], len(fit.path) - 1)
    for ours, theirs in zip(fit.path, way, strict=True):
        np.testing.assert_allclose(ours.means, theirs.means, rtol=1e-9)
        np.testing.assert_allclose(ours.covariances, theirs.covariances, rtol=1e-8)


@pytest.mark.parametrize("kind", ["full", "tied", "spherical", "VVE", "poisson"])
@pytest.mark.parametrize("name", ["m.zarr", "m.json"])
def test_it_is_stored_and_drawn(kind: str, name: str, tmp_path: Path) -> None:
    fit = dgmm.train(np.round(X), 2, kind, sample_rows=40, search="starts", keep_path=True)
    dgmm.save(fit, tmp_path / name)
    loaded = dgmm.load(tmp_path / name)
    assert len(loaded.path) == fit.n_passes
    for ours, theirs in zip(loaded.path, fit.path, strict=True):
        np.testing.assert_array_equal(ours.weights, theirs.weights)
        np.testing.assert_array_equal(ours.means, theirs.means)
        np.testing.assert_array_equal(ours.covariances, theirs.covariances)
        np.testing.assert_allclose(ours.log_density(X[:9]), theirs.log_density(X[:9]), rtol=1e-13)
    turned = loaded.reordered(np.array([1, 0]))
    assert [m.weights.tolist() for m in turned.path] == [m.weights[::-1].tolist() for m in fit.path]
    if kind == "full":
        assert isinstance(dgmm.plot.steps(loaded.path, X, at=[0, 1]), Figure)


def test_it_is_the_same_where_a_journal_is_replayed(tmp_path: Path) -> None:
    asked = {
        "sample_rows": 30,
        "search": "starts",
        "keep_path": True,
        "journal": str(tmp_path / "j"),
        "keep_journal": True,
    }
    first, again = (dgmm.train(X, 3, "diag", **asked) for _ in range(2))
    for ours, theirs in zip(first.path, again.path, strict=True):
        np.testing.assert_array_equal(ours.means, theirs.means)


def test_a_path_that_is_none_is_damage() -> None:
    fit = dgmm.train(X, 2, sample_rows=40, search="starts", keep_path=True)
    dataset = to_dataset(fit)
    for changed in (
        dataset.assign(path_means=dataset["path_means"][:, :1].rename(component="other")),
        dataset.assign(path_means=dataset["path_means"].isel(step=slice(1, None)).rename(step="other")),
    ):
        with pytest.raises(InputError, match="is damaged: its path"):
            from_dataset(changed, "m")


def test_from_the_command_line(tmp_path: Path) -> None:
    source, model = str(tmp_path / "x.zarr"), str(tmp_path / "m.zarr")
    dgmm.datasets.old_faithful().to_zarr(source, zarr_format=3, consolidated=False)
    assert main(["train", source, "--k", "2", "--out", model, "--keep-path", "--search", "starts", "--quiet"]) == 0
    fit = dgmm.load(model)
    assert len(fit.path) == fit.n_passes
