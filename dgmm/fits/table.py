"""Candidates side by side, and what the table says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dgmm.fits.outcome import Outcome, OutcomeKind
from dgmm.fits.results import Fit
from dgmm.types import Criterion


def make_table(
    fits: Sequence[Fit],
    failures: Mapping[tuple[int, str], Outcome],
    criterion: Criterion = Criterion.BIC,
    tied: Sequence[Fit] = (),
) -> pd.DataFrame:
    """The table of a selection; see `Selection.table`."""
    judged = [f for f in fits if f.outcome.is_sound and f.judged is not None]
    judge = max(judged, key=lambda f: f.held_out).judged if judged else None
    rows = [
        {
            "n_components": f.n_components,
            "covariance_type": f.covariance_type,
            "n_parameters": f.n_parameters,
            "log_likelihood": f.log_likelihood,
            "bic": f.bic,
            "aic": f.aic,
            "icl": f.icl,
            "held_out": f.held_out,
            "held_out_se": f.held_out_se,
            "behind_se": np.nan if judge is None or f.judged is None else (f.judged - judge).standard_error,
            "n_passes": f.n_passes,
            "converged": f.converged,
            "remaining_gain": f.remaining_gain,
            "collapsed": len(f.collapsed),
            "state": f.state,
            "reason": f.reason,
            "tie": any(f is t for t in tied),
        }
        for f in fits
    ]
    for (k, kind), outcome in failures.items():
        blank = {"converged": False, "state": outcome.state, "reason": outcome.reason, "tie": False}
        rows.append({"n_components": k, "covariance_type": kind, **blank})
    table = pd.DataFrame(rows)
    order = -table["held_out"] if criterion is Criterion.HELD_OUT else table[criterion]
    outcomes = [*(f.outcome for f in fits), *failures.values()]
    last = [(not o.is_sound) + (o.kind is OutcomeKind.FAILED) for o in outcomes]
    return table.iloc[np.lexsort((order, last))].reset_index(drop=True)


def best_held_out(table: pd.DataFrame) -> pd.Series[Any] | None:
    """The row of a table with the highest held_out, of those that mean something; None where no rows were held out."""
    return _first(_sound(table), ["held_out"], ascending=False)


def parsimonious_row(table: pd.DataFrame) -> pd.Series[Any] | None:
    """The row with the smallest K whose held_out is within one standard error of the highest.

    The one-standard-error rule (Breiman et al. 1984), with the standard error of the difference, which is what tells
    two candidates apart: both are judged by the same blocks. Of several with this K, the one with fewest parameters. A
    candidate that was dropped counts with what it had reached. None where no rows were held out, or in one block.
    """
    best = best_held_out(table)
    if best is None or "behind_se" not in table:
        return None
    sound = _sound(table)
    near = sound[best["held_out"] - sound["held_out"] <= sound["behind_se"]]
    return _first(near, ["n_components", "n_parameters"], ascending=True)


def held_out_words(table: pd.DataFrame) -> str:
    """Which candidates the rows that are held out speak for; empty where there are none."""
    best, small = best_held_out(table), parsimonious_row(table)
    if best is None:
        return ""
    said = f"by rows held out the best is {_name(best)}, {best['held_out']:.4f} nats per sample"
    if small is None:
        return f"{said}; a standard error takes two blocks at least"
    below = best["held_out"] - small["held_out"]
    its = "" if below == 0 else f", {below:.4f} below (standard error {small['behind_se']:.4f})"
    return (
        f"{said} (standard error {best['held_out_se']:.4f}); the smallest K within one standard error of it is "
        f"{_name(small)}{its}"
    )


def _name(row: pd.Series[Any]) -> str:
    return f"{row['covariance_type']} K = {row['n_components']}"


def _sound(table: pd.DataFrame) -> pd.DataFrame:
    """The candidates whose likelihood means something."""
    return table[[Outcome.parse(state).is_sound for state in table["state"]]]


def _first(table: pd.DataFrame, by: list[str], *, ascending: bool) -> pd.Series[Any] | None:
    known = table[table["held_out"].notna()] if "held_out" in table else table[:0]
    return known.sort_values(by, ascending=ascending, kind="stable").iloc[0] if len(known) else None
