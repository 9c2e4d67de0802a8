"""What a journal costs: ``python tests/benchmarks/journal.py [--short]``.

The seconds that a pass takes, and those that go into its record (its key, its bytes and digest, the flushed file), in
the same run, so that what else the machine does is in both. A pass over stored data of so many rows; of larger data the
share is smaller in proportion, since a record is of the size of the mixtures. Nothing here is asserted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from dgmm.data import fingerprint, open_samples
from dgmm.engine import Fold, Journaled, Leaf, open_workers
from dgmm.fits import Training
from dgmm.mixture import Mixture
from dgmm.passes import Passes, profile_of
from dgmm.store import Records, journal_at

TYPES = ("full", "tied", "diag", "spherical")


@dataclass(frozen=True)
class Case:
    """Stored rows, and the mixtures of a pass over them.

    Attributes
    ----------
    n, d : int
    mixtures : sequence of (str, int)
        Covariance type and number of components of each.
    """

    n: int
    d: int
    mixtures: Sequence[tuple[str, int]]


CASES = {
    "full (2, 3)": Case(4_000_000, 2, [("full", 3)]),
    "full (16, 16)": Case(1_000_000, 16, [("full", 16)]),
    "full (64, 64)": Case(200_000, 64, [("full", 64)]),
    "K = 1..12 of all types, d = 16": Case(1_000_000, 16, [(t, k) for t in TYPES for k in range(1, 13)]),
}


def mixture(kind: str, k: int, d: int) -> Mixture:
    """Unit covariances around random means."""
    covariances = {"full": np.tile(np.eye(d), (k, 1, 1)), "tied": np.eye(d), "diag": np.ones((k, d))}
    means = np.random.default_rng(k).normal(size=(k, d))
    return Mixture.gaussian(kind, np.ones(k), means, covariances.get(kind, np.ones(k)))


class Timed:
    """What records take, added up."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def of(self, call: Any) -> Any:
        """The same call, whose time counts."""

        def timed(*given: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*given)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


def measure(case: Case, folder: Path, n_passes: int) -> list[str]:
    """A line for the profile and one for an E-step."""
    path = str(folder / "x.zarr")
    array = zarr.create_array(path, shape=(case.n, case.d), chunks=(100_000, case.d), dtype="f4", overwrite=True)
    r = np.random.default_rng(0)
    for a in range(0, case.n, 100_000):
        array[a : a + 100_000] = r.standard_normal((min(100_000, case.n - a), case.d), dtype=np.float32)
    began = time.perf_counter()
    found = fingerprint(open_samples(path))
    told = [f"fingerprint of {array.nchunks} chunks: {time.perf_counter() - began:.4f} s"]
    samples, options, record = open_samples(path), Training(), Timed()
    with journal_at(folder / "j", found, {}) as records, open_workers("threads") as workers:
        journaled = Journaled(Fold(samples, workers, keep=False), records)
        write, key = Records.write, Leaf.key
        Records.write, Leaf.key = record.of(write), record.of(key)  # type: ignore[method-assign]
        try:
            began = time.perf_counter()
            passes = Passes(journaled, samples, profile_of(journaled, samples, options), options)
            told.append(line("profile", record, time.perf_counter() - began, 1, folder))
            mixtures = [mixture(kind, k, case.d) for kind, k in case.mixtures]
            mixtures = [m.to_frame(passes.frame(m.family.frame)) for m in mixtures]
            passes.accumulate(mixtures)  # compiles
            record.seconds = 0.0
            began = time.perf_counter()
            for _ in range(n_passes):
                passes.accumulate(mixtures)
            told.append(line("E-step", record, time.perf_counter() - began, n_passes, folder))
        finally:
            Records.write, Leaf.key = write, key  # type: ignore[method-assign]
    return told


def line(what: str, record: Timed, seconds: float, n: int, folder: Path) -> str:
    """What a pass and its record take."""
    size = sorted((folder / "j").glob("0*"))[-1].stat().st_size
    alone = seconds - record.seconds
    return (
        f"{what}: {alone / n:.3f} s a pass, {record.seconds / n * 1000:.1f} ms a record of {size / 2**20:.2f} MB: "
        f"{record.seconds / alone:.2%}"
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="see that it runs")
    short = parser.parse_args().short
    for name, case in CASES.items():
        small = Case(case.n // 40, case.d, case.mixtures) if short else case
        with tempfile.TemporaryDirectory() as folder:
            for told in measure(small, Path(folder), 2 if short else 5):
                print(f"{name}, {small.n} rows: {told}", flush=True)


if __name__ == "__main__":
    main()
