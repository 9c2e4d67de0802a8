"""Factor analysers: against scikit-learn's factor analysis, direct optimisation, and what is known of the structure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import zarr
from sklearn.decomposition import FactorAnalysis
from sklearn.mixture import GaussianMixture

import dgmm
from dgmm.cli import main
from dgmm.em import Ascent, Ground, climb, from_vector, to_vector
from dgmm.families import Analysers, Factors, Moments, get_family, make_frame
from dgmm.families.loadings import Point, analysed
from dgmm.fits import One, Search, validated
from dgmm.mixture import Mixture
from dgmm.rows import Rows
from dgmm.search.initialise import feature_sums, from_labels, from_sums
from dgmm.search.sampled import SampleRows

LOG_2PI = np.log(2 * np.pi)


def analysers(k: int, d: int, q: int, seed: int, apart: float = 2.0) -> Mixture:
    """A mixture of any factor analysers, in units that differ by much."""
    r = np.random.default_rng(seed)
    units = np.exp(3 * r.standard_normal(d))
    means, loadings = apart * r.standard_normal((k, d)), r.standard_normal((k, d, q))
    psi = np.exp(0.5 * r.standard_normal((k, d)))
    components = Analysers.of(units * means, units[:, None] * loadings, units**2 * psi)
    return Mixture(get_family(f"factors:{q}"), r.dirichlet(np.full(k, 20.0)), components)


def drawn(mixture: Mixture, n: int, seed: int = 0) -> np.ndarray:
    return mixture.sample(n, np.random.default_rng(seed))[0]


def covariance_of(d: int, q: int, n: int, seed: int) -> np.ndarray:
    return Moments.of(drawn(analysers(1, d, q, seed), n, seed)).covariance


def cost(covariance: np.ndarray, loadings: np.ndarray, uniquenesses: np.ndarray) -> float:
    made = loadings @ loadings.T + np.diag(uniquenesses)
    return float(np.linalg.slogdet(made)[1] + np.trace(np.linalg.solve(made, covariance)))


@pytest.mark.parametrize(("d", "q"), [(5, 2), (12, 3), (40, 4)])
def test_one_component_is_scikit_learns_factor_analysis(d: int, q: int) -> None:
    x = drawn(analysers(1, d, q, d), 400)
    fit = dgmm.train(x, 1, f"factors:{q}", reg_covar=0)
    scale = x.std(axis=0)
    theirs = FactorAnalysis(q, tol=1e-12, max_iter=30_000, svd_method="lapack").fit(x / scale)
    found = len(x) * (theirs.score(x / scale) - np.log(scale).sum())
    assert fit.log_likelihood == pytest.approx(found, abs=1e-6)
    assert fit.log_likelihood > found - 1e-9
    np.testing.assert_allclose(
        fit.mixture.covariances[0] / np.outer(scale, scale), theirs.get_covariance(), rtol=1e-4, atol=1e-4
    )
    # an optimum in closed form but for what an M-step does by itself: one pass
    assert fit.n_passes == 1


def test_derivatives_are_those_of_the_cost() -> None:
    d, q = 6, 2
    covariance = covariance_of(d, q, 200, 3)
    logs = np.log(np.diagonal(covariance)) + 0.5 * np.random.default_rng(0).standard_normal(d) - 1
    here, steps = Point.of(logs, covariance, q), 1e-5 * np.eye(d)
    assert here.used == q
    costs = [[Point.of(logs + sign * s, covariance, q).cost for sign in (1, -1)] for s in steps]
    np.testing.assert_allclose(here.gradient, np.diff(costs)[:, 0] / -2e-5, rtol=1e-6, atol=1e-8)
    slopes = [[Point.of(logs + sign * s, covariance, q).gradient for sign in (1, -1)] for s in steps]
    np.testing.assert_allclose(here.curvature[0], [(a - b) / 2e-5 for a, b in slopes], rtol=1e-6, atol=1e-7)
    assert np.linalg.eigvalsh(here.curvature[1]).min() > 0
    psi = np.exp(logs)
    assert here.cost == pytest.approx(cost(covariance, here.loadings, psi), rel=1e-12)


@pytest.mark.parametrize(("d", "q", "n"), [(5, 1, 40), (6, 2, 30), (9, 3, 8), (10, 2, 500)])
@pytest.mark.parametrize("floor", [1e-6, 1e-2])
def test_an_analysis_is_the_best_of_direct_optimisations(d: int, q: int, n: int, floor: float) -> None:
    """Within the bounds of the uniquenesses, which some lie at; of 8 rows, too, whose covariance is singular."""
    covariance = covariance_of(d, q, n, 10 * d + q)
    deviations = np.sqrt(np.diagonal(covariance))
    covariance = covariance / np.outer(deviations, deviations)
    least = np.full(d, floor)
    loadings, psi = analysed(covariance, q, least)
    assert (psi >= least).all()
    r = np.random.default_rng(0)

    def negative(v: np.ndarray) -> tuple[float, np.ndarray]:
        psi, its = np.exp(v[:d]), v[d:].reshape(d, q)
        precision = np.linalg.inv(its @ its.T + np.diag(psi))
        slope = precision - precision @ covariance @ precision
        return cost(covariance, its, psi), np.concatenate([np.diagonal(slope) * psi, 2 * (slope @ its).ravel()])

    bounds = [(np.log(floor), None)] * d + [(None, None)] * (d * q)
    starts = [np.concatenate([np.log(r.uniform(0.1, 1, d)), r.standard_normal(d * q)]) for _ in range(6)]
    options = {"maxfun": 3000, "maxiter": 3000, "ftol": 1e-13, "gtol": 1e-8}
    tries = [scipy.optimize.minimize(negative, s, jac=True, bounds=bounds, options=options).fun for s in starts]
    assert cost(covariance, loadings, psi) < min(tries) + 1e-6
    assert cost(covariance, loadings, psi) == pytest.approx(min(tries), abs=1e-3)


def test_an_analysis_is_no_worse_than_where_it_begins() -> None:
    covariance = covariance_of(8, 2, 20, 1)
    for seed in range(5):
        r = np.random.default_rng(seed)
        psi, loadings = np.exp(r.standard_normal(8)) * np.diagonal(covariance), np.zeros((8, 2))
        assert cost(covariance, *analysed(covariance, 2, psi / 1e3, psi)) < cost(covariance, loadings, psi)


@pytest.mark.parametrize("seed", range(4))
def test_a_start_finds_the_best_of_several_tops(seed: int) -> None:
    """From labels, where nothing is known of a component but what the data are as a whole."""
    r, d, labels = np.random.default_rng(seed), 5, np.arange(120) % 2
    x = np.where(
        labels[:, None] == 0, *(r.standard_normal((120, d)) @ r.standard_normal((d, d)) + 3 * i for i in (0, 1))
    )
    family, moments = get_family("factors:1"), Moments.of(x)
    frame = make_frame(family.frame, moments.mean, moments.covariance)
    moments = moments.in_frame(frame)
    start = from_labels(family, Rows(x), labels, 2, Ground(frame, moments, family.floor(1e-6, moments)))
    for k in range(2):
        covariance = Moments.of(frame.coordinates(x[labels == k]).T).covariance
        # as for any start, the uniquenesses are at least a hundredth of the data's variances
        least = np.full(d, 1e-2)
        tries = [
            cost(covariance, *analysed(covariance, 1, least, np.diagonal(covariance) * r.uniform(0.05, 1, d)))
            for _ in range(20)
        ]
        ours = cost(covariance, start.components.loadings[k], start.components.uniquenesses[k])
        assert ours < np.median(tries) + 1e-4


@pytest.mark.parametrize(("d", "q"), [(4, 1), (5, 2), (7, 3)])
def test_number_of_parameters_is_the_dimension_of_the_model(d: int, q: int) -> None:
    """The rank of the derivatives of weights, means and covariances by the coordinates, rotations left out."""
    mixture = analysers(2, d, q, 0)
    assert mixture.n_parameters == 1 + 2 * d + 2 * (d * q - q * (q - 1) // 2 + d)

    def parameters(vector: np.ndarray) -> np.ndarray:
        moved = from_vector(vector, mixture)
        assert moved is not None
        deviations = np.sqrt(np.diagonal(mixture.covariances, axis1=1, axis2=2))
        scaled = moved.covariances / deviations[:, :, None] / deviations[:, None]
        return np.concatenate([np.log(moved.weights), (moved.means / deviations).ravel(), scaled.ravel()])

    vector = to_vector(mixture)
    steps = 1e-5 * np.maximum(np.abs(vector), 1e-3)[:, None] * np.eye(len(vector))
    slopes = np.array([(parameters(vector + s) - parameters(vector - s)) / s.max() for s in steps])
    assert np.linalg.matrix_rank(slopes / np.linalg.norm(slopes, axis=1)[:, None], tol=1e-6) == mixture.n_parameters


def test_what_is_drawn_is_found_again() -> None:
    """Covariances, not loadings, which may be rotated."""
    truth = analysers(2, 8, 2, 5)
    x = drawn(truth, 40_000)
    found = dgmm.train(x, 2, "factors:2", search="quick").mixture
    order = np.argsort(-truth.weights)
    for k, j in enumerate(order):
        deviations = np.sqrt(np.diagonal(truth.covariances[j]))
        difference = (found.covariances[k] - truth.covariances[j]) / np.outer(deviations, deviations)
        # five standard errors of a correlation
        assert np.abs(difference).max() < 5 * np.sqrt(2 / (truth.weights[j] * len(x)))
    # largest first, at right angles in units of the uniquenesses, in whatever units the features are
    c = found.components
    inside = np.swapaxes(c.loadings, 1, 2) @ (c.loadings / c.uniquenesses[..., None])
    for matrix in inside:
        assert abs(matrix[0, 1]) < 1e-8 * matrix[0, 0]
        assert matrix[0, 0] > matrix[1, 1]


def test_units_change_nothing() -> None:
    x = drawn(analysers(2, 6, 2, 2), 600)
    units = np.array([1e-3, 1.0, 1e4, 7.0, 0.1, 1e2])
    ours, theirs = (dgmm.train(data, 2, "factors:2", search="starts", n_init=1) for data in (x, x * units))
    assert theirs.n_passes == ours.n_passes
    expected = ours.log_likelihood - len(x) * np.log(units).sum()
    assert theirs.log_likelihood == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(theirs.mixture.components.loadings, ours.mixture.components.loadings * units[:, None],
                               rtol=1e-4, atol=1e-6 * units.max())  # fmt: skip


def test_selection_finds_the_number_of_factors() -> None:
    x = drawn(analysers(2, 10, 2, 0), 2000)
    types = "full,diag,factors:1,factors:2,factors:3"
    selection = dgmm.select(x, [2], types, search="starts", n_init=2, keep_all=True)
    assert selection.best.covariance_type == "factors:2"
    likely = {fit.covariance_type: fit.log_likelihood for fit in selection.fits}
    assert likely["diag"] < likely["factors:1"] < likely["factors:2"] < likely["factors:3"] < likely["full"]


def test_many_features_and_not_so_many_rows() -> None:
    """Of 100 features: fewer parameters than full, and more of what is there than diag has; on rows not seen, too."""
    truth = analysers(2, 100, 3, 4, apart=0.3)
    x, held = drawn(truth, 700), drawn(truth, 2000, 1)
    fits = {name: dgmm.train(x, 2, name, search="starts", n_init=2) for name in ("full", "diag", "factors:3")}
    assert fits["factors:3"].outcome.is_sound
    bic = {name: fit.bic for name, fit in fits.items()}
    said = {name: fit.mixture.log_density(held).mean() for name, fit in fits.items()}
    assert bic["factors:3"] < min(bic["full"], bic["diag"]) - 1000
    assert said["factors:3"] > max(said["full"], said["diag"]) + 1
    # by less than a parameter costs, on average: p / n / 2 of each, twice
    lost = truth.log_density(held).mean() - said["factors:3"]
    assert 0 < lost < 2 * fits["factors:3"].n_parameters / len(x)


def test_acceleration_saves_passes() -> None:
    """Although loadings may be rotated: those of an M-step are turned to be near to what they were."""
    r, d, q = np.random.default_rng(2), 12, 3
    loadings = r.standard_normal((d, q)) + 0.5 * r.standard_normal((2, d, q))
    components = Analysers.of(0.8 * r.standard_normal((2, d)), loadings, np.exp(0.5 * r.standard_normal((2, d))))
    x = drawn(Mixture(get_family("factors:3"), np.full(2, 0.5), components), 1500)
    family, moments = get_family("factors:3"), Moments.of(x)
    frame = make_frame(family.frame, moments.mean, moments.covariance)
    moments = moments.in_frame(frame)
    ground, rows = Ground(frame, moments, family.floor(1e-6, moments)), SampleRows(Rows(x), lambda _: frame, 1)
    start = from_labels(family, Rows(x), (x[:, 0] > 0).astype(int) + (x[:, 1] > 1), 3, ground)
    ascents = [Ascent(start, ground, acceleration=way, least_gain=1e-3) for way in ("none", "anderson")]
    plain, fast = ([*climb([ascent], rows.accumulate, 1000)] for ascent in ascents)
    assert ascents[0].converged
    assert ascents[1].converged
    assert ascents[1].log_likelihood > ascents[0].log_likelihood - 1e-2
    assert len(fast) < 0.7 * len(plain)
    assert (np.diff(ascents[0].trajectory) > -1e-10 * abs(ascents[0].log_likelihood)).all()


def test_what_contains_what() -> None:
    names = "full", "tied", "VEE", "diag", "VEI", "factors:1", "factors:2"
    contained = {a: [b for b in names if get_family(a).contains(get_family(b))] for a in names}
    assert contained["factors:2"] == ["diag", "VEI", "factors:1"]
    assert contained["factors:1"] == ["diag", "VEI"]
    assert contained["full"] == [name for name in names if name != "full"]
    assert not any("factors" in name for a in ("tied", "VEE", "diag", "VEI") for name in contained[a])


@pytest.mark.parametrize("simple", ["diag", "factors:1"])
def test_what_contains_another_is_no_less_likely(simple: str) -> None:
    """In an M-step from the same responsibilities."""
    x = drawn(analysers(2, 6, 2, 9), 200)
    labels = np.random.default_rng(0).integers(0, 2, len(x))
    one_hot = (labels == np.arange(2)[:, None]).astype(float)
    expected = {}
    for name in (simple, "factors:2", "full"):
        family, moments = get_family(name), Moments.of(x)
        frame = make_frame(family.frame, moments.mean, moments.covariance)
        inside = moments.in_frame(frame)
        ground = Ground(frame, inside, family.floor(0.0, inside))
        found = from_sums(family, feature_sums(family, frame.coordinates(x), one_hot), ground).to_data(frame)
        joint = [Mixture(found.family, np.ones(1), found.taken(np.array([k])).components) for k in range(2)]
        expected[name] = sum((one_hot[k] @ joint[k].log_density(x)) for k in range(2))
    assert expected[simple] < expected["factors:2"] < expected["full"]


def test_names() -> None:
    family = get_family("factors:3")
    assert isinstance(family, Factors)
    assert (family.name, family.n_factors) == ("factors:3", 3)
    assert family is get_family("factors:3")
    assert validated(One, {"n_components": 1, "covariance_type": "factors:12"}).covariance_type == "factors:12"
    chosen = validated(Search, {"n_components": [1], "covariance_type": "full,factors:1,factors:2,factors:1"})
    assert chosen.covariance_type == ["full", "factors:1", "factors:2"]
    assert get_family("factors:03") is family
    for wrong in ("factors", "loadings:2"):
        with pytest.raises(dgmm.InputError, match=f"unknown covariance type '{wrong}': choose from .*, or factors, "):
            validated(One, {"n_components": 1, "covariance_type": wrong})
    for wrong in ("factors:0", "factors:", "factors:-1", "factors:1.5", "factors:two"):
        with pytest.raises(dgmm.InputError, match=f"{wrong} has no number of factors: give a positive whole number"):
            validated(One, {"n_components": 1, "covariance_type": wrong})


@pytest.mark.parametrize(("d", "q"), [(2, 1), (3, 1), (4, 2), (5, 3), (8, 16)])
def test_no_simpler_than_full(d: int, q: int) -> None:
    x = np.random.default_rng(0).standard_normal((100, d))
    expected = f"cannot come from a factors:{q} mixture: {q} factors of {d} features are no simpler than full: take"
    with pytest.raises(dgmm.InputError, match=expected):
        dgmm.train(x, 1, f"factors:{q}")


def test_the_least_features_are_enough() -> None:
    x = np.random.default_rng(0).standard_normal((100, 5))
    assert dgmm.train(x[:, :4], 1, "factors:1").n_parameters == 4 + 8
    assert dgmm.train(x, 1, "factors:2").n_parameters == 5 + 14


def test_a_feature_that_factors_explain() -> None:
    """Uniquenesses may end at the floor (Heywood): as many as there are factors, and the covariance is sound."""
    x = drawn(analysers(1, 6, 1, 1), 500)
    fit = dgmm.train(np.column_stack([x, x[:, 0] + 1e-4 * x[:, 0].std() * x[:, 1]]), 1, "factors:1", reg_covar=1e-3)
    shares = fit.mixture.components.uniquenesses[0] / np.append(x.var(axis=0), x[:, 0].var())
    assert shares[[0, 6]] == pytest.approx([1e-3, 1e-3], rel=1e-2)
    c, moments = fit.mixture.components, Moments(1.0, np.zeros(7), np.diag(fit.mixture.covariances[0].diagonal()))
    assert get_family("factors:1").narrowness(c, moments)[0] == pytest.approx(1e-3, rel=1e-2)
    assert get_family("factors:2").narrowness(c, moments)[0] > 0.1


def test_more_features_that_follow_from_another_than_there_are_factors() -> None:
    x = drawn(analysers(1, 6, 1, 1), 500)
    x = np.column_stack([x, x[:, 0] * 2])
    labels = np.arange(500) % 2
    with pytest.raises(dgmm.CollapseError, match=r"component [01] collapsed: its covariance is singular"):
        dgmm.train(x, covariance_type="factors:1", reg_covar=0, labels=labels)
    assert np.isfinite(dgmm.train(x, covariance_type="factors:1", reg_covar=1e-4, labels=labels).log_likelihood)


def test_features_that_follow_from_others() -> None:
    """No frame and no step needs the inverse of the data's covariance."""
    x = drawn(analysers(2, 6, 1, 3), 400)
    x = np.column_stack([x, x[:, :3].sum(axis=1)])
    fit = dgmm.train(x, 2, "factors:2", search="starts", reg_covar=1e-3)
    assert np.isfinite(fit.log_likelihood)
    assert np.isfinite(fit.mixture.log_density(x)).all()


@pytest.mark.parametrize("name", ["m.zarr", "m.json"])
def test_it_is_stored_to_the_last_bit(name: str, tmp_path: Path) -> None:
    x = drawn(analysers(2, 7, 2, 1), 300)
    fit = dgmm.train(x, 2, "factors:2", search="starts", n_init=2)
    dgmm.save(fit, tmp_path / name)
    again = dgmm.load(tmp_path / name)
    for part in ("means", "factors", "loadings", "uniquenesses"):
        np.testing.assert_array_equal(getattr(again.mixture.components, part), getattr(fit.mixture.components, part))
    np.testing.assert_array_equal(again.mixture.log_density(x), fit.mixture.log_density(x))
    if name == "m.zarr":
        assert not dgmm.verify(str(tmp_path / name)).findings


def test_what_is_no_such_model() -> None:
    mixture = analysers(2, 6, 2, 1)
    family, arrays = mixture.family, {n: v for n, (_, v) in mixture.family.arrays(mixture.components).items()}
    other = analysers(2, 6, 2, 2)
    with pytest.raises(dgmm.InputError, match="covariances of a factors:2 model are not made of 2 factors"):
        family.from_arrays({**arrays, "loadings": other.components.loadings})
    with pytest.raises(dgmm.InputError, match=r"have shapes \(2, 6, 1\) and \(2, 6\), expected \(2, 6, 2\)"):
        family.from_arrays({**arrays, "loadings": arrays["loadings"][..., :1]})
    with pytest.raises(dgmm.InputError, match="uniquenesses of a factors:2 model must be positive"):
        family.from_arrays({**arrays, "uniquenesses": -arrays["uniquenesses"]})
    with pytest.raises(dgmm.InputError, match="are not made of 1 factors"):
        Mixture.gaussian("factors:1", mixture.weights, mixture.means, mixture.covariances)
    found = Mixture.gaussian("factors:2", mixture.weights, mixture.means, mixture.covariances)
    deviations = np.sqrt(np.diagonal(mixture.covariances, axis1=1, axis2=2))
    np.testing.assert_allclose(
        found.components.uniquenesses / deviations**2, mixture.components.uniquenesses / deviations**2, rtol=1e-6
    )


def test_the_estimators_models() -> None:
    """What `select` has chosen predicts as the fit does, and becomes scikit-learn's full."""
    x = drawn(analysers(2, 8, 1, 0), 1000)
    options = {"search": "starts", "n_init": 2}
    model = dgmm.GaussianMixture.select(x, [2], "factors:1,full", **options)
    assert model.covariance_type == "factors:1"
    theirs = model.to_sklearn()
    assert isinstance(theirs, GaussianMixture)
    assert theirs.covariance_type == "full"
    np.testing.assert_allclose(theirs.score_samples(x), model.score_samples(x), rtol=1e-9)
    fit = dgmm.train(x, 2, "factors:1", **options)
    assert model.score(x) == pytest.approx(fit.mixture.log_density(x).mean(), rel=1e-6)


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = drawn(analysers(2, 8, 2, 0), 800)
    data, model, run, scores, samples = (str(tmp_path / n) for n in ("x.zarr", "m.zarr", "run", "s.zarr", "y.zarr"))
    zarr.save_array(data, x)
    quick = ["--search", "starts", "--n-init", "2"]
    assert main(["train", data, "--k", "2", "--covariance", "factors:2", "--out", model, *quick]) == 0
    assert main(["select", data, "--k", "1,2", "--covariance", "full,factors:1,factors:2", "--out", run, *quick]) == 0
    assert main(["score", model, data, "--out", scores]) == 0
    assert main(["sample", model, "--rows", "100", "--out", samples]) == 0
    assert main(["info", model]) == 0
    assert capsys.readouterr().out.count("factors:2, K = 2 (63 parameters)") == 3
    settings = tmp_path / "settings.yaml"
    settings.write_text(
        f"data: {{path: {data}}}\nn_components: [2]\ncovariance_type: [factors:1, factors:2]\n"
        f"out: {tmp_path / 'other'}\ntraining: {{search: starts, n_init: 2}}\n"
    )
    assert main(["select", str(settings)]) == 0
    assert "factors:2, K = 2" in capsys.readouterr().out
    assert main(["train", data, "--k", "2", "--covariance", "factors:7", "--out", model, "--overwrite"]) != 0
    assert "7 factors of 8 features are no simpler than full" in capsys.readouterr().err


def test_parts_that_are_held() -> None:
    x = drawn(analysers(2, 6, 1, 0), 500)
    one = dgmm.train(x, 2, "factors:1", search="starts", n_init=1, fixed=["means"])
    two = dgmm.train(x, 2, "factors:1", search="starts", n_init=1, fixed=["covariances"])
    free = dgmm.train(x, 2, "factors:1", search="starts", n_init=1)
    assert one.n_parameters == free.n_parameters - 12
    assert two.n_parameters == free.n_parameters - 24
    assert max(one.log_likelihood, two.log_likelihood) < free.log_likelihood
