"""Who imports whom: data flows down the list, imports point up."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: The rooms, each of which may import those above it, and what is in each, in the same order.
HOUSE: dict[str, str] = {
    "homes": "",
    "types": "", "errors": "", "blas": "", "devices": "", "waits": "", "progress": "", "rows": "", "transform": "",
    "families": "frame statistics features prior base cholesky gaussian conjugate full diag tied spherical aligned "
    "orientation ellipsoids loadings factors independent gamma poisson noise student",
    "estep": "jit block hashes vectors gemm posterior columns registers features shares kernel sweep stacks marginals "
    "plan totals compiled plain device programs placed incomplete",
    "mixture": "", "matching": "",
    "data": "repositories retries runs paths grid persisted cf units layout picks likeness decoded codecs chunks "
    "fields labels stores ranges samples views frames parquet files groups variables sources fingerprints",
    "engine": "tree leaf resident cluster versions presets schedulers upkeep classes workers opening memory "
    "handing fold projection journal",
    "passes": "sample overlaps profile parts estep worst judge census misfits codec passes leaves",
    "em": "mstep past plain anderson information scoring ascent posterior variational",
    "fits": "settings preprocess kinds options outcome stability clusters updates results table selection",
    "search": "lloyd initialise sampled screening cuts apart known moves path ladder starts",
    "fitting": "reseed runner scout forecast labelled prepared race departure bootstrap fit projection update",
    "datasets": "",
    "store": "states places local objects commits bucket_commits at folders past steps record reading models journal "
    "sources",
    "registry": "card versions",
    "drift": "baseline shifts",
    "scoring": "rows total arrays regions entries ledger former kept portions segments bulk anew verify",
    "sampling": "",
    "ingestion": "",
    "prediction": "wanted bulk",
    "report": "looks maps figures steps page",
    "yaml12": "", "config": "schema sources jobs whole", "keywords": "",
    "plot": "",
    "estimators": "containers lazy problem scores bridge base partial gaussian bayesian classifier",
    "api": "calls fits updates scores predictions stores", "pipeline": "jobs stages", "words": "",
    "refresh": "structure night state renewal judging stages",
    "arguments": "", "commands": "", "models": "", "cli": "",
}  # fmt: skip
#: Libraries that only these modules may import; numpy and scipy are free.
ONLY_IN = {
    "dask": {"data", "engine", "search", "estimators", "ingestion"},
    "distributed": {"engine"},
    "zarr": {"data", "store", "scoring", "sampling", "ingestion", "prediction", "datasets", "estimators"},
    "obstore": {"data", "store"},
    "icechunk": {"data", "store"},
    "xarray": {"data", "store", "scoring", "sampling", "ingestion", "datasets", "api", "report", "estimators"},
    "pandas": {"ingestion", "data", "fits", "store", "registry", "datasets", "words", "report", "estimators"},
    "pyarrow": {"data"},
    "pydantic": {"config", "fits", "store", "registry", "drift", "refresh"},
    "numcodecs": {"data"},
    "yaml": {"yaml12"},
    "sklearn": {"fitting", "estimators"},
    "llvmlite": {"estep"},
    "numba": {"estep"},
    "jax": {"devices", "estep"},
    "cyclopts": {"arguments", "cli", "commands", "models"},
    "matplotlib": {"report"},
    "jinja2": {"report"},
    "prefect": set(),
}


FILES = sorted((ROOT / "dgmm").rglob("*.py"))
#: Every module in the order in which they may be imported, and the rooms behind what is in them.
ORDER = [name for room, modules in HOUSE.items() for name in [*(f"{room}.{m}" for m in modules.split()), room]]


def module_of(path: Path) -> str:
    """The module of a file, a room for its ``__init__``."""
    parts = path.relative_to(ROOT / "dgmm").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(path: Path) -> set[str]:
    """Full names of what a file imports at run time; of our own, those of the modules."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            names = {f"{module}.{alias.name}" for alias in node.names} if module.startswith("dgmm") else {module}
            found.update(name if name.removeprefix("dgmm.") in ORDER else module for name in names)
    return found


def test_every_file_has_its_place() -> None:
    assert sorted(ORDER) == sorted(filter(None, map(module_of, FILES)))


@pytest.mark.parametrize("path", [path for path in FILES if module_of(path)], ids=module_of)
def test_imports_point_up(path: Path) -> None:
    module = module_of(path)
    room = module.split(".")[0]
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "dgmm" and rest:
            assert ORDER.index(rest) < ORDER.index(module), f"{module} imports {rest}"
            theirs, _, inside = rest.partition(".")
            assert theirs == room or not inside, f"{module} reaches into {rest}: import from {theirs}"
        if top in ONLY_IN:
            assert room in ONLY_IN[top], f"{module} imports {top}"


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=module_of)
def test_every_room_says_what_belongs_there(path: Path) -> None:
    said = ast.get_docstring(ast.parse(path.read_text()))
    assert said, "no docstring"


def test_the_flows_are_where_prefect_is() -> None:
    for path in FILES:
        assert "prefect" not in {name.split(".")[0] for name in imports(path)}, path


#: So many equal lines in two places are the same knowledge twice.
EQUAL_LINES = 6


def code_of(text: str) -> list[tuple[int, str]]:
    """Lines of code with their numbers, without blank ones, comments, imports and documentation."""
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        is_text = (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
        if is_text or isinstance(node, (ast.Import, ast.ImportFrom)):
            left_out.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    numbered = ((i, line.strip()) for i, line in enumerate(text.splitlines(), 1) if i not in left_out)
    return [(i, line) for i, line in numbered if line and not line.startswith("#")]


def repeated(texts: dict[str, str]) -> list[list[str]]:
    """Where there are runs of equal lines, each as the places of the run."""
    places = defaultdict(list)
    for name, text in texts.items():
        lines = code_of(text)
        for a in range(len(lines) - EQUAL_LINES + 1):
            run = lines[a : a + EQUAL_LINES]
            places[tuple(line for _, line in run)].append(f"{name}:{run[0][0]}")
    return [where for where in places.values() if len(where) > 1]


def test_no_knowledge_stands_in_two_places() -> None:
    assert repeated({str(p.relative_to(ROOT)): p.read_text() for p in (*FILES, *(ROOT / "flows").glob("*.py"))}) == []


def test_repetitions_are_found_whatever_stands_between_the_lines() -> None:
    lines = [f"x{i} = {i}" for i in range(EQUAL_LINES)]
    spread = "import os\n" + "\n# a word\n\n".join(lines)
    indented = 'def f():\n    """Do."""\n    ' + "\n    ".join(lines)
    assert repeated({"a": spread, "b": indented}) == [["a:2", "b:3"]]
    assert repeated({"a": "\n".join(lines[1:]), "b": indented}) == []


def test_the_data_sets_are_there_without_an_import_of_their_own() -> None:
    code = "import dgmm; print(dgmm.datasets.old_faithful().sizes['eruption'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "272\n"


def test_a_fit_does_without_what_takes_long_to_load() -> None:
    code = (
        "import sys, dgmm; dgmm.select(dgmm.datasets.old_faithful(), [2]); "
        "print(*{'sklearn', 'distributed', 'prefect', 'matplotlib'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_who_fits_an_array_loads_neither_what_scores_nor_the_arrays_of_dask() -> None:
    code = (
        "import sys, numpy, dgmm; dgmm.train(numpy.random.default_rng(0).standard_normal((99, 2)), 1); "
        "print(*{'dask.array', 'dgmm.scoring', 'dgmm.prediction', 'dgmm.sampling'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_tests_stand_where_what_they_test_does() -> None:
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    rooms = {room for room, modules in HOUSE.items() if modules}
    assert folders - rooms == {"benchmarks", "deploy", "integration", "reliability"}
    assert rooms <= folders


def test_the_plan_of_the_house_is_that_of_the_guide() -> None:
    rows = re.findall(r"^\| (`[^|]*) \|", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    named = [name.strip("`/") for row in rows for name in row.split() if name not in ("`flows/`", "`deploy/`")]
    assert named == [room for room in HOUSE if room != "datasets"]
