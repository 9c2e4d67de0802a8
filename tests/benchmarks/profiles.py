"""The rows of the ocean profiles, for more than one benchmark."""

from __future__ import annotations

import numpy as np

from dgmm import datasets


def ocean() -> np.ndarray:
    """The temperature profiles that come with the package, those without gaps, shape (108972, 19)."""
    profiles = datasets.ocean_temperature()["temperature"].transpose(..., "depth").values.reshape(-1, 19)
    return np.ascontiguousarray(profiles[~np.isnan(profiles).any(axis=1)], dtype=float)
