"""Tables that grow row by row, in Markdown."""

from __future__ import annotations


def line(*cells: str) -> None:
    """A row of the table."""
    print("| " + " | ".join(cells) + " |", flush=True)


def head(title: str, *cells: str) -> None:
    """A table of its own."""
    print(f"\n{title}\n")
    line(*cells)
    line(*["---"] * len(cells))
