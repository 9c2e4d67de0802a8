"""The flows: thin, over the same pipeline as the command line, with artifacts, progress lines and resumption."""

import logging
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import psutil
import pytest
import xarray as xr

import dgmm
from dgmm.config import Cluster, Data, Merge, Pipeline, Predict, Score, Select, Train, Update
from dgmm.errors import ClusterError
from dgmm.fits import Training
from tests import journals
from tests.reliability.faults import drivers
from tests.servers import ROOT

pytestmark = pytest.mark.prefect


@pytest.fixture(scope="module", autouse=True)
def harness() -> object:
    """Prefect's embedded server on a database of its own."""
    import_module("flows")  # its environment comes before Prefect's
    from prefect.logging.configuration import setup_logging
    from prefect.testing.utilities import prefect_test_harness

    logger = logging.getLogger("dgmm")
    before = logger.level, logger.propagate, list(logger.handlers)
    # anew, whoever has imported Prefect before and set up the logger since
    logger.setLevel(logging.INFO)
    logger.propagate, logger.handlers = True, []
    setup_logging(incremental=False)
    with prefect_test_harness(server_startup_timeout=120):
        yield
    # Prefect's handlers want a run, and other tests have none
    logger.level, logger.propagate, logger.handlers = before


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("flows")
    return Pipeline(
        out=str(folder / "run"),
        example="old_faithful",
        data=Data(path=str(folder / "input.zarr"), variables=["eruptions", "waiting"]),
        n_components=[1, 2, 3, 4],
        covariance_type=["full", "tied"],
        cluster=Cluster(scheduler="threads"),
    )


class Lines(logging.Handler):
    """Keeps the lines that the library logs."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += record.getMessage() + "\n"


@pytest.fixture
def lines() -> object:
    handler, logger = Lines(), logging.getLogger("dgmm")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def artifacts(key: str) -> list:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    with get_client(sync_client=True) as client:
        return client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))


def test_the_pipeline_selects_scores_reports_and_goes_on_where_it_was(
    job: Pipeline, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import watch
    from flows.pipeline import pipeline

    told: list[str] = []

    def heard(self: watch.LogOfRun, record: logging.LogRecord) -> None:
        assert self._run["flow_run_id"]
        told.append(record.getMessage())

    monkeypatch.setattr(watch.LogOfRun, "emit", heard)
    assert pipeline(job) == job.out
    assert "pass 1:" in lines.text, "a line for every pass"
    assert any(line.startswith("pass 1:") for line in told), "in Prefect's log"
    fit = dgmm.load(f"{job.out}/model.zarr")
    assert (fit.covariance_type, fit.n_components) == ("tied", 3)
    report = Path(job.out, "report.html")
    assert "2,314.3" in report.read_text()
    (table,) = artifacts("dgmm-candidates")
    assert "2314.29" in str(table.data)
    assert table.description == "Candidates by BIC"
    (summary,) = artifacts("dgmm-pipeline")
    assert "tied, K = 3" in str(summary.data)

    model = Path(job.out, "model.zarr", "zarr.json")
    before = model.stat().st_mtime_ns
    lines.text = ""
    pipeline(job)
    assert model.stat().st_mtime_ns == before, "the second run keeps what is there"
    assert "kept" in lines.text
    assert "pass 1:" not in lines.text

    other = job.model_copy(update={"n_components": [1, 2]})
    with pytest.raises(dgmm.OutputExistsError, match="made with other settings \\(n_components\\)"):
        pipeline(other)
    pipeline(other.model_copy(update={"overwrite": True}))
    assert dgmm.load(f"{job.out}/model.zarr").n_components == 2


def test_train_select_and_score(job: Pipeline, tmp_path: Path) -> None:
    from dgmm.pipeline import write_example
    from flows.score import score
    from flows.select import select
    from flows.train import train

    write_example(job)
    common = {"data": job.data, "cluster": job.cluster}
    model = str(tmp_path / "model.zarr")
    train(Train(**common, out=model, n_components=2, training=Training(n_init=2)))
    assert dgmm.load(model).bic == pytest.approx(2322.19, abs=0.02)
    select(Select(**common, out=str(tmp_path / "run"), n_components=[1, 2], covariance_type=["tied"], criterion="aic"))
    assert "Candidates by AIC" in {table.description for table in artifacts("dgmm-candidates")}
    assert "AIC" in str(artifacts("dgmm-select")[0].data)
    assert dgmm.load(tmp_path / "run" / "model.zarr").bic == pytest.approx(2325.22, abs=0.02)
    score(Score(**common, model=model, out=str(tmp_path / "scores.zarr")))
    assert artifacts("dgmm-train")
    assert artifacts("dgmm-select")
    (summary,) = artifacts("dgmm-score")
    assert "272 samples scored, 0 missing" in str(summary.data)


def test_merge_and_predict_keep_what_is_there(job: Pipeline, lines: Lines, tmp_path: Path) -> None:
    from dgmm.pipeline import run_train, write_example
    from flows.merge import merge
    from flows.predict import predict

    write_example(job)
    common = {"data": job.data, "cluster": job.cluster}
    for name, k in (("m", 4), ("other", 3)):
        run_train(Train(**common, out=str(tmp_path / name), n_components=k, training=Training(n_init=2)))
    merging = Merge(**common, model=str(tmp_path / "m"), out=str(tmp_path / "merged"))
    said = {}
    for done in (False, True):
        lines.text = ""
        assert merge(merging) == merging.out
        said[done] = str(artifacts("dgmm-merge")[-1].data)
        assert ("kept" in lines.text) == done
    clusters = dgmm.load(tmp_path / "merged").clusters
    assert clusters is not None
    assert clusters.words in said[False] == said[True]
    assert clusters.levels[2].tolist() == dgmm.merge(tmp_path / "m", job.data.path).clusters.level(3).tolist()
    merge(merging.model_copy(update={"out": None}))
    for other in ({"seed": 1}, {"model": str(tmp_path / "other")}):
        with pytest.raises(dgmm.OutputExistsError, match=f"made with other settings \\(.*{next(iter(other))}"):
            merge(merging.model_copy(update=other))
    # of a merged model the clusters may be found anew
    again = Merge(**common, model=str(tmp_path / "merged"), out=str(tmp_path / "again"))
    merge(again)

    asked = Predict(**common, model=str(tmp_path / "m"), out=str(tmp_path / "p"), of=["waiting"])
    for done in (False, True):
        lines.text = ""
        assert predict(asked) == asked.out
        assert ("kept" in lines.text) == done
        assert f"272 samples predicted, 0 missing: {asked.out}" in str(artifacts("dgmm-predict")[-1].data)
    found, samples = (xr.open_zarr(path, consolidated=False) for path in (asked.out, job.data.path))
    mean, _ = dgmm.load(tmp_path / "m").predict(samples["eruptions"].values[:, None], ["waiting"])
    np.testing.assert_allclose(found["waiting"], mean[:, 0], rtol=1e-10)
    for other in ({"variance": True}, {"model": str(tmp_path / "other")}):
        with pytest.raises(dgmm.OutputExistsError, match=f"made with other settings \\(.*{next(iter(other))}"):
            predict(asked.model_copy(update=other))
    predict(asked.model_copy(update={"variance": True, "overwrite": True}))


@pytest.mark.slow
def test_an_update_keeps_what_is_there(job: Pipeline, lines: Lines, tmp_path: Path) -> None:
    from dgmm.pipeline import write_example
    from flows.update import update

    write_example(job)
    model, out = str(tmp_path / "m"), str(tmp_path / "updated")
    dgmm.save(dgmm.train(dgmm.datasets.old_faithful().isel(eruption=slice(100)), 2), model)
    asked = Update(data=job.data, cluster=job.cluster, model=model, out=out)
    for done in (False, True):
        lines.text = ""
        assert update(asked) == out
        assert ("kept" in lines.text) == done
        assert "272 new samples (0 missing)" in str(artifacts("dgmm-update")[-1].data)
    with pytest.raises(dgmm.OutputExistsError, match="made with other settings \\(forget"):
        update(asked.model_copy(update={"forget": 0.5}))


def test_wrong_settings_are_one_line_and_exit_code_two(tmp_path: Path) -> None:
    settings = tmp_path / "wrong.yaml"
    settings.write_text("out: here\ndata: {path: x.zarr}\nn_components: 0\nnonsense: 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "flows.pipeline", str(settings)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("dgmm: ")
    assert "nonsense: unknown setting" in done.stderr
    assert "n_components.0" in done.stderr


def test_options_change_what_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of the command line, and of the same names."""
    from flows.common import main

    file = tmp_path / "s.yaml"
    file.write_text("out: here\ndata: {path: x.zarr}\nn_components: 2\ntraining: {n_init: 3, seed: 4}\n")
    line = ["flows", str(file), "--n-init", "5", "--k", "6", "--workers", "7", "--set", "n_components=8", "--overwrite"]
    monkeypatch.setattr(sys, "argv", line)
    asked: list[Train] = []
    with pytest.raises(SystemExit) as stopped:
        main(asked.append, Train)
    assert stopped.value.code == 0
    (settings,) = asked
    assert (settings.training.n_init, settings.training.seed, settings.n_components) == (5, 4, 8)
    assert (settings.cluster.n_workers, settings.overwrite, settings.out) == (7, True, "here")


def test_what_is_published_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from flows import common

    published: list[str] = []
    monkeypatch.setattr(common, "create_markdown_artifact", lambda **named: published.append(named["markdown"]))
    common.publish_summary("key", "three clusters")
    assert capsys.readouterr().out == "three clusters\n"
    assert published == ["```\nthree clusters\n```"]


def test_a_phase_that_loses_its_scheduler_is_tried_again_and_goes_on(
    lines: Lines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the journal, though the output was to be replaced: the first try has replaced nothing yet."""
    from flows import common
    from flows.train import train

    def lose() -> None:
        raise ClusterError("lost the scheduler")

    monkeypatch.setattr(common, "FIRST_PAUSE", 0.01)
    with journals.at_record(3, lose):
        train(journals.train(drivers.data(), tmp_path / "out", overwrite=True))
    assert "going on after 3 passes" in lines.text
    assert journals.bits(str(tmp_path / "out")) == drivers.undisturbed("training")[0]


def test_bad_input_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import common
    from flows.train import train

    tries = []

    def refuse(settings: Train, **_: object) -> None:
        tries.append(settings)
        raise dgmm.InputError("nothing but fill values")

    monkeypatch.setattr(common, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(sys.modules["flows.train"], "run_train", refuse)
    with pytest.raises(dgmm.InputError, match="nothing but fill values"):
        train(journals.train(drivers.data(), tmp_path / "out"))
    assert len(tries) == 1


def test_a_flow_whose_time_is_over_stops_its_cluster_and_leaves_its_journal(tmp_path: Path) -> None:
    """And the next one goes on from there."""
    from flows.train import train

    def end_of_time() -> None:
        assert psutil.Process().children(recursive=True), "workers"
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        time.sleep(60)

    job = journals.train(drivers.data(), tmp_path / "out", cluster={"scheduler": "processes", "n_workers": 1})
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with journals.at_record(3, end_of_time):
        state = train.with_options(timeout_seconds=3600)(job, return_state=True)
    assert state.name == "TimedOut"
    left = [c for c in psutil.Process().children(recursive=True) if c.pid not in before]
    assert not [c for c in left if "spawn_main" in " ".join(c.cmdline())]
    assert journals.n_records(tmp_path / "out.journal") == 3
    assert not Path(tmp_path / "out.partial").exists()
    train(job)
    assert journals.bits(str(tmp_path / "out")) == drivers.undisturbed("training")[0]


@pytest.mark.parametrize(
    ("text", "seconds"), [(None, None), ("", None), ("7200", 7200.0), ("0.5", 0.5)], ids=["none", "empty", "s", "part"]
)
def test_how_long_a_flow_may_take(text: str | None, seconds: float | None) -> None:
    from flows.common import limit_of

    assert limit_of(text) == seconds


@pytest.mark.parametrize("text", ["0", "-1", "2h", "inf", "nan"])
def test_no_time_at_all_is_refused(text: str) -> None:
    from flows.common import limit_of

    with pytest.raises(dgmm.InputError, match=f"DGMM_FLOW_SECONDS={text}: give the seconds"):
        limit_of(text)


def test_a_limit_that_is_none_is_refused_by_the_first_phase(
    job: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where flows are imported there is nobody to tell."""
    from flows.train import train

    monkeypatch.setenv("DGMM_FLOW_SECONDS", "2h")
    assert subprocess.run([sys.executable, "-c", "import flows.train"], check=False, cwd=ROOT).returncode == 0
    with pytest.raises(dgmm.InputError, match="DGMM_FLOW_SECONDS=2h: give the seconds that a flow may take"):
        train(Train(data=job.data, out=str(tmp_path / "model.zarr"), n_components=2, cluster=job.cluster))
    assert not (tmp_path / "model.zarr").exists()


def test_a_server_that_does_not_answer_does_not_stop_the_work(monkeypatch: pytest.MonkeyPatch, lines: Lines) -> None:
    from dgmm.progress import Progress
    from flows import watch

    def away(*_: object, **__: object) -> None:
        raise ConnectionError("away")

    monkeypatch.setattr(watch, "create_progress_artifact", away)
    with watch.watched("train"):
        for done in range(3):
            extra = Progress("passes", done, 3 - done, 1.0).on_a_line
            logging.getLogger("dgmm").info("pass", extra=extra)
    # once, and once more at the end
    assert lines.text.count("progress cannot be told: away") == 2


@pytest.mark.parametrize(
    ("path", "asset"),
    [
        ("/data/a model.zarr", "file:///data/a-model.zarr"),
        ("s3://bucket/x.zarr", "s3://bucket/x.zarr"),
        ("s3://key:secret@bucket/x.zarr?token=1", "s3://...@bucket/x.zarr-..."),
    ],
)
def test_assets_have_names_that_prefect_takes(path: str, asset: str) -> None:
    from prefect.assets import Asset

    from flows.assets import asset_of

    assert Asset(key=asset_of(path)).key == asset


def test_lines_of_other_threads_are_in_the_log_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that say what is waited for come from one."""
    from threading import Thread

    from prefect import flow
    from prefect.logging.handlers import APILogHandler

    from flows import watch

    told = []
    monkeypatch.setattr(APILogHandler, "emit", lambda self, record: told.append(vars(record).copy()))
    logger = logging.getLogger("dgmm")
    before = list(logger.handlers)

    @flow
    def waits() -> None:
        with watch.watched("train"):
            thread = Thread(target=logger.warning, args=("waiting for a worker",))
            thread.start()
            thread.join()

    waits()
    (line,) = [line for line in told if line["msg"] == "waiting for a worker"]
    assert line["flow_run_id"]
    assert logger.handlers == before


def test_a_night_is_refreshed_once(tmp_path: Path, lines: Lines) -> None:
    from flows.refresh import refresh
    from tests.nights import append, job_of, night

    job = job_of(tmp_path, n_components=[3])
    append(tmp_path / "data.zarr", night(0))
    assert refresh(job) == job.out
    assert "pass 1:" in lines.text
    (summary,) = artifacts("dgmm-refresh")
    assert "scored by" in str(summary.data)
    scores = Path(job.out, "zarr.json")
    before = scores.stat().st_mtime_ns
    refresh(job)
    assert scores.stat().st_mtime_ns == before
    assert "nothing to do" in lines.text
    append(tmp_path / "data.zarr", night(1))
    refresh(job)
    assert dgmm.api.open_scores(job.out).sizes["time"] == 4000
