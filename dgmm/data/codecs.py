"""Codecs of stored arrays: whether they tell damage, and decoders that let no chunk become more than it should be."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import zarr
from numcodecs import VLenBytes, VLenUTF8
from numcodecs.registry import codec_registry
from zarr.codecs import BloscCodec, GzipCodec, ShardingCodec, ZstdCodec
from zarr.registry import register_codec

from dgmm.data.decoded import FRAMES, inflated, most_of, swelling
from dgmm.errors import InputError, one_line

#: Codecs that notice a bit that has flipped, beside zstd where its frames have checksums.
TELLING = frozenset(
    {"crc32c", "crc32", "adler32", "fletcher32", "jenkins_lookup3", "gzip", "zlib", "bz2", "lzma"}
)  # fmt: skip
#: Codecs of which arrays are read.
KNOWN = TELLING | {
    "bytes", "endian", "transpose", "sharding_indexed", "zstd", "blosc", "lz4", "vlen-utf8", "vlen-bytes", "shuffle",
    "delta", "fixedscaleoffset", "bitround", "quantize", "astype", "packbits", "pcodec", "zfpy",
}  # fmt: skip
#: Dimensions, codecs one after the other, shards within shards, and chunks in one shard, at most.
MOST_DIMS, MOST_CODECS, MOST_DEPTH, MOST_IN_SHARD = 32, 16, 2, 2**22
#: Bytes before texts that say how many there are, and before each that say how long it is.
COUNT = 4


def name_of(codec: Any) -> str:
    """The name of a codec of either format."""
    found = codec.to_dict()["name"] if hasattr(codec, "to_dict") else codec.codec_id
    return str(found).removeprefix("numcodecs.")


def codecs_of(array: zarr.Array[Any]) -> list[Any]:
    """The codecs of an array, in the order in which they encode."""
    metadata: Any = array.metadata
    if metadata.zarr_format == 3:
        return list(metadata.codecs)
    return [*(metadata.filters or ()), *([] if metadata.compressor is None else [metadata.compressor])]


def tells(codecs: Iterable[Any]) -> bool:
    """Whether a bit that flips in a chunk is noticed as it is decoded."""
    return any(
        tells(codec.codecs)
        if name_of(codec) == "sharding_indexed"
        else name_of(codec) in TELLING or (name_of(codec) == "zstd" and bool(getattr(codec, "checksum", False)))
        for codec in codecs
    )


def words_of(codecs: Iterable[Any]) -> str:
    """Codecs in words, without what only makes bytes of numbers."""
    found = []
    for codec in codecs:
        name = name_of(codec)
        if name == "sharding_indexed":
            found.append(f"chunks of {tuple(codec.chunk_shape)}, {words_of(codec.codecs)}")
        elif name == "zstd" and getattr(codec, "checksum", False):
            found.append("zstd with a checksum")
        elif name not in ("bytes", "endian"):
            found.append(name)
    return ", ".join(found) or "not compressed"


#: What is said of an array whose chunks are not all alike.
RECTILINEAR = "has chunks of different lengths (a rectilinear grid), which are not read: write it with regular ones"


def unreadable(name: str, what: str, error: Exception) -> InputError:
    """What to say of a store that zarr cannot make out."""
    told = one_line(error)
    return InputError(f"{name} {RECTILINEAR if 'rectilinear' in told.lower() else f'{what}: {told[:300]}'}")


def regular(array: zarr.Array[Any], name: str) -> tuple[int, ...]:
    """Lengths of the chunks of an array, the shards where there are any; raises `InputError` if they differ."""
    try:
        return array.shards or array.chunks
    except NotImplementedError:  # zarr from 3.2 on
        raise InputError(f"{name} {RECTILINEAR}") from None


def check_array(array: zarr.Array[Any], name: str) -> None:
    """Raise `InputError` if the metadata of an array speak of what no array has."""
    if array.ndim > MOST_DIMS:
        raise InputError(f"{name} has {array.ndim} dimensions, and arrays of more than {MOST_DIMS} are not read")
    sizes = regular(array, name)
    _check_codecs(codecs_of(array), sizes, name, 0)


def _check_codecs(codecs: list[Any], sizes: tuple[int, ...], name: str, depth: int) -> None:
    if len(codecs) > MOST_CODECS:
        raise InputError(f"{name} has {len(codecs)} codecs, and more than {MOST_CODECS} are not decoded")
    for codec in codecs:
        kind = name_of(codec)
        if kind not in KNOWN:
            raise InputError(f"{name} has the codec {kind[:40]!r}, which is not decoded: write it with another")
        if kind == "sharding_indexed":
            inner = tuple(codec.chunk_shape)
            number = math.prod(-(-n // m) for n, m in zip(sizes, inner, strict=True)) if all(inner) else 0
            if depth + 1 > MOST_DEPTH or not 0 < number <= MOST_IN_SHARD:
                raise InputError(
                    f"{name} has shards with {number} chunks, {depth + 1} deep, and more than {MOST_IN_SHARD}, or "
                    f"{MOST_DEPTH} deep, are not read"
                )
            _check_codecs(list(codec.codecs), inner, name, depth + 1)
        elif depth and not isinstance(codec, tuple(BOUNDED.values())) and kind in FRAMES:
            raise InputError(f"{name} has shards with the codec {kind!r}, which is not decoded there")


# ---- decoders that look first ---------------------------------------------------------------------------------------


def _spec_most(spec: Any) -> int:
    dtype = spec.dtype
    return most_of(spec.shape, getattr(dtype, "itemsize", None) or getattr(dtype, "item_size", None))


def _looked(kind: str, content: Any, spec: Any) -> None:
    """Raise `ValueError` for a frame that is not to be decoded."""
    array = memoryview(content.as_numpy_array()).cast("B")
    fault = swelling(kind, lambda place, n: bytes(array[place : place + n]), len(array), _spec_most(spec))
    if fault:
        raise ValueError(fault)


class BoundedZstd(ZstdCodec):
    """Zstandard that looks first."""

    def _decode_sync(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        _looked("zstd", chunk_bytes, chunk_spec)
        return super()._decode_sync(chunk_bytes, chunk_spec)


class BoundedBlosc(BloscCodec):
    """Blosc that looks first."""

    def _decode_sync(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        _looked("blosc", chunk_bytes, chunk_spec)
        return super()._decode_sync(chunk_bytes, chunk_spec)


class BoundedGzip(GzipCodec):
    """Gzip that stops in time."""

    def _decode_sync(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        content = inflated(chunk_bytes.to_bytes(), _spec_most(chunk_spec))
        return chunk_spec.prototype.buffer.from_bytes(content)


def _counted(content: Any) -> None:
    """Raise `ValueError` for texts that say that they are more than there is room for."""
    array = memoryview(content).cast("B")
    count = int.from_bytes(array[:COUNT], "little")
    if COUNT * (1 + count) > len(array):
        raise ValueError(f"speaks of {count} texts, and a chunk of {len(array)} bytes has no room for them")


class Counting:
    """What decodes texts of the third format, and counts them first."""

    def _decode_sync(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        _counted(chunk_bytes.as_numpy_array())
        return super()._decode_sync(chunk_bytes, chunk_spec)  # type: ignore[misc]


class VLenUTF8Codec(Counting, zarr.codecs.VLenUTF8Codec):
    """Texts; zarr goes by the name of the class."""


class VLenBytesCodec(Counting, zarr.codecs.VLenBytesCodec):
    """Strings of bytes."""


class CountingBefore:
    """What decodes texts of the second format, and counts them first."""

    def decode(self, buf: Any, out: Any = None) -> Any:
        """As numcodecs does."""
        _counted(buf)
        return super().decode(buf, out)  # type: ignore[misc]


class CountedTexts(CountingBefore, VLenUTF8):
    """Texts."""


class CountedBytes(CountingBefore, VLenBytes):
    """Strings of bytes."""


class BoundedShards(ShardingCodec):
    """Shards whose chunks are looked at, in whatever process."""

    def __setstate__(self, state: Any) -> None:
        with bounded():
            super().__setstate__(state)


#: The codecs of the third format that are decoded here; zarr's own do all else.
BOUNDED: dict[str, type[Any]] = {
    "zstd": BoundedZstd,
    "blosc": BoundedBlosc,
    "gzip": BoundedGzip,
    "sharding_indexed": BoundedShards,
    "vlen-utf8": VLenUTF8Codec,
    "vlen-bytes": VLenBytesCodec,
}
#: Those of the second format, which knows codecs by one name each.
COUNTED: dict[str, type[Any]] = {"vlen-utf8": CountedTexts, "vlen-bytes": CountedBytes}
for _name, _codec in BOUNDED.items():
    register_codec(_name, _codec)


#: Who sets what zarr decodes with: of two threads at once, the one might put back what the other has set, for good.
_setting = threading.RLock()
os.register_at_fork(after_in_child=_setting._at_fork_reinit)  # type: ignore[attr-defined]


@contextmanager
def bounded(settings: dict[str, str] | None = None) -> Iterator[None]:
    """Context in which arrays are opened whose chunks become no more than they should; more settings of zarr."""
    chosen = {f"codecs.{name}": f"{codec.__module__}.{codec.__qualname__}" for name, codec in BOUNDED.items()}
    with _setting, zarr.config.set({**chosen, **(settings or {})}):
        before = {name: codec_registry.get(name) for name in COUNTED}
        codec_registry.update(COUNTED)
        try:
            yield
        finally:
            codec_registry.update(before)


def outer_frame(array: zarr.Array[Any]) -> str:
    """The codec of the frame that is stored for each chunk, where nobody looks at it as it is decoded; else nothing."""
    codecs = codecs_of(array)
    if not codecs or isinstance(codecs[-1], tuple(BOUNDED.values())):
        return ""
    name = name_of(codecs[-1])
    return name if name in FRAMES else ""


def storage_of(fields: Iterable[tuple[str, zarr.Array[Any]]]) -> Iterator[str]:
    """How arrays are stored, in lines; the last one names those in which a flipped bit is not noticed, if any."""
    found: dict[str, list[str]] = {}
    untold = []
    for name, array in fields:
        codecs = codecs_of(array)
        cut = f"chunks of {array.chunks}" if array.shards is None else f"shards of {array.shards}"
        what = f"{array.dtype} in {cut}, {words_of(codecs)}"
        found.setdefault(f"{what}; Zarr format {array.metadata.zarr_format}", []).append(name)
        if not tells(codecs):
            untold.append(name)
    for what, names in found.items():
        yield f"stored as {what}{_listed(names) if len(found) > 1 else ''}"
    if untold:
        some = _listed(untold) if len(untold) < sum(map(len, found.values())) else ""
        yield (
            f"a flipped bit cannot be noticed in it{some}: its codecs have no checksum (gzip, crc32c and zstd with "
            "checksum=True have one)"
        )


def _listed(names: list[str]) -> str:
    more = ", ..." if len(names) > 6 else ""
    return f" ({', '.join(names[:6])}{more})"
