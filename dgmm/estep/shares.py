"""From log joint densities to responsibilities: links, exponentials, and who may have which samples.

Rows of joint densities lie one after the other in flat memory, from a place ``at`` on, each ``filled`` long, of which
the first n numbers are those of samples.
"""

from __future__ import annotations

import math

import numpy as np

from dgmm.estep.features import logarithms
from dgmm.estep.jit import inlined
from dgmm.estep.posterior import LN2_HIGH, LN2_LOW, LOG2_E, LOWEST, divide, exponentials
from dgmm.estep.vectors import LANES, WIDTH
from dgmm.types import FloatArray, IntArray

#: Samples whose sums over components are multiplied: so many are no infinite product, whatever the components.
SHARED = 192


@inlined
def link(joint: FloatArray, filled: int, n: int, d: int, links: FloatArray, hidden: FloatArray) -> None:
    """Turn products, ``-delta / 2``, into log joint densities in rows with a link; see `Family.links`.

    ``hidden`` gets rows of ``log(1 + delta / nu)``, corrected for what is lost in the sum, and then as many of the
    expected precisions.
    """
    for k in range(len(links)):
        peak, nu, at, beyond = links[k, 0], links[k, 1], k * filled, (len(links) + k) * filled
        line, log, u = joint[at : at + n], hidden[at : at + n], hidden[beyond : beyond + n]
        if nu == math.inf:
            for i in range(n):
                log[i] = 0.0
                u[i] = 1.0
            continue
        by, most, half = -2.0 / nu, 1.0 + d / nu, 0.5 * (nu + d)
        for i in range(n):
            line[i] = max(by * line[i], 0.0)
            u[i] = 1.0 + line[i]
        logarithms(u, n, log)
        for i in range(n):
            log[i] += (line[i] - (u[i] - 1.0)) / u[i]
            line[i] = peak - half * log[i]
            u[i] = most / u[i]


@inlined
def weigh(
    joint: FloatArray, filled: int, n: int, n_rows: int, hidden: FloatArray, ones: FloatArray, sums: FloatArray
) -> None:
    """Add the sums of r and of r times the logarithms to ``sums`` (rows, 2), and turn r into r times the precisions.

    ``hidden`` is what `link` has made of it, ``ones`` memory of n numbers.
    """
    for i in range(n):
        ones[i] = 1.0
    for k in range(n_rows):
        at, beyond = k * filled, (n_rows + k) * filled
        line, u = joint[at : at + n], hidden[beyond : beyond + n]
        sums[k, 0] += np.dot(line, ones[:n])
        sums[k, 1] += np.dot(line, hidden[at : at + n])
        for i in range(n):
            line[i] *= u[i]


@inlined
def shifted_exponentials(
    joint: FloatArray, at: int, n_rows: int, filled: int, n: int, top: FloatArray, total: FloatArray, power: IntArray
) -> None:
    """Turn rows into ``exp(joint - top)``; ``top`` gets their maximum, ``total`` their sum.

    The exponential is a Taylor polynomial of degree 12 on [-log(2)/2, log(2)/2], below one unit in the last place
    there, times a power of two put together from bits.
    """
    bits = power.view(np.float64)
    for i in range(n):
        top[i] = joint[at + i]
        total[i] = 0.0
    for k in range(1, n_rows):
        line = joint[at + k * filled : at + k * filled + n]
        for i in range(n):
            top[i] = max(top[i], line[i])
    for k in range(n_rows):
        line = joint[at + k * filled : at + k * filled + n]
        for i in range(n):
            z = line[i] - top[i]
            z = max(z, LOWEST - 8.0)
            times = math.floor(z * LOG2_E + 0.5)
            r = (z - times * LN2_HIGH) - times * LN2_LOW
            p = 1 / 479001600.0
            p = p * r + 1 / 39916800.0
            p = p * r + 1 / 3628800.0
            p = p * r + 1 / 362880.0
            p = p * r + 1 / 40320.0
            p = p * r + 1 / 5040.0
            p = p * r + 1 / 720.0
            p = p * r + 1 / 120.0
            p = p * r + 1 / 24.0
            p = p * r + 1 / 6.0
            p = p * r + 0.5
            p = p * r + 1.0
            line[i] = p * r + 1.0 if z > LOWEST else 0.0
            power[i] = (np.int64(times) + 1023) << 52
        for i in range(n):
            line[i] *= bits[i]
            total[i] += line[i]


@inlined
def scale_samples(joint: FloatArray, at: int, n_rows: int, filled: int, n: int, factors: FloatArray) -> None:
    """Multiply what there is of every sample by a factor of its own."""
    for k in range(n_rows):
        line = joint[at + k * filled : at + k * filled + n]
        for i in range(n):
            line[i] *= factors[i]


@inlined
def normalise(
    joint: FloatArray, at: int, n_rows: int, filled: int, n: int, weights: FloatArray, start: int,
    top: FloatArray, total: FloatArray, power: IntArray, spare: FloatArray,
) -> float:  # fmt: skip
    """Turn log joint densities into responsibilities; returns the sum of the log densities.

    Both are times the samples' weights, from ``start`` on, if there are any. ``spare`` is memory for two vectors.
    """
    result = 0.0
    if n_rows == 1:
        line = joint[at : at + n]
        for i in range(n):
            weight = weights[start + i] if len(weights) else 1.0
            result += weight * line[i]
            line[i] = weight
        return result
    if LANES:
        exponentials(joint, at, n_rows, n, filled, top, total)
    else:
        shifted_exponentials(joint, at, n_rows, filled, n, top, total, power)
    if len(weights):
        for i in range(n):
            result += weights[start + i] * (top[i] + math.log(total[i]))
            total[i] = weights[start + i] / total[i]
        scale_samples(joint, at, n_rows, filled, n, total)
        return result
    if LANES:
        for first in range(0, n, SHARED):
            last = first + SHARED if first + SHARED < filled else filled
            divide(joint, at, n_rows, filled, top, total, first, last, spare)
            for i in range(WIDTH):
                result += spare[i] + math.log(spare[WIDTH + i])
        return result
    product = 1.0  # sums are at least 1: many of them share one logarithm
    for i in range(n):
        result += top[i]
        product *= total[i]
        if product > 1e200:
            result += math.log(product)
            product = 1.0
        total[i] = 1.0 / total[i]
    scale_samples(joint, at, n_rows, filled, n, total)
    return result + math.log(product)


@inlined
def harden(
    joint: FloatArray, at: int, n_rows: int, filled: int, n: int, weights: FloatArray, start: int,
    top: FloatArray, best: IntArray,
) -> float:  # fmt: skip
    """Turn log joint densities into one for the largest of each sample, the first of equals, and zeros.

    Returns the sum of the largest; both are times the samples' weights, from ``start`` on, if there are any.
    """
    for i in range(n):
        top[i] = joint[at + i]
        best[i] = 0
    for k in range(1, n_rows):
        line = joint[at + k * filled : at + k * filled + n]
        for i in range(n):
            best[i] = k if line[i] > top[i] else best[i]
            top[i] = max(top[i], line[i])
    result = 0.0
    for i in range(n):
        weight = weights[start + i] if len(weights) else 1.0
        result += weight * top[i]
        top[i] = weight
    for k in range(n_rows):
        line = joint[at + k * filled : at + k * filled + n]
        for i in range(n):
            line[i] = top[i] if best[i] == k else 0.0
    return result


@inlined
def rule_out(
    joint: FloatArray, at: int, n_rows: int, filled: int, n: int, labels: IntArray, start: int, owners: IntArray,
    first: int,
) -> None:  # fmt: skip
    """Leave samples whose label, from ``start`` on, is known, and not below zero, to the rows that it owns.

    ``first`` is the place of the first row's owner.
    """
    for k in range(n_rows):
        line = joint[at + k * filled : at + k * filled + n]
        for i in range(n):
            if labels[start + i] >= 0 and labels[start + i] != owners[first + k]:
                line[i] = -math.inf
