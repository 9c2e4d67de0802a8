"""Refits on other weights: which components are found again, and how well their parameters are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import dgmm
from dgmm import store
from dgmm.errors import InputError
from dgmm.fits import Fit
from dgmm.fitting import bootstrap
from dgmm.fitting.bootstrap import jaccard
from dgmm.rows import Rows
from dgmm.store.reading import from_dataset
from dgmm.store.record import to_dataset


def clusters(n: int = 3000, distance: float = 12.0, seed: int = 0) -> np.ndarray:
    """Three, of which the third is a part so far from the first two, shares 50, 30 and 20 %."""
    r = np.random.default_rng(seed)
    centres = np.array([[0.0, 0.0], [12.0, 0.0], [12.0, distance]])
    return centres[r.choice(3, size=n, p=[0.5, 0.3, 0.2])] + r.standard_normal((n, 2))


def test_clusters_far_apart_are_always_found_again() -> None:
    """And the errors are those of counting and of means: binomial, and sd over root n."""
    n = 3000
    fit = dgmm.train(clusters(n), 3, stability=80)
    assert fit.stability is not None
    assert (fit.stability.n_rows, fit.stability.n_blocks, fit.stability.rand.shape) == (n, 0, (80,))
    np.testing.assert_array_equal(fit.stability.found_again, 1.0)
    np.testing.assert_array_equal(fit.stability.rand, 1.0)
    w = fit.mixture.weights
    np.testing.assert_allclose(fit.stability.weights_se, np.sqrt(w * (1 - w) / n), rtol=0.2)
    np.testing.assert_allclose(fit.stability.means_se, np.sqrt(1 / (w * n))[:, None] * np.ones(2), rtol=0.2)
    assert fit.stability.words == (
        "80 refits on other weights of 3000 rows: adjusted Rand index 1.000 (1.000 to 1.000); every class is found "
        "again in all of them"
    )


def test_a_sample_stands_for_all_rows() -> None:
    """The errors are of a fit to all of them."""
    few = dgmm.train(clusters(8000), 3, stability=60, sample_rows=2000, search="starts").stability
    assert few is not None
    assert few.n_rows == 2000
    w = np.array([0.5, 0.3, 0.2])
    np.testing.assert_allclose(few.weights_se, np.sqrt(w * (1 - w) / 8000), rtol=0.25)


def test_more_components_than_clusters_are_not_found_again() -> None:
    found = [dgmm.train(clusters(600), 6, stability=20, seed=seed) for seed in range(3)]
    assert np.median([fit.stability.found_again.min() for fit in found if fit.stability]) < 0.5
    assert all(np.median(fit.stability.rand) < 0.95 for fit in found if fit.stability)
    fit = found[0]
    assert fit.stability is not None
    k, share = fit.stability.found_again.argmin(), fit.stability.found_again.min()
    assert f"; found again: class {k} in {share:.0%}" in fit.stability.words
    many = replace(fit.stability, found_again=np.array([1.0, 0.5, 0.25, 0.75, 0.5, 0.5, 0.5, 0.6]))
    assert many.words.endswith(
        "; found again: class 2 in 25%, class 1 in 50%, class 4 in 50%, class 5 in 50%, class 6 in 50% of the refits "
        "and 2 more not in all"
    )


def test_copies_in_blocks_count_once() -> None:
    """Each row eight times: by rows the errors are too small by the root of eight."""
    x = np.repeat(clusters(400), 8, axis=0)
    data = xr.DataArray(x, dims=("row", "level"))
    how: dict[str, Any] = {"feature_dim": "level", "holdout": 0.3, "stability": 100, "search": "starts"}
    rows = dgmm.train(data, 3, **how).stability
    fit = dgmm.train(data, 3, holdout_by={"row": 8}, **how)
    blocks, n = fit.stability, fit.n_samples / 8
    assert rows is not None
    assert blocks is not None
    assert (rows.n_blocks, blocks.n_blocks) == (0, n)
    w = fit.mixture.weights
    np.testing.assert_allclose(blocks.weights_se, np.sqrt(w * (1 - w) / n), rtol=0.25)
    np.testing.assert_allclose(blocks.weights_se / rows.weights_se, np.sqrt(8), rtol=0.3)
    assert f"of {blocks.n_blocks} blocks" in blocks.words


def test_weights_of_the_rows_are_weights_of_the_refits() -> None:
    """Rows of next to no weight leave the shares to the others."""
    x = clusters(2000)
    w = np.where(x[:, 0] < 6, 1.0, 0.25)
    seen: list[Rows] = []

    def refit(start: Any, rows: Rows, *more: Any) -> Any:
        seen.append(rows)
        return start

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "_refit", refit)
        dgmm.train(x, 3, weights=w, stability=40)
    heavy = [rows.weights[rows.x[:, 0] < 6].sum() / rows.weights.sum() for rows in seen]  # type: ignore[index,union-attr]
    expected = w[x[:, 0] < 6].sum() / w.sum()
    assert np.mean(heavy) == pytest.approx(expected, abs=4 * np.std(heavy) / np.sqrt(40))
    assert np.std(heavy) > 0
    for rows in seen:
        assert rows.weights is not None
        assert rows.weights.mean() == pytest.approx(1.0, rel=1e-12)


def test_components_are_told_by_overlap_not_by_place() -> None:
    r = np.random.default_rng(3)
    a = r.dirichlet(np.ones(3), size=50)
    np.testing.assert_allclose(np.diag(jaccard(a, a[:, [2, 0, 1]])[:, [1, 2, 0]]), 1.0)
    labels, others = r.integers(3, size=200), r.integers(4, size=200)
    found = jaccard(np.eye(3)[labels], np.eye(4)[others])
    for k in range(3):
        for m in range(4):
            ours, theirs = set(np.flatnonzero(labels == k)), set(np.flatnonzero(others == m))
            assert found[k, m] == pytest.approx(len(ours & theirs) / len(ours | theirs), rel=1e-12)


def test_a_refit_whose_components_change_places_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def turned(start: Any, *more: Any) -> Any:
        order = np.array([2, 0, 1])
        return type(start)(start.family, start.weights[order], start.family.taken(start.components, order))

    monkeypatch.setattr(bootstrap, "_refit", turned)
    found = dgmm.train(clusters(), 3, stability=3).stability
    assert found is not None
    np.testing.assert_array_equal(found.found_again, 1.0)
    np.testing.assert_allclose(found.means_se, 0.0, atol=1e-12)
    np.testing.assert_allclose(found.rand, 1.0)


def test_the_same_bits_whatever_the_threads() -> None:
    one, three = (dgmm.select(clusters(5000), [3, 4], ["full"], stability=3, n_workers=n).best for n in (1, 3))
    for name in ("rand", "found_again", "weights_se", "means_se"):
        assert getattr(one.stability, name).tobytes() == getattr(three.stability, name).tobytes()


def test_only_the_winner_is_refitted() -> None:
    found = dgmm.select(clusters(), [2, 3], ["full", "diag"], stability=2)
    assert [f.stability is not None for f in found.fits] == [f is found.best for f in found.fits]
    assert dgmm.train(clusters(500), 2).stability is None


def test_one_refit_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        dgmm.train(clusters(100), 2, stability=1)
    assert str(caught.value) == "stability: a single refit says nothing of a spread: give 0, or 2 and more (not 1)"


@pytest.fixture(scope="module")
def stable() -> Fit:
    return dgmm.train(clusters(600), 4, stability=5)


@pytest.mark.parametrize("suffix", ["m.zarr", "m.json"])
def test_it_is_kept_with_the_model(stable: Fit, suffix: str, tmp_path: Path) -> None:
    store.save(stable, tmp_path / suffix)
    found, given = store.load(str(tmp_path / suffix)).stability, stable.stability
    assert found is not None
    assert given is not None
    assert (found.n_rows, found.n_blocks) == (given.n_rows, given.n_blocks)
    for name in ("rand", "found_again", "weights_se", "means_se"):
        assert getattr(found, name).tobytes() == getattr(given, name).tobytes()


def test_what_does_not_fit_the_model_is_refused(stable: Fit) -> None:
    assert stable.stability is not None
    cut = to_dataset(stable).assign(stability_found_again=("some", stable.stability.found_again[:2]))
    with pytest.raises(InputError, match=r"m is damaged: its stability_found_again have shape \(2,\)"):
        from_dataset(cut, "m")
    none = replace(stable.stability, rand=np.empty(0))
    with pytest.raises(InputError, match=r"m is damaged: its stability_rand have shape \(0,\)"):
        from_dataset(to_dataset(replace(stable, stability=none)), "m")
