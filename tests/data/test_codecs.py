"""Chunks that would become more than a chunk is are refused before memory is taken for them, and other tall stories."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, GzipCodec, ShardingCodec, ZstdCodec
from zarr.dtype import VariableLengthBytes, VariableLengthUTF8

from dgmm.data import codecs, open_samples
from dgmm.data.codecs import bounded
from dgmm.data.decoded import SLACK, inflated, swelling
from dgmm.errors import InputError, ReadError

#: What a bomb would become, and what may be taken while it is refused.
HUGE, FEW = 2**29, 2**26
X = np.arange(24.0).reshape(12, 2)


# ---- frames ---------------------------------------------------------------------------------------------------------


def blocks(n: int, *, last: bool = True) -> bytes:
    """A frame of Zstandard that does not say how long it is: so many blocks of one byte, repeated."""
    parts = [(2**17 << 3 | 1 << 1 | int(last and i == n - 1)).to_bytes(3, "little") + b"\0" for i in range(n)]
    return b"\x28\xb5\x2f\xfd\x00\x58" + b"".join(parts)


def zeros(encode: Callable[[bytes], bytes], size: int = 2**26) -> bytes:
    return encode(bytes(size))


#: Few bytes that would become many, by the codec.
BOMBS: dict[str, dict[str, Callable[[], bytes]]] = {
    "zstd": {
        "as it says": lambda: zeros(lambda b: bytes(numcodecs.Zstd().encode(b))),
        "as it does not say": lambda: blocks(HUGE >> 17),
        "of many frames": lambda: bytes(numcodecs.Zstd().encode(bytes(2**16))) * 4096,
        "behind what is skipped": lambda: b"\x50\x2a\x4d\x18\x02\0\0\0ab" + blocks(HUGE >> 17),
    },
    "blosc": {"as it says": lambda: zeros(lambda b: bytes(numcodecs.Blosc().encode(b)))},
    "gzip": {
        "as it is": lambda: zeros(gzip.compress, 2**28 + 2**26),
        "of many members": lambda: zeros(gzip.compress, 2**22) * 80,
    },
    "zlib": {"as it is": lambda: zeros(zlib.compress, 2**28 + 2**26)},
    "lz4": {"as it says": lambda: zeros(lambda b: bytes(numcodecs.LZ4().encode(b)))},
    "bz2": {"as it is": lambda: zeros(bz2.compress), "of many": lambda: zeros(bz2.compress, 2**20) * 9},
    "lzma": {"as it is": lambda: zeros(lzma.compress), "of many": lambda: zeros(lzma.compress, 2**20) * 9},
}
CASES = [(kind, how) for kind, ways in BOMBS.items() for how in ways]


@pytest.fixture
def little_memory() -> Iterator[None]:
    """What the test does takes little memory."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < FEW, peak


def at(content: bytes) -> Callable[[int, int], bytes]:
    return lambda place, n: content[place : place + n]


@pytest.mark.parametrize(("kind", "how"), CASES)
def test_what_would_become_more_is_told_by_its_frames(kind: str, how: str) -> None:
    content = BOMBS[kind][how]()
    assert "would become" in swelling(kind, at(content), len(content), 10**6)


@pytest.mark.parametrize("size", [0, 1, 1000, 300_000])
@pytest.mark.parametrize("kind", list(BOMBS))
def test_what_becomes_what_it_should_is_let_be(kind: str, size: int) -> None:
    raw = np.random.default_rng(0).bytes(size // 2) + bytes(size - size // 2)
    content = bytes(numcodecs.get_codec({"id": kind}).encode(raw))
    assert swelling(kind, at(content), len(content), size + SLACK) == ""
    if size > 1 and kind not in ("gzip", "zlib"):  # which are small enough to be let be
        assert "would become" in swelling(kind, at(content), len(content), size - 1)


@pytest.mark.parametrize("kind", list(BOMBS))
def test_damaged_frames_are_left_to_their_decoders(kind: str) -> None:
    content = bytes(numcodecs.get_codec({"id": kind}).encode(np.random.default_rng(1).bytes(3000)))
    generator = np.random.default_rng(2)
    for _ in range(300):
        place = int(generator.integers(len(content)))
        other = content[:place] + generator.bytes(1) + content[place + 1 :][: int(generator.integers(0, 3000))]
        swelling(kind, at(other), len(other), 10**7)


def test_gzip_of_several_members_is_read_and_one_that_is_torn_is_not() -> None:
    content = gzip.compress(b"a") + gzip.compress(b"bc") + b"\0\0"
    assert inflated(content, 3) == b"abc"
    with pytest.raises(ValueError, match="more than 2 bytes"):
        inflated(content, 2)
    with pytest.raises(ValueError, match="truncated"):
        inflated(content[:-5], 10)
    with pytest.raises(zlib.error):
        inflated(content.replace(b"\0\0\0", b"\0\1\0", 1)[:-10] + b"xxxxxxxxxx", 10)


# ---- sources --------------------------------------------------------------------------------------------------------

V3: dict[str, Any] = {"zstd": ZstdCodec(), "blosc": BloscCodec(), "gzip": GzipCodec()}


@pytest.mark.parametrize(("kind", "how"), CASES)
def test_a_chunk_that_would_become_gigabytes_is_refused_by_name(
    kind: str, how: str, tmp_path: Path, little_memory: None
) -> None:
    content = BOMBS[kind][how]()
    codec = numcodecs.get_codec({"id": kind})
    array = zarr.create_array(str(tmp_path / "2.zarr"), data=X, chunks=(4, 2), zarr_format=2, compressors=codec)
    (tmp_path / "2.zarr" / "1.0").write_bytes(content)
    tracemalloc.reset_peak()  # encoders take much
    with pytest.raises(ReadError, match=r"^chunk \(1, 0\) of .*2\.zarr/1\.0\) would become \d+ bytes or more"):
        read_all(tmp_path / "2.zarr")
    if kind in V3:
        array = zarr.create_array(str(tmp_path / "3.zarr"), data=X, chunks=(4, 2), compressors=V3[kind])
        (tmp_path / "3.zarr" / "c" / "1" / "0").write_bytes(content)
        with pytest.raises(ReadError, match=r"^chunk \(1, 0\) of .*3\.zarr/c/1/0\) .*would become "):
            read_all(tmp_path / "3.zarr")
        inner = ShardingCodec(chunk_shape=(2, 2), codecs=[BytesCodec(), V3[kind]], index_codecs=[BytesCodec()])
        array = zarr.create_array(
            str(tmp_path / "s.zarr"), shape=X.shape, dtype="f8", chunks=(4, 2), serializer=inner, compressors=None
        )
        array[...] = X
        places = np.array([0, len(content), 0, len(content)], "<u8").tobytes()
        (tmp_path / "s.zarr" / "c" / "1" / "0").write_bytes(content + places)
        with pytest.raises(ReadError, match=r"^chunk \(1, 0\) of .*s\.zarr/c/1/0\) .*would become "):
            read_all(tmp_path / "s.zarr")


def read_all(path: Path) -> np.ndarray:
    samples = pickle.loads(pickle.dumps(open_samples(path)))
    return np.concatenate([samples.read(samples.grid.region(i)) for i in range(len(samples.grid))])


def test_what_is_sound_is_read_by_the_decoders_that_look_first(tmp_path: Path) -> None:
    for name, codec in V3.items():
        dataset = xr.Dataset({"x": (("s", "f"), X)}, coords={"s": np.arange(12.0), "t": ("s", list("abcdefghijkl"))})
        encoding = {each: {"compressors": [codec]} for each in ("x", "s", "t")}
        with pytest.warns(Warning, match="V3 specification"):
            dataset.to_zarr(tmp_path / f"{name}.zarr", consolidated=False, zarr_format=3, encoding=encoding)
        samples = open_samples(tmp_path / f"{name}.zarr")
        stored = samples.fields[0].stored
        assert stored is not None
        assert stored.array is not None
        metadata: Any = stored.array.metadata
        assert type(metadata.codecs[-1]) is codecs.BOUNDED[name]
        np.testing.assert_array_equal(read_all(tmp_path / f"{name}.zarr"), X)
        assert samples.coords["t"].values.tolist() == list("abcdefghijkl")
    # whoever else opens arrays in this process gets zarr's own
    metadata = zarr.open_array(str(tmp_path / "zstd.zarr" / "x"), mode="r").metadata
    assert type(metadata.codecs[-1]) is ZstdCodec


def altered(path: Path, **changes: Any) -> Path:
    document = path / ("zarr.json" if (path / "zarr.json").exists() else ".zarray")
    document.write_text(json.dumps(json.loads(document.read_text()) | changes))
    return path


def test_metadata_that_no_array_has_are_refused(tmp_path: Path) -> None:
    def new(name: str, **how: Any) -> Path:
        zarr.create_array(str(tmp_path / name), data=X, chunks=(4, 2), **how)
        return tmp_path / name

    many = 40
    grid = {"name": "regular", "configuration": {"chunk_shape": [1] * many}}
    shape = {"shape": [1] * many, "chunk_grid": grid}
    with pytest.raises(InputError, match="40 dimensions"):
        open_samples(altered(new("dims"), **shape))
    plain = [{"name": "bytes", "configuration": {"endian": "little"}}]
    with pytest.raises(InputError, match="18 codecs"):
        open_samples(altered(new("long"), codecs=[*plain, *[{"name": "crc32c"}] * 17]))
    with pytest.raises(InputError, match="codec 'vlen"):
        codecs._check_codecs([numcodecs.get_codec({"id": "vlen-array", "dtype": "f8"})], (1,), "it", 0)

    def sharded(inner: list[Any], chunk: list[int]) -> list[Any]:
        index = [*plain, {"name": "crc32c"}]
        settings = {"chunk_shape": chunk, "codecs": inner, "index_codecs": index, "index_location": "end"}
        return [{"name": "sharding_indexed", "configuration": settings}]

    deep = sharded(sharded(sharded(plain, [1, 2]), [2, 2]), [4, 2])
    with pytest.raises(InputError, match="3 deep"):
        open_samples(altered(new("deep"), codecs=deep))
    one = {"name": "regular", "configuration": {"chunk_shape": [2**24, 2]}}
    wide = {"shape": [2**24, 2], "chunk_grid": one, "codecs": sharded(plain, [1, 2])}
    with pytest.raises(InputError, match="shards with 16777216 chunks"):
        open_samples(altered(new("wide"), **wide))


def test_a_coordinate_that_says_it_is_huge_is_not_read(tmp_path: Path) -> None:
    dataset = xr.Dataset({"a": ("s", X[:, 0]), "b": ("s", X[:, 1])}, coords={"s": np.arange(12.0)})
    for version in (2, 3):
        path = tmp_path / f"{version}.zarr"
        dataset.to_zarr(path, consolidated=False, zarr_format=version)
        if version == 3:
            altered(path / "s", shape=[10**12])
        else:
            altered(path / "s", chunks=[10**12])
        with pytest.raises(InputError, match=r"the coordinate s in .* says that it has 8000000000000 bytes"):
            open_samples(path)


@pytest.mark.parametrize("what", [{"compressor": {"id": "pickle"}}, {"filters": [{"id": "pickle"}]},
                                  {"dtype": "|O", "filters": [{"id": "pickle"}]},
                                  {"dtype": "|O", "filters": [{"id": "vlen-utf8"}, {"id": "pickle"}]}])  # fmt: skip
def test_nothing_that_is_read_runs_code(what: dict[str, Any], tmp_path: Path) -> None:
    """Whatever the array is for: the samples, a coordinate, a variable that nobody asks for."""
    mark = tmp_path / "mark"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (mark,)

    content = pickle.dumps(Evil())
    dataset = xr.Dataset({"a": ("s", X[:, 0]), "b": ("s", X[:, 1])}, coords={"s": np.arange(12.0)})
    for name in ("a", "s"):
        path = tmp_path / f"{name}.zarr"
        dataset.to_zarr(path, consolidated=False, zarr_format=2)
        altered(path / name, **what)
        (path / name / "0").write_bytes(content)
        with pytest.raises((InputError, ReadError)):
            read_all(path)
        assert not mark.exists()
    assert pickle.loads(content) is None
    assert mark.exists(), "it is evil indeed"


@pytest.mark.filterwarnings("ignore:The data type")
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("texts", [np.array(["a", "bc", ""], dtype=object), np.array([b"a", b"bc", b""], dtype=object)])
def test_texts_are_counted_before_room_is_made_for_them(
    version: Literal[2, 3], texts: NDArray[Any], tmp_path: Path, little_memory: None
) -> None:
    path = tmp_path / "t.zarr"
    dtype = VariableLengthUTF8() if isinstance(texts[0], str) else VariableLengthBytes()
    group = zarr.open_group(path, mode="w", zarr_format=version)
    array = group.create_array("t", shape=(3,), chunks=(3,), compressors=None, dtype=dtype)
    array[...] = texts
    chunk = path / "t" / ("0" if version == 2 else "c/0")

    def read() -> list[Any]:
        with bounded():
            opened = zarr.open_group(path, mode="r")["t"]
        assert pickle.loads(pickle.dumps(opened))[...].tolist() == opened[...].tolist()
        return [*opened[...]]

    assert read() == [*texts]
    before = chunk.read_bytes()
    # every text has a length of four bytes: five would be more than there is room for
    for count in (2**32 - 1, 2**28, len(before) // 4):
        chunk.write_bytes(count.to_bytes(4, "little") + before[4:])
        with pytest.raises(ValueError, match=f"speaks of {count} texts"):
            read()


def test_numbers_that_say_that_they_are_texts_are_refused(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=np.full(X.shape, np.pi), chunks=X.shape, compressors=None)
    altered(tmp_path / "x.zarr", codecs=[{"name": "vlen-bytes", "configuration": {}}])
    with pytest.raises((InputError, ReadError), match="texts"):
        read_all(tmp_path / "x.zarr")


def spoilt(document: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something else in the place of metadata."""
    content = document.read_bytes()
    document.unlink()
    if what == "large":
        document.write_bytes(content + b" " * 2**16)
        monkeypatch.setattr("dgmm.data.paths.MOST_METADATA", 2**16)
    elif what == "socket":
        monkeypatch.chdir(document.parent)  # the name of one is short
        with socket.socket(socket.AF_UNIX) as there:
            there.bind(document.name)
    elif what == "pipe":
        os.mkfifo(document)  # which nobody writes to: whoever reads would wait for ever
    else:
        document.symlink_to("/dev/zero")


@pytest.mark.parametrize("what", ["pipe", "socket", "endless", "large"])
@pytest.mark.parametrize("where", ["", "a", "g", "g/h", "g/h/a"])
@pytest.mark.parametrize("version", [2, 3])
def test_metadata_are_files_of_some_bytes(
    what: str, where: str, version: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However deep they lie: of a store without variables it is said which of its groups have some."""
    path, dataset = tmp_path / "d.zarr", xr.Dataset({"a": ("s", X[:, 0]), "b": ("s", X[:, 1])})
    dataset.to_zarr(path, group="g/h" if where.startswith("g") else None, consolidated=False, zarr_format=version)
    name = "zarr.json" if version == 3 else ".zarray" if where.endswith("a") else ".zgroup"
    spoilt(path / where / name, what, monkeypatch)
    with pytest.raises(InputError, match=r"is not a Zarr store: .*(is no file|has .* more than \d+)$"):
        open_samples(path)


def test_several_that_are_none_are_told_in_one_line(tmp_path: Path) -> None:
    """They are read at a time, and each fails."""
    dataset = xr.Dataset({f"v{i}": ("s", X[:, 0]) for i in range(20)})
    dataset.to_zarr(tmp_path / "d.zarr", consolidated=False, zarr_format=3)
    for document in (tmp_path / "d.zarr").glob("*/zarr.json"):
        document.unlink()
        os.mkfifo(document)
    code = (
        "from dgmm.data import open_samples\nfrom dgmm.errors import InputError\n"
        f"try: open_samples({str(tmp_path / 'd.zarr')!r})\nexcept InputError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert done.stderr == ""
    assert re.fullmatch(r"\S+ is not a Zarr store: \S+/zarr.json is no file\n", done.stdout)


def test_a_claim_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    claim = tmp_path / "d.zarr.partial"
    claim.mkdir()
    os.mkfifo(claim / "dgmm-run.json")
    with pytest.raises(InputError, match=r"no such store: .*/d.zarr$"):
        open_samples(tmp_path / "d.zarr")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("name", ["s", "a"])
@pytest.mark.parametrize("missing", ["raise", "fill"])
def test_a_chunk_that_is_a_pipe_is_not_waited_for(version: Any, name: str, missing: Any, tmp_path: Path) -> None:
    dataset = xr.Dataset({"a": ("s", X[:, 0]), "b": ("s", X[:, 1])}, coords={"s": np.arange(12.0)})
    dataset.to_zarr(tmp_path / "d.zarr", consolidated=False, zarr_format=version)
    chunk = tmp_path / "d.zarr" / name / ("0" if version == 2 else "c/0")
    chunk.unlink()
    os.mkfifo(chunk)
    with pytest.raises(ReadError, match=rf"^chunk \(0\) of {name} in .* is no file: write it again$"):
        samples = open_samples(tmp_path / "d.zarr", missing_chunks=missing)
        samples.read(samples.grid.region(0))


def test_a_coordinate_of_many_chunks_is_not_read(tmp_path: Path) -> None:
    dataset = xr.Dataset({"a": ("s", X[:, 0]), "b": ("s", X[:, 1])}, coords={"s": np.arange(12.0)})
    dataset.to_zarr(tmp_path / "d.zarr", consolidated=False, zarr_format=3)
    grid = {"name": "regular", "configuration": {"chunk_shape": [1]}}
    altered(tmp_path / "d.zarr" / "s", shape=[2**24], chunk_grid=grid)
    with pytest.raises(InputError, match=r"the coordinate s in .* has 16777216 chunks"):
        open_samples(tmp_path / "d.zarr")
    grid["configuration"] = {"chunk_shape": [0]}
    altered(tmp_path / "d.zarr" / "s", shape=[12], chunk_grid=grid)
    with pytest.raises(InputError, match=r"the coordinate s in .* has chunks of shape \(0,\): nothing is in them"):
        open_samples(tmp_path / "d.zarr")


def test_threads_that_open_at_once_leave_zarr_as_it_was() -> None:
    """Of two, the one might put back what the other had set, and that would stay."""
    before = zarr.config.get("codecs.zstd")
    first, second = bounded(), bounded()
    done = threading.Event()

    def other() -> None:
        with second:
            done.set()

    with first:
        thread = threading.Thread(target=other)
        thread.start()
        assert not done.wait(0.2), "the other must wait, or it would put back what is set here"
    thread.join()
    assert zarr.config.get("codecs.zstd") == before
