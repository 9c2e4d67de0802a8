"""What a family of mixture components must offer; the rest of the library asks for nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from dgmm.errors import InputError
from dgmm.families.features import FeatureMap
from dgmm.families.frame import FrameKind, Moments
from dgmm.families.prior import Centred, Prior
from dgmm.families.statistics import SufficientStatistics
from dgmm.types import AnyArray, BoolArray, FloatArray, IntArray

#: A component at the regularisation floor: its smallest variance is within this factor of it, so that more of it is
#: the floor's than the data's.
FLOOR_FACTOR = 2.0
#: A component that is this much narrower than the data in some direction is no more than a few rows that happen to
#: lie on a line, unless it has this many rows per dimension.
NARROW, ROWS_PER_DIMENSION = 1e-2, 5.0


@dataclass(frozen=True)
class LocalFrames:
    """Coordinates of their own for components that are too narrow for the common frame.

    Attributes
    ----------
    origins : ndarray, shape (K, d)
        In coordinates of the common frame.
    forwards : ndarray, shape (K, d, d) or (K, d)
        Linear maps under which each component becomes a standard normal; vectors stand for diagonal matrices.
    """

    origins: FloatArray
    forwards: FloatArray


class Family(ABC):
    """A family of components: features, theta from parameters, parameters from statistics.

    Components are a frozen dataclass of float64 arrays of the family's own making, in frame coordinates during a
    fit and in the data's units in results.
    """

    #: The name under which settings, files and tables know the family.
    name: str
    #: The coordinates in which its statistics are taken.
    frame: ClassVar[FrameKind]
    #: Features of its E-step, and those of a component in coordinates of its own.
    features: ClassVar[FeatureMap]
    local_features: ClassVar[FeatureMap]
    #: Other names that it goes by; results and files keep its own.
    aliases: ClassVar[tuple[str, ...]] = ()
    #: Whether any vector is a valid point of `from_vector`, so that EM can be accelerated.
    chart: ClassVar[bool] = True
    #: Whether the features of a component are independent of each other.
    independent: ClassVar[bool] = False
    #: Whether it gives probabilities of counts, with which densities cannot be compared.
    whole: ClassVar[bool] = False
    #: Whether samples have a hidden precision within each component; see `links`.
    hidden: ClassVar[bool] = False
    #: Whether its products may be taken in single precision.
    single: ClassVar[bool] = True
    #: Whether surfaces of equal density are ellipsoids.
    elliptical: ClassVar[bool] = False
    #: What values must be, for messages; see `misfits`.
    needs: ClassVar[str] = "finite values"
    #: What of the components can be held fixed.
    parts: ClassVar[tuple[str, ...]] = ()
    #: Whether components have nothing in common in the M-step of this very class; see `separate`.
    apart: ClassVar[bool] = False
    #: Whether noise of constant density may stand beside its components; see `beside_noise`.
    noisy: ClassVar[bool] = False
    #: Whether samples may lack some of their values: a component is a standard normal in its `local_frames`, and the
    #: M-step needs nothing of them but the features.
    incomplete: ClassVar[bool] = False

    @property
    def title(self) -> str:
        """What a mixture of it is called."""
        return f"{self.name} mixture"

    def contains(self, other: Family) -> bool:
        """Whether every mixture of another family is one of this family too, and they differ."""
        return False

    def beside_noise(self) -> Family:
        """The family, of this name, whose theta and M-step leave out nothing that noise does not share."""
        return self

    def of_sums(self, statistics: SufficientStatistics, n_features: int) -> Family:
        """The family itself, or `beside_noise`, whichever such sums are for."""
        return self

    def sums_beside_noise(self, statistics: SufficientStatistics, moments: Moments) -> FloatArray:
        """Sums over rows of these moments, all of them of the components, as `beside_noise` has them."""
        return statistics.sums

    def unconstrained(self) -> Family:
        """The family of the same components where some are changed, or parts are taken of all; it contains this one."""
        return self

    @property
    def separate(self) -> bool:
        """Whether the M-step of a component knows nothing of the others but their counts.

        The class that `maximise` is of must say so, by ``apart = True``: another one may have its reasons.
        """
        return self.apart and self.unconstrained() is self

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "maximise" in vars(cls):  # what it takes the place of has said nothing of it
            cls.apart = vars(cls).get("apart", False)

    @abstractmethod
    def natural_parameters(self, weights: FloatArray, components: Any, log_volume: float) -> FloatArray:
        """Theta, shape (K, P): ``log w_k p(x | k) = theta_k . T(y)``, up to `shared_log_likelihood`.

        ``log_volume`` is the frame's, so that densities come out in the data's units.
        """

    @abstractmethod
    def maximise(
        self, statistics: SufficientStatistics, reference: Any, moments: Moments, floor: Any
    ) -> tuple[FloatArray, Any]:
        """The M-step: weights (K,) and components that maximise the expected log-likelihood.

        Parameters
        ----------
        statistics : SufficientStatistics
        reference : components
            Those that the statistics were taken at; sums marked local refer to them.
        moments : Moments
            Of all the data, in frame coordinates.
        floor : object
            Regularisation, as `floor` makes it.

        Raises
        ------
        CollapseError
            If a component has no extent left and there is no floor.
        """

    @abstractmethod
    def spread(self, n_components: int, moments: Moments, floor: Any) -> Any:
        """As many copies of the best single component for data with these moments, in frame coordinates."""

    @abstractmethod
    def n_parameters(self, n_components: int, n_features: int) -> int:
        """Number of free parameters of a mixture, weights included."""

    def n_fixed(self, fixed: Collection[str], n_components: int, n_features: int) -> int:
        """How many of the parameters are in weights, or other parts, that are held fixed."""
        return (n_components - 1) * ("weights" in fixed)

    def about(self, statistics: SufficientStatistics, components: Any, moments: Moments) -> Centred:
        """Statistics and moments of which the M-step makes the means of these components, and what is best with them.

        For families that have ``means`` among their `parts`.
        """
        raise NotImplementedError(f"{self.name} has no means to hold fixed")

    def prior(self, moments: Moments) -> Prior | None:
        """The conjugate prior of components for data with these moments, in frame coordinates; None without one."""
        return None

    def holding(self, components: Any, held: Any, fixed: Collection[str]) -> Any:
        """Components with those parts of others, ``held``, that are fixed."""
        return components

    @abstractmethod
    def move(self, components: Any, linear: FloatArray, before: FloatArray, after: FloatArray) -> Any:
        """Components of ``linear (x - before) + after`` when these are the components of x."""

    @abstractmethod
    def to_vector(self, components: Any) -> FloatArray:
        """Unconstrained coordinates of the parameters, for extrapolation; see `chart`."""

    @abstractmethod
    def from_vector(self, vector: FloatArray, like: Any) -> Any:
        """Inverse of `to_vector`; ``like`` tells the shapes."""

    @abstractmethod
    def means(self, components: Any) -> FloatArray:
        """Component means, shape (K, d)."""

    @abstractmethod
    def covariances(self, components: Any) -> FloatArray:
        """Component covariances in the shape customary for the family."""

    @abstractmethod
    def covariance(self, components: Any, component: int) -> FloatArray:
        """Covariance matrix of one component, shape (d, d)."""

    @abstractmethod
    def variances(self, components: Any) -> FloatArray:
        """Variance of every feature in every component, shape (K, d)."""

    @abstractmethod
    def sample(self, components: Any, labels: AnyArray, generator: np.random.Generator) -> FloatArray:
        """Draw one sample from the component of each label, shape (n, d)."""

    @abstractmethod
    def arrays(self, components: Any) -> Mapping[str, tuple[tuple[str, ...], FloatArray]]:
        """What is stored: name -> (dimensions, array), dimensions out of component, feature, feature_."""

    @abstractmethod
    def from_arrays(self, arrays: Mapping[str, FloatArray]) -> Any:
        """Components from what `arrays` stored."""

    def floor(self, reg_covar: float, moments: Moments) -> Any:
        """Regularisation that is a share of the data's own extent, so that ``fit(c x) = c fit(x)``."""
        return reg_covar * moments.covariance

    def taken(self, components: Any, order: IntArray | slice) -> Any:
        """Some of the components, in an order."""
        arrays = {
            name: v[order] if dims[:1] == ("component",) else v for name, (dims, v) in self.arrays(components).items()
        }
        return self.from_arrays(arrays)

    def joined(self, parts: Sequence[Any], weights: FloatArray) -> Any:
        """Components of several mixtures as those of one; what all components share is the first one's.

        Parameters
        ----------
        parts : sequence of components
        weights : ndarray, shape (K,)
            Of all components together.
        """
        arrays = [self.arrays(part) for part in parts]
        return self.from_arrays({
            name: np.concatenate([a[name][1] for a in arrays]) if dims[:1] == ("component",) else values
            for name, (dims, values) in arrays[0].items()
        })  # fmt: skip

    def order(self, weights: FloatArray, components: Any) -> IntArray:
        """The components by weight, largest first, ties by mean: labels are stable from run to run."""
        return np.lexsort((*self.means(components).T[::-1], -weights))

    def remarks(self, components: Any) -> list[str]:
        """What there is to say of each component beside its weight and mean, in words; mostly nothing."""
        return [""] * len(self.means(components))

    def log_base_measure(self, x: AnyArray) -> FloatArray | None:
        """``log h(x)``, the part of the log density that no parameter enters, shape (n,); None where it is zero."""
        return None

    def objection(self, minimum: FloatArray, maximum: FloatArray, features: Sequence[str]) -> str | None:
        """Why values between these, of each feature, cannot come from the family, and what to do; None if they can."""
        return None

    def misfits(self, x: AnyArray) -> BoolArray | None:
        """Which values of complete rows (n, d) cannot come from the family, of the same shape; None if all can."""
        return None

    def view(self, x: FloatArray) -> FloatArray | None:
        """Rows (n, d), in any units, where components are of about one extent, to look for starts; None: as is."""
        return None

    def shared_log_likelihood(self, components: Any, moments: Moments) -> float:
        """What every component has in common and theta leaves out, summed over the data (0 if nothing)."""
        return 0.0

    def expansion_error(self, components: Any) -> FloatArray:
        """Bound on the rounding error of theta . T in nats, shape (K,), for samples in a component's reach."""
        return np.zeros(len(self.means(components)))

    def sums_of(self, y: FloatArray, shares: FloatArray, components: Any = None) -> FloatArray:
        """Sums of the features, shape (K, P), over samples y (d, n) that belong to components by shares (K, n).

        Parameters
        ----------
        components, optional
            At which anything hidden of the samples is expected.
        """
        return shares @ self.features.of(y).T

    def exponents(self, weights: FloatArray, components: Any, log_volume: float) -> FloatArray:
        """What the E-step multiplies the features by, shape (K, P): theta, unless there are `links`."""
        return self.natural_parameters(weights, components, log_volume)

    def links(self, weights: FloatArray, components: Any, log_volume: float) -> FloatArray | None:
        """How log densities follow from the products of exponents and features; None if they are these.

        Where a sample has a hidden precision u in each component, the products are ``-delta / 2``, and
        ``log w_k p(x | k) = c - (nu + d) / 2 log(1 + delta / nu)`` with the columns c and nu, shape (K, 2). Features
        are then weighted by ``E[u] = (nu + d) / (nu + delta)``, and the sums of r, of r u and of
        ``r (log u - u + 1)`` come instead of that of r; `natural_parameters` are those of x and u together.
        """
        return None

    def local_frames(self, components: Any) -> LocalFrames:
        """Coordinates of their own for all components."""
        raise NotImplementedError(f"{self.name} has no residual form")

    def local_parameters(self, weights: FloatArray, components: Any, log_volume: float) -> FloatArray:
        """Theta of the components in coordinates of their own, shape (K, P of `local_features`)."""
        raise NotImplementedError(f"{self.name} has no residual form")

    def narrowness(self, components: Any, moments: Moments) -> FloatArray:
        """Smallest ratio, in any direction, of a component's variance to the data's, shape (K,)."""
        return np.ones(len(self.means(components)))

    def unsound(self, components: Any, counts: FloatArray, moments: Moments, reg_covar: float) -> BoolArray:
        """Which components mean nothing, shape (K,): the likelihood of a mixture is unbounded.

        These are components with fewer effective rows than d + 1; at the regularisation floor; or spurious: on a
        handful of rows (`ROWS_PER_DIMENSION` d) that happen to be nearly collinear (`narrowness` below `NARROW`).

        Parameters
        ----------
        components
            In frame coordinates.
        counts : ndarray, shape (K,)
            Effective rows of each.
        moments : Moments
            Of all the data, in frame coordinates.
        reg_covar : float
            As for `floor`.
        """
        d, narrowness = len(moments.mean), self.narrowness(components, moments)
        few = counts < d + 1
        floored = narrowness < FLOOR_FACTOR * reg_covar
        spurious = (narrowness < NARROW) & (counts < ROWS_PER_DIMENSION * d)
        return few | floored | spurious

    def marginal(self, components: Any, features: IntArray) -> tuple[Family, Any]:
        """The family and the components of some of the features, in this order."""
        if not self.independent:
            raise InputError(f"parts of {self.name} components are not known: leave no feature out")
        arrays = self.arrays(components)
        places = {name: dims.index("feature") for name, (dims, _) in arrays.items() if "feature" in dims}
        kept = {n: np.take(v, features, places[n]) if n in places else v for n, (_, v) in arrays.items()}
        family = self.unconstrained()
        return family, family.from_arrays(kept)

    def regression(self, components: Any, given: IntArray, wanted: IntArray) -> tuple[FloatArray, Family, Any]:
        """How the wanted features follow given ones, in each component.

        Returns
        -------
        slopes : ndarray, shape (K, n wanted, n given)
            Of the wanted features' means in the given ones.
        family, components
            Of the wanted features where the given ones are at the component's means.
        """
        if not self.independent:
            raise InputError(f"how parts of {self.name} components follow others is not known: give no feature")
        family, rest = self.marginal(components, wanted)
        return np.zeros((len(self.means(components)), len(wanted), len(given))), family, rest

    def inflation(self, components: Any, x: FloatArray) -> FloatArray | None:
        """By how much the variances of `regression` grow where the given features, those of components, have values.

        Parameters
        ----------
        components
            Of the given features.
        x : ndarray, shape (n, d)

        Returns
        -------
        ndarray, shape (K, n), or None
            None where variances do not depend on the values.
        """
        return None

    def condition(self, components: Any, given: IntArray, values: FloatArray, wanted: IntArray) -> tuple[Family, Any]:
        """The family and the components of the wanted features where given ones have these values."""
        _, family, rest = self.regression(components, given, wanted)
        return family, rest

    def for_density(self, components: Any) -> tuple[Family, Any]:
        """The family and components whose theta gives log densities sample by sample."""
        return self, components
