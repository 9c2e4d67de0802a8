"""What is done in vectors, against NumPy in extended precision, and on processors with narrower ones or none."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from scipy.special import log_softmax

from dgmm.estep import columns, features, posterior, registers, shares, vectors
from dgmm.estep.compiled import aligned, in_columns

needs_vectors = pytest.mark.skipif(not vectors.LANES, reason="no vectors that serve")
#: Rows of samples: none left over, some, and fewer than fill one vector.
COUNTS = [1, 7, 47, 48, 49, 192, 385]


def monomials(y: np.ndarray) -> np.ndarray:
    """1, y, y_i^2, y_i y_j (i < j) of coordinates (d, n)."""
    a, b = np.triu_indices(len(y), 1)
    return np.vstack([np.ones((1, y.shape[1])), y, y**2, y[a] * y[b]])


def exact(x: np.ndarray) -> np.ndarray:
    return x.astype(np.longdouble)


def held(rows: int, n: int) -> np.ndarray:
    """Memory as slices have it, full of what must not matter."""
    found = aligned(rows * vectors.padded(n)).reshape(rows, -1)
    found[:] = np.nan
    return found


# routines of compiled functions, to be called from here
@numba.njit
def combine(theta, at, rows, pairs, size, y, first, joint, to, n):
    registers.combine(theta, at, rows, pairs, 0, size, y, first, joint, to, n)


@numba.njit
def add_moments(joint, to, rows, pairs, size, y, first, sums, at, step, n):
    registers.add_moments(joint, to, rows, pairs, size, y, first, sums, at, step, n)


@numba.njit
def exponentials(joint, n_rows, n, filled, top, total, power):
    if vectors.LANES:
        posterior.exponentials(joint, 0, n_rows, n, filled, top, total)
    else:
        shares.shifted_exponentials(joint, 0, n_rows, filled, n, top, total, power)


@numba.njit
def convert(source, place, first, size):
    columns.convert(source, place, first, size)


@pytest.mark.parametrize(("here", "there"), [("f4", "f8"), ("f8", "f4")])
def test_numbers_of_another_precision(here: str, there: str) -> None:
    source = np.random.default_rng(0).standard_normal(5 * vectors.STEP).astype(here)
    place = np.full(len(source), np.nan, there)
    convert(source, place, vectors.STEP, 3 * vectors.STEP)
    inside = slice(vectors.STEP, 4 * vectors.STEP)
    np.testing.assert_array_equal(place[inside], source[inside].astype(there))
    assert np.isnan(np.delete(place, inside)).all()
    convert(source, source, 0, len(source))


@needs_vectors
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [1, 2, 4, 8])
@pytest.mark.parametrize("d", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("n", [48, 192])
def test_products_in_registers(dtype: str, rows: int, d: int, n: int) -> None:
    if rows > vectors.LANES:
        pytest.skip("no blocks of so many rows")
    r, few = np.random.default_rng(rows + d), 9 * np.finfo(dtype).eps
    y = np.vstack([np.ones((1, n)), r.standard_normal((d, n))]).astype(dtype)
    phi = monomials(exact(y[1:]))
    # all features, those of diagonal and those of linear forms
    for size in (len(phi), 2 * d + 1, d + 1):
        pairs = registers.pairs_of(d, size)
        np.testing.assert_array_equal(y[pairs[:, 0]] * y[pairs[:, 1]], monomials(y[1:])[:size])
        theta, joint = r.standard_normal((rows, size)).astype(dtype), np.empty((rows, n), dtype)
        # what is beside does not matter
        flat, below = np.concatenate([[np.nan], theta.T.ravel()]).astype(dtype), np.vstack([y[:1] + 1, y])
        combine(flat, 1, rows, pairs, size, below.ravel(), n, joint.ravel(), 0, n)
        off = np.abs(joint - exact(theta) @ phi[:size]) / (np.abs(theta) @ np.abs(phi[:size]))
        assert off.max() < few
        shared, before = r.uniform(0, 1, (rows, n)).astype(dtype), r.standard_normal((size, rows))
        sums = before.ravel().copy()
        add_moments(shared.ravel(), 0, rows, pairs, size, below.ravel(), n, sums, 0, rows, n)
        off = sums.reshape(size, rows) - before - (phi[:size] @ exact(shared).T)
        assert (np.abs(off) / (1 + np.abs(phi[:size]) @ shared.T)).max() < few
        # those of one row among the others'
        again, k = before.ravel().copy(), rows - 1
        add_moments(shared.ravel(), k * n, 1, pairs, size, below.ravel(), n, again, k, rows, n)
        again = again.reshape(size, rows)
        np.testing.assert_array_equal(again[:, :k], before[:, :k])
        np.testing.assert_allclose(again[:, k], sums.reshape(size, rows)[:, k], rtol=0, atol=few * n)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("d", [1, 2, 3, 7, 8, 9, 20])
@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("diagonal", [False, True])
def test_coordinates_of_rows(dtype: str, d: int, n: int, diagonal: bool) -> None:
    r = np.random.default_rng(d + n)
    x = (100 + r.standard_normal((n + 3, d))).astype(dtype)
    x.flags.writeable = False
    origin, shift = 100 + r.standard_normal(d), 1e-3 * r.standard_normal(d)
    forward = np.diag(r.standard_normal(d)) if diagonal else np.tril(r.standard_normal((d, d)))
    centred = held(in_columns(d), n)
    packed = registers.forward_of(np.diag(forward) if diagonal else forward)
    # the second of two stacks
    origins, shifts, forwards = (np.stack([np.full_like(a, np.nan), a]) for a in (origin, shift, packed))
    both, diagonals, pairs = held(2 * (1 + d), n), np.array([not diagonal, diagonal]), registers.pairs_of(d, d + 1)
    filled = both.shape[1]
    features.transform(x, 3, n, filled, origins, shifts, forwards, diagonals, 1, pairs, centred.ravel(), both.ravel())
    assert np.isnan(both[: 1 + d]).all()
    y = both[1 + d :]
    inside = (exact(x[3:]) - exact(origin) - exact(shift)).T
    expected = exact(forward) @ inside
    scale = np.abs(forward) @ (np.abs(inside) + 100 * np.finfo(float).eps)
    assert (np.abs(y[1:, :n] - expected) / scale).max() < 1e-13
    np.testing.assert_array_equal(y[0], 1.0)
    assert np.isfinite(y).all(), "what fills a slice up must be finite"


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("k", [2, 3, 40])
@pytest.mark.parametrize("weighted", [False, True])
def test_responsibilities_and_log_densities(n: int, k: int, weighted: bool) -> None:
    r = np.random.default_rng(k + n)
    log_joint, weights = 30 * r.standard_normal((k, n)) - 1e4, r.uniform(0.5, 2, n + 5) if weighted else np.empty(0)
    log_joint[0, : n // 2] -= 800  # too far away for a number
    joint, top, total = held(k, n), held(1, n)[0], held(1, n)[0]
    joint[:, :n] = log_joint
    power = np.empty(vectors.padded(n), np.int64)
    spare = np.empty(2 * vectors.WIDTH)
    found = shares.normalise(joint.ravel(), 0, k, joint.shape[1], n, weights, 5, top, total, power, spare)
    each = weights[5:] if weighted else np.ones(n)
    logs = log_softmax(exact(log_joint), axis=0)
    np.testing.assert_allclose(joint[:, :n], each * np.exp(logs), rtol=1e-14, atol=1e-300)
    assert found == pytest.approx(float(each @ (log_joint - logs)[0]), rel=1e-15 * n)


def test_exponentials_are_exact_to_the_last_places() -> None:
    z = np.concatenate([[0.0], -np.logspace(-18, np.log10(699), 20_000), np.linspace(-40, 0, 20_001)])
    n = len(z)
    joint, top, total = held(2, n), held(1, n)[0], held(1, n)[0]
    joint[0, :n], joint[1, :n] = 0.0, z
    exponentials(joint.ravel(), 2, n, joint.shape[1], top, total, np.empty(vectors.padded(n), np.int64))
    off = np.abs(joint[1, :n] - np.exp(exact(z))) / np.spacing(np.exp(z))
    assert off.max() < 1.5
    np.testing.assert_array_equal(joint[0, :n], 1.0)
    np.testing.assert_allclose(total[:n], 1 + np.exp(z), rtol=3e-16)


@pytest.mark.parametrize("far", [-701.0, -1e5, -np.inf])
def test_what_is_too_far_away_counts_nothing(far: float) -> None:
    joint, top, total = held(2, 9), held(1, 9)[0], held(1, 9)[0]
    joint[0, :9], joint[1, :9] = 3.0, 3.0 + far
    exponentials(joint.ravel(), 2, 9, joint.shape[1], top, total, np.empty(vectors.STEP, np.int64))
    np.testing.assert_array_equal(joint[:, :9], [[1.0] * 9, [0.0] * 9])


@needs_vectors
def test_what_is_no_number_stays_none() -> None:
    joint, top, total = held(2, 9), held(1, 9)[0], held(1, 9)[0]
    joint[:, :9] = 1.0
    joint[1, 4] = np.nan
    power, spare = np.empty(vectors.STEP, np.int64), np.empty(2 * vectors.WIDTH)
    found = shares.normalise(joint.ravel(), 0, 2, joint.shape[1], 9, np.empty(0), 0, top, total, power, spare)
    assert np.isnan(found)
    assert np.isnan(joint[1, 4])


#: What every processor must say of the same samples: Compiled as it is there, against Plain.
ELSEWHERE = """
import numpy as np
from dgmm.estep import Compiled, Plain, Plan, features, kernel, make_plan, vectors
from dgmm.families import Moments, make_frame
from dgmm.mixture import Mixture
from dgmm.rows import Rows

x = np.random.default_rng(0).standard_normal((1000, 5))
moments = Moments.of(x)
frames = {kind: make_frame(kind, moments.mean, moments.covariance) for kind in ("whitening", "isotropic")}
mixtures = [
    Mixture.gaussian("full", np.ones(7), x[:7], np.tile(np.eye(5), (7, 1, 1))),
    Mixture.gaussian("diag", np.ones(3), x[:3], np.ones((3, 5))),
]
plan = make_plan([m.to_frame(frames[m.family.frame]) for m in mixtures], frames)
found, expected = Compiled().accumulate(Rows(x), plan), Plain().accumulate(Rows(x), plan)
np.testing.assert_allclose(found.log_likelihoods, expected.log_likelihoods, rtol=1e-13)
for a, b in zip(found.sums, expected.sums, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-9)
built = bool(features.fill_chain.signatures)
print(vectors.LANES, sum(kernel.accumulate.stats.cache_hits.values()), built)
"""


@pytest.mark.parametrize(
    ("processor", "has", "lanes"),
    [
        ("haswell", "+avx2,+fma", 4),
        ("generic", "", 0),
    ],
)
def test_processors_with_narrower_vectors_or_none_and_what_they_keep(
    processor: str, has: str, lanes: int, tmp_path: Path
) -> None:
    """Compiled once: a second process finds everything on disk. Features that are in registers are built nowhere."""
    if lanes > vectors.LANES:
        pytest.skip("this processor has no such vectors")
    environment = os.environ | {
        "NUMBA_CPU_NAME": processor,
        "NUMBA_CPU_FEATURES": has,
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    told = []
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, "-c", ELSEWHERE], check=False, env=environment, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        told.append(run.stdout.split())
    assert told == [[str(lanes), "0", str(lanes == 0)], [str(lanes), "1", "False"]]
