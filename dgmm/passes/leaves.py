"""The passes of a fit that is still to come, as leaves: what they will need of memory can be asked of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dgmm.data import Samples
from dgmm.engine import Leaf
from dgmm.estep import make_plan
from dgmm.families import Frame, FrameKind
from dgmm.mixture import Mixture
from dgmm.passes.estep import EStepSegment
from dgmm.passes.parts import Division
from dgmm.passes.passes import PassOptions, blocks_of
from dgmm.passes.profile import ProfileSegment
from dgmm.passes.sample import Draw
from dgmm.passes.worst import WorstSegment


def leaves_for(
    samples: Samples,
    options: PassOptions,
    together: Sequence[Sequence[Mixture]],
    frame: Callable[[FrameKind], Frame],
    worst_rows: int,
) -> list[Leaf[Any]]:
    """The leaves of a profile, of E-steps, and of a pass for the worst rows.

    Parameters
    ----------
    samples : Samples
    options : PassOptions
    together : sequence of sequence of Mixture
        Those of each E-step, in frame coordinates. Only their sizes matter.
    frame : callable
        The frame of each kind.
    worst_rows : int
        Rows that are collected for a mixture; none where this is zero.
    """
    blocks = blocks_of(samples, options)
    draw, marginal = Draw(options.sample_rows, options.seed), options.missing == "marginalise"
    division = Division(True, options.holdout, options.seed, 1.0, blocks, marginal=marginal)
    what = (samples.name, samples.features, samples.grid, draw, samples.row_bytes)
    leaves: list[Leaf[Any]] = [ProfileSegment(*what, options.holdout, blocks, options.missing)]
    for mixtures in together:
        frames = {m.family.frame: frame(m.family.frame) for m in mixtures}
        plan = make_plan(mixtures, frames, np.dtype(options.compute_dtype), marginal=marginal)
        leaves.append(EStepSegment(plan, division))
        if worst_rows:
            leaves.append(WorstSegment((plan,), worst_rows, samples.row_bytes, division))
    return leaves
