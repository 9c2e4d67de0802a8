"""How both mixture estimators are fitted where scikit-learn's are not: where rows come from, and shared passes."""

from __future__ import annotations

import time
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from inspect import signature
from typing import Any, Self, TypedDict

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from dgmm.blas import one_blas_thread, one_thread
from dgmm.em import Accumulate, Ground, Past, climb
from dgmm.engine import Workers
from dgmm.errors import InputError
from dgmm.estep import usable_rows
from dgmm.estimators.bridge import Bridge
from dgmm.estimators.lazy import score_chunked
from dgmm.estimators.problem import AnySamples, Problem, Start
from dgmm.estimators.scores import ScoringMixture
from dgmm.families import Frame, Moments, get_family
from dgmm.fits import Training, validated
from dgmm.fitting import passes_over
from dgmm.passes import Passes
from dgmm.search import drawn
from dgmm.types import AnyArray, FloatArray


class Parameters(TypedDict, total=False):
    """What both of scikit-learn's mixtures take as a keyword, with its own defaults."""

    covariance_type: str
    tol: float
    reg_covar: float
    max_iter: int
    n_init: int
    init_params: str
    random_state: int | np.random.RandomState | None
    warm_start: bool
    verbose: int
    verbose_interval: int


class StreamedMixture(ScoringMixture, Bridge):
    """What both mixture estimators do differently from scikit-learn's, of which they are subclasses too."""

    n_components: int
    covariance_type: str
    tol: float
    reg_covar: float
    max_iter: int
    n_init: int
    random_state: Any
    warm_start: bool
    verbose: int
    verbose_interval: int
    sample_rows: int
    weights_: AnyArray
    means_: AnyArray
    covariances_: AnyArray
    precisions_: AnyArray
    precisions_cholesky_: AnyArray
    lower_bound_: float

    def __init_subclass__(cls, **named: Any) -> None:
        """Name the parameters of scikit-learn's class in the signature, which it reads them from, and then our own."""
        super().__init_subclass__(**named)
        if "_theirs" not in vars(cls):
            return  # a subclass of somebody else's, who knows its parameters
        ours, theirs = signature(cls.__init__), signature(cls._theirs.__init__).parameters
        own = [p for p in ours.parameters.values() if p.name not in theirs and p.kind is not p.VAR_KEYWORD]
        cls.__init__.__signature__ = ours.replace(parameters=[*theirs.values(), *own])  # type: ignore[attr-defined]

    def fit(self, X: AnySamples, y: None = None, *, feature_dims: str | Sequence[str] | None = None) -> Self:
        """Fit the mixture to samples that may lie anywhere.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), dask.array.Array, zarr.Array, xarray.DataArray or Dataset
            All dimensions of a chunked array but the last one are samples. Rows of chunked data with a missing value
            (NaN) are left out; in an array in memory they are an error, as in scikit-learn.
            An open distributed client does the work on chunked data, if there is one, else threads.
        y : Ignored
            There by convention.
        feature_dims : str or sequence of str, optional
            The dimensions of an xarray object along which the features lie; several are stacked. Of several variables
            of a Dataset those that have one of them hold a feature for each place along it, the others are one each.
            By default the last dimension of a DataArray and the variables of a Dataset. Remembered for prediction.

        Returns
        -------
        self : object
            The fitted mixture.
        """
        self._fit(X, feature_dims)
        return self

    def fit_predict(self, X: AnySamples, y: None = None, *, feature_dims: str | Sequence[str] | None = None) -> Any:
        """Fit the mixture and label the same samples, as ``fit(X).predict(X)`` does.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), dask.array.Array, zarr.Array, xarray.DataArray or Dataset
            As for `fit`.
        y : Ignored
            There by convention.
        feature_dims : str or sequence of str, optional
            As for `fit`.

        Returns
        -------
        labels : ndarray of shape (n_samples,), dask.array.Array or xarray.DataArray
            As from `predict`.
        """
        problem = self._fit(X, feature_dims)
        if problem.whole:
            return self._in_memory(problem.source, self._scorer("label"))
        return score_chunked(problem.source, self._scorer("label"), problem.features)

    @abstractmethod
    def _make_starts(self, rows: FloatArray, passes: Passes, ground: Ground) -> list[Any]:
        """``n_init`` starts, made of rows (m, d)."""

    @abstractmethod
    def _go_on(self, passes: Passes, ground: Ground) -> Any:
        """The start that continues from the fitted attributes."""

    @property
    def _goes_on(self) -> bool:
        return self.warm_start and hasattr(self, "converged_")

    @abstractmethod
    def _unit(self, n_samples: int) -> float:
        """What a start's trajectory is divided by for the lower bound."""

    @abstractmethod
    def _keep(self, start: Any, frame: Frame, dtype: np.dtype[Any]) -> None:
        """Set the attributes of the model."""

    def _climbing(self) -> dict[str, Any]:
        """How samples are shared out and what is held fixed, as settings."""
        return {}

    def _floor(self, frame: Frame, moments: Moments) -> Any:
        """Added to every covariance, in frame coordinates: `reg_covar` in squared units of the data."""
        forward = frame.forward
        square: FloatArray = np.diag(forward**2) if forward.ndim == 1 else forward @ forward.T
        return self.reg_covar * square

    def _ridge(self) -> float:
        """About the least variance of a component, in squared units of the data: for the frame."""
        return self.reg_covar

    def _fit(
        self, X: AnySamples, feature_dims: str | Sequence[str] | None, weights: Any = None, past: Past | None = None
    ) -> Problem:
        """Climb from all starts in shared passes, with a past on from where it is; set the attributes to the best."""
        self._validate_params()  # type: ignore[attr-defined]
        problem = self._problem(X, feature_dims, weights=weights, again=past is not None)
        if self._goes_on or past is not None:
            self._check_fitted_for(problem.samples.n_features)
        elif not problem.whole and self.sample_rows < min(self.n_components, problem.samples.grid.size):
            raise InputError(
                f"n_components={self.n_components} cannot start from sample_rows={self.sample_rows} rows: raise it"
            )
        with problem.open_workers() as workers, one_blas_thread:
            passes, ground = self._prepare(problem, workers, past)
            starts = self._starts(problem, passes, ground, past)
            n = passes.profile.n_samples if past is None else max(round(ground.moments.count), 1)
            self._climb(starts, passes, n, past)
            best = self._best(starts)
            self._keep(best, ground.frame, problem.dtype)
        bounds = [value / self._unit(n) for value in best.trajectory]
        if not best.converged and self.max_iter > 0:
            change = f", its last change {bounds[-1] - bounds[-2]:.2g}" if len(bounds) > 1 else ""
            warnings.warn(
                f"the best start did not converge in {len(bounds)} iterations{change} (tol {self.tol:g}): raise "
                f"max_iter ({self.max_iter}) or tol, try another init_params, or look for degenerate data",
                ConvergenceWarning,
                stacklevel=3,
            )
        self.converged_ = best.converged
        self.n_iter_ = len(bounds)
        self.lower_bound_ = self._final(best) / self._unit(n) if bounds else -np.inf
        self.lower_bounds_ = bounds
        self.remaining_gain_ = best.remaining_gain / n
        if hasattr(self, "selection_"):
            del self.selection_  # of another fit
        return problem

    @property
    def _seed(self) -> int:
        """Of the sample of rows."""
        return int(self.random_state) if isinstance(self.random_state, (int, np.integer)) else 0

    def _prepare(self, problem: Problem, workers: Workers, past: Past | None = None) -> tuple[Passes, Ground]:
        """The profile pass, and what an M-step needs to know."""
        settings = validated(Training, {"seed": self._seed, "sample_rows": self.sample_rows, **self._climbing()})
        robust = settings.preprocess is not None and settings.preprocess.scale == "robust"
        # starts are made of all rows of an array in memory, so that nothing else needs the sample
        options = settings.model_copy(update={"sample_rows": 1}) if problem.whole and not robust else settings
        known = self._transform if self._goes_on or past is not None else None
        coordinates = None if past is None else past.frame
        how: dict[str, Any] = {"ridge": self._ridge(), "known": known, "frame": coordinates}
        passes = passes_over(problem.samples, workers, options, **how)
        self._transform = passes.transform
        n = passes.profile.n_samples
        if past is None and n < max(2, self.n_components):
            raise InputError(
                f"Expected n_samples >= n_components, and two at least: n_samples = {n} complete rows, "
                f"n_components = {self.n_components}"
            )
        frame = passes.frame(get_family(self.covariance_type).frame)
        moments = passes.profile.moments.in_frame(frame)
        moments = moments if past is None else past.moments.merge(moments)
        floor, fixed = self._floor(frame, moments), frozenset(options.fixed)
        prior = None if options.prior == "none" else get_family(self.covariance_type).prior(moments)
        rest: dict[str, Any] = {"fixed": fixed, "sharing": passes.sharing, "marginal": passes.marginal}
        return passes, Ground(frame, moments, floor, prior=prior, **rest)

    def _check_fitted_for(self, n_features: int) -> None:
        """Refuse to go on from what was fitted to something else."""
        k, d = self.means_.shape
        d = d if self._transform is None else self._transform.n_inputs
        wanted = self.n_components, self.covariance_type, n_features
        fitted = k, self._fitted_type, d
        if wanted != fitted:
            raise InputError(
                "n_components, covariance_type and the number of features are {}, {} and {}, but {}, {} and {} in the "
                "fitted model, from which warm_start and partial_fit cannot go on: set warm_start=False, or fit anew"
                "".format(*wanted, *fitted)
            )

    def _starts(self, problem: Problem, passes: Passes, ground: Ground, past: Past | None) -> list[Any]:
        if self._goes_on or past is not None:
            return [self._go_on(passes, ground)]
        rows = problem.start_rows(passes, self.sample_rows, self._seed)
        if passes.marginal:
            some = usable_rows(rows, marginal=True)
            rows = drawn(rows if some is None else rows[some], passes.frame)
        with one_thread():
            return self._make_starts(rows, passes, ground)

    def _climb(self, starts: Sequence[Start], passes: Passes, n: int, past: Past | None) -> None:
        """Passes until all starts have arrived; raises if a component of one collapses, as scikit-learn."""
        began = time.perf_counter()
        if self.verbose:
            print(f"{len(starts)} starts on {n} samples")
        accumulate: Accumulate = passes.accumulate
        if past is not None:
            accumulate = past.behind(accumulate, passes.profile.moments.in_frame(past.frame))
        for step in climb(starts, accumulate, self.max_iter):
            for i in step.ascents:
                start = starts[i]
                if start.failure is not None:
                    raise start.failure
                self._report(i, start, step.number, n, time.perf_counter() - began)
            began = time.perf_counter()

    def _report(self, i: int, start: Start, number: int, n: int, seconds: float) -> None:
        if not self.verbose or (number % self.verbose_interval and not start.done and number < self.max_iter):
            return
        values = [value / self._unit(n) for value in start.trajectory[-2:]]
        change = values[-1] - values[0] if len(values) > 1 else np.inf
        more = f", lower bound {values[-1]:.8g}, change {change:.3g}, {seconds:.3f} s" if self.verbose > 1 else ""
        print(f"start {i}: iteration {number}{more}")
        if start.done or number == self.max_iter:
            print(f"start {i}: {'converged' if start.converged else 'did not converge'}")

    def _best(self, starts: Sequence[Any]) -> Any:
        """The start with the highest lower bound, the first of equals; without iterations the last one."""
        if not self.max_iter:
            return starts[-1]
        best = starts[0]
        for start in starts[1:]:
            if self._final(start) > self._final(best):
                best = start
        return best

    def _final(self, start: Any) -> float:
        """The lower bound at the end of a climb, in the unit of its trajectory."""
        return float(start.trajectory[-1])
