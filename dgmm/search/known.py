"""What is known of components: one that stays as it is, while others of its mixture change, is not looked at twice."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from dgmm.mixture import Mixture
from dgmm.search.apart import Apart
from dgmm.types import FloatArray

#: A component is one that is known if no more than this share of their rows is that of one of them alone.
SAME_ROWS = 1e-4

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
#: A merge of two components and the cut of a third one, by the names of all three.
MoveName = tuple[frozenset[int], int]


class Names:
    """Numbers for components, by their rows: whatever else changes in a mixture, what has the same rows has the same.

    They are told apart by ``|r - s|^2 / |r|^2`` for responsibilities r and s: twice the share that is exchanged, where
    every row is of one component alone. Those that are compared with are the first of their name, so that nothing
    drifts.
    """

    def __init__(self) -> None:
        self._n = 0
        # as they came: responsibilities and the sums of their squares
        self._rows: list[tuple[FloatArray, FloatArray]] = []

    def of(self, responsibilities: FloatArray) -> list[int]:
        """A name for each component of a mixture, from responsibilities (K, m) for the same rows each time."""
        new = responsibilities.astype(np.float32)
        squares = np.einsum("km,km->k", new, new, dtype=np.float64)
        nearest, same = np.zeros(len(new), dtype=int), np.zeros(len(new), dtype=bool)
        if self._n:
            apart = np.hstack([sizes - 2 * new @ rows.T for rows, sizes in self._rows]) + squares[:, None]
            nearest = apart.argmin(axis=1)
            same = apart[np.arange(len(new)), nearest] <= 2 * SAME_ROWS * squares
        found = np.where(same, nearest, self._n + np.cumsum(~same) - 1)
        if not same.all():
            self._rows.append((new[~same], squares[~same]))
            self._n += int((~same).sum())
        return [int(name) for name in found]


@dataclass(frozen=True)
class Split:
    """A component cut in two.

    Attributes
    ----------
    component : int
    parts : Mixture
        Two components in frame coordinates, their weights as shares of the component's.
    gain : float
        What the mixture gains by it, at the least, in nats: with all other components and all responsibilities but
        theirs as they are.
    """

    component: int
    parts: Mixture
    gain: float


@dataclass(frozen=True)
class Replacement:
    """A mixture with two components as one and another one cut.

    Attributes
    ----------
    mixture : Mixture
        In frame coordinates.
    gain : float
        What the mixture gains by it, at the least, in nats; it may be less than nothing before all others have moved.
    """

    mixture: Mixture
    gain: float


#: Two components to be put together, and the cut of a third one.
Move = tuple[int, int, Split]


@dataclass(frozen=True)
class Trial:
    """A move on its way, on the rows of its three components.

    Attributes
    ----------
    before : Apart
        The three as they were.
    after : Apart
        What is tried in their place.
    sound : bool
        Whether that meant something when it last stopped.
    """

    before: Apart
    after: Apart
    sound: bool = False

    @property
    def gain(self) -> float:
        """What it had gained then, in nats."""
        return self.after.objective - self.before.objective


@dataclass
class Known:
    """What has come of looking at components and at moves, of all mixtures of a family on the same rows.

    Attributes
    ----------
    names : Names
    splits : dict
        Name of a component -> its best cuts.
    tried, climbed : dict
        Name of a move -> the trial after its first passes, and after all.
    """

    names: Names = field(default_factory=Names)
    splits: dict[int, list[Split]] = field(default_factory=dict)
    tried: dict[MoveName, Trial] = field(default_factory=dict)
    climbed: dict[MoveName, Trial] = field(default_factory=dict)


def looked_up(found: dict[K, V], names: Sequence[K], look: Callable[[list[int]], Sequence[V]]) -> list[V]:
    """What is known by these names; ``look`` is given the places of what is not, one of each name."""
    places = {name: place for place, name in reversed([*enumerate(names)]) if name not in found}
    new = sorted(places.values())
    found.update(zip((names[place] for place in new), look(new), strict=True))
    return [found[name] for name in names]
