"""Fit one mixture: ``python -m flows.train settings.yaml``."""

from prefect import flow

from dgmm.config import Train
from dgmm.pipeline import run_train, show_fit
from flows.common import main, phase, publish_summary


@flow(name="dgmm-train", log_prints=True)
def train(settings: Train) -> str:
    """Fit one mixture and write the model; its path."""
    fit = phase("train", run_train, settings)
    publish_summary("dgmm-train", show_fit(settings, fit))
    return settings.out


if __name__ == "__main__":
    main(train, Train)
