"""Dask arrays whose blocks lie on the cluster: the numbers of an array in memory, and no block here."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster, wait
from numpy.testing import assert_array_equal

import dgmm
from dgmm.data import Handed, open_samples
from dgmm.engine import BASE_BYTES, Fold, open_workers
from dgmm.engine.handing import Handing
from dgmm.engine.memory import pass_bytes
from dgmm.engine.schedulers import DISTRIBUTED_SETTINGS
from dgmm.engine.workers import threads
from dgmm.errors import InputError, InsufficientMemoryError, ReadError
from dgmm.fits import Training
from dgmm.mixture import Mixture
from dgmm.passes import Passes, profile_of
from dgmm.scoring.total import TotalSegment
from tests.deaths import fatal

N, CHUNK = 30_000, 4_500
OPTIONS = Training(sample_rows=500, holdout=0.1)

#: Of clusters: no page, and its server on a port that is free.
QUIET: dict[str, Any] = {"dashboard_address": "127.0.0.1:0", "scheduler_kwargs": {"dashboard": False}}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    """Two groups of rows in three features, one in forty with a missing value."""
    x = np.random.default_rng(0).standard_normal((N, 3))
    x[::2] += 5
    x[::40, 1] = np.nan
    return x


def lazy(x: np.ndarray) -> da.Array:
    return da.from_array(x, chunks=(CHUNK, 3))


def there(array: da.Array, client: Client) -> da.Array:
    """An array on the cluster, once all of it is."""
    persisted = client.persist(array)
    with client.as_current():
        wait(persisted)
    return persisted


def bits(fit: dgmm.Fit) -> tuple[float, bytes]:
    return fit.log_likelihood, fit.mixture.means.tobytes()


# ---- an array put together from its blocks ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "region",
    [
        (slice(0, 3), slice(0, 2), slice(0, 4)),  # within one block
        (slice(2, 9), slice(1, 5), slice(None)),  # of several, along each dimension
        (slice(0, 10), slice(0, 6), slice(0, 4)),  # all
        (slice(4, 4), slice(0, 6), slice(None)),  # nothing
    ],
)
def test_a_region_is_read_from_the_blocks_that_it_touches_alone(region: tuple[slice, ...]) -> None:
    whole = np.arange(240.0).reshape(10, 6, 4)
    array = da.from_array(whole, chunks=((3, 1, 0, 4, 2), (2, 4), (3, 1)))
    outline = Handed.of(array)
    wanted = outline.within(region)
    touched = {(array.name, place) for place in np.ndindex(*array.numblocks) if within(outline, place, region)}
    assert len(wanted) == len(set(wanted))
    assert set(wanted) == touched
    blocks = {block: array.blocks[block[1]].compute() for block in wanted}
    found = Handed(array.name, array.chunks, array.dtype, blocks)[region]
    assert found.dtype == whole.dtype
    assert_array_equal(found, whole[region])
    assert sum(map(outline.nbytes_of, wanted)) == sum(block.nbytes for block in blocks.values())


def within(outline: Handed, place: tuple[int, ...], region: tuple[slice, ...]) -> bool:
    """Whether a block has elements of a region."""
    axes = zip(outline.chunks, place, region, outline.shape, strict=True)
    return all({*range(sum(n[:i]), sum(n[: i + 1]))} & {*range(*s.indices(size))} for n, i, s, size in axes)


def test_what_a_mask_hides_in_one_block_stays_hidden() -> None:
    whole = np.ma.masked_equal(np.arange(12).reshape(6, 2), 7)
    array = da.from_array(whole, chunks=(2, 2))
    blocks = {(array.name, (i, 0)): np.asarray(whole[2 * i : 2 * i + 2]) if i == 0 else whole[2 * i : 2 * i + 2]
              for i in range(3)}  # fmt: skip
    found = Handed(array.name, array.chunks, array.dtype, blocks)[slice(0, 6), slice(None)]
    assert isinstance(found, np.ma.MaskedArray)
    assert_array_equal(found.mask, whole.mask)


# ---- the same bits as in memory --------------------------------------------------------------------------------------


def upside_down(array: da.Array) -> Any:
    """Features first, as an object of xarray."""
    return xr.DataArray(array, dims=("time", "level")).transpose("level", "time")


def by_name(array: da.Array) -> xr.Dataset:
    return xr.Dataset({name: ("time", array[:, i]) for i, name in enumerate("abc")})


FORMS: dict[str, tuple[Callable[[da.Array], Any], dict[str, Any]]] = {
    "as it is": (lambda array: array, {}),
    "made of what is persisted": (lambda array: (array * 2.0) / 2.0, {}),
    "in other chunks": (lambda array: array.rechunk((CHUNK, 2)), {}),
    "turned around": (upside_down, {"feature_dim": "level"}),
    "variables": (by_name, {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_lies_on_the_cluster_is_fitted_to_the_same_bits(
    form: str, x: np.ndarray, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, options = FORMS[form]
    options |= {"n_init": 1}
    expected = bits(dgmm.train(made(lazy(x)), 2, scheduler="threads", **options))
    persisted = there(lazy(x), client)
    gathered = watched(client, monkeypatch)
    assert bits(dgmm.train(made(persisted), 2, scheduler=client, **options)) == expected
    assert not gathered, "a block came here"


def watched(client: Client, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the arrays that come from the cluster, from now on."""
    sizes: list[int] = []
    gather = client.gather

    def noting(*given: Any, **options: Any) -> Any:
        found = gather(*given, **options)
        sizes.extend(value.nbytes for value in found if isinstance(value, np.ndarray))
        return found

    monkeypatch.setattr(client, "gather", noting)
    return sizes


def test_weights_labels_and_what_is_preprocessed(x: np.ndarray, client: Client, tmp_path: Path) -> None:
    r = np.random.default_rng(1)
    weights = da.from_array(r.uniform(0.5, 2, N), chunks=4_000)
    labels = da.from_array(np.where(r.random(N) < 0.5, np.arange(N) % 2, -1), chunks=7_000)
    lazy(x).to_zarr(str(tmp_path / "x.zarr"))
    cases: list[tuple[Any, da.Array | None, da.Array | None, dict[str, Any]]] = [
        (lazy(x), weights, None, {}),
        (lazy(x), None, labels, {}),
        (str(tmp_path / "x.zarr"), weights, None, {}),
        (lazy(x), None, None, {"preprocess": {"scale": "standard"}}),
    ]
    for source, each, known, options in cases:
        options |= {"n_init": 1, "components_per_class": 1, "n_components": 2}
        expected = bits(dgmm.train(source, weights=each, labels=known, scheduler="threads", **options))
        placed = [client.persist(a) if isinstance(a, da.Array) else a for a in (source, each, known)]
        found = dgmm.train(placed[0], weights=placed[1], labels=placed[2], scheduler=client, **options)
        assert bits(found) == expected


def test_what_lies_on_the_cluster_is_chosen_and_scored_as_in_memory(
    x: np.ndarray, client: Client, tmp_path: Path
) -> None:
    persisted = client.persist(lazy(x))
    here, elsewhere = (
        dgmm.select(a, [1, 2], scheduler=s, n_init=1) for a, s in ((lazy(x), "threads"), (persisted, client))
    )
    assert elsewhere.table.equals(here.table)
    scores = [
        dgmm.score(here.best, a, tmp_path / f"{i}.zarr", scheduler=s, probabilities=True).load()
        for i, (a, s) in enumerate([(lazy(x), "threads"), (persisted, client)])
    ]
    for name in ("label", "probability", "log_density", "probabilities"):
        assert_array_equal(scores[1][name], scores[0][name])


def test_a_journal_is_of_the_array_wherever_it_lies(x: np.ndarray, client: Client, tmp_path: Path) -> None:
    """The name of an array says how it is made, whether it is yet or not; another is refused."""
    given: dict[str, Any] = {"n_init": 1, "journal": tmp_path / "journal", "keep_journal": True}
    expected = bits(dgmm.train(lazy(x), 2, scheduler="threads", **given))
    persisted = client.persist(lazy(x))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fold, "__call__", lambda self, leaf: pytest.fail("data were read"))
        assert bits(dgmm.train(persisted, 2, scheduler=client, **given)) == expected
    with pytest.raises(InputError, match="journal"):
        dgmm.train(client.persist(lazy(x + 1)), 2, scheduler=client, **given)


def test_threads_read_what_lies_on_a_cluster_through_its_client(x: np.ndarray, client: Client) -> None:
    persisted = client.persist(lazy(x))
    found = dgmm.train(persisted, 2, scheduler="threads", n_init=1)
    assert bits(found) == bits(dgmm.train(lazy(x), 2, scheduler="threads", n_init=1))


def test_another_client_of_the_cluster_will_do_and_another_cluster_not(x: np.ndarray, client: Client) -> None:
    persisted = client.persist(lazy(x))
    with Client(client.scheduler.address, set_as_default=False) as other, open_workers(other) as workers:
        fold = Fold(open_samples(persisted), workers, keep=False)
        profile = profile_of(fold, open_samples(persisted), OPTIONS)
    counts = profile.moments.count + profile.held_out.count
    assert counts == np.isfinite(x).all(axis=1).sum()
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, **QUIET) as cluster,
        Client(cluster, set_as_default=False) as elsewhere,
        pytest.raises(InputError, match=r"persisted on the cluster at tcp://.*those of inproc://.*before persist"),
    ):
        dgmm.train(persisted, 2, scheduler=elsewhere)


# ---- what it takes ---------------------------------------------------------------------------------------------------


def test_blocks_are_made_once_in_a_pass_whoever_shares_them(x: np.ndarray, client: Client, tmp_path: Path) -> None:
    """Segments are as long as the longest block, and so others lie in two."""

    def noted(block: np.ndarray, block_info: Any = None) -> np.ndarray:
        with open(tmp_path / f"{block_info[0]['chunk-location'][0]}", "a") as file:
            file.write("x")
        return block + 0

    array = client.persist(da.from_array(x, chunks=((4_500, 1_000, 3_000, 4_000, *[2_500] * 7), 3)))
    made = array.map_blocks(noted, dtype=float, meta=np.empty((0, 0)))
    samples = open_samples(made)
    with open_workers(client) as workers:
        fold = Fold(samples, workers, keep=False)
        read = [fold._handing.samples.blocks_of(run) for run in fold._runs]
        assert sum(map(len, read)) > made.npartitions, "nothing is shared"
        profile_of(fold, samples, OPTIONS)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        str(i): "x" for i in range(made.npartitions)
    }


def test_memory_for_the_blocks_of_a_task_is_looked_for_before(x: np.ndarray, client: Client) -> None:
    persisted = client.persist(da.zeros((600_000, 3), chunks=(100_000, 3)))
    samples = open_samples(persisted)
    with open_workers(client) as workers:
        handing = Handing(samples, workers)
        assert handing.nbytes == persisted.nbytes
        assert handing.nbytes_of([range(1), range(1, 3)]) == 2 * 100_000 * 24
        fold = Fold(samples, workers, keep=False)
        assert fold._base == BASE_BYTES + persisted.nbytes // 2
        leaf = TotalSegment("x", samples.features, samples.grid, mixture().density_plan(), 0.0)
        outline = handing.samples
        more, less = (pass_bytes(outline, leaf, n_segments=1, blocks=n).total for n in (100_000 * 24, 0))
        assert more - less == 100_000 * 24
        for enough in (True, False):
            least = fold._base + more + fold._gathered(leaf) // 2
            fold.workers = replace(workers, memory=least + (2**12 if enough else -(2**12)), paused=1.0)
            with nullcontext() if enough else pytest.raises(InsufficientMemoryError, match="a worker would need"):
                fold.check(leaf)


# ---- losses ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def mortal() -> Iterator[Client]:
    """A cluster of two processes of which one may be killed."""
    with (
        dask.config.set(DISTRIBUTED_SETTINGS),
        LocalCluster(n_workers=2, threads_per_worker=1, memory_limit="1GiB", host="127.0.0.1", **QUIET) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def mixture() -> Mixture:
    return Mixture.gaussian("full", np.ones(2), np.array([[0.0] * 3, [5.0] * 3]), np.tile(np.eye(3), (2, 1, 1)))


def found_by(fold: Fold) -> list[bytes]:
    """What passes of two kinds come to."""
    samples = fold.samples
    passes = Passes(fold, samples, profile_of(fold, samples, OPTIONS), OPTIONS)
    (statistics,) = passes.accumulate([mixture().to_frame(passes.frame("whitening"))])
    return [passes.profile.moments.scatter.tobytes(), statistics.sums.tobytes()]


def test_blocks_that_went_with_a_worker_are_made_again(x: np.ndarray, mortal: Client, tmp_path: Path) -> None:
    expected = found_by(Fold(open_samples(lazy(x)), threads(2)))
    persisted = there(lazy(x), mortal)
    with open_workers(mortal) as workers, fatal("EStepSegment", 3, tmp_path / "marks"):
        assert found_by(Fold(open_samples(persisted), workers)) == expected


def test_blocks_that_nobody_can_make_again_are_missed_in_one_line(x: np.ndarray, mortal: Client) -> None:
    sent = mortal.scatter([x[:CHUNK], x[CHUNK : 2 * CHUNK]])
    array = da.concatenate([da.from_delayed(future, (CHUNK, 3), float) for future in sent])
    with open_workers(mortal) as workers:
        fold = Fold(open_samples(array), workers)
        before = found_by(fold)
        assert before == found_by(Fold(open_samples(lazy(x[: 2 * CHUNK])), threads(2)))
        for pid in mortal.run(os.getpid).values():
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(
            ReadError, match=r"^[12] of 2 blocks that were persisted on a cluster are gone, .*persist\(\)$"
        ):
            for _ in range(3):
                found_by(fold)
    mortal.close()
    with pytest.raises(ReadError, match="2 of 2 blocks"):
        dgmm.train(array, 2, scheduler="threads")
