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
        Total log-likelihood of the rows that are held out of the fit and judge it, NaN if there are none.
    noise : float
        How much of the samples is noise: zero where there is none beside the components.
    squares : ndarray, shape (K,), or float
        Sums of the responsibilities times the squares of the samples' weights; NaN where they have none.
    """

    log_likelihood: float
    count: float
    sums: FloatArray
    local: BoolArray
    entropy: float = np.nan
    held_out: float = np.nan
    noise: float = 0.0
    squares: FloatArray | float = np.nan

    @property
    def effective_shares(self) -> FloatArray:
        """How many samples of equal weight are worth as much as each component's, per unit of weight, shape (K,).

        That number is the square of the sum of the weights over the sum of their squares (Kish 1965): one per unit
        where all weights are one, less where a few samples weigh much, more where many weigh little.
        """
        counts = self.sums[:, 0]
        squares = np.where(np.isnan(self.squares), counts, self.squares)
        return np.divide(counts, squares, out=np.ones_like(counts), where=squares > 0)
