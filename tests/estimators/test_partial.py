"""Fitting batch by batch: the first as `fit` does, each further one by EM with what was there held."""

from __future__ import annotations

import pickle
from typing import Any

import dask.array
import numpy as np
import pandas as pd
import pytest
import sklearn.mixture
import xarray as xr

import dgmm
from dgmm.errors import InputError
from tests.fitting.test_update import BOTH, A, B, Held

#: Where starts are the same for everybody, and nothing is added to covariances.
START: dict[str, Any] = {
    "n_components": 3, "means_init": [[0.0, 0.0], [2.0, 2.0], [-2.0, 2.0]], "weights_init": [0.4, 0.3, 0.3],
    "precisions_init": np.tile(np.eye(2), (3, 1, 1)), "reg_covar": 0.0, "max_iter": 2000, "tol": 1e-8,
}  # fmt: skip


def attributes(model: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return model.weights_, model.means_, model.covariances_


def test_the_first_batch_is_fitted_as_ever_and_the_next_by_em_with_it_held() -> None:
    first, plain = dgmm.GaussianMixture(**START).partial_fit(A), dgmm.GaussianMixture(**START).fit(A)
    for ours, theirs in zip(attributes(first), attributes(plain), strict=True):
        assert ours.tobytes() == theirs.tobytes()
    oracle = Held(dgmm.train(A, 3, start=mixture_of(plain), tol=1e-13, reg_covar=0.0, search="starts"), 1.0)
    first.set_params(tol=1e-11).partial_fit(B)
    found = attributes(plain.partial_fit(dask.array.from_array(B, chunks=(100, 2))))
    for _ in range(200):
        found = oracle.step(*found)
    for ours, theirs in zip(attributes(first), found, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-3)
    assert first.lower_bound_ == pytest.approx(oracle.bound(*found) / 1400, abs=1e-5)
    assert first.converged_


def mixture_of(model: Any) -> dgmm.Mixture:
    return dgmm.Mixture.gaussian("full", *attributes(model))


def test_weights_are_repetitions() -> None:
    weights = np.random.default_rng(0).integers(1, 4, len(A))
    theirs = sklearn.mixture.GaussianMixture(**START).fit(np.repeat(A, weights, axis=0))
    ours = dgmm.GaussianMixture(**START).partial_fit(A, sample_weight=weights)
    for own, other in zip(attributes(ours), attributes(theirs), strict=True):
        np.testing.assert_allclose(own, other, atol=1e-4)
    named = xr.Dataset({"x": ("i", A[:, 0]), "y": ("i", A[:, 1]), "w": ("i", weights)})
    np.testing.assert_allclose(
        dgmm.GaussianMixture(**START).partial_fit(named, sample_weight="w").means_, ours.means_, atol=1e-9
    )


def test_row_by_row_nothing_is_lost() -> None:
    """Single rows, after fit and after a pickle; what is known is of as many rows as were seen."""
    model = dgmm.GaussianMixture(**START).fit(A[:300])
    for row in A[300:330]:
        model = pickle.loads(pickle.dumps(model)).partial_fit(row[None])
    assert model._past.count == pytest.approx(330)
    np.testing.assert_allclose(model.weights_ @ model.means_, A[:330].mean(axis=0), atol=1e-9)
    fading = dgmm.GaussianMixture(**START, forget=0.5).fit(A).partial_fit(B)
    assert fading._past.count == pytest.approx(950)
    np.testing.assert_allclose(fading.weights_ @ fading.means_, (0.5 * A.sum(axis=0) + B.sum(axis=0)) / 950, atol=1e-9)


def test_batches_come_near_a_fit_to_all() -> None:
    model = dgmm.GaussianMixture(**START)
    for batch in np.array_split(BOTH, 7):
        model.partial_fit(batch)
    whole = dgmm.GaussianMixture(**START).fit(BOTH)
    assert 0 <= whole.score(BOTH) - model.score(BOTH) < 0.5 * 17 / len(BOTH)


def test_what_cannot_be_gone_on_from_is_said() -> None:
    theirs = sklearn.mixture.GaussianMixture(3, random_state=0).fit(A)
    with pytest.raises(dgmm.InputError, match="no sufficient statistics to go on from"):
        dgmm.GaussianMixture.from_sklearn(theirs).partial_fit(B)
    model = dgmm.GaussianMixture(**START).partial_fit(pd.DataFrame(A, columns=["a", "b"]))
    with pytest.raises(ValueError, match="feature names"):
        model.partial_fit(pd.DataFrame(B, columns=["b", "a"]))
    model = dgmm.GaussianMixture(**START).partial_fit(A)
    with pytest.raises(ValueError, match="1 features"):
        model.partial_fit(B[:, :1])
    with pytest.raises(ValueError, match=r"number of features are 3, full and 1"):
        model.partial_fit(dask.array.from_array(B[:, :1], chunks=100))
    with pytest.raises(ValueError, match=r"n_components.* are 2, full"):
        model.set_params(n_components=2).partial_fit(B)
    with pytest.raises(ValueError, match="'forget' parameter"):
        dgmm.GaussianMixture(forget=1.0).partial_fit(A)


def test_batches_are_put_in_the_order_of_the_first() -> None:
    """However they are handed in, and refused where they are others."""
    r = np.random.default_rng(0)
    base = r.normal(size=(200, 1)) + 0.3 * r.normal(size=(200, 4))
    coords = {"depth": [10.0, 20.0, 50.0, 100.0]}
    data = xr.Dataset({"T": (("n", "depth"), base * [1, 2, 3, 4]), "S": (("n", "depth"), base + 5)}, coords)
    batch = data.isel(n=slice(0, 100))

    def after(x: xr.Dataset, **more: str) -> float:
        model = dgmm.GaussianMixture(2, random_state=0).fit(data, feature_dims="depth")
        return float(model.partial_fit(x, **more).score(data))

    expected = after(batch)
    for more in ({}, {"feature_dims": "depth"}):
        assert after(batch.isel(depth=[3, 1, 0, 2]), **more) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(InputError, match="feature_dims='n', and the model was fitted to features along depth"):
        after(batch, feature_dims="n")
    with pytest.raises(InputError, match="T"):
        after(batch.rename(T="A"), feature_dims="depth")


def test_columns_of_frames_are_known_by_name() -> None:
    x = np.abs(np.random.default_rng(1).normal(size=(100, 3))) + 0.1
    frame = pd.DataFrame(x, columns=list("abc"))
    named = dgmm.GaussianMixture(2, random_state=0, preprocess={"log": ["b"]}).fit(frame)
    plain = dgmm.GaussianMixture(2, random_state=0, preprocess={"log": ["1"]}).fit(x)
    np.testing.assert_array_equal(named.means_, plain.means_)
    assert named.partial_fit(frame[:50]).preprocess_.log == (1,)
