"""Starts for EM: labels from k-means on the in-memory sample, turned into mixtures by one M-step."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from dgmm.em import Setting, maximise
from dgmm.families import Family
from dgmm.mixture import Mixture
from dgmm.statistics import SufficientStatistics
from dgmm.types import AnyArray, FloatArray

#: Lloyd steps after k-means++: EM does the rest.
LLOYD_STEPS = 20
#: A start's covariances hold this share of the data's, so that clusters of few rows begin with an extent.
START_FLOOR = 1e-2


def start_labels(x: FloatArray, whitened: FloatArray, n_components: int, n_init: int, seed: int) -> Iterator[AnyArray]:
    """Labels (n,) of ``n_init`` starts, by k-means++ and a few Lloyd steps.

    Starts alternate between standardised and whitened coordinates: neither finds every structure, clusters along
    the main directions of the data hide from the one and thin ones from the other.

    Parameters
    ----------
    x, whitened : ndarray, shape (n, d)
        The sample, standardised and whitened.
    n_components, n_init, seed : int
    """
    for i in range(n_init):
        state = np.random.SeedSequence([seed, n_components, i]).generate_state(1)[0]
        kmeans = KMeans(n_components, n_init=1, max_iter=LLOYD_STEPS, random_state=int(state), algorithm="lloyd")
        # its threads add up in whatever order they come: one of them, for the sake of reproducible starts
        with threadpool_limits(1), warnings.catch_warnings():
            # fewer distinct rows than components: EM finds that out and says so
            warnings.simplefilter("ignore", ConvergenceWarning)
            labels = kmeans.fit(x if i % 2 == 0 else whitened).labels_
        yield labels


def from_labels(family: Family, x: FloatArray, labels: AnyArray, n_components: int, setting: Setting) -> Mixture:
    """The mixture that one M-step makes of labelled rows.

    Parameters
    ----------
    family : Family
    x : ndarray, shape (n, d)
        In the data's units.
    labels : ndarray of int, shape (n,)
    n_components : int
    setting : Setting
        Of these rows.

    Returns
    -------
    Mixture
        In frame coordinates.
    """
    y = setting.frame.to_frame((x - setting.frame.origin).T)
    features = np.empty((family.features.size(len(y)), len(x)))
    family.features.fill(y, features)
    one_hot = np.zeros((n_components, len(x)))
    one_hot[labels, np.arange(len(x))] = 1.0
    statistics = SufficientStatistics(np.nan, float(len(x)), one_hot @ features.T, np.zeros(n_components, dtype=bool))
    floor = setting.floor + START_FLOOR * setting.moments.covariance
    blank = Mixture(
        family,
        np.full(n_components, 1 / n_components),
        family.spread(n_components, setting.moments, setting.floor),
    )
    return maximise(blank, statistics, replace(setting, floor=floor))


def one_component(family: Family, setting: Setting) -> Mixture:
    """The best single component, in closed form, in frame coordinates."""
    return Mixture(family, np.ones(1), family.spread(1, setting.moments, setting.floor))
