"""A Slurm of one node that tests start on loopback, on free ports, as whoever runs them; it ends with its context."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.servers import answers, awaited, end, free_port

#: What has to be installed.
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue")
#: Where daemons lie that are not on everybody's path.
PLACES = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])

CONFIGURATION = """\
ClusterName=dgmm
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
KillWait=30
MinJobAge=300
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory={memory}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no Slurm here; nothing if there can."""
    absent = [name for name in PROGRAMS if program(name) is None]
    return f"not installed: {', '.join(absent)} (config/debian.txt)" if absent else ""


def program(name: str) -> str | None:
    """The path of a program."""
    return shutil.which(name, path=PLACES)


def daemon(stack: ExitStack, folder: Path, name: str, *arguments: str, **variables: str) -> subprocess.Popen[Any]:
    """A daemon in the foreground of a session of its own, which ends with a stack."""
    found = program(name)
    assert found is not None
    with open(folder / f"{name}.out", "w") as output:
        process = subprocess.Popen(
            [found, *arguments], stdout=output, stderr=output, env=os.environ | variables, start_new_session=True
        )
    stack.callback(end, process)
    return process


@contextmanager
def node(folder: Path) -> Iterator[Mapping[str, str]]:
    """What the environment says of a Slurm whose files are in a folder."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    values = {
        "folder": folder,
        "host": socket.gethostname().partition(".")[0],
        "user": getpass.getuser(),
        "controller": free_port(),
        "node": free_port(),
        "memory": 4000,
    }
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(**values))
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    environment = {"SLURM_CONF": str(configuration)}
    with ExitStack() as stack:
        options = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid"}
        options |= {"log-file": "munged.log", "seed-file": "munged.seed"}
        given = [f"--{name}={folder / file}" for name, file in options.items()]
        munged = daemon(stack, folder, "munged", "--foreground", "--force", *given)
        awaited((folder / "munge.socket").exists, munged)
        controller = daemon(stack, folder, "slurmctld", "-D", "-c", **environment)
        awaited(lambda: answers(int(str(values["controller"]))), controller)
        worker = daemon(stack, folder, "slurmd", "-D", "-N", str(values["host"]), **environment)
        awaited(lambda: "idle" in asked(environment, "sinfo", "-h", "-o", "%t"), worker)
        stack.callback(cancelled, environment)
        yield environment


def asked(environment: Mapping[str, str], name: str, *arguments: str) -> str:
    """What one of Slurm's programs says."""
    found = program(name)
    assert found is not None
    done = subprocess.run(
        [found, *arguments], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def cancelled(environment: Mapping[str, str]) -> None:
    """End all jobs, and wait for their processes."""
    asked(environment, "scancel", "--full", "--me")
    awaited(lambda: not asked(environment, "squeue", "-h").strip(), seconds=45)
