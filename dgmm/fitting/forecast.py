"""How many passes a climb takes yet, as far as the gains that it expects say."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: The last estimates that are looked at: the rate of a climb changes.
LATEST = 5


def passes_left(gains: Sequence[float], enough: float, most: int) -> int:
    """Passes until the gain still to come is small enough, if it goes on shrinking by the factor of the last passes.

    Parameters
    ----------
    gains : sequence of float
        What was to come after each pass, as estimated then.
    enough : float
        At which the climb ends.
    most : int
        No more than that are made, nor foretold where nothing is known.
    """
    known = [gain for gain in gains[-LATEST:] if math.isfinite(gain)]
    if known and known[-1] <= enough:
        return 0
    if len(known) < 2 or enough <= 0 or not known[-1] < known[0]:
        return max(most, 0)
    rate = math.log(known[-1] / known[0]) / (len(known) - 1)
    return max(0, min(most, math.ceil(math.log(enough / known[-1]) / rate)))
