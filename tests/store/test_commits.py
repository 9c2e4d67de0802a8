"""Repositories of Icechunk: read at a snapshot, and written to in one commit or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import Client

import dgmm
from dgmm.api import open_scores
from dgmm.data import Versioned, fingerprint, listed, object_at, open_samples
from dgmm.errors import DgmmError, InputError, OutputError, OutputExistsError, ReadError
from dgmm.store import Status, place_at
from dgmm.store.places import overlap

GROUP = "ocean/deep"


def dataset() -> xr.Dataset:
    values = np.random.default_rng(0).normal(size=(2, 12, 50))
    fields = {name: (("t", "s"), v) for name, v in zip("ab", values, strict=True)}
    return xr.Dataset(fields, {"t": np.arange(12.0)}, {"title": "made up"})


def put(repository: icechunk.Repository, data: xr.Dataset, group: str, **how: Any) -> str:
    """Commit a data set in chunks of three rows."""
    session = repository.writable_session("main")
    chunks = {name: {"chunks": (3, 50)} for name in data.data_vars}
    data.to_zarr(session.store, group=group, mode="w", zarr_format=3, consolidated=False, encoding=chunks, **how)
    return str(session.commit("data"))


def storage(place: str) -> icechunk.Storage:
    if not place.startswith("s3://"):
        return icechunk.local_filesystem_storage(place)
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    how: Any = {"region": "us-east-1", "allow_http": True, "force_path_style": True, "from_env": True}
    return icechunk.s3_storage(bucket=bucket, prefix=prefix, endpoint_url=endpoint, **how)


@pytest.fixture(scope="module")
def fit() -> dgmm.Fit:
    return dgmm.train(dataset(), n_components=1)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a repository: a path, or what lies in a bucket."""
    if getattr(request, "param", "path") == "path":
        return str(tmp_path / "here" / "repository")
    return f"{request.getfixturevalue('_s3')}/{uuid.uuid4().hex}/repository"


#: For those tests that go on to both.
both = pytest.mark.parametrize("place", ["path", "s3"], indirect=True)


@pytest.fixture
def repository(place: str) -> icechunk.Repository:
    made = icechunk.Repository.create(storage(place))
    put(made, dataset(), GROUP)
    return made


def beside(place: str) -> list[str]:
    """What lies beside a repository."""
    if not place.startswith("s3://"):
        return [name for name in os.listdir(os.path.dirname(place)) if name != "repository"]
    folder, _ = object_at(place)
    return [found["path"] for found in listed(folder, place, None) if not found["path"].startswith("repository/")]


def messages(repository: icechunk.Repository) -> list[str]:
    return [snapshot.message for snapshot in repository.ancestry(branch="main")]


def test_a_group_is_read_at_a_branch_a_tag_and_a_snapshot(
    place: str, repository: icechunk.Repository, client: Client
) -> None:
    first = repository.lookup_branch("main")
    repository.create_tag("v1", first)
    samples = open_samples(f"{place}|icechunk:{GROUP}")
    region = (slice(3, 9), slice(0, 50))
    there = client.submit(samples.without_coords().read, region).result()
    np.testing.assert_array_equal(there[:, 1], dataset()["b"].values[3:9].ravel())
    before = fingerprint(samples)
    assert before["Icechunk snapshot of a"] == first
    put(repository, dataset() + 5, GROUP)
    # a run that goes on finds other data, and whoever has opened the branch reads what it was
    now = fingerprint(open_samples(f"{place}|icechunk:@branch.main/{GROUP}/"))
    assert {name for name in now if now[name] != before[name]} == {"Icechunk snapshot of a", "Icechunk snapshot of b"}
    assert fingerprint(samples) == before
    for ref, shift in (("branch.main", 5), ("tag.v1", 0), (first, 0)):
        samples = open_samples(f"{place}|icechunk:@{ref}/{GROUP}")
        rows = samples.read((slice(0, 12), slice(0, 50)))
        np.testing.assert_array_equal(rows[:, 0], dataset()["a"].values.ravel() + shift)
        assert samples.coords["t"].values.tolist() == list(range(12))


@both
def test_scores_are_one_commit(place: str, repository: icechunk.Repository, fit: dgmm.Fit, tmp_path: Path) -> None:
    source, out = f"{place}|icechunk:{GROUP}", f"{place}|icechunk:@branch.main/scores/first"
    dgmm.save(fit, tmp_path / "m.zarr")
    found = dgmm.score(tmp_path / "m.zarr", source, out, probabilities=True)
    xr.testing.assert_identical(
        found.load().drop_attrs(),
        dgmm.score(fit, dataset(), tmp_path / "s.zarr", probabilities=True).load().drop_attrs(),
    )
    model = found.attrs["model"]
    assert messages(repository)[1:] == ["data", "Repository initialized"]
    assert "Scores of a full Gaussian mixture" in messages(repository)[0]
    assert f"(model {model[:16]})" in messages(repository)[0]
    metadata = next(iter(repository.ancestry(branch="main"))).metadata
    assert metadata["model"] == model
    assert beside(place) == []
    assert dgmm.verify(out, data=True).is_sound
    assert dgmm.verify(out, recompute=1).is_sound
    assert open_samples(source).features == ("a", "b")
    with pytest.raises(OutputExistsError, match="exists already"):
        dgmm.score(fit, dataset(), out)
    with pytest.raises(OutputExistsError, match="was not written by dgmm"):
        dgmm.score(fit, dataset(), f"{place}|icechunk:@branch.main/{GROUP}", overwrite=True)
    # where other arrays are asked for all is scored anew, in a commit of its own, in place of what was there
    dgmm.score(fit, dataset(), out, extend=True)
    assert "probabilities" not in open_scores(out)
    assert len(messages(repository)) == 4


def test_predictions_of_several_variables_are_one_commit(
    place: str, repository: icechunk.Repository, tmp_path: Path
) -> None:
    """An array of each, as at a path."""
    values = np.random.default_rng(1).normal(size=(2, 60, 3)).cumsum(axis=2)
    profiles = xr.Dataset({n: (("n", "z"), v) for n, v in zip("TS", values, strict=True)}, {"z": [10.0, 50.0, 200.0]})
    fit = dgmm.train(profiles, 1, variables=["T", "S"], feature_dim="z")
    how: dict[str, Any] = {"of": ["S@50", "S@200", "T@200"], "variance": True}
    found = dgmm.predict(fit, profiles, f"{place}|icechunk:@branch.main/predicted", **how).load()
    assert {name: v.dims for name, v in found.data_vars.items()} == dict.fromkeys(
        ("S", "T", "S_variance", "T_variance"), ("n", "z")
    )
    xr.testing.assert_identical(found, dgmm.predict(fit, profiles, tmp_path / "p.zarr", **how).load())
    assert len(messages(repository)) == 3


@both
def test_what_is_extended_is_scored_where_the_data_have_changed(
    place: str, repository: icechunk.Repository, fit: dgmm.Fit, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In one commit, with the chunks that are as they were."""
    source, out = str(tmp_path / "x.zarr"), f"{place}|icechunk:@branch.main/scores"
    data = xr.concat([dataset()] * 30, "t").assign_coords(t=np.arange(360.0))
    chunks = {name: {"chunks": (3, 50)} for name in "ab"}
    data.to_zarr(source, encoding=chunks, consolidated=False)
    dgmm.score(fit, source, out)
    size = len(open_samples(source).grid)
    with caplog.at_level("INFO", "dgmm"):
        dgmm.score(fit, source, out, extend=True)
    assert "nothing is to be scored" in caplog.text
    assert len(messages(repository)) == 3
    zarr.open_array(source, path="a")[:3] = 4.0  # of the first segment
    with xr.open_zarr(source, consolidated=False) as now, caplog.at_level("INFO", "dgmm"):
        found = dgmm.score(fit, source, out, extend=True).load()
        expected = dgmm.score(fit, now.load(), tmp_path / "s.zarr").load()
    assert f"{size - 1} of {size} regions are as they were" in caplog.text
    for name in ("label", "probability", "log_density", "t"):
        np.testing.assert_array_equal(found[name], expected[name])
    assert len(messages(repository)) == 4
    assert dgmm.verify(out, data=True).is_sound
    assert beside(place) == []


@both
def test_an_interrupted_run_leaves_no_commit_and_another_goes_on(
    place: str, repository: icechunk.Repository, fit: dgmm.Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, before = f"{place}|icechunk:@branch.main/scores", messages(repository)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dgmm.scoring.bulk.write_coordinates", fail)
        with pytest.raises(KeyboardInterrupt):
            dgmm.score(fit, dataset(), out)
    assert messages(repository) == before
    assert place_at(out).state().status is Status.UNFINISHED
    assert beside(place)
    scored = []
    monkeypatch.setattr("dgmm.scoring.segments.ScoreSegment._write", lambda *given: scored.append(given))
    dgmm.score(fit, dataset(), out)
    assert scored == []
    assert messages(repository)[1:] == before
    assert dgmm.verify(out, data=True).is_sound
    assert beside(place) == []


def test_what_could_not_be_committed_is_not_scored_again(
    place: str, repository: icechunk.Repository, fit: dgmm.Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, before = f"{place}|icechunk:@branch.main/scores", messages(repository)

    async def fail(*_: object) -> None:
        raise icechunk.IcechunkError("the bucket is gone\n | context: ...")

    with monkeypatch.context() as patch:
        patch.setattr("dgmm.store.commits._copy", fail)
        with pytest.raises(DgmmError, match=r"cannot be committed: the bucket is gone; run the same again$"):
            dgmm.score(fit, dataset(), out)
    assert messages(repository) == before
    monkeypatch.setattr("dgmm.scoring.segments.ScoreSegment._write", None)
    dgmm.score(fit, dataset(), out)
    assert dgmm.verify(out, data=True).is_sound


def test_what_others_commit_meanwhile_stays(
    place: str, repository: icechunk.Repository, fit: dgmm.Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = f"{place}|icechunk:@branch.main/scores"
    message = "dgmm.store.commits.message_of"

    def elsewhere(*_: object) -> str:
        put(repository, dataset(), "others")
        return "ours"

    with monkeypatch.context() as patch:
        patch.setattr(message, elsewhere)
        dgmm.score(fit, dataset(), out)
    assert messages(repository)[:2] == ["ours", "data"]
    assert open_samples(f"{place}|icechunk:others").features == ("a", "b")

    def there(*_: object) -> str:
        put(repository, dataset(), "scores")
        return "ours"

    monkeypatch.setattr(message, there)
    with pytest.raises(DgmmError, match="cannot be committed"):
        dgmm.score(fit, dataset(), out, overwrite=True)
    assert messages(repository)[:3] == ["data", "ours", "data"]


def test_a_repository_is_made_for_scores_by_the_commit(place: str, fit: dgmm.Fit) -> None:
    out = f"{place}|icechunk:@branch.main/scores"
    assert place_at(out).state().status is Status.ABSENT
    dgmm.score(fit, dataset(), out)
    repository = icechunk.Repository.open(storage(place))
    assert len(messages(repository)) == 2
    assert dgmm.verify(out, data=True).is_sound


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("repositories") / "repository")
    put(icechunk.Repository.create(storage(path)), dataset(), GROUP)
    return path


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("{}|icechunk:@branch.no/x", r"cannot open .*@branch\.no: ref not found"),
        ("{}|icechunk:@tag.no/x", r"cannot open .*@tag\.no: ref not found"),
        ("{}|icechunk:@NO/x", r"cannot open .*@NO: invalid snapshot id"),
        ("{}|icechunk:@fork.x/x", r"write PLACE\|icechunk:@branch\.NAME/path"),
        ("|icechunk:x", r"write PLACE\|icechunk:@branch\.NAME/path"),
        ("{}|icechunk:@branch.main/none", "is not a Zarr store"),
        ("{}-not|icechunk:x", "no such repository of Icechunk"),
        ("gs://b/x|icechunk:x", "use a path or s3://BUCKET/PREFIX"),
        ("s3://b|icechunk:x", "use a path or s3://BUCKET/PREFIX"),
        ("s3://me:secret@b/r|icechunk:x", r"cannot open s3://\.\.\.@b/r: a URL is written into logs"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(url: str, why: str, local: str) -> None:
    with pytest.raises(InputError, match=why) as found:
        open_samples(url.format(local))
    assert "\n" not in str(found.value)
    assert "secret" not in str(found.value)
    assert not os.path.exists(f"{local}-not")


def test_only_branches_are_written_to(local: str, fit: dgmm.Fit, tmp_path: Path) -> None:
    for place in ("@tag.v1/s", "@ABC/s", "@branch.main"):
        with pytest.raises(InputError, match="name a branch, and a path in it"):
            dgmm.score(fit, dataset(), f"{local}|icechunk:{place}")
    with pytest.raises(InputError, match=r"cannot open .*@branch\.box: ref not found `box`$"):
        dgmm.score(fit, dataset(), f"{local}|icechunk:@branch.box/s")
    with pytest.raises(InputError, match="a model is not written into a repository of Icechunk"):
        dgmm.save(fit, f"{local}|icechunk:m")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    with pytest.raises(OutputError, match="is no repository of Icechunk"):
        dgmm.score(fit, dataset(), f"{tmp_path}/folder|icechunk:s")
    assert os.listdir(tmp_path / "folder") == ["file"]


def test_chunks_that_are_not_there_are_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "repository")
    put(icechunk.Repository.create(storage(path)), dataset().where(dataset()["t"] > 2), "g", write_empty_chunks=False)
    with pytest.raises(ReadError, match=r"chunk \(0, 0\) of a in .* is not there"):
        dgmm.train(f"{path}|icechunk:g", n_components=1)
    assert dgmm.train(f"{path}|icechunk:g", n_components=1, missing_chunks="fill").n_samples == 450


def test_the_extra_is_named_where_it_is_missing(local: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs icechunk: pip install dgmm\[icechunk\]"):
        open_samples(f"{local}|icechunk:{GROUP}")


def test_places_in_a_repository() -> None:
    at = Versioned.of("/r|icechunk:@branch.main/a/b")
    assert at == Versioned("/r", "branch", "main", "a/b") == Versioned.of("/r/|icechunk://@branch.main/a/b/")
    assert Versioned.of("/r|icechunk:") == Versioned("/r", "branch", "main", "")
    assert Versioned.of("/r|icechunk:@tag.v.1") == Versioned("/r", "tag", "v.1", "")
    assert Versioned.of("/r") is None
    assert overlap("/r|icechunk:@branch.main/a", "/r|icechunk:a/b")
    assert overlap("/r", "/r|icechunk:a/b")
    assert not overlap("/r|icechunk:a", "/r|icechunk:b")
