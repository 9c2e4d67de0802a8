"""The E-step: two stacked matrix products for any number of mixtures of any families.

With the features Phi (P, n) of a slice of samples, and one row of Theta (SumK, P) for every component of every
mixture, ``Theta @ Phi`` holds all log joint densities and ``R @ Phi'`` everybody's sufficient statistics. A
component too narrow for the common frame is a stack of its own, in coordinates where it is a standard normal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dgmm.families.base import FeatureMap
from dgmm.frame import Frame, FrameKind
from dgmm.statistics import SufficientStatistics
from dgmm.types import AnyArray, FloatArray

if TYPE_CHECKING:
    from dgmm.mixture import Mixture

#: Largest rounding error of a log density, in nats, that the expanded form may make.
TOLERATED_ERROR = 1e-8
#: Phi and R of a slice should stay in the L2 cache of one core.
CACHE_BYTES = 640 * 1024
#: Beyond this the exponential underflows; kept well away from denormal numbers.
LOWEST_EXPONENT = -650.0
#: Candidates whose densities are this small against another's are normalised on their own.
SMALLEST_SUM = 1e-200


@dataclass(frozen=True)
class Product:
    """One matrix product: rows of Theta that share coordinates and features.

    Attributes
    ----------
    rows : slice
        Its rows in the stack of all components.
    theta : ndarray, shape (rows, P)
    """

    rows: slice
    theta: FloatArray


@dataclass(frozen=True)
class Stack:
    """Products that share one feature block.

    Attributes
    ----------
    shift : ndarray, shape (d,), or None
        Subtracted from the samples after the plan's origin.
    forward : ndarray, shape (d, d) or (d,)
    features : FeatureMap
        The longest of the products' maps.
    size : int
        Its number of features P.
    products : tuple of Product
    """

    shift: FloatArray | None
    forward: FloatArray
    features: FeatureMap
    size: int
    products: tuple[Product, ...]


@dataclass(frozen=True)
class Plan:
    """Everything a task needs to do the E-step of all mixtures on any samples.

    Attributes
    ----------
    origin : ndarray, shape (d,)
    stacks : tuple of Stack
    candidates : tuple of slice
        The rows of each mixture, in the order in which the mixtures were given.
    local : tuple of bool
        Whether each row is in coordinates of its own.
    """

    origin: FloatArray
    stacks: tuple[Stack, ...]
    candidates: tuple[slice, ...]
    local: tuple[bool, ...]

    @property
    def n_rows(self) -> int:
        """Number of components of all mixtures together."""
        return len(self.local)

    def slice_rows(self) -> int:
        """Samples per slice such that features and responsibilities stay in cache."""
        per_sample = 8 * (sum(s.size for s in self.stacks) + self.n_rows + 2 * len(self.origin))
        return int(np.clip(CACHE_BYTES // per_sample // 64 * 64, 64, 4096))


@dataclass(frozen=True)
class PassTotals:
    """What one pass adds up, for all mixtures of a plan; the value that travels through the reduction tree.

    Attributes
    ----------
    count : float
        Number of samples.
    log_likelihoods : ndarray, shape (candidates,)
    sums : tuple of ndarray
        Per product of the plan, shape (rows, P).
    """

    count: float
    log_likelihoods: FloatArray
    sums: tuple[FloatArray, ...]

    def merge(self, other: PassTotals) -> PassTotals:
        """Totals of both."""
        sums = tuple(a + b for a, b in zip(self.sums, other.sums, strict=True))
        return PassTotals(self.count + other.count, self.log_likelihoods + other.log_likelihoods, sums)


def make_plan(mixtures: Sequence[Mixture], frames: Mapping[FrameKind, Frame]) -> Plan:
    """Stack the components of mixtures, given in frame coordinates, for one E-step.

    Parameters
    ----------
    mixtures : sequence of Mixture
        Parameters in coordinates of the frame of their family.
    frames : mapping
        The frames of the data; all have the same origin.
    """
    origin = next(iter(frames.values())).origin
    keys = [_stack_key(m) for m in mixtures]
    order = sorted(range(len(mixtures)), key=lambda i: (*keys[i], mixtures[i].n_components))
    candidates: list[slice] = [slice(0, 0)] * len(mixtures)
    common: dict[tuple[str, str], list[tuple[FeatureMap, slice, FloatArray]]] = {}
    locals_: list[Stack] = []
    local: list[bool] = []
    for i in order:
        m, frame = mixtures[i], frames[mixtures[i].family.frame]
        rows = slice(len(local), len(local) + m.n_components)
        candidates[i] = rows
        narrow = m.family.expansion_error(m.components) > TOLERATED_ERROR
        if narrow.any() and m.family.features is not m.family.local_features:
            narrow[:] = True
        local.extend(map(bool, narrow))
        if narrow.any():
            locals_.extend(_local_stacks(m, frame, narrow, rows.start))
        if not narrow.all():
            theta = m.family.natural_parameters(m.weights, m.components, frame.log_volume)
            parts = common.setdefault((m.family.frame, m.family.features.chain), [])
            for a, b in _runs(~narrow):
                parts.append((m.family.features, slice(rows.start + a, rows.start + b), theta[a:b]))
    stacks = [
        _join(frames[kind], parts, len(origin))
        for kind in frames
        for (its_kind, _), parts in common.items()
        if kind == its_kind
    ]
    return Plan(origin, (*stacks, *locals_), tuple(candidates), tuple(local))


def _stack_key(mixture: Mixture) -> tuple[str, str, int]:
    family = mixture.family
    return family.frame, family.features.chain, family.features.size(mixture.n_features)


def _runs(chosen: AnyArray) -> Iterator[tuple[int, int]]:
    """Start and stop of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], chosen.astype(np.int8), [0]])))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _local_stacks(m: Mixture, frame: Frame, narrow: AnyArray, start: int) -> Iterator[Stack]:
    family, d = m.family, m.n_features
    own = family.local_frames(m.components)
    theta = family.local_parameters(m.weights, m.components, frame.log_volume)
    for k in np.flatnonzero(narrow).tolist():
        forward = own.forwards[k] @ frame.forward if frame.forward.ndim == 2 else own.forwards[k] * frame.forward
        product = Product(slice(start + k, start + k + 1), theta[k : k + 1])
        features = family.local_features
        yield Stack(frame.to_data(own.origins[k]), forward, features, features.size(d), (product,))


def _join(frame: Frame, parts: list[tuple[FeatureMap, slice, FloatArray]], d: int) -> Stack:
    """One stack; neighbouring rows with the same features become one product."""
    products: list[Product] = []
    for _, rows, theta in parts:
        last = products[-1] if products else None
        if last is not None and last.rows.stop == rows.start and last.theta.shape[1] == theta.shape[1]:
            products[-1] = Product(slice(last.rows.start, rows.stop), np.vstack([last.theta, theta]))
        else:
            products.append(Product(rows, theta))
    longest = max((features for features, _, _ in parts), key=lambda f: f.size(d))
    return Stack(None, frame.forward, longest, longest.size(d), tuple(products))


class Workspace:
    """Buffers of one thread for one plan, and the log joint densities of one slice of samples at a time."""

    def __init__(self, plan: Plan) -> None:
        d = len(plan.origin)
        self.plan = plan
        self.n = plan.slice_rows()
        self._centred = np.empty((d, self.n))
        self._shifted = np.empty((d, self.n))
        self._y = np.empty((d, self.n))
        self._joint = np.empty((plan.n_rows, self.n))
        self._features = [np.empty((stack.size, self.n)) for stack in plan.stacks]

    def log_joint(self, x: AnyArray) -> tuple[FloatArray, list[FloatArray]]:
        """Log joint densities (rows, n) and the features of each stack, for samples ``x`` (n <= self.n, d)."""
        n, plan = len(x), self.plan
        centred = self._centred[:, :n]
        np.subtract(x.T, plan.origin[:, None], out=centred)
        joint: FloatArray = self._joint[:, :n]
        features: list[FloatArray] = []
        for stack, buffer in zip(plan.stacks, self._features, strict=True):
            source = centred
            if stack.shift is not None:
                source = np.subtract(centred, stack.shift[:, None], out=self._shifted[:, :n])
            y = self._y[:, :n]
            if stack.forward.ndim == 2:
                np.matmul(stack.forward, source, out=y)
            else:
                np.multiply(stack.forward[:, None], source, out=y)
            phi = buffer[:, :n]
            stack.features.fill(y, phi)
            for product in stack.products:
                np.matmul(product.theta, phi[: product.theta.shape[1]], out=joint[product.rows])
            features.append(phi)
        return joint, features


def accumulate_samples(x: AnyArray, plan: Plan) -> PassTotals:
    """E-step of all mixtures of a plan over the rows of ``x``, shape (n, d), any real dtype, no missing values."""
    work = Workspace(plan)
    log_likelihoods = np.zeros(len(plan.candidates))
    sums = [np.zeros_like(p.theta) for s in plan.stacks for p in s.products]
    for start in range(0, len(x), work.n):
        rows = x[start : start + work.n]
        joint, features = work.log_joint(rows)
        gained = normalise(joint, plan.candidates)
        if gained is None:
            joint, features = work.log_joint(rows)
            gained = normalise_each(joint, plan.candidates)
        log_likelihoods += gained
        i = 0
        for stack, phi in zip(plan.stacks, features, strict=True):
            for product in stack.products:
                sums[i] += joint[product.rows] @ phi[: product.theta.shape[1]].T
                i += 1
    return PassTotals(float(len(x)), log_likelihoods, tuple(sums))


def normalise(joint: FloatArray, candidates: Sequence[slice]) -> FloatArray | None:
    """Turn log joint densities into responsibilities, in place, and return each candidate's log-likelihood.

    One shift per sample serves all candidates, so that maximum, subtraction and exponential are one call each
    however many there are. None, and ``joint`` spoilt, where this shift pushes a candidate out of the
    exponential's range for some sample.
    """
    shift = joint.max(axis=0)
    np.subtract(joint, shift, out=joint)
    np.maximum(joint, LOWEST_EXPONENT, out=joint)
    np.exp(joint, out=joint)
    totals = np.empty((len(candidates), joint.shape[1]))
    for total, rows in zip(totals, candidates, strict=True):
        np.add.reduce(joint[rows], axis=0, out=total)
    if len(candidates) > 1 and totals.min() < SMALLEST_SUM:
        return None
    log_likelihoods: FloatArray = np.log(totals).sum(axis=1) + shift.sum()
    np.reciprocal(totals, out=totals)
    for total, rows in zip(totals, candidates, strict=True):
        joint[rows] *= total
    return log_likelihoods


def normalise_each(joint: FloatArray, candidates: Sequence[slice]) -> FloatArray:
    """`normalise` with a shift for each candidate: any densities, more calls."""
    gained = [normalise(joint[rows], (slice(None),)) for rows in candidates]
    return np.array([g[0] for g in gained if g is not None])


def unpack(totals: PassTotals, plan: Plan) -> list[SufficientStatistics]:
    """Statistics of each mixture, in the order in which the plan was given them."""
    rows: list[FloatArray] = [np.empty(0)] * plan.n_rows
    products = [p for s in plan.stacks for p in s.products]
    for product, sums in zip(products, totals.sums, strict=True):
        for row, values in zip(range(product.rows.start, product.rows.stop), sums, strict=True):
            rows[row] = values
    local = np.array(plan.local)
    return [
        SufficientStatistics(float(log_likelihood), totals.count, np.array(rows[c]), local[c])
        for c, log_likelihood in zip(plan.candidates, totals.log_likelihoods, strict=True)
    ]
