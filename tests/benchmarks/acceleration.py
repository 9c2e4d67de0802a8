"""How many passes acceleration saves: ``python tests/benchmarks/acceleration.py [--short] [--rows N] [--only 1,4]``.

Every mixture climbs by every method from the same k-means start, on data made here; the last takes scores of a sample
of the rows, where they are many. Passes are counted, not timed,
so that the table is the same on every machine. Nothing here is asserted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from sklearn.cluster import KMeans

from dgmm.blas import one_blas_thread
from dgmm.datasets import old_faithful
from dgmm.em import Ascent
from dgmm.families import Frame, FrameKind, Moments, get_family, make_frame
from dgmm.rows import Rows
from dgmm.search.initialise import from_labels
from dgmm.search.sampled import Candidate, SampleRows, grounds_for

#: Nats per sample: arrived within this of the best limit; two limits further apart are different optima; and
#: what is still to come where the search for the limit ends.
CLOSE, APART, LIMIT = 1e-6, 1e-5, 1e-9
METHODS = ("none", "anderson", "scoring")
#: Rows of the sample that scores are taken of.
SAMPLE = 100_000


@dataclass(frozen=True)
class Case:
    """Data and the mixture fitted to them.

    Attributes
    ----------
    what : str
    kind : str
        Covariance type that is fitted.
    d, clusters, fitted : int
        Features, clusters in the data and components fitted.
    distance : float
        Root mean square distance of two centres, in standard deviations of a cluster.
    shape : str
        Of the clusters: "round", "oblique" (each has its own covariance), or "curve" (no clusters at all).
    """

    what: str
    kind: str
    d: int
    clusters: int
    fitted: int
    distance: float
    shape: str = "oblique"


CASES = [
    Case("apart", "full", 2, 3, 3, 12),
    Case("apart", "full", 8, 8, 8, 12),
    Case("apart", "full", 32, 16, 16, 10),
    Case("touching", "full", 4, 5, 5, 6),
    Case("touching", "full", 16, 16, 16, 5),
    Case("touching", "full", 32, 32, 32, 5),
    Case("overlapping", "full", 8, 8, 8, 3.5),
    Case("overlapping", "full", 2, 6, 6, 4),
    Case("heavily overlapping", "full", 2, 3, 3, 2),
    Case("heavily overlapping", "full", 8, 8, 8, 2.5),
    Case("overfitted", "full", 4, 3, 12, 8),
    Case("overfitted", "full", 8, 3, 30, 8),
    Case("curve", "full", 6, 0, 12, 0, "curve"),
    Case("overlapping", "tied", 8, 8, 8, 3, "round"),
    Case("Old Faithful", "tied", 2, 0, 3, 0, "faithful"),
    Case("touching", "diag", 16, 16, 16, 5, "round"),
    Case("overlapping", "diag", 8, 6, 20, 3),
    Case("curve", "diag", 6, 0, 24, 0, "curve"),
    Case("overlapping", "spherical", 4, 6, 6, 3, "round"),
]


def data_of(case: Case, n: int) -> np.ndarray:
    """Samples (n, d)."""
    r = np.random.default_rng(0)
    if case.shape == "faithful":
        ds = old_faithful()
        return np.stack([ds.eruptions.values, ds.waiting.values], axis=1)
    if case.shape == "curve":
        t = r.random(n) ** 2 * 6
        bend = np.stack([np.sin((j + 1) * t / 2 + j) * (j + 1) ** -0.5 for j in range(case.d)], axis=1)
        return bend + 0.05 * (1 + t[:, None]) * r.standard_normal((n, case.d))
    centres = case.distance / np.sqrt(2 * case.d) * r.standard_normal((case.clusters, case.d))
    labels = r.choice(case.clusters, size=n, p=r.dirichlet(np.full(case.clusters, 5.0)))
    x = r.standard_normal((n, case.d))
    if case.shape == "oblique":
        rotations = np.linalg.qr(r.standard_normal((case.clusters, case.d, case.d))).Q
        scales = np.exp(r.uniform(-0.7, 0.5, (case.clusters, 1, case.d)))
        x = np.einsum("nij,nj->ni", (rotations * scales)[labels], x)
    return x + centres[labels]


@dataclass(frozen=True)
class Run:
    """One method's way.

    Attributes
    ----------
    best : ndarray
        The best log-likelihood per sample so far, after each pass.
    stop : int or None
        Passes when the library's own criterion was met.
    stopped_at : float
        The best log-likelihood per sample then.
    estimate : float
        What it then said was still to come, per sample.
    arrived : bool
        Whether the limit was reached within the passes allowed.
    rejected : int
        Passes whose log-likelihood was below the best before.
    failed : bool
    """

    best: np.ndarray
    stop: int | None
    stopped_at: float
    estimate: float
    arrived: bool
    rejected: int
    failed: bool


def frame_of(moments: Moments, kind: FrameKind) -> Frame:
    """The frame of the rows."""
    return make_frame(kind, moments.mean, moments.covariance)


def run(case: Case, x: np.ndarray, method: str, most: int) -> Run:
    """Climb from the k-means start of the case until the limit or ``most`` passes."""
    rows = SampleRows(Rows(x), partial(frame_of, Moments.of(x)))
    ground = grounds_for([Candidate(case.fitted, case.kind)], rows.moments, rows.frame, 1e-6)[case.kind]
    standardised = (x - x.mean(axis=0)) / x.std(axis=0)
    labels = KMeans(case.fitted, n_init=1, max_iter=20, random_state=0).fit(standardised).labels_
    start = from_labels(get_family(case.kind), Rows(x), labels, case.fitted, ground)
    if method == "scoring":
        method, ground = "anderson", replace(ground, sample=rows.rows[:SAMPLE])
    ascent = Ascent(start, ground, LIMIT, method)  # type: ignore[arg-type]
    enough, ascent.least_gain = ascent.least_gain, 0.0  # on to the limit, whatever chance gives
    n, stop, stopped_at, estimate = len(x), None, np.nan, np.nan
    with one_blas_thread:
        while not ascent.done and len(ascent.trajectory) < most:
            ascent.update(rows.accumulate([ascent.proposal])[0])
            if stop is None and ascent.remaining_gain <= enough:
                stop, stopped_at = len(ascent.trajectory), ascent.log_likelihood / n
                estimate = ascent.remaining_gain / n
    values = np.array(ascent.trajectory)
    best = np.maximum.accumulate(values)
    rejected = int((values[1:] < best[:-1] - 1e-12 * np.abs(best[:-1])).sum())
    return Run(best / n, stop, stopped_at, estimate, ascent.converged, rejected, ascent.failure is not None)


def row_of(number: int, case: Case, runs: Sequence[Run], n: int) -> str:
    """A row of the table."""
    limit = max(r.best[-1] for r in runs)
    near, stops, gaps, rejected = [], [], [], []
    for r in runs:
        # one that was not there after all passes allowed may be on its way still
        other = "†" if r.arrived and r.best[-1] < limit - APART else ""
        target = r.best[-1] if other else limit
        there = r.best >= target - CLOSE
        near.append(f"{int(np.argmax(there)) + 1}{other}" if there.any() else f">{len(r.best)}")
        stops.append((str(r.stop) if r.stop else f">{len(r.best)}") + ("!" if r.failed else ""))
        gaps.append(f"{max(target - r.stopped_at, 0.0):.0e}{other} ({r.estimate:.0e})" if r.stop else "-")
        rejected.append(str(r.rejected))
    p = get_family(case.kind).n_parameters(case.fitted, case.d)
    what = f"{case.what}, {case.kind}, d={case.d}, K={case.fitted}"
    what += f" on {case.clusters}" if case.clusters and case.clusters != case.fitted else ""
    return f"| {number} | {what} | {' | '.join([*near, *stops, *gaps, *rejected])} | {5e-4 * p / n:.0e} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer rows and passes")
    parser.add_argument("--only", default="", help="numbers of the rows wanted, such as 1,4")
    parser.add_argument("--rows", type=int, default=12_000, help="rows of the data; scoring begins at some 800,000")
    options = parser.parse_args()
    n, most = (4000, 500) if options.short else (options.rows, 2000)
    wanted = {int(i) for i in options.only.split(",") if i}
    print(f"{n} samples; at most {most} passes. Passes to within {CLOSE:g} nats per sample of the best limit (near),")
    print("passes until the library's own criterion was met (stop), what was then still to come per sample and, in")
    print("brackets, what the library said it was (gap), passes below the best before (falls), and what the criterion")
    print("allows per sample (p/2000 nats in all). † another optimum, whose own limit counts; ! failed.")
    print()
    columns = [f"{m} {what}" for what in ("near", "stop", "gap", "falls") for m in METHODS]
    print(f"| | mixture | {' | '.join(columns)} | allowed |")
    print("|---" * (len(columns) + 3) + "|")
    for number, case in enumerate(CASES, 1):
        if not wanted or number in wanted:
            x = data_of(case, n)
            print(row_of(number, case, [run(case, x, m, most) for m in METHODS], len(x)), flush=True)


if __name__ == "__main__":
    main()
