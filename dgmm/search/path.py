"""A path through the numbers of components on the sample: mixtures grow by splits, shrink by merges, and move by both.

Restarts end at the top nearest to where they began, whichever that is. Here every number of components begins where
its neighbours have arrived: with a component of K - 1 cut in two, or with two of
K + 1 put together (split and merge EM, Ueda et al. 2000). Cuts are tried on a component's own rows, where they cost a
small part of a pass; merges are ranked by what they cost at most; the most promising of them climb, all together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from dgmm.em import Ascent, Ground, climb
from dgmm.families import Family
from dgmm.fits import SAME, Spread, Training
from dgmm.mixture import Mixture
from dgmm.search.initialise import one_component
from dgmm.search.known import Known
from dgmm.search.moves import FIRM, Standing, enough_rows, twin
from dgmm.search.sampled import SampleRows, effective_counts, fewest, is_sound
from dgmm.types import Effort

#: Passes of a proposal at most, and the share of p/2 nats that may be missing at its end; of those on the way.
PASSES, TOLERANCE = 60, 0.02
PASSES_ON_THE_WAY, TOLERANCE_ON_THE_WAY = 15, 0.1
#: After so many passes, and every so many more, proposals that cannot reach the tops that are kept are given up.
SETTLED, AGAIN = 8, 4
#: Moves make so many passes over no more rows than tell them apart, and so many of them go on with all.
PASSES_ON_FEW, MOVES_KEPT = 12, 3
#: A move gains if it does by this share of p/2 nats: less is what the climbs leave undecided.
GAIN = 0.02
#: A top of the sample is lower than another if it is by this many standard errors.
CERTAIN = 2.0
#: What a mixture promises to come to, and how it is made.
Promise = tuple[float, Callable[[], Mixture]]


@dataclass(frozen=True)
class Budget:
    """How much is spent on the sample for each number of components.

    Attributes
    ----------
    beam : int
        Tops of each number of components that are kept alive.
    proposals : int
        Proposals of each step that climb.
    components : int
        Where it is more, as many proposals climb as make so many components: where there are few, climbs cost little.
    overshoot : int
        The path goes so many components beyond the largest that is asked for, and comes back.
    rounds : int
        Rounds of merges with splits, at most, of each number that is asked for.
    pairs : int
        Merges of a round, each of which is tried with as many splits; as many of these moves climb, if that is more
        than the proposals of a step, and as many are evaluated on all the data in the end.
    searches : int
        From the starts on to the whole sample, each on rows of its own as far as there are; the best tops count.
    brief : bool
        There is no path where starts agree, and there are moves on the smallest sample only and on all the data.
    """

    beam: int
    proposals: int
    components: int
    overshoot: int
    rounds: int
    pairs: int
    searches: int = 1
    brief: bool = False

    def width(self, k: int) -> int:
        """How many proposals of K components climb."""
        return max(self.proposals, self.components // k)

    def explored(self, sizes: Sequence[int]) -> Sequence[int]:
        """Of the samples of these sizes, in order, those that have rounds of moves."""
        return sizes[:1] if self.brief else sizes


BUDGETS: dict[Effort, Budget] = {
    "quick": Budget(beam=1, proposals=3, components=12, overshoot=0, rounds=1, pairs=3, brief=True),
    "standard": Budget(beam=2, proposals=4, components=24, overshoot=1, rounds=8, pairs=7),
    "thorough": Budget(beam=4, proposals=8, components=48, overshoot=4, rounds=10, pairs=12, searches=4),
}


@dataclass(frozen=True)
class Top:
    """Where a climb has ended: a sound one.

    Attributes
    ----------
    ascent : Ascent
    standing : Standing
    """

    ascent: Ascent
    standing: Standing

    @property
    def objective(self) -> float:
        """On the sample."""
        return self.ascent.objective


class Path:
    """The tops of one family, for every number of components.

    Parameters
    ----------
    family : Family
    sample : SampleRows
    ground : Ground
    options : Training
    wanted : iterable of int
        Numbers of components; the others are on the way.
    simpler : sequence of Path
        Of families that this one contains, on the same sample.

    Attributes
    ----------
    tops : dict
        Number of components -> the best tops, the most likely first.
    ends : dict
        Number of components -> where every sound climb has ended, those included that were given up.
    """

    def __init__(
        self,
        family: Family,
        sample: SampleRows,
        ground: Ground,
        options: Training,
        wanted: Iterable[int],
        simpler: Sequence[Path] = (),
    ) -> None:
        self.family = family
        self.sample = sample
        self.ground = ground
        self.options = options
        self.budget = BUDGETS[options.search]
        self.wanted = sorted(set(wanted))
        self.simpler = simpler
        self.tops: dict[int, list[Top]] = {}
        self.ends: dict[int, list[float]] = {}
        self._known = Known()

    def walk(self) -> None:
        """From one component up to the largest number that is wanted and beyond, and down again."""
        n, d = self.sample.rows.x.shape
        last = max(min(self.wanted[-1] + self.budget.overshoot, n // (d + 1)), self.wanted[-1])
        self.climb(1, [one_component(self.family, self.ground).beside(self.ground.noise)])
        for k in range(1, last):
            self.grow(k)
        for k in range(last, max(self.wanted[0], 2), -1):
            self.shrink(k)
        self.settle()

    def begin(self, starts: Mapping[int, Sequence[Mixture]], *, hopeless: bool = False) -> None:
        """From starts of the numbers that are wanted, and from one component up: in brief, that only if they differ.

        Of a family that cannot win starts are enough.
        """
        if not (self.budget.brief or hopeless):
            self.walk()
        for k, mixtures in starts.items():
            self.climb(k, mixtures, firm=1)
        if self.budget.brief and not hopeless and not all(self.agreed(k) for k in self.wanted):
            self.walk()
        self.settle()

    def agreed(self, k: int) -> bool:
        """Whether the best top of so many components was come to more than once."""
        return bool(self.tops.get(k)) and self.spread(k).found > 1

    def enough(self, k: int) -> int:
        """As many rows as tell one mixture of K components from another."""
        return enough_rows(self.family.n_parameters(k, self.sample.rows.x.shape[1]))

    def explore(self, *, last: bool = True) -> None:
        """Rounds of merges with splits elsewhere, for each number that is wanted, until none gains.

        Of few rows each top owes more to chance than moves gain: where there is a larger sample, that has them.
        """
        for k in self.wanted:
            if not last and len(self.sample.rows) < self.enough(k):
                continue
            for _ in range(self.budget.rounds if k > 2 else 0):
                if not self.move(k):
                    break
        self.settle()

    def onto(self, sample: SampleRows, ground: Ground, wanted: Iterable[int], simpler: Sequence[Path]) -> Path:
        """The tops of some numbers of components, climbed on with a larger sample."""
        after = Path(self.family, sample, ground, self.options, wanted, simpler)
        for k in after.wanted:
            after.climb(k, [top.ascent.mixture for top in self.tops[k]])
        return after

    def best(self, k: int) -> float:
        """The highest objective of so many components."""
        return self.tops[k][0].objective if self.tops.get(k) else -np.inf

    def likelihood(self, k: int) -> float:
        """The log-likelihood of the best top of so many components, which others can be compared with."""
        return self.tops[k][0].ascent.log_likelihood if self.tops.get(k) else -np.inf

    def rivals(self, k: int) -> tuple[Mixture, ...]:
        """Other tops, in frame coordinates, of which the sample cannot tell whether they are lower than the best."""
        if not self.tops.get(k):
            return ()
        first, *others = [top.ascent.mixture.to_data(self.ground.frame) for top in self.tops[k]]
        rows, marginal = self.sample.rows, self.sample.marginal
        best, undecided = first.log_density(rows.x, marginal=marginal), []
        for other, top in zip(others, self.tops[k][1:], strict=True):
            lower = rows.every_weight * (best - other.log_density(rows.x, marginal=marginal))
            if lower.mean() < CERTAIN * lower.std() / np.sqrt(len(lower)):
                undecided.append(top.ascent.mixture)
        return tuple(undecided)

    def spread(self, k: int) -> Spread:
        """What is known of the tops of so many components."""
        return Spread.of(self.ends[k], self.ground.moments.count)

    def grow(self, k: int) -> None:
        """From K to K + 1 by the best splits, or if all of these end unsound by the next ones."""
        pool: list[Promise] = [
            (top.objective + split.gain, partial(top.standing.split, split))
            for top in self.tops.get(k, [])
            for split in top.standing.splits
        ]
        width = self.budget.width(k + 1)
        for tried in range(0, len(pool), width):
            self.climb(k + 1, self._chosen(pool, tried + width)[tried:])
            if self.tops.get(k + 1):
                break

    def shrink(self, k: int) -> None:
        """From K to K - 1 by the cheapest merges."""
        pool: list[Promise] = []
        for top in self.tops.get(k, []):
            for cost, i, j in top.standing.merges[: self.budget.width(k - 1)]:
                merged = top.standing.merge(i, j)
                if merged is not None:
                    pool.append((top.objective - cost, partial(_itself, merged)))
        self.climb(k - 1, self._chosen(pool, self.budget.width(k - 1)))

    def move(self, k: int) -> bool:
        """A round of merges with splits elsewhere; whether that found a better top."""
        if not self.tops.get(k):
            return False
        top = self.tops[k][0]
        made = top.standing.replaced(top.standing.moves(self.budget.pairs))
        pool: list[Promise] = [(top.objective + m.gain, partial(_itself, m.mixture)) for m in made]
        chosen = self._chosen(pool, max(self.budget.width(k), self.budget.pairs))
        return self.climb(k, self._foremost(k, chosen))

    def _foremost(self, k: int, starts: Sequence[Mixture]) -> Sequence[Mixture]:
        """Those that get furthest on fewer rows, where there are more than tell them apart, and how far they get.

        What means nothing there will hardly do so on all.
        """
        few = self.sample.thinned(self.enough(k))
        if few is self.sample:
            return starts
        ground = replace(self.ground, moments=few.moments.in_frame(self.ground.frame))
        ascents = [Ascent(start, ground, acceleration=self.options.accelerate) for start in starts]
        list(climb(ascents, few.accumulate, PASSES_ON_FEW))
        sound = [a for a in ascents if is_sound(a, self.options.reg_covar)]
        return [a.mixture for a in sorted(sound, key=lambda a: -a.objective)[:MOVES_KEPT]]

    def settle(self) -> None:
        """See to it that the likelihood falls neither as K grows nor from a family to one that contains it."""
        for k in sorted(self.tops):
            for path in self.simpler:
                if path.likelihood(k) > self.likelihood(k):
                    self.climb(k, [path.tops[k][0].standing.as_family(self.family, self.ground)])
            # where no mixture of so many is sound, none is made of fewer: it would be two names for one component
            if k + 1 in self.wanted and k + 1 in self.tops and self.likelihood(k + 1) < self.likelihood(k):
                self.climb(k + 1, [twin(self.tops[k][0].ascent.mixture)])

    def _chosen(self, pool: Sequence[Promise], width: int) -> list[Mixture]:
        """So many, those that promise most, whatever order they come in."""
        least = sorted((promise for promise, _ in pool), reverse=True)[:width][-1:]
        made = [(-promise, make()) for promise, make in pool if [promise] >= least]
        chosen = sorted(made, key=lambda m: (m[0], tuple(m[1].means.ravel().tolist())))
        return [mixture for _, mixture in chosen[:width]]

    def climb(self, k: int, starts: Sequence[Mixture], firm: int = FIRM) -> bool:
        """Climb from these starts, all together; whether one of them came to a better top than was known.

        What has fewer than ``firm`` rows per dimension and one more in a component does not count.
        """
        arrived = k in self.wanted
        chance = 0.5 * self.family.n_parameters(k, self.sample.rows.x.shape[1])
        tol = (TOLERANCE if arrived else TOLERANCE_ON_THE_WAY) * chance / self.ground.moments.count
        ascents = [Ascent(start, self.ground, tol, self.options.accelerate) for start in starts]
        for step in climb(ascents, self.sample.accumulate, PASSES if arrived else PASSES_ON_THE_WAY):
            if step.number >= SETTLED and step.number % AGAIN == 0:
                self._give_up(k, ascents)
        before = self.best(k)
        for a in ascents:
            self.add(k, a, firm)
        return self.best(k) > before + GAIN * chance

    def add(self, k: int, a: Ascent, firm: int = FIRM) -> None:
        """Take up the end of a climb, if it is sound: among the tops, if it is one of the best."""
        if a.best is None or not is_sound(a, self.options.reg_covar):
            return
        # with fewer rows it would be a matter of a few more passes
        if k > 1 and effective_counts(a).min() < fewest(self.ground, firm):
            return
        self.ends.setdefault(k, []).append(a.objective)
        self._keep(k, Top(a, Standing(a.mixture, self.ground, self.sample, self.options.reg_covar, self._known)))

    def join(self, other: Path) -> None:
        """Take up what another search has come to on the same rows; nothing is settled yet."""
        for k, tops in other.tops.items():
            self.ends[k] = [*self.ends.get(k, []), *other.ends[k]]
            for top in tops:
                self._keep(k, top)
        self.wanted = sorted({*self.wanted, *other.wanted})

    def _keep(self, k: int, new: Top) -> None:
        """Among the tops, if it is one of the best and none of them is the same."""
        kept: list[Top] = []
        for top in sorted([*self.tops.get(k, []), new], key=lambda t: -t.objective):
            if not kept or kept[-1].objective - top.objective > SAME * self.ground.moments.count:
                kept.append(top)
        self.tops[k] = kept[: self.budget.beam]

    def _give_up(self, k: int, ascents: Sequence[Ascent]) -> None:
        """Take out those that will hardly be among the best."""
        known = [top.objective for top in self.tops.get(k, [])]
        ranked = sorted([*known, *(a.objective for a in ascents if a.failure is None)], reverse=True)
        if len(ranked) > self.budget.beam:
            bar = ranked[self.budget.beam - 1]
            for a in ascents:
                if not a.done and a.objective + a.attainable_gain < bar:
                    a.abandoned = True


def _itself(mixture: Mixture) -> Mixture:
    return mixture
