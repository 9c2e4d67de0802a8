"""Requests to object stores whose answers are lost, cut off or an error: made again, and in the end one line."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import obstore
import pytest
import zarr
from cyclopts import App

from dgmm import store
from dgmm.cli import run_app
from dgmm.data import Run, again, content_of, delete, listed, object_at, record_of, retries, store_at
from dgmm.errors import DgmmError, InputError, OutputExistsError
from dgmm.store import Status, folder_at, place_at
from tests.ledgers import fit
from tests.proxy import Do, Proxy, Request, let_pass
from tests.servers import environment, s3_environment


@pytest.fixture
def proxy(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the store; what fails is not tried for long, and again soon."""
    monkeypatch.setattr(retries, "PAUSE", 0.01)
    with Proxy(os.environ["AWS_ENDPOINT_URL"]) as proxy, environment(s3_environment(proxy.address)):
        yield proxy


def once(do: Do, of: Callable[[Request], bool] = lambda request: True) -> Callable[[Request], Do]:
    """Something is done to the first request of a kind."""
    number = itertools.count(1)
    return lambda request: do if of(request) and next(number) == 1 else Do.PASS


def test_how_long_a_request_is_made_again(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a minute; by default obstore tries ten times, which is over in three seconds."""
    config: Any = store_at(f"{s3}/x.zarr", read_only=True).store.retry_config
    assert (retries.RETRY_FOR, config["retry_timeout"].total_seconds()) == (60, 60)
    backoff = config["backoff"]
    assert (config["max_retries"], backoff["base"]) == (1000, 4)
    assert (backoff["init_backoff"].total_seconds(), backoff["max_backoff"].total_seconds()) == (0.1, 5)
    assert list(itertools.islice(retries._pauses(), 4)) == [0.1, 0.2, 0.4, 0.8]
    monkeypatch.setattr(retries, "RETRY_FOR", 0.35)
    assert list(retries._pauses()) == [0.1, 0.2, 0.0]


REQUESTS: dict[str, Callable[[Any, str], Any]] = {
    "read": lambda objects, key: content_of(objects, "here", f"{key}/a")[0],
    "list": lambda objects, key: [found["path"].rpartition("/")[2] for found in listed(objects, "here", f"{key}/")],
    "delete": lambda objects, key: delete(objects, "here", [f"{key}/a"]),
    "overwrite": lambda objects, key: again("here", lambda: obstore.put(objects, f"{key}/a", b"other")) and None,
}


@pytest.mark.parametrize("do", [Do.LOSE, Do.CUT, Do.DENY, Do.BUSY, Do.REFUSE])
@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_a_request_is_made_again(request_: Callable[[Any, str], Any], do: Do, proxy: Proxy, s3: str) -> None:
    objects, key = object_at(f"{s3}/folder")
    obstore.put(objects, f"{key}/a", b"content")
    proxy.plan = once(do)
    found = request_(objects, key)
    assert proxy.n_done(do) == 1
    assert found in (b"content", ["a"], None)


@pytest.mark.parametrize("do", [Do.LOSE, Do.CUT, Do.DENY])
def test_a_record_whose_answer_was_lost_is_not_another_runs(do: Do, proxy: Proxy, s3: str) -> None:
    folder = folder_at(f"{s3}/folder")
    proxy.plan = once(do)
    folder.put("00000001", b"mine")
    assert proxy.n_done(do) == 1
    assert folder.read("00000001", 10) == b"mine"
    with pytest.raises(DgmmError, match="was written by another run"):
        folder.put("00000001", b"other")


@pytest.mark.parametrize("do", [Do.LOSE, Do.CUT, Do.DENY])
def test_a_claim_whose_answer_was_lost_is_ours(do: Do, proxy: Proxy, s3: str) -> None:
    proxy.plan = once(do, lambda request: request.method == "PUT")
    with place_at(f"{s3}/out").begin("model", overwrite=False) as output:
        assert proxy.n_done(do) == 1
        assert output.is_ours
        with (
            pytest.raises(OutputExistsError, match="is being written by run"),
            place_at(f"{s3}/out").begin("model", overwrite=False),
        ):
            pass


@pytest.mark.parametrize("do", [Do.LOSE, Do.CUT, Do.DENY])
def test_what_a_dead_run_has_left_is_found_though_the_answer_to_taking_over_was_lost(
    do: Do, proxy: Proxy, s3: str
) -> None:
    place = place_at(f"{s3}/out")
    with place.begin("scores", overwrite=False, resumes=True) as output:
        output.kept = True
    assert record_of(place.name) is not None
    # the first is refused, as there is a record; the second takes it over
    number = itertools.count(1)
    proxy.plan = lambda request: do if request.method == "PUT" and next(number) == 2 else Do.PASS
    with place.begin("scores", overwrite=False, resumes=True) as output:
        assert proxy.n_done(do) == 1
        assert output.kept
        assert output.is_ours


def test_a_word_of_life_whose_answer_was_lost_is_given(proxy: Proxy, s3: str) -> None:
    place = place_at(f"{s3}/out")
    with place.begin("scores", overwrite=False, resumes=True) as output:
        proxy.plan = once(Do.LOSE, lambda request: request.method == "PUT")
        output.leave()
        assert proxy.n_done(Do.LOSE) == 1
        found = record_of(place.name)
        assert isinstance(found, Run)
        assert not found.seen


def test_a_large_object_is_written_again(proxy: Proxy, s3: str) -> None:
    """It goes in parts; the last answer is lost, and the upload is known no more."""
    array = zarr.create_array(
        store_at(f"{s3}/x.zarr", read_only=False), shape=2**21, chunks=2**21, dtype="f8", compressors=None
    )
    proxy.plan = once(Do.CUT, lambda request: request.method == "POST" and "uploadId" in request.path)
    array[:] = 1.5
    assert proxy.n_done(Do.CUT) == 1
    assert float(zarr.open_array(store_at(f"{s3}/x.zarr", read_only=True), mode="r")[:].sum()) == 1.5 * 2**21


def test_what_is_asked_again_is_told(proxy: Proxy, s3: str, caplog: pytest.LogCaptureFixture) -> None:
    proxy.plan = once(Do.CUT)
    with caplog.at_level(logging.INFO, "dgmm"):
        assert folder_at(f"{s3}/folder").names() == []
    assert f"{s3}/folder: an answer was lost, asking again: " in caplog.text


def test_other_errors_are_not_asked_again() -> None:
    asked = []

    def ask() -> None:
        asked.append(1)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        again("here", ask)
    assert len(asked) == 1


def test_a_store_that_is_away_is_not_taken_for_a_damaged_model(
    proxy: Proxy, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever in reading it goes."""
    store.save(fit(), f"{s3}/m.zarr")
    proxy.done.clear()
    monkeypatch.setattr(retries, "RETRY_FOR", 0.1)
    monkeypatch.setattr("dgmm.data.stores.RETRIES", {"max_retries": 0})
    store.load(f"{s3}/m.zarr")
    n = len(proxy.done)
    assert n > 10
    for number in range(2, n, 2):
        proxy.done.clear()
        proxy.plan = lambda request, number=number: Do.BUSY if request.number >= number else Do.PASS
        with pytest.raises(InputError) as caught:
            store.load(f"{s3}/m.zarr")
        assert "damaged" not in str(caught.value)
        assert f"{s3}/m.zarr" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_an_object_store_says_is_one_line_on_the_command_line(
    proxy: Proxy, s3: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = App(result_action="return_value")
    objects, key = object_at(f"{s3}/folder")

    @app.default
    def fail() -> None:
        obstore.get(objects, key, options={"range": (5, 2)})

    assert run_app(app, []) == 1
    said = capsys.readouterr().err
    assert said.startswith("dgmm: an object store has failed: ")
    assert len(said.splitlines()) == 1


def test_a_journal_that_cannot_be_removed_does_not_take_the_fit_with_it(
    proxy: Proxy, s3: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retries, "RETRY_FOR", 0.1)
    monkeypatch.setattr("dgmm.data.stores.RETRIES", {"max_retries": 0})
    with store.journal_at(f"{s3}/m.journal", {}, {}):
        proxy.plan = lambda request: Do.BUSY
    proxy.plan = let_pass
    assert f"{s3}/m.journal is of no use any more, and cannot be removed: " in caplog.text
    assert place_at(f"{s3}/m.journal").state().status is not Status.STRANGE
