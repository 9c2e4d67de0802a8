"""Refits on other weights of the sample: how stable a fit is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from dgmm.em import Ground, climb
from dgmm.estep import SOFT, Sharing
from dgmm.families import Frame, FrameKind
from dgmm.fits import FOUND_AGAIN, Stability, Training
from dgmm.mixture import Mixture
from dgmm.rows import Rows
from dgmm.search import SAMPLE_PASSES, Candidate, Path, SampleRows, grounds_for, is_sound, sample_ascent
from dgmm.types import FloatArray, IntArray

logger = logging.getLogger("dgmm")

#: Rows of the sample that are fitted again, and by which refits are compared.
REFITTED_ROWS = 20_000
#: Rows of the sample on which a refit looks for a mixture of its own.
SEARCHED_ROWS = 5_000


def stability_of(
    mixture: Mixture,
    rows: Rows,
    n_samples: int,
    options: Training,
    frame: Callable[[FrameKind], Frame],
    n_threads: int = 1,
    sharing: Sharing = SOFT,
) -> Stability:
    """Refit a mixture on the rows of a sample, with weights of the Bayesian bootstrap (Rubin 1981).

    Parameters
    ----------
    mixture : Mixture
        In the data's units; each refit starts from it.
    rows : Rows
        In random order. Those with groups are weighted by group.
    n_samples : int
        Rows of all the data.
    options : Training
    frame : callable
        The frame of each kind.
    n_threads : int
        That work at a time.
    sharing : Sharing
        How rows are shared out among components.
    """
    from scipy.optimize import linear_sum_assignment  # loads much, as does the next
    from sklearn.metrics import adjusted_rand_score

    start, its_frame = mixture.to_frame(frame(mixture.family.frame)), frame(mixture.family.frame)
    groups, n_blocks = (np.arange(len(rows)), 0) if rows.groups is None else _numbered(rows.groups)
    base = rows.every_weight
    marginal = bool(np.isnan(rows.x).any())
    before, k = mixture.responsibilities(rows.x, marginal=marginal), mixture.n_components
    labels = before.argmax(axis=1)
    rand, found, weights, means = [], [], [], []
    for refit in range(options.stability):
        draw = np.random.default_rng([options.seed, refit]).exponential(size=n_blocks or len(rows))
        drawn = base * draw[groups]
        weighted = replace(rows, weights=drawn / drawn.mean())
        again = _refit(start, weighted, options, frame, n_threads, sharing).to_data(its_frame)
        after = again.responsibilities(rows.x, marginal=marginal)
        overlap = jaccard(before[:, :k], after[:, :k])
        ours, theirs = linear_sum_assignment(-overlap)
        rand.append(adjusted_rand_score(labels, after.argmax(axis=1)))
        found.append(overlap[ours, theirs] > FOUND_AGAIN)
        weights.append(again.weights[theirs])
        means.append(again.means[theirs])
        logger.info("refit %d of %d: adjusted Rand index %.3f", refit + 1, options.stability, rand[-1])
    # rows by themselves are worth as much as there are of them; a block is one however many of its rows are seen
    scale = 1.0 if n_blocks else np.sqrt(len(rows) / n_samples)
    weights_se, means_se = (scale * np.std(values, axis=0, ddof=1) for values in (weights, means))
    return Stability(len(rows), n_blocks, np.array(rand), np.mean(found, axis=0), weights_se, means_se)


def jaccard(a: FloatArray, b: FloatArray) -> FloatArray:
    """Overlap of the components of two sets of responsibilities of the same rows, shape (K, L).

    The sum of the lesser of both over that of the greater; for zeros and ones the Jaccard index of two sets.
    """
    common = np.array([np.minimum(column[:, None], b).sum(axis=0) for column in a.T])
    either = a.sum(axis=0)[:, None] + b.sum(axis=0) - common
    return np.divide(common, either, out=np.zeros_like(common), where=either > 0)


def _numbered(groups: IntArray) -> tuple[IntArray, int]:
    """Groups numbered without gaps, and how many there are."""
    known, numbers = np.unique(groups, return_inverse=True)
    return numbers, len(known)


def _refit(
    start: Mixture,
    rows: Rows,
    options: Training,
    frame: Callable[[FrameKind], Frame],
    n_threads: int,
    sharing: Sharing,
) -> Mixture:
    """The best of where a mixture and what a search of its own has found climb to on these rows, in frame coordinates.

    Where a component collapses in all of them, as far as the best one comes.
    """
    k, name = start.n_components, start.covariance_type

    def ground_of(sample: SampleRows) -> Ground:
        moments, fixed = sample.moments, options.fixed
        grounds = grounds_for(
            [Candidate(k, name)], moments, frame, options.reg_covar, fixed, sharing, options.prior, start.noise,
            marginal=sample.marginal,
        )  # fmt: skip
        return grounds[name]

    starts = [start]
    if options.searches and sharing == SOFT and k > 1:
        few = SampleRows(rows[:SEARCHED_ROWS], frame, n_threads)
        path = Path(start.family, few, ground_of(few), options.model_copy(update={"search": "quick"}), [k])
        path.walk()
        path.explore()
        starts += [top.ascent.mixture for top in path.tops.get(k, [])]
    sample = SampleRows(rows, frame, n_threads, sharing)
    ground = ground_of(sample)
    ascents = [sample_ascent(each, ground, options) for each in starts]
    for _ in climb(ascents, sample.accumulate, SAMPLE_PASSES):
        pass
    return max(ascents, key=lambda a: (is_sound(a, options.reg_covar), a.objective)).mixture
