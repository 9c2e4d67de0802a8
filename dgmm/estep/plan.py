"""The plan of an E-step: the components of any number of mixtures of any families, stacked.

With the features Phi (P, n) of a slice of samples, and one row of Theta (SumK, P) for every component of every
mixture, ``Theta @ Phi`` holds all log joint densities and ``R @ Phi'`` everybody's sufficient statistics. Rows with
links are passed through a function of one number in between, and R is times another one of it. A
component too narrow for the common frame is a stack of its own, in coordinates where it is a standard normal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any, TypeVar, cast

import numpy as np

from dgmm.devices import CPU
from dgmm.estep.marginals import Marginals
from dgmm.estep.stacks import Product, Stack, Stackable, together
from dgmm.families import NOISE, Family, FeatureMap, Frame, FrameKind
from dgmm.transform import Transform
from dgmm.types import AnyArray, FloatArray, IntArray, Sendable

#: Largest rounding error of a log density, in nats, that the expanded form may make in double precision, and in single.
TOLERATED_ERROR, TOLERATED_ERROR_SINGLE = 1e-8, 1e-2
DOUBLE = np.dtype(np.float64)

T = TypeVar("T")


@dataclass(frozen=True)
class Sharing:
    """How samples are shared out among the components of a mixture.

    Attributes
    ----------
    hard : bool
        Whether each counts wholly for its most probable component, the first of equals; in the log-likelihood, too,
        which is then that of the classification, ``sum log w_k p(x | k)``.
    n_classes : int
        Into how many classes, of as many components each and one after the other, labels of samples divide those of a
        mixture; 0 where a label is a component.
    """

    hard: bool = False
    n_classes: int = 0


SOFT = Sharing()


@dataclass(frozen=True)
class Plan(Sendable):
    """Everything a task needs to do the E-step of all mixtures on any samples.

    Attributes
    ----------
    stacks : tuple of Stack
    candidates : tuple of slice
        The rows of each mixture, in the order in which the mixtures were given; its noise, if any, is the last.
    local : tuple of bool
        Whether each row is in coordinates of its own.
    families : tuple of Family
        Of each mixture.
    dtype : numpy.dtype
        Of the two matrix products; everything else, sums over slices first of all, is float64.
    sharing : Sharing
    noisy : tuple of bool
        Which mixtures have noise.
    links : ndarray, shape (rows, 2), or None
        How log densities follow from the products, as `Family.links` has it; the second number is infinite in rows
        where they are the products. None if they all are.
    transform : Transform or None
        What is done to samples before they are scored; sums are over samples as they are.
    marginals : tuple of Marginals, or None
        Of each mixture, where samples may lack some of their values; None where they are left out.
    device : str
        Where it is applied to samples that are complete; see `devices`.
    """

    stacks: tuple[Stack, ...]
    candidates: tuple[slice, ...]
    local: tuple[bool, ...]
    families: tuple[Family, ...]
    dtype: np.dtype[Any] = DOUBLE
    sharing: Sharing = SOFT
    noisy: tuple[bool, ...] = ()
    links: FloatArray | None = None
    transform: Transform | None = None
    marginals: tuple[Marginals, ...] | None = None
    device: str = CPU

    @property
    def n_features(self) -> int:
        """Number of features d."""
        return len(self.stacks[0].origin)

    @property
    def n_inputs(self) -> int:
        """Number of features of the samples that are scored."""
        return self.n_features if self.transform is None else self.transform.n_inputs

    @property
    def n_rows(self) -> int:
        """Number of components of all mixtures together."""
        return len(self.local)

    @property
    def n_labels(self) -> int:
        """How many labels the one mixture of a plan can give: its classes, or its components, and its noise."""
        return self.sharing.n_classes or self.n_rows

    @cached_property
    def digest(self) -> str:
        """A name for exactly this E-step."""
        parts: list[Any] = [self.dtype.str, [(c.start, c.stop) for c in self.candidates], self.local]
        parts += [family.name for family in self.families]
        if self.sharing != SOFT:
            parts.append(self.sharing)
        if any(self.noisy):
            parts.append(self.noisy)
        if self.links is not None:
            parts.append(self.links)
        if self.transform is not None:
            parts.append(self.transform.digest)
        if self.marginals is not None:
            parts.append("marginals")
        if self.device != CPU:
            parts.append(self.device)
        for stack in self.stacks:
            parts += [stack.features.chain, stack.origin, stack.shift, stack.forward]
            parts += [part for p in stack.products for part in (p.rows.start, p.theta)]
        found = hashlib.sha256()
        for part in parts:
            array = isinstance(part, np.ndarray)
            found.update(f"{part.shape if array else part}\0".encode())
            if array:
                found.update(np.ascontiguousarray(part).tobytes())
        return found.hexdigest()

    @cached_property
    def owners(self) -> IntArray:
        """The label whose samples each component may have, shape (n_rows,)."""
        found = np.empty(self.n_rows, dtype=np.int64)
        for c, noisy in zip(self.candidates, self.noisy, strict=True):
            n = c.stop - c.start - noisy
            found[c.start : c.start + n] = np.arange(n) * (self.sharing.n_classes or n) // n
            found[c.start + n : c.stop] = NOISE
        return found

    @cached_property
    def as_density(self) -> Plan:
        """The same where every sample is shared out as it is probable: its log-likelihood is that of the density."""
        return self if self.sharing == SOFT else replace(self, sharing=SOFT)

    def on(self, device: str) -> Plan:
        """The same, applied on a device."""
        return self if device == self.device else replace(self, device=device)

    @cached_property
    def after_transform(self) -> Plan:
        """The same for samples that are transformed already."""
        return replace(self, transform=None)

    def prepared(self, make: Callable[[Plan], T]) -> T:
        """What a back end makes of the plan, made once."""
        if make not in self._prepared:
            self._prepared[make] = make(self)
        return cast(T, self._prepared[make])

    @cached_property
    def _prepared(self) -> dict[Any, Any]:
        return {}

    @property
    def divisible(self) -> bool:
        """Whether the rows of theta are those of one product, and nothing else is known of them; see `divided`."""
        one = len(self.stacks) == 1 and len(self.stacks[0].products) == 1
        return one and len(self.candidates) == 1 and not any(self.noisy) and self.marginals is None

    def divided(self, counts: Sequence[int], k: int) -> list[Plan]:
        """Plans of so many mixtures each, of k components, where this one has all of their components in order."""
        (stack,), found, start = self.stacks, [], 0
        theta = stack.products[0].theta
        for n in counts:
            rows = slice(start, start := start + n * k)
            part = replace(stack, products=(Product(slice(0, n * k), theta[rows]),))
            candidates = tuple(slice(i * k, (i + 1) * k) for i in range(n))
            links = None if self.links is None else self.links[rows]
            found.append(
                replace(
                    self, stacks=(part,), candidates=candidates, local=self.local[rows], families=self.families * n,
                    noisy=self.noisy * n, links=links,
                )
            )  # fmt: skip
        return found

    @property
    def products(self) -> list[Product]:
        """The products of all stacks, in order."""
        return [p for s in self.stacks for p in s.products]


def make_plan(
    mixtures: Sequence[Stackable],
    frames: Mapping[FrameKind, Frame],
    dtype: np.dtype[Any] = DOUBLE,
    sharing: Sharing = SOFT,
    *,
    marginal: bool = False,
) -> Plan:
    """Stack the components of mixtures, given in frame coordinates, for one E-step.

    Parameters
    ----------
    mixtures : sequence of mixtures
        Parameters in coordinates of the frame of their family.
    frames : mapping
        The frames of the data.
    dtype : numpy.dtype
        Precision of the products: float64, or float32 for twice the speed, where all families allow it.
    sharing : Sharing
        How samples are shared out.
    marginal : bool
        Whether samples may lack some of their values.
    """
    if marginal:
        # what components share is not the same for all samples
        mixtures = [replace(cast(Any, m), family=m.family.beside_noise()) for m in mixtures]
    if not all(m.family.single for m in mixtures):
        dtype = DOUBLE
    tolerated = (
        TOLERATED_ERROR if dtype == DOUBLE else TOLERATED_ERROR_SINGLE * np.finfo(DOUBLE).eps / np.finfo(dtype).eps
    )
    keys = [_stack_key(m) for m in mixtures]
    order = sorted(range(len(mixtures)), key=lambda i: (*keys[i], mixtures[i].n_components))
    candidates: list[slice] = [slice(0, 0)] * len(mixtures)
    common: dict[tuple[str, str], list[tuple[FeatureMap, slice, FloatArray]]] = {}
    locals_: list[Stack] = []
    local: list[bool] = []
    links: list[FloatArray] = []
    linked = any(m.family.hidden for m in mixtures)
    marginals: dict[int, Marginals] = {}
    for group in _groups(mixtures, order, alone=marginal):
        start = len(local)
        for i in group:
            stop = start + mixtures[i].n_components + (mixtures[i].noise is not None)
            candidates[i], start = slice(start, stop), stop
        m = together([mixtures[i] for i in group])
        frame, rows = frames[m.family.frame], slice(len(local), stop)
        narrow = m.family.expansion_error(m.components) > tolerated
        if narrow.any() and m.family.features is not m.family.local_features:
            narrow[:] = True
        local.extend(map(bool, narrow))
        if marginal:
            marginals[group[0]] = Marginals.of(m, frame, narrow)
        if linked:
            its = m.family.links(m.weights, m.components, frame.log_volume)
            links.append(np.tile([0.0, np.inf], (rows.stop - rows.start, 1)) if its is None else its)
        if narrow.any():
            locals_.extend(_local_stacks(m, frame, narrow, rows.start))
        if not narrow.all():
            theta = m.family.exponents(m.weights, m.components, frame.log_volume)
            parts = common.setdefault((m.family.frame, m.family.features.chain), [])
            for a, b in _runs(~narrow):
                parts.append((m.family.features, slice(rows.start + a, rows.start + b), theta[a:b]))
        if m.noise is not None:
            parts = common.setdefault((m.family.frame, m.family.features.chain), [])
            theta = m.noise.theta(m.family.features.size(m.n_features))
            parts.append((m.family.features, slice(rows.stop - 1, rows.stop), theta))
            local.append(False)
    stacks = [
        _join(frames[kind], parts) for kind in frames for (its_kind, _), parts in common.items() if kind == its_kind
    ]
    families = tuple(m.family for m in mixtures)
    noisy = tuple(m.noise is not None for m in mixtures)
    lacking = tuple(marginals[i] for i in range(len(mixtures))) if marginal else None
    every, bent = (*stacks, *locals_), np.concatenate(links) if linked else None
    return Plan(every, tuple(candidates), tuple(local), families, dtype, sharing, noisy, bent, marginals=lacking)


def _stack_key(mixture: Stackable) -> tuple[str, str, int]:
    family = mixture.family
    return family.frame, family.features.chain, family.features.size(mixture.n_features)


def _groups(mixtures: Sequence[Stackable], order: Sequence[int], *, alone: bool) -> Iterator[list[int]]:
    """Neighbours of one family whose components have nothing in common: what is made of these is made at once."""
    for family, its in groupby(order, key=lambda i: mixtures[i].family):
        group = list(its)
        several = family.separate and family.features is family.local_features
        if alone or not several or any(mixtures[i].noise is not None for i in group):
            yield from ([i] for i in group)
        else:
            yield group


def _runs(chosen: AnyArray) -> Iterator[tuple[int, int]]:
    """Start and stop of every run of True."""
    if chosen.all():
        yield 0, len(chosen)
        return
    edges = np.flatnonzero(np.diff(np.concatenate([[0], chosen.astype(np.int8), [0]])))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _local_stacks(m: Stackable, frame: Frame, narrow: AnyArray, start: int) -> Iterator[Stack]:
    family, d = m.family, m.n_features
    own = family.local_frames(m.components)
    theta = family.local_parameters(m.weights, m.components, frame.log_volume)
    for k in np.flatnonzero(narrow).tolist():
        forward = own.forwards[k] @ frame.forward if frame.forward.ndim == 2 else own.forwards[k] * frame.forward
        product = Product(slice(start + k, start + k + 1), theta[k : k + 1])
        features = family.local_features
        yield Stack(frame.origin, frame.to_data(own.origins[k]), forward, features, features.size(d), (product,))


def _join(frame: Frame, parts: list[tuple[FeatureMap, slice, FloatArray]]) -> Stack:
    """One stack; neighbouring rows with the same features become one product."""
    products: list[Product] = []
    for _, rows, theta in parts:
        last = products[-1] if products else None
        if last is not None and last.rows.stop == rows.start and last.theta.shape[1] == theta.shape[1]:
            products[-1] = Product(slice(last.rows.start, rows.stop), np.vstack([last.theta, theta]))
        else:
            products.append(Product(rows, theta))
    d = len(frame.origin)
    longest = max((features for features, _, _ in parts), key=lambda f: f.size(d))
    return Stack(frame.origin, None, frame.forward, longest, longest.size(d), tuple(products))
