"""What people of other fields keep their samples in, small: how it is opened, and that what comes of it is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

import dgmm
from dgmm.cli import main
from dgmm.errors import InputError


def test_cells_by_their_principal_components(tmp_path: Path) -> None:
    """AnnData keeps embeddings as arrays below ``obsm``, beside counts that are sparse."""
    r = np.random.default_rng(0)
    truth = r.integers(0, 3, 300)
    group = zarr.create_group(
        tmp_path / "cells.zarr", attributes={"encoding-type": "anndata", "encoding-version": "0.1.0"}
    )
    sparse = group.create_group("X", attributes={"encoding-type": "csr_matrix", "shape": [300, 50]})
    sparse.create_array("data", data=np.ones(10, np.float32))
    group.create_group("obs", attributes={"encoding-type": "dataframe"})
    group.create_group("obsm").create_array("X_pca", data=r.normal(size=(300, 2)) + 9 * truth[:, None], chunks=(100, 2))
    out, scores = str(tmp_path / "m.zarr"), str(tmp_path / "s.zarr")
    source = str(tmp_path / "cells.zarr" / "obsm" / "X_pca")
    assert main(["train", source, "--k", "3", "--out", out, "--quiet"]) == 0
    assert main(["score", out, source, "--out", scores, "--quiet"]) == 0
    assert adjusted_rand_score(truth, dgmm.api.open_scores(scores)["label"].values) == 1
    with pytest.raises(InputError):
        dgmm.train(tmp_path / "cells.zarr", 3)


def test_cytometry_by_channels() -> None:
    """A table of events whose columns have the channel's name and its label, as FlowKit makes of FCS files."""
    r = np.random.default_rng(1)
    x = np.exp(r.normal(size=(400, 2)) + 4 * (np.arange(400) % 2)[:, None])
    columns = pd.MultiIndex.from_tuples([("FL1-A", "CD3"), ("FL2-A", "CD4")], names=["pnn", "pns"])
    events = pd.DataFrame(x, columns=columns)
    with pytest.raises(InputError, match=r"columns of the DataFrame have 2 levels: take one .*get_level_values\(0\)"):
        dgmm.train(events, 2)
    events.columns = events.columns.get_level_values(0)
    fit = dgmm.train(events, 2, preprocess={"log": ["FL1-A", "FL2-A"], "scale": "standard"})
    assert fit.features == ("FL1-A", "FL2-A")
    assert adjusted_rand_score(np.arange(400) % 2, fit.classify(x)) > 0.95


def test_five_hundred_levels_by_their_principal_components(tmp_path: Path) -> None:
    """The components are scikit-learn's, the means are profiles again."""
    r = np.random.default_rng(2)
    depth, truth = np.linspace(0, 1, 500), np.arange(900) % 3
    shapes = np.stack([np.exp(-depth), depth, np.sin(6 * depth)])
    x = (
        3 * shapes[truth]
        + r.normal(size=(900, 2)) @ np.stack([depth**2, np.cos(3 * depth)])
        + 0.01 * r.normal(size=(900, 500))
    )
    data = xr.Dataset({"T": (("n", "depth"), x.astype("f4"))}, {"depth": depth})
    data.to_zarr(tmp_path / "wide.zarr", encoding={"T": {"chunks": (300, 500)}}, consolidated=False)
    how = ["--feature-dim", "depth", "--preprocess", "pca:0.99", "--memory-limit", "500MB", "--quiet"]
    assert main(["train", str(tmp_path / "wide.zarr"), "--k", "3", "--out", str(tmp_path / "m.zarr"), *how]) == 0
    fit = dgmm.load(tmp_path / "m.zarr")
    transform = fit.mixture.transform
    assert transform is not None
    expected = PCA(0.99).fit(x)
    assert transform.n_outputs == expected.n_components_ < 10
    np.testing.assert_allclose(transform.explained, expected.explained_variance_ratio_, rtol=1e-4)
    labels = fit.classify(x)
    assert adjusted_rand_score(truth, labels) == 1
    for k in range(3):
        mean = expected.inverse_transform(expected.transform(x[labels == k]).mean(axis=0)[None])[0]
        np.testing.assert_allclose(fit.mixture.physical_means[k], mean, atol=0.01)
