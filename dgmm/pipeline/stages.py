"""The whole job, in stages; one whose result is there, made with the same settings, is not done again."""

from __future__ import annotations

import logging
import os
from typing import Any, TypeVar

from dgmm import store
from dgmm.api import open_scores
from dgmm.config import (
    Pipeline,
    Score,
    Select,
    Verify,
)
from dgmm.datasets import DATASETS
from dgmm.errors import DgmmError, InputError
from dgmm.fits import Settings
from dgmm.pipeline.jobs import MODEL, is_done, run_score, run_select, run_verify, samples_of
from dgmm.scoring import Verdict
from dgmm.store import Status, place_at

logger = logging.getLogger("dgmm")

#: Names of what the whole job adds to that.
SCORES, REPORT, PICTURE = "scores.zarr", "report.html", "report.png"
#: Written into a bundled data set.
EXAMPLE_FORMAT = "dgmm-example-1"
#: Rows of the sample that the report draws.
REPORT_ROWS = 5000


def write_example(job: Pipeline) -> str:
    """Write the bundled data set that the settings name, unless it is there; the path of the data."""
    path = job.data.path
    if job.example is None:
        return path
    if job.example not in DATASETS:
        raise InputError(f"no bundled data set {job.example!r}: choose from {', '.join(DATASETS)}")
    state = place_at(path).state()
    if state.status is Status.STRANGE or (state.status is Status.FINISHED and not job.overwrite):
        logger.info("%s exists", path)
        return path
    dataset = DATASETS[job.example]().assign_attrs(format=EXAMPLE_FORMAT)
    # one chunk along the first dimension at a time, so that there is something to share out
    chunks = {name: {"chunks": (1, *v.shape[1:]) if v.ndim > 2 else v.shape} for name, v in dataset.data_vars.items()}
    with place_at(path).begin("example", overwrite=job.overwrite) as output:
        # chunks of nothing but land too: one that is not there is refused
        dataset.to_zarr(
            output.store(), mode="w-", zarr_format=3, consolidated=False, encoding=chunks, write_empty_chunks=True
        )
        store.consolidate(output.store())
        output.finish()
    logger.info("wrote %s", path)
    return path


S = TypeVar("S", bound=Settings)


def stage(model: type[S], job: Settings, /, **own: Any) -> S:
    """The settings of one stage: those that the job shares with it, and its own."""
    shared = {name: getattr(job, name) for name in model.model_fields if name in type(job).model_fields}
    return model(**{**shared, **own})


def select_stage(job: Pipeline, *, again: bool = False) -> str:
    """Select, unless the model is there; its path."""
    wanted, path = selecting(job)
    if not is_done(path, wanted):
        run_select(wanted, again=again)
    return path


def selecting(job: Pipeline) -> tuple[Select, str]:
    """The settings of the selection, and the path of its model."""
    return stage(Select, job), os.path.join(job.out, MODEL)


def score_stage(job: Pipeline) -> str:
    """Score with the selected model, unless the scores are there; their path."""
    wanted = scoring(job)
    if not is_done(wanted.out, wanted):
        run_score(wanted)
    return wanted.out


def scoring(job: Pipeline) -> Score:
    """The settings of the scoring."""
    return stage(Score, job, model=os.path.join(job.out, MODEL), out=os.path.join(job.out, SCORES))


def verify_stage(job: Pipeline) -> Verdict:
    """See that the scores are whole, by their structure and their ledger."""
    return verified(os.path.join(job.out, SCORES))


def verified(path: str) -> Verdict:
    """What is found of scores, by their structure and their ledger; raises `DgmmError` where they are not whole."""
    verdict = run_verify(Verify(path=path))
    if not verdict.is_sound:
        raise DgmmError(f"{path} is not what was written ({verdict.findings[0]}): score again (--overwrite)")
    return verdict


def report_stage(job: Pipeline) -> str:
    """Draw the report; its path."""
    # the one part that needs the report extra
    try:
        from dgmm.report import write_report
    except ImportError as error:
        raise InputError(f"the report needs {error.name}: pip install 'dgmm[report]'") from None
    model, path = os.path.join(job.out, MODEL), os.path.join(job.out, REPORT)
    samples, record = samples_of(job.data), store.read(model)
    write_report(
        path,
        title=f"{job.example or os.path.basename(job.data.path)}: classes of {samples.name}",
        fit=record.fit,
        table=record.table,
        scores=open_scores(os.path.join(job.out, SCORES)),
        features=samples.axes,
        sample=samples.some_rows(REPORT_ROWS),
        picture=os.path.join(job.out, PICTURE),
        criterion=job.criterion,
    )
    logger.info("wrote %s", path)
    return path
