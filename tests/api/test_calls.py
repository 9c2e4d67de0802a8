"""What the functions have in common: workers by keyword arguments, and sources that stay what they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import dgmm
from dgmm.errors import InputError


def test_keywords_reach_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def record(*_: Any, **named: Any) -> Any:
        asked.append(named)
        raise KeyboardInterrupt

    monkeypatch.setattr("dgmm.api.calls.open_workers", record)
    with pytest.raises(KeyboardInterrupt):
        dgmm.train(np.eye(3), 1, n_workers=3, memory_limit="2GB")
    (cluster,) = asked
    assert callable(cluster.pop("need"))
    given = {name: value for name, value in cluster.items() if value is not None}
    assert given == {"n_workers": 3, "threads_per_worker": 1, "memory_limit": 2 * 10**9, "device": "cpu"}


def test_a_source_that_is_written_to_while_it_is_fitted_is_refused_by_the_functions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is given by its path; what is handed in is as it is."""
    path = str(tmp_path / "x.zarr")
    x = np.random.default_rng(0).normal(size=(60, 2))
    zarr.create_array(path, data=x, chunks=(20, 2))
    for name in ("train_samples", "select_samples"):
        fit = getattr(dgmm.api.fits, name)

        def then(*given: Any, fit: Callable[..., Any] = fit) -> Any:
            found = fit(*given)
            zarr.open_array(path, mode="r+")[5, 0] += 1.0
            return found

        monkeypatch.setattr(dgmm.api.fits, name, then)
    line = r"^.*x\.zarr was changed while it was read \(stored chunks of values\)"
    with pytest.raises(InputError, match=line):
        dgmm.train(path, 1)
    with pytest.raises(InputError, match=line):
        dgmm.select(path, [1], ["full"])
    assert dgmm.train(x, 1).n_samples == 60
    assert dgmm.train(zarr.open_array(path, mode="r"), 1).n_samples == 60
