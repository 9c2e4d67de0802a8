"""Whether a candidate takes the place of the champion: a written rule, and which class is which."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dgmm.config import Acceptance
from dgmm.data import Samples
from dgmm.engine import Fold, Workers
from dgmm.fits import Fit, Training
from dgmm.matching import Matching, match
from dgmm.passes import BlockSums, judge_rows
from dgmm.registry import Class, Judgement

#: Blocks that a verdict takes at least: there is no standard error of fewer.
FEWEST_BLOCKS = 2


def aligned(candidate: Fit, champion: Fit | None) -> tuple[Fit, Matching | None]:
    """A candidate with its components numbered as those of the champion that they go on from, and which these are."""
    if champion is None:
        return candidate, None
    matching = match(candidate.mixture, champion.mixture)
    return candidate.reordered(matching.order), matching


def judged(
    rule: Acceptance,
    candidate: Fit,
    champion: Fit | None,
    matching: Matching | None,
    version: str,
    samples: Samples,
    since: int,
    options: Training,
    workers: Workers,
) -> Judgement:
    """What becomes of a candidate, its components in the order of the matching.

    Parameters
    ----------
    rule : Acceptance
    candidate : Fit
    champion : Fit or None
    matching : Matching or None
    version : str
        That of the champion.
    samples : Samples
    since : int
        Where along the first dimension the rows begin that the champion was not fitted to.
    options : Training
        With what is held out.
    workers : Workers
    """
    if not candidate.outcome.is_sound:
        return Judgement(
            accepted=False, why=f"it means little: {candidate.state}, {candidate.reason}", champion=version
        )
    if champion is None or matching is None:
        why = "there was no champion"
        return Judgement(accepted=True, why=why, classes=(Class(before=None, overlap=0.0),) * candidate.n_components)
    pairs = zip(matching.before, matching.overlap, strict=True)
    classes = tuple(Class(before=before, overlap=overlap) for before, overlap in pairs)
    new, difference = compared(candidate, champion, samples, since, options, workers)
    known: dict[str, Any] = {"champion": version, "classes": classes}
    if difference is None:
        why = (
            f"fewer than {FEWEST_BLOCKS} blocks are held out that could judge: raise training.holdout, make its blocks "
            "shorter (holdout_by), or wait for more data"
        )
        return Judgement(accepted=False, why=why, **known)
    gain, error = difference.mean, difference.standard_error
    known |= {"gain": gain, "standard_error": None if math.isnan(error) else error}
    rows = f"{difference.counts.sum():.0f} rows held out of the {'new data' if new else 'data'}"
    told = f"{gain:+.4g} nats per sample (standard error {error:.2g}) on {rows}"
    if gain < -(rule.max_loss + (0.0 if math.isnan(error) else error)):
        why = f"it is less likely than the champion: {told}; {rule.max_loss:g} beyond the standard error are allowed"
        return Judgement(accepted=False, why=why, **known)
    lost = matching.lost(champion.mixture.weights, rule.min_share, rule.min_overlap)
    if lost:
        share = champion.mixture.weights
        names = ", ".join(f"class {j} (share {share[j]:.1%}, overlap {overlap:.2f})" for j, overlap in lost)
        verb, least = "is" if len(lost) == 1 else "are", rule.min_overlap
        why = f"of the champion's classes {names} {verb} not found again, overlap {least:g} is asked for; {told}"
        return Judgement(accepted=False, why=why, **known)
    gone = [j for j, _ in matching.lost(champion.mixture.weights, 0.0, rule.min_overlap)]
    words = [
        f"all but the smallest classes are found again, not {', '.join(map(str, gone))}"
        if gone
        else "every class is found again",
        *(f"class {before} is class {now} now" for before, now in matching.renumbered),
    ]
    return Judgement(accepted=True, why="; ".join([told, *words]), **known)


def compared(
    candidate: Fit, champion: Fit, samples: Samples, since: int, options: Training, workers: Workers
) -> tuple[bool, BlockSums | None]:
    """How much more likely held-out rows are by a candidate than by the champion, and whether they are new ones.

    Where too few blocks of the new data are held out, those of all the data judge; none if there are too few of these.
    """
    first = since * math.prod(samples.grid.shape[1:])
    for start in dict.fromkeys((first, 0)):
        fold = Fold(samples, workers, keep=False)
        ours, theirs = judge_rows(fold, samples, [candidate.mixture, champion.mixture], options, start)
        if np.count_nonzero(ours.counts) >= FEWEST_BLOCKS:
            return start > 0, ours - theirs
    return False, None
