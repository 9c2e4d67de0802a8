"""A fit goes on with new rows, without those that it knows: EM on the sums of both."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dgmm.blas import one_blas_thread
from dgmm.data import Samples
from dgmm.em import Ascent, Ground, Past, climb
from dgmm.engine import Journal, Projection, Workers
from dgmm.errors import InputError
from dgmm.families import Family, Noise, SufficientStatistics
from dgmm.fits import Batch, Climbing, Fit, One, Outcome, OutcomeKind, Training
from dgmm.fitting.fit import passes_over
from dgmm.fitting.projection import projection_of
from dgmm.mixture import Mixture
from dgmm.passes import Passes
from dgmm.search import unsound_components

logger = logging.getLogger("dgmm")


def past_of(fit: Fit, name: str = "the model") -> Past:
    """What a fit can go on from; raises `InputError` if that is nothing."""
    if fit.past is None:
        raise InputError(
            f"{name} has no sufficient statistics with it (it was written by an older version or another program, or "
            "has a component too narrow for them): train it anew, or old and new samples together (dgmm train --start)"
        )
    return fit.past


def as_trained(fit: Fit, how: Climbing) -> Training:
    """The settings of a fit by which it goes on."""
    return Training(
        tol=how.tol,
        max_iter=how.max_iter,
        reg_covar=how.reg_covar,
        assignment=fit.assignment,
        fixed=list(fit.fixed),
        prior=fit.prior,
        noise=fit.noise is not None,
        missing=fit.missing,
        search="starts",
        worst_rows=0,
        sample_rows=1,
    )


def update_projection(fit: Fit, samples: Samples, how: Climbing) -> Projection:
    """What a worker needs to update a fit."""
    one = One(n_components=fit.n_components, covariance_type=fit.covariance_type)
    return projection_of(samples, one, as_trained(fit, how))


def update_samples(
    fit: Fit, samples: Samples, workers: Workers, how: Climbing, forget: float = 0.0, journal: Journal | None = None
) -> Fit:
    """The fit after new samples: see `Past` for what that means.

    Components keep their order, so that labels keep their meaning.

    Parameters
    ----------
    fit : Fit
    samples : Samples
        With its features.
    workers : Workers
    how : Climbing
    forget : float
        By how much less every row counts that was there before; in [0, 1).
    journal : Journal, optional

    Raises
    ------
    InputError
        If the fit has no statistics, or the samples cannot be its.
    CollapseError
        If a component collapses.
    """
    past = past_of(fit).scaled(1 - forget)
    samples = samples.like(fit.features, fit.layout)
    options = as_trained(fit, how)
    with one_blas_thread:
        known = fit.mixture.transform
        passes = passes_over(samples, workers, options, frame=past.frame, journal=journal, known=known)
        passes.check(fit.mixture.family)
        before = replace(fit.mixture, transform=None)
        start, ground = before.to_frame(past.frame), ground_after(past, passes, fit.mixture.family, options)
        start = start.beside(noise_over(start.noise, passes))
        climbing = Climb(past, passes, Ascent(start, ground, options.tol, options.accelerate))
        climbing.run(options.max_iter)
    ascent, n, n_passes = climbing.ascent, passes.profile.n_samples, len(climbing.seconds)
    best = ascent.best
    if ascent.failure is not None or best is None:
        raise ascent.failure or InputError(f"the log-likelihood of {samples.name} is {ascent.trajectory[-1]:g}")
    joined, density = Past.of(best), [value / n for value in climbing.of_new]
    assert joined is not None
    after = density[int(np.argmax(ascent.trajectory))]
    batch = Batch(n, passes.profile.n_missing, forget, n_passes, density[0], after)
    if not ascent.converged:
        logger.warning("stopped at pass %d before it converged: raise max_iter (%d)", n_passes, options.max_iter)
    of_another: dict[str, Any] = {"held_out": np.nan, "held_out_se": np.nan, "judged": None, "path": (), "spread": None}
    return replace(
        fit,
        mixture=replace(best.mixture.to_data(past.frame), transform=known),
        log_likelihood=best.log_likelihood,
        n_samples=max(round(joined.count), 1),
        n_missing=fit.n_missing + batch.n_missing,
        n_passes=n_passes,
        outcome=outcome_of(ascent, options.reg_covar),
        remaining_gain=ascent.remaining_gain / joined.count,
        trajectory=tuple(ascent.trajectory),
        remaining_gains=tuple(climbing.gains),
        seconds=tuple(climbing.seconds),
        entropy=joined.statistics.entropy,
        evaluated=best,
        past=joined,
        updates=(*fit.updates, batch),
        stability=None,
        clusters=None,
        **of_another,
    )


class Climb:
    """The passes of an update, and their records.

    Parameters
    ----------
    past : Past
    passes : Passes
        Over the new samples.
    ascent : Ascent

    Attributes
    ----------
    of_new : list of float
        Log-likelihood of the new samples in each pass.
    gains : list of float
        The gain still to come, in nats per sample of all.
    seconds : list of float
    """

    def __init__(self, past: Past, passes: Passes, ascent: Ascent) -> None:
        self.ascent, self._passes, self._past = ascent, passes, past
        self._moments = passes.profile.moments.in_frame(past.frame)
        self.of_new: list[float] = []
        self.gains: list[float] = []
        self.seconds: list[float] = []

    def run(self, max_iter: int) -> None:
        """Climb until it has arrived, or so many passes are made."""
        clock, count = self._passes.clock, self.ascent.ground.moments.count
        began = clock()
        for step in climb([self.ascent], self._past.behind(self._accumulate, self._moments), max_iter):
            self.gains.append(self.ascent.remaining_gain / count)
            self.seconds.append(clock() - began)
            n = self._passes.profile.n_samples
            logger.info(
                "pass %d: %.9g nats/sample of all, %.9g of the new ones, to come %.2g, %.3g rows/s",
                step.number, self.ascent.log_likelihood / count, self.of_new[-1] / n, self.gains[-1],
                n / self.seconds[-1],
            )  # fmt: skip
            began = clock()

    def _accumulate(self, mixtures: Sequence[Mixture]) -> list[SufficientStatistics]:
        found = self._passes.accumulate(mixtures)
        for mixture, statistics in zip(mixtures, found, strict=True):
            family = mixture.family.of_sums(statistics, mixture.n_features)
            shared = family.shared_log_likelihood(mixture.components, self._moments)
            self.of_new.append(statistics.log_likelihood + shared)
        return found


def ground_after(past: Past, passes: Passes, family: Family, options: Training) -> Ground:
    """What an M-step needs to know of old and new rows together."""
    moments = past.moments.merge(passes.profile.moments.in_frame(past.frame))
    prior = None if options.prior == "none" else family.prior(moments)
    floor = family.floor(options.reg_covar, moments)
    how: dict[str, Any] = {"fixed": frozenset(options.fixed), "sharing": passes.sharing, "marginal": passes.marginal}
    return Ground(past.frame, moments, floor, prior=prior, **how)


def noise_over(noise: Noise | None, passes: Passes) -> Noise | None:
    """Noise in the box of old and new rows."""
    if noise is None:
        return None
    low, high = np.minimum(noise.minimum, passes.profile.minimum), np.maximum(noise.maximum, passes.profile.maximum)
    return Noise.between(noise.weight, low, high)


def outcome_of(ascent: Ascent, reg_covar: float) -> Outcome:
    """What has become of a climb that had a best mixture."""
    unsound, n_passes = unsound_components(ascent, reg_covar), len(ascent.trajectory)
    if unsound:
        which = ", ".join(map(str, unsound))
        reason = f"components {which} have too few samples, or less extent than reg_covar ({reg_covar:g}) of the data's"
        return Outcome(OutcomeKind.COLLAPSED, n_passes, unsound, f"{reason}: train anew with fewer")
    return Outcome(OutcomeKind.CONVERGED if ascent.converged else OutcomeKind.STOPPED, n_passes)
