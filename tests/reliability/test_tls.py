"""A scheduler that asks for certificates does the work of those who have one; its own address is on loopback."""

from __future__ import annotations

from pathlib import Path

from dgmm.config import Cluster
from dgmm.pipeline import run_train
from tests import journals
from tests.reliability.faults import access, drivers


def test_a_training_over_tls_comes_to_the_same_bits(tmp_path: Path) -> None:
    with access.trusted("ours"):
        run_train(access.job(tmp_path / "out", access.scheduler()))
    assert journals.bits(str(tmp_path / "out")) == drivers.undisturbed("training")[0]


def test_the_settings_may_name_the_certificates(tmp_path: Path) -> None:
    files = access.certificates("ours")
    options = {"tls_ca_file": files["ca-file"], "tls_client_cert": files["cert"], "tls_client_key": files["key"]}
    cluster = Cluster(scheduler=access.scheduler(), scheduler_options=options | {"require_encryption": True})
    with access.trusted(None):
        run_train(access.job(tmp_path / "out", access.scheduler()).model_copy(update={"cluster": cluster}))
    assert journals.bits(str(tmp_path / "out")) == drivers.undisturbed("training")[0]
