"""The E-step in NumPy, slice by slice: for the features of any family, and the oracle of the compiled form."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dgmm.estep.plan import Plan
from dgmm.estep.totals import PassTotals, Scores
from dgmm.rows import Rows
from dgmm.types import AnyArray, FloatArray, IntArray

#: Samples of a slice.
WIDTH = 1024
#: Where the exponential is cut off, well away from denormal numbers.
LOWEST_EXPONENT = -700.0


class Plain:
    """The back end that takes every plan."""

    name = "plain"

    def takes(self, plan: Plan) -> bool:
        """Any plan."""
        return True

    def accumulate(self, rows: Rows, plan: Plan) -> PassTotals:
        """E-step of all mixtures of a plan over samples."""
        weights = rows.every_weight
        log_likelihoods = np.zeros(len(plan.candidates))
        sums, squares = [np.zeros_like(p.theta) for p in plan.products], np.zeros(plan.n_rows)
        hidden = np.zeros((plan.n_rows, 2))
        for part, joint, features, logs in slices(rows.x, plan):
            for c, place in enumerate(plan.candidates):
                if rows.labels is not None:
                    rule_out(joint[place], rows.labels[part], plan.owners[place])
                share_out = harden if plan.sharing.hard else normalise
                log_likelihoods[c] += share_out(joint[place], weights[part])
            squares += joint @ weights[part]
            if plan.links is not None:
                hidden += np.stack([joint.sum(axis=1), (joint * logs).sum(axis=1)], axis=1)
                joint *= precisions(logs, plan.links, plan.n_features)
            places = iter(sums)
            for stack, phi in zip(plan.stacks, features, strict=True):
                for product in stack.products:
                    total = next(places)
                    total += joint[product.rows] @ phi[: product.theta.shape[1]].T
        known = squares if rows.weights is not None else np.nan
        found = hidden if plan.links is not None else 0.0
        return PassTotals(float(weights.sum()), log_likelihoods, tuple(sums), squares=known, hidden=found)

    def buffer_bytes(self, plan: Plan) -> int:
        """Bytes of what is computed for a slice: coordinates, features, joint densities, and their copies."""
        sizes = sum(2 * plan.n_features + stack.size for stack in plan.stacks)
        return 8 * WIDTH * (plan.n_features + sizes + 4 * plan.n_rows)

    def score(self, x: AnyArray, plan: Plan, scores: Scores) -> None:
        """Scores of samples (n, d) by the one mixture of a plan, into arrays."""
        for place, joint, _, _ in slices(x, plan):
            scores.put_joint(place, joint)


def slices(x: AnyArray, plan: Plan) -> Iterator[tuple[slice, FloatArray, list[FloatArray], FloatArray]]:
    """Slices of samples with log joint densities (rows, n), features of every stack, and what `linked` returns."""
    for start in range(0, len(x), WIDTH):
        place = slice(start, min(start + WIDTH, len(x)))
        columns = x[place].T
        joint = np.empty((plan.n_rows, columns.shape[1]))
        features: list[FloatArray] = []
        for stack in plan.stacks:
            y = columns - stack.origin[:, None]
            y = y if stack.shift is None else y - stack.shift[:, None]
            y = stack.forward @ y if stack.forward.ndim == 2 else stack.forward[:, None] * y
            phi = stack.features.of(y)
            for product in stack.products:
                joint[product.rows] = product.theta @ phi[: product.theta.shape[1]]
            features.append(phi)
        yield place, joint, features, linked(joint, plan)


def linked(joint: FloatArray, plan: Plan) -> FloatArray:
    """Turn products into log joint densities; returns ``log(1 + delta / nu)``, zero in rows without a link."""
    if plan.links is None:
        return np.zeros((0, 0))
    logs = np.zeros_like(joint)
    for row in np.flatnonzero(np.isfinite(plan.links[:, 1])).tolist():
        peak, degrees = plan.links[row]
        logs[row] = np.log1p(np.maximum(-2 * joint[row], 0.0) / degrees)
        joint[row] = peak - 0.5 * (degrees + plan.n_features) * logs[row]
    return logs


def precisions(logs: FloatArray, links: FloatArray, n_features: int) -> FloatArray:
    """Expected hidden precisions ``(nu + d) / (nu + delta)``, one in rows without a link."""
    return (1 + n_features / links[:, 1:]) * np.exp(-logs)


def rule_out(joint: FloatArray, labels: IntArray, owners: IntArray) -> None:
    """Leave samples whose label is known to the components that it owns."""
    others = owners[:, None] != labels
    joint[others & (labels >= 0)] = -np.inf


def normalise(joint: FloatArray, weights: FloatArray) -> float:
    """Turn log joint densities (K, n) into weighted responsibilities; returns the weighted sum of log densities."""
    top = joint.max(axis=0)
    joint -= top
    np.maximum(joint, LOWEST_EXPONENT, out=joint)
    np.exp(joint, out=joint)
    total = joint.sum(axis=0)
    joint *= weights / total
    return float((weights * (np.log(total) + top)).sum())


def harden(joint: FloatArray, weights: FloatArray) -> float:
    """Turn log joint densities (K, n) into the weight at the largest of each sample, and zeros.

    Returns the weighted sum of the largest.
    """
    best, top = joint.argmax(axis=0), joint.max(axis=0)
    joint[:] = np.where(np.arange(len(joint))[:, None] == best, weights, 0.0)
    return float(weights @ top)
