"""Starts that have climbed on the in-memory sample of rows, where a pass costs next to nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dask.system import CPU_COUNT

from dgmm.estep import SOFT, Sharing
from dgmm.families import Frame, FrameKind, Noise
from dgmm.fits import Outcome, Spread, Training
from dgmm.mixture import Mixture
from dgmm.passes import Profile
from dgmm.search.initialise import Given
from dgmm.search.ladder import Ladder
from dgmm.search.sampled import Candidate
from dgmm.search.screening import Screening
from dgmm.types import Criterion

logger = logging.getLogger("dgmm")


@dataclass(frozen=True)
class Starts:
    """What the climb on the sample has come to.

    Attributes
    ----------
    mixtures : dict
        Candidate -> its best start, in frame coordinates.
    failures : dict
        Candidate -> what has become of it, where there is none.
    attainable : dict
        Candidates that cannot win on the sample -> what they might still have gained there, in nats per sample.
    spreads : dict
        Candidate -> what the search has seen of its tops.
    rivals : dict
        Candidate -> other tops, in frame coordinates, of which the sample cannot tell whether they are lower.
    """

    mixtures: dict[Candidate, Mixture]
    failures: dict[Candidate, Outcome]
    attainable: dict[Candidate, float]
    spreads: dict[Candidate, Spread]
    rivals: dict[Candidate, tuple[Mixture, ...]]


def start_on_sample(
    profile: Profile,
    candidates: Sequence[Candidate],
    options: Training,
    frame: Callable[[FrameKind], Frame],
    given: Given | None = None,
    *,
    criterion: Criterion | None = None,
    n_threads: int = CPU_COUNT,
    sharing: Sharing = SOFT,
    noise: Noise | None = None,
) -> Starts:
    """The best of ``n_init`` starts of every candidate, converged on the sample, in frame coordinates.

    After some passes of all starts, a candidate that cannot become as good as the best by a criterion goes no further.

    Parameters
    ----------
    profile : Profile
    candidates : sequence of Candidate
        A single component has its optimum in closed form and needs no start.
    options : Training
    frame : callable
        The frame of each kind.
    given : Given, optional
        Parts of every start; where there are any, all candidates share their shapes.
    criterion : Criterion, optional
        None where every candidate is wanted for its own sake.
    n_threads : int
        That work at a time; as many as there are cores by default.
    sharing : Sharing
        How rows are shared out among components.
    noise : Noise, optional
        What every start has beside its components; where there is any, a single component needs starts, too.

    Returns
    -------
    Starts
    """
    several = [c for c in candidates if c.n_components > 1 or noise is not None]
    screening = Screening(criterion, profile.n_samples, options.reg_covar)
    ladder = Ladder(profile, options, frame, given, n_threads, sharing, noise, screening)
    found = ladder.climb(several)
    for turn in range(1, ladder.turns):
        alive = screening.alive(found.best)
        if not alive:
            break
        logger.info("search %d of %d, on other rows", turn + 1, ladder.turns)
        found.join(ladder.climb(alive, turn), alive)
    rivals = {Candidate(k, path.family.name): path.rivals(k) for path in found.paths for k in path.wanted}
    mixtures = {c: a.mixture for c, a in found.best.items()}
    return Starts(mixtures, found.failures, screening.ruled_out(found.best), found.spreads, rivals)
