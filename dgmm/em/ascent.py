"""One candidate's way up the likelihood, and any number of them in lockstep, sharing every pass over the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dgmm.em.anderson import to_vector
from dgmm.em.mstep import Accumulate, Evaluated, Ground, find_images
from dgmm.em.plain import NEGLIGIBLE, HardState, Method, PlainState
from dgmm.em.scoring import accelerated
from dgmm.errors import CollapseError
from dgmm.families import SufficientStatistics
from dgmm.mixture import Mixture
from dgmm.types import Acceleration

METHODS: dict[str, Callable[[Mixture, Ground], Method]] = {
    "anderson": accelerated,
    "none": PlainState.start,
    "hard": HardState.start,
}


class Ascent:
    """One candidate's way up: what is to be evaluated next, the best that was, and when it has arrived.

    Parameters
    ----------
    start : Mixture
        In frame coordinates.
    ground : Ground
    tol : float, optional
        Estimated gain still to come, in nats per sample, at which to stop. Never taken smaller than ``least_gain``
        nats in total, which is also the default.
    acceleration : {"anderson", "none"}
    stop : callable, optional
        Another rule: asked after every evaluation, given the ascent, whether it has arrived.
    least_gain : float, optional
        By default 0.1 % of p/2 nats, and nothing where assignments are hard and no family's samples have hidden parts.

    Attributes
    ----------
    state : Method
        All that the method remembers.
    proposal : Mixture
        To be evaluated next, in frame coordinates.
    best : Evaluated or None
        The most likely that was evaluated, with the prior if there is one.
    trajectory : list of float
        Objective of every mixture evaluated: the log-likelihood in the data's units, and with a prior the logarithm of
        its density, up to a constant.
    remaining_gain : float
        Estimated gain in the objective still to come, in nats.
    enough : float
        The gain still to come, in nats, at which to stop.
    converged : bool
    failure : CollapseError or None
        Why the candidate cannot go on.
    abandoned : bool
        Whether it is not worth going on, with nothing wrong with it.
    """

    def __init__(
        self,
        start: Mixture,
        ground: Ground,
        tol: float | None = None,
        acceleration: Acceleration = "anderson",
        stop: Callable[[Ascent], bool] | None = None,
        least_gain: float | None = None,
    ) -> None:
        self.ground = ground
        hard = ground.sharing.hard  # whose map has steps: it is not accelerated, and ends where it stands still
        way = "hard" if hard else acceleration if start.family.chart else "none"
        self.state: Method = METHODS[way](start, ground)
        self.proposal = start
        self.best: Evaluated | None = None
        self.trajectory: list[float] = []
        self.remaining_gain = np.inf
        self.converged = False
        self.failure: CollapseError | None = None
        self.abandoned = False
        # with what is hidden of samples it goes on where no sample changes its component, without an end
        least = 0.0 if hard and not start.family.hidden else 0.5 * NEGLIGIBLE * start.n_free(ground.fixed)
        self.least_gain = least if least_gain is None else least_gain
        self.enough = self.least_gain
        self._start = start
        self._tol = tol or 0.0
        self._stop = stop

    @property
    def mixture(self) -> Mixture:
        """The best mixture evaluated, or the start."""
        return self._start if self.best is None else self.best.mixture

    @property
    def log_likelihood(self) -> float:
        """Of the best mixture evaluated."""
        return -np.inf if self.best is None else self.best.log_likelihood

    @property
    def objective(self) -> float:
        """Of the best mixture evaluated: by it climbs of as many components are compared."""
        return -np.inf if self.best is None else self.best.objective

    @property
    def done(self) -> bool:
        """Whether there is nothing left to evaluate."""
        return self.converged or self.abandoned or self.failure is not None

    @property
    def attainable_gain(self) -> float:
        """What it may at most be expected to gain yet, in nats.

        Plateaus fool the estimate, so that it is what the later half of the evaluations has gained, if that is more;
        and twice as much to be safe.
        """
        if not self.trajectory:
            return np.inf
        before = max(self.trajectory[: (len(self.trajectory) + 1) // 2])
        return 2 * max(self.remaining_gain, self.objective - before)

    def evaluated(self, statistics: SufficientStatistics) -> Evaluated:
        """The proposal with what was said of it."""
        return Evaluated.of(self.proposal, statistics, self.ground)

    def update(self, statistics: SufficientStatistics) -> None:
        """Go on from what was said of the proposal."""
        self.go_on(self.evaluated(statistics))

    def go_on(self, point: Evaluated) -> None:
        """Go on from the proposal that was evaluated."""
        statistics = point.statistics
        self.trajectory.append(point.objective)
        if point.objective > self.objective:
            self.best = point
        try:
            self.state, proposal = self.state.step(point)
        except CollapseError as error:
            self.failure = error
            return
        self.proposal, self.remaining_gain = proposal.mixture, proposal.remaining_gain
        alone = self.proposal.n_components == 1 and self.proposal.noise is None
        if (alone or self.ground.constant) and not (self.proposal.family.hidden or self.ground.marginal):
            # such an M-step does not depend on where it starts: its second value is the optimum
            self.remaining_gain = 0.0 if len(self.trajectory) > 1 or self._is_optimum() else np.inf
        self.enough = max(self.least_gain, self._tol * statistics.count)
        self.converged = self.remaining_gain <= self.enough if self._stop is None else self._stop(self)

    def _is_optimum(self) -> bool:
        return bool(np.allclose(to_vector(self.proposal), to_vector(self.mixture), rtol=1e-9, atol=1e-9))


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
    def proposal(self) -> Mixture:
        """The mixture to be evaluated next."""

    @property
    def done(self) -> bool:
        """Whether there is nothing left to evaluate."""

    def update(self, statistics: SufficientStatistics) -> None:
        """Go on from what was said of the proposal."""


def climb(ascents: Sequence[Climber], accumulate: Accumulate, max_iter: int) -> Iterator[Pass]:
    """Evaluate the proposals of all ascents in one pass, until all have arrived; yields after every pass.

    Their M-steps are found together where they can be. The consumer may take an ascent out by setting `abandoned`.
    """
    for number in range(1, max_iter + 1):
        alive = [i for i, a in enumerate(ascents) if not a.done]
        if not alive:
            return
        points: list[tuple[Ascent, Evaluated]] = []
        for i, statistics in zip(alive, accumulate([ascents[i].proposal for i in alive]), strict=True):
            ascent = ascents[i]
            if isinstance(ascent, Ascent):
                points.append((ascent, ascent.evaluated(statistics)))
            else:
                ascent.update(statistics)
        find_images([point for _, point in points])
        for ascent, point in points:
            ascent.go_on(point)
        yield Pass(number, tuple(alive))
