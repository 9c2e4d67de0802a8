"""Candidates to convergence on all the data, sharing every pass; one candidate is the case `train` uses."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from dgmm.config import Training
from dgmm.em import Ascent, climb
from dgmm.errors import CollapseError, InputError
from dgmm.families import get_family
from dgmm.initialise import one_component
from dgmm.passes import Passes
from dgmm.results import STRONG, Fit, Selection, bic
from dgmm.starts import Candidate, settings_for, start_on_sample, unsound_components
from dgmm.workers import one_blas_thread

logger = logging.getLogger("dgmm")

#: A candidate is dropped once its BIC, with twice the gain it can still hope for, is this much worse than the best:
#: very strong evidence in the terms of Kass and Raftery (1995).
MARGIN = STRONG
#: No candidate is dropped before this pass, or unless it lags by more than it has gained in all passes so far.
SETTLED = 6


def fit_candidates(
    passes: Passes, candidates: Sequence[Candidate], options: Training, *, keep_all: bool = True
) -> tuple[dict[Candidate, Fit], dict[Candidate, str]]:
    """Fit every candidate; the passes over all the data are shared.

    Returns
    -------
    fits : dict
        Candidate -> `Fit`.
    failures : dict
        Candidate -> why there is none.
    """
    samples, profile = passes.samples, passes.profile
    for c in candidates:
        if c.n_components > profile.n_samples:
            raise InputError(
                f"n_components={c.n_components} is more than the {profile.n_samples} complete rows of {samples.name}"
            )

    settings = settings_for(candidates, profile.moments, passes.frame, options.reg_covar)
    logger.info(
        "profile: %d samples of %d features, %d left out with missing values, in %d segments",
        profile.n_samples, samples.n_features, profile.n_missing, len(samples.grid),
    )  # fmt: skip
    starts, failures = start_on_sample(profile, candidates, options, passes.frame)
    for c in candidates:
        if c.n_components == 1:
            starts[c] = one_component(get_family(c.covariance_type), settings[c.covariance_type])
    ascents = {
        c: Ascent(start, settings[c.covariance_type], options.tol, options.accelerate) for c, start in starts.items()
    }
    with one_blas_thread:  # or the threads of an M-step would spin on where the next pass wants to compute
        dropped = _climb_on_data(passes, ascents, options, keep_all)
    fits = {}
    for c, ascent in ascents.items():
        if not ascent.trajectory:
            failures[c] = ascent.failure or "no pass was made"
            continue
        fits[c] = _to_fit(passes, c, ascent, options, dropped.get(c))
    return fits, failures


def _climb_on_data(
    passes: Passes, ascents: dict[Candidate, Ascent], options: Training, keep_all: bool
) -> dict[Candidate, int]:
    """Climb on all the data; returns the candidates that were dropped and the pass after which they were.

    Whom they lost to may have collapsed since: those that could win after all climb on.
    """
    n, done = passes.profile.n_samples, 0
    dropped: dict[Candidate, int] = {}
    while done < options.max_iter:
        began = time.perf_counter()
        for step in climb(list(ascents.values()), passes.accumulate, options.max_iter - done):
            done += 1
            seconds = time.perf_counter() - began
            leader = _leader(ascents, dropped, n, options.reg_covar)
            ascent = ascents[leader]
            logger.info(
                "pass %d: %d alive, best %s, %.9g nats/sample, to come %.2g, %.3g rows/s",
                done, len(step.ascents), leader, ascent.log_likelihood / n, ascent.remaining_gain / n, n / seconds,
            )  # fmt: skip
            if not keep_all and done >= SETTLED:
                for c, a in ascents.items():
                    if not a.done and not _may_win(a, ascent, n):
                        a.failure = f"dropped at pass {done}"
                        dropped[c] = done
            began = time.perf_counter()
        if not dropped:
            break
        ascent = ascents[_leader(ascents, dropped, n, options.reg_covar)]
        revived = [c for c in dropped if ascents[c] is ascent or _may_win(ascents[c], ascent, n)]
        for c in revived:
            del dropped[c]
            ascents[c].failure = None
        if not revived:
            break
    return dropped


def _may_win(ascent: Ascent, leader: Ascent, n: int) -> bool:
    """Whether a candidate's criterion, at the limit it can hope for and by a margin, reaches the leader's."""
    hope = max(4 * ascent.remaining_gain, 2 * (ascent.log_likelihood - ascent.trajectory[0]))
    return _bic(ascent, n) - hope <= _bic(leader, n) + MARGIN


def _bic(ascent: Ascent, n: int) -> float:
    return bic(ascent.log_likelihood, ascent.best.n_parameters, n)


def _leader(ascents: dict[Candidate, Ascent], dropped: Mapping[Candidate, int], n: int, reg_covar: float) -> Candidate:
    """The candidate with the lowest BIC so far, among those that have not collapsed if there are any."""
    ranked = sorted(ascents, key=lambda c: _bic(ascents[c], n))
    sound = (
        c
        for c in ranked
        if (ascents[c].failure is None or c in dropped)
        and not unsound_components(ascents[c].best, ascents[c].setting, n, reg_covar)
    )
    return next(sound, ranked[0])


def _to_fit(passes: Passes, c: Candidate, ascent: Ascent, options: Training, dropped: int | None) -> Fit:
    profile = passes.profile
    n = profile.n_samples
    order = ascent.best.canonical()
    collapsed = unsound_components(order, ascent.setting, n, options.reg_covar)
    n_passes = len(ascent.trajectory)
    if collapsed or (ascent.failure and dropped is None):
        state = "collapsed"
    elif dropped is not None:
        state = f"dropped at pass {dropped}"
    else:
        state = "converged" if ascent.converged else f"stopped at pass {n_passes}"
    return Fit(
        mixture=order.to_data(ascent.setting.frame),
        log_likelihood=ascent.log_likelihood,
        n_samples=n,
        n_missing=profile.n_missing,
        n_passes=n_passes,
        converged=ascent.converged,
        remaining_gain=ascent.remaining_gain / n,
        trajectory=tuple(ascent.trajectory),
        features=passes.samples.features,
        collapsed=collapsed,
        state=state,
    )


def select_candidates(
    passes: Passes,
    n_components: Sequence[int],
    covariance_type: Sequence[str],
    options: Training,
    *,
    keep_all: bool,
) -> Selection:
    """Fit the grid and choose the sound candidate with the lowest BIC."""
    candidates = [Candidate(k, kind) for kind in covariance_type for k in n_components]
    fits, failures = fit_candidates(passes, candidates, options, keep_all=keep_all)
    sound = [f for f in fits.values() if not f.collapsed and f.state != "collapsed"]
    if not sound:
        raise CollapseError(
            f"every candidate collapsed: lower n_components ({max(n_components)}) or raise reg_covar "
            f"({options.reg_covar:g})"
        )
    best = min(sound, key=lambda f: f.bic)
    reasons = {(c.n_components, c.covariance_type): why for c, why in failures.items()}
    return Selection(best, tuple(fits.values()), passes.n_reads, reasons)
