"""The stages of the whole job: what is kept and what is made anew."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import dgmm
from dgmm.config import Data, Pipeline
from dgmm.data import store_at
from dgmm.pipeline import report_stage, score_stage, select_stage, verify_stage, write_example
from dgmm.store import models as store
from dgmm.store import place_at
from dgmm.store.local import LocalOutput


def job(folder: Path, *ks: int, **changes: object) -> Pipeline:
    data = Data(path=str(folder / "input.zarr"), variables=["eruptions", "waiting"])
    return Pipeline(
        out=str(folder / "run"),
        example="old_faithful",
        data=data,
        n_components=list(ks),
        covariance_type=["tied"],
        **changes,
    )


def test_scores_of_another_model_are_not_kept(tmp_path: Path) -> None:
    """A model made anew in the same place makes the scores stale, whatever the settings say."""
    write_example(job(tmp_path, 2))
    select_stage(job(tmp_path, 2))
    path = score_stage(job(tmp_path, 2))
    assert score_stage(job(tmp_path, 2)) == path, "the same model: kept"
    select_stage(job(tmp_path, 3, overwrite=True))
    with pytest.raises(dgmm.OutputExistsError, match="made with other settings \\(model_digest\\)"):
        score_stage(job(tmp_path, 3))
    score_stage(job(tmp_path, 3, overwrite=True))
    labels = xr.open_zarr(path, consolidated=False)["label"]
    assert np.unique(labels).tolist() == [0, 1, 2]
    assert verify_stage(job(tmp_path, 3)).path == path
    (tmp_path / "run" / "scores.zarr" / "label" / "c" / "0").unlink()
    with pytest.raises(dgmm.DgmmError, match=r"is not what was written \(label region 0 .*score again \(--overwrite\)"):
        verify_stage(job(tmp_path, 3))


def test_the_sum_of_log_densities_has_the_same_bits_on_any_number_of_threads(tmp_path: Path) -> None:
    from dgmm.data import open_samples
    from dgmm.engine.workers import threads
    from dgmm.scoring import score_samples

    x = np.random.default_rng(0).standard_normal((50_000, 2))
    fit = dgmm.train(x, 2, n_init=1)
    totals = []
    for n in (1, 2, 3, 7):
        with place_at(tmp_path / f"{n}.zarr").begin("scores", overwrite=False) as output:
            totals.append(score_samples(fit, open_samples(x), output, threads(n)).log_density)
    assert len(set(totals)) == 1


@pytest.fixture(params=["path", "file", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same as a path, a file:// URL and in an object store."""
    if request.param == "s3":
        url: str = request.getfixturevalue("s3")
        return url
    return f"file://{tmp_path}" if request.param == "file" else str(tmp_path)


def test_everything_works_everywhere(root: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((5_000, 2)) + 8 * np.arange(5_000)[:, None] % 16
    zarr.save_array(store_at(f"{root}/x.zarr", read_only=False), x)
    fit = dgmm.train(f"{root}/x.zarr", 2, n_init=2)
    dgmm.save(fit, f"{root}/model.zarr")
    assert dgmm.load(f"{root}/model.zarr").log_likelihood == fit.log_likelihood
    scores = dgmm.score(f"{root}/model.zarr", f"{root}/x.zarr", f"{root}/scores.zarr")
    np.testing.assert_array_equal(scores["label"], fit.mixture.responsibilities(x).argmax(axis=1))
    with pytest.raises(dgmm.OutputExistsError, match="exists already"):
        dgmm.score(fit, f"{root}/x.zarr", f"{root}/scores.zarr")
    for taken in ("x.zarr", "x.zarr/scores", "model.zarr"):
        for overwrite in (False, True):
            with pytest.raises(dgmm.OutputExistsError):
                dgmm.score(f"{root}/model.zarr", f"{root}/x.zarr", f"{root}/{taken}", overwrite=overwrite)
            with pytest.raises(dgmm.OutputExistsError):
                dgmm.score(fit, zarr.open_array(store_at(f"{root}/x.zarr", read_only=True)), f"{root}/model.zarr",
                           overwrite=overwrite)  # fmt: skip
    assert dgmm.load(f"{root}/model.zarr").log_likelihood == fit.log_likelihood
    for place in (f"{root}/nothing.zarr", "ftp://host/x.zarr", "simplecache::s3://bucket/x"):
        with pytest.raises(dgmm.InputError, match=r"cannot open|no such store|is not a Zarr store"):
            dgmm.train(place, 2)


def test_the_whole_job_works_everywhere(root: str, caplog: pytest.LogCaptureFixture) -> None:
    """The example, the model, the table of candidates, the scores and the report; and nothing is made twice."""
    settings = Pipeline(
        out=f"{root}/run",
        example="old_faithful",
        data=Data(path=f"{root}/input.zarr", variables=["eruptions", "waiting"]),
        n_components=[1, 2],
        covariance_type=["tied"],
    )
    stages = (write_example, select_stage, score_stage, report_stage)
    made = [stage(settings) for stage in stages]
    states = [place_at(place).state() for place in [*made, f"{root}/run/candidates.csv", f"{root}/run/report.png"]]
    assert [state.what for state in states] == ["example", "model", "scores", "report", "table", "picture"]
    with caplog.at_level("INFO", logger="dgmm"):
        assert [stage(settings) for stage in stages] == made
    assert sum("exists" in message for message in caplog.messages) == 3, "all but the report"
    again = settings.model_copy(update={"overwrite": True})
    assert [stage(again) for stage in stages] == made


def test_an_input_that_is_none_of_ours_is_not_made_anew(tmp_path: Path) -> None:
    zarr.save_array(str(tmp_path / "input.zarr"), np.arange(6.0))
    assert write_example(job(tmp_path, 2, overwrite=True)) == str(tmp_path / "input.zarr")
    assert zarr.open_array(str(tmp_path / "input.zarr"), mode="r").shape == (6,)


@pytest.mark.parametrize("name", ["model.zarr", "candidates.csv"])
def test_what_cannot_be_written_is_found_before_the_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_example(job(tmp_path, 2))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("do not lose me")

    def work(*_: object, **__: object) -> None:
        raise AssertionError("all for nothing")

    monkeypatch.setattr("dgmm.pipeline.jobs.select_samples", work)
    with pytest.raises(dgmm.OutputExistsError, match="is a file that was not written by dgmm"):
        select_stage(job(tmp_path, 2, overwrite=True))
    assert os.listdir(tmp_path / "run") == [name]


def test_a_table_without_its_model_is_in_nobodys_way(tmp_path: Path) -> None:
    """It is what a run leaves that gets no further."""
    write_example(job(tmp_path, 2))
    select_stage(job(tmp_path, 2))
    shutil.rmtree(tmp_path / "run" / "model.zarr")
    select_stage(job(tmp_path, 3))
    assert sorted(os.listdir(tmp_path / "run")) == ["candidates.csv", "model.zarr"]
    assert (tmp_path / "run" / "candidates.csv").read_text().splitlines()[1].startswith("3,")


@pytest.mark.parametrize("failing", ["table", "model"])
def test_a_selection_that_cannot_be_written_is_kept_elsewhere(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is published is published together: no model without its table."""
    write_example(job(tmp_path, 2))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    publish = LocalOutput.publish

    def fail(output: LocalOutput) -> None:
        if output.what == failing and "elsewhere" not in output.target:
            raise OSError(28, "No space left on device")
        publish(output)

    monkeypatch.setattr(LocalOutput, "publish", fail)
    with pytest.raises(dgmm.DgmmError, match=r"No space left on device.*is kept in"):
        select_stage(job(tmp_path, 2))
    (kept,) = os.listdir()
    assert store.read(kept).table is not None
    assert not (tmp_path / "run" / "model.zarr").exists()
    monkeypatch.setattr(LocalOutput, "publish", publish)
    assert dgmm.load(select_stage(job(tmp_path, 2))).bic == dgmm.load(kept).bic
