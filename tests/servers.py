"""Servers that tests start on loopback, on free ports, as processes that end with their context."""

from __future__ import annotations

import functools
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def answers(port: int) -> bool:
    """Whether somebody listens on a port."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def awaited(is_so: Callable[[], bool], server: subprocess.Popen[Any] | None = None, seconds: float = 120) -> None:
    """Wait until something is so, for as long as a server lives."""
    end = time.monotonic() + seconds
    while not is_so():
        assert server is None or server.poll() is None, "the server did not start"
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@contextmanager
def server(
    command: Sequence[str], port: int, *, environment: Mapping[str, str] | None = None, log: Path | None = None
) -> Iterator[subprocess.Popen[Any]]:
    """A process, once it listens on a port; it and those it has started are gone at the end."""
    given = os.environ | {"PYTHONPATH": str(ROOT)} | dict(environment or {})
    with open(os.devnull if log is None else log, "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=given, start_new_session=True)
    try:
        awaited(lambda: answers(port), process)
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[Any]) -> None:
    """End a process that leads a session, with all that is in it."""
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Hands files out by their names, and lists none."""

    def log_message(self, *_: object) -> None:
        pass

    def list_directory(self, path: Any) -> None:
        self.send_error(404)


@contextmanager
def file_server(folder: Path) -> Iterator[str]:
    """Address of a server of the files in a folder, in a thread of this process."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def s3_environment(address: str) -> dict[str, str]:
    """What the environment says of a store at an address."""
    return {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": address,
        "AWS_ALLOW_HTTP": "true",
    }


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of a server that speaks S3, with one bucket of the name ``bucket``."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with server([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port):
        urllib.request.urlopen(urllib.request.Request(f"{address}/bucket", method="PUT")).close()
        yield address


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Context with variables of the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield
