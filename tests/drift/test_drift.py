"""Whether data are still like those of a model: what is counted, how it is measured, and what is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import dgmm
from dgmm import pipeline
from dgmm.cli import main
from dgmm.data import open_samples
from dgmm.drift import Baseline, baseline_of, census_of, compare
from dgmm.drift.baseline import FIELDS, Figures
from dgmm.drift.shifts import spread
from dgmm.engine.workers import threads
from dgmm.errors import ClusterError, InputError
from dgmm.families import Noise
from dgmm.mixture import Mixture
from dgmm.registry import Made, Registry
from dgmm.store import digest
from tests.ledgers import fit as fit_of

MIXTURE = Mixture.gaussian(
    "full", np.array([0.5, 0.3, 0.2]), np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]]), np.tile(np.eye(2), (3, 1, 1))
)
N, CHUNK = 40_000, 5_000


def rows(seed: int, shares: tuple[float, ...] = (0.5, 0.3, 0.2), n: int = N) -> np.ndarray:
    """Rows of the mixture, with other shares if need be."""
    r = np.random.default_rng(seed)
    labels = r.choice(3, n, p=shares)
    return MIXTURE.means[labels] + r.standard_normal((n, 2))


def written(path: Path, x: np.ndarray) -> str:
    array = zarr.create_array(str(path), shape=x.shape, chunks=(CHUNK, 2), dtype="f8", overwrite=True)
    array[:] = x
    return str(path)


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    return baseline_of(open_samples(rows(0)), MIXTURE, threads(2))


def drift_of(baseline: Baseline, x: np.ndarray, threshold: float = 3.0) -> Any:
    samples = open_samples(x)
    figures = census_of(samples, MIXTURE, baseline.bound, threads(2))
    return compare(baseline, figures, threshold, lambda part: f"rows {samples.grid.region(part)[0].start}")


def test_a_census_counts_what_there_is(tmp_path: Path) -> None:
    x = rows(1)
    x[7::50, 1] = np.nan
    x[CHUNK : 2 * CHUNK] = np.nan
    samples = open_samples(written(tmp_path / "x.zarr", x))
    bound = -6.0
    figures = census_of(samples, MIXTURE, bound, threads(2))
    assert len(figures.rows) == len(samples.grid) == N // CHUNK
    for part in range(len(samples.grid)):
        block = x[samples.grid.region(part)[0]]
        kept = block[~np.isnan(block).any(axis=1)]
        density = MIXTURE.log_density(kept) if len(kept) else np.zeros(0)
        labels = MIXTURE.responsibilities(kept).argmax(axis=1) if len(kept) else np.zeros(0, int)
        assert figures.rows[part] == len(kept)
        assert figures.missing[part] == len(block) - len(kept)
        assert figures.unlikely[part] == (density < bound).sum()
        assert figures.classes[part].tolist() == np.bincount(labels, minlength=3).tolist()
        assert figures.log_density[part] == pytest.approx(density.sum(), rel=1e-12)


def test_the_figures_are_the_same_on_any_workers(tmp_path: Path, client: Any) -> None:
    from dgmm.engine import open_workers

    samples = open_samples(written(tmp_path / "x.zarr", rows(1)))
    here = census_of(samples, MIXTURE, -6.0, threads(1))
    with open_workers(client.scheduler.address) as workers:
        there = census_of(samples, MIXTURE, -6.0, workers)
    for name in FIELDS:
        assert getattr(here, name).tobytes() == getattr(there, name).tobytes()


def test_one_in_a_hundred_of_the_training_data_is_unlikely(baseline: Baseline) -> None:
    assert baseline.figures.unlikely.sum() / baseline.figures.rows.sum() == pytest.approx(0.01, rel=0.1)
    assert baseline.model == digest(MIXTURE)


def test_other_data_of_the_same_kind_have_not_drifted(baseline: Baseline) -> None:
    for seed in range(1, 9):
        drift = drift_of(baseline, rows(seed))
        assert drift.found == ()
        assert drift.n_places == 0


def test_few_data_of_the_same_kind_have_not_drifted_either(baseline: Baseline) -> None:
    """What chance makes of so few is part of the measure; what has really moved is found in them all the same."""
    drifts = [drift_of(baseline, rows(seed, n=CHUNK // 50), threshold=4.5) for seed in range(1, 21)]
    assert sum(bool(drift.found) for drift in drifts) <= 2
    assert drift_of(baseline, rows(1, (0.1, 0.7, 0.2), n=CHUNK // 50)).found


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("class 2", lambda x: rows(3, (0.45, 0.3, 0.25))),
        ("class 0", lambda x: rows(3, (0.4, 0.4, 0.2))),
        ("unlikely", lambda x: x * 1.05),
        ("mean log density", lambda x: x + 0.5),
        ("missing", lambda x: np.where((np.arange(N) % 20 == 0)[:, None], np.nan, x)),
    ],
)
def test_what_has_moved_is_found_and_named(what: str, change: Any, baseline: Baseline) -> None:
    drift = drift_of(baseline, change(rows(3)))
    assert what in {shift.what for shift in drift.found}
    assert str(drift).startswith(f"{len(drift.found)} of 6 figures have moved by more than 3 block deviations")


def test_the_place_that_has_moved_is_named(baseline: Baseline) -> None:
    x = rows(4)
    x[8192:12_288] += 3
    drift = drift_of(baseline, x)
    assert drift.n_places < drift.n_parts
    assert [shift.where for shift in drift.places] == ["rows 8192"]
    assert "1 of 10 parts of the grid have, by twice that; most:" in str(drift)


def test_the_measure_is_what_blocks_differ_by() -> None:
    """By hand: four blocks of 100 rows with 10, 20, 30 and 40 of class 1; 45 of 100 now."""
    ones = np.array([10.0, 20, 30, 40])
    figures = Figures(
        np.full(4, 100.0), np.zeros(4), np.zeros(4), np.stack([100 - ones, ones], axis=1), -np.full(4, 200.0)
    )
    was = Baseline("m", -5.0, figures)
    now = Figures(np.array([100.0]), np.zeros(1), np.zeros(1), np.array([[55.0, 45.0]]), np.array([-200.0]))
    deviation = np.std([0.1, 0.2, 0.3, 0.4])
    drift = compare(was, now, 1.0, str)
    effects = {shift.what: shift.effect for shift in drift.shifts}
    assert effects["class 1"] == pytest.approx((0.45 - 0.25) / deviation)
    assert effects["class 0"] == pytest.approx(-(0.45 - 0.25) / deviation)
    assert effects["missing"] == 0
    # where blocks do not differ at all, one row in a block is the measure
    assert spread(figures)[0] == pytest.approx(1 / 100)
    exact = abs(effects["class 1"])
    assert {s.what for s in compare(was, now, exact * 0.999, str).found} == {"class 0", "class 1"}
    assert compare(was, now, exact * 1.001, str).found == ()
    # a part counts from twice as much on
    assert compare(was, now, exact / 2 * 0.999, str).n_places == 1
    assert compare(was, now, exact / 2 * 1.001, str).n_places == 0
    # and one of a quarter of the rows from four times
    quarter = Figures(*(getattr(now, name) / 4 for name in FIELDS))
    assert compare(was, quarter, exact / 4 * 0.999, str).n_places == 1
    assert compare(was, quarter, exact / 4 * 1.001, str).n_places == 0


def test_of_one_block_chance_is_the_measure() -> None:
    """As after a first night: there is nothing between blocks to go by, and data of the same kind have not drifted."""
    one = baseline_of(open_samples(rows(0, n=3000)), MIXTURE, threads(2))
    assert len(one.figures.rows) == 1
    density = MIXTURE.log_density(rows(0, n=3000))
    shares = one.figures.total.shares[:, 0]
    scale = spread(one.figures, one.deviation)
    assert scale[2] == pytest.approx(density.std() / np.sqrt(3000))
    assert scale[3:] == pytest.approx(np.sqrt(shares[3:] * (1 - shares[3:]) / 3000))
    # four standard deviations of the difference: a figure is as far from another night's as both are from the truth
    bound = 4 * np.sqrt(2)
    assert not any(drift_of(one, rows(seed, n=3000), bound).found for seed in range(1, 21))
    assert drift_of(one, rows(1, (0.4, 0.4, 0.2), n=3000), bound).found


def test_a_baseline_is_kept_whole(baseline: Baseline) -> None:
    again = Baseline.from_json(baseline.to_json.encode(), "b")
    assert (again.model, again.bound, again.deviation) == (baseline.model, baseline.bound, baseline.deviation)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(again.figures, name), getattr(baseline.figures, name))


@pytest.mark.parametrize(
    "change",
    [
        {"rows": [1.0]},
        {"rows": []},
        {"classes": [[1.0], [2.0]]},
        {"missing": [-1.0] * 10},
        {"bound": None},
        {"rows": "x"},
        {"model": 3},
        {"rows": [1.0] * 1000},
    ],
)
def test_a_baseline_that_is_damaged_is_refused(change: dict[str, Any], baseline: Baseline) -> None:
    content = json.loads(baseline.to_json) | change
    with pytest.raises(InputError, match="b is damaged"):
        Baseline.from_json(json.dumps(content).encode(), "b")
    with pytest.raises(InputError, match="b is damaged"):
        Baseline.from_json(baseline.to_json.encode()[:-100], "b")


def test_many_segments_become_blocks() -> None:
    n = 1000
    counts = np.arange(2.0 * n).reshape(n, 2)
    figures = Figures(counts.sum(axis=1), np.ones(n), np.zeros(n), counts, -np.ones(n))
    blocks = figures.blocks()
    assert len(blocks.rows) == 250
    assert blocks.missing.tolist() == [4.0] * 250
    assert blocks.classes.sum(axis=0).tolist() == counts.sum(axis=0).tolist()
    assert blocks.rows[1] == counts[4:8].sum()


# ---- samples of which values are missing ----------------------------------------------------------------------------


def holes(x: np.ndarray, seed: int, share: float = 0.3) -> np.ndarray:
    """Rows of which each value is missing with a probability."""
    return np.where(np.random.default_rng(seed).random(x.shape) < share, np.nan, x)


@pytest.fixture(scope="module")
def whole() -> Baseline:
    """Of complete rows, for a mixture that takes others."""
    return baseline_of(open_samples(rows(0)), MIXTURE, threads(2), completed=True)


def effects_of(baseline: Baseline, x: np.ndarray) -> dict[str, float]:
    samples = open_samples(x)
    figures = census_of(samples, MIXTURE, baseline.bound, threads(2), completed=baseline.completed)
    return {shift.what: shift.effect for shift in compare(baseline, figures, 3.0, str).shifts}


@pytest.mark.parametrize("lost", ["some of each feature", "all of one", "nothing"])
def test_what_is_missing_at_random_moves_nothing_else(lost: str, whole: Baseline) -> None:
    x = rows(1)
    if lost == "some of each feature":
        x = holes(x, 1)
    elif lost == "all of one":
        x[:, 1] = np.nan
    effects = effects_of(whole, x)
    for what in ("missing", "incomplete"):
        moved = effects.pop(what)
        assert (moved > 3) == (np.isnan(x).all(axis=1).any() if what == "missing" else lost != "nothing")
    assert max(map(abs, effects.values())) < 3


def test_incomplete_samples_that_have_moved_are_found(whole: Baseline) -> None:
    """By the one feature that is left of all of them."""
    x = rows(1)
    x[:, 1] = np.nan
    assert abs(effects_of(whole, x + 0.5)["mean log density"]) > 3
    fewer = rows(1, (0.4, 0.4, 0.2))
    fewer[:, 1] = np.nan
    effects = effects_of(whole, fewer)
    assert effects["class 1"] > 3
    assert effects["class 0"] < -3


def test_a_census_of_incomplete_samples_counts_each_once(tmp_path: Path) -> None:
    """By NumPy; classes as probable as they are, whose components lie far apart; the same whatever the chunks."""
    x = holes(rows(1), 2)
    samples = open_samples(written(tmp_path / "x.zarr", x))
    figures = census_of(samples, MIXTURE, -6.0, threads(2), completed=True)
    missing = np.isnan(x)
    blocks = [samples.grid.region(part)[0] for part in range(len(samples.grid))]
    nothing, some = missing.all(axis=1), missing.any(axis=1) & ~missing.all(axis=1)
    assert figures.missing.tolist() == [nothing[block].sum() for block in blocks]
    assert figures.incomplete is not None
    assert figures.incomplete.tolist() == [some[block].sum() for block in blocks]
    assert figures.rows.tolist() == [(~nothing[block]).sum() for block in blocks]
    shares = MIXTURE.responsibilities(x[~nothing], marginal=True)
    deviation = np.sqrt((shares * (1 - shares)).sum(axis=0))
    assert (np.abs(figures.classes.sum(axis=0) - shares.sum(axis=0)) < 4 * deviation + 1).all()
    array = zarr.create_array(str(tmp_path / "y.zarr"), shape=x.shape, chunks=(N, 2), dtype="f8")
    array[:] = x
    other = census_of(open_samples(str(tmp_path / "y.zarr")), MIXTURE, -6.0, threads(1), completed=True)
    for name in (*FIELDS[:-1], "incomplete"):
        assert getattr(other, name).sum(axis=0).tolist() == getattr(figures, name).sum(axis=0).tolist()
    x[7, 0] = np.inf
    with pytest.raises(InputError, match=r"is inf at sample \(7\)"):
        census_of(open_samples(x), MIXTURE, -6.0, threads(1), completed=True)


def test_a_baseline_says_whether_it_has_incomplete_samples(baseline: Baseline) -> None:
    made = baseline_of(open_samples(holes(rows(0), 0)), MIXTURE, threads(2), completed=True)
    again = Baseline.from_json(made.to_json.encode(), "b")
    assert (baseline.completed, made.completed, again.completed) == (False, True, True)
    assert made.figures.unlikely.sum() / made.figures.rows.sum() == pytest.approx(0.01, rel=0.1)
    np.testing.assert_array_equal(again.figures.incomplete, made.figures.incomplete)
    now = census_of(open_samples(holes(rows(1), 1)), MIXTURE, made.bound, threads(2), completed=True)
    assert not compare(made, now, 3.0, str).found
    for wrong in ([-1.0] * len(made.figures.rows), [1e9] * len(made.figures.rows), [1.0]):
        content = json.loads(made.to_json) | {"incomplete": wrong}
        with pytest.raises(InputError, match="b is damaged: its incomplete samples are not some of its samples"):
            Baseline.from_json(json.dumps(content).encode(), "b")


def test_a_model_that_marginalises_is_watched_by_all_of_its_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    nothing = {}
    for name, seed, share in (("old", 0, 0.3), ("same", 1, 0.3), ("more", 1, 0.4)):
        x = holes(rows(seed), seed, share)
        nothing[name] = np.isnan(x).all(axis=1).mean()
        x[~np.isnan(x).any(axis=1), 0] = np.nan  # none is complete
        written(tmp_path / f"{name}.zarr", x)
    fit = dgmm.train("old.zarr", 3, "spherical", missing="marginalise", search="starts")
    dgmm.save(fit, "m.zarr")
    assert main(["models", "add", "models/m", "m.zarr", "--data", "old.zarr", "--promote"]) == 0
    capsys.readouterr()
    assert main(["drift", "models/m@champion", "same.zarr", "--quiet"]) == 0
    assert main(["drift", "m.zarr", "more.zarr", "--reference", "old.zarr", "--quiet"]) == 1
    assert f"missing: {nothing['old']:.3%} before, {nothing['more']:.3%} now" in capsys.readouterr().out


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that is fitted to a store, data of the same kind, and data that are not."""
    monkeypatch.chdir(tmp_path)
    dgmm.save(dgmm.train(written(tmp_path / "old.zarr", rows(0)), 3, search="starts"), "m.zarr")
    written(tmp_path / "same.zarr", rows(1))
    written(tmp_path / "other.zarr", rows(1, (0.2, 0.6, 0.2)))
    return tmp_path


def test_the_command_says_it_with_its_exit_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "add", "models/m", "m.zarr", "--data", "old.zarr", "--promote"]) == 0
    assert main(["drift", "models/m@champion", "same.zarr", "--quiet"]) == 0
    assert "no figure has moved by more than 3 block deviations" in capsys.readouterr().out
    assert main(["drift", "models/m@champion", "other.zarr", "--quiet", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["drifted"] is True
    assert found["parts_moved"] == found["parts"]
    assert found["places"][0]["where"].startswith("sample ")
    assert main(["drift", "models/m@champion", "other.zarr", "--quiet", "--threshold", "1e6"]) == 0
    assert main(["drift", "m.zarr", "other.zarr", "--reference", "old.zarr", "--quiet"]) == 1
    assert main(["drift", "m.zarr", "same.zarr", "--reference", "old.zarr", "--quiet"]) == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("drift m.zarr same.zarr", "m.zarr has no baseline: name what it was fitted to (reference)"),
        ("drift models/m@champion same.zarr", "models/m@champion has no baseline"),
        ("drift none.zarr same.zarr", "none.zarr"),
        ("drift m.zarr none.zarr --reference old.zarr", "none.zarr"),
        ("drift m.zarr same.zarr --reference old.zarr --threshold 0", "threshold"),
        ("drift m.zarr nothing.zarr --reference old.zarr", "missing"),
    ],
)
def test_what_cannot_be_told_is_refused(line: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["models", "add", "models/m", "m.zarr", "--promote"])
    written(folder / "nothing.zarr", np.full((N, 2), np.nan))
    capsys.readouterr()
    assert main([*line.split(), "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_a_baseline_of_another_model_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry = Registry("models/m")
    content = baseline_of(open_samples(rows(0)), MIXTURE, threads(1)).to_json
    registry.promote(registry.add(fit_of(), Made(baseline=content)))
    zarr.create_array("wide.zarr", shape=(100, 3), chunks=(100, 3), dtype="f8")[:] = np.random.default_rng(0).normal(
        size=(100, 3)
    )
    capsys.readouterr()
    assert main(["drift", "models/m@champion", "wide.zarr", "--quiet"]) == 2
    assert "is of another model: register it again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "code"), [("drift m.zarr x.zarr", 2), ("verify s.zarr", 2), ("score m.zarr x.zarr --out s.zarr", 1)]
)
def test_where_one_says_that_something_was_found_what_goes_wrong_is_two(
    command: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(*_: Any) -> Any:
        raise ClusterError("the scheduler is gone")

    for name in ("run_watch", "run_verify", "run_score"):
        monkeypatch.setattr(pipeline, name, away)
    assert main(command.split()) == code
    assert capsys.readouterr().err == "dgmm: the scheduler is gone\n"


def test_more_noise_is_called_that() -> None:
    """Where a model has noise beside its components, and the data more of it than once."""
    mixture = MIXTURE.beside(Noise.between(0.1, np.full(2, -10.0), np.full(2, 20.0)))
    was, now = (mixture.beside(mixture.noise.weighing(w)).sample(N, np.random.default_rng(0))[0] for w in (0.1, 0.2))
    before, samples = baseline_of(open_samples(was), mixture, threads(2)), open_samples(now)
    figures = census_of(samples, mixture, before.bound, threads(2))
    drift = compare(before, figures, 3.0, str, noisy=True)
    noise = next(shift for shift in drift.shifts if shift.what == "noise")
    assert noise.now - noise.before == pytest.approx(0.1, abs=0.02)
    assert noise in drift.found
    assert {shift.what for shift in drift.shifts} >= {"class 0", "class 1", "class 2"}
