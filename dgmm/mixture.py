"""A mixture: weights and components of one family."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dgmm.errors import InputError
from dgmm.estep import Plan, Sharing, complete_rows, make_plan, score
from dgmm.families import NOISE, Family, Frame, Noise, get_family, make_frame
from dgmm.transform import Transform
from dgmm.types import AnyArray, FloatArray, IntArray, Sendable

#: No component of a conditional mixture has a smaller weight: it may be beyond what a number can say.
LEAST_WEIGHT = 1e-100
#: Values of all components that are expected at a time: they stay in the processor's cache.
EXPECTED = 2**16


@dataclass(frozen=True)
class Regression(Sendable):
    """What a mixture expects of m features where g others are known.

    Attributes
    ----------
    given : Mixture
        Of the given features.
    plan : Plan
        Of their density.
    origins : ndarray, shape (K, g)
        Means of the given features in each component.
    slopes : ndarray, shape (K, m, g)
        Of the wanted features in the given ones.
    centre : ndarray, shape (m,)
        Means of the wanted features in the mixture.
    levels : ndarray, shape (K, m)
        Their means in each component at its origin, from the centre.
    variances : ndarray, shape (K, m)
        What is left of theirs in each component, up to `Family.inflation`.
    """

    given: Mixture
    plan: Plan
    origins: FloatArray
    slopes: FloatArray
    centre: FloatArray
    levels: FloatArray
    variances: FloatArray

    @property
    def slice_rows(self) -> int:
        """Rows that are worked on at a time."""
        return max(1, EXPECTED // self.levels.size)

    def __call__(self, x: AnyArray) -> tuple[FloatArray, FloatArray]:
        """Conditional means and variances (n, m) for complete rows of the given features (n, g).

        NaN where the mixture has no density.
        """
        means, variances = (np.empty((len(x), len(self.centre))) for _ in range(2))
        for start in range(0, len(x), self.slice_rows):
            some = slice(start, start + self.slice_rows)
            means[some], variances[some] = self._of(np.asarray(x[some], dtype=float))
        return means, variances

    def _of(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        scores = score(x, self.plan, probabilities=True)
        # (K, n, 1) and (K, n, m)
        shares = scores.probabilities.T[..., None]
        expected = (x - self.origins[:, None]) @ np.swapaxes(self.slopes, 1, 2) + self.levels[:, None]
        mean = (shares * expected).sum(axis=0)
        mean[~np.isfinite(scores.log_density)] = np.nan
        expected -= mean
        np.square(expected, out=expected)
        more = self.given.family.inflation(self.given.components, x)
        expected += self.variances[:, None] if more is None else self.variances[:, None] * more[..., None]
        return self.centre + mean, (shares * expected).sum(axis=0)


@dataclass(frozen=True)
class Mixture:
    """A mixture density ``sum_k w_k p(x | k)``.

    Attributes
    ----------
    family : Family
    weights : ndarray, shape (K,)
        Positive, summing to one with that of the noise, if there is noise.
    components : dataclass
        Parameters in the form the family keeps them in; see `means` and `covariances`.
    noise : Noise or None
        Rows of no component. It is none of the K, and the last where probabilities have a column for each.
    transform : Transform or None
        What is done to rows before they are fitted: parameters and densities are of what comes of that, rows that are
        scored or drawn are as they were before. None where nothing is done.
    """

    family: Family
    weights: FloatArray
    components: Any
    noise: Noise | None = None
    transform: Transform | None = None

    def __post_init__(self) -> None:
        if self.noise is not None:
            object.__setattr__(self, "family", self.family.beside_noise())

    @classmethod
    def gaussian(cls, covariance_type: str, weights: FloatArray, means: FloatArray, covariances: FloatArray) -> Mixture:
        """A Gaussian mixture from weights (K,), means (K, d) and covariances.

        Parameters
        ----------
        covariance_type : {"full", "tied", "diag", "spherical"}
        weights : array_like, shape (K,)
            Positive; scaled to sum to one.
        means : array_like, shape (K, d)
        covariances : array_like
            Shape (K, d, d) for full, (d, d) for tied, (K, d) for diag, (K,) for spherical.

        Raises
        ------
        InputError
            If shapes disagree, a weight is not positive or a covariance is not positive definite.
        """
        family = get_family(covariance_type)
        w, m, c = (np.array(a, dtype=float) for a in (weights, means, covariances))
        if w.ndim != 1 or m.ndim != 2 or len(w) != len(m) or not (w > 0).all():
            raise InputError(f"weights {w.shape} and means {m.shape} must be (K,), positive, and (K, d)")
        return cls(family, w / w.sum(), family.from_arrays({"means": m, "covariances": c}))

    @property
    def covariance_type(self) -> str:
        """Name of the family."""
        return self.family.name

    @property
    def n_components(self) -> int:
        """Number of components K."""
        return len(self.weights)

    @property
    def n_features(self) -> int:
        """Number of features d."""
        return int(self.means.shape[1])

    @property
    def n_inputs(self) -> int:
        """Number of features of the rows that are scored."""
        return self.n_features if self.transform is None else self.transform.n_inputs

    @property
    def n_parameters(self) -> int:
        """Number of free parameters."""
        own = self.family.n_parameters(self.n_components, self.n_features)
        return own if self.noise is None else own + self.noise.n_parameters

    def n_free(self, fixed: Collection[str]) -> int:
        """Number of free parameters where some parts are held fixed; see `Family.n_fixed`."""
        return self.n_parameters - self.family.n_fixed(fixed, self.n_components, self.n_features)

    @property
    def means(self) -> FloatArray:
        """Component means, shape (K, d)."""
        return self.family.means(self.components)

    @property
    def covariances(self) -> FloatArray:
        """Covariances: (K, d, d) for full, (d, d) for tied, (K, d) for diag, (K,) for spherical."""
        return self.family.covariances(self.components)

    @property
    def physical_means(self) -> FloatArray:
        """Component means in the data's units, shape (K, d): what preprocessing has dropped stands at its mean.

        Of a feature that was fitted as a logarithm it is the geometric mean.
        """
        return self.means if self.transform is None else self.transform.inverse(self.means)

    def physical_covariance(self, k: int) -> FloatArray:
        """The covariance of a component in the data's units, shape (d, d).

        It has no more ranks than features were fitted. Of a feature that was fitted as a logarithm it is the one to
        first order: the squared mean times that of the logarithm.
        """
        inside = self.family.covariance(self.components, k)
        if self.transform is None:
            return inside
        slopes = self.transform.slopes(self.physical_means[k])
        return slopes.T @ inside @ slopes

    @property
    def physical_variances(self) -> FloatArray:
        """Variances of the features in every component, in the data's units, shape (K, d)."""
        if self.transform is None:
            return self.family.variances(self.components)
        means, found = self.physical_means, []
        for k, mean in enumerate(means):
            slopes = self.transform.slopes(mean)
            found.append(((self.family.covariance(self.components, k) @ slopes) * slopes).sum(axis=0))
        return np.array(found)

    def to_frame(self, frame: Frame) -> Mixture:
        """The same mixture in frame coordinates."""
        zero = np.zeros(self.n_features)
        return replace(self, components=self.family.move(self.components, frame.forward, frame.origin, zero))

    def to_data(self, frame: Frame) -> Mixture:
        """The mixture in the data's units, from frame coordinates."""
        zero = np.zeros(self.n_features)
        return replace(self, components=self.family.move(self.components, frame.backward, zero, frame.origin))

    def canonical_order(self) -> IntArray:
        """The components by weight, largest first, shape (K,); see `Family.order`."""
        return self.family.order(self.weights, self.components)

    def canonical(self) -> Mixture:
        """The same mixture with its components in canonical order."""
        return self.taken(self.canonical_order())

    def taken(self, order: IntArray) -> Mixture:
        """The mixture of these components in this order, with the weights that they have."""
        return replace(self, weights=self.weights[order], components=self.family.taken(self.components, order))

    def beside(self, noise: Noise | None) -> Mixture:
        """The components in their proportions beside noise, or with none."""
        if noise is None and self.noise is None:
            return self
        left = 1.0 if noise is None else 1.0 - noise.weight
        return Mixture(self.family, self.weights / self.weights.sum() * left, self.components, noise)

    def density_plan(self, ridge: float | None = None, n_classes: int = 0, *, marginal: bool = False) -> Plan:
        """Plan of an E-step that gives log densities sample by sample, in a frame of the mixture's own.

        The weights need not sum to one; ``ridge`` is that of `make_frame`. Where components, one class
        after the other, are those of ``n_classes``, labels are of these.
        """
        if marginal and self.transform is not None:
            self.transform.check_incomplete()
        family, components = self.family.for_density(self.components)
        shares = self.weights / self.weights.sum()
        mean = shares @ self.means
        spread = self.means - mean
        covariance = (spread.T * shares) @ spread
        for k, share in enumerate(shares):
            covariance += share * family.covariance(components, k)
        frame = make_frame(family.frame, mean, covariance, ridge=ridge)
        inside = Mixture(family, self.weights, components, self.noise).to_frame(frame)
        sharing = Sharing(n_classes=n_classes)
        plan = make_plan([inside], {family.frame: frame}, sharing=sharing, marginal=marginal)
        return plan if self.transform is None else replace(plan, transform=self.transform)

    def log_density(self, x: AnyArray, *, marginal: bool = False) -> FloatArray:
        """``log p(x)``, shape (n,), in the data's units, for the rows of ``x`` (n, d); of rows as they are fitted.

        A marginal one is that of the values that are there, where others of a row are missing (NaN), but not all.
        """
        return score(x, self.density_plan(marginal=marginal)).log_density

    def responsibilities(self, x: AnyArray, *, marginal: bool = False) -> FloatArray:
        """``p(k | x)``, shape (n, K), for the rows of ``x`` (n, d); with noise (n, K + 1), that in the last column.

        Marginal as for `log_density`.
        """
        return score(x, self.density_plan(marginal=marginal), probabilities=True).probabilities

    def sample(self, n: int, generator: np.random.Generator) -> tuple[FloatArray, IntArray]:
        """Draw n samples (n, d) and the components (n,) they came from, `NOISE` for noise.

        In the data's units; what preprocessing has dropped stands at its mean.
        """
        if self.transform is not None:
            y, labels = replace(self, transform=None).sample(n, generator)
            return self.transform.inverse(y), labels
        if self.noise is None:
            labels = generator.choice(self.n_components, size=n, p=self.weights)
            return self.family.sample(self.components, labels, generator), labels
        shares = np.append(self.weights, self.noise.weight)
        labels = generator.choice(len(shares), size=n, p=shares)
        x, own = np.empty((n, self.n_features)), labels < self.n_components
        x[own] = self.family.sample(self.components, labels[own], generator)
        x[~own] = self.noise.sample(int((~own).sum()), generator)
        return x, np.where(own, labels, NOISE)

    def marginal(self, features: Sequence[int]) -> Mixture:
        """The mixture of some of the features, by their numbers and in this order.

        Full, tied, diag and spherical covariances stay so.

        Raises
        ------
        InputError
            If there is no such feature, or the family has no marginals.
        """
        chosen = self._chosen(features)
        family, components = self.family.marginal(self.components, chosen)
        return Mixture(family, self.weights, components, None if self.noise is None else self.noise.of(chosen))

    def condition(self, values: Mapping[int, float]) -> Mixture:
        """The mixture of the other features where these have known values, in the data's units.

        The weights are the probabilities of the components given the values (1e-100 at least), and the means follow
        these. Full, tied, diag and spherical covariances stay so.

        Parameters
        ----------
        values : mapping of int to float
            Number of a feature -> its value.

        Raises
        ------
        InputError
            If a value is not finite or as good as impossible, no feature is left, or the family has no conditionals.
        """
        given = self._chosen([*values])
        rest = np.setdiff1d(np.arange(self.n_features), given)
        known = np.array([*values.values()], dtype=float)
        if not len(rest):
            raise InputError(f"all {self.n_features} features are given: leave at least one out")
        there = self.marginal(given.tolist())
        with np.errstate(over="ignore", invalid="ignore"):
            possible = np.isfinite(known).all() and np.isfinite(there.log_density(known[None])).all()
        if not possible:
            words = ", ".join(f"{i}: {value:g}" for i, value in values.items())
            raise InputError(f"the mixture has no density at {{{words}}}: give values that are possible")
        weights = np.maximum(there.responsibilities(known[None])[0], LEAST_WEIGHT)
        family, components = self.family.condition(self.components, given, known, rest)
        shares = weights / weights.sum()
        noise = None if self.noise is None else self.noise.of(rest).weighing(shares[-1])
        return Mixture(family, shares[: self.n_components], components, noise)

    def regression(self, wanted: Sequence[int], given: Sequence[int] | None = None) -> Regression:
        """How some features follow others, all the others by default; see `predict`."""
        ours = self._chosen(wanted)
        theirs = np.setdiff1d(np.arange(self.n_features), ours) if given is None else self._chosen(given)
        if not len(theirs):
            raise InputError(f"all {self.n_features} features are wanted: leave at least one out")
        if both := {*ours.tolist()} & {*theirs.tolist()}:
            raise InputError(f"features {sorted(both)} are wanted and given: leave them out of one")
        slopes, family, rest = self.family.regression(self.components, theirs, ours)
        levels, centre = family.means(rest), self.weights @ self.means[:, ours]
        there = self.marginal(theirs.tolist())
        origins, variances = self.means[:, theirs], family.variances(rest)
        if self.noise is not None:
            # whatever is given, noise is anywhere in its box
            origins = np.vstack([origins, self.noise.mean[theirs]])
            slopes = np.concatenate([slopes, np.zeros((1, *slopes.shape[1:]))])
            levels = np.vstack([levels, self.noise.mean[ours]])
            variances = np.vstack([variances, self.noise.variances[ours]])
        return Regression(there, there.density_plan(), origins, slopes, centre, levels - centre, variances)

    def predict(
        self, x: AnyArray, wanted: Sequence[int], given: Sequence[int] | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Means and variances of some features where others are known: regression by the mixture.

        Every component has its own linear regression, and these count by the probabilities of the components given
        the known values; the variance has what is left in the components and how far these differ.

        Parameters
        ----------
        x : ndarray, shape (n, g)
            Values of the given features, in the data's units.
        wanted, given : sequence of int
            Numbers of features; given are all the others by default, in their order.

        Returns
        -------
        means, variances : ndarray, shape (n, m)
            In the order of ``wanted``; NaN where a value is missing or there is no density.

        Raises
        ------
        InputError
            If there are no such features, or the family does not know how parts of it follow others.
        """
        regression = self.regression(wanted, given)
        x, g = np.asarray(x), regression.origins.shape[1]
        if x.ndim != 2 or x.shape[1] != g:
            raise InputError(f"values of the given features have shape {x.shape}: give (n, {g})")
        present = complete_rows(x)
        if present is None:
            return regression(x)
        means, variances = (np.full((len(x), len(regression.centre)), np.nan) for _ in range(2))
        means[present], variances[present] = regression(x[present])
        return means, variances

    def _chosen(self, features: Sequence[int]) -> IntArray:
        """Numbers of features as an array; raises `InputError` for those that are none, or come twice."""
        if self.transform is not None:
            raise InputError(
                f"the model was fitted to other features than the data's ({self.transform.words}), of which parts are "
                "no mixture: train without preprocess"
            )
        d, found = self.n_features, np.array(features, dtype=np.int64)
        if not len(found) or len(np.unique(found)) < len(found) or found.min() < 0 or found.max() >= d:
            raise InputError(f"features {list(features)} are not some of 0 to {d - 1}, each of them once")
        return found
