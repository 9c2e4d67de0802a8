"""Pictures of how a mixture has come to be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dgmm.data import Source, open_samples
from dgmm.errors import InputError
from dgmm.mixture import Mixture
from dgmm.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Iterations that show how EM begins, and where it ends.
ITERATIONS = (0, 1, 2, 3, 6, 20)
#: Points that are drawn, and panels in a row.
POINTS, COLUMNS = 5000, 3
#: Colours of the first components; more are taken from a colour map.
COLOURS = ("#1f77a4", "#e0803a", "#3d9a50", "#c2477f", "#8262b5", "#b3a02c")
INK, GREY = "#1f2933", "#6b7280"
#: Standard deviations at which ellipses are drawn, and how opaque they are.
DEVIATIONS = {2.0: 0.10, 1.0: 0.22}


def steps(
    path: Sequence[Mixture],
    source: Source,
    *,
    at: Sequence[int] = ITERATIONS,
    features: tuple[int, int] = (0, 1),
    hard: bool = False,
) -> Figure:
    """Draw mixtures on a way, such as that of `dgmm.em_path`, over the samples: a panel for each.

    Samples have the colours of the components in the proportions of their responsibilities, components are ellipses at
    one and two standard deviations around their means.

    Parameters
    ----------
    path : sequence of Mixture
        In the data's units; the first is the start.
    source : path, URL, zarr.Array, xarray.Dataset, xarray.DataArray, dask.array.Array or ndarray
        Samples, of which 5000 are drawn where they are more.
    at : sequence of int
        Places on the way that are drawn; those beyond its end are left out.
    features : (int, int)
        Numbers of the features along the horizontal and the vertical axis.
    hard : bool
        Give every sample the colour of its most probable component.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If nothing is left to draw, the samples have other features than the mixtures, or Matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(f"pictures need {error.name}: pip install 'dgmm[report]'") from None
    shown = [i for i in at if 0 <= i < len(path)]
    if not shown:
        raise InputError(f"none of the iterations {list(at)} is among the {len(path)} of the path")
    samples = open_samples(source)
    if samples.n_features != path[0].n_features:
        raise InputError(f"{samples.name} has {samples.n_features} features, the mixtures have {path[0].n_features}")
    x, names = samples.some_rows(POINTS), samples.features
    units = dict(zip(samples.layout.variables, samples.layout.units, strict=False))
    labels = [f"{names[i]} ({units[names[i]]})" if units.get(names[i]) else names[i] for i in features]
    columns = min(COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(4.1 * columns, 3.5 * rows), layout="constrained", facecolor="white")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for panel, i in zip(panels, shown, strict=False):
        draw(panel, path[i], x, features, hard=hard)
        panel.set_title("start" if i == 0 else f"iteration {i}", loc="left", fontsize=11, color=INK)
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
    from matplotlib.patches import Ellipse

    i, j = features
    colours = component_colours(mixture.n_components)
    shares = mixture.responsibilities(x)
    if hard:
        shares = np.eye(mixture.n_components)[shares.argmax(axis=1)]
    axes.scatter(x[:, i], x[:, j], s=13, c=np.clip(shares @ colours, 0, 1), alpha=0.75, linewidths=0)
    for k, (mean, colour) in enumerate(zip(mixture.means, colours, strict=True)):
        covariance = mixture.family.covariance(mixture.components, k)[np.ix_(features, features)]
        values, vectors = np.linalg.eigh(covariance)
        angle = math.degrees(math.atan2(vectors[1, 1], vectors[0, 1]))
        for deviations, opacity in DEVIATIONS.items():
            short, long = 2 * deviations * np.sqrt(values)
            place: dict[str, Any] = {"xy": (mean[i], mean[j]), "width": long, "height": short, "angle": angle}
            axes.add_patch(Ellipse(**place, color=colour, alpha=opacity, lw=0, zorder=3))
            axes.add_patch(Ellipse(**place, color=colour, alpha=0.9, lw=1.3, fill=False, zorder=4))
        axes.plot(mean[i], mean[j], "o", ms=7, mfc=colour, mec="white", mew=1.4, zorder=5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(labelsize=9, color=GREY)
    axes.grid(color="#eceff3", lw=0.8)
    axes.set_axisbelow(True)


def component_colours(n: int) -> FloatArray:
    """Colours (n, 3) of components in their order."""
    import matplotlib

    if n <= len(COLOURS):
        return np.array([matplotlib.colors.to_rgb(colour) for colour in COLOURS[:n]])
    return np.asarray(matplotlib.colormaps["turbo"](np.linspace(0.06, 0.94, n))[:, :3])
