"""Data that are legal and degenerate: a finite model that can be used, and a warning where something was held up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dgmm
from dgmm.fits import Fit

KINDS = ["full", "tied", "diag", "spherical"]


def clouds(n: int = 400) -> np.ndarray:
    """Two clouds of unit width, six apart."""
    r = np.random.default_rng(0)
    return r.standard_normal((n, 2)) + 6.0 * (np.arange(n) % 2)[:, None]


def noise(n: int = 400, d: int = 1) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((n, d))


#: Rows, a number of components, and the covariance types with which a component has lost its rows or its extent.
CASES: dict[str, tuple[np.ndarray, int, list[str]]] = {
    "every row twice": (np.repeat(clouds(), 2, axis=0), 2, []),
    "whole numbers": (np.round(clouds()), 2, []),
    "as many components as points": (np.repeat([[0.0, 0.0], [5.0, 1.0], [1.0, 7.0]], 40, axis=0), 3, KINDS),
    "more components than points": (np.repeat([[0.0, 0.0], [5.0, 1.0], [1.0, 7.0]], 40, axis=0), 5, KINDS),
    "features that depend but for a millionth": (np.hstack([noise(), 2 * noise() + 1e-6 * clouds()[:, :1]]), 2, []),
    # of a full or a tied covariance a far point is the longer side of one that has other rows
    "a cluster of one point": (np.vstack([clouds(), [[1e3, -1e3]]]), 3, ["diag", "spherical"]),
    # with full or tied covariances there are three components that mean something, with others there are not
    "a hundred equal rows": (np.vstack([np.zeros((100, 2)), clouds()]), 3, ["diag", "spherical"]),
    "features 1e-8 and 1e8 wide": (clouds() * [1e-8, 1e8], 2, []),
    "clusters 1e-8 and 1e8 wide": (
        np.vstack([1e-8 * noise(200, 2), 1e8 * noise(400, 2)[200:]]),
        2,
        ["full", "diag", "spherical"],
    ),
}


def usable(fit: Fit, x: np.ndarray, folder: Path) -> None:
    """Everything is finite, labels come of it, and it is itself when it is read again."""
    mixture = fit.mixture
    assert all(np.isfinite(values).all() for values in (mixture.weights, mixture.means, mixture.covariances))
    assert np.isfinite([fit.log_likelihood, fit.bic, fit.entropy]).all()
    assert mixture.weights.sum() == pytest.approx(1)
    assert (np.linalg.eigvalsh(covariances(fit)) > 0).all()
    # a covariance with a condition number of 2e13 has three digits left in its narrow direction
    digits = 1e-3 if np.linalg.cond(covariances(fit)).max() > 1e12 else 1e-6
    assert fit.log_likelihood == pytest.approx(mixture.log_density(x).sum(), rel=digits)
    dgmm.save(fit, folder / "m.zarr")
    scores = dgmm.score(dgmm.load(folder / "m.zarr"), x, folder / "s.zarr")
    assert np.isfinite(scores["log_density"].values).all()
    assert set(np.unique(scores["label"].values)) <= set(range(fit.n_components))
    assert (scores["probability"].values > 1 / fit.n_components - 1e-6).all()


def covariances(fit: Fit) -> np.ndarray:
    """As matrices, scaled to ones on the diagonal."""
    found, d = fit.mixture.covariances, fit.mixture.means.shape[1]
    if fit.covariance_type == "diag":
        found = found[:, :, None] * np.eye(d)
    elif fit.covariance_type == "spherical":
        found = found[:, None, None] * np.eye(d)
    width = np.sqrt(np.einsum("...ii->...i", found))
    return found / width[..., :, None] / width[..., None, :]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_a_finite_model_and_a_word_where_one_is_due(
    case: str, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    x, k, collapses = CASES[case]
    fit = dgmm.train(x, k, kind)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    usable(fit, x, tmp_path)
    if kind in collapses:
        assert fit.state == "collapsed"
        assert fit.collapsed
        names = ", ".join(map(str, fit.collapsed))
        (warning,) = warnings
        assert warning.startswith(f"collapsed: component{'s' * (len(fit.collapsed) > 1)} {names} ha")
        assert warning.endswith(
            f"too few samples, or less extent than reg_covar (1e-06) of the data's: lower n_components ({k}), or "
            "reg_covar if clusters so thin are real"
        )
    else:
        assert fit.state == "converged"
        assert not fit.collapsed
        assert warnings == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_twice_is_twice_the_likelihood(kind: str) -> None:
    once, twice = dgmm.train(clouds(), 2, kind), dgmm.train(np.repeat(clouds(), 2, axis=0), 2, kind)
    assert twice.log_likelihood == pytest.approx(2 * once.log_likelihood, rel=1e-6)


@pytest.mark.parametrize("kind", ["full", "tied", "diag"])
@pytest.mark.parametrize("width", [1e-8, 1e8])
def test_units_are_nothing_to_a_fit(kind: str, width: float) -> None:
    """But for the density's own unit; of a spherical covariance they are the shape."""
    plain, wide = dgmm.train(clouds(), 2, kind), dgmm.train(clouds() * [width, 1.0], 2, kind)
    assert wide.log_likelihood == pytest.approx(plain.log_likelihood - 400 * np.log(width), rel=1e-9)
    # k-means sees widths, so that the order of two equal weights and the last digits of a top are others
    found, expected = (fit.mixture.means[np.argsort(fit.mixture.means[:, 0])] for fit in (wide, plain))
    np.testing.assert_allclose(found / [width, 1.0], expected, atol=1e-4)
