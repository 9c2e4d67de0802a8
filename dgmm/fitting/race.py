"""Candidates on all the data, pass by pass: who is dropped, revived, challenged, and what becomes of each."""

from __future__ import annotations

import logging
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from dgmm.data import Names
from dgmm.em import Ascent, Evaluated, Pass, Past, climb
from dgmm.errors import InsufficientMemoryError
from dgmm.estep import DOUBLE
from dgmm.families import SufficientStatistics, get_family
from dgmm.fits import STRONG, CriterionTerms, Fit, Outcome, OutcomeKind, Training
from dgmm.fitting.forecast import passes_left
from dgmm.fitting.labelled import in_classes
from dgmm.fitting.runner import Runner, State
from dgmm.fitting.scout import Proposal, Scout
from dgmm.mixture import Mixture
from dgmm.passes import Passes
from dgmm.progress import Progress
from dgmm.search import Candidate, unsound_components
from dgmm.types import Criterion, IntArray

logger = logging.getLogger("dgmm")

#: A candidate is dropped once its criterion, with twice the gain it can still make, is this much worse than the
#: best: very strong evidence in the terms of Kass and Raftery (1995).
MARGIN = STRONG
#: No candidate is dropped before this pass, unless it cannot win on the sample either.
SETTLED = 6
#: The likelihood has fallen to a candidate that contains another if it is lower by this share of p/2 nats: less is what
#: climbs leave undecided.
FALLEN = 0.02

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Challenge:
    """A proposal for a candidate, by its number among those of a round.

    Attributes
    ----------
    candidate : Candidate
    number : int
    proposal : Proposal
    """

    candidate: Candidate
    number: int
    proposal: Proposal = field(compare=False)

    def __str__(self) -> str:
        return f"{self.candidate} ({self.proposal.why})"


class Race:
    """Candidates on all the data, pass by pass, and who is still in it.

    Parameters
    ----------
    passes : Passes
    ascents : mapping
        Candidate -> its way up.
    options : Training
    criterion : Criterion
        By which they are compared.
    attainable : mapping
        Candidates that cannot win on the sample -> what they may gain yet, in nats per sample.
    scout : Scout
        Who knows what their climbs may have missed.
    """

    def __init__(
        self,
        passes: Passes,
        ascents: Mapping[Candidate, Ascent],
        options: Training,
        criterion: Criterion,
        attainable: Mapping[Candidate, float],
        scout: Scout,
    ) -> None:
        self.passes = passes
        self.scout = scout
        self.runners = {c: Runner(a, attainable.get(c, np.inf)) for c, a in ascents.items()}
        self.options = options
        self.criterion = criterion
        self.n = passes.profile.n_samples
        self.n_held_out = passes.profile.held_out.count
        #: Passes so far.
        self.done = 0

    def run(self, *, keep_all: bool) -> None:
        """Climb until all have arrived, were dropped, or `max_iter` passes are made; then look for what was missed."""
        self._climb(keep_all=keep_all)
        winners = self.runners if len(self.runners) == 1 else [self.leader()]
        challengers = self._challenge(winners, keep_all=keep_all)
        self._measure([*self.runners.values(), *(c for c in challengers.values() if not c.ascent.abandoned)])
        self._accept(challengers)
        # single precision may have dropped what double would have kept
        while self._revive(for_good=True):
            self._climb(keep_all=keep_all)
            self._measure(self.runners.values())

    def _climb(self, *, keep_all: bool) -> None:
        self._climb_once(keep_all=keep_all)
        # whom the dropped ones lost to may have collapsed since
        while self._revive():
            self._climb_once(keep_all=keep_all)

    def _climb_once(self, *, keep_all: bool) -> None:
        for _, leader in self._pass_by_pass(self.runners):
            for c, runner in () if keep_all else self.runners.items():
                # what cannot win on the sample only shows its criterion on all the data
                settled = self.done >= SETTLED or self.done == 1
                droppable = runner.state is State.CLIMBING and not runner.pardoned
                if settled and droppable and not self.may_win(runner, leader):
                    self._drop(runner, c, leader)

    def _pass_by_pass(self, runners: Mapping[K, Runner], where: str = "") -> Iterator[tuple[Pass, K]]:
        """Climb for as many passes as are left, keep the records and log a line for each; yields it and who leads."""
        climbing, began = list(runners.values()), self.passes.clock()
        evaluated = [r.ascent.proposal for r in climbing]
        for step in climb([r.ascent for r in climbing], self._evaluate, self.options.max_iter - self.done):
            self.done += 1
            seconds = self.passes.clock() - began
            for runner in (climbing[i] for i in step.ascents):
                if self.passes.dtype != DOUBLE:
                    runner.settle()
                runner.history.append((runner.ascent.remaining_gain / self.n, seconds))
                runner.exact = None
            if self.options.keep_path:
                for i in step.ascents:
                    climbing[i].path.append(evaluated[i])
                evaluated = [r.ascent.proposal for r in climbing]
            leader = self._lowest(runners)
            self._log(leader, runners, len(step.ascents), where, seconds)
            yield step, leader
            began = self.passes.clock()

    def _evaluate(self, mixtures: Sequence[Mixture], dtype: np.dtype[Any] | None = None) -> list[SufficientStatistics]:
        """One pass; of challengers that take too much memory together two, of half of them each."""
        try:
            return self.passes.accumulate(mixtures, dtype)
        except InsufficientMemoryError:
            half = len(mixtures) // 2
            if len(mixtures) <= len(self.runners):
                raise
            return self._evaluate(mixtures[:half], dtype) + self._evaluate(mixtures[half:], dtype)

    def _log(self, best: K, runners: Mapping[K, Runner], alive: int, where: str, seconds: float) -> None:
        a, n = runners[best].ascent, self.n
        by = f" by {self.criterion}" if len(runners) > 1 else ""
        left = self.passes_left(runners.values())
        progress = Progress("passes", self.done, left, left * seconds, a.log_likelihood / n)
        logger.info(
            "pass %d%s: %d alive, best%s %s, %.9g nats/sample, gained %.2g, to come %.2g, %.3g rows/s",
            self.done, where, alive, by, best, a.log_likelihood / n, last_gain(a.trajectory) / n, a.remaining_gain / n,
            n / seconds, extra=progress.on_a_line,
        )  # fmt: skip

    def passes_left(self, runners: Iterable[Runner]) -> int:
        """Passes until all of these have arrived, as far as that can be foretold."""
        most = self.options.max_iter - self.done
        climbing = [r for r in runners if r.state is State.CLIMBING]
        foretold = (passes_left([gain for gain, _ in r.history], r.ascent.enough / self.n, most) for r in climbing)
        return max(foretold, default=0)

    def _revive(self, *, for_good: bool = False) -> bool:
        """Take up again those that were dropped and could win after all; whether there are any."""
        dropped = {c: r for c, r in self.runners.items() if r.state is State.DROPPED}
        leader = self.leader()
        revived = [r for c, r in dropped.items() if c == leader or self.may_win(r, leader)]
        for runner in revived:
            runner.readmit(for_good=for_good)
        return bool(revived)

    def _challenge(self, winners: Collection[Candidate], *, keep_all: bool) -> dict[Challenge, Runner]:
        """Look for what the winners miss, go on where the likelihood has fallen, and let collapsed ones try again."""
        options = self.options
        again = options.on_collapse or ("report" if len(self.runners) == 1 else "reseed")
        points: dict[Candidate, Evaluated] = {}
        collapsed: dict[Candidate, tuple[int, ...]] = {}
        for c, runner in self.runners.items():
            a = runner.ascent
            if a.mixture.n_components == 1 or a.best is None or runner.state is State.DROPPED:
                continue
            gone = self.collapsed(a)
            if (gone and again == "reseed") or (not gone and c in winners and self.n > options.first_rows):
                points[c] = a.best
                collapsed[c] = gone
        if self.done >= options.max_iter:
            return {}
        found, fallen = list(self.scout.missed(points, collapsed)), self.fallen()
        for c, inner in fallen.items():
            found += [(c, proposal) for proposal in self.scout.beyond(c, inner)]
        challengers = {}
        for number, (c, proposal) in enumerate(found):
            ascent = Ascent(proposal.mixture, self.runners[c].ascent.ground, options.tol, options.accelerate)
            challengers[Challenge(c, number, proposal)] = Runner(ascent)
            logger.info("%s: trying %s", c, proposal.why)
        for step, _ in self._pass_by_pass(challengers, ", challengers"):
            for challenge, challenger in challengers.items():
                c, a = challenge.candidate, challenger.ascent
                if not collapsed.get(c) and not a.done:
                    old = self.runners[c].ascent.objective
                    if challenge.proposal.at_once:
                        a.abandoned = a.objective <= old
                    elif step.number >= SETTLED:
                        a.abandoned = a.objective + a.attainable_gain < old
                    if c in fallen and step.number >= SETTLED and not a.abandoned:
                        self._drop_loser(challenger, c, keep_all=keep_all)
        return challengers

    def _drop_loser(self, runner: Runner, c: Candidate, *, keep_all: bool) -> None:
        """Take out what can no longer win, unless every candidate is wanted."""
        leader = self.leader()
        if not keep_all and not self.may_win(runner, leader):
            self._drop(runner, c, leader)

    def fallen(self) -> dict[Candidate, Evaluated]:
        """Candidates that remain less likely than a simpler one that they contain -> the most likely of these.

        None with a prior, which may have it so.
        """
        if self.options.prior != "none":
            return {}
        sound = {
            c: r.ascent.best
            for c, r in self.runners.items()
            if r.ascent.best is not None and not self.collapsed(r.ascent)
        }
        found = {}
        for c, runner in self.runners.items():
            family, a = get_family(c.covariance_type), runner.ascent
            inner = [
                point
                for other, point in sound.items()
                if other.n_components <= c.n_components
                and (other.covariance_type == c.covariance_type or family.contains(point.mixture.family))
            ]
            best = max(inner, key=lambda point: point.log_likelihood, default=None)
            undecided = FALLEN * 0.5 * a.mixture.n_free(a.ground.fixed)
            gain = a.attainable_gain if runner.state is State.DROPPED else a.remaining_gain
            if best is not None and c in sound and best.log_likelihood > a.log_likelihood + gain + undecided:
                found[c] = best
        return found

    def _measure(self, runners: Collection[Runner]) -> None:
        """What decides is told in double precision: where passes are in single, one more, of all best mixtures."""
        found = [(r, r.ascent.best) for r in runners if r.ascent.best is not None and r.exact is None]
        if self.passes.dtype == DOUBLE or not found:
            return
        began = self.passes.clock()
        statistics = self._evaluate([point.mixture for _, point in found], DOUBLE)
        for (runner, point), exact in zip(found, statistics, strict=True):
            runner.exact = Evaluated.of(point.mixture, exact, point.ground)
        seconds = self.passes.clock() - began
        logger.info("in double precision: %d mixtures, %.3g rows/s", len(found), self.n / seconds)

    def _accept(self, challengers: Mapping[Challenge, Runner]) -> None:
        """Put challengers in the place of what they are better than."""
        for challenge, challenger in challengers.items():
            c = challenge.candidate
            a, runner = challenger.ascent, self.runners[c]
            better = challenger.objective > runner.objective or bool(self.collapsed(runner.ascent))
            if a.best is None or self.collapsed(a) or not better:
                continue
            what = "log-likelihood" if self.options.prior == "none" else "objective"
            logger.info("%s: %s %.9g becomes %.9g", challenge, what, runner.objective, challenger.objective)
            challenger.earlier = runner.trajectory
            challenger.history[:0] = runner.history
            self.runners[c] = challenger

    def _drop(self, runner: Runner, c: Candidate, leader: Candidate) -> None:
        """Take a candidate out, and say why."""
        best = self.value(self.runners[leader])
        reason = (
            f"{self.criterion} {self.value(runner):.6g}, at most {self.attainable(runner):.3g} less by this climb, "
            f"cannot reach {best:.6g} of {leader}"
        )
        runner.drop(Outcome(OutcomeKind.DROPPED, self.done, reason=reason))
        logger.info("pass %d: dropped %s: its %s", self.done, c, reason)

    def value(self, runner: Runner) -> float:
        """Its criterion so far."""
        if runner.best is None:
            return np.inf
        log_likelihood, entropy, held_out = self.judgement(runner.best.statistics)
        p = runner.ascent.mixture.n_free(runner.ascent.ground.fixed)
        return CriterionTerms(log_likelihood, p, self.n, entropy, held_out).criterion(self.criterion)

    def judgement(self, statistics: SufficientStatistics) -> tuple[float, float, float]:
        """Log-likelihood, entropy of the responsibilities, and mean log density of the rows that are held out."""
        held_out = statistics.held_out / self.n_held_out if self.n_held_out else np.nan
        return statistics.log_likelihood, statistics.entropy, held_out

    def attainable(self, runner: Runner) -> float:
        """How much lower its criterion may become."""
        a = runner.ascent
        return 2 * (a.attainable_gain if len(a.trajectory) > 1 else self.n * runner.attainable_on_sample)

    def may_win(self, runner: Runner, leader: Candidate) -> bool:
        """Whether its criterion, at its limit and by a margin, reaches the leader's."""
        return self.value(runner) - self.attainable(runner) <= self.value(self.runners[leader]) + MARGIN

    def leader(self) -> Candidate:
        """The lowest criterion so far, among those that have not collapsed if there are any."""
        return self._lowest(self.runners)

    def _lowest(self, runners: Mapping[K, Runner]) -> K:
        ranked = sorted(runners, key=lambda c: self.value(runners[c]))
        return next((c for c in ranked if not self.collapsed(runners[c].ascent)), ranked[0])

    def collapsed(self, a: Ascent) -> tuple[int, ...]:
        """Its components that mean nothing: those of the best mixture, and the one that its climb has ended with."""
        ended = () if a.failure is None else a.failure.components or range(a.mixture.n_components)
        return tuple(sorted({*ended, *unsound_components(a, self.options.reg_covar)}))

    def outcome(self, c: Candidate) -> Outcome:
        """What has become of a candidate, its components in canonical order."""
        runner = self.runners[c]
        a, n_passes = runner.ascent, len(runner.trajectory)
        collapsed = self.collapsed(a)
        if a.best is None:
            return Outcome(OutcomeKind.FAILED, n_passes, reason=f"its log-likelihood is {a.trajectory[-1]:g}")
        if collapsed:
            place = np.argsort(self.order(a.mixture))
            numbers = tuple(sorted(place[list(collapsed)].tolist()))
            ended = f", which ended its climb at pass {n_passes}"
            several = ", ".join(map(str, numbers))
            of = sorted({str(self.classes[n * len(self.classes) // c.n_components]) for n in numbers if self.classes})
            which, has = (f"components {several}", " have") if len(numbers) > 1 else (f"component {several}", " has")
            which += f" (class {', '.join(of)})" if of else ""
            lower = "leave such a class out" if of else f"lower n_components ({c.n_components})"
            reg_covar = f"reg_covar ({self.options.reg_covar:g})"
            if a.failure is None:
                lack = f"too few samples, or less extent than {reg_covar} of the data's"
                advice = f"{lower}, or reg_covar if clusters so thin are real"
            else:
                lack, advice = f"too few samples or no extent{ended}", f"{lower} or raise {reg_covar}"
            reason = f"{which}{has} {lack}: {advice}"
            return Outcome(OutcomeKind.COLLAPSED, n_passes, numbers, reason)
        if runner.dropped is not None:
            return runner.dropped
        return Outcome(OutcomeKind.CONVERGED if a.converged else OutcomeKind.STOPPED, n_passes)

    @property
    def classes(self) -> Names:
        """Names of the classes of the samples, if they have labels."""
        labels = self.passes.samples.labels
        return () if labels is None else labels.names

    def order(self, mixture: Mixture) -> IntArray:
        """The order of components in what is returned: see `in_classes`."""
        return in_classes(mixture, len(self.classes))

    def to_fit(self, c: Candidate) -> Fit:
        """The fit of a candidate."""
        runner, profile = self.runners[c], self.passes.profile
        a = runner.ascent
        assert runner.best is not None
        log_likelihood, entropy, held_out = self.judgement(runner.best.statistics)
        gains, seconds = zip(*runner.history, strict=True)
        order, frame, past = self.order(a.mixture), a.ground.frame, Past.of(runner.best)
        return Fit(
            mixture=a.mixture.taken(order).to_data(frame),
            path=tuple(mixture.taken(order).to_data(frame) for mixture in runner.path),
            evaluated=runner.best,
            past=None if past is None else past.taken(order),
            log_likelihood=log_likelihood,
            n_samples=self.n,
            n_missing=profile.n_missing,
            n_passes=len(runner.trajectory),
            outcome=self.outcome(c),
            remaining_gain=a.remaining_gain / self.n,
            trajectory=tuple(runner.trajectory),
            features=self.passes.samples.features,
            entropy=entropy,
            held_out=held_out,
            remaining_gains=gains,
            seconds=seconds,
            layout=self.passes.samples.layout,
            fixed=tuple(self.options.fixed),
            assignment=self.options.assignment,
            prior=self.options.prior,
            missing=self.options.missing,
            classes=self.classes,
        )

    def results(self) -> tuple[dict[Candidate, Fit], dict[Candidate, Outcome]]:
        """The fits, and what has become of those that have none."""
        outcomes = {c: self.outcome(c) for c in self.runners}
        failed = {c: o for c, o in outcomes.items() if o.kind is OutcomeKind.FAILED}
        return {c: self.to_fit(c) for c in self.runners if c not in failed}, failed


def last_gain(trajectory: Sequence[float]) -> float:
    """By how much the last pass raised the best log-likelihood; NaN for the first."""
    return max(trajectory) - max(trajectory[:-1]) if len(trajectory) > 1 else np.nan
