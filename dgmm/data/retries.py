"""Requests to object stores whose answer is lost on the way, which are made again.

obstore makes most requests again by itself. What it does not: those that create something where there is nothing, as
they may have been carried out, and most whose answer breaks off midway. Whoever asks for such a thing through here must
be able to tell what a request comes to that was carried out before.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from dgmm.errors import first_line, is_of_obstore

logger = logging.getLogger("dgmm")

#: A request that has failed is not made again later than so many seconds after it was first made.
RETRY_FOR = 60.0
#: Seconds between two tries: at first, and at most.
PAUSE, LONGEST_PAUSE = 0.1, 5.0
#: What obstore makes of that. The time alone ends it: ten tries, as by default, are over in three seconds. Pauses are
#: drawn between the first and so many times the one before.
RETRIES: dict[str, Any] = {
    "max_retries": 1000,
    "retry_timeout": timedelta(seconds=RETRY_FOR),
    "backoff": {
        "init_backoff": timedelta(seconds=PAUSE),
        "max_backoff": timedelta(seconds=LONGEST_PAUSE),
        "base": 4,
    },
}
#: In what obstore says of a request that came to nothing on the way, or whose answer did.
ON_THE_WAY = "HTTP error"

T = TypeVar("T")


def is_lost(error: BaseException) -> bool:
    """Whether a request or its answer was lost on the way: nobody knows whether it was carried out."""
    # after the answer to the last part of a large object was lost, obstore gives the upload up, which is there no more
    upload = isinstance(error, FileNotFoundError) and "uploadId=" in str(error)
    return upload or (is_of_obstore(error) and ON_THE_WAY in str(error))


def again(name: str, ask: Callable[[], T]) -> T:
    """What a request comes to, made again where it or its answer is lost; the name is for messages."""
    for pause in _pauses():
        try:
            return ask()
        except Exception as error:
            _told_or_raised(name, error, pause)
        time.sleep(pause)
    raise AssertionError("the last try returns or raises")


async def again_async(name: str, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The same in an event loop."""
    for pause in _pauses():
        try:
            return await ask()
        except Exception as error:
            _told_or_raised(name, error, pause)
        await asyncio.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _pauses() -> Iterator[float]:
    """Seconds to wait after each try; zero after the last."""
    end, pause = time.monotonic() + RETRY_FOR, PAUSE
    while time.monotonic() + pause < end:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE)
    yield 0.0


def _told_or_raised(name: str, error: Exception, pause: float) -> None:
    if not pause or not is_lost(error):
        raise error
    logger.info("%s: an answer was lost, asking again: %s", name, first_line(error)[:200])


def listed(objects: Any, name: str, prefix: str | None) -> list[Any]:
    """What is known of all objects whose keys begin with a prefix."""
    import obstore

    return again(name, lambda: [found for batch in obstore.list(objects, prefix) for found in batch])


def delete(objects: Any, name: str, keys: list[str]) -> None:
    """Delete objects; those that are not there need not be."""
    import obstore

    if keys:
        again(name, lambda: obstore.delete(objects, keys))


def content_of(objects: Any, name: str, key: str, most: int | None = None) -> tuple[bytes, Any]:
    """An object and what is known of it; raises `FileNotFoundError` if there is none, `ValueError` if it is larger."""
    import obstore

    def ask() -> tuple[bytes, Any]:
        answer = obstore.get(objects, key)
        size = answer.meta["size"]
        if most is not None and size > most:
            raise ValueError(f"it has {size} bytes, more than {most}")
        return bytes(answer.bytes()), answer.meta

    return again(name, ask)


class Patient(ObjectStore[Any]):
    """An object store for zarr of which everything is asked again where an answer is lost."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """An object, or a part of it; None if there is none."""
        return await again_async(key, lambda: super(Patient, self).get(key, prototype, byte_range))

    async def set(self, key: str, value: Buffer) -> None:
        """Write an object, of several parts where it is large."""
        await again_async(key, lambda: super(Patient, self).set(key, value))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write an object where there is none; what a lost answer was to is there."""
        await again_async(key, lambda: super(Patient, self).set_if_not_exists(key, value))

    async def delete(self, key: str) -> None:
        """Delete an object, if it is there."""
        await again_async(key, lambda: super(Patient, self).delete(key))

    async def delete_dir(self, prefix: str) -> None:
        """Delete all objects below a prefix."""
        below = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
        for key in [key async for key in self.list_prefix(below)]:
            await self.delete(key)

    async def list_prefix(self, prefix: str) -> AsyncGenerator[str, None]:
        """Keys that begin with a prefix."""
        for key in await again_async(prefix, lambda: _all(super(Patient, self).list_prefix(prefix))):
            yield key

    async def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        """Names right below a prefix."""
        for name in await again_async(prefix, lambda: _all(super(Patient, self).list_dir(prefix))):
            yield name


async def _all(names: AsyncGenerator[str, None]) -> list[str]:
    return [name async for name in names]
