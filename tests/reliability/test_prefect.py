"""Flows against a server of Prefect's that asks for a password, and flows that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import journals
from tests.reliability.faults import drivers
from tests.servers import ROOT, free_port, server

pytestmark = pytest.mark.prefect

#: What must not be found again.
PLANTED = "admin:hunter2hunter2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server, the flows and their outputs lie."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="module")
def api(folder: Path) -> Iterator[str]:
    """The URL of a server that asks for a password."""
    port = free_port()
    quiet = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_HOME": str(folder / "server")}
    environment = quiet | {"PREFECT_SERVER_API_AUTH_STRING": PLANTED}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with server(command, port, environment=environment, log=folder / "server.log"):
        yield f"http://127.0.0.1:{port}/api"


def asked(api: str, path: str) -> str:
    """What the server says to whoever has the password."""
    key = {"Authorization": f"Basic {b64encode(PLANTED.encode()).decode()}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{api}/{path}", data=b"{}", headers=key, method="POST")
    with urllib.request.urlopen(request) as answer:
        return str(answer.read().decode())


def settings(folder: Path, name: str) -> Path:
    """A file with the settings of a small training into a folder of its own."""
    file = folder / f"{name}.yaml"
    # JSON is YAML
    file.write_text(journals.train(drivers.data(), folder / name / "out").model_dump_json(exclude_defaults=True))
    return file


def run(command: list[str], api: str, folder: Path, password: str | None) -> subprocess.CompletedProcess[str]:
    """A process that runs a flow; what it has said is kept in the folder, too."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PYTHONPATH": str(ROOT), "PREFECT_API_URL": api, "PREFECT_HOME": str(folder / "client")}
    if password is not None:
        environment["PREFECT_API_AUTH_STRING"] = password
    return subprocess.run(
        [sys.executable, *command], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("password", [None, "admin:wrongwrong"], ids=["none", "wrong"])
def test_a_flow_without_the_password_is_refused_in_one_line(password: str | None, api: str, folder: Path) -> None:
    name = f"refused-{password is None}"
    done = run(["-m", "flows.train", str(settings(folder, name))], api, folder, password)
    assert done.returncode == 2, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line]
    assert said.startswith(f"dgmm: the server of Prefect at {api} takes no flows from here (401 Unauthorized)")
    assert "PREFECT_API_AUTH_STRING" in said
    assert "wrongwrong" not in done.stdout + done.stderr
    assert not (folder / name).exists()


def test_a_flow_that_is_killed_goes_on_when_it_is_run_again(api: str, folder: Path) -> None:
    """From the journal, to the same bits; the password lies nowhere."""
    file, model = settings(folder, "killed"), folder / "killed" / "out"
    kill = (
        "import os, signal, sys; from tests import journals; from flows.common import main; "
        "from flows.train import train; from dgmm.config import Train\n"
        f"sys.argv = ['flows.train', {str(file)!r}]\n"
        "with journals.at_record(4, lambda: os.kill(os.getpid(), signal.SIGKILL)):\n    main(train, Train)"
    )
    first = run(["-c", kill], api, folder, PLANTED)
    assert first.returncode == -signal.SIGKILL, first.stderr
    assert journals.n_records(f"{model}.journal") == 4
    again = run(["-m", "flows.train", str(file)], api, folder, PLANTED)
    assert again.returncode == 0, again.stderr
    assert "going on after 4 passes" in again.stdout + again.stderr
    assert journals.bits(str(model)) == drivers.undisturbed("training")[0]

    said = first.stdout + first.stderr + again.stdout + again.stderr
    logs, artifacts = asked(api, "logs/filter"), asked(api, "artifacts/filter")
    assert "pass 1:" in logs, "the server has the lines of the flow"
    assert "dgmm-train" in artifacts
    for secret in ("hunter2hunter2", b64encode(PLANTED.encode()).decode()):
        assert secret not in said + logs + artifacts
        for path in folder.rglob("*"):
            assert path.is_dir() or secret.encode() not in path.read_bytes(), path
