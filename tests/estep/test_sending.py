"""Plans travel from worker to worker while threads work with them."""

from __future__ import annotations

import pickle
from typing import Any

import cloudpickle
import numpy as np
import pytest

from dgmm.estep import Plan
from dgmm.families.frame import Moments
from dgmm.families.gaussian import Gaussians
from dgmm.mixture import Mixture
from dgmm.scoring.segments import ScoreSegment
from dgmm.types import Sendable


@pytest.mark.parametrize("kind", [Plan, Moments, Gaussians, ScoreSegment])
def test_what_keeps_what_it_has_worked_out_is_written_down_as_a_copy(kind: type[Any]) -> None:
    assert issubclass(kind, Sendable)


def test_what_is_worked_out_while_a_plan_is_written_down_changes_nothing() -> None:
    plan = Mixture.gaussian("full", np.ones(1), np.zeros((1, 2)), np.eye(2)[None]).density_plan()
    state = plan.__getstate__()
    before = list(state)
    assert plan.digest
    assert list(state) == before
    assert "digest" in vars(plan)
    assert pickle.loads(cloudpickle.dumps(plan)).digest == plan.digest
