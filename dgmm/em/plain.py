"""Plain EM: from each mixture to its M-step, and what the last gains say of those to come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from dgmm.em.mstep import Evaluated, Ground
from dgmm.mixture import Mixture
from dgmm.types import FloatArray

#: Relative rounding error of a log-likelihood.
NOISE = 1e-14
#: Share of p/2 nats, what chance alone gives a fit with p parameters, below which a gain means nothing.
NEGLIGIBLE = 1e-3


@dataclass(frozen=True)
class Proposal:
    """What a method wants evaluated next.

    Attributes
    ----------
    mixture : Mixture
        In frame coordinates.
    remaining_gain : float
        Estimated gain in log-likelihood still to come at the mixture evaluated last, in nats.
    """

    mixture: Mixture
    remaining_gain: float


class Method(Protocol):
    """The state of a way to climb: all that it remembers, as a value."""

    def step(self, point: Evaluated) -> tuple[Method, Proposal]:
        """The state after an evaluation, and what is to be evaluated next."""


@dataclass(frozen=True)
class PlainState:
    """Plain EM. The gain still to come is Aitken's extrapolation of the last gains.

    Attributes
    ----------
    values : tuple of float
        The last values of what it climbs.
    """

    values: tuple[float, ...] = ()

    @classmethod
    def start(cls, mixture: Mixture, ground: Ground) -> PlainState:
        """Before the first evaluation."""
        return cls()

    def step(self, point: Evaluated) -> tuple[PlainState, Proposal]:
        """The state after an evaluation, and the M-step."""
        after = PlainState((*self.values[-3:], point.objective))
        return after, Proposal(point.image, aitken(after.values))


@dataclass(frozen=True)
class HardState:
    """Classification EM (Celeux and Govaert 1992): plain EM on samples that count wholly for one component each.

    It ends where their assignments do not change any more; then neither do the sums. Until then the gain still to come
    is Aitken's extrapolation, for whoever asks for less than the end.

    Attributes
    ----------
    values : tuple of float
        The last values of what it climbs, the classification log-likelihood.
    sums : ndarray, shape (K, P), or None
        Of the last pass.
    """

    values: tuple[float, ...] = ()
    sums: FloatArray | None = None

    @classmethod
    def start(cls, mixture: Mixture, ground: Ground) -> HardState:
        """Before the first evaluation."""
        return cls()

    def step(self, point: Evaluated) -> tuple[HardState, Proposal]:
        """The state after an evaluation, and the M-step."""
        sums = point.statistics.sums
        settled = self.sums is not None and np.array_equal(self.sums, sums)
        after = HardState((*self.values[-3:], point.objective), sums)
        return after, Proposal(point.image, 0.0 if settled else aitken(after.values))


def aitken(values: Sequence[float]) -> float:
    """Estimated limit of an increasing, linearly convergent sequence, minus its last value; inf if unknown.

    Böhning et al. (1994), with the slower of the last two rates: early gains shrink faster than late ones.
    """
    last = values[-4:]
    gains = [abs(b - a) for a, b in pairwise(last)]  # with a floor on the covariances EM may also creep downwards
    noise = NOISE * max(abs(last[-1]), 1.0)
    if len(gains) > 1 and all(gain <= noise for gain in gains[-2:]):
        return 0.0
    if len(gains) < 3 or any(gain <= noise for gain in gains):
        return np.inf
    rate = max(gains[-1] / gains[-2], gains[-2] / gains[-3])
    return float(gains[-1] * rate / (1 - rate)) if rate < 1 else np.inf
