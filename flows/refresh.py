"""What is done every night: ``python -m flows.refresh settings.yaml``."""

from typing import Any

from prefect import flow

from dgmm import refresh as stages
from dgmm.config import Refresh
from dgmm.registry import Registry
from flows.artifacts import publish_drift, publish_verification
from flows.assets import about_model, about_scores
from flows.common import FLOW, Made, again, announce, main, phase, publish_summary
from flows.watch import heard


@flow(name="dgmm-refresh", **FLOW)
@heard()
def refresh(settings: Refresh) -> str:
    """Look at the new data, renew the model where that is asked for, score what is new; a night that is done stays."""
    if not stages.is_finished(settings):
        print(phase("guards", stages.guard_stage, settings))
        night = phase("drift", stages.drift_stage, settings)
        if night.drift is not None:
            publish_drift(night.drift)
        before = champion_of(settings)
        phase("fit", fit, settings)
        phase("accept", stages.accept_stage, settings)
        if (champion := champion_of(settings)) != before:
            announce(Made(settings.registry, lambda folder: about_version(folder, champion)))
        phase("score", stages.score_stage, settings, Made(settings.out, about_scores))
    # of a night that is done, too: it may be that which was not
    publish_verification(settings.out, str(phase("verify", stages.verify_stage, settings)))
    publish_summary("dgmm-refresh", stages.summary(settings))
    return settings.out


def fit(settings: Refresh) -> str | None:
    """Fit a candidate where one is wanted; another try goes on from the journal, whatever is to be done anew."""
    return stages.fit_stage(settings.model_copy(update={"overwrite": False}) if again() else settings)


def champion_of(settings: Refresh) -> str:
    """The version in use, if there is one."""
    return Registry(settings.registry).aliases().get("champion", "")


def about_version(folder: str, version: str) -> dict[str, Any]:
    """What is said of a version that has come into use."""
    return {"version": version, **about_model(Registry(folder).model(version))}


if __name__ == "__main__":
    main(refresh, Refresh)
