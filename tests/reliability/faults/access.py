"""Who has no certificate, or the wrong one, gets no further than one line."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import dask
from distributed.security import Security

from dgmm.config import Train
from dgmm.errors import ClusterError, InputError
from dgmm.pipeline import run_train
from tests import journals
from tests.reliability.faults import clusters, drivers
from tests.reliability.trials import Ended, Trial, fault
from tests.servers import free_port

#: The setting of Dask, and what it is called among the arguments of its commands.
TLS = "distributed.comm.tls"


@cache
def certificates(owner: str) -> dict[str, str]:
    """Files with a certificate of an authority of its own, by what Dask calls them."""
    folder = Path(tempfile.mkdtemp())
    given = Security.temporary()
    found = {}
    for name, text in (("ca-file", given.tls_ca_file), ("cert", given.tls_client_cert), ("key", given.tls_client_key)):
        (folder / name).write_text(text)
        found[name] = str(folder / name)
    return found


@contextmanager
def trusted(owner: str | None) -> Iterator[None]:
    """Context in which this process has the certificate of somebody, or none."""
    names: dict[str, Any] = {f"{TLS}.ca-file": None, f"{TLS}.client.cert": None, f"{TLS}.client.key": None}
    if owner is not None:
        files = certificates(owner)
        names = {f"{TLS}.ca-file": files["ca-file"], f"{TLS}.client.cert": files["cert"],
                 f"{TLS}.client.key": files["key"]}  # fmt: skip
    with dask.config.set(names):
        yield


@cache
def scheduler() -> str:
    """The address of a scheduler that asks for a certificate, with workers."""
    port = free_port()
    files = certificates("ours")
    tls = ["--tls-ca-file", files["ca-file"], "--tls-cert", files["cert"], "--tls-key", files["key"]]
    clusters.keep(clusters.scheduler(port, "tls", tls))
    return f"tls://127.0.0.1:{port}"


def job(out: Path, address: str) -> Train:
    """A small training at an address."""
    return journals.train(drivers.data(), out, cluster={"scheduler": address})


def strangers(trial: Trial, who: str) -> Ended | None:
    """Without a certificate, with one of another authority, or not encrypted: one line, soon, and nothing written."""
    address = scheduler().replace("tls://", "tcp://") if who == "plain" else scheduler()
    began, before = time.monotonic(), sorted(trial.folder.rglob("*"))
    with trusted("others" if who == "another" else None):
        try:
            run_train(job(trial.folder / "out", address))
        except (ClusterError, InputError) as error:
            said = str(error)
        else:
            raise AssertionError("somebody without the right certificate was let in")
    assert address in said, said
    assert "\n" not in said, said
    assert time.monotonic() - began < 60
    assert sorted(trial.folder.rglob("*")) == before
    return Ended.REFUSED


for who, kind in (("none", "no certificate"), ("another", "a certificate of another authority"), ("plain", "no TLS")):
    fault(f"client with {kind}", "scheduler over TLS", short=1, long=3, ends={Ended.REFUSED})(
        partial(strangers, who=who)
    )
