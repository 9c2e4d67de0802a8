"""Anything that holds samples, seen as a grid of rows of d features, read segment by segment.

A kind of source is a function here that makes `Samples` of it; nothing below asks where they come from. Where stores
lie (paths, URLs) and who is writing one at the moment, how features are named and told apart, and what can be wrong
with a stored chunk are known here and nowhere else.
"""

from dgmm.data.cf import apart, conventions
from dgmm.data.chunks import Stored, Watched
from dgmm.data.codecs import bounded, check_array
from dgmm.data.fields import unmasked
from dgmm.data.files import is_foreign, is_text, opened_file, register_opener
from dgmm.data.fingerprints import Seen, check_unchanged, fingerprint, length_in, seen
from dgmm.data.frames import name_of_rows
from dgmm.data.grid import Blocks, Grid, Region
from dgmm.data.groups import open_dataset
from dgmm.data.labels import Labels, Names, is_known
from dgmm.data.layout import Layout, Span, comparable, matching_order, number_of, places_among, shortened
from dgmm.data.paths import LocalStore, read_bytes
from dgmm.data.persisted import Block, Handed, check_there
from dgmm.data.repositories import Versioned, in_a_line, is_of_icechunk
from dgmm.data.retries import again, content_of, delete, listed
from dgmm.data.runs import Heartbeat, Run, is_run_id
from dgmm.data.samples import Samples
from dgmm.data.sources import Source, Weights, open_samples
from dgmm.data.stores import (
    PARTIAL,
    RECORD,
    awaited,
    check_names,
    check_url,
    local_path,
    members,
    object_at,
    open_store,
    record_of,
    store_at,
    unfinished,
)
from dgmm.data.variables import OF_AXES, copying_bytes, in_blocks, packing, stored_chunks
from dgmm.data.views import transformed

__all__ = [
    "OF_AXES",
    "PARTIAL",
    "RECORD",
    "Block",
    "Blocks",
    "Grid",
    "Handed",
    "Heartbeat",
    "Labels",
    "Layout",
    "LocalStore",
    "Names",
    "Region",
    "Run",
    "Samples",
    "Seen",
    "Source",
    "Span",
    "Stored",
    "Versioned",
    "Watched",
    "Weights",
    "again",
    "apart",
    "awaited",
    "bounded",
    "check_array",
    "check_names",
    "check_there",
    "check_unchanged",
    "check_url",
    "comparable",
    "content_of",
    "conventions",
    "copying_bytes",
    "delete",
    "fingerprint",
    "in_a_line",
    "in_blocks",
    "is_foreign",
    "is_known",
    "is_of_icechunk",
    "is_run_id",
    "is_text",
    "length_in",
    "listed",
    "local_path",
    "matching_order",
    "members",
    "name_of_rows",
    "number_of",
    "object_at",
    "open_dataset",
    "open_samples",
    "open_store",
    "opened_file",
    "packing",
    "places_among",
    "read_bytes",
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
