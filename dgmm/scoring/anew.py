"""Regions scored anew and compared with what was written: labels are a function of the model and the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from dgmm.engine import Leaf
from dgmm.errors import ReadError
from dgmm.families import NOISE
from dgmm.rows import Rows
from dgmm.scoring.regions import Finding, Written
from dgmm.scoring.segments import ScoreSegment
from dgmm.types import AnyArray

#: What other libraries and processors may make of a probability, and of a log density, relative and absolute.
NEAR, NEAR_DENSITY = 2e-6, 1e-9


@dataclass(frozen=True)
class Compared:
    """What a comparison has found, and how many regions are the same but for rounding."""

    findings: tuple[Finding, ...]
    n_rounded: int

    def merge(self, other: Compared) -> Compared:
        """Of both."""
        return Compared(self.findings + other.findings, self.n_rounded + other.n_rounded)


@dataclass(frozen=True)
class CompareSegment(Leaf[Compared]):
    """The leaf that scores a segment again and looks at what was written of it.

    Attributes
    ----------
    scoring : ScoreSegment
        With the probabilities of all components, whether they were written or not.
    written : Written
    """

    exact: ClassVar[bool] = True
    computed_by: ClassVar[tuple[str, ...]] = ("scoring",)

    scoring: ScoreSegment
    written: Written

    def __call__(self, segment: int, rows: Rows) -> Compared:
        """Compare one segment, all its rows given."""
        anew, _ = self.scoring.score(rows.x)
        if not len(rows):  # where it is only tried
            return Compared((), 0)
        stored, findings = {}, []
        for name, array in self.written.open().items():
            try:
                stored[name] = self.written.read(array, segment).reshape(len(rows), *anew[name].shape[1:])
            except ReadError as error:
                findings.append(Finding(str(error), name, segment, self.written.path(name, segment)))
        for name, n in departures(stored, anew, noisy=any(self.scoring.plan.noisy)).items():
            words = f"is not what the model says of the source, in {n} of {len(rows)} rows"
            findings.append(Finding(words, name, segment, self.written.path(name, segment)))
        same = all(values.tobytes() == anew[name].tobytes() for name, values in stored.items())
        return Compared(tuple(findings), int(not same and not findings))

    def working_bytes(self, n_rows: int) -> int:
        """What scoring takes, and twice the scores."""
        return self.scoring.working_bytes(n_rows) + n_rows * (64 + 8 * self.scoring.plan.n_labels)

    def result_bytes(self, n_rows: int) -> int:
        """Little, as long as little is wrong."""
        return 1024


def departures(stored: dict[str, AnyArray], anew: dict[str, AnyArray], *, noisy: bool = False) -> dict[str, int]:
    """In how many rows each array is not what it should be, but for rounding; those in which there are some."""
    label, every = anew["label"], anew["probabilities"].astype(float)
    present = label != -1
    highest = np.where(present, every.max(axis=1, initial=0.0, where=~np.isnan(every)), np.nan)
    off: dict[str, Any] = {}
    for name, values in stored.items():
        if name == "label":
            if noisy:  # which has the last column, and no number of a component
                last = every.shape[1] - 1
                values = np.where(values == NOISE, last, np.where(values == last, -1, values))
            known = (values >= 0) & (values < every.shape[1])
            given = np.take_along_axis(every, np.where(known, values, 0).astype(int)[:, None], axis=1)[:, 0]
            # of components that are as probable as each other, either
            off[name] = np.where(present, ~known | ~(given >= highest - NEAR), values != label)
        elif name == "log_density":
            same = np.isclose(values, anew[name], rtol=NEAR_DENSITY, atol=NEAR_DENSITY, equal_nan=True)
            off[name] = ~same
        else:
            same = np.isclose(values, anew[name], rtol=0, atol=NEAR, equal_nan=True)
            off[name] = ~same.reshape(len(same), -1).all(axis=1)
    return {name: int(rows.sum()) for name, rows in off.items() if rows.any()}
