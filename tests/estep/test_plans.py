"""Any plan at all: the compiled E-step adds up to what the plain one does, in every layout that a plan can have."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgmm.estep import Plain, accumulate, make_plan, unpack
from dgmm.estep import compiled as compiled_form
from dgmm.families import Moments, make_frame
from dgmm.mixture import Mixture
from dgmm.rows import Rows

KINDS = ["full", "tied", "diag", "spherical"]
#: In squared units of the data: far below what the expanded form can hold, so that such a component is local.
NARROW = 1e-15


def rows_of(n: int, d: int, apart: float, seed: int) -> np.ndarray:
    """Groups so many deviations apart: most responsibilities are zero where that is much."""
    r = np.random.default_rng(seed)
    return apart * r.integers(0, 4, (n, 1)) * np.linspace(1, 2, d) + r.standard_normal((n, d)) + 30


def mixture_on(x: np.ndarray, kind: str, k: int, n_narrow: int, seed: int) -> Mixture:
    """Components on rows of the data, the last of them next to nothing wide.

    Not all of several, or which is the nearest to a row would be a matter of rounding: it is 1e14 nats from each.
    """
    r, d = np.random.default_rng(seed), x.shape[1]
    variances = r.uniform(0.3, 3, (k, d))
    n_narrow = min(n_narrow, 1 if k == 1 else 0 if kind == "tied" else k - 1)
    variances[k - n_narrow :] *= NARROW
    roots = np.sqrt(variances)[:, :, None] * (np.eye(d) + 0.3 * np.tril(r.standard_normal((k, d, d)), -1))
    full = roots @ np.swapaxes(roots, 1, 2)
    covariances = {"full": full, "tied": full[-1], "diag": variances, "spherical": variances[:, 0]}[kind]
    return Mixture.gaussian(kind, r.uniform(0.2, 2, k), x[r.integers(len(x), size=k)], covariances)


def assert_compiled_is_plain(x: np.ndarray, apart: float, mixtures: list[Mixture], weights: np.ndarray | None) -> None:
    moments = Moments.of(rows_of(2000, x.shape[1], apart, 99))
    kinds: tuple[Any, ...] = ("whitening", "isotropic")
    frames = {kind: make_frame(kind, moments.mean, moments.covariance) for kind in kinds}
    inside = [m.to_frame(frames[m.family.frame]) for m in mixtures]
    plan = make_plan(inside, frames)
    assert plan.n_rows == sum(m.n_components for m in mixtures)
    assert sum(plan.local) == sum((m.family.narrowness(m.components, moments) < 1e-12).sum() for m in mixtures)
    compiled, plain = (f(Rows(x, weights), plan) for f in (accumulate, Plain().accumulate))
    count = float(len(x)) if weights is None else weights.sum()
    assert compiled.count == plain.count == pytest.approx(count)
    for ours, theirs in zip(unpack(compiled, plan), unpack(plain, plan), strict=True):
        np.testing.assert_allclose(ours.log_likelihood, theirs.log_likelihood, rtol=1e-10, atol=1e-8 * count)
        np.testing.assert_allclose(ours.sums, theirs.sums, rtol=1e-8, atol=1e-10 * max(np.abs(theirs.sums).max(), 1e-9))
        np.testing.assert_allclose(ours.squares, theirs.squares, rtol=1e-8, atol=1e-10 * count * count)
        np.testing.assert_array_equal(ours.local, theirs.local)
        assert ours.sums[:, 0].sum() == pytest.approx(count, rel=1e-12)


@given(
    d=st.integers(1, 6),
    n=st.integers(1, 300),
    wanted=st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 9), st.integers(0, 2)), min_size=1, max_size=6),
    apart=st.sampled_from([0.3, 3.0, 100.0]),
    panel=st.sampled_from([1, 2, 3, 5, 7, 11, 1024]),
    width=st.sampled_from([64, 192, 2048]),
    exponents=st.none() | st.tuples(st.integers(-12, 12), st.integers(-12, 12)),
    dtype=st.sampled_from(["float64", "float32"]),
    seed=st.integers(0, 10**6),
)
def test_any_plan(
    d: int,
    n: int,
    wanted: list[tuple[str, int, int]],
    apart: float,
    panel: int,
    width: int,
    exponents: tuple[int, int] | None,
    dtype: str,
    seed: int,
) -> None:
    """Any mixtures, some of their components local; any panels; weights of 1e-12 to 1e12, brought to a mean of one."""
    x = rows_of(n, d, apart, seed).astype(dtype)
    mixtures = [mixture_on(x.astype(float), kind, k, narrow, seed + i) for i, (kind, k, narrow) in enumerate(wanted)]
    weights = None
    if exponents is not None:
        weights = 10.0 ** np.random.default_rng(seed).uniform(min(exponents), max(exponents), n)
        weights *= n / weights.sum()
    with patch.multiple(compiled_form, PANEL=panel, NARROWEST=width, WIDEST=width):
        assert_compiled_is_plain(x, apart, mixtures, weights)


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("panel", [3, 1024])
def test_more_than_a_thousand_components(d: int, panel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_form, "PANEL", panel)
    x = rows_of(200, d, 3.0, 1)
    sizes = [1, 300, 2, 299, 7, 150, 1, 250, 60, 3]
    mixtures = [mixture_on(x, KINDS[i % 4], k, i % 3, i) for i, k in enumerate(sizes)]
    assert sum(sizes) > 1000
    assert_compiled_is_plain(x, 3.0, mixtures, None)
    assert_compiled_is_plain(x, 3.0, mixtures, np.random.default_rng(0).gamma(0.5, size=200))
