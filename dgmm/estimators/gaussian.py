"""scikit-learn's Gaussian mixture on data of any size: the same parameters, attributes, results and errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack, cast, get_args

import numpy as np
import sklearn.mixture
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from dgmm.blas import one_blas_thread
from dgmm.config import Select
from dgmm.em import Ascent, Ground, Past
from dgmm.errors import InputError
from dgmm.estimators.base import Parameters
from dgmm.estimators.bridge import change_rule, mixture_of, set_components
from dgmm.estimators.partial import PartlyFitted
from dgmm.estimators.problem import AnySamples
from dgmm.families import DEFAULT, Frame, Moments, gaussian_family, get_family
from dgmm.fits import Search, Selection, Training, by_model, validated
from dgmm.fitting import select_samples
from dgmm.keywords import GridOptions, takes
from dgmm.mixture import Mixture
from dgmm.passes import Passes
from dgmm.transform import Transform
from dgmm.types import Acceleration, Assignment, FloatArray, IntArray, Missing, PriorName

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class GaussianParameters(Parameters, total=False):
    """What only scikit-learn's class of the same name takes, beside the number of components."""

    weights_init: ArrayLike | None
    means_init: ArrayLike | None
    precisions_init: ArrayLike | None


class GaussianMixture(PartlyFitted, sklearn.mixture.GaussianMixture):
    """Gaussian mixture with scikit-learn's interface, for data in memory or out of it.

    With the default parameters the same start climbs the same trajectory to the same parameters as
    `sklearn.mixture.GaussianMixture`, to rounding; arrays in memory have the same starts as well. Dask, Zarr and
    xarray data are streamed, and predictions come back in what held them.

    Parameters
    ----------
    n_components : int, default=1
        Number of components K.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}, default='full'
        Every component has a covariance of its own, all share one, or each has a variance per feature or just one.
    tol : float, default=1e-3
        When to stop, in nats per sample; see `stop`.
    reg_covar : float, default=1e-6
        Added to the diagonal of every covariance, in squared units of the data; see `regularisation`.
    max_iter : int, default=100
        Iterations, each a pass over the data. With 0 the start is returned.
    n_init : int, default=1
        Starts; they climb side by side and share every pass, and the best one is kept.
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data'}, default='kmeans'
        What a start is made of: the clusters of k-means, the seeds of k-means++, random responsibilities or random
        samples.
    weights_init : array-like of shape (n_components,), default=None
    means_init : array-like of shape (n_components, n_features), default=None
    precisions_init : array-like, default=None
        Parameters that take the place of those of every start, in the data's units. Precisions, inverses of the
        covariances, have shape (K, d, d) for full, (d, d) for tied, (K, d) for diag and (K,) for spherical.
    random_state : int, RandomState instance or None, default=None
        Of the starts and of `sample`; an int also chooses the sample of rows that chunked data start from.
    warm_start : bool, default=False
        Begin a further fit where the last one ended.
    verbose : int, default=0
        1 prints the iterations of every start, 2 also lower bounds and seconds.
    verbose_interval : int, default=10
        Iterations from one print to the next.
    accelerate : {'none', 'anderson'}, default='none'
        Plain EM, as in scikit-learn, or EM with Anderson's acceleration, which needs far fewer passes where components
        overlap; it returns the best mixture it has evaluated and that one's own lower bound.
    regularisation : {'absolute', 'relative'}, default='absolute'
        Whether `reg_covar` is a variance, as in scikit-learn, or a share of the data's covariance, with which a change
        of units changes nothing.
    stop : {'change', 'remaining_gain'}, default='change'
        Whether `tol` is held against the last change of the lower bound, as in scikit-learn, or against the estimated
        gain still to come, which is what matters and may be many times larger; there it is never taken below 0.1 % of
        p/2 nats in total, p the number of parameters.
    assignment : {'soft', 'hard'}, default='soft'
        Whether a sample counts for every component as probable as it is, or for the most probable one alone
        (classification EM), which `accelerate` does not touch; the lower bound is then that of the classification.
    fixed : sequence of str, default=()
        Which of 'weights', 'means' and 'covariances' keep the values that they begin with, those given if there are
        any; they are not counted as parameters in `aic` and `bic`.
    prior : {'none', 'default'}, default='none'
        Whether components have the conjugate prior of Fraley and Raftery (2007), with the settings of mclust, under
        which none of few samples collapses; lower bounds have the logarithm of its density, up to a constant.
    preprocess : dict or None, default=None
        What is done to the features first, such as ``{"scale": "standard", "pca": 0.99}`` or ``{"log": ["0"]}``; see
        `dgmm.train`. `means_`, covariances and log densities are of what comes of that, as behind transformers in a
        pipeline, and ``preprocess_.inverse(means_)`` are in the data's units; so is `means_init`. Samples and
        `components_table` are in the data's units.
    missing : {'omit', 'raise', 'marginalise'}, default='omit'
        Whether rows of which some values are missing (NaN) are left out, in an array in memory an error as in
        scikit-learn; or an error wherever they lie; or fitted and scored by the values that they have, exactly where
        these are missing at random. A row that has none is left out, and its label is -1.
    sample_rows : int, default=100_000
        Dask, Zarr and xarray data with more rows than this start from a random sample of so many. Other arrays start
        from all their rows, as in scikit-learn.
    forget : float, default=0.0
        By how much less every sample counts at each further `partial_fit`, in [0, 1); 0: all count the same.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
    means_ : ndarray of shape (n_components, n_features)
    covariances_ : ndarray
        Of shape (K, d, d) for full, (d, d) for tied, (K, d) for diag and (K,) for spherical.
    precisions_ : ndarray
        Inverses of the covariances, of the same shape.
    precisions_cholesky_ : ndarray
        Upper triangular U with ``U U' = precision``; the square roots of the precisions for diag and spherical.
    converged_ : bool
    n_iter_ : int
        Iterations of the best start.
    lower_bound_ : float
        Mean log-likelihood of the mixture before the last M-step, as in scikit-learn.
    lower_bounds_ : list of float
        The same after every iteration of the best start.
    remaining_gain_ : float
        Estimated gain in mean log-likelihood still to come, in nats per sample; inf where too few iterations tell
        nothing.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Columns of a DataFrame, variables of a Dataset, or string labels along the feature dimension of a DataArray.
    selection_ : dgmm.Selection
        Of an estimator made by `select`.
    preprocess_ : dgmm.transform.Transform or None
        What is done to the features: called with samples of shape (n, n_features) it gives those that are fitted.

    Notes
    -----
    Beside the last seven parameters it differs from scikit-learn where it says so: a component that has lost every
    sample stays where it is, rather than at the origin; single precision data are summed in double precision; rows of
    chunked data with missing values are left out. A collapsed component raises `dgmm.CollapseError`, a ValueError.
    Array API input is not supported. ``set_output`` concerns transformers, which mixtures are not.

    See Also
    --------
    dgmm.BayesianGaussianMixture : Variational inference with priors.
    dgmm.train : Better starts and stopping as the default.

    Examples
    --------
    >>> import numpy as np
    >>> import dgmm
    >>> x = np.array([[1.0, 2.0], [1.0, 4.0], [1.0, 0.0], [10.0, 2.0], [10.0, 4.0], [10.0, 0.0]])
    >>> mixture = dgmm.GaussianMixture(n_components=2, random_state=0).fit(x)
    >>> mixture.predict([[0.0, 0.0], [12.0, 3.0]])
    array([1, 0])
    """

    _theirs = sklearn.mixture.GaussianMixture
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **sklearn.mixture.GaussianMixture._parameter_constraints,
        "accelerate": [StrOptions(set(get_args(Acceleration)))],
        "regularisation": [StrOptions({"absolute", "relative"})],
        "stop": [StrOptions({"change", "remaining_gain"})],
        "assignment": [StrOptions(set(get_args(Assignment)))],
        "fixed": [list, tuple],
        "prior": [StrOptions(set(get_args(PriorName)))],
        "preprocess": [dict, None],
        "missing": [StrOptions(set(get_args(Missing)))],
        "sample_rows": [Interval(Integral, 1, None, closed="left")],
        "forget": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        accelerate: str = "none",
        regularisation: str = "absolute",
        stop: str = "change",
        assignment: str = "soft",
        fixed: Sequence[str] = (),
        prior: str = "none",
        preprocess: dict[str, Any] | None = None,
        missing: str = "omit",
        sample_rows: int = 100_000,
        forget: float = 0.0,
        **theirs: Unpack[GaussianParameters],
    ) -> None:
        super().__init__(n_components=n_components, **theirs)
        self.accelerate = accelerate
        self.regularisation = regularisation
        self.stop = stop
        self.assignment = assignment
        self.fixed = fixed
        self.prior = prior
        self.preprocess = preprocess
        self.missing = missing
        self.sample_rows = sample_rows
        self.forget = forget

    @classmethod
    @takes(GridOptions, Select)
    def select(
        cls,
        X: AnySamples,
        n_components: int | Iterable[int] = range(1, 11),
        covariance_type: str | Sequence[str] = DEFAULT,
        *,
        feature_dims: str | Sequence[str] | None = None,
        **options: Unpack[GridOptions],
    ) -> Self:
        """Choose the number of components and the covariance type; all candidates share every pass.

        As `dgmm.select` does, whose defaults apply: relative regularisation, ten starts on a sample, acceleration, and
        the estimated gain still to come as the rule for stopping.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), dask.array.Array, zarr.Array, xarray.DataArray or Dataset
        n_components : int or iterable of int, default=range(1, 11)
        covariance_type : str or sequence of str
            Any that there are; one that scikit-learn does not have predicts, and is not fitted again.
        feature_dims : str or sequence of str, optional
            As for `fit`.

        Returns
        -------
        GaussianMixture
            The best candidate, fitted, with the parameters that would nearly fit it again: ``start_rows``,
            ``worst_rows``, ``holdout`` and ``compute_dtype`` are not kept. ``selection_`` has the others.
        """
        given, rest = by_model(options, Search)
        if "random_state" in rest:
            raise InputError(f"select() has no random_state: set seed={rest['random_state']!r} instead")
        search = validated(Search, {"n_components": n_components, "covariance_type": covariance_type, **given})
        for name in search.covariance_type:
            gaussian_family(name, "precisions")
        training = validated(Training, rest)
        if training.noise:
            raise InputError("scikit-learn's attributes have no place for noise: use dgmm.select, or leave it out")
        model = cls(missing=training.missing)
        problem = model._problem(X, feature_dims)
        with problem.open_workers() as workers:
            selection: Selection = select_samples(problem.samples, workers, search, training)
        fit = selection.best
        model.set_params(
            n_components=fit.n_components,
            covariance_type=fit.covariance_type,
            tol=training.tol or 0.0,
            reg_covar=training.reg_covar,
            max_iter=training.max_iter,
            n_init=training.n_init or 1,
            init_params=training.init_params,
            random_state=training.seed,
            accelerate=training.accelerate,
            regularisation="relative",
            stop="remaining_gain",
            assignment=training.assignment,
            fixed=tuple(training.fixed),
            prior=training.prior,
            preprocess=None if training.preprocess is None else training.preprocess.model_dump(),
            missing=training.missing,
            sample_rows=training.sample_rows,
        )
        model._transform = fit.mixture.transform
        with one_blas_thread:
            model._set_mixture(fit.mixture, problem.dtype)
        model.converged_ = fit.converged
        model.n_iter_ = fit.n_passes
        model.lower_bound_ = (fit.log_likelihood if fit.prior == "none" else max(fit.trajectory)) / fit.n_samples
        model.lower_bounds_ = [value / fit.n_samples for value in fit.trajectory]
        model.remaining_gain_ = fit.remaining_gain
        model.selection_ = selection
        model._past = fit.past
        return model

    def _climbing(self) -> dict[str, Any]:
        asked = ("assignment", "prior", "preprocess", "missing")
        return {"fixed": list(self.fixed), **{name: getattr(self, name) for name in asked}}

    @property
    def preprocess_(self) -> Transform | None:
        """What is done to the features before they are fitted."""
        check_is_fitted(self)
        return self._transform

    def sample(self, n_samples: int = 1) -> tuple[FloatArray, IntArray]:
        """Draw samples from the fitted mixture, in the data's units; what preprocessing dropped stands at its mean.

        Parameters
        ----------
        n_samples : int, default=1

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
        y : ndarray of shape (n_samples,)
            The component of each.
        """
        x, labels = super().sample(n_samples)
        return (x if self._transform is None else self._transform.inverse(x)), labels

    @property
    def _marginal(self) -> bool:
        return self.missing == "marginalise"

    def _n_parameters(self) -> int:
        k, d = self.means_.shape
        return int(super()._n_parameters()) - get_family(self.covariance_type).n_fixed(self.fixed, k, d)

    def _floor(self, frame: Frame, moments: Moments) -> Any:
        if self.regularisation == "relative":
            return get_family(self.covariance_type).floor(self.reg_covar, moments)
        return super()._floor(frame, moments)

    def _ridge(self) -> float:
        return 0.0 if self.regularisation == "relative" else self.reg_covar

    def _make_starts(self, rows: FloatArray, passes: Passes, ground: Ground) -> list[Ascent]:
        unit = 1.0
        if self.regularisation == "relative":
            # a start must not depend on units either
            unit = float(np.sqrt(np.diagonal(passes.profile.moments.covariance).mean())) or 1.0
        means, precisions, changed = self.means_init, self.precisions_init, {}
        if passes.transform is not None:
            if precisions is not None:
                raise InputError("precisions_init are of the data, and preprocess fits other features: leave one out")
            means = None if means is None else passes.transform(np.asarray(means, dtype=float))
        if unit != 1.0 or passes.transform is not None:
            changed = {
                "means_init": None if means is None else np.asarray(means) / unit,
                "precisions_init": None if precisions is None else np.asarray(precisions) * unit**2,
            }
        maker = self._plain(**changed)
        scaled = rows if unit == 1.0 else rows / unit
        maker._check_parameters(scaled, xp=np)
        generator = check_random_state(self.random_state)
        starts = []
        for _ in range(self.n_init):
            maker._initialize_parameters(scaled, generator, xp=np)
            start = mixture_of(
                self.covariance_type, maker.weights_, maker.means_ * unit, maker.precisions_cholesky_ / unit
            )
            starts.append(self._ascent(start, ground, -np.inf))
        return starts

    def _go_on(self, passes: Passes, ground: Ground) -> Ascent:
        return self._ascent(self._expected_mixture(), ground, self.lower_bound_)

    def _ascent(self, start: Mixture, ground: Ground, before: float) -> Ascent:
        rule: Callable[[Ascent], bool] | None = None
        if self.stop == "change":
            change = change_rule(self.tol, ground.moments.count, before, accelerated=self.accelerate != "none")

            def rule(a: Ascent) -> bool:
                # where hard assignments do not change, nothing will
                return (self.assignment == "hard" and a.remaining_gain <= 0) or change(a)

        return Ascent(start.to_frame(ground.frame), ground, self.tol, cast(Any, self.accelerate), rule)

    def _unit(self, n_samples: int) -> float:
        return float(n_samples)

    def _final(self, start: Ascent) -> float:
        return super()._final(start) if self.accelerate == "none" else start.objective

    def _keep(self, start: Ascent, frame: Frame, dtype: np.dtype[Any]) -> None:
        # scikit-learn returns what the last M-step made, which nobody has evaluated
        mixture = start.proposal if self.accelerate == "none" else start.mixture
        self._set_mixture(mixture.to_data(frame), dtype)
        self._past = Past.of(start.best)

    def _set_mixture(self, mixture: Mixture, dtype: np.dtype[Any]) -> None:
        family = gaussian_family(mixture.covariance_type, "precisions")
        self._fitted_type = family.name
        self.weights_ = mixture.weights.astype(dtype)
        set_components(self, family, mixture.components, dtype)

    def _expected_mixture(self) -> Mixture:
        return mixture_of(self.covariance_type, self.weights_, self.means_, self.precisions_cholesky_)

    def aic(self, X: AnySamples) -> float:
        """Akaike's information criterion of the model on samples; lower is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), dask.array.Array, zarr.Array, xarray.DataArray or Dataset

        Returns
        -------
        aic : float
            ``-2 LL + 2 p``.
        """
        total, _ = self._total(X)
        return -2 * total + 2 * int(self._n_parameters())

    def bic(self, X: AnySamples) -> float:
        """Bayesian information criterion of the model on samples; lower is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), dask.array.Array, zarr.Array, xarray.DataArray or Dataset

        Returns
        -------
        bic : float
            ``-2 LL + p log n``, n the number of complete rows.
        """
        total, count = self._total(X)
        return -2 * total + int(self._n_parameters()) * float(np.log(count))
