"""scikit-learn's faces: two mixtures and a classifier on data of any size, with scores in what held the samples.

What holds samples (NumPy, Dask, Zarr, xarray) is told apart here; fits are those of the rest of the library, with
scikit-learn's parameters, attributes and rules of stopping.
"""

from dgmm.estimators.bayesian import BayesianGaussianMixture
from dgmm.estimators.classifier import GaussianMixtureClassifier
from dgmm.estimators.gaussian import GaussianMixture

__all__ = [
    "BayesianGaussianMixture",
    "GaussianMixture",
    "GaussianMixtureClassifier",
]
