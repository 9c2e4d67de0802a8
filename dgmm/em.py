"""Expectation maximisation, written once against one seam.

``accumulate: mixtures -> statistics per mixture`` is the seam: "apply the E-step to every sample and add up". An
`Ascent` is one candidate's way up the likelihood. It says which mixture it wants evaluated next and is told the
statistics, so that any number of them climb in lockstep and share every pass over the data.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from dgmm.errors import CollapseError
from dgmm.frame import Frame, Moments
from dgmm.mixture import Mixture
from dgmm.statistics import SufficientStatistics
from dgmm.types import Acceleration, AnyArray, FloatArray

Accumulate = Callable[[Sequence[Mixture]], list[SufficientStatistics]]
#: A mixture to be evaluated, and the estimated gain in log-likelihood still to come at the one evaluated last.
Proposal = tuple[Mixture, float]
Proposals = Generator[Proposal, SufficientStatistics, None]

#: Share of p/2 nats, what chance alone gives a fit with p parameters, below which a gain means nothing.
NEGLIGIBLE = 1e-3
#: Relative rounding error of a log-likelihood.
NOISE = 1e-14
#: Differences between points that Anderson's acceleration learns from, and those that it keeps after a failure: far
#: jumps teach little about where they started.
MEMORY, MEMORY_KEPT = 5, 1
#: Differences that lie this nearly in the span of the others say nothing new.
DEPENDENT = 1e-3
#: The furthest step along a direction, in EM steps, grows by the first factor when it was taken and held the
#: log-likelihood, shrinks by the second when it failed, and never falls below the third number.
FURTHER, NEARER, NEAREST = 2.0, 8.0, 1.5
#: Plain steps after a failure; each further one in a row doubles them.
PATIENCE = 2
#: The slowest rate that is believed.
SLOWEST = 1e-6
#: The gain still to come is the largest of this many estimates.
ESTIMATES = 5
#: The furthest the first step goes.
FIRST_STEP = 4.0


@dataclass(frozen=True)
class Setting:
    """What an M-step needs to know about the data: a value, the same for every candidate of a family.

    Attributes
    ----------
    frame : Frame
    moments : Moments
        In frame coordinates.
    floor : object
        Regularisation, as the family's `floor` makes it.
    held_out : Moments, optional
        Of rows that the fit does not see, in frame coordinates.
    """

    frame: Frame
    moments: Moments
    floor: Any
    held_out: Moments | None = None


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


def anderson(start: Mixture, setting: Setting) -> Proposals:
    """EM with Anderson acceleration (type I: Fang and Saad 2009, Walker and Ni 2011), one pass a step.

    Every evaluated point x comes with its EM image, x + f; differences between the recent ones show how f changes
    along a few directions (`Secants`), and so where it vanishes. That may be a saddle, or too far to trust: steps
    along those directions go the way of f, at most `bound` times as far as EM's. A proposal whose log-likelihood
    falls below that of the point before is rejected for that point's EM image, so that the sequence of accepted
    points is monotone. Extrapolation happens in unconstrained coordinates: any step is a mixture.

    Each failure in a row doubles the plain steps before the next attempt, so that little is lost where extrapolation
    does not work at all.

    The expected log-likelihood says what an EM step gains, at the least. Where f vanishes along its eigenvectors at
    the rates lambda, what all steps together gain is the sum of what it gains along each, over lambda: at most the
    expected gain over the smallest lambda. That is the estimated gain still to come.
    """
    mixture, image, remaining, jumped, far = start, start, np.inf, False, False
    value = expected = np.nan
    bound, accepted, waiting, patience = FIRST_STEP, 0, 0, PATIENCE
    points: deque[FloatArray] = deque(maxlen=MEMORY + 1)
    residuals: deque[FloatArray] = deque(maxlen=MEMORY + 1)
    limits: deque[float] = deque(maxlen=ESTIMATES)
    while True:
        statistics = yield mixture, remaining
        gain = statistics.log_likelihood - value
        if jumped:
            if not gain >= 0:
                bound = max(bound / NEARER, NEAREST)
                while len(points) > MEMORY_KEPT + 1:
                    points.popleft()
                    residuals.popleft()
                mixture, jumped, waiting, patience = image, False, patience, 2 * patience
                continue
            patience = PATIENCE
            if far:
                bound *= FURTHER
        value, accepted = statistics.log_likelihood, accepted + 1
        noise = NOISE * max(abs(value), 1.0)
        image = maximise(mixture, statistics, setting)
        # sums in coordinates of their own do not say what an EM step gains: not more than the step before
        known = not statistics.local.any()
        expected = max(abs(expected_gain(mixture, image, statistics, setting) if known else gain), noise)
        points.append(to_vector(mixture))
        residuals.append(to_vector(image) - points[-1])
        secants = Secants.of(points, residuals)
        proposal = None
        if secants is not None:
            limits.append(value + expected / secants.slowest)
            far = secants.slowest < 1 / bound
            if waiting <= 1:
                proposal = from_vector(points[-1] + secants.step(bound), mixture)
        waiting -= 1
        # the first differences are of the first steps, which the fast directions rule
        remaining = max(limits) - value if accepted > 2 and limits else np.inf
        if accepted > 1 and expected <= noise:
            remaining = 0.0
        mixture, jumped = (image, False) if proposal is None else (proposal, True)


@dataclass(frozen=True)
class Secants:
    """How the EM step f(x) changes along the differences between recent points, in unconstrained coordinates.

    Attributes
    ----------
    residual : ndarray, shape (p,)
        f at the last point.
    directions : ndarray, shape (p, m)
        An orthonormal basis of the differences between points.
    changes : ndarray, shape (p, m)
        How f changes along them.
    rates : ndarray, shape (m,)
        Eigenvalues of the part of the changes that lies along the directions; complex in general.
    vectors : ndarray, shape (m, m)
        Their eigenvectors.
    along : ndarray, shape (m,)
        The part of f that lies along the directions, in terms of the eigenvectors.
    """

    residual: FloatArray
    directions: FloatArray
    changes: FloatArray
    rates: AnyArray
    vectors: AnyArray
    along: AnyArray

    @classmethod
    def of(cls, points: Iterable[FloatArray], residuals: Sequence[FloatArray]) -> Secants | None:
        """From the points and f at them, the last one last; None if they do not tell."""
        moved, changed = np.diff(np.array(points), axis=0).T, np.diff(np.array(residuals), axis=0).T
        lengths = np.linalg.norm(moved, axis=0)
        used = lengths > 0
        if not used.any():
            return None
        moved, changed = moved[:, used] / lengths[used], changed[:, used] / lengths[used]
        u, sizes, v = np.linalg.svd(moved, full_matrices=False)
        m = int((sizes > DEPENDENT * sizes[0]).sum())
        directions, changes = u[:, :m], changed @ (v[:m].T / sizes[:m])
        rates, vectors = np.linalg.eig(directions.T @ changes)
        try:
            along = np.linalg.solve(vectors, directions.T @ residuals[-1])
        except np.linalg.LinAlgError:  # eigenvectors that coincide
            return None
        return cls(residuals[-1], directions, changes, rates, vectors, along)

    @property
    def slowest(self) -> float:
        """The smallest rate at which f vanishes along a direction, between `SLOWEST` and one."""
        return float(np.clip(np.abs(self.rates).min(), SLOWEST, 1.0))

    def step(self, bound: float) -> FloatArray:
        """To where f should vanish along the directions, and one EM step from there in all others.

        Newton's step along an eigenvector is f over minus the rate. Over the modulus it is the same where f vanishes
        at a maximum, and leads away from a saddle.
        """
        y = (self.vectors @ (self.along / np.maximum(np.abs(self.rates), 1 / bound))).real
        rest = self.residual + self.changes @ y
        return self.directions @ (y - self.directions.T @ rest) + rest


def expected_gain(mixture: Mixture, image: Mixture, statistics: SufficientStatistics, setting: Setting) -> float:
    """Gain in expected log-likelihood from a mixture to its EM image: what the EM step gains at the least.

    For sums in the coordinates of the frame.
    """
    family, parts = mixture.family, (mixture.components, image.components)
    before, after = (family.natural_parameters(m.weights, m.components, 0.0) for m in (mixture, image))
    shared = [family.shared_log_likelihood(part, setting.moments) for part in parts]
    return float(((after - before) * statistics.sums[:, : after.shape[1]]).sum()) + shared[1] - shared[0]


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
    "anderson": anderson,
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
    acceleration : {"anderson", "none"}
    stop : callable, optional
        Another rule: told the ascent after every evaluation, whether it has arrived.
    """

    def __init__(
        self,
        start: Mixture,
        setting: Setting,
        tol: float | None = None,
        acceleration: Acceleration = "anderson",
        stop: Callable[[Ascent], bool] | None = None,
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
        self.failure: CollapseError | None = None
        #: Whether it is not worth going on, with nothing wrong with it.
        self.left = False
        self._enough = 0.5 * NEGLIGIBLE * start.n_parameters
        self._tol = tol or 0.0
        self._stop = stop
        self._proposals = ACCELERATIONS[acceleration if start.family.chart else "none"](start, setting)
        #: In frame coordinates.
        self.wanted: Mixture = next(self._proposals)[0]

    @property
    def done(self) -> bool:
        """Whether there is nothing left to evaluate."""
        return self.converged or self.left or self.failure is not None

    @property
    def hope(self) -> float:
        """What it may at most be hoped to gain yet, in nats.

        Plateaus fool the estimate, so that it is what the later half of the evaluations has gained, if that is more;
        and twice as much to be safe.
        """
        if not self.trajectory:
            return np.inf
        before = max(self.trajectory[: (len(self.trajectory) + 1) // 2])
        return 2 * max(self.remaining_gain, self.log_likelihood - before)

    def tell(self, statistics: SufficientStatistics) -> None:
        """Take the statistics of the mixture that was `wanted`."""
        statistics = self.complete(self.wanted, statistics)
        value = statistics.log_likelihood
        self.trajectory.append(value)
        if value > self.log_likelihood:
            self.best, self.log_likelihood = self.wanted, value
            self.statistics = statistics
        try:
            self.wanted, self.remaining_gain = self._proposals.send(statistics)
        except CollapseError as error:
            self.failure = error
            return
        if self.wanted.n_components == 1:
            # a single component's M-step does not depend on where it starts: its second value is the optimum
            self.remaining_gain = 0.0 if len(self.trajectory) > 1 or self._is_optimum() else np.inf
        enough = max(self._enough, self._tol * statistics.count)
        self.converged = self.remaining_gain <= enough if self._stop is None else self._stop(self)

    def complete(self, mixture: Mixture, statistics: SufficientStatistics) -> SufficientStatistics:
        """Statistics of a mixture with the part of the log-likelihood that its family's theta leaves out."""
        if statistics.local.all():
            return statistics
        family, components = mixture.family, mixture.components
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


class Climber(Protocol):
    """What `climb` asks of an ascent."""

    @property
    def wanted(self) -> Mixture:
        """The mixture to be evaluated next."""

    @property
    def done(self) -> bool:
        """Whether there is nothing left to evaluate."""

    def tell(self, statistics: SufficientStatistics) -> None:
        """Take the statistics of the mixture that was `wanted`."""


def climb(ascents: Sequence[Climber], accumulate: Accumulate, max_iter: int) -> Iterator[Pass]:
    """Evaluate what the ascents want, all in one pass, until they have arrived; yields after every pass.

    The consumer may take an ascent out by setting `left`.
    """
    for number in range(1, max_iter + 1):
        alive = [i for i, a in enumerate(ascents) if not a.done]
        if not alive:
            return
        for i, statistics in zip(alive, accumulate([ascents[i].wanted for i in alive]), strict=True):
            ascents[i].tell(statistics)
        yield Pass(number, tuple(alive))
