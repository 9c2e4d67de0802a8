"""What exists at a path or URL, what may be replaced there, and models as they are stored.

An output is claimed before the work on it begins, by a record in a folder beside its place (``OUT.partial``), so that
two runs never write the same one. At a path it is made in that folder and moved when it is complete; at a URL it is
written where it will lie, but what makes a Zarr group of it comes last. Either way it appears as a whole, and nothing
but this room deletes. Beside it lies the journal of a fit that has not ended (``OUT.journal``).
"""

from dgmm.store.at import ALIAS, CHAMPION, MODEL_OF_VERSION, PREVIOUS, VERSION, model_at, place_at, version_of
from dgmm.store.commits import for_each
from dgmm.store.folders import folder_at
from dgmm.store.journal import (
    JOURNAL,
    Records,
    differences,
    journal_at,
    sealed,
    tell_of_versions,
    to_json,
    unsealed,
    versions,
)
from dgmm.store.models import UNSETTLED_DTYPE, attributes, consolidate, load, load_dataset, read, rescued, save, write
from dgmm.store.places import Output, Place, Writer, explained, writing
from dgmm.store.reading import from_dataset
from dgmm.store.record import MODEL_KIND, Record, digest, settings_in
from dgmm.store.sources import SOURCE, UPDATED, check_new, digest_of_source, earlier_updates
from dgmm.store.states import State, Status

__all__ = [
    "ALIAS",
    "CHAMPION",
    "JOURNAL",
    "MODEL_KIND",
    "MODEL_OF_VERSION",
    "PREVIOUS",
    "SOURCE",
    "UNSETTLED_DTYPE",
    "UPDATED",
    "VERSION",
    "Output",
    "Place",
    "Record",
    "Records",
    "State",
    "Status",
    "Writer",
    "attributes",
    "check_new",
    "consolidate",
    "differences",
    "digest",
    "digest_of_source",
    "earlier_updates",
    "explained",
    "folder_at",
    "for_each",
    "from_dataset",
    "journal_at",
    "load",
    "load_dataset",
    "model_at",
    "place_at",
    "read",
    "rescued",
    "save",
    "sealed",
    "settings_in",
    "tell_of_versions",
    "to_json",
    "unsealed",
    "version_of",
    "versions",
    "write",
    "writing",
]
