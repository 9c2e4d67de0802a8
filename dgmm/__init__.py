"""Gaussian mixture models fitted, selected and applied straight from chunked arrays that do not fit in memory.

`train`, `select` and `score` take a Zarr store, an xarray object, a Dask or a NumPy array; `load` reads a model, and
`verify` says whether scores or a model are what was written.
`GaussianMixture` and `BayesianGaussianMixture` are scikit-learn's estimators on the same data, and
`GaussianMixtureClassifier` is one of samples whose classes are known, all or some.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dgmm.homes import from_homes

if TYPE_CHECKING:
    from dgmm import datasets, plot
    from dgmm.api import em_path, ingest, merge, predict, sample, score, select, train, update, verify
    from dgmm.errors import (
        CollapseError,
        DgmmError,
        InputError,
        InsufficientMemoryError,
        OutputExistsError,
        ReadError,
    )
    from dgmm.estimators import BayesianGaussianMixture, GaussianMixture, GaussianMixtureClassifier
    from dgmm.fits import Fit, Selection
    from dgmm.mixture import Mixture
    from dgmm.store import load, save

__version__ = "0.1.0"

__all__ = [
    "BayesianGaussianMixture",
    "CollapseError",
    "DgmmError",
    "Fit",
    "GaussianMixture",
    "GaussianMixtureClassifier",
    "InputError",
    "InsufficientMemoryError",
    "Mixture",
    "OutputExistsError",
    "ReadError",
    "Selection",
    "datasets",
    "em_path",
    "ingest",
    "load",
    "merge",
    "plot",
    "predict",
    "sample",
    "save",
    "score",
    "select",
    "train",
    "update",
    "verify",
]

_find = from_homes(
    __name__,
    {
        "api": ("em_path", "ingest", "merge", "predict", "sample", "score", "select", "train", "update", "verify"),
        "errors": (
            "CollapseError",
            "DgmmError",
            "InputError",
            "InsufficientMemoryError",
            "OutputExistsError",
            "ReadError",
        ),
        "estimators": ("BayesianGaussianMixture", "GaussianMixture", "GaussianMixtureClassifier"),
        "mixture": ("Mixture",),
        "fits": ("Fit", "Selection"),
        "store": ("load", "save"),
    },
)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def __getattr__(name: str) -> Any:
    """Import on first use: scikit-learn, zarr and xarray together take seconds."""
    return import_module(f"dgmm.{name}") if name in ("datasets", "plot") else _find(name)
