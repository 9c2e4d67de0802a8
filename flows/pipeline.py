"""The whole job, from a store to a report: ``python -m flows.pipeline config/ocean.yaml``."""

import os

from prefect import flow

from dgmm import pipeline as stages
from dgmm.config import Pipeline
from dgmm.store import models as store
from dgmm.words import summary
from flows.artifacts import publish_report, publish_verification
from flows.assets import about_model, about_scores
from flows.common import FLOW, Made, again, main, phase, publish_summary, publish_table
from flows.watch import heard


@flow(name="dgmm-pipeline", **FLOW)
@heard()
def pipeline(settings: Pipeline) -> str:
    """Select, score and report; stages that are done already, with the same settings, are kept."""
    phase("data", stages.write_example, settings)
    wanted, path = stages.selecting(settings)
    makes = None if stages.is_done(path, wanted) else Made(path, about_model)
    model = phase("select", lambda job: stages.select_stage(job, again=again()), settings, makes)
    scoring = stages.scoring(settings)
    makes = None if stages.is_done(scoring.out, scoring) else Made(scoring.out, about_scores)
    scores = phase("score", stages.score_stage, settings, makes)
    verdict = phase("verify", stages.verify_stage, settings)
    publish_verification(scores, str(verdict))
    report = phase("report", stages.report_stage, settings)
    publish_report(report, os.path.join(settings.out, stages.PICTURE))
    table = store.read(model).table
    if table is not None:
        publish_table("dgmm-candidates", table, settings.criterion)
    publish_summary("dgmm-pipeline", summary(settings))
    return settings.out


if __name__ == "__main__":
    main(pipeline, Pipeline)
