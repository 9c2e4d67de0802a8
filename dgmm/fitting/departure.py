"""Where a fit goes on after the replay of its journal has departed: from the best mixtures that are recorded."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import numpy as np

from dgmm.em import Evaluated, Ground
from dgmm.engine import DEPARTURE, Departed, Entry, Journaled
from dgmm.estep import PassTotals, make_plan
from dgmm.families import SufficientStatistics
from dgmm.mixture import Mixture
from dgmm.passes import Passes
from dgmm.rows import Role
from dgmm.search import Candidate

logger = logging.getLogger("dgmm")


def starts_after(
    departed: Departed, passes: Passes, grounds: Mapping[str, Ground], starts: Mapping[Candidate, Mixture]
) -> dict[Candidate, Mixture]:
    """What candidates start from once more: the best mixtures of their kind in a journal, or what they started from.

    It is noted in the journal, so that a replay goes on from the same.

    Parameters
    ----------
    departed : Departed
    passes : Passes
    grounds : mapping
        Of each family.
    starts : mapping
        What they started from, in frame coordinates.
    """
    entries = departed.entries
    chosen = entries[0].value if entries[0].key == DEPARTURE else None
    if chosen is None:
        chosen = tuple(best_of(entries, passes, grounds, start) for start in starts.values())
        n_found = sum(mixture is not start for mixture, start in zip(chosen, starts.values(), strict=True))
        if isinstance(passes.fold, Journaled):
            chosen = passes.fold.go_on_from(chosen)
        logger.warning("going on from the best mixtures of the journal, for %d of %d candidates", n_found, len(starts))
    return dict(zip(starts, chosen, strict=True))


def best_of(entries: tuple[Entry, ...], passes: Passes, grounds: Mapping[str, Ground], start: Mixture) -> Mixture:
    """The most likely mixture of the kind of another among entries; that one where there is none."""
    best, highest = start, -np.inf
    for mixture, objective in _recorded(entries, passes, grounds):
        same = mixture.covariance_type == start.covariance_type and mixture.n_components == start.n_components
        if same and objective > highest:
            best, highest = mixture, objective
    return best


def _recorded(
    entries: tuple[Entry, ...], passes: Passes, grounds: Mapping[str, Ground]
) -> Iterator[tuple[Mixture, float]]:
    """Every mixture of E-steps, and its objective."""
    for entry in entries:
        if entry.key == DEPARTURE or entry.about is None:
            continue
        totals: PassTotals = entry.value.values[Role.FIT]
        mixtures = [(i, m) for i, m in enumerate(entry.about) if m.covariance_type in grounds]
        for i, mixture in mixtures:
            kind = mixture.family.frame
            plan = make_plan([mixture], {kind: passes.frame(kind)}, passes.dtype)
            base = np.broadcast_to(totals.base, len(totals.log_likelihoods))[i]
            value = float(totals.log_likelihoods[i] + base)
            said = SufficientStatistics(value, totals.count, np.empty((0, 0)), np.array(plan.local))
            yield mixture, Evaluated.of(mixture, said, grounds[mixture.covariance_type]).objective
