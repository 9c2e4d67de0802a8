"""What is done to the rows before any mixture sees them: logarithms, scales and principal components, as one map."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dgmm.errors import InputError
from dgmm.types import AnyArray, BoolArray, FloatArray, PcaOf, Scale, Sendable

#: Values that are worked on at a time: they stay in the processor's cache.
VALUES = 2**17


@dataclass(frozen=True)
class Transform(Sendable):
    """A map of samples of d features to those that are fitted: ``y = (f(x) - shift) @ matrix``.

    f takes logarithms of some features and leaves the others.

    Attributes
    ----------
    features : tuple of str
        Names of the d features of the data.
    log : tuple of int
        Numbers of those whose logarithms are taken.
    shift : ndarray, shape (d,)
    matrix : ndarray, shape (d,) or (d, q)
        A vector stands for a diagonal matrix.
    scale : {"none", "standard", "robust"}
    pca : float, int or None
        What was asked for: the share of the variance that is kept, or the number of components.
    explained : tuple of float
        Share of the variance along each principal component that is kept; none where there are none.
    units : ndarray, shape (d,), or None
        Scales by which features are divided before the principal components; None where `matrix` has them.
    pca_of : {"all", "variable"}
        Whether these are of all features together, or of those of each variable, one variable after the other.
    """

    features: tuple[str, ...]
    log: tuple[int, ...]
    shift: FloatArray
    matrix: FloatArray
    scale: Scale = "none"
    pca: float | int | None = None
    explained: tuple[float, ...] = ()
    units: FloatArray | None = None
    pca_of: PcaOf = "all"

    def __post_init__(self) -> None:
        # laid out in one way, as the bits of products depend on it
        for name in ("shift", "matrix"):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=np.float64))

    @classmethod
    def logs(cls, features: tuple[str, ...], log: tuple[int, ...]) -> Transform:
        """Logarithms and nothing else."""
        return cls(features, log, np.zeros(len(features)), np.ones(len(features)))

    @property
    def n_inputs(self) -> int:
        """Number of features d of the data."""
        return len(self.shift)

    @property
    def n_outputs(self) -> int:
        """Number of features q that are fitted."""
        return self.matrix.shape[-1]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the features that are fitted."""
        if self.matrix.ndim == 1:
            return self.features
        return tuple(f"pc{i}" for i in range(self.n_outputs))

    @cached_property
    def digest(self) -> str:
        """A name for exactly this map."""
        parts = repr((self.features, self.log, self.scale, self.pca, self.pca_of)).encode()
        found = hashlib.sha256(parts)
        for array in (self.shift, self.matrix, self._units):
            found.update(f"{array.shape}".encode())
            found.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return found.hexdigest()

    @property
    def words(self) -> str:
        """What it does, in a few words."""
        names = [self.features[i] for i in self.log]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        found = [f"logarithms of {', '.join(names[:3])}{more}"] if names else []
        found += [f"{self.scale} scales"] if self.scale != "none" else []
        if self.explained:
            n = self.n_outputs
            found.append(
                f"{n} principal component{'s' * (n != 1)} of {self.n_inputs} features"
                f"{' by variable' * (self.pca_of == 'variable')} "
                f"({math.fsum(self.explained):.2%} of the variance)"
            )
        return ", ".join(found)

    @property
    def slice_rows(self) -> int:
        """Rows that are worked on at a time."""
        return max(1, VALUES // self.n_inputs)

    @property
    def buffer_bytes(self) -> int:
        """Bytes that it takes beside what it is given and what it makes."""
        return 2 * 8 * max(VALUES, self.n_inputs)

    @property
    def featurewise(self) -> bool:
        """Whether each feature is fitted by itself, so that what is missing before is all that is missing after."""
        return self.matrix.ndim == 1

    def check_incomplete(self) -> None:
        """Raise `InputError` if it takes all values of a row together."""
        if not self.featurewise:
            raise InputError(
                "principal components need all values of a sample: leave pca out, and scale and log alone, or leave "
                "samples with missing values out (missing=omit)"
            )

    def __call__(self, x: AnyArray, *, incomplete: bool = False, used: BoolArray | None = None) -> FloatArray:
        """The rows (n, d) as they are fitted, shape (n, q); what has a missing value has one there too.

        Parameters
        ----------
        x : ndarray, shape (n, d)
        incomplete : bool
            Whether rows with missing values count, too: what they have must have a logarithm then.
        used : ndarray of bool, shape (n,), optional
            Rows that count, by their weights; all by default.

        Raises
        ------
        InputError
            On a value that has no logarithm.
        """
        if x.ndim != 2 or x.shape[1] != self.n_inputs:
            raise InputError(f"expected samples of shape (n, {self.n_inputs}), not {x.shape}")
        made = np.empty((len(x), self.n_outputs))
        for start in range(0, len(x), self.slice_rows):
            some = slice(start, start + self.slice_rows)
            part = np.array(x[some], dtype=np.float64)
            self._take_logs(part, incomplete=incomplete, used=None if used is None else used[some])
            part -= self.shift
            if self.matrix.ndim == 1:
                np.multiply(part, self.matrix, out=made[some])
            else:
                np.matmul(part, self.matrix, out=made[some])
        return made

    def _take_logs(self, x: FloatArray, *, incomplete: bool, used: BoolArray | None) -> None:
        """Logarithms in place, of the features that have them; of rows that are left out, whatever else they have."""
        for i in self.log:
            column = x[:, i]
            if (bad := column <= 0).any():
                known = bad if incomplete else bad & ~np.isnan(x).any(axis=1)
                wrong = column[known if used is None else known & used]
                if len(wrong):
                    raise InputError(
                        f"feature {self.features[i]!r} is {wrong[0]:g} in a sample, which has no logarithm "
                        "(preprocess.log): mark it missing (NaN), or leave the logarithm out"
                    )
                column[bad] = np.nan
            np.log(column, out=column)

    @cached_property
    def _units(self) -> FloatArray:
        return np.ones(self.n_inputs) if self.units is None else self.units

    @cached_property
    def backward(self) -> FloatArray:
        """What maps rows that are fitted back, shape (d,) or (q, d)."""
        if self.matrix.ndim == 1:
            return 1 / self.matrix
        # columns of matrix are orthogonal once the scales are taken out
        return self.matrix.T * self._units**2

    def inverse(self, y: AnyArray) -> FloatArray:
        """Rows (n, q) that are fitted as rows (n, d) of the data, in the data's units.

        In the place of what principal components have dropped stands its mean.
        """
        back = self.backward
        x: FloatArray = (y * back if back.ndim == 1 else y @ back) + self.shift
        x[:, list(self.log)] = np.exp(x[:, list(self.log)])
        return x

    def slopes(self, x: AnyArray) -> FloatArray:
        """How rows (d,) of the data follow those that are fitted, at x: shape (q, d)."""
        back = np.diag(self.backward) if self.backward.ndim == 1 else self.backward
        slopes: FloatArray = np.array(back)
        slopes[:, list(self.log)] *= x[list(self.log)]
        return slopes
