"""What becomes of candidates whose components collapse: one value, told to users, tables, files and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr

import dgmm
from dgmm.cli import main
from dgmm.errors import CollapseError
from dgmm.families.cholesky import cholesky
from dgmm.fits import SOUND, Outcome, OutcomeKind
from dgmm.fits.table import make_table
from dgmm.passes import row_hashes
from dgmm.report.figures import MARKERS, criterion_figure, states
from dgmm.store import models as store
from dgmm.types import Criterion

N, M = 2000, 200
#: One component for the cluster at zero, two for the one at nine.
GIVEN: dict[str, Any] = {
    "means_init": [[0.0], [8.5], [9.5]],
    "weights_init": [0.5, 0.25, 0.25],
    "precisions_init": [[[1.0]]] * 3,
}
#: No floor, and a sample that has none of the equal rows.
HOW: dict[str, Any] = {"reg_covar": 0, "sample_rows": M, "start_rows": M, "worst_rows": 30, "search": "starts"}


def clean_in_the_sample() -> np.ndarray:
    """Two clusters, of which one is of equal rows but for those of the sample, and 40 rows far away."""
    r = np.random.default_rng(0)
    chosen = np.argsort(row_hashes(np.arange(N, dtype=np.uint64), 0))[:M]
    x = np.where(r.random(N) < 0.5, r.standard_normal(N), 9.0)
    x[np.setdiff1d(np.arange(N), chosen)[:40]] = 25 + r.standard_normal(40)
    x[chosen] = r.standard_normal(M) + 9 * (np.arange(M) % 2)
    return x[:, None]


def three_distinct_rows() -> np.ndarray:
    """No component of several can have an extent."""
    return np.repeat([[0.0, 0.0], [5.0, 1.0], [1.0, 7.0]], 40, axis=0)


def test_a_collapse_on_all_the_data_is_said_and_names_the_component(caplog: pytest.LogCaptureFixture) -> None:
    x = clean_in_the_sample()
    fit = dgmm.train(x, 3, **GIVEN, **HOW)
    (narrow,) = fit.collapsed
    assert abs(fit.mixture.means[narrow, 0] - 9) < 0.01
    assert fit.mixture.covariances[narrow, 0, 0] < 1e-3, "the canonical order's number, not the climb's"
    assert fit.outcome == Outcome(
        OutcomeKind.COLLAPSED,
        fit.n_passes,
        (narrow,),
        f"component {narrow} has too few samples or no extent, which ended its climb at pass {fit.n_passes}: lower "
        "n_components (3) or raise reg_covar (0)",
    )
    assert not fit.converged
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warning == f"collapsed: {fit.reason}"
    assert fit.log_likelihood == pytest.approx(fit.mixture.log_density(x).sum(), rel=1e-9)


def test_a_collapse_on_all_the_data_tries_again_if_asked(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="dgmm"):
        fit = dgmm.train(clean_in_the_sample(), 3, **GIVEN, **HOW, on_collapse="reseed")
    # a line for every pass, those of the second try too
    lines = [m for m in caplog.messages if m.startswith("pass ")]
    assert [line.replace(",", ":").split(":")[0] for line in lines] == [f"pass {i + 1}" for i in range(fit.n_passes)]
    assert sum(", challengers: 1 alive, best full K=3 (components (" in line for line in lines) > 3
    assert fit.state == "converged"
    np.testing.assert_allclose(np.sort(fit.mixture.means[:, 0]), [0, 9, 25], atol=0.5)


def test_what_collapses_comes_last_in_the_table_and_cannot_win() -> None:
    """Its criterion is the lowest by thousands."""
    chosen = dgmm.select(clean_in_the_sample(), [3, 1, 2], ["full"], **HOW, n_init=3, on_collapse="report")
    table = chosen.table
    assert chosen.best.n_components == 2
    assert chosen.best.state == "converged"
    assert table["n_components"].tolist() == [2, 1, 3]
    assert table["state"].tolist() == ["converged", "converged", "collapsed"]
    assert table["bic"][2] < table["bic"][0] - 1000
    assert table["collapsed"][2] >= 1
    assert chosen.at_edge is False


def test_what_failed_comes_after_what_collapsed_whatever_the_criterion() -> None:
    fits = {f.n_components: f for f in dgmm.select(clean_in_the_sample(), [1, 2, 3], ["full"], **HOW, n_init=3).fits}
    failed = {(4, "full"): Outcome(OutcomeKind.FAILED, reason="none of its 3 starts holds on the sample")}
    for criterion in (Criterion.BIC, Criterion.ICL, Criterion.AIC):
        table = make_table([fits[3], fits[1], fits[2]], failed, criterion)
        assert table["n_components"].tolist() == [2, 1, 3, 4]
        assert table["state"].tolist()[2:] == ["collapsed", "failed"]
        assert table["reason"][3] == "none of its 3 starts holds on the sample"


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_nothing_to_return_is_an_error_with_advice(kind: str) -> None:
    x = three_distinct_rows()
    with pytest.raises(CollapseError) as caught:
        dgmm.train(x, 3, kind, reg_covar=0)
    message = str(caught.value)
    assert message.startswith(f"{kind} K=3 collapsed: none of its 30 starts holds on the sample; of the first, ")
    assert "lower n_components (3) or raise reg_covar" in message
    assert "\n" not in message
    with pytest.raises(CollapseError) as caught:
        dgmm.select(x, [3, 4], [kind], reg_covar=0)
    assert str(caught.value) == "every candidate collapsed: lower n_components (3 to 4) or raise reg_covar (0)"


def test_every_candidate_may_collapse_on_all_the_data() -> None:
    with pytest.raises(CollapseError, match=r"every candidate collapsed: lower n_components \(3\) or"):
        dgmm.select(clean_in_the_sample(), [3], ["full"], **HOW, n_init=3, on_collapse="report")


def test_a_covariance_that_all_share_collapses_for_all() -> None:
    with pytest.raises(CollapseError, match="all components collapsed: the covariance that they share") as caught:
        cholesky(np.zeros((1, 2, 2)), np.ones(3), 3.0)
    assert caught.value.components == (0, 1, 2)
    with pytest.raises(CollapseError, match="component 1 collapsed: its covariance is singular with 2 of 3") as caught:
        cholesky(np.stack([np.eye(2), np.zeros((2, 2))]), np.array([1.0, 2.0]), 3.0)
    assert caught.value.components == (1,)
    with pytest.raises(CollapseError, match="component 0 collapsed"):
        cholesky(np.zeros((1, 2, 2)), np.ones(1), 3.0)


# ---- the command line -----------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command on a store of samples; its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(x: np.ndarray, line: str) -> tuple[int, str, str]:
        array = zarr.create_array("x.zarr", shape=x.shape, chunks=x.shape, dtype=x.dtype, overwrite=True)
        array[...] = x
        options = [f"--set=training.{name}={value}" for name, value in HOW.items()]
        code = main([*line.split(), *options, "--quiet"])
        return code, *capsys.readouterr()

    return run


def test_a_thin_cluster_of_many_rows_is_data() -> None:
    """In one direction its variance is 1.5 times `reg_covar` of the data's; none is to be had without it."""
    r = np.random.default_rng(0)
    clusters = 3 * r.standard_normal((3, 4))[r.choice(3, 6000, p=[0.5, 0.3, 0.2])] + r.standard_normal((6000, 4))
    clusters[:1500, 0] = 1.0 + np.sqrt(1.5e-6 * clusters[:, 0].var()) * r.standard_normal(1500)
    fit = dgmm.train(clusters, 4)
    assert fit.state == "converged"
    assert fit.mixture.covariances[:, 0, 0].min() < 3e-6 * clusters[:, 0].var()


def test_the_command_line_warns_of_a_collapse_and_ends_well(command: Any) -> None:
    code, out, err = command(clean_in_the_sample(), "train x.zarr --k 3 --out m.zarr --set training.n_init=3")
    assert code == 0
    assert "raise max_iter" not in out + err
    assert err.startswith("collapsed: component")
    assert len(err.splitlines()) == 1
    assert "collapsed after" in out
    assert "short of this top" not in out
    assert "lower n_components (3) or raise reg_covar (0)" in out
    assert dgmm.load("m.zarr").state == "collapsed"


@pytest.mark.parametrize("line", ["train x.zarr --k 3 --out m.zarr", "select x.zarr --k 3,4 --covariance full --out r"])
def test_the_command_line_ends_with_1_where_there_is_nothing(command: Any, line: str, tmp_path: Path) -> None:
    code, out, err = command(three_distinct_rows(), line)
    assert (code, out) == (1, "")
    assert err.startswith("dgmm: ")
    assert "raise reg_covar" in err
    assert len(err.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.zarr"]


# ---- the value itself -----------------------------------------------------------------------------------------------

TEXTS = {
    Outcome(OutcomeKind.CONVERGED, 7): "converged",
    Outcome(OutcomeKind.STOPPED, 12): "stopped at pass 12",
    Outcome(OutcomeKind.DROPPED, 1, (), "bic 3 cannot reach 2"): "dropped at pass 1",
    Outcome(OutcomeKind.COLLAPSED, 7, (0, 3), "no extent"): "collapsed",
    Outcome(OutcomeKind.FAILED, 7, (), "no start"): "failed",
}


@pytest.mark.parametrize(("outcome", "text"), TEXTS.items(), ids=TEXTS.values())
def test_an_outcome_is_a_text_and_back(outcome: Outcome, text: str) -> None:
    assert outcome.state == text
    assert Outcome.parse(text, outcome.components, outcome.reason, 7) == outcome
    assert outcome.is_sound == (text.split()[0] in ("converged", "stopped", "dropped"))


@pytest.mark.parametrize("text", ["", "melted", "stopped", "converged at pass 3", "dropped at pass", "collapsed\n"])
def test_texts_that_are_no_outcome(text: str) -> None:
    with pytest.raises(ValueError, match="unknown state"):
        Outcome.parse(text)


def test_models_say_it_in_the_attributes_that_they_always_had(tmp_path: Path) -> None:
    fit = dgmm.train(clean_in_the_sample(), 3, **GIVEN, **HOW)
    attributes = store.to_dataset(fit).attrs
    assert attributes["state"] == "collapsed"
    assert attributes["collapsed"] == list(fit.collapsed)
    assert attributes["reason"] == fit.reason
    assert attributes["converged"] == 0
    dgmm.save(fit, tmp_path / "m.json")
    assert dgmm.load(tmp_path / "m.json").outcome == fit.outcome
    damaged = store.to_dataset(fit)
    damaged.attrs["state"] = "melted"
    with pytest.raises(dgmm.InputError, match=r"m\.zarr is damaged: unknown state 'melted'"):
        store.from_dataset(damaged, "m.zarr")


def test_every_kind_has_its_marker() -> None:
    assert set(MARKERS) == set(OutcomeKind)
    assert {OutcomeKind.COLLAPSED, OutcomeKind.FAILED} == set(OutcomeKind) - SOUND
    table = pd.DataFrame({"state": list(TEXTS.values())})
    assert states(table).tolist() == [outcome.kind for outcome in TEXTS]


def test_the_picture_shows_what_collapsed(tmp_path: Path) -> None:
    chosen = dgmm.select(clean_in_the_sample(), [1, 2, 3], ["full"], **HOW, n_init=3, on_collapse="report")
    _, close = criterion_figure(chosen.table, chosen.best).axes
    assert [t.get_text() for t in close.get_legend().get_texts()] == ["full", "the model", "converged", "collapsed"]
