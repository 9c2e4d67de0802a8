"""Nights in a row: what is done, what is not done again, what is refused, and the way back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dgmm
from dgmm import store
from dgmm.cli import main
from dgmm.config import Refresh
from dgmm.errors import InputError
from dgmm.refresh import run_refresh
from dgmm.registry import Registry
from tests.ledgers import at_region, small_for_a_while, stop
from tests.nights import CHUNK, MEANS, ROWS, append, job_of, night, night_of


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with small_for_a_while():
        yield


def refreshed(job: Refresh) -> list[int]:
    """Do a night; the regions that were scored."""
    with at_region(0, stop) as done:
        run_refresh(job)
    return sorted(done)


def test_three_nights_in_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job, data = job_of(tmp_path), tmp_path / "data.zarr"
    registry = Registry(job.registry)

    append(data, night(0))
    assert refreshed(job) == [0, 1, 2, 3]
    first = registry.aliases()["champion"]
    assert dgmm.load(f"{job.registry}@champion").n_components == 3
    card = registry.card(first)
    assert card.judgement is not None
    assert card.judgement.accepted
    assert registry.baseline(first)
    assert night_of(job)["version"] == first
    assert night_of(job)["drift"] is None

    # a second run of a finished night does nothing
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert refreshed(job) == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before

    # more of the same: the champion stays, what is new is scored
    append(data, night(1))
    assert refreshed(job) == [4, 5, 6, 7]
    assert registry.aliases()["champion"] == first
    told = night_of(job)
    assert told["drift"]["drifted"] is False
    assert (told["compared"], told["since"]) == (first, ROWS)
    assert {s["what"] for s in told["drift"]["shifts"]} >= {"mean log density", "missing", "unlikely", "class 2"}

    # drift: a class has gone somewhere else, the candidate would number it as another
    append(data, night(2, MEANS + np.array([[0.0, 0.0], [0.0, 0.0], [14.0, 14.0]])))
    assert refreshed(job) == [8, 9, 10, 11]
    told = night_of(job)
    assert told["drift"]["drifted"] is True
    assert "refused" in told["decision"]
    assert registry.aliases()["champion"] == first
    candidate = registry.aliases()["candidate"]
    assert candidate != first
    judgement = registry.card(candidate).judgement
    assert judgement is not None
    assert not judgement.accepted
    assert "not found again" in judgement.why
    assert judgement.champion == first
    assert [c.before for c in judgement.classes[:2]] == [0, 1]
    assert dgmm.verify(job.out, data=True).is_sound
    assert store.attributes(job.out)["model"] == card.model
    assert refreshed(job) == []

    # somebody wants it all the same, and goes back: every row is scored by what is in use
    assert main(["models", "promote", f"{job.registry}@candidate"]) == 0
    assert len(refreshed(job)) == 12
    assert night_of(job)["version"] == candidate
    assert main(["models", "rollback", job.registry]) == 0
    assert len(refreshed(job)) == 12
    assert night_of(job)["version"] == first == registry.aliases()["champion"]
    assert refreshed(job) == []
    capsys.readouterr()


def test_a_better_candidate_is_promoted_and_its_classes_keep_their_numbers(tmp_path: Path) -> None:
    job, data = job_of(tmp_path, refit="always"), tmp_path / "data.zarr"
    registry = Registry(job.registry)
    append(data, night(0))
    run_refresh(job)
    first = dgmm.load(f"{job.registry}@champion")
    # the second class becomes the most frequent
    r = np.random.default_rng(9)
    more = night(1)
    x = MEANS[1] + r.standard_normal((ROWS, 2))
    more["t"].values[:], more["s"].values[:] = x.T
    append(data, more)
    assert len(refreshed(job)) == 8, "by the new champion"
    version = registry.aliases()["champion"]
    assert registry.aliases()["previous"] == job_version(registry, first)
    second = dgmm.load(f"{job.registry}@champion")
    assert np.abs(second.mixture.means - first.mixture.means).max() < 0.3
    assert second.mixture.weights.argmax() == 1
    judgement = registry.card(version).judgement
    assert judgement is not None
    assert judgement.gain is not None
    assert judgement.gain > 0
    assert [c.before for c in judgement.classes] == [0, 1, 2]
    assert registry.baseline(version)
    assert json.loads((Path(job.registry) / "champion").read_text())["why"] == judgement.why
    assert refreshed(job) == []

    # who goes back means it: the same night does not promote it again
    registry.rollback()
    assert len(refreshed(job)) == 8
    assert registry.aliases()["previous"] == version
    assert night_of(job)["version"] == registry.aliases()["champion"] == job_version(registry, first)
    assert len(registry.versions()) == 2
    assert refreshed(job) == []


def job_version(registry: Registry, fit: Any) -> str | None:
    return registry.holder(store.digest(fit.mixture))


def test_a_search_finds_another_number_of_classes(tmp_path: Path) -> None:
    job, data = job_of(tmp_path, refit="always", how="search"), tmp_path / "data.zarr"
    append(data, night(0))
    run_refresh(job)
    append(data, night(1, np.array([[0.0, 0.0], [8.0, 0.0], [20.0, 20.0]])))
    run_refresh(job)
    fit = dgmm.load(f"{job.registry}@champion")
    assert fit.n_components == 4
    assert fit.mixture.means[:3] == pytest.approx(MEANS, abs=0.3)
    assert fit.mixture.means[3] == pytest.approx([20, 20], abs=0.3)
    judgement = Registry(job.registry).card(Registry(job.registry).aliases()["champion"]).judgement
    assert judgement is not None
    assert [c.before for c in judgement.classes] == [0, 1, 2, None]


def test_a_champion_of_any_family_is_updated(tmp_path: Path) -> None:
    r, data = np.random.default_rng(0), tmp_path / "data.zarr"
    job = job_of(tmp_path, refit="always", n_components=[3], covariance_type=["poisson"])
    for number in range(2):
        append(data, night(number).map(lambda x: r.poisson(2 + 4 * x.clip(0)), keep_attrs=True))
        run_refresh(job)
    registry = Registry(job.registry)
    first, second = (registry.model(name) for name in sorted(registry.versions()))
    assert night_of(job)["version"] == registry.aliases()["champion"]
    before, after = dgmm.load(first), dgmm.load(second)
    assert after.covariance_type == "poisson"
    assert (after.mixture.means != before.mixture.means).all()
    np.testing.assert_allclose(after.mixture.means, before.mixture.means, rtol=0.2)


def test_preprocessing_is_that_of_the_champion(tmp_path: Path) -> None:
    training = {"holdout": 0.2, "search": "starts", "preprocess": {"scale": "standard", "pca": 2}}
    how: dict[str, Any] = {"n_components": [3], "refit": "always", "training": training}
    append(tmp_path / "data.zarr", night(0, n=CHUNK))
    run_refresh(job_of(tmp_path, **how))
    registry = Registry(job_of(tmp_path).registry)
    first = store.load(registry.model(registry.version("champion")))
    for number, renewal in ((1, "update"), (2, "search")):
        append(tmp_path / "data.zarr", night(number, n=CHUNK))
        job = job_of(tmp_path, **how, how=renewal)
        run_refresh(job)
        assert "accepted" in night_of(job)["decision"]
        now = store.load(registry.model(registry.version("champion")))
        assert now.mixture.transform is not None
        assert first.mixture.transform is not None
        assert now.mixture.transform.digest == first.mixture.transform.digest
    append(tmp_path / "data.zarr", night(3, n=CHUNK))
    other = {**how, "training": {**training, "preprocess": {"scale": "robust"}}}
    with pytest.raises(InputError, match="preprocess is another than that of the champion"):
        run_refresh(job_of(tmp_path, **other, how="search"))


@pytest.mark.parametrize("refit", ["never", "drifted"])
def test_where_nothing_asks_for_it_nothing_is_fitted(tmp_path: Path, refit: str) -> None:
    job, data = job_of(tmp_path), tmp_path / "data.zarr"
    append(data, night(0))
    run_refresh(job)
    append(data, night(1, MEANS + (5.0 if refit == "never" else 0.0)))
    run_refresh(job_of(tmp_path, refit=refit))
    assert len(Registry(job.registry).versions()) == 1
    assert night_of(job)["drift"]["drifted"] is (refit == "never")


def test_the_command_says_what_has_come_of_the_night(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = job_of(tmp_path)
    (tmp_path / "job.yaml").write_text(json.dumps(job.model_dump(mode="json")))
    append(tmp_path / "data.zarr", night(0))
    assert main(["refresh", str(tmp_path / "job.yaml"), "--quiet"]) == 0
    assert "scored by" in capsys.readouterr().out
    append(tmp_path / "data.zarr", night(1, MEANS + 3.0))
    assert main(["refresh", str(tmp_path / "job.yaml"), "--quiet", "--set", "refit=never"]) == 0
    out = capsys.readouterr().out
    assert "have drifted" in out
    assert f"(time {ROWS} on)" in out


def test_everything_may_lie_at_urls(tmp_path: Path, s3: str) -> None:
    job = job_of(tmp_path, registry=f"{s3}/models/water", out=f"{s3}/scores.zarr", refit="always", n_components=[3])
    append(tmp_path / "data.zarr", night(0))
    assert refreshed(job) == [0, 1, 2, 3]
    assert refreshed(job) == []
    append(tmp_path / "data.zarr", night(1))
    again = job.model_copy(update={"refit": "never"})
    assert refreshed(again) == [4, 5, 6, 7]
    assert night_of(job)["drift"]["drifted"] is False
    assert dgmm.verify(job.out, data=True).is_sound
    assert len(refreshed(job)) == 8, "by a new champion"
    registry = Registry(job.registry)
    assert night_of(job)["version"] == registry.aliases()["champion"] != registry.aliases()["previous"]


def test_a_model_that_was_registered_by_hand_is_the_champion(tmp_path: Path) -> None:
    job, data = job_of(tmp_path, n_components=[3]), tmp_path / "data.zarr"
    append(data, night(0))
    dgmm.save(dgmm.train(str(data), 3, variables=["t", "s"]), tmp_path / "m.zarr")
    add = ["models", "add", job.registry, str(tmp_path / "m.zarr"), "--promote"]
    assert main(add) == 0
    with pytest.raises(dgmm.InputError, match="register it with its data"):
        run_refresh(job)
    assert main([*add, "--data", str(data)]) == 0
    assert len(refreshed(job)) == 4
    assert len(Registry(job.registry).versions()) == 1
    append(data, night(1))
    # what it was fitted to is known: the new rows are those that came after
    assert refreshed(job) == [4, 5, 6, 7]
    assert night_of(job)["since"] == ROWS
