"""The stages of the whole job: what is kept and what is made anew."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import dgmm
from dgmm import store
from dgmm.config import Data, Pipeline
from dgmm.pipeline import score_stage, select_stage, write_example


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


def test_the_sum_of_log_densities_has_the_same_bits_on_any_number_of_threads(tmp_path: Path) -> None:
    from dgmm.data import open_samples
    from dgmm.scoring import score_samples
    from dgmm.workers import threads

    x = np.random.default_rng(0).standard_normal((50_000, 2))
    fit = dgmm.train(x, 2, n_init=1)
    totals = [score_samples(fit, open_samples(x), tmp_path / f"{n}.zarr", threads(n)).log_density for n in (1, 2, 3, 7)]
    assert len(set(totals)) == 1


def test_everything_works_at_a_url(tmp_path: Path) -> None:
    """Where nothing can be moved into place: what is not finished says so."""
    root = f"file://{tmp_path}"
    x = np.random.default_rng(0).standard_normal((5_000, 2)) + 8 * np.arange(5_000)[:, None] % 16
    zarr.save_array(str(tmp_path / "x.zarr"), x)
    fit = dgmm.train(f"{root}/x.zarr", 2, n_init=2)
    dgmm.save(fit, f"{root}/model.zarr")
    assert dgmm.load(f"{root}/model.zarr").log_likelihood == fit.log_likelihood
    scores = dgmm.score(fit, f"{root}/x.zarr", f"{root}/scores.zarr")
    np.testing.assert_array_equal(scores["label"], fit.mixture.responsibilities(x).argmax(axis=1))
    with pytest.raises(dgmm.OutputExistsError):
        dgmm.score(fit, f"{root}/x.zarr", f"{root}/scores.zarr")
    zarr.open_group(str(tmp_path / "scores.zarr")).attrs[store.UNFINISHED] = True
    dgmm.score(fit, f"{root}/x.zarr", f"{root}/scores.zarr")  # what was not finished is no obstacle
    for place in (f"{root}/nothing.zarr", "ftp://host/x.zarr", "simplecache::s3://bucket/x"):
        with pytest.raises(dgmm.InputError, match="cannot open"):
            dgmm.train(place, 2)
    with pytest.raises(dgmm.InputError, match="plain files go to local paths"):
        dgmm.save(fit, f"{root}/model.json")
