"""How good and how quick fits and selections are, side by side with scikit-learn's in memory.

``python tests/benchmarks/fitting.py [--short] [--only 1,2] [--search EFFORT]``. Nothing here is asserted; targets are
for people to judge.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
from profiles import ocean
from tables import head, line

import dgmm
from dgmm.families import DEFAULT
from dgmm.types import Effort

#: Rows, d, K, distance between centres in standard deviations (per coordinate), covariance type.
MIXTURES = [
    (1_000_000, 2, 3, 6.0, "full"),
    (1_000_000, 2, 8, 2.0, "full"),
    (500_000, 4, 5, 1.0, "full"),
    (500_000, 4, 16, 1.5, "full"),
    (500_000, 8, 8, 0.5, "full"),
    (500_000, 8, 8, 3.0, "diag"),
    (200_000, 8, 32, 1.0, "full"),
    (200_000, 16, 8, 0.3, "full"),
    (200_000, 16, 16, 1.0, "full"),
    (200_000, 16, 16, 0.5, "tied"),
    (100_000, 32, 8, 0.5, "full"),
    (100_000, 32, 32, 0.3, "diag"),
]


def mixture_rows(n: int, d: int, k: int, apart: float, seed: int = 0) -> np.ndarray:
    """Rows of a mixture of unequal weights and covariances, shape (n, d)."""
    r = np.random.default_rng(seed)
    centres = apart * r.standard_normal((k, d))
    shapes = np.eye(d) + 0.4 * r.standard_normal((k, d, d)) / np.sqrt(d)
    labels = r.choice(k, size=n, p=r.dirichlet(np.full(k, 5.0)))
    x = r.standard_normal((n, d))
    for j in range(k):
        its = labels == j
        x[its] = x[its] @ shapes[j] + centres[j]
    return x


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """A result and the seconds it took."""
    began = time.perf_counter()
    return function(), time.perf_counter() - began


def fits(short: bool, effort: Effort) -> None:
    """1. One mixture: passes and time to scikit-learn's log-likelihood."""
    from sklearn.mixture import GaussianMixture

    head(
        f"1. dgmm.train, search: {effort} : sklearn.mixture.GaussianMixture with its defaults, in memory",
        "type, n, d, K, apart",
        "its iterations",
        "our passes to its log-likelihood",
        "our passes",
        "gap per sample (positive: ours is better)",
        "times faster to its log-likelihood",
        "times faster to ours",
        "from one start: passes; times faster to its log-likelihood; gap",
    )
    ratios: list[tuple[float, float]] = []
    for n, d, k, apart, kind in MIXTURES:
        x = mixture_rows(n // 50 if short else n, d, k, apart)
        dgmm.train(x[:5000], k, kind, max_iter=2)  # compiles
        model, theirs = timed(
            lambda x=x, k=k, kind=kind: GaussianMixture(k, covariance_type=kind, random_state=0).fit(x)
        )
        reached = model.score(x)

        def ours(n_init: int | None, x=x, k=k, kind=kind, reached=reached) -> tuple[dgmm.Fit, float, str, float, float]:
            """The fit, its seconds, passes and seconds to where theirs ended, how much further it went."""
            fit, seconds = timed(lambda: dgmm.train(x, k, kind, n_init=n_init, search=effort))
            best = np.maximum.accumulate(fit.trajectory) / len(x)
            beaten = np.flatnonzero(best >= reached - 1e-9)
            later = sum(fit.seconds[beaten[0] + 1 :]) if len(beaten) else -np.inf
            return fit, seconds, str(beaten[0] + 1) if len(beaten) else "never", seconds - later, best[-1] - reached

        # a search makes as many starts as it takes for itself
        fit, seconds, passes, until, gap = ours(10 if effort == "starts" else None)
        _, _, passes_one, until_one, gap_one = ours(1)
        ratios.append((theirs / until, theirs / until_one))
        line(
            f"{kind}, {len(x)}, {d}, {k}, {apart}",
            f"{model.n_iter_}{'' if model.converged_ else ' (not converged)'}",
            passes,
            f"{fit.n_passes} ({fit.state.split()[0]})",
            f"{gap:+.1e}",
            f"{theirs / until:.1f}",
            f"{theirs / seconds:.1f}",
            f"{passes_one}; {theirs / until_one:.1f}; {gap_one:+.1e}",
        )
    medians = np.median(ratios, axis=0)
    line("median", "", "", "", "", f"{medians[0]:.1f}", "", f"{medians[1]:.1f}")


def selections(short: bool, effort: Effort) -> None:
    """2. A grid of K and covariance types."""
    from sklearn.mixture import GaussianMixture

    head(
        f"2. selection over K and all four types, search: {effort} : the same grid with scikit-learn in memory",
        "data, K",
        "its best BIC",
        "our best BIC",
        "reads of the data",
        "times faster",
    )
    profiles = ocean()
    known = mixture_rows(20_000 if short else 1_000_000, 3, 6, 3.0)
    top = 3 if short else 12
    dgmm.select(known[:5000], [2], max_iter=2)  # compiles
    for name, x in (("ocean profiles", profiles[::20] if short else profiles), ("six clusters in 3 dimensions", known)):

        def grid(x: np.ndarray = x) -> tuple[float, str]:
            found = []
            for kind in DEFAULT:
                for k in range(1, top + 1):
                    model = GaussianMixture(k, covariance_type=kind, random_state=0).fit(x)
                    found.append((model.bic(x), f"{kind} K = {k}"))
            return min(found)

        selection, ours = timed(lambda x=x: dgmm.select(x, range(1, top + 1), search=effort))
        (best, which), theirs = timed(grid)
        fit = selection.best
        line(
            f"{name}, {len(x)} rows, 1..{top}",
            f"{best:.1f} ({which})",
            f"{fit.bic:.1f} ({fit.covariance_type} K = {fit.n_components})",
            f"{selection.n_reads:g}",
            f"{theirs / ours:.1f}",
        )


PARTS = {1: fits, 2: selections}


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="small cases: see that it runs")
    parser.add_argument("--only", default=",".join(map(str, PARTS)), help="parts, such as 1")
    parser.add_argument("--search", default="starts", choices=get_args(Effort), help="what is tried on the sample")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for part in map(int, arguments.only.split(",")):
        PARTS[part](arguments.short, arguments.search)


if __name__ == "__main__":
    main()
