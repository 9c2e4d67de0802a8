"""What jobs have come to, as text: for the command line and the flows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from dgmm import store
from dgmm.api import open_scores
from dgmm.config import Merge, Pipeline, Predict, Score, Select, Train, Update
from dgmm.data import Samples
from dgmm.fits import CRITERION_NAMES, Clusters, Fit, Selection, held_out_words
from dgmm.pipeline import MODEL, REPORT, SCORES, TABLE
from dgmm.prediction import Predicted
from dgmm.scoring import Scored
from dgmm.types import Criterion


def summary(job: Pipeline) -> str:
    """What was found and where it lies, as text."""
    lines = [show_model(os.path.join(job.out, MODEL), job.criterion)]
    lines += [f"{what}: {os.path.join(job.out, name)}" for what, name in
              (("model", MODEL), ("candidates", TABLE), ("scores", SCORES), ("report", REPORT))]  # fmt: skip
    return "\n".join(lines)


def show_model(path: str, criterion: Criterion | str) -> str:
    """A model that was chosen, as text."""
    record = store.read(path)
    lines = [describe(record.fit, criterion)]
    if record.table is not None:
        lines += [show_table(record.table, criterion), *filter(None, [held_out_words(record.table)])]
    return "\n".join([*lines, *stability_words(record.fit)])


def show_fit(settings: Train, fit: Fit) -> str:
    """What training has come to, as text."""
    return "\n".join([describe(fit), *stability_words(fit), f"model: {settings.out}"])


def show_updated(settings: Update, fit: Fit) -> str:
    """What an update has come to, as text."""
    return "\n".join([describe(fit), str(fit.updates[-1]), f"model: {settings.out}"])


def show_selection(settings: Select, selection: Selection) -> str:
    """What a selection has come to, as text."""
    lines = [show_table(selection.table, selection.criterion), describe(selection.best, selection.criterion)]
    lines += [*filter(None, [held_out_words(selection.table)]), *stability_words(selection.best)]
    if selection.at_edge:
        lines.append(f"the best K is the largest that was tried ({selection.best.n_components}): more may be better")
    return "\n".join([*lines, f"model: {settings.out.rstrip('/')}/{MODEL}"])


def show_scored(settings: Score, scored: Scored) -> str:
    """What scoring has come to, as text."""
    n = int(scored.counts.sum())
    return "\n".join(
        [
            f"{n} samples scored, {scored.n_missing} missing, mean log density {scored.log_density / max(n, 1):.6g}",
            *(
                f"{name}: {m} samples ({m / max(n, 1):.2%})"
                for name, m in zip(scored.labels, scored.counts.tolist(), strict=True)
            ),
            f"missing: {scored.n_missing}",
            f"scores: {settings.out}",
        ]
    )


def show_predicted(settings: Predict, found: Predicted) -> str:
    """What predicting has come to, as text."""
    return f"{found.n} samples predicted, {found.n_missing} missing: {settings.out}"


def show_merged(settings: Merge, fit: Fit) -> str:
    """What merging has come to, as text."""
    assert fit.clusters is not None
    return "\n".join([show_clusters(fit.clusters), *([f"model: {settings.out}"] if settings.out else [])])


def show_clusters(clusters: Clusters) -> str:
    """A hierarchy of clusters, level by level, as text."""
    lines = [f"{'clusters':>8}  {'entropy':>8}  merged"]
    for n in range(clusters.n_components, 0, -1):
        parts = clusters.merged_at(n) if n < clusters.n_components else ()
        merged = " and ".join("+".join(map(str, part)) for part in parts)
        lines.append(f"{n:>8}  {clusters.entropies[n - 1]:>8.4f}  {merged}".rstrip())
    return "\n".join([*lines, clusters.words])


def stability_words(fit: Fit) -> list[str]:
    """What refits have said, if any were made."""
    return [] if fit.stability is None else [fit.stability.words]


def describe(fit: Fit, criterion: Criterion | str = Criterion.BIC) -> str:
    """A fit in one paragraph, with the value of the criterion that chose it."""
    seen = "" if fit.spread is None else f"; on the sample {fit.spread}"
    held = f", held out {fit.held_out:.4f} per sample" if np.isfinite(fit.held_out) else ""
    held += f" (standard error {fit.held_out_se:.4f})" if np.isfinite(fit.held_out_se) else ""
    held += f", {' and '.join(fit.fixed)} held fixed" if fit.fixed else ""
    held += ", with the conjugate prior" if fit.prior != "none" else ""
    held += f", classes {', '.join(map(str, fit.classes))}" if fit.classes else ""
    held += "" if fit.noise is None else f", noise {fit.noise:.1%} of the rows"
    held += f", updated {len(fit.updates)} time{'s' * (len(fit.updates) != 1)}" if fit.updates else ""
    hard = "classification " if fit.assignment == "hard" else ""
    hard += "log-likelihood at least" if fit.updates else "log-likelihood"
    short = f", an estimated {fit.remaining_gain:.2g} nats per sample short of this top"
    return (
        f"{fit.covariance_type}, K = {fit.n_components} ({fit.n_parameters} parameters), {fit.n_samples} samples "
        f"({fit.n_missing} missing): {hard} {fit.log_likelihood:.4f}{held}, "
        f"{CRITERION_NAMES[Criterion(criterion)]} {fit.criterion(criterion):.2f}, {fit.state} after "
        f"{fit.n_passes} passes{short + seen if fit.outcome.is_sound else f': {fit.reason}'}"
    )


def show_record(record: store.Record) -> str:
    """All that a stored model says of itself, as text."""
    fit, table = record.fit, record.table
    lines = [describe(fit, record.criterion)]
    if fit.layout is not None:
        lines.append(f"features: {fit.layout.describe(fit.features)}")
    if fit.mixture.transform is not None:
        words = fit.mixture.transform.words
        lines.append(f"preprocessed: {words}; means are in the data's units, densities are not")
    lines += [_component(fit, component) for component in range(fit.mixture.n_components)]
    if fit.noise is not None:
        lines.append(f"noise: weight {fit.noise:.4f}")
    if fit.stability is not None:
        lines.append(fit.stability.words)
    lines += [f"updated with {batch}" for batch in fit.updates]
    if fit.clusters is not None:
        lines.append(show_clusters(fit.clusters))
    if table is not None:
        lines.append(show_table(table, record.criterion))
        lines += [words] if (words := held_out_words(table)) else []
    return "\n".join(lines)


def _component(fit: Fit, component: int) -> str:
    """One component in a line."""
    mean, weight, stability = fit.mixture.physical_means[component], fit.mixture.weights[component], fit.stability
    values = ", ".join(f"{name} {value:.4g}" for name, value in zip(fit.features[:6], mean, strict=False))
    more = ", ..." if len(mean) > 6 else ""
    if remark := fit.mixture.family.remarks(fit.mixture.components)[component]:
        more += f"; {remark}"
    if stability is not None:
        more += f"; found again in {stability.found_again[component]:.0%} of the refits, "
        more += f"standard error of the weight {stability.weights_se[component]:.2g}"
    of = "" if fit.class_of(component) is None else f" of class {fit.class_of(component)}"
    return f"component {component}{of}: weight {weight:.4f}, mean {values}{more}"


def show_scores(path: str, attributes: Mapping[str, Any]) -> str:
    """What scores hold, as text."""
    scores = open_scores(path)
    sizes = ", ".join(f"{d} {n}" for d, n in scores["label"].sizes.items())
    variables, coords = (", ".join(map(str, names)) for names in (scores.data_vars, scores.coords))
    return (
        f"{attributes.get('title', 'Scores')}, on {attributes.get('source', 'unknown data')}: {sizes}\n"
        f"variables: {variables}; coordinates: {coords}"
    )


def show_samples(samples: Samples) -> str:
    """What a store of samples holds and how it is read, as text."""
    sizes = ", ".join(f"{d} {n}" for d, n in zip(samples.dims, samples.grid.shape, strict=True))
    lines = [
        f"{samples.grid.size} samples ({sizes}) of {samples.n_features} features ({', '.join(samples.features)})",
        f"read in {len(samples.grid)} segments of up to {samples.grid.largest} samples",
        *samples.storage(),
    ]
    return "\n".join(lines)


def show_table(table: pd.DataFrame, criterion: Criterion | str = Criterion.BIC, rows: int = 12) -> str:
    """The first rows of a table of candidates, with the criterion that chose; what it does not have is left out."""
    columns = [
        "covariance_type",
        "n_components",
        "n_parameters",
        "log_likelihood",
        str(criterion),
        "n_passes",
        "state",
    ]
    shown = table.head(rows).to_string(
        index=False,
        columns=[column for column in columns if column in table],
        float_format=lambda v: f"{v:.2f}",
        # nats per sample, of which a hundredth is much
        formatters={str(Criterion.HELD_OUT): lambda v: f"{v:.6f}"},
    )
    more = len(table) - rows
    return shown + (f"\n... and {more} more" if more > 0 else "")
