"""A reduction tree that belongs to the data: the same bits however the leaves were shared out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar


class Mergeable(Protocol):
    """A value with an associative merge."""

    def merge(self, other: Self) -> Self:
        """Both together; ``other`` comes after."""
        ...


T = TypeVar("T", bound=Mergeable)


@dataclass(frozen=True)
class Node(Generic[T]):
    """The merged value of the leaves ``index * 2**level`` up to ``(index + 1) * 2**level``."""

    level: int
    index: int
    value: T


def grow(stack: list[Node[T]], node: Node[T]) -> None:
    """Put the next node, from left to right, on the stack, and merge siblings for as long as there are any."""
    while stack and stack[-1].level == node.level and stack[-1].index % 2 == 0 and stack[-1].index + 1 == node.index:
        left = stack.pop()
        node = Node(node.level + 1, left.index // 2, left.value.merge(node.value))
    stack.append(node)


def levels_of(run: Sequence[int]) -> list[int]:
    """Levels of the nodes that are left of a run of neighbouring leaves, from left to right."""
    levels, start, stop = [], run[0], run[-1] + 1
    while start < stop:
        # the largest node that begins here and ends within the run
        level = (stop - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        levels.append(level)
        start += 1 << level
    return levels


def merge_all(nodes: Iterable[Node[T]], n_leaves: int | None = None) -> T:
    """The value of the whole tree from nodes in order that cover it; siblings first, what is left from the right.

    Raises
    ------
    ValueError
        If there are no nodes, or they do not cover ``n_leaves``, where that is known.
    """
    stack: list[Node[T]] = []
    covered = 0
    for node in nodes:
        if n_leaves is not None and node.index << node.level != covered:
            raise ValueError(f"leaf {covered} of a tree of {n_leaves} is missing, or not in its place")
        covered += 1 << node.level
        grow(stack, node)
    if not stack:
        raise ValueError("a tree needs at least one leaf")
    if n_leaves not in (None, covered):
        raise ValueError(f"{covered} leaves of a tree of {n_leaves} are there")
    value = stack.pop().value
    while stack:
        value = stack.pop().value.merge(value)
    return value
