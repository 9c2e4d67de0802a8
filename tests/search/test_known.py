"""What is known of components: which are the same, and that these are looked at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dgmm.mixture import Mixture
from dgmm.search.known import SAME_ROWS, Names, looked_up
from dgmm.search.moves import Standing
from dgmm.types import FloatArray
from tests.search.test_moves import stuck

ROWS = 20_000


def shares(labels: Any) -> FloatArray:
    """Responsibilities of three components for rows that are of one each."""
    return (np.arange(3)[:, None] == labels).astype(float)


def exchanged(share: float) -> FloatArray:
    """Three components of the same number of rows, of which two have exchanged a little of each row of theirs.

    It makes as much of a difference as rows exchanged altogether that are this share of theirs.
    """
    found = shares(np.arange(ROWS) % 3)
    first, second = found[:2].copy()
    little = np.sqrt(share)
    found[0] += little * (second - first)
    found[1] += little * (first - second)
    return found


@pytest.mark.parametrize(("share", "expected"), [(0.0, [0, 1, 2]), (0.95, [0, 1, 2]), (1.05, [3, 4, 2])])
def test_a_component_with_most_of_its_rows_keeps_its_name(share: float, expected: list[int]) -> None:
    names = Names()
    assert names.of(exchanged(0.0)) == [0, 1, 2]
    assert names.of(exchanged(share * SAME_ROWS)) == expected
    # however much a row weighs
    weighed = Names()
    weighed.of(7.0 * exchanged(0.0))
    assert weighed.of(7.0 * exchanged(share * SAME_ROWS)) == expected


def test_names_do_not_drift() -> None:
    """Each time half of what is tolerated: after the third one it is another component."""
    names, found = Names(), []
    for times in range(4):
        found.append(names.of(exchanged(0.45 * times * SAME_ROWS))[0])
    assert found[:3] == [0, 0, 0]
    assert found[3] != 0


def test_what_is_known_is_not_looked_at_again() -> None:
    found, looked = {"b": 20}, []

    def look(places: list[int]) -> list[int]:
        looked.append(places)
        return [10 * place for place in places]

    assert looked_up(found, ["a", "b", "c", "a"], look) == [0, 20, 20, 0]
    assert looked_up(found, ["c", "a"], look) == [20, 0]
    assert looked == [[0, 2], []]


def with_one_cut(s: Standing) -> Mixture:
    """The mixture with its last component, which is far from all others, cut in two."""
    best = max((split for split in s.splits if split.component == 3), key=lambda split: split.gain)
    return s.split(best)


def test_as_a_mixture_grows_only_what_is_new_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    s = stuck("full")
    grown = with_one_cut(s)
    cut: list[int] = []
    its = Standing._cuts_of
    monkeypatch.setattr(Standing, "_cuts_of", lambda self, k: (cut.append(k), its(self, k))[1])
    fresh = Standing(grown, s.ground, s.sample, 1e-6).splits
    assert cut == [0, 1, 2, 3, 4]
    cut.clear()
    after = Standing(grown, s.ground, s.sample, 1e-6, s.known).splits
    assert cut == [3, 4]
    best = [{c.component: c.gain for c in sorted(cuts, key=lambda c: c.gain)} for cuts in (after, fresh, s.splits)]
    assert {k: best[0][k] for k in range(3)} == {k: best[2][k] for k in range(3)}
    # of fewer components more cuts go on, so that what is known may be better
    assert all(best[0][k] > gain - 1e-6 for k, gain in best[1].items())


def test_a_move_is_tried_once_on_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a mixture whose other components have changed, too."""
    s = stuck("full")
    grown = Standing(with_one_cut(s), s.ground, s.sample, 1e-6, s.known)
    merge = next(move for move in s.moves(9) if move[:2] == (0, 1) and move[2].component == 2)
    (before,) = s.replaced([merge])
    tried: list[Any] = []
    monkeypatch.setattr(Standing, "_begun", lambda self, move: tried.append(move))
    (after,) = grown.replaced([merge])
    assert not tried
    assert after.gain == before.gain
    assert after.mixture.n_components == before.mixture.n_components + 1
    fresh = Standing(grown.mixture, s.ground, s.sample, 1e-6)
    monkeypatch.undo()
    np.testing.assert_allclose(after.mixture.means, fresh.replaced([merge])[0].mixture.means, atol=1e-6)
