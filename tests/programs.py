"""Programs as they run every night, started on loopback: Prefect's server and worker, Dask's scheduler and workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from distributed.security import Security

from tests.servers import ROOT, awaited, end, free_port, server

#: What the server asks for.
PASSWORD = "admin:correct-horse-battery"
#: States in which a run stays.
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
#: What says in the environment of a process to which run it belongs.
MARK = "DGMM_TEST_RUN"
#: Seconds after which something is taken for lost.
LONGEST = 300.0


class RefusedError(Exception):
    """What a server says no with."""


@dataclass(frozen=True)
class Programs:
    """Programs that run.

    Attributes
    ----------
    folder : Path
        Where their files lie.
    api : str
        The URL of the server.
    environment : dict
        Of whoever talks to them.
    """

    folder: Path
    api: str
    environment: dict[str, str]

    def prefect(self, *arguments: str, **more: str) -> str:
        """What a command of Prefect's says; it has to succeed."""
        return self.run([sys.executable, "-m", "prefect", "--no-prompt", *arguments], **more)

    def run(self, command: Sequence[str], **more: str) -> str:
        """What a command says; it has to succeed."""
        done = subprocess.run(
            command, env=self.environment | more, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """What the server answers; a POST where there is something to say."""
        key = b64encode(PASSWORD.encode()).decode()
        request = urllib.request.Request(
            f"{self.api}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Basic {key}", "Content-Type": "application/json"},
            method=method,
        )
        for left in reversed(range(10)):
            try:
                with urllib.request.urlopen(request) as answer:
                    content = answer.read()
                return json.loads(content) if content else None
            except urllib.error.HTTPError as error:
                if error.code != 503 or not left:  # a server on SQLite is busy now and then: its clients ask again
                    raise RefusedError(f"{error.code}: {error.read().decode()}") from None
            time.sleep(1)
        raise AssertionError("the last try returns or raises")

    def deployment(self, name: str) -> dict[str, Any]:
        """A deployment by the names of its flow and its own."""
        found: dict[str, Any] = self.ask(f"deployments/name/{name}")
        return found

    def begin(self, name: str, settings: Mapping[str, Any], **variables: str) -> str:
        """Have a deployment run now, with settings; the run's id."""
        deployment = self.deployment(name)
        environment = deployment["job_variables"].get("env", {}) | variables
        body = {"parameters": {"settings": settings}, "job_variables": {"env": environment}}
        return str(self.ask(f"deployments/{deployment['id']}/create_flow_run", body)["id"])

    def state(self, run: str) -> dict[str, Any]:
        """The state of a run."""
        found: dict[str, Any] = self.ask(f"flow_runs/{run}")["state"]
        return found

    def ended(self, run: str) -> dict[str, Any]:
        """The state in which a run has ended."""
        wait(lambda: self.state(run)["type"] in ENDED, f"run {run}")
        return self.state(run)

    def process(self, run: str) -> psutil.Process:
        """The process of a run, once it has one."""
        wait(lambda: self.ask(f"flow_runs/{run}")["infrastructure_pid"], f"a process of run {run}")
        return psutil.Process(int(str(self.ask(f"flow_runs/{run}")["infrastructure_pid"]).rpartition(":")[2]))

    def runs(self, name: str) -> list[dict[str, Any]]:
        """All runs of a deployment that are not in the future, the last first."""
        wanted = {"deployments": {"id": {"any_": [self.deployment(name)["id"]]}}, "sort": "START_TIME_DESC"}
        found = self.ask("flow_runs/filter", wanted)
        return [run for run in found if run["state"]["name"] != "Scheduled"]

    def said(self, run: str) -> str:
        """The log of a run."""
        lines = self.ask("logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200})
        return "\n".join(line["message"] for line in lines)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The last events of a name."""
        found = self.ask("events/filter", {"filter": {"event": {"name": [name]}}, "limit": 50})["events"]
        return list(found)

    def asset(self, path: Any, run: str) -> dict[str, Any]:
        """What a run has said of what it has made at a path; events take a moment."""

        def found() -> list[dict[str, Any]]:
            events = self.events("prefect.asset.materialization.succeeded")
            ours = [event for event in events if f"prefect.flow-run.{run}" in json.dumps(event["related"])]
            return [event["payload"] for event in ours if event["resource"]["prefect.resource.id"] == f"file://{path}"]

        wait(found, f"run {run} to tell of {path}")
        return found()[0]

    def triggered(self) -> set[str]:
        """Names of the automations that have had something to do."""
        return {event["resource"]["prefect.resource.name"] for event in self.events("prefect.automation.triggered")}

    def artifacts(self, run: str) -> dict[str, Any]:
        """Key -> the data of the artifacts of a run, those of its last try."""
        found = self.ask("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
        return {each["key"]: each["data"] for each in sorted(found, key=lambda each: str(each["created"]))}


def wait(is_so: Callable[[], Any], what: str) -> None:
    """Wait until something is so."""
    last = time.monotonic() + LONGEST
    while not is_so():
        assert time.monotonic() < last, f"waited in vain for {what}"
        time.sleep(0.2)


def marked(mark: str) -> list[psutil.Process]:
    """Processes that have a mark in their environment, which those that they start inherit."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def certificates(folder: Path) -> dict[str, str]:
    """Files with certificates for both sides, as Dask's settings in the environment."""
    given = Security.temporary()
    found = {"DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true"}
    for name, text in (("ca", given.tls_ca_file), ("cert", given.tls_client_cert), ("key", given.tls_client_key)):
        (folder / f"{name}.pem").write_text(text)
    found["DASK_DISTRIBUTED__COMM__TLS__CA_FILE"] = str(folder / "ca.pem")
    for side in ("SCHEDULER", "WORKER", "CLIENT"):
        found[f"DASK_DISTRIBUTED__COMM__TLS__{side}__CERT"] = str(folder / "cert.pem")
        found[f"DASK_DISTRIBUTED__COMM__TLS__{side}__KEY"] = str(folder / "key.pem")
    return found


@contextmanager
def process(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[Any]]:
    """A process that is gone at the end, with those it has started."""
    with open(log, "w") as output:
        started = subprocess.Popen(
            command, stdout=output, stderr=output, env=dict(environment), cwd=log.parent, start_new_session=True
        )
    try:
        yield started
    finally:
        end(started)


@contextmanager
def dask_cluster(folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """The address of a scheduler over TLS with two workers."""
    port = free_port()
    address = f"tls://127.0.0.1:{port}"
    dask = [sys.executable, "-m", "dask"]
    with ExitStack() as running:
        command = [*dask, "scheduler", "--protocol", "tls", "--host", "127.0.0.1", "--port", str(port)]
        running.enter_context(
            server([*command, "--no-dashboard"], port, environment=environment, log=folder / "scheduler.log")
        )
        for number in range(2):
            worker = [*dask, "worker", address, "--protocol", "tls", "--host", "127.0.0.1", "--nthreads", "1"]
            more = ["--no-dashboard", "--death-timeout", "60", "--local-directory", str(folder / "dask")]
            running.enter_context(process([*worker, *more], environment, folder / f"worker-{number}.log"))
        yield address


@contextmanager
def prefect_server(folder: Path, **more: str) -> Iterator[Programs]:
    """A server that asks for a password, and how to talk to it."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "DASK_"))}
    quiet = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PYTHONPATH": str(ROOT)}
    own = {
        "PREFECT_HOME": str(folder / "server"),
        "PREFECT_SERVER_API_AUTH_STRING": PASSWORD,
        "PREFECT_SERVER_UI_ENABLED": "false",
        # so that a test need not wait for what a night has time for
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with server(command, port, environment=inherited | quiet | own | more, log=folder / "server.log"):
        theirs = {
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_API_AUTH_STRING": PASSWORD,
            "PREFECT_HOME": str(folder / "client"),
            "PREFECT_WORKER_QUERY_SECONDS": "2",
        }
        yield Programs(folder, f"http://127.0.0.1:{port}/api", inherited | quiet | theirs)


@contextmanager
def prefect_worker(programs: Programs, pool: str, name: str = "worker") -> Iterator[subprocess.Popen[Any]]:
    """A worker that runs the flows of a pool as processes."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", "worker", "start", "--pool", pool, "--name", name]
    log = programs.folder / f"{name}.log"
    with process([*command, "--install-policy", "never"], programs.environment, log) as started:
        awaited(lambda: "started!" in log.read_text(), started)
        yield started
