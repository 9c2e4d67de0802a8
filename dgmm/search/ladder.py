"""The climb from starts on a few rows, by samples that are larger and larger, to all of the in-memory sample.

All starts of all candidates first climb on a few rows, stacked; the best starts of each converge there, and the
best one goes on with larger and larger samples.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from dgmm.em import Ascent, Ground, climb
from dgmm.errors import InputError
from dgmm.estep import Sharing
from dgmm.families import Frame, FrameKind, Moments, Noise, get_family
from dgmm.fits import Outcome, OutcomeKind, Spread, Training
from dgmm.mixture import Mixture
from dgmm.passes import Profile
from dgmm.search.initialise import Given, from_labels, start_labels
from dgmm.search.path import BUDGETS, Path
from dgmm.search.sampled import Candidate, SampleRows, grounds_for, is_sound
from dgmm.search.screening import Screening
from dgmm.types import Acceleration, FloatArray

logger = logging.getLogger("dgmm")

#: Starts of each candidate by default: by themselves; beside a path so many at least and at most, and between these as
#: many as make so many responsibilities in a pass, those of all candidates together.
ALONE, BESIDE, BESIDE_AT_MOST, TOGETHER = 10, 3, 30, 500_000
#: All starts make this many passes over the start rows; this many of them go on (Biernacki et al. 2003).
START_PASSES, STARTS_KEPT = 20, 3
#: Passes over each larger sample, and the share of p/2 nats that may be missing there: what a sample of m rows
#: leaves undecided is p/2 nats in any case.
SAMPLE_PASSES, SAMPLE_TOLERANCE = 200, 0.02
#: Each sample is about this much larger than the one before.
SAMPLE_GROWTH = 8


@dataclass
class Found:
    """What climbing the ladder of samples has come to.

    Attributes
    ----------
    best : dict
        Candidate -> its best ascent, on the last sample it has come to.
    failures, spreads : dict
        As those of `Starts`.
    paths : list of Path
        On the last sample, of the candidates that have come there; none where only starts are tried.
    """

    best: dict[Candidate, Ascent] = field(default_factory=dict)
    failures: dict[Candidate, Outcome] = field(default_factory=dict)
    spreads: dict[Candidate, Spread] = field(default_factory=dict)
    paths: list[Path] = field(default_factory=list)

    def join(self, other: Found, candidates: Sequence[Candidate]) -> None:
        """Take up what the paths of another search of some candidates have come to, on the same last sample."""
        known = {path.family.name: path for path in self.paths}
        for path in other.paths:
            if path.family.name in known:
                known[path.family.name].join(path)
            else:  # of which no climb was sound before
                self.paths.append(path)
        for path in self.paths:
            path.simpler = [its for its in self.paths if path.family.contains(its.family)]
        for path in sorted(self.paths, key=lambda path: len(path.simpler)):
            path.settle()
        self.best |= _tops_of(self.paths, candidates)
        self.spreads |= _spreads_of(self.paths)
        self.failures = {c: failure for c, failure in self.failures.items() if c not in self.best}


@dataclass(frozen=True)
class Ladder:
    """From starts on few rows, by samples that are larger and larger, to all of the sample.

    Attributes are as the parameters of `start_on_sample`; `screening` goes by its criterion.
    """

    profile: Profile
    options: Training
    frame: Callable[[FrameKind], Frame]
    given: Given | None
    n_threads: int
    sharing: Sharing
    noise: Noise | None
    screening: Screening

    @property
    def searches(self) -> bool:
        """Whether there is more than starts."""
        return self.options.searches and self.given is None

    @property
    def sizes(self) -> list[int]:
        """Rows of each sample."""
        return sample_sizes(self.options, len(self.profile.sample.rows))

    @property
    def turns(self) -> int:
        """How often it is climbed: once, or as often as is asked for and there are rows to begin with."""
        if not self.searches:
            return 1
        return min(BUDGETS[self.options.search].searches, len(self.profile.sample.rows) // self.sizes[0])

    def sample(self, size: int, turn: int) -> SampleRows:
        """So many rows, others each turn as far as there are."""
        return SampleRows(self.profile.sample.other(size, turn), self.frame, self.n_threads, self.sharing)

    def grounds(self, candidates: Iterable[Candidate], sample: SampleRows) -> dict[str, Ground]:
        """Of the covariance types of some candidates, on a sample."""
        options = self.options
        return grounds_for(
            candidates, sample.moments, self.frame, options.reg_covar, options.fixed, self.sharing, options.prior,
            self.noise, marginal=sample.marginal,
        )  # fmt: skip

    def starts(
        self, candidates: Sequence[Candidate], small: SampleRows, grounds: dict[str, Ground]
    ) -> list[tuple[Candidate, Ascent]]:
        """All starts of some candidates, before they climb."""
        options, given, ascents = self.options, self.given, []
        x, weights = small.filled.x, small.rows.weights
        own = [get_family(name).view(x) for name in dict.fromkeys(c.covariance_type for c in candidates)]
        views = [*(view for view in own if view is not None), *views_of(x, self.profile.moments, self.frame)]
        n_init = 1 if given is not None and given.complete else options.n_init or ALONE
        if self.searches and options.n_init is None:
            n_init = starts_beside(len(x) * sum(c.n_components for c in candidates))
        for k in sorted({c.n_components for c in candidates}):
            if k > len(x):
                raise InputError(
                    f"n_components={k} is more than the {len(x)} rows of the sample on which starts are tried: "
                    f"raise start_rows ({options.first_rows}) and sample_rows ({options.sample_rows})"
                )
            for labels in start_labels(options.init_params, views, k, n_init, options.seed, weights, small.map):
                for c in candidates:
                    if c.n_components == k:
                        ground = grounds[c.covariance_type]
                        start = from_labels(get_family(c.covariance_type), small.filled, labels, k, ground)
                        if given is not None:
                            start = given.replace_in(start, ground.frame)
                        # plain EM for as few passes as these: acceleration would cost more than it saves
                        ascents.append((c, sample_ascent(start, ground, options, "none")))
        return ascents

    def climb(self, candidates: Sequence[Candidate], turn: int = 0) -> Found:
        """Climb to all of the sample; candidates that are ruled out on the way stay where they are."""
        found = Found()
        if not candidates:
            return found
        options, sizes, screening = self.options, self.sizes, self.screening
        small = self.sample(sizes[0], turn)
        grounds = self.grounds(candidates, small)
        ascents = self.starts(candidates, small, grounds)
        _climb_on_sample("starts", ascents, small, START_PASSES)
        found.best = _best_of(candidates, ascents, options.reg_covar, found.failures)
        if self.searches:
            found.paths = _paths(candidates, ascents, small, grounds, options, screening.hopeless(found.best))
            found.best |= _tops_of(found.paths, candidates)
            found.failures = {c: failure for c, failure in found.failures.items() if c not in found.best}
        else:
            self._best_starts(found, ascents, small)
        explored = BUDGETS[options.search].explored(sizes) if found.paths else []
        for smaller, size in pairwise(sizes):
            larger = self.sample(size, turn)
            grounds = self.grounds(found.best, larger)
            alive = screening.alive(found.best)
            if smaller in explored:
                found.spreads |= _explore(found.paths, alive, last=smaller == explored[-1])
            found.paths = _onto(found.paths, larger, grounds, alive)
            tops = _tops_of(found.paths, alive)
            others = {
                c: sample_ascent(found.best[c].mixture, grounds[c.covariance_type], options)
                for c in alive
                if c not in tops
            }
            _climb_on_sample("sample", list(others.items()), larger, SAMPLE_PASSES)
            found.best |= others | tops
        if sizes[-1] in explored:
            alive = screening.alive(found.best)
            found.spreads |= _explore(found.paths, alive)
            found.best |= _tops_of(found.paths, alive)
        return found

    def _best_starts(self, found: Found, ascents: Sequence[tuple[Candidate, Ascent]], small: SampleRows) -> None:
        """The best starts of each candidate, converged; what they have come to."""
        options, alive = self.options, self.screening.alive(found.best)
        kept = [
            (c, sample_ascent(a.mixture, a.ground, options))
            for c in alive
            for a in _most_likely(c, ascents, STARTS_KEPT)
        ]
        _climb_on_sample("best starts", kept, small, SAMPLE_PASSES)
        ruled_out = {c: a for c, a in found.best.items() if c not in alive}
        found.best = ruled_out | _best_of(alive, kept, options.reg_covar, found.failures)
        for c in found.best:
            sound = [a for a in _most_likely(c, kept, STARTS_KEPT) if is_sound(a, options.reg_covar)]
            ends = [a.objective for a in sound if a.best is not None]
            if ends:
                found.spreads[c] = Spread.of(ends, small.moments.count)


def _paths(
    several: Sequence[Candidate],
    starts: Sequence[tuple[Candidate, Ascent]],
    sample: SampleRows,
    grounds: dict[str, Ground],
    options: Training,
    hopeless: Collection[str],
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
        its_starts = {c.n_components: [a.mixture for a in _most_likely(c, starts, STARTS_KEPT)] for c in its}
        path.begin(its_starts, hopeless=family.name in hopeless)
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
    return _spreads_of(paths)


def _spreads_of(paths: Sequence[Path]) -> dict[Candidate, Spread]:
    """What the paths have seen of the tops that are wanted of them."""
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
    first, last = min(options.first_rows, n_sample), n_sample
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
