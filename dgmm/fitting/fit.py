"""Candidates to convergence on all the data, sharing every pass; one candidate is the case `train` uses."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from dgmm.blas import one_blas_thread
from dgmm.data import Samples, shortened
from dgmm.em import Ascent, Ground, climb
from dgmm.engine import Departed, Fold, Journal, Journaled, Workers
from dgmm.errors import CollapseError, InputError
from dgmm.families import FAMILIES, Family, Frame, Moments, get_family
from dgmm.fits import Fit, One, OpenRange, Outcome, Search, Selection, Training, choose, clusters_of
from dgmm.fitting.bootstrap import REFITTED_ROWS, stability_of
from dgmm.fitting.departure import starts_after
from dgmm.fitting.labelled import check_classes, known_starts
from dgmm.fitting.prepared import before_transform, check_known, given_after, prepared_passes
from dgmm.fitting.race import Race
from dgmm.fitting.scout import Scout
from dgmm.mixture import Mixture
from dgmm.passes import Passes, profile_of
from dgmm.search import Candidate, Given, Starts, grounds_for, one_component, start_on_sample
from dgmm.transform import Transform
from dgmm.types import Criterion, PriorName

logger = logging.getLogger("dgmm")


def fit_candidates(
    passes: Passes,
    candidates: Sequence[Candidate],
    options: Training,
    *,
    keep_all: bool = True,
    criterion: Criterion = Criterion.BIC,
    given: Given | None = None,
) -> tuple[dict[Candidate, Fit], dict[Candidate, Outcome]]:
    """Fit every candidate; the passes over all the data are shared.

    Returns
    -------
    fits : dict
        Candidate -> `Fit`.
    failures : dict
        Candidate -> what has become of it, where there is none.
    """
    samples, profile = passes.samples, passes.profile
    check_classes(candidates, samples)
    for c in candidates:
        if c.n_components > profile.n_samples:
            raise InputError(
                f"n_components={c.n_components} is more than the {profile.n_samples} complete rows of {samples.name}"
            )
    for name in dict.fromkeys(c.covariance_type for c in candidates):
        check_fixed(get_family(name), options.fixed)
        check_prior(get_family(name), options.prior, profile.moments)
        check_noise(get_family(name), samples, options)
        check_missing(get_family(name), options)
        passes.check(get_family(name))
    d = len(profile.moments.mean)
    largest = max((get_family(c.covariance_type).n_parameters(c.n_components, d) for c in candidates), default=0)
    options = options.begun_for(largest, d)
    sample = profile.sample.first(len(profile.sample.rows))
    grounds = {
        name: replace(
            ground,
            held_out=profile.held_out.in_frame(ground.frame),
            sample=None if passes.marginal else sample,
            marginal=passes.marginal,
        )
        for name, ground in grounds_for(
            candidates,
            profile.moments,
            passes.frame,
            options.reg_covar,
            options.fixed,
            passes.sharing,
            options.prior,
            passes.noise,
        ).items()
    }
    logger.info(
        "profile: %d samples of %d features, %d left out with missing values, in %d segments",
        profile.n_samples, samples.n_features, profile.n_missing, len(samples.grid),
    )  # fmt: skip
    if samples.labels is not None:
        found = Starts(*known_starts(passes, candidates, options, grounds, given), {}, {}, {})
    else:
        found = start_on_sample(
            profile,
            candidates,
            options,
            passes.frame,
            given,
            criterion=None if keep_all else criterion,
            n_threads=passes.fold.workers.driver_threads,
            sharing=passes.sharing,
            noise=passes.noise,
        )
    starts, failures = dict(found.mixtures), dict(found.failures)
    for c in candidates:
        if c.n_components == 1 and c not in starts:
            ground = grounds[c.covariance_type]
            starts[c] = one_component(get_family(c.covariance_type), ground)
            if given is not None and options.fixed:
                starts[c] = given.replace_in(starts[c], ground.frame)
    searches = options.searches and given is None and samples.labels is None
    scout = Scout(passes, options, found, searches=searches)

    def ground_of(c: Candidate) -> Ground:
        """Of a candidate: where every class is known and is a component, its sums do not depend on where it stands."""
        labels = samples.labels
        constant = labels is not None and labels.all_known and len(labels.names) == c.n_components
        return replace(grounds[c.covariance_type], constant=constant)

    race = None
    while race is None:
        ascents = {
            c: Ascent(starts[c], ground_of(c), options.tol, options.accelerate) for c in candidates if c in starts
        }
        race = Race(passes, ascents, options, criterion, found.attainable, scout)
        try:
            if ascents:
                race.run(keep_all=keep_all)
        except Departed as departed:
            starts, race = starts_after(departed, passes, grounds, starts), None
    fits, failed = race.results()
    fits = {c: replace(fit, spread=found.spreads.get(c)) for c, fit in fits.items()}
    return judged(passes, fits), failures | failed


def check_fixed(family: Family, fixed: Sequence[str]) -> None:
    """Raise `InputError` if something is to be held fixed that a family has not."""
    known = ("weights", *family.parts)
    for part in fixed:
        if part not in known:
            raise InputError(f"a {family.name} mixture has no {part} to hold fixed: choose from {', '.join(known)}")


def check_prior(family: Family, prior: PriorName, moments: Moments) -> None:
    """Raise `InputError` if there is to be a prior that a family has not."""
    if prior != "none" and family.prior(moments) is None:
        known = ", ".join(name for name, other in FAMILIES.items() if other.prior(moments) is not None)
        raise InputError(f"a {family.name} mixture has no conjugate prior: choose from {known}, or leave prior out")


def check_noise(family: Family, samples: Samples, options: Training) -> None:
    """Raise `InputError` if there is to be noise where there cannot be any."""
    if not options.noise:
        return
    if not family.noisy:
        raise InputError(f"noise stands beside Gaussian components, not beside {family.name} ones: leave it out")
    if samples.labels is not None:
        raise InputError(
            f"noise is for samples whose classes are not known, and {samples.name} has labels: leave one out"
        )


def check_missing(family: Family, options: Training) -> None:
    """Raise `InputError` if values that are missing are to be marginalised where nobody knows how."""
    if options.missing == "marginalise" and not family.incomplete:
        known = ", ".join(name for name, other in FAMILIES.items() if other.incomplete)
        raise InputError(
            f"what is missing cannot be marginalised in a {family.name} mixture: choose from {known}, or leave such "
            "samples out (missing=omit)"
        )


def judged(passes: Passes, fits: dict[Candidate, Fit]) -> dict[Candidate, Fit]:
    """The fits with what they say of the rows held out block by block, by a pass of its own, if there are any."""
    if not fits or not passes.profile.held_out.count:
        return fits
    found = passes.judge([fit.mixture for fit in fits.values()])
    return {
        c: replace(fit, judged=sums, held_out_se=sums.standard_error)
        for (c, fit), sums in zip(fits.items(), found, strict=True)
    }


def select_candidates(passes: Passes, search: Search, options: Training) -> Selection:
    """Fit the grid and choose the sound candidate with the lowest criterion."""
    criterion = search.criterion
    if criterion is Criterion.HELD_OUT and not options.holdout:
        raise InputError("criterion held_out needs rows that no fit sees: give holdout, their share, such as 0.1")
    if criterion is Criterion.HELD_OUT and not passes.profile.held_out.count:
        raise InputError(
            f"criterion held_out has no row to go by: holdout {options.holdout:g} holds none of the "
            f"{passes.profile.n_samples} complete rows of {passes.samples.name} out: raise it, or choose by another "
            "criterion"
        )
    fits: dict[Candidate, Fit] = {}
    failures: dict[Candidate, Outcome] = {}
    numbers: Sequence[int] = search.n_components
    while numbers:
        candidates = [Candidate(k, kind) for kind in search.covariance_type for k in numbers]
        found, failed = fit_candidates(passes, candidates, options, keep_all=search.keep_all, criterion=criterion)
        fits, failures = fits | found, failures | failed
        sound = [f for f in fits.values() if f.outcome.is_sound]
        if not isinstance(search.n_components, OpenRange):
            break
        best_so_far = min(sound, key=lambda f: (f.criterion(criterion), f.n_parameters), default=None)
        numbers = OpenRange.after(
            numbers[-1], best_so_far.n_components if best_so_far else None, passes.profile.n_samples
        )
    if not sound:
        every = {c.n_components for c in failures | fits}
        tried = " to ".join(map(str, sorted({min(every), max(every)})))
        raise CollapseError(
            f"every candidate collapsed: lower n_components ({tried}) or raise reg_covar ({options.reg_covar:g})"
        )
    best, ties = choose(sound, criterion)
    stable = with_stability(passes, best, options)
    outcomes = {(c.n_components, c.covariance_type): outcome for c, outcome in failures.items()}
    ours = tuple(stable if f is best else f for f in fits.values())
    return Selection(stable, ours, passes.n_reads, outcomes, criterion, ties)


def with_stability(passes: Passes, fit: Fit, options: Training) -> Fit:
    """The fit with what refits on the sample say of it, if they are asked for and it means something."""
    if not options.stability or not fit.outcome.is_sound:
        return fit
    rows = passes.profile.sample.first(REFITTED_ROWS)
    threads = passes.fold.workers.driver_threads
    found = stability_of(fit.mixture, rows, fit.n_samples, options, passes.frame, threads, passes.sharing)
    return replace(fit, stability=found)


def passes_over(
    samples: Samples,
    workers: Workers,
    options: Training | None = None,
    *,
    ridge: float | None = None,
    frame: Frame | None = None,
    journal: Journal | None = None,
    known: Transform | None = None,
) -> Passes:
    """The profile pass, and what further passes need; options are those of `Training` by default.

    With a journal, passes that are in it are not made again. Samples are preprocessed as the options ask for, or in a
    known way.
    """
    options = Training() if options is None else options
    if known is not None or options.preprocess is not None:
        return prepared_passes(samples, workers, options, known=known, ridge=ridge, journal=journal, frame=frame)
    plain = Fold(samples, workers)
    fold = plain if journal is None else Journaled(plain, journal)
    return Passes(fold, samples, profile_of(fold, samples, options), options, ridge=ridge, frame=frame)


def train_samples(
    samples: Samples,
    workers: Workers,
    one: One,
    options: Training,
    given: Given | None = None,
    journal: Journal | None = None,
) -> Fit:
    """Fit one mixture, and warn of what it lacks; raises `CollapseError` where there is nothing to return."""
    known = None
    if given is not None and given.mixture is not None:
        check_known(known := given.mixture.transform, options, samples)
    with one_blas_thread:
        passes = passes_over(samples, workers, options, journal=journal, known=known)
        fit = fit_one(passes, one, options, given_after(given, passes.transform))
        fit = before_transform(fit, samples, passes.transform)
    if not fit.outcome.is_sound:
        logger.warning("%s: %s", fit.state, fit.reason)
    elif not fit.converged:
        logger.warning(
            "%s, an estimated %.2g nats per sample short of this top: raise max_iter (%d)",
            fit.state, fit.remaining_gain, options.max_iter,
        )  # fmt: skip
    return fit


def started(one: One, samples: Samples, start: Fit | Mixture) -> tuple[One, Samples, Given]:
    """What is fitted from a whole mixture: with its number of components, to its features in its order.

    Raises
    ------
    InputError
        If another mixture is asked for, or samples have other features, or labels.
    """
    mixture = start if isinstance(start, Mixture) else start.mixture
    if samples.labels is not None:
        raise InputError("a start is for samples without labels, whose own starts are what is known: leave it out")
    k, kind = one.n_components or mixture.n_components, one.covariance_type
    if (k, kind) != (mixture.n_components, mixture.covariance_type):
        raise InputError(
            f"n_components={k}, covariance_type={kind} are not those of the start, {mixture.n_components} and "
            f"{mixture.covariance_type}: ask for these"
        )
    if isinstance(start, Fit):
        samples = samples.like(start.features, start.layout)
    if samples.n_features != mixture.n_inputs:
        raise InputError(f"{samples.name} has {samples.n_features} features, the start {mixture.n_inputs}")
    return one.model_copy(update={"n_components": k}), samples, Given(mixture=mixture)


def fit_one(passes: Passes, one: One, options: Training, given: Given | None = None) -> Fit:
    """Fit one mixture without a word; raises `CollapseError` where there is nothing to return."""
    candidate = Candidate(one.number(passes.samples.labels), one.covariance_type)
    fits, failures = fit_candidates(passes, [candidate], options, given=given)
    if failures:
        raise CollapseError(f"{candidate} collapsed: {failures[candidate].reason}")
    return with_stability(passes, fits[candidate], options)


def select_samples(
    samples: Samples,
    workers: Workers,
    search: Search,
    options: Training,
    journal: Journal | None = None,
    known: Transform | None = None,
) -> Selection:
    """Fit a grid and choose from it; samples may be preprocessed in a known way."""
    with one_blas_thread:
        passes = passes_over(samples, workers, options, journal=journal, known=known)
        found = select_candidates(passes, search, options)
    if passes.transform is None:
        return found
    fits = {id(fit): before_transform(fit, samples, passes.transform) for fit in (found.best, *found.fits)}
    every, ties = (tuple(fits[id(fit)] for fit in group) for group in (found.fits, found.ties))
    return replace(found, best=fits[id(found.best)], fits=every, ties=ties)


def merge_samples(fit: Fit, samples: Samples, workers: Workers, options: Training) -> Fit:
    """The fit with clusters of its components, by one read of the samples; of options only the sample's matter.

    What a merged cluster shares with the others is known only after the merge: on all the data each would be a pass of
    its own, for means that a sample knows to 0.3 % of a row's standard deviation.
    """
    if fit.classes:
        raise InputError(
            f"the model has classes ({shortened([*map(str, fit.classes)])}), whose components are together already"
        )
    if fit.noise is not None:
        raise InputError("the model has noise beside its components, which belongs to no cluster: train without it")
    samples = samples.like(fit.features, fit.layout)
    with one_blas_thread:
        options = options.model_copy(update={"missing": fit.missing})
        sample = profile_of(Fold(samples, workers, keep=False), samples, options).sample
        rows = sample.first(len(sample.rows))
        return replace(fit, clusters=clusters_of(fit.mixture, rows, marginal=fit.marginalises))


def path_of(
    samples: Samples, workers: Workers, start: Mixture, n_passes: int, options: Training
) -> tuple[Mixture, ...]:
    """Mixtures on the way of plain EM from a start, in the data's units and in the order of its components.

    The start, and after each of so many passes the M-step's; no rule ends them sooner.
    """
    check_missing(start.family, options)
    if (known := start.transform) is not None:
        start = replace(start, transform=None)
    with one_blas_thread:
        passes, name = passes_over(samples, workers, options, known=known), start.covariance_type
        candidate = Candidate(start.n_components, name)
        moments, reg_covar = passes.profile.moments, options.reg_covar
        check_prior(start.family, options.prior, moments)
        ground = grounds_for(
            [candidate], moments, passes.frame, reg_covar, options.fixed, passes.sharing, options.prior,
            marginal=passes.marginal,
        )[name]  # fmt: skip
        ascent = Ascent(start.to_frame(ground.frame), ground, acceleration="none", stop=lambda _: False)
        found = [start]
        for _ in climb([ascent], passes.accumulate, n_passes):
            if ascent.failure is not None:
                raise ascent.failure
            found.append(ascent.proposal.to_data(ground.frame))
    return tuple(found if known is None else (replace(mixture, transform=known) for mixture in found))
