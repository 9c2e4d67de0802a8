"""The settings of fits."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field

from dgmm.data import Labels
from dgmm.errors import InputError
from dgmm.families import DEFAULT
from dgmm.fits.kinds import (
    LIMIT,
    STEPS,
    BlockLengths,
    Count,
    CovarianceType,
    CriterionName,
    Families,
    Numbers,
    Parts,
    Refits,
)
from dgmm.fits.preprocess import Preprocess, as_preprocess, something
from dgmm.fits.settings import Settings
from dgmm.types import (
    Acceleration,
    Assignment,
    Criterion,
    Effort,
    Missing,
    OnCollapse,
    Precision,
    PriorName,
    StartMethod,
)

#: Rows that starts are tried on where nobody says how many, and values that these have for each parameter at least.
START_ROWS, VALUES_PER_PARAMETER = 10_000, 40


class Climbing(Settings):
    """How far a mixture climbs."""

    tol: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Stop when the estimated gain still to come is below this, in nats per sample. Default, and the "
        "least: 0.1 % of p/2 nats in total, where p is the number of parameters.",
    )
    max_iter: Count = Field(1000, description="Passes over all the data, at most.")
    reg_covar: float = Field(
        1e-6,
        ge=0,
        allow_inf_nan=False,
        description="Added to every covariance, as a share of the data's own covariance.",
    )


class Training(Climbing):
    """How mixtures are fitted."""

    n_init: Count | None = Field(
        None,
        description="Starts of each candidate on the sample; the best one goes on. Default: 10 by themselves; 3 to 30 "
        "where a search goes on with them (search), the more the fewer rows, components and candidates there are.",
    )
    init_params: StartMethod = Field(
        "kmeans",
        description="What a start is made of: the clusters of k-means; the rows nearest to each seed of k-means++; "
        "random labels; the rows nearest to each of some random rows.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Of the sample of rows and of the starts.")
    search: Effort = Field(
        "standard",
        description="What is tried on the sample of rows. starts: the n_init starts, 20 passes over start_rows each, "
        "3 of them to their tops. The others add a path through K, from one component up by splits, at most 15 passes "
        "a step (60 where K is asked for), and rounds of merges with splits elsewhere, until none gains, on every "
        "sample of ten rows or more for each parameter and on the last: 4 splits, two tops kept of each K, one "
        "component too far and back by merges, 8 rounds of 49 moves of which 7 climb (standard); 8 splits, four tops, "
        "4 too far, 10 rounds of 144 and 12, and all of it four times on other rows, as far as the sample has them "
        "(thorough); 3 splits and a round of 9 and 3, on the smallest sample "
        "alone, and no path where two of the starts come to the best top (quick). Where components are few, more "
        "splits. Moves begin on ten rows for each parameter, and three of those that climb go on where there are "
        "more. Where rounds have not ended on most of the data, as many moves as climb in a round are evaluated on "
        "all of it once the winner has arrived there, in one shared pass.",
    )
    assignment: Assignment = Field(
        "soft",
        description="soft: a sample counts for every component as probable as it is (EM). hard: for the most probable "
        "one alone (classification EM), until no sample changes its component. The log-likelihood is then that of the "
        "classification, and BIC is ICL; only starts are tried, as with fixed, and accelerate does nothing.",
    )
    fixed: Parts = Field(
        [],
        description="What keeps the values that it begins with: weights, means, covariances. It is not counted among "
        "the parameters. Only starts are tried then: no path and no moves (search), no component on the worst rows "
        "(worst_rows, on_collapse).",
    )
    prior: PriorName = Field(
        "none",
        description="default: the conjugate prior of Fraley and Raftery (2007) with the settings of mclust, for "
        "VVV (full), EEE (tied), VVI (diag), VII (spherical), EEI and EII: it keeps components of few samples from "
        "collapsing, and counts for less the more samples there are. Where covariances have axes along the features "
        "it goes by their mean variance: give features of similar units. The log-likelihood and the criteria are those "
        "of the mixture that is most probable with it; steps of scoring (accelerate) are not taken. none: maximum "
        "likelihood.",
    )
    noise: bool = Field(
        False,
        description="A component of constant density in the box of the data beside the K, for rows that belong to none "
        "of them; it adds its weight and its volume to the parameters (Gaussian types, samples without labels). No "
        "component is put on the worst rows then (worst_rows, on_collapse).",
    )
    preprocess: Annotated[
        Annotated[Preprocess | None, AfterValidator(something)],
        BeforeValidator(as_preprocess, json_schema_input_type=Preprocess | str | None),
    ] = Field(
        None,
        description="What is done to the features before the mixture is fitted, kept with the model and done again "
        "where it is used: log, features whose logarithms are taken; scale, standard (mean and standard deviation) or "
        "robust (median and interquartile range of the sample of rows); pca, the share of the variance that principal "
        "components keep, such as 0.99, or their number; pca_of, whether of all features or of those of each variable. "
        "Such as {scale: standard, pca: 0.99, log: [chl]} "
        "(scale:standard,pca:0.99,log:chl on the command line). Means are reported in the data's units, densities and "
        "criteria are of the features as they are fitted: compare them within one preprocessing. Default: nothing.",
    )
    missing: Missing = Field(
        "omit",
        description="What becomes of samples of which some values are missing (NaN). omit: they are left out and "
        "counted. raise: they are an error. marginalise: they are fitted by the values that they have, exactly where "
        "values are missing at random (Gaussian types, preprocess without pca); scores of such a model are of what is "
        "observed, too. No component is put on the worst rows then (worst_rows, on_collapse), and steps of scoring "
        "(accelerate) are not taken. Samples that have no value at all are left out in any case.",
    )
    sample_rows: Count = Field(100_000, description="Rows of the sample that is kept in memory.")
    start_rows: Count | None = Field(
        None,
        description="Rows of the sample on which the starts are tried. Default: 10,000, or as many as have 40 values "
        "for each parameter of the largest candidate.",
    )
    accelerate: Acceleration = Field(
        "anderson",
        description="Acceleration of EM: Anderson's method, and where it is slow and scores of the sample cost less "
        "than a pass over all the data, steps of scoring with them; or none (plain EM).",
    )
    compute_dtype: Precision = Field(
        "float64",
        description="Precision of the E-step's matrix products; sums over slices are always float64. float32 is up to "
        "1.8 times faster for many components; a log density errs by 1e-2 nats at most, their mean by some 1e-6. What "
        "is reported and compared in the end is float64.",
    )
    worst_rows: int = Field(
        1000,
        ge=0,
        le=100_000,
        description="Rows of lowest log density that a last pass collects; a group of them becomes a component in the "
        "place of the weakest if that raises the likelihood. 0: no such pass. Data that fit start_rows need none.",
    )
    on_collapse: OnCollapse | None = Field(
        None,
        description="A component that collapses is reported, or put on the worst rows (worst_rows) for another try. "
        "Default: report in training, reseed in selection.",
    )
    holdout: float = Field(
        0.0, ge=0, le=0.5, description="Share of the rows, chosen by a hash, that no fit sees; they judge the fits."
    )
    holdout_by: BlockLengths = Field(
        None,
        description="Hold out whole blocks in the place of single rows, holdout being their share: the length of a "
        "block along dimensions of the samples, in steps of the grid, such as {month: 1} or {lat: 10, lon: 10} "
        "(lat:10,lon:10 on the command line). Along the others a block is as long as they are. Default: single rows.",
    )
    stability: Refits = Field(
        0,
        ge=0,
        le=1000,
        description="Refits of the result on other weights of the sample's rows, or of its blocks (holdout_by): how "
        "often each component is found again, and standard errors. 20 are a beginning. 0: none.",
    )

    keep_path: bool = Field(
        False,
        description="Keep the mixtures of the last climb over all the data with the model, one for each pass "
        "(Fit.path, which dgmm.plot.steps draws).",
    )

    @property
    def searches(self) -> bool:
        """Whether other mixtures than starts are tried on the sample."""
        return self.search != "starts" and not self.fixed and self.assignment == "soft"

    @property
    def first_rows(self) -> int:
        """Rows of the sample on which the starts are tried."""
        return self.start_rows or START_ROWS

    def begun_for(self, n_parameters: int, n_features: int) -> Self:
        """The same, with as many rows to begin with as mixtures of so many parameters need, unless it says how many.

        Of fewer rows, small components have too few to be told from chance.
        """
        enough = -(-VALUES_PER_PARAMETER * n_parameters // n_features)
        return self if self.start_rows else self.model_copy(update={"start_rows": max(START_ROWS, enough)})


class Search(Settings):
    """What to choose among, and by what."""

    n_components: Numbers = Field(
        description="Numbers of components to try: a list, a range such as 1:12, or an open one: 1: goes on until "
        f"{STEPS} more components bring no better criterion, to {LIMIT} at most."
    )
    covariance_type: Families = Field(
        list(DEFAULT),
        description="Covariance types to try; mclust stands for its 14 structures, factors:2 for two factors and a "
        "variance of each feature, and so on for any number of factors. gamma can be among them, poisson only by "
        "itself.",
    )
    keep_all: bool = Field(False, description="Run every candidate to convergence; drop none that cannot win.")
    criterion: CriterionName = Field(Criterion.BIC, description="What to choose by; held_out needs training.holdout.")


class One(Settings):
    """The mixture that is fitted."""

    n_components: Count | None = Field(
        None, description="Number of components K. With labels it is that of the classes times components_per_class."
    )
    covariance_type: CovarianceType = "full"
    components_per_class: Count = Field(1, description="Components of each class, where samples have labels.")

    def number(self, labels: Labels | None) -> int:
        """K, for samples that may have labels.

        Raises
        ------
        InputError
            If it cannot be told, or is no multiple of the number of classes.
        """
        per_class, k = self.components_per_class, self.n_components
        if labels is None:
            if per_class > 1:
                raise InputError(f"components_per_class ({per_class}) is for samples with labels: give n_components")
            if k is None:
                raise InputError("n_components is missing: give the number of components, or labels of samples")
            return k
        wanted = per_class * len(labels.names)
        if k is not None and k != wanted and per_class > 1:
            raise InputError(
                f"n_components={k} is not {len(labels.names)} classes times components_per_class ({per_class}): leave "
                "it out"
            )
        return wanted if k is None else k
