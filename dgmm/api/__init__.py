"""Train, select, score: the library from Python, as functions over keyword arguments."""

from typing import TYPE_CHECKING

from dgmm.homes import from_homes

if TYPE_CHECKING:
    from dgmm.api.fits import em_path, merge, select, train
    from dgmm.api.predictions import predict
    from dgmm.api.scores import open_scores, sample, score, verify
    from dgmm.api.stores import ingest
    from dgmm.api.updates import update

__all__ = [
    "em_path", "ingest", "merge", "open_scores", "predict", "sample", "score", "select", "train", "update", "verify",
]  # fmt: skip


def __dir__() -> list[str]:
    return sorted(__all__)


# who fits needs nothing of what scores
__getattr__ = from_homes(
    __name__,
    {
        "fits": ("em_path", "merge", "select", "train"),
        "predictions": ("predict",),
        "scores": ("open_scores", "sample", "score", "verify"),
        "stores": ("ingest",),
        "updates": ("update",),
    },
)
