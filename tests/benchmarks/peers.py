"""EM iterations of others, from the same start: oneDAL and JAX, where they are installed (``dgmm[benchmark]``)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp

import dgmm

#: Rows of a slice in JAX: faster than more or fewer.
SLICE = 2000


@dataclass(frozen=True)
class Start:
    """Weights (K,), means (K, d) and covariances (K, d, d), or variances (K, d), to begin with."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    @classmethod
    def near(cls, centres: np.ndarray, kind: str) -> Start:
        """Unit components of equal weight, full or diag, not quite at the centres."""
        k, d = centres.shape
        means = centres + 0.1 * np.random.default_rng(1).standard_normal((k, d))
        return cls(np.full(k, 1 / k), means, np.ones((k, d)) if kind == "diag" else np.tile(np.eye(d), (k, 1, 1)))

    @property
    def kind(self) -> str:
        """The type of the covariances."""
        return "diag" if self.covariances.ndim == 2 else "full"

    @property
    def precisions(self) -> np.ndarray:
        """Inverse covariances, in their shape."""
        return 1 / self.covariances if self.kind == "diag" else np.linalg.inv(self.covariances)

    def log_likelihood(self, x: np.ndarray) -> float:
        """Mean log density of samples (n, d), from residuals."""
        whole = self.covariances if self.kind == "full" else self.covariances[:, :, None] * np.eye(x.shape[1])
        factors = np.linalg.cholesky(whole)
        joint = []
        for w, m, factor in zip(self.weights, self.means, factors, strict=True):
            distance = (np.linalg.solve(factor, (x - m).T) ** 2).sum(axis=0)
            joint.append(np.log(w) - 0.5 * (distance + x.shape[1] * np.log(2 * np.pi)) - np.log(np.diag(factor)).sum())
        return float(logsumexp(joint, axis=0).mean())


#: So many iterations of EM from a start: what it has become.
Climb = Callable[[np.ndarray, Start, int], Start]


def ours(x: np.ndarray, start: Start, iterations: int) -> Start:
    """`dgmm.GaussianMixture`, without acceleration."""
    model = dgmm.GaussianMixture(
        len(start.weights), covariance_type=start.kind, max_iter=iterations, tol=0.0, reg_covar=0.0,
        weights_init=start.weights, means_init=start.means, precisions_init=start.precisions,
    )  # fmt: skip
    model.fit(x)
    return Start(model.weights_, model.means_, model.covariances_)


def onedal() -> Climb | None:
    """oneDAL's ``em_gmm``, on all cores."""
    try:
        import daal4py
    except ImportError:
        return None
    daal4py.daalinit(os.cpu_count())

    def climb(x: np.ndarray, start: Start, iterations: int) -> Start:
        diag = start.kind == "diag"
        algorithm = daal4py.em_gmm(
            nComponents=len(start.weights), maxIterations=iterations, accuracyThreshold=0.0,
            covarianceStorage="diagonal" if diag else "full",
        )  # fmt: skip
        given = [variances[None] for variances in start.covariances] if diag else list(start.covariances)
        found = algorithm.compute(x, start.weights[None], start.means, given)
        together = np.concatenate if diag else np.stack
        return Start(found.weights.ravel(), found.means, together(found.covariances))

    return climb


def jax() -> Climb | None:
    """The same features in JAX, slice by slice, as short as it can be written."""
    try:
        import jax
    except ImportError:
        return None
    jax.config.update("jax_enable_x64", True)
    np_, linear = jax.numpy, jax.numpy.linalg

    def pairs(covariances: Any) -> tuple[np.ndarray, np.ndarray]:
        d = covariances.shape[1]
        return (np.arange(d), np.arange(d)) if covariances.ndim == 2 else np.triu_indices(d)

    def features(x: Any, a: np.ndarray, b: np.ndarray) -> Any:
        return np_.concatenate([np_.ones((len(x), 1)), x, x[:, a] * x[:, b]], axis=1)

    def exponents(weights: Any, means: Any, covariances: Any) -> Any:
        d, (a, b) = means.shape[1], pairs(covariances)
        precisions = linear.inv(covariances if covariances.ndim == 3 else jax.vmap(np_.diag)(covariances))
        away = np_.einsum("kij,kj->ki", precisions, means)
        constant = np_.log(weights) + 0.5 * (linear.slogdet(precisions)[1] - (away * means).sum(axis=1))
        second = -precisions[:, a, b] * np.where(a == b, 0.5, 1.0)
        return np_.concatenate([(constant - 0.5 * d * np.log(2 * np.pi))[:, None], away, second], axis=1)

    def iteration(x: Any, weights: Any, means: Any, covariances: Any) -> Any:
        theta, d, (a, b) = exponents(weights, means, covariances), x.shape[1], pairs(covariances)

        def add(sums: Any, some: Any) -> Any:
            phi = features(some, a, b)
            joint = phi @ theta.T
            return sums + np_.exp(joint - jax.scipy.special.logsumexp(joint, axis=1, keepdims=True)).T @ phi, None

        whole = x[: len(x) // SLICE * SLICE].reshape(-1, SLICE, d)
        sums, _ = jax.lax.scan(add, np_.zeros_like(theta), whole)
        sums, _ = add(sums, x[len(x) // SLICE * SLICE :])
        counts = sums[:, 0]
        means, pair_means = (sums[:, some] / counts[:, None] for some in (slice(1, 1 + d), slice(1 + d, None)))
        central = pair_means - means[:, a] * means[:, b]
        if covariances.ndim == 3:
            central = np_.zeros((len(means), d, d)).at[:, a, b].set(central).at[:, b, a].set(central)
        return counts / len(x), means, central

    step = jax.jit(iteration)
    held: dict[int, Any] = {}

    def climb(x: np.ndarray, start: Start, iterations: int) -> Start:
        if id(x) not in held:
            held.clear()
            held[id(x)] = jax.device_put(x)
        now = start.weights, start.means, start.covariances
        for _ in range(iterations):
            now = step(held[id(x)], *now)
        return Start(*map(np.asarray, now))

    return climb
