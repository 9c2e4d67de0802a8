"""Every fault that is registered ends as it may, in the short form and the long one."""

from __future__ import annotations

import pytest

from tests.reliability.trials import Ended, Fault, Trial, registered, run


def passes(fault: Fault, long: bool) -> None:
    tally = run(fault, fault.numbers(long))
    assert not tally.failures, "\n".join(f"{fault} {number}: {what}" for number, what in tally.failures)
    assert tally.n_trials > 0, "nothing was injected"


#: Where a read fails with which zarr looks whether it may write metadata, it forgets the writing that it has prepared.
forgotten = pytest.mark.filterwarnings(
    "ignore:.*coroutine object (set_or_delete|StorePath.set_if_not_exists):pytest.PytestUnraisableExceptionWarning"
)


@forgotten
@pytest.mark.parametrize("fault", [fault for fault in registered() if fault.short], ids=str)
def test_a_fault_ends_as_it_may(fault: Fault) -> None:
    passes(fault, long=False)


@forgotten
@pytest.mark.slow
@pytest.mark.parametrize("fault", registered(), ids=str)
def test_a_fault_ends_as_it_may_for_long(fault: Fault) -> None:
    passes(fault, long=True)


def test_what_ends_otherwise_or_raises_counts_as_silent() -> None:
    """The tally notices: else nothing above could fail."""

    def wrong(trial: Trial) -> Ended | None:
        if trial.number == 2:
            raise ValueError("another answer")
        return None if trial.number == 4 else Ended.UNTOLD

    tally = run(Fault("wrong", "here", wrong, 9, None), iter(range(1, 9)))
    assert tally.ended == {Ended.SILENT: 3}
    assert [number for number, _ in tally.failures] == [1, 2, 3]
