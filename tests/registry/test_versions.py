"""A registry of models in a folder: versions, which of them is in use, and the way back."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import dgmm
from dgmm.errors import InputError, OutputExistsError
from dgmm.registry import Made, Registry
from dgmm.registry.versions import CARD
from dgmm.store import digest, model_at, place_at
from tests.ledgers import fit

DATES = [datetime(2026, 1, day, 2, 30, tzinfo=UTC) for day in (1, 2, 3)]


@pytest.fixture(params=["path", "url"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    if request.param == "path":
        return Registry(str(tmp_path / "models" / "water"))
    return Registry(f"{request.getfixturevalue('s3')}/models/water")


def filled(registry: Registry) -> list[str]:
    """Three versions, one a night."""
    return [registry.add(fit(seed), Made(when=now)) for seed, now in enumerate(DATES)]


def test_versions_are_dated_and_named_by_their_mixtures(registry: Registry) -> None:
    first, second, third = filled(registry)
    assert registry.versions() == [third, second, first]
    assert first == f"20260101T023000Z-{digest(fit(0).mixture)[:8]}"
    assert registry.aliases() == {"candidate": third}
    for version, seed in zip((first, second, third), range(3), strict=True):
        assert digest(dgmm.load(f"{registry.folder}@{version}").mixture) == digest(fit(seed).mixture)
    assert digest(dgmm.load(f"{registry.folder}@candidate").mixture) == digest(fit(2).mixture)


def test_promotions_can_be_taken_back(registry: Registry) -> None:
    first, second, third = filled(registry)
    with pytest.raises(InputError, match="no champion in the registry"):
        dgmm.load(f"{registry.folder}@champion")
    with pytest.raises(InputError, match="cannot go back: before its first version is nothing"):
        registry.rollback()
    registry.promote(first)
    with pytest.raises(InputError, match=f"cannot go back: before {first} is nothing"):
        registry.rollback()
    registry.promote("candidate")
    assert registry.aliases() == {"champion": third, "candidate": third, "previous": first}
    assert registry.promote(third) == third  # it is already
    assert registry.aliases()["previous"] == first
    assert registry.rollback() == first
    assert registry.aliases() == {"champion": first, "candidate": third, "previous": third}
    assert digest(dgmm.load(f"{registry.folder}@champion").mixture) == digest(fit(0).mixture)
    assert registry.rollback() == third, "and back again"
    assert second in registry.versions()


def test_whatever_is_to_be_said_of_a_promotion(registry: Registry) -> None:
    """Of many classes that is a long text."""
    first, second, third = filled(registry)
    registry.promote(first, "; ".join(f"class {k} is class {k + 1} now" for k in range(10_000)))
    registry.promote(second, "ß" * 100_000)
    assert registry.aliases() == {"champion": second, "candidate": third, "previous": first}
    assert registry.rollback() == first


def test_a_place_that_somebody_else_has_taken_is_not_taken_again(registry: Registry) -> None:
    first, second, _ = filled(registry)
    assert registry.promote(first, instead_of="") == first
    assert registry.promote(second, instead_of="20200101T000000Z-00000000") == first
    assert registry.promote(second, instead_of=first) == second


def test_the_same_model_is_one_version(registry: Registry) -> None:
    first, *_ = filled(registry)
    assert registry.add(fit(0), Made(when=datetime(2026, 2, 1, tzinfo=UTC))) == first
    assert len(registry.versions()) == 3
    assert registry.aliases()["candidate"] == first


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("next", "'next' is no version of"),
        ("2026", "'2026' may be any of 3 versions in"),
        ("", "'' is no version of"),
        ("../other", "'../other' is no version of"),
    ],
)
def test_what_is_no_version_is_refused(wanted: str, said: str, tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "water"))
    filled(registry)
    before = registry.aliases()
    with pytest.raises(InputError, match=said):
        registry.promote(wanted)
    assert registry.aliases() == before


def test_the_beginning_of_a_version_or_its_digest_will_do(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "water"))
    first, second, _ = filled(registry)
    assert registry.version("20260101") == first
    assert registry.version(second.partition("-")[2]) == second


def test_a_version_without_its_model_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends a registration: nothing is listed, nothing points there, and it can be done again."""
    from dgmm.registry import versions

    registry = Registry(str(tmp_path / "water"))
    registry.promote(registry.add(fit(0), Made(when=DATES[0])))
    before = registry.aliases()

    def fails(*_: Any, **__: Any) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(versions, "save", fails)
        with pytest.raises(OSError, match="no space"):
            registry.add(fit(1), Made(when=DATES[1]))
    assert len(registry.versions()) == 1
    assert registry.aliases() == before
    assert registry.add(fit(1), Made(when=DATES[1])) in registry.versions()


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"version": "../../etc"}', b'{"version": 3}', b"[" * 5000])
def test_an_alias_that_is_damaged_says_so_and_can_be_set_again(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry(str(tmp_path / "water"))
    first, second, _ = filled(registry)
    registry.promote(first)
    file = tmp_path / "water" / "champion"
    file.write_bytes(content)
    with pytest.raises(InputError, match="champion is damaged: it names no version; promote one"):
        dgmm.load(f"{registry.folder}@champion")
    assert len(registry.table()) == 3, "the others are listed all the same"
    assert "champion is damaged" in caplog.text
    if b"format" not in content:  # what is not known as ours is not replaced
        with pytest.raises(OutputExistsError, match="remove it yourself"):
            registry.promote(second)
        file.unlink()
    registry.promote(second)
    assert registry.aliases()["champion"] == second


def test_two_promotions_at_once_do_not_mix(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "water"))
    first, second, _ = filled(registry)
    registry.promote(first)
    with (
        place_at(tmp_path / "water" / "champion").begin("alias", overwrite=True),
        pytest.raises(OutputExistsError, match="is being written by"),
    ):
        registry.promote(second)
    assert registry.aliases()["champion"] == first


def test_a_version_that_is_gone_is_not_gone_back_to(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "water"))
    first, second, _ = filled(registry)
    registry.promote(first)
    registry.promote(second)
    os.rename(tmp_path / "water" / first, tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"before {second} is {first}, which is gone"):
        registry.rollback()
    assert registry.aliases()["champion"] == second


def test_a_folder_whose_name_holds_an_at_is_a_folder(tmp_path: Path) -> None:
    dgmm.save(fit(), tmp_path / "me@home" / "m.zarr")
    dgmm.load(tmp_path / "me@home" / "m.zarr")
    dgmm.save(fit(), tmp_path / "m@2.zarr")
    dgmm.load(tmp_path / "m@2.zarr")
    assert model_at("s3://user:word@bucket") == "s3://user:word@bucket", "that is a host, not an alias"
    assert Registry.of("models/water@champion") == (Registry("models/water"), "champion")
    assert Registry.of("me@home/water/") == (Registry("me@home/water"), "")


def test_a_card_of_something_else_is_refused(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "water"))
    first, second, _ = filled(registry)
    card = tmp_path / "water" / first / CARD
    content = json.loads(card.read_text())
    card.write_text(json.dumps(content | {"version": second}))
    with pytest.raises(InputError, match=f"is damaged: it is the card of '{second}'"):
        registry.card(first)
    card.write_text(json.dumps(content | {"n_components": 0}))
    with pytest.raises(InputError, match=r"is damaged: .*n_components"):
        registry.card(first)
    card.unlink()
    with pytest.raises(InputError, match="no such card"):
        registry.card(first)
