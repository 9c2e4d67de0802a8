"""Which damage to a source can be noticed, from both sides: by the codecs that are said to, and by no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from dgmm.cli import main
from dgmm.data.codecs import codecs_of, tells
from dgmm.errors import ReadError
from tests.reliability.faults.damage import ALL, CHUNK, TOLD, UNTOLD, chunks_of, flipped, put, read, rows, source

#: Bits that are flipped of each kind of source in the short form.
FLIPS = 12


def outcomes(kind: str, folder: Path, times: int) -> list[str]:
    """What becomes of a source in which a bit is flipped, for so many bits of its chunks."""
    files, found = source(kind), []
    r = np.random.default_rng(7)
    for _ in range(times):
        name = str(r.choice(chunks_of(files)))
        path = put(folder, files | {name: flipped(files[name], r)})
        try:
            found.append("equal" if read(path).tobytes() == rows().tobytes() else "other")
        except ReadError:
            found.append("refused")
        put(folder, files)
    return found


@pytest.mark.parametrize("kind", TOLD)
def test_a_codec_that_is_said_to_notice_a_flipped_bit_does(kind: str, tmp_path: Path) -> None:
    found = outcomes(kind, tmp_path, FLIPS)
    assert "other" not in found
    assert found.count("refused") > FLIPS / 2


@pytest.mark.parametrize("kind", UNTOLD)
def test_a_codec_that_is_said_not_to_does_not(kind: str, tmp_path: Path) -> None:
    assert "other" in outcomes(kind, tmp_path, FLIPS)


@pytest.mark.parametrize("kind", ALL)
def test_info_says_which_of_them_it_is(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(tmp_path, source(kind))
    assert tells(codecs_of(zarr.open_array(str(path), mode="r"))) == (kind in TOLD)
    assert main(["info", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    size = "shards" if "shards" in kind else "chunks"
    assert [line for line in lines if f"stored as float64 in {size} of ({CHUNK}, 3), " in line] == lines[2:3]
    assert [line for line in lines if "a flipped bit cannot be noticed" in line] == lines[3:]
    assert len(lines) == 3 + (kind in UNTOLD)


def test_info_names_the_variables_that_are_stored_in_another_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import xarray as xr

    told = {"a": TOLD["gzip"], "b": UNTOLD["zstd"], "c": TOLD["gzip"]}
    dataset = xr.Dataset({name: ("s", column) for name, column in zip("abc", rows().T, strict=True)})
    dataset.to_zarr(tmp_path / "d.zarr", consolidated=False, zarr_format=3, encoding=told)
    assert main(["info", str(tmp_path / "d.zarr")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].endswith("gzip; Zarr format 3 (a, c)")
    assert lines[3].endswith("zstd; Zarr format 3 (b)")
    assert lines[4].startswith("a flipped bit cannot be noticed in it (b): ")
    assert main(["info", str(tmp_path / "d.zarr"), "--variables", "a,c"]) == 0
    assert "noticed" not in capsys.readouterr().out
