"""A device against the compiled kernel, side by side: ``python tests/benchmarks/device.py [--short] [--device gpu]``.

E-steps over rows in memory, and scores. The first column is the kernel on one core; a device computes on whatever it
has. Rows that stay on a device are not sent for the second pass; on the processor JAX keeps none. Nothing is asserted.
cuVS's own mixture has no Python face to be measured by.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from speed import clusters, in_turn, mixture_at
from tables import head, line

from dgmm.blas import one_blas_thread
from dgmm.devices import device_called
from dgmm.estep import accumulate, make_plan, placed, score
from dgmm.families import Moments, make_frame
from dgmm.rows import Rows

CASES = [
    ("full", 2, 3), ("full", 8, 8), ("full", 16, 16), ("full", 16, 64), ("full", 32, 32), ("full", 64, 64),
    ("diag", 16, 16),
]  # fmt: skip
#: Values of the rows of a case.
VALUES = 2**25


def measure(kind: str, d: int, k: int, device: str, *, n: int, repetitions: int) -> None:
    """A line of the table: how many times as fast the device is, and how far apart what they say."""
    x, centres = clusters(n, d, k)
    moments, mixture = Moments.of(x[: 10**5]), mixture_at(kind, centres)
    frame = make_frame(mixture.family.frame, moments.mean, moments.covariance)
    plans = [
        make_plan([mixture.to_frame(frame)], {mixture.family.frame: frame}, np.dtype(dtype))
        for dtype in ("float64", "float32")
    ]
    density, rows = mixture.density_plan(), Rows(x)
    began = time.perf_counter()
    there = accumulate(rows, plans[0].on(device))
    first, here = time.perf_counter() - began, accumulate(rows, plans[0])
    apart = max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(there.sums, here.sums, strict=True))
    cells: list[str] = []
    for plan in plans:
        sides: list[Callable[[], Any]] = [lambda p=p: accumulate(rows, p) for p in (plan, plan.on(device))]
        kernel, other = in_turn(repetitions, *sides)
        cells += [f"{n / kernel:.3g}", f"{kernel / other:.2f}"]
    kernel, other = in_turn(repetitions, *[lambda p=p: score(x, p) for p in (density, density.on(device))])
    line(f"{kind} ({d}, {k})", f"{n}", *cells, f"{kernel / other:.2f}", f"{first:.2f}", f"{apart:.0e}")


def widths(device: str, *, n: int) -> None:
    """How wide a slice is best: seconds of an E-step over the least, by what it takes."""
    sizes = [2**p for p in range(17, 26)]
    head("bytes of a slice: seconds over the least", "case", *(f"{size / 2**20:g} MiB" for size in sizes))
    for kind, d, k in CASES:
        x, centres = clusters(n // d, d, k)
        times = []
        for size in sizes:
            placed.SLICE_BYTES, placed.SLICE_SHARE = size, size / (device_called(device).memory or 1)
            plan = mixture_at(kind, centres).density_plan().on(device)
            accumulate(Rows(x), plan)
            began = [time.perf_counter() for _ in range(5) if accumulate(Rows(x), plan)]
            times.append(min(b - a for a, b in zip(began, [*began[1:], time.perf_counter()], strict=True)))
        line(f"{kind} ({d}, {k})", *(f"{t / min(times):.2f}" for t in times))


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer rows and repetitions")
    parser.add_argument("--device", default="jax", choices=["gpu", "jax"])
    parser.add_argument("--widths", action="store_true", help="only how wide slices should be")
    chosen = parser.parse_args()
    device = device_called(chosen.device)
    own = "" if device.memory is None else f", {device.memory / 2**30:.1f} GiB"
    print(f"{device.words}{own}; kernel on one of {os.cpu_count()} cores")
    if device.memory is None:
        print("This is no GPU: it says what JAX costs on these cores, and nothing of a GPU.")
    values = VALUES // 16 if chosen.short else VALUES
    with one_blas_thread:
        if chosen.widths:
            widths(chosen.device, n=values)
            return
        head(
            "E-steps and scores", "case", "rows", "kernel, rows/s", "device, times as fast", "kernel in float32",
            "device in float32", "scores", "first pass, s", "sums apart",
        )  # fmt: skip
        for kind, d, k in CASES:
            measure(kind, d, k, chosen.device, n=values // d, repetitions=3 if chosen.short else 7)


if __name__ == "__main__":
    main()
