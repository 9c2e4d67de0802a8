"""Names for the array types used throughout."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Always float64 here; NumPy annotates what linear algebra returns as any floating type.
FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
AnyArray = NDArray[Any]
