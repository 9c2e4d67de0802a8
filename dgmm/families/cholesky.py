"""Cholesky factors of covariances: of what they are made, as vectors, and what to say where there is none."""

from __future__ import annotations

from functools import cache

import numpy as np

from dgmm.errors import CollapseError, InputError
from dgmm.types import FloatArray, IntArray

#: Asymmetry of a precision, as a share of the product of its diagonal's roots, that counts as rounding.
ASYMMETRY = 1e-6


@cache
def lower_triangle(d: int) -> tuple[IntArray, IntArray]:
    """Rows and columns of a matrix (d, d) on and below its diagonal."""
    rows, columns = np.tril_indices(d)
    return rows, columns


def cholesky(covariances: FloatArray, counts: FloatArray, total: float) -> FloatArray:
    """Cholesky factors of a stack (K, d, d), or (1, d, d) that all share; says which collapsed if one is singular."""
    try:
        return np.linalg.cholesky(covariances)
    except np.linalg.LinAlgError:
        if len(covariances) < len(counts):
            raise all_collapsed(len(counts)) from None
        for k, covariance in enumerate(covariances):
            try:
                np.linalg.cholesky(covariance)
            except np.linalg.LinAlgError:
                raise collapsed(k, counts, total) from None
        raise


def collapsed(component: int, counts: FloatArray, total: float) -> CollapseError:
    """The error that names a collapsed component and what to do."""
    return CollapseError(
        f"component {component} collapsed: its covariance is singular with {counts[component]:.3g} of "
        f"{total:.6g} samples; lower n_components ({len(counts)}) or raise reg_covar",
        (component,),
    )


def all_collapsed(n_components: int) -> CollapseError:
    """The same of components that share a covariance."""
    return CollapseError(
        f"all components collapsed: the covariance that they share is singular; lower n_components ({n_components}) "
        "or raise reg_covar",
        tuple(range(n_components)),
    )


def log_diagonal(factors: FloatArray) -> FloatArray:
    """Sum of the logarithms of the diagonals of a stack (..., d, d)."""
    return np.log(np.diagonal(factors, axis1=-2, axis2=-1)).sum(axis=-1)


def log_cholesky(factors: FloatArray) -> FloatArray:
    """Lower triangles of a stack (K, d, d) as one vector, the diagonal as logarithms."""
    rows, columns = lower_triangle(factors.shape[-1])
    packed = factors[:, rows, columns]
    packed[:, rows == columns] = np.log(packed[:, rows == columns])
    return packed.ravel()


def exp_cholesky(vector: FloatArray, k: int, d: int) -> FloatArray:
    """Inverse of `log_cholesky`, shape (K, d, d)."""
    rows, columns = lower_triangle(d)
    packed = vector.reshape(k, -1).copy()
    packed[:, rows == columns] = np.exp(packed[:, rows == columns])
    factors = np.zeros((k, d, d))
    factors[:, rows, columns] = packed
    return factors


def factor_of_precision(precision: FloatArray, name: str) -> FloatArray:
    """Lower Cholesky factor of the inverse of a precision (d, d); `InputError` where it has none."""
    wrong = f"{name} is not symmetric positive definite ({{}}): give the inverse of a covariance"
    size = np.sqrt(np.abs(np.diagonal(precision)))
    if (np.abs(precision - precision.T) > ASYMMETRY * np.outer(size, size)).any():
        raise InputError(wrong.format("it is not symmetric"))
    try:
        # rows and columns reversed, twice: P = U U', and inv(U)' is the lower triangular factor of the inverse
        upper = np.linalg.cholesky(precision[::-1, ::-1])[::-1, ::-1]
    except np.linalg.LinAlgError:
        smallest = np.linalg.eigvalsh(precision)[0]
        raise InputError(wrong.format(f"its smallest eigenvalue is {smallest:.3g}")) from None
    return np.linalg.inv(upper).T


def lower_factor(roots: FloatArray) -> FloatArray:
    """Lower triangular L (..., m, m), positive diagonal, with ``L L' = R R'`` for R (..., m, d) unsquared."""
    lower = np.swapaxes(np.linalg.qr(np.swapaxes(roots, -1, -2), mode="r"), -1, -2)
    signs = np.where(np.diagonal(lower, axis1=-2, axis2=-1) < 0, -1.0, 1.0)
    return np.tril(lower * signs[..., None, :])
