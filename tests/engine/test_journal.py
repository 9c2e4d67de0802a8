"""A fold around the fold: what is replayed, what is done, and what happens where the two part."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from dgmm.engine import DEPARTURE, Departed, Entry, Journaled, Leaf


@dataclass(frozen=True)
class Question(Leaf[Any]):
    """A leaf with a name; one with something about it can be gone on from."""

    name: str
    subject: str | None = None

    def __call__(self, segment: int, rows: Any) -> Any:
        raise NotImplementedError

    def about(self) -> str | None:
        return self.subject

    def working_bytes(self, n_rows: int) -> int:
        return 0

    def result_bytes(self, n_rows: int) -> int:
        return 0


class Book:
    """A journal in memory; what is read of it has been through something."""

    def __init__(self, *entries: Entry) -> None:
        self.entries = list(entries)

    def read(self, number: int) -> Entry | None:
        return self.entries[number] if number < len(self.entries) else None

    def write(self, number: int, entry: Entry) -> Entry:
        self.entries[number:] = [entry]
        return entry


class Work:
    """A fold that answers with the name of what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.n_reads = 0.0
        self.workers = SimpleNamespace(driver_threads=3, device="cpu")

    def clock(self) -> float:
        return 100.0

    def __call__(self, leaf: Any) -> str:
        self.asked.append(leaf.name)
        self.n_reads += 1
        return f"of {leaf.name}"


def journaled(book: Book) -> tuple[Any, Work]:
    work = Work()
    return Journaled(work, book), work  # type: ignore[arg-type]


def entry(name: str, subject: str | None = None) -> Entry:
    return Entry(Question(name).key(), f"then of {name}", subject, 5.0, 1.0)


def test_what_is_there_is_not_asked_again_and_the_rest_is_noted() -> None:
    book = Book(entry("a"), entry("b"))
    fold, work = journaled(book)
    assert [fold(Question(name)) for name in "abc"] == ["then of a", "then of b", "of c"]
    assert work.asked == ["c"]
    assert [e.value for e in book.entries] == ["then of a", "then of b", "of c"]
    assert fold.n_reads == 3
    assert fold.clock() == 110.0
    assert fold.workers.driver_threads == 3


def test_a_question_of_another_kind_drops_what_follows(caplog: pytest.LogCaptureFixture) -> None:
    book = Book(entry("a"), entry("b"), entry("c"))
    fold, _ = journaled(book)
    assert [fold(Question(name)) for name in "axc"] == ["then of a", "of x", "of c"]
    assert len(book.entries) == 3
    assert [m for m in caplog.messages if "something else" in m] == [caplog.messages[0]]
    assert "pass 2" in caplog.messages[0]


def test_where_there_is_something_to_go_on_from_the_caller_decides() -> None:
    left = entry("b", "B"), entry("c", "C")
    book = Book(entry("a"), *left)
    fold, _ = journaled(book)
    fold(Question("a"))
    with pytest.raises(Departed) as departed:
        fold(Question("x", "X"))
    assert departed.value.entries == left
    assert book.entries[1:] == list(left), "until something is written, nothing is lost"
    assert fold.go_on_from("C") == "C"
    assert fold(Question("y", "Y")) == "of y"
    assert [(e.key, e.about) for e in book.entries][1:] == [(DEPARTURE, None), (Question("y", "Y").key(), "Y")]


def test_a_departure_is_replayed() -> None:
    book = Book(entry("a"), Entry(DEPARTURE, "C"), Entry(Question("y", "Y").key(), "then of y", "Y"))
    fold, work = journaled(book)
    fold(Question("a"))
    with pytest.raises(Departed) as departed:
        fold(Question("b", "B"))
    assert [e.value for e in departed.value.entries] == ["C"]
    assert fold(Question("y", "Y")) == "then of y"
    assert fold(Question("z", "Z")) == "of z"
    assert work.asked == ["z"]


def test_nothing_to_go_on_from_is_no_reason_to_stop() -> None:
    fold, _ = journaled(Book(entry("b")))
    assert fold(Question("x", "X")) == "of x"
