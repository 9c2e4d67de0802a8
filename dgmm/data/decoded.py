"""How large what is stored will be once it is decoded.

What a store says of itself may be anything, and a few bytes can be the beginning of gigabytes: how large a chunk will
be is found out from its frames before anything is taken for it.
"""

from __future__ import annotations

import bz2
import lzma
import math
import zlib
from collections.abc import Callable, Iterable
from typing import Any

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

#: Some bytes of a frame, by where they begin and how many they are; fewer where it ends.
At = Callable[[int, int], bytes]


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
