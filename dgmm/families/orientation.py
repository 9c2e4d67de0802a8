"""Square roots of covariances (K, d, d), and axes that several of them share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dgmm.types import FloatArray

#: How many nats of a sample, and per radian of a turn, a search for common axes leaves undecided.
VALUE, SLOPE = 1e-15, 1e-10
#: Turns that it tries, at most.
TURNS = 500
#: Less than any variance of samples in a frame: logarithms stay finite.
TINY = 1e-300

#: Given the variances (K, d) along some axes: what the covariances cost, and the derivatives by the variances.
Cost = Callable[[FloatArray], tuple[float, FloatArray]]


def lower_factors(roots: FloatArray) -> FloatArray:
    """Lower Cholesky factors (..., d, d) of ``R R'``, of any square roots R (..., d, m)."""
    upper = np.linalg.qr(np.swapaxes(roots, -1, -2), mode="r")
    signs = np.where(np.diagonal(upper, axis1=-2, axis2=-1) < 0, -1.0, 1.0)
    # in one order in memory, whose products have the same bits before and after storage
    return np.ascontiguousarray(np.swapaxes(upper * signs[..., :, None], -1, -2))


def symmetric_roots(covariances: FloatArray) -> FloatArray:
    """Square roots (K, d, d) of covariances that may be singular."""
    values, vectors = np.linalg.eigh(covariances)
    return vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]


def principal(roots: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Axes (K, d, d), one a column, and variances (K, d) along them, the largest first."""
    axes, deviations, _ = np.linalg.svd(roots)
    return axes, deviations**2


def common_axes(roots: FloatArray, starts: FloatArray, cost: Cost) -> FloatArray:
    """Axes (d, d), one a column, along which covariances cost least, from the best of some starts.

    Turns are taken in Cayley's coordinates, ``(I - X/2)^-1 (I + X/2)`` with antisymmetric X, by a quasi-Newton method.

    Parameters
    ----------
    roots : ndarray, shape (K, d, d)
        Square roots of the covariances.
    starts : ndarray, shape (starts, d, d)
    cost : callable
    """
    # here alone, and not in workers: 14 MiB
    from scipy.optimize import minimize

    d = roots.shape[1]
    costs = [cost(variances_along(axes, roots))[0] for axes in starts]
    first = int(np.argmin(costs))
    start, one = starts[first], np.eye(d)
    if d == 1:
        return start
    rows, columns = np.triu_indices(d, 1)

    def turned(x: FloatArray) -> tuple[FloatArray, FloatArray]:
        half = np.zeros((d, d))
        half[rows, columns], half[columns, rows] = 0.5 * x, -0.5 * x
        back = np.linalg.inv(one - half)
        return back @ (one + half), back

    def value(x: FloatArray) -> tuple[float, FloatArray]:
        turn, back = turned(x)
        along = np.swapaxes(roots, 1, 2) @ (start @ turn)
        found, slopes = cost((along**2).sum(axis=1))
        by_axes = 2 * (roots @ (along * slopes[:, None, :])).sum(axis=0)
        # d turn = back dX (I + turn) / 2
        by_x = 0.5 * back.T @ (start.T @ by_axes) @ (one + turn).T
        return found, by_x[rows, columns] - by_x[columns, rows]

    found = minimize(
        value,
        np.zeros(len(rows)),
        jac=True,
        method="L-BFGS-B",
        options={"ftol": VALUE, "gtol": SLOPE, "maxiter": TURNS},
    )
    axes: FloatArray = start @ turned(found.x)[0] if found.fun < costs[first] else start
    return axes


def variances_along(axes: FloatArray, roots: FloatArray) -> FloatArray:
    """Variances (K, d) along axes (d, d)."""
    return ((np.swapaxes(roots, 1, 2) @ axes) ** 2).sum(axis=1)
