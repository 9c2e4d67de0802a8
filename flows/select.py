"""Choose a mixture: ``python -m flows.select settings.yaml``."""

from prefect import flow

from dgmm.config import Select
from dgmm.pipeline import run_select, show_selection
from flows.common import main, phase, publish_summary, publish_table


@flow(name="dgmm-select", log_prints=True)
def select(settings: Select) -> str:
    """Select and write the best model and the table of candidates; their folder."""
    selection = phase("select", run_select, settings)
    publish_table("dgmm-candidates", selection.table, selection.criterion)
    publish_summary("dgmm-select", show_selection(settings, selection))
    return settings.out


if __name__ == "__main__":
    main(select, Select)
