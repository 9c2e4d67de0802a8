"""The one schema of settings: of the command line, the flows, the deployments and the README's table.

Those of fits are in ``fits/options.py``.
"""

from dgmm.config.jobs import (
    Fitting,
    Ingest,
    Ingesting,
    Labelling,
    Merge,
    Merging,
    Predict,
    Predicting,
    Sample,
    Sampling,
    Score,
    Select,
    Train,
    Update,
    Updating,
    Verify,
    Verifying,
    Watch,
)
from dgmm.config.schema import (
    Setting,
    read_settings,
    settings_of,
)
from dgmm.config.sources import (
    Cluster,
    Data,
    Readable,
)
from dgmm.config.whole import (
    Acceptance,
    Pipeline,
    Refresh,
)

__all__ = [
    "Acceptance",
    "Cluster",
    "Data",
    "Fitting",
    "Ingest",
    "Ingesting",
    "Labelling",
    "Merge",
    "Merging",
    "Pipeline",
    "Predict",
    "Predicting",
    "Readable",
    "Refresh",
    "Sample",
    "Sampling",
    "Score",
    "Select",
    "Setting",
    "Train",
    "Update",
    "Updating",
    "Verify",
    "Verifying",
    "Watch",
    "read_settings",
    "settings_of",
]
