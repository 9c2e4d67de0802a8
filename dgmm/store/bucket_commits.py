"""Places in a repository of Icechunk that is in an object store."""

from __future__ import annotations

from dgmm.data import PARTIAL, Run, Versioned
from dgmm.store.commits import OnBranch, check_kind, commit
from dgmm.store.objects import RECORDS, ObjectOutput, ObjectPlace
from dgmm.store.places import Output


class BucketCommitPlace(OnBranch, ObjectPlace):
    """On a branch of a repository in a bucket."""

    def __init__(self, name: str, within: Versioned) -> None:
        super().__init__(within.staging)
        self.name = name
        self.within = within

    def output(self, run: Run, what: str, overwrite: bool, resumes: bool) -> Output:
        """An output to be made beside the repository."""
        check_kind(self.name, what)
        return BucketCommitOutput(self, run, what, overwrite, resumes)


class BucketCommitOutput(ObjectOutput):
    """An output that is made beside the repository, and committed."""

    place: BucketCommitPlace

    @property
    def target(self) -> str:
        """A URL beside the repository."""
        return self.place.within.staging

    @property
    def records(self) -> str:
        """A URL beside the record of the claim."""
        return f"{self.target}{PARTIAL}/{RECORDS}"

    def publish(self) -> None:
        """Commit it; what was made is removed with the claim."""
        commit(self.place.name, self.place.within, self.store(), self)

    def clean(self) -> None:
        """Delete what was made, and the claim."""
        if self.is_ours:
            self._clear()
        super().clean()
