"""How tasks run: a leaf is applied to every segment and its values are merged along a tree, on threads or on Dask.

Nothing here knows what is asked of the data. The tree belongs to the data, so that the result has the same bits
whoever the workers are; what they keep, lose, wait for and have memory for is settled here.
"""

from dgmm.engine.classes import Projection
from dgmm.engine.fold import Fold, cut
from dgmm.engine.journal import DEPARTURE, Departed, Entry, Journal, Journaled
from dgmm.engine.leaf import Leaf, PlanLeaf
from dgmm.engine.memory import BASE_BYTES, mib
from dgmm.engine.opening import open_workers
from dgmm.engine.projection import projected_bytes
from dgmm.engine.tree import Mergeable, Node, merge_all
from dgmm.engine.workers import Workers

__all__ = [
    "BASE_BYTES",
    "DEPARTURE",
    "Departed",
    "Entry",
    "Fold",
    "Journal",
    "Journaled",
    "Leaf",
    "Mergeable",
    "Node",
    "PlanLeaf",
    "Projection",
    "Workers",
    "cut",
    "merge_all",
    "mib",
    "open_workers",
    "projected_bytes",
]
