"""Ways to climb that are scripts: generators of what is to be evaluated next."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from dgmm.em import Evaluated, Ground, Proposal
from dgmm.mixture import Mixture

Script = Generator[tuple[Mixture, float], Evaluated, None]


class Scripted:
    """A method whose state is that of a generator, which has said what it starts from."""

    def __init__(self, script: Script) -> None:
        self._script = script
        next(script)

    def step(self, point: Evaluated) -> tuple[Scripted, Proposal]:
        """What the script says next."""
        return self, Proposal(*self._script.send(point))


def scripted(make: Callable[[Mixture, Ground], Any]) -> Callable[[Mixture, Ground], Scripted]:
    """A method made of a generator function."""
    return lambda start, ground: Scripted(make(start, ground))
