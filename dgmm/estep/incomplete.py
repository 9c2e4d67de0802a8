"""The E-step over rows of which some values are missing, exact where they are missing at random.

Every component is a standard normal in coordinates ``u = W (x - mu)`` of its own. With zeros for what is missing, the
expectation of u given the values observed is ``u - Q Q' u``, where the columns of Q are an orthonormal basis of those
of W that belong to what is missing, ``W_m = Q R``; its covariance is ``Q Q'``, and the density of what is observed is
that of the complete row there, times ``(2 pi)^(m/2) / |det R|``. So each pattern of missing values takes a small QR
decomposition for each component, of however many rows there are of it, and nothing is ever squared or inverted. The
expected sums are what the M-step needs (Ghahramani and Jordan 1994).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from dgmm.estep.block import frozen
from dgmm.estep.jit import CONTRACT, compiled
from dgmm.estep.marginals import Marginals
from dgmm.estep.plain import harden, normalise, rule_out
from dgmm.estep.plan import Plan
from dgmm.estep.totals import PassTotals, Scores
from dgmm.rows import Rows
from dgmm.types import AnyArray, BoolArray, FloatArray, IntArray

LOG_2PI = float(np.log(2 * np.pi))
#: Rows that are sorted by pattern at a time, and numbers of what is found of some of these for all components.
PIECE, SLICE = 8192, 2**19
#: A smaller responsibility is zero: what it is multiplied by would leave the normal range.
NOTHING = 1e-100


@compiled(fastmath=CONTRACT)
def project(
    u: FloatArray, joint: FloatArray, columns: FloatArray, lacking: IntArray, first: IntArray, starts: IntArray,
    q: FloatArray, gains: FloatArray, along: FloatArray,
) -> None:  # fmt: skip
    """Expect ``u`` (K, d, n) given what is observed, and turn ``joint`` (K, n) from peaks into log densities.

    Parameters
    ----------
    columns : ndarray, shape (K, d, d)
        The columns of W, one after the other.
    lacking, first : ndarray of int
        Features that are missing, pattern by pattern, and where those of each begin.
    starts : ndarray of int, shape (patterns + 1,)
        Where the rows of each pattern begin.
    q : ndarray, shape (K, all that lack, d)
        Where the bases go.
    gains : ndarray, shape (K, patterns)
        Where the logarithms of ``(2 pi)^(m/2) / |det R|`` go.
    along : ndarray, shape (n,)
        Memory.
    """
    n_components, d, _ = u.shape
    for k in range(n_components):
        for p in range(len(starts) - 1):
            gain, begin, end = 0.0, starts[p], starts[p + 1]
            for a in range(first[p], first[p + 1]):
                line, column = q[k, a], columns[k, lacking[a]]
                for j in range(d):
                    line[j] = column[j]
                # modified Gram-Schmidt, twice, which is enough (Giraud et al. 2005)
                for _ in range(2):
                    for b in range(first[p], a):
                        other, dot = q[k, b], 0.0
                        for j in range(d):
                            dot += other[j] * line[j]
                        for j in range(d):
                            line[j] -= dot * other[j]
                norm = 0.0
                for j in range(d):
                    norm += line[j] * line[j]
                norm = np.sqrt(norm)
                for j in range(d):
                    line[j] /= norm
                gain += 0.5 * LOG_2PI - np.log(norm)
                along[begin:end] = 0.0
                for j in range(d):
                    factor, values = line[j], u[k, j]
                    for i in range(begin, end):
                        along[i] += factor * values[i]
                for j in range(d):
                    factor, values = line[j], u[k, j]
                    for i in range(begin, end):
                        values[i] -= factor * along[i]
            gains[k, p] = gain
            along[begin:end] = 0.0
            for j in range(d):
                values = u[k, j]
                for i in range(begin, end):
                    along[i] += values[i] * values[i]
            for i in range(begin, end):
                joint[k, i] += gain - 0.5 * along[i]


@dataclass(frozen=True)
class Patterns:
    """Which values are missing, of rows that are sorted by that.

    Attributes
    ----------
    missing : ndarray of bool, shape (n, d)
    starts : ndarray of int, shape (patterns + 1,)
        Where the rows of each pattern begin.
    """

    missing: BoolArray
    starts: IntArray

    @classmethod
    def of(cls, missing: BoolArray) -> Patterns:
        """Of sorted rows."""
        new = np.flatnonzero((missing[1:] != missing[:-1]).any(axis=1)) + 1
        return cls(missing, np.concatenate([[0], new, [len(missing)]]).astype(np.int64))

    def slices(self, n_components: int) -> Iterator[slice]:
        """Rows of which all that is found for so many components is no more than `SLICE` numbers, or one row."""
        n, d = self.missing.shape
        sizes = np.full(n, 3 * d, dtype=np.int64)
        sizes[self.starts[:-1]] += d * self.missing[self.starts[:-1]].sum(axis=1)
        ends, room, start = np.cumsum(sizes), max(1, SLICE // n_components), 0
        while start < n:
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + room, side="right")))
            yield slice(start, stop)
            start = stop

    def __getitem__(self, rows: slice) -> Patterns:
        return Patterns.of(self.missing[rows])

    @property
    def lacking(self) -> tuple[IntArray, IntArray]:
        """Features that are missing, pattern by pattern, and where those of each begin."""
        patterns, features = np.nonzero(self.missing[self.starts[:-1]])
        counts = np.bincount(patterns, minlength=len(self.starts) - 1)
        return features.astype(np.int64), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


@dataclass(frozen=True)
class Expected:
    """What a mixture says of some rows of which values are missing.

    Attributes
    ----------
    patterns : Patterns
    joint : ndarray, shape (K, n) or (K + 1, n)
        Logarithms of the joint densities of components, noise last, and what is observed.
    u : ndarray, shape (K, d, n)
        Expected, in every component's own coordinates.
    gains : ndarray, shape (K, patterns) or (K + 1, patterns)
        By how much the density of what is observed is larger than that of the complete row that is expected.
    q : ndarray, shape (K, all that lack, d), or None
        Bases of what is missing; None where these are axes.
    first : ndarray of int, shape (patterns + 1,)
        Where those of each pattern begin.
    """

    patterns: Patterns
    joint: FloatArray
    u: FloatArray
    gains: FloatArray
    q: FloatArray | None
    first: IntArray

    @classmethod
    def of(cls, x: AnyArray, patterns: Patterns, its: Marginals) -> Expected:
        """Of rows ``x`` (n, d), sorted by pattern."""
        there = np.ascontiguousarray(~patterns.missing.T)
        centred = np.where(there, np.ascontiguousarray(x.T) - its.origin[:, None], 0.0)
        away = centred - its.shifts[:, :, None]
        away *= there
        lacking, first = patterns.lacking
        lengths, n_components = np.diff(patterns.starts), len(its.shifts)
        joint = np.repeat(its.peaks[:, None], len(x), axis=1)
        gains = np.zeros((len(its.peaks), len(lengths)))
        where = patterns.missing[patterns.starts[:-1]]
        if its.noise is not None:
            gains[-1] = where @ its.noise.log_lengths
            joint[-1] += np.repeat(gains[-1], lengths)
        if its.forwards.ndim == 2:
            u = its.forwards[:, :, None] * away
            gains[:n_components] = (0.5 * LOG_2PI - np.log(its.forwards)) @ where.T
            joint[:n_components] += np.repeat(gains[:n_components], lengths, axis=1) - 0.5 * (u**2).sum(axis=1)
            return cls(patterns, joint, u, gains, None, first)
        u = its.forwards @ away
        q = np.empty((n_components, len(lacking), x.shape[1]))
        cls._project(u, joint, its, patterns, q, gains)
        return cls(patterns, joint, u, gains, q, first)

    def along(self, normal: FloatArray, its: Marginals) -> FloatArray:
        """The part of standard normal numbers (n, d) that is along what is missing, shape (K, d, n)."""
        if self.q is None:
            return np.where(self.patterns.missing, normal, 0.0).T[None]
        every = np.tile(normal.T, (len(its.shifts), 1, 1))
        rest, joint = every.copy(), np.zeros_like(self.joint)
        self._project(rest, joint, its, self.patterns, np.empty_like(self.q), np.empty_like(self.gains))
        return every - rest

    @staticmethod
    def _project(
        u: FloatArray, joint: FloatArray, its: Marginals, patterns: Patterns, q: FloatArray, gains: FloatArray
    ) -> None:
        lacking, first = patterns.lacking
        columns, starts = frozen(its.columns), frozen(patterns.starts)
        project(u, joint, columns, frozen(lacking), frozen(first), starts, q, gains, np.empty(u.shape[2]))

    def second(self, weights: FloatArray) -> FloatArray:
        """Sums of ``E[u u']`` over rows that count so much, (K, n): shape (K, d, d), or (K, d) where bases are axes."""
        shares = np.add.reduceat(weights, self.patterns.starts[:-1], axis=1)
        if self.q is None:
            where = self.patterns.missing[self.patterns.starts[:-1]]
            return np.einsum("kn,kdn->kd", weights, self.u**2) + shares @ where
        second = (self.u * weights[:, None]) @ np.swapaxes(self.u, 1, 2)
        shares = np.repeat(shares, np.diff(self.first), axis=1)
        return second + np.swapaxes(self.q * shares[:, :, None], 1, 2) @ self.q


def expected_rows(x: AnyArray, its: Marginals) -> Iterator[tuple[IntArray | slice, Expected]]:
    """Rows (n, d) of which values are missing, some at a time, and what a mixture says of them."""
    for place, part, patterns in pieces(x):
        for some in patterns.slices(len(its.shifts)):
            rows = slice(place.start + some.start, place.start + some.stop) if isinstance(place, slice) else place[some]
            yield rows, Expected.of(part[some], patterns[some], its)


def pieces(x: AnyArray) -> Iterator[tuple[IntArray | slice, FloatArray, Patterns]]:
    """Rows some at a time, in double precision and sorted by what is missing, with where they were."""
    for start in range(0, len(x), PIECE):
        part = np.asarray(x[start : start + PIECE], dtype=np.float64)
        missing, order = np.isnan(part), by_pattern(part)
        if order is None:
            yield slice(start, start + len(part)), part, Patterns.of(missing)
        else:
            yield start + order, part[order], Patterns.of(missing[order])


def by_pattern(x: AnyArray) -> IntArray | None:
    """The order (n,) of rows by what is missing of them, complete ones first; None if they are in it already."""
    packed = np.packbits(np.isnan(x), axis=1)
    words = np.zeros((len(x), -(-packed.shape[1] // 8) * 8), dtype=np.uint8)
    words[:, : packed.shape[1]] = packed
    keys = words.view(np.uint64)
    order = np.argsort(keys[:, 0], kind="stable") if keys.shape[1] == 1 else np.lexsort(keys.T[::-1])
    return None if (order[1:] > order[:-1]).all() else order


def accumulate_incomplete(rows: Rows, plan: Plan) -> PassTotals:
    """E-step of all mixtures of a plan over rows of which values are missing, but not all."""
    assert plan.marginals is not None
    log_likelihoods, squares, lost = np.zeros(len(plan.candidates)), np.zeros(plan.n_rows), np.zeros(plan.n_rows)
    sums = np.zeros((plan.n_rows, max(p.theta.shape[1] for p in plan.products)))
    weights, share_out = rows.every_weight, harden if plan.sharing.hard else normalise
    for c, (place, its) in enumerate(zip(plan.candidates, plan.marginals, strict=True)):
        k, d = its.shifts.shape
        counts, first, second = np.zeros(k + (its.noise is not None)), np.zeros((k, d)), np.zeros(its.forwards.shape)
        for some, found in expected_rows(rows.x, its):
            if rows.labels is not None:
                rule_out(found.joint, rows.labels[some], plan.owners[place])
            log_likelihoods[c] += share_out(found.joint, weights[some])
            r = found.joint
            r[r < NOTHING] = 0.0
            counts += r.sum(axis=1)
            first += (found.u @ r[:k, :, None])[..., 0]
            second += found.second(r[:k])
            squares[place] += r @ weights[some]
            by_run = np.add.reduceat(r, found.patterns.starts[:-1], axis=1)
            lost[place] += (by_run * found.gains).sum(axis=1)
            lost[place][:k] += 0.5 * by_run[:k] @ np.diff(found.first)
        sums[place, 0] = counts
        packed = its.packed(counts[:k], first, second)
        sums[place][:k, : packed.shape[1]] = packed[:, : sums.shape[1]]
    by_product = tuple(sums[p.rows, : p.theta.shape[1]] for p in plan.products)
    known = squares if rows.weights is not None else np.nan
    return PassTotals(rows.count, log_likelihoods, by_product, squares=known, lost=lost)


def score_incomplete(x: AnyArray, plan: Plan, places: IntArray, scores: Scores) -> None:
    """Scores of rows (n, d) of which values are missing, but not all, into arrays, at these places of theirs."""
    assert plan.marginals is not None
    (its,) = plan.marginals
    for some, found in expected_rows(x, its):
        scores.put_joint(places[some], found.joint)


def incomplete_bytes(plan: Plan) -> int:
    """Bytes that one thread takes for rows of which values are missing, beside samples and totals."""
    if plan.marginals is None:
        return 0
    of_rows = PIECE * (26 * plan.n_features + 64 + 24 * plan.n_rows)
    return of_rows + 3 * 8 * max(SLICE, plan.n_rows * plan.n_features * (plan.n_features + 3))


def completed(x: AnyArray, plan: Plan, draws: tuple[FloatArray, FloatArray] | None = None) -> FloatArray:
    """Rows (n, d) with what the one mixture of a plan expects where values are missing; the others as they are.

    Parameters
    ----------
    x : ndarray, shape (n, d)
    plan : Plan
        Marginal. Noise is anywhere in its box, whatever is observed, and counts by its probability.
    draws : tuple of ndarray, shapes (n,) and (n, d), optional
        Numbers uniform between 0 and 1 and standard normal ones: values are drawn by these, a component first, in the
        place of their expectations.
    """
    assert plan.marginals is not None
    if plan.transform is not None:
        made = completed(plan.transform(x, incomplete=True), plan.after_transform, draws)
        return np.where(np.isnan(x), plan.transform.inverse(made), x)
    (its,) = plan.marginals
    found = np.array(x, dtype=np.float64)
    for some, at in expected_rows(found, its):
        shares = np.exp(at.joint - at.joint.max(axis=0))
        shares /= shares.sum(axis=0)
        u, anywhere = at.u, None if its.noise is None else its.noise.mean
        if draws is not None:
            uniform, normal = draws[0][some], draws[1][some]
            chosen = (np.cumsum(shares, axis=0)[:-1] < uniform).sum(axis=0)
            shares = (np.arange(len(shares))[:, None] == chosen).astype(np.float64)
            u = u + at.along(normal, its)
            if its.noise is not None:
                anywhere = its.noise.minimum + ndtr(normal) * (its.noise.maximum - its.noise.minimum)
        values = its.origin + np.einsum("kn,knd->nd", shares[: len(u)], its.values(u))
        if anywhere is not None:
            values += shares[-1][:, None] * (anywhere - its.origin)
        found[some] = np.where(at.patterns.missing, values, found[some])
    return found
