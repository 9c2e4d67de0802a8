"""What a worker will need is known before there is any: enough for every pass, and not much more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import zarr

from dgmm.data import Samples, open_samples
from dgmm.engine import Fold, Workers
from dgmm.engine.projection import LOADED_BYTES
from dgmm.engine.workers import PAUSED
from dgmm.errors import InsufficientMemoryError
from dgmm.fits import One, Search, Training
from dgmm.fitting import projection_of
from dgmm.fitting.projection import leaves_of
from dgmm.search import Candidate


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    """Ten chunks of 160 MB of which nothing is ever written or read."""
    path = str(tmp_path / "x.zarr")
    zarr.create_array(path, shape=(10_000_000, 20), chunks=(1_000_000, 20), dtype="f8")
    return open_samples(path, missing_chunks="fill")


def check(samples: Samples, memory: int, candidates: list[Candidate], threads: int) -> None:
    """See whether workers of so much memory can do all passes."""
    client = cast(Any, SimpleNamespace())
    workers = Workers(client, 4 * threads, threads, memory, PAUSED)
    for leaf in leaves_of(samples, candidates, Training()):
        fold = Fold(samples, workers, keep=False)
        fold._base += LOADED_BYTES
        fold.check(leaf)
        ahead, _ = fold.room(leaf)
        assert ahead, "there is room to read ahead"


@pytest.mark.parametrize("threads", [1, 4])
def test_what_is_projected_fits_and_two_thirds_do_not(samples: Samples, threads: int) -> None:
    candidates = [Candidate(k, "full") for k in (2, 8)]
    search = Search(n_components=[2, 8], covariance_type=["full"])
    memory = projection_of(samples, search, Training())(threads, 4 * threads)
    check(samples, memory, candidates, threads)
    with pytest.raises((InsufficientMemoryError, AssertionError)):
        check(samples, memory * 2 // 3, candidates, threads)


def test_more_components_threads_and_longer_chunks_need_more(samples: Samples) -> None:
    def need(k: int = 2, threads: int = 1, what: Samples = samples, **more: Any) -> int:
        return projection_of(what, One(n_components=k), Training(**more))(threads, threads)

    least = need()
    assert need(k=500) > least
    assert need(k=500, search="starts") < need(k=500)
    assert need(threads=2) > least + 4 * 160 * 10**6
    assert need(worst_rows=10**5) > least
    small = replace(samples, grid=replace(samples.grid, segment=(1000,)))
    assert need(what=small) < least
