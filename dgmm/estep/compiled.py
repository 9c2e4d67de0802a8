"""The E-step, compiled: plans in flat arrays, and the memory of each thread."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import DTypeLike

from dgmm.estep import features, kernel, registers, vectors
from dgmm.estep.block import CONVERTED_BYTES, blocks, frozen
from dgmm.estep.plan import DOUBLE, Plan
from dgmm.estep.stacks import Stack
from dgmm.estep.totals import PassTotals, Scores
from dgmm.families import GAUSSIAN_CHAIN, LOGARITHMIC_CHAIN
from dgmm.rows import Rows
from dgmm.types import AnyArray, FloatArray, IntArray

#: Phi and R of a slice should stay in the L2 cache of one core; no slice is narrower or wider than this.
CACHE_BYTES, NARROWEST, WIDEST = 1_000_000, 128, 2048
#: Bytes of a line of the cache.
LINE = 64
#: The same where all products are made in registers, and nothing is gained by wider slices: their widths are multiples
#: of the first, between the others.
SLICES = 192, 192, 384
#: The chains of features that the kernel knows.
CHAINS = {GAUSSIAN_CHAIN: features.PRODUCTS, LOGARITHMIC_CHAIN: features.LOGARITHMS}
#: Features are built this many at a time where there are more.
PANEL = 1024
#: Where rows have none.
NO_WEIGHTS = frozen(np.empty(0))


@dataclass(frozen=True)
class Packed:
    """A plan in flat arrays, as the compiled kernel takes it; see `kernel.accumulate`.

    Attributes
    ----------
    origins, shifts : ndarray, shape (stacks, d)
    forwards : ndarray, shape (stacks, d * d)
        See `registers.forward_of`.
    diagonals : ndarray of bool, shape (stacks,)
    chains : ndarray of int, shape (stacks,), or None
    panels : ndarray of int, shape (panels, 8)
    pairs : ndarray of int, shape (P, 2)
    theta : ndarray, shape (sum of the panels' sizes,)
        In the precision of the products.
    links : ndarray, shape (rows, 2), or None
    candidates : ndarray of int, shape (candidates, 2)
    owners : tuple of int
        Which of the plan's products each panel is of.
    """

    origins: FloatArray
    shifts: FloatArray
    forwards: FloatArray
    diagonals: AnyArray
    chains: IntArray | None
    panels: IntArray
    pairs: IntArray
    theta: AnyArray
    links: FloatArray | None
    candidates: IntArray
    owners: tuple[int, ...]


def packed(plan: Plan) -> Packed:
    """A plan in flat arrays."""
    d = plan.n_features
    zero = np.zeros(d)
    shapes = tuple(
        (in_registers(plan, s), tuple((p.rows.start, *p.theta.shape) for p in s.products)) for s in plan.stacks
    )
    panels, parts, owners = laid_out(shapes, d, PANEL)
    products = plan.products
    theta = [
        products[i].theta[rows, features].ravel("F" if by_feature else "C") for i, rows, features, by_feature in parts
    ]
    chains = [CHAINS[s.features.chain] for s in plan.stacks]
    every = all(by_feature for by_feature, _ in shapes)
    return Packed(
        frozen(np.array([s.origin for s in plan.stacks])),
        frozen(np.array([zero if s.shift is None else s.shift for s in plan.stacks])),
        frozen(np.array([registers.forward_of(s.forward) for s in plan.stacks])),
        frozen(np.array([s.forward.ndim == 1 for s in plan.stacks])),
        None if every else frozen(np.array(chains, dtype=np.int64)),
        panels,
        registers.pairs_of(d, n_pairs(plan)),
        frozen(np.concatenate(theta).astype(plan.dtype)),
        None if plan.links is None else frozen(plan.links),
        frozen(np.array([(c.start, c.stop) for c in plan.candidates], dtype=np.int64)),
        owners,
    )


#: Of a stack, whether its products are made in registers, and their first rows and shapes.
StackShape = tuple[bool, tuple[tuple[int, int, int], ...]]


@lru_cache(maxsize=256)
def laid_out(
    shapes: tuple[StackShape, ...], d: int, panel: int
) -> tuple[IntArray, list[tuple[int, slice, slice, bool]], tuple[int, ...]]:
    """Panels of stacks of products of such shapes, what each is of the products' theta, and whose it is.

    Returns
    -------
    panels : ndarray of int, shape (panels, 8)
    parts : list
        For each panel the product, its rows and features, and whether these are laid out feature by feature.
    owners : tuple of int
    """
    panels, parts, offset, seen = [], [], 0, 0

    def add(s: int, i: int, rows: tuple[int, int], features: tuple[int, int]) -> None:
        nonlocal offset
        by_feature, products = shapes[s]
        start, _, size = products[i]
        place = start + rows[0], start + rows[1], *features
        panels.append((s, *place, offset, by_feature, size > 2 * d + 1))
        parts.append((seen + i, slice(*rows), slice(*features), by_feature))
        offset += (rows[1] - rows[0]) * (features[1] - features[0])

    for s, (by_feature, products) in enumerate(shapes):
        if by_feature:
            for i, (_, n, size) in enumerate(products):
                for rows in registers.blocks_of(n):
                    add(s, i, rows, (0, size))
        else:
            # by features first: products that share a panel of features share its making
            by_size = sorted(range(len(products)), key=lambda i: -products[i][2])
            for first in range(0, max(size for _, _, size in products), panel):
                for i in by_size:
                    _, n, size = products[i]
                    if (last := min(first + panel, size)) > first:
                        add(s, i, (0, n), (first, last))
        seen += len(products)
    return frozen(np.array(panels, dtype=np.int64)), parts, tuple(i for i, *_ in parts)


def length(plan: Plan, flat: Packed, *, weighted: bool) -> int:
    """Numbers that sums in one array have."""
    of_rows = weighted + 2 * (plan.links is not None)
    return 1 + len(plan.candidates) + len(flat.theta) + plan.n_rows * of_rows


def parts_of(
    sums: FloatArray, plan: Plan, flat: Packed, *, weighted: bool
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Log-likelihoods, sums in the order of theta, squares and hidden sums, as they follow the count in one array."""
    start = 1 + len(plan.candidates)
    stop = start + len(flat.theta)
    squares = sums[stop : stop + plan.n_rows * weighted]
    hidden = sums[stop + len(squares) :].reshape(-1, 2)
    return sums[1:start], sums[start:stop], squares, hidden


def in_registers(plan: Plan, stack: Stack) -> bool:
    """Whether the products of a stack are made in registers."""
    return vectors.LANES > 0 and stack.features.chain == GAUSSIAN_CHAIN


def built(plan: Plan) -> int:
    """Features of a slice that are built at a time, where products are not made in registers."""
    return min(PANEL, max((s.size for s in plan.stacks if not in_registers(plan, s)), default=0))


def n_pairs(plan: Plan) -> int:
    """Features that are made of pairs of coordinates, and those that are coordinates."""
    return max(1 + plan.n_features, *(s.size for s in plan.stacks if in_registers(plan, s)), 0)


def slice_width(plan: Plan) -> int:
    """Samples per slice such that features and responsibilities stay in cache."""
    widest = built(plan)
    of_rows = plan.n_rows * (1 if plan.links is None else 3)
    per_sample = plan.dtype.itemsize * widest + 8 * (of_rows + (1 + len(plan.stacks)) * plan.n_features)
    unit, least, most = (64, NARROWEST, WIDEST) if widest else SLICES
    return int(np.clip(CACHE_BYTES // per_sample // unit * unit, least, most))


def buffers(
    n_stacks: int, d: int, n_rows: int, n_features: int, width: int, dtype: DTypeLike, linked: bool = False
) -> kernel.Buffers:
    """Everything that slices of ``width`` samples need; to be kept, since fresh memory costs as much as the work."""
    width = vectors.padded(width)
    centred, y, joint, top, total = (
        aligned(size * width) for size in (in_columns(d), n_stacks * (d + 1), n_rows, 1, 1)
    )
    picked = aligned(picked_out(d, width))
    product, lines = (double if dtype == double.dtype else aligned(double.size, dtype) for double in (joint, y))
    features, made = aligned(n_features * width, dtype), np.empty(n_rows * n_features, dtype)
    hidden = np.empty(2 * n_rows * width * linked)
    return centred, y, joint, features, made, top, total, np.empty(width, np.int64), picked, product, lines, hidden


def picked_out(d: int, width: int) -> int:
    """Numbers that samples picked out of a slice take: with moments of these, where BLAS makes them."""
    return 2 * (d + 1) * width if vectors.LANES else (3 * width + d + 1) * (d + 1)


def in_columns(d: int) -> int:
    """Columns that centred samples take, below one of ones: features in groups that fill vectors."""
    return 1 + -(-d // vectors.WIDTH) * vectors.WIDTH


def aligned(size: int, dtype: DTypeLike = DOUBLE) -> AnyArray:
    """Memory for so many numbers that begins where a line of the cache does: no vector lies across two."""
    unit = np.dtype(dtype).itemsize
    memory = np.empty(size + LINE // unit, dtype)
    start = -memory.ctypes.data % LINE // unit
    return memory[start : start + size]


_memory = threading.local()


def memory_for(plan: Plan, width: int) -> kernel.Buffers:
    """The buffers of this thread, made anew where the last plan's do not fit."""
    widest, linked = plan.prepared(built), plan.links is not None
    shape = len(plan.stacks), plan.n_features, plan.n_rows, widest, width, plan.dtype, linked
    if getattr(_memory, "shape", None) != shape:
        _memory.buffers, _memory.shape = buffers(*shape), shape
    found: kernel.Buffers = _memory.buffers
    return found


class Compiled:
    """The back end for features that the kernel knows."""

    name = "compiled"

    def takes(self, plan: Plan) -> bool:
        """Whether the kernel knows the features of all stacks."""
        return all(stack.features.chain in CHAINS for stack in plan.stacks)

    def accumulate(self, rows: Rows, plan: Plan) -> PassTotals:
        """E-step of all mixtures of a plan over samples."""
        return self.totals(self.sums(rows, plan), plan, weighted=rows.weights is not None)

    def sums(self, rows: Rows, plan: Plan) -> FloatArray:
        """The same as one array, of which only `totals` knows what lies where: those of several samples add up."""
        p, width = plan.prepared(packed), plan.prepared(slice_width)
        sums = np.zeros(length(plan, p, weighted=rows.weights is not None))
        sums[0] = rows.count
        log_likelihoods, flat, squares, hidden = parts_of(sums, plan, p, weighted=rows.weights is not None)
        weights, labels, owners = NO_WEIGHTS, None, frozen(plan.owners)
        if rows.weights is not None:
            weights = frozen(np.ascontiguousarray(rows.weights, dtype=np.float64))
        if rows.labels is not None:
            labels = frozen(np.ascontiguousarray(rows.labels, dtype=np.int64))
        memory = memory_for(plan, width)
        for place, block in blocks(rows.x, plan.n_features, width):
            kernel.accumulate(
                block, weights[place], None if labels is None else labels[place], owners, plan.sharing.hard or None,
                p.origins, p.shifts, p.forwards, p.diagonals, p.chains, p.panels, p.pairs, p.theta, p.links,
                p.candidates, width, memory, log_likelihoods, flat, squares, hidden,
            )  # fmt: skip
        return sums

    def totals(self, sums: FloatArray, plan: Plan, *, weighted: bool) -> PassTotals:
        """What `sums` of samples, with weights or without, are."""
        p, products = plan.prepared(packed), plan.products
        log_likelihoods, flat, squares, hidden = parts_of(sums, plan, p, weighted=weighted)
        found = tuple(np.empty_like(product.theta) for product in products)
        for (_, start, stop, first, last, offset, by_feature, _), i in zip(p.panels.tolist(), p.owners, strict=True):
            part, shape = flat[offset : offset + (stop - start) * (last - first)], (stop - start, last - first)
            row = start - products[i].rows.start
            values = part.reshape(shape[::-1]).T if by_feature else part.reshape(shape)
            found[i][row : row + stop - start, first:last] = values
        # copies, or views would keep all of the array for as long as the totals
        return PassTotals(
            float(sums[0]),
            log_likelihoods.copy(),
            found,
            squares=squares.copy() if weighted else np.nan,
            hidden=0.0 if plan.links is None else hidden.copy(),
        )

    def score(self, x: AnyArray, plan: Plan, scores: Scores) -> None:
        """Scores of samples (n, d) by the one mixture of a plan, into arrays."""
        p, width = plan.prepared(packed), plan.prepared(slice_width)
        memory = memory_for(plan, width)
        for place, block in blocks(x, plan.n_features, width):
            kernel.score(
                block, p.origins, p.shifts, p.forwards, p.diagonals, p.chains, p.panels, p.pairs, p.theta,
                p.links, plan.n_rows, width, memory, scores.label[place], scores.probability[place],
                scores.log_density[place], scores.probabilities[place],
            )  # fmt: skip

    def buffer_bytes(self, plan: Plan) -> int:
        """Bytes of the buffers of one thread, of pairs, and of a block that is converted, for any samples."""
        d, n, width = plan.n_features, plan.n_rows, slice_width(plan)
        lines = in_columns(d) + len(plan.stacks) * (d + 1) + n * (1 if plan.links is None else 3) + 3
        in_products = built(plan) + (n + len(plan.stacks) * (d + 1)) * (plan.dtype.itemsize < 8)
        padded = vectors.padded(width)
        held = 8 * (padded * lines + picked_out(d, padded))
        held += plan.dtype.itemsize * (padded * in_products + n * built(plan))
        return held + 16 * n_pairs(plan) + max(CONVERTED_BYTES, 8 * d * width)
