"""What a plan is made of: mixtures, as far as it is concerned, and stacks of the products of their components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, cast

import numpy as np

from dgmm.families import Family, FeatureMap, Noise
from dgmm.types import FloatArray


class Stackable(Protocol):
    """A mixture, as far as its plan is concerned."""

    @property
    def family(self) -> Family:
        """What its components are."""

    @property
    def weights(self) -> FloatArray:
        """Weights, shape (K,)."""

    @property
    def components(self) -> Any:
        """Parameters, in frame coordinates."""

    @property
    def noise(self) -> Noise | None:
        """What stands beside the components, if anything."""

    @property
    def n_components(self) -> int:
        """Number of components K."""

    @property
    def n_features(self) -> int:
        """Number of features d."""


M = TypeVar("M", bound=Stackable)


def together(mixtures: Sequence[M]) -> M:
    """The components of all mixtures of one family as those of one, with the weights that they have there."""
    if len(mixtures) == 1:
        return mixtures[0]
    family, weights = mixtures[0].family, np.concatenate([m.weights for m in mixtures])
    components = family.joined([m.components for m in mixtures], weights)
    return cast(M, replace(cast(Any, mixtures[0]), weights=weights, components=components))


@dataclass(frozen=True)
class Product:
    """One matrix product: rows of Theta that share coordinates and features.

    Attributes
    ----------
    rows : slice
        Its rows in the stack of all components.
    theta : ndarray, shape (rows, P)
    """

    rows: slice
    theta: FloatArray


@dataclass(frozen=True)
class Stack:
    """Products that share one feature block.

    Attributes
    ----------
    origin : ndarray, shape (d,)
        Subtracted from the samples.
    shift : ndarray, shape (d,), or None
        Subtracted after that: what is small beside the origin keeps its digits.
    forward : ndarray, shape (d, d) or (d,)
    features : FeatureMap
        The longest of the products' maps.
    size : int
        Its number of features P.
    products : tuple of Product
    """

    origin: FloatArray
    shift: FloatArray | None
    forward: FloatArray
    features: FeatureMap
    size: int
    products: tuple[Product, ...]
