"""Threads, and what becomes of them."""

import os
import subprocess
import sys

import pytest

FORKED = """
import os, signal
import numpy as np
import dgmm

x = np.random.default_rng(0).normal(size=(500, 2))
fit = dgmm.train(x, 2, n_init=1)
child = os.fork()
if not child:
    signal.alarm(60)
    assert dgmm.train(x, 2, n_init=1).log_likelihood == fit.log_likelihood
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_can_compute_as_its_parent_did() -> None:
    """Servers and multiprocessing fork: the thread that keeps BLAS to one thread does not come along."""
    command = [sys.executable, "-W", "ignore", "-c", FORKED]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
