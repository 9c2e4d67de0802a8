"""What tests of journals share: a small job on a store, and what its result comes to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from dgmm.config import Data, Select, Train
from dgmm.engine import Entry
from dgmm.pipeline import run_select, run_train
from dgmm.store import Records, load_dataset

#: Few passes of every kind: the profile, E-steps, single and double, the worst rows, and what judges.
TRAINING: dict[str, Any] = {
    "search": "starts",
    "n_init": 1,
    "sample_rows": 1000,
    "start_rows": 400,
    "max_iter": 10,
    "worst_rows": 100,
    "holdout": 0.2,
    "compute_dtype": "float32",
}


def write_data(folder: Path) -> str:
    """Rows of overlapping groups in six chunks; their path."""
    r = np.random.default_rng(0)
    x = r.standard_normal((3000, 2)) + np.repeat([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], 1000, axis=0)
    array = zarr.create_array(str(folder / "x.zarr"), shape=x.shape, chunks=(500, 2), dtype="f8")
    array[:] = r.permutation(x)
    return str(folder / "x.zarr")


def train(data: str, out: str | Path, **more: Any) -> Train:
    """Settings of a small training."""
    training = {**TRAINING, **more.pop("training", {})}
    return Train(data=Data(path=data), out=str(out), n_components=more.pop("k", 3), training=training, **more)


def select(data: str, out: str | Path, **more: Any) -> Select:
    """Settings of a small selection."""
    given = {"n_components": [1, 2, 3], "covariance_type": ["full", "tied"], "training": TRAINING}
    return Select(data=Data(path=data), out=str(out), **{**given, **more})


def work(settings: Train | Select) -> str:
    """Do it; the place of the model."""
    if isinstance(settings, Train):
        run_train(settings)
        return settings.out
    run_select(settings)
    return f"{settings.out}/model.zarr"


def bits(model: str) -> dict[str, Any]:
    """All that a model holds but how long it took: arrays as bytes, attributes as they are."""
    dataset = load_dataset(model)
    found: dict[str, Any] = {str(n): v.values.tobytes() for n, v in dataset.data_vars.items() if n != "seconds"}
    attributes = {name: value for name, value in dataset.attrs.items() if name != "checksum"}
    return found | {"attributes": json.dumps(attributes, sort_keys=True)}


class Stop(Exception):
    """What a test ends a run with."""


@contextmanager
def at_record(number: int, do: Callable[[], Any]) -> Iterator[None]:
    """Context in which something happens once a record of this number, counted from one, is written."""
    write = Records.write

    def then(self: Records, place: int, entry: Entry) -> Entry:
        found = write(self, place, entry)
        if place + 1 == number:
            do()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Records, "write", then)
        yield


def stop() -> None:
    """End a run."""
    raise Stop


def n_records(journal: str | Path) -> int:
    """How many records lie in a folder."""
    return len(list(Path(journal).glob("0*")))
