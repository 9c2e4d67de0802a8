"""The phases of a night."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from dataclasses import replace

from dgmm import store
from dgmm.config import Refresh, Score
from dgmm.data import Samples
from dgmm.drift import Drift, baseline_of, census_of, compare
from dgmm.errors import DgmmError, InputError
from dgmm.pipeline import baseline_in, run_score, stage, verified, where, workers_of
from dgmm.refresh.judging import aligned, judged
from dgmm.refresh.night import ATTRIBUTE, Night, digest_of, last_night, note, noted
from dgmm.refresh.renewal import candidate_of, fit_stage, training_of
from dgmm.refresh.state import Champion, State, asked
from dgmm.refresh.structure import Structure, check_structure, check_values
from dgmm.registry import CANDIDATE as NOMINEE
from dgmm.registry import Card, Judgement, Made, Registry
from dgmm.scoring import Scored, Verdict
from dgmm.store import PREVIOUS, digest, version_of

logger = logging.getLogger("dgmm")


def is_finished(job: Refresh) -> bool:
    """Whether the scores are of these data, this champion and these settings already: there is nothing to do."""
    last = None if job.overwrite else last_night(job.out)
    if last is None or last.settings != digest_of(asked(job)):
        return False
    state = State.of(job)
    if state.champion is None or last.version != state.champion.version or last.source != state.digest:
        return False
    if store.attributes(job.out).get("model") != digest(state.champion.fit.mixture):  # others have scored meanwhile
        return False
    logger.info("%s is of these data and of %s already: nothing to do", job.out, last.version)
    return True


def guard_stage(job: Refresh) -> str:
    """See that the data are made as they were the last night, that none are gone, and that something was written."""
    state, last = State.of(job), last_night(job.out)
    name, now = state.samples.name, Structure.of(state.samples)
    if last is None and state.champion is not None and not job.accept_changes:
        fit = state.champion.fit
        replace(state.samples, any_units=False).like(fit.features, fit.layout)
    if last is not None:
        for change in check_structure(name, last.structure, now, accept=job.accept_changes):
            logger.warning("%s is not as it was the last night, and is taken as it is: %s", name, change)
    # what has fewer rows than the last night has no new ones
    since = 0 if last is None else last.structure.shape[0]
    n = now.shape[0] - since
    if n > 0:
        try:
            with workers_of(job.cluster) as workers:
                check_values(state.samples.since(since), workers)
        except InputError as error:
            if not job.accept_changes:
                raise InputError(f"{error}; or take the new data as they are (accept_changes)") from None
            logger.warning("%s; it is taken as it is", error)
    return f"{name} is as it should be, with {max(n, 0)} new along {now.dims[0]} ({now.shape[0]} in all)"


def drift_stage(job: Refresh) -> Night:
    """Compare the new data with those that the champion was fitted to; what has come of it is noted."""
    state, before = State.of(job), noted(job.out)
    champion, settings = state.champion, digest_of(asked(job))
    if before is not None and (before.source, before.settings) == (state.digest, settings) and not job.overwrite:
        # also where the champion has taken the place of the one compared with since
        judgement = None if champion is None else champion.card.judgement
        replaced = None if judgement is None else judgement.champion
        if before.compared in ("" if champion is None else champion.version, replaced):
            return before
    night = Night(source=state.digest, structure=Structure.of(state.samples), settings=settings)
    if champion is not None:
        since = state.since(last_night(job.out))
        drift = drift_of(job, champion, state.samples, since)
        logger.info(
            "%s against %s: %s", state.samples.since(since).name, champion.version, drift or "nothing to compare"
        )
        told = None if drift is None else drift.to_json
        night = night.model_copy(update={"compared": champion.version, "since": since, "drift": told})
    note(job.out, night)
    return night


def drift_of(job: Refresh, champion: Champion, samples: Samples, since: int) -> Drift | None:
    """How far samples from a place on have moved from what a champion was fitted to.

    None where all have missing values and are taken as they are.
    """
    baseline = baseline_in(f"{job.registry}@{champion.version}", champion.fit)
    view = samples.since(since)
    with workers_of(job.cluster) as workers:
        now = census_of(view, champion.fit.mixture, baseline.bound, workers, completed=baseline.completed)
    if job.accept_changes and not now.rows.sum():
        return None
    noisy = champion.fit.noise is not None
    return compare(baseline, now, job.threshold, lambda part: where(view, part), noisy=noisy)


def accept_stage(job: Refresh) -> Judgement | None:
    """Judge the candidate, if there is one, put it into the registry, and promote it where it is accepted."""
    state = State.of(job)
    record, champion = candidate_of(job, state), state.champion
    if record is None:
        return None
    registry = Registry(job.registry)
    version, before = ("", None) if champion is None else (champion.version, champion.fit)
    fit, matching = aligned(record.fit, before)
    known, rule = registry.holder(digest(fit.mixture)), job.acceptance.model_dump()
    judgement = None if known is None else standing(registry.card(known), version, state, rule)
    if judgement is None:
        training, samples = training_of(job), state.samples.like(fit.features, fit.layout)
        with workers_of(job.cluster) as workers:
            judgement = judged(
                job.acceptance, fit, before, matching, version, samples, state.unfitted, training, workers
            ).model_copy(update={"rule": rule})
            baseline = ""
            if known is None:
                how = {"completed": fit.marginalises}
                baseline = baseline_of(samples, fit.mixture, workers, training, **how).to_json
        command = shlex.join(["dgmm", "refresh", job.data.path, "--registry", job.registry, "--out", job.out])
        notes = (f"fitted to {job.data.path}",)
        made = Made(record.table, record.settings, state.source, command, notes, baseline, judgement)
        known = registry.add(fit, made)
    assert known is not None
    if registry.aliases().get(NOMINEE, "") < known:  # put there, and killed before it was named
        registry.nominate(known)
    unused = known not in (version, version_of(registry.folder, PREVIOUS))
    promotes = judgement.accepted and judgement.champion == version and unused
    said = f"{known} {'accepted' if judgement.accepted else 'refused'}: {judgement.why}"
    if judgement.accepted and not promotes and known != version:
        said += "; it is not in use, as it was rolled back or is of another champion"
    logger.info("candidate %s", said)
    night = noted(job.out)
    if night is not None:  # before the champion is another, of which nobody would know that there was something to say
        note(job.out, night.model_copy(update={"decision": said}))
    if promotes and (stays := registry.promote(known, judgement.why, instead_of=version)) != known:
        logger.warning("%s has become the champion meanwhile, and stays it", stays)
    return judgement


def standing(card: Card, champion: str, state: State, rule: Mapping[str, float]) -> Judgement | None:
    """What was decided of a version before, if that still stands: of other data, or by another rule, it is judged anew.

    One that was accepted is not: it may have been rolled back since.
    """
    found = card.judgement
    if found is None:
        return Judgement(accepted=False, why="it was registered by hand")
    same = found.champion == champion and found.rule == rule and card.data == state.source
    return found if found.accepted or same else None


def score_stage(job: Refresh) -> Scored:
    """Score what is new with the champion, and say with the scores what is known of the night."""
    state, night = State.of(job), noted(job.out)
    if state.champion is None:
        raise InputError(f"{job.registry} has no champion: promote a version (dgmm models promote)")
    if night is None or night.source != state.digest:
        raise DgmmError(f"{job.data.path} was changed since the night began: run the same again")
    night = night.model_copy(update={"version": state.champion.version})
    wanted = stage(Score, job, model=Registry(job.registry).model(state.champion.version), extend=True)
    return run_score(wanted, {ATTRIBUTE: night.to_json}, any_units=True)


def verify_stage(job: Refresh) -> Verdict:
    """See that the scores are whole, by their structure and their ledger."""
    return verified(job.out)


def summary(job: Refresh) -> str:
    """What has come of the last night, as text."""
    night = last_night(job.out)
    if night is None:
        return f"{job.out} is of no night"
    lines = [f"scored by {job.registry}@{night.version}: {job.out}"]
    if night.drift is not None:
        drifted = "have drifted" if night.drifted else "have not drifted"
        most = [f"{s['what']} {s['effect']:+.1f}" for s in night.drift["shifts"][:3]]
        lines.append(
            f"the new data ({night.structure.dims[0]} {night.since} on) {drifted} from what {night.compared} was "
            f"fitted to: {', '.join(most)} block deviations, {night.drift['threshold']:g} are allowed"
        )
    return "\n".join([*lines, *([f"candidate {night.decision}"] if night.decision else [])])


def run_refresh(job: Refresh) -> str:
    """All phases of a night; what has come of it, as text."""
    if not is_finished(job):
        logger.info(guard_stage(job))
        drift_stage(job)
        fit_stage(job)
        accept_stage(job)
        score_stage(job)
    # of a night that is done, too: it may be that which was not
    verify_stage(job)
    return summary(job)
