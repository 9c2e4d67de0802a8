"""The additive summary of an E-step."""

from __future__ import annotations

from dataclasses import dataclass

from dgmm.types import BoolArray, FloatArray


@dataclass(frozen=True)
class SufficientStatistics:
    """What one E-step over the data says about one mixture; everything an M-step needs.

    Attributes
    ----------
    log_likelihood : float
        Total log-likelihood of the mixture that was evaluated, in the data's units.
    count : float
        Number of samples (the sum of their weights).
    sums : ndarray, shape (K, P)
        Responsibility-weighted sums of the features, a row per component.
    local : ndarray of bool, shape (K,)
        True where a component's sums were taken in coordinates of its own, in which the evaluated component is a
        standard normal at the origin, because it is too narrow for the common frame.
    """

    log_likelihood: float
    count: float
    sums: FloatArray
    local: BoolArray
