"""A kind of source is one file: everything else takes it as it takes a Zarr store."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

import dgmm
from dgmm.cli import main
from dgmm.data import open_samples, register_opener
from dgmm.data.files import OPENERS
from tests.data import toy_source


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    toy_source.register()
    yield
    del OPENERS[toy_source.SUFFIX]


@pytest.fixture
def x(tmp_path: Path) -> np.ndarray:
    r = np.random.default_rng(0)
    x = np.concatenate([r.normal(size=(700, 2)), r.normal(size=(300, 2)) + 8])
    np.save(tmp_path / "x.npy", x)
    return x


def test_it_is_read_segment_by_segment(x: np.ndarray, tmp_path: Path) -> None:
    samples = open_samples(tmp_path / "x.npy")
    assert samples.name == str(tmp_path / "x.npy")
    assert not samples.in_memory
    found = np.concatenate([samples.read(samples.grid.region(i)) for i in range(len(samples.grid))])
    np.testing.assert_array_equal(found, x)


def test_the_command_line_trains_and_scores_it(
    x: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, model, out = (str(tmp_path / name) for name in ("x.npy", "model.zarr", "scores.zarr"))
    assert main(["train", data, "--k", "2", "--out", model]) == 0
    assert main(["score", model, data, "--out", out]) == 0
    expected = dgmm.train(x, 2)
    assert dgmm.load(model).log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-9)
    labels = zarr.open_group(out, mode="r")["label"]
    np.testing.assert_array_equal(np.sort(np.bincount(labels[:])), [300, 700])
    assert main(["train", data.replace("x.npy", "y.npy"), "--k", "2", "--out", model]) == 2
    assert "y.npy is not a NumPy file" in capsys.readouterr().err


def test_a_scheme_is_a_mark_too(x: np.ndarray) -> None:
    places = []

    def opener(place: str) -> np.ndarray:
        places.append(place)
        return x

    register_opener("nowhere://", opener)
    try:
        assert open_samples("nowhere://x.zarr").grid.size == len(x)
    finally:
        del OPENERS["nowhere://"]
    assert places == ["nowhere://x.zarr"]
