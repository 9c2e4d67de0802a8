"""Codecs of stored arrays: whether they tell damage, and that no chunk becomes more than it should be.

What a store says of itself may be anything, and a few bytes can be the beginning of gigabytes: how large a chunk will
be is found out from its frames before anything is taken for it.
"""

from __future__ import annotations

import bz2
import lzma
import math
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import zarr
from numcodecs import VLenBytes, VLenUTF8
from numcodecs.registry import codec_registry
from zarr.codecs import BloscCodec, GzipCodec, ShardingCodec, ZstdCodec
from zarr.registry import register_codec

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
#: Bytes that a chunk may become where nothing says how many it has: texts.
VAGUE = 2**28
#: A frame may hold a little more than a chunk, where other codecs were applied before.
SLACK = 2**20
#: As much as deflate makes of a byte, at most.
DEFLATED = 1032
#: The frames and what precedes their length: magic numbers of Zstandard, and the largest block.
ZSTD_MAGIC, ZSTD_SKIPPABLE, ZSTD_BLOCK = 0xFD2FB528, 0x184D2A5, 2**17
#: Bytes of a Blosc frame's header.
BLOSC_HEADER = 16
#: Bytes before texts that say how many there are, and before each that say how long it is.
COUNT = 4

#: Some bytes of a frame, by where they begin and how many they are; fewer where it ends.
At = Callable[[int, int], bytes]


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


# ---- how large a chunk will be --------------------------------------------------------------------------------------


def most_of(shape: Iterable[int], itemsize: int | None) -> int:
    """Bytes that a chunk may become at most."""
    return VAGUE if itemsize is None else 2 * math.prod(shape) * itemsize + SLACK


def swelling(kind: str, at: At, length: int, most: int) -> str:
    """What is wrong with a frame of so many bytes, if it would become more than that or speaks of more than it has."""
    try:
        size = FRAMES[kind](at, length, most) if kind in FRAMES else 0
    except (ValueError, EOFError, OSError, zlib.error, lzma.LZMAError):
        return ""  # its decoder will say so better
    if size < 0:
        return "is truncated: write it again"
    return f"would become {size} bytes or more, and a chunk has no more than {most}" if size > most else ""


def _zstd(at: At, length: int, most: int) -> int:
    """What the frames say of themselves, and where they do not, as much as their blocks can be."""
    place = total = 0
    while place + 5 <= length and total <= most:
        head = at(place, 18)
        magic = int.from_bytes(head[:4], "little")
        if magic >> 4 == ZSTD_SKIPPABLE:
            place += 8 + int.from_bytes(head[4:8], "little")
            continue
        if magic != ZSTD_MAGIC:
            break
        flags = head[4]
        single, wide = bool(flags & 32), flags >> 6
        start = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
        n = (1 if single else 0, 2, 4, 8)[wide]
        told = int.from_bytes(head[start : start + n], "little") + (256 if n == 2 else 0) if n else None
        place += start + n
        blocks = last = 0
        while not last and place + 3 <= length and total + blocks <= most:
            block = int.from_bytes(at(place, 3), "little")
            last, kind, size = block & 1, block >> 1 & 3, block >> 3
            blocks += ZSTD_BLOCK if kind == 2 else size
            place += 3 + (1 if kind == 1 else size)
        place += 4 if flags & 4 else 0
        # a frame whose blocks do not add up to what it says is refused by its decoder, which has taken that much
        total += blocks if told is None else told
    return total


def _blosc(at: At, length: int, most: int) -> int:
    head = at(0, BLOSC_HEADER)
    # whatever lies behind the end of one that is truncated would be decoded
    if int.from_bytes(head[12:16], "little") > length:
        return -1
    return int.from_bytes(head[4:8], "little")


def _lz4(at: At, length: int, most: int) -> int:
    return int.from_bytes(at(0, 4), "little")


def _deflated(bits: int) -> Callable[[At, int, int], int]:
    def size(at: At, length: int, most: int) -> int:
        if length * DEFLATED <= most + VAGUE:
            return 0
        return _streamed(lambda: zlib.decompressobj(bits), at, length, most)

    return size


def _streamed(decoder: Callable[[], Any], at: At, length: int, most: int) -> int:
    """Bytes that come out of a stream, piece by piece, none of which is kept."""
    place = total = 0
    left, inner = b"", decoder()
    while total <= most and (place < length or left):
        if not left:
            left = at(place, 2**16)
            if not left:
                break
            place += len(left)
        total += len(inner.decompress(left, 2**20))
        if inner.eof:
            left, inner = inner.unused_data, decoder()
        else:
            left = getattr(inner, "unconsumed_tail", b"")
            while hasattr(inner, "needs_input") and not inner.needs_input and not inner.eof and total <= most:
                total += len(inner.decompress(b"", 2**20))
    return total


#: How large what a frame decodes to is, by the codec: at most, or more than is asked for; negative if it is truncated.
FRAMES: dict[str, Callable[[At, int, int], int]] = {
    "zstd": _zstd,
    "blosc": _blosc,
    "lz4": _lz4,
    "gzip": _deflated(31),
    "zlib": _deflated(15),
    "bz2": lambda at, length, most: _streamed(bz2.BZ2Decompressor, at, length, most),
    "lzma": lambda at, length, most: _streamed(lzma.LZMADecompressor, at, length, most),
}


def inflated(content: bytes, most: int) -> bytes:
    """What a gzip file holds, of one member or several; raises `ValueError` if that is more, or the file is damaged."""
    parts, total = [], 0
    while content:
        inner = zlib.decompressobj(31)
        parts.append(inner.decompress(content, most - total + 1))
        total += len(parts[-1])
        if total > most:
            raise ValueError(f"would become more than {most} bytes")
        if not inner.eof:
            raise ValueError("its gzip stream is truncated")
        # zeros behind the end are none
        content = inner.unused_data.lstrip(b"\0")
    return parts[0] if len(parts) == 1 else b"".join(parts)


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


class VLenUTF8Codec(zarr.codecs.VLenUTF8Codec):
    """Texts that are counted first; zarr goes by the name of the class."""

    def _decode_sync(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        _counted(chunk_bytes.as_numpy_array())
        return super()._decode_sync(chunk_bytes, chunk_spec)


class VLenBytesCodec(zarr.codecs.VLenBytesCodec):
    """Strings of bytes that are counted first."""

    def _decode_sync(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        _counted(chunk_bytes.as_numpy_array())
        return super()._decode_sync(chunk_bytes, chunk_spec)


class CountedTexts(VLenUTF8):
    """Texts of the second format that are counted first."""

    def decode(self, buf: Any, out: Any = None) -> Any:
        """As numcodecs does."""
        _counted(buf)
        return super().decode(buf, out)


class CountedBytes(VLenBytes):
    """Strings of bytes of the second format that are counted first."""

    def decode(self, buf: Any, out: Any = None) -> Any:
        """As numcodecs does."""
        _counted(buf)
        return super().decode(buf, out)


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
