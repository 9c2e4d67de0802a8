"""What has been added to a fit since, batch by batch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Batch:
    """New rows that a fit has gone on with.

    Attributes
    ----------
    n_samples : int
        Complete rows.
    n_missing : int
        Rows left out because a value is missing.
    forget : float
        By how much less the rows before them count since.
    n_passes : int
        Over the new rows.
    before, after : float
        Mean log density of the new rows by the mixture that was there and by that which came of it, in nats.
    """

    n_samples: int
    n_missing: int
    forget: float
    n_passes: int
    before: float
    after: float

    def __str__(self) -> str:
        less = f", rows before them count {1 - self.forget:g} times" if self.forget else ""
        return (
            f"{self.n_samples} new samples ({self.n_missing} missing) in {self.n_passes} passes: their mean log "
            f"density {self.before:.6g} became {self.after:.6g}{less}"
        )
