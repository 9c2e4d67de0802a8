"""From log joint densities to responsibilities: links, exponentials, and who may have which samples."""

from __future__ import annotations

import math

import numpy as np

from dgmm.estep.features import logarithms
from dgmm.estep.jit import CONTRACT, compiled
from dgmm.estep.posterior import LN2_HIGH, LN2_LOW, LOG2_E, LOWEST, divide, exponentials
from dgmm.estep.vectors import LANES, WIDTH, padded
from dgmm.types import FloatArray, IntArray

#: Samples whose sums over components are multiplied: so many are no infinite product, whatever the components.
SHARED = 192


@compiled(fastmath=CONTRACT)
def link(
    joint: FloatArray, n: int, d: int, links: FloatArray, logs: FloatArray, precisions: FloatArray,
    mantissa: FloatArray, power: IntArray,
) -> None:  # fmt: skip
    """Turn products, ``-delta / 2``, into log joint densities in rows with a link; see `Family.links`.

    ``logs`` gets ``log(1 + delta / nu)``, corrected for what is lost in the sum, and ``precisions`` the expected ones.
    """
    for k in range(len(links)):
        peak, nu = links[k, 0], links[k, 1]
        line, log, u = joint[k], logs[k], precisions[k]
        if nu == math.inf:
            for i in range(n):
                log[i] = 0.0
                u[i] = 1.0
            continue
        by, most, half = -2.0 / nu, 1.0 + d / nu, 0.5 * (nu + d)
        for i in range(n):
            line[i] = max(by * line[i], 0.0)
            u[i] = 1.0 + line[i]
        logarithms(u, n, log, mantissa, power)
        for i in range(n):
            log[i] += (line[i] - (u[i] - 1.0)) / u[i]
            line[i] = peak - half * log[i]
            u[i] = most / u[i]


@compiled(fastmath=CONTRACT)
def weigh(
    joint: FloatArray, n: int, logs: FloatArray, precisions: FloatArray, ones: FloatArray, hidden: FloatArray
) -> None:
    """Add the sums of r and of r times the logarithms to ``hidden`` (rows, 2), and turn r into r times the precisions.

    ``ones`` is memory of n numbers.
    """
    for i in range(n):
        ones[i] = 1.0
    for k in range(len(joint)):
        line, u = joint[k], precisions[k]
        hidden[k, 0] += np.dot(line[:n], ones[:n])
        hidden[k, 1] += np.dot(line[:n], logs[k, :n])
        for i in range(n):
            line[i] *= u[i]


@compiled(fastmath=CONTRACT)
def shifted_exponentials(joint: FloatArray, n: int, top: FloatArray, total: FloatArray, power: IntArray) -> None:
    """Turn the rows of ``joint`` into ``exp(joint - top)``; ``top`` gets their maximum, ``total`` their sum.

    The exponential is a Taylor polynomial of degree 12 on [-log(2)/2, log(2)/2], below one unit in the last place
    there, times a power of two put together from bits.
    """
    if LANES:
        joint[0, n:] = 0.0
        joint[1:, n:] = -math.inf
        a, b, c = joint.ctypes.data, top.ctypes.data, total.ctypes.data
        exponentials(a, joint.strides[0], len(joint), b, c, padded(n))
        return
    bits = power.view(np.float64)
    for i in range(n):
        top[i] = joint[0, i]
        total[i] = 0.0
    for k in range(1, len(joint)):
        line = joint[k]
        for i in range(n):
            top[i] = max(top[i], line[i])
    for k in range(len(joint)):
        line = joint[k]
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


@compiled(fastmath=CONTRACT)
def scale(joint: FloatArray, n: int, factors: FloatArray) -> None:
    """Multiply the columns of ``joint`` (K, n) by factors."""
    for k in range(len(joint)):
        line = joint[k]
        for i in range(n):
            line[i] *= factors[i]


@compiled(fastmath=CONTRACT)
def normalise(
    joint: FloatArray, n: int, weights: FloatArray, top: FloatArray, total: FloatArray, power: IntArray
) -> float:
    """Turn log joint densities (K, n) into responsibilities; returns the sum of the log densities.

    Both are times the samples' weights, if there are any.
    """
    result = 0.0
    if len(joint) == 1:
        for i in range(n):
            weight = weights[i] if len(weights) else 1.0
            result += weight * joint[0, i]
            joint[0, i] = weight
        return result
    shifted_exponentials(joint, n, top, total, power)
    if len(weights):
        for i in range(n):
            result += weights[i] * (top[i] + math.log(total[i]))
            total[i] = weights[i] / total[i]
        scale(joint, n, total)
        return result
    if LANES:
        found = power.view(np.float64)
        for start in range(0, n, SHARED):
            a, b, c = joint[:, start:].ctypes.data, top[start:].ctypes.data, total[start:].ctypes.data
            many = padded(min(SHARED, n - start))
            divide(a, joint.strides[0], len(joint), b, c, found.ctypes.data, many)
            for i in range(WIDTH):
                result += found[i] + math.log(found[WIDTH + i])
        return result
    product = 1.0  # sums are at least 1: many of them share one logarithm
    for i in range(n):
        result += top[i]
        product *= total[i]
        if product > 1e200:
            result += math.log(product)
            product = 1.0
        total[i] = 1.0 / total[i]
    scale(joint, n, total)
    return result + math.log(product)


@compiled(fastmath=CONTRACT)
def harden(joint: FloatArray, n: int, weights: FloatArray, top: FloatArray, best: IntArray) -> float:
    """Turn log joint densities (K, n) into one for the largest of each sample, the first of equals, and zeros.

    Returns the sum of the largest; both are times the samples' weights, if there are any.
    """
    for i in range(n):
        top[i] = joint[0, i]
        best[i] = 0
    for k in range(1, len(joint)):
        line = joint[k]
        for i in range(n):
            best[i] = k if line[i] > top[i] else best[i]
            top[i] = max(top[i], line[i])
    result = 0.0
    for i in range(n):
        weight = weights[i] if len(weights) else 1.0
        result += weight * top[i]
        top[i] = weight
    for k in range(len(joint)):
        line = joint[k]
        for i in range(n):
            line[i] = top[i] if best[i] == k else 0.0
    return result


@compiled()
def rule_out(joint: FloatArray, n: int, labels: IntArray, owners: IntArray) -> None:
    """Leave samples whose label is known, and not below zero, to the rows of ``joint`` that it owns."""
    for k in range(len(joint)):
        line = joint[k]
        for i in range(n):
            if labels[i] >= 0 and labels[i] != owners[k]:
                line[i] = -math.inf
