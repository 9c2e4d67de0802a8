"""What is looked at before any work: how the data are made, and that none are gone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from dgmm.api import open_scores
from dgmm.data import open_samples
from dgmm.errors import InputError
from dgmm.fits import Training
from dgmm.refresh import Structure, run_refresh
from dgmm.refresh.night import NOTE
from dgmm.registry import Registry
from tests.ledgers import small_for_a_while
from tests.nights import CHUNK, ROWS, append, job_of, night


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with small_for_a_while():
        yield


def dataset(n: int = 6, levels: Any = (0.0, 10.0), dims: tuple[str, ...] = ("time", "lat"), **attrs: str) -> xr.Dataset:
    values = np.zeros((n, 3, 2))
    return xr.Dataset({"t": ((*dims, "depth"), values, attrs)}, {"depth": ("depth", list(levels), {"units": "m"})})


def structure(data: xr.Dataset) -> Structure:
    return Structure.of(open_samples(data, feature_dim="depth"))


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (dataset(), []),
        (dataset(7), []),
        (dataset(5), ["along time it had 6, now 5"]),
        (dataset(dims=("day", "lat")), ["its dimensions were time (2 in all), now day (2 in all)"]),
        (dataset(levels=(0.0, 20.0)), ["its features were 10.0 (2 in all), now 20.0 (2 in all)"]),
        (dataset(units="degC"), ["its units were none, now degC"]),
        (dataset().astype("f4"), ["its dtype were float64, now float32"]),
        (dataset().isel(lat=slice(2)), ["along lat it had 3, now 2"]),
        (dataset().assign_coords(depth=("depth", [0.0, 10.0], {"units": "km"})),
         ["its dimension of the features were depth (m), now depth (km)"]),
    ],
)  # fmt: skip
def test_what_has_changed_is_said_with_both_values(now: xr.Dataset, said: list[str]) -> None:
    assert structure(dataset()).changes(structure(now)) == said


def rewritten(path: Path, change: Callable[[xr.Dataset], xr.Dataset]) -> None:
    data = change(xr.open_zarr(path, consolidated=False).load())
    for name in ("t", "s", "time"):
        data[name].encoding = {"chunks": (CHUNK,)}
    data.to_zarr(path, mode="w", zarr_format=3, consolidated=False)


CHANGES: dict[str, tuple[Callable[[xr.Dataset], xr.Dataset], str]] = {
    "rows": (lambda d: d.isel(time=slice(ROWS - CHUNK)), f"along time it had {ROWS}, now {ROWS - CHUNK}"),
    "dtype": (lambda d: d.assign(s=d["s"].astype("f4")), "float64"),
    "units": (lambda d: d.assign(t=d["t"].assign_attrs(units="degC")), "its units were K (2 in all)"),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_data_that_are_made_in_another_way_are_refused_unless_somebody_says_so(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job, (change, said) = job_of(tmp_path, n_components=[3]), CHANGES[what]
    append(tmp_path / "data.zarr", night(0))
    run_refresh(job)
    before = (tmp_path / f"scores.zarr{NOTE}").stat().st_mtime_ns
    rewritten(tmp_path / "data.zarr", change)
    with pytest.raises(InputError, match="is not as it was the last night") as error:
        run_refresh(job)
    assert said in str(error.value)
    assert (tmp_path / f"scores.zarr{NOTE}").stat().st_mtime_ns == before, "before any work"
    if what == "units":  # where there was no last night it is the champion that knows
        with pytest.raises(InputError, match=r"t of .* has the units 'degC', and the model was fitted to 'K'"):
            run_refresh(job.model_copy(update={"out": str(tmp_path / "others.zarr")}))
    with caplog.at_level(logging.WARNING, "dgmm"):
        run_refresh(job.model_copy(update={"accept_changes": True}))
    assert said in caplog.text
    run_refresh(job)


@pytest.mark.parametrize(("value", "said"), [(np.nan, "no complete row in"), (7.0, "times the same sample (7, 7)")])
def test_new_data_that_nobody_has_written_are_refused(value: float, said: str, tmp_path: Path) -> None:
    job = job_of(tmp_path, n_components=[3])
    append(tmp_path / "data.zarr", night(0))
    run_refresh(job)
    empty = night(1)
    for name in ("t", "s"):
        empty[name].values[:] = value
    append(tmp_path / "data.zarr", empty)
    job = job.model_copy(update={"data": job.data.model_copy(update={"missing_chunks": "fill"})})
    with pytest.raises(InputError, match=f"from time {ROWS} on") as error:
        run_refresh(job)
    assert said in str(error.value)
    assert "accept_changes" in str(error.value)
    assert len(Registry(job.registry).versions()) == 1
    run_refresh(job.model_copy(update={"accept_changes": True, "refit": "never"}))
    assert open_scores(job.out).sizes["time"] == 2 * ROWS


def test_features_that_are_others_are_refused(tmp_path: Path) -> None:
    job = job_of(tmp_path, n_components=[3])
    append(tmp_path / "data.zarr", night(0))
    run_refresh(job)
    rewritten(tmp_path / "data.zarr", lambda d: d.rename(s="salt").assign(s=d["s"].rename("s")))
    with pytest.raises(InputError, match="the model was fitted on"):
        run_refresh(job.model_copy(update={"data": job.data.model_copy(update={"variables": ["t", "salt"]})}))


def test_the_first_night_needs_a_model_or_a_search(tmp_path: Path) -> None:
    append(tmp_path / "data.zarr", night(0))
    with pytest.raises(InputError, match="name the registry, without a version"):
        run_refresh(job_of(tmp_path, registry=f"{tmp_path}/models/water@champion"))
    assert Training().holdout == 0
