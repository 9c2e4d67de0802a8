"""Versions of a model in a folder, at a path or URL, and the aliases that say which is in use."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from pydantic import ValidationError

from dgmm.errors import InputError
from dgmm.fits import Fit
from dgmm.registry.card import MAX_BYTES, Card, Made, card_of
from dgmm.store import (
    ALIAS,
    CHAMPION,
    MODEL_OF_VERSION,
    PREVIOUS,
    VERSION,
    Status,
    digest,
    folder_at,
    place_at,
    save,
    version_of,
)

logger = logging.getLogger("dgmm")

#: What was put there last.
CANDIDATE = "candidate"
ALIASES = (CHAMPION, CANDIDATE, PREVIOUS)
ALIAS_FORMAT = "dgmm-alias-1"
#: The cards of a version, for programs and for people.
CARD, CARD_TEXT = "card.json", "card.md"
#: What its training data look like through it, and how large that is at most.
BASELINE, MOST_BASELINE = "baseline.json", 64 * 2**20


@dataclass(frozen=True)
class Registry:
    """The versions of a model.

    Attributes
    ----------
    folder : str
        A path or URL, such as ``models/NAME``.
    """

    folder: str

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> tuple[Registry, str]:
        """The registry that a path or URL names, and what comes after an ``@``, if anything."""
        folder, at, wanted = os.fspath(path).rpartition("@")
        folder, wanted = (folder, wanted) if at and "/" not in wanted else (os.fspath(path), "")
        return cls(folder.rstrip("/")), wanted

    def versions(self) -> list[str]:
        """All that are complete, the newest first."""
        found = [name for name in folder_at(self.folder).folders() if VERSION.fullmatch(name)]
        return sorted((name for name in found if self.holds(name)), reverse=True)

    def holds(self, version: str) -> bool:
        """Whether there is a complete model of this version."""
        return place_at(self.model(version)).state().status is Status.FINISHED

    def model(self, version: str) -> str:
        """The path or URL of a version's model."""
        return f"{self.folder}/{version}/{MODEL_OF_VERSION}"

    def aliases(self) -> dict[str, str]:
        """Alias -> version, of those that there are; of one that is damaged, that is said."""
        found = {alias: self._known(alias) for alias in ALIASES}
        return {alias: version for alias, version in found.items() if version is not None}

    def version(self, wanted: str) -> str:
        """The version of an alias, a version's name or the beginning of one.

        Raises
        ------
        InputError
            If there is none, or more than one.
        """
        if ALIAS.fullmatch(wanted) and (aliased := version_of(self.folder, wanted)) is not None:
            return aliased
        found = [name for name in self.versions() if name.startswith(wanted) or name.partition("-")[2] == wanted]
        if len(found) != 1 or not wanted:
            there = ", ".join(self.versions()[:5]) or "nothing"
            what = "is no version of" if not found or not wanted else f"may be any of {len(found)} versions in"
            raise InputError(f"{wanted!r} {what} {self.folder}: there is {there}")
        return found[0]

    def card(self, version: str) -> Card:
        """The card of a version; raises `InputError` if there is none that can be read."""
        path = f"{self.folder}/{version}/{CARD}"
        content = place_at(path).content(MAX_BYTES + 1)
        if content is None:
            raise InputError(f"no such card: {path}")
        try:
            if len(content) > MAX_BYTES:
                raise ValueError(f"larger than {MAX_BYTES} bytes")
            card = Card.model_validate(json.loads(content))
        except (ValueError, RecursionError, ValidationError) as error:
            raise InputError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from None
        if card.version != version:
            raise InputError(f"{path} is damaged: it is the card of {card.version!r}")
        return card

    def baseline(self, version: str) -> bytes | None:
        """What the training data of a version look like through it, as it is stored; None if that is not there."""
        return place_at(f"{self.folder}/{version}/{BASELINE}").content(MOST_BASELINE)

    def table(self) -> pd.DataFrame:
        """All versions, a row each, the newest first."""
        aliases, rows = self.aliases(), []
        for version in self.versions():
            card = self.card(version)
            rows.append({
                "version": version,
                "alias": ", ".join(alias for alias, its in aliases.items() if its == version),
                "model": f"{card.covariance_type} K={card.n_components}",
                "samples": card.n_samples,
                "per sample": card.criteria.get("log-likelihood per sample"),
                "BIC": card.criteria.get("BIC"),
                "state": card.state,
                "cautions": len(card.cautions),
            })  # fmt: skip
        return pd.DataFrame(rows)

    def add(self, fit: Fit, made: Made | None = None) -> str:
        """Put a model there, as the candidate; its version. One that is there already is not put there again."""
        its, made = digest(fit.mixture), made or Made()
        known = self.holder(its)
        if known is not None:
            if made.baseline and self.baseline(known) is None:
                self._write(f"{known}/{BASELINE}", "baseline", made.baseline.encode())
            self.nominate(known)
            return known
        version = f"{made.when:%Y%m%dT%H%M%SZ}-{its[:8]}"
        card = card_of(fit, version, made)
        if made.baseline:
            self._write(f"{version}/{BASELINE}", "baseline", made.baseline.encode())
        # the model comes last: a version is one when that is there
        for name, text in ((CARD, card.to_json), (CARD_TEXT, card.to_markdown)):
            self._write(f"{version}/{name}", "card", text.encode())
        save(fit, self.model(version), table=made.table, settings=made.settings)
        self.nominate(version)
        return version

    def holder(self, model: str) -> str | None:
        """The version of a model, by its digest; None if it is not there."""
        named = (version for version in self.versions() if version.endswith(f"-{model[:8]}"))
        return next((version for version in named if self.card(version).model == model), None)

    def promote(self, wanted: str, why: str = "promoted", *, instead_of: str | None = None) -> str:
        """Make a version the champion, and the champion the previous one, both at once; the name of who is it then.

        Parameters
        ----------
        wanted, why : str
        instead_of : str, optional
            Nobody else's place is taken: where another has become the champion, that stays it. Empty: where there is
            none.

        Raises
        ------
        InputError
            If there is no such version.
        """
        version = self.version(wanted)
        if not self.holds(version):
            raise InputError(f"{self.model(version)} is not complete: it cannot be the champion")

        def chosen(champion: str | None, previous: str | None) -> str:
            return version if instead_of is None or not champion or champion == instead_of else champion

        return self._enthrone(chosen, why)

    def rollback(self, why: str = "rolled back") -> str:
        """Make the previous version the champion again, and that the previous one; its name.

        Raises
        ------
        InputError
            If there is nothing to go back to.
        """

        def before(champion: str | None, previous: str | None) -> str:
            if previous is None or not self.holds(previous):
                there = f"{previous}, which is gone" if previous else "nothing"
                raise InputError(f"{self.folder} cannot go back: before {champion or 'its first version'} is {there}")
            return previous

        return self._enthrone(before, why)

    def _enthrone(self, choose: Callable[[str | None, str | None], str], why: str) -> str:
        """Put the champion that is chosen from those that are, while nobody else does."""
        with place_at(f"{self.folder}/{CHAMPION}").begin("alias", overwrite=True) as output:
            champion, previous = self._known(CHAMPION), self._known(PREVIOUS)
            version = choose(champion, previous)
            if version != champion:
                content = {"format": ALIAS_FORMAT, "version": version, PREVIOUS: champion, "why": why}
                output.write((json.dumps(content) + "\n").encode())
                output.finish()
        return version

    def _known(self, alias: str) -> str | None:
        """The version of an alias, if it is not damaged; if it is, that is said."""
        try:
            return version_of(self.folder, alias)
        except InputError as error:
            logger.warning("%s", error)
            return None

    def nominate(self, version: str) -> None:
        """Make a version the candidate."""
        content = {"format": ALIAS_FORMAT, "version": version}
        self._write(CANDIDATE, "alias", (json.dumps(content) + "\n").encode())

    def _write(self, name: str, what: str, content: bytes) -> None:
        with place_at(f"{self.folder}/{name}").begin(what, overwrite=True) as output:
            output.write(content)
            output.finish()
