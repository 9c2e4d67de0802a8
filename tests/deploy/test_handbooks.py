"""The handbooks: what they name is there, commands and their options, files, services, alarms and words of the log."""

import functools
import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from dgmm.cli import COMMANDS, MODELS, app
from tests.deploy.shelf import DEPLOY, ROOT
from tests.deploy.test_compose import SERVICES

BOOKS = {path.name: path.read_text() for path in (DEPLOY / "README.md", DEPLOY / "OPERATIONS.md")}
#: All that is set as code, in lines and in blocks; what a program has said is none of ours.
BLOCKS = re.compile(r"```sh\n(.*?)```", re.DOTALL)


def codes(text: str) -> list[str]:
    """Commands and names in a handbook."""
    without = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines = [line.strip() for block in BLOCKS.findall(text) for line in block.splitlines()]
    return lines + re.findall(r"`([^`\n]+)`", without)


ALL = [code for text in BOOKS.values() for code in codes(text)]


def commands(program: str) -> set[str]:
    """The commands of a program in the handbooks, with what the environment is told and who is asked before them."""
    before = r"^(?:sudo |\w+=\S+ |/opt/dgmm/bin/)*"
    return {found for code in ALL for found in re.findall(rf"{before}{re.escape(program)} ([^|&;]*)", code)}


@functools.cache
def options(*names: str) -> set[str]:
    """The options of a command of ours, by its help."""
    command = app
    for name in names:
        command = command[name]
    return {name for argument in command.assemble_argument_collection() for name in argument.names}


def test_there_is_something_to_see() -> None:
    assert len(ALL) > 100
    assert len(commands("dgmm")) > 10


def test_commands_of_ours_are_there() -> None:
    for command in commands("dgmm"):
        words = command.split()
        first, *rest = words
        assert first in {*COMMANDS, "models"}, command
        names = (first,)
        if first == "models":
            assert rest[0] in MODELS, command
            names = (first, rest[0])
        for option in (word for word in words if word.startswith("--")):
            assert option in options(*names), command


def test_modules_are_there() -> None:
    for command in commands("python -m"):
        assert (ROOT / f"{command.split()[0].replace('.', '/')}.py").exists() or (
            ROOT / command.split()[0].replace(".", "/") / "__main__.py"
        ).exists(), command


def test_commands_of_prefect_are_there() -> None:
    from prefect.cli._app import _app as prefect

    found = commands("prefect")
    assert len(found) > 8
    for command in found:
        where = prefect
        for word in (word for word in command.split() if not word.startswith("-")):
            if word not in set(where):
                break
            where = where[word]
        # the last that is a command is more than a group of others
        assert where is not prefect, command
        assert where.default_command is not None, command


@pytest.mark.parametrize("book", BOOKS)
def test_files_are_there(book: str) -> None:
    for code in codes(BOOKS[book]):
        for path in re.findall(r"(?<![\w/.-])((?:deploy|config|flows|tests)/[\w./*-]+)", code):
            made = "secrets" in path and not path.endswith(".sh")
            if made:
                continue
            assert list(ROOT.glob(path.rstrip("./"))), path


@pytest.mark.parametrize("book", BOOKS)
def test_links_lead_somewhere(book: str) -> None:
    for file, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", BOOKS[book]):
        target = (DEPLOY / file) if file else DEPLOY / book
        assert target.exists(), file
        titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}


def test_chart_of_the_operator_is_in_its_package() -> None:
    chart = Path(find_spec("dask_kubernetes").submodule_search_locations[0])  # type: ignore[union-attr, index]
    (path,) = re.findall(r'"\$package/(\S+)"', BOOKS["README.md"])
    assert (chart / path / "Chart.yaml").exists()
    (tag,) = re.findall(r"image\.tag=(\S+)", BOOKS["README.md"])
    assert f"dask-kubernetes=={tag}\n" in (ROOT / "config/constraints.txt").read_text()


def test_units_are_there() -> None:
    units = {path.name for path in (DEPLOY / "machine").iterdir()}
    for command in commands("systemctl"):
        for word in command.split()[1:]:
            if not word.startswith("--"):
                assert word in units or f"{word}.service" in units, command


def test_parts_of_the_cluster_and_the_composition_are_there() -> None:
    manifests = "\n".join(path.read_text() for path in (DEPLOY / "kubernetes").rglob("*.yaml"))
    for kind, name in re.findall(r"\b(deployment|service|daskcluster)[/ ](prefect-\w+|dgmm)\b", "\n".join(ALL)):
        assert re.search(rf"kind: {kind}\nmetadata:\n  name: {name}\n", manifests, re.IGNORECASE), (kind, name)
    for service in re.findall(r"--scale (\w+)=", " ".join(ALL)):
        assert service in SERVICES


def test_every_alarm_has_its_line_and_every_line_its_alarm() -> None:
    named: set[str] = set()
    for path in (DEPLOY / "automations").glob("*.yaml"):
        content = yaml.safe_load(path.read_text())
        named |= {automation["name"] for automation in (content if isinstance(content, list) else [content])}
    assert {"dgmm-no-heartbeat", "dgmm-late", "dgmm-no-pass", "dgmm-drift"} <= named
    rows = set(re.findall(r"^\| `(dgmm-[\w-]+)` \|", BOOKS["OPERATIONS.md"], re.MULTILINE))
    assert rows == named


def test_words_of_the_log_are_those_of_the_program() -> None:
    sources = "\n".join(p.read_text() for folder in ("dgmm", "flows") for p in (ROOT / folder).rglob("*.py"))
    # a text that is written in several lines
    sources = re.sub(r'"\n\s*f?"', "", sources)
    table = BOOKS["OPERATIONS.md"].partition("| what the log says |")[2]
    quoted = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(quoted) >= 5
    for words in quoted:
        for part in re.split(r"\.\.\.|\(401|\)", words):
            assert part.strip() in sources, words


def test_pools_are_those_of_the_deployments() -> None:
    content = yaml.safe_load((DEPLOY / "prefect.yaml").read_text())
    pools = {deployment["work_pool"]["name"] for deployment in content["deployments"]}
    defined = set(re.findall(r"name: (dgmm-(?:process|docker|kubernetes))", (DEPLOY / "prefect.yaml").read_text()))
    assert pools <= defined
    served = {SERVICES["prefect-worker"]["environment"]["DGMM_POOL"]}
    for path in (DEPLOY / "kubernetes").rglob("kustomization.yaml"):
        served |= set(re.findall(r"DGMM_POOL=(\S+)", path.read_text()))
    served |= set(re.findall(r"--pool (\S+)", (DEPLOY / "machine/dgmm-prefect-worker.service").read_text()))
    assert served <= defined
    # that of a machine with Docker is served by a worker beside it (README.md)
    assert pools - {"dgmm-docker"} <= served
    assert "dgmm-docker" in BOOKS["README.md"]
    template = json.loads((DEPLOY / "kubernetes/components/jobs/job.json").read_text())
    for deployment in content["deployments"]:
        if deployment["work_pool"]["name"] == "dgmm-kubernetes":
            assert set(deployment["work_pool"]["job_variables"]) <= set(template["variables"]["properties"])


def test_image_of_the_deployments_is_this_one() -> None:
    images = set(re.findall(r'image: "?(dgmm:[\w.]+)', (DEPLOY / "prefect.yaml").read_text()))
    assert images == {SERVICES["server"]["image"]}


@pytest.mark.parametrize("path", sorted((ROOT / "config/nightly").glob("*.yaml")), ids=lambda path: path.stem)
def test_settings_are_taken(path: Path) -> None:
    from dgmm import config
    from dgmm.config import read_settings
    from dgmm.fits import validated

    validated(getattr(config, path.stem.capitalize()), read_settings(path))
