"""Anderson's method, and where it is slow and passes are dear, Fisher's scoring with the scores of a sample."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dgmm.em.anderson import AndersonState, from_vector, to_vector
from dgmm.em.information import Information, gradients_of, is_worth_it
from dgmm.em.mstep import Evaluated, Ground
from dgmm.em.plain import NEGLIGIBLE, Method, Proposal
from dgmm.estep import SOFT
from dgmm.mixture import Mixture
from dgmm.types import FloatArray

#: The first step is taken after so many passes: most climbs have arrived by then.
FIRST = 5
#: Damping to begin with; it falls by the second factor after a step that gains `HELD` of what it should, and rises by
#: the third after one that fails, and by the last where a step gains less than `FAINT` of it.
DAMPING, BOLDER, WARIER, DULLER = 1e-3, 4.0, 8.0, 2.0
HELD, FAINT = 0.5, 0.1
#: What is said to be still to come is believed where the last step gained what it should, to this factor.
TRUSTED = 3.0
#: After so many failures in a row Anderson's method goes on, for so many passes; they double each time in a row.
FAILURES, PATIENCE = 3, 4
#: Where so many steps have failed in all, the log-likelihood is far from quadratic, and scores do not see where it is
#: flat: Anderson's method, from there anew, must agree after so many passes.
DOUBTS, SETTLED = 3, 20
#: Where a floor on the covariances costs a larger share of p/2 nats, EM ends where the log-likelihood falls, and steps
#: would fail again and again.
FLOORED = 0.1


@dataclass(frozen=True)
class Model:
    """The log-likelihood around a point, as far as scores tell.

    Attributes
    ----------
    mixture : Mixture
    value : float
        Its log-likelihood.
    gradient : ndarray, shape (p,)
    information : Information
    """

    mixture: Mixture
    value: float
    gradient: FloatArray
    information: Information

    def ahead(self, damping: float) -> tuple[Mixture | None, float]:
        """The mixture a step away, None where parameters overflow, and what the step should gain."""
        step, gain = self.information.step(self.gradient, damping)
        return from_vector(to_vector(self.mixture) + step, self.mixture), gain

    @property
    def remaining_gain(self) -> float:
        """What is gained where the gradient vanishes: the score statistic, over two; inf where scores do not tell."""
        gain = self.information.step(self.gradient, 0.0)[1]
        return gain if gain >= 0 else np.inf


@dataclass(frozen=True)
class ScoringState:
    """Anderson's method to begin with, then scoring, damped as Levenberg and Marquardt do; one pass a step.

    The gradient is exact, from the pass; how it vanishes is what the products of the scores of a sample say of it
    (`Information`). So the error falls by a factor of about the root of p over the rows of the sample in each pass,
    however much components overlap. It is tried only where the information costs less than a pass.

    A step that lowers the log-likelihood is taken back for one with more damping; the sequence of accepted points is
    monotone. Where `FAILURES` of them fail in a row, as where the model does not hold, Anderson's method goes on.

    Attributes
    ----------
    anderson : AndersonState
        At the last point that was accepted.
    ground : Ground
    waiting : int
        Passes of Anderson's method before the next step.
    model : Model or None
        At the last point that was accepted, while steps are taken.
    expected : float
        What the step that is being evaluated should gain.
    damping : float
    failures : int
        Steps in a row that have failed.
    patience : int
        Passes of Anderson's method after the next failure in a row.
    failed : int
        Steps that have failed in all.
    restarted : bool
        Whether Anderson's method has begun anew after a step.
    """

    anderson: AndersonState
    ground: Ground
    waiting: int = FIRST
    model: Model | None = None
    expected: float = np.nan
    damping: float = DAMPING
    failures: int = 0
    patience: int = PATIENCE
    failed: int = 0
    restarted: bool = False

    def step(self, point: Evaluated) -> tuple[ScoringState, Proposal]:
        """The state after an evaluation, and what is to be evaluated next."""
        now = replace(self, waiting=self.waiting - 1)
        if self.model is None:
            return now._by_anderson(point)
        gained = point.objective - self.model.value
        return now._held(point, gained) if gained >= 0 else now._failed(self.model)

    def _by_anderson(self, point: Evaluated) -> tuple[ScoringState, Proposal]:
        """A pass of Anderson's method, and from there a step if it is time."""
        anderson, proposal = self.anderson.step(point)
        accepted = anderson.accepted > self.anderson.accepted
        now = replace(self, anderson=anderson)
        if self.restarted and anderson.accepted < SETTLED and proposal.remaining_gain > 0:
            proposal = replace(proposal, remaining_gain=np.inf)
        if not accepted or self.waiting > 0 or proposal.remaining_gain == 0:
            return now, proposal
        return now._step_from(point, proposal)

    def _held(self, point: Evaluated, gained: float) -> tuple[ScoringState, Proposal]:
        """The next step."""
        anderson, proposal = AndersonState(point.mixture).step(point)
        factor = 1 / BOLDER if gained >= HELD * self.expected else DULLER if gained < FAINT * self.expected else 1.0
        now = replace(
            self, anderson=anderson, damping=factor * self.damping, failures=0, patience=PATIENCE, restarted=True
        )
        trusted = self.expected / TRUSTED <= gained <= TRUSTED * self.expected
        return now._step_from(point, replace(proposal, remaining_gain=np.inf), trusted=trusted)

    def _failed(self, model: Model) -> tuple[ScoringState, Proposal]:
        """The same step with more damping, or on by Anderson's method."""
        now = replace(self, damping=WARIER * self.damping, failures=self.failures + 1, failed=self.failed + 1)
        image = Proposal(self.anderson.image, np.inf)
        if now.failures < FAILURES:
            return now._propose(model, image)
        return replace(now, model=None, failures=0, waiting=self.patience, patience=2 * self.patience), image

    def _step_from(
        self, point: Evaluated, otherwise: Proposal, *, trusted: bool = False
    ) -> tuple[ScoringState, Proposal]:
        """The step from a point, or what is to be evaluated where there is none."""
        if point.statistics.local.any() or not is_worth_it(point.mixture, self.ground):
            return replace(self, model=None, waiting=self.patience), otherwise
        gradient, of_floor = gradients_of(point, self.anderson.image)
        information = Information.of(point.mixture, self.ground)
        chance = 0.5 * point.mixture.n_parameters
        if not information.step(of_floor, 0.0)[1] <= FLOORED * chance:
            return replace(self, model=None, waiting=self.patience, patience=2 * self.patience), otherwise
        model = Model(point.mixture, point.objective, gradient - of_floor, information)
        remaining = model.remaining_gain if trusted else otherwise.remaining_gain
        if trusted and self.failed >= DOUBTS and remaining <= NEGLIGIBLE * chance:
            return replace(self, model=None, waiting=SETTLED), Proposal(self.anderson.image, np.inf)
        return self._propose(model, replace(otherwise, remaining_gain=remaining))

    def _propose(self, model: Model, otherwise: Proposal) -> tuple[ScoringState, Proposal]:
        """The step of a model; what else there is, where it leads nowhere."""
        mixture, expected = model.ahead(self.damping)
        if mixture is None:
            return replace(self, model=None, waiting=self.patience), otherwise
        anderson = replace(self.anderson, jumped=False)
        return (
            replace(self, model=model, expected=expected, anderson=anderson),
            replace(otherwise, mixture=mixture),
        )


def accelerated(mixture: Mixture, ground: Ground) -> Method:
    """Anderson's method, with scoring where there is a sample to take scores of, and these tell of all there is.

    Of noise they do not, nor where values are missing.
    """
    state = AndersonState.start(mixture, ground)
    plain = ground.sample is None or ground.fixed or ground.sharing != SOFT
    plain = plain or ground.prior is not None or mixture.noise is not None or ground.marginal
    return state if plain else ScoringState(state, ground)
