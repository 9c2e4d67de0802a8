"""Go on with new samples: ``python -m flows.update settings.yaml``."""

from prefect import flow

from dgmm import store
from dgmm.config import Update
from dgmm.pipeline import is_done, run_update
from dgmm.words import show_updated
from flows.assets import about_model
from flows.common import FLOW, Made, again, main, phase, publish_summary
from flows.watch import heard


@flow(name="dgmm-update", **FLOW)
@heard()
def update(settings: Update) -> str:
    """Update a model and write the new one, unless it is there with the same settings; its path."""
    settings = settings.model_copy(update={"model": store.model_at(settings.model)})
    if is_done(settings.out, settings):
        fit = store.load(settings.out)
    else:
        makes = Made(settings.out, about_model)
        fit = phase("update", lambda wanted: run_update(wanted, again=again()), settings, makes)
    publish_summary("dgmm-update", show_updated(settings, fit))
    return settings.out


if __name__ == "__main__":
    main(update, Update)
