"""scikit-learn's variational mixture on data of any size: another M-step on the same statistics."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import numpy as np
import sklearn.mixture
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval

from dgmm.em import PRIOR, Ground, Posterior, Priors, VariationalAscent
from dgmm.estimators.base import Parameters, StreamedMixture
from dgmm.estimators.bridge import change_rule, components_of, set_components
from dgmm.families import Frame, Moments, gaussian_family
from dgmm.mixture import Mixture
from dgmm.passes import Passes
from dgmm.types import FloatArray

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class BayesianParameters(Parameters, total=False):
    """What only scikit-learn's class of the same name takes, and the number of components."""

    n_components: int
    weight_concentration_prior_type: str
    weight_concentration_prior: float | None
    mean_precision_prior: float | None
    mean_prior: ArrayLike | None
    degrees_of_freedom_prior: float | None
    covariance_prior: ArrayLike | None


class BayesianGaussianMixture(StreamedMixture, sklearn.mixture.BayesianGaussianMixture):
    """Variational Gaussian mixture with scikit-learn's interface, for data in memory or out of it.

    The same start climbs the same lower bound to the same posterior as `sklearn.mixture.BayesianGaussianMixture`, to
    rounding; arrays in memory have the same starts as well. Dask, Zarr and xarray data are streamed, and predictions
    come back in what held them.

    Parameters
    ----------
    n_components : int, default=1
        Number of components K, at most: those that are not needed end with hardly any weight.
    tol : float, default=1e-3
        Change of the lower bound, in nats in total, at which to stop.
    reg_covar : float, default=1e-6
        Added to the diagonal of every covariance of the samples, in squared units of the data.
    weight_concentration_prior_type : {'dirichlet_process', 'dirichlet_distribution'}, default='dirichlet_process'
        Prior of the weights.
    weight_concentration_prior : float or None, default=None
        Its concentration, of each component for the distribution; the smaller, the fewer components. By default 1/K.
    mean_precision_prior : float or None, default=None
        The number of samples that `mean_prior` is worth; 1 by default.
    mean_prior : array-like of shape (n_features,), default=None
        By default the mean of the data.
    degrees_of_freedom_prior : float or None, default=None
        Of the Wishart prior of the precisions; the number of features by default.
    covariance_prior : float or array-like, default=None
        Shape (d, d) for full and tied, (d,) for diag, a number for spherical. By default that of the data.
    covariance_type, max_iter, n_init, init_params, random_state, warm_start, verbose, verbose_interval, sample_rows
        As for `dgmm.GaussianMixture`.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
        Expected weights.
    means_ : ndarray of shape (n_components, n_features)
        Expected means.
    covariances_ : ndarray
        Inverses of the expected precisions.
    lower_bound_ : float
        Of the log evidence, up to a constant, in nats in total.
    lower_bounds_ : list of float
        After every iteration of the best start.
    remaining_gain_ : float
        Estimated gain in the lower bound still to come, in nats per sample.
    weight_concentration_prior_ : float
    weight_concentration_ : ndarray of shape (n_components,) or a pair of them
        Parameters of the Dirichlet distribution, or of the beta distributions of the process.
    mean_precision_prior_ : float
    mean_precision_ : ndarray of shape (n_components,)
    mean_prior_ : ndarray of shape (n_features,)
    degrees_of_freedom_prior_ : float
    degrees_of_freedom_ : ndarray of shape (n_components,), or a number for tied
    covariance_prior_ : float or ndarray
    precisions_, precisions_cholesky_, converged_, n_iter_, n_features_in_, feature_names_in_
        As of `dgmm.GaussianMixture`; the shapes too.

    See Also
    --------
    dgmm.GaussianMixture : Maximum likelihood.

    Examples
    --------
    >>> import numpy as np
    >>> import dgmm
    >>> x = np.array([[1.0, 2.0], [1.0, 4.0], [1.0, 0.0], [4.0, 2.0], [12.0, 4.0], [10.0, 7.0]])
    >>> dgmm.BayesianGaussianMixture(n_components=2, random_state=42).fit(x).predict([[0.0, 0.0], [9.0, 3.0]])
    array([0, 1])
    """

    _theirs = sklearn.mixture.BayesianGaussianMixture
    _scored_by = ("means_", "precisions_cholesky_", "weight_concentration_", "mean_precision_", "degrees_of_freedom_")
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **sklearn.mixture.BayesianGaussianMixture._parameter_constraints,
        "sample_rows": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, *, sample_rows: int = 100_000, **theirs: Unpack[BayesianParameters]) -> None:
        super().__init__(**theirs)
        self.sample_rows = sample_rows

    def _priors(self, moments: Moments, checked: sklearn.mixture.BayesianGaussianMixture) -> Priors:
        """Those that were given, as scikit-learn checks them, or of all the data."""
        given = {
            name: None if getattr(self, f"{name}_prior") is None else getattr(checked, f"{name}_prior_")
            for name in ("weight_concentration", "mean_precision", "mean", "degrees_of_freedom", "covariance")
        }
        kind: Any = self.weight_concentration_prior_type
        priors = Priors.for_data(
            self.covariance_type, self.n_components, moments, weight_concentration_type=kind, **given
        )
        self.weight_concentration_prior_ = priors.weight_concentration
        self.mean_precision_prior_ = priors.mean_precision
        self.mean_prior_ = priors.mean
        self.degrees_of_freedom_prior_ = priors.degrees_of_freedom
        self.covariance_prior_ = priors.covariance if priors.covariance.ndim else float(priors.covariance)
        return priors

    def _maker(self, rows: FloatArray) -> sklearn.mixture.BayesianGaussianMixture:
        """scikit-learn's own, which has checked its parameters."""
        maker = self._plain()
        maker._check_parameters(rows, xp=np)
        return maker

    def _make_starts(self, rows: FloatArray, passes: Passes, ground: Ground) -> list[VariationalAscent]:
        maker = self._maker(rows)
        priors = self._priors(passes.profile.moments, maker)
        generator = check_random_state(self.random_state)
        starts = []
        for _ in range(self.n_init):
            # of a sample, where there are more rows: one M-step makes up for it
            maker._initialize_parameters(rows, generator, xp=np)
            starts.append(self._ascent(posterior_of(maker).to_frame(ground.frame), ground, priors, -np.inf))
        return starts

    def _go_on(self, passes: Passes, ground: Ground) -> VariationalAscent:
        # all that is checked is the number of features
        checked = self._maker(np.zeros((2, self.n_features_in_)))
        priors = self._priors(passes.profile.moments, checked)
        return self._ascent(posterior_of(self).to_frame(ground.frame), ground, priors, self.lower_bound_)

    def _ascent(self, start: Posterior, ground: Ground, priors: Priors, before: float) -> VariationalAscent:
        return VariationalAscent(start, ground, priors, change_rule(self.tol, 1.0, before))

    def _unit(self, n_samples: int) -> float:
        return 1.0

    def _keep(self, start: VariationalAscent, frame: Frame, dtype: np.dtype[Any]) -> None:
        posterior = start.posterior.to_data(frame)
        concentration = posterior.weight_concentration
        self.weight_concentration_ = tuple(concentration) if concentration.ndim == 2 else concentration
        self.mean_precision_ = posterior.mean_precision
        self.degrees_of_freedom_ = posterior.degrees_of_freedom[()]
        self.weights_ = posterior.expected_weights.astype(dtype)
        set_components(self, posterior.family, posterior.components, dtype)
        self._fitted_type = posterior.family.name

    def _expected_mixture(self) -> Mixture:
        return posterior_of(self).expected_mixture

    def _log_scale(self) -> float:
        return posterior_of(self).log_scale


def posterior_of(model: sklearn.mixture.BayesianGaussianMixture) -> Posterior:
    """The posterior of a model's attributes, in the data's units."""
    return Posterior(
        gaussian_family(model.covariance_type, PRIOR),
        np.array(model.weight_concentration_, dtype=float),
        np.array(model.mean_precision_, dtype=float),
        np.array(model.degrees_of_freedom_, dtype=float),
        components_of(model.covariance_type, model.means_, model.precisions_cholesky_),
    )
