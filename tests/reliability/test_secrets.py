"""Passwords, keys and signatures are in no message, log, output or journal, whichever way they were handed in."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import obstore
import pytest
import zarr

from dgmm.cli import main
from dgmm.data import object_at, open_store, store_at
from dgmm.errors import without_secrets

#: What must not be found again.
PLANTED = "hunter2hunter2"
URLS = [
    f"https://user:{PLANTED}@127.0.0.1:9/x.zarr",
    f"s3://key:{PLANTED}@bucket/x.zarr",
    f"s3://{PLANTED}@bucket/x.zarr",
    f"s3://bucket/x.zarr?X-Amz-Signature={PLANTED}",
    f"az://container/x.zarr?sv=2024&sig={PLANTED}",
    f"gs://bucket/x.zarr#{PLANTED}",
    f"nowhere://user:{PLANTED}@bucket",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a model."""
    folder = tmp_path_factory.mktemp("store")
    x = np.random.default_rng(0).standard_normal((400, 2))
    zarr.create_array(f"{folder}/x.zarr", shape=x.shape, chunks=(100, 2), dtype=x.dtype)[...] = x
    assert main(f"train {folder}/x.zarr --k 2 --out {folder}/m.zarr --quiet".split()) == 0
    return folder


@pytest.mark.parametrize("url", [*URLS, f"tls://user:{PLANTED}@127.0.0.1:9"])
@pytest.mark.parametrize(
    "command",
    [
        "train {} --k 2 --out o.zarr",
        "train x.zarr --k 2 --out {}",
        "select {} --k 1:2 --out run",
        "select x.zarr --k 1:2 --out {}",
        "score m.zarr {} --out s.zarr",
        "score {} x.zarr --out s.zarr",
        "score m.zarr x.zarr --out {}",
        "info {}",
        "train x.zarr --k 2 --out o.zarr --scheduler {}",
    ],
)
def test_a_url_with_a_secret_is_refused_without_it(
    url: str, command: str, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(store)
    before = sorted(store.rglob("*"))
    assert main(command.format(url).split()) == 2
    said = capsys.readouterr()
    assert PLANTED not in said.out + said.err
    assert len(said.err.splitlines()) == 1
    assert sorted(store.rglob("*")) == before


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/a/b.zarr", "s3://bucket/a/b.zarr"),
        ("/data/a@b?.zarr", "/data/a@b?.zarr"),
        ("a/b#c.zarr", "a/b#c.zarr"),
        ("s3://bucket/a@b.zarr", "s3://bucket/a@b.zarr"),
        ("https://me:pw@host:80/x?y=z#w", "https://...@host:80/x?..."),
        ("https://host/x#w", "https://host/x#..."),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_keys_of_the_environment_are_written_nowhere(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Data, models, scores and journals in an object store, the report beside: nothing holds the keys."""
    monkeypatch.chdir(tmp_path)
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "PREFECT_API_AUTH_STRING"):
        monkeypatch.setenv(name, PLANTED)
    x = np.random.default_rng(0).standard_normal((400, 2))
    array = zarr.create_array(store_at(f"{s3}/x.zarr", read_only=False), shape=x.shape, chunks=(100, 2), dtype=x.dtype)
    array[...] = x
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.DEBUG)
    try:
        assert main(f"select {s3}/x.zarr --k 1:2 --out {s3}/run --set keep_journal=true".split()) == 0
        assert main(f"score {s3}/run/model.zarr {s3}/x.zarr --out {s3}/scores.zarr".split()) == 0
        assert main(f"score {s3}/run/model.zarr {s3}/x.zarr --out scores.zarr".split()) == 0
        assert main(f"info {s3}/run/model.zarr --json".split()) == 0
        assert main(f"train {s3}/absent.zarr --k 2 --out o.zarr".split()) == 2
    finally:
        logging.getLogger().removeHandler(handler)
    said = capsys.readouterr()
    assert PLANTED not in said.out + said.err
    # what libraries tell of their requests when asked for everything is theirs; what is ours is not
    ours = [line for line in log.getvalue().splitlines() if "dgmm" in line]
    assert PLANTED not in "\n".join(ours)
    folder, _ = object_at(f"{s3}/x.zarr")
    names = [entry["path"] for batch in obstore.list(folder) for entry in batch]
    assert any("journal" in name for name in names)
    assert any(name.startswith("scores.zarr/") for name in names)
    for name in names:
        assert PLANTED.encode() not in bytes(obstore.get(folder, name).bytes())
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or PLANTED.encode() not in path.read_bytes()
    assert open_store(f"{s3}/run/model.zarr").attrs
