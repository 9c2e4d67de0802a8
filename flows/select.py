"""Choose a mixture: ``python -m flows.select settings.yaml``."""

from prefect import flow

from dgmm.config import Select
from dgmm.pipeline import describe, run_select, show_table
from flows.common import main, phase, publish_summary, publish_table


@flow(name="dgmm-select", log_prints=True)
def select(settings: Select) -> str:
    """Select and write the best model and the table of candidates; their folder."""
    selection = phase("select", run_select, settings)
    described = describe(selection.best, selection.criterion)
    publish_table("dgmm-candidates", selection.table, selection.criterion)
    publish_summary("dgmm-select", described)
    print(f"{show_table(selection.table, selection.criterion)}\n{described}")
    return settings.out


if __name__ == "__main__":
    main(select, Select)
