"""What must not change from night to night unless somebody says so: how data are made, and that none are gone."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict

from dgmm.data import Samples, shortened
from dgmm.engine import Fold, Workers
from dgmm.errors import InputError
from dgmm.fits import Training
from dgmm.passes import profile_of


class Structure(BaseModel):
    """How data are made.

    Attributes
    ----------
    dims : tuple of str
        Of the samples.
    shape : tuple of int
        Samples along each; more may come along the first.
    features : tuple of str
        Their names, or their labels along a dimension (levels).
    along : str
        The dimension that holds them, with its units; empty where each variable is one.
    units, dtypes : tuple of str
        Of each array that is read.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    features: tuple[str, ...]
    along: str
    units: tuple[str, ...]
    dtypes: tuple[str, ...]

    @classmethod
    def of(cls, samples: Samples) -> Structure:
        """Of samples."""
        layout = samples.layout
        units = {span.dim: span.label_units for span in layout.as_spans(samples.n_features)}
        along = "; ".join(f"{dim} ({units[dim]})".removesuffix(" ()") for dim in layout.feature_dims)
        dtypes = tuple(np.dtype(field.array.dtype).name for field in samples.fields)
        return cls(
            dims=samples.dims,
            shape=samples.grid.shape,
            features=samples.features,
            along=along,
            units=layout.units,
            dtypes=dtypes,
        )

    def changes(self, now: Structure) -> list[str]:
        """What is not as it was, in words with both values; longer along the first dimension is as it should be."""
        told = [
            ("dimensions", self.dims, now.dims),
            ("features", self.features, now.features),
            ("dimension of the features", (self.along,), (now.along,)),
            ("units", self.units, now.units),
            ("dtype", self.dtypes, now.dtypes),
        ]
        found = [f"its {what} were {_said(a, b)}, now {_said(b, a)}" for what, a, b in told if a != b]
        if self.dims == now.dims:
            names = zip(self.dims, self.shape, now.shape, strict=True)
            for i, (dim, before, length) in enumerate(names):
                if length < before if i == 0 else length != before:
                    found.append(f"along {dim} it had {before}, now {length}")
        return found


def _said(values: tuple[str, ...], others: tuple[str, ...]) -> str:
    """Values in a few words, those first that are not among others."""
    own = [value for value in values if value not in others] or list(values)
    return shortened([value or "none" for value in own]) + (
        f" ({len(values)} in all)" if len(own) < len(values) else ""
    )


def check_structure(name: str, before: Structure, now: Structure, *, accept: bool) -> list[str]:
    """What has changed; raises `InputError` for that, unless it is accepted."""
    changes = before.changes(now)
    if changes and not accept:
        raise InputError(
            f"{name} is not as it was the last night ({'; '.join(changes)}): see what has become of it, or take it as "
            "it is (accept_changes)"
        )
    return changes


def check_values(samples: Samples, workers: Workers) -> None:
    """Raise `InputError` if samples hold nothing but missing values, or nothing but one: nobody has written them."""
    found = profile_of(Fold(samples, workers, keep=False), samples, Training())
    if found.n_samples > 1 and (found.minimum == found.maximum).all():
        shown = ", ".join(f"{value:g}" for value in found.minimum[:8].tolist())
        raise InputError(
            f"{samples.name} holds {found.n_samples} times the same sample ({shown}), as where nothing was written: "
            "write it"
        )
