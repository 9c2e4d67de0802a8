"""Choose a mixture: ``python -m flows.select settings.yaml``."""

import os

from prefect import flow

from dgmm.config import Select
from dgmm.pipeline import MODEL, is_done, run_select
from dgmm.words import show_model, show_selection
from flows.assets import about_model
from flows.common import FLOW, Made, again, main, phase, publish_summary, publish_table
from flows.watch import heard


@flow(name="dgmm-select", **FLOW)
@heard()
def select(settings: Select) -> str:
    """Select and write the best model and the table of candidates, unless they are there; their folder."""
    model = os.path.join(settings.out, MODEL)
    if is_done(model, settings):
        publish_summary("dgmm-select", show_model(model, settings.criterion))
        return settings.out
    makes = Made(model, about_model)
    selection = phase("select", lambda wanted: run_select(wanted, again=again()), settings, makes)
    publish_table("dgmm-candidates", selection.table, selection.criterion)
    publish_summary("dgmm-select", show_selection(settings, selection))
    return settings.out


if __name__ == "__main__":
    main(select, Select)
