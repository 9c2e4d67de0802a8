"""Names for types used throughout: of arrays, and of the choices that settings offer."""

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
#: What becomes of chunks that are not in a store, which zarr reads as the fill value.
MissingChunks = Literal["raise", "fill"]
