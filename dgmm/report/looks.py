"""What all pictures have in common."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dgmm.types import FloatArray

INK, GREY = "#1f2933", "#6b7280"
#: The colour of noise.
DUST = "#4b5563"


def prepare(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    """Titles and the looks of a plot."""
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xlabel(xlabel, fontsize=10, color=INK)
    axes.set_ylabel(ylabel, fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(labelsize=9, color=GREY)
    axes.grid(color="#e5e7eb", lw=0.8)
    axes.set_axisbelow(True)


def with_unit(name: str, unit: str | None) -> str:
    """A name with its unit, if there is one."""
    return f"{name} ({unit})" if unit and unit != "1" else name


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def ellipse(covariance: FloatArray, deviations: float) -> dict[str, float]:
    """Width, height and angle of the ellipse at so many standard deviations of a covariance (2, 2)."""
    values, vectors = np.linalg.eigh(covariance)
    width, height = 2 * deviations * np.sqrt(values[::-1])
    return {"width": width, "height": height, "angle": math.degrees(math.atan2(vectors[1, 1], vectors[0, 1]))}
