"""Regression by mixtures: against linear regression, quadrature and conditional mixtures; over stores, as data lie."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from scipy.stats import norm
from sklearn.linear_model import LinearRegression

import dgmm
from dgmm.blas import one_blas_thread
from dgmm.cli import main
from dgmm.data import grid, open_samples
from dgmm.errors import DgmmError, InputError, OutputExistsError
from dgmm.fits import Fit, Outcome, OutcomeKind
from dgmm.mixture import EXPECTED, Mixture
from dgmm.prediction import PredictSegment, Wanted, leaf_of
from dgmm.rows import Rows
from dgmm.store import Status, Writer, digest, place_at
from tests.families.test_families import dense_covariances, random_mixture

TYPES = ("full", "tied", "diag", "spherical")


def rows_of(mixture: Mixture, n: int = 40, seed: int = 0) -> np.ndarray:
    return mixture.sample(n, np.random.default_rng(seed))[0]


def moments(mixture: Mixture) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of a mixture, feature by feature, by the law of total variance."""
    mean = mixture.weights @ mixture.means
    inner = np.array([np.diagonal(c) for c in dense_covariances(mixture)])
    return mean, mixture.weights @ (inner + (mixture.means - mean) ** 2)


class TestOfAMixture:
    @pytest.mark.parametrize("name", TYPES)
    @pytest.mark.parametrize(
        ("wanted", "given"), [([2], None), ([3, 0], None), ([1], [3]), ([0, 2, 1], [3]), ([1], [2, 0])]
    )
    def test_is_that_of_the_conditional_mixture(self, name: str, wanted: list[int], given: list[int] | None) -> None:
        """Which is another way there: mixtures row by row."""
        mixture = random_mixture(name)
        known = given or [i for i in range(mixture.n_features) if i not in wanted]
        part = mixture.marginal([*wanted, *known])
        x = rows_of(mixture)[:, known]
        means, variances = mixture.predict(x, wanted, given)
        for row, mean, variance in zip(x, means, variances, strict=True):
            expected = moments(part.condition({len(wanted) + i: v for i, v in enumerate(row)}))
            np.testing.assert_allclose(mean, expected[0], rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(variance, expected[1], rtol=1e-9)

    @pytest.mark.parametrize("name", TYPES)
    def test_is_the_integral_over_the_joint_density(self, name: str) -> None:
        """By quadrature of the density, which is smooth: the rule of equal steps is as exact as it comes."""
        mixture = random_mixture(name).marginal([0, 1])
        x = rows_of(mixture, 8)[:, :1]
        means, variances = mixture.predict(x, [1])
        reach = 12 * np.sqrt(moments(mixture)[1][1])
        y = np.linspace(mixture.means[:, 1].min() - reach, mixture.means[:, 1].max() + reach, 40_001)
        for (value,), mean, variance in zip(x, means, variances, strict=True):
            density = np.exp(mixture.log_density(np.stack([np.full_like(y, value), y], axis=1)))
            first = np.average(y, weights=density)
            np.testing.assert_allclose(mean, first, rtol=1e-10, atol=1e-10)
            np.testing.assert_allclose(variance, np.average((y - first) ** 2, weights=density), rtol=1e-9)

    def test_of_one_component_is_linear_regression(self) -> None:
        """Fitted to the same rows, with their residual variance; whatever the offsets and units are."""
        r = np.random.default_rng(0)
        x = r.standard_normal((500, 4)) @ r.standard_normal((4, 4)) * [1, 1e-3, 1e4, 1] + [0, 1, 1e8, -5]
        centred = x - x.mean(axis=0)
        mixture = Mixture.gaussian("full", [1.0], [x.mean(axis=0)], [centred.T @ centred / len(x)])
        means, variances = mixture.predict(x[:, [2, 0]], [3, 1], [2, 0])
        model = LinearRegression().fit(centred[:, [2, 0]], centred[:, [3, 1]])
        expected = model.predict(centred[:, [2, 0]]) + x[:, [3, 1]].mean(axis=0)
        np.testing.assert_allclose(means, expected, rtol=1e-7)
        np.testing.assert_allclose(
            variances, np.tile(((x[:, [3, 1]] - expected) ** 2).mean(axis=0), (500, 1)), rtol=1e-7
        )

    def test_narrow_components_far_apart(self) -> None:
        """On steep lines a million times as long as they are wide, where differences of large numbers would be lost."""
        covariance = np.array([[1e-12, 1e-6 * 0.5], [1e-6 * 0.5, 1.0]])
        mixture = Mixture.gaussian("full", [0.5, 0.5], [[0.0, 3.0], [1.0, -3.0]], [covariance] * 2)
        x = np.array([[2e-6], [1 + 3e-6]])
        means, variances = mixture.predict(x, [1])
        np.testing.assert_allclose(means[:, 0], [3 + 0.5 * 2, -3 + 0.5 * ((1 + 3e-6) - 1) / 1e-6], rtol=1e-9)
        np.testing.assert_allclose(variances, 0.75, rtol=1e-9)

    def test_far_from_everything_the_nearest_component_predicts(self) -> None:
        mixture = Mixture.gaussian("full", [0.5, 0.5], [[0, 0], [10, 5]], [np.eye(2), [[1, 0.5], [0.5, 1]]])
        means, variances = mixture.predict(np.array([[1e6]]), [1])
        np.testing.assert_allclose(means, [[5 + 0.5 * (1e6 - 10)]])
        np.testing.assert_allclose(variances, [[0.75]])

    def test_rows_with_a_missing_value_have_none(self) -> None:
        mixture = random_mixture("full")
        x = rows_of(mixture)[:, :2]
        holes = x.copy()
        holes[3, 0] = holes[7, 1] = np.nan
        found, whole = mixture.predict(holes, [2], [0, 1]), mixture.predict(x, [2], [0, 1])
        for some, every in zip(found, whole, strict=True):
            assert np.flatnonzero(np.isnan(some[:, 0])).tolist() == [3, 7]
            kept = np.setdiff1d(np.arange(len(x)), [3, 7])
            np.testing.assert_allclose(some[kept], every[kept], rtol=1e-14)

    def test_more_rows_than_a_slice(self) -> None:
        mixture = random_mixture("tied")
        x = rows_of(mixture, 60)[:, :1]
        rows = EXPECTED // (mixture.n_components * 3)
        many = np.resize(x, (2 * rows + 7, 1))
        means, variances = mixture.predict(many, [1, 2, 3])
        for found, few in zip((means, variances), mixture.predict(x, [1, 2, 3]), strict=True):
            np.testing.assert_allclose(found, np.resize(few, found.shape), rtol=1e-13)

    @pytest.mark.parametrize(
        ("wanted", "given", "words"),
        [
            ([0, 1, 2, 3], None, "all 4 features are wanted: leave at least one out"),
            ([0, 1], [1, 2], r"features \[1\] are wanted and given"),
            ([4], None, r"features \[4\] are not some of 0 to 3"),
            ([], None, r"features \[\] are not some"),
            ([0], [], r"features \[\] are not some"),
            ([0], [1, 1], "each of them once"),
        ],
    )
    def test_nonsense_is_refused(self, wanted: list[int], given: list[int] | None, words: str) -> None:
        with pytest.raises(InputError, match=words):
            random_mixture("full").predict(np.zeros((3, 3)), wanted, given)

    def test_other_numbers_of_values_are_refused(self) -> None:
        for shape in ((3, 2), (3, 4), (3,)):
            with pytest.raises(InputError, match=r"have shape .*: give \(n, 3\)"):
                random_mixture("full").predict(np.zeros(shape), [0])

    def test_independent_features_follow_by_the_components_alone(self) -> None:
        """By their probabilities given the known values (Bayes)."""
        w, m, v = np.array([0.4, 0.6]), np.array([[1.0, 2.0, 7.0], [5.0, 9.0, 1.0]]), np.array([[1, 4, 2], [3, 1, 0.5]])
        x = np.array([[0.0], [5.0], [20.0]])
        joint = w * norm.pdf(x, m[:, 1], np.sqrt(v[:, 1]))
        r = joint / joint.sum(axis=1, keepdims=True)
        means, variances = Mixture.gaussian("diag", w, m, v).predict(x, [2, 0], [1])
        np.testing.assert_allclose(means, r @ m[:, [2, 0]], rtol=1e-12)
        inner = v[:, [2, 0]] + (m[:, [2, 0]] - means[:, None]) ** 2
        np.testing.assert_allclose(variances, np.einsum("nk,nkm->nm", r, inner), rtol=1e-12)

    def test_where_there_is_no_density_there_is_no_prediction(self) -> None:
        with np.errstate(all="ignore"):
            means, variances = random_mixture("full").predict(np.array([[0.0], [1e200], [0.0]]), [1], [0])
        assert np.isnan(means[:, 0]).tolist() == np.isnan(variances[:, 0]).tolist() == [False, True, False]

    def test_a_family_that_does_not_know_says_so(self) -> None:
        diag = random_mixture("diag")

        class Strange(type(diag.family)):  # type: ignore[misc]
            name, independent = "strange", False

        with pytest.raises(InputError, match="strange"):
            Mixture(Strange(), diag.weights, diag.components).predict(np.zeros((3, 1)), [0], [1])


@pytest.fixture
def several_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "MIN_ROWS", 16)


def content(path: Path) -> dict[str, bytes]:
    """All that lies in a folder."""
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def sea(n: int = 12, m: int = 20) -> xr.Dataset:
    """Three variables on a grid, two of them missing here and there."""
    r = np.random.default_rng(0)
    warm = r.random((n, m)) < 0.4
    t = np.where(warm, 18.0, 4.0) + r.standard_normal((n, m))
    s = np.where(warm, 36 + 0.3 * (t - 18), 34 - 0.2 * (t - 4)) + 0.1 * r.standard_normal((n, m))
    o = 300 - 5 * t + r.standard_normal((n, m))
    t[0, 3] = o[2, 5] = s[1, 1] = np.nan
    fields = {"t": (t, {"units": "degC"}), "s": (s, {"units": "g/kg"}), "o": (o, {})}
    return xr.Dataset(
        {name: (("y", "x"), values, attrs) for name, (values, attrs) in fields.items()},
        coords={"y": np.arange(n) * 2.0, "x": np.arange(m), "area": (("y", "x"), np.ones((n, m)))},
        attrs={"history": "made"},
    )


@pytest.fixture(scope="module")
def fit() -> dgmm.Fit:
    return dgmm.train(sea(), 2, search="quick")


def expected(fit: dgmm.Fit, data: xr.Dataset, of: list[str], given: list[str]) -> tuple[np.ndarray, np.ndarray]:
    x = np.stack([data[name].values.ravel() for name in given], axis=1)
    return fit.predict(x, of, given)


@pytest.mark.usefixtures("several_segments")
class TestOverAStore:
    def test_lies_on_the_grid_of_the_input(self, fit: dgmm.Fit, tmp_path: Path) -> None:
        data = sea()
        data.chunk({"y": 5, "x": 8}).to_zarr(tmp_path / "x.zarr", zarr_format=3, consolidated=False)
        found = dgmm.predict(fit, tmp_path / "x.zarr", tmp_path / "p.zarr", of=["s"], variance=True)
        assert {str(n): v.dims for n, v in found.data_vars.items()} == dict.fromkeys(("s", "s_variance"), ("y", "x"))
        xr.testing.assert_identical(found.coords.to_dataset().drop_attrs(), data.coords.to_dataset().drop_attrs())
        means, variances = expected(fit, data, ["s"], ["o", "t"])
        np.testing.assert_allclose(found["s"].values.ravel(), means[:, 0], rtol=1e-12)
        np.testing.assert_allclose(found["s_variance"].values.ravel(), variances[:, 0], rtol=1e-10)
        # where s is missing it is predicted, where o or t are it is not
        assert np.argwhere(np.isnan(found["s"].values)).tolist() == [[0, 3], [2, 5]]
        assert found["s"].attrs == {"long_name": "conditional mean of s given o, t", "units": "g/kg"}
        assert found["s_variance"].attrs["units"] == "(g/kg)^2"
        assert (found.attrs["of"], found.attrs["given"]) == ('["s"]', '["o", "t"]')
        found.load().to_netcdf(tmp_path / "p.nc")
        assert (found.attrs["history"], found.attrs["model"]) == ("made", digest(fit.mixture))
        assert abs(found["s"] - data["s"]).mean() < 0.2

    def test_the_source_needs_no_more_than_what_is_given(self, fit: dgmm.Fit, tmp_path: Path) -> None:
        data = sea()
        found = dgmm.predict(fit, data[["t"]], tmp_path / "p.zarr", of=["o", "s"], given=["t"])
        means, _ = expected(fit, data, ["o", "s"], ["t"])
        assert {*found.data_vars} == {"o", "s"}
        for name, column in zip(("o", "s"), means.T, strict=True):
            np.testing.assert_allclose(found[name].values.ravel(), column, rtol=1e-12)
        assert "units" not in found["o"].attrs
        with pytest.raises(InputError, match="no variable 't'"):
            dgmm.predict(fit, data[["o", "s"]], tmp_path / "q.zarr", of=["s"])

    @pytest.mark.parametrize("how", [{"n_workers": 3}, {"scheduler": "processes", "n_workers": 2}])
    def test_the_workers_change_no_bit(self, fit: dgmm.Fit, how: dict[str, Any], tmp_path: Path) -> None:
        sea(40).chunk({"y": 5, "x": 8}).to_zarr(tmp_path / "x.zarr", zarr_format=3, consolidated=False)
        common: dict[str, Any] = {"of": ["t"], "variance": True}
        dgmm.predict(fit, tmp_path / "x.zarr", tmp_path / "one.zarr", scheduler="threads", n_workers=1, **common)
        dgmm.predict(fit, tmp_path / "x.zarr", tmp_path / "two.zarr", **how, **common)
        one = content(tmp_path / "one.zarr")
        assert one == content(tmp_path / "two.zarr")
        assert sum(key.startswith("t_variance/c/") for key in one) > 3

    def test_it_is_the_same_in_an_object_store(self, fit: dgmm.Fit, tmp_path: Path, s3: str) -> None:
        here = dgmm.predict(fit, sea(), tmp_path / "p.zarr", of=["s"])
        there = dgmm.predict(fit, sea(), f"{s3}/p.zarr", of=["s"]).load()
        xr.testing.assert_identical(there, here.load())
        assert place_at(f"{s3}/p.zarr").state().what == "predictions"

    def test_single_precision_is_the_same_rounded(self, fit: dgmm.Fit, tmp_path: Path) -> None:
        double, single = (
            dgmm.predict(fit, sea(), tmp_path / f"{t}.zarr", of=["t"], dtype=t)["t"].values
            for t in ("float64", "float32")
        )
        np.testing.assert_array_equal(single, double.astype(np.float32))
        assert single.dtype == np.float32

    @pytest.mark.parametrize("labels", [[0.0, 10.0, 25.5], ["u", "v", "w"], None])
    @pytest.mark.parametrize("only_given", [False, True])
    def test_features_along_a_dimension(self, labels: Any, only_given: bool, tmp_path: Path) -> None:
        """The source has all of them, in any order, or those that are given alone."""
        r = np.random.default_rng(0)
        x = r.standard_normal((200, 3)) @ r.standard_normal((3, 3)) + np.array([0, 50, 100])
        coords = {} if labels is None else {"level": ("level", labels, {"units": "m"})}
        data = xr.Dataset({"v": (("level", "sample"), x.T, {"units": "K"})}, coords=coords)
        fit = dgmm.train(data, 2, feature_dim="level", search="quick")
        names = [*map(str, labels or range(3))]
        order = [2, 0] if only_given else [0, 1, 2] if labels is None else [1, 2, 0]
        source = data.isel(level=order)
        given = names[2], names[0]
        found = dgmm.predict(fit, source, tmp_path / "p.zarr", of=[names[1]], given=given, variance=True)
        means, variances = fit.predict(x[:, [2, 0]], [1], [2, 0])
        assert found["v"].dims == found["v_variance"].dims == ("sample", "level")
        np.testing.assert_allclose(found["v"].values, means, rtol=1e-12)
        np.testing.assert_allclose(found["v_variance"].values, variances, rtol=1e-9)
        assert found["v"].attrs["units"] == "K"
        dim = names if labels is None else [str(v) for v in labels]
        known = f"given level {dim[2]}, {dim[0]}, by a full Gaussian mixture"
        assert found.attrs["title"].startswith(f"v at level {dim[1]} {known}")
        if labels is not None:
            xr.testing.assert_identical(found["level"], data["level"].isel(level=[1]))
            with pytest.raises(InputError, match="the model was fitted on"):
                dgmm.predict(fit, data.isel(level=[0, 1]), tmp_path / "q.zarr", of=[names[1]])

    def test_a_plain_array(self, tmp_path: Path) -> None:
        x = rows_of(random_mixture("full"), 100)
        fit = dgmm.train(x, 2, search="quick")
        found = dgmm.predict(fit, x, tmp_path / "p.zarr", of=[3, 1])
        np.testing.assert_allclose(found["data"], fit.predict(x[:, [0, 2]], [3, 1])[0], rtol=1e-12)
        again = dgmm.predict(fit, da.from_array(x[:, [0, 2]], chunks=(30, 2)), tmp_path / "q.zarr", of=["3", "1"])
        np.testing.assert_allclose(again["data"], found["data"], rtol=1e-13)

    def test_values_without_a_density_are_refused(self, fit: dgmm.Fit, tmp_path: Path) -> None:
        data = sea()
        data["o"][3, 3] = np.inf
        with pytest.raises(InputError, match=r"feature 'o' of Dataset is inf at sample \(3, 3\)"):
            dgmm.predict(fit, data, tmp_path / "p.zarr", of=["s"])
        # where it is what is looked for it does not matter
        assert np.isfinite(dgmm.predict(fit, data, tmp_path / "p.zarr", of=["o"])["o"][3, 3])

    def test_names_that_come_twice_are_refused(self, fit: dgmm.Fit, tmp_path: Path) -> None:
        for data in (sea()[["o", "t"]].assign_coords(s=3.0), sea()[["o", "t"]].rename(y="s")):
            with pytest.raises(InputError, match="s would come twice"):
                dgmm.predict(fit, data, tmp_path / "p.zarr", of=["s"])
        assert place_at(tmp_path / "p.zarr").state().status is Status.ABSENT

    def test_names_that_no_array_has_are_refused(self, tmp_path: Path) -> None:
        data = sea()[["o", "t", "s"]].rename(s="s/35")
        with pytest.raises(InputError, match="'s/35' of the model cannot be the name of an array"):
            dgmm.predict(dgmm.train(data, 1), data, tmp_path / "p.zarr", of=["s/35"])
        with pytest.raises(InputError, match=r"'a/b' of .* cannot be the name of an array"):
            dgmm.predict(dgmm.train(data, 1), data.assign_coords({"a/b": 1.0}), tmp_path / "p.zarr", of=["t"])
        with pytest.raises(InputError, match=r"'a/b' of .* cannot be the name of an array"):
            dgmm.score(dgmm.train(data, 1), data.assign_coords({"a/b": 1.0}), tmp_path / "p.zarr")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            ({"of": []}, "of"),
            ({"of": ["q"]}, "no feature 'q': there are o, s, t"),
            ({"of": ["s"], "given": ["q"]}, "no feature 'q'"),
            ({"of": ["s"], "given": ["s"]}, r"features \[1\] are wanted and given"),
            ({"of": ["s"], "dtype": "int8"}, "dtype"),
            ({"of": ["s", "t", "o"]}, "all 3 features are wanted"),
            ({"of": ["s"], "givn": ["t"]}, "givn: unknown setting: did you mean given"),
        ],
    )
    def test_nonsense_is_refused(self, fit: dgmm.Fit, more: dict[str, Any], words: str, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=words):
            dgmm.predict(fit, sea(), tmp_path / "p.zarr", **more)
        assert list(tmp_path.iterdir()) == []

    def test_what_is_there_is_replaced_only_if_asked(self, fit: dgmm.Fit, tmp_path: Path) -> None:
        out = tmp_path / "p.zarr"
        dgmm.predict(fit, sea(), out, of=["s"])
        with pytest.raises(OutputExistsError, match="exists already"):
            dgmm.predict(fit, sea(), out, of=["t"])
        assert [*dgmm.predict(fit, sea(), out, of=["t"], overwrite=True).data_vars] == ["t"]
        with pytest.raises(OutputExistsError, match="predictions, not scores"):
            dgmm.score(fit, sea(), out, overwrite=True)

    def test_what_was_interrupted_leaves_nothing(
        self, fit: dgmm.Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        called = PredictSegment.__call__

        def interrupted(self: PredictSegment, segment: int, rows: Any) -> Any:
            if segment == 2 and len(rows):
                raise KeyboardInterrupt
            return called(self, segment, rows)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(PredictSegment, "__call__", interrupted)
            dgmm.predict(fit, sea(), tmp_path / "p.zarr", of=["s"], scheduler="threads", n_workers=1)
        assert list(tmp_path.iterdir()) == []

    def test_a_source_that_changes_meanwhile_is_refused(
        self, fit: dgmm.Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sea().to_zarr(tmp_path / "x.zarr", zarr_format=3, consolidated=False)
        write = PredictSegment._write

        def changed(self: PredictSegment, segment: int, values: Any) -> None:
            write(self, segment, values)
            zarr.open_array(str(tmp_path / "x.zarr/t"), mode="r+")[0, 0] += 1.0

        monkeypatch.setattr(PredictSegment, "_write", changed)
        with pytest.raises(DgmmError, match="was changed while it was read"):
            dgmm.predict(fit, tmp_path / "x.zarr", tmp_path / "p.zarr", of=["s"])
        assert not (tmp_path / "p.zarr").exists()

    def test_from_the_command_line(self, fit: dgmm.Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        model, source, out = (str(tmp_path / name) for name in ("m.zarr", "x.zarr", "p.zarr"))
        sea().to_zarr(source, zarr_format=3, consolidated=False)
        dgmm.save(fit, model)
        line = ["predict", model, source, "--of", "s,o", "--given", "t", "--variance", "--out", out, "--quiet"]
        assert main(line) == 0
        assert capsys.readouterr().out == f"239 samples predicted, 1 missing: {out}\n"
        found = xr.open_zarr(out, consolidated=True)
        assert sorted(map(str, found.data_vars)) == ["o", "o_variance", "s", "s_variance"]
        here = dgmm.predict(fit, sea(), tmp_path / "here.zarr", of=["s", "o"], given=["t"], variance=True)
        for name in found.data_vars:
            np.testing.assert_array_equal(found[name], here[name])
        assert main(line) == 2
        assert main(["predict", model, source, "--of", "z", "--out", out]) == 2
        # what was predicted is data
        assert open_samples(out, ["s", "o"]).n_features == 2


@pytest.mark.parametrize(("d", "k", "m"), [(3, 2, 2), (12, 20, 2), (12, 20, 10), (12, 1, 6)])
@pytest.mark.parametrize("holes", [False, True])
def test_a_task_takes_what_it_says_of_memory(
    d: int, k: int, m: int, holes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the rows themselves: no more, and not much less."""
    r = np.random.default_rng(0)
    x = r.standard_normal((50_000, d))
    if holes:
        x[::10] = np.nan
    mixture = Mixture.gaussian("full", np.ones(k), r.standard_normal((k, d)), np.tile(np.eye(d), (k, 1, 1)))
    features = tuple(map(str, range(d)))
    fit = Fit(mixture, -1.0, 10, 0, 1, Outcome(OutcomeKind.CONVERGED, 1), 0.0, (-1.0,), features)
    wanted = Wanted.asked(fit, features[:m], None, True, "float64")
    _, leaf = leaf_of(fit, open_samples(x), wanted, Writer("", "", ""))
    monkeypatch.setattr(PredictSegment, "_write", lambda *_: None)
    with one_blas_thread:
        leaf(0, Rows(x[:100]))
        tracemalloc.start()
        found = leaf(0, Rows(x))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (found.n, found.n_missing) == ((45_000, 5_000) if holes else (50_000, 0))
    assert peak <= leaf.working_bytes(len(x))
    if holes:
        assert peak > 0.5 * leaf.working_bytes(len(x))


def test_values_that_cannot_come_from_the_family_are_named(tmp_path: Path) -> None:
    x = np.random.default_rng(0).poisson([3.0, 9.0], (60, 2)).astype(float)
    fit = dgmm.train(x, 1, "poisson")
    x[40, 1] = -1
    with pytest.raises(InputError, match=r"is -1 at sample \(40\): a poisson mixture is of counts"):
        dgmm.predict(fit, x, tmp_path / "p.zarr", of=["0"])
    assert list(tmp_path.iterdir()) == []
