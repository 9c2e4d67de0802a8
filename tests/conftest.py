"""What the tests share: how Hypothesis runs, one small cluster, one small data set."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster
from hypothesis import HealthCheck, settings

from dgmm.engine.schedulers import DISTRIBUTED_SETTINGS
from tests.servers import environment, s3_environment, s3_server

# What a script starts in the background ignores Ctrl-C, and so would all that tests start to interrupt it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run; no deadlines, machines differ.
settings.register_profile(
    "dgmm", deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("dgmm")


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """A cluster of two processes on loopback, shared by all tests and not the default client of any."""
    with (
        dask.config.set(DISTRIBUTED_SETTINGS),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            memory_limit="2GiB",
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(scope="session")
def _s3() -> Iterator[str]:
    """A server that speaks S3, on loopback, with one bucket; the environment says how to reach it."""
    with s3_server() as address, environment(s3_environment(address)):
        yield "s3://bucket"


@pytest.fixture
def s3(_s3: str) -> str:
    """URL of a prefix in a bucket, for one test alone."""
    return f"{_s3}/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def blobs() -> np.ndarray:
    """600 samples of two features in three well separated groups of 300, 200 and 100; not to be written to."""
    generator = np.random.default_rng(20240607)
    groups = [
        generator.normal((0.0, 0.0), (1.0, 0.5), (300, 2)),
        generator.normal((9.0, 1.0), (0.5, 1.0), (200, 2)),
        generator.normal((4.0, 12.0), (1.0, 1.0), (100, 2)),
    ]
    x = generator.permutation(np.concatenate(groups))
    x.flags.writeable = False
    return x
