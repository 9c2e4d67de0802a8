"""Expectation maximisation, written once against one seam.

``accumulate: mixtures -> statistics per mixture`` is the seam: "apply the E-step to every sample and add up". An
`Ascent` is one candidate's way up the likelihood. It says which mixture it wants evaluated next and is told the
statistics, so that any number of them climb in lockstep and share every pass over the data.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from dgmm.errors import CollapseError
from dgmm.frame import Frame, Moments
from dgmm.mixture import Mixture
from dgmm.statistics import SufficientStatistics
from dgmm.types import FloatArray

Accumulate = Callable[[Sequence[Mixture]], list[SufficientStatistics]]
Acceleration = Literal["squarem", "none"]
#: A mixture to be evaluated, and the estimated gain in log-likelihood still to come at the one evaluated last.
Proposal = tuple[Mixture, float]
Proposals = Generator[Proposal, SufficientStatistics, None]

#: Share of p/2 nats, what chance alone gives a fit with p parameters, below which a gain means nothing.
NEGLIGIBLE = 1e-3
#: Relative rounding error of a log-likelihood.
NOISE = 1e-14
#: SQUAREM's steps: the bound on the first one and the factor by which success and failure move it.
FIRST_STEP, STEP_FACTOR = 4.0, 4.0
#: The slowest direction is judged over this many cycles, and not before this many: right after a jump the fast
#: directions, which it has stirred up, hide the slow ones.
RECENT_CYCLES, LEAST_CYCLES = 8, 3


@dataclass(frozen=True)
class Setting:
    """What an M-step needs to know about the data: a value, the same for every candidate of a family.

    Attributes
    ----------
    frame : Frame
    moments : Moments
        In frame coordinates.
    floor : ndarray, shape (d, d)
        Added to every covariance, in frame coordinates.
    held_out : Moments, optional
        Of rows that the fit does not see, in frame coordinates.
    """

    frame: Frame
    moments: Moments
    floor: FloatArray
    held_out: Moments | None = None


def relative_floor(moments: Moments, reg_covar: float) -> FloatArray:
    """Regularisation as a share of the data's own covariance, so that ``fit(c x) = c fit(x)``."""
    return reg_covar * moments.covariance


def maximise(mixture: Mixture, statistics: SufficientStatistics, setting: Setting) -> Mixture:
    """The M-step: the mixture that maximises the expected log-likelihood."""
    weights, components = mixture.family.maximise(statistics, mixture.components, setting.moments, setting.floor)
    return Mixture(mixture.family, weights, components)


def plain_em(start: Mixture, setting: Setting) -> Proposals:
    """Plain EM. The gain still to come is Aitken's extrapolation of the last gains."""
    mixture, remaining = start, np.inf
    values: list[float] = []
    while True:
        statistics = yield mixture, remaining
        values.append(statistics.log_likelihood)
        remaining = aitken(values)
        mixture = maximise(mixture, statistics, setting)


def aitken(values: Sequence[float]) -> float:
    """Estimated limit of an increasing, linearly convergent sequence, minus its last value; inf if unknown.

    Böhning et al. (1994), with the slower of the last two rates: early gains shrink faster than late ones.
    """
    gains = np.abs(np.diff(values[-4:]))  # with a floor on the covariances EM may also creep downwards
    noise = NOISE * max(abs(values[-1]), 1.0)
    if len(gains) > 1 and (gains[-2:] <= noise).all():
        return 0.0
    if len(gains) < 3 or (gains <= noise).any():
        return np.inf
    rate = max(gains[-1] / gains[-2], gains[-2] / gains[-3])
    return float(gains[-1] * rate / (1 - rate)) if rate < 1 else np.inf


def squarem(start: Mixture, setting: Setting) -> Proposals:
    """EM with squared extrapolation (Varadhan and Roland 2008, scheme S3), two passes a cycle.

    An extrapolated point whose log-likelihood falls below the cycle's best is rejected, so that the sequence of
    accepted points is monotone. Extrapolation happens in unconstrained coordinates: any step is a mixture.
    """
    base, step_bound, remaining = start, FIRST_STEP, np.inf
    at_base = yield base, np.inf
    ratios: deque[float] = deque(maxlen=RECENT_CYCLES)
    while True:
        first = maximise(base, at_base, setting)
        at_first = yield first, remaining
        second = maximise(first, at_first, setting)
        points = [to_vector(m) for m in (base, first, second)]
        step, change = points[1] - points[0], points[2] - 2 * points[1] + points[0]
        lengths = float(np.linalg.norm(step)), float(np.linalg.norm(change))
        ratio = lengths[0] / lengths[1] if lengths[1] else 1.0
        ratios.append(ratio)
        gain = at_first.log_likelihood - at_base.log_likelihood
        to_come = gain_to_come(gain, max(ratios), at_first.log_likelihood)
        remaining = to_come if len(ratios) >= LEAST_CYCLES or not to_come else np.inf
        alpha = float(np.clip(ratio, 1.0, step_bound))
        # alpha = 1 is the second EM step itself
        jump = points[0] + 2 * alpha * step + alpha**2 * change if alpha > 1 else points[2]
        proposal = from_vector(jump, base) if alpha > 1 else second
        if proposal is not None:
            at_proposal = yield proposal, remaining
            if at_proposal.log_likelihood >= at_first.log_likelihood:
                if alpha == step_bound:
                    step_bound *= STEP_FACTOR
                base, at_base = proposal, at_proposal
                continue
        step_bound = max(FIRST_STEP, step_bound / STEP_FACTOR)
        base = second
        at_base = yield second, remaining


def gain_to_come(gain: float, ratio: float, log_likelihood: float) -> float:
    """Limit of the EM gains when parameters converge at rate ``1 - 1/ratio``, and gains at its square."""
    if abs(gain) <= NOISE * max(abs(log_likelihood), 1.0):
        return 0.0
    if ratio <= 1.0:
        return np.inf
    rate = (1 - 1 / ratio) ** 2
    return abs(gain) * rate / (1 - rate)


def to_vector(mixture: Mixture) -> FloatArray:
    """Unconstrained coordinates: log weights, then the family's."""
    return np.concatenate([np.log(mixture.weights), mixture.family.to_vector(mixture.components)])


def from_vector(vector: FloatArray, like: Mixture) -> Mixture | None:
    """Inverse of `to_vector`; None where the parameters overflow."""
    k = like.n_components
    with np.errstate(all="ignore"):
        weights = np.exp(vector[:k] - vector[:k].max())
        components = like.family.from_vector(vector[k:], like.components)
        mixture = Mixture(like.family, weights / weights.sum(), components)
        try:
            theta = mixture.family.natural_parameters(mixture.weights, components, 0.0)
        except np.linalg.LinAlgError:  # a diagonal that underflowed
            return None
    return mixture if np.isfinite(theta).all() else None


ACCELERATIONS: dict[Acceleration, Callable[[Mixture, Setting], Proposals]] = {
    "squarem": squarem,
    "none": plain_em,
}


class Ascent:
    """One candidate's way up: what it wants evaluated next, the best it has seen, and when it has arrived.

    Parameters
    ----------
    start : Mixture
        In frame coordinates.
    setting : Setting
    tol : float, optional
        Estimated gain still to come, in nats per sample, at which to stop. Never taken smaller than 0.1 % of p/2
        nats in total, which is also the default.
    acceleration : {"squarem", "none"}
    """

    def __init__(
        self,
        start: Mixture,
        setting: Setting,
        tol: float | None = None,
        acceleration: Acceleration = "squarem",
    ) -> None:
        self.setting = setting
        #: Log-likelihood of every mixture evaluated, in the data's units.
        self.trajectory: list[float] = []
        #: The best mixture evaluated, in frame coordinates, and its log-likelihood.
        self.best = start
        self.log_likelihood = -np.inf
        #: What was told of it.
        self.statistics: SufficientStatistics | None = None
        #: Estimated gain in log-likelihood still to come, in nats.
        self.remaining_gain = np.inf
        self.converged = False
        #: Why the candidate cannot go on, if so.
        self.failure: str | None = None
        self._enough = 0.5 * NEGLIGIBLE * start.n_parameters
        self._tol = tol or 0.0
        self._proposals = ACCELERATIONS[acceleration](start, setting)
        self.wanted, _ = next(self._proposals)

    @property
    def done(self) -> bool:
        """Whether there is nothing left to evaluate."""
        return self.converged or self.failure is not None

    def tell(self, statistics: SufficientStatistics) -> None:
        """Take the statistics of the mixture that was `wanted`."""
        statistics = self._complete(statistics)
        value = statistics.log_likelihood
        self.trajectory.append(value)
        if value > self.log_likelihood:
            self.best, self.log_likelihood = self.wanted, value
            self.statistics = statistics
        try:
            self.wanted, self.remaining_gain = self._proposals.send(statistics)
        except CollapseError as error:
            self.failure = str(error)
            return
        if self.wanted.n_components == 1:
            # a single component's M-step does not depend on where it starts: its second value is the optimum
            self.remaining_gain = 0.0 if len(self.trajectory) > 1 or self._is_optimum() else np.inf
        self.converged = self.remaining_gain <= max(self._enough, self._tol * statistics.count)

    def _complete(self, statistics: SufficientStatistics) -> SufficientStatistics:
        """With the part of the log-likelihood that the family's theta leaves out."""
        if statistics.local.all():
            return statistics
        family, components = self.wanted.family, self.wanted.components
        shared = family.shared_log_likelihood(components, self.setting.moments)
        held = self.setting.held_out
        apart = 0.0 if held is None else family.shared_log_likelihood(components, held)
        return replace(
            statistics, log_likelihood=statistics.log_likelihood + shared, held_out=statistics.held_out + apart
        )

    def _is_optimum(self) -> bool:
        return bool(np.allclose(to_vector(self.wanted), to_vector(self.best), rtol=1e-10, atol=1e-12))


@dataclass(frozen=True)
class Pass:
    """What one pass over the data did.

    Attributes
    ----------
    number : int
        Counted from one.
    ascents : tuple of int
        Which of the ascents took part.
    """

    number: int
    ascents: tuple[int, ...]


def climb(ascents: Sequence[Ascent], accumulate: Accumulate, max_iter: int) -> Iterator[Pass]:
    """Evaluate what the ascents want, all in one pass, until they have arrived; yields after every pass.

    The consumer may take an ascent out by setting its `failure`.
    """
    for number in range(1, max_iter + 1):
        alive = [i for i, a in enumerate(ascents) if not a.done]
        if not alive:
            return
        for i, statistics in zip(alive, accumulate([ascents[i].wanted for i in alive]), strict=True):
            ascents[i].tell(statistics)
        yield Pass(number, tuple(alive))
