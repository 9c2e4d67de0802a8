"""Mixtures that climb by plain EM, each on rows of its own, all in step.

A step of one of them is so little work that what surrounds it would take longer: the M-steps of all are one, and so is
what is made of their parameters for the E-steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from types import MappingProxyType

import numpy as np

from dgmm.em import Evaluated, Ground, find_images, is_separate
from dgmm.errors import CollapseError
from dgmm.estep import Plan, accumulate, make_plan, together, unpack
from dgmm.families import Moments, SufficientStatistics
from dgmm.mixture import Mixture
from dgmm.rows import Rows
from dgmm.search.sampled import SampleRows
from dgmm.types import FloatArray, IntArray

#: Of the rows of portions, those of the first are kept from pass to pass: so many bytes.
KEPT_BYTES = 2**26
EMPTY: Mapping[Portion, Rows] = MappingProxyType({})


@dataclass(eq=False)
class Portion:
    """Some rows of a sample with weights of their own, as if there were no more.

    Attributes
    ----------
    sample : SampleRows
    own : ndarray of int, shape (n,)
        Which rows.
    r : ndarray, shape (n,)
        What each weighs.
    all_rows : Ground
    """

    sample: SampleRows
    own: IntArray
    r: FloatArray
    all_rows: Ground

    @property
    def rows(self) -> Rows:
        """In the data's units; not kept, since there may be many portions."""
        return Rows(self.sample.rows.x[self.own], self.r)

    @property
    def nbytes(self) -> int:
        """Bytes of `rows`."""
        return len(self.own) * self.sample.rows.x.strides[0] + self.r.nbytes

    @cached_property
    def count(self) -> float:
        """Sum of the weights."""
        return float(self.r.sum())

    @cached_property
    def ground(self) -> Ground:
        """Of these rows."""
        moments = Moments.of(self.sample.filled.x[self.own], self.r)
        return replace(self.all_rows, moments=moments.in_frame(self.all_rows.frame))


@dataclass
class Apart:
    """A mixture on its way.

    Attributes
    ----------
    portion : Portion
        The rows that it climbs on.
    mixture : Mixture
        In frame coordinates: to be evaluated next.
    objective : float
        Of the one evaluated last, which this one is no less likely than.
    collapsed : bool
        Whether it cannot go on.
    """

    portion: Portion
    mixture: Mixture
    objective: float = -np.inf
    collapsed: bool = False

    @property
    def ground(self) -> Ground:
        """What its M-step goes by: that of all rows does where components have nothing in common."""
        of_all = self.portion.all_rows
        return of_all if is_separate(self.mixture, of_all) else self.portion.ground


def climb_apart(each: Sequence[Apart], passes: int) -> None:
    """So many steps of all mixtures; those that collapse stay behind.

    They are of one family and of as many components each, on rows of one sample; neighbours that share a portion share
    its passes.
    """
    kept, size = {}, 0
    for portion in dict.fromkeys(a.portion for a in each):
        size += portion.nbytes
        if size <= KEPT_BYTES:
            kept[portion] = portion.rows
    for _ in range(passes):
        left = alive(each)
        points = [point for point in evaluate(left, kept) if np.isfinite(point.objective)]
        find_images(points)
        for a, point in zip(alive(left), points, strict=True):
            try:
                a.mixture = point.image
            except CollapseError:
                a.collapsed = True


def alive(each: Sequence[Apart]) -> list[Apart]:
    """Those that have not collapsed."""
    return [a for a in each if not a.collapsed]


def evaluate(each: Sequence[Apart], kept: Mapping[Portion, Rows] = EMPTY) -> list[Evaluated]:
    """What a pass says of all mixtures, and their objectives; the rows of some portions may be kept."""
    if not each:
        return []
    sample = each[0].portion.sample
    groups = [[*its] for _, its in groupby(each, key=lambda a: a.portion)]

    def pass_over(group: list[Apart], plan: Plan) -> list[SufficientStatistics]:
        portion = group[0].portion
        return unpack(accumulate(kept.get(portion) or portion.rows, plan), plan)

    found = [s for its in sample.map(pass_over, groups, _plans(groups, sample)) for s in its]
    points = [Evaluated.of(a.mixture, statistics, a.ground) for a, statistics in zip(each, found, strict=True)]
    for a, point in zip(each, points, strict=True):
        a.objective = point.objective
        a.collapsed = not np.isfinite(a.objective)
    return points


def _plans(groups: Sequence[Sequence[Apart]], sample: SampleRows) -> list[Plan]:
    """Of each group: cut from one plan of all components, or made one by one where that cannot be cut."""
    of_each = [[a.mixture for a in group] for group in groups]
    family, k = of_each[0][0].family, of_each[0][0].n_components
    frames = {family.frame: sample.frame(family.frame)}
    if family.separate and not sample.marginal:
        whole = make_plan([together([m for mixtures in of_each for m in mixtures])], frames)
        if whole.divisible:
            return whole.divided([len(mixtures) for mixtures in of_each], k)
    return [make_plan(mixtures, frames, marginal=sample.marginal) for mixtures in of_each]
