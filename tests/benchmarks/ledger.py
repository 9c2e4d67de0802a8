"""What a ledger costs: ``python tests/benchmarks/ledger.py [--short]``.

Seconds of scoring stored rows by one thread, and of what the ledger adds to it, in the same run, so that what else the
machine does is in both: the fingerprint of the source, checksums, records and their files, what is left to do at the
end. Then what it takes to find that all regions are there, which is what a rerun does, and what `verify` takes. Nothing
here is asserted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

import dgmm
from dgmm.fits import Fit, Outcome, OutcomeKind
from dgmm.mixture import Mixture
from dgmm.scoring import bulk, entries, ledger, segments
from dgmm.store import save


@dataclass(frozen=True)
class Case:
    """Stored rows, in chunks of so many, and the components that score them."""

    n: int
    d: int
    k: int
    chunk: int
    probabilities: bool = False


CASES = {
    "large chunks": Case(8_000_000, 8, 8, 100_000),
    "few components": Case(8_000_000, 2, 2, 100_000),
    "many components": Case(1_000_000, 16, 64, 100_000),
    "probabilities": Case(2_000_000, 8, 16, 100_000, probabilities=True),
    "small chunks": Case(1_000_000, 8, 8, 4_096),
}


class Clock:
    """Seconds by what they are spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def of(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, whose time counts."""

        def timed(*given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*given, **named)
            finally:
                self.seconds[name] += time.perf_counter() - began

        return timed

    @contextmanager
    def parts(self) -> Iterator[None]:
        """Context in which what the ledger adds is timed."""
        places: list[tuple[Any, str, str]] = [
            (entries, "fingerprint", "fingerprint"),
            (ledger, "fingerprint", "fingerprint"),
            (segments, "checksum", "checksums"),
            (ledger.Recorder, "add", "records"),
            (ledger.Recorder, "flush", "records"),
            (ledger.Recorder, "before", "records"),
            (ledger.Ledger, "open", "records"),
            (ledger.Ledger, "begin", "records"),
            (ledger.Ledger, "load", "the end"),
            (bulk, "sweep", "the end"),
            (bulk, "write_ledger", "the end"),
        ]
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
        for owner, name, what in places:
            setattr(owner, name, self.of(what, getattr(owner, name)))
        try:
            yield
        finally:
            for owner, name, call in before:
                setattr(owner, name, call)


def fit(case: Case) -> Fit:
    """Unit covariances around random means."""
    means = np.random.default_rng(0).normal(size=(case.k, case.d))
    mixture = Mixture.gaussian("full", np.ones(case.k), means, np.tile(np.eye(case.d), (case.k, 1, 1)))
    features = tuple(map(str, range(case.d)))
    return Fit(mixture, -1.0, 10, 0, 1, Outcome(OutcomeKind.CONVERGED, 1), 0.0, (-1.0,), features)


def measure(case: Case, folder: Path) -> list[str]:
    """Lines of one case."""
    model, path, out = folder / "m.zarr", str(folder / "x.zarr"), str(folder / "s.zarr")
    save(fit(case), model)
    array = zarr.create_array(path, shape=(case.n, case.d), chunks=(case.chunk, case.d), dtype="f4")
    r = np.random.default_rng(0)
    for a in range(0, case.n, 100_000):
        array[a : a + 100_000] = r.standard_normal((min(100_000, case.n - a), case.d), dtype=np.float32)
    how: dict[str, Any] = {"probabilities": case.probabilities, "n_workers": 1, "scheduler": "threads"}
    dgmm.score(model, path, out, **how)  # compiles
    clock = Clock()
    with clock.parts():
        began = time.perf_counter()
        dgmm.score(model, path, out, **how, overwrite=True)
        seconds = time.perf_counter() - began
    added = sum(clock.seconds.values())
    alone = seconds - added
    regions = zarr.open_group(out, mode="r")["ledger"].attrs["regions"]
    told = ", ".join(f"{what} {value / alone:.2%}" for what, value in clock.seconds.items())
    lines = [f"{alone:.2f} s for {regions} regions, the ledger {added / alone:.2%} of that: {told}"]
    for what, options in {"structure": {}, "data": {"data": True}, "5 %": {"recompute": 0.05}}.items():
        began = time.perf_counter()
        verdict = dgmm.verify(out, **options, scheduler="threads", n_workers=1)
        assert verdict.is_sound, verdict
        lines.append(f"verify, {what}: {(time.perf_counter() - began) / alone:.2%} of scoring")
    return lines


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="see that it runs")
    short = parser.parse_args().short
    for name, case in CASES.items():
        n = case.n // 40 if short else case.n
        with tempfile.TemporaryDirectory() as folder:
            for told in measure(Case(n, case.d, case.k, case.chunk, case.probabilities), Path(folder)):
                print(f"{name}, {n} rows: {told}", flush=True)


if __name__ == "__main__":
    main()
