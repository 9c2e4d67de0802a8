"""Starts for EM: labels of the in-memory sample, turned into mixtures by one M-step, and parts that are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from dgmm.blas import one_thread
from dgmm.em import Ground, maximise
from dgmm.errors import InputError
from dgmm.families import Family, Frame, Noise, SufficientStatistics, gaussian_family
from dgmm.mixture import Mixture
from dgmm.rows import Rows
from dgmm.search.lloyd import kmeans, nearest_of
from dgmm.types import AnyArray, FloatArray, StartMethod

#: Lloyd steps after k-means++: EM does the rest.
LLOYD_STEPS = 20
#: A start's covariances hold this share of the data's, so that clusters of few rows begin with an extent.
START_FLOOR = 1e-2
#: Given weights may miss a sum of one by the rounding of single precision.
GIVEN_ROUNDING = 1e-6
#: Rows whose features are in memory at a time.
SUMMED_ROWS = 2048


def start_labels(
    method: StartMethod,
    views: Sequence[FloatArray],
    n_components: int,
    n_init: int,
    seed: int,
    weights: FloatArray | None = None,
    run: Callable[..., Iterable[list[AnyArray]]] = map,
) -> list[AnyArray]:
    """Labels (n,) of ``n_init`` starts.

    Starts take turns at the views: none shows every structure.

    Parameters
    ----------
    method : {"kmeans", "k-means++", "random", "random_from_data"}
        The clusters of k-means++ and a few Lloyd steps; for every row the nearest seed of k-means++; a random
        component; the nearest of some random rows.
    views : sequence of ndarray, shape (n, d)
        The sample in different coordinates.
    n_components, n_init, seed : int
    weights : ndarray, shape (n,), optional
    run : callable
        As `map`; it may do several views at a time.

    Notes
    -----
    In scikit-learn the component of a seed begins with that row alone, almost without extent, and its first E-step
    assigns every row to the nearest seed all the same. And its random responsibilities are uniform numbers,
    normalised: they average to components that are nearly equal, at a saddle of the likelihood that EM may take for
    the top. Labels start further from it.
    """
    turns = len(views)
    seeds = [int(np.random.SeedSequence([seed, n_components, i]).generate_state(1)[0]) for i in range(n_init)]
    its = [seeds[i::turns] for i in range(turns)]
    with one_thread():
        of_views = [*run(lambda view, its: METHODS[method](view, n_components, its, weights), views, its)]
    return [of_views[i % turns][i // turns] for i in range(n_init)]


def _lloyd(
    x: FloatArray, n_components: int, seeds: Sequence[int], weights: FloatArray | None, steps: int = LLOYD_STEPS
) -> list[AnyArray]:
    return [its.labels for its in kmeans(x, n_components, seeds, weights, steps=steps)]


def _nearest_row(x: FloatArray, n_components: int, seeds: Sequence[int], weights: FloatArray | None) -> list[AnyArray]:
    found = []
    for seed in seeds:
        # in the order of exponential numbers at the rates of the weights, each next row is drawn in proportion to them
        keys = np.random.default_rng(seed).standard_exponential(len(x)) / (1.0 if weights is None else weights)
        shuffled = x[np.argsort(keys)]
        # the first distinct ones: of two equal rows one would be nearest to none
        _, first = np.unique(shuffled, axis=0, return_index=True)
        found.append(nearest_of(x, shuffled[np.sort(first)[:n_components]]))
    return found


def _random(x: FloatArray, n_components: int, seeds: Sequence[int], weights: FloatArray | None) -> list[AnyArray]:
    return [np.random.default_rng(seed).permutation(len(x)) % n_components for seed in seeds]


METHODS: dict[StartMethod, Callable[[FloatArray, int, Sequence[int], FloatArray | None], list[AnyArray]]] = {
    "kmeans": _lloyd,
    "k-means++": partial(_lloyd, steps=0),
    "random": _random,
    "random_from_data": _nearest_row,
}


def from_labels(family: Family, rows: Rows, labels: AnyArray, n_components: int, ground: Ground) -> Mixture:
    """The mixture that one M-step makes of labelled rows.

    Parameters
    ----------
    family : Family
    rows : Rows
        In the data's units.
    labels : ndarray of int, shape (n,)
    n_components : int
    ground : Ground
        Of these rows.

    Returns
    -------
    Mixture
        In frame coordinates.
    """
    y = ground.frame.coordinates(rows.x)
    one_hot = np.zeros((n_components, len(rows)))
    one_hot[labels, np.arange(len(rows))] = 1.0 if rows.weights is None else rows.weights
    return from_shares(family, y, one_hot, ground, ground.noise, begin=True)


def from_shares(
    family: Family, y: FloatArray, shares: FloatArray, ground: Ground, noise: Noise | None, *, begin: bool = False
) -> Mixture:
    """The mixture that one M-step makes of samples y (d, n) that belong to components by shares (K, n).

    It has this noise beside it, if any; ``begin`` as for `from_sums`.
    """
    family = family if noise is None else family.beside_noise()
    return from_sums(family, feature_sums(family, y, shares), ground, begin=begin).beside(noise)


def feature_sums(family: Family, y: FloatArray, responsibilities: FloatArray, components: Any = None) -> FloatArray:
    """Sums of the features, shape (K, P), block by block: all features together may be a hundred times the rows.

    Parameters
    ----------
    family : Family
    y : ndarray, shape (d, n)
        Rows in frame coordinates.
    responsibilities : ndarray, shape (K, n)
        Times the rows' weights.
    components, optional
        As `Family.sums_of` takes them.
    """
    blocks = (slice(a, a + SUMMED_ROWS) for a in range(0, y.shape[1], SUMMED_ROWS))
    return np.sum([family.sums_of(y[:, b], responsibilities[:, b], components) for b in blocks], axis=0)


def summed(count: float, sums: FloatArray) -> SufficientStatistics:
    """Statistics that are sums in the common frame and nothing else."""
    return SufficientStatistics(np.nan, count, sums, np.zeros(len(sums), dtype=bool))


def from_sums(family: Family, sums: FloatArray, ground: Ground, *, begin: bool = False) -> Mixture:
    """The mixture that one M-step makes of sums of the features.

    Parameters
    ----------
    family : Family
    sums : ndarray, shape (K, P)
        In frame coordinates.
    ground : Ground
        Of these rows.
    begin : bool
        Whether components of few rows are given an extent to begin with.

    Returns
    -------
    Mixture
        In frame coordinates.
    """
    n_components = len(sums)
    floor = ground.floor + family.floor(START_FLOOR, ground.moments) if begin else ground.floor
    blank = Mixture(family, np.full(n_components, 1 / n_components), copies(family, n_components, ground))
    return maximise(blank, summed(ground.moments.count, sums), replace(ground, floor=floor))


@dataclass(frozen=True)
class Given:
    """Parts of a start that are given, in the data's units; None where they are left to the method.

    Attributes
    ----------
    weights : ndarray, shape (K,), or None
        Positive, summing to one.
    means : ndarray, shape (K, d), or None
    factors : ndarray or None
        Square roots of the covariances, as the family keeps them.
    mixture : Mixture or None
        All of it, of any family, in the place of parts.
    """

    weights: FloatArray | None = None
    means: FloatArray | None = None
    factors: FloatArray | None = None
    mixture: Mixture | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is left to the method, so that all starts are the same."""
        parts = self.weights, self.means, self.factors
        return self.mixture is not None or all(part is not None for part in parts)

    def replace_in(self, start: Mixture, frame: Frame) -> Mixture:
        """A start, in frame coordinates, with the given parts in place of its own."""
        if self.mixture is not None:
            noise = start.noise
            if noise is not None and self.mixture.noise is not None:
                noise = noise.weighing(self.mixture.noise.weight)
            return self.mixture.beside(noise).to_frame(frame)
        family = start.family
        arrays = {name: values for name, (_, values) in family.arrays(start.to_data(frame).components).items()}
        if self.means is not None:
            arrays["means"] = self.means
        if self.factors is not None:
            del arrays["covariances"]
            arrays["factors"] = self.factors
        weights = start.weights if self.weights is None else self.weights
        return Mixture(family, weights, family.from_arrays(arrays)).beside(start.noise).to_frame(frame)


def check_given(
    family: Family, n_components: int, n_features: int, weights_init: Any, means_init: Any, precisions_init: Any
) -> Given | None:
    """Given parts of a start, checked; None if there are none.

    Parameters
    ----------
    family : Family
    n_components, n_features : int
    weights_init : array_like, shape (K,), or None
    means_init : array_like, shape (K, d), or None
    precisions_init : array_like or None
        Inverses of the covariances: (K, d, d) for full, (d, d) for tied, (K, d) for diag, (K,) for spherical.

    Raises
    ------
    InputError
        If a shape is wrong, a value is not finite, weights are not positive or do not sum to one, or a precision is
        not (symmetric) positive definite.
    """
    if weights_init is None and means_init is None and precisions_init is None:
        return None
    weights = means = factors = None
    if weights_init is not None:
        weights = _numbers("weights_init", weights_init, (n_components,))
        _check_all("weights_init", weights, weights > 0, "it must be positive; leave out components without weight")
        if abs(weights.sum() - 1) > GIVEN_ROUNDING:
            raise InputError(f"weights_init sum to {weights.sum():.9g}, not to one: divide them by their sum")
        weights = weights / weights.sum()
    if means_init is not None:
        means = _numbers("means_init", means_init, (n_components, n_features))
    if precisions_init is not None:
        gaussian = gaussian_family(family.name, "precisions")
        shape = gaussian.covariance_shape(n_components, n_features)
        factors = gaussian.factors_from_precisions(
            _numbers("precisions_init", precisions_init, shape), "precisions_init"
        )
    return Given(weights, means, factors)


def _numbers(name: str, values: Any, shape: tuple[int, ...]) -> FloatArray:
    try:
        numbers = np.array(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is no array of numbers ({error}): expected shape {shape}") from None
    if numbers.shape != shape:
        raise InputError(f"{name} has shape {numbers.shape}, expected {shape}")
    _check_all(name, numbers, np.isfinite(numbers), "give finite numbers")
    return numbers


def _check_all(name: str, numbers: FloatArray, good: AnyArray, advice: str) -> None:
    """`InputError` that names the first of the numbers that is not good."""
    if not good.all():
        place = np.argwhere(~good)[0].tolist()
        raise InputError(f"{name}{place} is {numbers[tuple(place)]:g}: {advice}")


def one_component(family: Family, ground: Ground) -> Mixture:
    """The best single component, in closed form, in frame coordinates."""
    return Mixture(family, np.ones(1), copies(family, 1, ground))


def copies(family: Family, n_components: int, ground: Ground) -> Any:
    """As many copies of the best single component."""
    moments = ground.moments if ground.prior is None else ground.prior.merged(ground.moments)
    return family.spread(n_components, moments, ground.floor)
