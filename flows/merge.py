"""Merge the components of a fitted mixture into clusters: ``python -m flows.merge settings.yaml``."""

from prefect import flow

from dgmm import store
from dgmm.config import Merge
from dgmm.pipeline import is_done, run_merge
from dgmm.words import show_merged
from flows.assets import about_model
from flows.common import FLOW, Made, main, phase, publish_summary
from flows.watch import heard


@flow(name="dgmm-merge", **FLOW)
@heard()
def merge(settings: Merge) -> str | None:
    """Merge components and write the model, if that is asked for and unless it is there; its path."""
    settings = settings.model_copy(update={"model": store.model_at(settings.model)})
    if settings.out is not None and is_done(settings.out, settings):
        fit = store.load(settings.out)
    else:
        makes = None if settings.out is None else Made(settings.out, about_model)
        fit = phase("merge", run_merge, settings, makes)
    publish_summary("dgmm-merge", show_merged(settings, fit))
    return settings.out


if __name__ == "__main__":
    main(merge, Merge)
