"""The variational posterior of a Gaussian mixture, and what is believed before any sample is seen.

It is a Dirichlet or stick-breaking distribution of the weights and a Gaussian-Wishart distribution of each component
(Bishop 2006, section 10.2; Blei and Jordan 2006). Its E-step is that of an ordinary mixture, the *expected* one, whose
weights do not sum to one.

The parametrisation and the lower bound are those of scikit-learn's BayesianGaussianMixture, also where they are
conventions of its own: diagonal and spherical precisions count as Wishart in d dimensions, and a tied one has the
degrees of freedom of an average component.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import betaln, digamma, gammaln

from dgmm.errors import InputError
from dgmm.families import SCIKIT_LEARN, Frame, GaussianFamily, Gaussians, Moments, gaussian_family
from dgmm.mixture import Mixture
from dgmm.types import FloatArray

#: What only Gaussian families have.
PRIOR = "Gaussian-Wishart prior"

WeightConcentrationType = Literal["dirichlet_process", "dirichlet_distribution"]

#: Weights below are not told from one another: what has such a weight has no samples.
SMALLEST_WEIGHT = float(np.finfo(float).tiny)
#: Asymmetry of a covariance matrix, as a share of its largest entry, that counts as rounding.
SYMMETRIC = 1e-8


def symmetric(family: GaussianFamily, covariances: FloatArray) -> FloatArray:
    """Covariance matrices without the asymmetry that rounding leaves; anything else as it is."""
    if not family.square or covariances.ndim < 2 or covariances.shape[-1] != covariances.shape[-2]:
        return covariances
    mirrored = np.swapaxes(covariances, -1, -2)
    rounding = SYMMETRIC * np.abs(covariances).max()
    return 0.5 * (covariances + mirrored) if np.allclose(covariances, mirrored, 0, rounding) else covariances


@dataclass(frozen=True)
class Priors:
    """What is believed of the weights and of every component before any sample is seen; in the data's units.

    Attributes
    ----------
    family : GaussianFamily
    weight_concentration_type : {"dirichlet_process", "dirichlet_distribution"}
    weight_concentration : float
        Concentration of the process, or of the distribution in each of its components.
    mean_precision : float
        The number of samples that the prior mean is worth.
    mean : ndarray, shape (d,)
    degrees_of_freedom : float
        Of the Wishart distribution of a precision.
    covariance : ndarray
        Inverse of its scale matrix: a scatter, a covariance times a number of samples. Shape (d, d) for full and tied,
        (d,) for diag, () for spherical.
    """

    family: GaussianFamily
    weight_concentration_type: WeightConcentrationType
    weight_concentration: float
    mean_precision: float
    mean: FloatArray
    degrees_of_freedom: float
    covariance: FloatArray

    @classmethod
    def for_data(
        cls,
        covariance_type: str,
        n_components: int,
        moments: Moments,
        *,
        weight_concentration_type: WeightConcentrationType = "dirichlet_process",
        weight_concentration: float | None = None,
        mean_precision: float | None = None,
        mean: FloatArray | Sequence[float] | None = None,
        degrees_of_freedom: float | None = None,
        covariance: FloatArray | float | None = None,
    ) -> Priors:
        """Priors as given; where not, those that scikit-learn takes from the data.

        Parameters
        ----------
        covariance_type : {"full", "tied", "diag", "spherical"}
        n_components : int
        moments : Moments
            Of the data, in its units.
        weight_concentration_type : {"dirichlet_process", "dirichlet_distribution"}
        weight_concentration : float, optional
            By default 1/K.
        mean_precision : float, optional
            By default 1.
        mean : array_like, shape (d,), optional
            By default the data's.
        degrees_of_freedom : float, optional
            More than d - 1; by default d.
        covariance : array_like or float, optional
            Shape (d, d) for full and tied, (d,) for diag, () for spherical. By default the data's (with n - 1),
            its diagonal, or the mean of that.

        Raises
        ------
        InputError
            If one is out of its range or has the wrong shape.
        """
        family, d = gaussian_family(covariance_type, PRIOR), len(moments.mean)
        if family.name not in SCIKIT_LEARN:
            raise InputError(f"{PRIOR}s are for {', '.join(SCIKIT_LEARN)}: not for {family.name}")
        if weight_concentration_type not in ("dirichlet_process", "dirichlet_distribution"):
            raise InputError(
                f"unknown weight_concentration_prior_type {weight_concentration_type!r}: choose from "
                "dirichlet_process, dirichlet_distribution"
            )
        concentration = positive("weight_concentration_prior", weight_concentration, 1 / n_components)
        precision = positive("mean_precision_prior", mean_precision, 1.0)
        freedom = float(d if degrees_of_freedom is None else degrees_of_freedom)
        if not (np.isfinite(freedom) and freedom > d - 1):
            raise InputError(f"degrees_of_freedom_prior must be greater than {d - 1} (features - 1), not {freedom:g}")
        centre = np.array(moments.mean if mean is None else mean, dtype=float)
        if centre.shape != (d,) or not np.isfinite(centre).all():
            raise InputError(f"mean_prior must be {d} finite numbers, not of shape {centre.shape}")
        if covariance is None:
            # may be singular: with a floor there is still a posterior
            spread = default_covariance(family, moments)
        else:
            spread = symmetric(family, np.array(covariance, dtype=float))
            family.from_arrays({"means": centre[None], "covariances": spread if family.shared else spread[None]})
        return cls(family, weight_concentration_type, concentration, precision, centre, freedom, spread)

    @property
    def moments(self) -> Moments:
        """The samples that the prior of one component is worth."""
        scatter = self.family.unrestrict(self.covariance, len(self.mean))
        return Moments(self.mean_precision, self.mean, scatter)


def positive(name: str, value: float | None, default: float) -> float:
    """The value, or the default where there is none."""
    result = float(default if value is None else value)
    if not (np.isfinite(result) and result > 0):
        raise InputError(f"{name} must be positive, not {result:g}")
    return result


def default_covariance(family: GaussianFamily, moments: Moments) -> FloatArray:
    """The data's covariance (with n - 1), its diagonal or the mean of that: what the family has of it."""
    if moments.count <= 1:
        raise InputError(f"{moments.count:g} samples have no covariance: give a covariance_prior")
    return family.restrict(moments.scatter / (moments.count - 1))


@dataclass(frozen=True)
class Posterior:
    """The variational posterior of a Gaussian mixture, in frame coordinates during a fit as a `Mixture` is.

    Attributes
    ----------
    family : GaussianFamily
    weight_concentration : ndarray, shape (K,) or (2, K)
        Parameters of the Dirichlet distribution of the weights; or those of the beta distributions of the shares
        that each component breaks off what the ones before it have left (Dirichlet process).
    mean_precision : ndarray, shape (K,)
        The number of samples that the knowledge of each mean is worth.
    degrees_of_freedom : ndarray, shape (K,), or () for tied
        Of the Wishart distributions of the precisions.
    components : Gaussians
        Expected means, and the covariances whose inverses are the expected precisions.
    """

    family: GaussianFamily
    weight_concentration: FloatArray
    mean_precision: FloatArray
    degrees_of_freedom: FloatArray
    components: Gaussians

    @property
    def covariance_type(self) -> str:
        """Name of the family."""
        return self.family.name

    @property
    def n_components(self) -> int:
        """Number of components K."""
        return len(self.mean_precision)

    @property
    def n_features(self) -> int:
        """Number of features d."""
        return int(self.means.shape[1])

    @property
    def means(self) -> FloatArray:
        """Expected means, shape (K, d)."""
        return self.components.means

    @property
    def covariances(self) -> FloatArray:
        """Inverses of the expected precisions: (K, d, d) for full, (d, d) tied, (K, d) diag, (K,) spherical."""
        return self.family.covariances(self.components)

    @property
    def expected_weights(self) -> FloatArray:
        """Expected weights, shape (K,); those of the process are scaled to sum to one, as it is cut off at K."""
        if self.weight_concentration.ndim == 1:
            return self.weight_concentration / self.weight_concentration.sum()
        taken, left = self.weight_concentration / self.weight_concentration.sum(axis=0)
        weights = taken * before(left, np.multiply)
        return weights / weights.sum()

    @property
    def expected_log_weights(self) -> FloatArray:
        """``E[log pi_k]``, shape (K,) (Bishop 2006, equation 10.66; Blei and Jordan 2006)."""
        concentration = self.weight_concentration
        expected: FloatArray = digamma(concentration) - digamma(concentration.sum(axis=0))
        if expected.ndim == 1:
            return expected
        taken, left = expected
        return taken + before(left, np.add)

    @property
    def mixture(self) -> Mixture:
        """The mixture of expected weights, means and precisions: the model as a point."""
        return Mixture(self.family, np.maximum(self.expected_weights, SMALLEST_WEIGHT), self.components)

    @property
    def expected_mixture(self) -> Mixture:
        """The mixture whose E-step is the variational one; the largest of its weights is one.

        Its log joint densities and `log_scale` together are ``E[log pi_k] + E[log N(x | k)]`` (Bishop 2006, equations
        10.46, 10.64 and 10.65), of which all but the densities of `components` goes into the weights.
        Responsibilities do not depend on the scale, nor does their entropy.
        """
        weights = np.exp(self._log_weights - self.log_scale)
        return Mixture(self.family, np.maximum(weights, SMALLEST_WEIGHT), self.components)

    @property
    def log_scale(self) -> float:
        """What the log densities of `expected_mixture` lack: for many features no double holds its exponential."""
        return float(self._log_weights.max())

    @property
    def _log_weights(self) -> FloatArray:
        d, nu = self.n_features, self.degrees_of_freedom
        log_shrinkage = d * np.log(2 / nu) + digamma(halves(nu, d)).sum(axis=0)
        return self.expected_log_weights + 0.5 * (log_shrinkage - d / self.mean_precision)

    def lower_bound(self, entropy: float) -> float:
        """Of the log evidence, up to a constant of the data and the priors; in the data's units if this is.

        Right after an M-step, where the expectations that Bishop (2006) lists in equations 10.71 to 10.77 cancel but
        for the entropy of the responsibilities and the normalising constants of the posterior.

        Parameters
        ----------
        entropy : float
            Of the responsibilities that led to this posterior: `SufficientStatistics.entropy`.
        """
        k, d, nu = self.n_components, self.n_features, self.degrees_of_freedom
        # of the Wishart densities, with the inverses of nu times the covariances
        log_scale = -self.family.log_determinants(self.components) - 0.5 * d * np.log(nu / 2)
        log_wishart = nu * log_scale + gammaln(halves(nu, d)).sum(axis=0)
        return float(
            entropy
            + np.broadcast_to(log_wishart, k).sum()
            + log_beta(self.weight_concentration)
            - 0.5 * d * np.log(self.mean_precision).sum()
        )

    def to_frame(self, frame: Frame) -> Posterior:
        """The same posterior in frame coordinates."""
        return replace(self, components=self.mixture.to_frame(frame).components)

    def to_data(self, frame: Frame) -> Posterior:
        """The posterior in the data's units, from frame coordinates."""
        return replace(self, components=self.mixture.to_data(frame).components)


def before(values: FloatArray, operation: np.ufunc) -> FloatArray:
    """The accumulated values before each one, shape (K,)."""
    return np.concatenate([[operation.identity], operation.accumulate(values[:-1])])


def halves(degrees_of_freedom: FloatArray, d: int) -> FloatArray:
    """``(nu + 1 - i) / 2`` for i = 1 ... d, shape (d, K) or (d,): arguments of the multivariate gamma function."""
    below = np.arange(d, dtype=float).reshape(d, *[1] * np.ndim(degrees_of_freedom))
    return 0.5 * (degrees_of_freedom - below)


def log_beta(concentration: FloatArray) -> float:
    """Logarithm of the normalising constant of a Dirichlet density (K,), or of independent beta densities (2, K)."""
    if concentration.ndim == 1:
        return float(gammaln(concentration).sum() - gammaln(concentration.sum()))
    return float(betaln(*concentration).sum())
