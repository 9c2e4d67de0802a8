"""The M-step, and what it is made of: sufficient statistics of a mixture, and what is known of the data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from dgmm.errors import CollapseError, InputError
from dgmm.estep import SOFT, Sharing, together
from dgmm.families import Frame, Moments, Noise, Prior, SufficientStatistics, proportions
from dgmm.mixture import Mixture
from dgmm.rows import Rows

#: Components that have no more of the samples in all have none.
NOTHING = 1e-100
#: The seam: "apply the E-step of these mixtures to every sample and add up".
Accumulate = Callable[[Sequence[Mixture]], list[SufficientStatistics]]


@dataclass(frozen=True)
class Ground:
    """What an M-step needs to know about the data: a value, the same for every candidate of a family.

    Attributes
    ----------
    frame : Frame
    moments : Moments
        In frame coordinates.
    floor : object
        Regularisation, as the family's `floor` makes it.
    held_out : Moments, optional
        Of rows that the fit does not see, in frame coordinates.
    sample : Rows, optional
        In the data's units, with weights of mean one if any: a sample of the data, where they are many more.
    fixed : frozenset of str
        Which of weights, means and covariances stay as they are.
    sharing : Sharing
        How the E-step shares samples out.
    constant : bool
        Whether sums do not depend on the mixture, since the component of every sample is known.
    prior : Prior, optional
        Of the components, as the family's `prior` makes it.
    noise : Noise, optional
        What mixtures have beside their components to begin with.
    marginal : bool
        Whether samples lack some of their values, so that sums depend on the mixture however few components it has.
    """

    frame: Frame
    moments: Moments
    floor: Any
    held_out: Moments | None = None
    sample: Rows | None = None
    fixed: frozenset[str] = frozenset()
    sharing: Sharing = SOFT
    constant: bool = False
    prior: Prior | None = None
    noise: Noise | None = None
    marginal: bool = False


def is_separate(mixture: Mixture, ground: Ground) -> bool:
    """Whether the M-step of one component knows nothing of the others, nor of what mixture they are."""
    return mixture.family.separate and mixture.noise is None and ground.prior is None and not ground.fixed


@dataclass(frozen=True)
class Evaluated:
    """A mixture and what a pass over the data has said of it.

    Attributes
    ----------
    mixture : Mixture
        In frame coordinates.
    statistics : SufficientStatistics
    ground : Ground
    """

    mixture: Mixture
    statistics: SufficientStatistics
    ground: Ground

    @classmethod
    def of(cls, mixture: Mixture, statistics: SufficientStatistics, ground: Ground) -> Evaluated:
        """With the part of the log-likelihood that the E-step has left out, since all components share it."""
        if not statistics.local.all():
            components = mixture.components
            family = mixture.family.of_sums(statistics, mixture.n_features)
            shared = family.shared_log_likelihood(components, ground.moments)
            held = ground.held_out
            apart = 0.0 if held is None else family.shared_log_likelihood(components, held)
            statistics = replace(
                statistics, log_likelihood=statistics.log_likelihood + shared, held_out=statistics.held_out + apart
            )
        return cls(mixture, statistics, ground)

    @property
    def log_likelihood(self) -> float:
        """Total, in the data's units, in nats."""
        return self.statistics.log_likelihood

    @cached_property
    def objective(self) -> float:
        """What climbs go by: the log-likelihood, and with a prior the logarithm of its density up to a constant."""
        prior = self.ground.prior
        return self.log_likelihood + (0.0 if prior is None else prior.log_density(self.mixture.components))

    @cached_property
    def image(self) -> Mixture:
        """The mixture after an M-step.

        Raises
        ------
        CollapseError
        """
        return maximise(self.mixture, self.statistics, self.ground)

    def in_data_units(self) -> Mixture:
        """The mixture in the data's units."""
        return self.mixture.to_data(self.ground.frame)


def maximise(mixture: Mixture, statistics: SufficientStatistics, ground: Ground) -> Mixture:
    """The M-step: the mixture that maximises the expected log-likelihood, and the prior's density if there is one."""
    moments, floor, fixed = ground.moments, ground.floor, ground.fixed
    family = mixture.family.of_sums(statistics, mixture.n_features)
    counts, of_noise = statistics.sums[:, 0], statistics.noise / statistics.count
    if mixture.noise is not None and counts.sum() <= NOTHING:
        raise CollapseError(
            "all components collapsed: every sample is noise; try other starts (n_init), or leave noise out",
            tuple(range(mixture.n_components)),
        )
    if ground.prior is not None:
        held = "means" in fixed
        statistics, moments = ground.prior.added(statistics, mixture.components, moments, held=held)
    if "covariances" in fixed:
        floor = family.floor(1.0, moments)  # of any: they are not kept, and may have no extent
    elif "means" in fixed:
        statistics, moments = family.about(statistics, mixture.components, moments)
    weights, components = family.maximise(statistics, mixture.components, moments, floor)
    if ground.prior is not None:
        weights = proportions(counts)
    made = holding(Mixture(mixture.family, weights, components), mixture, fixed)
    noise = mixture.noise
    return made if noise is None else made.beside(noise.weighing(of_noise))


def find_images(points: Sequence[Evaluated]) -> None:
    """Find the `image` of each point: those on one ground whose components have nothing in common by one M-step.

    They have the bits that they have alone. Where any of them comes to nothing, all are left to be found one by one.
    """
    groups: dict[tuple[int, int], list[Evaluated]] = {}
    for point in points:
        if is_separate(point.mixture, point.ground) and np.isfinite(point.objective):
            groups.setdefault((id(point.mixture.family), id(point.ground)), []).append(point)
    for group in groups.values():
        if len(group) == 1:
            continue
        sums = np.concatenate([point.statistics.sums for point in group])
        local = np.concatenate([point.statistics.local for point in group])
        whole = SufficientStatistics(np.nan, sum(point.statistics.count for point in group), sums, local)
        stop = np.cumsum([point.mixture.n_components for point in group]).tolist()
        try:
            made = maximise(together([point.mixture for point in group]), whole, group[0].ground)
            taken = [made.family.taken(made.components, slice(*ends)) for ends in pairwise([0, *stop])]
        except (CollapseError, InputError):
            continue
        for point, components in zip(group, taken, strict=True):
            # where its property keeps it
            vars(point)["image"] = Mixture(made.family, proportions(point.statistics.sums[:, 0]), components)


def holding(mixture: Mixture, held: Mixture, fixed: Collection[str]) -> Mixture:
    """A mixture with those parts of another, ``held``, that are fixed."""
    if not fixed:
        return mixture
    weights = held.weights if "weights" in fixed else mixture.weights
    components = mixture.family.holding(mixture.components, held.components, fixed)
    made = Mixture(mixture.family, weights, components)
    return made if mixture.noise is None else made.beside(mixture.noise)
