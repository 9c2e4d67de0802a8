"""What the workers of a fit need of memory, before there are any: mixtures of the sizes to come, on no data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dgmm.data import Samples, transformed
from dgmm.engine import Leaf, Projection, projected_bytes
from dgmm.families import Frame, FrameKind, Moments, Noise, get_family, make_frame
from dgmm.fits import One, Search, Training
from dgmm.mixture import Mixture
from dgmm.passes import leaves_for
from dgmm.search import BUDGETS, Candidate, grounds_for
from dgmm.transform import Transform


def projection_of(samples: Samples, asked: One | Search, options: Training) -> Projection:
    """What a worker needs to fit one mixture or a grid; it is found when it is asked for."""
    if isinstance(asked, Search):
        candidates = [Candidate(k, kind) for kind in asked.covariance_type for k in asked.n_components]
    else:
        candidates = [Candidate(asked.number(samples.labels), asked.covariance_type)]

    def need(threads_per_worker: int, n_threads: int) -> int:
        view, threads = view_of(samples, options), (threads_per_worker, n_threads)
        needed = projected_bytes(view, leaves_of(view, candidates, options), *threads)
        if view is samples:
            return needed
        return max(needed, projected_bytes(samples, leaves_of(samples, [], options), *threads))

    return need


def view_of(samples: Samples, options: Training) -> Samples:
    """Samples as they will be fitted, as far as memory is concerned: with as many principal components as there may be.

    Of a share of the variance that is the number of features; what passes need is found once it is known.
    """
    asked, d = options.preprocess, samples.n_features
    if asked is None or samples.in_memory:
        return samples
    unknown = asked.pca is not None and (asked.pca < 1 or asked.pca_of == "variable")
    matrix = np.ones(d) if asked.pca is None else np.ones((d, d if unknown else min(d, int(asked.pca))))
    return transformed(samples, Transform(samples.features, (), np.zeros(d), matrix))


def leaves_of(samples: Samples, candidates: Sequence[Candidate], options: Training) -> list[Leaf[Any]]:
    """The passes of a fit of candidates: all of them at once, and what may be better than each."""
    d = samples.n_features
    moments = Moments(1.0, np.zeros(d), np.eye(d))

    def frame(kind: FrameKind) -> Frame:
        return make_frame(kind, moments.mean, moments.covariance)

    grounds = grounds_for(candidates, moments, frame, options.reg_covar)
    mixtures = []
    for c in candidates:
        family, ground = get_family(c.covariance_type), grounds[c.covariance_type]
        components = family.spread(c.n_components, ground.moments, ground.floor)
        made = Mixture(family, np.full(c.n_components, 1 / c.n_components), components)
        mixtures.append(made.beside(Noise.between(0.5, np.zeros(d), np.ones(d)) if options.noise else None))
    # where it stands, and what a round of moves proposes
    rivals = 1 if not options.searches else 2 + BUDGETS[options.search].pairs
    together = [mixtures, *([m] * rivals for m in mixtures)]
    return leaves_for(samples, options, together, frame, options.worst_rows)
