"""Pictures of how a mixture has come to be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from dgmm.mixture import Mixture
from dgmm.report.looks import DUST, INK, ellipse, new_figure, prepare
from dgmm.types import FloatArray

#: Panels in a row.
COLUMNS = 3
#: Colours of the first components; more are taken from a colour map.
COLOURS = ("#1f77a4", "#e0803a", "#3d9a50", "#c2477f", "#8262b5", "#b3a02c")
#: Standard deviations at which ellipses are drawn, and how opaque they are.
DEVIATIONS = {2.0: 0.10, 1.0: 0.22}


def steps_figure(
    path: Sequence[Mixture],
    shown: Sequence[int],
    x: FloatArray,
    features: tuple[int, int],
    labels: Sequence[str],
    *,
    hard: bool,
) -> Figure:
    """A panel for each of the mixtures of a path that are shown, over samples (n, d); see `dgmm.plot.steps`."""
    columns = min(COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = new_figure(4.1 * columns, 3.5 * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for panel, i in zip(panels, shown, strict=False):
        draw(panel, path[i], x, features, hard=hard)
        prepare(panel, "start" if i == 0 else f"iteration {i}", "", "")
    for panel in panels[len(shown) :]:
        panel.set_visible(False)
    lowest, highest = x[:, list(features)].min(axis=0), x[:, list(features)].max(axis=0)
    margin = 0.08 * (highest - lowest) + 1e-12
    panels[0].set_xlim(lowest[0] - margin[0], highest[0] + margin[0])
    panels[0].set_ylim(lowest[1] - margin[1], highest[1] + margin[1])
    figure.supxlabel(labels[0], fontsize=10, color=INK)
    figure.supylabel(labels[1], fontsize=10, color=INK)
    return figure


def draw(axes: Axes, mixture: Mixture, x: FloatArray, features: tuple[int, int], *, hard: bool) -> None:
    """Samples (n, d) in the colours of the components of a mixture, and these as ellipses."""
    i, j = features
    colours = component_colours(mixture.n_components)
    shares = mixture.responsibilities(x)
    if hard:
        shares = np.eye(shares.shape[1])[shares.argmax(axis=1)]
    if mixture.noise is not None:
        colours = np.vstack([colours, matplotlib.colors.to_rgb(DUST)])
    axes.scatter(x[:, i], x[:, j], s=13, c=np.clip(shares @ colours, 0, 1), alpha=0.75, linewidths=0)
    for k, (mean, colour) in enumerate(zip(mixture.means, colours, strict=False)):
        covariance = mixture.family.covariance(mixture.components, k)[np.ix_(features, features)]
        for deviations, opacity in DEVIATIONS.items():
            place: dict[str, Any] = {"xy": (mean[i], mean[j]), **ellipse(covariance, deviations)}
            axes.add_patch(Ellipse(**place, color=colour, alpha=opacity, lw=0, zorder=3))
            axes.add_patch(Ellipse(**place, color=colour, alpha=0.9, lw=1.3, fill=False, zorder=4))
        axes.plot(mean[i], mean[j], "o", ms=7, mfc=colour, mec="white", mew=1.4, zorder=5)


def component_colours(n: int) -> FloatArray:
    """Colours (n, 3) of components in their order."""
    if n <= len(COLOURS):
        return np.array([matplotlib.colors.to_rgb(colour) for colour in COLOURS[:n]])
    return np.asarray(matplotlib.colormaps["turbo"](np.linspace(0.06, 0.94, n))[:, :3])
