"""How tasks run: a leaf is applied to every segment of the samples and its values are merged along a tree, on Dask.

Nothing here knows what is asked of the data. The tree belongs to the data, so that the result has the same bits
whoever the workers are; what they keep, lose, wait for and have memory for is settled here.
"""

from dgmm.engine.fold import Fold, map_segments, read_ahead
from dgmm.engine.leaf import Leaf
from dgmm.engine.memory import check_memory, score_bytes
from dgmm.engine.tree import Mergeable, Node, grow, merge_all
from dgmm.engine.workers import Workers, open_workers

__all__ = [
    "Fold",
    "Leaf",
    "Mergeable",
    "Node",
    "Workers",
    "check_memory",
    "grow",
    "map_segments",
    "merge_all",
    "open_workers",
    "read_ahead",
    "score_bytes",
]
