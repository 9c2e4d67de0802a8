"""scikit-learn's own tests of its mixtures, as installed, with our classes in the place of theirs."""

import inspect
import itertools
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import sklearn.mixture.tests.test_bayesian_mixture as of_bayesian
import sklearn.mixture.tests.test_gaussian_mixture as of_gaussian
import sklearn.mixture.tests.test_mixture as of_both
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import check_classifiers_classes, parametrize_with_checks

import dgmm

PRIVATE = "calls private functions of scikit-learn's, not the class"
ARRAY_API = "array API input, which is not supported"
#: Left out, and why. Everything else that is there must pass.
LEFT_OUT = {
    "test_suffstat_sk_full": PRIVATE,
    "test_suffstat_sk_tied": PRIVATE,
    "test_suffstat_sk_diag": PRIVATE,
    "test_gaussian_suffstat_sk_spherical": PRIVATE,
    "test_compute_log_det_cholesky": PRIVATE,
    "test_gaussian_mixture_log_probabilities": PRIVATE,
    "test_gaussian_mixture_precisions_init": PRIVATE,
    "test_gaussian_mixture_all_init_does_not_estimate_gaussian_parameters": "counts calls of a private function",
    "test_gaussian_mixture_fit_convergence_warning": "compares a sentence: ours has numbers in it",
    "test_gaussian_mixture_setting_best_params": "one sample, reg_covar=0: goes on with what rounding leaves of zero",
    "test_gaussian_mixture_array_api_compliance": ARRAY_API,
    "test_gaussian_mixture_raises_where_array_api_not_implemented": ARRAY_API,
    "test_log_dirichlet_norm": PRIVATE,
    "test_log_wishart_norm": PRIVATE,
    "test_compare_covar_type": "calls private methods in the place of fit",
}
#: Values for the fixtures of scikit-learn's own configuration.
FIXTURES = {"global_dtype": [np.float32, np.float64], "global_random_seed": [42]}


#: What rounding may take from a mean log density: a start in a stack of several is rounded otherwise than one alone,
#: and a processor's matrix product otherwise than another's.
ROUNDING = 1e-12


class Rounded(float):
    """A number that is not less than another for the sake of its last digits."""

    def __ge__(self, other: float) -> bool:
        return float(self) >= other - ROUNDING * abs(other)


def rounded_bound(model: Any) -> Rounded:
    """The lower bound as it is, but for such comparisons."""
    try:
        return Rounded(vars(model)["lower_bound_"])
    except KeyError:
        raise AttributeError("lower_bound_") from None


def cases() -> Iterator[Any]:
    """Every test of the modules with every set of arguments it is parametrised with."""
    for module in (of_gaussian, of_bayesian, of_both):
        for name, function in vars(module).items():
            if not name.startswith("test_") or name in LEFT_OUT:
                continue
            wanted = list(inspect.signature(function).parameters)
            choices: list[list[dict[str, Any]]] = [
                [{fixture: value} for value in FIXTURES[fixture]] for fixture in wanted if fixture in FIXTURES
            ]
            for mark in getattr(function, "pytestmark", []):
                if mark.name == "parametrize":
                    names = [n.strip() for n in mark.args[0].split(",")]
                    rows = [value if len(names) > 1 else (value,) for value in mark.args[1]]
                    choices.append([dict(zip(names, row, strict=True)) for row in rows])
            for i, chosen in enumerate(itertools.product(*choices)):
                arguments = {key: value for part in chosen for key, value in part.items()}
                assert set(arguments) == set(wanted), name
                yield pytest.param(module, name, arguments, id=f"{module.__name__.split('_')[-2]}-{name}-{i}")


@pytest.mark.parametrize(("module", "name", "arguments"), list(cases()))
def test_of_scikit_learn(
    module: ModuleType, name: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name_of_ours in ("GaussianMixture", "BayesianGaussianMixture"):
        ours = getattr(dgmm, name_of_ours)
        if hasattr(module, name_of_ours):
            monkeypatch.setattr(module, name_of_ours, ours)
        # more starts, or iterations, are not worse: as far as rounding tells
        monkeypatch.setattr(ours, "score", lambda self, *given, _score=ours.score: Rounded(_score(self, *given)))
        bound = property(rounded_bound, lambda self, value: vars(self).update(lower_bound_=value))
        monkeypatch.setattr(ours, "lower_bound_", bound, raising=False)
    if "estimator" in arguments:
        arguments = {"estimator": getattr(dgmm, type(arguments["estimator"]).__name__)()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        getattr(module, name)(**arguments)


def test_only_the_last_digits_are_forgiven() -> None:
    assert Rounded(-6.558315542725118) >= -6.558315542725117
    assert not Rounded(-6.558315542735) >= -6.558315542725


def test_what_is_left_out_is_there() -> None:
    known = {name for module in (of_gaussian, of_bayesian) for name in vars(module)}
    assert set(LEFT_OUT) <= known


@parametrize_with_checks([dgmm.GaussianMixture(), dgmm.BayesianGaussianMixture()])
def test_checks_of_estimators(estimator: Any, check: Any) -> None:
    check(estimator)


UNKNOWN = "one of its classes is called -1, which is unknown in semi-supervised learning"
FEWER_ROWS = "fewer rows than features, which have no covariance of full rank"


def left_out_of(classifier: dgmm.GaussianMixtureClassifier) -> dict[str, str]:
    """Checks that it cannot pass, and why."""
    few = ("check_sample_weight_equivalence_on_dense_data", "check_classifiers_one_label_sample_weights")
    return {
        "check_classifiers_classes": UNKNOWN,
        **({} if classifier.covariance_type == "diag" else dict.fromkeys(few, FEWER_ROWS)),
    }


CLASSIFIERS = [dgmm.GaussianMixtureClassifier(), dgmm.GaussianMixtureClassifier(covariance_type="diag")]


# of a handful of rows
@pytest.mark.filterwarnings("ignore:collapsed.*too few samples:sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(CLASSIFIERS, expected_failed_checks=left_out_of, xfail_strict=True)
def test_checks_of_the_classifier(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_classes_of_the_classifier_but_for_the_unknown(classifier: dgmm.GaussianMixtureClassifier) -> None:
    """As scikit-learn checks its own semi-supervised ones, by their names."""
    check_classifiers_classes("LabelPropagation", classifier)
