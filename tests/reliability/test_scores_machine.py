"""Whatever is done to scores in whatever order: complete or not there, and what verify says is so."""

from __future__ import annotations

import os
import shutil
import signal
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
from dgmm.errors import InputError, OutputExistsError
from dgmm.pipeline import run_score
from dgmm.scoring.ledger import HEAD
from dgmm.store import Status, place_at, save
from tests import ledgers
from tests.ledgers import N, Stop, at_region, fit, forked, job_of, kill, stop, tree, write_job

#: Runs that write, and those that are left in the middle, are of one of two models.
MODELS = st.sampled_from([0, 1])
#: Times that the source grows, and the rows that come each time: the last chunk is filled up, and another begins.
GROWTHS, MORE = 3, 20
#: What is written.
ARRAYS = ["label", "probability", "log_density"]
#: Whose scores: of which model, and how often the source had grown by then.
Whose = tuple[int, int]


class Scores(RuleBasedStateMachine):
    """One place, and what should lie there by what was done.

    The model of it: whose scores are complete (None: there are none) and whether something of them was damaged; whose
    are unfinished, and which of their regions are recorded.
    """

    whole: dict[Whose, dict[str, bytes]]

    def __init__(self) -> None:
        super().__init__()
        self.patch = ledgers.small_for_a_while()
        self.patch.__enter__()
        self.folder = Path(tempfile.mkdtemp())
        self.grown = 0
        self.complete: Whose | None = None
        self.damaged: set[tuple[str, int]] = set()
        self.unfinished: Whose | None = None
        self.recorded: set[int] = set()
        self.lost: set[int] = set()

    @initialize()
    def prepare(self) -> None:
        """A source and two models, and what undisturbed scores of each are."""
        write_job(self.folder)
        for model in (0, 1):
            save(fit(model), self.folder / f"m{model}.zarr")
        self.whole = {}
        self.score_undisturbed()

    def score_undisturbed(self) -> None:
        for model in (0, 1):
            out = self.folder / f"whole{model}-{self.grown}"
            run_score(self.job(model, out=out))
            self.whole[model, self.grown] = tree(out)

    def teardown(self) -> None:
        self.patch.__exit__(None, None, None)
        shutil.rmtree(self.folder)

    @property
    def n(self) -> int:
        """Regions of the source as it is now."""
        return N + self.grown

    def job(self, model: int, overwrite: bool = False, out: Any = None) -> Any:
        job = job_of(self.folder, out or self.folder / "s", overwrite=overwrite)
        return job.model_copy(update={"model": str(self.folder / f"m{model}.zarr")})

    def refused(self, model: int, overwrite: bool) -> bool:
        """Whether a run may not begin, and is told why."""
        if overwrite or (self.complete is None and self.unfinished in (None, (model, self.grown))):
            return False
        words = "exists already"
        if self.complete is None and self.unfinished is not None:
            others = ["model"] * (self.unfinished[0] != model) + ["source"] * (self.unfinished[1] != self.grown)
            words = "; ".join(f"the {what} was [0-9a-f]{{16}}, now [0-9a-f]{{16}}" for what in others)
        with pytest.raises(OutputExistsError, match=words):
            run_score(self.job(model))
        return True

    def kept(self, model: int) -> set[int]:
        """The regions that need not be scored again."""
        return self.recorded - self.lost if self.unfinished == (model, self.grown) else set()

    @rule(model=MODELS, overwrite=st.booleans(), number=st.integers(1, N + 3))
    def score(self, model: int, overwrite: bool, number: int) -> None:
        """Score; after so many regions something fails, if there are as many left."""
        if self.refused(model, overwrite):
            return
        kept = self.kept(model)
        with at_region(number, stop) as done:
            try:
                run_score(self.job(model, overwrite))
                ended = True
            except Stop:
                ended = False
        assert ended == (number > self.n - len(kept))
        assert not ended or kept | {*done} == {*range(self.n)}
        self.scored(model, ended, kept, {*done})

    @rule(model=MODELS, overwrite=st.booleans(), number=st.integers(1, N + 3))
    def killed(self, model: int, overwrite: bool, number: int) -> None:
        """Score in a process that is killed after so many regions, if there are as many left."""
        if self.refused(model, overwrite):
            return
        kept, log = self.kept(model), self.folder / "log"

        def work() -> None:
            with at_region(number, lambda: (log.write_text(" ".join(map(str, done))), kill())) as done:
                run_score(self.job(model, overwrite))

        status = forked(work)
        ended = not os.WIFSIGNALED(status)
        assert ended == (number > self.n - len(kept))
        assert status == (0 if ended else signal.SIGKILL)
        self.scored(model, ended, kept, {*map(int, log.read_text().split())} if not ended else set())

    def scored(self, model: int, ended: bool, kept: set[int], done: set[int]) -> None:
        """What should lie there after a run that has scored these regions."""
        assert not kept & done, "what is sound is not scored again"
        if ended:
            self.complete, self.damaged, self.unfinished = (model, self.grown), set(), None
            self.recorded, self.lost = set(), set()
        else:
            self.unfinished, self.recorded = (model, self.grown), (self.recorded if kept else set()) | done
            self.lost = (self.lost - done) & self.recorded

    @rule(model=MODELS, number=st.integers(1, N + 3))
    def brought_up_to_date(self, model: int, number: int) -> None:
        """Score what is new since; after so many regions something fails, if there are as many to be scored."""
        its, kept = (model, self.grown), self.kept(model)
        before = self.recorded if self.unfinished == its else set()
        carried: set[int] = set()
        if self.complete is not None and self.complete[0] == model and self.complete != its:
            # the last chunk has become longer
            standing = {*range(N + self.complete[1] - 1)} - before
            carried = {r for r in standing if all((self.folder / "s" / a / "c" / str(r)).exists() for a in ARRAYS)}
        with at_region(number, stop) as done:
            try:
                run_score(self.job(model).model_copy(update={"extend": True}))
                ended = True
            except Stop:
                ended = False
        if self.complete == its:
            assert not done, "it was up to date"
            self.unfinished, self.recorded, self.lost = None, set(), set()
            return
        assert not {*done} & (kept | carried), "what is as it was is not scored again"
        assert ended == (number > self.n - len(kept | carried))
        assert not ended or kept | carried | {*done} == {*range(self.n)}
        hurt = {(name, region) for name, region in self.damaged if region in carried}
        if ended:
            self.complete, self.damaged, self.unfinished = its, hurt, None
            self.recorded, self.lost = set(), set()
        else:
            self.unfinished, self.recorded = its, before | carried | {*done}
            self.lost = ((self.lost if before else set()) - {*done}) | {region for _, region in hurt}

    @precondition(lambda self: self.grown < GROWTHS)
    @rule()
    def extend(self) -> None:
        """The source grows; what was made of it as it was is not gone on with."""
        array = zarr.open_array(self.folder / "x.zarr")
        n = array.shape[0]
        array.resize((n + MORE, 3))
        array[n:] = np.random.default_rng(n).normal(0, 3, (MORE, 3))
        self.grown += 1
        self.score_undisturbed()

    @precondition(lambda self: self.complete is not None)
    @rule(data=st.data())
    def damage(self, data: Any) -> None:
        """Something happens to a chunk of finished scores."""
        name = data.draw(st.sampled_from(ARRAYS))
        assert self.complete is not None
        region = data.draw(st.integers(0, N + self.complete[1] - 1))
        self.hurt(self.folder / "s" / name / "c" / str(region), data)
        self.damaged.add((name, region))

    @precondition(lambda self: self.recorded - self.lost)
    @rule(data=st.data())
    def damage_unfinished(self, data: Any) -> None:
        """Something happens to a chunk of unfinished scores."""
        region = data.draw(st.sampled_from(sorted(self.recorded - self.lost)))
        name = data.draw(st.sampled_from(ARRAYS))
        (file,) = self.folder.glob(f"s.partial/*/{name}/c/{region}")
        self.hurt(file, data)
        self.lost.add(region)

    def hurt(self, file: Path, data: Any) -> None:
        how = data.draw(st.sampled_from(["gone", "short", "another"]))
        content = file.read_bytes() if file.exists() else b""
        # what has been carried over lies in two places
        file.unlink(missing_ok=True)
        if how == "gone":
            return
        if how == "short":
            file.write_bytes(content[:-2])
        else:  # well-formed, and of another region
            other = tree(self.folder / "whole0-0")[f"{file.parents[1].name}/c/{(int(file.name) + 1) % (N - 1)}"]
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
        """Scored anew, a part of them is what it was; of a source that has grown since, none can be."""
        assert self.complete is not None
        if self.complete[1] == self.grown:
            assert dgmm.verify(self.folder / "s", recompute=0.3, seed=seed).is_sound
            return
        with pytest.raises(InputError, match=r"has the grid .*, the scores have"):
            dgmm.verify(self.folder / "s", recompute=0.3, seed=seed)

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
    run(200, 75)


def test_the_damage_that_the_machine_does_is_damage() -> None:
    """Chunks of neighbours are others, or what is put in their place would not be told."""
    with ledgers.small_for_a_while():
        folder = Path(tempfile.mkdtemp())
        run_score(write_job(folder))
        written = tree(folder / "out")
        for name in ARRAYS:
            contents = [written[f"{name}/c/{region}"] for region in range(N)]
            assert len({*contents}) == N
        assert np.isnan(zarr.open_array(folder / "out" / "log_density", mode="r")[80:100]).all()
        shutil.rmtree(folder)
