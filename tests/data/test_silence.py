"""Object stores that accept every connection and say nothing."""

from __future__ import annotations

import asyncio
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from zarr.core.sync import sync

from dgmm import store
from dgmm.data import open_samples, open_store, store_at
from dgmm.data.stores import TIMEOUTS, client_options
from dgmm.errors import DgmmError, InputError
from dgmm.store import place_at


@pytest.fixture
def mute(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of a prefix in a bucket of such a store, which is not waited for for long."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        for name, value in {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{listener.getsockname()[1]}",
            "AWS_ALLOW_HTTP": "true",
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("dgmm.data.stores.TIMEOUTS", TIMEOUTS | {"read_timeout": "500ms"})
        monkeypatch.setattr("dgmm.data.stores.RETRIES", {"max_retries": 0})
        monkeypatch.setattr("dgmm.data.retries.RETRY_FOR", 0.0)
        monkeypatch.setattr("dgmm.waits.TOLD_EVERY", 0.1)
        yield "s3://bucket/data"


def begin(url: str) -> None:
    with place_at(url).begin("model", overwrite=False):
        pass


ACCESSES: dict[str, Callable[[str], Any]] = {
    "store": open_store,
    "samples": open_samples,
    "model": store.load,
    "json-model": lambda url: store.load(f"{url}.json"),
    "look": lambda url: place_at(url).look("model", overwrite=False),
    "output": begin,
}


@pytest.mark.parametrize("access", ACCESSES.values(), ids=ACCESSES)
def test_a_store_that_does_not_answer_is_waited_for_with_a_word_and_an_end(
    access: Callable[[str], Any], mute: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DgmmError, match=f"cannot (open|look at) {mute}.*: .*error sending request") as caught:
        access(mute)
    assert "\n" not in str(caught.value)
    assert f"waiting for {mute}" in caplog.text
    assert "to answer for 0 s" in caplog.text


class Halting(BaseHTTPRequestHandler):
    """Refuses what is asked, but for one key, of which it says nothing."""

    def do_GET(self) -> None:
        if self.path.endswith(".zattrs"):
            time.sleep(60)  # nobody waits for it
        else:
            self.send_error(404 if self.path.endswith("zarr.json") else 403)

    def log_message(self, *_: object) -> None:
        pass


async def under_way() -> int:
    """How many tasks the event loop of zarr has, but for this one."""
    return len(asyncio.all_tasks()) - 1


def test_nothing_is_left_to_itself_that_was_asked_beside_it(mute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the other keys by which zarr looks for a store; they would complain as the process ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Halting)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    try:
        with pytest.raises(InputError, match=f"cannot open {mute}"):
            open_store(mute)
        assert sync(under_way()) == 0
    finally:
        server.shutdown()
        thread.join()
        server.socket.close()


def test_the_environment_says_how_long_a_store_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_READ_TIMEOUT", "2h")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    expected = TIMEOUTS | {"read_timeout": "2h", "allow_http": "true"}
    assert client_options("s3") == expected
    assert client_options("gs") == client_options("az") == TIMEOUTS
    objects = pickle.loads(pickle.dumps(store_at("s3://bucket/x.zarr", read_only=True))).store
    assert objects.client_options == expected, "workers talk to it as this process does"


def test_only_so_many_seconds_go_by_with_nothing_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large chunk may take its time, as long as something of it comes."""
    monkeypatch.delenv("AWS_ALLOW_HTTP", raising=False)
    objects = store_at("s3://bucket/x.zarr", read_only=True).store
    assert objects.client_options == {"connect_timeout": "5s", "read_timeout": "30s", "timeout": "10min"}
    assert objects.retry_config["retry_timeout"].total_seconds() == 60
