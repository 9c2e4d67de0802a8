"""A source is damaged: what can be told is refused in a line that names array and chunk, and nothing is written."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, ZstdCodec

from dgmm.cli import main
from dgmm.data import open_samples
from dgmm.errors import InputError, ReadError
from tests import journals
from tests.reliability.trials import Ended, Trial, fault

#: Rows of a chunk, or of a shard, which has four chunks; and those of the source.
CHUNK, ROWS = 60, 300


def shards(codecs: list[Any], index: list[Any] | None = None) -> dict[str, Any]:
    """Arguments of `create_array` for shards of four chunks each."""
    index = [BytesCodec(), Crc32cCodec()] if index is None else index
    inner = ShardingCodec(chunk_shape=(CHUNK // 4, 3), codecs=[BytesCodec(), *codecs], index_codecs=index)
    return {"serializer": inner, "compressors": None}


#: Sources whose codecs notice that a bit has flipped, as arguments of `create_array`.
TOLD: dict[str, dict[str, Any]] = {
    "zstd with a checksum": {"compressors": ZstdCodec(checksum=True)},
    "gzip": {"compressors": GzipCodec()},
    "crc32c": {"compressors": Crc32cCodec()},
    "zstd, crc32c": {"compressors": [ZstdCodec(), Crc32cCodec()]},
    "blosc, crc32c": {"compressors": [BloscCodec(), Crc32cCodec()]},
    "shards, crc32c": shards([Crc32cCodec()]),
    "shards, zstd, crc32c": shards([ZstdCodec(), Crc32cCodec()]),
    "shards, index without, zstd with a checksum": shards([ZstdCodec(checksum=True)], [BytesCodec()]),
    "format 2, zlib": {"zarr_format": 2, "compressors": numcodecs.Zlib()},
    "format 2, gzip": {"zarr_format": 2, "compressors": numcodecs.GZip()},
    "format 2, bz2": {"zarr_format": 2, "compressors": numcodecs.BZ2()},
    "format 2, lzma": {"zarr_format": 2, "compressors": numcodecs.LZMA()},
    "format 2, zstd with a checksum": {"zarr_format": 2, "compressors": numcodecs.Zstd(checksum=True)},
    "format 2, crc32": {"zarr_format": 2, "compressors": None, "filters": [numcodecs.CRC32()]},
}
#: Those whose codecs cannot.
UNTOLD: dict[str, dict[str, Any]] = {
    "not compressed": {"compressors": None},
    "zstd": {"compressors": ZstdCodec()},
    "blosc, lz4": {"compressors": BloscCodec(cname="lz4")},
    "blosc, zstd": {"compressors": BloscCodec()},
    "shards": shards([]),
    "shards, zstd": shards([ZstdCodec()]),
    "shards, blosc": shards([BloscCodec()]),
    "shards, index without": shards([], [BytesCodec()]),
    "format 2, not compressed": {"zarr_format": 2, "compressors": None},
    "format 2, blosc": {"zarr_format": 2, "compressors": numcodecs.Blosc()},
    "format 2, zstd": {"zarr_format": 2, "compressors": numcodecs.Zstd()},
    "format 2, lz4": {"zarr_format": 2, "compressors": numcodecs.LZ4()},
}
ALL = TOLD | UNTOLD


def rows() -> np.ndarray:
    """Two clouds, to few enough digits that codecs have something to do."""
    r = np.random.default_rng(3)
    return np.round(r.standard_normal((ROWS, 3)) + 5.0 * (np.arange(ROWS) % 2)[:, None], 2)


@cache
def source(kind: str) -> dict[str, bytes]:
    """The files of a sound source."""
    folder = Path(tempfile.mkdtemp()) / "x.zarr"
    array = zarr.create_array(str(folder), shape=(ROWS, 3), dtype="f8", **{"chunks": (CHUNK, 3), **ALL[kind]})
    array[...] = rows()
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files into a folder."""
    for name, content in files.items():
        path = folder / "x.zarr" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / "x.zarr"


def chunks_of(files: dict[str, bytes]) -> list[str]:
    """Names of the chunks, or the shards."""
    return sorted(name for name in files if name[-1].isdigit())


def flipped(content: bytes, r: np.random.Generator) -> bytes:
    """One bit of it is another."""
    place = int(r.integers(len(content)))
    return content[:place] + bytes([content[place] ^ 1 << int(r.integers(8))]) + content[place + 1 :]


def truncated(content: bytes, r: np.random.Generator) -> bytes:
    """Some of it, from the beginning; half of the time little is missing."""
    n = len(content)
    return content[: n - int(r.integers(1, 40)) if r.random() < 0.5 and n > 40 else int(r.integers(1, n))]


def read(path: Path) -> np.ndarray:
    """All rows, as passes get them; a chunk in the place of another is none of its own."""
    samples = open_samples(path)
    return np.concatenate([samples.read(samples.grid.region(i)) for i in range(len(samples.grid))])


def ended(path: Path, name: str | None) -> Ended:
    """How a source that was damaged in this chunk is read; where it is refused, by all that would read it."""
    try:
        found = read(path)
    except ReadError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert said.startswith("chunk ("), said
        assert name is None or f"x.zarr/{name})" in said, said
        refused(path, name)
        return Ended.REFUSED
    assert found.shape == (ROWS, 3)
    return Ended.RECOVERED if found.tobytes() == rows().tobytes() else Ended.UNTOLD


def refused(path: Path, name: str | None) -> None:
    """The command line says it in one line, and leaves nothing."""
    err, out = io.StringIO(), path.parent / "m.zarr"
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        code = main(["train", str(path), "--k", "2", "--out", str(out), "--quiet"])
    lines = [line for line in err.getvalue().splitlines() if line]
    assert len(lines) == 1, lines
    assert code == 1, lines
    assert name is None or f"x.zarr/{name})" in lines[0], lines
    assert os.listdir(path.parent) == ["x.zarr"]


def damaged(trial: Trial, kinds: dict[str, Any], change: Callable[[bytes, np.random.Generator], bytes | None]) -> Ended:
    """One chunk of one source is changed, or goes."""
    r, kind = trial.random, list(kinds)[(trial.number - 1) % len(kinds)]
    files = dict(source(kind))
    name = str(r.choice(chunks_of(files)))
    content = change(files.pop(name), r)
    path = put(trial.folder, files if content is None else files | {name: content})
    return ended(path, name)


DAMAGES: dict[str, Callable[[bytes, np.random.Generator], bytes | None]] = {
    "chunk missing": lambda content, r: None,
    "chunk empty": lambda content, r: b"",
    "chunk truncated": truncated,
}
for what, change in DAMAGES.items():
    fault(what, "source, any codec", short=len(ALL) // 2, every=3, long=50 * len(ALL), ends={Ended.REFUSED})(
        lambda trial, change=change: damaged(trial, ALL, change)
    )


@fault("bit flipped", "source, codecs with a checksum", short=2 * len(TOLD), long=300 * len(TOLD),
       ends={Ended.REFUSED, Ended.RECOVERED})  # fmt: skip
def flipped_where_it_is_told(trial: Trial) -> Ended | None:
    """Refused, or without effect, such as in the time that gzip notes."""
    return damaged(trial, TOLD, flipped)


@fault("bit flipped", "source, codecs without", short=2 * len(UNTOLD), long=300 * len(UNTOLD),
       ends={Ended.REFUSED, Ended.RECOVERED, Ended.UNTOLD})  # fmt: skip
def flipped_where_it_is_not(trial: Trial) -> Ended | None:
    """Mostly other numbers, which nothing tells from those that were written."""
    return damaged(trial, UNTOLD, flipped)


@fault("chunks swapped", "source, any codec", short=len(ALL) // 2, every=3, long=50 * len(ALL), ends={Ended.UNTOLD})
def swapped(trial: Trial) -> Ended | None:
    """A chunk in the place of another is a chunk: no codec knows where it belongs."""
    r, kind = trial.random, list(ALL)[(trial.number - 1) % len(ALL)]
    files = dict(source(kind))
    a, b = (str(name) for name in r.choice(chunks_of(files), 2, replace=False))
    files[a], files[b] = files[b], files[a]
    return ended(put(trial.folder, files), None)


@fault(
    "chunk of another array",
    "source, any codec",
    short=len(ALL) // 2,
    every=3,
    long=50 * len(ALL),
    ends={Ended.REFUSED},
)
def of_another_array(trial: Trial) -> Ended | None:
    """One whose chunks are half as long: it decodes, into half of what is needed."""
    r, kind = trial.random, list(ALL)[(trial.number - 1) % len(ALL)]
    files = dict(source(kind))
    name = str(r.choice(chunks_of(files)))
    return ended(put(trial.folder, files | {name: halved(kind)[name]}), name)


@cache
def halved(kind: str) -> dict[str, bytes]:
    """The same source in single precision."""
    folder = Path(tempfile.mkdtemp()) / "x.zarr"
    array = zarr.create_array(str(folder), shape=(ROWS, 3), dtype="f4", **{"chunks": (CHUNK, 3), **ALL[kind]})
    array[...] = rows()
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def changes(trial: Trial, name: str) -> Ended:
    """Somebody writes to the source between two passes: no fit of both, and the same again is one of what is there."""
    job, r = {"train": journals.train, "select": journals.select}[name], trial.random
    data, out = journals.write_data(trial.folder), trial.folder / "out"

    def write() -> None:
        zarr.open_array(data, mode="r+")[int(r.integers(3000))] = 1.0

    line = r"x\.zarr was changed while it was read \(stored chunks of values\)"
    with journals.at_record(int(r.integers(1, 6)), write), pytest.raises(InputError, match=line):
        journals.work(job(data, out))
    assert sorted(os.listdir(trial.folder)) == ["x.zarr"]
    again, fresh = (journals.work(job(data, trial.folder / where)) for where in ("out", "fresh"))
    assert journals.bits(again) == journals.bits(fresh)
    return Ended.REFUSED


for name, where in (("train", "training"), ("select", "selection")):
    fault("source changed between passes", where, short=2, long=50, ends={Ended.REFUSED})(
        lambda trial, name=name: changes(trial, name)
    )
