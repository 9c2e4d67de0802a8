"""Pictures from Python, for which the report's library is loaded when one is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Unpack

from dgmm.config import Train
from dgmm.data import Source, number_of, open_samples
from dgmm.errors import InputError
from dgmm.keywords import DataOptions, check_only, takes
from dgmm.mixture import Mixture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Iterations that show how EM begins, and where it ends.
ITERATIONS = (0, 1, 2, 3, 6, 20)
#: Points that are drawn.
POINTS = 5000


@takes(DataOptions, Train)
def steps(
    path: Sequence[Mixture],
    source: Source,
    *,
    at: Sequence[int] = ITERATIONS,
    features: tuple[int | str, int | str] = (0, 1),
    hard: bool = False,
    **options: Unpack[DataOptions],
) -> Figure:
    """Draw mixtures on a way, that of `dgmm.em_path` or of a fit, over the samples: a panel for each.

    Samples have the colours of the components in the proportions of their responsibilities, components are ellipses at
    one and two standard deviations around their means.

    Parameters
    ----------
    path : sequence of Mixture
        In the data's units; the first is the start. ``fit.path`` is that of a fit with ``keep_path``.
    source : path, URL, zarr.Array, xarray object, dask.array.Array, ndarray or DataFrame
        Samples, of which 5000 are drawn where they are more.
    at : sequence of int
        Places on the way that are drawn; those beyond its end are left out.
    features : (int or str, int or str)
        Numbers or names of the features along the horizontal and the vertical axis; of what is drawn.
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
        from dgmm.report import steps_figure, with_unit
    except ImportError as error:
        raise InputError(f"pictures need {error.name}: pip install 'dgmm[report]'") from None
    shown = [i for i in at if 0 <= i < len(path)]
    if not shown:
        raise InputError(f"none of the iterations {list(at)} is among the {len(path)} of the path")
    check_only(options, DataOptions)
    samples = open_samples(source, **options)
    if samples.n_features != path[0].n_inputs:
        raise InputError(f"{samples.name} has {samples.n_features} features, the mixtures have {path[0].n_inputs}")
    x, names, transform = samples.some_rows(POINTS), samples.features, path[0].transform
    if not len(x):
        raise InputError(f"no complete row among those of {samples.name} that are looked at: leave missing values out")
    # where names are levels along a dimension, or of what was made of the features, units are not theirs
    known = samples.feature_dim is None and transform is None
    units = samples.layout.feature_units(len(names)) if known else ("",) * len(names)
    if transform is not None:  # drawn as it was fitted
        x, names = transform(x), transform.outputs
        path = [replace(mixture, transform=None) for mixture in path]
        units = ("",) * len(names)
    drawn = number_of(features[0], names), number_of(features[1], names)
    labels = [with_unit(names[i], units[i]) for i in drawn]
    return steps_figure(path, shown, x, drawn, labels, hard=hard)
