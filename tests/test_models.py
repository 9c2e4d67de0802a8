"""The commands of a registry: what they print, what they refuse, and that scores name a version that stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import dgmm
from dgmm.cli import main
from dgmm.store import attributes, save, settings_in
from tests.ledgers import fit, write_job

Run = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in a folder with two models and a source."""
    monkeypatch.chdir(tmp_path)
    write_job(tmp_path)
    save(fit(1), "other.zarr")

    def command(line: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(line.split())
        return code, *capsys.readouterr()

    return command


def versions(run: Run) -> dict[str, str]:
    """Digest -> version."""
    found = json.loads(run("models list models/water --json")[1])
    return {v["version"].partition("-")[2]: v["version"] for v in found["versions"]}


def test_a_model_is_added_promoted_and_rolled_back(run: Run) -> None:
    assert run("models list models/water") == (0, "no versions in models/water\n", "")
    code, out, _ = run("models add models/water m.zarr --data x.zarr --promote")
    assert code == 0
    assert out.endswith("is the champion\n")
    code, out, _ = run("models add models/water other.zarr")
    assert (code, out.endswith("is the candidate\n")) == (0, True)
    listed = run("models list models/water")[1].splitlines()
    assert len(listed) == 3
    assert [line.split()[1] for line in listed[1:]].count("champion") == 1
    (first,) = (v for v in versions(run).values() if f"{v} " in "".join(x for x in listed if "champion" in x))
    assert run("models promote models/water@candidate")[0] == 0
    assert run("models rollback models/water") == (0, f"models/water@champion is {first}\n", "")


def test_the_card_says_what_it_was_made_of(run: Run) -> None:
    run("models add models/water m.zarr --data x.zarr --promote")
    code, out, _ = run("models show models/water")
    assert code == 0
    for said in ("# 20", "full, K = 3", "dgmm models add models/water m.zarr", "238", "## Data", "## Versions"):
        assert said in out
    card = json.loads(run("models show models/water@champion --json")[1])
    assert card["data"]["shape"] == "(238,) (sample)"
    assert card["criteria"]["BIC"] == pytest.approx(fit().bic)
    assert card["versions"]["numpy"] == np.__version__


def test_scores_name_the_version_that_the_alias_stood_for(run: Run) -> None:
    run("models add models/water m.zarr --promote")
    assert run("score models/water@champion x.zarr --out s.zarr")[0] == 0
    named = settings_in(attributes("s.zarr"))["model"]
    assert "@" not in named
    run("models add models/water other.zarr --promote")
    assert run("verify s.zarr --recompute 1")[0] == 0, "against the version of then"
    assert "component 2" in run("info models/water@champion")[1]
    assert run("verify models/water@champion")[0] == 0
    scores = dgmm.score("models/water@champion", "x.zarr", "t.zarr")
    assert scores.sizes["sample"] == 238
    assert settings_in(attributes("t.zarr"))["model"] != named


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("models promote models/water", "which version? Name it after an @, such as models/water@candidate"),
        ("models promote models/water@1999", "'1999' is no version of models/water: there is nothing"),
        ("models rollback models/water", "cannot go back: before its first version is nothing"),
        ("models rollback models/water@champion", "name the registry, without a version (models/water)"),
        ("models show models/water", "'champion' is no version of models/water: there is nothing"),
        ("models add models/water none.zarr", "none.zarr"),
        ("models add models/water x.zarr", "x.zarr"),
        ("score models/water@champion x.zarr --out s.zarr", "no champion in the registry models/water"),
        ("info models/water@champion", "no champion in the registry models/water"),
        ("verify models/water@champion", "no champion in the registry models/water"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(line: str, said: str, run: Run) -> None:
    code, out, err = run(line)
    assert (code, out) == (2, "")
    assert err.startswith("dgmm: ")
    assert said in err
    assert err.count("\n") == 1
    assert not Path("models").exists()
    assert not Path("s.zarr").exists()
