"""What is done to rows before they are fitted, as it is stored with a model, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from dgmm.transform import Transform
from dgmm.types import AnyArray, PcaOf, Scale

#: How the names of variables begin that say what is done to rows before they are fitted.
OF_TRANSFORM = "preprocess_"


class Steps(BaseModel):
    """What is done to rows before they are fitted, as far as it is no array; see `Transform`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    scale: Scale
    pca: float | int | None
    log: tuple[int, ...]
    pca_of: PcaOf = "all"

    @classmethod
    def of(cls, transform: Transform) -> Steps:
        """Those of a transform."""
        return cls(scale=transform.scale, pca=transform.pca, log=transform.log, pca_of=transform.pca_of)


def arrays_of(transform: Transform) -> dict[str, tuple[Any, AnyArray]]:
    """The arrays of a transform by the names of their variables, with their dimensions."""
    found: dict[str, tuple[Any, AnyArray]] = {
        "shift": ("input", transform.shift),
        "matrix": (("input", "feature") if transform.matrix.ndim == 2 else "input", transform.matrix),
    }
    if transform.explained:
        found["explained"] = "feature", np.array(transform.explained)
    if transform.units is not None:
        found["units"] = "input", transform.units
    return {f"{OF_TRANSFORM}{name}": part for name, part in found.items()}


def transform_in(arrays: Mapping[str, AnyArray], steps: Steps | None, features: tuple[str, ...]) -> Transform | None:
    """Inverse of `Steps.of` and `arrays_of`, for features of the data; None where there are no steps.

    Raises
    ------
    KeyError
        For what is missing.
    ValueError
        Where the parts do not fit each other, or the model.
    """
    if steps is None:
        return None
    d, q = len(features), arrays["means"].shape[-1]
    shift, matrix = (arrays[f"{OF_TRANSFORM}{name}"] for name in ("shift", "matrix"))
    explained, units = arrays.get(f"{OF_TRANSFORM}explained", np.empty(0)), arrays.get(f"{OF_TRANSFORM}units")
    shapes = [shift.shape, matrix.shape, explained.shape, None if units is None else units.shape]
    wanted = [(d,), (d,), (0,), None] if steps.pca is None else [(d,), (d, q), (q,), (d,)]
    if shapes != wanted or (steps.pca is None and q != d):
        raise ValueError(f"its preprocess has shapes {shapes} for {d} features, of which {q} are fitted")
    if not ((matrix if units is None else units) > 0).all():
        raise ValueError("its preprocess has scales that are not positive")
    if [*steps.log] != sorted({*steps.log} & {*range(d)}):
        raise ValueError(f"preprocess: logarithms of features {str([*steps.log])[:80]} of {d}")
    found = Transform(features, steps.log, shift, matrix, steps.scale, steps.pca, tuple(explained.tolist()), units)
    return replace(found, pca_of=steps.pca_of)
