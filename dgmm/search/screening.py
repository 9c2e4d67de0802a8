"""Which candidates the sample rules out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dgmm.em import Ascent
from dgmm.fits import CriterionTerms
from dgmm.search.sampled import Candidate, is_sound
from dgmm.types import Criterion

#: A candidate is ruled out if the sample prefers another by this much beyond what it can still gain, on the scale of -2
#: log-likelihood: a sample of any size is hardly mistaken by 50 nats.
CERTAIN = 100.0


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

    def hopeless(self, best: dict[Candidate, Ascent]) -> set[str]:
        """Covariance types that do not win even if each of their candidates gains once more as much as any has gained.

        That is safer than what each has gained itself: starts of a type may all lie on one plateau.
        """
        values = {c: self.value(a) for c, a in best.items()}
        leader = self._leader(best, values)
        if leader is None:
            return set()
        gained = ((a.objective - a.trajectory[0]) / a.ground.moments.count for a in best.values() if a.trajectory)
        bar = values[leader] + 2 * max(gained, default=0.0) + CERTAIN / best[leader].ground.moments.count
        near = {c.covariance_type for c, value in values.items() if not value > bar}
        return {c.covariance_type for c in best} - near

    def _leader(self, best: dict[Candidate, Ascent], values: dict[Candidate, float]) -> Candidate | None:
        """The best sound one, where there is a criterion."""
        ranked = [] if self.criterion is None else sorted(best, key=lambda c: values[c])
        return next((c for c in ranked if is_sound(best[c], self.reg_covar)), None)

    def ruled_out(self, best: dict[Candidate, Ascent]) -> dict[Candidate, float]:
        """Those that cannot reach the best sound one -> what they might still gain on all the data, in nats per sample.

        Starts come to plateaus that they leave again: what they have gained so far they may gain once more. On other
        rows they have what was chance to gain besides.
        """
        values = {c: self.value(a) for c, a in best.items()}
        leader = self._leader(best, values)
        if leader is None:
            return {}
        found = {}
        for c, a in best.items():
            m = a.ground.moments.count
            gain = max(a.attainable_gain, a.objective - a.trajectory[0]) if a.trajectory else np.inf
            if values[c] - 2 * gain / m > values[leader] + CERTAIN / m:
                found[c] = (gain + self.chance(a)) / m
        return found

    def alive(self, best: dict[Candidate, Ascent]) -> list[Candidate]:
        """Those that are not ruled out."""
        ruled_out = self.ruled_out(best)
        return [c for c in best if c not in ruled_out]
