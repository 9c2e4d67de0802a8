"""Who imports whom: data flows down the list, imports point up."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Every module may import those above it.
ORDER = [
    "types", "errors", "blas", "rows", "statistics", "frame", "families", "estep", "mixture", "yaml12", "config", "em",
    "initialise", "grid", "tree", "leaf", "sample", "profile", "runs", "waits", "chunks", "layout", "data", "datasets",
    "places", "resident", "cluster", "schedulers", "workers", "memory", "fold", "outcome", "results", "starts",
    "passes", "reseed", "race", "selection", "stored", "store", "scoring", "api", "containers", "streamed",
    "estimator", "bayesian", "figures", "report", "pipeline", "cli",
]  # fmt: skip
#: Libraries that only these modules may import; numpy and scipy are free.
ONLY_IN = {
    "dask": {"data", "cluster", "schedulers", "workers", "starts", "containers"},
    "distributed": {"cluster", "schedulers", "workers"},
    "zarr": {"chunks", "data", "places", "store", "scoring", "datasets", "containers"},
    "obstore": {"data", "places"},
    "xarray": {"data", "store", "stored", "scoring", "datasets", "api", "figures", "report", "containers"},
    "pandas": {"data", "results", "store", "stored", "datasets", "pipeline", "figures", "report", "streamed"},
    "pydantic": {"config", "stored"},
    "yaml": {"yaml12"},
    "sklearn": {"initialise", "reseed", "streamed", "estimator", "bayesian"},
    "numba": {"estep"},
    "cyclopts": {"cli"},
    "matplotlib": {"figures", "report"},
    "jinja2": {"report"},
    "prefect": set(),
}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "dgmm").with_suffix("").parts
    return parts[0]


def imports(path: Path, *, typing_only: bool = False) -> set[str]:
    """Full names of what a file imports at run time."""
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
            found.update(
                {f"{node.module}.{a.name}" for a in node.names} if node.module == "dgmm" else {node.module or ""}
            )
    return found


FILES = sorted((ROOT / "dgmm").rglob("*.py"))


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.name != "__init__.py" or p.parent.name != "dgmm"], ids=module_of
)
def test_imports_point_up(path: Path) -> None:
    module = module_of(path)
    assert module in ORDER, f"{module} has no place in the order"
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "dgmm" and rest and rest[0] in ORDER and rest[0] != module:
            assert ORDER.index(rest[0]) < ORDER.index(module), f"{module} imports {rest[0]}"
        if top in ONLY_IN:
            assert module in ONLY_IN[top], f"{module} imports {top}"


def test_the_flows_are_where_prefect_is() -> None:
    for path in FILES:
        assert "prefect" not in {name.split(".")[0] for name in imports(path)}, path


def test_the_data_sets_are_there_without_an_import_of_their_own() -> None:
    code = "import dgmm; print(dgmm.datasets.old_faithful().sizes['eruption'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "272\n"
