"""What is believed of components before any sample is seen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from dgmm.families.frame import Moments
from dgmm.families.statistics import SufficientStatistics

#: Statistics of a mixture, and moments of the data.
Centred = tuple[SufficientStatistics, Moments]


class Prior(ABC):
    """What is believed of components before any sample is seen, in frame coordinates; weights have no prior."""

    @abstractmethod
    def log_density(self, components: Any) -> float:
        """Logarithm of its density at components, up to a constant of their number."""

    @abstractmethod
    def merged(self, moments: Moments) -> Moments:
        """Moments of which the best single component is that with the prior."""

    @abstractmethod
    def added(
        self, statistics: SufficientStatistics, components: Any, moments: Moments, *, held: bool = False
    ) -> Centred:
        """Statistics and moments of which the M-step makes components that are best with the prior.

        Parameters
        ----------
        statistics : SufficientStatistics
        components
            Those that the statistics were taken at.
        moments : Moments
            Of all the data, in frame coordinates.
        held : bool
            Whether the means of the components stay as they are; see `Family.about`.
        """

    @abstractmethod
    def within(self, n_components: int) -> Prior:
        """The prior of some components of a mixture of so many."""
