"""What passes return, as arrays and what JSON can say of the rest, and these as bytes.

Exactly, and with nothing in it that is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal

import numpy as np

from dgmm.errors import DgmmError, one_line
from dgmm.estep import PassTotals
from dgmm.families import Moments, Noise, get_family
from dgmm.mixture import Mixture
from dgmm.passes.judge import BlockSums
from dgmm.passes.overlaps import Overlaps
from dgmm.passes.parts import ByRole
from dgmm.passes.profile import Profile
from dgmm.passes.sample import Sample
from dgmm.passes.worst import Worst
from dgmm.rows import Role, Rows
from dgmm.types import AnyArray

#: The types of which values are made, beside containers, numbers, texts and mixtures.
TYPES: dict[str, type] = {
    kind.__name__: kind
    for kind in (BlockSums, ByRole, Moments, Noise, Overlaps, PassTotals, Profile, Rows, Sample, Worst)
}

#: How a record begins; after it come the length of its header, the header, the arrays and the digest of all that.
MAGIC = b"dgmm-record-1\n"
#: Length of a digest, kinds of numbers that arrays hold, and bytes that a header may have.
DIGEST, KINDS, MOST_HEADER = 32, "fiub", 2**28


def to_parts(value: Any) -> tuple[Any, list[AnyArray]]:
    """A value as a tree for JSON, in which arrays are named by their place in a list.

    Raises
    ------
    TypeError
        If it holds something for which there is no rule here.
    """
    arrays: list[AnyArray] = []
    return _tree(value, arrays), arrays


def from_parts(tree: Any, arrays: Sequence[AnyArray]) -> Any:
    """Inverse of `to_parts`.

    Raises
    ------
    ValueError
        If no value leads to this tree.
    """
    try:
        return _value(tree, arrays)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RecursionError, struct.error) as error:
        raise ValueError(f"{type(error).__name__}: {one_line(error)[:200]}") from None
    except DgmmError as error:  # what a family says of parameters
        raise ValueError(one_line(error)[:200]) from None


def _tree(value: Any, arrays: list[AnyArray]) -> Any:
    if isinstance(value, Role):
        return {"role": value.value}
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:  # NaN and infinity, too, and their bits
        return {"float": struct.pack("<d", value).hex()}
    if isinstance(value, (np.ndarray, np.generic)):
        arrays.append(np.asarray(value))
        return {"array" if isinstance(value, np.ndarray) else "scalar": len(arrays) - 1}
    if isinstance(value, (tuple, list)):
        return {type(value).__name__: [_tree(part, arrays) for part in value]}
    if isinstance(value, Mapping):
        return {"mapping": [[_tree(key, arrays), _tree(part, arrays)] for key, part in value.items()]}
    if isinstance(value, Mixture):
        parameters = {name: array for name, (_, array) in value.family.arrays(value.components).items()}
        if "factors" in parameters:  # from which covariances, large as they are, follow
            parameters.pop("covariances", None)
        parts = value.weights, parameters, *([] if value.noise is None else [value.noise])
        return {"mixture": [value.family.name, _tree(parts, arrays)]}
    kind = type(value)
    if TYPES.get(kind.__name__) is kind:
        held = {field.name: _tree(getattr(value, field.name), arrays) for field in fields(TYPES[kind.__name__])}
        return {"type": [kind.__name__, held]}
    raise TypeError(f"a journal has no rule for a {type(value).__name__}")


def _value(tree: Any, arrays: Sequence[AnyArray]) -> Any:
    if not isinstance(tree, dict):
        if tree is None or type(tree) in (bool, int, str):
            return tree
        raise ValueError(f"a {type(tree).__name__} by itself")
    ((kind, content),) = tree.items()
    if kind == "role":
        return Role(content)
    if kind == "float":
        return struct.unpack("<d", bytes.fromhex(content))[0]
    if kind in ("array", "scalar"):
        array = arrays[content]
        return array if kind == "array" else array[()]
    if kind in ("tuple", "list"):
        parts = [_value(part, arrays) for part in content]
        return tuple(parts) if kind == "tuple" else parts
    if kind == "mapping":
        return {_value(key, arrays): _value(part, arrays) for key, part in content}
    if kind == "mixture":
        family, (weights, parameters, *noise) = get_family(content[0]), _value(content[1], arrays)
        return Mixture(family, weights, family.from_arrays(parameters), *noise)
    if kind == "type":
        name, held = content
        if set(held) != {field.name for field in fields(TYPES[name])}:
            raise ValueError(f"a {name} with {', '.join(held)}")
        return TYPES[name](**{field: _value(part, arrays) for field, part in held.items()})
    raise ValueError(f"unknown kind {kind!r}")


def packed(header: Mapping[str, Any], arrays: Sequence[AnyArray]) -> bytes:
    """A record: the header and the arrays with their types, shapes and orders, and a digest at the end."""
    described, parts = [], []
    for array in arrays:
        if array.dtype.kind not in KINDS:
            raise TypeError(f"a journal takes no array of {array.dtype}")
        order: Literal["C", "F"] = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
        described.append([array.dtype.str, list(array.shape), order])
        parts.append(array.tobytes(order))
    words = json.dumps({**header, "arrays": described}, allow_nan=False).encode()
    content = b"".join([MAGIC, len(words).to_bytes(8, "little"), words, *parts])
    return content + hashlib.sha256(content).digest()


def unpacked(content: bytes) -> tuple[dict[str, Any], list[AnyArray], str]:
    """The header of a record, its arrays, which may be written to, and its digest.

    Raises
    ------
    ValueError
        If something of it is missing or was changed; no more memory is taken than the record has bytes.
    """
    body, end = memoryview(content)[:-DIGEST], bytes(content[-DIGEST:])
    start = len(MAGIC) + 8
    if len(content) < start + DIGEST or bytes(body[: len(MAGIC)]) != MAGIC:
        raise ValueError("it is no record, or not all of one")
    if hashlib.sha256(body).digest() != end:
        raise ValueError("it is not what was written")
    length = int.from_bytes(body[len(MAGIC) : start], "little")
    if length > min(MOST_HEADER, len(body) - start):
        raise ValueError(f"its header has {length} bytes")
    try:
        header = json.loads(bytes(body[start : start + length]))
        place, arrays = start + length, []
        for text, shape, order in header["arrays"]:
            dtype = np.dtype(text)
            sizes = [*shape]
            if dtype.kind not in KINDS or order not in ("C", "F") or not all(type(n) is int and n >= 0 for n in sizes):
                raise ValueError(f"an array of {text} {shape}")
            size = dtype.itemsize * math.prod(sizes)
            if size > len(body) - place:
                raise ValueError(f"an array {shape} of {size} bytes is more than there is")
            flat = np.frombuffer(body[place : place + size], dtype=dtype)
            arrays.append(flat.reshape(sizes, order=order).copy(order=order))
            place += size
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"its header is none: {one_line(error)[:200]}") from None
    if place != len(body):
        raise ValueError(f"{len(body) - place} bytes are left over")
    return header, arrays, end.hex()
