"""What training and selection return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dgmm.data import Layout, Names, number_of
from dgmm.em import Evaluated, Past
from dgmm.errors import InputError
from dgmm.families import NOISE
from dgmm.fits.clusters import Clusters
from dgmm.fits.outcome import Outcome, OutcomeKind, Spread
from dgmm.fits.stability import Stability
from dgmm.fits.updates import Batch
from dgmm.mixture import Mixture
from dgmm.passes import BlockSums
from dgmm.types import AnyArray, Assignment, Criterion, FloatArray, IntArray, Missing, PriorName

#: A difference in BIC that is very strong evidence (Kass and Raftery 1995).
STRONG = 10.0


#: What the criteria are called.
CRITERION_NAMES = {
    Criterion.BIC: "BIC",
    Criterion.AIC: "AIC",
    Criterion.ICL: "ICL",
    Criterion.HELD_OUT: "-2 log-likelihood of held-out rows",
}


@dataclass(frozen=True)
class CriterionTerms:
    """What a criterion needs to know of a fit, finished or on its way; see `Fit`."""

    log_likelihood: float
    n_parameters: int
    n_samples: int
    entropy: float
    held_out: float

    def criterion(self, name: Criterion | str) -> float:
        """The value of a criterion; lower is better."""
        match Criterion(name):
            case Criterion.BIC:
                return -2 * self.log_likelihood + self.n_parameters * float(np.log(self.n_samples))
            case Criterion.AIC:
                return -2 * self.log_likelihood + 2 * self.n_parameters
            case Criterion.ICL:
                return self.criterion(Criterion.BIC) + 2 * self.entropy
            case Criterion.HELD_OUT:
                return -2 * self.n_samples * self.held_out


@dataclass(frozen=True)
class Fit:
    """A fitted mixture and how it was come by.

    Attributes
    ----------
    mixture : Mixture
        In the data's units, or those that preprocessing makes of them (`Mixture.transform`), with which densities and
        criteria go, too; components by weight, largest first.
    log_likelihood : float
        Total, of this very mixture, in nats; like `entropy` and `held_out` in double precision, whatever the passes
        before took (`compute_dtype`).
    n_samples : int
        Rows that were fitted: complete ones, unless what is missing is marginalised.
    n_missing : int
        Rows left out because a value is missing.
    n_passes : int
        EM passes over all the data; the profile pass, those that look for the rows explained worst or evaluate the end
        in double precision, and the passes over the sample are not counted.
    outcome : Outcome
        What has become of it, with the components that collapsed and the reason; a fit with collapsed components cannot
        win a selection.
    remaining_gain : float
        Estimated log-likelihood still to be gained, in nats per sample; inf where too few passes tell nothing.
    trajectory : tuple of float
        Total log-likelihood of the mixture evaluated in each pass, and with a prior the logarithm of its density up to
        a constant; accelerated training tries points that it rejects, so that only its running maximum must rise.
    features : tuple of str
        Names of the features of the data.
    entropy : float
        Of the responsibilities, ``-sum r log r`` over samples and components, in nats.
    held_out : float
        Mean log density of the rows that were held out, in nats per sample; NaN if none were.
    held_out_se : float
        Its standard error over the blocks that were held out (`holdout_by`), or over the rows where there are no
        blocks, in 1024 groups chosen by a hash where there are more; NaN of fewer than two.
    remaining_gains : tuple of float
        The estimate of ``remaining_gain`` after each pass.
    seconds : tuple of float
        That each pass took, for all candidates that took part in it.
    evaluated : Evaluated or None
        The mixture in frame coordinates, its components as they came, with the sufficient statistics of all the data:
        what a fit can go on from. It is not stored with a model.
    layout : Layout or None
        How the data were opened, and what their features are; None if that was not kept.
    spread : Spread or None
        What the search on the sample has seen of other tops of the likelihood; None where there was none.
    stability : Stability or None
        What refits on other weights of the sample have said; None if none were asked for.
    clusters : Clusters or None
        Clusters of merged components; None if none were asked for (`dgmm.merge`).
    fixed : tuple of str
        Which of weights, means and covariances were held fixed: they are not counted among the parameters.
    assignment : {"soft", "hard"}
        Where it is hard, `log_likelihood` and `trajectory` are those of the classification, ``sum log w_k p(x | k)``
        with the most probable component k of every sample. BIC, of it, is then ICL.
    prior : {"none", "default"}
        Whether the mixture is the most probable one with the conjugate prior; `log_likelihood` and the criteria have
        none of it.
    missing : {"omit", "raise", "marginalise"}
        What became of samples of which values are missing. Where they are marginalised, `n_samples` counts all that
        have a value, `log_likelihood` is that of what is observed, and scores are, too.
    classes : tuple of int or of str
        Names of the classes that were known of samples; components are theirs, as many of each, one class after the
        other. None of them where no sample had a label.
    path : tuple of Mixture
        What each pass of the last climb over all the data has evaluated, in the data's units, its components in the
        order of those of `mixture`; none where it was not kept (`keep_path`). Accelerated training rejects some.
    past : Past or None
        The sufficient statistics of the rows, components in the order of those of `mixture`: what `dgmm.update` goes on
        from. None where a component is so narrow that its sums are in coordinates of its own.
    updates : tuple of Batch
        What has been added since by `dgmm.update`. `log_likelihood` is then a lower bound: rows that were not read
        again count as they were last shared out. `n_samples` are all rows, those that count for less (``forget``) as
        so many.
    judged : BlockSums or None
        What the mixture says of the rows that were held out, block by block, from which standard errors follow; None
        if none were. It is not stored with a model.
    """

    mixture: Mixture
    log_likelihood: float
    n_samples: int
    n_missing: int
    n_passes: int
    outcome: Outcome
    remaining_gain: float
    trajectory: tuple[float, ...]
    features: tuple[str, ...]
    entropy: float = np.nan
    held_out: float = np.nan
    held_out_se: float = np.nan
    remaining_gains: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    layout: Layout | None = None
    spread: Spread | None = None
    stability: Stability | None = None
    clusters: Clusters | None = None
    fixed: tuple[str, ...] = ()
    assignment: Assignment = "soft"
    prior: PriorName = "none"
    missing: Missing = "omit"
    classes: Names = ()
    path: tuple[Mixture, ...] = field(default=(), repr=False, compare=False)
    evaluated: Evaluated | None = field(default=None, repr=False, compare=False)
    past: Past | None = field(default=None, repr=False, compare=False)
    updates: tuple[Batch, ...] = ()
    judged: BlockSums | None = field(default=None, repr=False, compare=False)

    @property
    def n_components(self) -> int:
        """Number of components K."""
        return self.mixture.n_components

    @property
    def noise(self) -> float | None:
        """Share of the samples that is noise, which is none of the components; None where there can be none."""
        return None if self.mixture.noise is None else self.mixture.noise.weight

    @property
    def marginalises(self) -> bool:
        """Whether rows that lack some of their values are scored by the others."""
        return self.missing == "marginalise"

    @property
    def n_labels(self) -> int:
        """How many labels there are: of the classes, or of the components, and of noise if there is any."""
        return len(self.classes) or self.n_components + (self.noise is not None)

    def class_of(self, component: int) -> int | str | None:
        """The class of a component; None where there are no classes."""
        return self.classes[component * len(self.classes) // self.n_components] if self.classes else None

    def class_probabilities(self, x: AnyArray) -> FloatArray:
        """Probability of every class, shape (n, classes), for rows (n, d): the sum of those of its components.

        Of every component where there are no classes, and in a last column of noise, if there is noise.
        """
        shares = self.mixture.responsibilities(x, marginal=self.marginalises)
        return shares.reshape(len(x), self.n_labels, -1).sum(axis=2)

    def classify(self, x: AnyArray) -> AnyArray:
        """The name of the most probable class, or the number of the component where there are none, shape (n,).

        Noise is -2.
        """
        labels = self.class_probabilities(x).argmax(axis=1)
        if self.noise is not None:
            return np.where(labels < self.n_components, labels, NOISE)
        return np.array(self.classes)[labels] if self.classes else labels

    @property
    def covariance_type(self) -> str:
        """Name of the family."""
        return self.mixture.covariance_type

    @property
    def n_parameters(self) -> int:
        """Number of free parameters p."""
        return self.mixture.n_free(self.fixed)

    @property
    def converged(self) -> bool:
        """Whether the estimated gain still to come is below the tolerance, and the likelihood means something."""
        return self.outcome.kind is OutcomeKind.CONVERGED

    @property
    def collapsed(self) -> tuple[int, ...]:
        """Components that are too narrow or too small to mean anything."""
        return self.outcome.components

    @property
    def state(self) -> str:
        """The outcome in words; see `Outcome.state`."""
        return self.outcome.state

    @property
    def reason(self) -> str:
        """Why it was dropped or has collapsed."""
        return self.outcome.reason

    def criterion(self, name: Criterion | str) -> float:
        """The value of a criterion; lower is better."""
        standing = CriterionTerms(self.log_likelihood, self.n_parameters, self.n_samples, self.entropy, self.held_out)
        return standing.criterion(name)

    @property
    def bic(self) -> float:
        """Bayesian information criterion; see `Criterion`."""
        return self.criterion(Criterion.BIC)

    @property
    def aic(self) -> float:
        """Akaike information criterion; see `Criterion`."""
        return self.criterion(Criterion.AIC)

    @property
    def icl(self) -> float:
        """Integrated completed likelihood; see `Criterion`."""
        return self.criterion(Criterion.ICL)

    @property
    def uncertainty(self) -> float:
        """How much lower its criterion may still become: twice the gain still to come, in nats."""
        return 2 * self.remaining_gain * self.n_samples

    def reordered(self, order: IntArray) -> Fit:
        """The same with its components in another order; what it could go on from is left out."""
        places = {int(old): new for new, old in enumerate(order)}
        stability = self.stability
        if stability is not None:
            columns = {name: getattr(stability, name)[order] for name in ("found_again", "weights_se", "means_se")}
            stability = replace(stability, **columns)
        collapsed = tuple(sorted(places[component] for component in self.collapsed))
        outcome = replace(self.outcome, components=collapsed)
        clusters = None if self.clusters is None else self.clusters.reordered(order)
        mixture, path = self.mixture.taken(order), tuple(step.taken(order) for step in self.path)
        changed = replace(self, mixture=mixture, outcome=outcome, stability=stability, clusters=clusters)
        past = None if self.past is None else self.past.taken(order)
        return replace(changed, path=path, past=past, evaluated=None)

    def place(self, feature: str | int) -> int:
        """The number of a feature, by its name or that number; raises `InputError` if there is none."""
        return number_of(feature, self.features)

    def marginal(self, features: Sequence[str | int]) -> Mixture:
        """The mixture of some of the features, by names or numbers; see `Mixture.marginal`."""
        return self.mixture.marginal([self.place(feature) for feature in features])

    def condition(self, values: Mapping[str, float] | Mapping[int, float]) -> Mixture:
        """The mixture of the others where some features have known values; see `Mixture.condition`."""
        places = [self.place(feature) for feature in values]
        if len(set(places)) < len(places):
            raise InputError(f"a feature is given twice among {', '.join(map(str, values))}: give it once")
        return self.mixture.condition(dict(zip(places, values.values(), strict=True)))

    def predict(
        self, x: AnyArray, of: Sequence[str | int], given: Sequence[str | int] | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Means and variances of some features where others are known, by names or numbers; see `Mixture.predict`."""
        known = None if given is None else [self.place(feature) for feature in given]
        return self.mixture.predict(x, [self.place(feature) for feature in of], known)

    def __repr__(self) -> str:
        return (
            f"Fit({self.covariance_type}, n_components={self.n_components}, log_likelihood={self.log_likelihood:.6g}, "
            f"bic={self.bic:.6g}, n_samples={self.n_samples}, {self.state})"
        )
