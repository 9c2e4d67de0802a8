"""What an update is worth beside a fit to old and new rows together: ``python tests/benchmarks/updates.py``.

For mixtures of five overlapping Gaussians in four dimensions, seed by seed: nats per sample below the fit to both, on
all rows and on others like the new ones, of the model of the old rows alone, of one update by all new rows, and of ten
updates by a tenth of them each.
"""

from __future__ import annotations

import argparse
import logging
import time

import numpy as np

import dgmm

#: Rows that nobody fits.
FRESH = 50_000


def drawn(n: int, generator: np.random.Generator, shape: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Rows of a mixture of centres and factors."""
    centres, factors = shape
    labels = generator.integers(len(centres), size=n)
    return centres[labels] + np.einsum("nij,nj->ni", factors[labels], generator.normal(size=(n, centres.shape[1])))


def main() -> None:
    """Print a row for each seed, and their means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--old", type=int, default=20_000)
    parser.add_argument("--new", type=int, default=10_000)
    parser.add_argument("--shift", type=float, default=0.0, help="By which centres of new rows, and of others, differ.")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    rows = []
    print("seed  all: old      update   ten      others: old      update   ten      seconds: update  both from old")
    for seed in range(asked.seeds):
        generator = np.random.default_rng(seed)
        shape = generator.normal(0, 1.5, (5, 4)), generator.normal(0, 0.6, (5, 4, 4)) + np.eye(4)
        later = shape[0] + asked.shift * generator.choice([-1.0, 1.0], shape[0].shape), shape[1]
        a = drawn(asked.old, generator, shape)
        b, others = (drawn(n, generator, later) for n in (asked.new, FRESH))
        both = np.vstack([a, b])
        old = dgmm.train(a, 5)
        began = time.perf_counter()
        new = dgmm.update(old, b)
        middle = time.perf_counter()
        best = dgmm.train(both, start=old)
        took = middle - began, time.perf_counter() - middle
        ten = old
        for part in np.array_split(b, 10):
            ten = dgmm.update(ten, part)
        gaps = [
            float((best.mixture.log_density(x) - fit.mixture.log_density(x)).mean())
            for x in (both, others) for fit in (old, new, ten)
        ]  # fmt: skip
        rows.append([*gaps, *took])
        print(f"{seed:4d}      " + "".join(f"{gap:9.1e}" for gap in gaps) + "".join(f"{t:8.2f}" for t in took))
    print("mean      " + "".join(f"{m:9.1e}" for m in np.mean(rows, axis=0)))


if __name__ == "__main__":
    main()
