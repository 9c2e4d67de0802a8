"""The whole job, from a store to a report: ``python -m flows.pipeline config/ocean.yaml``."""

from prefect import flow

from dgmm import pipeline as stages
from dgmm.config import Pipeline
from dgmm.store import models as store
from flows.common import main, phase, publish_summary, publish_table


@flow(name="dgmm-pipeline", log_prints=True)
def pipeline(settings: Pipeline) -> str:
    """Select, score and report; stages that are done already, with the same settings, are kept."""
    phase("data", stages.write_example, settings)
    model = phase("select", stages.select_stage, settings)
    phase("score", stages.score_stage, settings)
    phase("verify", stages.verify_stage, settings)
    phase("report", stages.report_stage, settings)
    table = store.read(model).table
    if table is not None:
        publish_table("dgmm-candidates", table, settings.criterion)
    publish_summary("dgmm-pipeline", stages.summary(settings))
    return settings.out


if __name__ == "__main__":
    main(pipeline, Pipeline)
