"""Whether scores and models are what was written: structure and ledger, every checksum, a share scored anew.

Nothing is ever mended here: what fails is scored again by whoever scores.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from dgmm.data import Samples, store_at
from dgmm.engine import Fold, Workers
from dgmm.errors import InputError, one_line
from dgmm.fits import Fit
from dgmm.scoring.anew import CompareSegment
from dgmm.scoring.arrays import SCORES_FORMAT, SCORES_KIND, look, others_in, stored_digest
from dgmm.scoring.bulk import attributes_of
from dgmm.scoring.entries import GROUP, Entries, grid_of, head_of, names_of, read_ledger, read_sources
from dgmm.scoring.kept import examine
from dgmm.scoring.ledger import Recording
from dgmm.scoring.regions import Finding, Written
from dgmm.scoring.segments import Scored, ScoreSegment
from dgmm.store import MODEL_KIND, Status, Writer, differences, digest, from_dataset, load_dataset, place_at
from dgmm.types import AnyArray


@dataclass
class Verdict:
    """What a look at scores or at a model has found.

    Attributes
    ----------
    path : str
    what : str
        scores or model.
    findings : list of Finding
    looked : dict
        How much of what was looked at.
    notes : list of str
        What is no fault, and worth to know.
    """

    path: str
    what: str
    findings: list[Finding] = field(default_factory=list)
    looked: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"sound": self.is_sound, **asdict(self)}

    def __str__(self) -> str:
        lines = [*map(str, self.findings), *self.notes]
        told = ", ".join(f"{n} {what}" for what, n in self.looked.items())
        end = "sound" if self.is_sound else f"{len(self.findings)} found that should not be"
        return "\n".join([*lines, f"{self.path}: {self.what}, {end}{f' ({told})' if told else ''}"])


@dataclass(frozen=True)
class Scores:
    """Scores that lie in a store, with the ledger that tells what they should be.

    Attributes
    ----------
    path : str
    store : object
        Of zarr.
    group : zarr.Group
    head : dict
    table : Entries
    coordinates : dict
        Digests of what is stored of each.
    """

    path: str
    store: Any
    group: zarr.Group
    head: dict[str, Any]
    table: Entries
    coordinates: dict[str, str]

    @property
    def written(self) -> Written:
        """The arrays."""
        return Written(self.path, names_of(self.head), grid_of(self.head))


def kind_of(path: str) -> str:
    """What lies at a path or URL: scores or model.

    Raises
    ------
    InputError
        If it is neither, or nothing.
    """
    state = place_at(path).state()
    if state.status is Status.UNFINISHED or state.what in ("scores", "model"):
        return "scores" if state.status is Status.UNFINISHED else state.what
    if state.status is Status.STRANGE and not path.endswith(".json"):
        # what makes it strange may be what has happened to it
        try:
            known = str(_root(store_at(path, read_only=True), path).get("attributes", {}).get("format"))
        except (OSError, InputError):
            known = ""
        if known.startswith((MODEL_KIND, SCORES_KIND)):
            return "model" if known.startswith(MODEL_KIND) else "scores"
    holds = "there is nothing" if state.status is Status.ABSENT else f"it {state.detail or f'holds a {state.what}'}"
    raise InputError(f"{path} cannot be verified, as it is neither scores nor a model: {holds}")


def verify_model(path: str) -> Verdict:
    """Look at a model: format, checksum and digest, shapes, numbers, weights, covariances."""
    verdict = Verdict(path, "model")
    try:
        dataset = load_dataset(path)
        fit = from_dataset(dataset, path).fit
        if "covariances" in dataset:
            stored = dataset["covariances"].values
            spread = np.linalg.eigvalsh(stored) if dataset["covariances"].dims[-1:] == ("feature_",) else stored
            if not (spread > 0).all():
                verdict.findings.append(Finding("are not positive definite", "covariances"))
            if not np.allclose(stored, fit.mixture.covariances, rtol=1e-8, atol=0):
                verdict.findings.append(Finding("are not those that the factors make", "covariances"))
    except InputError as error:
        verdict.findings.append(Finding(str(error).removeprefix(f"{path} "), path=path))
        return verdict
    verdict.looked = {"components": fit.n_components, "arrays": len(dataset.data_vars)}
    return verdict


def open_written(path: str, verdict: Verdict) -> Scores | None:
    """Scores with a ledger that can be read; findings, and None, where there is none.

    Raises
    ------
    InputError
        If they are of a format without.
    """
    state = place_at(path).state()
    if state.status is Status.UNFINISHED:
        doing = "is writing them" if state.run is not None and state.run.alive else "has left them: dgmm score goes on"
        verdict.findings.append(Finding(f"they are not complete: {state.run} {doing}", path=path))
        return None
    store = store_at(path, read_only=True)
    found = _root(store, path).get("attributes", {}).get("format")
    if found != SCORES_FORMAT:
        raise InputError(f"{path} has the format {found!r}, not {SCORES_FORMAT!r} with a ledger: score again")
    try:
        group = zarr.open_group(store, mode="r", use_consolidated=False)
    except (TypeError, ValueError, KeyError) as error:
        verdict.findings.append(Finding(f"is damaged: {one_line(error)}", path=path))
        return None
    try:
        return Scores(path, store, group, *read_ledger(group))
    except ValueError as error:
        verdict.findings.append(Finding(f"is damaged: {error}", "ledger", path=f"{path}/ledger"))
        return None


def verify_structure(scores: Scores, verdict: Verdict) -> None:
    """Compare what can be known without reading values with the ledger: metadata, counts, which chunks there are."""
    path, head, written = scores.path, scores.head, scores.written
    attributes: Mapping[str, Any] = scores.group.attrs
    expected = {"complete": 1, "model": head["model"], "n_components": head["n_components"]}
    for name, value in (expected | attributes_of(Scored.of(scores.table))).items():
        if attributes.get(name) != value:
            words = f"says {str(attributes.get(name))[:80]}, the ledger {str(value)[:80]}"
            verdict.findings.append(Finding(f"its attribute {name} {words}", path=f"{path}/zarr.json"))
    verdict.findings += metadata_faults(scores)
    try:
        read_sources(scores.group, head)
    except ValueError as error:
        verdict.findings.append(Finding(f"is damaged: {error}", GROUP, path=f"{path}/{GROUP}"))
    for name in written.names:
        there, strays = look(scores.store, name, written.grid)
        verdict.findings += [
            Finding("is not there", name, int(region), written.path(name, int(region)))
            for region in np.flatnonzero(~there)
        ]
        verdict.findings += [Finding("is no part of the scores", name, path=f"{path}/{key}") for key in strays]
    verdict.looked |= {"regions": len(written.grid), "arrays": len(written.names)}


def metadata_faults(scores: Scores) -> list[Finding]:
    """Where the metadata of arrays are others than the ledger and the consolidated metadata say."""
    path, written, found = scores.path, scores.written, []
    consolidated = _root(scores.store, path).get("consolidated_metadata") or {}
    told = consolidated.get("metadata") or {}
    for name, dtype in scores.head["arrays"].items():
        every = (scores.head["n_components"],) if name == "probabilities" else ()
        shape, chunks = (*written.grid.shape, *every), (*written.grid.segment, *every)
        try:
            array = zarr.open_array(scores.store, path=name, mode="r")
            seen = (array.dtype.str, array.shape, array.chunks)
            if seen != (dtype, shape, chunks):
                raise ValueError(f"its type, shape and chunks are {seen}, the ledger says {(dtype, shape, chunks)}")
        except Exception as error:  # whatever damaged metadata lead to
            found.append(Finding(one_line(error)[:200], name, path=f"{path}/{name}/zarr.json"))
    for name in sorted({*told, *scores.head["arrays"], *scores.coordinates}):
        if told.get(name) is None or _without_copies(_json(scores.store, f"{name}/zarr.json")) != _without_copies(
            told[name]
        ):
            words = "its metadata are others than the consolidated ones"
            found.append(Finding(words, name, path=f"{path}/{name}/zarr.json"))
    extra = {*others_in(scores.store)} ^ {*scores.coordinates, GROUP}
    return found + [Finding("is not what the ledger knows of", name, path=f"{path}/{name}") for name in sorted(extra)]


def part_of(n: int, subset: tuple[int, int] | None) -> AnyArray:
    """The regions of the k-th of so many parts, as nearly equal as can be; all of them by default."""
    if subset is None:
        return np.arange(n)
    (k, parts) = subset
    return np.arange(n * (k - 1) // parts, n * k // parts)


def verify_data(scores: Scores, verdict: Verdict, workers: Workers, regions: AnyArray, *, coordinates: bool) -> None:
    """Read regions, and the coordinates, and compare them with their checksums."""
    known = {(finding.array, finding.region) for finding in verdict.findings}
    found = examine(scores.written, regions, scores.table.checksums[regions], workers)
    verdict.findings += [finding for finding in found if (finding.array, finding.region) not in known]
    for name, told in scores.coordinates.items() if coordinates else ():
        try:
            same = stored_digest(scores.store, name) == told
        except InputError:  # a pipe, say
            same = False
        if not same:
            verdict.findings.append(Finding("is not what was written", name, path=f"{scores.path}/{name}"))
    verdict.looked["regions read"] = len(regions)


def verify_anew(
    scores: Scores, verdict: Verdict, workers: Workers, regions: AnyArray, model: Fit, samples: Samples
) -> None:
    """Score regions again and compare.

    Raises
    ------
    InputError
        If it is another model, or samples on another grid: that would prove nothing.
    """
    written = scores.written
    if digest(model.mixture) != scores.head["model"]:
        raise InputError(
            f"{scores.path} was scored with the model {scores.head['model'][:16]}, and this one is "
            f"{digest(model.mixture)[:16]}: name that one (--model)"
        )
    # whoever scored them has judged their units
    samples = replace(samples, any_units=True).like(model.features, model.layout)
    samples = samples.recut(written.grid.segment) or samples
    if samples.grid != written.grid:
        raise InputError(
            f"{samples.name} has the grid {samples.grid.shape} in segments of {samples.grid.segment}, the scores have "
            f"{written.grid.shape} in {written.grid.segment}: name what was scored (--source)"
        )
    level = level_in(scores, model)
    model = replace(model, missing=scores.head.get("missing", "omit"))
    now = head_of(samples, model, "probabilities" in scores.head["arrays"], level=level)
    if now["source"] != scores.head["source"]:
        changed = sorted(text.split(" was ")[0] for text in differences(scores.head["source"], now["source"]))
        verdict.notes.append(f"note: {samples.name} is not as it was when it was scored ({', '.join(changed)})")
    recording = Recording("", "", 0, Writer("", "", ""))
    n, marginal = len(model.classes), model.marginalises
    anew = ScoreSegment.of(model.mixture, samples, recording, True, level, n_classes=n, marginal=marginal)
    leaf = CompareSegment(anew, written)
    compared = Fold(samples, workers, keep=False, only=regions.tolist())(leaf)
    verdict.findings += compared.findings
    if compared.n_rounded:
        verdict.notes.append(
            f"note: {compared.n_rounded} of {len(regions)} regions come out the same but for rounding: another library "
            "or processor"
        )
    verdict.looked["regions scored anew"] = len(regions)


def level_in(scores: Scores, model: Fit) -> tuple[int, ...] | None:
    """The cluster of each component of a model, by the ledger of scores; None where they are of components."""
    level, n = scores.head.get("clusters"), scores.head["n_components"]
    if level is None:
        return None
    if not isinstance(level, list) or len(level) != model.n_components or {*level} != {*range(n)}:
        raise InputError(f"{scores.path} says that its {n} clusters are {str(level)[:80]}: score again")
    return tuple(level)


def some_of(regions: AnyArray, share: float, seed: int) -> AnyArray:
    """A random share of regions, at least one of them, in order."""
    n = max(1, math.ceil(share * len(regions)))
    return np.sort(np.random.default_rng(seed).choice(regions, size=min(n, len(regions)), replace=False))


def _json(store: Any, key: str) -> Any:
    """A value of a store as JSON; None if there is none, or it is not."""
    try:
        value = sync(store.get(key, default_buffer_prototype()))
        return None if value is None else json.loads(value.to_bytes())
    except (ValueError, RecursionError):
        return None


def _root(store: Any, path: str) -> dict[str, Any]:
    """The metadata of a group."""
    found = _json(store, "zarr.json")
    if not isinstance(found, dict) or not isinstance(found.get("attributes", {}), dict):
        raise InputError(f"{path} cannot be verified, as its metadata cannot be read ({path}/zarr.json)")
    return found


def _without_copies(metadata: Any) -> Any:
    """Metadata of a group without those of what is in it."""
    if not isinstance(metadata, dict):
        return metadata
    return {name: value for name, value in metadata.items() if name != "consolidated_metadata"}
