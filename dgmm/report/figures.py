"""Pictures of a mixture, of the candidates it won over and of the samples it labels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse, Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from dgmm.data import Names
from dgmm.families import NOISE
from dgmm.fits import CRITERION_NAMES, SOUND, STRONG, Fit, Outcome, OutcomeKind
from dgmm.mixture import Mixture
from dgmm.report.looks import DUST, GREY, INK, ellipse, new_figure, prepare, with_unit
from dgmm.report.maps import LATITUDE, LONGITUDE, axis_coordinate, draw_points, map_dims, point_coordinates, wrapped
from dgmm.types import AnyArray, Criterion, FloatArray, IntArray

#: Cells of the scores that are read at most, and of a map where that means leaving cells out.
CELLS, MAP_CELLS = 2_000_000, 300_000
#: Points of a scatter plot.
POINTS = 5000
#: More bands than this hide each other.
BANDS = 6

MISSING, GOLD = "#d4d7dc", "#ffc914"
KINDS = ("#0b6e99", "#d1495b", "#3d8b37", "#8e5ea2", "#c77d0a", "#5c5c5c")
MARKERS = {
    OutcomeKind.CONVERGED: "o",
    OutcomeKind.STOPPED: "v",
    OutcomeKind.DROPPED: "o",
    OutcomeKind.COLLAPSED: "X",
    OutcomeKind.FAILED: "x",
}
BEST: dict[str, Any] = {"ls": "", "marker": "*", "ms": 16, "mfc": GOLD, "mec": INK, "mew": 0.9, "zorder": 4}


def gaps(table: pd.DataFrame, fit: Fit, criterion: Criterion) -> pd.Series[float]:
    """By how much the criterion of every candidate is above that of the model."""
    values = table[criterion]
    return (-2 * fit.n_samples * values if criterion is Criterion.HELD_OUT else values) - fit.criterion(criterion)


def criterion_figure(
    table: pd.DataFrame, fit: Fit, criterion: Criterion = Criterion.BIC, *, figure: FigureBase | None = None
) -> FigureBase:
    """The criterion above that of the model against K: all of it, and close to the best."""
    figure = figure or new_figure(10.5, 4.1)
    table = table.assign(gap=gaps(table, fit, criterion), state=states(table)).sort_values("n_components")
    sound = table[table["state"].isin(SOUND)]
    high, kinds = max(sound["gap"].max(), STRONG), sorted(set(table["covariance_type"]))
    panels = figure.subplots(1, 2)
    prepare(panels[0], "All candidates", "number of components K", f"{CRITERION_NAMES[criterion]} above the best")
    prepare(panels[1], "Close to the best", "number of components K", "")
    panels[1].set_yscale("symlog", linthresh=STRONG, linscale=0.7)
    panels[1].axhspan(0, STRONG, color="#f6edcd", lw=0, zorder=0)
    for axes, low, top in zip(panels, (-0.05 * high, -0.3 * STRONG), (1.06 * high, 3 * high), strict=True):
        for colour, kind in zip(itertools.cycle(KINDS), kinds):
            line = sound[sound["covariance_type"] == kind]
            axes.plot(line["n_components"], line["gap"], color=colour, lw=1.4)
            for state, part in table[table["covariance_type"] == kind].groupby("state"):
                # a collapsed candidate may lie far below the best; one that failed has no criterion
                heights = part["gap"].fillna(top).clip(low, top)
                axes.plot(part["n_components"], heights, clip_on=False, **_marker(OutcomeKind(state), colour))
        axes.plot(fit.n_components, 0, clip_on=False, **BEST)
        axes.set_ylim(low, top)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    styles = [{"color": c, "lw": 2, "label": k} for c, k in zip(itertools.cycle(KINDS), kinds)]
    styles += [BEST | {"label": "the model"}]
    styles += [_marker(s, GREY) | {"label": s} for s in MARKERS if (table["state"] == s).any()]
    _legend(panels[1], [Line2D([], [], **style) for style in styles])
    return figure


def map_figure(
    scores: xr.Dataset,
    mixture: Mixture,
    *,
    names: Names = (),
    small: bool = True,
    figure: FigureBase | None = None,
) -> FigureBase:
    """Maps of the most frequent class; with ``small`` also of single positions and of the mean probability.

    Where classes have names, each has the colour of the first of its components.
    """
    label, dims = scores["label"], map_dims(scores)
    label = label.where(label != NOISE, mixture.n_components)
    per_class = mixture.n_components // len(names) if names else 1
    if dims is None:
        raise ValueError(f"no latitude and longitude among the dimensions {', '.join(map(str, label.dims))}")
    others = [d for d in label.dims if d not in dims]
    panels = {"Most frequent class" if others else "Class": most_frequent(label, dims)}
    for i in sorted({0, label.sizes[others[0]] // 2}) if others and small else ():
        part = label.isel({others[0]: i})
        panels[f"Class, {_position(part, others[0], i)}"] = most_frequent(part, dims)
    figure, n = figure or new_figure(10.5, 7.0 if small else 5.0), len(panels)
    bands: Any = figure.subfigures(2, 1, height_ratios=(0.8 * n + 0.2, 1)) if small else [figure]
    places = [axes for band, m in zip(bands, (1, n), strict=False) for axes in band.subplots(1, m, squeeze=False)[0]]
    palette = ListedColormap(label_colours(mixture))
    for i, (name, classes) in enumerate(panels.items()):
        mesh = _draw_map(places[i], name, classes.where(classes >= 0) * per_class, scores, dims, small=i > 0)
        mesh.set(cmap=palette, clim=(-0.5, palette.N - 0.5))
    _legend(places[0], [*_class_handles(mixture, names), Patch(color=MISSING, label="missing")], "class (share)")
    if small:
        mean = scores["probability"].mean(others, skipna=True)
        mesh = _draw_map(places[n], "Mean highest probability", mean, scores, dims, small=True)
        mesh.set(cmap="cividis", clim=(0.5, 1))
        bands[1].colorbar(mesh, ax=places[n], extend="min", shrink=0.7, aspect=14).ax.tick_params(labelsize=8)
    return figure


def profile_figure(
    mixture: Mixture, axes: Sequence[xr.DataArray], *, spread: bool = True, figure: FigureBase | None = None
) -> FigureBase:
    """Means, and with ``spread`` standard deviations, of the components along coordinates: a row for each."""
    figure = figure or new_figure(10.5, 0.6 + 4.6 * len(axes))
    rows = figure.subplots(len(axes), 2 if spread else 1, sharey="row", squeeze=False)
    for i, (panels, features) in enumerate(zip(rows, axes, strict=True)):
        _draw_profiles(panels, mixture, features)
        if spread and i == 0:
            _legend(panels[1], _class_handles(mixture), "class (share)")
    return figure


def _draw_profiles(panels: Sequence[Axes], mixture: Mixture, features: xr.DataArray) -> None:
    """Means, and standard deviations where there is a second panel, along one coordinate."""
    at, attrs, colours = features.to_numpy(), features.attrs, class_colours(mixture)
    here = attrs.get("features", slice(None))
    means, sd = mixture.physical_means[:, here], deviations(mixture)[:, here]
    name, unit = attrs.get("value_name", "value"), attrs.get("value_units")
    along = with_unit(str(attrs.get("long_name", features.name)), attrs.get("units"))
    prepare(panels[0], "Mean of each class", with_unit(name, unit), along)
    for k, mean in enumerate(means):
        panels[0].plot(mean, at, color=colours[k], lw=1.8)
        if mixture.n_components <= BANDS:
            panels[0].fill_betweenx(at, mean - sd[k], mean + sd[k], color=colours[k], alpha=0.15, lw=0)
    panels[0].set_ylim(*(at.max(), at.min()) if attrs.get("positive") == "down" else (at.min(), at.max()))
    if len(panels) > 1:
        prepare(panels[1], "Standard deviation within each class", with_unit(f"sd of {name}", unit), "")
        for k in range(len(means)):
            panels[1].plot(sd[k], at, color=colours[k], lw=1.8)
        panels[1].set_xlim(left=0)


def sample_figure(
    mixture: Mixture, sample: FloatArray, names: Sequence[str], *, figure: FigureBase | None = None
) -> FigureBase:
    """Rows by class: a histogram of one feature, a scatter plot of two or of the principal components of many."""
    figure = figure or new_figure(9, 5.4)
    axes, colours, d = figure.subplots(), label_colours(mixture), mixture.n_inputs
    if d == 1 and mixture.transform is not None:  # of which the density is
        sample, mixture = mixture.transform(sample), replace(mixture, transform=None)
        names = [f"{names[0]}, as it was fitted"]
    _legend(axes, _class_handles(mixture), "class (share)")
    if d == 1:
        prepare(axes, "", names[0], "density")
        x, bins = np.linspace(sample.min(), sample.max(), 500), min(100, 10 + math.isqrt(len(sample)))
        edges: Any = bins
        if mixture.family.whole:
            x = np.arange(sample.min(), sample.max() + 1)
            edges = np.append(x, x[-1] + 1) - 0.5
        axes.hist(sample[:, 0], bins=edges, density=True, color=MISSING)
        parts = mixture.responsibilities(x[:, None]) * np.exp(mixture.log_density(x[:, None]))[:, None]
        axes.plot(x, parts.sum(axis=1), color=INK, lw=1.6)
        for part, colour in zip(parts.T, colours, strict=True):
            axes.fill_between(x, part, color=colour, alpha=0.45, lw=0)
        return figure
    x = sample[:: math.ceil(len(sample) / POINTS)]
    onto, origin, titles = np.eye(d)[:2], np.zeros(d), list(names[:2])
    if d > 3:
        origin, scale = sample.mean(axis=0), sample.std(axis=0)
        scale[scale == 0] = 1
        values, vectors = np.linalg.eigh(np.cov(((sample - origin) / scale).T))
        onto = vectors[:, :-3:-1].T / scale
        titles = [f"principal component {i + 1} ({values[-1 - i] / values.sum():.0%} of variance)" for i in (0, 1)]
    prepare(axes, "", *titles)
    labels = mixture.responsibilities(x).argmax(axis=1)
    u, v = onto @ (x - origin).T
    axes.scatter(u, v, s=8 if len(x) > 1000 else 20, color=colours[labels], alpha=0.6, lw=0)
    for k, centre in enumerate((mixture.physical_means - origin) @ onto.T):
        covariance = onto @ mixture.physical_covariance(k) @ onto.T
        if not mixture.family.elliptical:
            reach = np.sqrt(np.diagonal(covariance))
            axes.errorbar(centre[0], centre[1], xerr=reach[0], yerr=reach[1], color=INK, lw=1.4)
        for sigma in (1, 2) if mixture.family.elliptical else ():
            axes.add_patch(Ellipse(centre, **ellipse(covariance, sigma), fill=False, ec=INK, lw=1.8 / sigma))
        badge = {"boxstyle": "circle,pad=0.25", "fc": "white", "ec": colours[k]}
        axes.annotate(str(k), centre, ha="center", va="center", fontsize=9, weight="bold", bbox=badge)
    return figure


def means_figure(mixture: Mixture, names: Sequence[str]) -> FigureBase:
    """Means of the components as a heat map, in standard deviations from the mean of the mixture."""
    shares = mixture.weights / mixture.weights.sum()
    means = mixture.physical_means
    centre = shares @ means
    total = shares @ (deviations(mixture) ** 2 + (means - centre) ** 2)
    z = (means - centre) / np.sqrt(np.where(total > 0, total, 1))
    n, d = z.shape
    figure = new_figure(10.5, min(2.4 + 0.26 * n, 12))
    axes, limit = figure.subplots(), max(1.0, float(np.quantile(np.abs(z), 0.98)))
    mesh = axes.imshow(z, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(n), [f"class {k}" for k in range(n)], fontsize=9)
    ticks = np.unique(np.linspace(0, d - 1, 24).astype(int))
    axes.set_xticks(ticks, [names[i] for i in ticks], rotation=45, ha="right", rotation_mode="anchor", fontsize=9)
    figure.colorbar(mesh, ax=axes, label="sd from the mean", pad=0.01)
    return figure


def convergence_figure(fit: Fit) -> FigureBase:
    """Log-likelihood still to be gained in each pass, the estimated remaining gain included."""
    figure = new_figure(10.5, 3.4)
    axes, values = figure.subplots(), np.array(fit.trajectory)
    still = fit.remaining_gain * fit.n_samples if np.isfinite(fit.remaining_gain) else 0.0
    # with a prior these are no log-likelihoods
    top = values.max() if fit.prior != "none" else max(fit.log_likelihood, values.max())
    gap = top + still - values
    gap[gap <= 0] = np.nan
    passes, best = np.arange(1, len(gap) + 1), np.fmin.accumulate(gap)
    kept = gap <= best
    prepare(axes, "", "pass over all the data", "log-likelihood to go (nats)")
    axes.plot(passes, best, "-", color=KINDS[0], lw=1.6, label="best so far")
    axes.plot(passes[kept], gap[kept], "o", color=KINDS[0], ms=4.5)
    if (rejected := ~kept & ~np.isnan(gap)).any():
        axes.plot(passes[rejected], gap[rejected], "o", color=GREY, mfc="white", ms=4.5, label="tried and rejected")
    axes.axhline(fit.n_parameters / 2, color=GREY, lw=1, ls="--", label="p/2, what the data leave undecided")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(LogLocator(numticks=8))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.12g}"))
    axes.legend(frameon=False, fontsize=9)
    return figure


def most_frequent(label: xr.DataArray, keep: Sequence[Hashable]) -> xr.DataArray:
    """Most frequent class over all other dimensions, the lower number in a tie; -1 where all are missing."""
    shape = [label.sizes[d] for d in keep]
    cells = label.transpose(*keep, ...).to_numpy().reshape(*shape, -1)
    mode, most = np.full(shape, -1), np.zeros(shape, int)
    for k in range(cells.max(initial=-1) + 1):
        count = (cells == k).sum(axis=-1)
        mode[count > most] = k
        most = np.maximum(most, count)
    return xr.DataArray(mode, dims=keep)


def strides(label: xr.DataArray, keep: Sequence[Hashable]) -> dict[Hashable, int]:
    """Step along each dimension that leaves at most `CELLS` cells; a map (``keep``) is thinned to `MAP_CELLS` first."""
    steps = dict.fromkeys(label.dims, 1)
    left = dict(label.sizes)
    while math.prod(left.values()) > CELLS:
        of_map = bool(keep) and math.prod(left[d] for d in keep) > MAP_CELLS
        longest = max((d for d in left if (d in keep) == of_map), key=lambda d: left[d])
        steps[longest] *= 2
        left[longest] = math.ceil(label.sizes[longest] / steps[longest])
    return steps


def class_colours(mixture: Mixture) -> FloatArray:
    """Colours (K, 4) from blue to red by the mean of the first feature."""
    colours = np.empty((mixture.n_components, 4))
    shades = np.linspace(0.06, 0.94, mixture.n_components)
    colours[_colour_order(mixture)] = matplotlib.colormaps["turbo"](shades)
    return colours


def label_colours(mixture: Mixture) -> FloatArray:
    """Those and that of noise, if there is any, in the order of probabilities."""
    noise = [] if mixture.noise is None else [to_rgba(DUST)]
    return np.vstack([class_colours(mixture), *noise])


def _colour_order(mixture: Mixture) -> IntArray:
    return np.argsort(mixture.physical_means[:, 0], kind="stable")


def _class_handles(mixture: Mixture, names: Names = ()) -> list[Patch]:
    colours, shares = class_colours(mixture), mixture.weights
    if names:
        m = mixture.n_components // len(names)
        parts = [(name, colours[m * i], shares[m * i : m * i + m].sum()) for i, name in enumerate(names)]
        return [Patch(color=colour, label=f"{name}  ({share:.1%})") for name, colour, share in parts]
    noise = [] if mixture.noise is None else [Patch(color=DUST, label=f"noise  ({mixture.noise.weight:.1%})")]
    return [*(Patch(color=colours[k], label=f"{k}  ({shares[k]:.1%})") for k in _colour_order(mixture)), *noise]


def _marker(state: OutcomeKind, colour: str) -> dict[str, Any]:
    face = "white" if state is OutcomeKind.DROPPED else colour
    return {"ls": "", "marker": MARKERS[state], "color": colour, "mfc": face, "ms": 6, "zorder": 3}


def _legend(axes: Axes, handles: Sequence[Artist], title: str | None = None) -> None:
    axes.legend(
        handles=handles, title=title, frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1.02),
        ncols=math.ceil(len(handles) / 18), handlelength=1.3, borderaxespad=0.2,
    )  # fmt: skip


def deviations(mixture: Mixture) -> FloatArray:
    """Standard deviations in the data's units, (K, d)."""
    return np.sqrt(mixture.physical_variances)


def states(table: pd.DataFrame) -> pd.Series[str]:
    """The kind of each outcome: a key of `MARKERS`."""
    return table["state"].map(lambda state: Outcome.parse(state).kind)


def _position(part: xr.DataArray, dim: Hashable, index: int) -> str:
    if dim not in part.coords:
        return f"{dim} index {index}"
    value = part[dim].values
    return f"{dim} {str(value)[:10] if value.dtype.kind == 'M' else value}"


def _draw_map(
    axes: Axes, title: str, values: xr.DataArray, scores: xr.Dataset, dims: Sequence[Hashable], *, small: bool
) -> QuadMesh | PathCollection:
    """One map, north up and longitudes from -180 to 180; the caller sets the colours."""
    at = point_coordinates(scores)
    points = at is not None and {*scores[at[0]].dims} == {*dims}
    mesh = draw_points(axes, values, scores, at, MISSING) if at and points else _draw_cells(axes, values, scores, dims)
    degrees = points or axis_coordinate(scores, dims[1], LONGITUDE) is not None
    axes.set_title(title, loc="left", fontsize=9 if small else 11, color=INK)
    axes.tick_params(labelsize=8, length=2, labelbottom=not small, labelleft=not small)
    axes.spines[:].set_color(GREY)
    if 0.1 < np.ptp(axes.get_ylim()) / np.ptp(axes.get_xlim()) < 10:
        axes.set_aspect("equal")
    for axis, letters in ((axes.xaxis, "WE"), (axes.yaxis, "SN")) if degrees else ():
        axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 3, 6, 10]))
        axis.set_major_formatter(FuncFormatter(partial(_degree_text, letters)))
    return mesh


def _draw_cells(axes: Axes, values: xr.DataArray, scores: xr.Dataset, dims: Sequence[Hashable]) -> QuadMesh:
    """The cells of a grid."""
    cells: AnyArray = np.ma.masked_invalid(values.transpose(*dims).to_numpy())
    latitude, longitude = axis_coordinate(scores, dims[0], LATITUDE), axis_coordinate(scores, dims[1], LONGITUDE)
    names = [dim if found is None else found for dim, found in zip(dims, (latitude, longitude), strict=True)]
    at = [
        scores[c].to_numpy() if c in scores.coords else np.arange(values.sizes[d])
        for c, d in zip(names, dims, strict=True)
    ]
    y, x = (a if a.dtype.kind in "fiu" else np.arange(len(a)) for a in at)
    if longitude is not None:
        x = wrapped(x.astype(float))
        x, cells = np.sort(x), cells[:, np.argsort(x)]
    axes.set_facecolor(MISSING)
    return axes.pcolormesh(x, y, cells, shading="nearest", rasterized=True)


def _degree_text(letters: str, value: float, _: int) -> str:
    return f"{abs(value):g}°{letters[int(value > 0)] if value else ''}"


def main_figure(
    fit: Fit,
    table: pd.DataFrame | None,
    view: xr.Dataset | None,
    along: Sequence[xr.DataArray],
    rows: FloatArray | None,
    criterion: Criterion = Criterion.BIC,
) -> Figure:
    """The main pictures: where and what the classes are, and below them the screening."""
    top: list[Callable[..., FigureBase]] = []
    if view is not None:
        top.append(partial(map_figure, view, fit.mixture, names=fit.classes, small=False))
    if along:
        top.append(partial(profile_figure, fit.mixture, along, spread=not top))
    elif rows is not None:
        top.append(partial(sample_figure, fit.mixture, rows, fit.features))
    below: list[Callable[..., FigureBase]] = [] if table is None else [partial(criterion_figure, table, fit, criterion)]
    bands = [band for band in (top, below) if band]
    figure = new_figure(13, 4.6 * max(len(bands), 1))
    for i, band in enumerate(bands):
        part = figure.add_subfigure(figure.add_gridspec(len(bands), 1)[i])
        grid = part.add_gridspec(1, len(band), width_ratios=(2.3, 1)[: len(band)])
        for j, draw in enumerate(band):
            draw(figure=part.add_subfigure(grid[j]))
    return figure
