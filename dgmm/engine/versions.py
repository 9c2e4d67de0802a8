"""Whether the processes of a cluster run what this one does: others would fail in the middle, or change bits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dgmm.errors import InputError

if TYPE_CHECKING:
    from distributed import Client

#: What has to be the same everywhere, beside Python's own version and dgmm.
PACKAGES = ("dask", "distributed", "msgpack", "cloudpickle", "numpy", "scipy", "numba", "zarr")
#: Versions of one process by package.
Versions = Mapping[str, str | None]


def check_versions(client: Client, only: Collection[str] | None = None) -> set[str]:
    """Refuse a cluster whose processes run other versions than this one; the addresses of those workers that have told.

    Parameters
    ----------
    client : distributed.Client
    only : collection of str, optional
        Addresses of the workers to look at. Default: all, and the scheduler.

    Raises
    ------
    InputError
        That lists all differences.
    """
    told: Any = client.get_versions(packages=[*PACKAGES])
    ours = said(told["client"])
    theirs = {f"worker {a}": said(v) for a, v in told["workers"].items() if only is None or a in only}
    if only is None:
        theirs["the scheduler"] = said(told["scheduler"])
    refuse(differences(ours, theirs, ("python", *PACKAGES)))
    # no code travels before it is known that all have one Python
    ask = version_asked()
    # one that is gone meanwhile tells nothing, and works no more
    answers = client.run(ask, workers=None if only is None else list(only), on_error="return")
    failed = [a for a in answers.values() if isinstance(a, BaseException) and not isinstance(a, OSError)]
    if failed:
        raise failed[0]
    answered = {address: answer for address, answer in answers.items() if not isinstance(answer, OSError)}
    everywhere = {f"worker {address}": version for address, version in answered.items()}
    if only is None:
        everywhere["the scheduler"] = client.run_on_scheduler(ask)
    refuse(differences({"dgmm": ask()}, {name: {"dgmm": v} for name, v in everywhere.items()}, ("dgmm",)))
    return set(answered)


def version_asked() -> Callable[[], str | None]:
    """A function that says which dgmm there is where it is called; it travels as it is, as there may be none."""

    def version() -> str | None:
        try:
            import dgmm
        except ImportError:
            return None
        return dgmm.__version__

    return version


def said(answer: Any) -> dict[str, str | None]:
    """Versions of a process by package, as far as they have to be the same: of Python, the first two numbers."""
    found = dict(answer["packages"]) if answer else {}
    found["python"] = ".".join(str(found.get("python")).split(".")[:2])
    return found


def differences(ours: Versions, theirs: Mapping[str, Versions], packages: Iterable[str]) -> list[str]:
    """What differs, in words: a package, the version here, and those of the others."""
    found = []
    for package in packages:
        others = defaultdict(list)
        for name, versions in theirs.items():
            if versions.get(package) != ours.get(package):
                others[versions.get(package)].append(name)
        if others:
            there = ", ".join(f"{version or 'none'} on {named(names)}" for version, names in others.items())
            found.append(f"{package} {ours.get(package) or 'none'} here, {there}")
    return found


def named(names: list[str]) -> str:
    """The first of several processes, and how many there are more."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def refuse(found: list[str]) -> None:
    """Raise `InputError` if something differs."""
    if found:
        raise InputError(
            f"the cluster does not run what this process does: {'; '.join(found)}; install the same everywhere "
            "(pip install -c config/constraints.txt, or one image for all)"
        )
