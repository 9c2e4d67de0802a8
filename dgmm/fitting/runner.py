"""One candidate on its way up on all the data: where it stands, and what may become of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from dgmm.em import Ascent, Evaluated
from dgmm.fits import Outcome
from dgmm.mixture import Mixture


class State(StrEnum):
    """Where a candidate stands."""

    #: It takes part in the next pass, if there is one.
    CLIMBING = "climbing"
    #: It was taken out, since it could not win any more.
    DROPPED = "dropped"
    #: The gain still to come is not worth a pass.
    CONVERGED = "converged"
    #: Its climb ended with a component without samples or extent.
    COLLAPSED = "collapsed"


#: What each may become. A dropped one climbs again when the one it lost to has collapsed, or when it was single
#: precision that dropped it. The others stay what they are: another try on the rows explained worst is another climb.
TRANSITIONS = {
    State.CLIMBING: {State.DROPPED, State.CONVERGED, State.COLLAPSED},
    State.DROPPED: {State.CLIMBING},
    State.CONVERGED: set(),
    State.COLLAPSED: set(),
}
#: So many passes of a climb say how far rounding lets values fall, but for so many whose steps may have been too long.
LATE, REFUSED = 20, 6


@dataclass
class Runner:
    """One candidate on its way up, and the records of the passes it took part in.

    Attributes
    ----------
    ascent : Ascent
    attainable_on_sample : float
        If it cannot win on the sample: what it may gain there yet, in nats per sample; inf for the others.
    earlier : list of float
        The trajectory of what it has taken the place of, if anything.
    history : list
        Per pass, of those as well: the estimated gain still to come, and seconds.
    dropped : Outcome or None
    pardoned : bool
        Whether single precision has dropped it by mistake, and may not do so again.
    exact : Evaluated or None
        Its best mixture by a pass in double precision, where all the others are in single.
    path : list of Mixture
        What each pass has evaluated, in frame coordinates, if that is kept.
    """

    ascent: Ascent
    attainable_on_sample: float = np.inf
    earlier: list[float] = field(default_factory=list)
    history: list[tuple[float, float]] = field(default_factory=list)
    dropped: Outcome | None = None
    pardoned: bool = False
    exact: Evaluated | None = None
    path: list[Mixture] = field(default_factory=list)

    @property
    def state(self) -> State:
        """Where it stands."""
        if self.dropped is not None:
            return State.DROPPED
        if self.ascent.failure is not None:
            return State.COLLAPSED
        return State.CONVERGED if self.ascent.converged else State.CLIMBING

    def drop(self, outcome: Outcome) -> None:
        """Take it out; only what climbs can be."""
        self._check(State.DROPPED)
        self.dropped, self.ascent.abandoned = outcome, True

    def readmit(self, *, for_good: bool = False) -> None:
        """Let it climb on; only what was dropped needs it."""
        self._check(State.CLIMBING)
        self.dropped, self.ascent.abandoned, self.pardoned = None, False, for_good

    def settle(self) -> None:
        """Let it have arrived where its values go up and down: it has gained no more of late than it fell, often."""
        a = self.ascent
        before, late = a.trajectory[:-LATE], a.trajectory[-LATE:]
        if before and self.state is State.CLIMBING:
            fell = sorted(a.objective - value for value in late)[-REFUSED - 1]
            if a.objective - max(before) <= fell:
                a.converged = True
                a.remaining_gain = a.remaining_gain if np.isfinite(a.remaining_gain) else fell

    def _check(self, state: State) -> None:
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"a candidate that is {self.state} cannot be {state}")

    @property
    def trajectory(self) -> list[float]:
        """Log-likelihoods of all passes, those of what it has taken the place of included."""
        return self.earlier + self.ascent.trajectory

    @property
    def best(self) -> Evaluated | None:
        """Its best mixture."""
        return self.exact or self.ascent.best

    @property
    def objective(self) -> float:
        """Of its best mixture; see `Ascent`."""
        return -np.inf if self.best is None else self.best.objective
