"""Prefect's server on PostgreSQL: what is scheduled is there to come, and flows run as on any other."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import dgmm
from tests import journals, programs
from tests.programs import wait
from tests.servers import ROOT, answers, awaited, free_port

pytestmark = pytest.mark.integration

#: Where Debian has the programs of each version.
VERSIONS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a database in a cluster of its own on loopback, by a user who is not root."""
    if not VERSIONS:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    binaries, root = VERSIONS[-1].parent, os.geteuid() == 0
    user: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if root else {}
    folder, port, secret = Path(tempfile.mkdtemp(prefix="pg-")), free_port(), "hunter2-hunter2"
    (folder / "password").write_text(secret)
    if root:
        owner = pwd.getpwnam("postgres")
        for path in (folder, folder / "password"):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    made = [binaries / "initdb", "--pgdata", folder / "data", "--username", "prefect", "--auth", "scram-sha-256",
            "--pwfile", folder / "password", "--no-sync"]  # fmt: skip
    subprocess.run(made, check=True, capture_output=True, cwd=folder, **user)
    command = [binaries / "postgres", "-D", folder / "data", "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F"]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True, **user)
    try:
        awaited(lambda: answers(port), server)
        yield f"postgresql+asyncpg://prefect:{secret}@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait(timeout=60)
        shutil.rmtree(folder)


def test_a_server_on_postgres_schedules_and_runs(tmp_path: Path) -> None:
    with (
        postgres() as database,
        programs.prefect_server(tmp_path, PREFECT_SERVER_DATABASE_CONNECTION_URL=database) as there,
    ):
        for kind in ("process", "docker", "kubernetes"):
            there.ask("work_pools/", {"name": f"dgmm-{kind}", "type": kind})
        there.prefect("deploy", "--all", "--prefect-file", str(ROOT / "deploy" / "prefect.yaml"))
        deployment = there.deployment("dgmm-refresh/nightly-0230-utc-process")
        wanted = {"deployments": {"id": {"any_": [deployment["id"]]}}}
        wait(lambda: there.ask("flow_runs/filter", wanted), "nights to be scheduled")
        coming = there.ask("flow_runs/filter", wanted)
        assert {run["state"]["name"] for run in coming} == {"Scheduled"}
        assert all(run["expected_start_time"][11:16] == "02:30" for run in coming)

        settings = tmp_path / "train.yaml"
        settings.write_text(
            journals.train(journals.write_data(tmp_path), tmp_path / "out").model_dump_json(exclude_defaults=True)
        )
        there.run([sys.executable, "-m", "flows.train", str(settings)])
        assert dgmm.load(tmp_path / "out").n_components == 3
        (run,) = there.ask("flow_runs/filter", {"flows": {"name": {"any_": ["dgmm-train"]}},
                                                "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}})  # fmt: skip
        assert {"dgmm-train", "dgmm-train-progress"} <= there.artifacts(run["id"]).keys()
