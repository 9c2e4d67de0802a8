"""Damage at random: a model is read as it was, or refused in one line; so are samples, as far as can be told."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

from dgmm.data import Layout, open_samples
from dgmm.errors import DgmmError, InputError
from dgmm.fits import Fit, Outcome, OutcomeKind, Stability
from dgmm.mixture import Mixture
from dgmm.store import models as store
from dgmm.store.record import STABILITY, Record
from tests.mutations import BITS, TEXT, Generator, damaged, restructured

#: Damages of a short run and of a long one, in all.
SHORT, LONG = 400, 24_000

TABLE = pd.DataFrame({"n_components": [2, 1], "covariance_type": ["full", "diag"], "bic": [31.5, np.nan]})
SETTINGS = {"data": {"path": "x.zarr", "variables": None}, "n_components": [1, 2], "training": {"tol": 1e-3}}
KINDS = {"full": (2, 3, 3), "tied": (3, 3), "diag": (2, 3), "spherical": (2,)}


def model(kind: str) -> Fit:
    """A fit with everything that a fit may have."""
    shape = KINDS[kind]
    covariances = np.ones(shape) if len(shape) < 2 or kind == "diag" else np.broadcast_to(np.eye(3) + 0.25, shape)
    means = np.array([[1.5, -2.0, 0.1], [30.0, 4.0, 1e-3]])
    return Fit(
        mixture=Mixture.gaussian(kind, np.array([0.625, 0.375]), means, covariances),
        log_likelihood=-12345.678901234567,
        n_samples=1000,
        n_missing=7,
        n_passes=3,
        outcome=Outcome(OutcomeKind.STOPPED, 3),
        remaining_gain=1e-9,
        trajectory=(-12500.1, -12400.000000000002, -12345.678901234567),
        features=("0.0", "10.0", "20.0"),
        entropy=12.5,
        held_out=-3.25,
        held_out_se=0.125,
        remaining_gains=(np.inf, 1e-3, 1e-9),
        seconds=(0.5, 0.25, 0.125),
        layout=Layout(("t",), "z", (0.0, 10.0, 20.0), "float64", ("K",), "m"),
        stability=Stability(
            900, 30, np.array([0.9, 1.0]), np.array([1.0, 0.5]), np.full(2, 0.01), np.full((2, 3), 0.5)
        ),
    )


def same(a: Fit, b: Fit) -> bool:
    """To the last bit."""
    arrays = [(a.mixture.weights, b.mixture.weights)]
    arrays += [(getattr(a.mixture.components, n), getattr(b.mixture.components, n)) for n in ("means", "factors")]
    if a.stability is not None and b.stability is not None:
        arrays += [(getattr(a.stability, n), getattr(b.stability, n)) for n in STABILITY]
        counts = [(s.n_rows, s.n_blocks) for s in (a.stability, b.stability)]
        if counts[0] != counts[1]:
            return False
        a = replace(a, stability=b.stability)
    return (
        all(x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in arrays) and replace(a, mixture=b.mixture) == b
    )


# ---- what becomes of it ---------------------------------------------------------------------------------------------


def attempt(path: Path) -> Record | InputError:
    """What a model holds, or why it is refused."""
    try:
        return store.read(path)
    except InputError as error:
        return error


class Tally:
    """How many damages were harmless, how many refused."""

    def __init__(self) -> None:
        self.equal = self.refused = 0

    def read(self, path: Path, fit: Fit, what: str) -> None:
        found = attempt(path)
        if isinstance(found, InputError):
            assert "\n" not in str(found), what
            assert str(path) in str(found), what
            assert len(str(found)) < 1000, what
            self.refused += 1
            return
        assert same(found.fit, fit), what
        assert found.settings == SETTINGS, what
        pd.testing.assert_frame_equal(found.table, TABLE, check_exact=True)
        self.equal += 1


def damage_texts(path: Path, fit: Fit, generator: Generator, times: int, tally: Tally) -> None:
    raw = path.read_bytes()
    for i in range(times):
        path.write_bytes(damaged(raw, generator, TEXT))
        tally.read(path, fit, f"text {i}: {path.read_bytes()!r:.3000}")
    path.write_bytes(raw)


def damage_structure(path: Path, fit: Fit, generator: Generator, times: int, tally: Tally) -> None:
    raw = path.read_bytes()
    for i in range(times):
        path.write_text(json.dumps(restructured(json.loads(raw), generator)))
        tally.read(path, fit, f"structure {i}: {path.read_text():.3000}")
    path.write_bytes(raw)


def damage_files(path: Path, fit: Fit, generator: Generator, times: int, tally: Tally) -> None:
    """Any file of a Zarr group: bytes, the structure of its metadata, or away with it."""
    files = sorted(p for p in path.rglob("*") if p.is_file())
    for i in range(times):
        file = files[int(generator.integers(len(files)))]
        raw, what = file.read_bytes(), generator.random()
        if file.name == "zarr.json" and what < 0.4:
            file.write_text(json.dumps(restructured(json.loads(raw), generator)))
        elif what < 0.1:
            file.unlink()
        else:
            file.write_bytes(damaged(raw, generator, TEXT if file.name == "zarr.json" else BITS))
        after = file.read_bytes() if file.exists() else None
        tally.read(path, fit, f"file {i}: {file.name} of {file.parent.name}: {after!r:.3000}")
        file.write_bytes(raw)


def run(folder: Path, times: int, seed: int) -> Tally:
    """So many damages, shared out among the types and the forms."""
    generator, tally = np.random.default_rng(seed), Tally()
    each = times // (4 * len(KINDS))
    for kind in KINDS:
        fit = model(kind)
        for name in ("m.json", "m.zarr"):
            path = folder / kind / name
            store.save(fit, path, table=TABLE, settings=SETTINGS)
            tally.read(path, fit, "as it was written")
        damage_texts(folder / kind / "m.json", fit, generator, each, tally)
        damage_structure(folder / kind / "m.json", fit, generator, each, tally)
        damage_files(folder / kind / "m.zarr", fit, generator, 2 * each, tally)
        shutil.rmtree(folder / kind)
    return tally


def test_a_damaged_model_is_what_it_was_or_refused(tmp_path: Path) -> None:
    tally = run(tmp_path, SHORT, seed=1)
    assert tally.equal + tally.refused == SHORT // 16 * 16 + 2 * len(KINDS)
    # white space, levels of compression, what only readers look at: some damage does none
    assert tally.equal > SHORT / 50
    assert tally.refused > SHORT / 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_a_damaged_model_is_what_it_was_or_refused_in_the_long_run(seed: int, tmp_path: Path) -> None:
    tally = run(tmp_path, LONG // 3, seed)
    print(f"{tally.equal} equal, {tally.refused} refused")
    assert tally.equal + tally.refused >= LONG // 3


# ---- samples --------------------------------------------------------------------------------------------------------


def damage_samples(folder: Path, times: int, seed: int) -> tuple[int, int]:
    """How many stores of samples with damaged metadata were read, and how many refused."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(40, 3))
    coords = {"z": [0.0, 1.0, 2.0], "s": np.arange(40.0)}
    dataset = xr.Dataset({"t": (("s", "z"), x, {"units": "K"})}, coords=coords)
    for version in (2, 3):
        how = {"zarr_format": version, "consolidated": False, "encoding": {"t": {"chunks": (10, 3)}}}
        dataset.to_zarr(folder / f"d{version}.zarr", **how)
        zarr.create_array(str(folder / f"a{version}.zarr"), data=x, chunks=(10, 3), zarr_format=version)
    names = ("zarr.json", ".zarray", ".zattrs", ".zgroup")
    files = sorted(path for path in folder.rglob("*") if path.name in names)
    read = refused = 0
    for i in range(times):
        file = files[int(generator.integers(len(files)))]
        raw = file.read_bytes()
        if generator.random() < 0.6 and json.loads(raw):
            file.write_text(json.dumps(restructured(json.loads(raw), generator)))
        else:
            file.write_bytes(damaged(raw, generator, TEXT))
        what = f"{i}: {file}: {file.read_bytes()!r:.2000}"
        try:
            samples = open_samples(folder / file.relative_to(folder).parts[0])
            if samples.grid.largest * samples.n_features < 10**6:
                samples.read(samples.grid.region(0))
            read += 1
        except DgmmError as error:
            refused += 1
            message = str(error)
        except Exception as error:
            raise AssertionError(what) from error
        else:
            message = ""
        assert "\n" not in message, what
        file.write_bytes(raw)
    return read, refused


# what xarray and zarr say of metadata that they can still use
@pytest.mark.filterwarnings("ignore")
def test_samples_with_damaged_metadata_are_read_or_refused_in_a_line(tmp_path: Path) -> None:
    read, refused = damage_samples(tmp_path, 200, seed=1)
    assert read > 10
    assert refused > 100


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_samples_with_damaged_metadata_in_the_long_run(tmp_path: Path) -> None:
    print(damage_samples(tmp_path, 10_000, seed=2))
