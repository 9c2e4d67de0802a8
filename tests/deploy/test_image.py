"""The image: what its entrypoint starts is really started, asked how it is, and stopped."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import dgmm
from tests.deploy.shelf import IMAGE, ROOT, make_secrets
from tests.journals import TRAINING, bits, write_data
from tests.servers import awaited, free_port, server

HERE = str(Path(sys.executable).parent)
#: Variables that would tell a part of a deployment what it must be told by the test.
FOREIGN = ("PREFECT_", "DASK_", "DGMM_", "AWS_")


def surroundings(folder: Path, **given: object) -> dict[str, str]:
    """An environment of its own for a container that is none."""
    folder.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return kept | {
        "PATH": f"{HERE}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    } | {name: str(value) for name, value in given.items()}  # fmt: skip


def entrypoint(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the entrypoint to its end."""
    return subprocess.run([IMAGE / "entrypoint", *arguments], env=env, capture_output=True, text=True, check=False)


def health(env: dict[str, str]) -> int:
    """What the health check says of the part in an environment."""
    return subprocess.run([sys.executable, IMAGE / "health"], env=env, capture_output=True, check=False).returncode


def tls(folder: Path) -> dict[str, str]:
    """What parts of a cluster are told of their certificates."""
    assert make_secrets(folder).returncode == 0
    files = {"CERT": "dask.pem", "KEY": "dask-key.pem"}
    roles = ("SCHEDULER", "WORKER", "CLIENT")
    return {"DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(folder / "ca.pem")} | {
        f"DASK_DISTRIBUTED__COMM__TLS__{role}__{what}": str(folder / name)
        for role in roles
        for what, name in files.items()
    }


def test_runs_what_workers_of_prefect_ask_for(tmp_path: Path) -> None:
    """Those of Docker and Kubernetes give the image a command that begins with the program."""
    found = entrypoint("prefect", "flow-run", "execute", "--help", env=surroundings(tmp_path))
    assert found.returncode == 0, found.stderr
    assert "prefect flow-run execute" in found.stdout


def test_runs_commands_by_default(tmp_path: Path) -> None:
    env = surroundings(tmp_path)
    assert entrypoint("--version", env=env).stdout.strip() == dgmm.__version__
    assert "Usage: dgmm" in entrypoint(env=env).stdout
    assert entrypoint("run", "echo", "a b", env=env).stdout == "a b\n"
    # a job is well for as long as it runs
    assert health(env) == 0


def test_exit_codes_come_through(tmp_path: Path) -> None:
    done = entrypoint("info", str(tmp_path / "nothing.zarr"), env=surroundings(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("dgmm: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("scheduler",), "DASK_DISTRIBUTED__COMM__TLS__CA_FILE is not set"),
        (("worker",), "DASK_DISTRIBUTED__COMM__TLS__CA_FILE is not set"),
        (("prefect-server",), "PREFECT_SERVER_API_AUTH_STRING is not set"),
        (("prefect-worker",), "PREFECT_API_URL is not set"),
        (("flow", "train"), "a flow needs its name and settings"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = entrypoint(*arguments, env=surroundings(tmp_path))
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_secrets_are_read_from_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a b:$c\n")
    env = surroundings(tmp_path, PREFECT_API_AUTH_STRING_FILE=tmp_path / "secret")
    assert entrypoint("run", "printenv", "PREFECT_API_AUTH_STRING", env=env).stdout == "a b:$c\n"
    env = surroundings(tmp_path, AWS_SECRET_ACCESS_KEY_FILE=tmp_path / "none")
    done = entrypoint("run", "true", env=env)
    assert done.returncode == 2
    assert f"cannot read {tmp_path / 'none'} (AWS_SECRET_ACCESS_KEY_FILE)" in done.stderr


@contextmanager
def cluster(tmp_path: Path) -> Iterator[tuple[dict[str, str], str, list[dict[str, str]]]]:
    """A scheduler and a worker as containers have them: what a client is told, the address, and their environments."""
    common, port = tls(tmp_path / "secrets"), free_port()
    address = f"tls://127.0.0.1:{port}"
    routes = '["distributed.http.health", "distributed.http.scheduler.api"]'
    ports = [free_port(), free_port()]
    first = surroundings(
        tmp_path / "scheduler", DGMM_SCHEDULER_PORT=port, DGMM_HTTP_PORT=ports[0],
        DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES=routes, **common,
    )  # fmt: skip
    second = surroundings(
        tmp_path / "worker", DASK_SCHEDULER_ADDRESS=address, DGMM_HTTP_PORT=ports[1], DGMM_MEMORY="1GiB", **common
    )
    entry = str(IMAGE / "entrypoint")
    assert health(first | {"TMPDIR": str(tmp_path)}) == 0
    with (
        server([entry, "scheduler", "--host", "127.0.0.1"], port, environment=first),
        server([entry, "worker", "--host", "127.0.0.1"], ports[1], environment=second),
    ):
        yield surroundings(tmp_path / "client", **common), address, [first, second]


def test_cluster_of_the_image_fits_and_says_how_it_is(tmp_path: Path) -> None:
    # workers stand in other folders than who asks them: a path that is not absolute says nothing to them
    data = write_data(tmp_path)
    fit = ["train", data, "--k=3", *(f"--set=training.{name}={value}" for name, value in TRAINING.items())]
    with cluster(tmp_path) as (client, address, parts):
        awaited(lambda: [health(part) for part in parts] == [0, 0])
        # what the operator asks before it starts and stops workers
        for question in ("adaptive_target", "check_idle"):
            with urllib.request.urlopen(f"http://127.0.0.1:{parts[0]['DGMM_HTTP_PORT']}/api/v1/{question}") as answer:
                assert json.load(answer)
        command = [IMAGE / "entrypoint", *fit, f"--scheduler={address}", "--out=there"]
        done = subprocess.run(command, cwd=tmp_path, env=client, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert [health(part) for part in parts] == [1, 1]
    command = [IMAGE / "entrypoint", *fit, "--scheduler=threads", "--out=here"]
    subprocess.run(command, cwd=tmp_path, env=surroundings(tmp_path / "alone"), capture_output=True, check=True)
    assert bits(str(tmp_path / "there")) == bits(str(tmp_path / "here"))


def test_strangers_are_not_let_in(tmp_path: Path) -> None:
    write_data(tmp_path)
    with cluster(tmp_path) as (_, address, _):
        stranger = surroundings(tmp_path / "stranger", **tls(tmp_path / "others"))
        command = [IMAGE / "entrypoint", "train", "x.zarr", "--k=2", f"--scheduler={address}", "--out=out"]
        done = subprocess.run(command, cwd=tmp_path, env=stranger, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    assert not (tmp_path / "out").exists()


@pytest.mark.integration
def test_prefect_of_the_image_asks_for_its_password(tmp_path: Path) -> None:
    (tmp_path / "auth").write_text("dgmm:a-password")
    port, well = free_port(), free_port()
    api = f"http://127.0.0.1:{port}/api"
    first = surroundings(
        tmp_path / "server", PREFECT_SERVER_API_PORT=port, PREFECT_SERVER_API_AUTH_STRING_FILE=tmp_path / "auth",
        PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED="true",
    )  # fmt: skip
    second = surroundings(
        tmp_path / "worker", PREFECT_API_URL=api, PREFECT_API_AUTH_STRING_FILE=tmp_path / "auth",
        DGMM_POOL="a-pool", PREFECT_WORKER_WEBSERVER_PORT=well,
    )  # fmt: skip
    entry = str(IMAGE / "entrypoint")
    with server([entry, "prefect-server"], port, environment=first):
        awaited(lambda: health(first) == 0)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{api}/admin/version")
        with server([entry, "prefect-worker"], well, environment=second) as worker:
            awaited(lambda: health(second) == 0, worker)
            # the pool is made soon after the worker is well
            inspect = ("run", "prefect", "work-pool", "inspect", "a-pool")
            awaited(lambda: entrypoint(*inspect, env=second).returncode == 0, worker)
            done = entrypoint(*inspect, env=second)
            assert "type='process'" in done.stdout, done.stdout + done.stderr
            # a command beside it does not make it forget where it is asked
            assert (tmp_path / "worker/dgmm-health").exists()
            os.killpg(worker.pid, signal.SIGINT)
            assert worker.wait(timeout=60) == 0
    assert [health(first), health(second)] == [1, 1]
