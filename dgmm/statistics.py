"""The additive summary of an E-step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
    entropy : float
        Of the responsibilities, ``-sum r log r`` over all samples and components, in nats: zero where every sample
        clearly belongs to one component. NaN where the statistics come from labels.
    held_out : float
        Total log-likelihood of the rows that are held out of the fit, NaN if there are none.
    """

    log_likelihood: float
    count: float
    sums: FloatArray
    local: BoolArray
    entropy: float = np.nan
    held_out: float = np.nan
