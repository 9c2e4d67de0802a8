"""Plans and rows as they lie on a device, and what its programs say of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import numpy as np
from numpy.typing import DTypeLike

from dgmm.devices import Device
from dgmm.estep import programs
from dgmm.estep.device import FEWEST, MOST, power_of_two
from dgmm.estep.plan import Plan
from dgmm.estep.programs import Array, Numbers, PlanNumbers, Shape, StackShape, Sums
from dgmm.estep.stacks import Stack
from dgmm.estep.totals import PassTotals, Scores
from dgmm.rows import Rows
from dgmm.types import AnyArray, IntArray

#: What is made of a slice takes so many bytes on a processor, which has caches, as measured, and this share of the
#: memory of other devices.
SLICE_BYTES, SLICE_SHARE = 2**20, 1 / 64
#: No slice has fewer rows.
NARROWEST = programs.TOGETHER


def accumulate(rows: Rows, plan: Plan, device: Device, most: int) -> PassTotals:
    """E-step of all mixtures of a plan over samples, in pieces of so many rows at most."""
    weighted, n = rows.weights is not None, len(rows)
    x = on(device, rows.x, kind_of(rows.x), most)
    weights = None if rows.weights is None else on(device, rows.weights, np.float64, most)
    labels = None if rows.labels is None else on(device, rows.labels, np.int64, most)
    with device.lock:
        shape, numbers = loaded(plan, device)
        shape = replace(shape, hard=plan.sharing.hard, weighted=weighted)
        sums = jax.device_put(nothing(shape, plan), device.handle)
        for i, piece in enumerate(x):
            sums = programs.accumulate(
                at_width(shape, piece), numbers, piece, weights and weights[i], labels and labels[i],
                min(n - i * most, most), sums,
            )  # fmt: skip
        found: Sums = jax.device_get(sums)
    log_likelihoods = np.empty(len(plan.candidates))
    log_likelihoods[by_rows(plan)] = found.log_likelihoods
    return PassTotals(
        rows.count,
        log_likelihoods,
        by_product(found, plan),
        squares=found.squares if weighted else np.nan,
        hidden=0.0 if plan.links is None else found.hidden,
    )


def score(x: AnyArray, plan: Plan, scores: Scores, device: Device, most: int) -> None:
    """Scores of samples by the one mixture of a plan, into arrays, in pieces of so many rows at most."""
    wanted = len(scores.probabilities) > 0
    for i, piece in enumerate(on(device, x, kind_of(x), most)):
        n = min(len(x) - i * most, most)
        with device.lock:
            shape, numbers = loaded(plan, device)
            found = jax.device_get(programs.score(at_width(shape, piece), numbers, piece, n, wanted))
        every = found.probabilities[:n] if wanted else scores.probabilities
        of_piece = Scores(found.label[:n], found.probability[:n], found.log_density[:n], every)
        scores.put(slice(i * most, i * most + n), of_piece)


def kind_of(x: AnyArray) -> DTypeLike:
    """Samples in single precision go as they are, others in double precision."""
    return np.float32 if x.dtype == np.float32 else np.float64


def on(device: Device, array: AnyArray, kind: DTypeLike, most: int) -> list[Array]:
    """The pieces of an array of rows, by features; there for as long as the array is here, while they fit."""

    def make() -> tuple[list[Array], int]:
        found = []
        for start in range(0, len(array), most):
            # in memory of the device even where that is this process's, or the array would be held for ever
            piece = jax.device_put(padded(array[start : start + most], kind), device.handle, may_alias=False)
            found.append(programs.by_feature(piece) if array.ndim == 2 else piece)
        return found, sum(piece.nbytes for piece in found)

    return device.rows.of(array, make, device.room)


def padded(part: AnyArray, kind: DTypeLike) -> AnyArray:
    """Rows with as many copies of the last as make their number a power of two, and enough."""
    n, size = len(part), max(power_of_two(2 * len(part) - 1), FEWEST)
    if n == size:
        return np.ascontiguousarray(part, dtype=kind)
    found: AnyArray = np.empty((size, *part.shape[1:]), dtype=kind)
    found[:n], found[n:] = part, part[-1]
    return found


def at_width(shape: Shape, piece: Array) -> Shape:
    """A program for a piece, which is of whole slices."""
    return replace(shape, width=min(shape.width, piece.shape[-1]))


def slice_width(plan: Plan, memory: int | None) -> int:
    """Rows of a slice, a power of two, in a device with so many bytes of memory, if any of its own."""
    width = power_of_two(max((SLICE_BYTES if memory is None else SLICE_SHARE * memory) / row_bytes(plan), 1))
    return min(max(width, NARROWEST), MOST)


def row_bytes(plan: Plan) -> int:
    """Bytes of what is made of a row in a slice: coordinates and features of every stack, and joint densities."""
    of_stacks = sum(16 * plan.n_features + 2 * plan.dtype.itemsize * stack.size for stack in plan.stacks)
    return 24 * plan.n_features + 48 * plan.n_rows + of_stacks


def loaded(plan: Plan, device: Device) -> tuple[Shape, PlanNumbers]:
    """What programs for a plan are compiled for, and its numbers on a device, there for as long as it is here."""

    def make() -> tuple[tuple[Shape, PlanNumbers], int]:
        shape, numbers = arranged(plan, slice_width(plan, device.memory))
        return (shape, jax.device_put(numbers, device.handle)), 0

    return device.plans.of(plan, make, np.inf)


def sets_of(plan: Plan) -> list[list[Stack]]:
    """The stacks in common coordinates, each by itself; then sets of those of one component each, by their kinds."""
    common: list[list[Stack]] = []
    sets: dict[Any, list[Stack]] = {}
    for stack in plan.stacks:
        if stack.shift is None:
            common.append([stack])
        else:
            sets.setdefault((stack.features.chain, stack.size, stack.forward.ndim), []).append(stack)
    return [*common, *sets.values()]


def arranged(plan: Plan, width: int) -> tuple[Shape, PlanNumbers]:
    """A plan as the programs take it."""
    shapes: list[StackShape] = []
    numbers: list[Numbers] = []
    own: list[IntArray | None] = []
    rows: list[IntArray] = []
    for stacks in sets_of(plan):
        first, products = stacks[0], [product for stack in stacks for product in stack.products]
        its = np.concatenate([np.arange(p.rows.start, p.rows.stop) for p in products])
        rows.append(its)
        thetas = tuple(p.theta.astype(plan.dtype) for p in products)
        if first.shift is None:
            parts = tuple((p.rows.start, p.rows.stop, p.theta.shape[1]) for p in products)
            shapes.append(StackShape(first.features.chain, first.size, parts))
            numbers.append(Numbers(first.origin, None, first.forward, thetas))
            own.append(None)
        else:
            shapes.append(StackShape(first.features.chain, first.size))
            origins, shifts, forwards = (
                np.array([getattr(stack, name) for stack in stacks]) for name in ("origin", "shift", "forward")
            )
            numbers.append(Numbers(origins, shifts, forwards, (np.concatenate(thetas),)))
            own.append(its)
    place = np.concatenate(rows)
    order = None if (np.diff(place) > 0).all() else np.argsort(place)
    candidates = tuple((plan.candidates[i].start, plan.candidates[i].stop) for i in by_rows(plan))
    shape = Shape(width, plan.dtype.name, candidates, tuple(shapes))
    return shape, PlanNumbers(tuple(numbers), plan.owners, plan.links, order, tuple(own))


def by_rows(plan: Plan) -> IntArray:
    """The mixtures in the order of their rows."""
    return np.argsort([rows.start for rows in plan.candidates])


def nothing(shape: Shape, plan: Plan) -> Sums:
    """Sums over no rows."""
    products = tuple(
        tuple(np.zeros((b - a, size)) for a, b, size in stack.products) or (np.zeros((len(stacks), stack.size)),)
        for stack, stacks in zip(shape.stacks, sets_of(plan), strict=True)
    )
    zeros = np.zeros(plan.n_rows)
    return Sums(np.zeros(len(plan.candidates)), products, zeros, np.zeros((plan.n_rows, 2)))


def by_product(found: Sums, plan: Plan) -> tuple[AnyArray, ...]:
    """Sums of the products of a plan, in their order."""
    by_row: dict[int, AnyArray] = {}
    for stacks, parts in zip(sets_of(plan), found.products, strict=True):
        products = [product for stack in stacks for product in stack.products]
        each = parts if stacks[0].shift is None else parts[0][:, None]
        by_row |= {product.rows.start: part for product, part in zip(products, each, strict=True)}
    return tuple(by_row[product.rows.start] for product in plan.products)
