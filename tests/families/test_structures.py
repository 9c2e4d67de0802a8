"""The structures of Celeux and Govaert: against mclust, direct optimisation, and each other."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import zarr
from sklearn.datasets import load_iris

import dgmm
from dgmm.cli import main
from dgmm.datasets import old_faithful
from dgmm.em import Ascent, Ground, climb
from dgmm.families import FAMILIES, GROUPS, Frame, FrameKind, Moments, get_family, make_frame
from dgmm.fits import One, Search, validated
from dgmm.mixture import Mixture
from dgmm.rows import Rows
from dgmm.search.initialise import feature_sums, from_sums
from dgmm.search.sampled import Candidate, SampleRows, grounds_for
from tests.families.test_families import FAMILY_NAMES, dense_covariances, random_mixture

ALL = GROUPS["mclust"]
#: By mclust 6.0.0, of Old Faithful in two groups (eruptions of more than three minutes) and Iris by species: the number
#: of parameters, the log-likelihood after one M-step from the groups (`mstep`, `estep`), and at the top that EM climbs
#: to from there (`me`, tolerance 1e-13).
MCLUST = {
    "faithful": {
        "EII": (6, -1710.58465958779, -1709.68137294974),
        "VII": (7, -1710.76219840974, -1709.52928217744),
        "EEI": (7, -1157.72714191829, -1157.68001234169),
        "VEI": (8, -1152.88122934165, -1152.88019636624),
        "EVI": (8, -1153.90198612462, -1153.88556822223),
        "VVI": (9, -1147.80676196525, -1147.80635253781),
        "EEE": (8, -1140.23414229561, -1140.18675943708),
        "VEE": (9, -1136.26724135321, -1136.25985413653),
        "EVE": (9, -1136.94619602363, -1136.91026067045),
        "VVE": (10, -1132.17830417287, -1132.18744640218),
        "EEV": (9, -1139.36883855365, -1139.3315986554),
        "VEV": (10, -1134.68191789833, -1134.67920351944),
        "EVV": (10, -1135.78722023069, -1135.76990393595),
        "VVV": (11, -1130.28318279276, -1130.26396018474),
    },
    "iris": {
        "EII": (15, -414.697951273338, -401.802175788989),
        "VII": (17, -392.498414498489, -384.314095060849),
        "EEI": (18, -364.517364338082, -361.425522042811),
        "VEI": (20, -340.836052522266, -339.468727260727),
        "EVI": (24, -342.973698472802, -340.085580736603),
        "VVI": (26, -309.362757893942, -306.860460506354),
        "EEE": (24, -256.646184254885, -256.354043125598),
        "VEE": (26, -238.394671992223, -237.560162795952),
        "EVE": (30, -235.552150227962, -234.140235060057),
        "VVE": (32, -215.343105383225, -215.240870339579),
        "EEV": (36, -215.143263127436, -214.850378873459),
        "VEV": (38, -187.709744403277, -186.07328340378),
        "EVV": (42, -209.45479769867, -205.535880817452),
        "VVV": (44, -182.920848605296, -180.185477131308),
    },
}
#: Its own iterations for one shape and orientation end early, and those for common axes at tops that are not the
#: highest: there ours may be higher by so much.
LOOSE = {"VEE": 1e-4, "EVE": 1e-4, "VVE": 1.5}


def faithful() -> np.ndarray:
    ds = old_faithful()
    return np.stack([ds.eruptions.values, ds.waiting.values], axis=1)


def grouped(data: str) -> tuple[np.ndarray, np.ndarray]:
    if data == "iris":
        return load_iris(return_X_y=True)
    return (x := faithful()), (x[:, 0] > 3).astype(int)


def frames(x: np.ndarray) -> dict[FrameKind, Frame]:
    m = Moments.of(x)
    return {kind: make_frame(kind, m.mean, m.covariance) for kind in ("whitening", "isotropic", "rigid")}


def begun(name: str, x: np.ndarray, labels: np.ndarray, reg_covar: float = 0.0) -> tuple[Mixture, Ground, SampleRows]:
    """One M-step from labels, without a floor."""
    k, family, of = int(labels.max()) + 1, get_family(name), frames(x)
    ground = grounds_for([Candidate(k, family.name)], Moments.of(x), of.__getitem__, reg_covar)[family.name]
    one_hot = (labels == np.arange(k)[:, None]).astype(float)
    start = from_sums(family, feature_sums(family, ground.frame.coordinates(x), one_hot), ground)
    return start, ground, SampleRows(Rows(x), of.__getitem__, 1)


def climbed(start: Mixture, ground: Ground, rows: SampleRows, acceleration: str = "none") -> Ascent:
    ascent = Ascent(start, ground, acceleration=acceleration, least_gain=1e-8)  # type: ignore[arg-type]
    for _ in climb([ascent], rows.accumulate, 2000):
        pass
    return ascent


@pytest.mark.parametrize("data", list(MCLUST))
@pytest.mark.parametrize("name", ALL)
def test_a_step_and_the_top_are_mclusts(name: str, data: str) -> None:
    x, labels = grouped(data)
    p, first, top = MCLUST[data][name]
    start, ground, rows = begun(name, x, labels)
    assert start.n_parameters == p
    ours, loose = start.to_data(ground.frame).log_density(x).sum(), LOOSE.get(name, 1e-8)
    assert first - min(loose, 1e-3) < ours < first + loose
    for acceleration in ("none", "anderson"):
        ascent = climbed(start, ground, rows, acceleration)
        assert top - 1e-6 < ascent.log_likelihood < top + LOOSE.get(name, 1e-6)
        if acceleration == "none":
            assert (np.diff(ascent.trajectory) > -1e-11 * abs(top)).all(), "the likelihood fell"
    bic = -2 * ascent.log_likelihood + p * np.log(len(x))
    assert bic == pytest.approx(-2 * top + p * np.log(len(x)), abs=2 * LOOSE.get(name, 1e-6))


@pytest.fixture(scope="module")
def a_million(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Old Faithful 3677 times, row by row, in ten chunks: 1,000,144 rows."""
    x = np.repeat(faithful(), 3677, axis=0)
    path = str(tmp_path_factory.mktemp("million") / "x.zarr")
    zarr.create_array(path, data=x, chunks=(100_100, 2))
    return path


@pytest.mark.parametrize("name", ALL)
def test_the_top_of_a_million_rows_is_mclusts(name: str, a_million: str) -> None:
    """From the same groups and chunk by chunk: so many times its log-likelihood, and BIC by that."""
    start, ground, _ = begun(name, *grouped("faithful"))
    fit = dgmm.train(a_million, 2, name, start=start.to_data(ground.frame), reg_covar=0, tol=1e-12, worst_rows=0)
    p, _, top = MCLUST["faithful"][name]
    loose = LOOSE.get(name, 1e-4)
    assert top - 1e-4 < fit.log_likelihood / 3677 < top + loose
    assert fit.bic == pytest.approx(-2 * 3677 * top + p * np.log(272 * 3677), abs=2 * 3677 * loose)


def covariances_of(name: str, vector: np.ndarray, k: int, d: int) -> np.ndarray:
    """Any covariances of a structure, from any numbers."""
    numbers = iter(np.split(vector, len(vector)))

    def volumes() -> np.ndarray:
        n = k if name[0] == "V" else 1
        return np.exp([next(numbers)[0] for _ in range(n)]) * np.ones(k)

    def shapes() -> np.ndarray:
        n = {"V": k, "E": 1, "I": 0}[name[1]]
        found = [np.array([next(numbers)[0] for _ in range(d)]) for _ in range(n)] or [np.zeros(d)]
        return np.exp([s - s.mean() for s in found]) * np.ones((k, 1))

    def axes() -> np.ndarray:
        n = {"V": k, "E": 1, "I": 0}[name[2]]
        found = [np.eye(d)] if not n else []
        for _ in range(n):
            skew = np.zeros((d, d))
            skew[np.triu_indices(d, 1)] = [next(numbers)[0] for _ in range(d * (d - 1) // 2)]
            found.append(scipy.linalg.expm(skew - skew.T))
        return np.array(found) * np.ones((k, 1, 1))

    v, a, q = volumes(), shapes(), axes()
    return np.einsum("k,kil,kl,kjl->kij", v, q, a, q)


@pytest.mark.parametrize("name", ALL)
def test_the_m_step_is_the_best_of_direct_optimisations(name: str) -> None:
    k, d, r = 3, 3, np.random.default_rng(7)
    counts = np.array([40.0, 90.0, 170.0])
    roots = r.standard_normal((k, d, d)) * 0.7 + np.eye(d) * np.array([1.0, 1.5, 0.6])[:, None, None]
    scatters = roots @ np.swapaxes(roots, 1, 2)

    def cost(covariances: np.ndarray) -> float:
        traces = np.einsum("kij,kji->k", np.linalg.inv(covariances), scatters)
        return float(counts @ (np.linalg.slogdet(covariances)[1] + traces) / counts.sum() / 2)

    x = np.concatenate([rows_with(s, int(n)) for s, n in zip(scatters, counts, strict=True)])
    x += np.repeat(6.0 * np.eye(3), counts.astype(int), axis=0)
    start, ground, _ = begun(name, x, np.repeat(np.arange(k), counts.astype(int)))
    ours = cost(dense_covariances(start.to_data(ground.frame)))
    n = {"E": 1, "V": k}
    size = n[name[0]] + d * n.get(name[1], 0) + d * (d - 1) // 2 * n.get(name[2], 0)
    tries = [
        scipy.optimize.minimize(
            lambda v: cost(covariances_of(name, v, k, d)), r.standard_normal(size), options={"gtol": 1e-7}
        ).fun
        for _ in range(4)
    ]
    assert ours == pytest.approx(min(tries), abs=1e-7)


def rows_with(covariance: np.ndarray, n: int) -> np.ndarray:
    """Rows of mean zero with exactly this covariance."""
    x = np.random.default_rng(n).standard_normal((n, len(covariance)))
    x -= x.mean(axis=0)
    own = np.linalg.cholesky(x.T @ x / n)
    return x @ np.linalg.inv(own).T @ np.linalg.cholesky(covariance).T


def test_what_contains_what() -> None:
    """As the letters say; in one M-step from the same labels what contains another is no less likely."""
    x, labels = grouped("iris")
    expected = {}
    for name in ALL:
        start, ground, _ = begun(name, x, labels)
        expected[name] = sum(
            (labels == k) @ np.log(component) for k, component in enumerate(densities(start.to_data(ground.frame), x))
        )
    pairs = [(a, b) for a in ALL for b in ALL if get_family(a).contains(get_family(b))]
    for outer, inner in pairs:
        assert expected[outer] > expected[inner] - 1e-7, (outer, inner)
    assert [b for a, b in pairs if a == "VVV"] == [name for name in ALL if name != "VVV"]
    assert [b for a, b in pairs if a == "EVI"] == ["EII", "EEI"]
    assert [b for a, b in pairs if a == "VEE"] == ["EII", "VII", "EEI", "VEI", "EEE"]
    assert not any(a == "EII" for a, _ in pairs)


def densities(mixture: Mixture, x: np.ndarray) -> list[np.ndarray]:
    ones = [mixture.taken(np.array([k])) for k in range(mixture.n_components)]
    return [np.exp(Mixture(m.family, np.ones(1), m.components).log_density(x)) for m in ones]


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_parts_of_several_mixtures_make_one_of_the_structure(name: str) -> None:
    family, one, other = get_family(name), random_mixture(name, 1), random_mixture(name, 2)
    both = family.joined([one.components, other.components], np.concatenate([one.weights, other.weights]))
    np.testing.assert_array_equal(family.means(both), np.vstack([one.means, other.means]))
    family.from_arrays({name: values for name, (_, values) in family.arrays(both).items()})  # refuses what is none


@pytest.mark.parametrize("name", ["VEI", "EVI", "VEE", "EVE", "VVE", "EEV", "VEV", "EVV"])
def test_covariances_of_another_structure_are_refused(name: str) -> None:
    family = get_family(name)
    free = random_mixture("full" if family.square else "diag")  # type: ignore[attr-defined]
    with pytest.raises(dgmm.InputError, match=f"covariances of a {name} model differ in what the structure has them"):
        Mixture.gaussian(name, free.weights, free.means, free.covariances)


@pytest.mark.parametrize("name", [name for name in ALL if name in FAMILIES])
def test_it_is_stored_to_the_last_bit(name: str, tmp_path: Path) -> None:
    x, _ = grouped("faithful")
    fit = dgmm.train(x, 2, name, search="starts", n_init=1)
    for path in ("model.zarr", "model.json"):
        dgmm.save(fit, str(tmp_path / path))
        again = dgmm.load(str(tmp_path / path))
        assert again.covariance_type == name
        np.testing.assert_array_equal(again.mixture.components.means, fit.mixture.components.means)
        np.testing.assert_array_equal(again.mixture.components.factors, fit.mixture.components.factors)
        np.testing.assert_allclose(again.mixture.log_density(x), fit.mixture.log_density(x), rtol=1e-13)
    assert not dgmm.verify(str(tmp_path / "model.zarr")).findings


def test_names() -> None:
    assert [get_family(name).name for name in ("EEE", "VVV", "VVI", "VII")] == ["tied", "full", "diag", "spherical"]
    assert len({get_family(name).name for name in ALL}) == 14
    assert validated(One, {"n_components": 1, "covariance_type": "VVV"}).covariance_type == "full"
    chosen = validated(Search, {"n_components": [1], "covariance_type": "tied,mclust,EEE"}).covariance_type
    assert chosen[0] == "tied"
    assert sorted(chosen) == sorted(get_family(name).name for name in ALL)


def test_a_selection_among_all_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Old Faithful has three ellipsoids alike: mclust's choice, with the BIC that its vignette prints (2314.316)."""
    x = faithful()
    selection = dgmm.select(x, [2, 3], "mclust", search="starts")
    assert (selection.best.covariance_type, selection.best.n_components) == ("tied", 3)
    assert selection.best.bic == pytest.approx(2314.316, abs=0.03)
    assert set(selection.table["covariance_type"]) == {get_family(name).name for name in ALL}
    zarr.save_array(str(tmp_path / "x.zarr"), x)
    out = str(tmp_path / "run")
    given = ["--k", "3", "--covariance", "mclust", "--set", "training.search=starts", "--out", out]
    assert main(["select", str(tmp_path / "x.zarr"), *given]) == 0
    assert "tied, K = 3 (11 parameters)" in capsys.readouterr().out


def test_features_that_follow_from_others() -> None:
    """No matter to spheres and axes, but matrices have no inverse."""
    x = np.random.default_rng(0).standard_normal((300, 2))
    x = np.column_stack([x, x.sum(axis=1)])
    assert dgmm.train(x, 2, "VEI", search="starts").covariance_type == "VEI"
    with pytest.raises(dgmm.InputError, match="linearly dependent"):
        dgmm.train(x, 2, "VVE", search="starts")


@pytest.mark.parametrize("name", ["EVI", "EVE", "VVE"])
def test_a_component_without_extent_collapses(name: str) -> None:
    x = np.random.default_rng(0).standard_normal((60, 2))
    x[:20, 1] = 5.0
    with pytest.raises(dgmm.CollapseError, match="component 0 collapsed: its covariance is singular with 20 of 60"):
        begun(name, x, (np.arange(60) >= 20).astype(int))
    start, _, _ = begun(name, x, (np.arange(60) >= 20).astype(int), reg_covar=1e-6)
    assert np.isfinite(start.covariances).all()


@pytest.mark.parametrize("name", ["EEI", "VEE", "EEV", "VEV"])
def test_one_that_borrows_its_extent_does_not(name: str) -> None:
    x = np.random.default_rng(0).standard_normal((60, 2))
    x[:20, 1] = 5.0
    start, _, _ = begun(name, x, (np.arange(60) >= 20).astype(int))
    assert np.linalg.eigvalsh(dense_covariances(start)).min() > 1e-4


R = """
suppressMessages(library(mclust)); control <- emControl(tol = c(1e-13, 1e-14), itmax = c(1e5, 1e5))
x <- as.matrix(read.csv("x.csv", header = FALSE)); z <- as.matrix(read.csv("z.csv", header = FALSE))
for (m in mclust.options("emModelNames")) {
  found <- mstep(modelName = m, data = x, z = z, control = control)
  value <- estep(modelName = m, data = x, parameters = found$parameters)$loglik
  cat(m, nMclustParams(m, ncol(x), ncol(z)), format(value, digits = 15), "\\n")
}
"""


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="needs R")
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_step_from_any_responsibilities_is_that_of_mclust_itself(seed: int, tmp_path: Path) -> None:
    asked = subprocess.run(["Rscript", "-e", "library(mclust)"], capture_output=True, check=False)
    if asked.returncode:
        pytest.skip("needs R's mclust")
    r = np.random.default_rng(seed)
    d, k = 2 + seed, 2 + seed
    x = np.concatenate([r.standard_normal((80, d)) @ r.standard_normal((d, d)) + 4 * i for i in range(k)])
    z = r.dirichlet(np.full(k, 0.5), len(x))
    np.savetxt(tmp_path / "x.csv", x, delimiter=",", fmt="%.17g")
    np.savetxt(tmp_path / "z.csv", z, delimiter=",", fmt="%.17g")
    done = subprocess.run(["Rscript", "-e", R], capture_output=True, check=True, text=True, cwd=tmp_path)
    theirs = {name: (int(p), float(value)) for name, p, value in map(str.split, done.stdout.splitlines())}
    assert set(theirs) == set(ALL)
    of = frames(x)
    for name, (p, value) in theirs.items():
        family = get_family(name)
        ground = grounds_for([Candidate(k, family.name)], Moments.of(x), of.__getitem__, 0.0)[family.name]
        ours = from_sums(family, feature_sums(family, ground.frame.coordinates(x), z.T), ground)
        found, loose = ours.to_data(ground.frame).log_density(x).sum(), LOOSE.get(name, 1e-8)
        assert ours.n_parameters == p
        assert found == pytest.approx(value, abs=max(loose, 1e-8) * (20 if name == "VVE" else 1)), name
