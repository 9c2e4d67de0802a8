"""Models and scores as assets: what they are called, and what is said of them when one was made."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from dgmm import store
from dgmm.errors import without_secrets
from dgmm.prediction import Predicted
from dgmm.refresh import last_night
from dgmm.scoring import Scored
from dgmm.store import digest

#: What Prefect has no place for in the name of an asset, and how long one is.
UNFIT, LONGEST = re.compile(r"[^A-Za-z0-9:/._@~=+-]+"), 512


def asset_of(path: str) -> str:
    """The name of what lies at a path or URL: a URL without what may be secret."""
    url = without_secrets(path) if "://" in path else f"file://{os.path.abspath(path)}"
    return UNFIT.sub("-", url)[:LONGEST]


def about_model(path: str) -> dict[str, Any]:
    """Of a model: which it is, of what, and how good."""
    record = store.read(path)
    fit = record.fit
    return {
        "digest": digest(fit.mixture),
        "covariance_type": fit.covariance_type,
        "n_components": fit.n_components,
        "samples": fit.n_samples,
        "missing": fit.n_missing,
        "log_likelihood_per_sample": fit.log_likelihood / fit.n_samples,
        "bic": fit.bic,
        "passes": fit.n_passes,
        "state": fit.state,
    }


def about_predictions(path: str) -> dict[str, Any]:
    """Of predictions: by which model, of what, given what, and of how many rows."""
    found = store.attributes(path)
    predicted = Predicted.in_attributes(found)
    return {
        "model_digest": found.get("model"),
        **{name: json.loads(found[name]) for name in ("of", "given")},
        "rows": predicted.n,
        "missing": predicted.n_missing,
    }


def about_scores(path: str) -> dict[str, Any]:
    """Of scores: of which model, of how many rows, and what these look like through it."""
    found: Mapping[str, Any] = store.attributes(path)
    scored, night = Scored.in_attributes(found), last_night(path)
    counts = scored.counts.tolist()
    n = max(sum(counts), 1)
    drift = None if night is None or night.drift is None else night.drift
    return {
        "model_digest": found.get("model"),
        "rows": sum(counts),
        "missing": scored.n_missing,
        "mean_log_density": scored.log_density / n,
        "shares": [count / n for count in counts],
        "drifted": None if drift is None else drift["drifted"],
        "drift": {} if drift is None else {shift["what"]: shift["effect"] for shift in drift["shifts"]},
    }
