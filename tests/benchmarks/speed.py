"""How fast a pass is, side by side with its peers: ``python tests/benchmarks/speed.py [--short] [--only 1,4]``.

Every line is a ratio measured in one run on one machine: both sides in turn, medians of the repetitions. Nothing
here is asserted; targets are for people to judge.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import dask
import dask.array
import numpy as np
import psutil
import xarray
import zarr
from peers import Start, jax, onedal, ours
from tables import head, line

import dgmm
from dgmm.blas import one_blas_thread
from dgmm.data import Grid, Layout, Samples, open_samples
from dgmm.data.fields import Field
from dgmm.data.sources import DECODERS
from dgmm.em import maximise
from dgmm.engine import Workers, open_workers
from dgmm.engine.fold import read_ahead, runs_of
from dgmm.engine.memory import BASE_BYTES, pass_bytes
from dgmm.engine.workers import threads
from dgmm.estep import accumulate, make_plan, score
from dgmm.families import FAMILIES, get_family
from dgmm.fits import Outcome, OutcomeKind, Training
from dgmm.fitting import passes_over
from dgmm.mixture import Mixture
from dgmm.passes import Passes
from dgmm.passes.estep import EStepSegment
from dgmm.passes.parts import Division
from dgmm.passes.profile import ProfileSegment
from dgmm.passes.sample import Draw
from dgmm.rows import Rows
from dgmm.search import Candidate, grounds_for
from dgmm.search.initialise import from_labels

CASES = [
    ("full", 2, 3),
    ("full", 4, 8),
    ("full", 8, 8),
    ("full", 8, 32),
    ("full", 16, 16),
    ("full", 16, 64),
    ("full", 32, 32),
    ("full", 64, 64),
    ("full", 128, 32),
    ("tied", 16, 16),
    ("diag", 16, 16),
    ("spherical", 16, 16),
]


def in_turn(repetitions: int, *sides: Callable[[], Any]) -> list[float]:
    """Median seconds of each side, run one after the other so that the machine's moods hit all alike."""
    times: list[list[float]] = [[] for _ in sides]
    for side in sides:
        side()
    for _ in range(repetitions):
        for side, kept in zip(sides, times, strict=True):
            time.sleep(0.2)  # BLAS threads spin for a while after the last product, on a core that is the other side's
            began = time.perf_counter()
            side()
            kept.append(time.perf_counter() - began)
    return [float(np.median(kept)) for kept in times]


#: Standard deviations between the centres of clusters, per coordinate: from 32 dimensions on most responsibilities
#: are zero at the first, none at the second.
APART, OVERLAPPING = 1.5, 0.3


def clusters(n: int, d: int, k: int, dtype: str = "float64", apart: float = APART) -> tuple[np.ndarray, np.ndarray]:
    """Unit Gaussian clusters (n, d) and their centres (k, d)."""
    r = np.random.default_rng(0)
    centres = apart * r.standard_normal((k, d))
    x = r.standard_normal((n, d), dtype=np.float32).astype(dtype, copy=False)
    x += centres[r.integers(k, size=n)].astype(dtype)
    return x, centres


def mixture_at(kind: str, centres: np.ndarray) -> Mixture:
    """Unit components at the centres."""
    k, d = centres.shape
    shapes = {
        "full": np.tile(np.eye(d), (k, 1, 1)),
        "tied": np.eye(d),
        "diag": np.ones((k, d)),
        "spherical": np.ones(k),
    }
    return Mixture.gaussian(kind, np.ones(k), centres, shapes[kind])


def sklearn_at(mixture: Mixture) -> Any:
    """The same mixture as scikit-learn's, as if fitted; its unit covariances are their own precision factors."""
    from sklearn.mixture import GaussianMixture  # here, for workers import this file too and need their memory

    model = GaussianMixture(mixture.n_components, covariance_type=mixture.covariance_type)
    model.weights_, model.means_ = mixture.weights, mixture.means
    model.covariances_ = model.precisions_cholesky_ = mixture.covariances
    return model


def sklearn_step(mixture: Mixture, x: np.ndarray) -> Callable[[], None]:
    """One E-step and one M-step of scikit-learn's, always from the same mixture."""

    def step() -> None:
        model = sklearn_at(mixture)
        _, log_responsibilities = model._e_step(x)
        model._m_step(x, log_responsibilities)

    return step


def passes_of(source: Any, workers: Any, *mixtures: Mixture) -> tuple[Passes, Callable[[], Any]]:
    """One pass of ours for all mixtures, from the same mixtures."""
    passes = passes_over(open_samples(source), workers, Training(sample_rows=10))
    inside = [m.to_frame(passes.profile.frame(m.family.frame)) for m in mixtures]
    return passes, lambda: passes.accumulate(inside)


def kernel_alone(passes: Passes, x: np.ndarray, mixture: Mixture) -> Callable[[], Any]:
    """The arithmetic of such a pass and nothing else: all rows in one call, on one thread."""
    frame = passes.frame(mixture.family.frame)
    plan = make_plan([mixture.to_frame(frame)], {mixture.family.frame: frame})

    def alone() -> None:
        with one_blas_thread:
            accumulate(Rows(x), plan)

    return alone


def e_step(mixture: Mixture) -> EStepSegment:
    """The leaf of a pass for one mixture."""
    return EStepSegment(mixture.density_plan(), Division(missing=False, holdout=0.0, seed=0, scale=1.0))


def scarce(workers: Workers, path: str, mixture: Mixture) -> Workers:
    """The same workers without memory to keep anything in: every pass reads the store."""
    samples = open_samples(path)
    profile = ProfileSegment(path, samples.features, samples.grid, Draw(10, 0), samples.row_bytes)
    need = max(pass_bytes(samples, leaf).total for leaf in (e_step(mixture), profile))
    # processes differ in what they need for themselves, and have results that wait to be fetched
    own = 0 if workers.client is None else BASE_BYTES + 2**25
    return replace(workers, memory=int((workers.threads_per_worker * need + 2**20 + own) / workers.paused))


def dgemm_speed() -> float:
    """Gflop/s of the machine's own matrix product, all cores."""
    a = np.random.default_rng(0).standard_normal((2000, 2000))
    (seconds,) = in_turn(5, lambda: a @ a)
    return 2 * 2000**3 / seconds / 1e9


def in_memory(short: bool, repetitions: int) -> None:
    """1. A pass in memory against a step of scikit-learn's, and against its own kernel's share of each thread."""
    speed, ratios, workers = dgemm_speed(), [], threads()
    head(
        "1. pass in memory : scikit-learn's step",
        "type (d, K)",
        "rows",
        "times faster",
        f"share of dgemm ({speed:.0f} Gflop/s)",
        "times faster, overlapping",
        f"pass : kernel on one thread / {workers.n_threads}",
    )
    for kind, d, k in CASES:
        size = int(np.clip((2e7 if short else 1e9) / (k * d * d + 50 * k), 4096 if short else 60_000, 2_000_000))
        times = []
        for apart in (APART, OVERLAPPING):
            x, centres = clusters(size, d, k, apart=apart)
            mixture = mixture_at(kind, centres)
            passes, ours = passes_of(x, workers, mixture)
            sides = sklearn_step(mixture, x), ours, kernel_alone(passes, x, mixture)
            times.append(in_turn(repetitions, *sides))
        flops = 4 * size * k * get_family(kind).features.size(d)
        ratios.append([theirs / mine for theirs, mine, _ in times])
        beside = times[1][1] * workers.n_threads / times[1][2]
        share = flops / times[0][1] / 1e9 / speed
        clear, overlapping = (f"{ratio:.1f}" for ratio in ratios[-1])
        line(f"{kind} ({d}, {k})", str(size), clear, f"{share:.0%}", overlapping, f"{beside:.2f}")
    full = [r for r, (kind, *_) in zip(ratios, CASES, strict=True) if kind == "full"]
    for what, some in (("full", full), ("all", ratios)):
        a, b = np.exp(np.mean(np.log(some), axis=0))
        line(f"geometric mean, {what}", "", f"{a:.1f}", "", f"{b:.1f}", "")


def streamed(short: bool, repetitions: int) -> None:
    """2. A pass streamed from compressed Zarr through a LocalCluster."""
    head("2. pass streamed from zstd-compressed float32 Zarr, LocalCluster, full (16, 16)", "against", "rows", "ratio")
    n = 100_000 if short else 4_000_000
    x, centres = clusters(n, 16, 16, "float32")
    mixture = mixture_at("full", centres)
    with folder() as place, open_workers("processes") as workers:
        write(f"{place}/x.zarr", x, 250_000)
        _, from_store = passes_of(f"{place}/x.zarr", scarce(workers, f"{place}/x.zarr", mixture), mixture)
        double = x.astype(np.float64)
        _, from_memory = passes_of(double, threads(), mixture)
        theirs, store, memory = in_turn(repetitions, sklearn_step(mixture, double), from_store, from_memory)
    line("scikit-learn in memory: times faster", str(n), f"{theirs / store:.1f}")
    line("dgmm in memory: times slower", str(n), f"{store / memory:.2f}")


def spark(short: bool, repetitions: int) -> None:
    """3. An iteration of Spark MLlib's, local[2], data cached."""
    head("3. pass in memory : an iteration of Spark MLlib's GaussianMixture", "full (d, K)", "rows", "times faster")
    try:
        import pyspark.ml.clustering
        from pyspark.ml.functions import array_to_vector
        from pyspark.sql import SparkSession, functions
    except ImportError:
        line("skipped: no pyspark", "", "")
        return
    if shutil.which("java") is None:
        line("skipped: no Java", "", "")
        return
    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.driver.memory", "4g")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    try:
        for d, k in [(2, 3), (8, 8)] if short else [(2, 3), (8, 8), (16, 16)]:
            n = 5_000 if short else 500_000
            x, centres = clusters(n, d, k)
            with folder() as place:
                import pandas as pd

                pd.DataFrame({"x": list(x)}).to_parquet(f"{place}/x.parquet")
                frame = session.read.parquet(f"{place}/x.parquet")
                frame = frame.select(array_to_vector(functions.col("x")).alias("features")).repartition(2).cache()
                frame.count()

                def fit(most: int, frame: Any = frame, k: int = k) -> tuple[float, int]:
                    began = time.perf_counter()
                    model = pyspark.ml.clustering.GaussianMixture(k=k, maxIter=most, tol=0.0, seed=1).fit(frame)
                    return time.perf_counter() - began, model.summary.numIter

                fit(2)
                per_iteration = []
                for _ in range(repetitions):
                    (a, few), (b, many) = fit(2), fit(12)
                    per_iteration.append((b - a) / (many - few))
                frame.unpersist()
            _, ours = passes_of(x, threads(), mixture_at("full", centres))
            (mine,) = in_turn(repetitions, ours)
            line(f"({d}, {k})", str(n), f"{np.median(per_iteration) / mine:.0f}")
    finally:
        session.stop()


def stack(short: bool, repetitions: int) -> None:
    """4. K = 1..16 in one pass."""
    head(
        "4. K = 1..16 in one pass, d = 16, full : the sum of 16 steps of scikit-learn's",
        "rows",
        "times faster",
        "share of dgemm",
    )
    n = 4_096 if short else 200_000
    x, centres = clusters(n, 16, 16)
    mixtures = [mixture_at("full", centres[:k]) for k in range(1, 17)]
    steps = [sklearn_step(m, x) for m in mixtures]
    _, ours = passes_of(x, threads(), *mixtures)
    speed = dgemm_speed()
    theirs, mine = in_turn(repetitions, lambda: [step() for step in steps], ours)
    flops = 4 * n * 136 * get_family("full").features.size(16)
    line(str(n), f"{theirs / mine:.1f}", f"{flops / mine / 1e9 / max(speed, dgemm_speed()):.0%}")


def memory(short: bool, repetitions: int) -> None:
    """5. Peak memory of the workers over stores larger than they are."""
    head("5. peak memory of a worker, full (16, 4), two workers of 600 MB", "store, MB", "peak, MB", "projected, MB")
    mixture = mixture_at("full", clusters(10, 16, 4)[1])
    with folder() as place:
        for times in (1,) if short else (3, 6):
            n = times * 1_200_000_000 // (16 * 4)
            path = f"{place}/x.zarr"
            write_repeated(path, n, 16, 100_000)
            with open_workers("processes", n_workers=2, memory_limit="600MB") as workers:
                _, ours = passes_of(path, workers, mixture)
                with watched(workers.client.run(os.getpid).values()) as peaks:
                    for _ in range(1 if short else 3):
                        ours()
            projected = BASE_BYTES + pass_bytes(open_samples(path), e_step(mixture)).total
            line(str(n * 64 // 10**6), f"{max(peaks) / 1e6:.0f}", f"{projected / 1e6:.0f}")
            shutil.rmtree(path)


def scoring(short: bool, repetitions: int) -> None:
    """6. Bulk scoring."""
    head("6. scoring to Zarr, full (16, 16), threads", "against", "rows", "ratio")
    n = 100_000 if short else 2_000_000
    x, centres = clusters(n, 16, 16, "float32")
    mixture = mixture_at("full", centres)
    model = sklearn_at(mixture)
    fit = dgmm.Fit(mixture, 0.0, n, 0, 0, Outcome(OutcomeKind.CONVERGED), 0.0, (), tuple(map(str, range(16))))
    with folder() as place:
        source, out = f"{place}/x.zarr", f"{place}/mine.zarr"
        write(source, x, 250_000)

        def theirs() -> None:
            def block(rows: np.ndarray) -> np.ndarray:
                p = model.predict_proba(rows)
                return np.stack([p.argmax(axis=1), p.max(axis=1), model.score_samples(rows)], axis=1)

            lazy = dask.array.from_zarr(source).astype(np.float64)
            result = lazy.map_blocks(block, chunks=(lazy.chunks[0], (3,)), dtype=np.float64, meta=np.empty((0, 3)))
            with dask.config.set(scheduler="threads"):
                result.to_zarr(f"{place}/theirs.zarr", overwrite=True)

        def mine() -> None:
            dgmm.score(fit, source, out, overwrite=True, scheduler="threads")

        a, b = in_turn(repetitions, theirs, mine)
        line("predict_proba + score_samples over a Dask array: times faster", str(n), f"{a / b:.1f}")
        line(f"{n / b:.3g} rows/s", str(n), "")

        stored, held = open_samples(source), open_samples(x)
        frame = passes_over(held, threads()).frame("whitening")
        plan = make_plan([mixture.to_frame(frame)], {"whitening": frame})
        scores = score(x, plan)
        values = {"label": scores.label, "probability": scores.probability, "log_density": scores.log_density}

        def evaluate(samples: Samples, run: range) -> None:
            with one_blas_thread:
                for i in run:
                    score(samples.read(samples.grid.region(i)), plan)

        def store(samples: Samples, run: range) -> None:
            group = zarr.open_group(out)
            for i in run:
                region = samples.grid.region(i)
                for name, value in values.items():
                    group[name][region] = value[region].astype(group[name].dtype, copy=False)

        whole, *parts = in_turn(
            repetitions,
            mine,
            lambda: over_runs(stored, threads(), read_run),
            lambda: over_runs(held, threads(), evaluate),
            lambda: over_runs(stored, threads(), store),
        )
        line("speed of (read + E-step + write), each alone: share reached", str(n), f"{sum(parts) / whole:.0%}")


def over_runs(samples: Samples, workers: Workers, work: Callable[[Samples, range], Any]) -> list[Any]:
    """Something done to the segments of every task, as those of a pass are shared out."""
    return workers.map(work, [(samples, run) for run in runs_of(samples, workers)])


def read_run(samples: Samples, run: range) -> None:
    """Read the segments of a run as a pass does, and nothing else."""
    for _ in read_ahead(samples, run, samples.read):
        pass


def small_chunks(short: bool, repetitions: int) -> None:
    """7. The same bytes in a hundred times as many chunks."""
    many, rows = (1_000, 100) if short else (100_000, 100)
    few = many // 100
    head(
        f"7. a pass over {many} chunks against {few} of the same bytes, full (8, 8), threads; seconds",
        "decoder",
        f"reading {many}",
        f"reading {few}",
        f"pass over {many}",
        f"pass over {few}",
        "times slower beyond reading",
    )
    x, centres = clusters(many * rows, 8, 8, "float32")
    mixture = mixture_at("full", centres)
    with folder() as place:
        for name, chunk in (("small", rows), ("large", rows * 100)):
            write(f"{place}/{name}.zarr", x, chunk)
        for decoder in DECODERS:
            sides: list[Callable[[], Any]] = []
            for name in ("small", "large"):
                samples = open_samples(f"{place}/{name}.zarr", decoder=decoder)
                workers = scarce(threads(), f"{place}/{name}.zarr", mixture)
                _, ours = passes_of(samples, workers, mixture)
                sides += [partial(over_runs, samples, workers, read_run), ours]
            read_small, small, read_large, large = in_turn(1 if short else 3, *sides)
            beyond = (small - read_small + read_large) / large
            line(decoder, *(f"{t:.2f}" for t in (read_small, read_large, small, large)), f"{beyond:.2f}")


@dataclass(frozen=True)
class Endless(Samples):
    """A source that always reads the same few rows."""

    def read(self, region: Any) -> np.ndarray:
        """The same rows for every segment."""
        return clusters(region[0].stop - region[0].start, self.n_features, 4)[0]


def many_segments(short: bool, repetitions: int) -> None:
    """8. A million chunks, each a segment of its own."""
    head(
        "8. a source of ever more chunks, LocalCluster, full (2, 4)",
        "chunks",
        "tasks a pass",
        "driver's memory, MB",
        "scheduler's tasks at the end",
        "microseconds a chunk",
    )
    mixture = mixture_at("full", clusters(10, 2, 4)[1])
    with open_workers("processes") as workers:
        for n in (100, 1_000) if short else (10_000, 100_000, 1_000_000):
            lazy = Field(np.zeros((16, 2)), ("row", "feature"), chunks=(16, 2))  # with chunks: not data in memory
            names, grid, coords = ("a", "b"), Grid((16 * n,), (16,)), xarray.Dataset()
            source = Endless("endless", ("row",), grid, names, (lazy,), "feature", coords, Layout())
            _, ours = passes_of(source, workers, mixture)
            with watched([os.getpid()]) as peaks:
                began = time.perf_counter()
                ours()
                seconds = time.perf_counter() - began
            tasks = workers.client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
            line(
                str(n),
                str(len(runs_of(source, workers))),
                f"{peaks[0] / 1e6:.0f}",
                str(tasks),
                f"{seconds / n * 1e6:.0f}",
            )


@contextmanager
def folder() -> Iterator[str]:
    """A temporary folder."""
    with tempfile.TemporaryDirectory() as place:
        yield place


@contextmanager
def watched(processes: Any) -> Iterator[list[int]]:
    """Peak resident bytes of processes while the context lasts."""
    found, stop = [psutil.Process(p) for p in processes], threading.Event()
    peaks = [0] * len(found)

    def watch() -> None:
        while not stop.wait(0.02):
            for i, process in enumerate(found):
                peaks[i] = max(peaks[i], process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    yield peaks
    stop.set()
    thread.join()


def write(path: str, x: np.ndarray, chunk: int) -> None:
    """An (n, d) array, zstd-compressed."""
    array = zarr.create_array(
        path, shape=x.shape, chunks=(min(chunk, len(x)), x.shape[1]), dtype=x.dtype, overwrite=True
    )
    array[:] = x


def write_repeated(path: str, n: int, d: int, chunk: int) -> None:
    """Chunks that are all the same noise: large to read, quick to write."""
    block = np.random.default_rng(0).integers(-30, 30, (chunk, d)).astype(np.float32)
    array = zarr.create_array(path, shape=(n, d), chunks=(chunk, d), dtype="float32")
    for start in range(0, n, chunk):
        array[start : start + chunk] = block[: n - start]


def families(short: bool, repetitions: int) -> None:
    """9. A pass of every family in memory against one of full covariances, and its M-step."""
    head("9. pass in memory, (8, 8) : that of full", "family", "times as long", "M-step, ms")
    r, k, d = np.random.default_rng(0), 8, 8
    labels = r.integers(k, size=20_000 if short else 500_000)
    # counts from one up may come from all of them
    x = 1.0 + r.poisson(r.uniform(5, 60, (k, d))[labels])
    few = slice(0, 10_000)

    def start_of(name: str) -> Mixture:
        family, passes = get_family(name), passes_over(open_samples(x), threads(), Training(sample_rows=10))
        candidate = Candidate(k, name)
        ground = grounds_for([candidate], passes.profile.moments, passes.frame, 1e-6)[name]
        return from_labels(family, Rows(x[few]), labels[few], k, ground).to_data(ground.frame)

    _, full = passes_of(x, threads(), start_of("full"))
    for name in [*FAMILIES, "factors:2"]:
        mixture = start_of(name)
        passes, ours = passes_of(x, threads(), mixture)
        ground = grounds_for([Candidate(k, name)], passes.profile.moments, passes.frame, 1e-6)[name]
        inside, (statistics,) = mixture.to_frame(ground.frame), ours()
        seconds, base, step = in_turn(repetitions, ours, full, partial(maximise, inside, statistics, ground))
        line(name, f"{seconds / base:.2f}", f"{1e3 * step:.2f}")


#: Iterations whose difference in time is that of single ones.
FEW, MANY = 1, 6


def iterations(short: bool, repetitions: int) -> None:
    """10. An iteration of EM, M-step and all, against oneDAL's and one in JAX, those that are installed."""
    others = {name: climb for name, climb in (("oneDAL", onedal()), ("JAX", jax())) if climb is not None}
    head("10. an EM iteration from the same start, overlapping", "type (d, K)", "rows", "ms", *others)
    sizes = [(2, 3, 1_000_000), (8, 8, 500_000), (16, 16, 300_000), (32, 32, 100_000), (64, 64, 50_000)]
    for kind, (d, k, n) in [*(("full", size) for size in sizes), *(("diag", size) for size in sizes[1:3])]:
        x, centres = clusters(n // 5 if short else n, d, k, apart=OVERLAPPING)
        start = Start.near(centres, kind)
        climbs = [ours, *others.values()]
        reached = [climb(x, start, MANY).log_likelihood(x) for climb in climbs]
        if max(reached) - min(reached) > 1e-9:
            raise RuntimeError(f"not the same after {MANY} iterations: mean log-likelihoods {reached}")
        sides = [partial(climb, x, start, times) for climb in climbs for times in (FEW, MANY)]
        times = np.reshape(in_turn(repetitions, *sides), (-1, 2))
        mine, *theirs = (times[:, 1] - times[:, 0]) / (MANY - FEW)
        line(f"{kind} ({d}, {k})", str(len(x)), f"{1e3 * mine:.1f}", *(f"{t / mine:.1f}" for t in theirs))


PARTS = {
    1: in_memory, 2: streamed, 3: spark, 4: stack, 5: memory, 6: scoring, 7: small_chunks, 8: many_segments,
    9: families, 10: iterations,
}  # fmt: skip


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="small cases: see that it runs")
    parser.add_argument("--only", default=",".join(map(str, PARTS)), help="parts, such as 1,4")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    names = ("dgmm", "numpy", "numba", "scikit-learn", "dask", "zarr")
    print(f"{os.cpu_count()} cores, Python {platform.python_version()},", end=" ")
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in names))
    for part in map(int, arguments.only.split(",")):
        PARTS[part](arguments.short, 1 if arguments.short else 5)


if __name__ == "__main__":
    main()
