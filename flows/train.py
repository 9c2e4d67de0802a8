"""Fit one mixture: ``python -m flows.train settings.yaml``."""

from prefect import flow

from dgmm import store
from dgmm.config import Train
from dgmm.pipeline import is_done, run_train
from dgmm.words import show_fit
from flows.assets import about_model
from flows.common import FLOW, Made, again, main, phase, publish_summary
from flows.watch import heard


@flow(name="dgmm-train", **FLOW)
@heard()
def train(settings: Train) -> str:
    """Fit one mixture and write the model, unless it is there with the same settings; its path."""
    if is_done(settings.out, settings):
        fit = store.load(settings.out)
    else:
        makes = Made(settings.out, about_model)
        fit = phase("train", lambda wanted: run_train(wanted, again=again()), settings, makes)
    publish_summary("dgmm-train", show_fit(settings, fit))
    return settings.out


if __name__ == "__main__":
    main(train, Train)
