"""Names for types used throughout: of arrays, and of the choices that settings offer."""

from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

#: Always float64 here; NumPy annotates what linear algebra returns as any floating type.
FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
AnyArray = NDArray[Any]

#: How EM is accelerated, and what a start is made of.
Acceleration = Literal["anderson", "none"]
StartMethod = Literal["kmeans", "k-means++", "random", "random_from_data"]
#: Whether a sample counts for every component as probable as it is, or for the most probable one.
Assignment = Literal["soft", "hard"]
#: What is believed of components before any sample is seen.
PriorName = Literal["none", "default"]
#: By what features are divided before they are fitted.
Scale = Literal["none", "standard", "robust"]
#: What of a mixture can be held fixed.
Part = Literal["weights", "means", "covariances"]
#: How much is searched on the sample.
Effort = Literal["starts", "quick", "standard", "thorough"]
#: What becomes of chunks that are not in a store, which zarr reads as the fill value.
MissingChunks = Literal["raise", "fill"]
#: What becomes of samples of which values are missing.
PcaOf = Literal["all", "variable"]
Missing = Literal["omit", "raise", "marginalise"]
#: Those with which samples can be scored.
ScoredMissing = Literal["omit", "marginalise"]
#: What is put in the place of values that are missing.
Filling = Literal["mean", "draw"]
#: Who decodes the chunks of a store.
Decoder = Literal["zarr", "zarrs"]
#: Of the E-step's matrix products.
Precision = Literal["float64", "float32"]
#: Where it is computed.
DeviceName = Literal["cpu", "gpu", "jax"]
#: What becomes of a component that collapses.
OnCollapse = Literal["report", "reseed"]
#: When a model is renewed, and how.
Refit = Literal["never", "drifted", "always"]
Renewal = Literal["update", "search"]


class Criterion(StrEnum):
    """What a selection goes by; all are on the scale of -2 log-likelihood, and lower is better."""

    #: ``-2 LL + p log n`` (Schwarz 1978), n the number of rows that were fitted.
    BIC = "bic"
    #: ``-2 LL + 2 p`` (Akaike 1974).
    AIC = "aic"
    #: BIC plus twice the entropy of the responsibilities, for clusters that are told apart (Biernacki et al. 2000).
    ICL = "icl"
    #: -2 n times the mean log density of rows that no fit has seen.
    HELD_OUT = "held_out"


class Sendable:
    """What is sent to other processes while threads of this one use it, and it keeps what they have worked out."""

    def __getstate__(self) -> dict[str, Any]:
        """A copy, made at once: what is kept may become more while it is written down."""
        return dict(self.__dict__)
