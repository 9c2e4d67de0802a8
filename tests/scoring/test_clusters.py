"""Scores of clusters of merged components: sums of probabilities, which go on, are extended and verified as others."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import dgmm
from dgmm.blas import one_blas_thread
from dgmm.cli import main
from dgmm.config import Score
from dgmm.data import open_samples
from dgmm.errors import InputError, OutputExistsError
from dgmm.pipeline import run_score
from dgmm.scoring.ledger import Recording
from dgmm.scoring.segments import ScoreSegment
from dgmm.store import Writer, digest, save
from tests.ledgers import at_region, fit, job_of, left, rows, scored, small_for_a_while, tree


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with small_for_a_while():
        yield


@pytest.fixture
def model(tmp_path: Path) -> dgmm.Fit:
    """Six components in clusters, and the job's source."""
    array = zarr.create_array(str(tmp_path / "x.zarr"), shape=(238, 3), dtype="f8", chunks=(20, 3))
    array[:] = rows()
    found = dgmm.merge(fit(k=6), str(tmp_path / "x.zarr"))
    save(found, tmp_path / "m.zarr")
    return found


def job(folder: Path, **more: Any) -> Score:
    return job_of(folder, folder / "out", **{"clusters": 3, **more})


def level_of(model: dgmm.Fit, n: int) -> np.ndarray:
    assert model.clusters is not None
    return model.clusters.level(n)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_scores_are_sums_over_components(n: int, model: dgmm.Fit, tmp_path: Path) -> None:
    x = rows()
    present = ~np.isnan(x).any(axis=1)
    found = dgmm.score(model, x, tmp_path / "s.zarr", clusters=n, probabilities=True)
    plain = dgmm.score(model, x, tmp_path / "plain.zarr", probabilities=True)
    r, level = model.mixture.responsibilities(x[present]), level_of(model, n)
    sums = np.stack([r[:, level == c].sum(axis=1) for c in range(n)], axis=1)
    np.testing.assert_array_equal(found["label"].values[present], sums.argmax(axis=1))
    np.testing.assert_array_equal(found["label"].values[~present], -1)
    np.testing.assert_allclose(found["probability"].values[present], sums.max(axis=1), atol=1e-7)
    np.testing.assert_allclose(found["probabilities"].values[present], sums, atol=1e-7)
    np.testing.assert_array_equal(found["log_density"], plain["log_density"])
    assert found["probabilities"].dims[-1] == "cluster"
    assert found.attrs["clusters"] == level.tolist()
    assert found["label"].attrs["flag_meanings"].split()[1:] == [f"cluster_{c}" for c in range(n)]
    assert found.attrs["counts"] == np.bincount(sums.argmax(axis=1), minlength=n).tolist()
    assert dgmm.verify(tmp_path / "s.zarr", data=True).is_sound
    if n == 6:
        np.testing.assert_array_equal(found["label"], plain["label"])


def test_a_label_is_not_that_of_the_most_probable_component(model: dgmm.Fit) -> None:
    """Two that together are more than a third."""
    r = np.array([[0.4, 0.3, 0.3]])
    found = dgmm.merge(fit(k=3), rows()).clusters
    assert found is not None
    (pair,) = (c for c in (0, 1) if (found.level(2) == c).sum() == 2)
    r = r[:, np.argsort(np.argsort(found.level(2) == pair, kind="stable"), kind="stable")]
    assert found.probabilities(r, 2).argmax() == pair
    assert found.level(2)[r.argmax()] != pair


@pytest.mark.parametrize("probabilities", [False, True])
def test_what_was_interrupted_goes_on(model: dgmm.Fit, probabilities: bool, tmp_path: Path) -> None:
    how = {"probabilities": probabilities}
    run_score(job_of(tmp_path, tmp_path / "whole", clusters=3, **how))
    left(job(tmp_path, **how), 5)
    assert len(scored(job(tmp_path, **how))) == 7
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize(
    ("other", "said"), [(2, "those of 3 clusters, now of 2 clusters"), (None, "3 clusters, now of components")]
)
def test_other_clusters_do_not_go_on(model: dgmm.Fit, other: int | None, said: str, tmp_path: Path) -> None:
    left(job(tmp_path), 5)
    with pytest.raises(OutputExistsError, match=said):
        run_score(job(tmp_path, clusters=other))
    assert len(scored(job(tmp_path, clusters=other, overwrite=True))) == 12
    assert ("clusters" in zarr.open_group(str(tmp_path / "out")).attrs) == (other is not None)


def test_extended_where_the_clusters_are_the_same(model: dgmm.Fit, tmp_path: Path) -> None:
    run_score(job(tmp_path))
    array = zarr.open_array(str(tmp_path / "x.zarr"), mode="r+")
    array[65] = array[65] + 1.0
    assert scored(job(tmp_path, extend=True)) == [3]
    run_score(job_of(tmp_path, tmp_path / "anew", clusters=3))
    assert tree(tmp_path / "out") == tree(tmp_path / "anew")
    assert len(scored(job(tmp_path, extend=True, clusters=2))) == 12
    assert len(scored(job(tmp_path, extend=True, clusters=None))) == 12


def test_another_hierarchy_is_another_job(model: dgmm.Fit, tmp_path: Path) -> None:
    """Of the same mixture, which alone has not changed."""
    run_score(job(tmp_path))
    assert model.clusters is not None
    changed = replace(model, clusters=model.clusters.reordered(np.array([1, 2, 3, 4, 5, 0])))
    assert digest(changed.mixture) == digest(model.mixture)
    assert (level_of(changed, 3) != level_of(model, 3)).any()
    save(changed, tmp_path / "m.zarr", overwrite=True)
    assert len(scored(job(tmp_path, extend=True))) == 12


def test_scored_anew_for_comparison(model: dgmm.Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_score(job(tmp_path))
    out = str(tmp_path / "out")
    assert dgmm.verify(out, recompute=1.0).is_sound
    score = ScoreSegment.score

    def wrong(self: ScoreSegment, x: np.ndarray) -> Any:
        values, found = score(self, x)
        return {**values, "label": np.where(values["label"] == 0, 1, values["label"]).astype(np.int8)}, found

    with monkeypatch.context() as patch, at_region(0, lambda: None):
        patch.setattr(ScoreSegment, "score", wrong)
        run_score(job(tmp_path, overwrite=True))
    assert not dgmm.verify(out, recompute=1.0).is_sound


@pytest.mark.parametrize(("k", "n"), [(3, 2), (30, 2), (30, 29)])
@pytest.mark.parametrize("probabilities", [False, True])
def test_a_task_takes_what_it_says_of_memory(
    k: int, n: int, probabilities: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the rows themselves: no more, and a third at least."""
    x = np.resize(rows(), (50_000, 3))
    level = tuple((np.arange(k) % n).tolist())
    recording = Recording("", "", 1, Writer("", "", ""))
    leaf = ScoreSegment.of(fit(k=k).mixture, open_samples(x), recording, probabilities, level)
    with one_blas_thread:
        leaf.score(x[:100])
        tracemalloc.start()
        leaf.score(x)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert leaf.working_bytes(len(x)) / 3 < peak <= leaf.working_bytes(len(x))


def test_without_clusters(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the model has no clusters, and 2 are asked for: merge its components"):
        dgmm.score(fit(), rows(), tmp_path / "s.zarr", clusters=2)
    with pytest.raises(InputError, match="7 clusters of 6 components: give 1 to 6"):
        dgmm.score(dgmm.merge(fit(k=6), rows()), rows(), tmp_path / "s.zarr", clusters=7)
    for wrong in (0, "many", 2.5):
        with pytest.raises(InputError, match="clusters"):
            dgmm.score(dgmm.merge(fit(k=6), rows()), rows(), tmp_path / "s.zarr", clusters=wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "s.zarr").exists()


def test_a_coordinate_does_not_stand_in_the_way(model: dgmm.Fit, tmp_path: Path) -> None:
    data = xr.DataArray(rows(), dims=("component", "level"))
    dgmm.score(model, data, tmp_path / "s.zarr", clusters=2)
    with pytest.raises(InputError, match="cluster"):
        dgmm.score(model, data.rename(component="cluster"), tmp_path / "t.zarr", clusters=2)


def test_from_the_command_line(model: dgmm.Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, source, out = (str(tmp_path / name) for name in ("m.zarr", "x.zarr", "out"))
    assert main(["score", place, source, "--out", out, "--clusters", "2", "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert [line.split(":")[0] for line in shown.splitlines()[1:3]] == ["cluster 0", "cluster 1"]
    assert json.loads(zarr.open_group(out).attrs["settings"])["clusters"] == 2
    assert main(["info", out]) == 0
    assert "mixture with 6 components in 2 clusters" in capsys.readouterr().out
    assert main(["score", place, source, "--out", out, "--clusters", "0", "--quiet"]) == 2
    assert "clusters" in capsys.readouterr().err
