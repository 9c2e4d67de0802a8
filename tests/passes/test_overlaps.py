"""Moments of samples that lack values: what pandas says of pairs of columns, whatever is merged."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dgmm.families import Moments
from dgmm.passes.overlaps import Overlaps


def test_moments_are_those_of_pairs_times_the_share_that_has_both() -> None:
    r = np.random.default_rng(0)
    x = 1e6 + r.standard_normal((300, 4)) @ r.standard_normal((4, 4))
    x[r.random(x.shape) < 0.3] = np.nan
    x[:40] = 1e6 + r.standard_normal((40, 4))
    parts = [Overlaps.complete(Moments.of(x[:40])), *(Overlaps.of(part) for part in np.array_split(x[40:], 7))]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.merge(part)
    found, frame = whole.moments(), pd.DataFrame(x)
    there = (~np.isnan(x)).astype(float)
    both = there.T @ there
    assert found.count == 300
    np.testing.assert_allclose(found.mean, frame.mean(), rtol=1e-13)
    np.testing.assert_allclose(np.diag(found.covariance), frame.var(ddof=0), rtol=1e-8)
    # about the means of all, as pandas has them of the samples that have both
    away = np.where(np.isnan(x), 0.0, x - np.nanmean(x, axis=0))
    shares = both / np.sqrt(np.outer(np.diag(both), np.diag(both)))
    np.testing.assert_allclose(found.covariance, away.T @ away / both * shares, rtol=1e-6, atol=1e-9)
    assert np.linalg.eigvalsh(found.covariance)[0] > 0


def test_weights_are_repeats() -> None:
    r = np.random.default_rng(1)
    x, w = r.standard_normal((50, 3)), r.integers(1, 4, 50)
    x[r.random(x.shape) < 0.4] = np.nan
    a, b = Overlaps.of(x, w.astype(float)), Overlaps.of(np.repeat(x, w, axis=0))
    for name in ("counts", "mean", "sums", "scatter"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-12, atol=1e-12)
