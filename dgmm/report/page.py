"""Pictures and one self-contained page by which a person can judge a mixture."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from typing import cast

import jinja2
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.colors import to_hex
from matplotlib.figure import Figure, FigureBase

from dgmm.fits import CRITERION_NAMES, FOUND_AGAIN, SOUND, STRONG, Fit, OutcomeKind, held_out_words
from dgmm.report.figures import (
    BANDS,
    class_colours,
    convergence_figure,
    criterion_figure,
    deviations,
    gaps,
    main_figure,
    map_figure,
    means_figure,
    profile_figure,
    sample_figure,
    states,
    strides,
)
from dgmm.report.looks import DUST
from dgmm.report.maps import map_dims
from dgmm.store import place_at
from dgmm.types import Criterion, FloatArray

#: Rows of the table of candidates, features in the table of components.
ROWS, COLUMNS = 20, 8
#: No deviation is smaller, where it is written in digits.
LEAST = 1e-30
#: Dots per inch of the pictures.
DPI = 150


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    fit: Fit,
    table: pd.DataFrame | None,
    scores: xr.Dataset,
    features: xr.DataArray | Sequence[xr.DataArray] | None = None,
    sample: FloatArray | None = None,
    picture: str | os.PathLike[str] | None = None,
    criterion: Criterion = Criterion.BIC,
) -> None:
    """Write the report: one HTML file that needs nothing else.

    Parameters
    ----------
    path : path
        The page; replaced at once if it exists.
    title : str
        Heading of the page.
    fit : Fit
        The model to report.
    table : DataFrame or None
        The candidates, as in `Selection.table`; None if there was only one.
    scores : Dataset
        ``label`` (-1 where missing) and ``probability`` on the grid of the input; may be lazy and large.
    features : DataArray or sequence of DataArray, optional
        Coordinates along which the features lie; if numeric, their attributes ``units``, ``positive``,
        ``value_name`` and ``value_units`` label the profiles, and ``features`` is the slice of those that lie there.
    sample : ndarray, shape (m, d), optional
        Rows of the data, for the scatter plot.
    picture : path, optional
        Also write the main pictures as one PNG.
    criterion : Criterion
        What the model was chosen by.
    """
    mixture, on = fit.mixture, map_dims(scores)
    steps = strides(scores["label"], on or ())
    view = scores[["label", "probability"]].isel({d: slice(None, None, s) for d, s in steps.items()}).load()
    given = (features,) if isinstance(features, xr.DataArray) else features or ()
    along = [axis for axis in given if axis.dtype.kind in "fiu" and axis.size > 1]
    profiled = sum(axis.size for axis in along)
    rows = None if sample is None or along else sample[np.isfinite(sample).all(axis=1)]
    rows = rows if rows is not None and len(rows) else None
    figures = {
        "criterion": None if table is None else criterion_figure(table, fit, criterion),
        "map": map_figure(view, mixture, names=fit.classes) if on else None,
        "profiles": profile_figure(mixture, along) if along else None,
        "sample": None if rows is None else sample_figure(mixture, rows, fit.features),
        "means": means_figure(mixture, fit.features) if profiled < mixture.n_inputs > 2 else None,
        "convergence": convergence_figure(fit) if len(fit.trajectory) > 1 else None,
    }
    probability = view["probability"].values[view["label"].values != -1]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dgmm.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        title=title,
        fit=fit,
        candidates=[] if table is None else table.head(ROWS).to_dict("records"),
        n_candidates=0 if table is None else len(table),
        cautions=cautions(fit, table, criterion),
        held_out=table is not None and table["held_out"].notna().any(),
        judged=None if table is None else held_out_words(table),
        images={name: _data_url(figure) for name, figure in figures.items() if figure is not None},
        steps={d: s for d, s in steps.items() if s > 1},
        across=[d for d in view["label"].dims if d not in on] if on else [],
        dust=DUST,
        colours=[to_hex(c) for c in class_colours(mixture)],
        shown=np.unique(np.linspace(0, mixture.n_inputs - 1, COLUMNS).astype(int)).tolist(),
        digits=np.clip(2 - np.floor(np.log10(np.maximum(deviations(mixture).min(axis=0), LEAST))), 0, 9)
        .astype(int)
        .tolist(),
        unit=along[0].attrs.get("units", "") if len(along) == 1 and profiled == mixture.n_inputs else "",
        probability=probability if len(probability) else None,
        remarks=mixture.family.remarks(mixture.components),
        bands=mixture.n_components <= BANDS,
        strong=STRONG,
        found_again=FOUND_AGAIN,
        criterion=CRITERION_NAMES[criterion],
    )
    files = [("report", path, page.encode())]
    if picture is not None:
        files.append(("picture", picture, _png(main_figure(fit, table, view if on else None, along, rows, criterion))))
    for what, place, content in files:
        with place_at(place).begin(what, overwrite=True) as output:
            output.write(content)
            output.finish()


def cautions(fit: Fit, table: pd.DataFrame | None, criterion: Criterion = Criterion.BIC) -> list[str]:
    """What speaks against taking the model as it is, in words."""
    found = []
    if fit.outcome.is_sound and not fit.converged:
        gain = f"an estimated {fit.remaining_gain:.2g} nats per sample" if np.isfinite(fit.remaining_gain) else "more"
        found.append(f"Not converged: training ended after {fit.n_passes} passes with {gain} still to be gained.")
    if fit.collapsed:
        which = ", ".join(map(str, fit.collapsed))
        found.append(f"Collapsed components: {which}. They are too narrow or too small to mean anything.")
    if fit.stability is not None:
        shares = fit.stability.found_again
        n = len(fit.stability.rand)
        found += [
            f"Class {k} is found again in {shares[k]:.0%} of the refits only ({n})."
            for k in np.flatnonzero(shares < 0.5)
        ]
    if table is None:
        return found
    tied = table[table["tie"]]
    if len(tied):
        which = ", ".join(f"{t.covariance_type} K = {t.n_components}" for t in tied.itertuples())
        found.append(f"A tie: {which} differ by no more than they may still gain. The simplest of them is shown.")
    conditions, names = states(table), table["covariance_type"] + " K = " + table["n_components"].astype(str)
    tried = sorted(set(table["n_components"][table["bic"].notna()]))
    if len(tried) > 1 and fit.n_components == tried[-1]:
        found.append(f"The best K = {tried[-1]} is the largest that was tried: a larger one may be better.")
    winner = (table["n_components"] == fit.n_components) & (table["covariance_type"] == fit.covariance_type)
    behind = gaps(table, fit, criterion)[~winner & conditions.isin(SOUND)].dropna()
    if len(behind) and behind.min() < STRONG:
        close = f"{names[behind.idxmin()]} is only {behind.min():.1f} worse in {CRITERION_NAMES[criterion]}"
        found.append(f"A close contest: {close}.")
    hopeless = {OutcomeKind.COLLAPSED: "collapsed and cannot win", OutcomeKind.FAILED: "could not be fitted"}
    for state, what in hopeless.items():
        some = names[conditions == state].tolist()
        more = f" and {len(some) - 5} more" if len(some) > 5 else ""
        found += [f"Candidates that {what}: {', '.join(some[:5])}{more}."] if some else []
    return found


def _png(figure: FigureBase) -> bytes:
    buffer = io.BytesIO()
    cast(Figure, figure).savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", metadata={"Software": "dgmm"})
    return buffer.getvalue()


def _data_url(figure: FigureBase) -> str:
    return f"data:image/png;base64,{base64.b64encode(_png(figure)).decode()}"
