"""Classes that samples are known to be of: how labels are stored, and which there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dgmm.data.fields import Field
from dgmm.data.grid import Grid
from dgmm.errors import InputError
from dgmm.types import AnyArray, BoolArray, IntArray

#: More values than these are no classes.
MOST_CLASSES = 1000
#: Labels are whole numbers below this, exact in double precision.
LARGEST = 2**53

#: Names of classes, in order: whole numbers, or texts.
Names = tuple[int, ...] | tuple[str, ...]


@dataclass(frozen=True)
class Labels:
    """What is known of the classes of samples.

    Attributes
    ----------
    field : Field
        Of every sample, along some of the dimensions of the grid or all: a whole number from zero up or a text, where
        its class is known; -1, an empty text or a missing value where it is not.
    names : tuple of int or of str
        Of the classes, in order.
    all_known : bool
        Whether there is a label everywhere.
    """

    field: Field
    names: Names
    all_known: bool

    @classmethod
    def of(cls, field: Field, name: str) -> Labels:
        """The classes that there are, found by reading all labels of a source once.

        Raises
        ------
        InputError
            If a label is none, all are unknown, or there are too many classes.
        """
        shape = tuple(map(int, field.array.shape))
        grid = Grid.along_chunks(shape, field.chunks or shape, 8)
        found: set[Any] = set()
        all_known = True
        for i in range(len(grid)):
            values, known = plain(field.read(dict(zip(field.dims, grid.region(i), strict=True))), name)
            found.update(np.unique(values[known]).tolist())
            all_known &= bool(known.all())
            if len(found) > MOST_CLASSES:
                raise InputError(f"the labels of {name} have more than {MOST_CLASSES} values: they are no classes")
        if not found:
            raise InputError(f"no sample of {name} has a label: all of them are unknown (-1, empty or missing)")
        return cls(field, tuple(sorted(found)), all_known)

    def codes(self, values: AnyArray, name: str) -> IntArray:
        """Numbers of the classes of labels as they are read; -1 where they are unknown."""
        texts, known = plain(values, name)
        names = np.array(self.names)
        places = np.minimum(np.searchsorted(names, texts), len(names) - 1)
        new = known & (names[places] != texts)
        if new.any():
            raise InputError(
                f"the labels of {name} were changed while they were read: {texts[new].tolist()[0]!r} is new"
            )
        return np.where(known, places, -1).astype(np.int64)


def plain(values: AnyArray, name: str) -> tuple[AnyArray, BoolArray]:
    """Labels as whole numbers or texts, and where they are known.

    Raises
    ------
    InputError
        If they are neither.
    """
    kind = values.dtype.kind
    if kind in "OTUS":
        # each of them is looked at once, however many rows have it; the last text is what missing ones get
        places, different = pd.factorize(values.ravel().astype(object))
        texts = np.array([*map(_text, different), ""], dtype=str)[places].reshape(values.shape)
        return texts, np.asarray(texts != "")
    if kind not in "biuf":
        raise InputError(f"the labels of {name} are of type {values.dtype}: give whole numbers, or texts")
    known = np.isfinite(values) if kind == "f" else np.ones(values.shape, dtype=bool)
    known &= values != -1
    wrong = known & ((values < 0) | (values >= LARGEST) | (values != np.floor(values)))
    if wrong.any():
        raise InputError(
            f"a label of {name} is {values[wrong].ravel()[0]}: give whole numbers from 0 up, or texts, and -1, an "
            "empty text or nothing where it is unknown"
        )
    return np.where(known, values, -1).astype(np.int64), known


def is_known(values: AnyArray) -> BoolArray:
    """Where labels say a class."""
    return plain(values, "samples")[1]


def _text(value: Any) -> str:
    """A label as a text."""
    return value.decode() if isinstance(value, bytes) else str(value)
