"""What the data that a model was fitted to look like through it, block by block."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dgmm.blas import one_blas_thread
from dgmm.data import Samples
from dgmm.engine import Fold, Workers
from dgmm.errors import InputError
from dgmm.fits import Training
from dgmm.mixture import Mixture
from dgmm.passes import Census, CensusSegment, filled_in, profile_of
from dgmm.store import digest
from dgmm.types import FloatArray

FORMAT = "dgmm-baseline-1"
#: Segments are put together to so many blocks at most.
MOST_BLOCKS = 256
#: What is less likely than this share of the training data is unlikely.
UNLIKELY = 0.01


@dataclass(frozen=True)
class Baseline:
    """What training data look like through a model.

    Attributes
    ----------
    model : str
        Digest of the mixture.
    bound : float
        Log density, in nats, below which lies one in a hundred of the training data.
    figures : Figures
        Of blocks of neighbouring segments; with samples of which values are missing, completed by draws, where it says
        how many these are.
    deviation : float
        Standard deviation of the log density of a row, in nats; zero where that was not kept.
    """

    model: str
    bound: float
    figures: Figures
    deviation: float = 0.0

    @property
    def to_json(self) -> str:
        """As it is stored."""
        figures = {name: values.tolist() for name, values in vars(self.figures).items() if values is not None}
        known = {"model": self.model, "bound": self.bound, "deviation": self.deviation}
        return json.dumps({"format": FORMAT, **known, **figures}) + "\n"

    @classmethod
    def from_json(cls, content: bytes, name: str) -> Baseline:
        """Inverse of `to_json`; raises `InputError` if it is none."""
        try:
            found = Stored.model_validate(json.loads(content))
            more = None if found.incomplete is None else np.array(found.incomplete)
            figures = replace(Figures(*(np.array(getattr(found, field)) for field in FIELDS)), incomplete=more)
            n, k = len(found.rows), figures.classes.shape[-1]
            shapes = {(n, k) if field == "classes" else (n,) for field in FIELDS}
            if n == 0 or {getattr(figures, field).shape for field in FIELDS} != shapes or figures.classes.ndim != 2:
                raise ValueError("its figures are not of the same blocks")
            if more is not None and (len(more) != n or (more > figures.rows).any() or more.min() < 0):
                raise ValueError("its incomplete samples are not some of its samples")
            if not 0 < figures.rows.sum() < np.inf or min(getattr(figures, f).min() for f in FIELDS[:-1]) < 0:
                raise ValueError("its figures are not counts")
        except (ValueError, RecursionError, ValidationError) as error:
            raise InputError(f"{name} is damaged: {' '.join(str(error).split())[:200]}") from None
        return cls(found.model, found.bound, figures, found.deviation)

    @property
    def completed(self) -> bool:
        """Whether samples of which values are missing are among its figures."""
        return self.figures.incomplete is not None


#: The figures of a block, as they are stored.
FIELDS = ("rows", "missing", "unlikely", "classes", "log_density")


@dataclass(frozen=True)
class Figures:
    """Of blocks.

    Attributes
    ----------
    rows, missing, unlikely : ndarray, shape (blocks,)
        Complete rows; those with a missing value; those that are unlikely.
    classes : ndarray, shape (blocks, K)
        Complete rows of each class.
    log_density : ndarray, shape (blocks,)
        Sums.
    incomplete : ndarray, shape (blocks,), or None
        Rows of which some values are missing, which are complete by draws and counted as such, so that rows without
        any value are the missing ones; None where no rows were completed.
    """

    rows: FloatArray
    missing: FloatArray
    unlikely: FloatArray
    classes: FloatArray
    log_density: FloatArray
    incomplete: FloatArray | None = None

    @classmethod
    def of(cls, census: Census, *, completed: bool = False) -> Figures:
        """Of every segment."""
        counts, more = census.counts.astype(float), census.incomplete.astype(float) if completed else None
        missing, unlikely = census.missing.astype(float), census.unlikely.astype(float)
        return cls(counts.sum(axis=1), missing, unlikely, counts, census.log_density, more)

    def blocks(self, most: int = MOST_BLOCKS) -> Figures:
        """Of so many runs of neighbouring segments at most."""
        starts = np.arange(0, len(self.rows), -(-len(self.rows) // most))
        return self._each(lambda values: np.add.reduceat(values, starts, axis=0))

    def _each(self, change: Callable[[FloatArray], FloatArray]) -> Figures:
        more = None if self.incomplete is None else change(self.incomplete)
        return replace(Figures(*(change(getattr(self, name)) for name in FIELDS)), incomplete=more)

    @property
    def names(self) -> list[str]:
        """Of what `shares` gives."""
        classes, more = (
            (f"class {k}" for k in range(self.classes.shape[1])),
            ["incomplete"] * (self.incomplete is not None),
        )
        return ["missing", *more, "unlikely", "mean log density", *classes]

    @property
    def shares(self) -> FloatArray:
        """Of each block: shares of rows missing, of the others unlikely and of each class, shape (3 + K, blocks).

        And the mean log density, and the share of those that were incomplete; NaN where there are no complete rows.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            missing = self.missing / (self.rows + self.missing)
            more = [] if self.incomplete is None else [self.incomplete / self.rows]
            each = [self.unlikely / self.rows, self.log_density / self.rows, *(self.classes.T / self.rows)]
        return np.array([missing, *more, *each])

    @property
    def total(self) -> Figures:
        """Of all blocks together, as one."""
        return self._each(lambda values: values.sum(axis=0, keepdims=True))


class Stored(BaseModel):
    """A baseline as JSON."""

    model_config = ConfigDict(strict=False, extra="ignore", allow_inf_nan=False)

    model: str
    bound: float
    deviation: float = Field(0.0, ge=0)
    rows: list[float] = Field(max_length=MOST_BLOCKS)
    missing: list[float]
    unlikely: list[float]
    classes: list[list[float]]
    log_density: list[float]
    incomplete: list[float] | None = None


def census_of(
    samples: Samples, mixture: Mixture, bound: float, workers: Workers, *, completed: bool = False
) -> Figures:
    """What samples look like through a mixture, segment by segment: one read of the data.

    Those of which values are missing are left out, or `completed` by draws given what they have.
    """
    with one_blas_thread:
        plan = mixture.density_plan(marginal=completed)
        leaf = CensusSegment(samples.name, samples.features, samples.grid, plan, bound)
        return Figures.of(Fold(samples, workers, keep=False)(leaf), completed=completed)


def baseline_of(
    samples: Samples,
    mixture: Mixture,
    workers: Workers,
    options: Training | None = None,
    *,
    completed: bool = False,
) -> Baseline:
    """The baseline of a mixture and the data that it was fitted to: two reads, one of which draws a sample.

    Parameters
    ----------
    samples : Samples
    mixture : Mixture
    workers : Workers
    options : Training, optional
        Of the sample of rows in which one in a hundred is unlikely.
    completed : bool
        As for `census_of`: where the mixture was fitted to such samples, too.
    """
    with one_blas_thread:
        # what is fitted is what is counted
        options = (options or Training()).model_copy(update={"missing": "marginalise" if completed else "omit"})
        profile: Any = profile_of(Fold(samples, workers), samples, options)
        x = profile.sample.rows.x
        if completed:
            numbers = np.arange(len(x), dtype=np.uint64)
            x = filled_in(x, mixture.density_plan(marginal=True), numbers)
        density = mixture.log_density(x)
        bound, deviation = float(np.quantile(density, UNLIKELY)), float(np.std(density))
    figures = census_of(samples, mixture, bound, workers, completed=completed)
    return Baseline(digest(mixture), bound, figures.blocks(), deviation)
