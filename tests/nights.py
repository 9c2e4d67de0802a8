"""What tests of nights share: a store that grows, and settings that refresh a model and its scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from dgmm import store
from dgmm.config import Refresh
from dgmm.fits import validated

#: Rows of a night, in chunks of so many.
ROWS, CHUNK = 2000, 500
MEANS = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])


def night(number: int, means: np.ndarray = MEANS, n: int = ROWS) -> xr.Dataset:
    """The data of a night: two variables along time, of three classes."""
    r = np.random.default_rng(number)
    labels = r.choice(len(means), n, p=[0.5, 0.3, 0.2])
    x = means[labels] + r.standard_normal((n, 2))
    start = number * ROWS
    named = {name: ("time", x[:, i], {"units": unit}) for i, (name, unit) in enumerate([("t", "K"), ("s", "1")])}
    return xr.Dataset(named, {"time": np.arange(start, start + n)})


def append(path: Path, dataset: xr.Dataset) -> None:
    """Write the first night, or append another."""
    if path.exists():
        dataset.to_zarr(path, append_dim="time", consolidated=False)
    else:
        chunks = {name: {"chunks": (CHUNK,)} for name in ("t", "s", "time")}
        dataset.to_zarr(path, zarr_format=3, consolidated=False, encoding=chunks)


def job_of(folder: Path, **more: Any) -> Refresh:
    """Settings of a refresh in a folder."""
    wanted: dict[str, Any] = {
        "data": {"path": str(folder / "data.zarr"), "variables": ["t", "s"]},
        "registry": str(folder / "models" / "water"),
        "out": str(folder / "scores.zarr"),
        "n_components": [2, 3, 4],
        "covariance_type": ["full"],
        "cluster": {"scheduler": "threads", "n_workers": 2},
        "training": {"holdout": 0.2, "search": "quick"},
    }
    return validated(Refresh, wanted | more)


def night_of(job: Refresh) -> dict[str, Any]:
    """What lies with the scores of a night."""
    found: dict[str, Any] = json.loads(store.attributes(job.out)["night"])
    return found
