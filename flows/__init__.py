"""Prefect flows over the library: thin, one settings model as parameter each."""

import logging
import os

# before Prefect is imported: nothing is sent anywhere, and an embedded server that migrates its database first
# gets the time it needs
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
# progress lines of the library belong in the log of the run; how a cluster starts and stops does not
os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "dgmm")
# the same library logs outside of runs too
os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "warning")
logging.getLogger("dgmm").setLevel(logging.INFO)
