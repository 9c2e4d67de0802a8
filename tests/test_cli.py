"""The command line: the commands of the README, settings files, and one line and exit code 2 for bad input."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
import zarr
from distributed.client import FutureCancelledError
from distributed.comm import CommClosedError
from distributed.scheduler import NoValidWorkerError, NoWorkerError
from sklearn.mixture import GaussianMixture

from dgmm.cli import main
from dgmm.fits import Fit, Outcome, OutcomeKind, held_out_words
from dgmm.mixture import Mixture
from dgmm.store import models as store
from dgmm.store import settings_in

TYPES = ("full", "tied", "diag", "spherical")
#: Free covariances of K components in two dimensions.
FREE = {"full": lambda k: 3 * k, "tied": lambda k: 3, "diag": lambda k: 2 * k, "spherical": lambda k: k}


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: list[str]


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in an empty folder, as from a terminal: its log goes where a user sees it."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> Result:
        capsys.readouterr()
        root, package = logging.getLogger(), logging.getLogger("dgmm")
        handlers, levels = root.handlers, (root.level, package.level)
        root.handlers = []
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = 0 if stop.code is None else stop.code
        finally:
            root.handlers = handlers
            root.setLevel(levels[0])
            package.setLevel(levels[1])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err.splitlines())

    return command


def write(path: str, x: np.ndarray) -> None:
    """A plain (n, d) store."""
    array = zarr.create_array(path, shape=x.shape, chunks=(min(len(x), 100), x.shape[1]), dtype=x.dtype)
    array[...] = x


def groups(x: np.ndarray) -> np.ndarray:
    """Which of the three groups of `blobs` a sample belongs to, largest first; they are ten deviations apart."""
    centres = np.array([(0.0, 0.0), (9.0, 1.0), (4.0, 12.0)])
    return ((x[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)


# ---- the commands of the README -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def selected(blobs: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `store.zarr` and what `dgmm select` made of it, run once."""
    folder = tmp_path_factory.mktemp("selected")
    write(str(folder / "store.zarr"), blobs)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        line = "select store.zarr --k 1:12 --covariance full,tied,diag,spherical --out run/ --quiet"
        assert main(line.split()) == 0
    return folder


def test_select_writes_the_best_model_and_all_candidates(selected: Path, blobs: np.ndarray) -> None:
    table = pd.read_csv(selected / "run" / "candidates.csv")
    assert len(table) == 48
    assert {(k, kind) for k, kind in zip(table.n_components, table.covariance_type, strict=True)} == {
        (k, kind) for k in range(1, 13) for kind in TYPES
    }
    sound = table[table.collapsed == 0]
    assert table.iloc[0].bic == sound.bic.min()
    fit = store.load(selected / "run" / "model.zarr")
    assert (fit.n_components, fit.covariance_type) == (table.iloc[0].n_components, table.iloc[0].covariance_type)
    assert fit.bic == pytest.approx(table.iloc[0].bic, rel=1e-12)
    assert fit.n_components == 3
    np.testing.assert_array_equal(fit.mixture.responsibilities(blobs).argmax(axis=1), groups(blobs))


def test_the_table_holds_what_its_formulas_say(selected: Path) -> None:
    table = pd.read_csv(selected / "run" / "candidates.csv").dropna(subset=["bic"])
    for row in table.itertuples():
        p = row.n_components - 1 + 2 * row.n_components + FREE[row.covariance_type](row.n_components)
        assert row.n_parameters == p
        assert row.bic == pytest.approx(-2 * row.log_likelihood + p * np.log(600), rel=1e-12)
        assert row.aic == pytest.approx(-2 * row.log_likelihood + 2 * p, rel=1e-12)


def test_one_component_is_the_closed_form(selected: Path, blobs: np.ndarray) -> None:
    """Up to the regularisation, a millionth of the covariance."""
    covariance = np.cov(blobs.T, bias=True)
    variances = np.diagonal(covariance)
    log_det = {
        "full": np.linalg.slogdet(covariance)[1],
        "tied": np.linalg.slogdet(covariance)[1],
        "diag": np.log(variances).sum(),
        "spherical": 2 * np.log(variances.mean()),
    }
    table = pd.read_csv(selected / "run" / "candidates.csv")
    ones = table[table.n_components == 1].set_index("covariance_type")
    for kind in TYPES:
        expected = -600 / 2 * (2 * np.log(2 * np.pi) + log_det[kind] + 2)
        assert ones.loc[kind, "log_likelihood"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", TYPES)
def test_candidates_are_as_good_as_scikit_learn(kind: str, selected: Path, blobs: np.ndarray) -> None:
    """The clear solution, K = 3, and K = 2: at least its log-likelihood, from one of several starts."""
    table = pd.read_csv(selected / "run" / "candidates.csv").set_index(["n_components", "covariance_type"])
    for k in (2, 3):
        model = GaussianMixture(k, covariance_type=kind, n_init=5, random_state=0, tol=1e-7, max_iter=500, reg_covar=0)
        expected = model.fit(blobs).score(blobs) * 600
        if table.loc[(k, kind), "state"] == "converged":
            # a negligible gain of 0.1 % of p/2 nats is left, and the regularisation costs as little
            assert table.loc[(k, kind), "log_likelihood"] > expected - 0.02


def test_train_score_and_info(selected: Path, blobs: np.ndarray, run: Run) -> None:
    shutil.copytree(selected / "store.zarr", "store.zarr")
    trained = run("train", "store.zarr", "--k", "8", "--covariance", "full", "--out", "model.zarr")
    assert trained.code == 0
    fit = store.load("model.zarr")
    assert (fit.n_components, fit.covariance_type, fit.n_samples) == (8, "full", 600)
    assert f"BIC {fit.bic:.2f}" in trained.out
    assert "model: model.zarr" in trained.out
    assert sum(line.startswith("pass ") for line in trained.err) >= fit.n_passes

    scored = run("score", "model.zarr", "store.zarr", "--out", "scores.zarr")
    assert scored.code == 0
    labels = fit.mixture.responsibilities(blobs).argmax(axis=1)
    with xr.open_zarr("scores.zarr", chunks=None, consolidated=False) as scores:
        np.testing.assert_array_equal(scores["label"], labels)
        np.testing.assert_allclose(scores["log_density"].sum(), fit.log_likelihood, rtol=1e-9)
        assert set(scores) == {"label", "probability", "log_density"}
    for component, count in enumerate(np.bincount(labels, minlength=8)):
        assert f"component {component}: {count} samples" in scored.out
    assert "missing: 0" in scored.out

    told = run("info", "model.zarr")
    assert told.code == 0
    assert "full, K = 8" in told.out
    assert f"component 0: weight {fit.mixture.weights[0]:.4f}" in told.out
    assert sorted(p.name for p in Path().iterdir()) == ["model.zarr", "scores.zarr", "store.zarr"]


def test_info_on_data(selected: Path, run: Run) -> None:
    told = run("info", str(selected / "store.zarr"))
    assert told.code == 0
    assert "600 samples (sample 600) of 2 features (0, 1)" in told.out


@pytest.mark.parametrize("options", [(), ("--probabilities",)])
def test_info_on_scores(options: tuple[str, ...], selected: Path, run: Run) -> None:
    """As its help promises: whatever was written with them."""
    model, data = str(selected / "run" / "model.zarr"), str(selected / "store.zarr")
    assert run("score", model, data, "--out", "scores.zarr", *options).code == 0
    told = run("info", "scores.zarr")
    assert told.code == 0, told.err
    assert "600" in told.out


def test_info_on_damaged_scores(selected: Path, run: Run) -> None:
    """One line, whatever is amiss."""
    assert run("score", str(selected / "run" / "model.zarr"), str(selected / "store.zarr"), "--out", "s.zarr").code == 0
    own = Path("s.zarr", "label", "zarr.json")
    content = own.read_text()
    for damage, part in (
        (content[:99], "xarray cannot read s.zarr"),
        (None, "no label among log_density, probability"),
    ):
        if damage is None:
            shutil.rmtree("s.zarr/label")
        else:
            own.write_text(damage)
        told = run("info", "s.zarr")
        assert (told.code, len(told.err)) == (2, 1)
        assert part in told.err[0]
    root = Path("s.zarr", "zarr.json")
    root.write_text(root.read_text()[:200])
    assert "s.zarr is not a Zarr store" in run("info", "s.zarr").err[0]


def test_info_on_a_selected_model_shows_the_candidates(selected: Path, run: Run) -> None:
    told = run("info", str(selected / "run" / "model.zarr"))
    assert told.code == 0
    best = pd.read_csv(selected / "run" / "candidates.csv").iloc[0]
    assert f"{best.bic:.2f}" in told.out
    assert "and 36 more" in told.out


def test_info_shows_how_the_data_were_opened(blobs: np.ndarray, run: Run) -> None:
    """Variables or a dimension, units, levels: what scoring will look for."""
    columns = {name: ("s", x, {"units": u}) for name, x, u in zip("xy", blobs.T, ("degC", ""), strict=True)}
    dataset = xr.Dataset({**columns, "junk": ("s", blobs[:, 0])})
    dataset["z"] = xr.DataArray(blobs, dims=("s", "depth"), coords={"depth": ("depth", [0.5, 10], {"units": "m"})})
    dataset["z"].attrs["units"] = "PSU"
    dataset.to_zarr("d.zarr", consolidated=False)
    assert run("train", "d.zarr", "--k", "3", "--variables", "x, y", "--out", "m.zarr").code == 0
    assert "features: x (degC), y\n" in run("info", "m.zarr").out
    assert run("train", "d.zarr", "--k", "3", "--variables", "z", "--feature-dim", "depth", "--out", "n.json").code == 0
    assert "features: z (PSU) along depth (m): 0.5, 10.0\n" in run("info", "n.json").out
    # spaces are nobody's names
    assert "600 samples (s 600) of 2 features (x, y)" in run("info", "d.zarr", "--variables", "x, y").out


@pytest.mark.parametrize(
    ("criterion", "name", "changes"),
    [
        ("bic", "BIC", []),
        ("aic", "AIC", []),
        ("icl", "ICL", []),
        ("held_out", "-2 log-likelihood of held-out rows", ["--set", "training.holdout=0.2"]),
    ],
)
def test_the_criterion_that_chose_is_named(
    criterion: str, name: str, changes: list[str], selected: Path, run: Run
) -> None:
    """In the table and the summary, when it is chosen and whenever it is looked at."""
    change = ["--set", f"criterion={criterion}", *changes]
    arguments = ["--k", "2:3", "--covariance", "diag", "--out", "r", "--quiet"]
    chosen = run("select", str(selected / "store.zarr"), *arguments, *change)
    told = run("info", "r/model.zarr")
    table, fit = pd.read_csv("r/candidates.csv"), store.load("r/model.zarr")
    value = f"{table.iloc[0][criterion]:.{6 if criterion == 'held_out' else 2}f}"
    for text in (chosen.out, told.out):
        (head,) = [line for line in text.splitlines() if "covariance_type" in line]
        assert {"bic", "aic", "icl", "held_out"} & set(head.split()) == {criterion}
        assert value in text
        assert f"{name} {fit.criterion(criterion):.2f}" in text


def test_blocks_and_stability_are_told(selected: Path, run: Run) -> None:
    """By the command, and whenever the model is looked at."""
    data = str(selected / "store.zarr")
    options = ["--covariance", "diag", "--holdout", "0.4", "--holdout-by", "sample:100", "--stability", "3", "--quiet"]
    chosen = run("select", data, "--k", "1:3", *options, "--out", "r")
    told, fit = run("info", "r/model.zarr"), store.load("r/model.zarr")
    assert (chosen.code, told.code) == (0, 0), chosen.err
    assert fit.stability is not None
    assert stored_settings("r/model.zarr")["training"]["holdout_by"] == {"sample": 100}
    by_set = run("train", data, "--k", "2", "--set", "training.holdout_by={sample: 100}", "--out", "t", *options[2:4])
    assert by_set.code == 0, by_set.err
    words = held_out_words(pd.read_csv("r/candidates.csv"))
    assert "the smallest K within one standard error of it is diag K = " in words
    for text in (chosen.out, told.out):
        assert words in text
        assert fit.stability.words in text
        assert f"held out {fit.held_out:.4f} per sample (standard error {fit.held_out_se:.4f})" in text
    for k, share in enumerate(fit.stability.found_again):
        (line,) = [line for line in told.out.splitlines() if line.startswith(f"component {k}: ")]
        assert f"; found again in {share:.0%} of the refits, standard error of the weight " in line


def test_info_as_json(selected: Path, run: Run) -> None:
    """Standard output is one JSON document that can be used as a model."""
    told = run("info", str(selected / "run" / "model.zarr"), "--json")
    assert told.code == 0
    content = json.loads(told.out)
    assert sum(content["data_vars"]["weights"]["data"]) == pytest.approx(1, abs=1e-12)
    Path("copy.json").write_text(told.out)
    copy, original = store.load("copy.json"), store.load(selected / "run" / "model.zarr")
    np.testing.assert_array_equal(copy.mixture.covariances, original.mixture.covariances)
    assert run("info", "copy.json").code == 0


def test_quiet_and_not(selected: Path, run: Run) -> None:
    """Progress goes to standard error, one line per pass at least, and away with --quiet."""
    data = str(selected / "store.zarr")
    loud = run("train", data, "--k", "2", "--out", "a.zarr")
    assert sum(line.startswith("pass ") for line in loud.err) >= store.load("a.zarr").n_passes
    quiet = run("train", data, "--k", "2", "--out", "b.zarr", "--quiet")
    assert (quiet.code, quiet.err) == (0, [])


def test_a_model_in_json(selected: Path, run: Run) -> None:
    data = str(selected / "store.zarr")
    assert run("train", data, "--k", "3", "--out", "m.json", "--quiet").code == 0
    assert run("score", "m.json", data, "--out", "s.zarr", "--quiet").code == 0
    assert run("train", data, "--k", "3", "--out", "m.json", "--quiet").code == 2
    again = run("train", data, "--k", "2", "--out", "m.json", "--quiet", "--overwrite")
    assert again.code == 0, again.err
    assert store.load("m.json").n_components == 2


@pytest.mark.parametrize("command", ["select", "train", "score"])
def test_overwrite(command: str, selected: Path, run: Run) -> None:
    """Refused and left alone without the option, replaced with it."""
    data, model = str(selected / "store.zarr"), str(selected / "run" / "model.zarr")
    arguments = {
        "select": ["select", data, "--k", "1:2", "--covariance", "diag", "--out", "o"],
        "train": ["train", data, "--k", "2", "--out", "o"],
        "score": ["score", model, data, "--out", "o"],
    }[command]
    assert run(*arguments).code == 0
    before = {p: p.read_bytes() for p in Path("o").rglob("*") if p.is_file()}
    refused = run(*arguments)
    assert (refused.code, len(refused.err)) == (2, 1)
    assert "exists" in refused.err[0]
    assert "--overwrite" in refused.err[0]
    assert {p: p.read_bytes() for p in Path("o").rglob("*") if p.is_file()} == before
    assert run(*arguments, "--overwrite").code == 0
    assert [p.name for p in Path().iterdir()] == ["o"]


# ---- settings -------------------------------------------------------------------------------------------------------


def settings_file(**content: Any) -> str:
    Path("s.yaml").write_text(yaml.safe_dump(content))
    return "s.yaml"


def stored_settings(path: str) -> dict[str, Any]:
    return settings_in(store.attributes(path))


def test_a_settings_file_for_each_command(selected: Path, run: Run) -> None:
    data = {"path": str(selected / "store.zarr")}
    assert run("train", settings_file(data=data, n_components=3, covariance_type="diag", out="m.zarr")).code == 0
    fit = store.load("m.zarr")
    assert (fit.n_components, fit.covariance_type) == (3, "diag")
    assert run("select", settings_file(data=data, n_components="1:3", covariance_type=["tied"], out="r")).code == 0
    assert len(pd.read_csv("r/candidates.csv")) == 3
    assert run("score", settings_file(model="m.zarr", data=data, out="s.zarr", probabilities=True)).code == 0
    assert zarr.open_group("s.zarr", mode="r")["probabilities"].shape == (600, 3)


def test_options_beat_the_file_and_set_beats_both(selected: Path, run: Run) -> None:
    file = settings_file(
        data={"path": str(selected / "store.zarr")},
        n_components=5,
        covariance_type="full",
        out="m.zarr",
        training={"seed": 1, "n_init": 2},
    )
    options = ["--k", "4", "--covariance", "diag", "--set", "n_components=2", "--set", "training.seed=9"]
    assert run("train", file, *options).code == 0
    fit = store.load("m.zarr")
    assert (fit.n_components, fit.covariance_type) == (2, "diag")
    training = stored_settings("m.zarr")["training"]
    # the file's other settings of the same group stay
    assert (training["seed"], training["n_init"]) == (9, 2)


def test_values_are_read_as_yaml_1_2(selected: Path, run: Run) -> None:
    """A range of numbers is no number to base 60, in a file or on the line."""
    data = str(selected / "store.zarr")
    Path("s.yaml").write_text(f"data: {{path: {data}}}\nout: a\nn_components: 1:3\ncovariance_type: diag\n")
    assert run("select", "s.yaml", "--quiet").code == 0
    assert pd.read_csv("a/candidates.csv").n_components.sort_values().tolist() == [1, 2, 3]
    changes = [
        "--set",
        "n_components=2:3",
        "--set",
        "out=no",
        "--set",
        "training.tol=1e-3",
        "--set",
        "training.seed=012",
    ]
    assert run("select", "s.yaml", "--quiet", *changes).code == 0
    assert pd.read_csv("no/candidates.csv").n_components.sort_values().tolist() == [2, 3]
    training = stored_settings("no/model.zarr")["training"]
    assert (training["tol"], training["seed"]) == (1e-3, 12)


def test_variables_and_feature_dim(blobs: np.ndarray, run: Run) -> None:
    """Two of three variables, by name; a dimension of one."""
    x, y = blobs.T
    wide = xr.Dataset({"x": ("s", x), "junk": ("s", np.full(600, np.inf)), "y": ("s", y)})
    wide.to_zarr("wide.zarr", consolidated=False)
    assert run("train", "wide.zarr", "--k", "3", "--variables", "x,y", "--out", "m.zarr").code == 0
    assert store.load("m.zarr").features == ("x", "y")
    turned = xr.Dataset({"v": (("f", "s"), blobs.T)}, coords={"f": ["x", "y"]}).assign_coords(s=np.arange(600))
    turned["f"] = [1, 2]
    turned.to_zarr("turned.zarr", consolidated=False)
    assert run("train", "turned.zarr", "--k", "3", "--feature-dim", "f", "--out", "n.zarr").code == 0
    first, second = store.load("m.zarr"), store.load("n.zarr")
    assert second.log_likelihood == pytest.approx(first.log_likelihood, rel=1e-12)
    # the model knows where its features lie
    scored = run("score", "n.zarr", "turned.zarr", "--out", "s.zarr")
    assert scored.code == 0
    assert run("score", "m.zarr", "wide.zarr", "--out", "t.zarr").code == 0
    with xr.open_zarr("t.zarr", chunks=None, consolidated=False) as scores:
        np.testing.assert_array_equal(scores["label"], groups(blobs))
    with xr.open_zarr("s.zarr", chunks=None, consolidated=False) as scores:
        np.testing.assert_array_equal(scores["label"], groups(blobs))
        np.testing.assert_array_equal(scores["s"], np.arange(600))


def test_the_seed_does_something(selected: Path, run: Run) -> None:
    """With one start on a few rows, K = 5 on three groups: seeds end in different optima."""
    data, few = str(selected / "store.zarr"), ["--set", "training.n_init=1", "--set", "training.start_rows=60"]
    found = []
    for i, seed in enumerate((0, 0, 1, 2)):
        change = ["--set", f"training.seed={seed}"]
        assert run("train", data, "--k", "5", "--out", f"{i}.zarr", *few, *change, "--quiet").code == 0
        found.append(store.load(f"{i}.zarr").log_likelihood)
    assert found[0] == found[1]
    assert len(set(found)) > 2


# ---- bad input ------------------------------------------------------------------------------------------------------


def same(x: np.ndarray) -> np.ndarray:
    return x


def with_model(*arguments: str, data: Callable[[np.ndarray], np.ndarray] = same) -> Callable[[np.ndarray], list[str]]:
    """Arguments after a model `m.zarr` of two features and `store.zarr` have been written."""

    def build(x: np.ndarray) -> list[str]:
        mixture = Mixture.gaussian("spherical", np.array([0.5, 0.5]), np.array([[0.0, 0], [9, 1]]), np.ones(2))
        store.save(Fit(mixture, -1.0, 10, 0, 1, Outcome(OutcomeKind.CONVERGED, 1), 0.0, (-1.0,), ("0", "1")), "m.zarr")
        write("store.zarr", data(x.copy()))
        return list(arguments)

    return build


def with_data(change: Callable[[np.ndarray], np.ndarray], *arguments: str) -> Callable[[np.ndarray], list[str]]:
    """Arguments after `store.zarr` has been written with changed blobs."""

    def build(x: np.ndarray) -> list[str]:
        write("store.zarr", change(x.copy()))
        return list(arguments)

    return build


def with_file(text: str | bytes, *arguments: str) -> Callable[[np.ndarray], list[str]]:
    """Arguments after a settings file `s.yaml` and the data have been written."""

    def build(x: np.ndarray) -> list[str]:
        write("store.zarr", x)
        Path("s.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return list(arguments)

    return build


def with_dataset(dataset: Callable[[np.ndarray], xr.Dataset], *arguments: str) -> Callable[[np.ndarray], list[str]]:
    """Arguments after a dataset has been written to `store.zarr`."""

    def build(x: np.ndarray) -> list[str]:
        dataset(x).to_zarr("store.zarr", consolidated=False, zarr_format=2)
        return list(arguments)

    return build


def put(place: Any, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(x: np.ndarray) -> np.ndarray:
        x[place] = value
        return x

    return change


def made(*names: str) -> Callable[[np.ndarray], list[str]]:
    """Arguments `train NAME` after making a folder, or a file with text, of that name."""

    def build(_: np.ndarray) -> list[str]:
        for name in names:
            if "." in name:
                Path(name).write_text("1,2\n")
            else:
                Path(name).mkdir()
        return ["train", names[0], "--k", "2", "--out", "out.zarr"]

    return build


def occupied(x: np.ndarray) -> list[str]:
    """Training into a folder that is no Zarr store."""
    Path("out.zarr").mkdir()
    Path("out.zarr", "precious.txt").write_text("do not lose me")
    return with_data(same, *TRAIN, "--overwrite")(x)


TRAIN = ("train", "store.zarr", "--k", "2", "--out", "out.zarr")
SELECT = ("select", "store.zarr", "--k", "1:2", "--out", "out")
SCORE = ("score", "m.zarr", "store.zarr", "--out", "out.zarr")
GOOD = "data: {path: store.zarr}\nout: out.zarr\nn_components: 2\n"

BAD: dict[str, tuple[Callable[[np.ndarray], list[str]], list[str]]] = {
    # stores
    "train: no such store": (lambda _: list(TRAIN), ["no such store", "store.zarr"]),
    "select: no such store": (lambda _: list(SELECT), ["no such store", "store.zarr"]),
    "info: no such store": (lambda _: ["info", "store.zarr"], ["no such store", "store.zarr"]),
    "score: no such model": (lambda _: list(SCORE), ["m.zarr"]),
    "score: no such data": (with_model("score", "m.zarr", "n.zarr", "--out", "out.zarr"), ["no such store", "n.zarr"]),
    "a folder that is no store": (made("folder"), ["folder is not a Zarr store"]),
    "a file that is no store": (made("data.csv"), ["data.csv is not a Zarr store"]),
    "an unknown scheme": (
        lambda _: ["train", "ftp://host/x.zarr", "--k", "2", "--out", "out.zarr"],
        ["ftp://host/x.zarr", "s3://"],
    ),
    "data where a model should be": (
        with_data(same, "score", "store.zarr", "store.zarr", "--out", "out.zarr"),
        ["store.zarr is not a dgmm model"],
    ),
    "info --json of data": (with_data(same, "info", "store.zarr", "--json"), ["store.zarr is not a model"]),
    # variables, dimensions, types
    "unknown variable": (
        with_dataset(lambda x: xr.Dataset({"u": ("s", x[:, 0])}), *TRAIN, "--variables", "u,v"),
        ["no variable 'v'", "it has u"],
    ),
    "variables of an array": (with_data(same, *TRAIN, "--variables", "u"), ["no variables"]),
    "unknown dimension": (with_data(same, *TRAIN, "--feature-dim", "depth"), ["'depth'", "sample, feature"]),
    "no dimension named": (
        with_dataset(lambda x: xr.Dataset({"u": (("a", "b", "c"), x.reshape(20, 30, 2))}), *TRAIN),
        ["a, b, c", "feature_dim"],
    ),
    "text": (
        with_dataset(lambda x: xr.Dataset({"u": (("s", "f"), x.astype("S5"))}), *TRAIN),
        ["u in store.zarr is not numeric"],
    ),
    "complex numbers": (with_data(lambda x: x.astype(complex), *TRAIN), ["not numeric", "complex128"]),
    "truth values": (with_data(lambda x: x > 0, *TRAIN), ["not numeric", "bool"]),
    # values
    "no complete row": (with_data(put((slice(None), 1), np.nan), *TRAIN), ["no complete row", "600"]),
    "an infinite value": (with_data(put((123, 1), np.inf), *TRAIN), ["'1'", "inf", "(123)"]),
    "an infinite value, select": (with_data(put((123, 1), -np.inf), *SELECT), ["'1'", "-inf", "(123)"]),
    "an infinite value, score": (
        with_model(*SCORE, data=put((9, 0), np.inf)),
        ["'0'", "inf", "(9)"],
    ),
    "a constant feature": (with_data(put((slice(None), 1), 0.1), *TRAIN), ["'1' is constant", "0.1"]),
    "a constant feature, diag": (
        with_data(put((slice(None), 0), 1e8), *TRAIN, "--covariance", "diag"),
        ["'0' is constant", "1e+08"],
    ),
    "dependent features": (
        with_data(lambda x: np.column_stack([x, x @ [1.0, 2.0]]), *TRAIN),
        ["linearly dependent", "diag or spherical"],
    ),
    "dependent features, select": (
        with_data(lambda x: np.column_stack([x, 3 * x[:, 0] + 1]), *SELECT, "--covariance", "tied"),
        ["0, 2", "linearly dependent"],
    ),
    "wrong number of features": (
        with_model(*SCORE, data=lambda _: np.ones((50, 3))),
        ["3 features", "fitted on 2 (0, 1)"],
    ),
    # numbers of components
    "K = 0": (with_data(same, "train", "store.zarr", "--k", "0", "--out", "out.zarr"), ["n_components", "0"]),
    "K = -1": (with_data(same, "train", "store.zarr", "--k=-1", "--out", "out.zarr"), ["n_components", "-1"]),
    "K = 1.5": (with_data(same, "train", "store.zarr", "--k", "1.5", "--out", "out.zarr"), ["1.5"]),
    "K = many": (with_data(same, "train", "store.zarr", "--k", "many", "--out", "out.zarr"), ["many"]),
    "K from 0": (with_data(same, "select", "store.zarr", "--k", "0:3", "--out", "out"), ["n_components", "0"]),
    "K from 3 to 1": (with_data(same, "select", "store.zarr", "--k", "3:1", "--out", "out"), ["n_components"]),
    "K more than rows": (
        with_data(same, "train", "store.zarr", "--k", "601", "--out", "out.zarr"),
        ["n_components=601", "600 complete rows"],
    ),
    "K more than complete rows": (
        with_data(put((slice(5, None), 0), np.nan), "train", "store.zarr", "--k", "6", "--out", "out.zarr"),
        ["n_components=6", "5 complete rows"],
    ),
    "K more than rows, select": (
        with_data(same, "select", "store.zarr", "--k", "1,2,700", "--out", "out"),
        ["n_components=700", "600 complete rows"],
    ),
    # other settings
    "unknown covariance type": (with_data(same, *TRAIN, "--covariance", "fool"), ["'fool'", "full, tied, diag"]),
    "unknown covariance type, select": (
        with_data(same, *SELECT, "--covariance", "full,fool"),
        ["'fool'", "full, tied"],
    ),
    "unknown scheduler": (with_data(same, *TRAIN, "--scheduler", "gpu"), ["'gpu'", "threads, processes"]),
    "no workers": (with_data(same, *TRAIN, "--workers", "0"), ["cluster.n_workers", "0"]),
    "a memory limit that is none": (
        with_data(same, *TRAIN, "--scheduler", "processes", "--workers", "1", "--memory-limit", "lots"),
        ["memory_limit", "lots"],
    ),
    "unknown setting": (with_file(GOOD + "colour: red\n", "train", "s.yaml"), ["colour: unknown setting"]),
    "unknown nested setting": (
        with_file(GOOD + "training: {n: 1}\n", "train", "s.yaml"),
        ["training.n: unknown setting"],
    ),
    "unknown --set": (with_data(same, *TRAIN, "--set", "training.sed=1"), ["training.sed: unknown setting"]),
    "--set of a value out of bounds": (with_data(same, *TRAIN, "--set", "training.seed=-1"), ["training.seed", "-1"]),
    "--set without a value": (with_data(same, *TRAIN, "--set", "training.seed"), ["training.seed", "key=value"]),
    "--set of bad YAML": (with_data(same, *TRAIN, "--set", "training.seed=[1"), ["training.seed=[1"]),
    "--set inside a value": (with_file(GOOD, "train", "s.yaml", "--set", "out.place=1"), ["out"]),
    "bad YAML": (with_file("data: [unclosed\nout: x\n", "train", "s.yaml"), ["s.yaml is not valid YAML"]),
    "an alias": (with_file(GOOD + "training: {n_init: &n 2, seed: *n}\n", "train", "s.yaml"), ["*n", "line 4"]),
    "a key twice": (with_file(GOOD + "n_components: 3\n", "train", "s.yaml"), ["s.yaml", "'n_components' comes twice"]),
    "YAML that is a list": (with_file("- 1\n- 2\n", "train", "s.yaml"), ["s.yaml holds no settings"]),
    "an empty settings file": (with_file("", "train", "s.yaml"), ["s.yaml holds no settings"]),
    "a settings file that is no text": (with_file(b"\xff\xfe\x00\x00", "train", "s.yaml"), ["s.yaml"]),
    "no such settings file": (lambda _: ["train", "s.yaml"], ["no such settings file", "s.yaml"]),
    "settings of another command": (with_file(GOOD, "score", "s.yaml"), ["model", "n_components: unknown setting"]),
    # arguments
    "no --k": (with_data(same, "train", "store.zarr", "--out", "out.zarr"), ["n_components"]),
    "no --out": (with_data(same, "train", "store.zarr", "--k", "2"), ["out"]),
    "no data": (lambda _: ["train"], ["DATA"]),
    "score without data": (with_model("score", "m.zarr", "--out", "out.zarr"), ["data"]),
    "unknown option": (with_data(same, *TRAIN, "--colour", "red"), ["--colour"]),
    "unknown command": (lambda _: ["trian", "store.zarr"], ["trian"]),
    # outputs
    "output is a folder of something else": (
        occupied,
        ["out.zarr", "not written"],
    ),
}


@pytest.mark.parametrize(("build", "parts"), BAD.values(), ids=list(BAD))
def test_bad_input_is_one_line_and_exit_code_2(
    build: Callable[[np.ndarray], list[str]], parts: list[str], run: Run, blobs: np.ndarray
) -> None:
    arguments = build(blobs)
    before = sorted(Path().rglob("*"))
    result = run(*arguments)
    assert result.code == 2, result
    assert len(result.err) == 1, result.err
    assert result.err[0].startswith("dgmm: ")
    for part in parts:
        assert part in result.err[0]
    assert result.out == ""
    # nothing that looks finished, nothing half-written
    assert sorted(Path().rglob("*")) == before


def test_dependent_features_are_fine_for_diag(blobs: np.ndarray, run: Run) -> None:
    """What the error message recommends works."""
    write("store.zarr", np.column_stack([blobs, blobs @ [1.0, 2.0]]))
    assert run("train", "store.zarr", "--k", "2", "--covariance", "diag", "--out", "m.zarr").code == 0
    assert run("train", "store.zarr", "--k", "2", "--covariance", "spherical", "--out", "n.zarr").code == 0
    assert run("score", "m.zarr", "store.zarr", "--out", "s.zarr").code == 0


# ---- other ends -----------------------------------------------------------------------------------------------------


def test_main_returns_the_exit_code(selected: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As its signature says: whoever calls it goes on."""
    monkeypatch.chdir(tmp_path)
    assert main(["info", str(selected / "store.zarr")]) == 0


def test_a_collapse_is_one_line_and_exit_code_1(run: Run) -> None:
    """Three distinct rows, three components, no regularisation: nothing sound to return."""
    write("store.zarr", np.repeat([[0.0, 0.0], [5.0, 1.0], [1.0, 7.0]], 40, axis=0))
    arguments = ["train", "store.zarr", "--k", "3", "--out", "m.zarr", "--set", "training.reg_covar=0", "--quiet"]
    result = run(*arguments)
    assert result.code == 1
    assert len(result.err) == 1
    assert "reg_covar" in result.err[0]
    assert not Path("m.zarr").exists()


#: What others raise, and what is said about it.
OTHERS: dict[str, tuple[Callable[[], Exception], list[str]]] = {
    "no worker that may": (
        lambda: NoValidWorkerError("fold_run-1", set(), set(), {}, 60),
        ["fold_run-1", "start workers"],
    ),
    "no worker": (lambda: NoWorkerError("fold_run-1", 60), ["fold_run-1", "start workers"]),
    "work that was given up": (lambda: FutureCancelledError("fold_run-1", "lost"), ["fold_run-1", "still runs"]),
    "a lost connection": (lambda: CommClosedError("in <TCP>: stream is closed"), ["stream is closed", "still run"]),
    "no connection": (lambda: TimeoutError("Timed out during handshake\nafter 30 s"), ["after 30 s", "be reached"]),
    "a singular matrix": (lambda: np.linalg.LinAlgError("Singular matrix"), ["Singular matrix", "raise reg_covar"]),
    "no memory": (MemoryError, ["MemoryError", "smaller chunks"]),
    "a full disk": (lambda: OSError(28, "No space left on device", "a. b"), ["No space left on device: 'a. b'"]),
}


@pytest.mark.parametrize(("make", "parts"), OTHERS.values(), ids=list(OTHERS))
def test_errors_of_others_are_one_line_with_an_advice(
    make: Callable[[], Exception], parts: list[str], selected: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise make()

    monkeypatch.setattr("dgmm.pipeline.jobs.train_samples", fail)
    result = run("train", str(selected / "store.zarr"), "--k", "2", "--out", "m.zarr")
    assert (result.code, len(result.err)) == (1, 1), result
    for part in parts:
        assert part in result.err[0]
    assert "http" not in result.err[0]
    assert not Path("m.zarr").exists()


def test_a_fault_of_our_own_is_no_line(selected: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever mends it wants to see where it was."""

    def fail(*_: Any, **__: Any) -> None:
        raise AttributeError("no such thing")

    monkeypatch.setattr("dgmm.pipeline.jobs.train_samples", fail)
    with pytest.raises(AttributeError):
        run("train", str(selected / "store.zarr"), "--k", "2", "--out", "m.zarr")


def test_an_interruption_is_one_line_and_exit_code_130(
    selected: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dgmm.pipeline.jobs.train_samples", interrupt)
    result = run("train", str(selected / "store.zarr"), "--k", "2", "--out", "m.zarr")
    assert result.code == 130
    assert len(result.err) == 1
    assert not Path("m.zarr").exists()


def test_the_data_are_not_replaced_by_the_model(selected: Path, blobs: np.ndarray, run: Run) -> None:
    """An output that is the input, with --overwrite: the data would be gone."""
    shutil.copytree(selected / "store.zarr", "store.zarr")
    result = run("train", "store.zarr", "--k", "2", "--out", "store.zarr", "--overwrite")
    assert result.code == 2
    np.testing.assert_array_equal(zarr.open_array("store.zarr", mode="r")[:], blobs)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["select", "--help"], ["score", "--help"], ["info", "-h"]]
)
def test_help(arguments: list[str], run: Run) -> None:
    result = run(*arguments)
    assert (result.code, result.err) == (0, [])
    assert "Usage" in result.out


def test_version(run: Run) -> None:
    result = run("--version")
    assert (result.code, result.out.strip()) == (0, version("dgmm"))


def test_the_installed_command(blobs: np.ndarray, tmp_path: Path) -> None:
    """The script itself, in a process of its own: exit codes, one line, standard output for results."""
    script = Path(sys.executable).parent / "dgmm"
    write(str(tmp_path / "store.zarr"), blobs)

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [script, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
        )

    trained = call("train", "store.zarr", "--k", "3", "--out", "model.zarr")
    assert trained.returncode == 0, trained.stderr
    assert "full, K = 3" in trained.stdout
    assert all(
        line.startswith(("profile", "pass ", "starts", "path", "moves", "sample"))
        for line in trained.stderr.splitlines()
    )
    np.testing.assert_array_equal(
        store.load(tmp_path / "model.zarr").mixture.responsibilities(blobs).argmax(axis=1), groups(blobs)
    )
    again = call("train", "store.zarr", "--k", "3", "--out", "model.zarr")
    assert again.returncode == 2
    assert again.stdout == ""
    assert again.stderr == "dgmm: model.zarr exists already: choose another place, or overwrite it (--overwrite)\n"


def test_importing_pulls_in_nothing_heavy() -> None:
    """Nor does the command line, until a command needs it."""
    program = (
        "import sys, dgmm, dgmm.cli\n"
        "heavy = ('prefect', 'distributed', 'sklearn', 'xarray', 'zarr', 'matplotlib')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_training_is_imported_without_what_only_some_of_it_needs() -> None:
    program = (
        "import sys, dgmm\n"
        "dgmm.train\n"
        "heavy = ('prefect', 'distributed', 'sklearn', 'scipy.stats', 'scipy.optimize', 'matplotlib')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


#: What only the extras bring.
EXTRAS = ("matplotlib", "jinja2", "prefect", "fastapi", "sqlalchemy", "obstore", "zarrs")


@pytest.fixture
def without_extras(tmp_path: Path) -> dict[str, str]:
    """An environment in which all that is installed here is, but for the extras."""
    site = tmp_path / "site"
    site.mkdir()
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(folder).iterdir():
            if path.name.lower().partition("-")[0] not in EXTRAS:
                (site / path.name).symlink_to(path)
    return {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{Path(__file__).parents[1]}"}


def test_everything_but_the_extras_works_without_them(
    blobs: np.ndarray, tmp_path: Path, without_extras: dict[str, str]
) -> None:
    """Fitting, scoring, looking; and one line that says what to install for the rest."""
    write(str(tmp_path / "store.zarr"), blobs)
    program = f"""
import dgmm, importlib.util
from dgmm.cli import main
assert [name for name in {EXTRAS} if importlib.util.find_spec(name)] == []
for name in dgmm.__all__:
    getattr(dgmm, name)
assert main("select store.zarr --k 2:3 --covariance full --out run --quiet".split()) == 0
assert main("train store.zarr --k 2 --out m.json --quiet".split()) == 0
assert main("score run/model.zarr store.zarr --out s.zarr --quiet".split()) == 0
for path in ("run/model.zarr", "m.json", "s.zarr", "store.zarr"):
    assert main(["info", path]) == 0
assert main("train store.zarr --k 2 --out n.zarr --set data.decoder=zarrs".split()) == 2
assert main("train s3://bucket/x.zarr --k 2 --out n.zarr".split()) == 2
assert main("score m.json store.zarr --out s3://bucket/s.zarr".split()) == 2
from dgmm.config import Data, Pipeline
from dgmm.pipeline import report_stage
try:
    report_stage(Pipeline(out="run", data=Data(path="store.zarr"), n_components=[2]))
except dgmm.InputError as error:
    print("report:", error)
try:
    dgmm.plot.steps([dgmm.load("m.json").mixture], "store.zarr")
except dgmm.InputError as error:
    print("plot:", error)
"""
    done = subprocess.run(
        [sys.executable, "-S", "-W", "error", "-c", program],
        capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path, env=without_extras,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == ["pip install dgmm[zarrs]", *["pip install dgmm[cloud]"] * 2]
    *_, report, plot = done.stdout.splitlines()
    assert report.startswith("report: the report needs ")
    assert report.endswith("pip install 'dgmm[report]'")
    assert plot == "plot: pictures need matplotlib: pip install 'dgmm[report]'"


def test_training_imports_none_of_the_extras(blobs: np.ndarray, tmp_path: Path) -> None:
    """The core works without the extras."""
    write(str(tmp_path / "store.zarr"), blobs)
    program = (
        "import sys\n"
        "from dgmm.cli import main\n"
        "assert main(['train', 'store.zarr', '--k', '2', '--out', 'm.zarr', '--quiet']) == 0\n"
        "print([m for m in ('prefect', 'matplotlib', 'fastapi', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == "[]"
