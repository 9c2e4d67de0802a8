"""Where densities are computed: this processor, or a device that JAX knows, such as a GPU."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, TypeVar

from dgmm.errors import InputError, one_line

#: The compiled kernel, on the processor.
CPU = "cpu"
#: Share of a device's memory up to which rows stay there from one pass to the next.
RESIDENT = 0.5

T = TypeVar("T")


class Kept:
    """What was made of objects, for as long as these are there."""

    def __init__(self) -> None:
        # an object may come to its end while this is held
        self._lock = threading.RLock()
        self._made: dict[int, tuple[weakref.ref[Any], Any, int]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        with self._lock:
            return sum(size for _, _, size in tuple(self._made.values()))

    def of(self, owner: Any, make: Callable[[], tuple[T, int]], room: float) -> T:
        """What was made of an object before, or is made now, and kept if all that is stays within so many bytes.

        Parameters
        ----------
        owner : object
            Nobody changes it.
        make : callable
            Returns what is made, and its bytes.
        room : float
        """
        found = self._made.get(id(owner))
        if found is not None:
            return found[1]
        made, size = make()
        with self._lock:
            if self.nbytes + size <= room:
                # it is forgotten before another object can have its place
                self._made[id(owner)] = weakref.ref(owner, partial(self._forget, id(owner))), made, size
        return made

    def _forget(self, place: int, _: Any) -> None:
        self._made.pop(place, None)


@dataclass(frozen=True, eq=False)
class Device:
    """One that JAX has found in this process.

    Attributes
    ----------
    handle : jax.Device
    memory : int or None
        Bytes that it has; None where they are those of this process.
    version : str
        Of JAX.
    lock : threading.Lock
        Of whoever computes there: tasks read side by side, and take turns at the device.
    rows, plans : Kept
        What it holds of rows and of plans.
    """

    handle: Any
    memory: int | None
    version: str = ""
    lock: Any = field(default_factory=threading.Lock, repr=False)
    rows: Kept = field(default_factory=Kept, repr=False)
    plans: Kept = field(default_factory=Kept, repr=False)

    @property
    def words(self) -> str:
        """What it is, for people."""
        return f"{self.handle.device_kind} ({self.handle.platform}, through JAX {self.version})"

    @property
    def room(self) -> float:
        """Bytes of rows that may stay there; none where they would be twice in the memory of this process."""
        return RESIDENT * (self.memory or 0)


def described(name: str) -> str:
    """What a device of this process is, in words; raises `InputError` if there is none."""
    return device_called(name).words


_looking = threading.Lock()


def device_called(name: str) -> Device:
    """The device of this process that a setting names: ``gpu``, or ``jax`` for that which JAX takes by itself.

    Raises
    ------
    InputError
        If JAX is not installed, or finds none.
    """
    with _looking:
        return _found(name)


@cache
def _found(name: str) -> Device:
    try:
        import jax
    except ImportError as error:
        raise InputError(
            f"device {name} needs JAX ({one_line(error)}): pip install 'dgmm[gpu]', or take device cpu"
        ) from None
    try:
        handle = jax.local_devices(backend="gpu" if name == "gpu" else None)[0]
    except RuntimeError as error:
        raise InputError(
            f"device {name}: JAX finds none here ({one_line(error)}): pip install 'dgmm[gpu]' beside a driver for the "
            "GPU, or take device cpu"
        ) from None
    return Device(handle, (handle.memory_stats() or {}).get("bytes_limit"), jax.__version__)
