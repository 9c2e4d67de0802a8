"""The E-step as programs of JAX, which XLA compiles for a device: once for every shape of a plan and of its pieces.

Slices of a piece follow each other in a loop on the device, so that features are never there for more than one; as many
as have rows are gone through. Whoever imports this imports JAX.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dgmm.families import LOGARITHMIC_CHAIN

#: Of JAX; of NumPy, until it is sent to a device.
Array = Any

#: What is taken the logarithm of is no smaller, for the sake of values that cannot be.
LEAST = 1e-300
#: In single precision, too: nothing is rounded to the shorter numbers of tensor cores.
PRECISION = lax.Precision.HIGHEST
#: Rows whose sums are in single precision where products are: as many as in a slice of the compiled kernel.
TOGETHER = 2**8
#: The same bits every time: no sums in any order, and no choice among algorithms by how fast they were today.
EXACT = {"xla_gpu_deterministic_ops": True}


@dataclass(frozen=True)
class StackShape:
    """What of a stack a program is compiled for.

    Attributes
    ----------
    chain : str
    size : int
        Features.
    products : tuple of (int, int, int)
        First and last row of each, and its features; none where the stack is of components in coordinates of their own.
    """

    chain: str
    size: int
    products: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class Shape:
    """What of a plan, and of the rows, a program is compiled for.

    Attributes
    ----------
    width : int
        Rows of a slice.
    dtype : str
        Of the products.
    candidates : tuple of (int, int)
        First and last row of each mixture, in the order of the rows.
    stacks : tuple of StackShape
        Those in common coordinates; then sets of components in coordinates of their own.
    hard : bool
        Whether a row counts wholly for its most probable component.
    weighted : bool
        Whether sums of squares of weights are wanted.
    """

    width: int
    dtype: str
    candidates: tuple[tuple[int, int], ...]
    stacks: tuple[StackShape, ...]
    hard: bool = False
    weighted: bool = False


class Numbers(NamedTuple):
    """The numbers of a stack; of a set of components in coordinates of their own, one after the other."""

    origin: Array
    shift: Array | None
    forward: Array
    #: Of each product; of a set, of each component, (L, P).
    theta: tuple[Array, ...]


class PlanNumbers(NamedTuple):
    """The numbers of a plan."""

    stacks: tuple[Numbers, ...]
    #: The label whose rows each component may have.
    owners: Array
    links: Array | None
    #: Where each component is among what the stacks give, one after the other; None where that is their order.
    order: Array | None
    #: The components of each stack that is a set.
    own: tuple[Array | None, ...]


class Sums(NamedTuple):
    """What is added up: per product or set, shape (rows, P); the others as `PassTotals` has them."""

    log_likelihoods: Array
    products: tuple[tuple[Array, ...], ...]
    squares: Array
    hidden: Array


def coordinates(x: Array, origin: Array, shift: Array | None, forward: Array) -> Array:
    """``forward (x - origin - shift)`` of the columns of ``x`` (d, n)."""
    y = x - origin[:, None]
    y = y if shift is None else y - shift[:, None]
    return jnp.dot(forward, y, precision=PRECISION) if forward.ndim == 2 else forward[:, None] * y


def features(shape: StackShape, y: Array, dtype: str) -> Array:
    """The first features (P, n) of a chain, of the columns of ``y`` (d, n), in the order of `FeatureMap`."""
    (d, n), y = y.shape, y.astype(dtype)
    parts = [jnp.ones((1, n), dtype), y]
    if shape.size > d + 1:
        parts.append(jnp.log(jnp.maximum(y, LEAST)) if shape.chain == LOGARITHMIC_CHAIN else y * y)
    if shape.size > 2 * d + 1:
        i, j = np.triu_indices(d, 1)
        parts.append(y[i] * y[j])
    return jnp.concatenate(parts)[: shape.size]


def of_stack(shape: StackShape, numbers: Numbers, x: Array, dtype: str) -> tuple[list[Array], Array | None]:
    """Products (rows, n) of a stack, in double precision, and its features; none of those of a set."""
    if not shape.products:

        def one(its: Numbers) -> Array:
            phi = features(shape, coordinates(x, its.origin, its.shift, its.forward), dtype)
            return jnp.dot(its.theta[0], phi, precision=PRECISION)

        return [lax.map(one, numbers).astype(x.dtype)], None
    phi = features(shape, coordinates(x, numbers.origin, numbers.shift, numbers.forward), dtype)
    found = [
        jnp.dot(theta, phi[:size], precision=PRECISION).astype(x.dtype)
        for (_, _, size), theta in zip(shape.products, numbers.theta, strict=True)
    ]
    return found, phi


def log_joint(shape: Shape, plan: PlanNumbers, x: Array) -> tuple[Array, list[Array | None], Array | None]:
    """Log joint densities (rows, n) of the columns of ``x`` (d, n), and the features of the stacks.

    And ``log(1 + delta / nu)``, zero in rows without a link; None where no row has one.
    """
    parts: list[Array] = []
    phis: list[Array | None] = []
    for stack, numbers in zip(shape.stacks, plan.stacks, strict=True):
        found, phi = of_stack(stack, numbers, x, shape.dtype)
        parts += found
        phis.append(phi)
    joint = jnp.concatenate(parts)
    joint = joint if plan.order is None else joint[plan.order]
    if plan.links is None:
        return joint, phis, None
    peaks, degrees = plan.links[:, :1], plan.links[:, 1:]
    logs = jnp.log1p(jnp.maximum(-2 * joint, 0.0) / degrees)
    bent = peaks - 0.5 * (degrees + len(x)) * logs
    return jnp.where(jnp.isfinite(degrees), bent, joint), phis, logs


def share_out(joint: Array, weights: Array, hard: bool) -> tuple[Array, Array]:
    """Weighted responsibilities of log joint densities (K, n), and the weighted sum of what stands for the density."""
    top = joint.max(axis=0)
    if hard:
        best = joint.argmax(axis=0)
        return jnp.where(jnp.arange(len(joint))[:, None] == best, weights, 0.0), (weights * top).sum()
    shares, total = exponentials(joint, top)
    return shares * (weights / total), (weights * (top + jnp.log(total))).sum()


def exponentials(joint: Array, top: Array) -> tuple[Array, Array]:
    """Densities of log joint densities (K, n), as shares of the largest of each column, and their sums."""
    shares = jnp.exp(joint - top)
    return shares, shares.sum(axis=0)


def slice_of(shape: Shape, i: Array, array: Array) -> Array:
    """Slice number i of the last axis."""
    return lax.dynamic_slice_in_dim(array, i * shape.width, shape.width, axis=array.ndim - 1)


@partial(jax.jit, static_argnums=0, compiler_options=EXACT)
def accumulate(
    shape: Shape, plan: PlanNumbers, x: Array, weights: Array | None, labels: Array | None, n: Array, sums: Sums
) -> Sums:
    """Add to sums those of the first n columns of a piece ``x`` (d, columns), which are whole slices."""

    def add(i: Array, sums: Sums) -> Sums:
        some = slice_of(shape, i, x).astype(jnp.float64)
        there = i * shape.width + jnp.arange(shape.width) < n
        heavy = jnp.where(there, 1.0 if weights is None else slice_of(shape, i, weights), 0.0)
        joint, phis, logs = log_joint(shape, plan, some)
        if labels is not None:
            known = slice_of(shape, i, labels)
            joint = jnp.where((known >= 0) & (plan.owners[:, None] != known), -jnp.inf, joint)
        found = [share_out(joint[a:b], heavy, shape.hard) for a, b in shape.candidates]
        r = jnp.concatenate([shares for shares, _ in found])
        log_likelihoods = sums.log_likelihoods + jnp.stack([total for _, total in found])
        squares, hidden = sums.squares, sums.hidden
        if shape.weighted:
            squares += jnp.dot(r, heavy, precision=PRECISION)
        if logs is not None and plan.links is not None:
            hidden += jnp.stack([r.sum(axis=1), (r * logs).sum(axis=1)], axis=1)
            r *= (1 + len(some) / plan.links[:, 1:]) * jnp.exp(-logs)
        products = tuple(
            of_features(stack, numbers, phi, rows, some, r.astype(shape.dtype), before)
            for stack, numbers, phi, rows, before in zip(
                shape.stacks, plan.stacks, phis, plan.own, sums.products, strict=True
            )
        )
        return Sums(log_likelihoods, products, squares, hidden)

    return lax.fori_loop(0, (n + shape.width - 1) // shape.width, add, sums)


def of_features(
    shape: StackShape, numbers: Numbers, phi: Array | None, rows: Array | None, x: Array, r: Array,
    sums: tuple[Array, ...],
) -> tuple[Array, ...]:  # fmt: skip
    """Sums of a stack's features, weighted by shares ``r`` of the rows of all, added to those before."""
    if phi is None:

        def one(given: tuple[Numbers, Array]) -> Array:
            its, shares = given
            phi = features(shape, coordinates(x, its.origin, its.shift, its.forward), str(r.dtype))
            return over_rows(shares[None], phi)[0]

        return (sums[0] + lax.map(one, (numbers, r[rows])),)
    return tuple(
        before + over_rows(r[a:b], phi[:size]) for (a, b, size), before in zip(shape.products, sums, strict=True)
    )


def over_rows(r: Array, phi: Array) -> Array:
    """``r phi'`` of shares (K, n) and features (P, n); in single precision no more than `TOGETHER` rows at a time."""
    if r.dtype == jnp.float64:
        return jnp.dot(r, phi.T, precision=PRECISION)
    left, right = (array.reshape(len(array), -1, TOGETHER) for array in (r, phi))
    # (rows / TOGETHER, K, P)
    parts = lax.dot_general(left, right, (((2,), (2,)), ((1,), (1,))), precision=PRECISION)
    return parts.astype(jnp.float64).sum(axis=0)


class Scored(NamedTuple):
    """What is said of the columns of a piece; probabilities only where they are wanted."""

    label: Array
    probability: Array
    log_density: Array
    probabilities: Array | None


@partial(jax.jit, static_argnums=(0, 4), compiler_options=EXACT)
def score(shape: Shape, plan: PlanNumbers, x: Array, n: Array, probabilities: bool) -> Scored:
    """Scores of the first n columns of a piece ``x`` (d, columns), which are whole slices, by one mixture."""
    size = x.shape[1]
    every = jnp.zeros((size, len(plan.owners))) if probabilities else None
    found = Scored(jnp.zeros(size, jnp.int64), jnp.zeros(size), jnp.zeros(size), every)

    def put(i: Array, found: Scored) -> Scored:
        joint, _, _ = log_joint(shape, plan, slice_of(shape, i, x).astype(jnp.float64))
        top = joint.max(axis=0)
        shares, total = exponentials(joint, top)
        more = Scored(
            joint.argmax(axis=0), 1 / total, top + jnp.log(total), (shares / total).T if probabilities else None
        )

        def into(every: Array, some: Array) -> Array:
            return lax.dynamic_update_slice_in_dim(every, some, i * shape.width, axis=0)

        return jax.tree.map(into, found, more)

    return lax.fori_loop(0, (n + shape.width - 1) // shape.width, put, found)


@jax.jit
def by_feature(x: Array) -> Array:
    """Rows as columns: what is done to all rows lies one after the other."""
    return x.T.copy()
