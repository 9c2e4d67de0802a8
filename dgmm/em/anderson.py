"""EM with Anderson acceleration: where differences between recent points say that the EM step vanishes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dgmm.em.mstep import Evaluated, Ground, holding
from dgmm.em.plain import NOISE, Proposal
from dgmm.mixture import Mixture
from dgmm.types import AnyArray, FloatArray

#: Differences between points that are learnt from, and those that are kept after a failure: far jumps teach little
#: about where they started.
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
class AndersonState:
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

    Attributes
    ----------
    image : Mixture
        Of EM, of the last point that was accepted; the start before there is any.
    value : float
        Log-likelihood of that point; with a prior its objective, as everywhere here.
    expected : float
        What the EM step from there gains at the least.
    jumped : bool
        Whether what is being evaluated was extrapolated.
    far : bool
        Whether it would have gone further without the bound.
    bound : float
        The furthest a step goes along a direction, in EM steps.
    accepted : int
        Points so far.
    waiting : int
        Plain steps before the next attempt.
    patience : int
        Plain steps after the next failure.
    points, residuals : tuple of ndarray, shape (p,)
        The last points in unconstrained coordinates, and the EM steps from them.
    limits : tuple of float
        The last estimates of the log-likelihood at the top.
    """

    image: Mixture
    value: float = np.nan
    expected: float = np.nan
    jumped: bool = False
    far: bool = False
    bound: float = FIRST_STEP
    accepted: int = 0
    waiting: int = 0
    patience: int = PATIENCE
    points: tuple[FloatArray, ...] = ()
    residuals: tuple[FloatArray, ...] = ()
    limits: tuple[float, ...] = ()

    @classmethod
    def start(cls, mixture: Mixture, ground: Ground) -> AndersonState:
        """Before the first evaluation."""
        return cls(mixture)

    def step(self, point: Evaluated) -> tuple[AndersonState, Proposal]:
        """The state after an evaluation, and what is to be evaluated next."""
        if self.jumped and not point.objective >= self.value:
            return self._rejected()
        return self._accepted(point)

    def _rejected(self) -> tuple[AndersonState, Proposal]:
        """Back to the EM step from the point before, for as long as patience asks."""
        after = replace(
            self,
            jumped=False,
            bound=max(self.bound / NEARER, NEAREST),
            points=self.points[-MEMORY_KEPT - 1 :],
            residuals=self.residuals[-MEMORY_KEPT - 1 :],
            waiting=self.patience,
            patience=2 * self.patience,
        )
        return after, Proposal(self.image, self._remaining_gain())

    def _accepted(self, point: Evaluated) -> tuple[AndersonState, Proposal]:
        """On from here: by extrapolation, if the last points tell where to."""
        value, mixture = point.objective, point.mixture
        noise = NOISE * max(abs(value), 1.0)
        image = point.image
        # sums in coordinates of their own do not say what an EM step gains: not more than the step before
        known = not point.statistics.local.any()
        gain = expected_gain(point, image) if known else value - self.value
        x = to_vector(mixture)
        state = replace(
            self,
            image=image,
            value=value,
            expected=max(abs(gain), noise),
            bound=self.bound * (FURTHER if self.jumped and self.far else 1.0),
            patience=PATIENCE if self.jumped else self.patience,
            accepted=self.accepted + 1,
            waiting=self.waiting - 1,
            points=(*self.points[-MEMORY:], x),
            residuals=(*self.residuals[-MEMORY:], to_vector(image) - x),
            jumped=False,
        )
        secants = Secants.of(state.points, state.residuals)
        proposal = None
        if secants is not None:
            limit = value + state.expected / secants.slowest
            state = replace(state, limits=(*self.limits[1 - ESTIMATES :], limit), far=secants.slowest < 1 / state.bound)
            if state.waiting <= 0:
                proposal = from_vector(x + secants.step(state.bound), mixture)
        if proposal is not None:
            proposal, state = holding(proposal, mixture, point.ground.fixed), replace(state, jumped=True)
        return state, Proposal(image if proposal is None else proposal, state._remaining_gain())

    def _remaining_gain(self) -> float:
        if self.accepted > 1 and self.expected <= NOISE * max(abs(self.value), 1.0):
            return 0.0
        # the first differences are of the first steps, which the fast directions rule
        return max(self.limits) - self.value if self.accepted > 2 and self.limits else np.inf


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


def expected_gain(point: Evaluated, image: Mixture) -> float:
    """Gain in expected log-likelihood, and of the prior, from a mixture to its EM image: an EM step gains it at least.

    For sums in the coordinates of the frame.
    """
    mixture, sums = point.mixture, point.statistics.sums
    family = mixture.family.of_sums(point.statistics, mixture.n_features)
    before, after = (family.natural_parameters(m.weights, m.components, 0.0) for m in (mixture, image))
    shared = [family.shared_log_likelihood(m.components, point.ground.moments) for m in (mixture, image)]
    gain = float(((after - before) * sums[:, : after.shape[1]]).sum()) + shared[1] - shared[0]
    prior = point.ground.prior
    if prior is not None:
        gain += prior.log_density(image.components) - prior.log_density(mixture.components)
    if mixture.noise is not None and image.noise is not None:
        gain += point.statistics.noise * (image.noise.log_density - mixture.noise.log_density)
    return gain


def to_vector(mixture: Mixture) -> FloatArray:
    """Unconstrained coordinates: log weights, that of noise the last, then the family's."""
    noise = [] if mixture.noise is None else [mixture.noise.weight]
    weights = np.concatenate([mixture.weights, noise])
    return np.concatenate([np.log(weights), mixture.family.to_vector(mixture.components)])


def from_vector(vector: FloatArray, like: Mixture) -> Mixture | None:
    """Inverse of `to_vector`; None where the parameters overflow."""
    k = like.n_components
    of_all = k + (like.noise is not None)
    with np.errstate(all="ignore"):
        weights = np.exp(vector[:of_all] - vector[:of_all].max())
        weights /= weights.sum()
        try:
            components = like.family.from_vector(vector[of_all:], like.components)
            noise = None if like.noise is None else like.noise.weighing(float(weights[k]))
            mixture = Mixture(like.family, weights[:k], components, noise)
            theta = mixture.family.natural_parameters(mixture.weights, components, 0.0)
        except np.linalg.LinAlgError:  # a diagonal that underflowed, or a factor that overflowed
            return None
    return mixture if np.isfinite(theta).all() else None
