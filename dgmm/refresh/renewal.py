"""A candidate for the place of the champion: whether one is wanted, and fitting it."""

from __future__ import annotations

import logging
from typing import Any

from dgmm import store
from dgmm.config import Refresh
from dgmm.data import check_unchanged
from dgmm.errors import CollapseError
from dgmm.fits import One, Search, Training
from dgmm.fitting import check_known, select_samples, train_samples
from dgmm.pipeline import samples_of, stage, workers_of
from dgmm.refresh.night import CANDIDATE, Night, note, noted
from dgmm.refresh.state import State
from dgmm.search import Given
from dgmm.store import JOURNAL, Record, Status, journal_at, place_at, settings_in
from dgmm.words import describe

logger = logging.getLogger("dgmm")

#: Share of the rows, or blocks, that is held out to judge where the settings leave that open.
HELD_OUT = 0.1


def training_of(job: Refresh) -> Training:
    """How a candidate is fitted: with rows held out, which judge it."""
    return job.training if job.training.holdout else job.training.model_copy(update={"holdout": HELD_OUT})


def is_wanted(job: Refresh, state: State, night: Night | None) -> bool:
    """Whether a candidate is to be fitted."""
    champion = state.champion
    if champion is None:
        return True
    if job.refit == "never" or champion.card.data == state.source:
        return False
    return job.refit == "always" or (night is not None and night.drifted)


def candidate_settings(job: Refresh, state: State) -> dict[str, Any]:
    """What a candidate is made with."""
    updates = state.champion is not None and job.how == "update"
    search = {} if updates else stage(Search, job).model_dump(mode="json")
    return {
        "data": job.data.model_dump(mode="json"),
        "training": training_of(job).model_dump(mode="json"),
        "source": state.digest,
        "from": "" if state.champion is None else state.champion.version,
        "how": "search" if search else "update",
        **search,
    }


def fit_stage(job: Refresh) -> str | None:
    """Fit a candidate where one is wanted; its path."""
    state, night = State.of(job), noted(job.out)
    if not is_wanted(job, state, night):
        return None
    wanted, path = candidate_settings(job, state), job.out.rstrip("/") + CANDIDATE
    if not job.overwrite and _holds(path, wanted):
        return path
    training, champion = training_of(job), state.champion
    with (
        place_at(path).begin("model", overwrite=True, inputs=[job.data.path]) as output,
        journal_at(
            path + JOURNAL, state.source, wanted, overwrite=job.overwrite, keep=job.keep_journal, supersede=True
        ) as journal,
        workers_of(job.cluster) as workers,
    ):
        table = None
        try:
            if champion is not None and job.how == "update":
                m = champion.fit.mixture
                one = One(n_components=m.n_components, covariance_type=m.covariance_type)
                fit = train_samples(state.samples, workers, one, training, Given(mixture=m), journal)
            else:
                # judged against the champion, whose densities are of features that are preprocessed as its own are
                known = None
                if champion is not None:
                    known = champion.fit.mixture.transform
                    check_known(known, training, state.samples, "the champion")
                selection = select_samples(state.samples, workers, stage(Search, job), training, journal, known)
                fit, table = selection.best, selection.table
        except CollapseError as error:
            if champion is None:
                raise
            logger.warning("there is no candidate, %s stays in use: %s", champion.version, error)
            if night is not None:
                note(job.out, night.model_copy(update={"decision": f"none, for it collapses: {error}"}))
            return None
        check_unchanged(samples_of(job.data, None if champion is None else champion.fit), state.source)
        store.write(output, fit, table=table, settings=wanted)
        output.finish()
    logger.info("candidate: %s", describe(fit))
    return path


def _holds(path: str, wanted: dict[str, Any]) -> bool:
    """Whether the candidate that lies at a place is the one that is wanted."""
    state = place_at(path).state()
    return state.status is Status.FINISHED and settings_in(store.attributes(path)) == wanted


def candidate_of(job: Refresh, state: State) -> Record | None:
    """The candidate of this night, if there is one."""
    path = job.out.rstrip("/") + CANDIDATE
    wanted = is_wanted(job, state, noted(job.out)) and _holds(path, candidate_settings(job, state))
    return store.read(path) if wanted else None
