"""A chunk that is not there, or cannot be decoded, is never taken for numbers: one line names it."""

from __future__ import annotations

import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import obstore.store
import pytest
import xarray as xr
import zarr
from distributed import Client
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore, ObjectStore

import dgmm
from dgmm.data import Samples, Stored, open_samples, stores
from dgmm.data import grid as grid_module
from dgmm.data.chunks import Watched
from dgmm.errors import InputError, ReadError

#: Rows of a chunk and of the store; the chunk that is damaged, and its first and last row.
CHUNK, ROWS, BAD = 10, 60, 2
BELOW, ABOVE = BAD * CHUNK, (BAD + 1) * CHUNK

#: How it may be stored: arguments of `create_array`, and the key of the chunk.
FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "v3": ({"zarr_format": 3}, "c/2/0"),
    "v3, keys with dots": ({"zarr_format": 3, "chunk_key_encoding": {"name": "v2", "separator": "."}}, "2.0"),
    "v2": ({"zarr_format": 2}, "2.0"),
    "v2, nested keys": ({"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}}, "2/0"),
    "shards": ({"chunks": (CHUNK // 5, 3), "shards": (CHUNK, 3)}, "c/2/0"),
}
#: What the chunks are encoded with.
CODECS: dict[str, dict[str, Any]] = {
    "zstd": {"compressors": ZstdCodec()},
    "zstd, crc32c": {"compressors": [ZstdCodec(), Crc32cCodec()]},
    "zstd with a checksum": {"compressors": ZstdCodec(checksum=True)},
    "gzip": {"compressors": GzipCodec()},
    "blosc": {"compressors": BloscCodec()},
    "v2, blosc": {"zarr_format": 2, "compressors": numcodecs.Blosc()},
    "v2, zlib": {"zarr_format": 2, "compressors": numcodecs.Zlib()},
    "none": {"compressors": None},
    "none, crc32c": {"compressors": Crc32cCodec()},
}
WHERE = ["path, zarr", "path, zarrs", "object store"]


@pytest.fixture(autouse=True)
def several_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two chunks are enough for a segment."""
    monkeypatch.setattr(grid_module, "MIN_ROWS", 2 * CHUNK)
    monkeypatch.setattr(grid_module, "SEGMENTS", 3)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a bucket that is a folder, read as buckets are."""

    at = stores.store_at

    def store_at(source: str | Path, *, read_only: bool, **_: Any) -> Any:
        url = str(source)
        if not url.startswith("s3://"):
            return at(url, read_only=read_only)
        return ObjectStore(obstore.store.LocalStore(tmp_path / url.removeprefix("s3://bucket/")), read_only=read_only)

    monkeypatch.setattr("dgmm.data.stores.store_at", store_at)
    return "s3://bucket"


def table() -> np.ndarray:
    return np.random.default_rng(5).normal(3, 1, (ROWS, 3))


def write(path: Path, **how: Any) -> None:
    array = zarr.create_array(str(path), shape=(ROWS, 3), dtype="f8", **({"chunks": (CHUNK, 3)} | how))
    array[...] = table()


def opened(where: str, folder: Path, name: str = "a.zarr", **how: Any) -> Samples:
    """The samples as a task gets them."""
    if where == "object store":
        samples = open_samples(f"s3://bucket/{name}", **how)
    else:
        samples = open_samples(folder / name, decoder=where.split()[-1], **how)
    return pickle.loads(pickle.dumps(samples))


def read_all(samples: Samples) -> np.ndarray:
    return np.concatenate([samples.read(samples.grid.region(i)) for i in range(len(samples.grid))])


def refused(samples: Samples, *parts: str) -> str:
    """The one line of a read that is refused; the other segments are fine."""
    assert len(samples.grid) == 3
    fine = [samples.read(samples.grid.region(i)) for i in (0, 2)]
    np.testing.assert_array_equal(np.concatenate(fine), np.delete(table(), slice(BELOW, BELOW + 2 * CHUNK), axis=0))
    with pytest.raises(ReadError) as caught:
        samples.read(samples.grid.region(1))
    message = str(pickle.loads(pickle.dumps(caught.value)))
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


def flipped(raw: bytes) -> bytes:
    return raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 16]) + raw[len(raw) // 2 + 1 :]


# ---- chunks that are not there --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(("how", "key"), FORMS.values(), ids=list(FORMS))
def test_a_missing_chunk_is_refused_by_name(how: dict[str, Any], key: str, where: str, tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", **how, fill_value=-7.0)
    np.testing.assert_array_equal(read_all(opened(where, tmp_path)), table())
    (tmp_path / "a.zarr" / key).unlink()
    message = refused(opened(where, tmp_path), "chunk (2, 0)", f"a.zarr/{key})", "is not there")
    assert "fill value, -7.0 (missing_chunks: fill)" in message
    filled = table()
    filled[BELOW:ABOVE] = -7.0
    np.testing.assert_array_equal(read_all(opened(where, tmp_path, missing_chunks="fill")), filled)


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("missing_chunks", ["raise", "fill"])
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(("how", "key"), FORMS.values(), ids=list(FORMS))
def test_an_empty_chunk_is_never_read(
    how: dict[str, Any], key: str, where: str, missing_chunks: str, tmp_path: Path
) -> None:
    """No encoding is of no length: not even one who allows missing chunks has asked for this."""
    write(tmp_path / "a.zarr", **how)
    (tmp_path / "a.zarr" / key).write_bytes(b"")
    refused(opened(where, tmp_path, missing_chunks=missing_chunks), "chunk (2, 0)", f"a.zarr/{key})", "is empty")


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("where", WHERE)
def test_a_folder_in_the_place_of_a_chunk_is_no_chunk(where: str, tmp_path: Path) -> None:
    write(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "c" / "2" / "0").unlink()
    (tmp_path / "a.zarr" / "c" / "2" / "0").mkdir()
    refused(opened(where, tmp_path), "chunk (2, 0)", "is not there")


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("where", WHERE)
def test_chunks_inside_of_a_shard_may_be_left_out(where: str, tmp_path: Path) -> None:
    """The shard's index, which has a checksum, says that they hold the fill value."""
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=(ROWS, 3), dtype="f8", chunks=(2, 3), shards=(CHUNK, 3))
    x = table()
    x[BELOW : BELOW + 4] = 0.0
    array[...] = x
    np.testing.assert_array_equal(read_all(opened(where, tmp_path)), x)


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("where", WHERE)
def test_only_what_is_used_must_be_there(where: str, tmp_path: Path) -> None:
    """Other variables may have holes, and coordinates: one that is zero is written as no chunk at all."""
    columns = {name: ("s", column) for name, column in zip("abc", table().T, strict=True)}
    how = {name: {"chunks": (CHUNK,)} for name in "abc"}
    dataset = xr.Dataset(columns, coords={"run": 0, "s": np.zeros(ROWS)})
    dataset.to_zarr(tmp_path / "d.zarr", consolidated=False, encoding=how)
    assert not (tmp_path / "d.zarr" / "run" / "c").exists()
    (tmp_path / "d.zarr" / "b" / "c" / "2").unlink()
    np.testing.assert_array_equal(read_all(opened(where, tmp_path, "d.zarr", variables=["c", "a"])), table()[:, [2, 0]])
    samples = opened(where, tmp_path, "d.zarr", variables=["a", "b", "c"])
    refused(samples, "chunk (2) of b in ", "d.zarr/b/c/2)", "is not there", "fill value, ")
    weighted = opened(where, tmp_path, "d.zarr", variables=["a", "c"], weights="b")
    with pytest.raises(ReadError, match=r"chunk \(2\) of b in .*d\.zarr/b/c/2\) is not there"):
        weighted.read_rows(weighted.grid.region(1))


def test_a_missing_chunk_of_what_means_missing_leaves_rows_out(tmp_path: Path) -> None:
    """Where it is allowed: NaN, or the CF fill value of packed numbers."""
    x = np.round(table(), 1)
    x[BELOW:ABOVE] = np.nan
    packed = {"dtype": "int16", "scale_factor": 0.1, "_FillValue": -32768}
    for name, how in (("nan", {}), ("packed", packed)):
        path = tmp_path / f"{name}.zarr"
        dataset = xr.Dataset({"x": (("s", "f"), x)})
        dataset.to_zarr(path, consolidated=False, encoding={"x": {"chunks": (CHUNK, 3), **how}}, zarr_format=2)
        assert not (path / "x" / "2.0").exists(), "what the writer leaves out by itself"
        with pytest.raises(ReadError, match=r"x/2\.0\) is not there"):
            read_all(open_samples(path))
        np.testing.assert_allclose(read_all(open_samples(path, missing_chunks="fill")), x, rtol=1e-14)
        fit = dgmm.train(path, 1, missing_chunks="fill")
        assert (fit.n_samples, fit.n_missing) == (ROWS - CHUNK, CHUNK)


def test_the_choice_is_one_of_two(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr")
    with pytest.raises(InputError, match="unknown missing_chunks 'ignore': use raise or fill"):
        open_samples(tmp_path / "a.zarr", missing_chunks="ignore")


# ---- chunks that cannot be decoded ----------------------------------------------------------------------------------


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "half of it": lambda raw: raw[: len(raw) // 2],
    "one byte less": lambda raw: raw[:-1],
    "three bytes": lambda raw: raw[:3],
}


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
@pytest.mark.parametrize("how", CODECS.values(), ids=list(CODECS))
def test_a_truncated_chunk_is_refused_by_name(
    how: dict[str, Any], damage: Callable[[bytes], bytes], where: str, tmp_path: Path
) -> None:
    write(tmp_path / "a.zarr", **how)
    key = "2.0" if how.get("zarr_format") == 2 else "c/2/0"
    file = tmp_path / "a.zarr" / key
    file.write_bytes(damage(file.read_bytes()))
    if (key, where, damage) == ("2.0", "path, zarrs", DAMAGES["one byte less"]) and "Zlib" in str(how):
        # of the checksum, which zarrs does not look at: the numbers are all there
        np.testing.assert_array_equal(read_all(opened(where, tmp_path)), table())
        return
    refused(opened(where, tmp_path), "chunk (2, 0) of ", f"a.zarr/{key}) ")


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("name", ["zstd, crc32c", "zstd with a checksum", "gzip", "v2, zlib", "none, crc32c"])
def test_a_flipped_bit_is_refused_by_name_where_there_is_a_checksum(name: str, where: str, tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", **CODECS[name])
    key = "2.0" if name.startswith("v2") else "c/2/0"
    file = tmp_path / "a.zarr" / key
    file.write_bytes(flipped(file.read_bytes()))
    refused(opened(where, tmp_path), "chunk (2, 0) of ", f"a.zarr/{key}) cannot be read: ")


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("where", WHERE)
def test_a_damaged_shard_is_refused_by_name(where: str, tmp_path: Path) -> None:
    """In its index, and in one of its chunks."""
    write(tmp_path / "a.zarr", chunks=(2, 3), shards=(CHUNK, 3), compressors=[ZstdCodec(), Crc32cCodec()])
    file = tmp_path / "a.zarr" / "c" / "2" / "0"
    raw = file.read_bytes()
    for place in (-8, 10):
        file.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place:][1:])
        refused(opened(where, tmp_path), "chunk (2, 0) of ", "a.zarr/c/2/0) cannot be read: ", "checksum")


def test_what_somebody_else_has_opened_is_named_too(tmp_path: Path) -> None:
    """A `zarr.Array` by its chunk, a lazy variable by the part that was read: its chunks are its own affair."""
    how = {"compressors": [ZstdCodec(), Crc32cCodec()]}
    write(tmp_path / "a.zarr", **how)
    xr.Dataset({"x": (("s", "f"), table())}).to_zarr(
        tmp_path / "d.zarr", consolidated=False, encoding={"x": {"chunks": (CHUNK, 3), **how}}
    )
    for file in (tmp_path / "a.zarr" / "c" / "2" / "0", tmp_path / "d.zarr" / "x" / "c" / "2" / "0"):
        file.write_bytes(flipped(file.read_bytes()))
    array = zarr.open_array(str(tmp_path / "a.zarr"), mode="r")
    refused(open_samples(array), "chunk (2, 0) of Array", "a.zarr/c/2/0) cannot be read: ", "checksum")
    group = zarr.open_group(str(tmp_path / "d.zarr"), mode="r")
    refused(open_samples(group), "chunk (2, 0) of x in Group", "d.zarr/x/c/2/0) cannot be read: ", "checksum")
    lazy = xr.open_zarr(tmp_path / "d.zarr", chunks=None, consolidated=False)
    refused(open_samples(lazy), "x in Dataset cannot be read: ", "checksum", "(within 20:40, all)")


@pytest.mark.parametrize("how", ["v3", "shards"])
def test_a_bucket(how: str, s3: str) -> None:
    """A server in the place of a folder: what is asked for in part is answered otherwise."""
    url, (form, key) = f"{s3}/a.zarr", FORMS[how]
    objects = obstore.store.from_url(url)
    array = zarr.create_array(
        ObjectStore(objects), shape=(ROWS, 3), dtype="f8", **({"chunks": (CHUNK, 3)} | form), fill_value=-7.0
    )
    array[...] = table()
    np.testing.assert_array_equal(read_all(open_samples(url)), table())
    part = (slice(BELOW + 1, BELOW + 3),)
    for content, fault in ((None, "is not there"), (b"", "is empty|cannot be read"), (b"half", "cannot be read")):
        obstore.delete(objects, key)
        if content is not None:
            obstore.put(objects, key, content)
        samples = open_samples(url)
        for region in (samples.grid.region(1), part):
            with pytest.raises(ReadError, match=rf"^chunk \(2, 0\) of {url} \({url}/{key}\) ({fault})"):
                samples.read(region)
    obstore.delete(objects, key)
    np.testing.assert_array_equal(open_samples(url, missing_chunks="fill").read(part), np.full((2, 3), -7.0))


def test_a_watched_store_notes_what_it_reads_without_waiting(tmp_path: Path) -> None:
    """As some versions of zarr read."""
    write(tmp_path / "a.zarr", zarr_format=2, compressors=numcodecs.Blosc())
    local = LocalStore(tmp_path / "a.zarr", read_only=True)
    watched, prototype = Watched(local), default_buffer_prototype()
    watched.watch(Stored.of(zarr.open_array(local, mode="r"), "a.zarr", "a.zarr", "raise"))
    raw = (tmp_path / "a.zarr" / "2.0").read_bytes()
    for content, fault in ((b"", "is empty"), (raw[:-1], "is truncated"), (None, "is not there")):
        (tmp_path / "a.zarr" / "2.0").unlink()
        if content is not None:
            (tmp_path / "a.zarr" / "2.0").write_bytes(content)
        assert watched.get_sync("2.0", prototype=prototype) is None
        assert watched.faults["2.0"].startswith(fault)
    assert watched.get_sync(".nothing", prototype=prototype) is None
    assert set(watched.faults) == {"2.0"}
    (tmp_path / "a.zarr" / "2.0").write_bytes(raw)
    found = watched.get_sync("2.0", prototype=prototype)
    assert found is not None
    assert (found.to_bytes(), watched.faults) == (raw, {})


def test_a_store_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: str) -> None:
    """What cannot be got is named as what cannot be decoded, and not asked for again."""
    write(tmp_path / "a.zarr")
    samples, asked = open_samples(f"{bucket}/a.zarr"), []

    async def get(self: ObjectStore, key: str, *_: Any, **__: Any) -> None:
        asked.append(key)
        raise obstore.exceptions.GenericError("the server\nis\n  away\n\nDebug source:\nGeneric { ... }")

    monkeypatch.setattr(ObjectStore, "get", get)
    with pytest.raises(ReadError, match=r"^chunk \([23], 0\) of .*c/[23]/0\) cannot be read: the server is away$"):
        samples.read(samples.grid.region(1))
    assert len(asked) <= 2


# ---- all the way through --------------------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Makes a store with a damaged chunk; what it is damaged in: `missing` or `flipped`."""

    def make(what: str) -> str:
        path = tmp_path / f"{what}.zarr"
        write(path, compressors=[ZstdCodec(), Crc32cCodec()])
        file = path / "c" / "2" / "0"
        if what == "missing":
            file.unlink()
        else:
            file.write_bytes(flipped(file.read_bytes()))
        return str(path)

    yield make
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("what", ["missing", "flipped"])
@pytest.mark.parametrize("scheduler", ["threads", "client"])
def test_the_line_comes_out_of_every_worker(
    what: str, scheduler: str, broken: Callable[[str], str], tmp_path: Path, client: Client
) -> None:
    path, who = broken(what), client if scheduler == "client" else scheduler
    line = re.escape(f"chunk (2, 0) of {path} ({path}/c/2/0) ")
    with pytest.raises(ReadError, match=f"^{line}"):
        dgmm.train(path, 2, scheduler=who)
    with pytest.raises(ReadError, match=f"^{line}"):
        dgmm.select(path, [1, 2], scheduler=who)
    fit = dgmm.train(table(), 2, n_init=1)
    with pytest.raises(ReadError, match=f"^{line}"):
        dgmm.score(fit, path, tmp_path / "s.zarr", scheduler=who)
    assert not (tmp_path / "s.zarr").exists()


def test_the_command_line_says_it_in_one_line(tmp_path: Path) -> None:
    """In a process of its own, which may end while other chunks are still being read."""
    x = np.random.default_rng(0).normal(size=(4000, 3))
    how = {"chunks": (CHUNK, 3), "compressors": [ZstdCodec(), Crc32cCodec()]}
    zarr.create_array(str(tmp_path / "x.zarr"), shape=x.shape, dtype="f8", **how)[...] = x
    file = tmp_path / "x.zarr" / "c" / "7" / "0"
    file.write_bytes(flipped(file.read_bytes()))
    command = [
        sys.executable,
        "-m",
        "dgmm.cli",
        "train",
        "x.zarr",
        "--k",
        "2",
        "--out",
        "m.zarr",
        "--quiet",
        "--workers",
        "1",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr[:2000]
    assert done.stderr.startswith("dgmm: chunk (7, 0) of x.zarr (x.zarr/c/7/0) cannot be read: ")


def test_missing_chunks_can_be_allowed_everywhere(broken: Callable[[str], str], tmp_path: Path) -> None:
    path = broken("missing")
    x = table()
    x[BELOW:ABOVE] = 0.0
    fit = dgmm.train(path, 1, missing_chunks="fill")
    np.testing.assert_allclose(fit.mixture.means[0], x.mean(axis=0), rtol=1e-12)
    best = dgmm.select(path, [1], ["full"], missing_chunks="fill").best
    assert best.log_likelihood == fit.log_likelihood
    scores = dgmm.score(fit, path, tmp_path / "s.zarr", missing_chunks="fill")
    np.testing.assert_allclose(scores["log_density"], fit.mixture.log_density(x), rtol=1e-12)


def test_what_is_written_here_has_all_its_chunks(tmp_path: Path) -> None:
    """Scores of nothing but missing samples are scores."""
    x = np.full((ROWS, 3), np.nan)
    dgmm.score(dgmm.train(table(), 2, n_init=1), x, tmp_path / "s.zarr", probabilities=True)
    group = zarr.open_group(str(tmp_path / "s.zarr"), mode="r")
    for name, array in group.arrays():
        assert array.nchunks_initialized == array.nchunks, name
