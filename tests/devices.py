"""A device for tests, that of JAX on the processor, and what is sent there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dgmm.devices import Device, device_called
from dgmm.estep import device


def watched(monkeypatch: pytest.MonkeyPatch, memory: int) -> tuple[Device, list[int]]:
    """A device with so many bytes of its own in the place of any, and the numbers of rows that are sent there."""
    from dgmm.estep import placed

    sent: list[int] = []
    padded = placed.padded

    def seen(part: np.ndarray, *more: Any) -> np.ndarray:
        sent.append(len(part))
        return padded(part, *more)

    monkeypatch.setattr(placed, "padded", seen)
    its = Device(device_called("jax").handle, memory)
    monkeypatch.setattr(device, "device_called", lambda _: its)
    return its, sent
