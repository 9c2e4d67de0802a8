"""What there is when a phase of a night begins: data, and the model in use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dgmm import store
from dgmm.config import Refresh
from dgmm.data import Samples, fingerprint, length_in
from dgmm.errors import InputError
from dgmm.fits import Fit
from dgmm.pipeline import made_with, samples_of
from dgmm.refresh.night import Night, digest_of
from dgmm.registry import Card, Registry
from dgmm.store import CHAMPION, version_of


@dataclass(frozen=True)
class Champion:
    """The version in use.

    Attributes
    ----------
    version : str
    fit : Fit
    card : Card
    """

    version: str
    fit: Fit
    card: Card


@dataclass(frozen=True)
class State:
    """What there is when a phase begins.

    Attributes
    ----------
    champion : Champion or None
    samples : Samples
        With the features of the champion in its order, if there is one.
    source : dict
        Their fingerprint.
    """

    champion: Champion | None
    samples: Samples
    source: dict[str, str]

    @classmethod
    def of(cls, job: Refresh) -> State:
        """Of a job, as of now."""
        champion = champion_of(job)
        fit = None if champion is None else champion.fit
        # units are judged by whoever guards what a night begins with
        samples = replace(samples_of(job.data, fit), any_units=True)
        source = fingerprint(samples)
        return cls(champion, samples if fit is None else samples.like(fit.features, fit.layout), source)

    @property
    def digest(self) -> str:
        """Of the data."""
        return digest_of(self.source)

    @property
    def unfitted(self) -> int:
        """Where the rows begin that the champion was not fitted to; 0 if there are none, or that cannot be told."""
        n = self.samples.grid.shape[0]
        known = None if self.champion is None else length_in(self.champion.card.data)
        return known if known is not None and known < n else 0

    def since(self, last: Night | None) -> int:
        """Where the rows begin that the last night has not seen, or else the champion."""
        if last is not None and last.source == self.digest:  # the same night again
            return last.since
        known = 0 if last is None else last.structure.shape[0]
        return known if self.unfitted < known < self.samples.grid.shape[0] else self.unfitted


def champion_of(job: Refresh) -> Champion | None:
    """The version in use, if there is one."""
    registry, wanted = Registry.of(job.registry)
    if wanted:
        raise InputError(f"{job.registry}: name the registry, without a version ({registry.folder})")
    version = version_of(registry.folder, CHAMPION)
    if version is None:
        return None
    return Champion(version, store.load(registry.model(version)), registry.card(version))


def asked(job: Refresh) -> dict[str, Any]:
    """What a night depends on beside the data."""
    return {name: value for name, value in made_with(job).items() if name != "accept_changes"}
