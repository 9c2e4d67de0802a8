"""Moves from one mixture to another: a component cut in two, two put together, another family; for any family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from dgmm.em import Ground, maximise
from dgmm.errors import CollapseError
from dgmm.estep import score
from dgmm.families import Family, GaussianFamily, apply_linear
from dgmm.mixture import Mixture
from dgmm.search.apart import Apart, Portion, alive, climb_apart, evaluate
from dgmm.search.cuts import cut
from dgmm.search.initialise import feature_sums, from_shares, from_sums, one_component, summed
from dgmm.search.known import Known, Move, MoveName, Replacement, Split, Trial, looked_up
from dgmm.search.sampled import SampleRows, fewest, unsound_in
from dgmm.types import FloatArray, IntArray

#: Rows that belong to a component with a smaller probability say nothing about where to cut it.
OWN = 0.01
#: A component of fewer rows per dimension and one more is not looked for: it may become unsound as it climbs on.
FIRM = 4
#: All cuts of a component make so many passes over its own rows; so many of them go on for so many more: of few
#: components, as many as make so many together.
FIRST_PASSES, CUTS_KEPT, CUTS_TOGETHER, MORE_PASSES = 1, 2, 12, 5
#: Merges with splits elsewhere make so many passes over the rows of their three components; the most promising one in
#: so many of them goes on for so many more.
LOCAL_PASSES, LOCAL_SHARE, LOCAL_MORE = 4, 3, 8
#: More rows than these for each parameter, or in all, tell a promising move no better.
ROWS_PER_PARAMETER, ROWS_ENOUGH = 10, 2048


def enough_rows(n_parameters: int) -> int:
    """As many rows as tell mixtures of so many parameters apart."""
    return max(ROWS_PER_PARAMETER * n_parameters, ROWS_ENOUGH)


class Standing:
    """A mixture on rows in memory, and what moves from there need to know; each is found when first asked for.

    Parameters
    ----------
    mixture : Mixture
        In frame coordinates.
    ground : Ground
    sample : SampleRows
    reg_covar : float
        By which a part of a component counts as unsound.
    known : Known, optional
        What is known of the components of other mixtures of the family on these rows.
    """

    def __init__(
        self,
        mixture: Mixture,
        ground: Ground,
        sample: SampleRows,
        reg_covar: float,
        known: Known | None = None,
    ) -> None:
        self.mixture = mixture
        self.reg_covar = reg_covar
        self.ground = ground
        self.sample = sample
        self.known = Known() if known is None else known

    @cached_property
    def responsibilities(self) -> FloatArray:
        """Of every component for every row, times the row's weight, shape (K, m)."""
        rows = self.sample.rows
        plan = self.mixture.to_data(self.ground.frame).density_plan(marginal=self.sample.marginal)
        parts = self.sample.map(lambda block: score(block.x, plan, probabilities=True), self.sample.blocks)
        found = np.concatenate([part.probabilities for part in parts])
        found = np.ascontiguousarray(found[:, : self.mixture.n_components].T)
        return found if rows.weights is None else found * rows.weights

    @cached_property
    def coordinates(self) -> FloatArray:
        """Of the rows in the frame, shape (d, m)."""
        return self.sample.coordinates(self.mixture.family.frame)

    @cached_property
    def sums(self) -> FloatArray:
        """Sums of the features, shape (K, P), in the common frame whatever a component's width."""
        return feature_sums(self.mixture.family, self.coordinates, self.responsibilities, self.mixture.components)

    @property
    def _scale(self) -> FloatArray:
        """The data's standard deviations in the frame; one where there is none."""
        variances = np.diagonal(self.ground.moments.covariance)
        return np.sqrt(np.where(variances > 0, variances, 1.0))

    @cached_property
    def names(self) -> list[int]:
        """Of the components."""
        return self.known.names.of(self.responsibilities)

    def named(self, components: Sequence[int]) -> MoveName:
        """The name of a move: of the merge of the first two, and the cut of the third one."""
        first, second, third = (self.names[k] for k in components)
        return frozenset((first, second)), third

    @cached_property
    def splits(self) -> list[Split]:
        """The best cuts of every component."""
        found = looked_up(self.known.splits, self.names, self._cut)
        return [replace(split, component=k) for k, splits in enumerate(found) for split in splits]

    def _cut(self, components: Sequence[int]) -> list[list[Split]]:
        """The best cuts of some components: all of them make a few passes over its rows, the best some more."""
        made = [*self.sample.map(self._cuts_of, components)]
        wholes, starts = [its[0] for its in made if its], [a for its in made for a in its[1:]]
        for mixtures in (wholes, starts):
            climb_apart(mixtures, FIRST_PASSES)
        kept = max(CUTS_KEPT, CUTS_TOGETHER // self.mixture.n_components)
        best = [sorted(alive(its[1:]), key=lambda a: -a.objective)[:kept] for its in made]
        # a single component of a family without a closed form has its optimum only after another pass
        for mixtures in (wholes, [a for its in best for a in its]):
            climb_apart(mixtures, MORE_PASSES)
        return [
            [Split(k, a.mixture, a.objective - its[0].objective) for a in cuts if self._means_something(a)]
            for k, its, cuts in zip(components, made, best, strict=True)
        ]

    def _cuts_of(self, k: int) -> list[Apart]:
        """A component by itself, and then cut in two in every way; nothing where it is too little to be cut."""
        family, portion = self.mixture.family, self._portion([k])
        if portion.count < 2 * (self.mixture.n_features + 1):
            return []
        try:
            single = one_component(family, portion.ground)
        except (CollapseError, np.linalg.LinAlgError):  # on a plane, or all alike
            return []
        if not (family.variances(single.components) > 0).all():
            return []
        starts = cut(family, self.coordinates[:, portion.own], portion.r, portion.ground, self._scale)
        return [Apart(portion, start) for start in (single, *starts)]

    def split(self, split: Split) -> Mixture:
        """The mixture with a component cut."""
        return self._with([split.component], split.parts)

    @cached_property
    def merges(self) -> list[tuple[float, int, int]]:
        """All pairs of components with the nats that their merging costs, at most, the cheapest first.

        None where a component has no extent left, so that nothing is known of it.
        """
        i, j = np.triu_indices(self.mixture.n_components, 1)
        try:
            costs = merge_costs(self.mixture, self.sums, self._ground, i, j)
        except CollapseError:
            return []
        return sorted(zip(costs.tolist(), i.tolist(), j.tolist(), strict=True))

    def merge(self, i: int, j: int) -> Mixture | None:
        """The M-step with two components as one; None where that collapses."""
        sums = self.sums.copy()
        sums[i] += sums[j]
        others = np.delete(np.arange(len(sums)), j)
        family = self.mixture.family
        blank = Mixture(family, self.mixture.weights[others], family.taken(self.mixture.components, others))
        try:
            made = maximise(blank, summed(self.ground.moments.count, sums[others]), self.ground)
            return made.beside(self.mixture.noise)
        except CollapseError:
            return None

    def moves(self, pairs: int) -> list[Move]:
        """The cheapest merges, each with the best cuts of others, one of each component; so many of both."""
        best = {s.component: s for s in sorted(self.splits, key=lambda s: s.gain)}
        cuts = sorted(best.values(), key=lambda s: -s.gain)
        return [
            (i, j, split)
            for _, i, j in self.merges[:pairs]
            for split in [s for s in cuts if s.component not in (i, j)][:pairs]
        ]

    def replaced(self, moves: Sequence[Move]) -> list[Replacement]:
        """Two components as one, and a third one cut, each climbed by itself on the rows of the three.

        With all others and all their responsibilities as they are (the partial EM of Ueda et al. 2000): a small part
        of the cost of a climb, and a bound on where that begins. All climb a little, the most promising ones go on;
        what collapses or means nothing is left out.
        """
        names = [self.named((i, j, split.component)) for i, j, split in moves]
        tried = looked_up(self.known.tried, names, lambda new: self._tried([moves[at] for at in new]))
        sound = sorted((at for at, trial in enumerate(tried) if trial.sound), key=lambda at: -tried[at].gain)
        chosen = sound[: -(-len(moves) // LOCAL_SHARE)]
        climbed = looked_up(
            self.known.climbed,
            [names[at] for at in chosen],
            lambda new: self._climbed([tried[chosen[at]] for at in new], LOCAL_MORE),
        )
        made: list[Replacement] = []
        for at, trial in zip(chosen, climbed, strict=True):
            i, j, split = moves[at]
            if trial.sound:
                made.append(Replacement(self._in_place([i, j, split.component], trial), trial.gain))
        return made

    def _tried(self, moves: Sequence[Move]) -> list[Trial]:
        """Moves after their first passes."""
        begun = [*self.sample.map(self._begun, moves)]
        evaluate([trial.before for trial in begun])
        return self._climbed(begun, LOCAL_PASSES)

    def _begun(self, move: Move) -> Trial:
        i, j, split = move
        family, three = self.mixture.family, [i, j, split.component]
        portion, weights = self._portion(three), self.mixture.weights[three]
        alone = Mixture(family, weights / weights.sum(), family.taken(self.mixture.components, np.array(three)))
        before = Apart(portion, alone)
        try:
            merged = from_sums(family, (self.sums[i] + self.sums[j])[None], self._ground)
        except CollapseError:
            return Trial(before, replace(before, collapsed=True))
        weights = np.concatenate([[weights[:2].sum()], weights[2] * split.parts.weights])
        weights = weights / weights.sum()
        start = Mixture(family, weights, family.joined([merged.components, split.parts.components], weights))
        return Trial(before, Apart(portion, start))

    def _climbed(self, trials: Sequence[Trial], passes: int) -> list[Trial]:
        """The same after so many passes more; of those that were before, nothing changes."""
        after = [replace(trial, after=replace(trial.after)) for trial in trials]
        climb_apart([trial.after for trial in after], passes)
        return [replace(trial, sound=self._means_something(trial.after)) for trial in after]

    def _in_place(self, three: list[int], trial: Trial) -> Mixture:
        """The mixture with what a trial has come to in the place of three components."""
        # where these are all there are, what they share is theirs
        if self.mixture.n_components == 3:
            return trial.after.mixture.beside(self.mixture.noise)
        return self._with(three, trial.after.mixture)

    def _portion(self, components: Sequence[int]) -> Portion:
        """Rows that belong to some components, with what of each is theirs, times the row's weight.

        Of more than are needed every second, third or so, with the weight of those between: they lie in no order.
        """
        rows, r = self.sample.rows, self.responsibilities[components].sum(axis=0)
        own = np.flatnonzero((r if rows.weights is None else r / rows.weights) > OWN)
        p = self.mixture.family.n_parameters(len(components), self.mixture.n_features)
        step = max(1, len(own) // enough_rows(p))
        total, own = r[own].sum(), own[::step]
        # none are those of a component that has its weight of many rows, a little of each
        share = total / max(r[own].sum(), np.finfo(float).tiny)
        return Portion(self.sample, own, r[own] * share, self._ground)

    @property
    def _ground(self) -> Ground:
        """For some of the components by themselves."""
        prior = self.ground.prior
        return self.ground if prior is None else replace(self.ground, prior=prior.within(self.mixture.n_components))

    def _with(self, components: Sequence[int], parts: Mixture) -> Mixture:
        """The mixture with others in the place of some of its components; they come last, with the weight of these."""
        mixture = self.mixture
        others = np.delete(np.arange(mixture.n_components), components)
        weights = np.concatenate([mixture.weights[others], mixture.weights[components].sum() * parts.weights])
        weights /= weights.sum()
        both = [mixture.family.taken(mixture.components, others), parts.components]
        return Mixture(mixture.family, weights, mixture.family.joined(both, weights)).beside(mixture.noise)

    def _means_something(self, a: Apart) -> bool:
        """Whether it goes on, and every component is sound and has rows enough to stay so."""
        if a.collapsed:
            return False
        counts = a.mixture.weights * a.portion.count
        unsound = unsound_in(a.mixture, counts, self.ground, self.reg_covar)
        return not unsound.any() and bool(counts.min() >= fewest(self.ground, FIRM))

    def as_family(self, family: Family, ground: Ground) -> Mixture:
        """The M-step of another family, on the same responsibilities: no less likely, if that contains this one.

        Parameters
        ----------
        family : Family
        ground : Ground
            Of that family.
        """
        y = self.sample.coordinates(family.frame)
        return from_shares(family, y, self.responsibilities, ground, self.mixture.noise)


def twin(mixture: Mixture) -> Mixture:
    """One component more and the same density: the heaviest twice, with half of the weight each."""
    k = int(np.argmax(mixture.weights))
    order = np.array([*range(mixture.n_components), k])
    weights = mixture.weights[order]
    weights[[k, -1]] /= 2
    return replace(mixture, weights=weights, components=mixture.family.taken(mixture.components, order))


def merge_costs(mixture: Mixture, sums: FloatArray, ground: Ground, i: IntArray, j: IntArray) -> FloatArray:
    """What merging pairs costs, at most, in nats: the expected log-likelihood with and without, weights aside.

    For Gaussian components n times Runnalls' bound of the Kullback-Leibler divergence between mixtures,
    ``[(w_i + w_j) log |C_ij| - w_i log |C_i| - w_j log |C_j|] / 2`` (Runnalls 2007, equation 21), where ``C_ij`` is the
    covariance of both. Where all components share one covariance, as if that stayed what it is; where they share a part
    of it, as if they did not.

    Parameters
    ----------
    mixture : Mixture
    sums : ndarray, shape (K, P)
    ground : Ground
    i, j : ndarray of int, shape (pairs,)
    """
    family, n = mixture.family.unconstrained(), sums[:, 0]
    if isinstance(family, GaussianFamily) and family.shared:
        whitening = family.local_frames(mixture.components).forwards[0]
        differences = apply_linear(whitening, (mixture.means[i] - mixture.means[j]).T)
        harmonic = n[i] * n[j] / np.maximum(n[i] + n[j], np.finfo(float).tiny)
        return 0.5 * harmonic * (differences**2).sum(axis=0)

    def expected(its: FloatArray, reference: object) -> FloatArray:
        blank = Mixture(family, np.ones(len(its)), reference)
        components = maximise(blank, summed(ground.moments.count, its), ground).components
        return np.einsum("kp,kp->k", family.natural_parameters(np.ones(len(its)), components, 0.0), its)

    apart = expected(sums, mixture.components)
    costs: FloatArray = apart[i] + apart[j] - expected(sums[i] + sums[j], family.taken(mixture.components, i))
    return costs
