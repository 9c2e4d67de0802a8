"""Whatever is done to scores in whatever order: complete or not there, and what verify says is so."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import dgmm
from dgmm.errors import OutputExistsError
from dgmm.pipeline import run_score
from dgmm.scoring.ledger import HEAD
from dgmm.store import Status, place_at, save
from tests import ledgers
from tests.ledgers import N, Stop, at_region, fit, job_of, stop, tree, write_job

#: Runs that write, and those that are left in the middle, are of one of two models.
MODELS = st.sampled_from([0, 1])


class Scores(RuleBasedStateMachine):
    """One place, and what should lie there by what was done.

    The model of it: whose scores are complete (None: there are none) and whether something of them was damaged; whose
    are unfinished, and which of their regions are recorded.
    """

    whole: dict[int, dict[str, bytes]]

    def __init__(self) -> None:
        super().__init__()
        self.patch = ledgers.small_for_a_while()
        self.patch.__enter__()
        self.folder = Path(tempfile.mkdtemp())
        self.complete: int | None = None
        self.damaged: set[tuple[str, int]] = set()
        self.unfinished: int | None = None
        self.recorded: set[int] = set()
        self.lost: set[int] = set()

    @initialize()
    def prepare(self) -> None:
        """A source and two models, and what undisturbed scores of each are."""
        write_job(self.folder)
        self.whole = {}
        for model in (0, 1):
            save(fit(model), self.folder / f"m{model}.zarr")
            run_score(self.job(model, out=self.folder / f"whole{model}"))
            self.whole[model] = tree(self.folder / f"whole{model}")

    def teardown(self) -> None:
        self.patch.__exit__(None, None, None)
        shutil.rmtree(self.folder)

    def job(self, model: int, overwrite: bool = False, out: Any = None) -> Any:
        job = job_of(self.folder, out or self.folder / "s", overwrite=overwrite)
        return job.model_copy(update={"model": str(self.folder / f"m{model}.zarr")})

    def refused(self, model: int, overwrite: bool) -> bool:
        """Whether a run may not begin."""
        taken = self.complete is not None or self.unfinished not in (None, model)
        return taken and not overwrite

    @rule(model=MODELS, overwrite=st.booleans(), number=st.integers(1, N + 3))
    def score(self, model: int, overwrite: bool, number: int) -> None:
        """Score; after so many regions something fails, if there are as many left."""
        if self.refused(model, overwrite):
            with pytest.raises(OutputExistsError):
                run_score(self.job(model, overwrite))
            return
        kept = self.recorded - self.lost if self.unfinished == model else set()
        with at_region(number, stop) as done:
            try:
                run_score(self.job(model, overwrite))
                ended = True
            except Stop:
                ended = False
        assert ended == (number > N - len(kept))
        assert not kept & {*done}, "what is sound is not scored again"
        if ended:
            assert kept | {*done} == {*range(N)}
            self.complete, self.damaged, self.unfinished, self.recorded = model, set(), None, set()
        else:
            self.unfinished, self.recorded = model, (self.recorded if kept else set()) | {*done}
            self.lost -= {*done}
        self.lost = self.lost & self.recorded if not ended else set()

    @precondition(lambda self: self.complete is not None)
    @rule(data=st.data())
    def damage(self, data: Any) -> None:
        """Something happens to a chunk of finished scores."""
        name = data.draw(st.sampled_from(["label", "probability", "log_density"]))
        region = data.draw(st.integers(0, N - 1))
        self.hurt(self.folder / "s" / name / "c" / str(region), data)
        self.damaged.add((name, region))

    @precondition(lambda self: self.recorded - self.lost)
    @rule(data=st.data())
    def damage_unfinished(self, data: Any) -> None:
        """Something happens to a chunk of unfinished scores."""
        region = data.draw(st.sampled_from(sorted(self.recorded - self.lost)))
        name = data.draw(st.sampled_from(["label", "probability", "log_density"]))
        (file,) = self.folder.glob(f"s.partial/*/{name}/c/{region}")
        self.hurt(file, data)
        self.lost.add(region)

    def hurt(self, file: Path, data: Any) -> None:
        how = data.draw(st.sampled_from(["gone", "short", "another"]))
        if how == "gone":
            file.unlink(missing_ok=True)
        elif how == "short":
            file.write_bytes(file.read_bytes()[:-2] if file.exists() else b"")
        else:  # well-formed, and of another region
            other = tree(self.folder / "whole0")[f"{file.parents[1].name}/c/{(int(file.name) + 1) % (N - 1)}"]
            file.write_bytes(other)

    @precondition(lambda self: self.unfinished is not None)
    @rule(data=st.data())
    def damage_ledger(self, data: Any) -> None:
        """The head of the ledger is damaged: nothing can be gone on from."""
        (head,) = self.folder.glob(f"s.partial/*-records/{HEAD}")
        head.write_bytes(head.read_bytes()[: data.draw(st.integers(0, 20))])
        # any model may begin anew
        self.unfinished, self.recorded, self.lost = None, set(), set()
        shutil.rmtree(self.folder / "s.partial") if data.draw(st.booleans()) else None

    @rule()
    def verify(self) -> None:
        """What verify names is what was damaged."""
        if self.complete is None:
            return
        verdict = dgmm.verify(self.folder / "s", data=True)
        assert {(finding.array, finding.region) for finding in verdict.findings} == self.damaged
        there = dgmm.verify(self.folder / "s")
        assert {(f.array, f.region) for f in there.findings} <= self.damaged

    @precondition(lambda self: self.complete is not None and not self.damaged)
    @rule(seed=st.integers(0, 5))
    def verify_anew(self, seed: int) -> None:
        """Scored anew, a part of them is what it was."""
        assert dgmm.verify(self.folder / "s", recompute=0.3, seed=seed).is_sound

    @invariant()
    def complete_or_not_there(self) -> None:
        """Only complete scores lie at the place, with the bytes of undisturbed ones but for the damage."""
        if not hasattr(self, "whole"):
            return
        if self.complete is None:
            assert not (self.folder / "s").exists()
            assert place_at(self.folder / "s").state().status in (Status.ABSENT, Status.UNFINISHED)
        else:
            hurt = {f"{name}/c/{region}" for name, region in self.damaged}
            found, whole = tree(self.folder / "s"), self.whole[self.complete]
            assert {k: v for k, v in found.items() if k not in hurt} == {
                k: v for k, v in whole.items() if k not in hurt
            }
        for group in self.folder.glob("s.partial/*/zarr.json"):
            assert zarr.open_group(group.parent, mode="r", use_consolidated=False).attrs["complete"] == 0


def run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Scores, settings=settings(max_examples=examples, stateful_step_count=steps, print_blob=True)
    )


def test_scores_survive_whatever_is_done_to_them() -> None:
    run(6, 10)


@pytest.mark.slow
def test_scores_survive_whatever_is_done_to_them_for_long() -> None:
    run(150, 40)


def test_the_damage_that_the_machine_does_is_damage() -> None:
    """Chunks of neighbours are others, or what is put in their place would not be told."""
    with ledgers.small_for_a_while():
        folder = Path(tempfile.mkdtemp())
        run_score(write_job(folder))
        written = tree(folder / "out")
        for name in ("label", "probability", "log_density"):
            contents = [written[f"{name}/c/{region}"] for region in range(N)]
            assert len({*contents}) == N
        assert np.isnan(zarr.open_array(folder / "out" / "log_density", mode="r")[80:100]).all()
        shutil.rmtree(folder)
