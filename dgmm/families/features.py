"""Features of samples in which log densities are linear, and sums of squares and products of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from dgmm.types import FloatArray, IntArray


@dataclass(frozen=True)
class FeatureMap:
    """The features T(y) of a sample in which a family's log density is linear; the first of them is one.

    Maps of one ``chain`` are nested: the features of a shorter one are the first rows of a longer one, so that
    candidates of different families share the building of the longest.

    Attributes
    ----------
    chain : str
    size : callable
        Number of features P for d dimensions.
    fill : callable
        ``fill(y, out)`` writes the features of the columns of ``y`` (d, n) into ``out`` (P, n).
    """

    chain: str
    size: Callable[[int], int]
    fill: Callable[[FloatArray, FloatArray], None]

    def of(self, y: FloatArray) -> FloatArray:
        """Features (P, n) of the columns of ``y`` (d, n)."""
        features = np.empty((self.size(len(y)), y.shape[1]))
        self.fill(y, features)
        return features


#: The features of all Gaussian families are nested: 1, y, y_i^2, y_i y_j (i < j); the kernel compiles them.
GAUSSIAN_CHAIN = "gaussian"


def _fill_linear(y: FloatArray, out: FloatArray) -> None:
    out[0] = 1.0
    out[1 : len(y) + 1] = y


def _fill_squares(y: FloatArray, out: FloatArray) -> None:
    d = len(y)
    _fill_linear(y, out)
    np.multiply(y, y, out=out[d + 1 : 2 * d + 1])


def _fill_products(y: FloatArray, out: FloatArray) -> None:
    d = len(y)
    _fill_squares(y, out)
    row = 2 * d + 1
    for i in range(d - 1):
        np.multiply(y[i], y[i + 1 :], out=out[row : row + d - 1 - i])
        row += d - 1 - i


#: 1, y
LINEAR = FeatureMap(GAUSSIAN_CHAIN, lambda d: d + 1, _fill_linear)
#: 1, y, y_i^2
SQUARES = FeatureMap(GAUSSIAN_CHAIN, lambda d: 2 * d + 1, _fill_squares)
#: 1, y, y_i^2, y_i y_j (i < j)
PRODUCTS = FeatureMap(GAUSSIAN_CHAIN, lambda d: 2 * d + 1 + d * (d - 1) // 2, _fill_products)


@cache
def upper_triangle(d: int) -> tuple[IntArray, IntArray]:
    """Rows and columns above the diagonal of a matrix (d, d)."""
    rows, columns = np.triu_indices(d, 1)
    return rows, columns


def unpack_second(sums: FloatArray, d: int) -> FloatArray:
    """Symmetric (K, d, d) sums of ``y y'`` from the rows of `PRODUCTS` sums."""
    second = np.empty((len(sums), d, d))
    diagonal = np.arange(d)
    second[:, diagonal, diagonal] = sums[:, d + 1 : 2 * d + 1]
    upper = upper_triangle(d)
    second[:, upper[0], upper[1]] = second[:, upper[1], upper[0]] = sums[:, 2 * d + 1 :]
    return second


def pack_second(second: FloatArray) -> FloatArray:
    """Inverse of `unpack_second`, shape (K, d (d + 1) / 2)."""
    d = second.shape[-1]
    upper = upper_triangle(d)
    return np.hstack([np.diagonal(second, axis1=1, axis2=2), second[:, upper[0], upper[1]]])
