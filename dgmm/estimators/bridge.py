"""From scikit-learn's classes and attributes, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from dgmm.errors import InputError
from dgmm.estimators.problem import Start
from dgmm.families import SCIKIT_LEARN, GaussianFamily, Gaussians, gaussian_family, get_family
from dgmm.mixture import Mixture
from dgmm.transform import Transform
from dgmm.types import AnyArray

#: A weight of zero has no logarithm; with this one a component gets no sample that another has any use for.
LEAST_WEIGHT = float(np.finfo(float).tiny)
#: Rows and features of the table of components in a notebook.
SHOWN_COMPONENTS, SHOWN_FEATURES = 20, 12


class Bridge:
    """What an estimator has to do with scikit-learn's own of the same name, and how it shows itself in a notebook."""

    #: scikit-learn's own class.
    _theirs: ClassVar[Any]

    weights_: AnyArray
    means_: AnyArray
    precisions_cholesky_: AnyArray
    lower_bound_: float
    lower_bounds_: list[float]
    remaining_gain_: float
    #: `covariance_type` of the fit: the parameter may have been set since.
    _fitted_type: str
    #: What is done to rows before they are fitted.
    _transform: Transform | None = None

    @classmethod
    def from_sklearn(cls, model: Any) -> Self:
        """Take over a model of scikit-learn's, fitted or not.

        Parameters
        ----------
        model : sklearn.mixture.GaussianMixture or sklearn.mixture.BayesianGaussianMixture
            Of the class of the same name.

        Returns
        -------
        GaussianMixture or BayesianGaussianMixture
            With the same parameters and attributes.
        """
        if not isinstance(model, cls._theirs):
            raise InputError(f"expected scikit-learn's {cls._theirs.__name__}, not a {type(model).__name__}")
        new = cls(**{name: getattr(model, name) for name in cls._shared_names()})
        _copy_attributes(model, new)
        if hasattr(new, "converged_"):
            new._fitted_type = model.covariance_type
            new.remaining_gain_ = np.inf
            # arrays of one number for tied Bayesian mixtures
            new.lower_bound_ = float(np.ravel(model.lower_bound_)[0])
            new.lower_bounds_ = [float(np.ravel(value)[0]) for value in model.lower_bounds_]
        return new

    def to_sklearn(self) -> Any:
        """The same fitted model as one of scikit-learn's own, for everything that asks for that class.

        Returns
        -------
        sklearn.mixture.GaussianMixture or sklearn.mixture.BayesianGaussianMixture
            Of the least of scikit-learn's covariance types that has these covariances too.
        """
        check_is_fitted(self)
        if self._transform is not None:
            raise InputError(
                f"scikit-learn's mixture knows of no preprocessing ({self._transform.words}): hand it samples that "
                "preprocess_ has transformed, and fit it without"
            )
        model = self._plain(covariance_type=self._fitted_type)
        _copy_attributes(self, model, leave=("remaining_gain_", "selection_"))
        if self._fitted_type not in SCIKIT_LEARN:
            family = gaussian_family(self._fitted_type, "precisions")
            known = (gaussian_family(name, "precisions") for name in reversed(SCIKIT_LEARN))
            theirs = next(candidate for candidate in known if candidate.contains(family))
            own = components_of(family.name, self.means_, self.precisions_cholesky_)
            each = [theirs.factors(1, family.covariance(own, k)) for k in range(len(own.means))]
            model.covariance_type = theirs.name
            set_components(model, theirs, Gaussians(own.means, np.concatenate(each)), self.means_.dtype)
        return model

    @classmethod
    def _shared_names(cls) -> list[str]:
        return sorted(cls._theirs().get_params())

    def _plain(self, **changed: Any) -> Any:
        """scikit-learn's own, with the parameters that it knows."""
        known = {name: getattr(self, name) for name in self._shared_names()}
        return self._theirs(**{**known, **changed})

    def components_table(self) -> pd.DataFrame:
        """Weight, means and standard deviations of the components, a row for each.

        Returns
        -------
        pandas.DataFrame
            Columns ``weight`` and, for every feature, its ``mean`` and ``std``.
        """
        check_is_fitted(self)
        components = components_of(self._fitted_type, self.means_, self.precisions_cholesky_)
        mixture = Mixture(get_family(self._fitted_type), self.weights_, components, transform=self._transform)
        d, means, variances = mixture.n_inputs, mixture.physical_means, mixture.physical_variances
        names = [str(name) for name in getattr(self, "feature_names_in_", [f"x{i}" for i in range(d)])]
        columns: dict[tuple[str, str], AnyArray] = {("", "weight"): self.weights_}
        for i, name in enumerate(names):
            columns[name, "mean"], columns[name, "std"] = means[:, i], np.sqrt(variances[:, i])
        table = pd.DataFrame(columns)
        table.index.name = "component"
        return table

    def _html_repr(self) -> str:
        """scikit-learn's representation, and a table of the components of a fitted model."""
        html: str = super()._html_repr()  # type: ignore[misc]
        if not hasattr(self, "converged_"):
            return html
        table = self.components_table()
        k, d = len(table), (len(table.columns) - 1) // 2
        left_out = [f"{k - SHOWN_COMPONENTS} more components"] * (k > SHOWN_COMPONENTS)
        left_out += [f"{d - SHOWN_FEATURES} more features"] * (d > SHOWN_FEATURES)
        shown = table.iloc[:SHOWN_COMPONENTS, : 1 + 2 * SHOWN_FEATURES]
        note = f"<p>and {' and '.join(left_out)}</p>" if left_out else ""
        return f"{html}<div>{shown.to_html(float_format='{:.4g}'.format, border=0)}{note}</div>"


def _copy_attributes(source: Any, target: Any, leave: Sequence[str] = ()) -> None:
    """What fitting has set."""
    for name, value in vars(source).items():
        if name.endswith("_") and not name.startswith("_") and name not in leave:
            setattr(target, name, value)


def components_of(covariance_type: str, means: AnyArray, precisions_cholesky: AnyArray) -> Gaussians:
    """Components from scikit-learn's attributes."""
    family = gaussian_family(covariance_type, "precisions")
    factors = family.factors_from_roots(np.asarray(precisions_cholesky, dtype=float))
    return Gaussians(np.array(means, dtype=float), factors)


def set_components(model: Any, family: GaussianFamily, components: Gaussians, dtype: np.dtype[Any]) -> None:
    """Set scikit-learn's attributes to components in the data's units."""
    found = {
        "means_": components.means,
        "covariances_": family.covariances(components),
        "precisions_cholesky_": family.roots_of_precisions(components),
        "precisions_": family.precisions(components),
    }
    for name, values in found.items():
        setattr(model, name, values.astype(dtype))


def mixture_of(covariance_type: str, weights: AnyArray, means: AnyArray, precisions_cholesky: AnyArray) -> Mixture:
    """A mixture from scikit-learn's attributes; the weights as they are."""
    components = components_of(covariance_type, means, precisions_cholesky)
    return Mixture(get_family(covariance_type), np.maximum(np.asarray(weights, dtype=float), LEAST_WEIGHT), components)


def change_rule(tol: float, unit: float, before: float, *, accelerated: bool = False) -> Callable[[Any], bool]:
    """scikit-learn's rule: stop when the lower bound changes by less than tol.

    Parameters
    ----------
    tol : float
    unit : float
        What trajectories are divided by.
    before : float
        The lower bound before the first evaluation, maybe of other data: the first value alone is held against it.
    accelerated : bool
        Points may be tried that are rejected: what counts is by how much the best one rises.
    """

    def stop(start: Start) -> bool:
        *earlier, last = (value / unit for value in start.trajectory)
        if accelerated:
            return 0 <= last - max(earlier, default=before) < tol
        return abs(last - (earlier[-1] if earlier else before)) < tol

    return stop
