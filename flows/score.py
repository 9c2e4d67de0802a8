"""Score a store with a fitted mixture: ``python -m flows.score settings.yaml``."""

from prefect import flow

from dgmm.config import Score
from dgmm.pipeline import run_score
from flows.common import main, phase, publish_summary


@flow(name="dgmm-score", log_prints=True)
def score(settings: Score) -> str:
    """Label every sample and write the scores; their path."""
    scored = phase("score", run_score, settings)
    n = int(scored.counts.sum())
    text = f"{n} samples scored, {scored.n_missing} missing, mean log density {scored.log_density / max(n, 1):.6g}"
    publish_summary("dgmm-score", text)
    print(text)
    return settings.out


if __name__ == "__main__":
    main(score, Score)
