"""The E-step over a block of samples: sufficient statistics, or scores sample by sample.

The features of the Gaussian families are compiled into `dgmm.kernel`; those of any other go through the same two
products slice by slice in NumPy, which is also the oracle of the compiled form.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dgmm import kernel
from dgmm.errors import InputError
from dgmm.families.gaussian import CHAIN
from dgmm.plan import PANEL, Plan, frozen
from dgmm.statistics import SufficientStatistics
from dgmm.types import AnyArray, FloatArray, IntArray

#: Bytes of samples that are converted to double precision at a time.
CONVERTED_BYTES = 2**20
#: Where the plain form's exponential is cut off, well away from denormal numbers.
LOWEST_EXPONENT = -700.0


@dataclass(frozen=True)
class PassTotals:
    """What one pass adds up, for all mixtures of a plan; the value that travels through the reduction tree.

    Attributes
    ----------
    count : float
        Number of samples (the sum of their weights).
    log_likelihoods : ndarray, shape (candidates,)
    sums : tuple of ndarray
        Per product of the plan, shape (rows, P).
    held_out : ndarray, shape (candidates,)
        Log-likelihoods of samples that are in nothing else here.
    squares : ndarray, shape (components of all candidates,)
        Sums of the responsibilities times the squares of the weights; NaN where there are no weights.
    """

    count: float
    log_likelihoods: FloatArray
    sums: tuple[FloatArray, ...]
    held_out: FloatArray | float = np.nan
    squares: FloatArray | float = np.nan

    def merge(self, other: PassTotals) -> PassTotals:
        """Totals of both."""
        sums = tuple(a + b for a, b in zip(self.sums, other.sums, strict=True))
        return PassTotals(
            self.count + other.count,
            self.log_likelihoods + other.log_likelihoods,
            sums,
            self.held_out + other.held_out,
            self.squares + other.squares,
        )


@dataclass(frozen=True)
class Scores:
    """What a mixture says of every sample.

    Attributes
    ----------
    label : ndarray of int, shape (n,)
        The most probable component.
    probability : ndarray, shape (n,)
        Its probability.
    log_density : ndarray, shape (n,)
    probabilities : ndarray, shape (n, K) or (0, K)
        Of all components, if asked for.
    """

    label: IntArray
    probability: FloatArray
    log_density: FloatArray
    probabilities: FloatArray


def is_compiled(plan: Plan) -> bool:
    """Whether the compiled kernel knows the features of all stacks."""
    return all(stack.features.chain == CHAIN for stack in plan.stacks)


_memory = threading.local()


def memory_for(plan: Plan) -> kernel.Buffers:
    """The buffers of this thread, made anew where the last plan's do not fit."""
    panels = plan.packed.panels
    widest = int((panels[:, 4] - panels[:, 3]).max())
    shape = len(plan.stacks), len(plan.origin), plan.n_rows, widest, plan.width, plan.dtype
    if getattr(_memory, "shape", None) != shape:
        _memory.buffers, _memory.shape = kernel.buffers(*shape), shape
    buffers: kernel.Buffers = _memory.buffers
    return buffers


def blocks(x: AnyArray, plan: Plan) -> Iterator[tuple[slice, AnyArray]]:
    """Samples as the kernel takes them: rows one after the other, float32 as it is and anything else float64.

    What has to be converted for that comes in blocks of whole slices, so that there is never much of it twice, and
    sums have the same bits as if it had come as one.
    """
    if x.ndim != 2 or x.shape[1] != len(plan.origin):
        raise InputError(f"expected samples of shape (n, {len(plan.origin)}), not {x.shape}")
    dtype = np.dtype(np.float32 if x.dtype == np.float32 else np.float64)
    whole = x.dtype == dtype and x.flags.c_contiguous
    length = max(len(x), 1) if whole else max(1, CONVERTED_BYTES // (8 * x.shape[1] * plan.width)) * plan.width
    for start in range(0, max(len(x), 1), length):
        place = slice(start, min(start + length, len(x)))
        yield place, frozen(np.ascontiguousarray(x[place], dtype=dtype))


def buffer_bytes(plan: Plan) -> int:
    """Bytes of the buffers of one thread, and of a block that is converted, for any samples."""
    d, n = len(plan.origin), plan.n_rows
    lines = d + len(plan.stacks) * d + n + 3 + 2 * (d + 1)
    in_products = min(PANEL, max(stack.size for stack in plan.stacks)) + n * (plan.dtype.itemsize < 8)
    return plan.width * (8 * lines + plan.dtype.itemsize * in_products) + max(CONVERTED_BYTES, 8 * d * plan.width)


def accumulate_samples(x: AnyArray, plan: Plan, weights: FloatArray | None = None) -> PassTotals:
    """E-step of all mixtures of a plan over samples.

    Parameters
    ----------
    x : ndarray, shape (n, d)
        Of any real dtype, without missing values.
    plan : Plan
    weights : ndarray, shape (n,), optional
        Of the samples: of the order of one, for what counts as nothing is told by size.
    """
    if not is_compiled(plan):
        return accumulate_plainly(x, plan, weights)
    p = plan.packed
    log_likelihoods, flat, squares = np.zeros(len(plan.candidates)), np.zeros(len(p.theta)), np.zeros(plan.n_rows)
    for place, block in blocks(x, plan):
        kernel.accumulate(
            block, frozen(np.empty(0) if weights is None else np.ascontiguousarray(weights[place], dtype=np.float64)),
            frozen(plan.origin), p.shifts, p.forwards, p.diagonals, p.panels, p.theta, p.candidates, plan.width,
            memory_for(plan), log_likelihoods, flat, squares,
        )  # fmt: skip
    sums = {product.rows.start: np.zeros_like(product.theta) for product in plan.products}
    for _, start, stop, first, last, offset in p.panels.tolist():
        part = flat[offset : offset + (stop - start) * (last - first)]
        sums[start][:, first:last] = part.reshape(stop - start, last - first)
    return PassTotals(
        float(len(x) if weights is None else weights.sum()),
        log_likelihoods,
        tuple(sums[product.rows.start] for product in plan.products),
        squares=np.nan if weights is None else squares,
    )


def score_samples(x: AnyArray, plan: Plan, *, probabilities: bool = False) -> Scores:
    """Scores of the rows of ``x``, shape (n, d), no missing values, by the one mixture of a plan."""
    n, k = len(x), plan.n_rows
    scores = Scores(np.empty(n, dtype=np.int64), np.empty(n), np.empty(n), np.empty((n if probabilities else 0, k)))
    if is_compiled(plan):
        p = plan.packed
        for place, block in blocks(x, plan):
            kernel.score(
                block, frozen(plan.origin), p.shifts, p.forwards, p.diagonals, p.panels, p.theta, k, plan.width,
                memory_for(plan), scores.label[place], scores.probability[place], scores.log_density[place],
                scores.probabilities[place],
            )  # fmt: skip
        return scores
    for place, joint, _ in plain_slices(x, plan):
        top = joint.max(axis=0)
        scores.label[place] = joint.argmax(axis=0)
        joint = np.exp(joint - top)
        total = joint.sum(axis=0)
        scores.probability[place], scores.log_density[place] = 1 / total, top + np.log(total)
        if probabilities:
            scores.probabilities[place] = (joint / total).T
    return scores


def plain_slices(x: AnyArray, plan: Plan) -> Iterator[tuple[slice, FloatArray, list[FloatArray]]]:
    """Slices of samples with their log joint densities (rows, n) and the features of every stack."""
    for start in range(0, len(x), plan.width):
        place = slice(start, min(start + plan.width, len(x)))
        centred = x[place].T - plan.origin[:, None]
        joint = np.empty((plan.n_rows, centred.shape[1]))
        features: list[FloatArray] = []
        for stack in plan.stacks:
            y = centred if stack.shift is None else centred - stack.shift[:, None]
            y = stack.forward @ y if stack.forward.ndim == 2 else stack.forward[:, None] * y
            phi = np.empty((stack.size, y.shape[1]))
            stack.features.fill(y, phi)
            for product in stack.products:
                joint[product.rows] = product.theta @ phi[: product.theta.shape[1]]
            features.append(phi)
        yield place, joint, features


def accumulate_plainly(x: AnyArray, plan: Plan, weights: FloatArray | None = None) -> PassTotals:
    """`accumulate_samples` in NumPy, for any features."""
    given, weights = weights, np.ones(len(x)) if weights is None else weights
    log_likelihoods = np.zeros(len(plan.candidates))
    sums, squares = [np.zeros_like(p.theta) for p in plan.products], np.zeros(plan.n_rows)
    for part, joint, features in plain_slices(x, plan):
        for c, rows in enumerate(plan.candidates):
            log_likelihoods[c] += normalise(joint[rows], weights[part])
        squares += joint @ weights[part]
        places = iter(sums)
        for stack, phi in zip(plan.stacks, features, strict=True):
            for product in stack.products:
                place = next(places)
                place += joint[product.rows] @ phi[: product.theta.shape[1]].T
    return PassTotals(float(weights.sum()), log_likelihoods, tuple(sums), squares=np.nan if given is None else squares)


def normalise(joint: FloatArray, weights: FloatArray) -> float:
    """Turn log joint densities (K, n) into weighted responsibilities; returns the weighted sum of log densities."""
    top = joint.max(axis=0)
    joint -= top
    np.maximum(joint, LOWEST_EXPONENT, out=joint)
    np.exp(joint, out=joint)
    total = joint.sum(axis=0)
    joint *= weights / total
    return float((weights * (np.log(total) + top)).sum())


def unpack(totals: PassTotals, plan: Plan) -> list[SufficientStatistics]:
    """Statistics of each mixture, in the order in which the plan was given them.

    The responsibilities' entropy comes for free: log joint densities are linear in the features, so that their
    expectation is that of the features, the sums, times theta.
    """
    rows: list[FloatArray] = [np.empty(0)] * plan.n_rows
    expected = np.empty(plan.n_rows)
    for product, sums in zip(plan.products, totals.sums, strict=True):
        expected[product.rows] = np.einsum("kp,kp->k", product.theta, sums)
        for row, values in zip(range(product.rows.start, product.rows.stop), sums, strict=True):
            rows[row] = values
    local, squares = np.array(plan.local), np.broadcast_to(totals.squares, plan.n_rows)
    held_out = np.broadcast_to(totals.held_out, totals.log_likelihoods.shape).tolist()
    return [
        SufficientStatistics(
            log_likelihood,
            totals.count,
            np.array(rows[c]),
            local[c],
            max(log_likelihood - float(expected[c].sum()), 0.0),
            held,
            squares[c],
        )
        for c, log_likelihood, held in zip(plan.candidates, totals.log_likelihoods.tolist(), held_out, strict=True)
    ]
