"""Candidates on all the data, pass by pass: who is dropped, revived, reseeded, and what becomes of each."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence

import numpy as np

from dgmm.config import Training
from dgmm.em import Ascent, Pass, climb
from dgmm.passes import Passes
from dgmm.reseed import reseed
from dgmm.results import STRONG, Criterion, Fit, Standing
from dgmm.starts import Candidate, unsound_components

logger = logging.getLogger("dgmm")

#: A candidate is dropped once its criterion, with twice the gain it can still hope for, is this much worse than the
#: best: very strong evidence in the terms of Kass and Raftery (1995).
MARGIN = STRONG
#: No candidate is dropped before this pass, unless it cannot win on the sample either.
SETTLED = 6


class Race:
    """Candidates on all the data, pass by pass, and who is still in it.

    Parameters
    ----------
    passes : Passes
    ascents : dict
        Candidate -> its way up.
    options : Training
    criterion : Criterion
        By which they are compared.
    hopes : dict
        Candidates that cannot win on the sample -> what they may gain yet, in nats per sample.
    """

    def __init__(
        self,
        passes: Passes,
        ascents: dict[Candidate, Ascent],
        options: Training,
        criterion: Criterion,
        hopes: dict[Candidate, float],
    ) -> None:
        self.passes = passes
        self.ascents = ascents
        self.options = options
        self.criterion = criterion
        self.hopes = hopes
        self.n = passes.profile.n_samples
        self.n_held_out = passes.profile.held_out.count
        #: Candidates that were dropped, after which pass and why.
        self.dropped: dict[Candidate, tuple[int, str]] = {}
        #: Per pass that a candidate took part in: the estimated gain still to come, and seconds.
        self.history: dict[Candidate, list[tuple[float, float]]] = {c: [] for c in ascents}
        #: Passes so far.
        self.done = 0

    def run(self, *, keep_all: bool) -> None:
        """Climb until all have arrived, were dropped, or `max_iter` passes are made.

        Whom the dropped ones lost to may have collapsed since: those that could win after all climb on.
        """
        while self.done < self.options.max_iter:
            self._climb(keep_all=keep_all)
            if not self.dropped:
                break
            leader = self.leader()
            revived = [c for c in self.dropped if c == leader or self.may_win(c, leader)]
            for c in revived:
                del self.dropped[c]
                self.ascents[c].left = False
            if not revived:
                break

    def _climb(self, *, keep_all: bool) -> None:
        n = self.n
        for step, seconds in self._pass_by_pass(self.ascents, self.history):
            leader = self.leader()
            ascent = self.ascents[leader]
            logger.info(
                "pass %d: %d alive, best %s, %.9g nats/sample, gained %.2g, to come %.2g, %.3g rows/s",
                self.done, len(step.ascents), leader, ascent.log_likelihood / n, last_gain(ascent.trajectory) / n,
                ascent.remaining_gain / n, n / seconds,
            )  # fmt: skip
            for c in () if keep_all else self.ascents:
                # what cannot win on the sample only shows its criterion on all the data
                settled = self.done >= SETTLED or (self.done == 1 and c in self.hopes)
                if settled and not self.ascents[c].done and not self.may_win(c, leader):
                    self.drop(c, leader)

    def _pass_by_pass(
        self, ascents: dict[Candidate, Ascent], history: dict[Candidate, list[tuple[float, float]]]
    ) -> Iterator[tuple[Pass, float]]:
        """Climb for as many passes as are left, and keep the records; yields each pass and its seconds."""
        candidates, began = list(ascents), time.perf_counter()
        for step in climb(list(ascents.values()), self.passes.accumulate, self.options.max_iter - self.done):
            self.done += 1
            seconds = time.perf_counter() - began
            for c in (candidates[i] for i in step.ascents):
                history[c].append((ascents[c].remaining_gain / self.n, seconds))
            yield step, seconds
            began = time.perf_counter()

    def reseed(self, winners: Sequence[Candidate]) -> None:
        """Look for what the winners miss, and give collapsed candidates another try, on the rows explained worst."""
        options, profile = self.options, self.passes.profile
        again = options.on_collapse or ("report" if len(self.ascents) == 1 else "reseed")
        wanted: dict[Candidate, tuple[int, ...]] = {}
        for c, a in self.ascents.items():
            if a.best.n_components == 1 or a.statistics is None or c in self.dropped:
                continue
            collapsed = self.collapsed(c)
            if (collapsed and again == "reseed") or (not collapsed and c in winners and self.n > options.start_rows):
                wanted[c] = collapsed
        if not wanted or not options.worst_rows or self.done >= options.max_iter:
            return
        mixtures = [self.ascents[c].best.to_data(self.ascents[c].setting.frame) for c in wanted]
        rows = profile.sample.first(options.start_rows)
        challengers: dict[Candidate, Ascent] = {}
        for (c, collapsed), worst in zip(wanted.items(), self.passes.worst(mixtures, options.worst_rows), strict=True):
            a = self.ascents[c]
            assert a.statistics is not None
            new = reseed(a.best, a.statistics, a.setting, worst, rows, collapsed=collapsed, seed=options.seed)
            if new is not None:
                challengers[c] = Ascent(new.mixture, a.setting, options.tol, options.accelerate)
                logger.info("%s: trying components %s on the rows explained worst", c, new.replaced)
        history: dict[Candidate, list[tuple[float, float]]] = {c: [] for c in challengers}
        for step, _ in self._pass_by_pass(challengers, history):
            for c, a in challengers.items():
                old = self.ascents[c]
                hopeless = a.log_likelihood + a.hope < old.log_likelihood
                if step.number >= SETTLED and not wanted[c] and not a.done and hopeless:
                    a.left = True
        for c, a in challengers.items():
            old = self.ascents[c]
            unsound = unsound_components(a.best, a.setting, self.n, options.reg_covar)
            if unsound or not a.trajectory or (not wanted[c] and a.log_likelihood <= old.log_likelihood):
                logger.info("%s: the rows explained worst make no better component", c)
                continue
            logger.info("%s: log-likelihood %.9g becomes %.9g", c, old.log_likelihood, a.log_likelihood)
            self.history[c] += history[c]
            a.trajectory[:0] = old.trajectory
            self.ascents[c] = a

    def drop(self, c: Candidate, leader: Candidate) -> None:
        """Take a candidate out, and say why."""
        reason = (
            f"{self.criterion} {self.value(c):.6g}, at most {self.hope(c):.3g} less at its limit, cannot reach "
            f"{self.value(leader):.6g} of {leader}"
        )
        self.ascents[c].left = True
        self.dropped[c] = self.done, reason
        logger.info("pass %d: dropped %s: its %s", self.done, c, reason)

    def value(self, c: Candidate) -> float:
        """Its criterion so far."""
        a = self.ascents[c]
        entropy, held_out = self.judgement(c)
        return Standing(a.log_likelihood, a.best.n_parameters, self.n, entropy, held_out).criterion(self.criterion)

    def judgement(self, c: Candidate) -> tuple[float, float]:
        """Entropy of the responsibilities, and mean log density of the rows that are held out."""
        statistics = self.ascents[c].statistics
        if statistics is None:
            return np.nan, np.nan
        return statistics.entropy, statistics.held_out / self.n_held_out if self.n_held_out else np.nan

    def hope(self, c: Candidate) -> float:
        """How much lower its criterion may become."""
        a = self.ascents[c]
        return 2 * (a.hope if len(a.trajectory) > 1 else self.n * self.hopes.get(c, np.inf))

    def may_win(self, c: Candidate, leader: Candidate) -> bool:
        """Whether its criterion, at the limit it can hope for and by a margin, reaches the leader's."""
        return self.value(c) - self.hope(c) <= self.value(leader) + MARGIN

    def leader(self) -> Candidate:
        """The lowest criterion so far, among those that have not collapsed if there are any."""
        ranked = sorted(self.ascents, key=self.value)
        sound = (c for c in ranked if self.ascents[c].failure is None and not self.collapsed(c))
        return next(sound, ranked[0])

    def collapsed(self, c: Candidate) -> tuple[int, ...]:
        """Its components that mean nothing."""
        a = self.ascents[c]
        return unsound_components(a.best, a.setting, self.n, self.options.reg_covar)

    def to_fit(self, c: Candidate) -> Fit:
        """What has become of a candidate."""
        ascent, profile, n = self.ascents[c], self.passes.profile, self.n
        order = ascent.best.canonical()
        collapsed = unsound_components(order, ascent.setting, n, self.options.reg_covar)
        n_passes, reason = len(ascent.trajectory), ""
        if collapsed or ascent.failure:
            state = "collapsed"
            reason = ascent.failure or (
                f"components {', '.join(map(str, collapsed))} have too few samples or no extent: lower n_components or "
                f"raise reg_covar ({self.options.reg_covar:g})"
            )
        elif c in self.dropped:
            state, reason = f"dropped at pass {self.dropped[c][0]}", self.dropped[c][1]
        else:
            state = "converged" if ascent.converged else f"stopped at pass {n_passes}"
        entropy, held_out = self.judgement(c)
        gains, seconds = zip(*self.history[c], strict=True)
        return Fit(
            mixture=order.to_data(ascent.setting.frame),
            log_likelihood=ascent.log_likelihood,
            n_samples=n,
            n_missing=profile.n_missing,
            n_passes=n_passes,
            converged=ascent.converged,
            remaining_gain=ascent.remaining_gain / n,
            trajectory=tuple(ascent.trajectory),
            features=self.passes.samples.features,
            collapsed=collapsed,
            state=state,
            reason=reason,
            entropy=entropy,
            held_out=held_out,
            remaining_gains=gains,
            seconds=seconds,
        )


def last_gain(trajectory: Sequence[float]) -> float:
    """By how much the last pass raised the best log-likelihood; NaN for the first."""
    return max(trajectory) - max(trajectory[:-1]) if len(trajectory) > 1 else np.nan
