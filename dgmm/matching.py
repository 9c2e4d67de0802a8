"""Which component of one mixture is which of another, by how much they overlap: labels keep their meaning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dgmm.errors import InputError
from dgmm.mixture import Mixture
from dgmm.types import FloatArray, IntArray


@dataclass(frozen=True)
class Matching:
    """The components of a mixture and those of an earlier one that they go on from.

    Attributes
    ----------
    order : ndarray of int, shape (K,)
        The components as they are to be numbered: those that go on from one before have its number, as far as there
        are as many; the others take those that are free, by weight.
    before : tuple of (int or None), length K
        Of each in that order the component before; None of a new one.
    overlap : tuple of float, length K
        With that; zero of a new one.
    """

    order: IntArray
    before: tuple[int | None, ...]
    overlap: tuple[float, ...]

    @property
    def renumbered(self) -> list[tuple[int, int]]:
        """Components before that have another number now, with that: where there are fewer than before."""
        return [(j, k) for k, j in enumerate(self.before) if j is not None and j != k]

    def lost(self, weights: FloatArray, least_share: float, least_overlap: float) -> list[tuple[int, float]]:
        """Components before, of at least this weight, that are not found again, with the overlap that they have.

        Parameters
        ----------
        weights : ndarray, shape (L,)
            Of the components before.
        least_share, least_overlap : float
        """
        found = {j: overlap for j, overlap in zip(self.before, self.overlap, strict=True) if j is not None}
        known = [(j, found.get(j, 0.0)) for j, weight in enumerate(weights.tolist()) if weight >= least_share]
        return [(j, overlap) for j, overlap in known if overlap < least_overlap]


def match(now: Mixture, before: Mixture) -> Matching:
    """Match components one to one, such that their overlaps are the largest in sum.

    Parameters
    ----------
    now, before : Mixture
        Of the same features in the same order; numbers of components and families may differ.
    """
    from scipy.optimize import linear_sum_assignment  # loads much

    overlap = overlaps(now, before)
    ours, theirs = linear_sum_assignment(-overlap)
    # what does not overlap at all is not the same, whatever is left to choose from
    earlier = {int(k): int(j) for k, j in zip(ours, theirs, strict=True) if overlap[k, j] > 0}
    numbers = {j: k for k, j in earlier.items() if j < now.n_components}
    beyond = sorted((k for k, j in earlier.items() if j >= now.n_components), key=earlier.__getitem__)
    others = iter([*beyond, *(k for k in now.canonical_order().tolist() if k not in earlier)])
    order = [numbers[n] if n in numbers else next(others) for n in range(now.n_components)]
    return Matching(
        np.array(order, dtype=np.int64),
        tuple(earlier.get(k) for k in order),
        tuple(float(overlap[k, earlier[k]]) if k in earlier else 0.0 for k in order),
    )


def overlaps(a: Mixture, b: Mixture) -> FloatArray:
    """Overlap of every component of a mixture with every one of another, shape (K, L): Bhattacharyya's coefficient.

    The integral of the geometric mean of two densities, between zero and one; it is one where they are the same. One
    minus it is the square of Hellinger's distance. For Gaussians it has a closed form, which is taken in a frame of
    the one in which it loses no digits, whatever the scales of the features; the weights do not matter.
    """
    if a.n_features != b.n_features:
        raise InputError(f"mixtures of {a.n_features} and {b.n_features} features have no components to match")
    first, second = (_factors(m) for m in (a, b))
    found = np.empty((a.n_components, b.n_components))
    for k, j in np.ndindex(found.shape):
        # the one is the standard normal there, the other has the scales along these axes
        both = np.linalg.solve(first[k], np.column_stack([second[j], b.means[j] - a.means[k]]))
        axes, scales, _ = np.linalg.svd(both[:, :-1])
        shift = (axes.T @ both[:, -1]) ** 2 / (1 + scales**2)
        found[k, j] = np.exp(-0.25 * shift.sum() - 0.5 * np.log((scales + 1 / scales) / 2).sum())
    return np.minimum(found, 1.0)


def _factors(mixture: Mixture) -> FloatArray:
    """Square roots of all covariances, shape (K, d, d)."""
    each = [mixture.family.covariance(mixture.components, k) for k in range(mixture.n_components)]
    scales = np.sqrt([np.diagonal(covariance) for covariance in each])
    values, vectors = np.linalg.eigh([c / np.outer(s, s) for c, s in zip(each, scales, strict=True)])
    roots: FloatArray = vectors * np.sqrt(np.maximum(values, np.finfo(float).eps))[:, None, :]
    return roots * scales[:, :, None]
