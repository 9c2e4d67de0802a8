"""What an E-step says: sums over a block of samples, or scores sample by sample."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dgmm.estep.plan import Plan
from dgmm.families import SufficientStatistics, with_hidden
from dgmm.types import FloatArray, IntArray


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
    squares : ndarray, shape (components of all candidates,)
        Sums of the responsibilities times the squares of the weights; NaN where there are no weights.
    base : ndarray, shape (candidates,)
        Sums of the families' base measures, which are part of the log-likelihoods and of nothing else.
    hidden : ndarray, shape (components of all candidates, 2)
        Where the plan has links, sums of r, and of r times the logarithms ``log(1 + delta / nu)``; `sums` of the first
        feature are those of r u in rows that are linked.
    lost : ndarray, shape (components of all candidates,)
        Sums of r times the entropies, in the component, of what is missing of the samples.
    """

    count: float
    log_likelihoods: FloatArray
    sums: tuple[FloatArray, ...]
    squares: FloatArray | float = np.nan
    base: FloatArray | float = 0.0
    hidden: FloatArray | float = 0.0
    lost: FloatArray | float = 0.0

    def with_base(self, base: FloatArray) -> PassTotals:
        """The same with sums of base measures."""
        return replace(self, base=base)

    def merge(self, other: PassTotals) -> PassTotals:
        """Totals of both."""
        sums = tuple(a + b for a, b in zip(self.sums, other.sums, strict=True))
        return PassTotals(
            self.count + other.count,
            self.log_likelihoods + other.log_likelihoods,
            sums,
            self.squares + other.squares,
            self.base + other.base,
            self.hidden + other.hidden,
            self.lost + other.lost,
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

    @classmethod
    def empty(cls, n: int, k: int, *, probabilities: bool) -> Scores:
        """Of n samples and k components, to be filled."""
        every = np.empty((n if probabilities else 0, k))
        return cls(np.empty(n, dtype=np.int64), np.empty(n), np.empty(n), every)

    def put(self, place: slice | IntArray, found: Scores) -> None:
        """What was found of some of the samples, in their places."""
        self.label[place], self.probability[place] = found.label, found.probability
        self.log_density[place] = found.log_density
        if len(self.probabilities):
            self.probabilities[place] = found.probabilities

    def put_joint(self, place: slice | IntArray, joint: FloatArray) -> None:
        """What log joint densities (K, m) of some of the samples say, in their places."""
        top = joint.max(axis=0)
        self.label[place] = joint.argmax(axis=0)
        joint = np.exp(joint - top)
        total = joint.sum(axis=0)
        self.probability[place], self.log_density[place] = 1 / total, top + np.log(total)
        if len(self.probabilities):
            self.probabilities[place] = (joint / total).T


def unpack(totals: PassTotals, plan: Plan, judged: PassTotals | None = None) -> list[SufficientStatistics]:
    """Statistics of each mixture, in the order in which the plan was given them.

    Those of the samples that are fitted, and the log-likelihood of others, which judge, if there are any.

    The responsibilities' entropy comes for free: log joint densities are linear in the features, so that their
    expectation is that of the features, the sums, times theta; or in logarithms, whose sums come with them.
    """
    rows: list[FloatArray] = [np.empty(0)] * plan.n_rows
    expected = np.empty(plan.n_rows)
    for product, sums in zip(plan.products, totals.sums, strict=True):
        expected[product.rows] = np.einsum("kp,kp->k", product.theta, sums)
        for row, values in zip(range(product.rows.start, product.rows.stop), sums, strict=True):
            rows[row] = values
    if plan.links is not None:
        _complete(rows, expected, totals, plan.links, plan.n_features)
    # what is missing is expected, too, and is not part of the densities
    expected += totals.lost
    local, squares = np.array(plan.local), np.broadcast_to(totals.squares, plan.n_rows)
    base = np.broadcast_to(totals.base, len(plan.candidates)).tolist()
    held_out = np.full(len(plan.candidates), np.nan) if judged is None else judged.log_likelihoods + judged.base
    return [
        SufficientStatistics(
            log_likelihood + of_base,
            totals.count,
            np.array(rows[c.start : c.stop - noisy]),
            local[c.start : c.stop - noisy],
            max(log_likelihood - float(expected[c].sum()), 0.0),
            held,
            float(rows[c.stop - 1][0]) if noisy else 0.0,
            squares[c.start : c.stop - noisy],
        )
        for c, noisy, log_likelihood, held, of_base in zip(
            plan.candidates, plan.noisy, totals.log_likelihoods.tolist(), held_out.tolist(), base, strict=True
        )
    ]


def _complete(
    rows: list[FloatArray], expected: FloatArray, totals: PassTotals, links: FloatArray, n_features: int
) -> None:
    """Put the sums of the complete data, and the expected log joint densities, into the rows that are linked."""
    hidden = np.asarray(totals.hidden)
    for row in np.flatnonzero(np.isfinite(links[:, 1])).tolist():
        (peak, degrees), (count, logs) = links[row], hidden[row]
        expected[row] = peak * count - 0.5 * (degrees + n_features) * logs
        one = slice(row, row + 1)
        (rows[row],) = with_hidden(rows[row][None], hidden[one, 0], hidden[one, 1], links[one, 1], n_features)
