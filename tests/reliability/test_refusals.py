"""What cannot be used is refused in one line with the value and what to do, by code, and nothing is written.

Each row of the table is a command line in a folder of bad stores, the exit code and what the line must say.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import dgmm
from dgmm.cli import main

N = 400


def rows(seed: int = 0, n: int = N, d: int = 2) -> np.ndarray:
    """Two clouds."""
    r = np.random.default_rng(seed)
    return r.standard_normal((n, d)) + 6 * (np.arange(n) % 2)[:, None]


def write(path: Path, x: np.ndarray, chunks: tuple[int, ...] | None = None, **how: object) -> None:
    """A plain array as a store."""
    array = zarr.create_array(str(path), shape=x.shape, chunks=chunks or x.shape, dtype=x.dtype, **how)
    array[...] = x


def with_value(value: float, at: int = 7) -> np.ndarray:
    """Good rows but for one value."""
    x = rows()
    x[at, 1] = value
    return x


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All the stores and files of the table."""
    here = tmp_path_factory.mktemp("bad")
    arrays = {
        "good": rows(),
        "one_d": rows()[:, 0],
        "three_d": rows().reshape(20, 20, 2),
        "one_row": rows(n=1),
        "few_rows": rows(n=3),
        "all_missing": np.full((N, 2), np.nan),
        "infinite": with_value(np.inf),
        "huge": with_value(1e300),
        "constant": np.column_stack([rows()[:, 0], np.full(N, 3.0)]),
        "twice": np.column_stack([rows()[:, 0]] * 2),
        "same": np.ones((N, 2)),
        "complex": rows().astype(complex),
        "bool": rows() > 3,
        "no_rows": np.empty((0, 2)),
        "no_features": np.empty((N, 0)),
        "three_features": rows(d=3),
    }
    for name, x in arrays.items():
        write(here / f"{name}.zarr", x, tuple(max(n, 1) for n in x.shape))
    write(here / "text.zarr", np.full((N, 2), "a", dtype="<U1"), zarr_format=2)
    write(here / "missing_chunk.zarr", rows(), (100, 2))
    os.remove(here / "missing_chunk.zarr" / "c" / "1" / "0")
    write(here / "torn_chunk.zarr", rows(), (100, 2))
    chunk = here / "torn_chunk.zarr" / "c" / "2" / "0"
    chunk.write_bytes(chunk.read_bytes()[:40])
    write(here / "empty_chunk.zarr", rows(), (100, 2))
    (here / "empty_chunk.zarr" / "c" / "0" / "0").write_bytes(b"")
    write(here / "broken.zarr", rows())
    (here / "broken.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_')
    zarr.create_group(str(here / "empty_group.zarr"))
    (here / "folder.zarr").mkdir()
    (here / "notes.txt").write_text("nothing")
    np.savez(here / "rows.npz", rows())
    (here / "rows.csv").write_text("a,b\n1,2\n")
    names = {"x": ("sample", rows()[:, 0]), "y": ("sample", rows()[:, 1]), "w": ("sample", np.ones(N))}
    dataset = xr.Dataset(names | {"negative": ("sample", np.r_[-1.0, np.ones(N - 1)])})
    dataset["nothing"], dataset["gaps"] = ("sample", np.zeros(N)), ("sample", np.full(N, np.nan))
    dataset["infinite"] = ("sample", np.r_[np.ones(N - 1), np.inf])
    dataset["profile"] = (("sample", "depth"), rows())
    dataset.to_zarr(here / "dataset.zarr", zarr_format=3, consolidated=False)
    with quiet():
        assert main(["train", str(here / "good.zarr"), "--k", "2", "--out", str(here / "model.zarr"), "--quiet"]) == 0
        score = ["score", str(here / "model.zarr"), str(here / "good.zarr"), "--out", str(here / "scores.zarr")]
        assert main([*score, "--quiet"]) == 0
    for name in ("torn_model", "newer_model", "other_model"):
        shutil.copytree(here / "model.zarr", here / f"{name}.zarr")
    (chunk,) = [p for p in (here / "torn_model.zarr" / "means" / "c").rglob("*") if p.is_file()]
    chunk.write_bytes(chunk.read_bytes()[:10])
    document = here / "newer_model.zarr" / "zarr.json"
    text = json.loads(document.read_text())
    text["attributes"]["format"] = "dgmm-model-99"
    document.write_text(json.dumps(text))
    fit = dgmm.load(here / "model.zarr")
    dgmm.save(fit, str(here / "model.json"))
    (here / "torn.json").write_text((here / "model.json").read_text()[:200])
    (here / "unknown.yaml").write_text("data: {path: good.zarr}\nn_components: 2\nout: o.zarr\ntraining: {sed: 1}\n")
    (here / "tabs.yaml").write_text("data:\n\tpath: good.zarr\n")
    (here / "list.yaml").write_text("- 1\n")
    (here / "python.yaml").write_text("data: !!python/object/apply:os.system ['touch pwned']\n")
    (here / "taken.zarr").mkdir()
    (here / "taken.zarr" / "precious").write_text("mine")
    return here


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Catch what a command prints, as a terminal would show it."""
    root, package = logging.getLogger(), logging.getLogger("dgmm")
    handlers, levels = root.handlers, (root.level, package.level)
    root.handlers, err = [], io.StringIO()
    try:
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            yield err
    finally:
        root.handlers = handlers
        root.setLevel(levels[0])
        package.setLevel(levels[1])


TRAIN = "train {} --k 2 --out o.zarr --quiet"
#: Command, exit code, and what its one line says.
TABLE: list[tuple[str, int, str]] = [
    # ---- stores
    (TRAIN.format("absent.zarr"), 2, "absent.zarr"),
    (TRAIN.format("folder.zarr"), 2, "folder.zarr"),
    (TRAIN.format("notes.txt"), 2, "notes.txt"),
    (TRAIN.format("rows.npz"), 2, "rows.npz"),
    (TRAIN.format("rows.csv"), 2, "rows.csv"),
    (TRAIN.format("broken.zarr"), 2, "broken.zarr"),
    (TRAIN.format("empty_group.zarr"), 2, "empty_group.zarr"),
    (TRAIN.format("one_d.zarr"), 2, "(400,)"),
    (TRAIN.format("no_rows.zarr"), 2, "no_rows.zarr"),
    (TRAIN.format("no_features.zarr"), 2, "no_features.zarr"),
    (TRAIN.format("missing_chunk.zarr"), 1, "c/1/0"),
    (TRAIN.format("torn_chunk.zarr"), 1, "c/2/0"),
    (TRAIN.format("empty_chunk.zarr"), 1, "c/0/0"),
    (TRAIN.format("dataset.zarr"), 2, "variables"),
    (TRAIN.format("dataset.zarr") + " --variables x,z", 2, "z"),
    (TRAIN.format("dataset.zarr") + " --variables profile --feature-dim height", 2, "height"),
    (TRAIN.format("good.zarr") + " --variables x", 2, "variables"),
    (TRAIN.format("model.zarr"), 2, "model.zarr"),
    (TRAIN.format("nowhere://bucket/x.zarr"), 2, "nowhere"),
    # ---- values
    (TRAIN.format("one_row.zarr"), 2, "n_components=2"),
    ("train few_rows.zarr --k 5 --out o.zarr --quiet", 2, "n_components=5"),
    (TRAIN.format("all_missing.zarr"), 2, "400"),
    (TRAIN.format("infinite.zarr"), 2, "inf"),
    (TRAIN.format("huge.zarr"), 2, "1e+300"),
    (TRAIN.format("constant.zarr"), 2, "constant"),
    (TRAIN.format("twice.zarr"), 2, "depend"),
    (TRAIN.format("same.zarr"), 2, "constant"),
    (TRAIN.format("complex.zarr"), 2, "complex"),
    (TRAIN.format("bool.zarr"), 2, "bool"),
    (TRAIN.format("text.zarr"), 2, "U1"),
    # ---- weights
    (TRAIN.format("dataset.zarr") + " --variables x,y --weights absent", 2, "absent"),
    (TRAIN.format("dataset.zarr") + " --variables x,y --weights negative", 2, "-1"),
    (TRAIN.format("dataset.zarr") + " --variables x,y --weights infinite", 2, "inf"),
    (TRAIN.format("dataset.zarr") + " --variables x,y --weights nothing", 2, "weight"),
    (TRAIN.format("dataset.zarr") + " --variables x,y --weights gaps", 1, "gaps/c/0"),
    # ---- settings
    ("train good.zarr --k 0 --out o.zarr", 2, "0"),
    ("train good.zarr --k -3 --out o.zarr", 2, "-3"),
    ("train good.zarr --k two --out o.zarr", 2, "two"),
    ("train good.zarr --k 2.5 --out o.zarr", 2, "2.5"),
    ("train good.zarr --k 401 --out o.zarr --quiet", 2, "401"),
    ("train good.zarr --out o.zarr", 2, "n_components"),
    ("train good.zarr --k 2", 2, "out"),
    (TRAIN.format("good.zarr") + " --tol 0", 2, "tol"),
    (TRAIN.format("good.zarr") + " --tol nan", 2, "tol"),
    (TRAIN.format("good.zarr") + " --max-iter 0", 2, "max_iter"),
    (TRAIN.format("good.zarr") + " --reg-covar -1", 2, "reg_covar"),
    (TRAIN.format("good.zarr") + " --seed -1", 2, "seed"),
    (TRAIN.format("good.zarr") + " --n-init 0", 2, "n_init"),
    (TRAIN.format("good.zarr") + " --covariance round", 2, "full, tied, diag, spherical"),
    (TRAIN.format("good.zarr") + " --init-params magic", 2, "kmeans"),
    (TRAIN.format("good.zarr") + " --search best", 2, "standard"),
    (TRAIN.format("good.zarr") + " --holdout 0.9", 2, "holdout"),
    (TRAIN.format("good.zarr") + " --holdout-by lat:3", 2, "holdout"),
    (TRAIN.format("good.zarr") + " --holdout 0.1 --holdout-by lat:3", 2, "lat"),
    (TRAIN.format("good.zarr") + " --stability 1", 2, "single refit"),
    (TRAIN.format("good.zarr") + " --compute-dtype float16", 2, "float32"),
    (TRAIN.format("good.zarr") + " --set training.sed=1", 2, "seed"),
    (TRAIN.format("good.zarr") + " --set seed", 2, "key=value"),
    (TRAIN.format("good.zarr") + " --memory-limit lots", 2, "lots"),
    (TRAIN.format("good.zarr") + " --workers 0", 2, "n_workers"),
    (TRAIN.format("good.zarr") + " --nonsense 3", 2, "nonsense"),
    (TRAIN.format("good.zarr") + " --scheduler tcp://127.0.0.1:9", 1, "127.0.0.1:9"),
    ("train unknown.yaml", 2, "seed"),
    ("train tabs.yaml", 2, "tabs.yaml"),
    ("train list.yaml", 2, "list.yaml"),
    ("train python.yaml", 2, "python.yaml"),
    ("train absent.yaml", 2, "absent.yaml"),
    ("select good.zarr --k 5:2 --out run --quiet", 2, "n_components is empty"),
    ("select good.zarr --k 0:3 --out run --quiet", 2, "0"),
    ("select good.zarr --k 1:3 --criterion best --out run", 2, "bic"),
    ("select good.zarr --k 1:3 --criterion held_out --out run --quiet", 2, "holdout"),
    ("select good.zarr --k 1:3 --covariance full,round --out run", 2, "round"),
    ("select good.zarr --k , --out run", 2, "n_components"),
    ("conquer good.zarr", 2, "conquer"),
    # ---- models
    ("score absent.zarr good.zarr --out s.zarr", 2, "absent.zarr"),
    ("score good.zarr good.zarr --out s.zarr", 2, "good.zarr"),
    ("score scores.zarr good.zarr --out s.zarr", 2, "scores.zarr"),
    ("score torn_model.zarr good.zarr --out s.zarr", 2, "means"),
    ("score newer_model.zarr good.zarr --out s.zarr", 2, "dgmm-model-99"),
    ("score torn.json good.zarr --out s.zarr", 2, "torn.json"),
    ("score model.zarr three_features.zarr --out s.zarr", 2, "3"),
    ("score model.zarr dataset.zarr --out s.zarr", 2, "variables"),
    ("info absent.zarr", 2, "absent.zarr"),
    ("info notes.txt", 2, "notes.txt"),
    ("info torn_model.zarr", 2, "means"),
    # ---- outputs
    ("train good.zarr --k 2 --out taken.zarr --quiet", 2, "taken.zarr"),
    ("train good.zarr --k 2 --out model.zarr --quiet", 2, "overwrite"),
    ("train good.zarr --k 2 --out scores.zarr --overwrite --quiet", 2, "scores.zarr"),
    ("train good.zarr --k 2 --out good.zarr --overwrite --quiet", 2, "good.zarr"),
    ("train good.zarr --k 2 --out good.zarr/model.zarr --quiet", 2, "good.zarr"),
    ("train good.zarr --k 2 --out notes.txt/model.zarr --quiet", 2, "notes.txt"),
]


def everything(folder: Path) -> dict[str, bytes]:
    """Every file and what is in it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_table_is_long_enough_and_says_nothing_twice() -> None:
    assert len(TABLE) == len({command for command, _, _ in TABLE}) >= 75


@pytest.mark.parametrize(("command", "code", "words"), TABLE, ids=[command for command, _, _ in TABLE])
def test_bad_input_is_refused_in_one_line(
    command: str, code: int, words: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    before = everything(folder)
    with quiet() as err:
        found = main(command.split())
    after = everything(folder)
    for name in after.keys() - before.keys():
        (folder / name).unlink()
    lines = err.getvalue().splitlines()
    assert [line for line in lines if line.startswith("dgmm: ")] == lines[-1:], lines
    assert len(lines) == 1, lines
    assert words in lines[0]
    assert found == code, lines
    assert after == before
