"""What is done every night: ``python -m flows.refresh settings.yaml``."""

from prefect import flow

from dgmm import refresh as stages
from dgmm.config import Refresh
from flows.common import main, phase, publish_summary


@flow(name="dgmm-refresh", log_prints=True)
def refresh(settings: Refresh) -> str:
    """Look at the new data, renew the model where that is asked for, score what is new; a night that is done stays."""
    if not stages.is_finished(settings):
        print(phase("guards", stages.guard_stage, settings))
        phase("drift", stages.drift_stage, settings)
        phase("fit", stages.fit_stage, settings)
        phase("accept", stages.accept_stage, settings)
        phase("score", stages.score_stage, settings)
        phase("verify", stages.verify_stage, settings)
    publish_summary("dgmm-refresh", stages.summary(settings))
    return settings.out


if __name__ == "__main__":
    main(refresh, Refresh)
