"""The rule by which a candidate takes the place of the champion, against what SciPy says of the rows that judge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from dgmm.config import Acceptance
from dgmm.data import Samples, open_samples
from dgmm.engine.workers import threads
from dgmm.fits import Fit, Outcome, OutcomeKind, Stability, Training
from dgmm.mixture import Mixture
from dgmm.passes.sample import is_held_out
from dgmm.refresh.judging import aligned, judged

MEANS, N, OLD = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]]), 3000, 2000
OPTIONS = Training(holdout=0.25, seed=3)


def fit_of(means: np.ndarray, weights: list[float] | None = None, outcome: Outcome | None = None) -> Fit:
    k = len(means)
    w = np.full(k, 1 / k) if weights is None else np.array(weights)
    mixture = Mixture.gaussian("full", w, means, np.tile(np.eye(2), (k, 1, 1)))
    return Fit(mixture, -1.0, N, 0, 1, outcome or Outcome(OutcomeKind.CONVERGED, 1), 0.0, (-1.0,), ("0", "1"))


def data(shift: float = 0.0) -> np.ndarray:
    """Rows of three classes, of which the new ones lie elsewhere."""
    r = np.random.default_rng(0)
    x = MEANS[r.choice(3, N)] + r.standard_normal((N, 2))
    x[OLD:] += shift
    return x


def verdict(candidate: Fit, champion: Fit | None, x: np.ndarray, since: int = OLD, options: Training = OPTIONS,
            **rule: Any) -> Any:  # fmt: skip
    fit, matching = aligned(candidate, champion)
    return judged(Acceptance(**rule), fit, champion, matching, "v1", open_samples(x), since, options, threads(2))


def densities(fit: Fit, x: np.ndarray) -> np.ndarray:
    m = fit.mixture
    parts = [w * multivariate_normal(mu, c).pdf(x) for w, mu, c in zip(m.weights, m.means, m.covariances, strict=True)]
    return np.log(np.sum(parts, axis=0))


def expected(candidate: Fit, champion: Fit, x: np.ndarray, since: int) -> tuple[float, float]:
    """Gain and standard error over the held-out rows from a place on, in their groups."""
    from dgmm.passes.sample import groups_of, n_groups

    grid = open_samples(x).grid
    numbers = np.arange(since, len(x), dtype=np.uint64)
    numbers = numbers[is_held_out(numbers, OPTIONS.seed, OPTIONS.holdout)]
    gains = densities(candidate, x[numbers.astype(int)]) - densities(champion, x[numbers.astype(int)])
    groups = groups_of(numbers, grid, None, OPTIONS.seed)
    counts = np.bincount(groups, minlength=n_groups(grid, None))
    sums = np.bincount(groups, gains, minlength=len(counts))
    n, mean = np.count_nonzero(counts), gains.mean()
    return mean, np.sqrt(n / (n - 1) * ((sums - mean * counts) ** 2).sum()) / counts.sum()


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_gain_is_that_of_held_out_rows_of_the_new_data(shift: float) -> None:
    x = data(shift)
    champion, candidate = fit_of(MEANS), fit_of(MEANS[[2, 0, 1]] + 0.25)
    found = verdict(candidate, champion, x)
    gain, error = expected(candidate, champion, x, OLD)
    assert found.gain == pytest.approx(gain, rel=1e-9)
    assert found.standard_error == pytest.approx(error, rel=1e-9)
    assert found.accepted is (shift > 0)
    assert [c.before for c in found.classes] == [0, 1, 2]
    assert [c.overlap for c in found.classes] == pytest.approx([np.exp(-(0.25**2 * 2) / 8)] * 3)
    assert "of the new data" in found.why


def test_the_loss_that_is_allowed_is_a_bound_from_both_sides() -> None:
    x, champion, candidate = data(), fit_of(MEANS), fit_of(MEANS + 0.25)
    gain, error = expected(candidate, champion, x, OLD)
    least = -(gain + error)
    assert least > 0
    assert not verdict(candidate, champion, x, max_loss=least - 1e-6).accepted
    assert verdict(candidate, champion, x, max_loss=least + 1e-6).accepted


def test_every_class_with_a_share_must_be_found_again() -> None:
    x, champion = data(), fit_of(MEANS, [0.5, 0.45, 0.05])
    x[OLD:] = x[OLD:] * 0.1 + 4.0
    candidate = fit_of(np.array([MEANS[0], MEANS[1], [4.0, 4.0]]), [0.3, 0.3, 0.4])
    found = verdict(candidate, champion, x)
    assert found.gain > 0
    assert not found.accepted
    assert "class 2 (share 5.0%, overlap" in found.why
    assert verdict(candidate, champion, x, min_share=0.0500001).accepted
    overlap = found.classes[2].overlap
    assert 0 < overlap < 0.1
    assert verdict(candidate, champion, x, min_overlap=overlap - 1e-9).accepted
    assert not verdict(candidate, champion, x, min_overlap=overlap + 1e-9).accepted


def test_where_no_new_row_is_held_out_all_that_are_judge() -> None:
    x, champion = data(), fit_of(MEANS)
    found = verdict(champion, champion, x, since=N - 1)
    assert found.gain == 0.0
    assert "rows held out of the data" in found.why
    blocks = Training(holdout=0.25, holdout_by={"sample": 1500}, seed=0)
    refused = verdict(champion, champion, x, options=blocks)
    assert not refused.accepted
    assert "fewer than 2 blocks are held out that could judge" in refused.why


def test_what_means_little_is_refused_and_the_first_one_accepted() -> None:
    x = data()
    collapsed = fit_of(MEANS, outcome=Outcome(OutcomeKind.COLLAPSED, 1, (1,), "component 1 is too narrow"))
    found = verdict(collapsed, fit_of(MEANS), x)
    assert not found.accepted
    assert "component 1 is too narrow" in found.why
    assert not verdict(collapsed, None, x).accepted
    assert verdict(fit_of(MEANS), None, x).accepted


def test_a_fit_in_another_order_takes_all_that_is_known_of_its_components_along() -> None:
    fit = fit_of(MEANS, [0.5, 0.3, 0.2], Outcome(OutcomeKind.COLLAPSED, 1, (0, 2), "narrow"))
    stability = Stability(10, 0, np.ones(2), np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 3.0]), MEANS)
    order = np.array([2, 0, 1])
    found = replace(fit, stability=stability).reordered(order)
    assert found.mixture.weights.tolist() == [0.2, 0.5, 0.3]
    assert (found.mixture.means == MEANS[order]).all()
    assert found.collapsed == (0, 1)
    assert found.stability is not None
    assert found.stability.found_again.tolist() == [0.3, 0.1, 0.2]
    assert found.stability.weights_se.tolist() == [3.0, 1.0, 2.0]
    assert (found.stability.means_se == MEANS[order]).all()


def test_samples_from_a_place_on_are_those_rows() -> None:
    x = data()

    def read(samples: Samples) -> np.ndarray:
        return np.concatenate([samples.read_rows(samples.grid.region(i)).x for i in range(len(samples.grid))])

    samples = open_samples(x)
    for start in (0, 1, 1999, N - 1):
        assert (read(samples.since(start)) == x[start:]).all()
    assert (read(samples.since(10).since(5)) == x[15:]).all()
