"""Anything that holds samples, seen as a grid of rows of d features, read segment by segment.

A kind of source is a function here that makes `Samples` of it; nothing below asks where they come from. Where stores
lie (paths, URLs) and who is writing one at the moment, how features are named and told apart, and what can be wrong
with a stored chunk are known here and nowhere else.
"""

from dgmm.data.chunks import Stored, Watched
from dgmm.data.codecs import bounded, check_array
from dgmm.data.fingerprints import Seen, check_unchanged, fingerprint, length_in, seen
from dgmm.data.grid import Blocks, Grid, Region
from dgmm.data.labels import Labels, Names, is_known
from dgmm.data.layout import Layout, comparable, matching_order, shortened
from dgmm.data.retries import again, content_of, delete, listed
from dgmm.data.runs import Heartbeat, Run, is_run_id
from dgmm.data.samples import Samples, unmasked
from dgmm.data.sources import Source, Weights, open_dataset, open_samples, register_opener
from dgmm.data.stores import (
    PARTIAL,
    RECORD,
    awaited,
    check_metadata_files,
    check_url,
    local_path,
    members,
    object_at,
    open_store,
    record_of,
    store_at,
    unfinished,
)
from dgmm.data.variables import packing, stored_chunks
from dgmm.data.views import transformed

__all__ = [
    "PARTIAL",
    "RECORD",
    "Blocks",
    "Grid",
    "Heartbeat",
    "Labels",
    "Layout",
    "Names",
    "Region",
    "Run",
    "Samples",
    "Seen",
    "Source",
    "Stored",
    "Watched",
    "Weights",
    "again",
    "awaited",
    "bounded",
    "check_array",
    "check_metadata_files",
    "check_unchanged",
    "check_url",
    "comparable",
    "content_of",
    "delete",
    "fingerprint",
    "is_known",
    "is_run_id",
    "length_in",
    "listed",
    "local_path",
    "matching_order",
    "members",
    "object_at",
    "open_dataset",
    "open_samples",
    "open_store",
    "packing",
    "record_of",
    "register_opener",
    "seen",
    "shortened",
    "store_at",
    "stored_chunks",
    "transformed",
    "unfinished",
    "unmasked",
]
