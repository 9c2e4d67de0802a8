"""One BLAS thread: the same bits on the driver whatever the process was given, and the limit is always lifted again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
import sklearn.mixture
from threadpoolctl import threadpool_info

import dgmm
from dgmm.blas import _BlasLimit, one_blas_thread, one_thread

#: Everything a driver does at d = 128, where two BLAS threads round otherwise than one.
WORK = """
import hashlib, sys, warnings
import numpy as np
import dgmm
warnings.simplefilter("ignore")

def say(what, *arrays):
    bits = b"".join(np.ascontiguousarray(a, dtype=float).tobytes() for a in arrays)
    print(what, hashlib.sha256(bits).hexdigest())

def of_fit(fit):
    m = fit.mixture
    return m.weights, m.means, m.components.factors, fit.log_likelihood, fit.entropy, fit.trajectory

d = 128
r = np.random.default_rng(0)
x = r.standard_normal((900, d))  # no product: that would be rounded by the threads that there are
x = np.cumsum(x, axis=1) + x
x[::2, 0] += 6
how = {"n_init": 2, "max_iter": 3, "reg_covar": 1e-4, "start_rows": 700}
fit = dgmm.train(x, 2, "full", **how)
say("train", *of_fit(fit))
for found in dgmm.select(x, [1, 2], ["full", "tied"], keep_all=True, **how).fits:
    say("select", *of_fit(found))
say("score", dgmm.score(fit, x, sys.argv[1]).log_density.values)
for kind in ("full", "tied"):
    for theirs in (dgmm.GaussianMixture, dgmm.BayesianGaussianMixture):
        model = theirs(n_components=2, covariance_type=kind, max_iter=2, reg_covar=1e-2, random_state=0).fit(x)
        say(f"{theirs.__name__} {kind}", model.means_, model.precisions_, model.lower_bound_, model.score_samples(x))
model = dgmm.GaussianMixture.select(x, [2], ["full"], **how)
say("GaussianMixture.select", model.means_, model.precisions_)
"""


def test_the_same_bits_with_one_blas_thread_or_two(tmp_path: Any) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WORK, str(tmp_path / f"scores{n}.zarr")],
            env={**os.environ, "OPENBLAS_NUM_THREADS": str(n), "OMP_NUM_THREADS": str(n)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in (1, 2)
    ]
    one, two = (process.communicate(timeout=120) for process in running)
    assert [process.returncode for process in running] == [0, 0], one[1] + two[1]
    assert len(one[0].splitlines()) == 11
    assert two[0] == one[0]


def blas_threads(*apis: str) -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] in (apis or ("blas",))]


LATE = """
from dgmm.blas import one_blas_thread
with one_blas_thread:
    pass
import numpy
import scipy.linalg
from threadpoolctl import threadpool_info
with one_blas_thread:
    found = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
assert found
assert set(found) == {1}, found
"""


LATER = """
from dgmm.blas import one_blas_thread, one_thread
with one_blas_thread:
    import sklearn.cluster
    from threadpoolctl import threadpool_info, threadpool_limits
    with threadpool_limits(2, user_api="openmp"):
        with one_thread():
            found = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "openmp"]
        after = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "openmp"]
assert found
assert set(found) == {1}, found
assert set(after) == {2}, after
"""


@pytest.mark.parametrize("code", [LATE, LATER], ids=["blas", "openmp"])
def test_libraries_that_are_loaded_later_are_limited_too(code: str) -> None:
    """NumPy and SciPy each bring their own."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "2"},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_users_overlap_and_the_last_one_lifts_the_limit() -> None:
    before = blas_threads()
    with one_blas_thread:
        with one_thread():
            inside = blas_threads()
        still = blas_threads()
    assert set(inside) == set(still) == {1}
    assert blas_threads() == before


@pytest.mark.parametrize("theirs", [sklearn.mixture.GaussianMixture, sklearn.mixture.BayesianGaussianMixture])
def test_k_means_of_the_estimators_adds_up_in_one_order(theirs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its OpenMP threads would, in whatever order they come."""
    found, initialise = [], theirs._initialize_parameters

    def recording(self: Any, *given: Any, **more: Any) -> None:
        found.extend(blas_threads("blas", "openmp"))
        initialise(self, *given, **more)

    monkeypatch.setattr(theirs, "_initialize_parameters", recording)
    x = np.random.default_rng(0).standard_normal((50, 2))
    getattr(dgmm, theirs.__name__)(n_components=2, tol=1.0).fit(x)
    assert len(found) >= 2
    assert set(found) == {1}


class Interrupted(_BlasLimit):
    """Ctrl-C comes once, before or after the limit is set."""

    def __init__(self, when: str) -> None:
        self.when = when
        super().__init__()

    def _interrupt(self, when: str) -> None:
        if self.when == when:
            self.when = "never again"
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _follow(self) -> None:
        self._interrupt("before")
        super()._follow()
        self._interrupt("after")


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no such signals on this system")
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupted_entry_leaves_the_limit_lifted(when: str) -> None:
    before, limit = blas_threads(), Interrupted(when)
    with pytest.raises(KeyboardInterrupt), limit:
        pytest.fail("it was not entered")
    assert blas_threads() == before
    # nor is it spoilt for those who come after
    with limit:
        assert set(blas_threads()) == {1}
    assert blas_threads() == before
