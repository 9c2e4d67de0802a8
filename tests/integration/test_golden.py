"""Published and converged figures.

Old Faithful: the vignettes and manuals of mclust 5.2.3 to 6.1.3 and mixtools; Iris: mclust. Log-likelihoods marked
converged are plain EM run to 1e-12 per sample without regularisation. BIC has the sign of scikit-learn.
"""

import numpy as np
import pytest
from sklearn.datasets import load_iris

import dgmm
from dgmm.data import open_samples
from dgmm.datasets import old_faithful
from dgmm.em import Ascent, climb
from dgmm.engine.workers import threads
from dgmm.fitting import passes_over
from dgmm.mixture import Mixture
from dgmm.search.sampled import Candidate, grounds_for


def faithful() -> np.ndarray:
    ds = old_faithful()
    return np.stack([ds.eruptions.values, ds.waiting.values], axis=1)


def iris() -> np.ndarray:
    return load_iris().data


# data, columns, covariance type, K, number of parameters, converged log-likelihood, converged BIC
CONVERGED = [
    ("faithful", slice(None), "tied", 3, 11, -1126.315928, 2314.2957),
    ("faithful", slice(None), "tied", 4, 14, -1120.828, 2320.1375),
    ("faithful", slice(None), "tied", 2, 8, -1140.186759, 2325.22),
    ("faithful", slice(None), "full", 2, 11, -1130.263960, 2322.1917),
    ("faithful", slice(1, 2), "full", 2, 5, -1034.00175, 2096.0325),
    ("faithful", slice(1, 2), "tied", 2, 4, -1034.002, 2090.427),
    ("iris", slice(None), "full", 2, 29, -214.354704, 574.0178),
    ("iris", slice(None), "full", 3, 44, -180.185477, 580.8389),
    ("iris", slice(None), "tied", 3, 24, -256.354043, 632.9633),
    ("iris", slice(None), "tied", 4, 29, None, 591.4057),
    ("iris", slice(None), "diag", 3, 26, -307.177572, 744.6317),
    ("iris", slice(None), "spherical", 3, 17, -384.314095, 853.8090),
]  # fmt: skip


@pytest.mark.parametrize(("name", "columns", "kind", "k", "p", "log_likelihood", "bic"), CONVERGED)
def test_best_of_starts_is_at_least_the_converged_optimum(
    name: str, columns: slice, kind: str, k: int, p: int, log_likelihood: float | None, bic: float
) -> None:
    x = {"faithful": faithful, "iris": iris}[name]()[:, columns]
    # a selection: candidates that collapsed cannot win it, so that a higher optimum found is a sound one
    fit = dgmm.select(x, [k], [kind], reg_covar=0 if kind != "full" else 1e-9, n_init=20).best
    assert fit.n_parameters == p
    tolerance = 5e-3  # what training leaves undone is 0.1 % of p/2 nats
    if log_likelihood is not None:
        assert fit.log_likelihood > log_likelihood - tolerance - 5e-4 * p
    assert fit.bic < bic + 2 * (tolerance + 5e-4 * p)


def test_old_faithful_full_two_components() -> None:
    fit = dgmm.train(faithful(), 2, "full", reg_covar=0, tol=1e-12)
    assert fit.log_likelihood == pytest.approx(-1130.263960, abs=1e-4)
    np.testing.assert_allclose(fit.mixture.weights[::-1], [0.35587286, 0.64412714], atol=1e-3)
    np.testing.assert_allclose(
        fit.mixture.means[::-1], [[2.03638846, 54.47851644], [4.28966198, 79.96811524]], rtol=1e-3
    )
    expected = [
        [[0.06916768, 0.43516768], [0.43516768, 33.69728242]],
        [[0.16996843, 0.94060923], [0.94060923, 36.04621032]],
    ]
    np.testing.assert_allclose(fit.mixture.covariances[::-1], expected, rtol=5e-3)


def climb_from(start: Mixture, x: np.ndarray, acceleration: str, enough: float) -> Ascent:
    passes = passes_over(open_samples(x), threads(1))
    kind = start.covariance_type
    ground = grounds_for([Candidate(start.n_components, kind)], passes.profile.moments, passes.profile.frame, 0)[kind]
    ascent = Ascent(start.to_frame(ground.frame), ground, enough / len(x), acceleration)  # type: ignore[arg-type]
    ascent.least_gain = 0.0  # to the last digit, whatever chance gives
    for _ in climb([ascent], passes.accumulate, 3000):
        pass
    return ascent


@pytest.mark.parametrize(("acceleration", "most"), [("none", 2000), ("anderson", 100)])
def test_the_slow_optimum_of_old_faithful(acceleration: str, most: int) -> None:
    """Tied, K = 3: plain EM needs about a thousand passes from mclust's neighbourhood; weights as published."""
    start = dgmm.train(faithful(), 3, "tied", reg_covar=0, max_iter=1, n_init=10).mixture
    ascent = climb_from(start, faithful(), acceleration, 1e-5)
    assert ascent.log_likelihood == pytest.approx(-1126.315928, abs=1e-4)
    assert len(ascent.trajectory) <= most
    weights = np.sort(ascent.mixture.weights)
    np.testing.assert_allclose(weights, [0.168607, 0.356378, 0.475015], atol=2e-3)


def test_selection_on_old_faithful() -> None:
    """mclust chooses EEE with three components: BIC 2314.30; VVV with two is at 2322.19."""
    selection = dgmm.select(faithful(), range(1, 7))
    assert (selection.best.covariance_type, selection.best.n_components) == ("tied", 3)
    assert selection.best.bic == pytest.approx(2314.30, abs=0.02)
    assert selection.best.converged
    table = selection.table
    assert len(table) == 24
    assert table["bic"].iloc[0] == selection.best.bic
    full2 = table[(table["covariance_type"] == "full") & (table["n_components"] == 2)]
    assert full2["bic"].item() == pytest.approx(2322.19, abs=0.02)


@pytest.mark.parametrize("seeds", [range(1), pytest.param(range(3), marks=pytest.mark.slow)], ids=["one", "three"])
def test_spurious_optima_cannot_win(seeds: range) -> None:
    """Whole minutes: the more starts are tried, the surer one finds a component on rows that share a value."""
    for seed in seeds:
        selection = dgmm.select(faithful(), range(1, 7), ["full", "diag", "tied"], n_init=30, seed=seed, keep_all=True)
        assert (selection.best.covariance_type, selection.best.n_components) == ("tied", 3)
        assert not selection.best.collapsed
    waiting = dgmm.select(faithful()[:, 1:], range(1, 9), ["full"], n_init=30, keep_all=True)
    assert waiting.best.n_components == 2
    assert waiting.best.bic == pytest.approx(2096.0325, abs=0.02)
