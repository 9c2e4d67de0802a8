"""What passes return, as arrays and what JSON can say of the rest: exactly, and with nothing in it that is executed."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from dgmm.errors import DgmmError, one_line
from dgmm.estep import PassTotals
from dgmm.families import Moments, get_family
from dgmm.mixture import Mixture
from dgmm.passes.judge import BlockSums
from dgmm.passes.parts import ByRole
from dgmm.passes.profile import Profile
from dgmm.passes.sample import Sample
from dgmm.passes.worst import Worst
from dgmm.rows import Role, Rows
from dgmm.types import AnyArray

#: The types of which values are made, beside containers, numbers, texts and mixtures.
TYPES: dict[str, type] = {
    kind.__name__: kind for kind in (BlockSums, ByRole, Moments, PassTotals, Profile, Rows, Sample, Worst)
}


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
        return {"mixture": [value.family.name, _tree((value.weights, parameters), arrays)]}
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
        family, (weights, parameters) = get_family(content[0]), _value(content[1], arrays)
        return Mixture(family, weights, family.from_arrays(parameters))
    if kind == "type":
        name, held = content
        if set(held) != {field.name for field in fields(TYPES[name])}:
            raise ValueError(f"a {name} with {', '.join(held)}")
        return TYPES[name](**{field: _value(part, arrays) for field, part in held.items()})
    raise ValueError(f"unknown kind {kind!r}")
