"""Components merged by entropy: against the definition, a closed form, and what was published of crosses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import entropy

import dgmm
from dgmm.cli import main
from dgmm.errors import InputError
from dgmm.fits import Clusters, clusters_of, merged
from dgmm.mixture import Mixture
from dgmm.rows import Rows
from dgmm.store import models as store
from dgmm.store.reading import from_dataset
from dgmm.store.record import to_dataset


def by_definition(t: np.ndarray, weights: np.ndarray) -> tuple[list[set[frozenset[int]]], list[float]]:
    """All pairs tried at every level, and the whole entropy of each: partitions and entropies from K clusters down."""

    def of(parts: list[frozenset[int]]) -> float:
        columns = np.stack([t[:, sorted(part)].sum(axis=1) for part in parts], axis=1)
        return float(np.average(entropy(columns, axis=1), weights=weights))

    parts = [frozenset({k}) for k in range(t.shape[1])]
    partitions, entropies = [set(parts)], [of(parts)]
    while len(parts) > 1:
        tried = [[p for p in parts if p not in (a, b)] + [a | b] for i, a in enumerate(parts) for b in parts[i + 1 :]]
        parts = min(tried, key=of)
        partitions.append(set(parts))
        entropies.append(of(parts))
    return partitions, entropies


def crosses() -> tuple[Mixture, np.ndarray]:
    """Two crosses of two components each, and two round clusters (as in Baudry et al. 2010, 4.1); 600 rows of them."""
    wide, high, round_ = np.diag([9.0, 0.05]), np.diag([0.05, 9.0]), 0.3 * np.eye(2)
    means = [[0, 0], [20, 0], [0, 20], [20, 0], [20, 20], [0, 0]]
    covariances = [wide, high, round_, wide, round_, high]
    mixture = Mixture.gaussian("full", [0.2, 0.15, 0.2, 0.15, 0.15, 0.15], means, covariances)
    return mixture, mixture.sample(600, np.random.default_rng(3))[0]


def overlapping(k: int = 7, seed: int = 0) -> tuple[Mixture, np.ndarray]:
    r = np.random.default_rng(seed)
    mixture = Mixture.gaussian(
        "diag", r.dirichlet(np.ones(k)), 2 * r.standard_normal((k, 3)), r.uniform(0.3, 2, (k, 3))
    )
    return mixture, mixture.sample(500, r)[0]


def partition(level: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(level == c).tolist()) for c in np.unique(level)}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("weighted", [False, True])
def test_the_hierarchy_is_that_of_the_definition(seed: int, weighted: bool) -> None:
    mixture, x = overlapping(seed=seed)
    weights = np.random.default_rng(seed).uniform(0.1, 3, len(x)) if weighted else None
    found = clusters_of(mixture, Rows(x, weights))
    partitions, entropies = by_definition(mixture.responsibilities(x), np.ones(len(x)) if weights is None else weights)
    assert [partition(level) for level in found.levels[::-1]] == partitions
    np.testing.assert_allclose(found.entropies[::-1], entropies, atol=1e-12)
    assert found.n_rows == len(x)


def test_more_rows_than_are_summed_at_a_time() -> None:
    mixture, x = overlapping(4)
    many = np.tile(x, (9, 1))
    assert len(many) > 4096
    few, all_ = clusters_of(mixture, Rows(x)), clusters_of(mixture, Rows(many))
    np.testing.assert_array_equal(few.levels, all_.levels)
    np.testing.assert_allclose(few.entropies, all_.entropies, atol=1e-12)


def test_crosses_are_merged_first_and_the_elbow_finds_them() -> None:
    """As published: from six components to four clusters, and no further."""
    mixture, x = crosses()
    found = clusters_of(mixture, Rows(x))
    assert partition(found.level(4)) == {frozenset(s) for s in ({0, 5}, {1, 3}, {2}, {4})}
    assert found.elbow == 4
    np.testing.assert_array_equal(found.level(4), [0, 1, 2, 1, 3, 0])
    assert [set(map(tuple, (a.tolist(), b.tolist()))) for a, b in (found.merged_at(5), found.merged_at(4))] in (
        [{(0,), (5,)}, {(1,), (3,)}],
        [{(1,), (3,)}, {(0,), (5,)}],
    )
    assert found.words == (
        "clusters of merged components, by 600 rows; the elbow of the entropy suggests 4 (components 0 + 5, 1 + 3)"
    )


def test_halves_of_a_component() -> None:
    """Nothing tells them apart: a bit of entropy each, ln 2, and none once they are merged."""
    mixture = Mixture.gaussian("spherical", [0.3, 0.35, 0.35], [[0.0], [1e3], [1e3]], [1.0, 1.0, 1.0])
    x = np.concatenate([np.linspace(-1, 1, 30), 1e3 + np.linspace(-1, 1, 70)])[:, None]
    found = clusters_of(mixture, Rows(x))
    np.testing.assert_allclose(found.entropies, [0, 0, 0.7 * np.log(2)], atol=1e-15)
    np.testing.assert_array_equal(found.levels, [[0, 0, 0], [0, 1, 1], [0, 1, 2]])
    assert found.elbow is None


@pytest.mark.parametrize("at", [2, 3, 6])
def test_the_elbow_of_two_lines_is_where_they_meet(at: int) -> None:
    n = np.arange(1.0, 9)
    curve = np.where(n < at, 0.1 * (n - at), 0.7 * (n - at))
    assert Clusters(1, np.zeros((8, 8), int), curve - curve.min()).elbow == at


def test_the_elbow_is_the_best_of_all_breaks() -> None:
    """Fitted by NumPy, both lines through the break's own point as data."""
    r = np.random.default_rng(0)
    for _ in range(20):
        y = np.sort(r.uniform(size=9))
        x = np.arange(1.0, 10)
        errors = {
            c: sum(np.polyfit(part, y[part.astype(int) - 1], 1, full=True)[1].sum() for part in (x[:c], x[c - 1 :]))
            for c in range(2, 9)
        }
        assert Clusters(1, np.zeros((9, 9), int), y).elbow == min(errors, key=lambda c: errors[c])


def test_probabilities_of_clusters_are_sums() -> None:
    mixture, x = overlapping()
    found, t = clusters_of(mixture, Rows(x)), mixture.responsibilities(x)
    level = found.level(3)
    summed = np.stack([t[:, level == c].sum(axis=1) for c in range(3)], axis=1)
    np.testing.assert_allclose(found.probabilities(t, 3), summed, rtol=1e-15)
    np.testing.assert_array_equal(merged(t, found.level(7)), t)
    for n in (0, 8):
        with pytest.raises(InputError, match=f"{n} clusters of 7 components: give 1 to 7"):
            found.level(n)


def test_a_single_component_is_a_cluster() -> None:
    found = clusters_of(Mixture.gaussian("spherical", [1.0], [[0.0]], [1.0]), Rows(np.zeros((3, 1))))
    assert (found.elbow, found.levels.tolist(), found.entropies.tolist()) == (None, [[0]], [0.0])


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    return crosses()[1]


@pytest.fixture(scope="module")
def fit(data: np.ndarray) -> dgmm.Fit:
    return dgmm.train(data, 6, search="quick")


class TestOfAFit:
    def test_rows_with_missing_values_are_left_out(self, fit: dgmm.Fit, data: np.ndarray) -> None:
        holes = np.concatenate([data, [[np.nan, 1.0], [2.0, np.nan]]])
        found, whole = dgmm.merge(fit, holes).clusters, dgmm.merge(fit, data).clusters
        assert found is not None
        assert whole is not None
        assert found.n_rows == whole.n_rows == 600
        np.testing.assert_array_equal(found.levels, whole.levels)
        np.testing.assert_allclose(found.entropies, whole.entropies, atol=1e-12)
        assert whole.elbow == 4
        # the fit stays what it was
        assert fit.clusters is None

    def test_weights_count_rows_as_often(self, fit: dgmm.Fit, data: np.ndarray) -> None:
        times = np.random.default_rng(0).integers(1, 5, len(data))
        weighted, repeated = dgmm.merge(fit, data, weights=times), dgmm.merge(fit, np.repeat(data, times, axis=0))
        assert weighted.clusters is not None
        assert repeated.clusters is not None
        np.testing.assert_allclose(weighted.clusters.entropies, repeated.clusters.entropies, atol=1e-12)

    def test_a_sample_does_for_all_and_workers_change_no_bit(self, fit: dgmm.Fit, data: np.ndarray) -> None:
        def found(x: np.ndarray, **more: Any) -> Clusters:
            clusters = dgmm.merge(fit, x, **more).clusters
            assert clusters is not None
            return clusters

        many = np.tile(data, (20, 1))
        one, three = (found(many, sample_rows=2000, scheduler="threads", n_workers=n) for n in (1, 3))
        assert one.n_rows == 2000
        assert one.entropies.tobytes() == three.entropies.tobytes()
        np.testing.assert_array_equal(one.level(4), found(many).level(4))
        np.testing.assert_allclose(one.entropies, found(many).entropies, atol=0.02)
        assert found(many, sample_rows=2000, seed=1).entropies.tobytes() != one.entropies.tobytes()

    def test_kept_with_the_model(self, fit: dgmm.Fit, data: np.ndarray, tmp_path: Path) -> None:
        merged_fit = dgmm.merge(fit, data)
        for name in ("model.zarr", "model.json"):
            dgmm.save(merged_fit, tmp_path / name)
            again = dgmm.load(tmp_path / name).clusters
            assert again is not None
            assert merged_fit.clusters is not None
            assert again.n_rows == 600
            np.testing.assert_array_equal(again.levels, merged_fit.clusters.levels)
            assert again.entropies.tobytes() == merged_fit.clusters.entropies.tobytes()

    @pytest.mark.parametrize(
        ("row", "level"),
        [(0, [0, 0, 0, 0, 0, 1]), (3, [0, 1, 2, 3, 3.5, 0]), (5, [1, 0, 2, 3, 4, 5]), (2, [0] * 6), (4, [1e300] * 6)],
    )
    def test_clusters_that_are_none_are_damage(
        self, fit: dgmm.Fit, data: np.ndarray, row: int, level: list[float]
    ) -> None:
        dataset = to_dataset(dgmm.merge(fit, data))
        dataset["clusters"].values[row] = level
        with pytest.raises(InputError, match=r"is damaged: its .*clusters"):
            from_dataset(dataset, "m")

    def test_levels_that_are_not_nested_are_damage(self, fit: dgmm.Fit, data: np.ndarray) -> None:
        dataset = to_dataset(dgmm.merge(fit, data))
        dataset["clusters"].values[1] = [0, 1, 1, 1, 1, 1]
        dataset["clusters"].values[2] = [0, 0, 1, 1, 2, 2]
        with pytest.raises(InputError, match=r"is damaged: its .* clusters"):
            from_dataset(dataset, "m")

    def test_in_another_order_of_the_components(self, fit: dgmm.Fit, data: np.ndarray) -> None:
        found, order = dgmm.merge(fit, data), np.array([3, 0, 5, 1, 2, 4])
        again, expected = found.reordered(order).clusters, clusters_of(fit.mixture.taken(order), Rows(data))
        assert again is not None
        np.testing.assert_array_equal(again.levels, expected.levels)
        np.testing.assert_allclose(again.entropies, expected.entropies, atol=1e-12)

    def test_from_the_command_line(
        self, fit: dgmm.Fit, data: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        model, out, source = (str(tmp_path / name) for name in ("m.zarr", "merged.zarr", "x.zarr"))
        dgmm.sample(fit, 2000, source)
        dgmm.save(fit, model, settings={"criterion": "aic"})
        assert main(["merge", model, source, "--quiet"]) == 0
        shown = capsys.readouterr().out
        assert shown.splitlines()[0] == "clusters   entropy  merged"
        assert "by 2000 rows; the elbow of the entropy suggests 4" in shown
        assert main(["merge", model, source, "--out", out, "--quiet", "--sample-rows", "500"]) == 0
        shown = capsys.readouterr().out
        assert shown.splitlines()[-1] == f"model: {out}"
        assert main(["info", out]) == 0
        assert shown.rpartition("\nmodel: ")[0] in capsys.readouterr().out
        record = store.read(out)
        assert record.settings["criterion"] == "aic"
        assert record.settings["merge"]["sample_rows"] == 500
        clusters = record.fit.clusters
        assert clusters is not None
        assert clusters.n_rows == 500
        assert main(["merge", model, source, "--out", out]) == 2
        assert "exists already" in capsys.readouterr().err
        assert main(["merge", model, source, "--out", model, "--overwrite"]) == 2


def test_features_in_another_order_are_put_in_order() -> None:
    data = dgmm.datasets.old_faithful()
    fit = dgmm.train(data, 3, search="quick")
    found = dgmm.merge(fit, data[["waiting", "eruptions"]], variables=["waiting", "eruptions"]).clusters
    expected = clusters_of(fit.mixture, Rows(np.stack([data[name].values for name in fit.features], axis=1)))
    assert found is not None
    np.testing.assert_array_equal(found.levels, expected.levels)
    np.testing.assert_allclose(found.entropies, expected.entropies, atol=1e-12)


def test_other_features_are_refused() -> None:
    fit = dgmm.train(dgmm.datasets.old_faithful(), 2)
    with pytest.raises(InputError, match="features"):
        dgmm.merge(fit, np.zeros((10, 2)))


def test_components_of_classes_are_not_merged() -> None:
    x = np.random.default_rng(0).standard_normal((60, 2))
    fit = dgmm.train(x, labels=np.arange(60) % 2, components_per_class=2, covariance_type="spherical")
    with pytest.raises(dgmm.InputError, match=r"has classes \(0, 1\)"):
        dgmm.merge(fit, x)
