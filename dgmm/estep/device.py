"""The back end of plans that name a device: what of it can be known without JAX, which nobody else need have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from dgmm.devices import CPU, Device, device_called
from dgmm.errors import InputError, InsufficientMemoryError, one_line
from dgmm.estep.block import check_shape
from dgmm.estep.plan import Plan
from dgmm.estep.totals import PassTotals, Scores
from dgmm.families import GAUSSIAN_CHAIN, LOGARITHMIC_CHAIN
from dgmm.rows import Rows
from dgmm.types import AnyArray

#: The chains of features that the programs know.
CHAINS = GAUSSIAN_CHAIN, LOGARITHMIC_CHAIN
#: Rows that lie together on a device: no more than take so many bytes in double precision, nor than the second number,
#: and as many as a power of two, not below the third: a program is compiled for each of these numbers.
PIECE_BYTES, MOST, FEWEST = 2**25, 2**18, 2**10


class OnDevice:
    """The back end of plans that name a device."""

    name = "jax"

    def takes(self, plan: Plan) -> bool:
        """Whether it names one."""
        return plan.device != CPU

    def accumulate(self, rows: Rows, plan: Plan) -> PassTotals:
        """E-step of all mixtures of a plan over samples."""
        with at_work(rows.x, plan) as device:
            found: PassTotals = _placed().accumulate(rows, plan, device, piece_rows(plan))
            return found

    def score(self, x: AnyArray, plan: Plan, scores: Scores) -> None:
        """Scores of samples (n, d) by the one mixture of a plan, into arrays."""
        with at_work(x, plan) as device:
            _placed().score(x, plan, scores, device, piece_rows(plan))

    def buffer_bytes(self, plan: Plan) -> int:
        """Bytes, in this process, of rows that are put together for a device, and of the scores of a piece."""
        return PIECE_BYTES + 8 * piece_rows(plan) * (plan.n_rows + 3)


def _placed() -> Any:
    """What imports JAX."""
    return import_module("dgmm.estep.placed")


@contextmanager
def at_work(x: AnyArray, plan: Plan) -> Iterator[Device]:
    """Context of work on the device of a plan.

    Raises
    ------
    InputError
        If there is no such device, it does not know the features of the plan, or samples have another number of them.
    InsufficientMemoryError
        If it has too little memory.
    """
    check_shape(x, plan.n_features)
    unknown = {stack.features.chain for stack in plan.stacks} - {*CHAINS}
    if unknown:
        families = ", ".join(dict.fromkeys(family.name for family in plan.families))
        raise InputError(
            f"device {plan.device} does not know the features ({min(unknown)}) of {families}: take device cpu"
        )
    device = device_called(plan.device)
    from jax import enable_x64
    from jax.errors import JaxRuntimeError

    try:
        # for this thread alone, whatever else uses JAX
        with enable_x64(True):
            yield device
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InsufficientMemoryError(
            f"{device.words} has too little memory for {plan.n_rows} components of {plan.n_features} features "
            f"({one_line(error)}): end what else uses it, or try fewer components at a time (n_components)"
        ) from None


def piece_rows(plan: Plan) -> int:
    """Rows of a piece."""
    return min(max(power_of_two(PIECE_BYTES / (8 * plan.n_features)), FEWEST), MOST)


def power_of_two(size: float) -> int:
    """The largest that is no larger than a number, which is one or more."""
    return 1 << int(size).bit_length() - 1
