"""What has become of a candidate: one value for selections, results, stored models, pictures and warnings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np


class OutcomeKind(StrEnum):
    """How the climb of a candidate has ended."""

    #: The estimated gain still to come is below the tolerance.
    CONVERGED = "converged"
    #: All passes that it was allowed are made.
    STOPPED = "stopped"
    #: It was taken out, as it could no longer win.
    DROPPED = "dropped"
    #: Its likelihood means nothing: a component has too few samples or no extent.
    COLLAPSED = "collapsed"
    #: There is no fit: every start collapsed before there was one.
    FAILED = "failed"


#: What can win a selection, or could have.
SOUND = frozenset({OutcomeKind.CONVERGED, OutcomeKind.STOPPED, OutcomeKind.DROPPED})
#: What is named together with the pass at which it happened.
DATED = frozenset({OutcomeKind.STOPPED, OutcomeKind.DROPPED})
#: Tops of the likelihood that differ by less, in nats per sample, are the same.
SAME = 1e-3


@dataclass(frozen=True)
class Outcome:
    """What has become of a candidate.

    Attributes
    ----------
    kind : OutcomeKind
    at_pass : int
        After how many passes over all the data; 0 where it made none.
    components : tuple of int
        Those that collapsed, if any.
    reason : str
        Why it was dropped, has collapsed or failed.
    """

    kind: OutcomeKind
    at_pass: int = 0
    components: tuple[int, ...] = ()
    reason: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether its likelihood means something."""
        return self.kind in SOUND

    @property
    def state(self) -> str:
        """In words: ``converged``, ``stopped at pass n``, ``dropped at pass n``, ``collapsed`` or ``failed``."""
        return f"{self.kind} at pass {self.at_pass}" if self.kind in DATED else str(self.kind)

    @classmethod
    def parse(cls, state: str, components: Iterable[int] = (), reason: str = "", at_pass: int = 0) -> Outcome:
        """The outcome from what `state` says, and the rest.

        Parameters
        ----------
        state : str
        components : iterable of int
        reason : str
        at_pass : int
            For what is named without the pass at which it happened.

        Raises
        ------
        ValueError
            If the state is none.
        """
        found = re.fullmatch(r"(\w+)(?: at pass (\d+))?", state)
        if not found or found[1] not in list(OutcomeKind) or (found[1] in DATED) != bool(found[2]):
            raise ValueError(f"unknown state {state!r}")
        return cls(OutcomeKind(found[1]), int(found[2] or at_pass), tuple(components), reason)


@dataclass(frozen=True)
class Spread:
    """What a search has seen of the likelihood's tops, on the sample, where it ended.

    Attributes
    ----------
    found : int
        Climbs that came to the winner's top, within `SAME` nats per sample.
    paths : int
        Climbs in all, of mixtures that are sound.
    below : float
        How far below the next best end of a climb was, in nats per sample; NaN if there was no other.
    """

    found: int
    paths: int
    below: float = np.nan

    @classmethod
    def of(cls, ends: Sequence[float], count: float) -> Spread:
        """Of the log-likelihoods at which climbs ended."""
        below = (max(ends) - np.array(ends)) / count
        others = below[below > SAME]
        return cls(len(below) - len(others), len(below), float(others.min()) if len(others) else np.nan)

    def __str__(self) -> str:
        found = f"found by {self.found} of {self.paths} path{'s' * (self.paths != 1)}"
        return found if np.isnan(self.below) else f"{found}; next best {self.below:.2g} nats per sample below"
