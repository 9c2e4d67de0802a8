"""Score a store with a fitted mixture: ``python -m flows.score settings.yaml``."""

from prefect import flow

from dgmm import store
from dgmm.config import Score
from dgmm.pipeline import is_done, run_score
from dgmm.scoring import Scored
from dgmm.words import show_scored
from flows.assets import about_scores
from flows.common import FLOW, Made, main, phase, publish_summary
from flows.watch import heard


@flow(name="dgmm-score", **FLOW)
@heard()
def score(settings: Score) -> str:
    """Label every sample and write the scores, unless they are there; their path."""
    settings = settings.model_copy(update={"model": store.model_at(settings.model)})
    if is_done(settings.out, settings):
        scored = Scored.in_attributes(store.attributes(settings.out))
    else:
        scored = phase("score", run_score, settings, Made(settings.out, about_scores))
    publish_summary("dgmm-score", show_scored(settings, scored))
    return settings.out


if __name__ == "__main__":
    main(score, Score)
