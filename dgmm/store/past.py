"""The sufficient statistics of a model as they are stored, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dgmm.em import Past
from dgmm.families import Family, Frame, Moments, SufficientStatistics
from dgmm.mixture import Mixture
from dgmm.types import AnyArray

#: How the names of variables and attributes begin that hold them.
OF_PAST = "statistics_"
#: Numbers, as attributes: rows that are summed over, and what each says beside what is linear in the sums.
NUMBERS = ("count", "constant", "entropy", "noise", "moments_count")


def variables_of(past: Past | None, family: Family) -> dict[str, tuple[tuple[str, ...], AnyArray]]:
    """Variables with their dimensions; none where there is no past."""
    if past is None:
        return {}
    s, frame = past.statistics, past.frame
    linear = ("way", *("feature", "feature_")[: frame.forward.ndim])
    found: dict[str, tuple[tuple[str, ...], AnyArray]] = {
        "sums": (("component", "statistic"), s.sums),
        # where features are independent nobody asks for more than its diagonal, which may be much less
        "scatter": (("feature",), np.diagonal(past.moments.scatter))
        if family.independent
        else (("feature", "feature_"), past.moments.scatter),
        # the mean of the rows; the origin of the coordinates, and the maps to these and back
        "points": (("point", "feature"), np.stack([past.moments.mean, frame.origin])),
        "maps": (linear, np.stack([frame.forward, frame.backward])),
    }
    if np.isfinite(s.squares).all():
        found["squares"] = ("component",), np.asarray(s.squares)
    return {OF_PAST + name: value for name, value in found.items()}


def numbers_of(past: Past | None) -> dict[str, float]:
    """Attributes; what is not known is not there."""
    if past is None:
        return {}
    s = past.statistics
    values = (s.count, s.log_likelihood, s.entropy, s.noise, past.moments.count)
    found = zip(NUMBERS, values, strict=True)
    return {OF_PAST + name: float(value) for name, value in found if math.isfinite(value)}


def past_in(arrays: Mapping[str, AnyArray], numbers: Mapping[str, Any], mixture: Mixture) -> Past | None:
    """The past of a stored model; None if it has none.

    Raises
    ------
    KeyError
        For what is missing.
    ValueError
        For what does not fit the model.
    """
    if f"{OF_PAST}sums" not in arrays:
        return None
    got = {name: arrays[OF_PAST + name] for name in ("sums", "scatter", "points", "maps")}
    k, d = mixture.means.shape
    size = theta_size(mixture, got["sums"])
    shapes = {
        "sums": (k, size),
        "scatter": (d,) if mixture.family.independent else (d, d),
        "points": (2, d),
        "maps": (2, d, d)[: max(got["maps"].ndim, 2)],
    }
    for name, shape in shapes.items():
        if got[name].shape != shape:
            raise ValueError(f"its {OF_PAST}{name} have shape {got[name].shape}, expected {shape}")
    squares = arrays.get(f"{OF_PAST}squares", np.nan)
    if np.shape(squares) not in ((), (k,)):
        raise ValueError(f"its {OF_PAST}squares have shape {np.shape(squares)}, expected {(k,)}")
    constant, count, of_moments, noise = (
        _number(numbers, name) for name in ("constant", "count", "moments_count", "noise")
    )
    if not (count > 0 and of_moments > 0):
        raise ValueError(f"its {OF_PAST}count is {count:g}: of no rows")
    entropy = _number(numbers, "entropy") if f"{OF_PAST}entropy" in numbers else math.nan
    local = np.zeros(k, dtype=bool)
    statistics = SufficientStatistics(constant, count, got["sums"], local, entropy, noise=noise, squares=squares)
    (mean, origin), maps = got["points"], got["maps"]
    scatter = np.diag(got["scatter"]) if mixture.family.independent else got["scatter"]
    moments = Moments(of_moments, mean, scatter)
    return Past(Frame(origin, maps[0], maps[1]), moments, statistics)


def theta_size(mixture: Mixture, sums: AnyArray) -> int:
    """Length of the sums of a component; of some families these may be of one kind or another."""
    family, d = mixture.family, mixture.n_features
    if sums.ndim == 2:
        family = family.of_sums(SufficientStatistics(0.0, 1.0, sums, np.zeros(len(sums), dtype=bool)), d)
    return int(family.natural_parameters(mixture.weights, mixture.components, 0.0).shape[1])


def _number(numbers: Mapping[str, Any], name: str) -> float:
    value = numbers[OF_PAST + name]
    if not (isinstance(value, (int, float)) and math.isfinite(value)):
        raise ValueError(f"its {OF_PAST}{name} is no number")
    return float(value)
