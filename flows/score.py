"""Score a store with a fitted mixture: ``python -m flows.score settings.yaml``."""

from prefect import flow

from dgmm.config import Score
from dgmm.pipeline import run_score, show_scored
from flows.common import main, phase, publish_summary


@flow(name="dgmm-score", log_prints=True)
def score(settings: Score) -> str:
    """Label every sample and write the scores; their path."""
    scored = phase("score", run_score, settings)
    publish_summary("dgmm-score", show_scored(settings, scored))
    return settings.out


if __name__ == "__main__":
    main(score, Score)
