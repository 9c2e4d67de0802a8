"""Open ranges: how many components are tried where only the first number is given."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

import dgmm
from dgmm.cli import main
from dgmm.errors import InputError
from dgmm.fits import OpenRange, Search, kinds, validated


def clusters(k: int, n: int = 1500) -> np.ndarray:
    """On a grid of five columns, so far from each other that BIC finds as many as there are."""
    r = np.random.default_rng(k)
    labels = np.arange(n) % k
    return 12.0 * np.stack([labels % 5, labels // 5], axis=1) + r.standard_normal((n, 2))


@pytest.mark.parametrize(
    ("last", "best", "most", "after"),
    [
        (8, 5, 1000, []),
        (8, 6, 1000, range(9, 17)),
        (8, 8, 1000, range(9, 17)),
        (8, 8, 11, range(9, 12)),
        (8, 8, 8, []),
        (8, None, 1000, []),
        (33, 33, 1000, range(34, 65)),
        (64, 64, 1000, []),
    ],
)
def test_it_goes_on_until_three_more_bring_nothing(last: int, best: int | None, most: int, after: list[int]) -> None:
    assert list(OpenRange.after(last, best, most)) == list(after)


@pytest.mark.parametrize(("k", "last"), [(3, 8), (5, 8), (6, 16), (9, 16)])
def test_what_is_chosen_is_what_a_closed_range_chooses(k: int, last: int) -> None:
    found = dgmm.select(clusters(k), "1:", ["spherical"])
    assert sorted(found.table["n_components"]) == list(range(1, last + 1))
    assert found.best.n_components == k
    assert not found.at_edge
    closed = dgmm.select(clusters(k), f"1:{last}", ["spherical"])
    assert found.best.log_likelihood == pytest.approx(closed.best.log_likelihood, rel=1e-8)


def test_there_is_a_limit_and_the_edge_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "LIMIT", 10)
    found = dgmm.select(clusters(15), "2:", ["spherical"])
    assert sorted(found.table["n_components"]) == list(range(2, 11))
    assert found.at_edge


def test_no_more_components_than_rows() -> None:
    found = dgmm.select(np.arange(30.0).reshape(10, 3) ** 2, "1:", ["spherical"], start_rows=10)
    assert found.table["n_components"].max() <= 10


def test_settings_keep_what_was_asked() -> None:
    search = validated(Search, {"n_components": "3:"})
    assert list(search.n_components) == list(range(3, 11))
    assert search.model_dump(mode="json")["n_components"] == "3:"
    again = validated(Search, search.model_dump())
    assert isinstance(again.n_components, OpenRange)
    assert again == search
    assert validated(Search, {"n_components": "3:5"}).model_dump()["n_components"] == [3, 4, 5]


@pytest.mark.parametrize("bad", ["0:", ":", "1:,3", "a:"])
def test_what_is_no_range_is_refused(bad: str) -> None:
    with pytest.raises(InputError, match="whole numbers from 1 up"):
        validated(Search, {"n_components": bad})


def test_on_the_command_line(tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(str(tmp_path))
    zarr.save_array("x.zarr", clusters(2, 200))
    assert main(["select", "x.zarr", "--k", "1:", "--covariance", "spherical", "--out", "run", "--quiet"]) == 0
    assert "spherical, K = 2" in capsys.readouterr().out
