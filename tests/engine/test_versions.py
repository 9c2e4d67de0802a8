"""Workers that run something else are refused before any work, in one line that lists what differs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

import dgmm
from dgmm.engine import open_workers
from dgmm.engine.versions import check_versions, differences, said
from dgmm.errors import InputError
from tests.servers import ROOT, awaited, free_port, server


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A scheduler in this process that has no worker yet."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 10}),
        LocalCluster(
            n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False}
        ) as cluster,
    ):
        yield cluster


@contextmanager
def worker(cluster: LocalCluster, *first: Path) -> Iterator[None]:
    """A worker process that finds modules and their versions in other folders first."""
    command = [sys.executable, "-P", "-m", "distributed.cli.dask_worker", cluster.scheduler_address]
    port = free_port()
    command += ["--no-nanny", "--no-dashboard", "--listen-address", f"tcp://127.0.0.1:{port}"]
    environment = {"PYTHONPATH": os.pathsep.join(map(str, (*first, ROOT)))}
    before = len(cluster.scheduler_info["workers"])
    with server(command, port, environment=environment):
        awaited(lambda: len(cluster.scheduler_info["workers"]) > before)
        yield
    awaited(lambda: len(cluster.scheduler_info["workers"]) == before)


def claiming(folder: Path, package: str, version: str) -> Path:
    """A folder in which a package is said to be installed in some version."""
    told = folder / f"{package}-{version}.dist-info" / "METADATA"
    told.parent.mkdir(parents=True)
    told.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    return folder


def refusal(cluster: LocalCluster) -> str:
    """What is said to a training on a cluster."""
    with pytest.raises(InputError) as caught:
        dgmm.train(np.eye(3), 1, scheduler=cluster.scheduler_address)
    message = str(caught.value)
    assert message.startswith("the cluster does not run what this process does: ")
    assert "\n" not in message
    return message


def test_equal_workers_are_taken(cluster: LocalCluster) -> None:
    with worker(cluster), open_workers(cluster.scheduler_address) as workers:
        assert workers.n_threads


def test_other_versions_are_listed(cluster: LocalCluster, tmp_path: Path) -> None:
    others = [claiming(tmp_path, name, "1.99.0") for name in ("numpy", "zarr")]
    with worker(cluster), worker(cluster, others[0]):
        found = refusal(cluster)
    here = np.__version__
    assert f"numpy {here} here, 1.99.0 on worker tcp://127.0.0.1:" in found
    assert "; zarr " in found
    assert "dask" not in found.partition("; install")[0]


def test_another_dgmm_is_named(cluster: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "dgmm").mkdir()
    (tmp_path / "dgmm" / "__init__.py").write_text("__version__ = '0.0.9'\n")
    with worker(cluster, tmp_path):
        assert f"dgmm {dgmm.__version__} here, 0.0.9 on worker tcp://127.0.0.1:" in refusal(cluster)


def test_a_worker_without_dgmm_is_named(cluster: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "dgmm.py").write_text("raise ModuleNotFoundError('No module named dgmm')\n")
    with worker(cluster, tmp_path):
        assert f"dgmm {dgmm.__version__} here, none on worker tcp://127.0.0.1:" in refusal(cluster)


def test_workers_that_come_later_are_looked_at_too(cluster: LocalCluster, tmp_path: Path) -> None:
    with worker(cluster), open_workers(cluster.scheduler_address) as workers:
        assert len(workers.places()) == 1
        later = worker(cluster, claiming(tmp_path, "numba", "0.0.1"))
        with later, pytest.raises(InputError, match=r"numba .* here, 0\.0\.1 on worker"):
            workers.places()
        assert len(workers.places()) == 1


def test_the_scheduler_is_looked_at_too(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    told = client.get_versions(packages=["zarr", "numba", "scipy"])
    told["scheduler"]["packages"]["distributed"] = "2020.1"
    monkeypatch.setattr(client, "get_versions", lambda **_: told)
    with pytest.raises(InputError, match=r"distributed .* here, 2020\.1 on the scheduler; install"):
        check_versions(client)


def test_a_worker_that_is_gone_tells_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    run = client.run

    def with_one_gone(*given: object, **how: object) -> dict[str, object]:
        assert how["on_error"] == "return"
        return run(*given, **how) | {"tcp://127.0.0.1:9": OSError("timed out")}

    monkeypatch.setattr(client, "run", with_one_gone)
    assert check_versions(client) == set(client.scheduler_info()["workers"])


def test_of_python_the_first_two_numbers_count() -> None:
    ours = said({"packages": {"python": "3.11.7.final.0"}})
    theirs = said({"packages": {"python": "3.11.9.final.0"}})
    assert differences(ours, {"w": theirs}, ["python"]) == []
    other = said({"packages": {"python": "3.12.7.final.0"}})
    assert differences(ours, {"w": other}, ["python"]) == ["python 3.11 here, 3.12 on w"]


def test_many_workers_make_no_long_line() -> None:
    theirs = {f"worker {i}": {"numpy": "2" if i else None} for i in range(300)}
    assert differences({"numpy": "1"}, theirs, ["numpy"]) == [
        "numpy 1 here, none on worker 0, 2 on worker 1 and 298 more"
    ]
