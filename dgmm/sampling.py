"""Samples drawn from a mixture into a Zarr group of any size, which is read as any data are.

A chunk of rows is drawn at a time, and its bits depend on the seed and its place alone, whoever the workers are.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import ZstdCodec

from dgmm.blas import one_blas_thread
from dgmm.data import Layout, Span, check_names, name_of_rows
from dgmm.engine import BASE_BYTES, Workers, cut, mib
from dgmm.errors import InputError, InsufficientMemoryError
from dgmm.families import NOISE
from dgmm.fits import Fit
from dgmm.mixture import Mixture
from dgmm.progress import Progress
from dgmm.store import UNSETTLED_DTYPE, Output, Writer, consolidate, digest, writing
from dgmm.types import AnyArray, Precision, Sendable
from dgmm.waits import stop_if_interrupted

logger = logging.getLogger("dgmm")

SAMPLES_FORMAT = "dgmm-samples-1"
#: The group, within that of the samples, of the component that each row was drawn from, and its array.
LABELS, LABEL = "labels", "label"
#: A chunk has so many values, and no more rows than this.
CHUNK_VALUES, CHUNK_ROWS = 2**20, 131_072
#: A worker gets about so many tasks of each of so many portions, after which it is said how far the work is.
TASKS_PER_THREAD, PORTIONS = 4, 5
#: While rows are drawn there are so many arrays of them in double precision.
COPIES = 4


@dataclass(frozen=True)
class Drawing(Sendable):
    """What tasks need to draw chunks of rows and write them; travels to workers.

    Attributes
    ----------
    mixture : Mixture
    spans : tuple of Span
        The arrays of the features, and which of these each holds.
    n_rows : int
    chunk_rows : int
    seed : int
    dtype : str
    labels : bool
        Whether the component of each row is written, too.
    writer : Writer
    """

    mixture: Mixture
    spans: tuple[Span, ...]
    n_rows: int
    chunk_rows: int
    seed: int
    dtype: Precision
    labels: bool
    writer: Writer

    @property
    def n_chunks(self) -> int:
        """Number of chunks."""
        return -(-self.n_rows // self.chunk_rows)

    @property
    def working_bytes(self) -> int:
        """Bytes that a task takes at most."""
        d = self.mixture.n_inputs
        return self.chunk_rows * (COPIES * 8 * d + 2 * d * np.dtype(self.dtype).itemsize + 32)

    @cached_property
    def arrays(self) -> dict[str, zarr.Array[Any]]:
        """The arrays that are written, by their names; a chunk of fill values is written, too."""
        names = [*(span.variable for span in self.spans), *([f"{LABELS}/{LABEL}"] if self.labels else [])]
        return {name: self.writer.array(name).with_config({"write_empty_chunks": True}) for name in names}

    def draw(self, chunk: int) -> tuple[AnyArray, AnyArray]:
        """The rows of a chunk (n, d), and the components that they are from (n,)."""
        start = chunk * self.chunk_rows
        n = min(self.chunk_rows, self.n_rows - start)
        source = np.random.SeedSequence(self.seed, spawn_key=(chunk,))
        x, labels = self.mixture.sample(n, np.random.default_rng(source))
        with np.errstate(over="ignore"):
            drawn = x.astype(self.dtype)
        if not np.isfinite(drawn).all():
            raise InputError(f"rows of the model are beyond what {self.dtype} holds: draw them as float64 (dtype)")
        return drawn, labels

    def write(self, chunks: Sequence[int]) -> int:
        """Draw some of the chunks and write them; how many rows that were."""
        n = 0
        for chunk in chunks:
            stop_if_interrupted()
            with one_blas_thread:
                x, labels = self.draw(chunk)
            where = slice(chunk * self.chunk_rows, chunk * self.chunk_rows + len(x))
            ends = itertools.accumulate(span.size for span in self.spans)
            columns = [
                x[:, end - 1] if span.dim is None else x[:, end - span.size : end]
                for span, end in zip(self.spans, ends, strict=True)
            ]
            with writing(self.writer.place):
                self.writer.check()
                for array, values in zip(self.arrays.values(), [*columns, labels][: len(self.arrays)], strict=True):
                    array[where] = values
            n += len(x)
        return n


def write_chunks(drawing: Drawing, chunks: Sequence[int]) -> int:
    """Task: see `Drawing.write`."""
    return drawing.write(chunks)


def sample_into(
    model: Fit | Mixture,
    output: Output,
    workers: Workers,
    *,
    rows: int,
    seed: int = 0,
    labels: bool = False,
    dtype: Precision = "float64",
    chunk_rows: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Draw rows from a model into an output that has been begun, and finish it.

    The features are called as those of the model are, and lie as they did in the data that it was fitted to.

    Parameters
    ----------
    model : Fit or Mixture
    output : Output
    workers : Workers
    rows, seed, labels, dtype, chunk_rows
        See `dgmm.config.Sampling`.
    settings : mapping, optional
        What they are drawn with, kept with them.

    Raises
    ------
    InputError
        If names of the model cannot be those of a data set with labels.
    InsufficientMemoryError
        If a chunk is too large for a worker.
    """
    mixture, layout = (model.mixture, layout_of(model)) if isinstance(model, Fit) else (model, Layout())
    d = mixture.n_inputs
    chunk_rows = min(rows, chunk_rows or max(1, min(CHUNK_ROWS, CHUNK_VALUES // d)))
    drawing = Drawing(mixture, spans_of(layout, d), rows, chunk_rows, seed, dtype, labels, output.writer)
    check_memory(drawing, workers)
    began = time.perf_counter()
    create(output.store(), drawing, layout, settings or {})
    shared = workers.share(drawing)
    for portion in cut(drawing.n_chunks, PORTIONS):
        runs = cut(len(portion), TASKS_PER_THREAD * workers.n_threads)
        workers.map(write_chunks, [(shared, portion[run.start : run.stop]) for run in runs])
        done = min(portion.stop * chunk_rows, rows)
        seconds = time.perf_counter() - began
        progress = Progress("rows", done, rows - done, seconds / done * (rows - done))
        logger.info("%d of %d rows, %.3g rows/s", done, rows, done / seconds, extra=progress.on_a_line)
    consolidate(output.store())
    output.finish()


def spans_of(layout: Layout, n_features: int) -> tuple[Span, ...]:
    """The arrays that are written: one of all features where these have no names."""
    spans = layout.as_spans(n_features) or (Span("", "feature", n_features),)
    return tuple(replace(span, variable=span.variable or "data") for span in spans)


def layout_of(model: Fit) -> Layout:
    """How the samples of a model lie; where that was not kept, names of features are those of variables."""
    if model.layout is not None:
        return model.layout
    numbered = list(model.features) == [str(i) for i in range(len(model.features))]
    return Layout() if numbered else Layout(variables=model.features)


def check_memory(drawing: Drawing, workers: Workers) -> None:
    """Refuse chunks that are too large for a worker, and say which are not."""
    base = 0 if workers.client is None else BASE_BYTES
    needed = base + workers.threads_per_worker * drawing.working_bytes
    if needed <= workers.usable:
        return
    room = (workers.usable - base) // workers.threads_per_worker
    fitting = room * drawing.chunk_rows // drawing.working_bytes
    advice = f"lower chunk_rows to {fitting}" if fitting > 0 else "give it more memory (memory_limit)"
    raise InsufficientMemoryError(
        f"a worker would need {mib(needed)} to draw {drawing.chunk_rows} rows at a time "
        f"({workers.threads_per_worker} task(s)), and has {mib(workers.usable)} to use: {advice}"
    )


def create(store: Any, drawing: Drawing, layout: Layout, settings: Mapping[str, Any]) -> None:
    """Create the group of samples and its arrays, with the labels of the features and their units."""
    along = {span.dim: span for span in drawing.spans if span.dim is not None}
    columns = {span.variable for span in drawing.spans}
    names = {*columns, *along, *([LABELS] if drawing.labels else [])}
    rows = name_of_rows(names)
    if drawing.labels and LABELS in columns | {*along}:
        raise InputError(f"the model has features called {LABELS}, as samples of it have other things: rename them")
    check_names("the model", columns)
    group = zarr.create_group(store, zarr_format=3)
    group.attrs.update(
        {
            "format": SAMPLES_FORMAT,
            "title": f"{drawing.n_rows} samples of a {drawing.mixture.family.title} with "
            f"{drawing.mixture.n_components} components",
            "model": digest(drawing.mixture),
            "seed": drawing.seed,
            "chunk_rows": drawing.chunk_rows,
            "settings": json.dumps(dict(settings)),
        }
    )
    units = layout.unit_of
    made: dict[str, Any] = {"compressors": ZstdCodec(level=1, checksum=True)}
    for span in drawing.spans:
        name, more = span.variable, () if span.dim is None else (span.size,)
        group.create_array(
            name,
            shape=(drawing.n_rows, *more),
            chunks=(drawing.chunk_rows, *more),
            dtype=drawing.dtype,
            fill_value=math.nan,
            dimension_names=(rows, *(dim for dim in (span.dim,) if dim is not None)),
            attributes={"units": units[name]} if units.get(name) else {},
            **made,
        )
    of_noise = "" if drawing.mixture.noise is None else f", {NOISE} for noise"
    if drawing.labels:
        group.create_group(LABELS).create_array(
            LABEL,
            shape=(drawing.n_rows,),
            chunks=(drawing.chunk_rows,),
            # -2, that of noise, too
            dtype=np.min_scalar_type(-max(2, drawing.mixture.n_components)),
            fill_value=-1,
            dimension_names=(rows,),
            attributes={"long_name": f"component that the sample was drawn from{of_noise}"},
            **made,
        )
    found: dict[str, Any] = {}
    for dim, span in along.items():
        if (labels := span.identities()) is not None:
            found[dim] = (dim, labels, {"units": span.label_units} if span.label_units else {})
    if found:
        coordinate = xr.Dataset(coords=found, attrs=dict(group.attrs))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=UNSETTLED_DTYPE)
            coordinate.to_zarr(store, mode="a", zarr_format=3, consolidated=False)
