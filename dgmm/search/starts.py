"""Starts that have climbed on the in-memory sample of rows, where a pass costs next to nothing.

All starts of all candidates first climb on a few rows, stacked; the best starts of each converge there, and the
best one goes on with larger and larger samples.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from dask.system import CPU_COUNT

from dgmm.em import Ascent, Ground, climb
from dgmm.errors import InputError
from dgmm.estep import SOFT, Sharing
from dgmm.families import Frame, FrameKind, Moments, Noise, get_family
from dgmm.fits import CriterionTerms, Outcome, OutcomeKind, Spread, Training
from dgmm.mixture import Mixture
from dgmm.passes import Profile
from dgmm.search.initialise import Given, from_labels, start_labels
from dgmm.search.path import BUDGETS, Path
from dgmm.search.sampled import Candidate, SampleRows, grounds_for, is_sound
from dgmm.types import Acceleration, Criterion, FloatArray

logger = logging.getLogger("dgmm")

#: Starts of each candidate by default: by themselves; beside a path so many at least and at most, and between these as
#: many as make so many responsibilities in a pass, those of all candidates together.
ALONE, BESIDE, BESIDE_AT_MOST, TOGETHER = 10, 3, 30, 500_000
#: All starts make this many passes over the start rows; this many of them go on (Biernacki et al. 2003).
START_PASSES, STARTS_KEPT = 20, 3
#: A candidate is ruled out if the sample prefers another by this much beyond what it can still gain, on the scale of -2
#: log-likelihood: a sample of any size is hardly mistaken by 50 nats.
CERTAIN = 100.0
#: Passes over each larger sample, and the share of p/2 nats that may be missing there: what a sample of m rows
#: leaves undecided is p/2 nats in any case.
SAMPLE_PASSES, SAMPLE_TOLERANCE = 200, 0.02
#: Each sample is about this much larger than the one before.
SAMPLE_GROWTH = 8


@dataclass(frozen=True)
class Starts:
    """What the climb on the sample has come to.

    Attributes
    ----------
    mixtures : dict
        Candidate -> its best start, in frame coordinates.
    failures : dict
        Candidate -> what has become of it, where there is none.
    attainable : dict
        Candidates that cannot win on the sample -> what they might still have gained there, in nats per sample.
    spreads : dict
        Candidate -> what the search has seen of its tops.
    rivals : dict
        Candidate -> other tops, in frame coordinates, of which the sample cannot tell whether they are lower.
    """

    mixtures: dict[Candidate, Mixture]
    failures: dict[Candidate, Outcome]
    attainable: dict[Candidate, float]
    spreads: dict[Candidate, Spread]
    rivals: dict[Candidate, tuple[Mixture, ...]]


def start_on_sample(
    profile: Profile,
    candidates: Sequence[Candidate],
    options: Training,
    frame: Callable[[FrameKind], Frame],
    given: Given | None = None,
    *,
    criterion: Criterion | None = None,
    n_threads: int = CPU_COUNT,
    sharing: Sharing = SOFT,
    noise: Noise | None = None,
) -> Starts:
    """The best of ``n_init`` starts of every candidate, converged on the sample, in frame coordinates.

    After some passes of all starts, a candidate that cannot become as good as the best by a criterion goes no further.

    Parameters
    ----------
    profile : Profile
    candidates : sequence of Candidate
        A single component has its optimum in closed form and needs no start.
    options : Training
    frame : callable
        The frame of each kind.
    given : Given, optional
        Parts of every start; where there are any, all candidates share their shapes.
    criterion : Criterion, optional
        None where every candidate is wanted for its own sake.
    n_threads : int
        That work at a time; as many as there are cores by default.
    sharing : Sharing
        How rows are shared out among components.
    noise : Noise, optional
        What every start has beside its components; where there is any, a single component needs starts, too.

    Returns
    -------
    Starts
    """
    several = [c for c in candidates if c.n_components > 1 or noise is not None]
    searches = options.searches and given is None
    sizes = sample_sizes(options, len(profile.sample.rows))
    failures: dict[Candidate, Outcome] = {}
    ascents: list[tuple[Candidate, Ascent]] = []
    best: dict[Candidate, Ascent] = {}
    spreads: dict[Candidate, Spread] = {}
    paths: list[Path] = []
    screening = Screening(criterion, profile.n_samples, options.reg_covar)
    if several:
        small = SampleRows(profile.sample.first(sizes[0]), frame, n_threads, sharing)
        x, weights = small.filled.x, small.rows.weights
        grounds = grounds_for(
            several, small.moments, frame, options.reg_covar, options.fixed, sharing, options.prior, noise,
            marginal=small.marginal,
        )  # fmt: skip
        own = [get_family(name).view(x) for name in dict.fromkeys(c.covariance_type for c in several)]
        views = [*(view for view in own if view is not None), *views_of(x, profile.moments, frame)]
        n_init = 1 if given is not None and given.complete else options.n_init or ALONE
        if searches and options.n_init is None:
            n_init = starts_beside(len(x) * sum(c.n_components for c in several))
        for k in sorted({c.n_components for c in several}):
            if k > len(x):
                raise InputError(
                    f"n_components={k} is more than the {len(x)} rows of the sample on which starts are tried: "
                    f"raise start_rows ({options.start_rows}) and sample_rows ({options.sample_rows})"
                )
            for labels in start_labels(options.init_params, views, k, n_init, options.seed, weights):
                for c in several:
                    if c.n_components == k:
                        ground = grounds[c.covariance_type]
                        start = from_labels(get_family(c.covariance_type), small.filled, labels, k, ground)
                        if given is not None:
                            start = given.replace_in(start, ground.frame)
                        # plain EM for as few passes as these: acceleration would cost more than it saves
                        ascents.append((c, sample_ascent(start, ground, options, "none")))
        _climb_on_sample("starts", ascents, small, START_PASSES)
        best = _best_of(several, ascents, options.reg_covar, failures)
        if searches:
            paths = _paths(several, ascents, small, grounds, options)
            best |= _tops_of(paths, several)
            failures = {c: failure for c, failure in failures.items() if c not in best}
        else:
            ruled_out = screening.ruled_out(best)
            kept = [
                (c, sample_ascent(a.mixture, a.ground, options))
                for c in best
                if c not in ruled_out
                for a in _most_likely(c, ascents, STARTS_KEPT)
            ]
            _climb_on_sample("best starts", kept, small, SAMPLE_PASSES)
            best = {c: best[c] for c in ruled_out} | _best_of(
                [c for c in best if c not in ruled_out], kept, options.reg_covar, failures
            )
            for c in best:
                sound = [a for a in _most_likely(c, kept, STARTS_KEPT) if is_sound(a, options.reg_covar)]
                ends = [a.objective for a in sound if a.best is not None]
                if ends:
                    spreads[c] = Spread.of(ends, small.moments.count)
    explored = BUDGETS[options.search].explored(sizes) if paths else []
    for smaller, size in pairwise(sizes):
        larger = SampleRows(profile.sample.first(size), frame, n_threads, sharing)
        grounds = grounds_for(
            best, larger.moments, frame, options.reg_covar, options.fixed, sharing, options.prior, noise,
            marginal=larger.marginal,
        )  # fmt: skip
        ruled_out = screening.ruled_out(best)
        alive = [c for c in best if c not in ruled_out]
        if smaller in explored:
            spreads |= _explore(paths, alive, last=smaller == explored[-1])
        paths = _onto(paths, larger, grounds, alive)
        tops = _tops_of(paths, alive)
        others = {
            c: sample_ascent(best[c].mixture, grounds[c.covariance_type], options) for c in alive if c not in tops
        }
        _climb_on_sample("sample", list(others.items()), larger, SAMPLE_PASSES)
        best |= others | tops
    ruled_out = screening.ruled_out(best)
    alive = [c for c in best if c not in ruled_out]
    if sizes[-1] in explored:
        spreads |= _explore(paths, alive)
        best |= _tops_of(paths, alive)
    rivals = {Candidate(k, path.family.name): path.rivals(k) for path in paths for k in path.wanted}
    return Starts({c: a.mixture for c, a in best.items()}, failures, screening.ruled_out(best), spreads, rivals)


def _paths(
    several: Sequence[Candidate],
    starts: Sequence[tuple[Candidate, Ascent]],
    sample: SampleRows,
    grounds: dict[str, Ground],
    options: Training,
) -> list[Path]:
    """A path of every covariance type, the simpler ones first; the best starts compete with what it finds."""
    paths: list[Path] = []
    families = [get_family(name) for name in dict.fromkeys(c.covariance_type for c in several)]
    # what contains others comes after them
    for family in sorted(families, key=lambda f: sum(f.contains(other) for other in families)):
        its = [c for c in several if c.covariance_type == family.name]
        simpler = [path for path in paths if family.contains(path.family)]
        began = time.perf_counter()
        path = Path(family, sample, grounds[family.name], options, (c.n_components for c in its), simpler)
        path.begin({c.n_components: [a.mixture for a in _most_likely(c, starts, STARTS_KEPT)] for c in its})
        _say("path", path, began)
        paths.append(path)
    return paths


def _explore(paths: Sequence[Path], alive: Sequence[Candidate], *, last: bool = True) -> dict[Candidate, Spread]:
    """Moves on the sample, of those candidates that may still win; what the search has seen of their tops there."""
    for path in paths:
        began = time.perf_counter()
        path.wanted = [c.n_components for c in alive if c.covariance_type == path.family.name]
        path.explore(last=last)
        _say("moves", path, began)
    return {Candidate(k, path.family.name): path.spread(k) for path in paths for k in path.wanted if path.tops.get(k)}


def _say(what: str, path: Path, began: float) -> None:
    logger.info(
        "%s: %s, %d climbs on %d rows of the sample, %.1f s",
        what, path.family.name, sum(map(len, path.ends.values())), len(path.sample.rows), time.perf_counter() - began,
    )  # fmt: skip


def _onto(
    paths: Sequence[Path], sample: SampleRows, grounds: dict[str, Ground], alive: Sequence[Candidate]
) -> list[Path]:
    """The paths on a larger sample, of those candidates that have a top."""
    found: list[Path] = []
    for path in paths:
        name = path.family.name
        wanted = [c.n_components for c in alive if c.covariance_type == name and path.tops.get(c.n_components)]
        if wanted:
            simpler = [other for other in found if path.family.contains(other.family)]
            found.append(path.onto(sample, grounds[name], wanted, simpler))
    return found


def _tops_of(paths: Sequence[Path], candidates: Sequence[Candidate]) -> dict[Candidate, Ascent]:
    """The best ascent that the paths have come to, of the candidates of which there is one."""
    return {
        c: path.tops[c.n_components][0].ascent
        for c in candidates
        for path in paths
        if path.family.name == c.covariance_type and path.tops.get(c.n_components)
    }


def _best_of(
    candidates: Sequence[Candidate],
    ascents: Sequence[tuple[Candidate, Ascent]],
    reg_covar: float,
    failures: dict[Candidate, Outcome],
) -> dict[Candidate, Ascent]:
    """The most likely sound ascent of each candidate, or the most likely one; says where all have failed."""
    best = {}
    for c in candidates:
        for a in _most_likely(c, ascents, 1, reg_covar):
            best[c] = a
        if c not in best:
            its = [a.failure for candidate, a in ascents if candidate == c]
            reason = f"none of its {len(its)} starts holds on the sample; of the first, {its[0]}"
            failures[c] = Outcome(OutcomeKind.FAILED, reason=reason)
    return best


def _most_likely(
    c: Candidate, ascents: Sequence[tuple[Candidate, Ascent]], n: int, reg_covar: float | None = None
) -> list[Ascent]:
    """The n most likely of a candidate's ascents that have not failed; sound ones first, if asked for."""
    its = [a for candidate, a in ascents if candidate == c and a.failure is None]

    def merit(a: Ascent) -> tuple[bool, float]:
        return reg_covar is None or is_sound(a, reg_covar), a.objective

    return sorted(its, key=merit, reverse=True)[:n]


def sample_sizes(options: Training, n_sample: int) -> list[int]:
    """Rows of each level of the ladder, the last one all of the sample: what is found there holds of the data."""
    first, last = min(options.start_rows, n_sample), n_sample
    if last < 2 * first:
        return [first]
    levels = max(1, round(np.log(last / first) / np.log(SAMPLE_GROWTH)))
    return [round(first * (last / first) ** (i / levels)) for i in range(levels + 1)]


def sample_ascent(
    start: Mixture, ground: Ground, options: Training, acceleration: Acceleration | None = None
) -> Ascent:
    """A climb on the sample, as far as that tells one mixture from another."""
    tol = SAMPLE_TOLERANCE * 0.5 * start.n_free(ground.fixed) / ground.moments.count
    return Ascent(start, ground, tol, acceleration or options.accelerate)


def starts_beside(responsibilities: int) -> int:
    """Starts of each candidate beside a path, where one of each makes so many responsibilities: few where they cost."""
    return int(np.clip(TOGETHER // responsibilities, BESIDE, BESIDE_AT_MOST))


def views_of(x: FloatArray, moments: Moments, frame: Callable[[FrameKind], Frame]) -> list[FloatArray]:
    """The rows standardised, whitened, and in their own units, which may be the same for all features.

    Clusters along the main directions of the data hide from the first, thin ones from the second; where features have
    a unit in common, the last tells which of them matter.
    """
    deviations = np.sqrt(np.diagonal(moments.covariance))
    deviations = np.where(deviations > 0, deviations, 1.0)
    standardised = (x - moments.mean) / deviations
    try:
        whitened = frame("whitening").coordinates(x).T
    except InputError:
        whitened = standardised  # dependent features: diag and spherical do not mind
    return [standardised, whitened, standardised * (deviations / deviations.max())]


def _climb_on_sample(what: str, starts: Sequence[tuple[Candidate, Ascent]], rows: SampleRows, max_passes: int) -> None:
    began, done, ascents = time.perf_counter(), 0, [a for _, a in starts]
    for step in climb(ascents, rows.accumulate, max_passes):
        done = step.number
    components = sum(a.mixture.n_components for a in ascents)
    logger.info(
        "%s: %d mixtures (%d components) on %d rows of the sample, %d passes, %.1f s",
        what, len(ascents), components, len(rows.rows), done, time.perf_counter() - began,
    )  # fmt: skip


@dataclass(frozen=True)
class Screening:
    """Which candidates are not worth going on with on the sample.

    Attributes
    ----------
    criterion : Criterion or None
        None where every candidate is wanted for its own sake.
    n_samples : int
        Of all the data.
    reg_covar : float
    """

    criterion: Criterion | None
    n_samples: int
    reg_covar: float

    def chance(self, a: Ascent) -> float:
        """What a mixture owes to the rows that it was fitted to, in nats: on others it is worse by so much.

        A nat for each parameter (Akaike 1974), none where the sample is all of the data. To the best mixture of all the
        data one half of it is lost and the other half gained.
        """
        return a.mixture.n_free(a.ground.fixed) * (1 - a.ground.moments.count / self.n_samples)

    def value(self, a: Ascent) -> float:
        """The criterion per sample, if all the data were as this sample is, but for what is chance in it."""
        if a.best is None or self.criterion is None:
            return np.inf
        # what rows that are held out would say, on average, is what AIC estimates
        criterion = Criterion.AIC if self.criterion is Criterion.HELD_OUT else self.criterion
        times = self.n_samples / a.ground.moments.count
        log_likelihood, entropy = times * (a.log_likelihood - self.chance(a)), times * a.best.statistics.entropy
        standing = CriterionTerms(log_likelihood, a.mixture.n_free(a.ground.fixed), self.n_samples, entropy, np.nan)
        return standing.criterion(criterion) / self.n_samples

    def ruled_out(self, best: dict[Candidate, Ascent]) -> dict[Candidate, float]:
        """Those that cannot reach the best sound one -> what they might still gain on all the data, in nats per sample.

        Starts come to plateaus that they leave again: what they have gained so far they may gain once more. On other
        rows they have what was chance to gain besides.
        """
        values = {c: self.value(a) for c, a in best.items()}
        ranked = sorted(best, key=lambda c: values[c])
        leader = next((c for c in ranked if is_sound(best[c], self.reg_covar)), None)
        if self.criterion is None or leader is None:
            return {}
        found = {}
        for c, a in best.items():
            m = a.ground.moments.count
            gain = max(a.attainable_gain, a.objective - a.trajectory[0]) if a.trajectory else np.inf
            if values[c] - 2 * gain / m > values[leader] + CERTAIN / m:
                found[c] = (gain + self.chance(a)) / m
        return found
