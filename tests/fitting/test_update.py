"""Updates: EM on new rows with the sums of old ones held, by its definition, and what that is worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, poisson

import dgmm
from dgmm.cli import main
from dgmm.config import Update
from dgmm.errors import InputError
from dgmm.families import FAMILIES
from dgmm.fits import Batch, validated
from dgmm.fitting import past_of
from dgmm.passes.estep import EStepSegment
from dgmm.pipeline import run_update
from dgmm.store import attributes
from dgmm.store.record import to_dataset

CENTRES, SPREAD = np.array([[0.0, 0.0], [2.0, 2.0], [-2.0, 2.5]]), np.array([1.0, 0.7])
#: To the end of the climb.
EXACT: dict[str, Any] = {"tol": 1e-13, "reg_covar": 0.0}


def drawn(n: int, seed: int) -> np.ndarray:
    """Rows of three classes that overlap."""
    r = np.random.default_rng(seed)
    return CENTRES[r.choice(3, n, p=[0.5, 0.3, 0.2])] + r.normal(size=(n, 2)) * SPREAD


A, B = drawn(900, 0), drawn(500, 1)
BOTH = np.vstack([A, B])


@pytest.fixture(scope="module")
def old() -> dgmm.Fit:
    return dgmm.train(A, 3, search="starts", **EXACT)


def joint(x: np.ndarray, w: np.ndarray, m: np.ndarray, c: np.ndarray) -> np.ndarray:
    """``log w_k N(x | k)``, shape (n, K)."""
    parts = zip(w, m, c, strict=True)
    return np.stack([np.log(p) + multivariate_normal(mean, cov).logpdf(x) for p, mean, cov in parts], axis=1)


def shares(j: np.ndarray) -> np.ndarray:
    return np.exp(j - logsumexp(j, axis=1, keepdims=True))


class Held:
    """EM on B with A shared out by a fit for good, each row of A counting ``keep``: by its definition."""

    def __init__(self, fit: dgmm.Fit, keep: float) -> None:
        self.keep = keep
        self.held = shares(joint(A, fit.mixture.weights, fit.mixture.means, fit.mixture.covariances))

    def bound(self, w: np.ndarray, m: np.ndarray, c: np.ndarray) -> float:
        """What it climbs."""
        entropy = -(self.held * np.log(np.maximum(self.held, 1e-300))).sum()
        old = (self.held * joint(A, w, m, c)).sum() + entropy
        return float(self.keep * old + logsumexp(joint(B, w, m, c), axis=1).sum())

    def shares(self, *mixture: np.ndarray) -> np.ndarray:
        """Of all rows."""
        return np.vstack([self.keep * self.held, shares(joint(B, *mixture))])

    def step(self, *mixture: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """After an M-step."""
        r = self.shares(*mixture)
        counts = r.sum(axis=0)
        m = (r.T @ BOTH) / counts[:, None]
        c = np.stack([((BOTH - m[k]).T * r[:, k]) @ (BOTH - m[k]) / counts[k] for k in range(3)])
        return counts / counts.sum(), m, c


def parts(fit: dgmm.Fit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return fit.mixture.weights, fit.mixture.means, fit.mixture.covariances


@pytest.mark.parametrize("forget", [0.0, 0.3])
def test_it_is_em_on_the_new_rows_with_the_old_ones_held(old: dgmm.Fit, forget: float) -> None:
    oracle, new = Held(old, 1 - forget), dgmm.update(old, B, forget=forget, **EXACT)
    found = parts(new)
    assert new.log_likelihood == pytest.approx(oracle.bound(*found), abs=1e-7)
    for _ in range(100):
        found = oracle.step(*found)
    # it stops where 0.1 % of p/2 nats are left
    assert 0 <= oracle.bound(*found) - new.log_likelihood < 0.017
    assert oracle.bound(*found) - oracle.bound(*parts(old)) > 1
    for ours, theirs in zip(parts(new), found, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=0.02)
    assert new.n_samples == round((1 - forget) * 900) + 500
    (batch,) = new.updates
    assert (batch.n_samples, batch.n_missing, batch.forget, batch.n_passes) == (500, 0, forget, new.n_passes)
    assert batch.before == pytest.approx(old.mixture.log_density(B).mean(), abs=1e-9)
    assert batch.after == pytest.approx(new.mixture.log_density(B).mean(), abs=1e-9)
    assert new.converged


def test_one_step_is_that_of_stepwise_em(old: dgmm.Fit) -> None:
    """Cappé and Moulines (2009): mean statistics move by the share of the new rows, where one M-step is asked for."""
    keep = 0.6
    r, held = (shares(joint(x, old.mixture.weights, old.mixture.means, old.mixture.covariances)) for x in (B, A))
    step = 500 / (keep * 900 + 500)
    counts = (1 - step) * held.mean(axis=0) + step * r.mean(axis=0)
    first = (1 - step) * held.T @ A / 900 + step * r.T @ B / 500
    new = dgmm.update(old, B, forget=1 - keep, max_iter=2, reg_covar=0.0)
    np.testing.assert_allclose(new.mixture.weights, counts, rtol=1e-9)
    np.testing.assert_allclose(new.mixture.means, first / counts[:, None], atol=1e-9)


def test_what_is_forgotten_is_forgotten_of_the_scatter_of_all_too() -> None:
    """One covariance, which an M-step takes from the moments of all rows: of these as much as of the sums."""
    old = dgmm.train(A, 3, "tied", search="starts", **EXACT)
    new = dgmm.update(old, B, forget=0.8, max_iter=2, reg_covar=0.0)
    w, m, c = parts(old)
    every = w, m, np.tile(c, (3, 1, 1))
    r = np.vstack([0.2 * shares(joint(A, *every)), shares(joint(B, *every))])
    means = (r.T @ BOTH) / r.sum(axis=0)[:, None]
    within = sum(((BOTH - mean).T * r[:, k]) @ (BOTH - mean) for k, mean in enumerate(means))
    np.testing.assert_allclose(new.mixture.covariances, within / r.sum(), atol=1e-9)


def test_noise_is_shared_out_as_it_was() -> None:
    """What is climbed, by its definition, where the box is that of the old rows."""
    generator = np.random.default_rng(7)
    a = np.vstack([A, generator.uniform(-9, 9, (150, 2))])
    b = np.vstack([B[(np.abs(B) < 5).all(axis=1)], generator.uniform(-8, 8, (150, 2))])
    old = dgmm.train(a, 3, search="starts", noise=True)

    def of(x: np.ndarray, fit: dgmm.Fit) -> np.ndarray:
        assert fit.mixture.noise is not None
        box = np.full((len(x), 1), np.log(fit.mixture.noise.weight / np.prod(np.ptp(a, axis=0))))
        return np.hstack([joint(x, *parts(fit)), box])

    new, held = dgmm.update(old, b), shares(of(a, old))
    entropy = -(held * np.log(np.maximum(held, 1e-300))).sum()
    bound = (held * of(a, new)).sum() + entropy + logsumexp(of(b, new), axis=1).sum()
    assert new.log_likelihood == pytest.approx(bound, abs=1e-7)
    assert old.noise is not None
    assert new.noise is not None
    assert new.noise > old.noise + 0.02


def test_counts_go_the_same_way() -> None:
    """Poisson components, whose sums are in other coordinates, and have a base measure."""
    means = [[3.0, 9.0], [12.0, 2.0]]
    a, b = (np.random.default_rng(seed).poisson(means, (150, 2, 2)).reshape(-1, 2) for seed in (0, 1))
    old = dgmm.train(a, 2, "poisson", tol=1e-13)

    def of(x: np.ndarray, weights: np.ndarray, rates: np.ndarray) -> np.ndarray:
        return np.asarray(np.log(weights) + poisson(rates).logpmf(x[:, None, :]).sum(axis=2))

    new, held = dgmm.update(old, b, tol=1e-13), shares(of(a, old.mixture.weights, old.mixture.means))
    entropy = -(held * np.log(np.maximum(held, 1e-300))).sum()

    def bound(*mixture: np.ndarray) -> float:
        return float((held * of(a, *mixture)).sum() + entropy + logsumexp(of(b, *mixture), axis=1).sum())

    weights, rates = new.mixture.weights, new.mixture.means
    assert new.log_likelihood == pytest.approx(bound(weights, rates), abs=1e-8)
    for _ in range(50):
        r = np.vstack([held, shares(of(b, weights, rates))])
        weights, rates = r.mean(axis=0), (r.T @ np.vstack([a, b])) / r.sum(axis=0)[:, None]
    assert 0 <= bound(weights, rates) - new.log_likelihood < 0.005
    np.testing.assert_allclose(new.mixture.means, rates, rtol=1e-3)


@pytest.mark.parametrize("how", [
    {"covariance_type": "tied"}, {"covariance_type": "VEV"},
    {"covariance_type": "t_tied"}, {"covariance_type": "diag", "fixed": ["weights"]},
], ids=str)  # fmt: skip
def test_whatever_the_family_both_are_as_likely_as_the_bound_says(how: dict[str, Any]) -> None:
    """What is climbed is a lower bound that touches at the beginning, so the log-likelihood of all rows cannot fall."""
    old = dgmm.train(A, 3, search="starts", **how, **EXACT)
    new = dgmm.update(old, B, reg_covar=0.0)
    before, after = (fit.mixture.log_density(BOTH).sum() for fit in (old, new))
    assert new.trajectory[0] == pytest.approx(before, abs=1e-7)
    assert before - 1e-7 < new.log_likelihood < after
    assert new.mixture.family.name == old.mixture.family.name
    if "fixed" in how:
        assert new.mixture.weights.tolist() == old.mixture.weights.tolist()


def test_a_prior_counts_once() -> None:
    """The M-step of Fraley and Raftery (2007) on old and new rows together, with a covariance of both."""
    with_prior = dgmm.train(A, 3, search="starts", prior="default")
    new = dgmm.update(with_prior, B, max_iter=2, reg_covar=0.0)
    r = Held(with_prior, 1.0).shares(*parts(with_prior))
    centre, scatter = BOTH.mean(axis=0), np.cov(BOTH.T) / 3  # K^(2/d)
    for k, n in enumerate(r.sum(axis=0)):
        mean = r[:, k] @ BOTH / n
        own = ((BOTH - mean).T * r[:, k]) @ (BOTH - mean)
        away = 0.01 * n / (0.01 + n) * np.outer(mean - centre, mean - centre)
        np.testing.assert_allclose(new.mixture.means[k], (n * mean + 0.01 * centre) / (n + 0.01), atol=1e-9)
        np.testing.assert_allclose(new.mixture.covariances[k], (scatter + away + own) / (n + 4 + 2 + 2), atol=1e-9)
    assert new.prior == "default"


def test_hard_assignments_stay_hard() -> None:
    old = dgmm.train(A, 3, assignment="hard")
    new = dgmm.update(old, B)
    labels = np.concatenate([old.classify(A), new.classify(B)])
    means = np.stack([BOTH[labels == k].mean(axis=0) for k in range(3)])
    np.testing.assert_allclose(new.mixture.means, means, atol=1e-9)


def test_the_gap_to_a_fit_on_both_is_a_small_part_of_what_chance_gives() -> None:
    """On rows that nobody has seen, and on those that were fitted; p/2 nats in all are what chance is worth."""
    fresh = drawn(20_000, 99)
    gaps, unseen = [], []
    for seed in range(3):
        a, b = drawn(1000, 10 + seed), drawn(500, 20 + seed)
        first = dgmm.train(a, 3, search="starts")
        new, both = dgmm.update(first, b), dgmm.train(x := np.vstack([a, b]), 3, start=first)
        start, ours, best = (fit.mixture.log_density(x).sum() for fit in (first, new, both))
        gaps.append((best - ours) / (best - start))
        unseen.append((both.mixture.log_density(fresh) - new.mixture.log_density(fresh)).mean())
    assert max(gaps) < 0.5, gaps
    assert np.mean(unseen) < 0.1 * 17 / 2 / 1500


def test_batches_add_up_and_what_is_forgotten_fades(old: dgmm.Fit) -> None:
    parts = np.array_split(B, 4)
    fit, fading = old, old
    for part in parts:
        fit, fading = dgmm.update(fit, part), dgmm.update(fading, part, forget=0.5)
    assert fit.n_samples == 1400
    assert [batch.n_samples for batch in fit.updates] == [125] * 4
    assert past_of(fading).count == pytest.approx(900 / 16 + 125 * (1 / 8 + 1 / 4 + 1 / 2 + 1))
    np.testing.assert_allclose(past_of(fit).moments.in_frame(past_of(fit).frame).count, 1400)
    # equal weights are no weights
    weighted = dgmm.update(old, B, weights=np.full(500, 2.5))
    np.testing.assert_allclose(weighted.mixture.means, dgmm.update(old, B).mixture.means, rtol=1e-12)


@pytest.mark.parametrize("name", ["m.zarr", "m.json"])
def test_what_is_stored_is_what_there_was(old: dgmm.Fit, tmp_path: Path, name: str) -> None:
    dgmm.save(old, tmp_path / name)
    again = dgmm.load(tmp_path / name)
    assert past_of(again).digest == past_of(old).digest
    new = dgmm.update(tmp_path / name, B)
    assert new.mixture.means.tobytes() == dgmm.update(old, B).mixture.means.tobytes()
    dgmm.save(new, tmp_path / f"new-{name}")
    back = dgmm.load(tmp_path / f"new-{name}")
    assert back.updates == new.updates
    # of independent features the diagonal of the scatter is kept
    diag = dgmm.train(A, 3, "diag", search="starts", prior="default")
    dgmm.save(diag, tmp_path / f"diag-{name}")
    assert dgmm.update(tmp_path / f"diag-{name}", B).mixture.covariances.tobytes() == (
        dgmm.update(diag, B).mixture.covariances.tobytes()
    )
    # components in another order are still those that the sums are of
    turned = dgmm.update(old.reordered(np.array([2, 0, 1])), B)
    np.testing.assert_allclose(turned.mixture.means, new.mixture.means[[2, 0, 1]], rtol=1e-6)


def test_statistics_that_are_not_the_models_are_refused(old: dgmm.Fit) -> None:
    from dgmm.store import from_dataset
    from dgmm.store.record import PLAIN_FORMAT

    plain = to_dataset(old).assign_attrs(format=PLAIN_FORMAT)
    del plain.attrs["checksum"]
    assert from_dataset(plain, "m").fit.past is not None
    with pytest.raises(InputError, match="statistics_sums have shape"):
        from_dataset(plain.isel(statistic=slice(5)), "m")
    with pytest.raises(InputError, match="statistics_count is -1: of no rows"):
        from_dataset(plain.assign_attrs(statistics_count=-1.0), "m")


def test_what_cannot_be_gone_on_from_is_said(old: dgmm.Fit) -> None:
    with pytest.raises(InputError, match=r"no sufficient statistics .* train it anew"):
        dgmm.update(replace(old, past=None), B)
    with pytest.raises(InputError, match="features"):
        dgmm.update(old, B[:, :1])
    with pytest.raises(InputError, match="leave labels out"):
        validated(Update, {"model": "m", "data": {"path": "x", "labels": "y"}, "out": "o"})
    with pytest.raises(InputError, match="forget"):
        dgmm.update(old, B, forget=1.0)
    narrow = np.concatenate([A, np.random.default_rng(0).normal(9, 1e-7, (300, 2))])
    assert dgmm.train(narrow, 4, search="starts", reg_covar=1e-18).past is None


def test_the_command_takes_no_batch_twice(old: dgmm.Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dgmm.save(old, tmp_path / "m.zarr", settings={"training": {"seed": 3}})
    for name, chunk in (("b", 500), ("c", 60)):
        zarr.create_array(str(tmp_path / f"{name}.zarr"), data=B, chunks=(chunk, 2))
    model, data, out = (str(tmp_path / name) for name in ("m.zarr", "b.zarr", "new.zarr"))
    assert main(["update", model, data, "--out", out, "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "1400 samples (0 missing): log-likelihood at least" in said
    assert "500 new samples (0 missing) in" in said
    new = dgmm.load(out)
    assert new.mixture.means.tobytes() == dgmm.update(old, data).mixture.means.tobytes()
    np.testing.assert_allclose(dgmm.update(old, str(tmp_path / "c.zarr")).mixture.means, new.mixture.means, rtol=1e-9)
    assert attributes(out)["settings"].count('"seed": 3') == 1
    assert main(["update", out, data, "--out", f"{out}-2"]) == 2
    assert "has these samples with it already" in capsys.readouterr().err
    assert main(["update", model, data, "--out", out]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "select"])
def test_what_a_model_was_fitted_to_is_no_new_batch(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, other, out = (str(tmp_path / name) for name in ("a.zarr", "b.zarr", "out"))
    zarr.create_array(data, data=A, chunks=(300, 2))
    zarr.create_array(other, data=A, chunks=(301, 2))  # as far as anybody can tell, others
    assert main([command, data, "--k", "2", "--out", out, "--n-init", "1", "--quiet"]) == 0
    model = out if command == "train" else f"{out}/model.zarr"
    capsys.readouterr()
    new = str(tmp_path / "new.zarr")
    assert main(["update", model, data, "--out", new]) == 2
    said = capsys.readouterr().err
    assert f"{model} was fitted to these samples ({data}), which would count twice: name new ones, or train on" in said
    assert f"dgmm train --start {model}" in said
    assert not Path(new).exists()
    with pytest.raises(InputError, match="was fitted to these samples"):
        dgmm.update(model, data)
    assert main(["update", model, other, "--out", new, "--quiet"]) == 0
    with pytest.raises(InputError, match="was fitted to these samples"):  # a batch later
        dgmm.update(new, data)
    with pytest.raises(InputError, match="has these samples with it already"):
        dgmm.update(new, other)


def test_an_update_that_was_interrupted_goes_on(old: dgmm.Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dgmm.save(old, tmp_path / "m.zarr")
    zarr.create_array(str(tmp_path / "b.zarr"), data=B)
    asked = validated(
        Update,
        {"model": str(tmp_path / "m.zarr"), "data": {"path": str(tmp_path / "b.zarr")}, "out": str(tmp_path / "n")},
    )
    plain, made = EStepSegment.several, []

    def counted(self: EStepSegment, *given: Any) -> Any:
        made.append(1)
        if len(made) == 3:
            raise KeyboardInterrupt
        return plain(self, *given)

    monkeypatch.setattr(EStepSegment, "several", counted)
    with pytest.raises(KeyboardInterrupt):
        run_update(asked)
    new = run_update(asked)
    # two of the passes are in the journal
    assert len(made) == 1 + new.n_passes
    assert not (tmp_path / "n.journal").exists()
    monkeypatch.undo()
    assert new.mixture.means.tobytes() == dgmm.update(old, str(tmp_path / "b.zarr")).mixture.means.tobytes()


def test_what_a_batch_was_is_said_in_a_line() -> None:
    said = str(Batch(5, 1, 0.25, 2, -1.5, -1.25))
    assert said.startswith("5 new samples (1 missing) in 2 passes: their mean log density -1.5 became -1.25")
    assert said.endswith(", rows before them count 0.75 times")


# ---- with what else a model may have -------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [False, True])
def test_new_rows_are_preprocessed_as_the_old_ones_were(stored: bool, tmp_path: Path) -> None:
    """By the model's own map, found in the old rows alone: the same as an update of what that makes of both."""
    r = np.random.default_rng(3)
    mix = r.normal(size=(2, 4))
    a, b = (x @ mix + 0.01 * r.normal(size=(len(x), 4)) for x in (A, B))
    fit = dgmm.train(a, 3, search="starts", preprocess={"scale": "standard", "pca": 2}, **EXACT)
    transform = fit.mixture.transform
    assert transform is not None
    if stored:
        dgmm.store.save(fit, tmp_path / "m.zarr")
        fit = dgmm.store.load(tmp_path / "m.zarr")
    inner = dgmm.train(transform(a), 3, search="starts", **EXACT)
    expected, found = dgmm.update(inner, transform(b), **EXACT), dgmm.update(fit, b, **EXACT)
    assert found.mixture.transform is not None
    assert found.mixture.transform.digest == transform.digest
    ours, theirs = (np.argsort(x.mixture.means[:, 0]) for x in (found, expected))
    np.testing.assert_allclose(found.mixture.means[ours], expected.mixture.means[theirs], atol=1e-6)
    np.testing.assert_allclose(found.mixture.weights[ours], expected.mixture.weights[theirs], atol=1e-6)
    assert found.log_likelihood / found.n_samples == pytest.approx(
        expected.log_likelihood / expected.n_samples, abs=1e-6
    )


def test_rows_that_lack_values_are_gone_on_with() -> None:
    """Of one normal the mean is that of the rows, with what is missing of the old ones expected by the old fit."""
    a, b = A.copy(), B.copy()
    r = np.random.default_rng(4)
    a[r.random(len(a)) < 0.3, 1] = np.nan
    b[r.random(len(b)) < 0.3, 0] = np.nan
    fit = dgmm.train(a, 1, missing="marginalise", **EXACT)
    found = dgmm.update(fit, b, **EXACT)
    assert found.missing == "marginalise"
    assert found.n_samples == len(a) + len(b)

    def filled(x: np.ndarray, m: np.ndarray, c: np.ndarray) -> np.ndarray:
        full = x.copy()
        for i, j in ((0, 1), (1, 0)):
            lacks = np.isnan(x[:, i])
            full[lacks, i] = m[i] + c[i, j] / c[j, j] * (x[lacks, j] - m[j])
        return full

    old, new = ((x.mixture.means[0], x.mixture.covariances[0]) for x in (fit, found))
    expected = np.vstack([filled(a, *old), filled(b, *new)]).mean(axis=0)
    # as far as a fit climbs
    np.testing.assert_allclose(new[0], expected, atol=5e-4)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.incomplete])
def test_every_family_goes_on_with_missing_values_from_its_file(name: str, tmp_path: Path) -> None:
    """And both together are at least as likely as is said."""
    r = np.random.default_rng(5)
    a, b = (np.where(r.random(x.shape) < 0.2, np.nan, x) for x in (A[:300], B[:200]))
    fit = dgmm.train(a, 2, name, missing="marginalise", search="starts", n_init=1)
    dgmm.store.save(fit, tmp_path / "m.zarr")
    found = dgmm.update(dgmm.store.load(tmp_path / "m.zarr"), b)
    assert found.n_passes > 1
    both = np.vstack([a, b])
    both = both[~np.isnan(both).all(axis=1)]
    assert found.n_samples == len(both)
    total = found.mixture.log_density(both, marginal=True).sum()
    assert found.log_likelihood <= total + 1e-6
    assert total > fit.mixture.log_density(both, marginal=True).sum() - 1e-6


@pytest.mark.parametrize("lacking", ["old", "new"])
@pytest.mark.parametrize("k", [1, 2])
def test_sums_of_two_kinds_are_added(lacking: str, k: int, tmp_path: Path) -> None:
    """Of tied components, of which complete rows alone need no second moments: to begin with all rows are as likely as
    is said, and where rows of one normal are complete they always are."""
    r = np.random.default_rng(6)
    a, b = (np.where((r.random(x.shape) < 0.3) & (lacking == name), np.nan, x) for x, name in ((A, "old"), (B, "new")))
    fit = dgmm.train(a, k, "tied", missing="marginalise", search="starts", n_init=1, **EXACT)
    dgmm.store.save(fit, tmp_path / "m.zarr")
    found = dgmm.update(dgmm.store.load(tmp_path / "m.zarr"), b, **EXACT)
    both = np.vstack([a, b])
    both = both[~np.isnan(both).all(axis=1)]
    assert found.n_samples == len(both)
    before, after = (m.log_density(both, marginal=True).sum() for m in (fit.mixture, found.mixture))
    assert found.trajectory[0] == pytest.approx(before, rel=1e-9)
    assert before < found.log_likelihood <= after + 1e-6
    if (lacking, k) == ("new", 1):
        assert found.log_likelihood == pytest.approx(after, rel=1e-9)
    if k == 1:  # it is the same model as of full components, whose sums are of one kind
        other = dgmm.update(dgmm.train(a, 1, missing="marginalise", **EXACT), b, **EXACT)
        np.testing.assert_allclose(found.mixture.means, other.mixture.means, atol=5e-4)
        np.testing.assert_allclose(found.mixture.covariances, other.mixture.covariances[0], atol=5e-4)
        how: dict[str, Any] = {"missing": "marginalise", "tol": 1e-13, "max_iter": 1000, "regularisation": "relative"}
        parts = [
            dgmm.GaussianMixture(1, covariance_type=t, **how).partial_fit(a).partial_fit(b) for t in ("tied", "full")
        ]
        np.testing.assert_allclose(parts[0].means_, parts[1].means_, atol=5e-4)
        np.testing.assert_allclose(parts[0].covariances_, parts[1].covariances_[0], atol=5e-4)
    assert found.updates[-1].n_samples == len(b) - np.isnan(b).all(axis=1).sum()
    again = dgmm.update(found, b)
    assert again.n_samples == found.n_samples + found.updates[-1].n_samples
