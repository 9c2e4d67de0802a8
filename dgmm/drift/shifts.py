"""By how much what data look like now differs from what they looked like, measured by how much blocks differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgmm.drift.baseline import Baseline, Figures
from dgmm.errors import InputError
from dgmm.types import FloatArray

#: Places that are named, of those where most has moved.
NAMED = 5
#: A part of the grid has moved beyond so many times the threshold: of many parts with many figures some are far off.
PARTS = 2.0


@dataclass(frozen=True)
class Shift:
    """What has moved.

    Attributes
    ----------
    what : str
        ``missing``, ``unlikely``, ``mean log density``, ``class 3`` or ``noise``.
    before, now : float
        Shares, or nats.
    effect : float
        The difference in standard deviations between blocks of the training data.
    where : str
        Part of the grid; empty for all of it.
    """

    what: str
    before: float
    now: float
    effect: float
    where: str = ""

    def __str__(self) -> str:
        form = ".4f" if self.what == "mean log density" else ".3%"
        place = f" in {self.where}" if self.where else ""
        values = f"{self.before:{form}} before, {self.now:{form}} now{place}"
        return f"{self.what}: {values} ({self.effect:+.1f} block deviations)"


@dataclass(frozen=True)
class Drift:
    """What has come of a comparison.

    Attributes
    ----------
    threshold : float
        Standard deviations between blocks.
    shifts : tuple of Shift
        Of all figures of all the data, the largest first.
    places : tuple of Shift
        Parts of the grid where a figure has moved by more than `PARTS` times the threshold, the largest first.
    n_places : int
        How many parts those are, and
    n_parts : int
        of how many.
    """

    threshold: float
    shifts: tuple[Shift, ...]
    places: tuple[Shift, ...]
    n_places: int
    n_parts: int

    @property
    def found(self) -> tuple[Shift, ...]:
        """What has moved by more than the threshold."""
        return tuple(shift for shift in self.shifts if abs(shift.effect) > self.threshold)

    @property
    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "drifted": bool(self.found),
            "threshold": self.threshold,
            "shifts": [vars(shift) for shift in self.shifts],
            "places": [vars(shift) for shift in self.places],
            "parts_moved": self.n_places,
            "parts": self.n_parts,
        }

    def __str__(self) -> str:
        found = self.found
        said = (
            f"{len(found)} of {len(self.shifts)} figures have moved by more than {self.threshold:g} block deviations"
            if found
            else f"no figure has moved by more than {self.threshold:g} block deviations"
        )
        lines = [said, *map(str, found or self.shifts[:3])]
        if self.n_places:
            lines.append(f"{self.n_places} of {self.n_parts} parts of the grid have, by twice that; most:")
            lines += map(str, self.places)
        return "\n".join(lines)


def compare(
    baseline: Baseline, now: Figures, threshold: float, where: Callable[[int], str], *, noisy: bool = False
) -> Drift:
    """Data now with those that a model was fitted to.

    Parameters
    ----------
    baseline : Baseline
    now : Figures
        Of every segment of the data, by `census_of` with the bound of the baseline.
    threshold : float
        Standard deviations between blocks of the training data beyond which something has moved.
    where : callable
        Says which part of the grid a segment is.
    noisy : bool
        Whether the last of the classes is noise.

    Raises
    ------
    InputError
        If there is nothing to compare.
    """
    if not now.rows.sum():
        raise InputError("all of its samples have missing values: there is nothing to compare")
    before = baseline.figures.total.shares[:, 0]
    scale = spread(baseline.figures, baseline.deviation)
    overall = now.total.shares[:, 0]
    # what has fewer rows than the blocks of then is further off by chance
    few, fewer = (by_chance(baseline.figures.rows.mean(), rows) for rows in (now.rows.sum(), now.rows))
    names = [*baseline.figures.names[:-1], "noise"] if noisy else baseline.figures.names
    columns = (before.tolist(), overall.tolist(), ((overall - before) / (scale * few)).tolist())
    shifts = [Shift(*figures) for figures in zip(names, *columns, strict=True)]
    shares = now.shares
    effects = np.nan_to_num((shares - before[:, None]) / (scale[:, None] * fewer))
    most = np.abs(effects).max(axis=0)
    moved = np.flatnonzero(most > PARTS * threshold)

    def places() -> Iterator[Shift]:
        for part in sorted(moved.tolist(), key=lambda part: -most[part])[:NAMED]:
            i = int(np.abs(effects[:, part]).argmax())
            yield Shift(names[i], float(before[i]), float(shares[i, part]), float(effects[i, part]), where(part))

    ranked = sorted(shifts, key=lambda shift: -abs(shift.effect))
    return Drift(threshold, tuple(ranked), tuple(places()), len(moved), int(np.count_nonzero(now.rows + now.missing)))


def by_chance(block: float, rows: FloatArray) -> FloatArray:
    """How many times further off than a block of so many rows that of others is by chance; never less than once."""
    return np.maximum(1.0, np.sqrt(block / np.maximum(rows, 1.0)))


def spread(figures: Figures, deviation: float = 0.0) -> FloatArray:
    """Standard deviation between blocks of each figure, by their rows.

    At least what chance makes of rows by themselves, for blocks may be few, and what one row in a block makes.

    Parameters
    ----------
    figures : Figures
    deviation : float
        Of the log density of a row.
    """
    shares, rows = figures.shares, figures.rows
    known = rows > 0
    weights, values = rows[known] / rows.sum(), shares[:, known]
    mean = values @ weights
    deviations = np.sqrt(((values - mean[:, None]) ** 2) @ weights)
    block = max(rows[known].mean(), 1.0)
    chance = mean * (1 - mean)
    chance[figures.names.index("mean log density")] = deviation**2
    return np.maximum(np.maximum(deviations, np.sqrt(np.maximum(chance, 0.0) / block)), 1 / block)
