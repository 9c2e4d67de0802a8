"""A proxy before an HTTP server, on loopback, that does what a test says with every request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Self
from urllib.parse import urlsplit

#: Seconds for which a request is held that is never answered: longer than anybody waits.
FOR_EVER = 600.0
BUSY = (
    b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>SlowDown</Code>"
    b"<Message>Please reduce your request rate.</Message></Error>"
)


class Do(Enum):
    """What is done with a request."""

    PASS = "pass it on"
    #: The answer comes after a while.
    DELAY = "delay the answer"
    #: Half of the answer comes, and the connection ends.
    CUT = "cut the answer"
    #: It is not carried out: 503.
    BUSY = "say that it is too much"
    #: It is carried out, and the connection ends before the answer.
    LOSE = "lose the answer"
    #: It is carried out, and whoever asked is told that it was not: 500.
    DENY = "carry it out and deny it"
    #: It is not carried out, and no answer ever comes.
    HANG = "never answer"
    #: It is not carried out, and the connection ends.
    REFUSE = "hang up"


@dataclass(frozen=True)
class Request:
    """One request: its number, counted from one, its method and its path with the query."""

    number: int
    method: str
    path: str

    @property
    def writes(self) -> bool:
        """Whether it changes what is stored."""
        return self.method in ("PUT", "POST", "DELETE")


def let_pass(request: Request) -> Do:
    """Nothing is done to any request."""
    return Do.PASS


@dataclass
class Proxy:
    """Context of a proxy before an address ``http://host:port``.

    Attributes
    ----------
    target : str
    plan : callable
        Says what is done with a request; may be replaced at any time.
    delay : float
        Seconds of `Do.DELAY`.
    done : list
        Every request, and what was done with it.
    """

    target: str
    plan: Callable[[Request], Do] = let_pass
    delay: float = 0.2
    done: list[tuple[Request, Do]] = field(default_factory=list)

    def __enter__(self) -> Self:
        """Listen, in a thread."""
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *exception: object) -> None:
        """Hang up."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    def n_done(self, do: Do) -> int:
        """To how many requests this was done."""
        return sum(done is do for _, done in self.done)

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        # connections may still be on their way in, for long where the machine is busy
        quiet = 0
        while quiet < 5:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            quiet = 0 if others else quiet + 1
            await asyncio.sleep(0.03)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(_length(head))
                if not await self._one(head, body, writer):
                    break
        writer.close()
        with suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()

    async def _one(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> bool:
        """Deal with a request; whether the connection goes on."""
        method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
        request = Request(len(self.done) + 1, method, path)
        do = self.plan(request)
        self.done.append((request, do))
        if do is Do.HANG:
            await asyncio.sleep(FOR_EVER)
        if do in (Do.HANG, Do.REFUSE):
            return False
        if do is Do.BUSY:
            writer.write(_answer(b"503 Slow Down", BUSY))
            await writer.drain()
            return True
        answer = await self._ask(head, body)
        if do is Do.DENY:
            answer = _answer(b"500 Internal Server Error", b"<Error><Code>InternalError</Code></Error>")
        if do is Do.LOSE:
            return False
        if do is Do.DELAY:
            await asyncio.sleep(self.delay)
        if do is Do.CUT:
            end_of_head = answer.index(b"\r\n\r\n") + 4
            answer = answer[: end_of_head + (len(answer) - end_of_head) // 2] if len(answer) > end_of_head else b""
        writer.write(answer)
        await writer.drain()
        return do is not Do.CUT

    async def _ask(self, head: bytes, body: bytes) -> bytes:
        """The whole answer of the server."""
        where = urlsplit(self.target)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        try:
            first, rest = head.split(b"\r\n", 1)
            writer.write(first + b"\r\nConnection: close\r\n" + rest + body)
            await writer.drain()
            # what is left says how long it is, and the connection that goes on is ours
            return b"\r\n".join(
                line for line in (await reader.read(-1)).split(b"\r\n") if line.lower() != b"connection: close"
            )
        finally:
            writer.close()


def _length(head: bytes) -> int:
    """How long the body of a request is."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def _answer(status: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
