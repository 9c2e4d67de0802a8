"""Totals of several blocks of rows, added up before they are totals, are those of each merged in pairs."""

from __future__ import annotations

from dataclasses import fields
from functools import reduce

import numpy as np
import pytest

from dgmm.engine import Node, merge_all
from dgmm.errors import InputError
from dgmm.estep import PassTotals, Plan, Tally, accumulate, make_plan
from dgmm.estep import compiled as compiled_form
from dgmm.families import Moments, Noise, Rates, Students, get_family, make_frame
from dgmm.mixture import Mixture
from dgmm.rows import Rows

D, N = 3, 900


def samples() -> np.ndarray:
    r = np.random.default_rng(0)
    return np.concatenate([r.standard_normal((N // 2, D)), 0.5 * r.standard_normal((N - N // 2, D)) + 4])


X = samples()


def gaussians(k: int, scale: float = 1.0) -> Mixture:
    return Mixture.gaussian("full", np.arange(1.0, k + 1), X[:k], scale * np.tile(np.eye(D), (k, 1, 1)))


def plan_of(what: str) -> Plan:
    noise = Noise.between(0.1, X.min(axis=0), X.max(axis=0))
    students = Mixture(get_family("t_diag"), np.full(2, 0.5), Students(X[:2], np.ones((2, D)), np.full(2, 4.0)))
    mixtures = {
        "several": [gaussians(2), Mixture.gaussian("diag", np.ones(3), X[:3], np.ones((3, D))), gaussians(5)],
        "narrow": [gaussians(3, 1e-14), gaussians(2)],
        "noise": [gaussians(2).beside(noise), gaussians(2)],
        "hidden": [gaussians(2), students],
        "counts": [Mixture(get_family("poisson"), np.full(2, 0.5), Rates(np.array([[1.0] * D, [4.0] * D])))],
        "incomplete": [gaussians(2), gaussians(3)],
    }[what]
    moments = Moments.of(X)
    frames = {m.family.frame: make_frame(m.family.frame, moments.mean, moments.covariance) for m in mixtures}
    inside = [m.to_frame(frames[m.family.frame]) for m in mixtures]
    return make_plan(inside, frames, marginal=what == "incomplete")


def rows_of(what: str, *, weighted: bool) -> Rows:
    x, r = X.copy(), np.random.default_rng(1)
    if what == "counts":
        x = np.round(np.abs(x))
    if what == "incomplete":
        x[::7, 1] = np.nan
    return Rows(x, r.uniform(0.5, 1.5, N) if weighted else None)


def assert_same(found: PassTotals, expected: PassTotals) -> None:
    """To the last bit."""
    for field in fields(PassTotals):
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        for a, b in zip(ours, theirs, strict=True) if field.name == "sums" else [(ours, theirs)]:
            np.testing.assert_array_equal(a, b, err_msg=field.name)


@pytest.mark.parametrize("panel", [4, 1024])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("what", ["several", "narrow", "noise", "hidden", "counts", "incomplete"])
@pytest.mark.parametrize("n", [1, 2, 8])
def test_a_tally_is_what_totals_merge_into(
    what: str, weighted: bool, n: int, panel: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_form, "PANEL", panel)
    plan, rows = plan_of(what), rows_of(what, weighted=weighted)
    blocks = [rows[a : a + 100] for a in range(0, 100 * n, 100)]
    each = [accumulate(block, plan) for block in blocks]
    tally = Tally(plan)
    for block in blocks:
        tally.add(block)
    found = tally.totals()
    assert_same(found, merge_all(Node(0, i, totals) for i, totals in enumerate(each)))
    # one after the other they are rounded otherwise, and the counts are no sums of those of others
    assert found.count == pytest.approx(float(rows[: 100 * n].every_weight.sum()), rel=1e-14)
    in_line = reduce(PassTotals.merge, each)
    np.testing.assert_allclose(found.log_likelihoods, in_line.log_likelihoods, rtol=1e-13)


def test_a_tally_refuses_labels_as_totals_do() -> None:
    tally = Tally(plan_of("several"))
    with pytest.raises(InputError, match="a sample has the label 2, and the components are 0 to 1"):
        tally.add(Rows(X, labels=np.full(N, 2)))
