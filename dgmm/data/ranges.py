"""An object in a store as a file of which only some bytes are fetched."""

from __future__ import annotations

import io
import os
from typing import Any

from dgmm.data.retries import again
from dgmm.data.stores import object_at
from dgmm.errors import ReadError


def changed(path: str) -> ReadError:
    """What to say of a file that is another now."""
    return ReadError(f"{path} was changed since it was opened: run the same again")


class Ranges(io.RawIOBase):
    """An object as a file of which only what is asked for is fetched, as long as it is what it was.

    Parameters
    ----------
    url : str
    tag : str
        Its size, and its tag if it has one.
    storage : tuple of (str, object)
        How the object store is reached.
    """

    def __init__(self, url: str, tag: str, storage: tuple[tuple[str, Any], ...]) -> None:
        size, _, self.tag = tag.partition(" ")
        self.url, self.size, self.place, self.storage = url, int(size), 0, storage
        self.objects, self.key = object_at(url, dict(storage), read_only=True)

    def __eq__(self, other: object) -> bool:
        """The same object, reached the same way."""
        return isinstance(other, Ranges) and (self.url, self.storage) == (other.url, other.storage)

    def __hash__(self) -> int:
        return hash(self.url)

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        self.place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence]
        return self.place

    def tell(self) -> int:
        """The place."""
        return self.place

    def readinto(self, buffer: Any) -> int:
        """Fetch as much as there is room for."""
        start, stop = self.place, min(self.place + len(buffer), self.size)
        if start < stop:
            buffer[: stop - start] = again(self.url, lambda: self._fetched(start, stop))
            self.place = stop
        return max(stop - start, 0)

    def _fetched(self, start: int, stop: int) -> bytes:
        import obstore

        options: Any = {"range": (start, stop), **({"if_match": self.tag} if self.tag else {})}
        try:
            return bytes(obstore.get(self.objects, self.key, options=options).bytes())
        except obstore.exceptions.PreconditionError:
            raise changed(self.url) from None
