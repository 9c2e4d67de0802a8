"""The reduction tree: one shape for a number of leaves, whoever computes which of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgmm.engine import Node, merge_all
from dgmm.engine.tree import grow


@dataclass(frozen=True)
class Total:
    """A float sum that remembers how it was bracketed."""

    value: float
    brackets: str

    def merge(self, other: Total) -> Total:
        """Both together."""
        return Total(self.value + other.value, f"({self.brackets}{other.brackets})")


def leaves(values: list[float]) -> list[Node[Total]]:
    return [Node(0, i, Total(v, chr(ord("a") + i % 26))) for i, v in enumerate(values)]


def in_runs(nodes: list[Node[Total]], edges: list[int]) -> Total:
    """The value of the tree when the leaves between two edges are merged by a worker of their own first."""
    partial: list[Node[Total]] = []
    for start, stop in pairwise(edges):
        stack: list[Node[Total]] = []
        for node in nodes[start:stop]:
            grow(stack, node)
        partial.extend(stack)
    return merge_all(partial)


def perfect(nodes: list[Node[Total]]) -> Total:
    """The oracle for a power of two: pairs, then pairs of pairs."""
    values = [n.value for n in nodes]
    while len(values) > 1:
        values = [a.merge(b) for a, b in zip(values[::2], values[1::2], strict=True)]
    return values[0]


def oracle(nodes: list[Node[Total]]) -> Total:
    """Perfect trees by the binary digits of the number of leaves, joined from the right."""
    parts, start = [], 0
    for bit in reversed(range(len(nodes).bit_length())):
        if len(nodes) & (1 << bit):
            parts.append(perfect(nodes[start : start + (1 << bit)]))
            start += 1 << bit
    value = parts.pop()
    while parts:
        value = parts.pop().merge(value)
    return value


@pytest.mark.parametrize("n", range(1, 10))
def test_every_way_of_cutting_gives_the_same_bits(n: int) -> None:
    """All 2^(n-1) ways of sharing out n leaves, and the bracketing itself, for sums that are not associative."""
    nodes = leaves([(-1.0) ** i * 10.0 ** (i % 5 * 4) + 1 / 3 for i in range(n)])
    expected = oracle(nodes)
    for cuts in product([False, True], repeat=n - 1):
        assert in_runs(nodes, [0, *(i + 1 for i, cut in enumerate(cuts) if cut), n]) == expected


@pytest.mark.parametrize(
    ("n", "brackets"),
    [
        (1, "a"),
        (2, "(ab)"),
        (3, "((ab)c)"),
        (4, "((ab)(cd))"),
        # what is left of a power of two is joined from the right
        (7, "(((ab)(cd))((ef)g))"),
    ],
)
def test_brackets_by_hand(n: int, brackets: str) -> None:
    assert merge_all(leaves([0.0] * n)).brackets == brackets


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=200),
    st.lists(st.integers(0, 200), max_size=12),
)
def test_any_floats_and_any_runs(values: list[float], cuts: list[int]) -> None:
    nodes = leaves(values)
    edges = [0, *sorted({c for c in cuts if 0 < c < len(values)}), len(values)]
    found = in_runs(nodes, edges)
    assert found == oracle(nodes)
    # left to right, nothing lost, nothing twice
    assert found.brackets.replace("(", "").replace(")", "") == "".join(n.value.brackets for n in nodes)
    np.testing.assert_allclose(
        found.value, np.sum(values, dtype=np.longdouble), rtol=0, atol=1e-9 * np.abs(values).sum()
    )


def test_only_siblings_are_merged() -> None:
    """Leaves 1 and 2 are neighbours but belong to different parents."""
    stack: list[Node[Total]] = []
    for node in leaves([1.0, 2.0, 4.0])[1:]:
        grow(stack, node)
    assert [(n.level, n.index) for n in stack] == [(0, 1), (0, 2)]


def test_a_tree_needs_a_leaf() -> None:
    with pytest.raises(ValueError, match="at least one leaf"):
        merge_all([])
