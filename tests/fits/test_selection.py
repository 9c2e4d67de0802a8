"""The smallest K within one standard error of the best, by rows that are held out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import dgmm
from dgmm.fits import Fit, Outcome, OutcomeKind, Selection, held_out_words
from dgmm.fits.table import make_table
from dgmm.mixture import Mixture
from dgmm.passes import BlockSums

COUNTS = np.array([10.0, 10.0, 0.0, 20.0])


def fit_of(k: int, means: list[float], kind: str = "diag", outcome: OutcomeKind = OutcomeKind.CONVERGED) -> Fit:
    """A fit whose mean log densities of the three blocks that are held out are these."""
    cov = np.ones((k, 2)) if kind == "diag" else np.broadcast_to(np.eye(2), (k, 2, 2))
    mixture = Mixture.gaussian(kind, np.ones(k), np.arange(2.0 * k).reshape(k, 2), cov)
    blocks = BlockSums(COUNTS, np.array([10 * means[0], 10 * means[1], 0.0, 20 * means[2]]))
    state = Outcome(outcome, 3, (0,) if outcome is OutcomeKind.COLLAPSED else ())
    fit = Fit(mixture, -100.0, 40, 0, 1, state, 0.0, (-100.0,), ("a", "b"), 0.0, blocks.mean)
    return replace(fit, judged=blocks, held_out_se=blocks.standard_error)


BEST = fit_of(5, [-1.0, -2.0, -3.0])
#: A block for which it is better makes the difference uncertain: mean 0.025, standard error 0.05 and more.
LEVEL = fit_of(3, [-1.2, -1.8, -3.05])
#: Always worse by the same: the standard error of the difference is nil, whatever that of each is.
WORSE = fit_of(2, [-1.02, -2.02, -3.02])


def selected(*fits: Fit) -> Selection:
    return Selection(fits[0], fits, 1.0)


def test_what_is_level_within_its_error_and_smallest_is_named() -> None:
    found = selected(BEST, LEVEL, WORSE)
    assert found.parsimonious is LEVEL
    assert WORSE.held_out_se > BEST.held_out - WORSE.held_out, "unpaired, it would be level"
    table = found.table.set_index("n_components")
    differences = BlockSums(COUNTS, LEVEL.judged.sums - BEST.judged.sums)  # type: ignore[union-attr]
    assert table["behind_se"][3] == differences.standard_error
    assert table["behind_se"][5] == 0.0
    assert held_out_words(found.table) == (
        f"by rows held out the best is diag K = 5, -2.2500 nats per sample (standard error {BEST.held_out_se:.4f}); "
        f"the smallest K within one standard error of it is diag K = 3, 0.0250 below (standard error "
        f"{differences.standard_error:.4f})"
    )


def test_of_one_k_the_one_with_fewest_parameters() -> None:
    # it stands first in the table
    likelier = replace(fit_of(3, [-1.2, -1.8, -3.05], "full"), log_likelihood=100.0)
    found = selected(BEST, likelier, LEVEL)
    assert found.table["covariance_type"][0] == "full"
    assert found.parsimonious is LEVEL


@pytest.mark.parametrize(("outcome", "counts"), [(OutcomeKind.COLLAPSED, False), (OutcomeKind.DROPPED, True)])
def test_what_has_collapsed_does_not_count(outcome: OutcomeKind, counts: bool) -> None:
    other = fit_of(3, [-1.2, -1.8, -3.05], outcome=outcome)
    assert selected(BEST, other).parsimonious is (other if counts else BEST)
    higher = fit_of(9, [0.0, 0.0, 0.0], outcome=OutcomeKind.COLLAPSED)
    assert selected(BEST, WORSE, higher).parsimonious is BEST


def test_one_block_names_the_best_alone() -> None:
    blocks = BlockSums(np.array([5.0, 0.0]), np.array([-5.0, 0.0]))
    single = [replace(f, judged=blocks, held_out=-1.0 - k, held_out_se=np.nan) for k, f in enumerate((BEST, LEVEL))]
    found = selected(*single)
    assert found.parsimonious is None
    assert held_out_words(found.table) == (
        "by rows held out the best is diag K = 5, -1.0000 nats per sample; a standard error takes two blocks at least"
    )


def test_without_rows_held_out_nothing_is_said() -> None:
    fit = replace(BEST, judged=None, held_out=np.nan, held_out_se=np.nan)
    assert selected(fit).parsimonious is None
    assert held_out_words(selected(fit).table) == ""
    assert held_out_words(make_table([BEST], {}).drop(columns=["held_out", "behind_se"])) == ""


def test_neighbours_that_are_copies_do_not_ask_for_more_components() -> None:
    """Levels of a smooth field: to rows held out at random, ever more components seem better; to blocks they do not."""
    r = np.random.default_rng(7)
    series = np.repeat(r.standard_normal((40, 2)), 50, axis=0) + 0.02 * r.standard_normal((2000, 2))
    how: dict[str, Any] = {"criterion": "held_out", "holdout": 0.3, "keep_all": True, "n_init": 3}
    rows = dgmm.select(series, [1, 2, 4, 8, 16], ["diag"], **how)
    blocks = dgmm.select(series, [1, 2, 4, 8, 16], ["diag"], holdout_by={"sample": 50}, **how)
    assert rows.best.n_components == 16
    assert blocks.parsimonious is not None
    assert blocks.parsimonious.n_components <= 2
