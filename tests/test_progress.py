"""How far work is: on the lines of the log, and how long it takes yet."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from dgmm.fitting.forecast import passes_left
from dgmm.pipeline import run_score, run_train
from dgmm.progress import Progress, progress_on
from tests import journals, ledgers


class Heard(logging.Handler):
    """Keeps the progress that lines carry."""

    def __init__(self) -> None:
        super().__init__()
        self.progress: list[Progress] = []

    def emit(self, record: logging.LogRecord) -> None:
        found = progress_on(record)
        self.progress += [] if found is None else [found]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> object:
    handler, logger = Heard(), logging.getLogger("dgmm")
    monkeypatch.setattr(logger, "level", logging.INFO)
    logger.manager._clear_cache()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.manager._clear_cache()


@pytest.mark.parametrize(
    ("gains", "enough", "most", "expected"),
    [
        # halved by every pass: from 1 to 1/16 in four
        ([16.0, 8.0, 4.0, 2.0, 1.0], 1 / 16, 100, 4),
        ([4.0, 2.0, 1.0], 0.3, 100, 2),
        ([4.0, 2.0, 1.0], 1e-30, 7, 7),
        ([4.0, 2.0], 2.0, 100, 0),
        # nothing is known, or it does not shrink
        ([], 0.1, 9, 9),
        ([float("inf"), 3.0], 0.1, 9, 9),
        ([1.0, 2.0], 0.1, 9, 9),
        ([2.0, 1.0], 0.0, 9, 9),
        ([2.0, 1.0], 0.0, -1, 0),
        # only the last five are looked at
        ([1e9, 16.0, 8.0, 4.0, 2.0, 1.0], 0.5, 100, 1),
    ],
)
def test_passes_are_foretold_from_how_gains_shrink(gains: list[float], enough: float, most: int, expected: int) -> None:
    assert passes_left(gains, enough, most) == expected


def test_every_pass_says_how_far_it_is(heard: Heard, tmp_path: Path) -> None:
    fit = run_train(journals.train(journals.write_data(tmp_path), tmp_path / "out"))
    passes = heard.progress
    assert [p.what for p in passes] == ["passes"] * len(passes)
    assert [p.done for p in passes] == list(range(1, len(passes) + 1))
    assert all(p.done + p.left <= journals.TRAINING["max_iter"] for p in passes)
    assert 0 < passes[0].percent <= passes[-1].percent <= 100
    assert max(p.log_likelihood for p in passes) == pytest.approx(fit.log_likelihood / fit.n_samples)


def test_scores_say_how_far_they_are_in_a_handful_of_portions(
    heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dgmm.scoring.portions.LEAST", 1)
    ledgers.write_job(tmp_path)
    with ledgers.small_for_a_while():
        run_score(ledgers.job_of(tmp_path, tmp_path / "out", cluster={"scheduler": "threads", "n_workers": 2}))
    regions = [(p.done, p.left) for p in heard.progress]
    assert len(regions) == 5
    assert [done + left for done, left in regions] == [ledgers.N] * 5
    assert regions[-1] == (ledgers.N, 0)


def test_few_regions_are_one_portion(heard: Heard, tmp_path: Path) -> None:
    ledgers.write_job(tmp_path)
    run_score(ledgers.job_of(tmp_path, tmp_path / "out"))
    assert len(heard.progress) == 1


@pytest.mark.parametrize(
    ("progress", "percent", "words"),
    [
        (
            Progress("passes", 3, 9, 60.0, -1.5),
            25.0,
            "3 passes of an estimated 12, -1.500000 nats per sample",
        ),
        (Progress("regions", 4, 4, 600.0), 50.0, "4 regions of an estimated 8, some 10 min to go"),
        (Progress("regions", 1, 3, 7200.0), 25.0, "1 regions of an estimated 4, some 2.0 h to go"),
        (Progress("passes", 5, 0, 0.0, -1.0), 100.0, "5 passes of an estimated 5, -1.000000 nats per sample"),
        (Progress("passes", 0, 0, 0.0), 0.0, "0 passes of an estimated 0"),
    ],
)
def test_progress_in_words(progress: Progress, percent: float, words: str) -> None:
    assert progress.percent == percent
    assert str(progress).startswith(words)
