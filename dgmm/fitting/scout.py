"""Mixtures that may be better than where a candidate has arrived: what its climb and the sample have missed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from dgmm.em import Evaluated, Ground
from dgmm.estep import SOFT
from dgmm.families import get_family
from dgmm.fits import Training
from dgmm.fitting.reseed import reseed
from dgmm.mixture import Mixture
from dgmm.passes import Passes
from dgmm.search import BUDGETS, Candidate, Path, SampleRows, Standing, Starts, grounds_for, sample_sizes, twin


@dataclass(frozen=True)
class Proposal:
    """A mixture that may be better.

    Attributes
    ----------
    mixture : Mixture
        In frame coordinates.
    why : str
        What it is made of.
    at_once : bool
        Whether it has climbed before, on the sample: it gains with its first pass or not at all.
    """

    mixture: Mixture
    why: str
    at_once: bool = False


class Scout:
    """What the rows explained worst, the sample and simpler candidates say of where a candidate has arrived.

    Parameters
    ----------
    passes : Passes
    options : Training
    starts : Starts
        What was found on the sample.
    searches : bool
        Whether more is asked for than starts, and the rows explained worst.
    """

    def __init__(self, passes: Passes, options: Training, starts: Starts, *, searches: bool) -> None:
        self.passes = passes
        self.options = options
        self.starts = starts
        self.searches = searches

    @cached_property
    def sample(self) -> SampleRows:
        """As many rows as the search has ended with."""
        threads = self.passes.fold.workers.driver_threads
        return SampleRows(self.passes.profile.sample.first(self._sizes[-1]), self.passes.frame, threads)

    @property
    def _sizes(self) -> list[int]:
        return sample_sizes(self.options, len(self.passes.profile.sample.rows))

    def missed(
        self, points: Mapping[Candidate, Evaluated], collapsed: Mapping[Candidate, tuple[int, ...]]
    ) -> Iterator[tuple[Candidate, Proposal]]:
        """For where candidates have arrived; for those with collapsed components only others in their place.

        Parameters
        ----------
        points : mapping
            Candidate -> its best mixture.
        collapsed : mapping
            Candidate -> its components that mean nothing.
        """
        options = self.options
        # noise explains all that nothing else does, and equally badly
        plain = not options.fixed and not options.noise and self.passes.sharing == SOFT and not self.passes.marginal
        if points and options.worst_rows and plain:
            rows = self.passes.profile.sample.first(options.first_rows)
            found = self.passes.worst([point.in_data_units() for point in points.values()], options.worst_rows)
            for (c, point), worst in zip(points.items(), found, strict=True):
                new = reseed(point, worst, rows, collapsed=collapsed[c], seed=options.seed)
                if new is not None:
                    yield c, Proposal(new.mixture, f"components {new.replaced} on the rows explained worst")
        for c, point in points.items():
            if self.searches and not collapsed[c]:
                for mixture in self.starts.rivals.get(c, ()):
                    yield c, Proposal(mixture, "another top of the sample")
                for proposal in self._moved(c, point):
                    yield c, proposal

    def _moved(self, c: Candidate, point: Evaluated) -> Iterator[Proposal]:
        """The most promising merges with splits elsewhere, from where it has arrived on all the data.

        None where rounds of them have ended on most of the data.
        """
        budget = BUDGETS[self.options.search]
        if 2 * budget.explored(self._sizes)[-1] > self.passes.profile.n_samples:
            return
        pairs, standing = budget.pairs, self._standing(c, point)
        for move in standing.replaced(standing.moves(pairs))[:pairs]:
            yield Proposal(move.mixture, "a merge and a split elsewhere", at_once=True)

    def beyond(self, c: Candidate, inner: Evaluated) -> Iterator[Proposal]:
        """A simpler mixture made one of a candidate: grown by splits on the sample, and as it is, with twins.

        Parameters
        ----------
        c : Candidate
        inner : Evaluated
            Of no more components, and of a family that its family contains.
        """
        if not self.searches:
            return
        family, simple = get_family(c.covariance_type), Candidate(inner.mixture.n_components, inner.mixture.family.name)
        standing = self._standing(simple, inner)
        ground = self._ground(c)
        same = c.covariance_type == simple.covariance_type
        mixture = inner.mixture if same else standing.as_family(family, ground)
        path = Path(family, self.sample, ground, self.options, [c.n_components])
        path.climb(simple.n_components, [mixture])
        for k in range(simple.n_components, c.n_components):
            path.grow(k)
        if path.tops.get(c.n_components):
            yield Proposal(path.tops[c.n_components][0].ascent.mixture, f"what {simple} grows to on the sample")
        while mixture.n_components < c.n_components:
            mixture = twin(mixture)
        yield Proposal(mixture, f"{simple} as it is")

    def _ground(self, c: Candidate) -> Ground:
        """Of the sample, for a candidate."""
        options, moments, noise = self.options, self.sample.moments, self.passes.noise
        grounds = grounds_for(
            [c], moments, self.passes.frame, options.reg_covar, prior=options.prior, noise=noise,
            marginal=self.sample.marginal,
        )  # fmt: skip
        return grounds[c.covariance_type]

    def _standing(self, c: Candidate, point: Evaluated) -> Standing:
        """A candidate's mixture on the rows of the sample."""
        return Standing(point.mixture, self._ground(c), self.sample, self.options.reg_covar)
