"""Where fits to samples of known classes begin: at what those samples say by themselves."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from dgmm.blas import one_thread
from dgmm.data import Labels, Samples
from dgmm.em import Ground, climb, maximise
from dgmm.errors import CollapseError, InputError
from dgmm.families import Moments, SufficientStatistics, get_family
from dgmm.fits import Outcome, OutcomeKind, Training
from dgmm.mixture import Mixture
from dgmm.passes import Passes
from dgmm.rows import Rows
from dgmm.search import (
    SAMPLE_PASSES,
    START_FLOOR,
    Candidate,
    Given,
    SampleRows,
    copies,
    from_labels,
    grounds_for,
    is_sound,
    kmeans,
    sample_ascent,
    sample_sizes,
)
from dgmm.types import AnyArray

logger = logging.getLogger("dgmm")

#: Starts of a candidate with several components in a class, where n_init does not say.
STARTS = 10
#: Extents that components begin with where those of few known samples are none, as shares of the data's covariance.
EXTENTS = (START_FLOOR, 1.0, 100.0)


def check_classes(candidates: Sequence[Candidate], samples: Samples) -> None:
    """Raise `InputError` where there are not as many components of each class."""
    labels = samples.labels
    if labels is None:
        return
    n = len(labels.names)
    for c in candidates:
        if c.n_components % n:
            raise InputError(
                f"n_components={c.n_components} is no multiple of the number of classes of {samples.name}, {n} "
                f"({shown(labels)}): give one, or components_per_class"
            )


def shown(labels: Labels) -> str:
    """The first names of the classes."""
    return ", ".join(map(str, labels.names[:8])) + (", ..." if len(labels.names) > 8 else "")


def known_starts(
    passes: Passes,
    candidates: Sequence[Candidate],
    options: Training,
    grounds: Mapping[str, Ground],
    given: Given | None = None,
) -> tuple[dict[Candidate, Mixture], dict[Candidate, Outcome]]:
    """A start of each candidate, in frame coordinates, and what has become of those that have none.

    With one component of each class it is the M-step of all known samples, and the end where every class is known. With
    several, k-means divides the known samples of each class in the sample of rows, ``n_init`` times. Unless all is
    known, starts climb on that sample, and the best goes on.
    """
    labels = passes.samples.labels
    assert labels is not None
    found: dict[Candidate, Mixture] = {}
    failures: dict[Candidate, Outcome] = {}
    single = [c for c in candidates if c.n_components == len(labels.names)]
    blanks = [_blank(c, grounds, given) for c in single]
    if single:
        for c, blank, said in zip(single, blanks, passes.accumulate_known(blanks), strict=True):
            _check_counts(said, labels, passes.samples.name)
            try:
                found[c] = _from_known(blank, said, grounds[c.covariance_type], all_known=labels.all_known)
            except CollapseError as error:
                failures[c] = Outcome(OutcomeKind.FAILED, reason=_in_classes(error, labels))
    if labels.all_known and len(single) == len(candidates):
        return found, failures
    profile = passes.profile
    size = sample_sizes(options, len(profile.sample.rows))[-1]
    rows = SampleRows(profile.sample.first(size), passes.frame, passes.fold.workers.driver_threads, passes.sharing)
    its = grounds_for(
        candidates, rows.moments, passes.frame, options.reg_covar, options.fixed, passes.sharing, options.prior,
        marginal=rows.marginal,
    )  # fmt: skip
    starts = {c: [found[c]] for c in found}
    starts |= {c: list(_divided(c, rows, passes, options, given)) for c in candidates if c not in single}
    told = np.bincount(_known(rows.rows)[1], minlength=len(labels.names))
    if (told <= rows.rows.x.shape[1]).any():
        return found | {c: mixtures[0] for c, mixtures in starts.items()}, failures
    for c, mixtures in starts.items():
        ascents = [sample_ascent(start, its[c.covariance_type], options) for start in mixtures]
        for _ in climb(ascents, rows.accumulate, SAMPLE_PASSES):
            pass
        found[c] = max(ascents, key=lambda a: (is_sound(a, options.reg_covar), a.objective)).mixture
        logger.info("%s: %d starts on %d rows of the sample", c, len(ascents), len(rows.rows))
    return found, failures


def in_classes(mixture: Mixture, n_classes: int) -> AnyArray:
    """Components in canonical order, shape (K,), one class after the other where there are classes."""
    order = mixture.canonical_order()
    return order if not n_classes else order[np.argsort(order * n_classes // len(order), kind="stable")]


def _blank(c: Candidate, grounds: Mapping[str, Ground], given: Given | None) -> Mixture:
    """As many copies of the data, or what is given of a mixture."""
    family, ground, k = get_family(c.covariance_type), grounds[c.covariance_type], c.n_components
    blank = Mixture(family, np.full(k, 1 / k), copies(family, k, ground))
    return blank if given is None else given.replace_in(blank, ground.frame)


def _check_counts(said: SufficientStatistics, labels: Labels, name: str) -> None:
    empty = np.flatnonzero(said.sums[:, 0] <= 0)
    if len(empty):
        raise InputError(f"class {labels.names[empty[0]]!r} of {name} has no complete row that is fitted: leave it out")


def _from_known(blank: Mixture, said: SufficientStatistics, ground: Ground, *, all_known: bool) -> Mixture:
    """One M-step of known samples, which stand for all; with some extent to begin with where they are not all."""
    if all_known:
        return maximise(blank, said, ground)
    count = ground.moments.count
    said = replace(said, count=count, sums=said.sums * (count / said.count))
    for share in EXTENTS:
        floor = ground.floor + blank.family.floor(share, ground.moments)
        with suppress(CollapseError):
            return maximise(blank, said, replace(ground, floor=floor))
    return maximise(blank, said, ground)


def _known(rows: Rows) -> tuple[Rows, AnyArray]:
    """The rows whose class is known, and its number."""
    assert rows.labels is not None
    known = rows.labels >= 0
    return rows[known], rows.labels[known]


def _divided(
    c: Candidate, sample: SampleRows, passes: Passes, options: Training, given: Given | None
) -> Iterator[Mixture]:
    """Starts with several components in each class, divided by k-means in standard deviations of the data."""
    labels = passes.samples.labels
    assert labels is not None
    known, codes = _known(sample.filled)
    per_class = c.n_components // len(labels.names)
    for code, name in enumerate(labels.names):
        if (n := int((codes == code).sum())) < per_class:
            raise InputError(
                f"class {name!r} has {n} known rows in the sample of {len(sample.rows)}, too few for {per_class} "
                f"components (components_per_class): lower that, or raise sample_rows ({options.sample_rows})"
            )
    grounds = grounds_for([c], Moments.of(known.x, known.weights), passes.frame, options.reg_covar)
    ground = replace(grounds[c.covariance_type], sharing=passes.sharing)
    z = known.x / np.sqrt(np.diagonal(passes.profile.moments.covariance))
    for i in range(options.n_init or STARTS):
        parts = np.empty(len(known), dtype=np.int64)
        for code in range(len(labels.names)):
            own = codes == code
            seed = int(np.random.SeedSequence([options.seed, c.n_components, i, code]).generate_state(1)[0])
            weights = None if known.weights is None else known.weights[own]
            with one_thread():
                (its,) = kmeans(z[own], per_class, [seed], weights)
            parts[own] = code * per_class + its.labels
        start = from_labels(get_family(c.covariance_type), known, parts, c.n_components, ground)
        yield start if given is None else given.replace_in(start, ground.frame)


def _in_classes(error: CollapseError, labels: Labels) -> str:
    names = ", ".join(repr(labels.names[k]) for k in error.components)
    return f"{error} (of class {names})" if names else str(error)
