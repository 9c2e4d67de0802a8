"""scikit-learn's face on rows of which values are missing."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from sklearn.base import clone

import dgmm
from dgmm.types import FloatArray


@pytest.fixture(scope="module")
def x() -> FloatArray:
    r = np.random.default_rng(2)
    x = np.repeat([[0.0, 0.0, 0.0], [4.0, 4.0, 0.0]], 150, axis=0) + r.standard_normal((300, 3))
    x[r.random(x.shape) < 0.2] = np.nan
    x[17] = np.nan
    return x[np.isnan(x).sum(axis=1) < np.where(np.arange(300) == 17, 4, 3)]


@pytest.mark.parametrize("kind", ["full", "tied"])
def test_rows_that_lack_values_are_fitted_and_labelled(kind: str, x: FloatArray) -> None:
    model = dgmm.GaussianMixture(2, covariance_type=kind, missing="marginalise", tol=1e-8, max_iter=500, random_state=0)
    labels = clone(model).fit_predict(x)
    model.fit(x)
    assert (labels == model.predict(x)).all()
    assert np.flatnonzero(labels < 0).tolist() == [17]
    side = labels == labels[0]
    assert np.delete(side == (np.nan_to_num(x[:, 0]) + np.nan_to_num(x[:, 1]) < 2.5), 17).mean() > 0.9
    density = model.score_samples(x)
    assert np.flatnonzero(np.isnan(density)).tolist() == [17]
    assert model.score(x) == pytest.approx(np.nanmean(density), rel=1e-12)
    some = ~np.isnan(x).all(axis=1)
    ours = dgmm.train(x, 2, kind, missing="marginalise", search="starts", reg_covar=0, tol=1e-9)
    assert model.score(x) * some.sum() == pytest.approx(ours.log_likelihood, abs=0.05)
    chunked = clone(model).fit(da.from_array(x, chunks=(70, 3)))
    assert chunked.score(x) == pytest.approx(model.score(x), abs=1e-4)
    np.testing.assert_allclose(chunked.predict_proba(da.from_array(x, chunks=(70, 3))).compute()[some],
                               chunked.predict_proba(x)[some], rtol=1e-12)  # fmt: skip


def test_by_default_they_are_an_error_in_memory_as_in_scikit_learn(x: FloatArray) -> None:
    for missing in ("omit", "raise"):
        with pytest.raises(ValueError, match="Input X contains NaN"):
            dgmm.GaussianMixture(2, missing=missing).fit(x)
    lazy = da.from_array(x, chunks=(70, 3))
    assert dgmm.GaussianMixture(2, random_state=0).fit(lazy).predict(lazy).compute().min() == -1
    with pytest.raises(ValueError, match="is missing at sample"):
        dgmm.GaussianMixture(2, missing="raise").fit(lazy)
    best = dgmm.GaussianMixture.select(x, [1, 2], "diag", missing="marginalise", search="starts", n_init=2)
    assert (best.n_components, best.missing) == (2, "marginalise")
    assert (best.predict(x) < 0).sum() == 1
