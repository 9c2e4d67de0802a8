"""Whether the components of a fit would be found again in other data like these: what refits have said."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dgmm.types import FloatArray

#: A component is found again where its overlap with one of the refit (Jaccard) is more than this (Hennig 2007).
FOUND_AGAIN = 0.75
#: Components that a sentence names.
NAMED = 5


@dataclass(frozen=True)
class Stability:
    """What refits on other weights say of a mixture, its components in canonical order.

    Attributes
    ----------
    n_rows : int
        Rows of the sample that were fitted again.
    n_blocks : int
        Blocks of the grid, or groups of them, that were weighted as a whole; 0 where each row was by itself.
    rand : ndarray, shape (refits,)
        Adjusted Rand index (Hubert and Arabie 1985) between the labels by each refit and those by the mixture.
    found_again : ndarray, shape (K,)
        Share of the refits in which each component is found again: those where its responsibilities overlap with
        those of a component there by more than `FOUND_AGAIN`.
    weights_se : ndarray, shape (K,)
    means_se : ndarray, shape (K, d)
        Standard errors: standard deviations over the refits, of the components that overlap most. Where rows are
        weighted by themselves they are those of a fit to all rows, not to the sample. That of a component that is
        seldom found again says little.
    """

    n_rows: int
    n_blocks: int
    rand: FloatArray
    found_again: FloatArray
    weights_se: FloatArray
    means_se: FloatArray

    @property
    def words(self) -> str:
        """In a sentence."""
        units = f"{self.n_blocks} blocks" if self.n_blocks else f"{self.n_rows} rows"
        low, middle, high = np.quantile(self.rand, [0.0, 0.5, 1.0])
        order = np.argsort(self.found_again, kind="stable")
        seldom = [f"class {k} in {self.found_again[k]:.0%}" for k in order if self.found_again[k] < 1]
        more = f" and {len(seldom) - NAMED} more not in all" if len(seldom) > NAMED else ""
        said = f"; found again: {', '.join(seldom[:NAMED])} of the refits{more}"
        said = said if seldom else "; every class is found again in all of them"
        return (
            f"{len(self.rand)} refits on other weights of {units}: adjusted Rand index {middle:.3f} "
            f"({low:.3f} to {high:.3f}){said}"
        )
