"""The whole job, from a store to a report: ``python -m flows.pipeline config/ocean.yaml``."""

from prefect import flow

from dgmm import pipeline as stages
from dgmm import store
from dgmm.config import Pipeline
from flows.common import main, phase, publish_summary, publish_table


@flow(name="dgmm-pipeline", log_prints=True)
def pipeline(settings: Pipeline) -> str:
    """Select, score and report; stages that are done already, with the same settings, are kept."""
    phase(stages.write_example, name="data")(settings)
    model = phase(stages.select_stage, name="select")(settings)
    phase(stages.score_stage, name="score")(settings)
    phase(stages.report_stage, name="report")(settings)
    table = store.candidates(model)
    if table is not None:
        publish_table("dgmm-candidates", table)
    text = stages.summary(settings)
    publish_summary("dgmm-pipeline", text)
    print(text)
    return settings.out


if __name__ == "__main__":
    main(pipeline, Pipeline)
